"""The state of a store as a short text that differs after every write, for caches of answers."""

from __future__ import annotations

import sqlalchemy as sa

from gpuscout.store.database.connect import Store


def state_of(store: Store) -> str:
    """Return a text that stays the same as long as nothing is written to the store.

    On Postgres it is the snapshot of transactions, which writes to other databases of the server change as well; on
    SQLite what the file system says of the file and its write-ahead log. Empty for a store in memory: never the same.
    Raises StoreUnreachableError.
    """
    if not store.is_sqlite:
        with store.reading() as connection:
            return str(connection.scalar(sa.text("SELECT pg_current_snapshot()::text")))
    if store.path is None:
        return ""
    parts = []
    for file in (store.path, store.path.with_name(f"{store.path.name}-wal")):
        try:
            found = file.stat()
        except FileNotFoundError:
            continue
        parts.append(f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}")
    return ":".join(parts)
