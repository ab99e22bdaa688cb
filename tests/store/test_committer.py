"""Commits in the background: every block once, failures told, waiting bounded."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from gpuscout.store.database.connect import Store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results import durable
from gpuscout.store.results.blocks import release_blocks
from gpuscout.store.results.committer import Committer
from gpuscout.store.results.durable import once_an_outage
from gpuscout.store.results.sweeps import find_sweep
from gpuscout.store.results.tasks import BlockResult, stored_tasks
from tests.support.stores import Scenario, keys_of


def test_blocks_are_committed_once_and_reported_once(store: Store) -> None:
    runner = RunnerLock(store)
    with runner.held():
        scenario = Scenario(store, blocks=12, per_block=20, runner_id=runner.runner_id)
        claims = durable.claim(runner, scenario.sweep.id, 12, in_flight=())
        results = [scenario.result(claim.block, claim.attempt) for claim in claims]
        done: list[tuple[BlockResult, bool]] = []
        with Committer(runner, at_once=3) as committer:
            for result in results:
                committer.submit(result)
                done += committer.finished()
                assert len(committer) <= 3
            done += committer.finished(all_of_them=True)
            # A second time, and in an attempt that is none.
            committer.submit(results[0])
            committer.submit(replace(results[1], attempt=9))
            lost = committer.finished(all_of_them=True)
            assert len(committer) == 0
    assert sorted(result.block for result, stored in done if stored) == list(range(12))
    assert [stored for _, stored in lost] == [False, False]
    with store.reading() as connection:
        assert find_sweep(connection, scenario.sweep.digest).finished_at is not None  # type: ignore[union-attr]
        for block in range(12):
            assert len(stored_tasks(connection, keys_of(scenario.cases(block)))) == 20


def test_what_a_commit_raises_is_raised_where_it_is_collected(store: Store) -> None:
    runner = RunnerLock(store)
    with runner.held():
        scenario = Scenario(store, runner_id=runner.runner_id)
        [claim] = durable.claim(runner, scenario.sweep.id, 1, in_flight=())
        wrong = scenario.result(claim.block, claim.attempt, scenario.answer([0, 0]))

        def commit_it() -> None:
            with Committer(runner) as committer:
                committer.submit(wrong)
                committer.finished(all_of_them=True)

        with pytest.raises(ValueError, match="twice"):
            commit_it()
        with Committer(runner) as committer:
            committer.submit(scenario.result(claim.block, claim.attempt))
            assert [stored for _, stored in committer.finished(all_of_them=True)] == [True]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpuscout-commit")]


def test_two_last_blocks_that_end_at_once_finish_the_sweep(store: Store) -> None:
    """Neither commit sees the other's block done; one of them has to notice that nothing is left."""
    runner = RunnerLock(store)
    with runner.held(), Committer(runner) as committer:
        for number in range(12):
            scenario = Scenario(store, name=f"sweep {number}", first=1 + 6 * number, runner_id=runner.runner_id)
            claims = durable.claim(runner, scenario.sweep.id, 2, in_flight=())
            for claim in claims:
                committer.submit(scenario.result(claim.block, claim.attempt))
            assert [stored for _, stored in committer.finished(all_of_them=True)] == [True, True]
            with store.reading() as connection:
                assert find_sweep(connection, scenario.sweep.digest).finished_at is not None  # type: ignore[union-attr]


def test_commits_of_the_same_tasks_wait_for_each_other_and_both_succeed(store: Store) -> None:
    """Two sweeps of one content under two names: new models, GPUs, ladders, cases and tasks, all shared."""
    runner = RunnerLock(store)
    with runner.held(), Committer(runner) as committer:
        ours: list[BlockResult] = []
        for name in ("one", "two"):
            scenario = Scenario(store, name=name, per_block=200, runner_id=runner.runner_id)
            claims = durable.claim(runner, scenario.sweep.id, 2, in_flight=())
            # Each asks for ladders of its own in an order of its own.
            halves = [scenario.answer(range(100), (1, 2)), scenario.answer(range(100, 200), (2, 4))]
            order = halves if name == "one" else halves[::-1]
            ours += [scenario.result(claim.block, claim.attempt, *order) for claim in claims]
        for result in sorted(ours, key=lambda result: result.block):
            committer.submit(result)
        assert [stored for _, stored in committer.finished(all_of_them=True)] == [True] * 4
    with store.reading() as connection:
        found = stored_tasks(connection, [key for result in ours[:2] for key in result.keys])
        assert len(found) == 400
        assert {task.ladder for task in found.values()} == {(1, 2), (2, 4)}


def test_a_block_is_not_claimed_again_while_its_runner_is_busy_with_it(store: Store) -> None:
    """Even when the claim was lost: two attempts of one runner at one block would get in each other's way."""
    runner = RunnerLock(store)
    with runner.held():
        scenario = Scenario(store, runner_id=runner.runner_id)
        [claim] = durable.claim(runner, scenario.sweep.id, 1, in_flight=())
        with store.writing() as connection:
            release_blocks(connection, scenario.sweep.id, runner.runner_id, [claim])
        [other] = durable.claim(runner, scenario.sweep.id, 2, in_flight=[claim.block])
        assert other.block != claim.block
        [again] = durable.claim(runner, scenario.sweep.id, 2, in_flight=[other.block])
        assert (again.block, again.attempt) == (claim.block, claim.attempt + 1)


def test_an_outage_is_told_once_whoever_meets_it() -> None:
    told: list[str] = []
    notice = once_an_outage(told.append)
    threads = [threading.Thread(target=notice, args=(f"thread {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
