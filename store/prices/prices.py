"""Prices of GPU hours: quotes of price books, and the one price of each GPU that enters a ranking.

*One price.* Of the quotes that a question leaves in (dated, on demand, exactly that part) each provider counts with its
newest; where it has several of that date (instance types, regions), with the lowest. A provider is one whatever the
case of its name. The price is the median over providers, low and high are the cheapest and the costliest provider.
*Books.* The first book of the question that has such a quote for a GPU prices it alone: books are never mixed for one
GPU. Without a choice that is the book "own", if
the store has one. What is in none of the books that were asked for comes from "default", which ships with gpuscout.
*Nothing is guessed.* A GPU without a quote that counts has no price, and says which condition left none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

DEFAULT_BOOK = "default"
OWN_BOOK = "own"
PURCHASES = ("on-demand", "spot", "reserved")
DATE_KINDS = ("read", "upper-bound")
EVERYWHERE = "*"
OLD_AFTER_DAYS = 180
"""Prices of GPUs fall within months: what is older says little of what will be paid."""


@dataclass(frozen=True)
class Quote:
    """One row of a price book: what a provider asks for one GPU.

    usd_per_gpu_hour    in USD; `usd_rate` USD for one unit of `currency` were used if it was given in another
    date                when the price was read; with `date_kind` "upper-bound" it may be older
    region              names separated by blanks, "*": all of the provider's; empty: not stated
    instance_type       empty: not stated         gpus_per_instance   None: not stated
    exact               False: the price of a near variant, which never enters a ranking
    """

    book: str
    gpu: str
    provider: str
    usd_per_gpu_hour: float
    date: date
    purchase: str = PURCHASES[0]
    region: str = ""
    instance_type: str = ""
    gpus_per_instance: int | None = None
    date_kind: str = DATE_KINDS[0]
    exact: bool = True
    currency: str = "USD"
    usd_rate: float = 1.0
    source: str = ""
    note: str = ""

    def usd_per_hour(self, num_gpus: int, *, whole_instances: bool, replicas: int = 1) -> float:
        """Return the hourly cost of so many deployments of `num_gpus` GPUs; `whole_instances`: idle GPUs as well."""
        size = self.gpus_per_instance if whole_instances and self.gpus_per_instance else 1
        return self.usd_per_gpu_hour * size * packed(num_gpus, replicas, size)


def packed(num_gpus: int, replicas: int, size: int) -> int:
    """Return the number of machines of `size` GPUs that hold so many deployments of `num_gpus` GPUs.

    A deployment that fits a machine is never cut in two; one that does not has whole machines of its own.
    """
    if num_gpus > size:
        return replicas * -(-num_gpus // size)
    return -(-replicas // (size // num_gpus))


@dataclass(frozen=True)
class PriceRules:
    """Filters of quotes, and prices that override them. Empty and None do not restrict.

    books            in order of precedence; empty: "own". What they lack comes from the book "default"
    providers        names, whatever their case         region   quotes of it and of all regions count, others do not
    as_of            no newer quotes
    overrides        USD per GPU hour by any name of a GPU: charged as they are, discount and instances aside
    discount         fraction taken off every quote, 0 to less than 1
    whole_instances  all GPUs of an instance are charged; quotes that do not state their number do not count
    """

    books: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    region: str | None = None
    purchase: str = PURCHASES[0]
    as_of: date | None = None
    overrides: Mapping[str, float] | None = None
    discount: float = 0.0
    whole_instances: bool = False

    @property
    def precedence(self) -> tuple[str, ...]:
        """The books that count, the first one first: those asked for, and what ships for GPUs that they lack."""
        return tuple(dict.fromkeys((*(self.books or (OWN_BOOK,)), DEFAULT_BOOK)))


@dataclass(frozen=True)
class HourlyPrice:
    """USD per hour: the price that ranks, and the lowest and the highest of a provider."""

    usd: float
    low: float
    high: float


@dataclass(frozen=True)
class GpuPrice:
    """The price of one GPU type. `quotes`: those it was made of, by provider; none where `override` (USD) is given."""

    gpu: str
    quotes: tuple[Quote, ...]
    discount: float = 0.0
    whole_instances: bool = False
    override: float | None = None

    def per_hour(self, num_gpus: int, replicas: int = 1) -> HourlyPrice:
        """Return the cost of a deployment of so many GPUs, or of several of them side by side."""
        if self.override is not None:
            total = self.override * num_gpus * replicas
            return HourlyPrice(total, total, total)
        cheapest: dict[str, float] = {}
        for quote in self.quotes:
            usd = quote.usd_per_hour(num_gpus, whole_instances=self.whole_instances, replicas=replicas)
            usd *= 1 - self.discount
            name = quote.provider.casefold()
            cheapest[name] = min(usd, cheapest.get(name, usd))
        totals = cheapest.values()
        return HourlyPrice(median(totals), min(totals), max(totals))

    @property
    def providers(self) -> tuple[str, ...]:
        """In the order of their names; of several spellings one."""
        return tuple(sorted({quote.provider.casefold(): quote.provider for quote in self.quotes}.values()))

    @property
    def book(self) -> str | None:
        """The book it comes from; None for an override."""
        return self.quotes[0].book if self.quotes else None

    @property
    def dates(self) -> tuple[date, date] | None:
        """The oldest and the newest date of its quotes; None for an override."""
        found = [quote.date for quote in self.quotes]
        return (min(found), max(found)) if found else None

    def is_old(self, day: date) -> bool:
        """Return whether half of its providers' prices, or more, are over `OLD_AFTER_DAYS` old on this day."""
        newest = {quote.provider.casefold(): quote.date for quote in self.quotes}
        old = sum((day - read).days > OLD_AFTER_DAYS for read in newest.values())
        return old > 0 and 2 * old >= len(newest)


