"""The executor that evaluates blocks in this process: nothing to start, one core."""

from __future__ import annotations

from collections import deque

from gpuscout.runner.evaluate import BlockJob, evaluate_block
from gpuscout.runner.executors.base import Done
from gpuscout.sweeps.expand import Expansion


class InProcessExecutor:
    description = "in this process"
    slots = 1

    def __init__(self, expansion: Expansion) -> None:
        self._expansion = expansion
        self._waiting: deque[BlockJob] = deque()

    def submit(self, job: BlockJob) -> None:
        self._waiting.append(job)

    def next_done(self, timeout_s: float) -> Done | None:
        if not self._waiting:
            return None
        job = self._waiting.popleft()
        return Done(job, evaluate_block(self._expansion, job))

    def close(self) -> None:
        self._waiting.clear()
