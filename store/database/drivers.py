"""Database URLs, the one place of engine policy, and driver errors in the words of `gpuscout.sweeps.errors`.

SQLite: WAL, so that readers never wait for the runner; `BEGIN IMMEDIATE` for writers, because a transaction that starts
by reading and then writes fails instead of waiting when somebody wrote in between; `synchronous=NORMAL`, which in
WAL mode loses nothing when a process is killed. A power failure may take the last transactions but never damages the
file, and blocks that went with them are simply computed again.
Postgres: READ COMMITTED for writers, since claims and commits are conditional statements that need the newest rows;
REPEATABLE READ, READ ONLY for readers, so that one question sees one state.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import StaticPool

from gpuscout.sweeps.errors import GpuscoutError, InputError, StoreBusyError, StoreUnreachableError

# Serialisation failure, deadlock, lock timeout; too many connections; an idle session ended, shutdown, crash, starting.
_PASSING = ("40001", "40P01", "55P03", "53300", "25P03", "57P01", "57P02", "57P03", "57P05")
OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
WAIT_FOR_LOCK_S = 30
_WRITES = "gpuscout_writes"
# Without these a network that goes silent is noticed after a quarter of an hour here and two hours by the server, which
# keeps locks and claims until then; so, after about a minute.
_GONE_CLIENT = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}
_GONE_SERVER = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",  # ms
}
# A ranking of a hundred thousand tasks keeps a point of each: with less it goes by way of the disk.
_WORK_MEM = "64MB"
_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")


def parse_url(text: str) -> sa.URL:
    """A SQLite or Postgres URL; anything without "://" is the path of a SQLite file.

    Raises InputError for other databases. No message repeats `text`, which may hold a password.
    """
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser()) if text != ":memory:" else None)
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise InputError("this is not a database URL", hint="use sqlite:///FILE or postgresql://…") from error
    if url.drivername in _POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.host or url.query:
            raise InputError(
                f"a SQLite URL holds nothing but a path: {display(url)}",
                hint="use sqlite:///FILE, or sqlite:////DIRECTORY/FILE for an absolute path",
            )
        return sa.URL.create("sqlite", database=None if url.database in (None, "", ":memory:") else url.database)
    raise InputError(
        f"results cannot be stored in {url.get_backend_name()!r}", hint="use sqlite:///FILE or postgresql://…"
    )


def display(url: sa.URL) -> str:
    """The store for people, and what `--db` takes: the path of a SQLite file, else the URL without its password."""
    path = sqlite_path(url)
    if path is not None:
        return str(path)
    shown = url.set(drivername=url.get_backend_name()).difference_update_query(("password", "sslpassword"))
    return shown.render_as_string(hide_password=True)


def sqlite_path(url: sa.URL) -> Path | None:
    """The file of a SQLite URL; None for a database in memory and for Postgres."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def make_engine(url: sa.URL) -> sa.Engine:
    """An engine under the policy above. Connects to nothing yet.

    Raises StoreUnreachableError when the Postgres driver or a recent enough SQLite library is missing.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    try:
        engine = sa.create_engine(
            url,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            connect_args={name: value for name, value in _GONE_CLIENT.items() if name not in url.query},
        )
    except ImportError as error:
        raise StoreUnreachableError(
            "the Postgres driver (psycopg 3) is not installed", hint="pip install 'gpuscout[postgres]'"
        ) from error

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        from psycopg.types.array import ListBinaryDumper

        # Thousands of keys in one parameter: as text they would take longer to write than to look up.
        connection.adapters.register_dumper(list, ListBinaryDumper)
        with connection.cursor() as cursor:
            for name, value in _GONE_SERVER.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
            less = "pg_size_bytes(current_setting('work_mem')) < pg_size_bytes(%s)"
            cursor.execute(f"SELECT set_config('work_mem', %s, false) WHERE {less}", (_WORK_MEM, _WORK_MEM))
        connection.commit()

    return engine


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise StoreUnreachableError(
            f"Python's SQLite library is {sqlite3.sqlite_version}; the store needs {needed} or newer",
            hint="use a newer Python, or a Postgres store: --db postgresql://…",
        )
    if url.database:
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
        connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def use_wal(engine: sa.Engine) -> None:
    """Put a SQLite file into WAL mode, which it then keeps; nothing happens when it is already.

    The change needs the file for itself. While another connection is in it SQLite refuses at once, whatever its
    timeout (two processes that create one store meet here), so the wait is ours.
    """
    deadline = time.monotonic() + WAIT_FOR_LOCK_S
    raw = engine.raw_connection()
    try:
        while True:
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)
    finally:
        raw.close()


def connect(engine: sa.Engine, *, writes: bool) -> sa.Connection:
    """A connection whose transactions write, or cannot write at all."""
    if engine.dialect.name == "sqlite":
        return engine.connect().execution_options(**{_WRITES: writes})
    if writes:
        return engine.connect()
    return engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


# --- errors ------------------------------------------------------------------------------------------------------


@contextmanager
def translated(where: str, *, writes: bool = True) -> Iterator[None]:
    """Turn what drivers raise about the *place* (locked, full, unreachable, damaged …) into the error tree.

    Mistakes in statements and violated constraints are bugs of ours and pass through; so does an attempt to write
    where only reading was asked for (`writes=False`). `where` names the store.
    """
    try:
        yield
    except Exception as error:
        cause = _of_driver(error)
        if cause is None:
            raise
        known = None if not writes and _refused_write(cause) else translate(cause, where)
        if known is None:
            raise
        raise known from error


def may_pass(error: GpuscoutError) -> bool:
    """Whether what `translated` raised may be over when the transaction is run again.

    So are lost and refused connections, a server that stops or starts, deadlocks and serialisation failures. On
    SQLite nothing is: the wait for its lock is over already.
    """
    cause = _of_driver(error.__cause__)
    if cause is None or isinstance(cause, sqlite3.Error):
        return False
    state: str | None = getattr(cause, "sqlstate", None)
    if state is None:
        return type(cause).__name__ == "OperationalError"
    return state.startswith("08") or state in _PASSING


def is_missing_reference(error: DBAPIError) -> bool:
    """Whether a row could not be stored because one it refers to has been deleted."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY or getattr(error.orig, "sqlstate", None) == "23503"


