"""`gpuscout capacity`: replicas, GPUs, nodes and money for a load, for each GPU type, from the store alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.ask.capacity_batch import BatchOptions, print_batch
from gpuscout.runner.cli.ask.capacity_load import MovingOptions, print_load
from gpuscout.runner.cli.common import DEFAULT_STORE, Db, leave_if_nothing, open_store, print_json
from gpuscout.runner.cli.options import Filters, LimitOptions, Many, PriceOptions, grouped, under
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_rows, whole_number, yes_or_no
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import percent

if TYPE_CHECKING:
    from gpuscout.store.queries.sizing.capacity import GroupCapacity, Plan
    from gpuscout.store.queries.sizing.capacity_question import Capacity, Rate

_RATE = re.compile(
    r"(?:(?P<workload>.+)=)?\s*(?P<value>\d{1,15}(?:\.\d{1,15})?(?:[eE]\d{1,2})?)\s*(?P<unit>/s|/min|/h)?\s*"
)
_load = under("The load")
RateOption = Annotated[Many, _load("--rate", help="Requests per second: 50, 300/min, chat=50; repeat.")]
TokensRate = Annotated[Many, _load("--tokens-rate", help="Output tokens per second instead; repeat.")]
Headroom = Annotated[float, _load("--headroom", help="Share of the capacity to keep free.")]
_PER_SECOND = {None: 1.0, "/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout capacity --rate 50 --workload chat --model Qwen3-32B --slo 'itl<=40ms' --spare 1"
    app.command("capacity", rich_help_panel="Sweeps", epilog=example)(capacity)


@grouped
def capacity(
    limits: LimitOptions,
    filters: Filters,
    prices: PriceOptions,
    output: Output,
    moving: MovingOptions,
    batch: BatchOptions,
    rate: RateOption = None,
    tokens_rate: TokensRate = None,
    users: Annotated[
        Many,
        _load("--users", help="Users instead, each with a request in flight: 100, chat=100."),
    ] = None,
    headroom: Headroom = 0.2,
    min_replicas: Annotated[int, _load("--min-replicas", min=1, help="Minimum number of replicas.")] = 1,
    spare: Annotated[int, _load("--spare", min=0, help="Replicas beyond what the load needs.")] = 0,
    whole_nodes: Annotated[bool, _load("--whole-nodes", help="Pay for all GPUs of every node.")] = False,
    top: Annotated[
        int, typer.Option("--top", min=0, help="Configurations to add to the cheapest of each GPU type.")
    ] = 0,
    db: Db = DEFAULT_STORE,
) -> None:
    """Size a deployment for a load: replicas, GPUs, nodes and USD.

    Each GPU type has an answer; nothing is computed. A replica takes the requests per second that it sustains within
    all --slo limits, less the headroom: of rates that were simulated (load: request_rate) the highest within the
    limits. All its GPUs are paid, busy or not. A month has 730 hours. Exit status 6: nothing can carry the load.
    """
    from gpuscout.runner.cli.show.deployments.capacity_table import print_capacity, print_capacity_aside
    from gpuscout.store.queries.sizing.capacity import Demand
    from gpuscout.store.queries.sizing.capacity_question import capacity as sized

    rates = [parse_rate("--rate", text) for text in rate or ()]
    rates += [parse_rate("--tokens-rate", text, tokens=True) for text in tokens_rate or ()]
    rates += [parse_rate("--users", text, users=True) for text in users or ()]
    demand = Demand(headroom, min_replicas, spare, whole_nodes)
    question = limits.limited(filters.question())
    if moving.load is not None:
        if rates or batch.batch:
            raise InputError("--load replaces --rate, --tokens-rate, --users and --batch: leave them out")
        batch.check()
        print_load(db, question, moving, demand, prices, output)
        return
    batch.check()
    moving.check_unused(but=("startup",) if batch.batch else ())
    if batch.batch:
        if rates or (headroom, min_replicas, spare) != (0.2, 1, 0):
            raise InputError(
                "--batch is work without a rate: leave out --rate, --tokens-rate, --users, --headroom, --min-replicas "
                "and --spare"
            )
        unlimited = limits.limited(filters.question(), by_default=False)
        print_batch(db, unlimited, batch, moving.startup, prices, output, whole_nodes=whole_nodes)
        return
    with open_store(db) as store, store.reading() as connection:
        question = prices.of(question, connection)
        found = sized(connection, question, rates, demand, further=top)
    if output.json:
        print_json(capacity_document(found))
    elif output.for_people:
        print_capacity(found)
    else:
        rows = (_row(group, plan) for group in found.groups for plan in (*group.plans, *group.further))
        print_rows(_columns(output), rows, output)
        print_capacity_aside(found)
    leave_if_nothing(any(group.plans for group in found.groups))


def parse_rate(flag: str, text: str, *, tokens: bool = False, users: bool = False) -> Rate:
    """Read "chat=50", "300/min" or "1e3". Raises InputError."""
    from gpuscout.store.queries.sizing.capacity_question import Rate

    form = _RATE.fullmatch(text)
    value = float(form["value"]) * _PER_SECOND[form["unit"]] if form else 0.0
    if form is None or not value > 0 or (users and form["unit"]):
        what = "number of users" if users else "rate"
        more = "" if users else ", optionally with /s, /min or /h"
        raise InputError(
            f'{flag}: invalid {what} "{text}": expected a positive number{more}',
            hint=f"for example {flag} 50{'' if users else ', 300/min'} or chat=50",
        )
    return Rate(value, form["workload"].strip() if form["workload"] else None, tokens, users)


# --- for machines ------------------------------------------------------------------------------------------------


_PLAN = (
    *("replicas", "gpus", "gpus_paid", "gpus_per_node", "replicas_per_node", "nodes", "usd_per_month", "usd_per_mtok"),
    *("headroom", "requests_per_s", "requests_per_s_per_replica"),
)
_LOADED = ("concurrency", "ttft_ms", "itl_ms", "e2e_s", "request_rate")
_SAFE = {"safe_replicas": "replicas", "safe_gpus": "gpus", "safe_usd_per_month": "usd_per_month"}


def _row(group: GroupCapacity, plan: Plan) -> dict[str, Any]:
    """Latencies are those of a replica at full load; with "at_rate" before them, at its share of the asked rate.
    `request_rate`: the rate of one replica at which they were simulated; nothing: they are of a closed loop.

    Low and high are the ends of 80 % intervals; what is "safe" holds with a probability of 90 %.
    """
    from gpuscout.runner.cli.show.deployments.sized import plan_row

    config, hourly, error = plan.config, plan.usd_per_hour, plan.config.backing and plan.config.backing.error
    low, high = plan.usd_per_month_range or (None, None)
    return {
        **picked(group.group, *CASE),
        **plan_row(group.group, plan),
        "usd_per_hour": hourly and hourly.usd,
        "usd_per_hour_lowest_price": hourly and hourly.low,
        "usd_per_hour_highest_price": hourly and hourly.high,
        "usd_per_month_low": low,
        "usd_per_month_high": high,
        **{name: plan.safe and getattr(plan.safe, field) for name, field in _SAFE.items()},
        "error_metric": error and error.metric,
        "error_median": error and error.median_error,
        "error_p90": error and error.p90_error,
        "error_runs": error and error.runs,
        "cannot_start": config.cannot_start,
        "caveats": "; ".join(group.group.caveats) or None,
        **picked(plan, *_PLAN),
        **picked(config, *_LOADED),
        **{f"at_rate_{name}": plan.at_load and getattr(plan.at_load, name) for name in _LOADED},
    }


def _columns(output: Output) -> list[Column]:
    """Return the columns of every row: all of them for CSV, a reader's choice for Markdown."""
    if output.md:
        return list(_FOR_READERS)
    names = [*CASE, "gpu", "configuration", "usd_per_hour", "usd_per_hour_lowest_price", "usd_per_hour_highest_price"]
    names += [*_PLAN, "usd_per_month_low", "usd_per_month_high", *_SAFE, *_LOADED]
    names += [*(f"at_rate_{name}" for name in _LOADED), "kind", "backed", "limits_met"]
    names += ["error_metric", "error_median", "error_p90", "error_runs", "cannot_start", "caveats"]
    return [Column(name, name) for name in names]


