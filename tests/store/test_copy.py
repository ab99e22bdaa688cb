"""Copying stores into each other: everything arrives, once, whatever was there and however often it is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from gpuscout.store.database import connect
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.results.blocks import sweep_progress
from gpuscout.store.results.sweeps import find_sweep, list_sweeps, sweep_by_name
from gpuscout.store.results.tasks import commit_block, stored_tasks
from gpuscout.store.schema import (
    blocks,
    engines,
    failures,
    measured_runs,
    membership,
    metadata,
    operating_points,
    percentiles,
    prices,
    sweeps,
    tasks,
)
from gpuscout.store.transfer import copy
from gpuscout.store.transfer.copy import Copied, copy_store
from gpuscout.sweeps.errors import InputError, StoreBusyError
from gpuscout.sweeps.outcomes import Outcome
from tests.store.test_deletion import finish, measure
from tests.support.forked import gpuscout
from tests.support.stores import Scenario, keys_of

pytestmark = pytest.mark.slow

NOTHING = {"sweeps": 0, "tasks": 0, "points": 0, "measured_runs": 0, "prices": 0, "failures": 0}
# What is local to a store: ids and who ran what there.
LOCAL = {"id", "case_id", "model_id", "gpu_id", "engine_id", "ladder_id", "task_id", "run_id", "sweep_id", "runner_id"}


@pytest.fixture(params=["sqlite to sqlite", "sqlite to postgres", "postgres to sqlite"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A place to copy from and an empty one to copy to."""
    source, _, target = request.param.split()
    kinds = {"sqlite": lambda name: f"sqlite:///{tmp_path / name}.db"}
    if "postgres" not in (source, target):
        yield kinds[source]("source"), kinds[target]("target")
        return
    url = request.getfixturevalue("postgres_url")
    kinds["postgres"] = lambda name: url
    yield kinds[source]("source"), kinds[target]("target")


@pytest.fixture
def stores(urls: tuple[str, str]) -> Iterator[tuple[Store, Store]]:
    with open_store(urls[0], create=True) as source, open_store(urls[1], create=True) as target:
        yield source, target


def content(store: Store) -> dict[str, list[tuple[str, ...]]]:
    """All rows of all tables but the runners', without what is local to a store, in an order of their own."""
    with store.reading() as connection:
        return {
            table.name: sorted(
                tuple(str(value) for name, value in row.items() if name not in LOCAL)
                for row in connection.execute(sa.select(table)).mappings()
            )
            for table in metadata.tables.values()
            if table.name != "runners"
        }


def added(copied: Copied) -> dict[str, int]:
    return {name: getattr(copied, name) for name in NOTHING}


def fill(store: Store) -> None:
    """Two finished sweeps that share tasks, a longer revision of one, a failure, and a measured run."""
    finish(Scenario(store, blocks=3, per_block=4), fits_up_to={1: 2})
    finish(Scenario(store, blocks=2, per_block=4, name="weekly", first=5), outcomes={3: Outcome.DOES_NOT_FIT})
    longer = Scenario(store, blocks=3, per_block=4, ladder=(1, 2, 4, 8))
    finish(longer, outcomes={2: Outcome.ERROR}, details={2: "ValueError: no"})
    with store.reading() as connection:
        case_id = connection.execute(sa.select(sa.func.max(tasks.c.case_id))).scalar_one()
    measure(store, case_id)
    row = {
        "provider": "acme", "usd_per_gpu_hour": 2.5, "purchase": "spot", "region": "", "instance_type": "",
        "date_kind": "read", "exact": True, "currency": "USD", "usd_rate": 1.0, "source": "a page", "note": "",
        "gpus_per_instance": None, "date": date(2026, 1, 2), "stored_at": datetime.now(UTC), "book": "ours",
    }  # fmt: skip
    with store.writing() as connection:
        connection.execute(sa.insert(prices), [row | {"gpu": gpu} for gpu in ("L4", "H100-SXM-80GB")])


def test_everything_arrives_and_a_second_copy_adds_nothing(stores: tuple[Store, Store]) -> None:
    source, target = stores
    fill(source)
    copied = copy_store(source, target)
    before = content(source)
    assert added(copied) == {
        "sweeps": 3,
        "tasks": len(before["tasks"]),
        "points": len(before["operating_points"]),
        "measured_runs": 1,
        "prices": 2,
        "failures": 3,
    }
    assert content(target) == before
    assert len(before["membership"]) > 20
    assert added(copy_store(source, target)) == NOTHING
    assert content(target) == before


