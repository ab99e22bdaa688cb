"""Faults of the place where results are stored, for real: nothing lost, nothing doubled, a clear message each time."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results import durable
from gpuscout.store.results.durable import PATIENT, Patience
from gpuscout.store.schema import metadata, tasks
from gpuscout.sweeps.errors import StoreUnreachableError
from tests.support.commands import (
    GPUSCOUT,
    count,
    digest,
    environment,
    install_engine,
    results,
    rows,
    started,
    wait_for,
)
from tests.support.faulty_postgres import Lose, Server, commit_late, lose_answer, lose_commit, proxied
from tests.support.forked import gpuscout
from tests.support.stores import Scenario, postgres_database

TASKS = 16
# A dear engine: one task a block. It notes every task it computes.
SPEC = """
name: sixteen
models: [Qwen/Qwen3-8B, Qwen/Qwen3-30B-A3B]
gpus: [H100, L4]
tensor_parallel: [1, 2, 4, 8]
workloads: [chat]
concurrency: [1, 4, 16]
engine: patient
"""
EVALUATE = """
with open("calls", "a") as calls:
    calls.write(f"{len(cases)}\\n")
time.sleep(float(Path("pace").read_text()))
return answer(cases, ladder)
"""
RUN = ("run", "spec.yaml", "--executor", "in-process")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_engine(tmp_path_factory.mktemp("plugins"), "patient", EVALUATE, cost="EXPENSIVE")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a sweep runs, at once unless a test writes another pace."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "pace").write_text("0")
    return tmp_path


@pytest.fixture(scope="module")
def expected(plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the rows of a run that nothing happened to."""
    quiet = tmp_path_factory.mktemp("quiet")
    (quiet / "spec.yaml").write_text(SPEC)
    (quiet / "pace").write_text("0")
    done = gpuscout(*RUN, cwd=quiet, plugins=plugins)
    assert done.returncode == 0, done.stderr
    return digest(results(quiet / "gpuscout.db"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="gpuscout-pg-") as directory:
        server = Server(Path(directory))
        yield server
        server.close()


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    with postgres_database(server.url) as url:
        yield url


def computed(folder: Path) -> int:
    calls = folder / "calls"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


# --- Postgres comes and goes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_is_stopped_and_started_during_a_sweep(
    server: Server, database: str, folder: Path, plugins: Path, expected: str, mode: str
) -> None:
    (folder / "pace").write_text("0.1")
    process = started(*RUN, "--db", database, cwd=folder, plugins=plugins)
    wait_for(lambda: computed(folder) >= 4, process)
    server.stop(mode)
    time.sleep(1.5)
    assert process.poll() is None
    server.start()
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert "cannot reach" in messages
    assert digest(results(database)) == expected
    assert computed(folder) == TASKS


@pytest.mark.parametrize("marker", [b"COPY membership", b"WITH chosen"], ids=["block", "claim"])
@pytest.mark.parametrize("lose", [lose_answer, lose_commit, commit_late])
def test_a_connection_is_lost_during_commit(
    server: Server, database: str, folder: Path, plugins: Path, expected: str, lose: Lose, marker: bytes
) -> None:
    chosen = frozenset({0, 2, 3})
    with proxied(database, server.socket, marker=marker, chosen=chosen, lose=lose) as (url, proxy):
        done = gpuscout(*RUN, "--db", url, cwd=folder, plugins=plugins)
        assert done.returncode == 0, done.stderr
        assert proxy.lost == len(chosen)
    assert digest(results(database)) == expected
    assert computed(folder) == TASKS
    assert rows(database, "SELECT DISTINCT state FROM blocks") == [("done",)]
    # Only a claim whose COMMIT was done and not answered is made again; that of one block is lost twice in a row. A
    # server that is still busy with the first late COMMIT answers the second claim as it answers a lost one.
    again = {lose_answer: {3}, commit_late: {2, 3}, lose_commit: {1}}[lose] if marker == b"WITH chosen" else {1}
    [(attempts,)] = rows(database, "SELECT max(attempt) FROM blocks")
    assert attempts in again


