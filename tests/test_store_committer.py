"""Commits in the background: every block once, failures told, waiting bounded."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from gpuscout.store import durable
from gpuscout.store.committer import Committer
from gpuscout.store.connect import Store
from gpuscout.store.locks import RunnerLock
from gpuscout.store.sweeps import find_sweep
from gpuscout.store.writes import BlockResult, stored_tasks
from tests.stores import Scenario, keys_of


def test_blocks_are_committed_once_and_reported_once(store: Store) -> None:
    runner = RunnerLock(store)
    with runner.held():
        scenario = Scenario(store, blocks=12, per_block=20, runner_id=runner.runner_id)
        claims = durable.claim(runner, scenario.sweep.id, 12, in_flight=())
        results = [scenario.result(claim.block, claim.attempt) for claim in claims]
        done: list[tuple[BlockResult, bool]] = []
        with Committer(runner) as committer:
            for result in results:
                committer.submit(result)
                done += committer.finished()
                assert len(committer) <= 2
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
