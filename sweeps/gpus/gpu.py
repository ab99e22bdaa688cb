"""Accelerators: the figures of one type, their digest and JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

_USABLE_SHARE = 0.98  # of the nominal memory, where nobody has said what software sees


@dataclass(frozen=True, init=False)
class GPUSpec:
    """One accelerator type. Figures are per GPU (GB200/GB300: per GPU, not per superchip). GB = 10^9, GiB = 2^30.

    `memory_gb` is the vendor's nominal size (an "80 GB" part may hold 80 GiB), `memory_usable_gib` what software sees.
    `dense_tflops` maps fp32, fp16, bf16, fp8, fp4, int8 to peak matrix TFLOPS (TOPS for int8) without structured
    sparsity; a key is absent where the hardware lacks that format. `link_gbs` is what one GPU can send in one
    direction over the link between the GPUs of one node; `link_pair_gbs` the part of it that one single peer can
    get (less than `link_gbs` on AMD's fully connected fabric). `scale_up_gpus` GPUs share that link (1: only PCIe).
    `unverified` names the fields known only from memory, `sources` says where each figure comes from.

    A name and a size of memory are enough to ask what fits. Bandwidths of 0 are not known: without the memory's, no
    engine estimates times, without a link's none for several GPUs.

    >>> own = GPUSpec("X100", memory_gb=80, tflops=60, compute_capability="9.0", release_year=2024)
    >>> own.manufacturer, own.dense_tflops, own.memory_bandwidth_gbs
    ('NVIDIA', {'fp32': 60}, 0)
    """

    name: str
    vendor: str
    family: str
    memory_gb: float
    memory_usable_gib: float
    memory_bandwidth_gbs: float
    dense_tflops: Mapping[str, float] = field(hash=False)
    link_kind: str
    link_gbs: float
    link_pair_gbs: float
    pcie_gbs: float
    scale_up_gpus: int
    gpus_per_node: int
    compute_capability: str | None
    tdp_w: float | None
    release_year: int | None
    aliases: tuple[str, ...]
    sources: Mapping[str, str] = field(compare=False)
    notes: tuple[str, ...]
    unverified: tuple[str, ...] = field(compare=False)

    def __init__(
        self,
        name: str,
        memory_gb: float,
        tflops: float | None = None,
        compute_capability: str | None = None,
        release_year: int | None = None,
        manufacturer: str = "NVIDIA",
        *,
        vendor: str | None = None,
        family: str = "unknown",
        memory_usable_gib: float | None = None,
        memory_bandwidth_gbs: float = 0,
        dense_tflops: Mapping[str, float] | None = None,
        link_kind: str = "PCIe",
        link_gbs: float | None = None,
        link_pair_gbs: float | None = None,
        pcie_gbs: float = 0,
        scale_up_gpus: int = 1,
        gpus_per_node: int = 8,
        tdp_w: float | None = None,
        aliases: tuple[str, ...] = (),
        sources: Mapping[str, str] | None = None,
        notes: tuple[str, ...] = (),
        unverified: tuple[str, ...] = (),
    ) -> None:
        """`tflops` is `dense_tflops["fp32"]`, `manufacturer` another word for `vendor`.

        `memory_usable_gib` is 98 % of `memory_gb` unless given, the links of a node are PCIe.
        """
        given = {} if tflops is None else {"fp32": tflops}
        link = pcie_gbs if link_gbs is None else link_gbs
        values: dict[str, object] = {
            "name": name,
            "vendor": vendor or manufacturer,
            "family": family,
            "memory_gb": memory_gb,
            "memory_usable_gib": usable_gib(memory_gb) if memory_usable_gib is None else memory_usable_gib,
            "memory_bandwidth_gbs": memory_bandwidth_gbs,
            "dense_tflops": {**given, **(dense_tflops or {})},
            "link_kind": link_kind,
            "link_gbs": link,
            "link_pair_gbs": link if link_pair_gbs is None else link_pair_gbs,
            "pcie_gbs": pcie_gbs,
            "scale_up_gpus": scale_up_gpus,
            "gpus_per_node": gpus_per_node,
            "compute_capability": compute_capability,
            "tdp_w": tdp_w,
            "release_year": release_year,
            "aliases": aliases,
            "sources": {} if sources is None else sources,
            "notes": notes,
            "unverified": unverified,
        }
        for field_name, value in values.items():
            object.__setattr__(self, field_name, value)

    @property
    def manufacturer(self) -> str:
        """The same as `vendor`."""
        return self.vendor

    @property
    def tflops(self) -> float | None:
        """Peak TFLOPS in fp32, without tensor cores; None: not known, or there are none."""
        return self.dense_tflops.get("fp32")

    def supports(self, arithmetic: str) -> bool:
        """Return whether the matrix units multiply this format (a key of `dense_tflops`)."""
        return arithmetic in self.dense_tflops

    @property
    def fast_link_gpus(self) -> int:
        """GPUs of one node that reach each other over `link_gbs`: those on the fast link, or all of them over PCIe."""
        return min(self.scale_up_gpus, self.gpus_per_node) if self.scale_up_gpus > 1 else self.gpus_per_node

    def digest(self) -> bytes:
        """Return 16 bytes that identify the name and every figure that can change an estimate.

        Aliases, notes, sources, power and release year are left out. 80 and 80.0 are the same figure.
        """
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        figures = {name: getattr(self, name) for name in _IDENTITY}
        figures |= {name: float(getattr(self, name)) for name in _FIGURES}
        figures["dense_tflops"] = {key: float(tflops) for key, tflops in self.dense_tflops.items()}
        canonical = json.dumps(figures, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).digest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types; `from_dict` is the inverse."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: list(values[name]) for name in TUPLES}
        return values | {name: dict(values[name]) for name in MAPPINGS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPUSpec:
        """Return the GPU that `to_dict` gave, also after a trip through JSON.

        Raises TypeError on a key it does not know.
        """
        tuples = {name: tuple(values[name]) for name in TUPLES if name in values}
        mappings = {name: dict(values[name]) for name in MAPPINGS if name in values}
        return cls(**{**values, **tuples, **mappings})


_IDENTITY = ("name", "vendor", "family", "compute_capability", "link_kind")
_FIGURES = (
    "memory_gb",
    "memory_usable_gib",
    "memory_bandwidth_gbs",
    "link_gbs",
    "link_pair_gbs",
    "pcie_gbs",
    "scale_up_gpus",
    "gpus_per_node",
)
TUPLES = ("aliases", "notes", "unverified")
MAPPINGS = ("dense_tflops", "sources")


def usable_gib(memory_gb: float) -> float:
    """Return the GiB that software sees of a nominal size where no figure is stated; 0 for an invalid size."""
    if not isinstance(memory_gb, int | float):
        return 0.0
    return round(_USABLE_SHARE * memory_gb * 1e9 / 2**30, 2)


# The name of the release before this one.
GpuSpec = GPUSpec
