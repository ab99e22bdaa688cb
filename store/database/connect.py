"""Opens a store: reaches the database, checks that it is ours and at our revision, and hands out transactions."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

import sqlalchemy as sa
from sqlalchemy import Connection as Connection  # for annotations outside the store, which alone knows SQLAlchemy
from sqlalchemy.exc import OperationalError, ProgrammingError

from gpuscout.store.database import driver_errors, drivers, urls
from gpuscout.store.database.filesystems import network_filesystem
from gpuscout.store.database.kept import kept
from gpuscout.store.database.state import Watch
from gpuscout.store.database.waiting import Waits, while_asked
from gpuscout.store.schema import HEAD, REVISION_TABLE, REVISIONS, create_tables
from gpuscout.sweeps.errors import NoStoreError, StoreOutdatedError, StoreUnreachableError

_SQLITE_MAGIC = b"SQLite format 3\0"
REVISION_QUERY: sa.Select[str] = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(REVISION_TABLE))
# Any number will do, as long as all versions of gpuscout use the same.
_MIGRATION_LOCK = 0x67707573


class Store:
    """One result store, on SQLite or Postgres. Made by `open_store`; close it, or use it in a `with` statement.

    Threads may share it, each with its own transaction (a store in memory has one connection: one thread, one
    transaction at a time). Processes open their own. Everybody may read at any time, also while a runner writes.
    Sweeps are run by several runners at once only on Postgres; a SQLite store has one at a time (`RunnerLock`).
    Expected failures of the place (locked, full, unreachable, damaged) are raised as StoreBusyError and
    StoreUnreachableError by both transactions below. `immutable`: a SQLite file that this user can only read, in a
    folder where nothing can be written either.
    """

    def __init__(self, url: sa.URL, *, immutable: bool = False) -> None:
        self.url = url
        self.waits = Waits()
        self.immutable = immutable
        self.engine = drivers.make_engine(url, self.waits, immutable=immutable)
        self._watch: Watch | None = None
        self._wrote = False

    @property
    def url_for_display(self) -> str:
        """The store as it may be printed and given to `--db`: a file's path, or a URL without its password."""
        return urls.display(self.url)

    @property
    def path(self) -> Path | None:
        """The SQLite file; None for a store in memory or on Postgres."""
        return urls.sqlite_path(self.url)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a transaction that sees one state of the store and cannot write: the database refuses."""
        with (
            while_asked(),
            driver_errors.translated(self.url_for_display, writes=False),
            self._used() as watch,
            drivers.connect(self.engine, writes=False) as connection,
            connection.begin(),
        ):
            if watch is not None:
                watch.recall(connection)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a transaction that writes: committed at the end of the block, rolled back when it raises.

        On SQLite it excludes other writers from its first moment on; keep it short.
        """
        with (
            driver_errors.translated(self.url_for_display),
            self._used(),
            drivers.connect(self.engine, writes=True) as connection,
            connection.begin(),
        ):
            self._wrote = True
            yield connection

    def keep(self) -> None:
        """Stay connected when closed, and remember what was read for as long as nothing is written."""
        self._watch = Watch(self.engine, self.path, fixed=self.immutable)

    def state(self) -> str | None:
        """Return a text that stays the same as long as nothing is written; None for a store that is not kept.

        Raises StoreUnreachableError.
        """
        with driver_errors.translated(self.url_for_display, writes=False), self._used() as watch:
            return watch.state() if watch is not None else None

    def rest(self, after_s: float) -> None:
        """Close the connections to a kept file that nobody has used for so long; the next question opens it again."""
        if self._watch is not None:
            self._watch.rest(after_s)

    def forget(self) -> None:
        """End what `keep` began, and close all connections once nobody uses them."""
        watch, self._watch = self._watch, None
        if watch is None:
            self.close()
        else:
            watch.end()

    @contextmanager
    def _used(self) -> Iterator[Watch | None]:
        watch = self._watch
        with nullcontext() if watch is None else watch.used():
            yield watch

    def close(self) -> None:
        """Close all connections; those of a store that is kept stay for whoever opens it next."""
        if self._watch is None:
            if self._wrote and self.path is not None and self.path.exists():
                drivers.empty_log(self.engine)
            self._wrote = False
            self.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _store_at(url: sa.URL, *, immutable: bool = False) -> Store:
    path = urls.sqlite_path(url)
    if path is None and url.get_backend_name() == "sqlite":
        return Store(url)
    file = _identity(path) if path is not None and path.exists() else None
    place = url.render_as_string(hide_password=False)
    return kept(place, (file, immutable), lambda: Store(url, immutable=immutable)) or Store(url, immutable=immutable)


def open_store(url: str, *, create: bool = False, like: Path | None = None) -> Store:
    """Open the store at `url`: sqlite:///FILE, a bare path, sqlite:// (in memory) or postgresql://….

    With `create`, a missing file or an empty database becomes a new store at the current revision (a store in memory
    always does); nobody may read a new file who may not read `like`. An existing store is never migrated here.

    Raises InputError for an invalid URL, StoreUnreachableError when there is no store or it cannot be reached,
    StoreOutdatedError when its revision is not the one this version works with, StoreBusyError when it is locked.
    """
    store = reach(url, create=create, like=like)
    try:
        revision = store_revision(store)
        if revision is None:
            if not create and (store.path is not None or not store.is_sqlite):
                raise no_store(store.url_for_display)
            _create_schema(store)
        else:
            _require_head(revision, store)
        if store.path is not None and not store.immutable:
            with driver_errors.translated(store.url_for_display), store._used():
                drivers.use_wal(store.engine, store.waits)
    except BaseException:
        store.close()
        raise
    return store


