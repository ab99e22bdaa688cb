"""Many rows at once: every kind of column arrives unchanged, on SQLite by executemany, on Postgres by binary COPY."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from gpuscout.store.database import bulk, pgcopy
from gpuscout.store.database.columns import Coded
from gpuscout.store.database.connect import Store
from gpuscout.store.schema import Id, UtcDateTime

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("digest", sa.LargeBinary(16), nullable=False, unique=True),
    sa.Column("number", sa.Integer, nullable=True),
    sa.Column("large", sa.BigInteger, nullable=True),
    sa.Column("figure", sa.Double, nullable=True),
    sa.Column("word", sa.String(24), nullable=True),
    sa.Column("text", sa.Text, nullable=True),
    sa.Column("flag", sa.Boolean, nullable=True),
    sa.Column("day", sa.Date, nullable=True),
    sa.Column("at", UtcDateTime, nullable=True),
)
NOW = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)


@pytest.fixture
def connection(store: Store) -> Iterator[sa.Connection]:
    with store.writing() as connection:
        metadata.create_all(connection)
        yield connection


def digests(count: int) -> list[bytes]:
    # Bytes that end in NUL must not be shortened.
    return [bytes([count - row]) + bytes(15) for row in range(count)]


def stored(connection: sa.Connection, *names: str) -> list[Any]:
    """The columns of all rows, in the order of their digests."""
    columns = (things.c[name] for name in names)
    return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(things.c.digest.desc()))]


def test_every_kind_of_column(connection: sa.Connection) -> None:
    rows = {
        "digest": digests(3),
        "number": [1, None, -3],
        "large": np.ma.masked_array([2**62, 5, -1], [False, False, True]),
        "figure": np.array([1.5, np.nan, -0.0]),
        "word": Coded(np.array([1, 0, 2]), ["memory", "é", None]),
        "text": ["", None, "a" * 5_000 + "ü"],
        "flag": np.array([True, False, True]),
        "day": [date(1999, 12, 31), None, date(2026, 2, 3)],
        "at": NOW,
    }
    assert bulk.insert(connection, things, rows) == 3
    assert stored(connection, *list(rows)[1:]) == [
        (1, 2**62, 1.5, "é", "", True, date(1999, 12, 31), NOW),
        (None, 5, None, "memory", None, False, None, NOW),
        (-3, None, 0.0, None, "a" * 5_000 + "ü", True, date(2026, 2, 3), NOW),
    ]


def test_lists_of_times(connection: sa.Connection) -> None:
    before = datetime(1969, 7, 20, 20, 17, 40, 1, tzinfo=UTC)
    bulk.insert(connection, things, {"digest": digests(3), "at": [NOW, None, before]})
    assert stored(connection, "at") == [(NOW,), (None,), (before,)]


def test_no_rows_are_no_statement(connection: sa.Connection) -> None:
    assert bulk.insert(connection, things, {"digest": [], "number": 7}) == 0
    assert bulk.insert_missing(connection, things, "digest", {"digest": [], "number": 7}) == ([], [])
    assert stored(connection, "id") == []


def test_what_is_stored_is_left_alone(connection: sa.Connection) -> None:
    one, two, three = digests(3)
    bulk.insert(connection, things, {"digest": [one], "number": 1})
    assert bulk.insert(connection, things, {"digest": [two, one], "number": 2}, unless_stored=("digest",)) == 1
    ids, inserted = bulk.insert_missing(
        connection, things, "digest", {"digest": [three, one, three, two], "number": np.array([3, 9, 9, 9])}
    )
    assert inserted == [True, False, False, False]
    assert stored(connection, "id", "number") == [(ids[1], 1), (ids[3], 2), (ids[0], 3)]
    assert ids[0] == ids[2]


def test_broken_rules_are_what_sqlalchemy_calls_them(store: Store) -> None:
    def store_twice() -> None:
        with store.writing() as connection:
            metadata.create_all(connection)
            bulk.insert(connection, things, {"digest": [b"x" * 16] * 2})

    with pytest.raises(IntegrityError):
        store_twice()


def test_rows_are_laid_out_in_parts_of_bounded_size(connection: sa.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgcopy, "_MOST_BYTES", 3_000)
    texts = ["x" * (row * 37 % 1_000) for row in range(200)]
    rows = {"digest": digests(200), "text": texts, "figure": np.arange(200.0)}
    assert all(len(part) < 10_000 for part in pgcopy.encoded(things, rows))
    bulk.insert(connection, things, rows)
    assert stored(connection, "text", "figure") == list(zip(texts, np.arange(200.0), strict=True))


text = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=300)
integer = st.none() | st.integers(-(2**31), 2**31 - 1)
figure = st.none() | st.floats(allow_nan=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(text, integer, figure, st.none() | st.booleans()), max_size=30))
def test_what_is_written_is_read(connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
    connection.execute(sa.delete(things))
    columns = {
        "digest": digests(len(rows)),
        **{name: [row[i] for row in rows] for i, name in enumerate(("text", "number", "figure", "flag"))},
    }
    bulk.insert(connection, things, columns)
    assert stored(connection, "text", "number", "figure", "flag") == rows
