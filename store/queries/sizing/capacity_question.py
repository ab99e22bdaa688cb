"""Asks the store how much of each GPU type a load needs: ranks, reads nodes and curves, and sizes (`capacity`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from gpuscout.store.portions import portions
from gpuscout.store.prices.prices import Prices
from gpuscout.store.queries.sizing.capacity import Demand, GroupCapacity, Load, Plan, Users, capacity_of, load_at
from gpuscout.store.queries.sizing.simulated_rates import of_one_load
from gpuscout.store.ranking.answer.aside import CaseKey, case_of
from gpuscout.store.ranking.question.asked import Trusted
from gpuscout.store.ranking.question.confidence import CAUTIOUS
from gpuscout.store.ranking.rank import Question, Ranking, rank
from gpuscout.store.ranking.types import Group
from gpuscout.store.schema import gpus, operating_points
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.traffic.moving import HIGHEST_RATE

Curve = list[tuple[float, float, float | None, float | None, float | None]]
_MOST_TOKENS = 1_000  # a request, in the highest rate of tokens


@dataclass(frozen=True)
class Capacity:
    """The answer: a ranking for every workload that was named, or one of everything asked about, and its groups."""

    demand: Demand
    rankings: tuple[Ranking, ...]
    groups: tuple[GroupCapacity, ...]

    @property
    def prices(self) -> Prices:
        """Those of all GPUs of the rankings."""
        return all_prices(self.rankings)


@dataclass(frozen=True)
class Rate:
    """The load of a workload: requests per second or, with `tokens`, output tokens per second, or users.

    `workload` None: of each workload asked about.
    """

    value: float
    workload: str | None = None
    tokens: bool = False
    users: bool = False

    def load(self, output_len: int) -> float | Users:
        if self.users:
            return Users(self.value)
        return self.value / output_len if self.tokens else self.value


def capacity(
    connection: sa.Connection, question: Question, rates: list[Rate], demand: Demand, *, further: int = 0
) -> Capacity:
    """Size every GPU type for each model and workload; `further` configurations besides the cheapest of each type.

    The objective of the question is ignored: what costs least at the asked rate is best. Raises what `rank`
    raises, and InputError for rates that cannot be.
    """
    check_rates(rates, question)
    nodes = node_sizes(connection)
    rankings: list[Ranking] = []
    groups: list[GroupCapacity] = []
    for rate in rates:
        ranking, safe = both_rankings(connection, replace(question, workload=rate.workload or question.workload))
        rankings.append(ranking)
        for group in of_one_load(ranking.groups, arriving=not rate.users):
            sized = capacity_of(
                group,
                rate.load(group.output_len),
                demand,
                nodes,
                ranking.prices,
                safe=safe.get(case_of(group)),
                backed_first=question.trust == Trusted.PREFER,
            )
            groups.append(replace(sized, further=sized.further[:further]))
    return Capacity(demand, tuple(rankings), tuple(_with_load(connection, groups)))


def all_prices(rankings: Sequence[Ranking]) -> Prices:
    """Return the prices of all GPUs of rankings under one set of rules."""
    known = {gpu: price for ranking in rankings for gpu, price in ranking.prices.known.items()}
    missing = {gpu: reason for ranking in rankings for gpu, reason in ranking.prices.missing.items()}
    return replace(rankings[0].prices, known=known, missing=missing)


def both_rankings(connection: sa.Connection, question: Question) -> tuple[Ranking, dict[CaseKey, Group]]:
    """Return every configuration at the point that counts, and the groups in which it counts by what is sure.

    The point of highest throughput is that of lowest cost, and GPUs without a price are ranked as well.
    """
    asked = replace(question, objective="throughput", weights=(), also=(), top=None, examples=None)
    surely = rank(connection, replace(asked, confidence=max(CAUTIOUS, asked.confidence), briefly=True))
    return rank(connection, asked), {case_of(group): group for group in surely.groups}


def node_sizes(connection: sa.Connection) -> dict[str, int]:
    """Return GPUs per node of every stored GPU type, by its newest figures."""
    rows = connection.execute(sa.select(gpus.c.name, gpus.c.figures).order_by(gpus.c.created_at))
    return {row.name: int(json.loads(row.figures)["gpus_per_node"]) for row in rows}


def check_rate(rate: Rate) -> None:
    """Raise InputError where it is not above 0, or beyond what is sized."""
    what = "users" if rate.users else "output tokens per second" if rate.tokens else "requests per second"
    most = HIGHEST_RATE * (_MOST_TOKENS if rate.tokens else 1)
    if not 0 < rate.value <= most:
        raise InputError(f"invalid load {rate.value:g}: expected more than 0, at most {most:,.0f} {what}")


def check_rates(rates: list[Rate], question: Question) -> None:
    for rate in rates:
        check_rate(rate)
    if not rates:
        raise InputError(
            "nothing to size for: give --rate, --tokens-rate or --users",
            hint="for example --rate 50, per second",
        )
    check_workloads([rate.workload for rate in rates], question, ("rate", "rates"), "--rate chat=50 --rate rag=10")


def check_workloads(names: Sequence[str | None], question: Question, of: tuple[str, str], example: str) -> None:
    """Raise InputError unless each names a workload of its own and the question none, or one is for the question's.

    `of`: the word for one of them, and for several.
    """
    singular, plural = of
    if len(set(names)) < len(names):
        raise InputError(f"a workload has two {plural}", hint=f"{example} names each once")
    if None in names and len(names) > 1:
        raise InputError(f"either all {plural} name a workload, or none does", hint=example)
    if any(names) and (question.workload or question.input_len or question.output_len):
        raise InputError(
            f"a {singular} that names its workload leaves no choice to --workload, --input-len and --output-len"
        )


def _with_load(connection: sa.Connection, groups: list[GroupCapacity]) -> list[GroupCapacity]:
    """Return the same with the operating point of every plan at its share of the rate."""
    tasks = {p.config.task_id for group in groups for p in (*group.plans, *group.further) if p.config.task_id}
    curves = _curves(connection, sorted(tasks))

    def loaded(plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
        return tuple(p if p.at_load else replace(p, at_load=_load(curves, p)) for p in plans)

    return [replace(group, plans=loaded(group.plans), further=loaded(group.further)) for group in groups]


def _load(curves: Mapping[int, Curve], plan: Plan) -> Load | None:
    task = plan.config.task_id
    return None if task is None else load_at(curves.get(task, []), plan.requests_per_s / plan.replicas)


def _curves(connection: sa.Connection, tasks: list[int]) -> dict[int, Curve]:
    """Return (concurrency, requests/s, TTFT ms, ITL ms, E2E s) of the stored points of tasks, by concurrency."""
    point = operating_points.c
    columns = (point.concurrency, point.requests_per_s, point.ttft_ms, point.itl_ms, point.e2e_s)
    curves: dict[int, Curve] = {}
    for some in portions(tasks):
        statement = (
            sa.select(point.task_id, *columns)
            .where(point.task_id.in_(some), point.requests_per_s.is_not(None))
            .order_by(point.task_id, point.concurrency)
        )
        for task, *figures in connection.execute(statement):
            curves.setdefault(task, []).append(tuple(figures))
    return curves
