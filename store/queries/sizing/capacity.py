"""Sizes deployments for a load: replicas, GPUs, nodes and money for so many requests a second. Pure arithmetic.

*One replica* sustains the requests per second of its operating point: the highest within all SLOs. It is never asked
for more; a share of it, the headroom, is kept free. Where rates were simulated it is the highest of those within all
SLOs, and what a replica sees at its share of the load is a simulated point too (`simulated_rates`).
*Nodes.* A replica that fits a node shares it with others where there is room and is never cut in two; one that does not
fit has whole nodes of its own. How many GPUs a node has is a figure of the GPU.
*Money.* All GPUs that run are paid, busy or not, so the cost per million output tokens at the asked rate is above that
of a saturated replica. A month has 730 hours.
*Certainty.* A plan is sized for what is expected; beside it stands the same configuration sized so that the limits and
the rate hold with a probability of 90 % (`Plan.safe`): a purchase lies between the two. What measurements back comes
first, unless all is ranked alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from gpuscout.store.prices.prices import GpuPrice, HourlyPrice, Prices, packed
from gpuscout.store.queries.sizing.simulated_rates import enough_for, highest_rates, settings_of
from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.types import Cause, Group, Loser, RankedConfig
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import Slo

HOURS_PER_MONTH = 730
MOST_TIMES_THE_BEST = 5
"""What costs more than this many times the best is left out."""
# Floating point must not ask for one more replica where so many do exactly.
_EXACT = 1e-9


@dataclass(frozen=True)
class Demand:
    """The rules of sizing for a load. Raises InputError for invalid values.

    headroom      the share of the replicas' capacity that is kept free, 0 to less than 1
    min_replicas  never fewer than these          spare   replicas beyond those that the load needs
    whole_nodes   whether all GPUs of every node are paid
    """

    headroom: float = 0.2
    min_replicas: int = 1
    spare: int = 0
    whole_nodes: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.headroom < 1:
            raise InputError(
                f"invalid headroom {self.headroom:g}: expected a share of the capacity from 0 to below 1",
                hint="0.2 keeps a fifth of it free",
            )
        if self.min_replicas < 1 or self.spare < 0:
            raise InputError("min_replicas must be at least 1 and spare at least 0")


@dataclass(frozen=True)
class Users:
    """So many requests in flight at any moment, one a user: who has an answer asks again at once."""

    number: float

    def requests_per_s(self, config: RankedConfig, rate_per_replica: float) -> float | None:
        """Return the rate that they make on replicas of this configuration at its operating point; None: not known."""
        return None if not config.concurrency else self.number * rate_per_replica / config.concurrency


@dataclass(frozen=True)
class Load:
    """The operating point of one replica at its share of the asked rate. Latencies None: not known.

    `request_rate`: the simulated rate (requests/s) whose figures these are, the lowest that is enough; None: they lie
    between points of a closed loop. `percentiles` as in `RankedConfig`.
    """

    concurrency: float
    ttft_ms: float | None
    itl_ms: float | None
    e2e_s: float | None
    request_rate: float | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A configuration, as often as the load needs it.

    `config` is one replica at full load. `requests_per_s` is the asked rate. `headroom`: the share of the capacity
    that it leaves free. `gpus_paid`: GPUs charged. `usd_per_hour` None: there is no price. `usd_per_hour_range`: where
    it is expected with a probability of 80 % at the same operating point; None: not known. `at_load`: one replica when
    the rate is spread evenly; None: its curve is not stored. `safe`: the same configuration sized to hold with a
    probability of 90 %; None: it does not meet the limits so surely, at whatever load, or nobody knows how surely.
    """

    config: RankedConfig
    requests_per_s: float
    requests_per_s_per_replica: float
    replicas: int
    gpus: int
    gpus_per_node: int
    nodes: int
    gpus_paid: int
    headroom: float
    usd_per_hour: HourlyPrice | None
    usd_per_mtok: float | None
    usd_per_hour_range: tuple[float, float] | None = None
    at_load: Load | None = None
    safe: Plan | None = None

    @property
    def usd_per_month(self) -> float | None:
        return None if self.usd_per_hour is None else self.usd_per_hour.usd * HOURS_PER_MONTH

    @property
    def usd_per_month_range(self) -> tuple[float, float] | None:
        """80 % interval of the cost per month; None: not known."""
        if self.usd_per_hour_range is None:
            return None
        low, high = self.usd_per_hour_range
        return low * HOURS_PER_MONTH, high * HOURS_PER_MONTH

    @property
    def replicas_per_node(self) -> int:
        """0: a replica spans nodes."""
        return self.gpus_per_node // self.config.num_gpus


@dataclass(frozen=True)
class Out:
    """A GPU type that cannot carry the load: the loser that comes nearest, of `count`, and why it is out."""

    gpu: str
    cause: Cause
    slo: Slo | None
    nearest: Loser
    count: int


