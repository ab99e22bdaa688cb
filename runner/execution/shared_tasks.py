"""State shared by several runners: expensive tasks and who evaluates them, and places where one works at a time.

Runners of one sweep share its blocks. Those of different sweeps meet in their tasks, of which each is stored once
whoever computes it; so that it is also computed once, a runner takes a task before it evaluates it. A server that two
of them loaded at once would give false figures to both; a runner takes it for as long as it measures a task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from gpuscout.runner.engines.base import Cost, used_alone
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.evaluate import Job
from gpuscout.runner.execution.work import BlockWork, split
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results import durable
from gpuscout.store.results.durable import Patience
from gpuscout.store.results.tasks import stored_tasks
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.sweep import EnginePart


class SharedTasks:
    """Claims of several runners on the tasks of one sweep; without effect on SQLite, where there are no other runners.

    Only blocks of a single task are taken: with several, two runners could wait for each other. Whoever has a place
    waits for nothing until it leaves it. `notice` is told for which places this runner waits.
    """

    def __init__(
        self, runner: RunnerLock, expansion: Expansion, patience: Patience, notice: Callable[[str], None]
    ) -> None:
        self._runner, self._expansion, self._patience = runner, expansion, patience
        self._notice = notice
        self._told: set[str] = set()

    def is_elsewhere(self, work: BlockWork, job: Job) -> bool:
        """Return whether another runner evaluates this task now, or works where it has to be; ask again later."""
        if self._may_be_shared(work, job) and not self._runner.take_task(work.keys[0]):
            return True
        place = self._place(job)
        if not place or self._runner.take_task(_key(place)):
            return False
        if place not in self._told:
            self._told.add(place)
            self._notice(f"another run is measuring {place}; waiting for it, because two would disturb each other")
        return True

    def found(self, work: BlockWork, job: Job) -> bool:
        """Return whether the task has been stored since it was looked up; then it counts as reused."""
        if not (self._may_be_shared(work, job) or self._place(job)) or self._runner.store.is_sqlite:
            return False
        [position] = job.positions.tolist()
        key = [work.keys[position]]
        known = durable.reading(
            self._runner.store, lambda connection: stored_tasks(connection, key), patience=self._patience
        )
        reused, _ = split(self._part(job).ladder, key, known)
        if reused:
            work.reused[position] = reused[0]
        return bool(reused)

    def ended(self, job: Job) -> None:
        """End a job: others may work where it did."""
        if place := self._place(job):
            self._runner.leave_task(_key(place))

    def done_with(self, work: BlockWork) -> None:
        """Forget a block that is committed, or not ours any more."""
        if len(work.keys) == 1:
            self._runner.leave_task(work.keys[0])

    def _may_be_shared(self, work: BlockWork, job: Job) -> bool:
        part = self._part(job)
        several = not self._runner.store.is_sqlite and len(work.keys) == 1
        return several and cached_engine(part.name, part.options).cost is Cost.EXPENSIVE

    def _place(self, job: Job) -> str:
        """Return the place where only one job at a time may work, such as the address of a server; empty: anywhere."""
        part = self._part(job)
        return used_alone(cached_engine(part.name, part.options))

    def _part(self, job: Job) -> EnginePart:
        return self._expansion.sweep.engines[self._expansion.engine_of(job.block)]


def _key(place: str) -> bytes:
    return hashlib.sha256(f"gpuscout place {place}".encode()).digest()