def test_a_server_that_stays_away_is_given_up(server: Server, database: str) -> None:
    with proxied(database, server.socket, lose=lose_commit) as (url, proxy), open_store(url, create=True) as store:
        proxy.close()
        store.engine.dispose()
        told: list[str] = []
        begun = time.monotonic()
        with pytest.raises(StoreUnreachableError, match=r"cannot reach .* \(tried again for \d+ s\)") as caught:
            durable.reading(store, _count_tasks, patience=Patience(1.0, notice=told.append))
        assert 1 <= time.monotonic() - begun < PATIENT.seconds / 2
        assert caught.value.exit_code == 3
        assert caught.value.hint is not None
        assert "run the same command" in caught.value.hint
        assert len(told) == 1
        # Who wants to stop need not wait for the minute that is the default.
        begun = time.monotonic()
        with pytest.raises(StoreUnreachableError):
            durable.writing(store, _count_tasks, patience=Patience(stop=lambda: True))
        assert time.monotonic() - begun < PATIENT.seconds / 2


def _count_tasks(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(tasks)).scalar_one()


def test_deadlocks_and_serialisation_failures_are_tried_again(postgres_url: str) -> None:
    with open_store(postgres_url, create=True) as store:
        for state in ("40001", "40P01"):
            tries: list[int] = []

            def fail_once(connection: sa.Connection, state: str = state, tries: list[int] = tries) -> int:
                tries.append(1)
                if len(tries) == 1:
                    connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$")
                return _count_tasks(connection)

            assert durable.writing(store, fail_once) == 0
            assert len(tries) == 2


def end_session(store: Store, runner: RunnerLock) -> None:
    """End the connection that holds a runner's advisory lock."""
    holder = sa.text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = :runner")
    with store.writing() as connection:
        assert connection.execute(holder, {"runner": runner.runner_id}).scalars().all() == [True]


def test_a_runner_that_lost_its_lock_takes_it_again(postgres_url: str) -> None:
    with open_store(postgres_url, create=True) as store, open_store(postgres_url) as other_store:
        first, second = RunnerLock(store), RunnerLock(other_store)
        with first.held(), second.held():
            scenario = Scenario(store, blocks=3, runner_id=first.runner_id)
            mine = durable.claim(first, scenario.sweep.id, 2, in_flight=())
            end_session(other_store, first)
            wait_for(lambda: not second.is_alive(first.runner_id))
            # The lock is back before anything is written, so that nobody takes the other block.
            assert durable.commit(first, scenario.result(mine[0].block, mine[0].attempt))
            assert second.is_alive(first.runner_id)
            end_session(other_store, first)
            wait_for(lambda: not second.is_alive(first.runner_id))
            [taken] = durable.claim(second, scenario.sweep.id, 1, in_flight=())
            assert (taken.block, taken.attempt) == (mine[1].block, 2)
            # Somebody else has the block now: what was computed for it is not stored.
            assert not durable.commit(first, scenario.result(mine[1].block, mine[1].attempt))
            assert second.is_alive(first.runner_id)
            [third] = durable.claim(first, scenario.sweep.id, 9, in_flight=())
            assert (third.block, third.attempt) == (2, 1)


@pytest.mark.parametrize("runners", [2, 4])
def test_several_runners_share_a_sweep(
    postgres_url: str, folder: Path, plugins: Path, expected: str, runners: int
) -> None:
    (folder / "pace").write_text("0.3")
    processes = [started(*RUN, "--db", postgres_url, cwd=folder, plugins=plugins) for _ in range(runners)]
    for process in processes:
        _, messages = process.communicate(timeout=90)
        assert process.returncode == 0, messages
    assert digest(results(postgres_url)) == expected
    assert computed(folder) == TASKS
    assert count(postgres_url, "tasks") == TASKS
    [(shared,)] = rows(postgres_url, "SELECT count(DISTINCT runner_id) FROM blocks")
    assert isinstance(shared, int)
    assert shared >= 2


def test_runners_of_different_sweeps_compute_their_common_tasks_once(
    postgres_url: str, folder: Path, plugins: Path
) -> None:
    (folder / "pace").write_text("0.3")
    sweeps = {
        "spec.yaml": SPEC,
        "h100.yaml": SPEC.replace("sixteen", "h100").replace("[H100, L4]", "[H100]"),
        "l4.yaml": SPEC.replace("sixteen", "l4").replace("[H100, L4]", "[L4]"),
    }
    for name, spec in sweeps.items():
        (folder / name).write_text(spec)
    processes = [
        started("run", name, "--executor", "in-process", "--db", postgres_url, cwd=folder, plugins=plugins)
        for name in sweeps
    ]
    for process in processes:
        _, messages = process.communicate(timeout=90)
        assert process.returncode == 0, messages
    assert computed(folder) == TASKS
    assert count(postgres_url, "tasks") == TASKS
    assert count(postgres_url, "membership") == 2 * TASKS


