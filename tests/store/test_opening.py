"""Opening a store: what is created, what is refused, and in which words."""

from __future__ import annotations

import importlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from gpuscout.store.database import connect, drivers, filesystems, urls
from gpuscout.store.database.connect import open_store
from gpuscout.store.database.upgrade import store_status
from gpuscout.store.schema import HEAD, REVISION_TABLE, metadata, runners
from gpuscout.sweeps.errors import (
    GpuscoutError,
    InputError,
    StoreBusyError,
    StoreOutdatedError,
    StoreUnreachableError,
)
from tests.support.forked import FORKS
from tests.support.stores import add_runner, create


def refusal(url: str | Path, kind: type[GpuscoutError] = StoreUnreachableError, *, create: bool = True) -> str:
    """The message and hint with which opening fails."""
    with pytest.raises(kind) as caught:
        open_store(str(url), create=create)
    return f"{caught.value.message} | {caught.value.hint}"


def set_revision(url: str, revision: str) -> None:
    with open_store(url, create=True) as store, store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {REVISION_TABLE} SET version_num = '{revision}'")


# --- what can be opened ------------------------------------------------------------------------------------------


def test_a_new_store_is_created_at_head_and_found_again(store_url: str) -> None:
    with open_store(store_url, create=True) as store, store.reading() as connection:
        assert set(sa.inspect(connection).get_table_names()) == {*metadata.tables, REVISION_TABLE}
    with open_store(store_url) as store:
        assert connect.store_revision(store) == HEAD
    assert store_status(store_url).up_to_date


@pytest.mark.parametrize("url", ["sqlite:///{}", "{}", "sqlite+pysqlite:///{}"])
def test_the_ways_to_name_a_file(tmp_path: Path, url: str) -> None:
    path = tmp_path / "with space.db"
    with open_store(url.format(path), create=True) as store:
        assert store.path == path
        assert store.url_for_display == str(path)
    assert path.is_file()


def test_a_relative_path_and_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in ("sqlite:///here.db", "~/there.db"):
        open_store(url, create=True).close()
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["here.db", "there.db"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", ":memory:"])
def test_a_store_in_memory_lives_as_long_as_it_is_open(url: str) -> None:
    with open_store(url) as store:
        assert store.path is None
        add_runner(store)
        with store.reading() as connection:
            assert len(connection.execute(sa.select(runners)).all()) == 1


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    assert f"no store at {path}: run a sweep first" in refusal(path, create=False)
    open_store(str(path), create=True).close()
    open_store(str(path)).close()


def test_a_store_waits_for_nobody_to_be_read(tmp_path: Path) -> None:
    path = str(tmp_path / "gpuscout.db")
    with open_store(path, create=True) as one, open_store(path) as other, one.writing() as writing:
        writing.execute(sa.delete(runners))
        with other.reading() as connection:
            assert connection.execute(sa.select(runners)).all() == []


def test_sqlite_is_set_up_as_documented(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "gpuscout.db"), create=True) as store, store.reading() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout", "query_only")
        }
    assert settings == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "synchronous": 1,
        "busy_timeout": drivers.WAIT_FOR_LOCK_S * 1000,
        "query_only": 1,
    }