def _of_driver(error: BaseException | None) -> BaseException | None:
    """The driver's own error; None for any other. Drivers that are used directly raise theirs unwrapped."""
    if isinstance(error, DBAPIError):
        return error.orig
    # Only psycopg's errors have a state; psycopg itself may not be installed.
    return error if isinstance(error, sqlite3.Error) or hasattr(error, "sqlstate") else None


def _refused_write(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_READONLY or getattr(error, "sqlstate", None) == "25006"


def translate(error: BaseException | None, where: str) -> GpuscoutError | None:
    """The error of a driver as one of ours; None when it says nothing about the place."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        # The low byte is the kind, the rest details it.
        return _from_sqlite(code & 0xFF, where, error) if code is not None else None
    return _from_postgres(error, where) if hasattr(error, "sqlstate") else None


def _from_sqlite(kind: int, where: str, error: sqlite3.Error) -> GpuscoutError | None:
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusyError(
            f"{where} is locked by another process", hint="try again when it is done; Postgres takes several writers"
        )
    texts: dict[int, tuple[str, str | None]] = {
        sqlite3.SQLITE_FULL: ("the disk is full", "everything stored so far is kept; make room and run again"),
        sqlite3.SQLITE_READONLY: ("it is read-only", "choose another place with --db"),
        sqlite3.SQLITE_CANTOPEN: (
            "the file or its directory cannot be opened for writing",
            "SQLite keeps its log beside the file; choose another place with --db",
        ),
        sqlite3.SQLITE_PERM: ("access is denied", None),
        sqlite3.SQLITE_AUTH: ("access is denied", None),
        sqlite3.SQLITE_NOTADB: ("it is not a SQLite database", "choose another file with --db"),
        sqlite3.SQLITE_CORRUPT: (
            "the file is damaged",
            "restore a backup, or save what is left: sqlite3 FILE .recover | sqlite3 NEW_FILE",
        ),
        sqlite3.SQLITE_IOERR: (f"the disk failed ({error})", "check the disk; network file systems are not supported"),
    }
    if kind not in texts:
        return None
    text, hint = texts[kind]
    return StoreUnreachableError(f"cannot use {where}: {text}", hint=hint)


def _from_postgres(error: Any, where: str) -> GpuscoutError | None:
    state: str | None = error.sqlstate
    if state in ("40001", "40P01", "55P03"):
        return StoreBusyError(f"another process was in the way in {where}", hint="run the command again")
    if state == "53100":
        return StoreUnreachableError(
            f"cannot use {where}: the server's disk is full", hint="everything stored so far is kept"
        )
    if state == "25006":
        return StoreUnreachableError(f"cannot use {where}: it is read-only", hint="is this a standby server?")
    if state == "42501":
        return StoreUnreachableError(f"cannot use {where}: {_first_line(error)}", hint="ask for the privilege")
    # Class 08 connection, 28 authorisation, 3D no such database, 53 out of resources, 57P shut down. Without a state
    # the server never answered.
    if (state is None and type(error).__name__ == "OperationalError") or (state or "").startswith(
        ("08", "28", "3D", "53", "57P")
    ):
        return StoreUnreachableError(
            f"cannot reach {where}: {_first_line(error)}", hint="check the address, the database and the password"
        )
    return None


def _first_line(error: Any) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
