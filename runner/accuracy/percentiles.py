"""Percentiles of estimates against those of measured runs, by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from gpuscout.runner.accuracy.errors import MetricError, metric_error
from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS, FloatArray

COMPARED: tuple[tuple[str, float], ...] = tuple(
    (metric, percentile) for metric in ("ttft_ms", "itl_ms") for percentile in (50.0, 90.0, 99.0)
)
"""Metrics and percentiles that are compared."""

Errors = Mapping[tuple[str, float], MetricError]


def that_tell_percentiles(runs: Iterable[MeasuredRun]) -> tuple[MeasuredRun, ...]:
    """The closed-loop runs whose source reports a 99th percentile of TTFT."""
    return tuple(run for run in runs if run.load is LoadKind.CLOSED_LOOP and ("ttft_ms", 99.0) in run.percentiles)


def percentile_errors(
    estimates: Estimates, of: Callable[[MeasuredRun], object] = lambda run: "all"
) -> dict[str, tuple[int, Errors]]:
    """Runs and errors of every group; percentiles that no run of a group has, or no estimate, are left out."""
    ratio = _ratios(estimates)
    members: dict[str, list[int]] = defaultdict(list)
    for position, run in enumerate(estimates.runs):
        members[str(of(run))].append(position)
    found: dict[str, tuple[int, Errors]] = {}
    for name in sorted(members):
        rows = np.array(members[name])
        errors = {column: metric_error(values[rows]) for column, values in ratio.items()}
        found[name] = len(rows), {column: error for column, error in errors.items() if error is not None}
    return found


def _ratios(estimates: Estimates) -> dict[tuple[str, float], FloatArray]:
    """Estimate / measured; NaN where either is missing."""
    found = {}
    for column in COMPARED:
        measured = np.array([run.percentiles.get(column, np.nan) for run in estimates.runs], dtype=np.float64)
        estimated = np.full(len(estimates), np.nan)
        if estimates.percentiles is not None:
            estimated = estimates.percentiles[:, PERCENTILE_COLUMNS.index(column)]
        found[column] = estimated / np.where(measured > 0, measured, np.nan)
    return found
