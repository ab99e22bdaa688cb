"""Many rows at once: the only place that differs by database for speed.

Rows come as columns (a list of plain Python values each; anything else than a list is the same in every row). SQLite
gets them as tuples in one `executemany`, Postgres as arrays in one `INSERT … SELECT FROM unnest`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

Columns = Mapping[str, Any]
_KEYS_PER_QUERY = 5_000  # SQLite takes 32,766 parameters at most


def insert(
    connection: sa.Connection, table: sa.Table, columns: Columns, *, unless_stored: tuple[str, ...] = ()
) -> None:
    """Insert rows; with `unless_stored`, those whose values in these (unique) columns are stored already are skipped.

    Columns that are left out get NULL or the next id.
    """
    count = _row_count(columns)
    if not count:
        return
    names = tuple(column.name for column in table.columns if column.name in columns)
    if connection.dialect.name == "sqlite":
        values = [
            columns[name] if isinstance(columns[name], list) else repeat(_plain(columns[name]), count) for name in names
        ]
        connection.exec_driver_sql(_sqlite_insert(table, names, unless_stored), list(zip(*values, strict=True)))
    else:
        connection.execute(_postgres_insert(table, names, columns, unless_stored))


def insert_missing(
    connection: sa.Connection, table: sa.Table, key: str, columns: Columns
) -> tuple[list[int], list[bool]]:
    """Insert the rows whose `key` is not stored yet; give every row's id and whether it was this call that stored it.

    Of rows with equal keys the first counts. Postgres: rows are locked in the order of their keys, so that two
    transactions doing this for the same table cannot deadlock, and those that somebody else is inserting are waited
    for. SQLite: the transaction must be `Store.writing()`, which excludes other writers.
    """
    keys: list[Any] = columns[key]
    ids = stored_ids(connection, table, key, keys)
    first = {value: row for row, value in reversed(list(enumerate(keys)))}
    missing = [row for row, value in enumerate(keys) if value not in ids and first[value] == row]
    inserted = [False] * len(keys)
    if missing:
        if connection.dialect.name == "sqlite":
            start = connection.execute(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))).scalar_one() + 1
            rows = _take(columns, missing) | {"id": list(range(start, start + len(missing)))}
            insert(connection, table, rows)
            new = dict(zip(rows[key], rows["id"], strict=True))
        else:
            missing.sort(key=lambda row: keys[row])
            rows = _take(columns, missing)
            names = tuple(column.name for column in table.columns if column.name in rows)
            statement = _postgres_insert(table, names, rows, (key,)).returning(table.c[key], table.c.id)
            new = dict(map(tuple, connection.execute(statement)))
            ids |= stored_ids(connection, table, key, [value for value in rows[key] if value not in new])
        ids |= new
        for row in missing:
            inserted[row] = keys[row] in new
    return [ids[value] for value in keys], inserted


def stored_ids(connection: sa.Connection, table: sa.Table, key: str, keys: Sequence[Any]) -> dict[Any, int]:
    """The ids of those keys that are stored."""
    rows = select_by_keys(connection, sa.select(table.c[key], table.c.id), table.c[key], keys)
    return dict(map(tuple, rows))


def select_by_keys(
    connection: sa.Connection, statement: sa.Select[*tuple[Any, ...]], column: sa.Column[Any], keys: Sequence[Any]
) -> Iterator[Any]:
    """The rows of `statement` whose `column` is one of `keys`, in no order; any number of keys."""
    if connection.dialect.name == "sqlite":
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            chunk = tuple(keys[start : start + _KEYS_PER_QUERY])
            # SQLAlchemy would handle every parameter by itself, which takes longer than the query.
            marks: sa.ColumnElement[Any] = sa.literal_column(f"({','.join('?' * len(chunk))})")
            text = statement.where(column.op("IN")(marks)).compile(dialect=connection.dialect)
            yield from connection.exec_driver_sql(str(text), chunk)
    elif keys:
        array = sa.cast(sa.literal(list(keys), postgresql.ARRAY(column.type)), postgresql.ARRAY(column.type))
        yield from connection.execute(statement.where(column == sa.any_(array)))


def _row_count(columns: Columns) -> int:
    return next((len(values) for values in columns.values() if isinstance(values, list)), 0)


def _take(columns: Columns, rows: list[int]) -> dict[str, Any]:
    return {
        name: [values[row] for row in rows] if isinstance(values, list) else values for name, values in columns.items()
    }


def _plain(value: object) -> object:
    """A value as SQLAlchemy would store it in SQLite."""
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


@lru_cache
def _sqlite_insert(table: sa.Table, names: tuple[str, ...], unless_stored: tuple[str, ...]) -> str:
    statement = sqlite.insert(table)
    if unless_stored:
        statement = statement.on_conflict_do_nothing(index_elements=unless_stored)
    return str(statement.compile(dialect=sqlite.dialect(), column_keys=list(names)))


def _postgres_insert(
    table: sa.Table, names: tuple[str, ...], columns: Columns, unless_stored: tuple[str, ...]
) -> postgresql.Insert:
    lists = [name for name in names if isinstance(columns[name], list)]
    arrays = [
        sa.cast(sa.literal(columns[name], array), array)
        for name in lists
        for array in (postgresql.ARRAY(table.c[name].type),)
    ]
    rows = sa.func.unnest(*arrays).table_valued(*lists, name="new").render_derived()
    values = [rows.c[name] if name in lists else sa.literal(columns[name], table.c[name].type) for name in names]
    statement = postgresql.insert(table).from_select(list(names), sa.select(*values))
    return statement.on_conflict_do_nothing(index_elements=unless_stored) if unless_stored else statement