def test_copies_of_copies_are_equal(stores: tuple[Store, Store], tmp_path: Path) -> None:
    source, target = stores
    fill(source)
    copy_store(source, target)
    with open_store(str(tmp_path / "back.db"), create=True) as back:
        copy_store(target, back)
        assert content(back) == content(source)
        assert added(copy_store(back, source)) == NOTHING


def test_stores_that_grew_apart_are_merged(stores: tuple[Store, Store]) -> None:
    source, target = stores
    # Ids differ: the target has something else first.
    finish(Scenario(target, blocks=1, name="other", first=500))
    finish(Scenario(target, blocks=2, ladder=(1, 4)), scale=1000.0)
    finish(Scenario(source, blocks=2, ladder=(1, 2, 8)))
    copied = copy_store(source, target)
    assert added(copied) == {**NOTHING, "sweeps": 1, "points": 12}
    with target.reading() as connection:
        key = keys_of(Scenario.cases(Scenario(source), 0))[1]
        query = sa.select(operating_points.c.concurrency, operating_points.c.ttft_ms)
        joined = query.join(tasks, tasks.c.id == operating_points.c.task_id).where(tasks.c.key == key)
        # What was there is as it was.
        assert dict(map(tuple, connection.execute(joined))) == {1: 101_000.0, 2: 102.0, 4: 104_000.0, 8: 108.0}
        assert stored_tasks(connection, [key])[key].ladder == (1, 2, 4, 8)
        found = list_sweeps(connection)
    assert [(sweep.name, sweep.revision) for sweep in found] == [("nightly", 2), ("nightly", 1), ("other", 1)]
    assert all(sweep.finished_at for sweep in found)
    with target.reading() as connection:
        assert len(connection.execute(sa.select(membership)).all()) == 15


def test_a_name_means_the_sweep_that_arrived_last(stores: tuple[Store, Store]) -> None:
    source, target = stores
    first = Scenario(source, blocks=1)
    finish(first)
    finish(Scenario(source, blocks=1, ladder=(1, 2)))
    # The first revision was run again after the second.
    Scenario(source, blocks=1)
    finish(Scenario(target, blocks=1, ladder=(2, 3)))
    copy_store(source, target)
    with target.reading() as connection:
        sweep = sweep_by_name(connection, "nightly")
        assert sweep is not None
        assert (sweep.digest, sweep.revision) == (first.sweep.digest, 2)


def test_an_unfinished_sweep_goes_on_in_the_target(stores: tuple[Store, Store]) -> None:
    source, target = stores
    scenario = Scenario(source, blocks=4)
    [(first, attempt), *_] = scenario.claim(2)
    failing = scenario.answer(range(3), outcomes={1: Outcome.CRASHED})
    with source.writing() as connection:
        assert commit_block(connection, scenario.result(first, attempt, failing))
    copy_store(source, target)
    there = Scenario(target, blocks=4)
    with target.reading() as connection:
        progress = sweep_progress(connection, there.sweep.id)
    assert (progress.done, progress.pending, progress.claimed) == (1, 3, 0)
    assert progress.failures == {Outcome.CRASHED: 1}
    # The claim that was open in the source has its number here, too.
    assert there.claim(9) == [(1, 2), (2, 1), (3, 1)]
    # Meanwhile the source got further; what is claimed here is left alone.
    for block, number in [(1, 1), *scenario.claim(1)]:
        with source.writing() as connection:
            assert commit_block(connection, scenario.result(block, number))
    copy_store(source, target)
    with target.reading() as connection:
        states = sa.select(blocks.c.state).where(blocks.c.sweep_id == there.sweep.id).order_by(blocks.c.block)
        assert list(connection.execute(states).scalars()) == ["done", "claimed", "claimed", "claimed"]
        assert find_sweep(connection, there.sweep.digest).finished_at is None  # type: ignore[union-attr]
        assert len(connection.execute(sa.select(failures)).all()) == 1
        assert connection.execute(sa.select(blocks.c.failure_count)).scalars().first() == 1


def test_a_sweep_that_was_finished_in_the_source_is_finished_by_the_next_copy(stores: tuple[Store, Store]) -> None:
    source, target = stores
    scenario = Scenario(source, blocks=3)
    [(block, attempt)] = scenario.claim()
    with source.writing() as connection:
        commit_block(connection, scenario.result(block, attempt))
    copy_store(source, target)
    finish(scenario)
    copy_store(source, target)
    with source.reading() as here, target.reading() as there:
        finished = find_sweep(here, scenario.sweep.digest).finished_at  # type: ignore[union-attr]
        assert finished is not None
        assert find_sweep(there, scenario.sweep.digest).finished_at == finished  # type: ignore[union-attr]


