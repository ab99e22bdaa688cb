"""Errors of estimates: coverage, medians, 90th percentiles and bias of every figure, for groups of runs."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.runner.engines.roofline.uncertainty import BAND_ENDS, BAND_NAMES
from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS, FloatArray
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.slo import percentile_name
from gpuscout.sweeps.trust import NO_TRUST, Trust

METRICS = ("itl", "ttft", "throughput")
COLUMNS: Mapping[str, str] = {"itl": "itl_ms", "ttft": "ttft_ms", "throughput": "output_tokens_per_s"}


def _of_gpu(field: str) -> Callable[[MeasuredRun], object]:
    """Return a field of the catalogue's entry for a run's GPU; None for a GPU that is not there."""

    def value(run: MeasuredRun) -> object:
        gpu = GPUCatalogue.load().find(run.gpu)
        return None if gpu is None else getattr(gpu, field)

    return value


def _load_band(run: MeasuredRun) -> str | None:
    """Return the band of requests in flight that the built-in engine's intervals go by; None: an offline maximum."""
    return None if run.concurrency is None else BAND_NAMES[bisect_left(BAND_ENDS, run.concurrency)]


def _and_band(name: str) -> Callable[[MeasuredRun], object]:
    """Return a grouping combined with the band of load."""

    def value(run: MeasuredRun) -> str | None:
        group, band = GROUPINGS[name](run), _load_band(run)
        return None if group is None or band is None else f"{group}, {band} in flight"

    return value


# What runs can be grouped by.
GROUPINGS: Mapping[str, Callable[[MeasuredRun], object]] = {
    "model": lambda run: run.model,
    "vendor": _of_gpu("vendor"),
    "family": _of_gpu("family"),
    "gpu": lambda run: run.gpu,
    "precision": lambda run: str(run.precision),
    "server": lambda run: run.server,
    "load_band": _load_band,
    "vendor_load_band": _and_band("vendor"),
    "server_load_band": _and_band("server"),
    "concurrency": lambda run: run.concurrency,
    "input_len": lambda run: run.input_len,
    "output_len": lambda run: run.output_len,
    "tp": lambda run: run.tp,
    "source": lambda run: run.source,
}


@dataclass(frozen=True)
class MetricError:
    """Relative errors of one figure over `runs` runs that have it: estimate / measured - 1, as fractions.

    `inside`: the share of the measured figures within the engine's 80 % intervals; None: no interval is known.
    """

    runs: int
    median: float  # of the absolute error
    p90: float  # 90th percentile of the absolute error
    bias: float  # median of the signed error: above 0 is estimated too large
    inside: float | None = None


@dataclass(frozen=True)
class GroupErrors:
    """Errors over a group of runs. A metric without a run that has it is left out."""

    runs: int
    answered: int
    metrics: Mapping[str, MetricError]

    @property
    def coverage(self) -> float:
        return self.answered / self.runs if self.runs else float("nan")


def closed_loop_throughput(estimates: Estimates) -> FloatArray:
    """Return the output tokens/s of `concurrency` requests always in flight, from the estimated latencies."""
    output_len = np.array([run.output_len for run in estimates.runs], dtype=np.float64)
    e2e_s = (estimates.ttft_ms + estimates.itl_ms * (output_len - 1)) / 1000
    throughput: FloatArray = estimates.concurrency * output_len / e2e_s
    return throughput


def ratios(estimates: Estimates) -> dict[str, FloatArray]:
    """Estimate / measured of every metric; NaN where either is missing.

    Of an offline maximum only the throughput: how many requests were in flight when its latencies were measured, nobody
    tells.
    """
    runs = estimates.runs
    offline = np.array([run.load is LoadKind.OFFLINE_MAXIMUM for run in runs], dtype=bool)
    itl, ttft, tokens = (
        np.array(values, dtype=np.float64)
        for values in ([r.itl_ms for r in runs], [r.ttft_ms for r in runs], [r.throughput for r in runs])
    )
    measured = {"itl": np.where(offline, np.nan, itl), "ttft": np.where(offline, np.nan, ttft), "throughput": tokens}
    throughput = np.where(offline, estimates.output_tokens_per_s, closed_loop_throughput(estimates))
    estimated = {"itl": estimates.itl_ms, "ttft": estimates.ttft_ms, "throughput": throughput}
    return {name: estimated[name] / measured[name] for name in METRICS}


