"""The cheapest way to finish so much work in time: requests or output tokens within some hours. Pure arithmetic.

*Rate.* A replica works at its point of highest throughput within the limits, if there are any; nothing is kept free.
*Time.* All replicas start at once, are paid from their order, work after `startup_s`, and end with the work.
*Spot.* A machine is interrupted `interruptions_per_h` times an hour on average, at any moment alike (a Poisson
process), a replica with each of its machines. Another is there at once and has to start; the work of the last
`lost_work_s` is done again. Of all paid time the share exp(-(startup + lost work) x rate) is work that lasts: a
stretch between two interruptions is exponentially long, and that is the mean of what exceeds those two, over the mean
of its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa

from gpuscout.store.prices.books import prices_for
from gpuscout.store.prices.csv_file import prices_by_name
from gpuscout.store.prices.prices import Prices
from gpuscout.store.queries.sizing.capacity import Out, expected_rates, first_of_each_gpu, out_of, rate_of, surely
from gpuscout.store.queries.sizing.capacity_question import all_prices, both_rankings, check_workloads, node_sizes
from gpuscout.store.queries.sizing.moving import Hourly, hourly_of
from gpuscout.store.queries.sizing.simulated_rates import highest_rates, of_one_load
from gpuscout.store.ranking.answer.aside import case_of
from gpuscout.store.ranking.question.asked import Trusted
from gpuscout.store.ranking.rank import Question, Ranking
from gpuscout.store.ranking.types import Group, RankedConfig
from gpuscout.sweeps.errors import InputError

_EXACT = 1e-9  # floating point must not ask for one more replica
_MOST_REPLICAS = 10**7


@dataclass(frozen=True)
class Batch:
    """Work to finish. Raises InputError for invalid values.

    amount               requests or, with `tokens`, output tokens; of `workload`, None: of each workload asked about
    within_s             seconds until it is done, start-up of `startup_s` seconds included
    interruptions_per_h  of a spot machine, each of which undoes `lost_work_s` seconds; None: no spot machines
    """

    amount: float
    within_s: float
    tokens: bool = False
    workload: str | None = None
    startup_s: float = 180.0
    interruptions_per_h: float | None = None
    lost_work_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0 < self.amount < math.inf:
            raise InputError(f"invalid batch of {self.amount:g}: expected a number above 0")
        if not 0 <= self.startup_s < self.within_s < math.inf:
            raise InputError(
                f"a batch cannot be done within {self.within_s:g} s: machines take {self.startup_s:g} s to start",
                hint="--within sets the time, --startup how long a replica takes to start",
            )
        if self.interruptions_per_h is not None and not 0 <= self.interruptions_per_h <= 1000:
            raise InputError(f"invalid rate of {self.interruptions_per_h:g} interruptions an hour: expected 0 to 1000")
        if not 0 <= self.lost_work_s < math.inf:
            raise InputError(f"invalid lost work of {self.lost_work_s:g} s: expected seconds from 0")

    def requests(self, output_len: int) -> float:
        return self.amount / output_len if self.tokens else self.amount

    def lasting(self, machines: int) -> float:
        """Return the share of a spot replica's paid time that is work that lasts."""
        rate = (self.interruptions_per_h or 0.0) * machines / 3600
        return math.exp(-rate * (self.startup_s + self.lost_work_s))


@dataclass(frozen=True)
class BatchOffer:
    """One way to finish: replicas on demand or spot. `seconds`: when it is expected to be done.

    `usd` None: there is no price. `usd_range`: at the ends of the 80 % interval of a replica's rate, with as many
    replicas as are needed there. `safe`: sized to be done with a probability of 90 %, interruptions at their mean.
    """

    purchase: str
    replicas: int
    gpus: int
    seconds: float
    gpu_hours: float
    usd: float | None
    usd_range: tuple[float, float] | None = None
    safe: BatchOffer | None = None


@dataclass(frozen=True)
class BatchPlan:
    """A configuration, and the ways to pay for it, the cheapest first."""

    config: RankedConfig
    requests_per_s_per_replica: float
    offers: tuple[BatchOffer, ...]

    @property
    def best(self) -> BatchOffer:
        return self.offers[0]


@dataclass(frozen=True)
class BatchGroup:
    """Plans for a model's batch; `plans` are the cheapest of every GPU type, those backed by measurements first."""

    group: Group
    requests: float
    plans: tuple[BatchPlan, ...]
    out: tuple[Out, ...]


@dataclass(frozen=True)
class BatchCapacity:
    """The answer. `spot`: the prices of spot GPUs; None where none were asked about."""

    batches: tuple[Batch, ...]
    rankings: tuple[Ranking, ...]
    groups: tuple[BatchGroup, ...]
    spot: Prices | None

    @property
    def prices(self) -> Prices:
        """Those on demand, of all GPUs of the rankings."""
        return all_prices(self.rankings)