@pytest.mark.slow
def test_two_processes_may_create_a_store_at_once(store_url: str) -> None:
    processes = [FORKS.Process(target=create, args=(store_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert store_status(store_url).up_to_date


@pytest.mark.parametrize("inside", ["BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM runners"])
def test_the_change_to_wal_waits_for_whoever_is_in_the_file(tmp_path: Path, inside: str) -> None:
    """As when a second process has just created the same store, or somebody put a copy back into the old mode."""
    path = tmp_path / "gpuscout.db"
    create(str(path))
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        assert other.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
        for statement in inside.split("; "):
            other.execute(statement).fetchall()
        leaves = threading.Timer(0.3, other.execute, ["COMMIT"])
        leaves.start()
        with open_store(str(path)) as store, store.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        leaves.join()


def test_a_store_that_another_process_creates_between_two_looks(store_url: str) -> None:
    """The first look finds no table of revisions; before the second one, somebody else has made it."""
    looks = []

    def somebody_is_faster(context: sa.engine.ExceptionContext) -> None:
        looks.append(str(context.original_exception))
        if len(looks) == 1:
            open_store(store_url, create=True).close()

    sa.event.listen(sa.Engine, "handle_error", somebody_is_faster)
    try:
        open_store(store_url, create=True).close()
    finally:
        sa.event.remove(sa.Engine, "handle_error", somebody_is_faster)
    assert all(REVISION_TABLE in look for look in looks)
    assert len(looks) == 2  # ours, and that of the faster one
    assert store_status(store_url).up_to_date


def test_no_store_imports_alembic_or_ray_or_pydantic(tmp_path: Path) -> None:
    path = tmp_path / "gpuscout.db"
    code = (
        "import sys\n"
        "import gpuscout.store.database.locks, gpuscout.store.database.upgrade, gpuscout.store.results.tasks\n"
        "from gpuscout.store.database.connect import open_store\n"
        "with open_store(sys.argv[1], create=True) as store, store.reading(): pass\n"
        "print([name for name in ('alembic', 'ray', 'pydantic', 'psycopg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_missing_store(tmp_path: Path) -> None:
    path = tmp_path / "gone.db"
    assert f"no store at {path}: run a sweep first" in refusal(path, create=False)
    assert not path.exists()
    assert f"no directory {tmp_path / 'no'}" in refusal(tmp_path / "no" / "a.db")


def test_an_empty_postgres_database(postgres_url: str) -> None:
    assert "run a sweep first" in refusal(postgres_url, create=False)


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    for content in (b"name,gpu\n" * 1000, b"short"):
        path = tmp_path / "results.csv"
        path.write_bytes(content)
        assert f"{path} is not a SQLite database" in refusal(path)
        assert path.read_bytes() == content


def test_a_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE trials (id INTEGER)")
    before = path.read_bytes()
    assert "is not a gpuscout store: it holds other tables (trials)" in refusal(path)
    assert path.read_bytes() == before


def test_a_postgres_database_of_something_else(postgres_url: str) -> None:
    engine = sa.create_engine(urls.parse_url(postgres_url))
    with engine.begin() as connection:
        for name in "abcd":
            connection.exec_driver_sql(f"CREATE TABLE {name} (id INTEGER)")
    engine.dispose()
    assert "it holds other tables (a, b, c, …)" in refusal(postgres_url)


def test_a_schema_of_its_own_beside_other_tables(postgres_url: str) -> None:
    engine = sa.create_engine(urls.parse_url(postgres_url))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER)")
        connection.exec_driver_sql("CREATE SCHEMA scout")
    engine.dispose()
    url = urls.parse_url(postgres_url).update_query_dict({"options": "-csearch_path=scout"})
    with open_store(url.render_as_string(hide_password=False), create=True) as store:
        add_runner(store)


def test_an_outdated_store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(store_url, create=True).close()
    monkeypatch.setattr(connect, "REVISIONS", (HEAD, "8888"))
    monkeypatch.setattr(connect, "HEAD", "8888")
    text = refusal(store_url, StoreOutdatedError)
    assert f"at revision {HEAD}" in text
    assert "needs 8888" in text
    assert "gpuscout db upgrade --db " in text


def test_a_store_of_the_future(store_url: str) -> None:
    set_revision(store_url, "9999")
    text = refusal(store_url, StoreOutdatedError)
    assert f"newer gpuscout: its revision is 9999, this version knows {HEAD}" in text
    assert "pip install --upgrade gpuscout" in text
    assert not store_status(store_url).up_to_date
    assert "newer" in store_status(store_url).summary


def test_a_store_without_its_revision(store_url: str) -> None:
    with open_store(store_url, create=True) as store, store.writing() as connection:
        connection.exec_driver_sql(f"DELETE FROM {REVISION_TABLE}")
    assert f"its table {REVISION_TABLE} is damaged" in refusal(store_url)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "gpuscout.db"
    open_store(str(path), create=True).close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))
    text = refusal(path)
    assert f"cannot use {path}: the file is damaged" in text
    assert ".recover" in text


def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "WAIT_FOR_LOCK_S", 0.05)
    path = tmp_path / "gpuscout.db"
    with (
        open_store(str(path), create=True) as store,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError, match="locked by another process"):
            add_runner(store)


