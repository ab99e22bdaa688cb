"""Sized deployments as tables: the expected and the certain figures of each GPU type, side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from gpuscout.runner.cli.common import count, out
from gpuscout.runner.cli.show.certainty import MEASURE_FIRST, chances, measured_so_far, met, trust
from gpuscout.runner.cli.show.deployments.sized import answer_lines, by_reason, shown_groups, whole_dollars, with_range
from gpuscout.runner.cli.show.fitted import FittedColumn, fitted, short_gpu
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.prices import prices_by_gpu
from gpuscout.runner.cli.show.site import site, site_of
from gpuscout.runner.cli.show.wording import (
    DOUBTS,
    GLUE,
    alike,
    configuration,
    describe,
    doubt,
    figure,
    load,
    premises,
    print_aside,
    print_lines,
    said_of,
    share,
    workload,
    wrapped,
)
from gpuscout.store.queries.sizing.capacity import (
    MOST_TIMES_THE_BEST,
    GroupCapacity,
    Load,
    Plan,
    is_known,
    summed_range,
)
from gpuscout.store.queries.sizing.capacity_question import Capacity
from gpuscout.store.ranking.types import Group

_LEAST = 16
# Beyond this an unmeasured one looks too good to buy another without measuring it, as `Group.measure_first`.
_FAR_CHEAPER = 0.5
_MARKS = {
    **DOUBTS,
    "$": "price over 180 days old",
    "!": "deploy cannot write it",
    "~": "interpolated at a limit",
}


def print_capacity(found: Capacity) -> None:
    """Print every group as a table that fits the terminal, and what stands around it."""
    width = out().width
    groups, aside = shown_groups(found.rankings, found.groups)
    found = replace(found, groups=tuple(groups))
    blocks = []
    for group in groups:
        asked = f"{number(group.rate)} requests/s ({number(group.rate * group.group.output_len)} output tokens/s)"
        if group.users is not None:
            asked = f"{number(group.users)} users at once, each with a request in flight"
        table = _table(found, group, width) if group.plans else ["  no configuration can carry it"]
        notes = [*_notes(found, group), *_why_out(group), *group.group.caveats]
        blocks.append((f"{group.group.model}, {workload(group.group)}: {asked}", table, notes))
    print_lines(answer_lines(width, _premises(found), blocks, [*aside, *_remarks(found)]))


def print_capacity_aside(found: Capacity) -> None:
    """Print notes that rows of CSV and Markdown cannot hold."""
    print_aside([*_premises(found), *_remarks(found)])


def _premises(found: Capacity) -> list[str]:
    return premises(
        found.rankings[0].question, f"{share(found.demand.headroom)} of the capacity kept free{_extras(found)}"
    )


def _remarks(found: Capacity) -> list[str]:
    """Return totals, prices and how to read the rest."""
    notes = [*_totals(found)]
    sized = [plan.config.gpu for group in found.groups for plan in group.plans[:2]]
    notes += prices_by_gpu(found.prices, sized)
    notes.append(
        "safe: the same sized so that the limits and the rate hold with a probability of 90 %; a purchase lies between "
        "the two. TTFT and ITL are those of a replica at full load (--json also has them at the asked rate)."
    )
    return notes


def _table(found: Capacity, group: GroupCapacity, width: int) -> list[str]:
    plans = [*group.plans, *group.further]
    safes = [plan.safe for plan in plans]
    marks = [_marks(found, group.group, plan) for plan in plans]
    columns = [
        FittedColumn("configuration", [describe(plan.config, group.group) for plan in plans], least=_LEAST),
        FittedColumn("", marks),
        FittedColumn("GPUs", [f"{plan.gpus:,}" for plan in plans], right=True),
        FittedColumn("USD/month (80 % range)", [_money(plan) for plan in plans], right=True),
        FittedColumn("safe", [f"{safe.gpus:,}" if safe else "-" for safe in safes], right=True),
        FittedColumn("USD/month", [whole_dollars(safe.usd_per_month if safe else None) for safe in safes], right=True),
        FittedColumn("replicas", [f"{plan.replicas:,}" for plan in plans], right=True, drop=5),
        FittedColumn("nodes", [f"{plan.nodes:,}" for plan in plans], right=True, drop=3),
        FittedColumn("USD/Mtok", [figure(plan.usd_per_mtok) for plan in plans], right=True, drop=6),
        FittedColumn("req/s each", [number(plan.requests_per_s_per_replica) for plan in plans], right=True, drop=2),
        FittedColumn("free", [share(plan.headroom) for plan in plans], right=True, drop=1),
        FittedColumn("c", [load(plan.config) for plan in plans], right=True, drop=7),
        FittedColumn("TTFT", [_milliseconds(plan.config.ttft_ms) for plan in plans], right=True, drop=4),
        FittedColumn("ITL", [_milliseconds(plan.config.itl_ms) for plan in plans], right=True, drop=4),
    ]
    if found.rankings[0].question.slos:
        columns.append(FittedColumn("limits met", [met(plan.config) for plan in plans], right=True, drop=8))
    lines = fitted(columns, width, indent=2)
    shown = "".join(marks) + (
        "~" if any(plan.config.interpolated for plan in plans) and "c" in lines[0].split() else ""
    )
    text = "  ".join(f"{mark}{GLUE}{words.replace(' ', GLUE)}" for mark, words in _MARKS.items() if mark in shown)
    return lines + (wrapped(text, width, indent=2) if text else [])


def _marks(found: Capacity, group: Group, plan: Plan) -> str:
    marks = doubt(plan.config, group)
    marks += "$" if found.prices.is_old(plan.config.gpu) else ""
    return marks + ("!" if plan.config.cannot_start else "")


def _money(plan: Plan) -> str:
    """Return text such as "364,095 (298,000–452,000)", a month."""
    if plan.usd_per_month is None:
        return "-"
    money = whole_dollars(plan.usd_per_month)
    if plan.usd_per_month_range is None and plan.config.unchecked:
        return f"{money} (unchecked)"
    return with_range(money, plan.usd_per_month_range, plan.config.kind, whole_dollars)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{number(value)}{GLUE}ms"


def _notes(found: Capacity, group: GroupCapacity) -> Iterator[str]:
    """Yield notes on the certainty of the first plan, and other remarks."""
    if not group.plans:
        return
    first = group.plans[0]
    if not any(plan.config.backed for plan in group.plans):
        yield "no measurement backs any of these figures: measure before you buy"
    if first.config.chances:
        yield f"limits of the first: {chances(first.config)}"
    yield f"{first.config.kind_label}: {trust(first.config)}"
    if first.at_load is not None and first.at_load.request_rate is not None:
        yield _simulated(first, first.at_load)
    other = group.unproven
    if other is not None and other.usd_per_hour and first.usd_per_hour:
        less = 1 - other.usd_per_hour.usd / first.usd_per_hour.usd
        text = f"{describe(other.config, group.group)} would be {share(less)} cheaper if its estimate holds"
        first_of_all = f"{MEASURE_FIRST}: " if less > _FAR_CHEAPER else ""
        yield f"{first_of_all}{text}; {measured_so_far(other.config)}"
    needs = site_of(found.prices, first.config, gpus=first.gpus, nodes=first.nodes)
    if needs is not None:
        yield f"to run the first: {site(needs)}"
    cannot: dict[str, list[str]] = defaultdict(list)
    for plan in group.plans:
        if plan.config.cannot_start:
            cannot[plan.config.cannot_start].append(describe(plan.config, group.group))
    yield from (f"! {', '.join(configs)}: {why}" for why, configs in cannot.items())
    unsafe = [plan for plan in group.plans if plan.safe is None]
    if any(is_known(plan.config) for plan in unsafe):
        yield "-: it does not meet the limits with a probability of 90 % at any load"
    elif unsafe:
        yield "-: how likely it meets the limits is not known"
    if group.cut:
        gpus = ", ".join(short_gpu(plan.config.gpu) for plan in group.cut)
        yield (
            f"{count(len(group.cut), 'GPU type')} more than {MOST_TIMES_THE_BEST} times as expensive as the first "
            f"left out: {gpus}"
        )


def _simulated(plan: Plan, at_load: Load) -> str:
    """Return the rate up to which the first plan's replicas meet the limits, and their figures at their share."""
    texts = [f"TTFT {_milliseconds(at_load.ttft_ms)}", f"ITL {_milliseconds(at_load.itl_ms)}"]
    for name, value in at_load.percentiles.items():
        metric, _, percentile = name.partition(":")
        unit = "s" if metric == "e2e" else f"{GLUE}ms"
        texts.append(f"{metric.upper()} {percentile} {number(value)}{unit}")
    return (
        "queueing is simulated: a replica of the first holds the limits up to "
        f"{plan.config.request_rate:g} requests/s; its share of {number(plan.requests_per_s / plan.replicas)}/s, "
        f"simulated at {at_load.request_rate:g}/s: "
        f"{', '.join(texts)}"
    )