def execute(url: str, *statements: str) -> None:
    """Statements that no transaction may hold."""
    engine = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_server_whose_disk_is_full(server: Server, folder: Path, plugins: Path, expected: str) -> None:
    place = server.settings.parent / "disk"
    with small_disk(place, "64m"), postgres_database(server.url) as url:
        owner = server.settings.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        name = sa.make_url(url).database
        execute(
            server.url, f"CREATE TABLESPACE small LOCATION '{place}'", f"ALTER DATABASE {name} SET TABLESPACE small"
        )
        open_store(url, create=True).close()
        execute(url, "CHECKPOINT")
        remount(place, f"size={(shutil.disk_usage(place).used >> 10) + 100}k")
        full = gpuscout(*RUN, "--db", url, cwd=folder, plugins=plugins)
        assert full.returncode == 3, full.stderr
        assert "the server's disk is full" in full.stderr
        assert "everything stored so far is kept" in full.stderr
        stored = count(url, "tasks")
        remount(place, "size=64m")
        again = gpuscout(*RUN, "--db", url, cwd=folder, plugins=plugins)
        assert again.returncode == 0, again.stderr
        assert f"{TASKS - stored} computed" in again.stderr
        assert digest(results(url)) == expected
        execute(server.url, f"ALTER DATABASE {name} SET TABLESPACE pg_default", "DROP TABLESPACE small")


