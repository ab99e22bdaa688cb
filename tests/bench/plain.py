"""The baselines: the rows of a finished store, inserted again with nothing but the database driver."""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gpuscout.store.database.connect import open_store
from gpuscout.store.schema import metadata

PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "temp_store=MEMORY", "cache_size=-65536", "foreign_keys=ON")


_OF_TASKS = {"tasks": "id", "operating_points": "task_id", "membership": "task_id"}


def portions(rows: dict[str, list[tuple[Any, ...]]], blocks: int) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """The rows as so many transactions, parents before children: what tasks refer to first, then task by task."""
    columns = {table.name: [column.name for column in table.columns] for table in metadata.sorted_tables}
    about = {
        name: sorted(rows[name], key=itemgetter(columns[name].index(column))) for name, column in _OF_TASKS.items()
    }
    ids = {name: [row[columns[name].index(column)] for row in about[name]] for name, column in _OF_TASKS.items()}
    yield {name: content for name, content in rows.items() if name not in (*_OF_TASKS, "failures")}
    last = 0
    for block in range(blocks):
        until = ids["tasks"][len(ids["tasks"]) * (block + 1) // blocks - 1]
        yield {name: about[name][bisect_right(ids[name], last) : bisect_right(ids[name], until)] for name in _OF_TASKS}
        last = until


def sqlite_seconds(source: Path, target: Path) -> float:
    """`sqlite3.executemany` from tuples that are ready: same schema, indexes, pragmas and number of transactions."""
    with closing(sqlite3.connect(source)) as store:
        schema = [row[0] for row in store.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")]
        rows = {table.name: store.execute(f"SELECT * FROM {table.name}").fetchall() for table in metadata.sorted_tables}
        blocks = max(1, store.execute("SELECT count(*) FROM blocks").fetchone()[0])
    with closing(sqlite3.connect(target, isolation_level=None)) as plain:
        for pragma in PRAGMAS:
            plain.execute(f"PRAGMA {pragma}")
        for statement in schema:
            plain.execute(statement)
        ready = list(portions(rows, blocks))
        started = time.perf_counter()
        for portion in ready:
            plain.execute("BEGIN IMMEDIATE")
            for table, part in portion.items():
                if part:
                    plain.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(part[0]))})", part)
            plain.execute("COMMIT")
        return time.perf_counter() - started


def postgres_seconds(source: str, target: str) -> float:
    """psycopg's `COPY … FROM STDIN` with `write_row` for every row: same schema, one transaction a block."""
    import psycopg

    with open_store(source) as store, store.reading() as connection:
        rows = {
            table.name: [tuple(row) for row in connection.execute(sa.select(table))] for table in metadata.sorted_tables
        }
        blocks = max(1, len(rows["blocks"]))
    open_store(target, create=True).close()
    with psycopg.connect(target) as plain:
        ready = list(portions(rows, blocks))
        started = time.perf_counter()
        for portion in ready:
            for table, part in portion.items():
                if part:
                    with plain.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                        for row in part:
                            copy.write_row(row)
            plain.commit()
        return time.perf_counter() - started