def test_a_full_disk(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "gpuscout.db"), create=True) as store:

        def fill() -> None:
            with store.writing() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
                connection.exec_driver_sql("CREATE TABLE big AS SELECT zeroblob(1000000)")

        with pytest.raises(StoreUnreachableError, match="the disk is full"):
            fill()
        add_runner(store)


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs Unix users")
@pytest.mark.parametrize(
    ("mode", "part", "says"),
    [
        (0o555, "new.db", "cannot be opened for writing"),
        (0o000, "gpuscout.db", "Permission denied"),
    ],
)
def test_a_place_that_is_read_only(tmp_path: Path, mode: int, part: str, says: str) -> None:
    """In a process without root's privileges."""
    place = tmp_path / "place"
    place.mkdir()
    open_store(str(place / "gpuscout.db"), create=True).close()
    place.chmod(mode)
    # Pytest keeps its directories to their owner.
    for parent in (tmp_path, *list(tmp_path.parents)[:3]):
        if parent != Path("/tmp") and parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    told = tmp_path / "told"
    told.touch()
    told.chmod(0o666)
    process = FORKS.Process(target=_open_without_privileges, args=(str(place / part), told))
    process.start()
    process.join()
    place.chmod(0o755)
    assert says in told.read_text()


def _open_without_privileges(url: str, told: Path) -> None:
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        open_store(url, create=True)
    except StoreUnreachableError as error:
        told.write_text(error.message)


def test_an_old_sqlite_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    text = refusal(tmp_path / "gpuscout.db")
    assert "Python's SQLite library is 3.34.1; the store needs 3.35.0 or newer" in text


# --- URLs and servers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://scout:secret@db/scout", "cannot be stored in 'mysql'"),
        ("nonsense://", "cannot be stored in 'nonsense'"),
        ("://scout:secret@db", "not a database URL"),
        ("sqlite://scout:secret@db/scout", "nothing but a path"),
        ("sqlite:///gpuscout.db?mode=ro", "nothing but a path"),
        ("postgresql+asyncpg://scout:secret@db/scout", "cannot be stored in 'postgresql+asyncpg'"),
        ("postgresql://scout:secret@db:port/scout", "not a database URL"),
    ],
)
def test_urls_that_are_none(url: str, says: str) -> None:
    text = refusal(url, InputError)
    assert says in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://scout:first@SECOND@127.0.0.1:5432/db",
        "postgresql://scout@corp:p@SECOND%w/rd#1:x@127.0.0.1/db",
        "postgresql://scout:first@host?SECOND@127.0.0.1/db",
        "postgresql://scout:SECOND#half/x@127.0.0.1:1/db",
        "postgresql://scout:SECOND%zz@127.0.0.1:1/db",
        "postgresql://scout@127.0.0.1:1/db?password=SECOND&bogus=SECOND",
        "postgresql:/scout:SECOND@127.0.0.1:1/db",
        "postgresql:scout:SECOND@127.0.0.1/db",
        "scout:SECOND@127.0.0.1/db",
        "host=127.0.0.1 port=1 user=scout password=SECOND dbname=db",
        "jdbc:postgresql://scout:SECOND@127.0.0.1/db",
        "sqlite:///postgresql:/scout:SECOND@127.0.0.1/db",
        " postgresql://scout:SECOND@127.0.0.1:1/db",
    ],
)
def test_no_part_of_a_password_is_shown_or_named_in_a_file(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, StoreUnreachableError)) as caught:
        open_store(text, create=True)
    told = f"{caught.value} {caught.value.hint}"
    assert "SECOND" not in told
    if text.count("@") > 1:
        assert "%40" in told
        assert "PGPASSWORD" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["a b?c#d%e.db", "-x", "file:x", "~nobody-of-this-name.db", "é\n'\".db", "./me@work.db", "sqlite:///me@x.db"],
)
def test_names_of_files_are_taken_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_store(name, create=True).close()
    assert (tmp_path / name.removeprefix("sqlite:///")).stat().st_size


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_server_that_does_not_answer(scheme: str) -> None:
    pytest.importorskip("psycopg")
    text = refusal(f"{scheme}://scout:secret@127.0.0.1:1/results")
    assert "cannot reach postgresql://scout:***@127.0.0.1:1/results" in text
    assert "secret" not in text


