"""Sessions on a Postgres server: what each is set to, waits that can be ended, and poolers in between.

Imported only for a Postgres store, since psycopg is optional.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import capabilities, pq, waiting
from psycopg.types.array import ListBinaryDumper

from gpuscout.store.database.waiting import Waits
from gpuscout.sweeps.errors import InputError, StoreUnreachableError

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
# How values are written: a database, a role or a URL may say otherwise, and then text would come back as other text.
_FORMS = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
}
# A ranking of a hundred thousand tasks keeps a point of each: with less it goes by way of the disk.
_WORK_MEM = "64MB"
_LOCK_TIMEOUT = "30s"
_CANCEL_S = 0.3
_CHECKED = "gpuscout_one_session"

# It warns of what it leaves out after an error, which is raised anyway.
logging.getLogger("psycopg").setLevel(logging.ERROR)


class Session(psycopg.Connection[Any]):
    """A connection whose waits are those of its store. `pooled`: something stands between it and the server."""

    waits = Waits()
    server = "the server"
    pooled = False

    def wait(self, gen: Any, interval: float = 0.1, *more: Any, **others: Any) -> Any:
        """Return the result of psycopg's wait for the server, with `look_up` called now and then.

        Whoever stops waiting takes the request back, as far as the server still listens, and ends the connection.
        """
        try:
            return waiting.wait(self._watched(gen), self.pgconn.socket, interval, *more, **others)
        except (KeyboardInterrupt, SystemExit, StoppedWaiting):
            try:
                if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE and capabilities.has_cancel_safe():
                    with suppress(psycopg.Error):
                        self.cancel_safe(timeout=_CANCEL_S)
            finally:
                self.close()
            raise

    def _watched(self, gen: Any) -> Any:
        wait = self.waits.begin(f"an answer of {self.server}")
        ready = None
        try:
            while True:
                ready = yield gen.send(ready)
                if not ready:
                    try:
                        wait.look_up()
                    except StoreUnreachableError as stopped:
                        raise StoppedWaiting(stopped.message) from None
        except StopIteration as end:
            return end.value


class StoppedWaiting(psycopg.OperationalError):
    """The wait for an answer was ended from here."""


def connect(waits: Waits, server: str, *args: Any, **options: Any) -> Session:
    """Return a new session, set up.

    Raises the errors of psycopg, and StoreUnreachableError for a database it cannot use.
    """
    options = {name: value for name, value in _GONE_CLIENT.items() if name not in options} | options
    # Looking an address up cannot be interrupted, so that is done beside this thread.
    session = waits.call(lambda: Session.connect(*args, **options), server, abandon=lambda late: late.close())
    session.waits, session.server = waits, server
    try:
        _set_up(session, server)
    except BaseException:
        session.close()
        raise
    return session


def _set_up(session: Session, server: str) -> None:
    if session.info.parameter_status("server_encoding") == "SQL_ASCII":
        raise StoreUnreachableError(
            f"cannot use {server}: its encoding is SQL_ASCII, which does not know what its text means",
            hint="CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
        )
    # Thousands of keys in one parameter: as text they would take longer to write than to look up.
    session.adapters.register_dumper(list, ListBinaryDumper)
    session.execute(f"SELECT {_set(_FORMS)}")
    # A pooler has no process of the server to name, and makes a number up.
    session.pooled = _backend(session) != session.info.backend_pid
    if session.pooled:
        # The server's side belongs to everybody who uses the pooler, and prepared statements may be lost in it.
        session.prepare_threshold = None
    else:
        session.execute(f"SELECT {_set(_GONE_SERVER)}")
        session.execute(
            "SELECT set_config('work_mem', %s, false) "
            "WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes(%s)",
            (_WORK_MEM, _WORK_MEM),
        )
        session.execute(
            "SELECT set_config('lock_timeout', %s, false) "
            "WHERE current_setting('lock_timeout')::interval NOT BETWEEN '1us' AND %s::interval",
            (_LOCK_TIMEOUT, _LOCK_TIMEOUT),
        )
    session.commit()


def _set(settings: dict[str, str]) -> str:
    return ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())


def check_options(options: dict[str, Any]) -> None:
    """Raise InputError for options of a URL that the driver does not know."""
    for name, value in options.items():
        try:
            psycopg.conninfo.make_conninfo("", **{name: value})
        except psycopg.ProgrammingError:
            # Not quoted: in a URL that is not encoded, it may be a part of the password.
            raise InputError(
                "the database URL has an option that Postgres' client library does not know",
                hint="options after ? are settings of the connection, such as sslmode=require or host=/run/postgresql; "
                'a "?" in a password is written %3F',
            ) from None


def require_one_session(connection: sa.Connection, server: str) -> None:
    """Raise StoreUnreachableError when a pooler lends sessions of the server out for single transactions.

    The lock of a runner belongs to a session. Two clients never have the same session at a time unless it is lent out:
    then a second client gets the one that this one just had, or this one has another one afterwards.
    """
    if connection.info.get(_CHECKED):
        return
    session: Any = connection.connection.driver_connection
    if session.pooled:
        other = connection.engine.raw_connection()
        session.set_autocommit(True)
        try:
            first = _backend(session)
            theirs = _backend(other.driver_connection)
            if theirs == first or _backend(session) != first:
                raise transaction_pooling(server)
        finally:
            session.set_autocommit(False)
            other.close()
    connection.info[_CHECKED] = True


def transaction_pooling(server: str) -> StoreUnreachableError:
    """Return the error for a store that can be read but not written to."""
    return StoreUnreachableError(
        f"cannot write to {server}: a pooler (such as PgBouncer in transaction mode) gives every transaction another "
        "session, and the lock of a runner would not hold",
        hint="use session pooling (pool_mode = session) or the server's own address; reading works as it is",
    )


def _backend(session: Any) -> int:
    """Return the process of the server that serves this session."""
    return int(session.execute("SELECT pg_backend_pid()").fetchone()[0])
