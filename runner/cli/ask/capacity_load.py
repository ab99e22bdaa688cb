"""`gpuscout capacity --load`: its options, and its output for machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from gpuscout.runner.cli.common import leave_if_nothing, open_store, print_json
from gpuscout.runner.cli.options import Many, parse_prices, under
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, a_share, print_rows, whole_number, yes_or_no
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.runner.cli.options import PriceOptions
    from gpuscout.store.queries.sizing.capacity import Demand
    from gpuscout.store.queries.sizing.moving import Fleet, MovingPlan, Scaling
    from gpuscout.store.queries.sizing.moving_question import CapacityOverTime, MovingGroup
    from gpuscout.store.ranking.question.asked import Question

_DURATION = re.compile(r"\s*(?P<value>\d{1,12}(?:\.\d{1,9})?)\s*(?P<unit>ms|s|min|m|h|d)\s*")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_MOST_ROWS = 1_000

_option = under("A load that moves")


@dataclass(frozen=True)
class MovingOptions:
    """A load that moves, and how replicas follow it."""

    load: Annotated[
        str | None,
        _option(
            "--load",
            metavar="FILE",
            help="CSV (time, rate, and model or workload) or a trace of requests; or '0:00=2,8:00=40,18:00=10'.",
        ),
    ] = None
    step: Annotated[str | None, _option("--step", help="Average the load over steps: 5min. Traces: 1min.")] = None
    startup: Annotated[str, _option("--startup", help="From the order of a replica to its first request.")] = "3min"
    scale_up: Annotated[str, _option("--scale-up", help="From a rise of the rate to the order of replicas.")] = "1min"
    scale_down: Annotated[str, _option("--scale-down", help="How long fewer must suffice before replicas end.")] = (
        "5min"
    )
    most_missed: Annotated[
        float, _option("--most-missed", help="Share of requests that may miss the limits while replicas start.")
    ] = 0.01
    reserved_price: Annotated[
        Many,
        _option("--reserved-price", metavar="GPU=USD", help="Reserved price, instead of the price books'; repeat."),
    ] = None
    over_time: Annotated[
        bool, _option("--over-time", help="Print the replicas over time of the cheapest (--csv, --md).")
    ] = False

    def check_unused(self, but: Iterable[str] = ()) -> None:
        """Raise InputError where an option about a load is given without one."""
        for one in fields(self):
            if one.name not in but and getattr(self, one.name) != one.default:
                raise InputError(f"--{one.name.replace('_', '-')} needs --load")

    def scaling(self) -> Scaling:
        from gpuscout.store.queries.sizing.moving import Scaling

        return Scaling(
            parse_duration("--startup", self.startup),
            parse_duration("--scale-up", self.scale_up),
            parse_duration("--scale-down", self.scale_down),
            self.most_missed,
        )


def parse_duration(flag: str, text: str) -> float:
    """Return text such as "5min" in seconds. Raises InputError."""
    form = _DURATION.fullmatch(text)
    if form is None:
        raise InputError(f'{flag}: invalid time "{text}"', hint="a number with ms, s, min, h or d, such as 5min")
    return float(form["value"]) * _SECONDS[form["unit"]]


def print_load(
    db: str, question: Question, moving: MovingOptions, demand: Demand, prices: PriceOptions, output: Output
) -> None:
    """Answer `capacity --load`."""
    from gpuscout.runner.cli.show.deployments.moving import print_moving, print_moving_aside
    from gpuscout.store.queries.sizing.moving_question import capacity_over_time
    from gpuscout.store.ranking.question.lookup import stored_gpus
    from gpuscout.sweeps.traffic.moving import read_load

    if moving.over_time and output.json:
        raise InputError("--over-time cannot be combined with --json", hint="--json always has the replicas over time")
    step = None if moving.step is None else parse_duration("--step", moving.step)
    scaling = moving.scaling()
    with open_store(db) as store, store.reading() as connection:
        load = read_load(str(moving.load), step)
        names = stored_gpus(connection).ids
        question = replace(question, prices=prices.rules(names))
        reserved = parse_prices(moving.reserved_price or (), names)
        found = capacity_over_time(connection, question, load, demand, scaling, reserved_prices=reserved)
    if moving.over_time:
        print_rows(_OVER_TIME, _course_rows(found), output)
    elif output.json:
        print_json(moving_document(found))
    elif output.for_people:
        print_moving(found)
    else:
        rows = [_row(found, group, plan, fleet) for group, plan, fleet in _all(found)]
        print_rows(_FOR_READERS if output.md else [Column(name, name) for name in _NAMES], rows, output)
        print_moving_aside(found)
    leave_if_nothing(any(group.plans for group in found.groups))


def _all(found: CapacityOverTime) -> Iterator[tuple[MovingGroup, MovingPlan, Fleet]]:
    for group in found.groups:
        for plan in group.plans:
            for fleet in plan.fleets:
                yield group, plan, fleet


_FLEET = (
    "policy",
    "always_on",
    "reserved",
    "replicas_least",
    "replicas_peak",
    "replicas_mean",
    "gpu_hours",
    "missed",
    "usd",
)
_NAMES = (
    *(*CASE, "gpu", "configuration", "kind", "backed", "limits_met", "requests_per_s_per_replica", *_FLEET),
    *("usd_per_month", "usd_per_month_low", "usd_per_month_high", "safe_replicas_peak", "safe_usd_per_month"),
)


_FOR_READERS = (
    Column("model", "model"),
    Column("workload", "workload"),
    Column("configuration", "configuration"),
    Column("policy", "paid"),
    a_figure("reserved", "reserved", whole_number),
    a_figure("replicas_least", "replicas at least", whole_number),
    a_figure("replicas_peak", "at most", whole_number),
    a_figure("replicas_mean", "mean"),
    a_figure("gpu_hours", "GPU hours"),
    a_figure("usd_per_month", "USD/month"),
    a_figure("usd_per_month_low", "low (80 %)"),
    a_figure("usd_per_month_high", "high (80 %)"),
    a_figure("safe_usd_per_month", "safe USD/month (90 %)"),
    a_figure("missed", "missed", a_share),
    Column("kind", "kind"),
    Column("backed", "measured near", yes_or_no),
)


def _row(found: CapacityOverTime, group: MovingGroup, plan: MovingPlan, fleet: Fleet) -> dict[str, Any]:
    from gpuscout.runner.cli.show.deployments.sized import plan_row

    return {**picked(group.group, *CASE), **plan_row(group.group, plan), **_paid(found, fleet)}


def _paid(found: CapacityOverTime, fleet: Fleet) -> dict[str, Any]:
    """Return the cost of a month: the load over and over again, for 730 hours."""
    low, high = fleet.usd_range or (None, None)

    def a_month(usd: float | None) -> float | None:
        return None if usd is None else usd * found.times_a_month

    return {
        **picked(fleet, *_FLEET),
        "usd_per_month": a_month(fleet.usd),
        "usd_per_month_low": a_month(low),
        "usd_per_month_high": a_month(high),
        "safe_replicas_peak": fleet.safe and fleet.safe.replicas_peak,
        "safe_usd_per_month": a_month(fleet.safe.usd) if fleet.safe else None,
    }


_OVER_TIME = [Column(name, name) for name in ("model", "workload", "start_s", "requests_per_s", "wanted", "ready")]


def _course_rows(found: CapacityOverTime) -> Iterator[dict[str, Any]]:
    for group in found.groups:
        course = group.course
        if course is None:
            continue
        columns = (course.starts_ms, course.rates, course.wanted, course.ready)
        for start, rate, wanted, ready in zip(*(column.tolist() for column in columns), strict=True):
            figures = {"start_s": start / 1000, "requests_per_s": rate, "wanted": wanted, "ready": ready}
            yield {**picked(group.group, "model", "workload"), **figures}


def moving_document(found: CapacityOverTime) -> dict[str, object]:
    """Return the document; of replicas over time at most a thousand rows: `--over-time --csv` has all."""
    from gpuscout.runner.cli.show.deployments.moving import together
    from gpuscout.runner.cli.show.deployments.sized import question_document
    from gpuscout.runner.cli.show.prices import prices_document
    from gpuscout.store.queries.sizing.capacity import HOURS_PER_MONTH

    return {
        "load": {**picked(found.load, "file", "seconds", "begins", "notes")},
        **picked(found.demand, "headroom", "min_replicas", "whole_nodes", spare_replicas="spare"),
        **picked(found.scaling, "startup_s", "scale_up_s", "scale_down_s", "most_missed"),
        "hours_per_month": HOURS_PER_MONTH,
        **question_document(found.rankings[0].question),
        "prices": prices_document(found.prices),
        "reserved_prices": prices_document(found.reserved),
        "groups": [_group(found, group) for group in found.groups],
        "together": together(found),
    }


def _group(found: CapacityOverTime, group: MovingGroup) -> dict[str, object]:
    from gpuscout.runner.cli.show.deployments.sized import outs_document, plan_row

    course, series = group.course, group.series
    rows: Iterable[Mapping[str, Any]] = ()
    if course is not None:
        only = replace(found, groups=(group,))
        rows = ({key: row[key] for key in _COURSE} for row in _course_rows(only))
    listed = [row for row, _ in zip(rows, range(_MOST_ROWS), strict=False)]
    return {
        **picked(group.group, *CASE, "engine", "caveats"),
        "requests": series.requests,
        "requests_per_s_peak": series.peak,
        "requests_per_s_mean": series.requests / found.load.seconds,
        "mean_lengths": series.mean_lengths,
        "plans": [
            {**plan_row(group.group, plan), "fleets": [_paid(found, fleet) for fleet in plan.fleets]}
            for plan in group.plans
        ],
        "out": outs_document(group.out),
        "over_time": listed,
        "over_time_rows": 0 if course is None else len(course.starts_ms),
    }


_COURSE = ("start_s", "requests_per_s", "wanted", "ready")
