"""Deleting and cancelling sweeps: what nothing else refers to goes, everything else stays."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from gpuscout.store.database.connect import Store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results import durable
from gpuscout.store.results.blocks import sweep_progress
from gpuscout.store.results.sweeps import (
    Deleted,
    cancel_sweep,
    delete_sweep,
    find_sweep,
    list_sweeps,
    register_sweep,
    resume_sweep,
)
from gpuscout.store.results.tasks import commit_block, stored_tasks
from gpuscout.store.schema import (
    blocks,
    cases,
    exclusions,
    failures,
    measured_runs,
    membership,
    operating_points,
    percentiles,
    sweep_engines,
    sweep_workloads,
    sweeps,
    tasks,
)
from gpuscout.sweeps.outcomes import Outcome
from tests.support.stores import Scenario, keys_of

CONTENT = (sweeps, blocks, tasks, operating_points, cases, membership, failures, exclusions)


def counts(store: Store) -> dict[str, int]:
    with store.reading() as connection:
        return {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in CONTENT
        }


def finish(scenario: Scenario, **how: object) -> None:
    """Compute all blocks of a sweep; `how` is told to every answer."""
    while claims := scenario.claim():
        for block, attempt in claims:
            answer = scenario.answer(range(scenario.per_block), **how)
            with scenario.store.writing() as connection:
                assert commit_block(connection, scenario.result(block, attempt, answer))


def delete(scenario: Scenario) -> Deleted:
    return durable.writing(scenario.store, lambda connection: delete_sweep(connection, scenario.sweep.id))


def measure(store: Store, case_id: int) -> None:
    """Store a measured run of a case, with a percentile."""
    with store.writing() as connection:
        run = sa.insert(measured_runs).values(
            digest=b"m" * 16, case_id=case_id, source="a paper", imported_at=datetime.now(UTC), load="closed_loop"
        )
        run_id = connection.execute(run.returning(measured_runs.c.id)).scalar_one()
        connection.execute(sa.insert(percentiles).values(run_id=run_id, metric="ttft_ms", percentile=99.0, value=80.0))


def test_the_only_sweep_takes_everything_with_it(store: Store) -> None:
    scenario = Scenario(store, blocks=2)
    finish(scenario, outcomes={1: Outcome.DOES_NOT_FIT, 2: Outcome.ERROR})
    assert delete(scenario) == Deleted(blocks=2, tasks=4, points=6, cases=6, failures=2)
    assert set(counts(store).values()) == {0}
    with store.reading() as connection:
        assert list_sweeps(connection) == []
        for table in (sweep_engines, sweep_workloads):
            assert connection.execute(sa.select(table)).all() == []


def test_what_another_sweep_refers_to_stays(store: Store) -> None:
    kept = Scenario(store, blocks=2, name="kept")
    finish(kept)
    before = counts(store)
    # Shares the three tasks of the kept sweep's second block and has three of its own.
    other = Scenario(store, blocks=2, name="other", first=4)
    finish(other)
    assert counts(store)["tasks"] == 9
    assert delete(other) == Deleted(blocks=2, tasks=3, points=9, cases=3, failures=0)
    assert counts(store) == before
    with store.reading() as connection:
        found = stored_tasks(connection, [*keys_of(kept.cases(0)), *keys_of(kept.cases(1))])
        assert len(found) == 6
        assert find_sweep(connection, kept.sweep.digest).finished_at is not None  # type: ignore[union-attr]


def test_cases_of_measured_runs_and_of_open_failures_stay(store: Store) -> None:
    scenario = Scenario(store, blocks=1)
    finish(scenario)
    with store.reading() as connection:
        case_id = connection.execute(sa.select(sa.func.min(cases.c.id))).scalar_one()
    measure(store, case_id)
    failed = Scenario(store, blocks=1, name="failed", ladder=(1, 2, 4, 8))
    finish(failed, outcomes={1: Outcome.ERROR, 2: Outcome.ERROR})
    assert delete(scenario).cases == 0
    assert counts(store)["cases"] == 3
    assert delete(failed) == Deleted(blocks=1, tasks=1, points=4, cases=2, failures=2)
    with store.reading() as connection:
        assert connection.execute(sa.select(cases.c.id)).scalars().all() == [case_id]
        assert len(connection.execute(sa.select(percentiles)).all()) == 1


def test_tasks_that_belong_to_no_sweep_stay(store: Store) -> None:
    orphan, scenario = Scenario(store, blocks=1, name="orphan"), Scenario(store, blocks=1, first=100)
    finish(orphan)
    finish(scenario)
    with store.writing() as connection:
        connection.execute(sa.delete(membership).where(membership.c.sweep_id == orphan.sweep.id))
    assert delete(scenario).tasks == 3
    assert counts(store)["tasks"] == 3


def test_a_runner_whose_sweep_is_deleted_stores_nothing_and_finds_no_more(store: Store) -> None:
    runner = RunnerLock(store)
    with runner.held():
        scenario = Scenario(store, blocks=2, runner_id=runner.runner_id)
        [claim] = durable.claim(runner, scenario.sweep.id, 1, in_flight=())
        assert delete(scenario).blocks == 2
        assert not durable.commit(runner, scenario.result(claim.block, claim.attempt))
        assert durable.claim(runner, scenario.sweep.id, 9, in_flight=()) == []
    assert set(counts(store).values()) == {0}


def test_a_task_deleted_before_it_could_be_reused_is_computed_again(store: Store) -> None:
    first = Scenario(store, blocks=1)
    finish(first)
    runner = RunnerLock(store)
    with runner.held():
        second = Scenario(store, blocks=1, name="weekly", runner_id=runner.runner_id)
        [claim] = durable.claim(runner, second.sweep.id, 1, in_flight=())
        with store.reading() as connection:
            found = stored_tasks(connection, keys_of(second.cases(0)))
        reused = {position: found[key].id for position, key in enumerate(keys_of(second.cases(0)))}
        delete(first)
        assert not durable.commit(runner, second.result(claim.block, claim.attempt, reused=reused))
        [again] = durable.claim(runner, second.sweep.id, 1, in_flight=())
        assert (again.block, again.attempt) == (claim.block, 2)
        assert durable.commit(runner, second.result(again.block, again.attempt))
    assert counts(store)["operating_points"] == 9


def test_nobody_claims_blocks_of_a_cancelled_sweep(store: Store) -> None:
    scenario = Scenario(store, blocks=3)
    [(block, attempt)] = scenario.claim()
    with store.writing() as connection:
        assert cancel_sweep(connection, scenario.sweep.id)
        assert not cancel_sweep(connection, scenario.sweep.id)
        assert find_sweep(connection, scenario.sweep.digest).cancelled_at is not None  # type: ignore[union-attr]
    assert scenario.claim() == []
    # What is being computed is not thrown away.
    with store.writing() as connection:
        assert commit_block(connection, scenario.result(block, attempt))
        assert resume_sweep(connection, scenario.sweep.id)
        assert not resume_sweep(connection, scenario.sweep.id)
    assert scenario.claim() == [(1, 1)]


def test_running_a_cancelled_sweep_again_resumes_it(store: Store) -> None:
    scenario = Scenario(store, blocks=2)
    with store.writing() as connection:
        cancel_sweep(connection, scenario.sweep.id)
        assert register_sweep(connection, scenario.new_sweep()).cancelled_at is None
    finish(scenario)
    with store.writing() as connection:
        assert not cancel_sweep(connection, scenario.sweep.id)
        assert sweep_progress(connection, scenario.sweep.id).done == 2
