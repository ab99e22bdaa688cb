"""Limits as they apply to estimates, and the operating point at a limit: interpolated between stored neighbours.

A ladder of concurrencies is coarse, so the best stored point within the limits may be far below what a deployment can
do. From it towards a neighbour that violates a limit the concurrency goes as far as all limits hold: upwards where
latencies are limited, downwards where a request rate is. Both limited, and no stored point meets both: between the
highest point that meets the latencies and the next. All figures are interpolated linearly in the concurrency, which is
whole; such a point queues if its upper neighbour does. Nothing is ever extrapolated beyond the stored points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuscout.store.ranking.measures import Array
from gpuscout.sweeps.slo import Slo

Figures = Mapping[str, Array]
Flags = npt.NDArray[np.bool_]

# Larger than any ratio of a latency to its limit: what is unknown comes last.
UNKNOWN = 1e300


@dataclass(frozen=True)
class Limit:
    """An SLO as it applies to one column of figures, in whose unit `value` is."""

    slo: Slo
    value: float
    column: str

    def allows(self, figures: Any) -> Any:
        """Return a mask of the figures within the limit, for a column of them or an expression of SQL.

        Unknown ones never are.
        """
        return figures >= self.value if self.slo.at_least else figures <= self.value

    def ratio(self, figures: Figures) -> Array:
        """Return the ratio of a figure to the limit: at most 1 where it holds, `UNKNOWN` where the figure is."""
        found = figures[self.column]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.value / np.where(found > 0, found, np.nan) if self.slo.at_least else found / self.value
        return np.where(np.isnan(ratio), UNKNOWN, ratio)


def limits_of(slos: Sequence[Slo], assume_tail: float | None, *, simulated: bool = False) -> list[Limit]:
    """Return the limits on estimates.

    `simulated`: a percentile has a column of its own, as of what was measured. Else its limit is one on the mean,
    divided by the tail that is assumed; without a tail it is left out: see `need_percentiles`.
    """
    if simulated:
        return limits_on_runs(slos)
    return [
        Limit(slo, slo.limit if slo.percentile is None else slo.limit / (assume_tail or 1.0), slo.column)
        for slo in slos
        if slo.percentile is None or assume_tail is not None
    ]


def limits_on_runs(slos: Sequence[Slo]) -> list[Limit]:
    """Return the limits on what was measured: a percentile has a column of its own, called by the name of the SLO."""
    return [Limit(slo, slo.limit, slo.column if slo.percentile is None else slo.name) for slo in slos]


def need_percentiles(slos: Sequence[Slo], assume_tail: float | None) -> bool:
    """Return whether a limit is on a percentile, which estimates do not have."""
    return assume_tail is None and any(slo.percentile is not None for slo in slos)


def hold(limits: Sequence[Limit], figures: Figures) -> Flags:
    """Return a mask of the rows with a point at which all limits hold."""
    known: Flags = ~np.isnan(figures["concurrency"])
    return np.asarray(np.logical_and.reduce([known, *(limit.allows(figures[limit.column]) for limit in limits)]))


def worst_ratio(limits: Sequence[Limit], figures: Figures) -> Array:
    """Return the largest ratio of a figure to its limit."""
    ratios = [limit.ratio(figures) for limit in limits]
    return np.maximum.reduce(ratios) if ratios else np.zeros(len(figures["concurrency"]))


def at(below: Figures, above: Figures, concurrency: Array) -> dict[str, Array]:
    """Return the figures at concurrencies between two points."""
    share = (concurrency - below["concurrency"]) / (above["concurrency"] - below["concurrency"])
    found = {name: below[name] + (above[name] - below[name]) * share for name in below}
    return found | {"concurrency": concurrency, "queued": above["queued"]}


def between(below: Figures, above: Figures, limits: Sequence[Limit], *, highest: bool) -> dict[str, Array]:
    """Return the highest (or lowest) concurrency strictly between two points
    at which all limits hold; NaN where none is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = below["concurrency"] + 1, above["concurrency"] - 1
        wanted = np.where(np.isnan(first + last), np.nan, last if highest else first)
        for limit in limits:
            start, end = below[limit.column], above[limit.column]
            crossing = below["concurrency"] + (limit.value - start) / (end - start) * (last - first + 2)
            # Where the figure gets worse with concurrency the limit is met below the crossing, else above it.
            worse = (end < start) if limit.slo.at_least else (end > start)
            # One too far, since the last bits of the crossing may be off; what follows steps back.
            if highest:
                wanted = np.where(worse, np.fmin(wanted, np.floor(crossing) + 1), wanted)
            else:
                wanted = np.where((end != start) & ~worse, np.fmax(wanted, np.ceil(crossing) - 1), wanted)
        for step in range(3):
            found = at(below, above, wanted)
            fits = hold(limits, found) & (wanted >= first) & (wanted <= last)
            if fits.all() or step == 2:
                break
            wanted = np.where(fits, wanted, wanted + (-1 if highest else 1))
    found["concurrency"] = np.where(fits, wanted, np.nan)
    return found