def test_a_source_of_several_portions(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = stores
    fill(source)
    monkeypatch.setattr(copy, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr("gpuscout.store.transfer.copy_sweeps._ROWS_AT_ONCE", 1)
    seen: list[int] = []
    copied = copy_store(source, target, on_progress=lambda copied: seen.append(copied.tasks_seen))
    assert content(target) == content(source)
    assert seen == sorted(seen)
    assert seen[-1] == copied.tasks_total == copied.tasks_seen


def test_a_killed_copy_goes_on(urls: tuple[str, str], stores: tuple[Store, Store]) -> None:
    source, target = stores
    scenario = Scenario(source, blocks=3, per_block=2_000)
    finish(scenario)
    code = (
        "import sys, time\n"
        "from gpuscout.store.transfer import copy\n"
        "from gpuscout.store.database.connect import open_store\n"
        "copy._ROWS_AT_ONCE = 500\n"
        "with open_store(sys.argv[1]) as source, open_store(sys.argv[2]) as target:\n"
        "    copy.copy_store(source, target, on_progress=lambda copied: (print('.', flush=True), time.sleep(0.02)))\n"
    )
    for portions in (2, 4):
        process = subprocess.Popen([sys.executable, "-c", code, *urls], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(portions):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with target.reading() as connection:
        there = connection.execute(sa.select(sa.func.count()).select_from(tasks)).scalar_one()
        assert find_sweep(connection, scenario.sweep.digest).finished_at is None  # type: ignore[union-attr]
    assert 0 < there < 6_000
    # Postgres notices the death of the other process at its own pace.
    deadline = time.monotonic() + 60
    while True:
        try:
            copied = copy_store(source, target)
            break
        except StoreBusyError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert copied.tasks == 6_000 - there
    assert content(target) == content(source)


def test_a_store_is_not_copied_into_itself(tmp_path: Path) -> None:
    path = tmp_path / "gpuscout.db"
    (tmp_path / "link.db").symlink_to(path)
    with (
        open_store(str(path), create=True) as store,
        open_store(str(tmp_path / "link.db")) as same,
        pytest.raises(InputError, match="into itself"),
    ):
        copy_store(store, same)


def test_every_table_is_known_to_the_copy() -> None:
    """Whoever adds a table decides here what a copy does with it."""
    assert set(metadata.tables) - {"runners"} == {
        "models", "gpus", "engines", "ladders", "cases", "tasks", "operating_points", "measured_runs", "percentiles",
        "sweeps", "sweep_engines", "sweep_workloads", "membership", "exclusions", "blocks", "failures", "prices",
        "intervals", "errors_seen", "point_percentiles", "traffics", "token_prices", "imported_workloads",
    }  # fmt: skip
    assert {engines.name, measured_runs.name, percentiles.name, sweeps.name} <= set(metadata.tables)


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, postgres_url: str) -> None:
    with open_store(str(tmp_path / "laptop.db"), create=True) as store:
        fill(store)
    done = gpuscout("db", "copy", "laptop.db", postgres_url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 sweeps, 12 tasks" in done.stdout
    again = gpuscout("db", "copy", "laptop.db", postgres_url, "--json", cwd=tmp_path)
    document = json.loads(again.stdout)
    assert {name: document[name] for name in NOTHING} == NOTHING
    assert document["tasks_seen"] == 12
    back = gpuscout("db", "copy", postgres_url, "sqlite:///back.db", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    with open_store(str(tmp_path / "laptop.db")) as first, open_store(str(tmp_path / "back.db")) as last:
        assert content(first) == content(last)


def test_an_outdated_source_is_refused_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(str(tmp_path / "old.db"), create=True) as store, store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {connect.REVISION_TABLE} SET version_num = '0000'")
    done = gpuscout("db", "copy", "old.db", "new.db", cwd=tmp_path)
    assert done.returncode == 4
    assert "old.db" in done.stderr
    assert not (tmp_path / "new.db").exists()


def test_there_is_nothing_to_copy(tmp_path: Path) -> None:
    done = gpuscout("db", "copy", "none.db", "new.db", cwd=tmp_path)
    assert done.returncode == 3
    assert "no store at none.db" in done.stderr
    assert not (tmp_path / "new.db").exists()