def _dollars(value: float) -> str:
    return f"{value:,.0f}"


_FOR_READERS = (
    Column("model", "model"),
    Column("workload", "workload"),
    Column("configuration", "configuration"),
    a_figure("replicas", "replicas", whole_number),
    a_figure("gpus", "GPUs", whole_number),
    a_figure("usd_per_month", "USD/month", _dollars),
    a_figure("usd_per_month_low", "low (80 %)", _dollars),
    a_figure("usd_per_month_high", "high (80 %)", _dollars),
    a_figure("safe_gpus", "safe GPUs (90 %)", whole_number),
    a_figure("safe_usd_per_month", "safe USD/month (90 %)", _dollars),
    a_figure("usd_per_mtok", "USD/Mtok"),
    a_figure("concurrency", "requests in flight", whole_number),
    a_figure("ttft_ms", "TTFT ms"),
    a_figure("itl_ms", "ITL ms"),
    a_figure("limits_met", "limits met", percent),
    Column("kind", "kind"),
    Column("backed", "measured near", yes_or_no),
    Column("caveats", "caveats"),
)


def capacity_document(found: Capacity) -> dict[str, object]:
    from gpuscout.runner.cli.show.deployments.capacity_table import together
    from gpuscout.runner.cli.show.deployments.sized import outs_document, question_document
    from gpuscout.runner.cli.show.prices import prices_document
    from gpuscout.store.queries.sizing.capacity import HOURS_PER_MONTH

    return {
        **picked(found.demand, "headroom", "min_replicas", "whole_nodes", spare_replicas="spare"),
        "hours_per_month": HOURS_PER_MONTH,
        **question_document(found.rankings[0].question),
        "prices": prices_document(found.prices),
        "groups": [
            {
                **picked(group.group, *CASE, "engine", "caveats"),
                "users": group.users,
                "requests_per_s": group.rate,
                "output_tokens_per_s": group.rate * group.group.output_len,
                "best_per_gpu": _plans(group, group.plans),
                "unproven": group.unproven and group.unproven.config.gpu,
                "cut": [plan.config.gpu for plan in group.cut],
                "further": _plans(group, group.further),
                "out": [
                    {**told, "configurations": out.count, "nearest": asdict(out.nearest)}
                    for told, out in zip(outs_document(group.out), group.out, strict=True)
                ],
            }
            for group in found.groups
        ],
        "together": list(together(found)),
    }


def _plans(group: GroupCapacity, plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """Return the rows with the settings of their configurations, less what the group says already."""
    from gpuscout.runner.cli.show.ranking.document import percentiles_document
    from gpuscout.sweeps.settings import PARALLELISM, STARTED

    settings = (*PARALLELISM, "precision", "kv_precision", *STARTED)
    more = ("server", "gpu_memory_utilization", "max_model_len", "engine", "task_id", "interpolated", "queued")
    said = (*CASE, "requests_per_s")
    return [
        {name: value for name, value in _row(group, plan).items() if name not in said}
        | {"gpus_per_replica": plan.config.num_gpus}
        | picked(plan.config, *settings, *more, "assumed_tail")
        | {"percentiles": percentiles_document(plan.config.percentiles)}
        | {"at_rate_percentiles": percentiles_document(plan.at_load.percentiles if plan.at_load else {})}
        | {"limits": [{"slo": str(chance.slo), **picked(chance, "probability")} for chance in plan.config.chances]}
        for plan in plans
    ]
