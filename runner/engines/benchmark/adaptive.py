"""Few points around a limit instead of a whole ladder: the ladder is halved towards the load that just meets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.slo import Slo


def around_limits(
    ladder: Sequence[int], limits: Sequence[Slo], measured_at: Callable[[int], Iterator[MeasuredRun]]
) -> Iterator[MeasuredRun]:
    """Measure the highest step of a ladder that meets all limits and the next, by about log2(n) + 1 points.

    Latencies are taken to grow with the load; where they do not, the answer is one of the places where they cross.
    """
    low, high = 0, len(ladder)
    while low < high:
        middle = (low + high) // 2
        met = True
        for run in measured_at(ladder[middle]):
            met = met and meets(run, limits)
            yield run
        if met:
            low = middle + 1
        else:
            high = middle


def between(ladder: Sequence[int], limits: Sequence[Slo], runs: Sequence[MeasuredRun]) -> tuple[int, ...]:
    """Return the steps of a ladder among which the limits are crossed, by what was measured of it before."""
    met, missed = ([run.concurrency or 0 for run in runs if meets(run, limits) is is_met] for is_met in (True, False))
    above, below = max(met, default=0), min(missed, default=math.inf)
    return tuple(step for step in ladder if above < step < below)


def meets(run: MeasuredRun, limits: Sequence[Slo]) -> bool:
    """Return whether a run meets all limits on latencies; one on what it does not have is not met."""
    for slo in limits:
        if slo.at_least:
            continue  # more load is never too little
        value = run.figure(slo.column) if slo.percentile is None else run.percentiles.get((slo.column, slo.percentile))
        if value is None or value > slo.limit:
            return False
    return True