def reach(url: str, *, create: bool = False, like: Path | None = None) -> Store:
    """Return a store whose place has been looked at but whose revision has not: for upgrades and `db status`.

    Raises StoreUnreachableError for a SQLite path that cannot hold a store, or that is missing without `create`.
    """
    parsed = urls.parse_url(url)
    path = urls.sqlite_path(parsed)
    if path is None:
        return _store_at(parsed)
    _check_file(path, create=create)
    if create and like is not None:
        _create_like(path, like)
    # Reading a file in WAL mode makes files beside it, unless nobody can change it.
    read_only = path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    return _store_at(parsed, immutable=read_only and not create and not _has_wal(path))


def _has_wal(path: Path) -> bool:
    """Return whether what was written last stands beside the file: without
    it the store would be read as it was before.
    """
    beside = path.with_name(f"{path.name}-wal")
    return beside.exists() and beside.stat().st_size > 0


def store_revision(store: Store) -> str | None:
    """Return the revision of the schema; None for an empty database.

    Raises StoreUnreachableError for a database that holds something else.
    """
    revision = _stored_revision(store)
    if revision is not None:
        return revision
    with store.reading() as connection:
        tables = sorted(sa.inspect(connection).get_table_names())
    if REVISION_TABLE in tables:
        # Another process may have created the store since the first look.
        revision = _stored_revision(store)
        if revision is None:
            raise StoreUnreachableError(f"cannot use {store.url_for_display}: its table {REVISION_TABLE} is damaged")
        return revision
    if tables:
        raise StoreUnreachableError(
            f"{store.url_for_display} is not a gpuscout store: it holds other tables ({', '.join(tables[:3])}"
            f"{', …' if len(tables) > 3 else ''})",
            hint="give gpuscout a file, a database or a schema of its own",
        )
    return None


def _stored_revision(store: Store) -> str | None:
    """Return the revision in its table; None: there is no such table, or it does not hold exactly one."""
    try:
        with store.reading() as connection:
            revisions = connection.execute(REVISION_QUERY).scalars().all()
    except (OperationalError, ProgrammingError):
        return None  # most likely there is no such table; ask, rather than guess from a driver's text
    return revisions[0] if len(revisions) == 1 else None


def lock_for_migration(connection: sa.Connection) -> None:
    """Let no two processes create or upgrade a store at once; SQLite's BEGIN IMMEDIATE already sees to that."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))


def _create_schema(store: Store) -> None:
    with store.writing() as connection:
        lock_for_migration(connection)
        # Somebody may have been faster.
        if not sa.inspect(connection).has_table(REVISION_TABLE):
            create_tables(connection)


def require_known(revision: str, store: Store) -> None:
    """Raise StoreOutdatedError for a revision of the future."""
    if revision not in REVISIONS:
        raise StoreOutdatedError(
            f"{store.url_for_display} was written by a newer gpuscout: its revision is {revision}, "
            f"this version knows {HEAD} and older",
            hint="pip install --upgrade gpuscout",
        )


def no_store(place: str) -> NoStoreError:
    """Return the error for a place without a store."""
    return NoStoreError(f"no store at {place}: run a sweep first", hint="gpuscout run SPEC, or --db for another")


def _require_head(revision: str, store: Store) -> None:
    require_known(revision, store)
    if revision != HEAD:
        raise StoreOutdatedError(
            f"{store.url_for_display} is at revision {revision}, this version of gpuscout needs {HEAD}",
            hint=f"gpuscout db upgrade --db {shlex.quote(store.url_for_display)}",
        )


# Device and number of files that begin as SQLite's do.
_known_files: set[tuple[int, int]] = set()


def _check_file(path: Path, *, create: bool) -> None:
    """Check a path before SQLite fails with a vaguer message, or changes a file that is not a store.

    A file is looked into once: when a process closes a file, it lets go of all locks that SQLite holds on it there.
    Another process would then clear away the log that connections of this one still read and write.
    """
    try:
        if path.exists() and _identity(path) in _known_files:
            return
        start = _start_of(path)
    except OSError as error:
        raise StoreUnreachableError(f"cannot open {path}: {error.strerror or error}") from error
    if not start and not create:
        raise no_store(str(path))
    if not start and not path.parent.is_dir():
        raise StoreUnreachableError(f"cannot create {path}: no directory {path.parent}")
    if start and start != _SQLITE_MAGIC:
        raise StoreUnreachableError(f"{path} is not a SQLite database", hint="choose another file with --db")
    if start:
        _known_files.add(_identity(path))


def _identity(path: Path) -> tuple[int, int]:
    """Return the device and number of a file. A file that replaced another is another file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _create_like(path: Path, like: Path) -> None:
    try:
        mode = like.stat().st_mode & 0o666
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    except FileExistsError:
        return
    except OSError as error:
        raise StoreUnreachableError(f"cannot create {path}: {error.strerror or error}") from error


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a file on a local disk, none of a missing one."""
    if path.is_dir():
        raise StoreUnreachableError(
            f"{path} is a directory, not a store", hint=f"--db {shlex.quote(str(path / 'gpuscout.db'))}"
        )
    kind = network_filesystem(path)
    if kind is not None:
        raise StoreUnreachableError(
            f"{path} is on a network file system ({kind}), where SQLite can lose data",
            hint="use a local disk, or a Postgres store: --db postgresql://…",
        )
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC))
    except FileNotFoundError:
        return b""
