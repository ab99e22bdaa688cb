"""Measures that rank configurations: objectives, and how each is read off an operating point.

*Cost* is USD per million output tokens, *energy* kWh per million output tokens if every GPU drew its TDP all the time:
an upper bound for the GPUs, without hosts and cooling.
*Weights.* Several objectives are weighted by a geometric mean: the product of all figures (of their reciprocals, where
more is better), each to the power of its weight. So units do not matter, and neither does what else is stored: a
configuration that is added never changes the order of two others. The figure is told relative to the best of its group:
1.08 is 8 % worse, where a weight of 0.7 on cost counts 10 % more cost as 7 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.text import percent

DEFAULT_OBJECTIVE = "cost"
WEIGHTED = "weighted"
Array = npt.NDArray[np.float64]

# Figures that are equal to six decimals are equal: the last bits of floating point must not pick a winner.
DECIMALS = 1e6
_MTOK_PER_HOUR = 3600 / 1e6  # million tokens an hour, for one token a second


@dataclass(frozen=True)
class Measure:
    """Rule that reads an objective off an operating point.

    `column` of operating points decides between the points of one configuration: for objectives of throughput (cost,
    cost per hour and energy among them) the highest, for latencies the lowest is best. `needs`: what must be known of
    the GPU besides.
    """

    column: str
    unit: str
    label: str
    more_is_better: bool = False
    per_gpu: bool = False
    needs: Literal["price", "tdp"] | None = None

    @property
    def highest_column(self) -> bool:
        """Whether, between points of one configuration, more of `column` is better."""
        return self.column == "output_tokens_per_s"


MEASURES: dict[str, Measure] = {
    "cost": Measure("output_tokens_per_s", "USD/Mtok", "cost (USD per million output tokens)", needs="price"),
    "cost-per-hour": Measure("output_tokens_per_s", "USD/h", "cost per hour", needs="price"),
    "throughput-per-gpu": Measure(
        "output_tokens_per_s", "tokens/s per GPU", "throughput per GPU", more_is_better=True, per_gpu=True
    ),
    "throughput": Measure("output_tokens_per_s", "tokens/s", "throughput", more_is_better=True),
    "ttft": Measure("ttft_ms", "ms", "TTFT"),
    "itl": Measure("itl_ms", "ms", "ITL"),
    "e2e": Measure("e2e_s", "s", "E2E latency"),
    "energy": Measure(
        "output_tokens_per_s", "kWh/Mtok", "energy (upper bound from TDP, kWh per million output tokens)", needs="tdp"
    ),
}


def measure_of(objective: str) -> Measure:
    """Return the measure of an objective. Raises UnknownNameError."""
    if objective in MEASURES:
        return MEASURES[objective]
    raise UnknownNameError("objective", objective, nearest(objective, MEASURES), hint=f"allowed: {', '.join(MEASURES)}")


def value_of(name: str, figures: Mapping[str, Any], num_gpus: Any, usd_per_hour: Any, tdp_w: Any) -> Any:
    """Return an objective's value, of one operating point or of arrays of them. NaN in, NaN out."""
    tokens: Any = figures["output_tokens_per_s"] if MEASURES[name].highest_column else None
    if name == "cost":
        return usd_per_hour / (tokens * _MTOK_PER_HOUR)
    if name == "cost-per-hour":
        return usd_per_hour
    if name == "throughput-per-gpu":
        return tokens / num_gpus
    if name == "energy":
        return tdp_w / 1000 * num_gpus / (tokens * _MTOK_PER_HOUR)
    return figures[MEASURES[name].column]


@dataclass(frozen=True)
class Aim:
    """Aim of a ranking: one objective, or several with weights that sum up to 1."""

    weights: tuple[tuple[str, float], ...]

    @property
    def is_weighted(self) -> bool:
        return len(self.weights) > 1

    @property
    def name(self) -> str:
        return WEIGHTED if self.is_weighted else self.weights[0][0]

    @property
    def single(self) -> Measure:
        return MEASURES[self.weights[0][0]]

    @property
    def measures(self) -> list[tuple[Measure, float]]:
        return [(MEASURES[name], weight) for name, weight in self.weights]

    @property
    def more_is_better(self) -> bool:
        return not self.is_weighted and self.single.more_is_better

    @property
    def unit(self) -> str:
        return "x the best" if self.is_weighted else self.single.unit

    @property
    def label(self) -> str:
        if not self.is_weighted:
            return self.single.label
        parts = ", ".join(f"{name} {percent(weight)}" for name, weight in self.weights)
        return f"weighted ({parts}; geometric mean, 1.00 is the best)"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of operating points that it is read off."""
        return tuple(dict.fromkeys(measure.column for measure, _ in self.measures))

    @property
    def positive(self) -> bool:
        """Whether a figure of 0 has no value: nothing is divided by it and it has no logarithm."""
        return self.is_weighted or self.single.needs is not None

    def needs(self, what: str) -> bool:
        return any(measure.needs == what for measure, _ in self.measures)

    def exponents(self) -> dict[str, float]:
        """Return the weight of each column between the points of one configuration, less being better."""
        found: dict[str, float] = {}
        for name, weight in self.weights:
            measure = MEASURES[name]
            # What an hour costs is the same at all points of a configuration.
            signed = 0.0 if name == "cost-per-hour" else -weight if measure.highest_column else weight
            found[measure.column] = found.get(measure.column, 0.0) + signed
        return found

    def known(self, figures: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Return a mask of the points of which all needed figures are known."""
        flags = [figures[name] > 0 if self.positive else ~np.isnan(figures[name]) for name in self.columns]
        return np.asarray(np.logical_and.reduce(flags))

    def point_score(self, figures: Mapping[str, Array]) -> Array:
        """Return the sort key of one configuration's points, best first; the statements sort alike."""
        if not self.is_weighted:
            sign = -1 if self.single.highest_column else 1
            return np.rint(figures[self.columns[0]] * sign * DECIMALS)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = [np.log(figures[name]) * exponent for name, exponent in self.exponents().items()]
        return np.asarray(np.rint(np.add.reduce(terms) * DECIMALS))

    def values(self, figures: Mapping[str, Array], num_gpus: Array, usd_per_hour: Array, tdp_w: Array) -> Array:
        """Return the value of every configuration; NaN where one needs a price or a TDP that is not known."""
        if not self.is_weighted:
            return np.asarray(value_of(self.name, figures, num_gpus, usd_per_hour, tdp_w), dtype=np.float64)
        total = np.zeros(len(num_gpus))
        with np.errstate(divide="ignore", invalid="ignore"):
            for name, weight in self.weights:
                value = np.log(value_of(name, figures, num_gpus, usd_per_hour, tdp_w))
                total += -weight * value if MEASURES[name].more_is_better else weight * value
        return np.exp(total)


def aim_of(objective: str, weights: Sequence[tuple[str, float]]) -> Aim:
    """Return the aim of a ranking; weights count more than the objective and need not sum up to 1.

    Raises UnknownNameError for an unknown objective, InputError for invalid weights.
    """
    if not weights:
        measure_of(objective)
        return Aim(((objective, 1.0),))
    for name, weight in weights:
        measure_of(name)
        if not 0 < weight < float("inf"):
            raise InputError(f"the weight of {name} must be above 0, not {weight:g}")
    names = [name for name, _ in weights]
    if len(set(names)) < len(names):
        raise InputError(f"{next(name for name in names if names.count(name) > 1)} has two weights")
    total = sum(weight for _, weight in weights)
    return Aim(tuple((name, weight / total) for name, weight in weights))