def test_a_password_among_the_options_is_not_shown() -> None:
    url = urls.parse_url("postgresql://scout@db/results?password=secret&sslmode=require")
    assert urls.display(url) == "postgresql://scout@db/results?sslmode=require"


def test_a_database_that_does_not_exist(postgres_url: str) -> None:
    url = urls.parse_url(postgres_url).set(database="nobody_made_this").render_as_string(hide_password=False)
    assert "does not exist" in refusal(url)


def test_without_the_postgres_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str | None = None) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setattr(importlib, "import_module", missing)
    assert "pip install 'gpuscout[postgres]'" in refusal("postgresql://db/results")


def test_a_lost_connection_is_not_the_users_mistake(postgres_url: str) -> None:
    with open_store(postgres_url, create=True) as store:

        def lose() -> None:
            with store.reading() as connection:
                with open_store(postgres_url) as other, other.writing() as killer:
                    pid = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
                    killer.execute(sa.select(sa.func.pg_terminate_backend(pid)))
                connection.execute(sa.select(runners)).all()

        with pytest.raises(StoreUnreachableError, match="cannot reach"):
            lose()
        add_runner(store)


def test_mistakes_in_statements_pass_through(store_url: str) -> None:
    def mistake() -> None:
        with open_store(store_url, create=True) as store, store.reading() as connection:
            connection.exec_driver_sql("SELECT nothing FROM nowhere")

    with pytest.raises(sa.exc.DBAPIError):
        mistake()


# --- network file systems ----------------------------------------------------------------------------------------

MOUNTINFO = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/scratch rw shared:1 - xfs /dev/sdb1 rw
32 27 0:42 / /mnt/with\\040space rw - fuse.sshfs me@host: rw
33 27 0:43 / /mnt/ntfs rw - fuseblk /dev/sdc1 rw
34 27 0:44 / /mnt/twice rw - cifs //server/share rw
35 34 0:45 / /mnt/twice rw - tmpfs tmpfs rw
"""
MOUNTS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
//me@server/share on /Volumes/my share (smbfs, nodev, nosuid, mounted by me)
server:/export on /Volumes/nfs (nfs)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/a.db", "ext4"),
        ("/home/me/a.db", "nfs4"),
        ("/home/me/scratch/a.db", "xfs"),
        ("/homework/a.db", "ext4"),
        ("/mnt/with space/a.db", "fuse.sshfs"),
        ("/mnt/ntfs/a.db", "fuseblk"),
        ("/mnt/twice/a.db", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path_on_linux(path: str, kind: str) -> None:
    assert filesystems.filesystem_of(Path(path), filesystems.parse_mountinfo(MOUNTINFO)) == kind


def test_the_file_system_of_a_path_elsewhere() -> None:
    mounts = filesystems.parse_mount_output(MOUNTS)
    assert mounts == [("/", "apfs"), ("/Volumes/my share", "smbfs"), ("/Volumes/nfs", "nfs")]


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "fuse.juicefs"])
def test_network_file_systems_are_known(kind: str) -> None:
    assert filesystems.is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "apfs", "tmpfs", "overlay", "fuseblk", "fuse.ntfs-3g", "zfs"])
def test_local_file_systems_are_known(kind: str) -> None:
    assert not filesystems.is_network(kind)


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[[Path], str] = lambda path: "nfs4"  # noqa: E731
    monkeypatch.setattr(connect, "network_filesystem", found)
    text = refusal(tmp_path / "gpuscout.db")
    assert "is on a network file system (nfs4)" in text
    assert "postgresql://" in text
    assert not (tmp_path / "gpuscout.db").exists()
