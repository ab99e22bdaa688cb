"""Rows of price books, of GPUs as of tokens: those that ship with gpuscout, and how the store's are replaced."""

from __future__ import annotations

import csv
import io
import pkgutil
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime

import sqlalchemy as sa

from gpuscout.store.portions import portions
from gpuscout.store.prices.prices import DEFAULT_BOOK, OWN_BOOK, Quote
from gpuscout.store.prices.tokens import TokenPrice
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import fault_in, printable


def shipped_rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file of the book "default"."""
    data = pkgutil.get_data("gpuscout.store", f"data/{name}")
    assert data is not None  # it raises if the file is missing
    return list(csv.DictReader(io.StringIO(data.decode())))


def save_rows(
    connection: sa.Connection,
    table: sa.Table,
    identity: Sequence[str],
    prices: Sequence[Quote] | Sequence[TokenPrice],
    replace_book: str | None,
) -> int:
    """Store prices, replacing those of the same identity; returns how many were replaced or removed.

    With `replace_book` nothing else of that book is kept. Raises InputError for the book that ships.
    """
    books = {price.book for price in prices}
    for book in books | ({replace_book} if replace_book else set()):
        check_book_name(book)
    gone = 0
    if replace_book is not None:
        gone = connection.execute(sa.delete(table).where(table.c.book == replace_book)).rowcount
    else:
        columns = [table.c[name] for name in identity]
        stored = connection.execute(sa.select(table.c.id, *columns).where(table.c.book.in_(books)))
        given = {tuple(getattr(price, name) for name in identity) for price in prices}
        ids = [row[0] for row in stored if tuple(row[1:]) in given]
        for some in portions(ids):
            gone += connection.execute(sa.delete(table).where(table.c.id.in_(some))).rowcount
    if prices:
        names = [field.name for field in fields(prices[0])]
        now = datetime.now(UTC)
        rows = [{name: getattr(price, name) for name in names} | {"stored_at": now} for price in prices]
        connection.execute(sa.insert(table), rows)
    return gone


def check_book_name(book: str) -> None:
    """Raise InputError for a name that cannot be given to a book of the store."""
    if book == DEFAULT_BOOK:
        raise InputError(
            f'the book "{DEFAULT_BOOK}" ships with gpuscout and cannot be changed', hint=f"--book {OWN_BOOK}"
        )
    if not book or "," in book or book != book.strip() or fault_in(book):
        raise InputError(f'"{printable(book)}" cannot name a price book', hint="letters, digits, - and _")
