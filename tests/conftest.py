"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gpuscout.store.database.connect import Store, open_store
from tests.support.stores import empty_database, new_store, postgres_database, postgres_server

# No test depends on a quiet machine: an example may take as long as it takes.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# As a command does: what tests import stays, and looking through it again and again takes a tenth of their time.
gc.set_threshold(200_000, 50, 100)

# Started in the background of a shell, a process ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `make test-fast`: all but those that need Postgres, kill things, or are marked slow."""
    for item in items:
        # What a parameter asks for is no name of a fixture.
        needs_postgres = "postgres" in getattr(item, "fixturenames", ()) or "postgres" in item.name
        if not (needs_postgres or "faults" in item.path.parts or item.get_closest_marker("slow")):
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and notes are as wide wherever tests run; those about widths ask for theirs."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a Postgres server, skipping the test where there is none; in CI there must be one."""
    with postgres_server() as url:
        if url is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("no Postgres server: set GPUSCOUT_TEST_POSTGRES_URL")
        yield url


@pytest.fixture(scope="session")
def one_database(postgres: str) -> Iterator[str]:
    """A Postgres database for one test after the other: to make one takes longer than to empty it."""
    with postgres_database(postgres) as url:
        yield url


@pytest.fixture
def postgres_url(one_database: str) -> Iterator[str]:
    """The URL of an empty Postgres database."""
    yield one_database
    empty_database(one_database)


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that does not exist yet (SQLite) or is empty (Postgres)."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gpuscout.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    """A new store, once on SQLite and once on Postgres."""
    if store_url.startswith("sqlite"):
        store_url = new_store(tmp_path)
    with open_store(store_url, create=True) as store:
        yield store
