"""`gpuscout capacity`: replicas, GPUs, nodes and money for a load, for each GPU type, from the store alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, count, leave_if_nothing, print_json
from gpuscout.runner.cli.options import Filters, LimitOptions, PriceOptions, grouped
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, number, print_rows, whole_number
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.store.queries.capacity import GroupCapacity, Out, Plan
    from gpuscout.store.queries.capacity_question import Capacity, Rate

_LOAD = "The load"
_RATE = re.compile(r"(?:(?P<workload>.+)=)?\s*(?P<value>\d{1,15}(?:\.\d{1,15})?)\s*(?P<unit>/s|/min|/h)?\s*")
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
    rate: Annotated[
        list[str] | None,
        typer.Option("--rate", help="Requests per second: 50, 300/min, chat=50; repeat.", rich_help_panel=_LOAD),
    ] = None,
    tokens_rate: Annotated[
        list[str] | None,
        typer.Option("--tokens-rate", help="Instead: output tokens per second; repeat.", rich_help_panel=_LOAD),
    ] = None,
    headroom: Annotated[
        float, typer.Option("--headroom", help="Share of the capacity that is kept free.", rich_help_panel=_LOAD)
    ] = 0.2,
    min_replicas: Annotated[
        int, typer.Option("--min-replicas", min=1, help="Never fewer replicas.", rich_help_panel=_LOAD)
    ] = 1,
    spare: Annotated[
        int, typer.Option("--spare", min=0, help="Replicas beyond what the load needs.", rich_help_panel=_LOAD)
    ] = 0,
    whole_nodes: Annotated[
        bool, typer.Option("--whole-nodes", help="Pay for all GPUs of every node.", rich_help_panel=_LOAD)
    ] = False,
    top: Annotated[int, typer.Option("--top", min=0, help="Configurations besides the cheapest of each GPU type.")] = 0,
    db: Db = DEFAULT_STORE,
) -> None:
    """Size a deployment for a load: replicas, GPUs, nodes and USD, for each GPU type. Computes nothing.

    A replica takes the requests per second that it sustains within all --slo limits, less the headroom; all its GPUs
    are paid, busy or not. A month has 730 hours. Exit status 6: nothing can carry the load.
    """
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.queries.capacity import Demand
    from gpuscout.store.queries.capacity_question import capacity as sized
    from gpuscout.store.ranking.lookup import stored_names
    from gpuscout.store.schema import gpus

    rates = [_rate(text, tokens=False) for text in rate or ()] + [
        _rate(text, tokens=True) for text in tokens_rate or ()
    ]
    demand = Demand(headroom, min_replicas, spare, whole_nodes)
    question = limits.limited(filters.question())
    with open_store(db) as store, store.reading() as connection:
        question = replace(question, prices=prices.rules(stored_names(connection, gpus).ids))
        found = sized(connection, question, rates, demand, further=top)
    if output.json:
        print_json(_document(found))
    elif output.for_people:
        _print(found)
    else:
        print_rows(_columns(), [_row(group, plan) for group in found.groups for plan in _all(group)], output)
    leave_if_nothing(any(group.plans for group in found.groups))


def _rate(text: str, *, tokens: bool) -> Rate:
    from gpuscout.store.queries.capacity_question import Rate

    form = _RATE.fullmatch(text)
    value = float(form["value"]) * _PER_SECOND[form["unit"]] if form else 0.0
    if form is None or not value > 0:
        name = "--tokens-rate" if tokens else "--rate"
        raise InputError(
            f'{name}: "{text}" is no rate: a number above 0 in digits, per second unless /min or /h follows',
            hint=f"for example {name} 50, 300/min or chat=50",
        )
    return Rate(value, form["workload"].strip() if form["workload"] else None, tokens)


def _all(group: GroupCapacity) -> Sequence[Plan]:
    return (*group.plans, *group.further)


# --- for people --------------------------------------------------------------------------------------------------


def _print(found: Capacity) -> None:
    from gpuscout.runner.cli.show.prices import prices_told
    from gpuscout.runner.cli.show.wording import (
        assumed,
        case_of,
        limit,
        measured_aside,
        not_shown,
        print_wrapped,
        workload,
    )

    question, demand = found.rankings[0].question, found.demand
    limits = ", ".join(map(limit, question.slos)) or "no limit on latencies"
    limits += " (unless --slo names others; --no-slo lifts it)" if question.default_slo else ""
    print_wrapped(f"{limits}; {_percent(demand.headroom)} of the capacity kept free{_extras(found)}")
    if (told := assumed(question)) is not None:
        print_wrapped(told)
    aside = measured_aside(question, (group.group for group in found.groups))
    found = replace(found, groups=tuple(group for group in found.groups if case_of(group.group) not in aside))
    for group in found.groups:
        asked = f"{number(group.rate)} requests/s ({number(group.rate * group.group.output_len)} output tokens/s)"
        print()
        print_wrapped(f"{group.group.model}, {workload(group.group)}: {asked}")
        if group.plans:
            rows = [_row(group, plan) for plan in _all(group)]
            print_rows(_TABLE, rows, Output(), drop=("ttft_ms", "requests_per_s_per_replica", "itl_ms"))
        else:
            print("  no configuration can carry it")
        for line in (*_why_out(group), *group.group.caveats):
            print_wrapped(line, indent=2)
    print()
    if aside:
        print_wrapped(not_shown(aside))
    for line in _totals(found):
        print_wrapped(line)
    sized = [plan.config.gpu for group in found.groups for plan in group.plans[:2]]
    for note in prices_told(found.prices, dict.fromkeys(sized)):
        print_wrapped(note)
    print_wrapped("TTFT and ITL are those of a replica at full load (--json also has them at the asked rate).")


def _extras(found: Capacity) -> str:
    demand = found.demand
    parts = [f"at least {count(demand.min_replicas, 'replica')}"] if demand.min_replicas > 1 else []
    parts += [f"{demand.spare} to spare"] if demand.spare else []
    parts += ["whole nodes are paid"] if demand.whole_nodes else []
    return "".join(f"; {part}" for part in parts)


def _why_out(group: GroupCapacity) -> Iterator[str]:
    """GPU types that cannot carry it, those with the same reason together."""
    from gpuscout.runner.cli.show.wording import cause, configuration

    reasons: dict[str, list[Out]] = {}
    for out in group.out:
        reasons.setdefault(cause(out.cause, out.slo), []).append(out)
    for reason, outs in sorted(reasons.items()):
        nearest = min(outs, key=lambda out: out.nearest.ratio or float("inf"))
        told = configuration(nearest.nearest, group.group.input_len, group.group.output_len)
        yield f"out: {', '.join(out.gpu for out in outs)}: {reason}; nearest {told}: {nearest.nearest.detail}"
    unpriced = [plan.config.gpu for plan in group.plans if plan.usd_per_hour is None]
    if unpriced:
        yield f"without a price: {', '.join(unpriced)}; --price '{unpriced[0]}'=USD prices it"


def _totals(found: Capacity) -> Iterator[str]:
    """What several workloads of one model cost together, each with replicas of its own."""
    by_model = sorted(found.groups, key=lambda group: group.group.model)
    for model, same in groupby(by_model, key=lambda group: group.group.model):
        groups = list(same)
        best = [group.plans[0] for group in groups if group.plans and group.plans[0].usd_per_hour]
        if len(groups) > 1 and len(best) == len(groups):
            usd = sum(plan.usd_per_hour.usd for plan in best if plan.usd_per_hour)
            months = sum(plan.usd_per_month or 0 for plan in best)
            gpus = sum(plan.gpus for plan in best)
            yield (
                f"{model}: the cheapest of {count(len(best), 'workload')}, each with replicas of its own: "
                f"{count(gpus, 'GPU')}, {number(usd)} USD/h, {months:,.0f} USD/month"
            )


def _percent(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _milliseconds(value: float) -> str:
    return f"{number(value)} ms"


_TABLE = (
    Column("configuration", "configuration"),
    a_figure("replicas", "replicas", whole_number),
    a_figure("gpus", "GPUs", whole_number),
    a_figure("nodes", "nodes", whole_number),
    a_figure("usd_per_hour", "USD/h"),
    a_figure("usd_per_month", "USD/month", lambda value: f"{value:,.0f}"),
    a_figure("usd_per_mtok", "USD/Mtok"),
    a_figure("headroom", "free", _percent),
    a_figure("requests_per_s_per_replica", "req/s each"),
    a_figure("ttft_ms", "TTFT", _milliseconds),
    a_figure("itl_ms", "ITL", _milliseconds),
)


# --- for machines ------------------------------------------------------------------------------------------------


_PLAN = (
    *("replicas", "gpus", "gpus_paid", "gpus_per_node", "replicas_per_node", "nodes", "usd_per_month", "usd_per_mtok"),
    *("headroom", "requests_per_s", "requests_per_s_per_replica"),
)
_LOADED = ("concurrency", "ttft_ms", "itl_ms", "e2e_s")


def _row(group: GroupCapacity, plan: Plan) -> dict[str, Any]:
    """Latencies are those of a replica at full load; with "at_rate" before them, at its share of the asked rate."""
    from gpuscout.runner.cli.show.wording import configuration

    config, hourly = plan.config, plan.usd_per_hour
    return {
        **picked(group.group, *CASE),
        "gpu": config.gpu,
        "configuration": configuration(config, group.group.input_len, group.group.output_len),
        "usd_per_hour": hourly and hourly.usd,
        "usd_per_hour_low": hourly and hourly.low,
        "usd_per_hour_high": hourly and hourly.high,
        "caveats": "; ".join(group.group.caveats) or None,
        **picked(plan, *_PLAN),
        **picked(config, *_LOADED),
        **{f"at_rate_{name}": plan.at_load and getattr(plan.at_load, name) for name in _LOADED},
    }


def _columns() -> list[Column]:
    """What every row has, for CSV and Markdown."""
    shown = {column.name: column for column in _TABLE}
    names = [*CASE, "gpu", "configuration"]
    names += ["usd_per_hour", "usd_per_hour_low", "usd_per_hour_high", *_PLAN, *_LOADED]
    names += [*(f"at_rate_{name}" for name in _LOADED), "caveats"]
    return [shown.get(name) or Column(name, name.replace("_", " ")) for name in names]


def _document(found: Capacity) -> dict[str, object]:
    from gpuscout.runner.cli.show.prices import prices_document
    from gpuscout.store.queries.capacity import HOURS_PER_MONTH

    question, demand = found.rankings[0].question, found.demand
    return {
        **picked(demand, "headroom", "min_replicas", "whole_nodes", spare_replicas="spare"),
        "hours_per_month": HOURS_PER_MONTH,
        "slos": [str(slo) for slo in question.slos],
        "assumed_tail": question.assume_tail,
        "prices": prices_document(found.prices),
        "groups": [
            {
                **picked(group.group, *CASE, "engine", "caveats"),
                "requests_per_s": group.rate,
                "output_tokens_per_s": group.rate * group.group.output_len,
                "best_per_gpu": _plans(group, group.plans),
                "further": _plans(group, group.further),
                "out": [
                    {
                        "gpu": out.gpu,
                        "cause": out.cause.value,
                        "slo": str(out.slo) if out.slo else None,
                        "configurations": out.count,
                        "nearest": asdict(out.nearest),
                    }
                    for out in group.out
                ],
            }
            for group in found.groups
        ],
    }


def _plans(group: GroupCapacity, plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """The rows with the settings of their configurations, less what the group says already."""
    from gpuscout.sweeps.settings import PARALLELISM

    settings = (*PARALLELISM, "precision", "kv_precision")
    more = ("server", "gpu_memory_utilization", "max_model_len", "engine", "task_id", "interpolated", "queued")
    said = (*CASE, "requests_per_s")
    return [
        {name: value for name, value in _row(group, plan).items() if name not in said}
        | {"gpus_per_replica": plan.config.num_gpus}
        | picked(plan.config, *settings, *more, "assumed_tail")
        for plan in plans
    ]
