"""The one place of engine policy: how a database is connected to, and what its transactions may do.

SQLite: WAL, so that readers never wait for the runner; `BEGIN IMMEDIATE` for writers, because a transaction that starts
by reading and then writes fails instead of waiting when somebody wrote in between; `synchronous=NORMAL`, which in
WAL mode loses nothing when a process is killed. A power failure may take the last transactions but never damages the
file, and blocks that went with them are simply computed again.
Postgres: READ COMMITTED for writers, since claims and commits are conditional statements that need the newest rows;
REPEATABLE READ, READ ONLY for readers, so that one question sees one state. What its sessions are set to is in
`postgres.py`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, StaticPool

from gpuscout.store.database.urls import display
from gpuscout.store.database.waiting import Waits, is_late, is_limited
from gpuscout.sweeps.errors import StoreUnreachableError

OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
WAIT_FOR_LOCK_S = 30
_WRITES = "gpuscout_writes"
# SQLite waits for its lock where Ctrl-C does not reach it, so it is asked again and again.
_LOCK_STEP_MS = 100
# Of SQLite's virtual machine: about a millisecond.
_STEPS_BETWEEN_LOOKS = 20_000


def make_engine(url: sa.URL, waits: Waits | None = None, *, immutable: bool = False) -> sa.Engine:
    """Return an engine under the policy above, whose waits are `waits`. Connects to nothing yet.

    `immutable`: a SQLite file that nobody can write, so that SQLite needs no files beside it.
    Raises StoreUnreachableError when the Postgres driver or a recent enough SQLite library is missing, InputError for
    options in the URL that the driver does not know.
    """
    waits = waits or Waits()
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, waits, immutable=immutable)
    try:
        engine = sa.create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True)
        from gpuscout.store.database import postgres
    except ImportError as error:
        raise StoreUnreachableError(
            "the Postgres driver (psycopg 3) is not installed", hint="pip install 'gpuscout[postgres]'"
        ) from error
    postgres.check_options(dict(url.query))

    @sa.event.listens_for(engine, "do_connect")
    def connect_(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        return postgres.connect(waits, display(url), *arguments, **options)

    return engine


def _sqlite_engine(url: sa.URL, waits: Waits, *, immutable: bool) -> sa.Engine:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise StoreUnreachableError(
            f"Python's SQLite library is {sqlite3.sqlite_version}; the store needs {needed} or newer",
            hint="use a newer Python, or a Postgres store: --db postgresql://…",
        )
    if url.database and immutable:
        place = f"file:{quote(os.path.abspath(url.database))}?immutable=1"
        engine = sa.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(place, uri=True, timeout=WAIT_FOR_LOCK_S), poolclass=NullPool
        )
    elif url.database:
        engine = sa.create_engine(url, connect_args={"timeout": WAIT_FOR_LOCK_S})
    else:
        # A database in memory is its connection: all callers share the one.
        engine = sa.create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # Python would begin transactions by itself, and only before writes.
        connection.isolation_level = None
        for setting in ("foreign_keys=ON", "synchronous=NORMAL", "temp_store=MEMORY", "cache_size=-65536"):
            connection.execute(f"PRAGMA {setting}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        raw: Any = connection.connection.driver_connection
        raw.execute(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        if writes:
            _begin_immediate(raw, waits, display(url))
        else:
            # Only where it is asked for: a look would swallow the KeyboardInterrupt of a command.
            raw.set_progress_handler(is_late if is_limited() else None, _STEPS_BETWEEN_LOOKS)
            raw.execute("BEGIN")

    return engine


def _begin_immediate(raw: sqlite3.Connection, waits: Waits, store: str) -> None:
    wait = waits.begin(f"another process to finish writing to {store}")
    deadline = time.monotonic() + WAIT_FOR_LOCK_S
    raw.execute(f"PRAGMA busy_timeout={_LOCK_STEP_MS}")
    try:
        while True:
            try:
                raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise
            wait.look_up()
    finally:
        raw.execute(f"PRAGMA busy_timeout={1000 * WAIT_FOR_LOCK_S}")


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def use_wal(engine: sa.Engine, waits: Waits) -> None:
    """Put a SQLite file into WAL mode, which it then keeps; nothing happens when it is already.

    The change needs the file for itself. While another connection is in it SQLite refuses at once, whatever its
    timeout (two processes that create one store meet here), so the wait is ours.
    """
    deadline = time.monotonic() + WAIT_FOR_LOCK_S
    wait = waits.begin(f"another process to open {display(engine.url)}")
    raw = engine.raw_connection()
    try:
        while True:
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
            wait.look_up()
            time.sleep(0.01)
    finally:
        raw.close()


def empty_log(engine: sa.Engine) -> None:
    """Bring what SQLite's log holds into the file, unless somebody is reading or writing it just now.

    The last to close a file does so anyway. While others have it open, the file alone is then a whole copy, and its log
    does no harm to another file that is put in its place.
    """
    with suppress(sqlite3.Error, sa.exc.DBAPIError):
        raw = engine.raw_connection()
        try:
            for statement in ("PRAGMA query_only=OFF", "PRAGMA busy_timeout=0", "PRAGMA wal_checkpoint(TRUNCATE)"):
                raw.cursor().execute(statement)
        finally:
            raw.close()


def connect(engine: sa.Engine, *, writes: bool) -> sa.Connection:
    """Return a connection whose transactions write, or cannot write at all.

    Raises StoreUnreachableError for a pooler that a runner cannot work through.
    """
    if engine.dialect.name == "sqlite":
        return engine.connect().execution_options(**{_WRITES: writes})
    if writes:
        from gpuscout.store.database.postgres import require_one_session

        connection = engine.connect()
        try:
            require_one_session(connection, display(engine.url))
        except BaseException:
            connection.close()
            raise
        return connection
    return engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
