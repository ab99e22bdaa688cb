"""Servers, databases and roles that are set to something odd: what goes in comes out, or a sentence says why not."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from gpuscout.store.database.connect import open_store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.schema import prices, runners
from gpuscout.sweeps.errors import StoreUnreachableError
from tests.support.forked import gpuscout

RUN = ("run", "--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--input-len", "100", "--output-len", "10")


@contextmanager
def made(server: str, how: str = "", *settings: str) -> Iterator[str]:
    """The URL of a new database, made and set up like this."""
    name = f"gpuscout_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {how}".encode())
        for setting in settings:
            admin.execute(f"ALTER DATABASE {name} SET {setting}".encode())
        try:
            url = sa.make_url(server).set(drivername="postgresql", database=name)
            yield url.render_as_string(hide_password=False)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def a_price(**columns: object) -> dict[str, object]:
    import datetime

    day = datetime.date(2026, 11, 1)
    return {
        "book": "b", "gpu": "L4", "provider": "p", "usd_per_gpu_hour": 0.1 + 0.2, "date": day, "purchase": "on-demand",
        "region": "", "instance_type": "", "gpus_per_instance": None, "date_kind": "read", "exact": True,
        "currency": "USD", "usd_rate": 1.0, "source": "", "note": "",
        "stored_at": datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC), **columns,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", ["client_encoding = 'LATIN1'"]),
        ("", ["datestyle = 'German'", "extra_float_digits = -5", "bytea_output = 'escape'"]),
        ("", ["standard_conforming_strings = off", "timezone = 'Asia/Kathmandu'", "client_encoding = 'EUC_JP'"]),
    ],
)
def test_what_goes_in_comes_out(postgres: str, how: str, settings: list[str]) -> None:
    stored = a_price(source="sé \\ 'x'")
    with made(postgres, how, *settings) as url, open_store(url, create=True) as store:
        from gpuscout.store.database import bulk

        with store.writing() as connection:
            connection.execute(sa.insert(prices).values(stored))
        with store.writing() as connection:
            bulk.insert(connection, prices, {name: [value] for name, value in {**stored, "book": "copied"}.items()})
        with store.reading() as connection:
            rows = connection.execute(sa.select(prices).order_by(prices.c.book)).mappings().all()
    assert [dict(row, id=0) for row in rows] == [{**stored, "id": 0, "book": book} for book in ("b", "copied")]


def test_a_database_that_does_not_know_what_its_text_means(postgres: str, tmp_path: Path) -> None:
    with made(postgres, "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0") as url:
        told = gpuscout("recommend", "--db", url, cwd=tmp_path)
    assert told.returncode == 3
    assert "its encoding is SQL_ASCII" in told.stderr
    assert "ENCODING 'UTF8'" in told.stderr


def test_text_that_the_encoding_of_a_database_lacks(postgres: str) -> None:
    latin = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    insert = sa.insert(prices).values(a_price(source="辿"))
    with (
        made(postgres, latin) as url,
        open_store(url, create=True) as store,
        pytest.raises(StoreUnreachableError, match="characters that its encoding lacks"),
        store.writing() as connection,
    ):
        connection.execute(insert)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        # In its hint: to the server it is a "user request" where the time is up as a statement ends.
        ("statement_timeout = '1ms'", "statement_timeout"),
        ("transaction_timeout = '5ms'", "transaction_timeout"),
        ("search_path = 'nowhere'", "no schema has been selected"),
        ("default_transaction_read_only = on", "read-only"),
    ],
)
def test_limits_of_a_database_are_told(postgres: str, tmp_path: Path, setting: str, says: str) -> None:
    try:
        with made(postgres, "", setting) as url:
            told = gpuscout(*RUN, "--db", url, cwd=tmp_path)
    except psycopg.errors.UndefinedObject:
        pytest.skip(f"this Postgres does not know {setting.split()[0]}")
    assert told.returncode == 3, told.stderr
    assert says in told.stderr
    assert "cannot use postgresql://" in told.stderr or "terminating connection" in told.stderr


def test_a_statement_that_the_server_cancels_among_many_is_told_once(postgres: str, tmp_path: Path) -> None:
    """The driver has more to say about the others, which it does not send."""
    with made(postgres) as url:
        open_store(url, create=True).close()
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "CREATE FUNCTION cancel() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE query_canceled USING MESSAGE = 'canceling statement due to user request'; END $$"
            )
            admin.execute("CREATE TRIGGER cancelled BEFORE INSERT ON intervals EXECUTE FUNCTION cancel()")
        told = gpuscout(*RUN, "--db", url, cwd=tmp_path)
    assert told.returncode == 3
    assert "canceling statement due to user request\n    a statement_timeout of the server" in told.stderr
    assert "Pipeline" not in told.stderr


def test_a_transaction_that_idles_too_long_while_reading(postgres: str) -> None:
    with made(postgres) as url:
        open_store(url, create=True).close()
        with psycopg.connect(url, autocommit=True) as admin:
            name = sa.make_url(url).database
            admin.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '20ms'".encode())

        def slow(connection: sa.Connection) -> None:
            for _ in range(2):
                connection.execute(sa.select(runners)).all()
                time.sleep(0.3)

        with (
            open_store(url) as store,
            pytest.raises(StoreUnreachableError, match="idle-in-transaction timeout"),
            store.reading() as connection,
        ):
            slow(connection)


# --- poolers -----------------------------------------------------------------------------------------------------


@contextmanager
def pooled(server: str, mode: str) -> Iterator[str]:
    """The URL of the server's databases through PgBouncer, in one of its modes; ends in "/"."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    host = sa.make_url(server).query.get("host")
    if program is None or not isinstance(host, str):
        pytest.skip("PgBouncer is not installed" if program is None else "the Postgres server is not on a Unix socket")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="gpuscout-pgb-") as folder:
        users, settings = Path(folder, "users"), Path(folder, "ini")
        users.write_text('"postgres" ""\n')
        settings.write_text(
            f"[databases]\n* = host={host} user=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\n"
            f"auth_type=any\nauth_file={users}\nunix_socket_dir=\npool_mode={mode}\nlogfile={folder}/log\n"
        )
        command = [program, str(settings)]
        if os.getuid() == 0:  # which it refuses to run as
            owner = pwd.getpwuid(Path(host, ".s.PGSQL.5432").stat().st_uid)
            for path in (Path(folder), users, settings):
                os.chown(path, owner.pw_uid, -1)
            command[1:1] = ["-u", owner.pw_name]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 60
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert time.monotonic() < until
                time.sleep(0.05)
            yield f"postgresql://postgres@127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