def offer_of(
    batch: Batch, requests: float, each: float, config: RankedConfig, node: int, price: Hourly | None, purchase: str
) -> BatchOffer | None:
    """Return the offer that is in time at `each` requests/s a replica; None: no number of replicas is."""
    lasting = batch.lasting(-(-config.num_gpus // node)) if purchase == "spot" else 1.0
    each *= lasting
    if not each * (batch.within_s - batch.startup_s) * _MOST_REPLICAS >= requests:
        return None
    replicas = max(1, math.ceil(requests / (each * (batch.within_s - batch.startup_s)) * (1 - _EXACT)))
    seconds = batch.startup_s + requests / (each * replicas)
    gpus = replicas * config.num_gpus
    usd = None if price is None else price(replicas) * seconds / 3600
    return BatchOffer(purchase, replicas, gpus, seconds, gpus * seconds / 3600, usd)


def batch_capacity(
    connection: sa.Connection,
    question: Question,
    batches: Iterable[Batch],
    *,
    whole_nodes: bool = False,
    spot_prices: Mapping[str, float] | None = None,
) -> BatchCapacity:
    """Find the cheapest way to finish each batch, for each GPU type. Computes no estimate.

    `spot_prices`: USD per GPU hour by GPU, instead of those of the price books. Raises what `rank` raises, and
    InputError for batches that name a workload twice or one that the question names.
    """
    batches = tuple(batches)
    _check(batches, question)
    nodes = node_sizes(connection)
    with_spot = any(batch.interruptions_per_h is not None for batch in batches)
    rules = replace(question.prices, purchase="spot", overrides=prices_by_name((spot_prices or {}).items(), nodes))
    spot = prices_for(connection, nodes, rules) if with_spot else None
    rankings, groups = [], []
    for batch in batches:
        ranking, safe = both_rankings(connection, replace(question, workload=batch.workload or question.workload))
        rankings.append(ranking)
        for group in of_one_load(ranking.groups, arriving=False):
            known = {"on-demand": ranking.prices} | ({} if spot is None else {"spot": spot})
            groups.append(_planned(group, safe.get(case_of(group)), batch, known, nodes, question, whole_nodes))
    return BatchCapacity(batches, tuple(rankings), tuple(groups), spot)


def _check(batches: tuple[Batch, ...], question: Question) -> None:
    if not batches:
        raise InputError("no batch to finish", hint="for example --batch 5M --within 8h")
    names = [batch.workload for batch in batches]
    check_workloads(names, question, ("batch", "batches"), "--batch chat=5M --batch rag=1M")


def _planned(
    group: Group,
    safe: Group | None,
    batch: Batch,
    prices: Mapping[str, Prices],
    nodes: Mapping[str, int],
    question: Question,
    whole_nodes: bool,
) -> BatchGroup:
    requests = batch.requests(group.output_len)
    same_surely = surely(safe)
    plans = []
    for config, _ in highest_rates(group.configs):
        each = rate_of(config, group.output_len)
        if not each:
            continue
        node = nodes[config.gpu]
        same = same_surely(config)
        sure = None if same is None else rate_of(same, group.output_len)
        offers = []
        for purchase, priced in prices.items():
            price = hourly_of(priced.known.get(config.gpu), config.num_gpus, node, whole_nodes=whole_nodes)
            if price is None and purchase == "spot":
                continue
            offer = offer_of(batch, requests, each, config, node, price, purchase)
            if offer is None:
                continue
            ends = [
                offer_of(batch, requests, rate, config, node, price, purchase)
                for rate in expected_rates(config, group.output_len)
            ]
            usd = sorted(end.usd for end in ends if end is not None and end.usd is not None)
            safely = None if not sure else offer_of(batch, requests, sure, config, node, price, purchase)
            offers.append(replace(offer, usd_range=(usd[0], usd[-1]) if usd else None, safe=safely))
        if not offers:
            continue
        offers.sort(key=lambda one: (one.usd is None, one.usd or 0.0, one.gpu_hours))
        plans.append(BatchPlan(config, each, tuple(offers)))

    def order(plan: BatchPlan) -> tuple[bool, bool, float, float]:
        unbacked = question.trust == Trusted.PREFER and not plan.config.backed
        return plan.best.usd is None, unbacked, plan.best.usd or 0.0, plan.best.gpu_hours

    best = first_of_each_gpu(sorted(plans, key=order))
    return BatchGroup(group, requests, tuple(best), out_of(group, best))
