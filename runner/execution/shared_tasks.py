"""Expensive tasks that several sweeps share: left to the runner that has one, and looked up again before evaluating.

Runners of one sweep share its blocks. Those of different sweeps meet in their tasks, of which each is stored once
whoever computes it; so that it is also computed once, a runner takes a task before it evaluates it.
"""

from __future__ import annotations

from gpuscout.runner.engines.base import Cost
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.evaluate import Job
from gpuscout.runner.execution.work import BlockWork, split
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results import durable
from gpuscout.store.results.durable import Patience
from gpuscout.store.results.tasks import stored_tasks
from gpuscout.sweeps.expand import Expansion


class SharedTasks:
    """What other runners do with the tasks of one sweep; nothing on SQLite, where there are none.

    Only blocks of a single task are taken: with several, two runners could wait for each other.
    """

    def __init__(self, runner: RunnerLock, expansion: Expansion, patience: Patience) -> None:
        self._runner, self._expansion, self._patience = runner, expansion, patience

    def is_elsewhere(self, work: BlockWork, job: Job) -> bool:
        """Whether another runner evaluates this task now; ask again later."""
        return self._may_be_shared(work, job) and not self._runner.take_task(work.keys[0])

    def found(self, work: BlockWork, job: Job) -> bool:
        """Whether the task has been stored since it was looked up; then it counts as reused."""
        if not self._may_be_shared(work, job):
            return False
        known = durable.reading(
            self._runner.store, lambda connection: stored_tasks(connection, work.keys), patience=self._patience
        )
        reused, _ = split(self._expansion.sweep.engines[self._expansion.engine_of(job.block)].ladder, work.keys, known)
        work.reused.update(reused)
        return bool(reused)

    def done_with(self, work: BlockWork) -> None:
        """Its block is committed, or not ours any more."""
        if len(work.keys) == 1:
            self._runner.leave_task(work.keys[0])

    def _may_be_shared(self, work: BlockWork, job: Job) -> bool:
        part = self._expansion.sweep.engines[self._expansion.engine_of(job.block)]
        several = not self._runner.store.is_sqlite and len(work.keys) == 1
        return several and cached_engine(part.name, part.options).cost is Cost.EXPENSIVE
