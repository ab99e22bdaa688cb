"""`gpuscout db status` and `gpuscout db upgrade`: the revision of a store, and bringing it to this version's."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from gpuscout.store.database import driver_errors, drivers
from gpuscout.store.database.connect import (
    REVISION_QUERY,
    Store,
    lock_for_migration,
    no_store,
    reach,
    require_known,
    store_revision,
)
from gpuscout.store.database.locks import FileLock, lock_file
from gpuscout.store.schema import HEAD, REVISIONS
from gpuscout.sweeps.errors import StoreUnreachableError


@dataclass(frozen=True)
class StoreStatus:
    """Version of a store's schema. `url` is without a password; `current` None: there is no store yet."""

    url: str
    current: str | None
    head: str

    @property
    def up_to_date(self) -> bool:
        return self.current == self.head

    @property
    def summary(self) -> str:
        if self.current is None:
            return "no store yet: run a sweep first"
        if self.up_to_date:
            return f"up to date (revision {self.current})"
        if self.current in REVISIONS:
            return f"outdated: revision {self.current}, this version of gpuscout needs {self.head}"
        return f"written by a newer gpuscout: revision {self.current}, this version knows {self.head} and older"


@dataclass(frozen=True)
class Upgrade:
    """Result of an upgrade. `backup` None: nothing had to be changed, or the store is on Postgres."""

    url: str
    before: str
    after: str
    backup: Path | None = None

    @property
    def summary(self) -> str:
        if self.before == self.after:
            return f"{self.url} is already at revision {self.after}"
        saved = f"; the file as it was is {self.backup}" if self.backup else ""
        return f"{self.url} upgraded from revision {self.before} to {self.after}{saved}"


def store_status(url: str) -> StoreStatus:
    """Return the revision of a store. Raises StoreUnreachableError or StoreBusyError when nobody can tell."""
    with reach(url) as store:
        return StoreStatus(store.url_for_display, store_revision(store), HEAD)


def upgrade_store(url: str) -> Upgrade:
    """Bring a store to this version's revision, entirely or not at all; nothing happens when it is there already.

    A SQLite file is copied first, to `<file>.backup-<revision>-<time>` beside it (of a Postgres store, make a dump).
    Raises StoreBusyError while a runner uses a SQLite store, StoreUnreachableError when there is no store, and
    StoreOutdatedError for a store written by a newer version.
    """
    with reach(url) as store:
        if _revision(store) != HEAD:
            with _no_runner(store):
                # Somebody else may have upgraded it meanwhile.
                found = _revision(store)
                backup = _back_up(store.path, found) if store.path is not None and found != HEAD else None
                before = _migrate(store)
                return Upgrade(store.url_for_display, before, HEAD, backup)
        return Upgrade(store.url_for_display, HEAD, HEAD)


def _revision(store: Store) -> str:
    revision = store_revision(store)
    if revision is None:
        raise no_store(store.url_for_display)
    require_known(revision, store)
    return revision


def _no_runner(store: Store) -> FileLock | nullcontext[None]:
    return FileLock(lock_file(store.path), wait_s=0.0) if store.path is not None else nullcontext()


def _back_up(path: Path, revision: str) -> Path:
    """Return a consistent copy of a SQLite file, even while others use it."""
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = path.with_name(f"{path.name}.backup-{revision}-{time}")
    mode = path.stat().st_mode & 0o666  # who may not read the store may not read its backup
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        with (
            driver_errors.translated(str(target)),
            closing(sqlite3.connect(path)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
    except OSError as error:
        raise StoreUnreachableError(f"cannot write {target}: {error.strerror or error}") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _migrate(store: Store) -> str:
    """Bring a store to head; the revision it had."""
    from gpuscout.store.database.migrate import migrate_to_head  # imports alembic

    with driver_errors.translated(store.url_for_display), drivers.connect(store.engine, writes=True) as connection:
        if store.is_sqlite:
            # A table is altered by copying and dropping it, which must not cascade. Only possible outside transactions.
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            lock_for_migration(connection)
            before = connection.execute(REVISION_QUERY).scalar_one()
            migrate_to_head(connection)
            if store.is_sqlite and (broken := connection.execute(sa.text("PRAGMA foreign_key_check")).first()):
                raise RuntimeError(f"the upgrade would break a reference of table {broken[0]}; nothing was changed")
    return before
