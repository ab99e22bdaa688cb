"""Sizes deployments for a load: replicas, GPUs, nodes and money for so many requests a second. Pure arithmetic.

*One replica* sustains the requests per second of its operating point: the highest within all SLOs. It is never asked
for more; a share of it, the headroom, is kept free.
*Nodes.* A replica that fits a node shares it with others where there is room and is never cut in two; one that does not
fit has whole nodes of its own. How many GPUs a node has is a figure of the GPU.
*Money.* All GPUs that run are paid, busy or not, so the cost per million output tokens at the asked rate is above that
of a saturated replica. A month has 730 hours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpuscout.store.prices.prices import GpuPrice, HourlyPrice, Prices, packed
from gpuscout.store.ranking.types import Cause, Group, Loser, RankedConfig
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import Slo

HOURS_PER_MONTH = 730
# Floating point must not ask for one more replica where so many do exactly.
_EXACT = 1e-9


@dataclass(frozen=True)
class Demand:
    """What has to be carried. Raises InputError for what means nothing.

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
                f"a headroom of {self.headroom:g} means nothing: it is a share of the capacity",
                hint="0.2 keeps a fifth of it free",
            )
        if self.min_replicas < 1 or self.spare < 0:
            raise InputError("at least one replica, and no fewer than none to spare")


@dataclass(frozen=True)
class Load:
    """The operating point of one replica at its share of the asked rate. Latencies None: not known."""

    concurrency: float
    ttft_ms: float | None
    itl_ms: float | None
    e2e_s: float | None


@dataclass(frozen=True)
class Plan:
    """A configuration, as often as the load needs it.

    `config` is one replica at full load. `requests_per_s` is the asked rate. `headroom`: the share of the capacity
    that it leaves free. `gpus_paid`: GPUs charged. `usd_per_hour` None: there is no price. `at_load`: one replica
    when the rate is spread evenly; None: its curve is not stored.
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
    at_load: Load | None = None

    @property
    def usd_per_month(self) -> float | None:
        return None if self.usd_per_hour is None else self.usd_per_hour.usd * HOURS_PER_MONTH

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
    """How a model under one workload can be served at `rate` requests per second.

    `plans` are the cheapest of every GPU type, then further ones, each part by cost; those without a price come last.
    """

    group: Group
    rate: float
    plans: tuple[Plan, ...]
    further: tuple[Plan, ...]
    out: tuple[Out, ...]


def replicas_for(rate: float, rate_per_replica: float, demand: Demand) -> int:
    """How many replicas carry the rate with the headroom, and those to spare."""
    needed = max(1, math.ceil(rate / (rate_per_replica * (1 - demand.headroom)) * (1 - _EXACT)))
    return max(needed + demand.spare, demand.min_replicas)


def plan(
    config: RankedConfig, rate: float, output_len: int, demand: Demand, gpus_per_node: int, price: GpuPrice | None
) -> Plan | None:
    """The deployments of one configuration; None: its request rate is not known."""
    rate_per_replica = rate_of(config, output_len)
    if not rate_per_replica:
        return None
    replicas = replicas_for(rate, rate_per_replica, demand)
    nodes = packed(config.num_gpus, replicas, gpus_per_node)
    hourly = None
    if price is not None:
        hourly = (
            price.per_hour(gpus_per_node, nodes) if demand.whole_nodes else price.per_hour(config.num_gpus, replicas)
        )
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
    )


def rate_of(config: RankedConfig, output_len: int) -> float | None:
    """Requests per second of one replica at its operating point, as it counts in the ranking; None: not known."""
    rate = config.counted("requests_per_s")
    tokens = config.counted("output_tokens_per_s")
    return rate if rate is not None else None if tokens is None else tokens / output_len


def capacity_of(group: Group, rate: float, demand: Demand, nodes: Mapping[str, int], prices: Prices) -> GroupCapacity:
    """Size every ranked configuration of a group. `nodes`: GPUs per node by GPU type."""
    plans = sorted(
        (
            found
            for config in group.configs
            if (found := plan(config, rate, group.output_len, demand, nodes[config.gpu], prices.known.get(config.gpu)))
        ),
        key=_cheapest_first,
    )
    best: dict[str, Plan] = {}
    for found in plans:
        best.setdefault(found.config.gpu, found)
    chosen = {id(found) for found in best.values()}
    further = tuple(found for found in plans if id(found) not in chosen)
    return GroupCapacity(group, rate, tuple(best.values()), further, tuple(_out(group, best)))


def _cheapest_first(found: Plan) -> tuple[float, int, int, str, int]:
    usd = math.inf if found.usd_per_hour is None else round(found.usd_per_hour.usd, 6)
    config = found.config
    return usd, found.gpus, found.replicas, config.gpu, config.place


def _out(group: Group, able: Iterable[str]) -> list[Out]:
    """The GPU types without any plan, in the order of their names."""
    able = set(able)
    found: dict[str, list[tuple[float, Cause, Slo | None, Loser]]] = {}
    for losers in group.losers:
        for loser in losers.examples:
            if loser.gpu not in able:
                # What runs and misses a limit is nearer than what does not run.
                how_far = (loser.ratio or math.inf) + (0 if losers.slo else 1e6)
                found.setdefault(loser.gpu, []).append((how_far, losers.cause, losers.slo, loser))
    result = []
    for gpu, out in sorted(found.items()):
        _, cause, slo, nearest = min(out, key=lambda one: one[0])
        result.append(Out(gpu, cause, slo, nearest, len(out)))
    return result


def load_at(curve: Sequence[tuple[float, float, float | None, float | None, float | None]], rate: float) -> Load | None:
    """A replica's operating point at a rate, between stored ones; at or below the lowest, the lowest.

    `curve`: (concurrency, requests/s, TTFT ms, ITL ms, E2E s), by concurrency. None: it never reaches the rate.
    """
    below: tuple[float, float, float | None, float | None, float | None] | None = None
    for point in curve:
        if point[1] >= rate:
            if below is None:
                return Load(point[0], *point[2:])
            share = (rate - below[1]) / (point[1] - below[1])
            concurrency = below[0] + (point[0] - below[0]) * share
            return Load(concurrency, *(_between(a, b, share) for a, b in zip(below[2:], point[2:], strict=True)))
        below = point
    return None


def _between(one: float | None, other: float | None, share: float) -> float | None:
    return None if one is None or other is None else one + (other - one) * share