def tail_ratios(estimates: Estimates) -> dict[str, FloatArray]:
    """Estimate / measured of every percentile ("p95_ttft_ms"); NaN where either is missing."""
    found = {}
    for place, column in enumerate(PERCENTILE_COLUMNS):
        measured = np.array([run.percentiles.get(column, np.nan) for run in estimates.runs], dtype=np.float64)
        estimated = np.full(len(estimates), np.nan)
        if estimates.percentiles is not None:
            estimated = estimates.percentiles[:, place]
        found[percentile_name(*column)] = estimated / np.where(measured > 0, measured, np.nan)
    return found


def inside_interval(estimates: Estimates, trust: Trust) -> dict[str, FloatArray]:
    """Return `inside_factors` of every metric."""
    return {
        metric: inside_factors(estimates, ratio, trust, COLUMNS[metric]) for metric, ratio in ratios(estimates).items()
    }


def inside_factors(estimates: Estimates, ratio: FloatArray, trust: Trust, name: str) -> FloatArray:
    """Return 1 where a measured figure lies within the 80 % interval around its estimate, else 0; NaN: not known.

    `ratio`: estimate / measured of the figure that the engine's intervals call by this name.
    """
    ends = np.full((len(ratio), 2), np.nan)
    for row, regime in enumerate(() if estimates.regime is None else estimates.regime.tolist()):
        ends[row] = trust.intervals.get(regime, {}).get(name, (np.nan, np.nan))
    within = (ends[:, 0] <= 1 / ratio) & (1 / ratio <= ends[:, 1])
    found: FloatArray = np.where(np.isfinite(ratio + ends[:, 0]), within, np.nan)
    return found


def errors(
    estimates: Estimates, of: Callable[[MeasuredRun], object] = lambda run: "all", trust: Trust = NO_TRUST
) -> dict[str, GroupErrors]:
    """Return errors by group, in the order of the groups' names (numbers by size).

    `trust` has the engine's intervals.
    """
    ratio = ratios(estimates)
    inside = inside_interval(estimates, trust)
    answered = np.isfinite(estimates.itl_ms) & np.isfinite(estimates.ttft_ms)
    members: dict[object, list[int]] = defaultdict(list)
    for position, run in enumerate(estimates.runs):
        members[of(run)].append(position)
    found = {}
    for name in sorted(members, key=lambda name: (name is None, isinstance(name, str), name)):
        rows = np.array(members[name])
        metrics = {metric: metric_error(values[rows], inside=inside[metric][rows]) for metric, values in ratio.items()}
        found["unknown" if name is None else str(name)] = GroupErrors(
            len(rows), int(answered[rows].sum()), {metric: error for metric, error in metrics.items() if error}
        )
    return found


def metric_error(
    ratio: FloatArray, weight: FloatArray | None = None, inside: FloatArray | None = None
) -> MetricError | None:
    """Return errors from estimate / measured, NaN where either is missing; None without a run that has both.

    `weight`: how much each run counts; None: all alike. `inside` as `inside_interval` has it.
    """
    known = np.isfinite(ratio)
    signed = ratio[known] - 1
    if not len(signed):
        return None
    absolute = np.abs(signed)
    if weight is None:
        median, p90 = np.percentile(absolute, (50, 90))
        bias = np.median(signed)
    else:
        median, p90 = weighted_quantiles(absolute, weight[known], (0.5, 0.9))
        (bias,) = weighted_quantiles(signed, weight[known], (0.5,))
    known_inside = np.array([]) if inside is None else inside[np.isfinite(inside)]
    share = float(known_inside.mean()) if len(known_inside) else None
    return MetricError(len(signed), float(median), float(p90), float(bias), share)


def weighted_quantiles(values: FloatArray, weight: FloatArray, shares: Sequence[float]) -> FloatArray:
    """Return quantiles of values of which each counts by its weight."""
    order = np.argsort(values, kind="stable")
    positions = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
    found: FloatArray = np.interp(shares, positions, values[order])
    return found
