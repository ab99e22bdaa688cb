"""Columns of a row of operating points, and how each is read from an estimate and from a measured run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from gpuscout.store.prices.books import prices_for, tdp_w
from gpuscout.store.prices.prices import PriceRules, Prices
from gpuscout.store.ranking.measures import value_of
from gpuscout.store.ranking.question.asked import MEASURED, Kind
from gpuscout.store.ranking.question.scope import Scope, WorkloadKey
from gpuscout.store.results.catalogues import APPROXIMATE_MARK
from gpuscout.store.schema import (
    cases,
    engines,
    gpus,
    intervals,
    measured_runs,
    models,
    operating_points,
    percentiles,
    point_percentiles,
    tasks,
    traffics,
)
from gpuscout.sweeps.curves import MEAN_OF_BINS, METRICS, PERCENTILE_COLUMNS, SERVER_METRICS, Bound
from gpuscout.sweeps.servers import ONE_OF_SERVERS
from gpuscout.sweeps.settings import STARTED
from gpuscout.sweeps.slo import percentile_name
from gpuscout.sweeps.speculative import DRAFTS_UNCHECKED

Field = Callable[[str], sa.ColumnElement[Any]]

PRICE, TDP = "price", "tdp"

# Type, meaning, and what must be known of the GPU besides.
COLUMNS: dict[str, tuple[type, str, str]] = {
    "kind": (str, f"estimated (then also: mean of bins, {DRAFTS_UNCHECKED}) or measured", ""),
    "model": (str, "the model's id", ""),
    "workload": (str, "the name of these lengths in a stored sweep", ""),
    "input_len": (int, "input tokens of a request; their mean where lengths vary", ""),
    "output_len": (int, "output tokens of a request", ""),
    "traffic": (str, "how requests vary and arrive, as JSON; empty: fixed lengths in a closed loop", ""),
    "gpu": (str, "the GPU type", ""),
    "num_gpus": (int, "GPUs of the deployment: TP x PP x DP", ""),
    "tensor_parallel": (int, "TP", ""),
    "pipeline_parallel": (int, "PP", ""),
    "data_parallel": (int, "DP", ""),
    "expert_parallel": (int, "EP", ""),
    "precision": (str, "of the weights", ""),
    "kv_precision": (str, "of the KV cache", ""),
    "server": (str, ONE_OF_SERVERS, ""),
    "gpu_memory_utilization": (float, "fraction of GPU memory", ""),
    "max_model_len": (int, "tokens a request may have; of a measured run what it had", ""),
    "server_options": (str, "options of the server that differ from its defaults: max_num_seqs=256", ""),
    "speculative": (str, "speculative decoding: draft_tokens=3 acceptance=0.7 draft_cost=0.05; empty: none", ""),
    "engine": (str, "the engine that estimated it, or measured", ""),
    "fingerprint": (str, "the version of the engine", ""),
    "concurrency": (int, "requests in flight, of the deployment", ""),
    "ttft_ms": (float, "mean time to the first token, ms", ""),
    "itl_ms": (float, "mean time between tokens, ms", ""),
    "e2e_s": (float, "mean time of a request, s", ""),
    "output_tokens_per_s": (float, "output tokens/s of the deployment", ""),
    "requests_per_s": (float, "requests/s of the deployment", ""),
    "output_tokens_per_s_per_gpu": (float, "output tokens/s and GPU", ""),
    "output_tokens_per_s_per_user": (float, "interactivity: 1000 / itl_ms", ""),
    "usd_per_hour": (float, "USD per hour of the deployment", PRICE),
    "usd_per_mtok": (float, "USD per million output tokens", PRICE),
    "kwh_per_mtok": (float, "kWh per million output tokens at full TDP: an upper bound", TDP),
    "bound": (str, "the resource that limits an estimate: compute, memory …", ""),
    "queued": (bool, "more requests in flight than the KV cache holds", ""),
    "requests_waiting": (float, "requests that wait for a place in the server, mean over time, where simulated", ""),
    "kv_cache_usage": (float, "share of the KV cache that is held, mean over time, where simulated", ""),
    "preempted_share": (float, "share of requests that lost their place at least once, where simulated", ""),
    "goodput_per_s": (float, "requests/s within the limits of the engine's option goodput, where simulated", ""),
    "approximate": (bool, "the model's architecture is in part a guess (gpuscout models show)", ""),
    "task_id": (int, "the task of an estimate, in this store", ""),
    "run_id": (int, "the measured run, in this store", ""),
    "stored_at": (datetime, "when it was computed or imported, UTC", ""),
    "source": (str, "where a measured run comes from", ""),
    "server_version": (str, "of a measured run", ""),
    "measured_on": (date, "day of a measured run", ""),
    "load": (str, "closed_loop, request_rate or offline_maximum, of a measured run", ""),
    "request_rate": (float, "requests/s that an estimate is for, or that drove a measured run", ""),
    "requests_completed": (int, "requests of a measured run that succeeded", ""),
    "requests_failed": (int, "requests of a measured run that failed", ""),
    "implausible": (str, "the figure of a measured run that its hardware cannot reach (--implausible)", ""),
    "imported_from": (str, "the export that it came from; empty: computed here, or a result file", ""),
    "set_aside": (str, "why a measured run does not stand for its configuration (--set-aside)", ""),
}
"""Every column that is neither a percentile nor an end of a range, in the order of rows."""

# The metric whose interval a figure follows; True: the figure falls as the metric grows.
_FOLLOWS = {
    **{name: (name, False) for name in ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s")},
    "requests_per_s": ("output_tokens_per_s", False),
    "output_tokens_per_s_per_gpu": ("output_tokens_per_s", False),
    "output_tokens_per_s_per_user": ("itl_ms", True),
    "usd_per_mtok": ("output_tokens_per_s", True),
    "kwh_per_mtok": ("output_tokens_per_s", True),
    **{name: (name, False) for name in (percentile_name(*column) for column in PERCENTILE_COLUMNS)},
}
ENDS = ("low", "high")
RANGES = {f"{name}_{end}": (name, end) for name in _FOLLOWS for end in ENDS}
"""Columns of the ends of 80 % intervals of estimates: itl_ms_low, p95_ttft_ms_low. NULL: measured, or none is known."""


def ends_of(names: Iterable[str]) -> list[str]:
    """Return the columns with the ends of the 80 % intervals of those of these columns that have one."""
    return [f"{name}_{end}" for name in names if name in _FOLLOWS for end in ENDS]


def estimated_metric(name: str) -> str | None:
    """Return the metric whose errors are those of a column; None: it does not depend on an estimate."""
    return _FOLLOWS[name][0] if name in _FOLLOWS else None


def needs_of(name: str) -> str:
    """Return the fact about a GPU that this column needs: `PRICE`, `TDP` or none."""
    return COLUMNS.get(RANGES.get(name, (name, ""))[0], (float, "", ""))[2]


PERCENTILE = re.compile(r"p(?P<percentile>\d{1,2}(?:\.\d{1,3})?)_(?P<metric>ttft_ms|itl_ms|e2e_s)")
"""Columns of percentiles, of measured runs and of estimates that were simulated: p95_ttft_ms."""

_DRAFTED = f"{Kind.ESTIMATED.value}, {DRAFTS_UNCHECKED}"
_BINNED = f"{Kind.ESTIMATED.value}, {MEAN_OF_BINS}"
_OF_POINTS = (*METRICS, "concurrency")
_OF_RUNS = (
    *("source", "server_version", "measured_on", "load", "request_rate"),
    *("requests_completed", "requests_failed", "implausible", "imported_from", "set_aside"),
)


def estimated_fields(workloads: Mapping[WorkloadKey, str], worth: DeploymentCosts | None) -> Field:
    """Return readers of columns of estimates. `worth` may be None where no column needs a price or a TDP."""
    point = operating_points.c
    own = {
        "kind": sa.case(
            (cases.c.speculative != "", _DRAFTED), (tasks.c.detail == MEAN_OF_BINS, _BINNED), else_=Kind.ESTIMATED.value
        ),
        "max_model_len": cases.c.max_model_len,
        "engine": engines.c.name,
        "fingerprint": engines.c.fingerprint,
        "bound": point.bound,
        "queued": point.queued,
        "approximate": models.c.architecture.contains(APPROXIMATE_MARK),
        # Of the point, whose key is in this order.
        "task_id": point.task_id,
        "run_id": sa.null(),
        "stored_at": tasks.c.created_at,
        **dict.fromkeys(_OF_RUNS, sa.null()),
        "request_rate": cases.c.request_rate,
        "imported_from": tasks.c.imported_from,
        **{name: point[name] for name in (*_OF_POINTS, *SERVER_METRICS)},
    }
    tail = point_percentiles.c

    def simulated(percentile: float, metric: str) -> sa.ColumnElement[Any]:
        at = (tail.task_id == point.task_id, tail.concurrency == point.concurrency)
        which = (tail.metric == metric, tail.percentile == percentile)
        return sa.select(tail.value).where(*at, *which).correlate(operating_points).scalar_subquery()

    field = _fields(own, simulated, workloads, worth)

    def factor(metric: str, end: str) -> sa.ColumnElement[Any]:
        here = (intervals.c.engine_id == tasks.c.engine_id, intervals.c.regime == point.regime)
        found = sa.select(intervals.c[end]).where(*here, intervals.c.metric == metric)
        return found.correlate(tasks, operating_points).scalar_subquery()

    def with_ends(name: str) -> sa.ColumnElement[Any]:
        """Return the columns with the ends of ranges, as `intervals_around` has them."""
        if name not in RANGES:
            return field(name)
        column, end = RANGES[name]
        metric, falls = _FOLLOWS[column]
        if falls:
            return field(column) / sa.func.nullif(factor(metric, "high" if end == "low" else "low"), 0.0)
        if metric != "e2e_s":
            return field(column) * factor(metric, end)
        ttft, itl = factor("ttft_ms", end), factor("itl_ms", end)
        decode_ms = field("itl_ms") * (cases.c.output_len - 1)
        total = field("ttft_ms") * sa.func.coalesce(ttft, 1.0) + decode_ms * sa.func.coalesce(itl, 1.0)
        return sa.case((sa.func.coalesce(ttft, itl).is_not(None), total / 1000))

    return with_ends


def measured_fields(workloads: Mapping[WorkloadKey, str], worth: DeploymentCosts | None) -> Field:
    """Return readers of columns of measured runs."""
    run = measured_runs.c
    own = {
        "kind": sa.literal(Kind.MEASURED.value),
        # With what it was started is not known.
        "max_model_len": cases.c.input_len + cases.c.output_len,
        "engine": sa.literal(MEASURED),
        "fingerprint": sa.null(),
        "bound": sa.literal(Bound.UNKNOWN.value),
        "queued": sa.null(),
        "approximate": sa.null(),
        "task_id": sa.null(),
        "run_id": run.id,
        "stored_at": run.imported_at,
        **{name: run[name] for name in (*_OF_RUNS, *_OF_POINTS)},
        **dict.fromkeys(SERVER_METRICS, sa.null()),
    }

    def stored(percentile: float, metric: str) -> sa.ColumnElement[Any]:
        at = (percentiles.c.run_id == run.id, percentiles.c.metric == metric, percentiles.c.percentile == percentile)
        return sa.select(percentiles.c.value).where(*at).correlate(measured_runs).scalar_subquery()

    return _fields(own, stored, workloads, worth)


def _fields(
    own: Mapping[str, sa.ColumnElement[Any]],
    percentile: Callable[[float, str], sa.ColumnElement[Any]],
    workloads: Mapping[WorkloadKey, str],
    worth: DeploymentCosts | None,
) -> Field:
    tokens = sa.func.nullif(own["output_tokens_per_s"], 0.0, type_=sa.Double)

    def field(name: str) -> sa.ColumnElement[Any]:
        if name in RANGES:
            return sa.cast(sa.null(), sa.Double)
        if form := PERCENTILE.fullmatch(name):
            return percentile(float(form["percentile"]), form["metric"])
        if name in own:
            return own[name]
        if name == "model":
            return models.c.name
        if name == "gpu":
            return gpus.c.name
        if name == "workload":
            return _workload(workloads)
        if name == "traffic":
            return (
                sa.select(traffics.c.shape)
                .where(traffics.c.id == cases.c.traffic_id)
                .correlate(cases)
                .scalar_subquery()
            )
        if name in STARTED:
            return sa.func.nullif(cases.c[name], "")
        if name == "output_tokens_per_s_per_gpu":
            return own["output_tokens_per_s"] / cases.c.num_gpus
        if name == "output_tokens_per_s_per_user":
            return 1000.0 / sa.func.nullif(own["itl_ms"], 0.0, type_=sa.Double)
        if worth is not None and name == "usd_per_hour":
            return worth.usd_per_hour
        if worth is not None and name in ("usd_per_mtok", "kwh_per_mtok"):
            objective = "cost" if name == "usd_per_mtok" else "energy"
            figures = {"output_tokens_per_s": tokens}
            value: sa.ColumnElement[Any] = value_of(
                objective, figures, cases.c.num_gpus, worth.usd_per_hour, worth.tdp_w
            )
            return value
        return cases.c[name]

    return field


def _workload(names: Mapping[WorkloadKey, str]) -> sa.ColumnElement[Any]:
    if not names:
        return sa.null()
    return sa.case(
        *(
            (sa.and_(cases.c.input_len == i, cases.c.output_len == o, cases.c.traffic_id.is_not_distinct_from(t)), name)
            for (i, o, t), name in names.items()
        ),
        else_=None,
    )


@dataclass(frozen=True)
class DeploymentCosts:
    """`usd_per_hour` of a case's deployment and `tdp_w` of one of its GPUs; NULL where it is not known."""

    prices: Prices
    usd_per_hour: sa.ColumnElement[Any]
    tdp_w: sa.ColumnElement[Any]


