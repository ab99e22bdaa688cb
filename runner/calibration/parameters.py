"""Parameters of a fit: the prior of every constant, and which ones vendors, generations and servers may change.

A prior is a value known before any fit (vendors' figures, kernels' published efficiencies, earlier fits) with the
relative width it may move by; it keeps constants that the runs say little about where physics puts them. Factors of
vendors, generations and servers are drawn towards 1: a generation with few runs stays near its vendor (placed by its
measured kernels where there are any), a vendor with few runs near the reference. Widths are narrow because runs are not
independent (one team, one release, one model); they were chosen by the errors on models left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.calibration.kernels import kernel_factors
from gpuscout.runner.engines.roofline.constants import NAMES
from gpuscout.sweeps.curves import FloatArray
from gpuscout.sweeps.servers import SERVERS

# Constants are those of this vendor, of which most runs are; the factors of others are relative to it.
REFERENCE = "NVIDIA"


@dataclass(frozen=True)
class Prior:
    """One constant: its value before the fit, its bounds, and standard deviations of logarithms (0: not fitted).

    `of_vendor`, `of_family` and `of_server` are those of the factors of vendors, generations and servers.
    """

    value: float
    low: float
    high: float
    width: float = 0.05
    of_vendor: float = 0.0
    of_family: float = 0.0
    of_server: float = 0.0


PRIORS: Mapping[str, Prior] = {
    "memory_efficiency": Prior(0.85, 0.5, 0.92, 0.02, of_vendor=0.15, of_family=0.03),
    "expert_efficiency": Prior(0.85, 0.4, 1.05, 0.1, of_vendor=0.3, of_family=0.02),
    "kv_efficiency": Prior(0.7, 0.4, 1.1, 0.2),
    "state_efficiency": Prior(0.6, 0.2, 1.0),
    "routing_spread": Prior(0.8, 0.3, 1.0, 0.2),
    "activation_passes": Prior(8, 0.8, 80, 0.03),
    "expert_passes": Prior(4, 0.8, 80, 0.2),
    "flops_efficiency": Prior(0.65, 0.3, 0.9, of_vendor=0.2, of_family=0.02),
    "flops_efficiency_8bit": Prior(0.8, 0.4, 1.0),
    "flops_efficiency_4bit": Prior(0.6, 0.25, 1.0, 0.1),
    "expert_flops_efficiency": Prior(0.5, 0.2, 1.0, 0.1, of_vendor=0.3),
    "attention_efficiency": Prior(0.4, 0.1, 0.8, 0.2, of_vendor=0.2),
    "indexer_efficiency": Prior(0.3, 0.05, 0.8, 0.3),
    "half_tokens": Prior(200, 20, 1000, 0.2),
    "overlap": Prior(2, 1, 8, 0.2),
    "layer_us": Prior(25, 2.5, 250, 0.1, of_vendor=0.3, of_family=0.02, of_server=0.01),
    "moe_layer_us": Prior(30, 3, 300, 0.1, of_vendor=0.3, of_family=0.02, of_server=0.04),
    "mla_layer_us": Prior(15, 1.5, 150, 0.1),
    "quantize_layer_us": Prior(10, 1, 100, 0.1, of_server=0.02),
    "recurrent_layer_us": Prior(10, 1, 100, 0.1),
    "sparse_layer_us": Prior(30, 3, 300, 0.3),
    "step_ms": Prior(1.0, 0.1, 10, 0.1, of_vendor=0.3, of_server=0.01),
    "sequence_us": Prior(20, 1, 100, 0.2, of_server=0.01),
    "arm_host": Prior(1.5, 1.0, 4.0, 0.3),
    "allreduce_us": Prior(4, 0.4, 40, 0.1, of_vendor=0.3),
    "pcie_allreduce_us": Prior(15, 15, 15, 0),
    "network_allreduce_us": Prior(20, 20, 20, 0),
    "link_efficiency": Prior(0.6, 0.2, 0.95, 0.01, of_vendor=0.2),
    "pcie_efficiency": Prior(0.7, 0.4, 1.6, 0.3),
    "pcie_contention": Prior(0.8, 0.1, 2.5, 0.2),
    "network_gbs": Prior(50, 50, 50, 0),
    "expert_imbalance": Prior(0.3, 0.03, 3),
    "interference": Prior(0.8, 0.3, 1.5, 0.2, of_server=0.1),
    "ttft_base_ms": Prior(10, 2, 200, 0.2, of_vendor=0.3, of_server=0.2),
    "ttft_prefill": Prior(1.2, 1.0, 12, 0.1),
    "eager_steps": Prior(3, 0.1, 30, 0.3, of_vendor=0.3, of_server=0.5),
    "first_wave_ms": Prior(300, 10, 10000, 0.3, of_vendor=0.5, of_server=1.0),
    "burst_share": Prior(0.12, 0.01, 1, 0.2),
    "ttft_steps": Prior(1.5, 0.3, 20, 0.3),
    "poll_share": Prior(0.5, 0.2, 1.0, 0.3),
}


@dataclass(frozen=True)
class Slot:
    """One number of a fit: a pooled constant (`of` is empty) or its factor for a vendor, a generation or a server."""

    constant: int  # position in NAMES
    kind: str = ""  # "", "vendor", "family" or "server"
    of: str = ""


class Parameters:
    """The vector of a fit: logarithms, relative to the priors, of what may change.

    `vendors` and `families` are those that the runs of the fit have; `kernels` are factors that families have before
    any fit, None: those of their measured kernels. `low` and `high` bound the vector, `width` is its prior standard
    deviation.
    """

    def __init__(
        self,
        vendors: Iterable[str] = (REFERENCE,),
        families: Iterable[str] = (),
        priors: Mapping[str, Prior] = PRIORS,
        kernels: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.vendors = tuple(sorted(set(vendors)))
        self.families = tuple(sorted(set(families)))
        self.priors = [priors[name] for name in NAMES]
        self.base = np.log([prior.value for prior in self.priors])
        self._kernels = {
            family: np.log([factors.get(name, 1.0) for name in NAMES])
            for family, factors in (kernel_factors() if kernels is None else kernels).items()
        }
        relative = [vendor for vendor in self.vendors if vendor != REFERENCE]
        slots: list[Slot] = []
        rows: list[tuple[float, float, float]] = []
        for i, prior in enumerate(self.priors):
            if prior.width:
                slots.append(Slot(i))
                rows.append((np.log(prior.low / prior.value), np.log(prior.high / prior.value), prior.width))
        for i, prior in enumerate(self.priors):
            for kind, names, width in (
                ("vendor", relative, prior.of_vendor),
                ("family", self.families, prior.of_family),
                ("server", SERVERS, prior.of_server),
            ):
                if width:
                    slots += [Slot(i, kind, name) for name in names]
                    rows += [(-2.5, 2.5, width)] * len(names)
        self.slots = tuple(slots)
        self.low, self.high, self.width = (np.array(column) for column in zip(*rows, strict=True))

    def masks(
        self, vendors: npt.NDArray[np.str_], families: npt.NDArray[np.str_], servers: npt.NDArray[np.str_]
    ) -> FloatArray:
        """Return 1 where a slot applies to a row, else 0: slots x rows.

        A vendor that was not fitted is the mean of all.
        """
        of = {"vendor": vendors, "family": families, "server": servers}
        pool = ~np.isin(vendors, self.vendors) / len(self.vendors)
        masks = []
        for slot in self.slots:
            mask = (of[slot.kind] == slot.of).astype(np.float64) if slot.kind else np.ones(len(families))
            masks.append(mask + pool if slot.kind == "vendor" else mask)
        return np.array(masks)

    def before(self, families: npt.NDArray[np.str_]) -> FloatArray:
        """Return the constants before a fit, as `logs`: priors, and what measured kernels say of a family."""
        nothing = np.zeros(len(NAMES))
        names, of = np.unique(families, return_inverse=True)
        table: FloatArray = np.array([self.base + self._kernels.get(name, nothing) for name in names.tolist()])
        return np.ascontiguousarray(table[of].T)

    def logs(self, vector: FloatArray, masks: FloatArray, before: FloatArray) -> FloatArray:
        """Return logarithms of all constants of all rows: constants x rows.

        `masks` and `before` are those of the rows.
        """
        table = before.copy()
        np.add.at(table, [slot.constant for slot in self.slots], vector[:, None] * masks)
        return table

    def document(self, vector: FloatArray) -> dict[str, dict[str, object]]:
        """Return the constants in the form of their file (`pooled`, `vendors`, `families`, `servers`), to 4 digits.

        There, pooled constants are the geometric mean of the vendors: those of a vendor that has no factor.
        """
        pooled = self.base.copy()
        factors: dict[str, dict[str, FloatArray]] = {
            "vendor": {vendor: np.zeros(len(NAMES)) for vendor in self.vendors},
            "family": {},
            "server": {},
        }
        for value, slot in zip(vector, self.slots, strict=True):
            if slot.kind:
                factors[slot.kind].setdefault(slot.of, np.zeros(len(NAMES)))[slot.constant] = value
            else:
                pooled[slot.constant] += value
        mean = np.mean(list(factors["vendor"].values()), axis=0)
        for values in factors["vendor"].values():
            values -= mean

        def written(tables: Mapping[str, FloatArray]) -> dict[str, object]:
            return {
                name: {NAMES[i]: round(float(np.exp(logs[i])), 4) for i in np.flatnonzero(logs)}
                for name, logs in tables.items()
            }

        return {
            "pooled": {name: float(f"{np.exp(log):.4g}") for name, log in zip(NAMES, pooled + mean, strict=True)},
            "vendors": written(factors["vendor"]),
            "families": written(factors["family"]),
            "servers": written(factors["server"]),
        }

    def vector(self, document: Mapping[str, Mapping[str, object]]) -> FloatArray:
        """Return the inverse of `document`, up to rounding."""
        tables = {"vendor": document["vendors"], "family": document["families"], "server": document["servers"]}
        reference, pooled = document["vendors"].get(REFERENCE, {}), document["pooled"]
        assert isinstance(reference, Mapping)
        values = []
        for slot in self.slots:
            name = NAMES[slot.constant]
            own = np.log(reference.get(name, 1.0))
            if not slot.kind:
                values.append(np.log(float(str(pooled[name]))) + own - self.base[slot.constant])
                continue
            table = tables[slot.kind].get(slot.of, {})
            assert isinstance(table, Mapping)
            values.append(np.log(table.get(name, 1.0)) - (own if slot.kind == "vendor" else 0.0))
        vector: FloatArray = np.clip(np.array(values, dtype=np.float64), self.low, self.high)
        return vector
