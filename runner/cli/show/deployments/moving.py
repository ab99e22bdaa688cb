"""The cost of a load that moves as a table: every way to pay for the cheapest, and the best of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuscout.runner.cli.common import count, out
from gpuscout.runner.cli.show.certainty import chances, trust
from gpuscout.runner.cli.show.deployments.sized import answer_lines, gpus_out, shown_groups, whole_dollars, with_range
from gpuscout.runner.cli.show.fitted import FittedColumn, fitted, short_gpu
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.prices import prices_by_gpu
from gpuscout.runner.cli.show.wording import (
    alike,
    caveats_of,
    describe,
    doubt,
    doubts,
    premises,
    print_aside,
    print_lines,
    share,
    workload,
)
from gpuscout.store.queries.sizing.capacity import HOURS_PER_MONTH, summed_range
from gpuscout.store.queries.sizing.moving import Fleet, OverTime
from gpuscout.store.queries.sizing.moving_question import CapacityOverTime, MovingGroup
from gpuscout.store.ranking.question.asked import Kind

_LEAST = 16
_MOST_GPUS = 6
_BARS = "▁▂▃▄▅▆▇█"
_OTHER_LENGTHS = 1.25


def print_moving(found: CapacityOverTime) -> None:
    """Print every group as a table that fits the terminal, and what stands around it."""
    width = out().width
    groups, aside = shown_groups(found.rankings, found.groups)
    blocks = []
    for group in groups:
        series = group.series
        heading = (
            f"{group.group.model}, {workload(group.group)}: {number(float(series.rates.min()))} to "
            f"{number(series.peak)} requests/s, {number(series.requests / found.load.seconds)} on average over "
            f"{number(found.load.seconds / 3600)} h ({number(series.requests)} requests)"
        )
        table = _table(found, group, width) if group.plans else ["  no configuration can carry it"]
        blocks.append((heading, table, _notes(found, group)))
    print_lines(answer_lines(width, _premises(found), blocks, [*aside, *_remarks(found, groups)]))


def print_moving_aside(found: CapacityOverTime) -> None:
    """Print notes that rows of CSV and Markdown cannot hold."""
    caveats = caveats_of(group.group for group in found.groups)
    print_aside([*_premises(found), *caveats, *_remarks(found, found.groups)])


def _premises(found: CapacityOverTime) -> list[str]:
    demand = found.demand
    more = [f"{share(demand.headroom)} of the capacity kept free"]
    more += [f"{demand.spare} to spare"] if demand.spare else []
    more += ["whole nodes are paid"] if demand.whole_nodes else []
    first, *others = premises(found.rankings[0].question, *more)
    return [f"{found.load.file}: {first}", *others]


def _remarks(found: CapacityOverTime, groups: Sequence[MovingGroup]) -> list[str]:
    """Return totals, what was assumed, prices, and how replicas follow the load."""
    scaling = found.scaling
    notes = [*_totals(found), *found.load.notes]
    gpus = list(dict.fromkeys(plan.config.gpu for group in groups for plan in group.plans[:2]))
    notes += prices_by_gpu(found.prices, gpus)
    unreserved = [gpu for gpu in gpus if gpu not in found.reserved.known]
    if unreserved:
        named = ", ".join(map(short_gpu, unreserved))
        notes.append(
            f"no reserved price of {named}: --reserved-price '{short_gpu(unreserved[0])}'=USD, or a price book"
        )
    notes.append(
        f"autoscaled: replicas are ordered {spell_time(scaling.scale_up_s)} after a rise, ready "
        f"{spell_time(scaling.startup_s)} later and end when fewer do for {spell_time(scaling.scale_down_s)}; so many "
        f"are always on that at most "
        f"{share(scaling.most_missed)} of the requests come while too few are ready (missed). A month is this load "
        f"over and over for {HOURS_PER_MONTH} h. safe: sized to hold with a probability of 90 %."
    )
    return notes


def _table(found: CapacityOverTime, group: MovingGroup, width: int) -> list[str]:
    first, *others = group.plans
    shown = [(first, fleet) for fleet in first.fleets] + [(plan, plan.best) for plan in others[:_MOST_GPUS]]
    columns = [
        FittedColumn("configuration", [describe(plan.config, group.group) for plan, _ in shown], least=_LEAST),
        FittedColumn("", [doubt(plan.config, group.group) for plan, _ in shown]),
        FittedColumn("paid", [_paid(fleet) for _, fleet in shown]),
        FittedColumn("replicas", [_replicas(fleet) for _, fleet in shown], right=True),
        FittedColumn("mean", [number(fleet.replicas_mean) for _, fleet in shown], right=True, drop=2),
        FittedColumn("GPU hours", [number(fleet.gpu_hours) for _, fleet in shown], right=True, drop=1),
        FittedColumn(
            "USD/month (80 % range)", [_money(found, plan.config.kind, fleet) for plan, fleet in shown], right=True
        ),
        FittedColumn("safe", [_monthly(found, fleet.safe) for _, fleet in shown], right=True, drop=4),
        FittedColumn(
            "missed", [share(fleet.missed) if fleet.missed else "0" for _, fleet in shown], right=True, drop=3
        ),
    ]
    return fitted(columns, width, indent=2)


def _paid(fleet: Fleet) -> str:
    """Return text such as "4 reserved + on demand" """
    return {
        "fixed": "all the time",
        "reserved": "all reserved",
        "autoscaled": "autoscaled",
        "mixed": f"{fleet.reserved:,} reserved + autoscaled",
    }[fleet.policy]


def _replicas(fleet: Fleet) -> str:
    return (
        f"{fleet.replicas_peak:,}"
        if fleet.replicas_least == fleet.replicas_peak
        else f"{fleet.replicas_least:,}–{fleet.replicas_peak:,}"
    )


def _money(found: CapacityOverTime, kind: Kind, fleet: Fleet) -> str:
    if fleet.usd is None:
        return "-"
    return with_range(_monthly(found, fleet), fleet.usd_range, kind, lambda usd: f"{usd * found.times_a_month:,.0f}")


def _monthly(found: CapacityOverTime, fleet: Fleet | None) -> str:
    return whole_dollars(None if fleet is None or fleet.usd is None else fleet.usd * found.times_a_month)


def _notes(found: CapacityOverTime, group: MovingGroup) -> Iterator[str]:
    if group.plans:
        first = group.plans[0]
        if group.course is not None and len(group.course.starts_ms) > 1:
            yield f"ready over time: {bars(group.course)}"
        if first.config.chances:
            yield f"limits of the first: {chances(first.config)}"
        yield f"{first.config.kind_label}: {trust(first.config)}"
        yield from doubts(doubt(plan.config, group.group) for plan in group.plans)
        left_out = [short_gpu(plan.config.gpu) for plan in group.plans[_MOST_GPUS + 1 :]]
        if left_out:
            yield f"{count(len(left_out), 'more expensive GPU type')} not shown: {', '.join(left_out)} (--csv has all)"
        if any(fleet.safe is None for fleet in first.fleets):
            yield "-: it does not meet the limits with a probability of 90 % at any load"
    lengths, case = group.series.mean_lengths, (group.group.input_len, group.group.output_len)
    if lengths is not None and any(
        max(one, other) > _OTHER_LENGTHS * min(one, other) for one, other in zip(lengths, case, strict=True)
    ):
        yield (
            f"the requests of {found.load.file} have {lengths[0]:,.0f} tokens in and {lengths[1]:,.0f} out on average, "
            "the workload has others: gpuscout workloads from-trace writes one that fits"
        )
    yield from group.group.caveats
    yield from gpus_out(group.out)


def bars(course: OverTime, width: int = 48) -> str:
    """Return the number of ready replicas over time, from its lowest to its highest, as a line of bars."""
    edges = np.linspace(course.starts_ms[0], course.ends_ms, width + 1)[:-1]
    places = np.maximum(np.searchsorted(course.starts_ms, edges, side="right") - 1, 0)
    ready = course.ready[places]
    least, most = int(ready.min()), int(ready.max())
    heights = (ready - least) * (len(_BARS) - 1) // max(most - least, 1)
    return f"{''.join(_BARS[int(height)] for height in heights)} {least:,} to {most:,}"


def spell_time(seconds: float) -> str:
    """Return text such as "45 s", "7.5 min", "12.3 h" """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def together(found: CapacityOverTime) -> dict[str, Any] | None:
    """Sum what the cheapest of all groups cost a month, each with replicas of its own, and the load's GPU hours.

    None: there is one group, or one without a price.
    """
    groups, _ = shown_groups(found.rankings, found.groups)
    best = [group.plans[0].best for group in groups if group.plans]
    if len(groups) < 2 or len(best) < len(groups) or any(fleet.usd is None for fleet in best):
        return None
    monthly = found.times_a_month
    low, high = summed_range(fleet.usd_range for fleet in best) or (None, None)
    return {
        "groups": len(best),
        "gpu_hours": sum(fleet.gpu_hours for fleet in best),
        "usd_per_month": sum(fleet.usd or 0.0 for fleet in best) * monthly,
        "usd_per_month_low": None if low is None else low * monthly,
        "usd_per_month_high": None if high is None else high * monthly,
    }


def _totals(found: CapacityOverTime) -> Iterator[str]:
    if (sums := together(found)) is not None:
        span = alike(sums["usd_per_month_low"], sums["usd_per_month_high"])
        yield (
            f"the first of all {sums['groups']} together: {number(sums['gpu_hours'])} GPU hours, "
            f"{sums['usd_per_month']:,.0f} USD/month{span}"
        )
