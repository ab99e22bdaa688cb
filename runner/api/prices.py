"""`fetch_prices` and `import_skypilot`: prices of clouds into a book of a store, all or none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from gpuscout.store.database.connect import Store
from gpuscout.store.prices.book_rows import check_book_name
from gpuscout.store.prices.books import book_names, quotes_of, save_quotes
from gpuscout.store.prices.offers import Chosen, Offer, quotes_of_offers
from gpuscout.store.prices.skypilot import SkyPilotFile
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.names import has_wildcard


@dataclass(frozen=True)
class SavedPrices:
    """The prices stored in a book: `chosen` holds its quotes and what was left out; `replaced` were there before."""

    book: str
    chosen: Chosen
    replaced: int


def fetch_prices(
    store: Store,
    *,
    book: str = "fetched",
    gpus: Sequence[str] = (),
    providers: Sequence[str] = (),
    regions: Sequence[str] = (),
    spot: bool | None = None,
    parts: Mapping[str, str] | None = None,
    replace_book: bool = False,
) -> SavedPrices:
    """Fetch on-demand, spot and reserved offers from gpuhunt's catalogues (`gpuscout[prices]`) into a book.

    gpus       names, globs or groups ("H100", "H100*", "datacenter")     regions  names or globs ("us-*")
    providers  unless given, all whose catalogues are published           spot     only those, or none of them
    parts      which GPU a name of the catalogues means: {"A100-80GB": "A100-PCIe-80GB"}

    Each quote has the day on which its provider's catalogue was collected. Raises InputError, and stores nothing, where
    anything that was asked for cannot be had.
    """
    from gpuscout.runner.api.gpuhunt_offers import fetch_offers

    check_book_name(book)
    wanted = chosen_gpus(gpus)
    fetched = fetch_offers(providers)
    patterns = [region.casefold() for region in regions]
    asked = [
        offer
        for offer in fetched.offers
        if (spot is None or (offer.purchase == "spot") == spot)
        and (not patterns or any(fnmatchcase(offer.region.casefold(), pattern) for pattern in patterns))
    ]
    unreadable = {f"rows of {name} that gpuhunt could not read": number for name, number in fetched.unreadable.items()}
    return _saved(store, asked, book, fetched.days, parts or {}, wanted, unreadable, replace_book)


def import_skypilot(
    store: Store,
    files: Iterable[Path],
    day: date,
    *,
    book: str = "skypilot",
    provider: str | None = None,
    parts: Mapping[str, str] | None = None,
    replace_book: bool = False,
) -> SavedPrices:
    """Store the offers of SkyPilot's catalogues (`vms.csv` files), read on `day`.

    `provider` None: the name of each file or of its folder. `parts`: the GPU that a name of the catalogues means.
    Raises InputError, and stores nothing, where one file cannot be read.
    """
    check_book_name(book)
    offers = [offer for file in files for offer in SkyPilotFile(file, provider).read()]
    return _saved(store, offers, book, day, parts or {}, frozenset(), {}, replace_book)


def chosen_gpus(texts: Sequence[str]) -> frozenset[str]:
    """Return the GPUs of the catalogue that names, globs and groups mean; none: all.

    Raises UnknownNameError, InputError.
    """
    catalogue, found = GPUCatalogue.load(), set[str]()
    for text in texts:
        group = catalogue.group(text) or (catalogue.select(glob=text) if has_wildcard(text) else ())
        found |= {gpu.name for gpu in group or (catalogue.resolve(text),)}
    return frozenset(found)


def _saved(
    store: Store,
    offers: Sequence[Offer],
    book: str,
    days: date | Mapping[str, date],
    parts: Mapping[str, str],
    gpus: frozenset[str],
    unreadable: Mapping[str, int],
    replace_book: bool,
) -> SavedPrices:
    with store.reading() as connection:
        known = quotes_of(connection, book_names(connection))
    chosen = quotes_of_offers(offers, book, days, parts, known, gpus)
    chosen.left_out.update(unreadable)
    if not chosen.quotes:
        raise InputError("\n    ".join([f"none of {len(offers):,} offers is stored", *chosen.notes()]))
    with store.writing() as connection:
        gone = save_quotes(connection, chosen.quotes, replace_book=book if replace_book else None)
    return SavedPrices(book, chosen, gone)