@dataclass(frozen=True)
class Prices:
    """A price, or the reason why there is none, for every GPU asked about, on a day; None: whenever."""

    rules: PriceRules
    known: Mapping[str, GpuPrice]
    missing: Mapping[str, str]
    day: date | None = None

    def is_old(self, gpu: str) -> bool:
        """Return whether the price of a GPU is old on that day; False: it has none."""
        price = self.known.get(gpu)
        return price is not None and self.day is not None and price.is_old(self.day)


def price_gpus(gpus: Iterable[str], quotes: Sequence[Quote], rules: PriceRules, *, today: date | None = None) -> Prices:
    """Return one price per GPU by the rules above. `quotes` may hold other books and GPUs.

    How old prices are counts from `PriceRules.as_of`, or else from `today`.
    """
    overrides = rules.overrides or {}
    by_gpu: dict[str, list[Quote]] = defaultdict(list)
    for quote in quotes:
        by_gpu[quote.gpu].append(quote)
    known: dict[str, GpuPrice] = {}
    missing: dict[str, str] = {}
    for gpu in gpus:
        if gpu in overrides:
            known[gpu] = GpuPrice(gpu, (), override=overrides[gpu])
            continue
        reasons: list[str] = []
        for book in rules.precedence:
            if reasons and book not in (rules.books or rules.precedence):
                continue  # the books that were asked for know this GPU, only no price that counts
            left, reason = _counting([quote for quote in by_gpu[gpu] if quote.book == book], rules)
            if left:
                known[gpu] = GpuPrice(gpu, tuple(_newest(left)), rules.discount, rules.whole_instances)
                break
            if reason:
                reasons.append(f'book "{book}" {reason}')
        if gpu not in known:
            asked = dict.fromkeys((*rules.books, DEFAULT_BOOK))
            missing[gpu] = "; ".join(reasons) or f"no price in {' or '.join(asked)}"
    return Prices(rules, known, missing, rules.as_of or today)


def _counting(quotes: list[Quote], rules: PriceRules) -> tuple[list[Quote], str | None]:
    """Return the quotes that count; where none does, the condition that left none (None: there were none at all)."""
    if not quotes:
        return [], None
    providers = {name.casefold() for name in rules.providers}
    conditions: list[tuple[str, Callable[[Quote], bool]]] = [
        ("has only prices of near variants", lambda quote: quote.exact),
        (f"has no {rules.purchase} price", lambda quote: quote.purchase == rules.purchase),
    ]
    if providers:
        named = " or ".join(rules.providers)
        conditions.append((f"has no price of {named}", lambda quote: quote.provider.casefold() in providers))
    if rules.region is not None:
        region = rules.region
        conditions.append((f"has no price for {region}", lambda quote: _in_region(quote, region)))
    if rules.as_of is not None:
        last = rules.as_of
        conditions.append((f"has no price of {last} or before", lambda quote: quote.date <= last))
    if rules.whole_instances:
        conditions.append(("does not say how many GPUs an instance has", lambda q: q.gpus_per_instance is not None))
    for reason, counts in conditions:
        quotes = [quote for quote in quotes if counts(quote)]
        if not quotes:
            return [], reason
    return quotes, None


def _in_region(quote: Quote, region: str) -> bool:
    return quote.region == EVERYWHERE or region.casefold() in quote.region.casefold().split()


def _newest(quotes: Iterable[Quote]) -> list[Quote]:
    """Return the newest quotes of every provider, in the order of providers and prices."""
    by_provider: dict[str, list[Quote]] = defaultdict(list)
    for quote in quotes:
        by_provider[quote.provider.casefold()].append(quote)
    newest: list[Quote] = []
    for _, found in sorted(by_provider.items()):
        last = max(quote.date for quote in found)
        newest += sorted((quote for quote in found if quote.date == last), key=_by_price)
    return newest


def _by_price(quote: Quote) -> tuple[float, str, str]:
    return quote.usd_per_gpu_hour, quote.instance_type, quote.region


def providers_of(quotes: Collection[Quote]) -> list[str]:
    """Return the names of all providers, sorted."""
    return sorted({quote.provider for quote in quotes})


def regions_of(quotes: Collection[Quote]) -> list[str]:
    """Return the names of all regions, sorted."""
    return sorted({region for quote in quotes for region in quote.region.split() if region != EVERYWHERE})