def _extras(found: Capacity) -> str:
    demand = found.demand
    parts = [f"at least {count(demand.min_replicas, 'replica')}"] if demand.min_replicas > 1 else []
    parts += [f"{demand.spare} to spare"] if demand.spare else []
    parts += ["whole nodes are paid"] if demand.whole_nodes else []
    return "".join(f"; {part}" for part in parts)


def _why_out(group: GroupCapacity) -> Iterator[str]:
    """Yield GPU types that cannot carry it, those with the same reason together."""
    for reason, outs in by_reason(group.out):
        nearest = min(outs, key=lambda one: one.nearest.ratio or float("inf"))
        told = configuration(nearest.nearest, group.group.input_len, group.group.output_len)
        out = f"{', '.join(one.gpu for one in outs)}: {said_of(len(outs), reason)}"
        yield f"out: {out}; nearest {told}: {nearest.nearest.detail}"
    unpriced = [plan.config.gpu for plan in group.plans if plan.usd_per_hour is None]
    if unpriced:
        yield f"without a price: {', '.join(unpriced)}; --price '{unpriced[0]}'=USD prices it"


def together(found: Capacity) -> Iterator[dict[str, Any]]:
    """Yield the joint cost of several workloads of a model, each with its own replicas, where all have a price."""
    shown, _ = shown_groups(found.rankings, found.groups)
    by_model = sorted(shown, key=lambda group: group.group.model)
    for model, same in groupby(by_model, key=lambda group: group.group.model):
        groups = list(same)
        best = [group.plans[0] for group in groups if group.plans and group.plans[0].usd_per_hour]
        if len(groups) < 2 or len(best) < len(groups):
            continue
        safe = [plan.safe for plan in best if plan.safe is not None]
        low, high = summed_range(plan.usd_per_month_range for plan in best) or (None, None)
        yield {
            "model": model,
            "workloads": len(best),
            **_sum(best),
            "usd_per_month_low": low,
            "usd_per_month_high": high,
            **{f"safe_{name}": value if len(safe) == len(best) else None for name, value in _sum(safe).items()},
        }


def _sum(plans: Sequence[Plan]) -> dict[str, float]:
    return {"gpus": sum(plan.gpus for plan in plans), "usd_per_month": sum(plan.usd_per_month or 0 for plan in plans)}


def _totals(found: Capacity) -> Iterator[str]:
    for sums in together(found):
        safe = ""
        if sums["safe_gpus"] is not None:
            safe = f"; safe {count(sums['safe_gpus'], 'GPU')}, {sums['safe_usd_per_month']:,.0f} USD/month"
        yield (
            f"{sums['model']}: the first of {count(sums['workloads'], 'workload')}, each with replicas of its own: "
            f"{count(sums['gpus'], 'GPU')}, {sums['usd_per_month']:,.0f} USD/month"
            f"{alike(sums['usd_per_month_low'], sums['usd_per_month_high'])}{safe}"
        )
