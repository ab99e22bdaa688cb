"""What a fit may change: the prior of every constant, and which constants generations and servers may change.

A prior is a value known before any fit (vendors' figures, kernels' published efficiencies, earlier fits) with the
relative width it may move by; it keeps constants that the runs say little about where physics puts them. Factors of
generations and servers are drawn towards 1: a generation with few runs stays near what all have in common. Widths
are narrow because runs are not independent (one team, one release, one model); they were chosen by the errors on
models left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.roofline.constants import NAMES
from gpuscout.sweeps.curves import FloatArray
from gpuscout.sweeps.servers import SERVERS

FAMILIES = ("Hopper", "Blackwell", "Blackwell-Ultra")


@dataclass(frozen=True)
class Prior:
    """One constant: its value before the fit, its bounds, and standard deviations of logarithms (0: not fitted).

    `of_server` is that of the factors of `servers`; the other servers take the pooled value.
    """

    value: float
    low: float
    high: float
    width: float = 0.05
    of_family: float = 0.0
    of_server: float = 0.0
    servers: tuple[str, ...] = SERVERS


PRIORS: Mapping[str, Prior] = {
    "memory_efficiency": Prior(0.85, 0.5, 0.92, 0.02, of_family=0.015),
    "expert_efficiency": Prior(0.85, 0.4, 1.05, 0.1),
    "kv_efficiency": Prior(0.7, 0.4, 1.1, 0.2),
    "state_efficiency": Prior(0.6, 0.2, 1.0),
    "routing_spread": Prior(0.8, 0.3, 1.0, 0.2),
    "activation_passes": Prior(8, 0.8, 80, 0.03),
    "expert_passes": Prior(4, 0.8, 80, 0.2),
    "flops_efficiency": Prior(0.65, 0.3, 0.9, of_family=0.004),
    "flops_efficiency_8bit": Prior(0.8, 0.4, 1.0),
    "flops_efficiency_4bit": Prior(0.6, 0.25, 1.0, 0.1),
    "expert_flops_efficiency": Prior(0.5, 0.2, 1.0, 0.1),
    "attention_efficiency": Prior(0.4, 0.1, 0.8, 0.2),
    "half_tokens": Prior(200, 20, 1000, 0.2),
    "overlap": Prior(2, 1, 8, 0.2),
    "layer_us": Prior(25, 2.5, 250, 0.1, of_server=0.01),
    "moe_layer_us": Prior(30, 3, 300, 0.1, of_server=0.04),
    "mla_layer_us": Prior(15, 1.5, 150, 0.1),
    "quantize_layer_us": Prior(10, 1, 100, 0.1, of_server=0.02),
    "recurrent_layer_us": Prior(10, 1, 100, 0.1),
    "step_ms": Prior(1.0, 0.1, 10, 0.1, of_server=0.01),
    "sequence_us": Prior(20, 1, 100, 0.2, of_server=0.01),
    "arm_host": Prior(1.5, 1.0, 4.0, 0.3),
    "allreduce_us": Prior(4, 0.4, 40, 0.1),
    "pcie_allreduce_us": Prior(15, 15, 15, 0),
    "network_allreduce_us": Prior(20, 20, 20, 0),
    "link_efficiency": Prior(0.6, 0.2, 0.95, 0.01),
    "pcie_efficiency": Prior(0.7, 0.4, 1.6, 0.3),
    "network_gbs": Prior(50, 50, 50, 0),
    "expert_imbalance": Prior(0.3, 0.03, 3),
    "interference": Prior(0.8, 0.3, 1.5, 0.2, of_server=0.1),
    "ttft_base_ms": Prior(25, 5, 200, 0.2, of_server=0.25),
    "ttft_prefill": Prior(1.2, 0.12, 12, 0.1),
    "burst_share": Prior(0.12, 0.01, 1, 0.2),
    # SGLang looks for new requests every `--scheduler-recv-interval` steps, which InferenceX sets to 10 or 30.
    "ttft_steps": Prior(2, 0.3, 20, 0.2, of_server=1.0, servers=("sglang",)),
}


@dataclass(frozen=True)
class Slot:
    """One number of a fit: a pooled constant (`of` is empty) or its factor for a generation or a server."""

    constant: int  # position in NAMES
    kind: str = ""  # "", "family" or "server"
    of: str = ""


class Parameters:
    """The vector of a fit: logarithms, relative to the priors, of what may change.

    `low` and `high` bound it, `width` is its prior standard deviation.
    """

    def __init__(self, priors: Mapping[str, Prior] = PRIORS) -> None:
        self.priors = [priors[name] for name in NAMES]
        self.base = np.log([prior.value for prior in self.priors])
        slots: list[Slot] = []
        rows: list[tuple[float, float, float]] = []
        for i, prior in enumerate(self.priors):
            if prior.width:
                slots.append(Slot(i))
                rows.append((np.log(prior.low / prior.value), np.log(prior.high / prior.value), prior.width))
        for i, prior in enumerate(self.priors):
            for kind, names, width in (
                ("family", FAMILIES, prior.of_family),
                ("server", prior.servers, prior.of_server),
            ):
                if width:
                    slots += [Slot(i, kind, name) for name in names]
                    rows += [(-2.5, 2.5, width)] * len(names)
        self.slots = tuple(slots)
        self.low, self.high, self.width = (np.array(column) for column in zip(*rows, strict=True))

    def masks(self, families: npt.NDArray[np.str_], servers: npt.NDArray[np.str_]) -> FloatArray:
        """1 where a slot applies to a row, else 0: slots x rows."""
        of = {"family": families, "server": servers}
        return np.array(
            [of[slot.kind] == slot.of if slot.kind else np.ones(len(families)) for slot in self.slots], dtype=np.float64
        )

    def logs(self, vector: FloatArray, masks: FloatArray) -> FloatArray:
        """Logarithms of all constants of all rows: constants x rows."""
        table = np.repeat(self.base[:, None], masks.shape[1], axis=1)
        np.add.at(table, [slot.constant for slot in self.slots], vector[:, None] * masks)
        return table

    def document(self, vector: FloatArray) -> dict[str, dict[str, object]]:
        """The vector in the form of a constants file: `pooled`, `families` and `servers`, rounded to 4 digits."""
        pooled = {name: float(f"{np.exp(log):.4g}") for name, log in zip(NAMES, self.base, strict=True)}
        factors: dict[str, dict[str, dict[str, float]]] = {"family": {}, "server": {}}
        for value, slot in zip(vector, self.slots, strict=True):
            name = NAMES[slot.constant]
            if slot.kind:
                factors[slot.kind].setdefault(slot.of, {})[name] = round(float(np.exp(value)), 4)
            else:
                pooled[name] = float(f"{np.exp(self.base[slot.constant] + value):.4g}")
        return {"pooled": dict(pooled), "families": dict(factors["family"]), "servers": dict(factors["server"])}

    def vector(self, document: Mapping[str, Mapping[str, object]]) -> FloatArray:
        """The inverse of `document`, up to rounding."""
        tables = {"": {"": document["pooled"]}, "family": document["families"], "server": document["servers"]}
        values = []
        for slot in self.slots:
            name = NAMES[slot.constant]
            table = tables[slot.kind].get(slot.of, {})
            assert isinstance(table, Mapping)
            values.append(np.log(table.get(name, 1.0)) - (0.0 if slot.kind else self.base[slot.constant]))
        vector: FloatArray = np.clip(np.array(values, dtype=np.float64), self.low, self.high)
        return vector
