"""The contract of the store, the same on a SQLite file and on Postgres."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from gpuscout.store.database.connect import Store
from gpuscout.store.database.locks import FileLock, RunnerLock, lock_file
from gpuscout.store.database.waiting import answer_by
from gpuscout.store.results.blocks import (
    ClaimedBlock,
    claim_blocks,
    open_failures,
    release_blocks,
    reopen_failed_blocks,
    sweep_progress,
)
from gpuscout.store.results.registry import register_ladder, register_names
from gpuscout.store.results.sweeps import (
    NewSweepEngine,
    find_sweep,
    list_sweeps,
    note_run,
    register_sweep,
    sweep_by_name,
)
from gpuscout.store.results.tasks import BlockResult, StoredTask, commit_block, stored_tasks
from gpuscout.store.schema import (
    blocks,
    cases,
    engines,
    exclusions,
    failures,
    gpus,
    membership,
    models,
    operating_points,
    sweep_workloads,
    tasks,
)
from gpuscout.sweeps.errors import StoreBusyError, TookTooLongError
from gpuscout.sweeps.expand import Exclusion
from gpuscout.sweeps.outcomes import Outcome
from tests.support.forked import FORKS
from tests.support.stores import (
    OPTIONS,
    Scenario,
    a_gpu,
    a_model,
    claim_and_hang,
    claim_until_empty,
    keys_of,
    run_whole_sweep,
    some_cases,
)


def commit(store: Store, result: BlockResult) -> bool:
    with store.writing() as connection:
        return commit_block(connection, result)


def rows(store: Store, table: sa.Table, *order: str) -> list[Any]:
    with store.reading() as connection:
        return list(connection.execute(sa.select(table).order_by(*(table.c[name] for name in order))).all())


def count(store: Store, table: sa.Table) -> int:
    with store.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def counts(store: Store) -> dict[str, int]:
    return {table.name: count(store, table) for table in (cases, tasks, operating_points, membership, failures)}


def curve(store: Store, key: bytes) -> dict[int, float]:
    """TTFT by concurrency."""
    query = sa.select(operating_points.c.concurrency, operating_points.c.ttft_ms).join(
        tasks, tasks.c.id == operating_points.c.task_id
    )
    with store.reading() as connection:
        return dict(map(tuple, connection.execute(query.where(tasks.c.key == key))))


# --- writing and reading -----------------------------------------------------------------------------------------


def test_what_is_committed_is_read_back(store: Store) -> None:
    scenario = Scenario(store, blocks=1)
    [(block, attempt)] = scenario.claim()
    answer = scenario.answer(
        range(3), outcomes={2: Outcome.DOES_NOT_FIT}, details={2: "needs 90 GiB"}, fits_up_to={1: 2}
    )
    assert commit(store, scenario.result(block, attempt, answer))

    [fits, short, no] = rows(store, tasks, "id") if store.is_sqlite else _by_key(store, scenario)
    assert (fits.outcome, fits.detail, fits.needed_gib, fits.usable_gib) == ("ok", None, 2.5, None)
    assert (fits.kv_capacity_tokens, fits.fits_up_to) == (10_000, None)
    assert (short.kv_capacity_tokens, short.fits_up_to) == (None, 2)
    assert (no.outcome, no.detail) == ("does_not_fit", "needs 90 GiB")
    assert fits.created_at.tzinfo is not None

    points = [row for row in rows(store, operating_points, "task_id", "concurrency") if row.task_id == short.id]
    assert [(p.concurrency, p.ttft_ms, p.itl_ms, p.bound, p.queued) for p in points] == [
        (1, 101.0, None, "compute", False),
        (2, 102.0, 10.2, "compute", False),
    ]
    [case, *_] = [row for row in rows(store, cases) if row.id == fits.case_id]
    assert (case.input_len, case.output_len, case.num_gpus) == (1, 128, 1)
    assert (case.precision, case.kv_precision, case.server) == ("bf16", "bf16", "vllm")
    assert bytes(case.digest) == scenario.cases(0).digests()[0]
    [model] = rows(store, models)
    assert (model.name, bytes(model.digest)) == ("acme/tiny-1b", a_model().digest())
    [workload] = rows(store, sweep_workloads)
    assert (workload.name, workload.input_len) == ("chat", 1024)


def _by_key(store: Store, scenario: Scenario) -> list[Any]:
    found = {bytes(row.key): row for row in rows(store, tasks)}
    return [found[key] for key in keys_of(scenario.cases(0))]


def test_stored_tasks_finds_the_keys_that_have_an_answer(store: Store) -> None:
    scenario = Scenario(store, blocks=1, per_block=2)
    [(block, attempt)] = scenario.claim()
    commit(store, scenario.result(block, attempt, scenario.answer(range(2), fits_up_to={1: 2})))
    keys = keys_of(scenario.cases(0))
    with store.reading() as connection:
        found = stored_tasks(connection, [*keys, b"x" * 16])
        assert stored_tasks(connection, []) == {}
    assert set(found) == set(keys)
    assert isinstance(found[keys[0]], StoredTask)
    assert found[keys[0]][1:] == ((1, 2, 4), "ok", None)
    assert found[keys[1]][1:] == ((1, 2, 4), "ok", 2)


@pytest.mark.slow
def test_more_keys_than_one_query_takes(store: Store) -> None:
    scenario = Scenario(store, blocks=1, per_block=12_000, ladder=(2,))
    [(block, attempt)] = scenario.claim()
    assert commit(store, scenario.result(block, attempt))
    with store.reading() as connection:
        assert len(stored_tasks(connection, keys_of(scenario.cases(0)))) == 12_000
    assert counts(store) == {
        "cases": 12_000,
        "tasks": 12_000,
        "operating_points": 12_000,
        "membership": 12_000,
        "failures": 0,
    }


def test_names_are_registered_once(store: Store) -> None:
    model, other = a_model(), a_model(layers=17)
    engine = NewSweepEngine("roofline", "f1", OPTIONS, (1,), 1, ())
    with store.writing() as connection:
        first = register_names(connection, [model, other, model], [a_gpu()], engine)
        again = register_names(connection, [model], [a_gpu(), a_gpu("A100")], engine)
        newer = register_names(connection, [], [], replace(engine, fingerprint="f2"))
        ladder = register_ladder(connection, (4, 1, 2, 4))
        assert register_ladder(connection, np.array([1, 2, 4])) == ladder
    assert first.model_ids[0] == first.model_ids[2] == again.model_ids[0] != first.model_ids[1]
    assert first.gpu_ids[0] == again.gpu_ids[0] != again.gpu_ids[1]
    assert first.engine_id == again.engine_id != newer.engine_id
    assert (count(store, models), count(store, gpus), count(store, engines)) == (2, 2, 2)


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    scenario = Scenario(store)
    [(block, attempt)] = scenario.claim()

    def fail_after_commit() -> None:
        with store.writing() as connection:
            assert commit_block(connection, scenario.result(block, attempt))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_commit()
    assert set(counts(store).values()) == {0}
    assert commit(store, scenario.result(block, attempt))


def test_reading_cannot_write(store: Store) -> None:
    scenario = Scenario(store)
    with pytest.raises(DBAPIError, match=r"readonly|read-only"), store.reading() as connection:
        connection.execute(sa.delete(blocks))
    with store.writing() as connection:
        connection.execute(sa.update(blocks).values(attempt=7))
    with pytest.raises(DBAPIError), store.reading() as connection:
        note_run(connection, scenario.sweep.id)


def test_reading_ends_when_it_is_late(store: Store) -> None:
    endless = sa.text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
    began = time.monotonic()
    with answer_by(lambda: began + 0.5), pytest.raises(TookTooLongError), store.reading() as connection:
        connection.execute(endless)
    with answer_by(lambda: began), pytest.raises(TookTooLongError), store.reading():
        pytest.fail("nothing is read any more")
    with store.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(models)) == 0


def test_a_reader_sees_one_state_while_others_write(store: Store) -> None:
    scenario = Scenario(store)
    [(block, attempt)] = scenario.claim()
    with store.reading() as connection:
        before = connection.execute(sa.select(sa.func.count()).select_from(tasks)).scalar_one()
        commit(store, scenario.result(block, attempt))
        assert connection.execute(sa.select(sa.func.count()).select_from(tasks)).scalar_one() == before == 0
    assert count(store, tasks) == 3


def test_the_database_keeps_vocabularies_and_references(store: Store) -> None:
    scenario = Scenario(store)
    with pytest.raises(IntegrityError), store.writing() as connection:
        connection.execute(sa.update(blocks).values(state="lost"))
    with pytest.raises(IntegrityError), store.writing() as connection:
        connection.execute(sa.insert(membership).values(sweep_id=scenario.sweep.id, task_id=99))


def test_text_that_no_database_takes_is_made_printable(store: Store) -> None:
    scenario = Scenario(store, blocks=1)
    [(block, attempt)] = scenario.claim()
    broken = {0: "a\0b", 1: "half \ud800 pair", 2: "x" * 100_000}
    answer = scenario.answer(
        range(3), outcomes={0: Outcome.INVALID, 1: Outcome.ERROR, 2: Outcome.ERROR}, details=broken
    )
    assert commit(store, scenario.result(block, attempt, answer))
    assert [row.detail for row in rows(store, tasks)] == ["ab"]
    assert [row.message[:11] for row in rows(store, failures, "id")] == ["half ? pair", "x" * 11]


# --- reuse and growth --------------------------------------------------------------------------------------------


def test_another_sweep_reuses_what_is_stored(store: Store) -> None:
    first = Scenario(store, blocks=1)
    assert commit(store, first.result(*first.claim()[0]))
    before = counts(store)

    second = Scenario(store, blocks=1, name="weekly")
    [(block, attempt)] = second.claim()
    with store.reading() as connection:
        found = stored_tasks(connection, keys_of(second.cases(0)))
    reused = {position: found[key].id for position, key in enumerate(keys_of(second.cases(0)))}
    assert commit(store, second.result(block, attempt, reused=reused))
    assert counts(store) == {**before, "membership": 6}
    with store.reading() as connection:
        assert find_sweep(connection, second.sweep.digest).finished_at is not None  # type: ignore[union-attr]


def test_a_longer_ladder_adds_only_missing_points(store: Store) -> None:
    first = Scenario(store, blocks=1, ladder=(1, 4))
    assert commit(store, first.result(*first.claim()[0]))
    longer = Scenario(store, blocks=1, ladder=(1, 2, 4, 8))
    [(block, attempt)] = longer.claim()
    # 4 is answered again, differently: what is stored does not change.
    answer = longer.answer(range(3), (2, 4, 8), scale=1000.0)
    assert commit(store, longer.result(block, attempt, answer))
    key = keys_of(longer.cases(0))[1]
    assert curve(store, key) == {1: 101.0, 2: 102_000.0, 4: 104.0, 8: 108_000.0}
    with store.reading() as connection:
        assert stored_tasks(connection, [key])[key].ladder == (1, 2, 4, 8)
    assert count(store, tasks) == 3


def test_a_grown_curve_can_end_early(store: Store) -> None:
    first = Scenario(store, blocks=1, ladder=(1, 4))
    assert commit(store, first.result(*first.claim()[0]))
    longer = Scenario(store, blocks=1, ladder=(1, 4, 8, 16))
    [(block, attempt)] = longer.claim()
    answer = longer.answer(range(3), (8, 16), fits_up_to={0: 8, 1: 0})
    assert commit(store, longer.result(block, attempt, answer))
    with store.reading() as connection:
        found = stored_tasks(connection, keys_of(longer.cases(0)))
    assert [found[key].fits_up_to for key in keys_of(longer.cases(0))] == [8, 4, None]
    assert list(curve(store, keys_of(longer.cases(0))[1])) == [1, 4]


def test_the_first_to_store_a_task_wins(store: Store) -> None:
    """Two runners answer the same new tasks, from two sweeps with different ladders."""
    mine, theirs = Scenario(store, blocks=1, ladder=(1, 2)), Scenario(store, blocks=1, ladder=(2, 4), name="other")
    my_claim, their_claim = mine.claim()[0], theirs.claim()[0]
    refused = {2: Outcome.NOT_SUPPORTED}
    assert commit(store, theirs.result(*their_claim, theirs.answer(range(3), outcomes=refused)))
    assert commit(store, mine.result(*my_claim, mine.answer(range(3), scale=10.0)))
    keys = keys_of(mine.cases(0))
    assert curve(store, keys[0]) == {1: 10.0, 2: 2.0, 4: 4.0}
    assert curve(store, keys[2]) == {}
    with store.reading() as connection:
        found = stored_tasks(connection, keys)
    assert found[keys[0]].ladder == (1, 2, 4)
    assert (found[keys[2]].outcome, found[keys[2]].ladder) == ("not_supported", (2, 4))
    assert count(store, membership) == 6


def test_a_task_that_a_block_names_twice_is_stored_once(store: Store) -> None:
    scenario = Scenario(store, blocks=1)
    result = scenario.result(*scenario.claim()[0])
    twice = result.cases.take(np.array([0, 1, 0]))
    assert commit(store, replace(result, cases=twice, keys=keys_of(twice)))
    assert counts(store) == {"cases": 2, "tasks": 2, "operating_points": 6, "membership": 2, "failures": 0}


def test_a_position_answered_twice_is_a_mistake(store: Store) -> None:
    scenario = Scenario(store, blocks=1)
    claim = scenario.claim()[0]
    with pytest.raises(ValueError, match="twice"):
        commit(store, scenario.result(*claim, scenario.answer([0, 0])))
    with pytest.raises(ValueError, match="twice"):
        commit(store, scenario.result(*claim, scenario.answer([0, 1]), reused={1: 5}))


# --- sweeps ------------------------------------------------------------------------------------------------------


def test_a_sweep_is_registered_once(store: Store) -> None:
    scenario = Scenario(store)
    scenario.claim()
    with store.writing() as connection:
        again = register_sweep(connection, scenario.new_sweep())
    assert again.id == scenario.sweep.id
    assert again.latest_run > scenario.sweep.latest_run
    assert [(row.state, row.attempt) for row in rows(store, blocks, "block")] == [("claimed", 1), ("pending", 0)]
    [engine] = again.engines
    assert (engine.name, engine.ladder, engine.first_block, engine.block_count) == ("roofline", (1, 2, 4), 0, 2)
    assert again.engine_of(1) == engine
    assert (again.task_count, again.combinations, again.excluded_count) == (6, 6, 0)


def test_a_name_means_the_revision_run_last(store: Store) -> None:
    first, second = Scenario(store), Scenario(store, ladder=(1, 2, 4, 8))
    other = Scenario(store, name="other")
    assert (first.sweep.revision, second.sweep.revision, other.sweep.revision) == (1, 2, 1)
    with store.writing() as connection:
        assert sweep_by_name(connection, "nightly").id == second.sweep.id  # type: ignore[union-attr]
        note_run(connection, first.sweep.id)
        assert sweep_by_name(connection, "nightly").id == first.sweep.id  # type: ignore[union-attr]
        assert sweep_by_name(connection, "none") is None
        assert find_sweep(connection, b"x" * 16) is None
        assert [sweep.name for sweep in list_sweeps(connection)] == ["nightly", "other", "nightly"]


def test_exclusions_and_empty_blocks(store: Store) -> None:
    scenario = Scenario(store)
    engine = replace(scenario.new_sweep().engines[0], block_tasks=[0, 2, 0])
    new = replace(
        scenario.new_sweep(),
        digest=b"y" * 16,
        engines=[engine, replace(engine, name="other")],
        exclusions=[
            Exclusion("heads", "8 heads do not divide by 3", "acme/tiny-1b", 40),
            Exclusion("rule", "x", None, 2),
        ],
    )
    with store.writing() as connection:
        sweep = register_sweep(connection, new)
        claims = claim_blocks(connection, sweep.id, scenario.runner_id, 10, lambda runner: True)
        nothing = replace(new, digest=b"z" * 16, engines=[replace(engine, block_tasks=[0, 0])])
        assert register_sweep(connection, nothing).finished_at is not None
    assert [claim.block for claim in claims] == [1, 4]
    assert [part.first_block for part in sweep.engines] == [0, 3]
    assert (sweep.excluded_count, sweep.task_count, sweep.revision) == (42, 4, 2)
    kept = [row for row in rows(store, exclusions, "id") if row.sweep_id == sweep.id]
    assert [(row.reason, row.model, row.gpu, row.combinations) for row in kept] == [
        ("heads", "acme/tiny-1b", None, 40),
        ("rule", None, None, 2),
    ]


def test_a_sweep_is_finished_with_its_last_block(store: Store) -> None:
    scenario = Scenario(store)
    for block, attempt in scenario.claim(2):
        with store.reading() as connection:
            assert find_sweep(connection, scenario.sweep.digest).finished_at is None  # type: ignore[union-attr]
        assert commit(store, scenario.result(block, attempt))
    with store.reading() as connection:
        assert find_sweep(connection, scenario.sweep.digest).finished_at is not None  # type: ignore[union-attr]
        progress = sweep_progress(connection, scenario.sweep.id)
    assert (progress.blocks, progress.done, progress.tasks_done, progress.tasks) == (2, 2, 6, 6)


# --- claims ------------------------------------------------------------------------------------------------------


def test_blocks_are_claimed_lowest_first_and_given_back(store: Store) -> None:
    scenario = Scenario(store, blocks=5)
    assert scenario.claim(2) == [(0, 1), (1, 1)]
    assert scenario.claim(1) == [(2, 1)]
    with store.writing() as connection:
        back = [ClaimedBlock(1, 1), ClaimedBlock(2, 9), ClaimedBlock(4, 0)]
        assert release_blocks(connection, scenario.sweep.id, scenario.runner_id, back) == [1]
    assert scenario.claim(9) == [(1, 2), (3, 1), (4, 1)]
    assert scenario.claim(9) == []


def test_a_block_of_a_dead_runner_is_taken_at_once(store: Store) -> None:
    dead, alive = Scenario(store, blocks=3), Scenario(store, blocks=3)
    dead.claim(2)
    assert alive.claim(9, alive=True) == [(2, 1)]
    assert alive.claim(9, alive=False) == [(0, 2), (1, 2)]
    assert alive.claim(9, alive=False) == []


def test_only_the_current_attempt_commits(store: Store) -> None:
    late, current = Scenario(store, blocks=1), Scenario(store, blocks=1)
    [(block, attempt)] = late.claim()
    [(_, newer)] = current.claim(alive=False)
    assert not commit(store, late.result(block, attempt))
    assert not commit(store, late.result(block, newer))
    assert set(counts(store).values()) == {0}
    with store.writing() as connection:
        assert release_blocks(connection, late.sweep.id, late.runner_id, [ClaimedBlock(block, attempt)]) == []
    assert commit(store, current.result(block, newer))
    before = counts(store)
    assert not commit(store, current.result(block, newer))
    assert counts(store) == before


@pytest.mark.slow
def test_processes_never_claim_the_same_block(store: Store, store_url: str) -> None:
    scenario = Scenario(store, blocks=300)
    with FORKS.Pool(4) as pool:
        claims = pool.starmap(claim_until_empty, [(store_url, scenario.sweep.id)] * 4)
        pool.close()
        pool.join()
    assert sorted(claim for mine in claims for claim in mine) == [(block, 1) for block in range(300)]


@pytest.mark.slow
def test_processes_that_store_the_same_tasks_lose_nothing(store: Store, store_url: str) -> None:
    """Two sweeps over the same tasks with different ladders, each run by two processes at once."""
    ladders = {"even": (2, 4, 8), "odd": (1, 3, 8)}
    with FORKS.Pool(4) as pool:
        committed = pool.starmap(run_whole_sweep, [(store_url, name, ladders[name]) for name in ladders] * 2)
        pool.close()
        pool.join()
    assert sum(committed) == 10
    assert counts(store) == {
        "cases": 200,
        "tasks": 200,
        "operating_points": 1000,
        "membership": 400,
        "failures": 0,
    }
    scenario = Scenario(store, blocks=5, per_block=40, name="even", ladder=ladders["even"])
    with store.reading() as connection:
        found = stored_tasks(connection, keys_of(some_cases(200)))
        assert all(sweep.finished_at is not None for sweep in list_sweeps(connection))
    assert {task.ladder for task in found.values()} == {(1, 2, 3, 4, 8)}
    assert scenario.sweep.revision == 1


def test_the_blocks_of_a_killed_runner_are_free(store: Store, store_url: str) -> None:
    scenario = Scenario(store, blocks=3)
    here, there = FORKS.Pipe()
    process = FORKS.Process(target=claim_and_hang, args=(store_url, scenario.sweep.id, there), daemon=True)
    process.start()
    assert here.recv() == [0, 1]
    lock = RunnerLock(store)
    if store.is_sqlite:
        with pytest.raises(StoreBusyError, match=rf"process {process.pid} on .*, since 20"):
            lock.acquire()
    else:
        with lock.held(), store.writing() as connection:
            claims = claim_blocks(connection, scenario.sweep.id, lock.runner_id, 9, lock.is_alive)
            assert [claim.block for claim in claims] == [2]
            release_blocks(connection, scenario.sweep.id, lock.runner_id, claims)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock.held(wait_s=60):
        claimed: list[ClaimedBlock] = []
        deadline = time.monotonic() + 60
        while len(claimed) < 3 and time.monotonic() < deadline:
            with store.writing() as connection:
                claimed += claim_blocks(connection, scenario.sweep.id, lock.runner_id, 9, lock.is_alive)
    assert sorted((claim.block, claim.attempt) for claim in claimed) == [
        (0, 2),
        (1, 2),
        (2, 1 if store.is_sqlite else 2),
    ]
    here.close()
    there.close()


def test_a_runner_is_alive_as_long_as_it_holds_its_lock(store: Store) -> None:
    first = RunnerLock(store)
    with first.held():
        runner_id = first.runner_id
        assert first.is_alive(runner_id)
        assert not first.is_alive(runner_id + 1)
        with pytest.raises(RuntimeError, match="already held"):
            first.acquire()
    with pytest.raises(RuntimeError, match="not held"):
        _ = first.runner_id
    second = RunnerLock(store)
    with second.held():
        assert second.runner_id != runner_id
        assert not second.is_alive(runner_id)
        if not store.is_sqlite:
            with first.held():
                assert second.is_alive(first.runner_id)
                assert first.is_alive(second.runner_id)


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Any) -> None:
    path = lock_file(tmp_path / "gpuscout.db")
    lock = FileLock(path, wait_s=0)
    lock.acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.2)
        with pytest.raises(StoreBusyError):
            FileLock(path, wait_s=0).acquire()
        lock.release()
        with FileLock(path, wait_s=0):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# --- failures ----------------------------------------------------------------------------------------------------


def test_failures_are_kept_and_tried_again(store: Store) -> None:
    scenario = Scenario(store, blocks=2)
    failing = {0: Outcome.ERROR, 1: Outcome.CRASHED}
    claims = scenario.claim(2)
    answer = scenario.answer(range(3), outcomes=failing, details={0: "ValueError: no"})
    assert commit(store, scenario.result(*claims[0], answer))
    assert commit(store, scenario.result(*claims[1]))
    assert count(store, tasks) == count(store, membership) == 4

    with store.writing() as connection:
        assert find_sweep(connection, scenario.sweep.digest).finished_at is None  # type: ignore[union-attr]
        assert sweep_progress(connection, scenario.sweep.id).failures == {Outcome.ERROR: 1, Outcome.CRASHED: 1}
        assert reopen_failed_blocks(connection, scenario.sweep.id) == [0]
        [error, crash] = open_failures(connection, scenario.sweep.id)
    assert (error.message, error.outcome, error.block) == ("ValueError: no", Outcome.ERROR, 0)
    assert (crash.message, crash.task_key) == ("crashed", keys_of(scenario.cases(0))[1])
    assert [(row.failure_count, row.state) for row in rows(store, blocks, "block")] == [(2, "pending"), (0, "done")]

    # The error fails again, the crashed task is not tried: two rows for the first, both open.
    [claim] = scenario.claim(9)
    assert claim == (0, 2)
    stored = _id_of(store, keys_of(scenario.cases(0))[2])
    again = scenario.answer([0], outcomes={0: Outcome.TIMEOUT})
    assert commit(store, scenario.result(*claim, again, reused={2: stored}))
    assert [(row.attempt, row.outcome) for row in rows(store, failures, "id")] == [
        (1, "error"),
        (1, "crashed"),
        (2, "timeout"),
    ]
    with store.writing() as connection:
        assert reopen_failed_blocks(connection, scenario.sweep.id) == []
        assert reopen_failed_blocks(connection, scenario.sweep.id, include_crashed=True) == [0]

    # Solved: the history stays, nothing is open, the sweep is finished.
    [claim] = scenario.claim(9)
    assert commit(store, scenario.result(*claim, scenario.answer([0, 1]), reused={2: stored}))
    with store.writing() as connection:
        assert find_sweep(connection, scenario.sweep.digest).finished_at is not None  # type: ignore[union-attr]
        assert open_failures(connection, scenario.sweep.id) == []
        assert reopen_failed_blocks(connection, scenario.sweep.id, include_crashed=True) == []
        assert sweep_progress(connection, scenario.sweep.id).failures == {}
    assert count(store, failures) == 3
    assert [row.failure_count for row in rows(store, blocks, "block")] == [0, 0]


def test_a_curve_that_fails_to_grow_is_open(store: Store) -> None:
    first = Scenario(store, blocks=1, ladder=(1,))
    assert commit(store, first.result(*first.claim()[0]))
    longer = Scenario(store, blocks=1, ladder=(1, 2))
    answer = longer.answer(range(3), (2,), outcomes={1: Outcome.GATED})
    assert commit(store, longer.result(*longer.claim()[0], answer))
    with store.writing() as connection:
        assert [f.outcome for f in open_failures(connection, longer.sweep.id)] == [Outcome.GATED]
        assert reopen_failed_blocks(connection, longer.sweep.id) == [0]
        assert reopen_failed_blocks(connection, first.sweep.id) == []
    key = keys_of(longer.cases(0))[1]
    assert curve(store, key) == {1: 101.0}


def _id_of(store: Store, key: bytes) -> int:
    with store.reading() as connection:
        return stored_tasks(connection, [key])[key].id