@dataclass(frozen=True)
class GroupCapacity:
    """Ways to serve a model under one workload at `rate` requests per second, or for so many `users`.

    With users, each plan has a rate of its own, and `rate` is that of the first.
    `plans` are the cheapest of every GPU type, then further ones, each part by cost, what measurements back first;
    those without a price come last. `cut`: the cheapest of GPU types that cost more than `MOST_TIMES_THE_BEST` the
    first plan.
    """

    group: Group
    rate: float
    plans: tuple[Plan, ...]
    further: tuple[Plan, ...]
    out: tuple[Out, ...]
    cut: tuple[Plan, ...] = ()
    users: float | None = None

    @property
    def unproven(self) -> Plan | None:
        """Plan that would be cheaper than the first if its estimate held, which no measured runs back."""
        first = self.plans[0] if self.plans else None
        if first is None or not first.config.backed or first.usd_per_hour is None:
            return None
        others = [plan for plan in self.plans if not plan.config.backed and plan.usd_per_hour is not None]
        best = min(others, key=_cheapest_first, default=None)
        return best if best and best.usd_per_hour and best.usd_per_hour.usd < first.usd_per_hour.usd else None


def replicas_for(rate: float, rate_per_replica: float, demand: Demand) -> int:
    """Return the number of replicas that carry the rate with the headroom, and those to spare."""
    needed = max(1, math.ceil(rate / (rate_per_replica * (1 - demand.headroom)) * (1 - _EXACT)))
    return max(needed + demand.spare, demand.min_replicas)


def plan(
    config: RankedConfig,
    load: float | Users,
    output_len: int,
    demand: Demand,
    gpus_per_node: int,
    price: GpuPrice | None,
) -> Plan | None:
    """Return a configuration's deployments for requests per second or users; None: its rate is not known."""
    rate_per_replica = rate_of(config, output_len)
    if not rate_per_replica:
        return None
    rate = load.requests_per_s(config, rate_per_replica) if isinstance(load, Users) else load
    if rate is None:
        return None
    replicas = replicas_for(rate, rate_per_replica, demand)
    nodes = packed(config.num_gpus, replicas, gpus_per_node)

    def hourly_of(replicas: int) -> HourlyPrice | None:
        if price is None:
            return None
        if not demand.whole_nodes:
            return price.per_hour(config.num_gpus, replicas)
        return price.per_hour(gpus_per_node, packed(config.num_gpus, replicas, gpus_per_node))

    hourly = hourly_of(replicas)
    ends = [hourly_of(replicas_for(rate, end, demand)) for end in expected_rates(config, output_len)]
    usd = sorted(end.usd for end in ends if end is not None)
    return Plan(
        config=config,
        requests_per_s=rate,
        requests_per_s_per_replica=rate_per_replica,
        replicas=replicas,
        gpus=replicas * config.num_gpus,
        gpus_per_node=gpus_per_node,
        nodes=nodes,
        gpus_paid=nodes * gpus_per_node if demand.whole_nodes else replicas * config.num_gpus,
        headroom=1 - rate / (replicas * rate_per_replica),
        usd_per_hour=hourly,
        usd_per_mtok=None if hourly is None else hourly.usd / (rate * output_len * 3600 / 1e6),
        usd_per_hour_range=(usd[0], usd[-1]) if usd else None,
    )


def expected_rates(config: RankedConfig, output_len: int) -> tuple[float, ...]:
    """Return the ends of the interval of a replica's request rate; none: not known."""
    if (rates := config.intervals.get("requests_per_s")) is not None:
        return tuple(rate for rate in rates if rate > 0)
    tokens = config.intervals.get("output_tokens_per_s", ())
    return tuple(rate / output_len for rate in tokens if rate > 0)


def rate_of(config: RankedConfig, output_len: int) -> float | None:
    """Return the requests per second of a replica at its point, as ranked; None: not known."""
    if config.request_rate is not None:
        return config.request_rate
    rate = config.counted("requests_per_s")
    tokens = config.counted("output_tokens_per_s")
    return rate if rate is not None else None if tokens is None else tokens / output_len


def capacity_of(
    group: Group,
    load: float | Users,
    demand: Demand,
    nodes: Mapping[str, int],
    prices: Prices,
    *,
    safe: Group | None = None,
    backed_first: bool = True,
) -> GroupCapacity:
    """Size every ranked configuration of a group. `nodes`: GPUs per node by GPU type.

    `safe` ranks the same configurations with a confidence of 90 %.
    """

    def sized(config: RankedConfig) -> Plan | None:
        return plan(config, load, group.output_len, demand, nodes[config.gpu], prices.known.get(config.gpu))

    same_surely = surely(safe or group)
    plans = []
    for config, rates in highest_rates(group.configs):
        if (found := sized(config)) is not None:
            same = same_surely(config)
            at_load = _simulated(rates, found) if rates else None
            plans.append(replace(found, safe=None if same is None else sized(same), at_load=at_load))
    plans.sort(key=lambda one: (one.usd_per_hour is None, backed_first and not one.config.backed, _cheapest_first(one)))
    best = first_of_each_gpu(plans)
    chosen = set(map(id, best))
    further = tuple(found for found in plans if id(found) not in chosen)
    options, cut = _cut(best)
    users = load.number if isinstance(load, Users) else None
    rate = options[0].requests_per_s if options else 0.0 if isinstance(load, Users) else load
    return GroupCapacity(group, rate, options, further, out_of(group, best), cut, users)


