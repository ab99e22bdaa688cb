"""Percentiles of estimates against those of measured runs, by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from gpuscout.runner.accuracy.errors import MetricError, inside_factors, metric_error, tail_ratios
from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.sweeps.slo import percentile_name
from gpuscout.sweeps.trust import NO_TRUST, Trust

COMPARED: tuple[tuple[str, float], ...] = tuple(
    (metric, percentile) for metric in ("ttft_ms", "itl_ms") for percentile in (50.0, 90.0, 99.0)
)
"""Metrics and percentiles that are compared."""

Errors = Mapping[tuple[str, float], MetricError]


def that_tell_percentiles(runs: Iterable[MeasuredRun]) -> tuple[MeasuredRun, ...]:
    """Return the closed-loop runs whose source reports a 99th percentile of TTFT."""
    return tuple(run for run in runs if run.load is LoadKind.CLOSED_LOOP and ("ttft_ms", 99.0) in run.percentiles)


def percentile_errors(
    estimates: Estimates, of: Callable[[MeasuredRun], object] = lambda run: "all", trust: Trust = NO_TRUST
) -> dict[str, tuple[int, Errors]]:
    """Return runs and errors of every group; percentiles that no run of a group has, or no estimate, are left out.

    `trust` has the engine's intervals.
    """
    ratio = tail_ratios(estimates)
    inside = {name: inside_factors(estimates, values, trust, name) for name, values in ratio.items()}
    members: dict[str, list[int]] = defaultdict(list)
    for position, run in enumerate(estimates.runs):
        members[str(of(run))].append(position)
    found: dict[str, tuple[int, Errors]] = {}
    for name in sorted(members):
        rows = np.array(members[name])
        errors = {
            column: metric_error(ratio[percentile_name(*column)][rows], inside=inside[percentile_name(*column)][rows])
            for column in COMPARED
        }
        found[name] = len(rows), {column: error for column, error in errors.items() if error is not None}
    return found
