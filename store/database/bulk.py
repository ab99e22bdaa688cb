"""Many rows at once: the only place that differs by database for speed.

SQLite gets tuples in one `executemany`. Postgres gets a binary COPY: straight into the table, or, where rows may be
stored already, into a temporary table beside it and from there, in the order of their keys, by one INSERT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from gpuscout.store.database.columns import Coded, Columns, plain, row_count, take
from gpuscout.store.database.pgcopy import copy_rows
from gpuscout.store.portions import portions

__all__ = ["Coded", "Columns", "insert", "insert_missing", "select_by_keys", "stored_ids"]

_KEYS_PER_QUERY = 5_000  # SQLite takes 32,766 parameters at most


def insert(connection: sa.Connection, table: sa.Table, columns: Columns, *, unless_stored: tuple[str, ...] = ()) -> int:
    """Insert rows; with `unless_stored`, those whose values in these (unique) columns are stored already are skipped.

    Columns that are left out get NULL or the next id. Returns how many rows were inserted.
    """
    count = row_count(columns)
    if not count:
        return 0
    names = tuple(column.name for column in table.columns if column.name in columns)
    if connection.dialect.name == "sqlite":
        rows = list(zip(*(plain(columns[name], count) for name in names), strict=True))
        return connection.exec_driver_sql(_sqlite_insert(table, names, unless_stored), rows).rowcount
    if not unless_stored:
        copy_rows(connection, table.name, table, columns)
        return count
    statement = _from_staged(_stage(connection, table, columns), table, names, unless_stored)
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def insert_missing(
    connection: sa.Connection, table: sa.Table, key: str, columns: Columns
) -> tuple[list[int], list[bool]]:
    """Insert the rows whose `key` is not stored yet; give every row's id and whether it was this call that stored it.

    Of rows with equal keys the first counts. Postgres: rows are locked in the order of their keys, so that two
    transactions doing this for the same table cannot deadlock, and those that somebody else is inserting are waited
    for. SQLite: the transaction must be `Store.writing()`, which excludes other writers.
    """
    keys: list[Any] = columns[key]
    first = {value: row for row, value in reversed(list(enumerate(keys)))}
    if connection.dialect.name == "sqlite":
        ids = stored_ids(connection, table, key, keys)
        missing = [row for value, row in first.items() if value not in ids]
        missing.sort()
        start = connection.execute(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))).scalar_one() + 1
        rows = take(columns, missing) | {"id": list(range(start, start + len(missing)))}
        insert(connection, table, rows)
        new = dict(zip(rows[key], rows["id"], strict=True))
    else:
        rows = dict(columns) if len(first) == len(keys) else take(columns, sorted(first.values()))
        names = tuple(column.name for column in table.columns if column.name in rows)
        statement = _from_staged(_stage(connection, table, rows), table, names, (key,))
        new = dict(map(tuple, connection.execute(statement.returning(table.c[key], table.c.id))))
        ids = stored_ids(connection, table, key, [value for value in first if value not in new])
    ids |= new
    return [ids[value] for value in keys], [value in new and first[value] == row for row, value in enumerate(keys)]


def stored_ids(connection: sa.Connection, table: sa.Table, key: str, keys: Sequence[Any]) -> dict[Any, int]:
    """Return the ids of those keys that are stored."""
    rows = select_by_keys(connection, sa.select(table.c[key], table.c.id), table.c[key], keys)
    return dict(map(tuple, rows))


def select_by_keys(
    connection: sa.Connection, statement: sa.Select[*tuple[Any, ...]], column: sa.Column[Any], keys: Sequence[Any]
) -> Iterator[Any]:
    """Yield the rows of `statement` whose `column` is one of `keys`, in no order; any number of keys.

    The statement must have no parameters of its own; values come as the driver gives them.
    """
    if connection.dialect.name == "sqlite":
        for chunk in portions(keys, _KEYS_PER_QUERY):
            # SQLAlchemy would handle every parameter by itself, which takes longer than the query.
            marks: sa.ColumnElement[Any] = sa.literal_column(f"({','.join('?' * len(chunk))})")
            text = statement.where(column.op("IN")(marks)).compile(dialect=connection.dialect)
            yield from connection.exec_driver_sql(str(text), tuple(chunk))
    elif keys:
        kind = postgresql.ARRAY(column.type)
        wanted = statement.where(column == sa.any_(sa.cast(sa.bindparam("keys", type_=kind), kind)))
        # Here, too, SQLAlchemy would handle every key by itself.
        text = wanted.compile(dialect=connection.dialect)
        yield from connection.exec_driver_sql(str(text), {"keys": list(keys)})


@lru_cache
def _sqlite_insert(table: sa.Table, names: tuple[str, ...], unless_stored: tuple[str, ...]) -> str:
    statement = sqlite.insert(table)
    if unless_stored:
        statement = statement.on_conflict_do_nothing(index_elements=unless_stored)
    return str(statement.compile(dialect=sqlite.dialect(), column_keys=list(names)))


def _stage(connection: sa.Connection, table: sa.Table, columns: Columns) -> sa.Table:
    """Put rows into the session's temporary table for `table`, which every transaction leaves empty."""
    staged = _staged(table)
    connection.execute(CreateTable(staged, if_not_exists=True))
    copy_rows(connection, staged.name, table, columns)
    return staged


@lru_cache
def _staged(table: sa.Table) -> sa.Table:
    columns = [sa.Column(column.name, column.type) for column in table.columns]
    return sa.Table(
        f"staged_{table.name}",
        sa.MetaData(),
        *columns,
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DELETE ROWS",
    )


def _from_staged(
    staged: sa.Table, table: sa.Table, names: tuple[str, ...], unless_stored: tuple[str, ...]
) -> postgresql.Insert:
    rows = sa.select(*(staged.c[name] for name in names)).order_by(*(staged.c[name] for name in unless_stored))
    statement = postgresql.insert(table).from_select(list(names), rows)
    return statement.on_conflict_do_nothing(index_elements=unless_stored)
