"""Price books: the one that ships with gpuscout, and those of a team in the store, beside the results they price.

Own books are tables of the store, not files: whoever shares a store shares its prices, a ranking sees one state of
both, and a change is one transaction. A quote is identified by book, GPU, provider, instance type, purchase model,
region and date; storing it again replaces its price, a newer date adds to its history.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import date

import sqlalchemy as sa

from gpuscout.store.clock import today
from gpuscout.store.prices.book_rows import check_book_name, save_rows, shipped_rows
from gpuscout.store.prices.csv_file import by_every_name
from gpuscout.store.prices.prices import DEFAULT_BOOK, PriceRules, Prices, Quote, price_gpus, providers_of, regions_of
from gpuscout.store.remembered import remembered
from gpuscout.store.schema import gpus, token_prices
from gpuscout.store.schema import prices as table
from gpuscout.sweeps.errors import UnknownNameError, nearest

_IDENTITY = ("book", "gpu", "provider", "instance_type", "purchase", "region", "date")
_FIELDS = tuple(field.name for field in fields(Quote))


@functools.cache
def shipped_quotes() -> tuple[Quote, ...]:
    """Return the book "default": list prices with their dates and sources, read once per process."""
    return tuple(
        Quote(
            book=DEFAULT_BOOK,
            gpu=row["gpu"],
            provider=row["provider"],
            usd_per_gpu_hour=float(row["usd_per_gpu_hour"]),
            date=date.fromisoformat(row["date"]),
            purchase=row["purchase"],
            region=row["region"],
            instance_type=row["instance_type"],
            gpus_per_instance=int(row["gpus_per_instance"]) if row["gpus_per_instance"] else None,
            date_kind=row["date_kind"],
            exact=row["exact"] == "yes",
            source=row["source"],
            note=row["note"],
        )
        for row in shipped_rows("prices.csv")
    )


def book_names(connection: sa.Connection) -> list[str]:
    """Return the books of GPU and token prices: those of the store by name, then what ships."""
    both = sa.union(sa.select(table.c.book), sa.select(token_prices.c.book))
    stored = remembered(connection, book_names, lambda: sorted(connection.execute(both).scalars()))
    return [*stored, DEFAULT_BOOK]


def quotes_of(connection: sa.Connection, books: Sequence[str]) -> list[Quote]:
    """Return all quotes of these books, by book, GPU, provider, the newest first.

    Raises UnknownNameError for a book there is not.
    """
    known = book_names(connection)
    for book in books:
        if book not in known:
            raise UnknownNameError("price book", book, nearest(book, known), hint=f"known: {', '.join(known)}")
    return list(remembered(connection, (quotes_of, *books), lambda: _quotes_of(connection, books)))


def _quotes_of(connection: sa.Connection, books: Sequence[str]) -> list[Quote]:
    columns = [table.c[name] for name in _FIELDS]
    rows = connection.execute(sa.select(*columns).where(table.c.book.in_(books)))
    found = [Quote(*row) for row in rows]
    if DEFAULT_BOOK in books:
        found += shipped_quotes()
    order = list(books)
    return sorted(found, key=lambda q: (order.index(q.book), q.gpu, q.provider, -q.date.toordinal(), q.instance_type))


def prices_for(connection: sa.Connection, gpus: Iterable[str], rules: PriceRules) -> Prices:
    """Return one price per GPU. Raises UnknownNameError for a book, provider or region that does not exist."""
    known_books = book_names(connection)
    books = [book for book in rules.precedence if book in known_books or book in rules.books]
    quotes = quotes_of(connection, books)
    providers = providers_of(quotes)
    known = {provider.casefold() for provider in providers}
    for provider in rules.providers:
        if provider.casefold() not in known:
            hint = f"these books have {', '.join(providers)}"
            raise UnknownNameError("provider", provider, nearest(provider, providers), hint=hint)
    regions = regions_of(quotes)
    if rules.region is not None and rules.region.casefold() not in map(str.casefold, regions):
        hint = f"these books have {', '.join(regions)}" if regions else "these books name no regions"
        raise UnknownNameError("region", rules.region, nearest(rules.region, regions), hint=hint)
    asked = tuple(gpus)
    if rules.overrides:
        rules = replace(rules, overrides=by_every_name(rules.overrides, asked))
    return price_gpus(asked, quotes, rules, today=today())


def save_quotes(connection: sa.Connection, quotes: Sequence[Quote], *, replace_book: str | None = None) -> int:
    """Store quotes, replacing those of the same identity; returns how many were replaced or removed.

    With `replace_book` nothing else of that book is kept. Raises InputError for the book that ships.
    """
    return save_rows(connection, table, _IDENTITY, quotes, replace_book)


def remove_quotes(connection: sa.Connection, book: str, gpu: str | None = None) -> int:
    """Delete a book of the store, its token prices included, or its quotes of one GPU; returns how many.

    Raises InputError for the book that ships, UnknownNameError for a book there is not.
    """
    check_book_name(book)
    stored = book_names(connection)[:-1]
    if book not in stored:
        hint = f"the store has {', '.join(stored)}" if stored else "the store has no books of its own"
        raise UnknownNameError("price book", book, nearest(book, stored), hint=hint)
    if gpu is not None:
        return connection.execute(sa.delete(table).where(table.c.book == book, table.c.gpu == gpu)).rowcount
    return sum(connection.execute(sa.delete(one).where(one.c.book == book)).rowcount for one in (table, token_prices))


def tdp_w(connection: sa.Connection) -> dict[str, float]:
    """Return W per GPU, by the newest figures of every name; without those that are not known."""
    rows = connection.execute(sa.select(gpus.c.name, gpus.c.figures).order_by(gpus.c.created_at, gpus.c.id))
    figures = {row.name: json.loads(row.figures).get("tdp_w") for row in rows}
    return {name: float(tdp) for name, tdp in figures.items() if tdp is not None}
