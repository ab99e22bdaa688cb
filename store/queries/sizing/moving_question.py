"""The cost of a moving load on each GPU type, from the store: ranks, reads prices, and sizes (`capacity --load`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import sqlalchemy as sa

from gpuscout.store.prices.books import prices_for
from gpuscout.store.prices.csv_file import prices_by_name
from gpuscout.store.prices.prices import Prices
from gpuscout.store.queries.sizing.capacity import HOURS_PER_MONTH, Demand, Out, out_of, surely
from gpuscout.store.queries.sizing.capacity_question import all_prices, both_rankings, node_sizes
from gpuscout.store.queries.sizing.moving import (
    Hourly,
    MovingPlan,
    OverTime,
    Scaling,
    hourly_of,
    moving_plans,
    over_time,
)
from gpuscout.store.queries.sizing.simulated_rates import of_one_load
from gpuscout.store.ranking.answer.aside import CaseKey, case_of
from gpuscout.store.ranking.question.asked import Trusted
from gpuscout.store.ranking.rank import Question, Ranking
from gpuscout.store.ranking.types import Group, RankedConfig
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.traffic.moving import MovingLoad, Series


@dataclass(frozen=True)
class MovingGroup:
    """The plans for a model under one workload whose load moves; `plans` as `moving_plans` has them.

    `course`: the replicas of the first plan over time, as its cheapest fleet has them; None: there is no plan.
    """

    group: Group
    series: Series
    plans: tuple[MovingPlan, ...]
    out: tuple[Out, ...]
    course: OverTime | None


@dataclass(frozen=True)
class CapacityOverTime:
    """The answer: a ranking for each series of the load, and their groups. `reserved`: the prices of reserved GPUs."""

    load: MovingLoad
    demand: Demand
    scaling: Scaling
    rankings: tuple[Ranking, ...]
    groups: tuple[MovingGroup, ...]
    reserved: Prices

    @property
    def prices(self) -> Prices:
        """Those on demand, of all GPUs of the rankings."""
        return all_prices(self.rankings)

    @property
    def times_a_month(self) -> float:
        """The load comes over and over again, as often as it fits into a month."""
        return HOURS_PER_MONTH * 3600 / self.load.seconds


def capacity_over_time(
    connection: sa.Connection,
    question: Question,
    load: MovingLoad,
    demand: Demand | None = None,
    scaling: Scaling | None = None,
    *,
    reserved_prices: Mapping[str, float] | None = None,
) -> CapacityOverTime:
    """Size every GPU type for a load that moves, for each model and workload. Computes no estimate.

    `reserved_prices`: USD per GPU hour by GPU, instead of those of the price books. Raises what `rank` raises, and
    InputError for a load that names models or workloads the question names too, or one of them twice.
    """
    demand, scaling = demand or Demand(), scaling or Scaling()
    check_names(question, load)
    nodes = node_sizes(connection)
    rules = replace(
        question.prices, purchase="reserved", overrides=prices_by_name((reserved_prices or {}).items(), nodes)
    )
    rankings: list[Ranking] = []
    groups: list[MovingGroup] = []
    reserved = prices_for(connection, nodes, rules)
    seen: dict[CaseKey, Series] = {}
    for series in load.series:
        ranking, safe = both_rankings(connection, about(question, series))
        rankings.append(ranking)
        for group in of_one_load(ranking.groups, arriving=True):
            if (other := seen.setdefault(case_of(group), series)) is not series:
                raise InputError(
                    f"{load.file}: {other.name} and {series.name} are both {group.model}, "
                    f"{group.workload or f'{group.input_len:,} in / {group.output_len:,} out'}",
                    hint="each model and workload has one load",
                )
            groups.append(
                _sized(
                    group,
                    safe.get(case_of(group)),
                    series,
                    demand,
                    scaling,
                    _Pricing(ranking.prices, reserved, nodes, demand.whole_nodes, {}),
                    backed_first=question.trust == Trusted.PREFER,
                )
            )
    return CapacityOverTime(load, demand, scaling, tuple(rankings), tuple(groups), reserved)


def about(question: Question, series: Series) -> Question:
    """Return the question about the model and the workload of a series."""
    models = (series.model,) if series.model else question.models
    return replace(question, models=models, workload=series.workload or question.workload)


def check_names(question: Question, load: MovingLoad) -> None:
    """Raise InputError where a load names what the question names, or only some of its rows name it."""
    models = {series.model is not None for series in load.series}
    workloads = {series.workload is not None for series in load.series}
    for column, given in (("model", models), ("workload", workloads)):
        if len(given) > 1:
            raise InputError(f"{load.file}: {column}: either all rows name one, or none does")
    if True in models and question.models:
        raise InputError(f"{load.file} names its models: leave out --model")
    if True in workloads and (question.workload or question.input_len or question.output_len):
        raise InputError(f"{load.file} names its workloads: leave out --workload, --input-len and --output-len")


@dataclass(frozen=True)
class _Pricing:
    """USD per hour of replicas of a configuration, on demand and reserved; remembered by GPU type and size."""

    on_demand: Prices
    reserved: Prices
    nodes: Mapping[str, int]
    whole_nodes: bool
    known: dict[tuple[str, int], tuple[Hourly | None, Hourly | None]]

    def __call__(self, config: RankedConfig) -> tuple[Hourly | None, Hourly | None]:
        key = config.gpu, config.num_gpus
        if key not in self.known:
            node = self.nodes[config.gpu]
            first, second = (
                hourly_of(prices.known.get(config.gpu), config.num_gpus, node, whole_nodes=self.whole_nodes)
                for prices in (self.on_demand, self.reserved)
            )
            self.known[key] = first, second
        return self.known[key]


def _sized(
    group: Group,
    safe: Group | None,
    series: Series,
    demand: Demand,
    scaling: Scaling,
    prices: _Pricing,
    *,
    backed_first: bool,
) -> MovingGroup:
    plans = moving_plans(
        group.configs, surely(safe), series, group.output_len, demand, scaling, prices, backed_first=backed_first
    )
    course = None
    if plans:
        first = plans[0]
        course = over_time(series, first.requests_per_s_per_replica, demand, scaling)
        kept = first.best.always_on
        course = replace(course, wanted=np.maximum(course.wanted, kept), ready=np.maximum(course.ready, kept))
    return MovingGroup(group, series, tuple(plans), out_of(group, plans), course)
