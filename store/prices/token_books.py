"""Books of token prices: a small one that ships with gpuscout, and those of a team in the store.

A price is identified by book, provider, model and date; storing it again replaces it, a newer date adds to its history.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import date

import sqlalchemy as sa

from gpuscout.store.prices.book_rows import save_rows, shipped_rows
from gpuscout.store.prices.prices import DEFAULT_BOOK, OWN_BOOK
from gpuscout.store.prices.tokens import TokenPrice
from gpuscout.store.schema import token_prices as table
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.names import fold, has_wildcard, matches

_IDENTITY = ("book", "provider", "model", "date")
_FIELDS = tuple(field.name for field in fields(TokenPrice))


@functools.cache
def shipped_token_prices() -> tuple[TokenPrice, ...]:
    """Return the book "default": public prices with their dates and sources, read once per process."""
    return tuple(
        TokenPrice(
            DEFAULT_BOOK,
            row["provider"],
            row["model"],
            float(row["input_per_mtok"]),
            float(row["cached_input_per_mtok"]) if row["cached_input_per_mtok"] else None,
            float(row["output_per_mtok"]),
            date.fromisoformat(row["date"]),
            source=row["source"],
            note=row["note"],
        )
        for row in shipped_rows("token_prices.csv")
    )


def token_prices_of(connection: sa.Connection, books: Sequence[str] = ()) -> list[TokenPrice]:
    """Return all token prices of these books, or of all, by book, provider and model, the newest first."""
    statement = sa.select(*(table.c[name] for name in _FIELDS))
    if books:
        statement = statement.where(table.c.book.in_(books))
    found = [TokenPrice(*row) for row in connection.execute(statement)]
    if not books or DEFAULT_BOOK in books:
        found += shipped_token_prices()
    return sorted(found, key=lambda p: (p.book == DEFAULT_BOOK, p.book, p.provider, p.model, -p.date.toordinal()))


def save_token_prices(
    connection: sa.Connection, prices: Sequence[TokenPrice], *, replace_book: str | None = None
) -> int:
    """Store prices, replacing those of the same identity; returns how many were replaced or removed.

    With `replace_book` no other token price of that book is kept. Raises InputError for the book that ships.
    """
    return save_rows(connection, table, _IDENTITY, prices, replace_book)


def current(prices: Iterable[TokenPrice], as_of: date | None = None) -> list[TokenPrice]:
    """Return the newest price of each provider and model, none after `as_of`; those of the book "own" come first."""
    found: dict[tuple[str, str], TokenPrice] = {}
    for price in prices:
        if as_of is not None and price.date > as_of:
            continue
        same = price.provider.casefold(), fold(price.model)
        if same not in found or _precedence(price) > _precedence(found[same]):
            found[same] = price
    return [found[same] for same in sorted(found)]


def _precedence(price: TokenPrice) -> tuple[bool, bool, int]:
    return price.book == OWN_BOOK, price.book != DEFAULT_BOOK, price.date.toordinal()


def named(text: str, prices: Sequence[TokenPrice]) -> list[TokenPrice]:
    """Return the prices that a name means: a provider, a model, or "provider/model", each of them also as a glob.

    Raises UnknownNameError, with the nearest names.
    """
    provider, slash, model = text.partition("/")
    found = [price for price in prices if matches(text, price.provider) or matches(text, price.model)]
    if slash:
        found += [
            price
            for price in prices
            if price not in found and matches(provider, price.provider) and matches(model, price.model)
        ]
    if not found:
        names = list(dict.fromkeys([*(price.name for price in prices), *(price.provider for price in prices)]))
        near = [] if has_wildcard(text) else nearest(text, names)
        raise UnknownNameError("token API", text, near, hint="gpuscout prices list names them; prices import adds more")
    return found


def check_cached_share(share: float) -> None:
    """Raise InputError unless it is a share from 0 to 1."""
    if not 0 <= share <= 1:
        raise InputError(f"invalid share of cached input {share:g}: expected a number from 0 to 1")
