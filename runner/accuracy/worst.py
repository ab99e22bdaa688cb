"""The measured runs that an engine's estimates are furthest from, with how far and whether its intervals hold them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuscout.runner.accuracy.errors import COLUMNS, METRICS, inside_interval, ratios
from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.trust import Trust


@dataclass(frozen=True)
class Outlier:
    """A run and the figure of it that its estimate is furthest from.

    `ratio` is estimated / measured, `factor` the same or its inverse, whichever is above 1. `outside`: the measured
    figure is not within the engine's 80 % interval around the estimate; None: no interval is known.
    """

    run: MeasuredRun
    metric: str
    measured: float
    estimated: float
    ratio: float
    outside: bool | None

    @property
    def factor(self) -> float:
        return max(self.ratio, 1 / self.ratio)

    @property
    def file(self) -> str | None:
        """The file it was imported from, or else its source."""
        return self.run.details.get("file") or self.run.source


def outliers(estimates: Estimates, trust: Trust, *, at_least: float = 1.0) -> list[Outlier]:
    """Return runs by how far they are from their estimates, the furthest first; those off by at least this factor."""
    by_metric = ratios(estimates)
    inside = inside_interval(estimates, trust)
    table = np.array([by_metric[metric] for metric in METRICS])
    distance = np.nan_to_num(np.abs(np.log(table)), nan=-1.0)
    worst = distance.argmax(axis=0)
    furthest = distance[worst, np.arange(len(estimates))]
    order = np.argsort(-furthest, kind="stable")
    found = []
    for row in order.tolist():
        if furthest[row] < np.log(at_least):
            break
        metric = METRICS[worst[row]]
        run, ratio = estimates.runs[row], float(table[worst[row], row])
        measured = run.throughput if metric == "throughput" else getattr(run, COLUMNS[metric])
        within = float(inside[metric][row])
        outside = None if np.isnan(within) else not within
        found.append(Outlier(run, COLUMNS[metric], measured, ratio * measured, ratio, outside))
    return found
