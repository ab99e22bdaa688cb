"""Databases that let one wait: it is said, a lost connection is one however it was lost, and Ctrl-C ends it."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.results import durable
from gpuscout.store.schema import runners
from gpuscout.sweeps.errors import StoreUnreachableError
from tests.support.commands import install_engine, results, started, wait_for
from tests.support.faulty_postgres import proxied
from tests.support.forked import gpuscout
from tests.support.stores import add_runner

SPEC = """
name: twelve
models: [Qwen/Qwen3-8B]
gpus: [H100, L4, B200, A100]
tensor_parallel: [1, 2, 4]
workloads: [chat]
concurrency: [1, 4]
engine: slow
"""
EVALUATE = "open('calls', 'a').write('x'); time.sleep(float(Path('pace').read_text())); return answer(cases, ladder)"
RUN = ("run", "spec.yaml", "--executor", "in-process")
SOON_S = 2.0
A_MOMENT_S = 30.0  # what ending a process may take on a busy machine; unasked it would go on for minutes


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_engine(tmp_path_factory.mktemp("plugins"), "slow", EVALUATE, cost="DEAR")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "pace").write_text("0.1")
    return tmp_path


@pytest.fixture(scope="module")
def socket_path(postgres: str) -> Path:
    """Where the server of the tests listens."""
    host = sa.make_url(postgres).query.get("host")
    if not isinstance(host, str):
        pytest.skip("the Postgres server does not listen on a Unix socket")
    return Path(host) / ".s.PGSQL.5432"


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a host that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"postgresql://scout@127.0.0.1:{listener.getsockname()[1]}/x"


def test_a_host_that_does_not_answer_cannot_be_reached(silent: str, tmp_path: Path) -> None:
    told = gpuscout("db", "status", "--db", f"{silent}?connect_timeout=2", cwd=tmp_path)
    assert told.returncode == 3
    assert told.stderr.startswith("cannot reach postgresql://scout@127.0.0.1:")


def test_a_network_that_swallows_packets_is_waited_for(socket_path: Path, postgres_url: str) -> None:
    with (
        proxied(postgres_url, socket_path) as (url, proxy),
        open_store(f"{url}?connect_timeout=2", create=True) as store,
    ):
        notices: list[str] = []

        def note(text: str) -> None:
            notices.append(text)
            if len(notices) == 1:
                proxy.silent = False

        proxy.silent = True
        proxy.reset()
        ask = sa.text("SELECT 1")
        patience = durable.Patience(seconds=20, notice=note)
        assert durable.reading(store, lambda connection: connection.execute(ask).scalar_one(), patience=patience) == 1
    assert "timeout" in notices[0]


@pytest.mark.parametrize("why", ["silence", "rows that somebody else holds"])
def test_a_signal_ends_a_run_that_waits_for_its_database(
    why: str, socket_path: Path, postgres_url: str, folder: Path, plugins: Path
) -> None:
    with proxied(postgres_url, socket_path) as (url, proxy):
        process = started(*RUN, "--db", url, cwd=folder, plugins=plugins)
        wait_for(lambda: len((folder / "calls").read_text()) > 2 if (folder / "calls").exists() else 0, process)
        with psycopg.connect(postgres_url) as other:
            if why == "silence":
                proxy.silent = True
            else:
                other.execute("SELECT * FROM blocks FOR UPDATE")
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            asked = time.monotonic()
            messages = process.communicate(timeout=60)[1]
            assert time.monotonic() - asked < SOON_S + A_MOMENT_S
        assert process.returncode == 130, messages
        assert "run the same command to go on" in messages
        proxy.silent = False
    (folder / "pace").write_text("0")
    again = gpuscout(*RUN, "--db", postgres_url, cwd=folder, plugins=plugins)
    assert again.returncode == 0, again.stderr
    assert len(results(postgres_url)) == 24


def test_a_second_signal_ends_a_run_at_once(socket_path: Path, postgres_url: str, folder: Path, plugins: Path) -> None:
    with proxied(postgres_url, socket_path) as (url, proxy):
        process = started(*RUN, "--db", url, cwd=folder, plugins=plugins)
        wait_for((folder / "calls").exists, process)
        proxy.silent = True
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        process.communicate(timeout=60)
        assert time.monotonic() - asked < A_MOMENT_S
        assert process.returncode == 130


def test_ctrl_c_ends_a_question_that_waits_for_its_database(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        url = f"postgresql://scout@127.0.0.1:{listener.getsockname()[1]}/x"
        process = started("recommend", "--db", url, cwd=tmp_path)
        connection, _ = listener.accept()
        with connection:
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            asked = time.monotonic()
            messages = process.communicate(timeout=60)[1]
    assert time.monotonic() - asked < SOON_S + A_MOMENT_S
    assert process.returncode == 130, messages
    assert "Traceback" not in messages


def test_waiting_for_a_lock_is_said_and_ends_when_asked(store_url: str) -> None:
    change = sa.update(runners).values(pid=1)

    def written(store: Store) -> None:
        with store.writing() as connection:
            connection.execute(change)

    with open_store(store_url, create=True) as store, open_store(store_url) as other:
        add_runner(store)
        notices: list[str] = []
        store.waits.long_s = 0.3
        with other.writing() as holder:
            holder.execute(change)
            ends = time.monotonic() + 0.6
            with (
                store.waits.changed(until=lambda: ends, notice=notices.append),
                pytest.raises(StoreUnreachableError, match="stopped waiting for"),
            ):
                written(store)
            assert time.monotonic() < ends + A_MOMENT_S
        written(store)  # nothing is left of the attempt
    [notice] = notices
    assert notice.startswith("still waiting for")
