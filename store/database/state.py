"""The state of a store: a server looks at it to know whether what was read before is still true."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

import sqlalchemy as sa

from gpuscout.store.remembered import Memory, recall

# With the start of the server: another at the same address may count its transactions alike.
_SNAPSHOT = sa.text("SELECT pg_current_snapshot()::text || ' ' || pg_postmaster_start_time()::text")
# File systems count time in steps: what was written just now may be written again under the same time.
_SETTLED_S = 2.0


class Watch:
    """Notices when the store at a place changes, and remembers what was read of its present state.

    On Postgres the state is the snapshot of transactions, which writes to other databases of the server change as
    well. On SQLite it is the version that a connection of its own sees: what the file system says of a file changes
    before a commit can be read. A file that has settled, without a log, is told by its times when it is opened, so that
    what was read is still known after a rest. `fixed`: a SQLite file that this user can only read.
    """

    def __init__(self, engine: sa.Engine, path: Path | None = None, *, fixed: bool = False) -> None:
        self._engine = engine
        self._path = path
        self._fixed = fixed
        self._lock = Lock()
        self._users = 0
        self._used = time.monotonic()
        self._ended = False
        self._look: sa.PoolProxiedConnection | None = None
        self._name = ""
        self._settled: tuple[int, str] | None = None
        self._memory = Memory("")

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep the connections for the `with` block."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._used = time.monotonic()
                if self._ended and not self._users:
                    self._disconnect()

    def rest(self, after_s: float) -> None:
        """Close the connections to a file that nobody has used for so long.

        Its log is beside the file for as long as any is open, and would be taken for that of a file that replaces it.
        """
        with self._lock:
            if self._path is not None and not self._users and time.monotonic() - self._used >= after_s:
                self._disconnect()

    def end(self) -> None:
        """Close the connections once nobody uses them."""
        with self._lock:
            self._ended = True
            if not self._users:
                self._disconnect()

    def state(self) -> str:
        """Return a text that stays the same as long as nothing is written to the store."""
        if self._engine.dialect.name == "postgresql":
            with self._engine.connect() as connection:
                return str(connection.scalar(_SNAPSHOT))
        assert self._path is not None
        if self._fixed:
            return _times(self._path) or uuid.uuid4().hex
        with self._lock:
            return self._version(self._path)

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

    def _version(self, path: Path) -> str:
        settled = _settled(path) if self._look is None else None
        if self._look is None:
            self._look = self._engine.raw_connection()
            # Versions are numbers of one connection: another's may be the same by chance.
            self._name = uuid.uuid4().hex
            self._settled = None
        version = int(self._look.cursor().execute("PRAGMA data_version").fetchone()[0])
        if settled is not None and settled == _settled(path):
            self._settled = version, settled
        if self._settled is not None and version == self._settled[0]:
            return self._settled[1]
        return f"{self._name} {version}"

    def _disconnect(self) -> None:
        if self._look is not None:
            self._look.close()
            self._look = None
        self._engine.dispose()


def _settled(path: Path) -> str | None:
    """Return a text of the times of a file that holds all that was written; None: it may not, or was changed lately."""
    with suppress(OSError):
        log = path.with_name(f"{path.name}-wal")
        status = path.stat()
        if time.time() - max(status.st_mtime, status.st_ctime) >= _SETTLED_S and not (
            log.exists() and log.stat().st_size
        ):
            return _times(path)
    return None


def _times(path: Path) -> str | None:
    """Return a text of the times of a file; None: it is gone."""
    try:
        known = path.stat()
    except OSError:
        return None
    return f"{known.st_dev}-{known.st_ino}-{known.st_size}-{known.st_mtime_ns}-{known.st_ctime_ns}"