def test_a_server_that_only_reads(database: str, folder: Path, plugins: Path, expected: str) -> None:
    open_store(database, create=True).close()
    name = sa.make_url(database).database
    execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    refused = gpuscout(*RUN, "--db", database, cwd=folder, plugins=plugins)
    assert refused.returncode == 3, refused.stderr
    assert "it is read-only" in refused.stderr
    execute(database, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL")
    assert gpuscout(*RUN, "--db", database, cwd=folder, plugins=plugins).returncode == 0
    assert digest(results(database)) == expected


# --- a SQLite file -----------------------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of its own; skips the test where nobody may mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


def test_a_disk_that_is_full(folder: Path, plugins: Path, expected: str) -> None:
    with small_disk(folder / "disk", "640k"):
        full = gpuscout(*RUN, "--db", "disk/gpuscout.db", cwd=folder, plugins=plugins)
        assert full.returncode == 3, full.stderr
        assert "cannot use disk/gpuscout.db: the disk is full" in full.stderr
        assert "make room and run again" in full.stderr
        remount(folder / "disk", "size=16m")
        stored = count(folder / "disk/gpuscout.db", "tasks")
        assert rows(folder / "disk/gpuscout.db", "PRAGMA integrity_check") == [("ok",)]
        again = gpuscout(*RUN, "--db", "disk/gpuscout.db", cwd=folder, plugins=plugins)
        assert again.returncode == 0, again.stderr
        assert f"{TASKS - stored} computed" in again.stderr
        assert digest(results(folder / "disk/gpuscout.db")) == expected


def test_a_file_that_must_not_grow(folder: Path, plugins: Path, expected: str) -> None:
    """What a quota does, for those who may not mount."""
    open_store(str(folder / "gpuscout.db"), create=True).close()
    limit = (folder / "gpuscout.db").stat().st_size + 20_000
    process = subprocess.run(
        [GPUSCOUT, *RUN],
        cwd=folder,
        env=environment(plugins),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.returncode == 3, process.stderr
    assert "cannot use gpuscout.db: the disk" in process.stderr
    again = gpuscout(*RUN, cwd=folder, plugins=plugins)
    assert again.returncode == 0, again.stderr
    assert digest(results(folder / "gpuscout.db")) == expected


def test_a_read_only_place(folder: Path, plugins: Path, expected: str) -> None:
    with small_disk(folder / "disk", "16m"):
        assert gpuscout(*RUN, "--db", "disk/gpuscout.db", cwd=folder, plugins=plugins).returncode == 0
        (folder / "spec.yaml").write_text(SPEC.replace("[1, 4, 16]", "[1, 4, 16, 64]"))
        remount(folder / "disk", "ro")
        refused = gpuscout(*RUN, "--db", "disk/gpuscout.db", cwd=folder, plugins=plugins)
        assert refused.returncode == 3, refused.stderr
        assert "cannot " in refused.stderr
        assert "disk/gpuscout.db" in refused.stderr
        assert gpuscout("recommend", "--db", "disk/gpuscout.db", cwd=folder, plugins=plugins).returncode == 0
        remount(folder / "disk", "rw")
        assert digest(results(folder / "disk/gpuscout.db")) == expected


@pytest.mark.parametrize("damage", ["overwritten", "truncated"])
def test_a_damaged_file(folder: Path, plugins: Path, damage: str) -> None:
    assert gpuscout(*RUN, cwd=folder, plugins=plugins).returncode == 0
    path = folder / "gpuscout.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "truncated":
            file.truncate(size // 2)
        else:
            file.seek(size // 8)
            file.write(random.Random(1).randbytes(size * 3 // 4))
    damaged = path.read_bytes()
    (folder / "spec.yaml").write_text(SPEC.replace("[1, 4, 16]", "[1, 4, 16, 64]"))
    for command in (("recommend",), RUN, ("db", "copy", "gpuscout.db", "rescued.db")):
        done = gpuscout(*command, cwd=folder, plugins=plugins)
        assert done.returncode == 3, (command, done.stderr)
        assert "the file is damaged" in done.stderr
        assert ".recover" in done.stderr
    assert path.read_bytes() == damaged


def test_readers_are_not_blocked_while_a_sweep_writes(folder: Path, plugins: Path) -> None:
    (folder / "pace").write_text("0.2")
    process = started(*RUN, cwd=folder, plugins=plugins)
    wait_for(lambda: computed(folder) >= 3, process)
    read = 0
    with open_store(str(folder / "gpuscout.db")) as store:
        while process.poll() is None:
            with store.reading() as connection:
                assert _count_tasks(connection) <= TASKS
            read += process.poll() is None
            time.sleep(0.1)
            if computed(folder) == 6:
                assert gpuscout("recommend", cwd=folder).returncode == 0
    assert process.wait() == 0
    assert read > 1
    assert process.stderr is not None
    process.stderr.close()


# --- passwords ---------------------------------------------------------------------------------------------------

SECRET = "hunter2-%40-secret"
SPELLINGS = ("hunter2", "%40-secret", "@-secret")


@pytest.fixture
def guarded(server: Server) -> Iterator[str]:
    """The URL of a database that asks for a password, with the right one."""
    engine = sa.create_engine(
        sa.make_url(server.url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection, postgres_database(server.url) as url:
        name = sa.make_url(url).database
        connection.exec_driver_sql("DROP ROLE IF EXISTS scout")
        connection.exec_driver_sql(f"CREATE ROLE scout LOGIN SUPERUSER PASSWORD '{SECRET.replace('%40', '@')}'")
        access = server.settings / "pg_hba.conf"
        before = access.read_text()
        access.write_text(f"local {name} scout scram-sha-256\n{before}")
        server.control("reload")
        time.sleep(0.2)
        with proxied(url, server.socket, lose=lose_commit) as (through, _):
            yield through.replace("//postgres@", f"//scout:{SECRET}@")
        access.write_text(before)
        server.control("reload")
    engine.dispose()


def assert_secret(*texts: str) -> None:
    for text in texts:
        assert not any(spelling in text for spelling in SPELLINGS), text


def test_a_password_is_never_shown(guarded: str, folder: Path, plugins: Path) -> None:
    wrong = guarded.replace("hunter2", "hunter2-wrong")
    away = f"postgresql://scout:{SECRET}@127.0.0.1:1/gpuscout"
    for url, reason in ((wrong, "password authentication failed"), (away, "cannot reach")):
        for command in (
            ("-v", *RUN, "--db", url),
            ("recommend", "--json", "--db", url),
            ("db", "copy", "mine.db", url),
            *((("db", "status", "--json", "--db", url), ("db", "copy", url, "copy.db")) if url is wrong else ()),
        ):
            open_store(str(folder / "mine.db"), create=True).close()
            done = gpuscout(*command, cwd=folder, plugins=plugins)
            assert done.returncode == 3, (command, done.stderr)
            assert reason in done.stderr
            assert "scout:***@" in done.stderr
            assert_secret(done.stdout, done.stderr)
    for command in (
        ("-v", *RUN, "--db", guarded),
        (*RUN, "--json", "--db", guarded),
        ("db", "status", "--db", guarded),
        ("db", "copy", guarded, "copy.db", "--json"),
        ("db", "copy", "copy.db", guarded),
        ("doctor", "--db", guarded),
    ):
        done = gpuscout(*command, cwd=folder, plugins=plugins)
        assert done.returncode == 0, (command, done.stderr)
        assert_secret(done.stdout, done.stderr)
    with open_store(guarded) as store, store.reading() as connection:
        for table in metadata.tables.values():
            assert_secret(*map(repr, connection.execute(sa.select(table)).all()))