def test_a_pooler_that_lends_sessions_for_transactions_is_read_through(postgres: str, tmp_path: Path) -> None:
    with made(postgres) as url:
        assert gpuscout(*RUN, "--db", url, cwd=tmp_path).returncode == 0
        with pooled(postgres, "transaction") as pool:
            through = pool + str(sa.make_url(url).database)
            for _ in range(7):  # psycopg would prepare a statement that is asked for more often than 5 times
                with open_store(through) as store, store.reading() as connection:
                    connection.execute(sa.select(prices)).all()
            assert gpuscout("recommend", "--db", through, cwd=tmp_path).returncode == 0
            told = gpuscout(*RUN[:-1], "11", "--db", through, cwd=tmp_path)
            assert told.returncode == 3
            assert "in transaction mode" in told.stderr
            assert "use session pooling" in told.stderr
            told = gpuscout("prices", "set", "H100=2", "--db", through, cwd=tmp_path)
            assert told.returncode == 3
            with psycopg.connect(url) as admin:
                held = admin.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
            assert held == (0,)


def test_a_pooler_that_keeps_sessions_is_no_hindrance(postgres: str, tmp_path: Path) -> None:
    with made(postgres) as url, pooled(postgres, "session") as pool:
        through = pool + str(sa.make_url(url).database)
        told = gpuscout(*RUN, "--db", through, cwd=tmp_path)
        assert told.returncode == 0, told.stderr


def test_a_lock_whose_session_was_lent_to_others_is_noticed(postgres: str) -> None:
    with made(postgres) as url, open_store(url, create=True) as store, RunnerLock(store).held() as runner:
        runner._backend = -1  # what a pooler that passed the first look does
        with pytest.raises(StoreUnreachableError, match="in transaction mode"):
            runner.restore()


def test_locks_of_tasks_are_left_after_their_session_was_lost(postgres: str) -> None:
    with made(postgres) as url, open_store(url, create=True) as store, RunnerLock(store).held() as runner:
        assert runner.take_task(b"one task")
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert runner.take_task(b"another task")
        runner.leave_task(b"one task")
        runner.restore()