def deployment_costs(connection: sa.Connection, scope: Scope, rules: PriceRules) -> DeploymentCosts:
    """Return prices of all GPUs of a scope. Raises UnknownNameError for a book or provider that does not exist."""
    prices = prices_for(connection, scope.gpus.ids, rules)
    usd: list[tuple[Any, float]] = []
    for name, price in prices.known.items():
        here = cases.c.gpu_id.in_(scope.gpus.ids[name])
        if not rules.whole_instances:
            usd.append((here, price.per_hour(1).usd))
            continue
        # How many GPUs are paid for is not proportional to how many are used.
        sizes = sa.select(cases.c.num_gpus).where(here).distinct()
        for num_gpus in connection.execute(sizes).scalars():
            usd.append((sa.and_(here, cases.c.num_gpus == num_gpus), price.per_hour(num_gpus).usd / num_gpus))
    per_gpu = sa.case(*usd, else_=None) if usd else sa.cast(sa.null(), sa.Double)
    return DeploymentCosts(prices, per_gpu * cases.c.num_gpus, _tdp_w(connection, scope))


def _tdp_w(connection: sa.Connection, scope: Scope) -> sa.ColumnElement[Any]:
    by_name = tdp_w(connection)
    known = {row_id: by_name[name] for name, ids in scope.gpus.ids.items() if name in by_name for row_id in ids}
    return sa.case(known, value=cases.c.gpu_id, else_=None) if known else sa.cast(sa.null(), sa.Double)
