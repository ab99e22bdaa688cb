"""The baselines: the rows of a finished store, inserted again with nothing but the database driver."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from gpuscout.store.connect import open_store
from gpuscout.store.schema import metadata

PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "temp_store=MEMORY", "cache_size=-65536", "foreign_keys=ON")


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
        started = time.perf_counter()
        for block in range(blocks):
            plain.execute("BEGIN IMMEDIATE")
            for table, content in rows.items():
                part = content[len(content) * block // blocks : len(content) * (block + 1) // blocks]
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
        started = time.perf_counter()
        for block in range(blocks):
            for table, content in rows.items():
                part = content[len(content) * block // blocks : len(content) * (block + 1) // blocks]
                if part:
                    with plain.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                        for row in part:
                            copy.write_row(row)
            plain.commit()
        return time.perf_counter() - started
