"""Errors of database drivers in the words of `gpuscout.sweeps.errors`, and what can be told of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError

from gpuscout.sweeps.errors import GpuscoutError, StoreBusyError, StoreUnreachableError

# Serialisation failure, deadlock, lock timeout; too many connections; an idle session ended, shutdown, crash, starting.
_PASSING = ("40001", "40P01", "55P03", "53300", "25P03", "57P01", "57P02", "57P03", "57P05")


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
    """Return whether what `translated` raised may be over when the transaction is run again.

    So are lost and refused connections, a server that stops or starts, deadlocks and serialisation failures. On
    SQLite nothing is: the wait for its lock is over already.
    """
    cause = _of_driver(error.__cause__)
    if cause is None or isinstance(cause, sqlite3.Error):
        return False
    state: str | None = getattr(cause, "sqlstate", None)
    if state is None:
        return _is_lost(cause)
    return state.startswith("08") or state in _PASSING


def is_missing_reference(error: DBAPIError) -> bool:
    """Return whether a row could not be stored because one it refers to has been deleted."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY or getattr(error.orig, "sqlstate", None) == "23503"


def _of_driver(error: BaseException | None) -> BaseException | None:
    """Return the driver's own error; None for any other. Drivers that are used directly raise theirs unwrapped."""
    if isinstance(error, DBAPIError):
        return error.orig
    # Only psycopg's errors have a state; psycopg itself may not be installed.
    return error if isinstance(error, sqlite3.Error) or hasattr(error, "sqlstate") else None


def _refused_write(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_READONLY or getattr(error, "sqlstate", None) == "25006"


def translate(error: BaseException | None, where: str) -> GpuscoutError | None:
    """Return the error of a driver as one of ours; None when it says nothing about the place."""
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
        sqlite3.SQLITE_INTERRUPT: ("the query was cancelled", None),
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
    state: str = error.sqlstate or ""
    if state in ("40001", "40P01", "55P03"):
        return StoreBusyError(f"another process was in the way in {where}", hint="run the command again")
    if state in _OF_PLACE:
        text, hint = _OF_PLACE[state]
        return StoreUnreachableError(f"cannot use {where}: {text or _first_line(error)}", hint=hint)
    if not state and _CLOSED in str(error):
        return StoreUnreachableError(
            f"cannot use {where}: {_first_line(error)}",
            hint="its log says why: it was stopped, or a time-out for sessions is too short for this "
            "(transaction_timeout, idle_session_timeout, idle_in_transaction_session_timeout)",
        )
    # Class 08 connection, 28 authorisation, 3D no such database, 53 out of resources, 57P shut down.
    if state.startswith(("08", "28", "3D", "53", "57P")) or (not state and _is_lost(error)):
        return StoreUnreachableError(
            f"cannot reach {where}: {_first_line(error)}", hint="check the address, the database and the password"
        )
    return None


# Often without the server's reason: it is lost where the server closes a connection on which more was just sent.
_CLOSED = "server closed the connection unexpectedly"

# What a server, a database or a role is set to, by SQLSTATE; None: as the server says it.
_OF_PLACE: dict[str, tuple[str | None, str]] = {
    "53100": ("the server's disk is full", "everything stored so far is kept"),
    "25006": ("it is read-only", "is this a standby server?"),
    "42501": (None, "ask for the privilege"),
    "57014": (None, "a statement_timeout of the server, the database or the role? it is too short for this"),
    "25P03": (None, "idle_in_transaction_session_timeout is too short for this"),
    "25P04": (None, "transaction_timeout is too short for this"),
    "3F000": (None, "its search_path names no schema that exists: create the schema, or ALTER ROLE … SET search_path"),
    "22P05": (
        "a text has characters that its encoding lacks",
        "a database for any text: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
    ),
}


def _is_lost(error: BaseException) -> bool:
    """Return whether an error of psycopg without a state means that there is no connection (any more)."""
    import psycopg

    return isinstance(error, psycopg.OperationalError)


def _first_line(error: Any) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
