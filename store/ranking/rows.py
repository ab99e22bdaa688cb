"""A ranking as rows, one a configuration: for CSV, Markdown and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.types import Group, RankedConfig, Ranking
from gpuscout.sweeps.curves import METRICS, SERVER_METRICS
from gpuscout.sweeps.settings import SETTINGS
from gpuscout.sweeps.trust import TRUSTED_METRICS

_CONFIGURATION = (
    "gpu", "num_gpus", *SETTINGS, "kind", "engine", "fingerprint",
)  # fmt: skip
_FIGURES = (
    "concurrency", "interpolated", "queued", "assumed_tail", *METRICS, *SERVER_METRICS,
)  # fmt: skip
# Objectives that are no column of an operating point.
_VALUES = {"cost": "usd_per_mtok", "energy": "kwh_per_mtok"}

COLUMNS = (
    "model", "workload", "input_len", "output_len", "place", *_CONFIGURATION, "objective", "objective_unit",
    "objective_value", "objective_low", "objective_high", "behind_best", "usd_per_hour", "usd_per_gpu_hour",
    "price_is_old", *_VALUES.values(), *_FIGURES, "output_tokens_per_s_per_gpu", "bound", "slos", "limits_met",
    "backed", "runs", "load", "sources", "server_versions", "first_day", "last_day", "error_metric", "error_median",
    "error_p90", "error_runs", "error_gpu_family",
    *(f"{metric}_{end}" for metric in TRUSTED_METRICS for end in ("low", "high")),
    "confidence", "lowest_opinion", "highest_opinion", "cannot_start", "caveats",
)  # fmt: skip
"""What a row holds. `objective_value` is in `objective_unit`, `behind_best` a fraction, lengths are in tokens.
`assumed_tail`: what the mean is multiplied by where a limit is on a percentile that an estimate does not have. `runs`
are the measured runs behind it, with their load, sources, versions and days; for an estimate half of the `error_runs`
nearest to it were off by less than `error_median` (a fraction), nine of ten by less than `error_p90`, and low and high
hold 80 % of what is measured. Of simulated estimates `requests_waiting` and `kv_cache_usage` (a fraction) are means
over time, `preempted_share` is a fraction of the requests, `goodput_per_s` counts those within the engine's limits.
`backed`: it was measured, or measured runs are near it. `limits_met`: the probability of the limit in `slos` that is
least likely met. `cannot_start`: why no server can be told to start it. It is ranked by figures that hold with the
probability `confidence` (0.5: the estimates). The opinions are those of several engines, in `objective_unit`.
`caveats`: what was guessed or assumed of the model, or could not be checked."""


def columns_of(ranking: Ranking) -> tuple[str, ...]:
    """Return `COLUMNS`, and each percentile with a limit and its ends, as `query` calls them: "p95_ttft_ms" …"""
    return (*COLUMNS, *(part for column in _percentiles(ranking) for part in (column, *_ends(column))))


def _ends(column: str) -> tuple[str, str]:
    return f"{column}_low", f"{column}_high"


def _percentiles(ranking: Ranking) -> dict[str, str]:
    """Return the names of the SLOs on percentiles by their columns."""
    slos = (slo for slo in ranking.question.slos if slo.percentile is not None)
    return {slo.figure: slo.name for slo in slos}


def ranking_rows(ranking: Ranking, *, top: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the configurations of all groups that the ranking holds, or `top` of each, best first.

    None where a figure is not known; cost and energy where the question did not ask for them.
    """
    aim, percentiles = ranking.question.aim, _percentiles(ranking)
    for group in ranking.groups:
        for config in shown(group, top):
            lowest, highest = config.spread or (None, None)
            values = {column: config.values.get(name) for name, column in _VALUES.items()}
            yield {
                "model": group.model,
                "workload": group.workload,
                "input_len": group.input_len,
                "output_len": group.output_len,
                "place": config.place,
                **{name: getattr(config, name) for name in _CONFIGURATION},
                "objective": aim.name,
                "objective_unit": aim.unit,
                "objective_value": config.objective,
                "objective_low": config.objective_range and config.objective_range[0],
                "objective_high": config.objective_range and config.objective_range[1],
                "behind_best": config.behind_best,
                "usd_per_hour": config.usd_per_hour,
                "usd_per_gpu_hour": None if config.usd_per_hour is None else config.usd_per_hour / config.num_gpus,
                "price_is_old": ranking.prices.is_old(config.gpu),
                "slos": ", ".join(map(str, ranking.question.slos)),
                "backed": config.backed,
                "limits_met": config.likelihood,
                "cannot_start": config.cannot_start,
                **values,
                **{name: getattr(config, name) for name in _FIGURES},
                "output_tokens_per_s_per_gpu": config.tokens_per_s_per_gpu,
                "bound": config.bound,
                **_runs(config),
                **_trust(config),
                "confidence": ranking.question.confidence,
                "lowest_opinion": lowest,
                "highest_opinion": highest,
                "caveats": "; ".join(_caveats(group, config)) or None,
                **{column: config.percentiles.get(name) for column, name in percentiles.items()},
                **_intervals(config, (*TRUSTED_METRICS, *percentiles)),
            }


def _caveats(group: Group, config: RankedConfig) -> Iterator[str]:
    if config.kind is not Kind.MEASURED:
        yield from group.caveats
    if config.unchecked:
        yield config.unchecked


def _runs(config: RankedConfig) -> dict[str, Any]:
    runs = config.runs
    return {
        "runs": runs and runs.repeats,
        "load": runs and runs.load,
        "sources": runs and runs.sources,
        "server_versions": runs and runs.server_versions,
        "first_day": runs and runs.first_day,
        "last_day": runs and runs.last_day,
    }


def _trust(config: RankedConfig) -> dict[str, Any]:
    error = config.backing and config.backing.error
    return {
        "error_metric": error and error.metric,
        "error_median": error and error.median_error,
        "error_p90": error and error.p90_error,
        "error_runs": error and error.runs,
        "error_gpu_family": error and error.gpu_family,
    }


def _intervals(config: RankedConfig, figures: Iterable[str]) -> dict[str, float | None]:
    known = ((figure, config.intervals.get(figure, (None, None))) for figure in figures)
    return {name: end for figure, ends in known for name, end in zip(_ends(figure), ends, strict=True)}


def listed(group: Group) -> list[RankedConfig]:
    """Return the best, the best of other GPU types, then the rest: another TP of one GPU is less news."""
    return [*group.best_per_gpu, *(config for config in group.configs if config not in group.best_per_gpu)]


def shown(group: Group, top: int | None) -> list[RankedConfig]:
    """Return the first of `listed`, or all, in the order of their places."""
    return sorted(listed(group)[:top], key=lambda config: config.place)
