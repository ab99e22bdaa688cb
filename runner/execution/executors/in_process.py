"""The executor without Ray: safe engines in this process, all others in a child process that can be killed."""

from __future__ import annotations

from collections import deque

from gpuscout.runner.execution.evaluate import EngineMissing, Job, evaluate_job
from gpuscout.runner.execution.executors.base import Done, Failed, Part
from gpuscout.runner.execution.executors.child import Child, needs_child
from gpuscout.runner.execution.retry import FailureKind
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.expand import Expansion


class InProcessExecutor:
    """Evaluates one job at a time. A child process serves one engine and is started with its first job."""

    def __init__(self, expansion: Expansion) -> None:
        self._expansion = expansion
        self._isolated = [needs_child(part) for part in expansion.sweep.engines]
        self._children: dict[int, Child] = {}
        self._waiting: deque[Job] = deque()
        self._busy: Child | None = None
        self.slots = 1
        self.description = "in a child process" if any(self._isolated) else "in this process"

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def next_done(self, timeout_s: float) -> Done | Failed | Part | None:
        if self._busy is None:
            job = self._waiting.popleft()
            engine = self._expansion.engine_of(job.block)
            if not self._isolated[engine]:
                return self._evaluate(job)
            if engine not in self._children:
                self._children[engine] = Child(self._expansion.sweep, engine)
            self._busy = self._children[engine]
            self._busy.start(job)
        ended = self._busy.poll(timeout_s)
        if ended is not None and not isinstance(ended, Part):
            self._busy = None
        return ended

    def _evaluate(self, job: Job) -> Done | Failed:
        try:
            return Done(job, evaluate_job(self._expansion, job, cannot_wait))
        except EngineMissing as error:
            return Failed(job, FailureKind.ENGINE_MISSING, str(error))

    def close(self) -> None:
        self._waiting.clear()
        self._busy = None
        for child in self._children.values():
            child.close()
        self._children.clear()


def cannot_wait(position: int, run: MeasuredRun) -> None:
    """Refuse an engine that measures: its points are stored as they come, by a process beside the one that measures."""
    raise TypeError("an engine that measures cannot run in this process: set its in_process to False")
