"""States of a store, and what is remembered of them: never an answer of another state, on both databases."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.database.kept import kept_stores
from gpuscout.store.prices.books import book_names, save_quotes
from gpuscout.store.prices.prices import PriceRules, Quote
from gpuscout.store.ranking.rank import Question, rank
from gpuscout.store.remembered import remembered
from gpuscout.store.schema import gpus
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.slo import parse_slo
from tests.support.commands import gpuscout, wait_for
from tests.support.rank_stores import a_run, an_answer, fill

QUESTIONS = tuple(
    replace(asked, prices=prices, top=top)
    for asked in (
        Question(slos=(parse_slo("itl<=50ms"),)),
        Question(models=("a/One",), slos=(parse_slo("ttft<=300ms"),), objective="throughput-per-gpu"),
        Question(engines=("oracle",)),
    )
    for prices, top in ((PriceRules(), 1), (PriceRules(overrides={"H100": 0.5, "L4": 9.0}), None))
)


@pytest.fixture
def filled(store: Store) -> Iterator[Store]:
    """A store that is kept, with estimates and measured runs; `store` is another, of whoever writes."""
    with store.writing() as connection:
        fill(
            connection,
            [an_answer(), an_answer(gpu="L4"), an_answer(model="a/Two"), an_answer(engine=("oracle", 0), gpu="L40S")],
            [a_run(gpu="L4")],
        )
    with kept_stores(), open_store(store.url.render_as_string(hide_password=False)) as kept:
        yield kept


def cheaper(store: Store) -> None:
    with store.writing() as connection:
        save_quotes(connection, [Quote("mine", "L4", "Acme", 0.01, date(2026, 1, 1))])


def test_the_state_changes_when_anybody_writes_and_only_then(filled: Store, store: Store) -> None:
    before = filled.state()
    with filled.reading() as connection:
        rank(connection, Question())
    assert filled.state() == before
    cheaper(store)
    after = filled.state()
    assert after != before
    with filled.writing() as connection:
        connection.execute(sa.delete(sa.table("prices")))
    assert filled.state() not in (before, after)
    assert store.state() is None


def test_the_state_of_a_file_is_not_what_its_times_say(tmp_path: Path) -> None:
    place = tmp_path / "gpuscout.db"
    with open_store(str(place), create=True) as store, kept_stores(), open_store(str(place)) as kept:
        cheaper(store)
        wal = tmp_path / "gpuscout.db-wal"
        before, times = kept.state(), wal.stat()
        with closing(sqlite3.connect(place)) as writer:
            writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
            assert kept.state() == before
            # The next transaction goes where the log has room already.
            writer.execute("UPDATE prices SET usd_per_gpu_hour = 7")
            writer.commit()
        os.utime(wal, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert kept.state() != before


def test_answers_are_those_of_a_store_that_remembers_nothing(filled: Store, store: Store) -> None:
    def answers(of: Store) -> list[str]:
        with of.reading() as connection:
            return [repr(rank(connection, question)) for question in QUESTIONS]

    assert answers(filled) == answers(store) == answers(filled)
    cheaper(store)
    dearer = answers(store)
    assert answers(filled) == dearer
    with store.writing() as connection:
        connection.execute(sa.update(gpus).values(figures='{"vendor": "NVIDIA", "gpus_per_node": 4}'))
        connection.execute(sa.text("UPDATE operating_points SET itl_ms = itl_ms * 3"))
    slower = answers(store)
    assert slower != dearer
    assert answers(filled) == slower


def test_a_transaction_remembers_what_it_sees_not_what_came_later(filled: Store, store: Store) -> None:
    def books(connection: sa.Connection) -> int:
        return remembered(
            connection, "books", lambda: connection.scalar(sa.select(sa.func.count()).select_from(sa.table("prices")))
        )

    with filled.reading() as early:
        cheaper(store)
        with filled.reading() as late:
            assert books(late) == 1
            assert books(early) == 0
            assert books(late) == 1
    with filled.reading() as connection:
        assert books(connection) == 1


def test_what_is_remembered_of_a_store_is_bounded(filled: Store) -> None:
    with filled.reading() as connection:
        for number in range(40):
            assert remembered(connection, number, lambda number=number: [number], rows=lambda _: 20_000) == [number]
        again: list[int] = []
        for number in range(40):
            remembered(
                connection, number, lambda number=number: again.append(number) or [number], rows=lambda _: 20_000
            )
    assert len(again) >= 30


def test_a_refusal_is_not_remembered(filled: Store, store: Store) -> None:
    question = replace(QUESTIONS[0], prices=PriceRules(books=("mine",)))
    with pytest.raises(GpuscoutError), filled.reading() as connection:
        rank(connection, question)
    cheaper(store)
    with filled.reading() as connection:
        assert rank(connection, question).groups


def test_stores_are_kept_until_the_last_keeper_ends(tmp_path: Path) -> None:
    place = str(tmp_path / "gpuscout.db")
    open_store(place, create=True).close()
    with kept_stores():
        with kept_stores():
            first = open_store(place)
        assert open_store(place) is first
    assert open_store(place) is not first
    assert first.state() is None


@pytest.mark.slow
def test_what_another_process_wrote_is_seen_however_often_the_file_was_opened_before(tmp_path: Path) -> None:
    place = tmp_path / "gpuscout.db"
    open_store(str(place), create=True).close()
    with kept_stores():
        with open_store(str(place)) as kept, kept.reading() as connection:
            assert book_names(connection) == ["default"]
        for number in range(1, 4):
            before = kept.state()
            with open_store(str(place)) as again, again.reading() as connection:
                book_names(connection)
            # The last to close a file clears its log away, unless somebody else has the file open.
            assert gpuscout("prices", "set", "L4=0.5", "--book", f"mine-{number}", cwd=tmp_path).returncode == 0
            assert kept.state() != before
            with open_store(str(place)) as again, again.reading() as connection:
                assert len(book_names(connection)) == 1 + number


@pytest.mark.slow
def test_a_file_that_replaces_one_that_was_served_is_read_and_stays_whole(tmp_path: Path) -> None:
    place, other = tmp_path / "gpuscout.db", tmp_path / "other.db"
    open_store(str(place), create=True).close()
    with open_store(str(other), create=True) as store:
        with store.writing() as connection:
            fill(connection, [an_answer(lengths=(100 + number, 512)) for number in range(300)], [])
        cheaper(store)
    with kept_stores(rest_after_s=0.1):
        with open_store(str(place)) as kept, kept.reading() as connection:
            assert book_names(connection) == ["default"]
        assert gpuscout("prices", "set", "L4=0.5", "--book", "old", cwd=tmp_path).returncode == 0
        wait_for(lambda: not place.with_name("gpuscout.db-wal").exists())
        other.replace(place)
        assert gpuscout("prices", "set", "L4=0.5", "--book", "new", cwd=tmp_path).returncode == 0
        with open_store(str(place)) as kept, kept.reading() as connection:
            assert book_names(connection) == ["mine", "new", "default"]
    with closing(sqlite3.connect(place)) as whole:
        assert whole.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.slow
def test_a_file_is_whole_without_its_log_when_a_command_that_wrote_ends(tmp_path: Path) -> None:
    place = tmp_path / "gpuscout.db"
    open_store(str(place), create=True).close()
    with closing(sqlite3.connect(place)) as other:
        # Whoever has the file open keeps its log.
        other.execute("SELECT * FROM prices").fetchall()
        assert gpuscout("prices", "set", "L4=0.5", cwd=tmp_path).returncode == 0
        shutil.copy(place, tmp_path / "copy.db")
        place.unlink()
        assert gpuscout("prices", "set", "H100=1.5", "--db", "gpuscout.db", cwd=tmp_path).returncode == 0
    with open_store(str(tmp_path / "copy.db")) as store, store.reading() as connection:
        assert book_names(connection) == ["own", "default"]


def test_files_that_were_replaced_are_closed(tmp_path: Path) -> None:
    place = tmp_path / "gpuscout.db"
    for number in range(5):
        with open_store(str(tmp_path / f"{number}.db"), create=True) as store:
            cheaper(store)
    files: list[int] = []
    with kept_stores():
        for number in range(5):
            (tmp_path / f"{number}.db").replace(place)
            with open_store(str(place)) as kept, kept.reading() as connection:
                assert book_names(connection) == ["mine", "default"]
            files.append(sum("gpuscout.db" in file.path for file in psutil.Process().open_files()))
    assert len(set(files)) == 1, files


@pytest.mark.slow
def test_what_was_read_of_a_file_is_known_after_a_rest(tmp_path: Path) -> None:
    place = tmp_path / "gpuscout.db"
    open_store(str(place), create=True).close()
    wait_for(lambda: time.time() - place.stat().st_ctime > 2.5)
    read: list[int] = []
    with kept_stores(rest_after_s=0.1):
        for _ in range(3):
            with open_store(str(place)) as kept, kept.reading() as connection:
                remembered(connection, "counted", lambda: read.append(1) or read)
                assert place.with_name("gpuscout.db-wal").exists()
            wait_for(lambda: not place.with_name("gpuscout.db-wal").exists())
        assert read == [1]
        state = kept.state()
        with closing(sqlite3.connect(place)) as writer:
            writer.execute("PRAGMA user_version = 7")
        assert kept.state() != state
