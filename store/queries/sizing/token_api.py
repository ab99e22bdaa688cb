"""GPUs of one's own against an API that is paid by the token: from which load they cost less, what a load costs.

*A request* has the input and output lengths of its workload; the API charges both. GPUs are paid around the clock,
busy or not, in whole replicas: n of them carry n times what one sustains within all limits, less the headroom.
*Break-even* is the smallest load at which as many replicas as it needs cost no more than the API. Beyond it one more
replica may tip the balance again: `lasting` is the load from which it never does. Loads are tokens a day, input and
output together.
*Range*: from the cheapest seller of the GPU and the upper end of the 80 % interval of what a replica sustains to the
costliest seller and the lower end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from operator import attrgetter

import sqlalchemy as sa

from gpuscout.store.prices.prices import OLD_AFTER_DAYS, GpuPrice, HourlyPrice, Prices
from gpuscout.store.prices.token_books import check_cached_share, current, named, token_prices_of
from gpuscout.store.prices.tokens import TokenPrice
from gpuscout.store.queries.sizing.capacity import Demand, Plan, expected_rates, first_of_each_gpu, plan, rate_of
from gpuscout.store.queries.sizing.capacity_question import both_rankings, node_sizes
from gpuscout.store.ranking.question.asked import Question, Trusted
from gpuscout.store.ranking.types import Group, RankedConfig, Ranking
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.names import matches

HOURS_PER_DAY = 24
SECONDS_PER_DAY = 86_400
MOST_REPLICAS = 1_000
"""Loads that need more are not looked at: who breaks even only there does not."""
# Floating point must not see a difference where both cost the same.
_EXACT = 1e-9
MOST_TOKENS_PER_DAY = 1e15


@dataclass(frozen=True)
class BreakEven:
    """The load from which so many replicas cost no more than the API, and the one from which that lasts (None: never).

    Tokens a day.
    """

    tokens_per_day: float
    replicas: int
    lasting_tokens_per_day: float | None


@dataclass(frozen=True)
class OwnGpus:
    """A configuration against the API. USD per hour of one replica; `usd_per_mtok`: of all tokens, at full load.

    `break_even` None: never. `optimistic` and `pessimistic`: the ends of its range.
    """

    config: RankedConfig
    usd_per_hour: float
    requests_per_s: float
    usd_per_mtok: float
    break_even: BreakEven | None
    pessimistic: BreakEven | None
    optimistic: BreakEven | None


@dataclass(frozen=True)
class AtLoad:
    """The daily cost of a load: by the API, and by the cheapest plan of each GPU type, cheapest first."""

    tokens_per_day: float
    requests_per_s: float
    api_usd_per_day: float
    plans: tuple[Plan, ...]


@dataclass(frozen=True)
class AgainstApi:
    """One model under one workload against one price of an API. `own`: the best of each GPU type by break-even."""

    group: Group
    price: TokenPrice
    cached_share: float
    usd_per_request: float
    own: tuple[OwnGpus, ...]
    at_load: AtLoad | None

    @property
    def tokens_per_request(self) -> int:
        return self.group.input_len + self.group.output_len

    @property
    def usd_per_mtok(self) -> float:
        """Of all tokens of a request, input and output."""
        return self.usd_per_request * 1e6 / self.tokens_per_request

    @property
    def same_model(self) -> bool:
        return matches(self.price.model, self.group.model)

    def is_old(self, day: date) -> bool:
        return (day - self.price.date).days > OLD_AFTER_DAYS


@dataclass(frozen=True)
class ApiComparison:
    """The answer for every group of the ranking and every price that was named."""

    demand: Demand
    ranking: Ranking
    answers: tuple[AgainstApi, ...]

    @property
    def prices(self) -> Prices:
        return self.ranking.prices


def against_api(
    connection: sa.Connection,
    names: Sequence[str],
    question: Question,
    *,
    tokens_per_day: float | None = None,
    cached_share: float = 0.0,
    demand: Demand | None = None,
) -> ApiComparison:
    """Compare GPUs for the models of the question with token prices by their names ("Groq", "Groq/gpt-oss-120b").

    The name of a provider alone means its price of the same model; a name with a model is compared with every model of
    the question. `tokens_per_day`: the load, input and output together. `cached_share` (0 to 1) of the input is billed
    as cached. Raises what `rank` raises, UnknownNameError for unknown names, InputError for invalid loads and shares.
    """
    if tokens_per_day is not None and not 0 < tokens_per_day <= MOST_TOKENS_PER_DAY:
        raise InputError(
            f"invalid load {tokens_per_day:g}: expected tokens a day, above 0 and at most {MOST_TOKENS_PER_DAY:g}"
        )
    check_cached_share(cached_share)
    demand = demand or Demand()
    prices_by_name = {name: _current(connection, name, question.prices.as_of) for name in names}
    chosen = list(dict.fromkeys(price for prices in prices_by_name.values() for price in prices))
    for_all = {
        price for name, prices in prices_by_name.items() for price in prices if not matches(name, price.provider)
    }
    ranking, _ = both_rankings(connection, question)
    nodes = node_sizes(connection)
    answers = [
        _answer(group, price, ranking, nodes, demand, tokens_per_day, cached_share)
        for group in ranking.groups
        for price in chosen
        if price in for_all or matches(price.model, group.model)
    ]
    answered = {answer.price for answer in answers}
    for name, prices in prices_by_name.items():
        if ranking.groups and answered.isdisjoint(prices):
            sold = ", ".join(sorted({price.model for price in prices}))
            asked = ", ".join(sorted({group.model for group in ranking.groups})[:5])
            raise InputError(
                f"{name} has no price of {asked}, but of {sold}",
                hint=f"api:{prices[0].name} holds that price against any model",
            )
    return ApiComparison(demand, ranking, tuple(answers))


def _current(connection: sa.Connection, name: str, as_of: date | None) -> list[TokenPrice]:
    """Return the prices that a name means on a day.

    Raises UnknownNameError, and InputError where there were none yet.
    """
    prices = token_prices_of(connection)
    try:
        return named(name, current(prices, as_of))
    except UnknownNameError:
        later = named(name, current(prices))
        raise InputError(f"{name} has no price of {as_of} or before, but of {later[0].date}") from None


def _answer(
    group: Group,
    price: TokenPrice,
    ranking: Ranking,
    nodes: dict[str, int],
    demand: Demand,
    tokens_per_day: float | None,
    cached_share: float,
) -> AgainstApi:
    usd = price.usd(group.input_len, group.output_len, cached_share)
    tokens = group.input_len + group.output_len
    backed_first = ranking.question.trust == Trusted.PREFER
    known = ranking.prices.known
    priced = [(config, known[config.gpu]) for config in group.configs if config.gpu in known]
    own = filter(None, (_own(config, group, gpu_price, usd, demand) for config, gpu_price in priced))
    best = first_of_each_gpu(sorted(own, key=lambda one: _order(one, backed_first)))
    at_load = None
    if tokens_per_day is not None:
        rate = tokens_per_day / tokens / SECONDS_PER_DAY
        plans = filter(None, (plan(one, rate, group.output_len, demand, nodes[one.gpu], at) for one, at in priced))
        cheapest = first_of_each_gpu(sorted(plans, key=lambda one: _cost(one, backed_first)))
        at_load = AtLoad(tokens_per_day, rate, rate * SECONDS_PER_DAY * usd, tuple(cheapest))
    return AgainstApi(group, price, cached_share, usd, tuple(best), at_load)


def _own(config: RankedConfig, group: Group, price: GpuPrice, usd: float, demand: Demand) -> OwnGpus | None:
    rate = rate_of(config, group.output_len)
    if not rate:
        return None
    tokens = group.input_len + group.output_len

    # Where instances are not paid whole, every replica costs what the first does.
    sizes = [quote.gpus_per_instance or 1 for quote in price.quotes] if price.whole_instances else [1]
    period = -(-max(sizes, default=1) // config.num_gpus)

    def at(sustained: float, of: Callable[[HourlyPrice], float]) -> BreakEven | None:
        per_day = sustained * (1 - demand.headroom) * SECONDS_PER_DAY
        first = of(price.per_hour(config.num_gpus))

        def costs(replicas: int) -> float:
            return first * replicas if period == 1 else of(price.per_hour(config.num_gpus, replicas))

        return break_even(costs, per_day, usd, tokens, period=period)

    usd_per_hour = price.per_hour(config.num_gpus).usd
    ends = sorted(expected_rates(config, group.output_len)) or [rate]
    return OwnGpus(
        config=config,
        usd_per_hour=usd_per_hour,
        requests_per_s=rate,
        usd_per_mtok=usd_per_hour * 1e6 / (rate * 3600 * tokens),
        break_even=at(rate, attrgetter("usd")),
        pessimistic=at(ends[0], attrgetter("high")),
        optimistic=at(ends[-1], attrgetter("low")),
    )


def break_even(
    usd_per_hour: Callable[[int], float],
    requests_per_day: float,
    usd_per_request: float,
    tokens: int,
    *,
    period: int = 1,
) -> BreakEven | None:
    """Return the load from which replicas at `usd_per_hour(n)` and `requests_per_day` cost no more than the API.

    `tokens`: of one request. `period`: after how many replicas the cost of one more repeats itself, those of a whole
    instance. None: nowhere below `MOST_REPLICAS`.
    """
    if usd_per_request <= 0 or requests_per_day <= 0:
        return None
    first: tuple[float, int] | None = None
    lasting: float | None = None
    quiet = 0
    for replicas in range(1, MOST_REPLICAS + 1):
        # So many are needed from `least` to `most` requests a day, and cost what the API does at `equal`.
        equal = usd_per_hour(replicas) * HOURS_PER_DAY / usd_per_request
        least, most = (replicas - 1) * requests_per_day, replicas * requests_per_day
        if equal > most * (1 + _EXACT):
            lasting, quiet = None, 0
            if first is None and replicas >= period:
                return None  # not even a full instance does
        elif equal > least * (1 + _EXACT):
            first, lasting, quiet = first or (equal, replicas), equal, 0
        else:
            quiet += 1
            if quiet >= period:
                break  # each further instance carries more than it has to
    else:
        lasting = None
    if first is None:
        return None
    return BreakEven(first[0] * tokens, first[1], None if lasting is None else lasting * tokens)


def _order(one: OwnGpus, backed_first: bool) -> tuple[bool, float, float, str]:
    load = math.inf if one.break_even is None else one.break_even.tokens_per_day
    return backed_first and not one.config.backed, load, one.usd_per_mtok, one.config.gpu


def _cost(one: Plan, backed_first: bool) -> tuple[bool, float, str]:
    usd = math.inf if one.usd_per_hour is None else one.usd_per_hour.usd
    return backed_first and not one.config.backed, usd, one.config.gpu


def usd_per_day(found: Plan) -> tuple[float, tuple[float, float] | None]:
    """Return the daily cost of a plan in USD, and its 80 % range (None: not known)."""
    assert found.usd_per_hour is not None  # GPUs without a price have no plan here
    low_high = found.usd_per_hour_range
    ends = None if low_high is None else (low_high[0] * HOURS_PER_DAY, low_high[1] * HOURS_PER_DAY)
    return found.usd_per_hour.usd * HOURS_PER_DAY, ends
