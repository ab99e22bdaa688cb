"""Locks of runners on a store: they die with their process, so that nobody waits for a runner that is gone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from gpuscout.store.database import driver_errors, drivers
from gpuscout.store.database.connect import Store
from gpuscout.store.schema import runners
from gpuscout.sweeps.errors import StoreBusyError, StoreUnreachableError

_POLL_S = 0.1
# The second: of a session that was lost before, which is not connected again.
_LOST = (DBAPIError, PendingRollbackError)
_BACKEND: sa.ColumnElement[int] = sa.func.pg_backend_pid()


class RunnerLock:
    """The right to claim blocks, registered as a row of `runners` and proved by a lock that dies with the process.

    SQLite: an exclusive lock on the file `<store>.lock`; there is one runner at a time, so every other runner is dead.
    Postgres: any number of runners, each holding a session advisory lock on a connection of its own.
    In memory: no lock, since no other process can see the store. Several threads may commit under one lock
    (`restore`, `is_alive`); acquiring and releasing is for one of them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._file: FileLock | None = None
        self._session: sa.Connection | None = None
        self._backend: int | None = None
        self._tasks: set[bytes] = set()
        self._session_use = threading.RLock()
        self._runner_id: int | None = None

    @property
    def store(self) -> Store:
        return self._store

    @property
    def runner_id(self) -> int:
        """This runner's id; only while the lock is held."""
        if self._runner_id is None:
            raise RuntimeError("the runner lock is not held")
        return self._runner_id

    @contextmanager
    def held(self, *, wait_s: float | None = 0.0) -> Iterator[RunnerLock]:
        """Acquire the lock for the `with` block."""
        self.acquire(wait_s)
        try:
            yield self
        finally:
            self.release()

    def acquire(self, wait_s: float | None = 0.0) -> None:
        """Become a runner. On SQLite wait up to `wait_s` seconds for another one to finish; None waits for ever.

        Raises StoreBusyError, naming the holder, when the wait was in vain.
        """
        if self._runner_id is not None:
            raise RuntimeError("the runner lock is already held")
        try:
            path = self._store.path
            if path is not None:
                self._file = FileLock(lock_file(path), wait_s=wait_s)
                self._file.acquire()
            with self._store.writing() as connection:
                runner_id = connection.execute(
                    sa.insert(runners)
                    .values(host=socket.gethostname(), pid=os.getpid(), started_at=datetime.now(UTC))
                    .returning(runners.c.id)
                ).scalar_one()
            if not self._store.is_sqlite:
                self._lock_session(runner_id)
            self._runner_id = runner_id
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Stop being a runner. Blocks still claimed are free from now on. Nothing happens when not held."""
        self._runner_id = None
        self._leave_session()
        if self._file is not None:
            self._file.release()
            self._file = None

    def is_alive(self, runner_id: int) -> bool:
        """Return whether the process of this runner still holds its lock."""
        if runner_id == self.runner_id:
            return True
        if self._store.is_sqlite:
            return False
        with self._session_use, driver_errors.translated(self._store.url_for_display):
            # Without a session nobody can tell; taking a living runner for dead would compute its blocks twice.
            if self._session is None:
                raise RuntimeError("the runner lock was lost: restore() it first")
            # Given back when the statement ends, since every statement of this connection is a transaction.
            free = sa.func.pg_try_advisory_xact_lock(*_advisory_key(runner_id))
            return not self._session.execute(sa.select(free)).scalar_one()

    def take_task(self, key: bytes) -> bool:
        """Return whether a task is this runner's to evaluate, until `leave_task` or its end: nobody else has taken it.

        Never waits. Saves work and decides nothing: a task may be stored by whoever has computed it.
        """
        with self._session_use:
            if self._session is None or key in self._tasks:
                return True
            try:
                lock = sa.func.pg_try_advisory_lock(_task_lock(key))
                taken = bool(self._session.execute(sa.select(lock)).scalar_one())
            except _LOST:
                return True
            if taken:
                self._tasks.add(key)
            return taken

    def leave_task(self, key: bytes) -> None:
        """Release the lock of a task. Does nothing when it was not taken."""
        with self._session_use:
            if self._session is not None and key in self._tasks:
                with suppress(*_LOST):
                    self._session.execute(sa.select(sa.func.pg_advisory_unlock(_task_lock(key))))
            self._tasks.discard(key)

    def restore(self) -> None:
        """Take the lock again, for the same runner, if its connection was lost; costs one round trip on Postgres.

        Meanwhile other runners may have taken this one for dead and its blocks for free, which the attempt numbers
        tell. Waits until the server has noticed the end of the old connection.
        """
        runner_id = self.runner_id
        if self._store.is_sqlite:
            return
        with self._session_use:
            if not self._session_answers():
                self._leave_session()
                self._lock_session(runner_id)

    def _session_answers(self) -> bool:
        if self._session is None or self._session.invalidated:
            return False
        try:
            backend = self._session.execute(sa.select(_BACKEND)).scalar_one()
        except DBAPIError:
            return False
        if backend != self._backend:
            from gpuscout.store.database.postgres import transaction_pooling

            raise transaction_pooling(self._store.url_for_display)
        return True

    def _lock_session(self, runner_id: int) -> None:
        with driver_errors.translated(self._store.url_for_display):
            session = drivers.connect(self._store.engine, writes=True).execution_options(isolation_level="AUTOCOMMIT")
            try:
                lock = sa.func.pg_advisory_lock(*_advisory_key(runner_id))
                self._backend = session.execute(sa.select(_BACKEND, lock)).one()[0]
            except BaseException:
                _discard(session)
                raise
        self._session = session

    def _leave_session(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            self._tasks.clear()
            _discard(session)


def _discard(session: sa.Connection) -> None:
    """Close the connection: only a closed one surely holds no lock; a pooled one would go on holding it."""
    if not session.invalidated:
        session.invalidate()
    session.close()


def _advisory_key(runner_id: int) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """Return the key of a lock: all schemas of a database share advisory locks, so the schema is part of it."""
    schema = sa.func.hashtext(sa.literal("gpuscout runner ") + sa.func.current_schema())
    return schema, sa.cast(sa.literal(runner_id), sa.Integer)


def _task_lock(key: bytes) -> sa.ColumnElement[int]:
    """Return a key of another space of advisory locks than the runners'; equal tasks of two schemas share a lock."""
    return sa.cast(sa.literal(int.from_bytes(key[:8], signed=True)), sa.BigInteger)


