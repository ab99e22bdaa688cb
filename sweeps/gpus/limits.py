"""Bounds for the figures of an accelerator that catch wrong units, in files and in programs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuscout.sweeps.gpus.gpu import GPUSpec


@dataclass(frozen=True)
class Limits:
    """Bounds of a figure. They only catch wrong units: TB/s for GB/s, MiB for GB, FLOPS for TFLOPS."""

    unit: str
    low: float
    high: float
    whole: bool = False

    def fault(self, name: str, value: object) -> str | None:
        """Return the fault of a figure of a `GPUSpec`; None: there is none, or the figure is not known."""
        if value is None or (value == 0 and name in _UNKNOWN_AT_ZERO and not isinstance(value, bool)):
            return None
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if number and self.low <= value <= self.high:  # type: ignore[operator]
            return None
        kind = "a whole number" if self.whole else "a number"
        unit = f" {self.unit}" if self.unit else ""
        return f"{name}: expected {kind} from {self.low:,} to {self.high:,}{unit}, got {value!r}"


NUMBERS = {
    "memory_gb": Limits("GB", 1, 10_000),
    "memory_usable_gib": Limits("GiB", 0.5, 10_000),
    "memory_bandwidth_gbs": Limits("GB/s", 20, 1_000_000),
    "link_gbs": Limits("GB/s", 1, 100_000),
    "link_pair_gbs": Limits("GB/s", 1, 100_000),
    "pcie_gbs": Limits("GB/s", 1, 1_000),
    "scale_up_gpus": Limits("GPUs", 1, 100_000, whole=True),
    "gpus_per_node": Limits("GPUs", 1, 1_000, whole=True),
    "tdp_w": Limits("W", 5, 20_000),
    "release_year": Limits("", 2000, 2100, whole=True),
}
TFLOPS = Limits("TFLOPS", 1, 1_000_000)
ARITHMETIC = ("fp32", "fp16", "bf16", "fp8", "fp4", "int8")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]*")
CAPABILITY = re.compile(r"\d+\.\d+")


_UNKNOWN_AT_ZERO = ("memory_bandwidth_gbs", "link_gbs", "link_pair_gbs", "pcie_gbs")


def faults_of(spec: GPUSpec) -> list[str]:
    """Return the faults of a program's specification, one a line; empty where there are none."""
    faults = [
        f"{key}: expected a text of letters, digits, spaces and . _ + - ( ), got {value!r}"
        for key, value in [("name", spec.name), *(("aliases", alias) for alias in spec.aliases)]
        if not (isinstance(value, str) and NAME.fullmatch(value))
    ]
    capability = spec.compute_capability
    if capability is not None and not (isinstance(capability, str) and CAPABILITY.fullmatch(capability)):
        faults.append(f'compute_capability: expected a text such as "9.0", got {capability!r}')
    faults += [fault for name, limits in NUMBERS.items() if (fault := limits.fault(name, getattr(spec, name)))]
    unknown = [name for name in spec.dense_tflops if name not in ARITHMETIC]
    if unknown:
        faults.append(f"dense_tflops: unknown format {', '.join(map(repr, unknown))}; one of {', '.join(ARITHMETIC)}")
    known = {name: value for name, value in spec.dense_tflops.items() if name in ARITHMETIC}
    faults += [fault for name, value in known.items() if (fault := TFLOPS.fault(f"dense_tflops.{name}", value))]
    return faults
