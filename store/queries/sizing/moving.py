"""The cost of a load that moves: replicas over time, fixed, autoscaled, reserved and mixed. Pure arithmetic.

*Needed.* At every moment the replicas that `capacity` would size for that rate, headroom and spare ones included.
*Autoscaling* follows what is needed: `scale_up_s` after the rate rises replicas are ordered, and they take requests
`startup_s` later; they are released once fewer were needed for all of `scale_down_s`. What is ordered is paid. Before
the load begins, and after it ends, it is as at its ends.
*Missed.* Ready replicas sustain what they do within the limits. What comes above that waits, first come first served:
requests that arrive while it waits miss the limits.
*Always on.* An autoscaled fleet keeps so many replicas that no more than `most_missed` of all requests miss: the fewest
with which that is so. *Mixed*: reserved replicas are paid all the time, those above them on demand; as many are
reserved as cost least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuscout.store.prices.prices import GpuPrice, packed
from gpuscout.store.queries.sizing.capacity import Demand, expected_rates, first_of_each_gpu, rate_of
from gpuscout.store.queries.sizing.simulated_rates import highest_rates
from gpuscout.store.ranking.types import RankedConfig
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.traffic.moving import Series

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
POLICIES = ("fixed", "reserved", "autoscaled", "mixed")
_EXACT = 1e-9  # as in `capacity`: floating point must not ask for one more replica
_LONGEST_S = 1e8
_MOST_RESERVED = 300
"""Of so many numbers of reserved replicas the best is searched one by one; beyond, among the numbers that are used."""


@dataclass(frozen=True)
class Scaling:
    """The delays of an autoscaler. Raises InputError for invalid values.

    startup_s    from the order of a replica to its first request: machine, image, weights
    scale_up_s   from a rise of the rate to the order        scale_down_s   how long fewer must have been needed
    most_missed  the share of all requests that may miss the limits
    """

    startup_s: float = 180.0
    scale_up_s: float = 60.0
    scale_down_s: float = 300.0
    most_missed: float = 0.01

    def __post_init__(self) -> None:
        for name in ("startup_s", "scale_up_s", "scale_down_s"):
            if not 0 <= getattr(self, name) <= _LONGEST_S:
                raise InputError(f"invalid {name} {getattr(self, name):g}: expected seconds from 0 to {_LONGEST_S:g}")
        if not 0 <= self.most_missed < 1:
            raise InputError(f"invalid most_missed {self.most_missed:g}: expected a share from 0 to below 1")


@dataclass(frozen=True)
class Fleet:
    """One way to pay for the replicas of a configuration. Money and GPU hours are those of the whole load.

    `reserved` of the replicas are paid all the time at the reserved price; `always_on`, those included, never end,
    whatever the load. `replicas_least` and so on: how many are there over the load.
    `missed`: the share of requests that miss the limits. `usd` None: there is no price. `usd_range`: at the ends of
    the 80 % interval of a replica's rate; None: not known. `safe`: the same sized to hold with a probability of 90 %.
    """

    policy: str
    always_on: int
    reserved: int
    replicas_least: int
    replicas_peak: int
    replicas_mean: float
    gpu_hours: float
    missed: float
    usd: float | None
    usd_range: tuple[float, float] | None = None
    safe: Fleet | None = None


@dataclass(frozen=True)
class MovingPlan:
    """A configuration under a load that moves, by the policies that have a price; the first of `fleets` costs least."""

    config: RankedConfig
    requests_per_s_per_replica: float
    fleets: tuple[Fleet, ...]

    @property
    def backed(self) -> bool:
        return self.config.backed

    @property
    def best(self) -> Fleet:
        return self.fleets[0]


@dataclass(frozen=True)
class OverTime:
    """Replicas over time: at each start (ms since the load begins) until the next."""

    starts_ms: Ints
    ends_ms: int
    rates: Floats
    wanted: Ints
    ready: Ints

    @property
    def hours(self) -> Floats:
        return np.diff(self.starts_ms, append=self.ends_ms) / 3.6e6


def needed(rates: Floats, rate_per_replica: float, demand: Demand) -> Ints:
    """Return the number of replicas that carry each rate, as `replicas_for` has it."""
    count = np.ceil(rates / (rate_per_replica * (1 - demand.headroom)) * (1 - _EXACT))
    found: Ints = np.maximum(np.maximum(count, 1) + demand.spare, demand.min_replicas).astype(np.int64)
    return found


def over_time(series: Series, rate_per_replica: float, demand: Demand, scaling: Scaling) -> OverTime:
    """Return the replicas an autoscaler orders and those ready, with none always on beyond the `demand`."""
    begins, ends = int(series.starts_ms[0]), series.ends_ms
    wants = needed(series.rates, rate_per_replica, demand)
    up, down, startup = (round(s * 1000) for s in (scaling.scale_up_s, scaling.scale_down_s, scaling.startup_s))
    changes = np.flatnonzero(np.diff(wants, prepend=wants[0] - 1))
    at, value = series.starts_ms[changes], wants[changes]
    at, value = _extreme(at, value, up, up + down, begins, ends, np.maximum)
    ready_at, ready = _extreme(at, value, 0, startup, begins, ends, np.minimum)
    starts = np.unique(np.concatenate([series.starts_ms, at, ready_at]))
    return OverTime(
        starts,
        ends,
        series.rates[_place(series.starts_ms, starts)],
        value[_place(at, starts)],
        ready[_place(ready_at, starts)],
    )


def _place(starts: Ints, at: Ints) -> Ints:
    """Return the step of each moment; before the first, the first."""
    found: Ints = np.maximum(np.searchsorted(starts, at, side="right") - 1, 0)
    return found


def _extreme(
    starts: Ints, values: Ints, latest: int, earliest: int, begins: int, ends: int, extreme: Any
) -> tuple[Ints, Ints]:
    """Return the extreme of a stepwise constant over [t - earliest, t - latest], as steps from `begins` to `ends`.

    Ranges of steps are halved into powers of two, whose extremes are built level by level.
    """
    at = np.unique(np.concatenate([[begins], starts + latest, starts + earliest]))
    at = at[(at >= begins) & (at < ends)]
    low, high = _place(starts, at - earliest), _place(starts, at - latest)
    level = np.int64(np.floor(np.log2(high - low + 1)))
    found = np.empty(len(at), dtype=np.int64)
    table, width = values, 1
    for power in range(int(level.max()) + 1):
        if power:
            table, width = extreme(table[:-width], table[width:]), 2 * width
        here = level == power
        found[here] = extreme(table[low[here]], table[high[here] - width + 1])
    kept = np.flatnonzero(np.diff(found, prepend=found[0] - 1))
    return at[kept], found[kept]


def missed_share(course: OverTime, rate_per_replica: float, always_on: int) -> float:
    """Return the share of requests that arrive while replicas have more to do than they sustain, or a queue waits."""
    seconds = course.hours * 3600
    gain = course.rates - np.maximum(course.ready, always_on) * rate_per_replica * (1 + _EXACT)
    total = np.concatenate([[0.0], np.cumsum(gain * seconds)])
    queue = (total - np.minimum.accumulate(np.minimum(total, 0.0)))[:-1]
    drained = np.divide(queue, -gain, out=np.full_like(queue, np.inf), where=gain < 0)
    late = np.where(gain > 0, seconds, np.where(queue > 0, np.minimum(drained, seconds), 0.0))
    requests = float(course.rates @ seconds)
    return float(course.rates @ late) / requests if requests else 0.0


def always_on(course: OverTime, rate_per_replica: float, least: int, most: int, most_missed: float) -> int:
    """Return the fewest replicas always on that keep within the missed share; `most` where none do."""
    while least < most:
        middle = (least + most) // 2
        if missed_share(course, rate_per_replica, middle) <= most_missed:
            most = middle
        else:
            least = middle + 1
    return least


Hourly = Callable[[int], float]


def hourly_of(price: GpuPrice | None, num_gpus: int, gpus_per_node: int, *, whole_nodes: bool) -> Hourly | None:
    """Return USD per hour of so many replicas; None: there is no price."""
    if price is None:
        return None
    known: dict[int, float] = {0: 0.0}

    def hourly(replicas: int) -> float:
        if replicas not in known:
            known[replicas] = (
                price.per_hour(gpus_per_node, packed(num_gpus, replicas, gpus_per_node)).usd
                if whole_nodes
                else price.per_hour(num_gpus, replicas).usd
            )
        return known[replicas]

    return hourly


def fleets_of(
    series: Series,
    rate_per_replica: float,
    num_gpus: int,
    demand: Demand,
    scaling: Scaling,
    on_demand: Hourly | None,
    reserved: Hourly | None,
) -> dict[str, Fleet]:
    """Return every policy that can be paid for, and the fixed and autoscaled ones in any case."""
    course = over_time(series, rate_per_replica, demand, scaling)
    peak = int(needed(series.rates, rate_per_replica, demand).max())
    hours = course.hours
    total = float(hours.sum())
    kept = always_on(course, rate_per_replica, demand.min_replicas, peak, scaling.most_missed)
    levels, inverse = np.unique(np.maximum(course.wanted, kept), return_inverse=True)
    spent = np.bincount(inverse, weights=hours)

    def fleet(policy: str, base: int, bought: int, levels: Ints, spent: npt.NDArray[Any]) -> Fleet:
        replicas, above = np.maximum(levels, bought), np.maximum(levels - bought, 0)
        usd: float | None = 0.0
        if bought:
            usd = None if reserved is None else reserved(bought) * total
        if above.any() and usd is not None:
            each = None if on_demand is None else [on_demand(int(count)) for count in above]
            usd = None if each is None else usd + float(np.array(each) @ spent)
        missed = 0.0 if base >= peak else missed_share(course, rate_per_replica, base)
        mean = float(replicas @ spent) / total
        least, most = int(replicas.min()), int(replicas.max())
        return Fleet(policy, base, bought, least, most, mean, mean * total * num_gpus, missed, usd)

    always, all_of_it = np.array([peak]), np.array([total])
    found = {
        "fixed": fleet("fixed", peak, 0, always, all_of_it),
        "autoscaled": fleet("autoscaled", kept, 0, levels, spent),
    }
    if reserved is not None:
        found["reserved"] = fleet("reserved", peak, peak, always, all_of_it)
        if on_demand is not None:
            mixes = [fleet("mixed", max(kept, n), n, levels, spent) for n in _numbers(levels, spent)]
            found["mixed"] = min(mixes, key=lambda one: (one.usd if one.usd is not None else np.inf, one.reserved))
    return found


def _numbers(levels: Ints, spent: npt.NDArray[Any]) -> Sequence[int]:
    """Return numbers of reserved replicas to try: all, or those at which the number in use changes."""
    if levels[-1] <= _MOST_RESERVED:
        return range(int(levels[-1]) + 1)
    if len(levels) <= _MOST_RESERVED:
        return [0, *map(int, levels)]
    # The best one of linear prices is a quantile of the time: these are close together in it.
    share = np.cumsum(spent) / spent.sum()
    places = np.unique(np.searchsorted(share, np.linspace(0, 1, _MOST_RESERVED)).clip(0, len(levels) - 1))
    return [0, *map(int, levels[places])]


def moving_plans(
    configs: Iterable[RankedConfig],
    same_surely: Callable[[RankedConfig], RankedConfig | None],
    series: Series,
    output_len: int,
    demand: Demand,
    scaling: Scaling,
    prices: Callable[[RankedConfig], tuple[Hourly | None, Hourly | None]],
    *,
    backed_first: bool,
) -> list[MovingPlan]:
    """Return each GPU type's cheapest configuration, cheapest first, those that measurements back first.

    `same_surely`: a configuration as it is ranked with a confidence of 90 %, see `capacity.surely`.
    """

    def fleets(config: RankedConfig, rate: float | None) -> dict[str, Fleet]:
        return fleets_of(series, rate, config.num_gpus, demand, scaling, *prices(config)) if rate else {}

    def order(plan: MovingPlan) -> tuple[bool, bool, float, float]:
        usd = plan.best.usd
        return usd is None, backed_first and not plan.config.backed, usd or 0.0, plan.best.gpu_hours

    candidates = []
    for config, _ in highest_rates(configs):
        each = rate_of(config, output_len)
        if each:
            candidates.append(MovingPlan(config, each, _cheapest_first(fleets(config, each).values(), scaling)))
    plans = []
    for plan in first_of_each_gpu(sorted(candidates, key=order)):
        config = plan.config
        ends = [fleets(config, rate) for rate in expected_rates(config, output_len)]
        same = same_surely(config)
        safe = fleets(config, None if same is None else rate_of(same, output_len))
        courses = []
        for fleet in plan.fleets:
            if fleet.policy == "mixed" and fleet.reserved in (0, fleet.replicas_peak):
                continue  # that is none or all of them reserved, which stand there already
            costs = sorted(one[fleet.policy].usd or 0.0 for one in ends if fleet.policy in one)
            known = (costs[0], costs[-1]) if costs and fleet.usd is not None else None
            courses.append(replace(fleet, usd_range=known, safe=safe.get(fleet.policy)))
        plans.append(replace(plan, fleets=tuple(courses)))
    return plans


def _cheapest_first(fleets: Iterable[Fleet], scaling: Scaling) -> tuple[Fleet, ...]:
    """Return the fleets sorted: those with a price and few enough missed requests first."""

    def order(one: Fleet) -> tuple[bool, bool, float, int]:
        usd = one.usd if one.usd is not None else one.gpu_hours
        return one.missed > scaling.most_missed, one.usd is None, usd, POLICIES.index(one.policy)

    return tuple(sorted(fleets, key=order))