def lock_file(path: Path) -> Path:
    """Return the lock file of a SQLite store; the same by whichever name the store is reached."""
    return Path(f"{path.resolve()}.lock")


class FileLock:
    """An exclusive lock on a file, released by the operating system when the process ends, however it ends.

    Acquiring waits up to `wait_s` seconds for the present holder; None waits for ever. The file holds the pid, host
    and start of its last holder and is never deleted: whoever waits for a deleted file would own a lock that nobody
    else sees.
    """

    def __init__(self, path: Path, *, wait_s: float | None) -> None:
        self.path = path
        self._wait_s = wait_s
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Raise StoreBusyError, naming the holder, when the wait was in vain."""
        deadline = None if self._wait_s is None else time.monotonic() + self._wait_s
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StoreUnreachableError(f"cannot create {self.path}: {error.strerror}") from error
        try:
            while not _try_lock(descriptor):
                if deadline is not None and time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"another runner holds this store: {_holder(descriptor)}",
                        hint="try again when it has finished; a Postgres store takes several runners at once",
                    )
                time.sleep(_POLL_S)
            note = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(note).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _HELD.add(self)

    def release(self) -> None:
        """Release the lock. Nothing happens when it is not held."""
        _HELD.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # A forked child shares the lock and would keep it alive after the parent's death; closing its copy harms nobody.
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {note['pid']} on {note['host']}, since {note['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that is just starting"