class Sized(Protocol):
    """Any plan for a configuration."""

    @property
    def config(self) -> RankedConfig: ...


P = TypeVar("P", bound=Sized)


def first_of_each_gpu(plans: Iterable[P]) -> list[P]:
    """Return the first plan of each GPU type, in their order."""
    first: dict[str, P] = {}
    for one in plans:
        first.setdefault(one.config.gpu, one)
    return list(first.values())


def surely(safe: Group | None) -> Callable[[RankedConfig], RankedConfig | None]:
    """Return a look-up of configurations in a group ranked by what is sure.

    It gives None where a configuration does not hold so surely, or nobody knows how surely it does.
    """
    by_settings = {settings_of(config): config for config, _ in highest_rates(safe.configs if safe else ())}
    return lambda config: by_settings.get(settings_of(config)) if is_known(config) else None


def summed_range(ranges: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    """Sum ranges as if all estimates erred alike; None: one is not known, or there is none."""
    known = list(ranges)
    if not known or None in known:
        return None
    low, high = (math.fsum(one[side] for one in known if one) for side in (0, 1))
    return low, high


def is_known(config: RankedConfig) -> bool:
    """Return whether it is known how surely its figures hold."""
    return config.kind is Kind.MEASURED or bool(config.intervals)


def _simulated(rates: Sequence[RankedConfig], found: Plan) -> Load:
    """Return the figures of a replica at its share of the load."""
    config = enough_for(rates, found.requests_per_s / found.replicas)
    latencies = config.ttft_ms, config.itl_ms, config.e2e_s
    return Load(config.concurrency or 0, *latencies, config.request_rate, config.percentiles)


def _cut(plans: Sequence[Plan]) -> tuple[tuple[Plan, ...], tuple[Plan, ...]]:
    """Return the plans, and apart from them those that cost so much more than the first that they are no option."""
    first = plans[0].usd_per_hour if plans else None
    if first is None:
        return tuple(plans), ()
    most = first.usd * MOST_TIMES_THE_BEST
    costly = [one for one in plans if one.usd_per_hour is not None and one.usd_per_hour.usd > most]
    return tuple(one for one in plans if one not in costly), tuple(costly)


def _cheapest_first(found: Plan) -> tuple[float, int, int, str, int]:
    usd = math.inf if found.usd_per_hour is None else round(found.usd_per_hour.usd, 6)
    config = found.config
    return usd, found.gpus, found.replicas, config.gpu, config.place


# How far a configuration came, the furthest first: what only lacks trust would have carried the load.
_PROGRESS = (
    Cause.NOT_TRUSTED,
    Cause.NOT_ASKED,
    Cause.NO_PRICE,
    Cause.NO_TDP,
    Cause.NO_PERCENTILE,
    Cause.MISSES_SLO,
    Cause.NO_POINT,
    Cause.DOES_NOT_FIT,
    Cause.NOT_SUPPORTED,
    Cause.INVALID,
    Cause.UNKNOWN_MODEL,
)


def out_of(group: Group, plans: Iterable[Sized]) -> tuple[Out, ...]:
    """Return the GPU types without any plan, by name, with the reasons of their best configurations."""
    able = {one.config.gpu for one in plans}
    found: dict[str, list[tuple[tuple[int, float], Cause, Slo | None, Loser]]] = {}
    for losers in group.losers:
        for loser in losers.examples:
            if loser.gpu not in able:
                how_far = _PROGRESS.index(losers.cause), loser.ratio if loser.ratio is not None else math.inf
                found.setdefault(loser.gpu, []).append((how_far, losers.cause, losers.slo, loser))
    result = []
    for gpu, out in sorted(found.items()):
        _, cause, slo, nearest = min(out, key=lambda one: one[0])
        result.append(Out(gpu, cause, slo, nearest, len(out)))
    return tuple(result)


def load_at(curve: Sequence[tuple[float, float, float | None, float | None, float | None]], rate: float) -> Load | None:
    """Return a replica's operating point at a rate, between stored ones; at or below the lowest, the lowest.

    `curve`: (concurrency, requests/s, TTFT ms, ITL ms, E2E s), by concurrency. None: it never reaches the rate.
    """
    below: tuple[float, float, float | None, float | None, float | None] | None = None
    for point in curve:
        if point[1] >= rate:
            if below is None:
                return Load(point[0], *point[2:])
            share = (rate - below[1]) / (point[1] - below[1])
            concurrency = below[0] + (point[0] - below[0]) * share
            ttft_ms, itl_ms, e2e_s = (_between(a, b, share) for a, b in zip(below[2:], point[2:], strict=True))
            return Load(concurrency, ttft_ms, itl_ms, e2e_s)
        below = point
    return None


def _between(one: float | None, other: float | None, share: float) -> float | None:
    return None if one is None or other is None else one + (other - one) * share
