"""The state of a store: a server looks at it to know whether what was read before is still true."""

from __future__ import annotations

import uuid
from pathlib import Path
from threading import Lock

import sqlalchemy as sa

from gpuscout.store.remembered import Memory, recall

_SNAPSHOT = sa.text("SELECT pg_current_snapshot()::text")


class Watch:
    """Notices when the store at a place changes, and remembers what was read of its present state.

    On Postgres the state is the snapshot of transactions, which writes to other databases of the server change as
    well. On SQLite it is the version that a connection of its own sees: what the file system says of a file changes
    before a commit can be read. `fixed`: a SQLite file that this user can only read, without a log beside it.
    """

    def __init__(self, engine: sa.Engine, fixed: Path | None = None) -> None:
        self._engine = engine
        self._fixed = fixed
        self._lock = Lock()
        self._look: sa.PoolProxiedConnection | None = None
        # Versions are numbers of one connection: another's may be the same by chance.
        self._name = uuid.uuid4().hex
        self._memory = Memory("")

    def state(self) -> str:
        """Return a text that stays the same as long as nothing is written to the store."""
        if self._engine.dialect.name == "postgresql":
            with self._engine.connect() as connection:
                return str(connection.scalar(_SNAPSHOT))
        if self._fixed is not None:
            known = self._fixed.stat()
            return self._named(f"{known.st_ino}-{known.st_size}-{known.st_mtime_ns}")
        with self._lock:
            if self._look is None:
                self._look = self._engine.raw_connection()
            return self._named(self._look.cursor().execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connection that looks."""
        with self._lock:
            if self._look is not None:
                self._look.close()
                self._look = None

    def _named(self, version: object) -> str:
        return f"{self._name} {version}"

    def recall(self, connection: sa.Connection) -> None:
        """Let a transaction that has read nothing yet find what was read before of the state that it sees."""
        if self._engine.dialect.name == "postgresql":
            state = str(connection.scalar(_SNAPSHOT))
        else:
            state = self.state()
            # SQLite's transactions see the state of their first statement.
            connection.exec_driver_sql("SELECT 1 FROM sqlite_schema LIMIT 1").all()
            if state != self.state():
                return
        with self._lock:
            if self._memory.state != state:
                self._memory = Memory(state)
            recall(connection, self._memory)
