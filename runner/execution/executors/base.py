"""The interface of an executor: jobs go in, answers and losses come out in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gpuscout.runner.execution.evaluate import Job
from gpuscout.runner.execution.retry import FailureKind
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.curves import Curves


@dataclass(frozen=True)
class Done:
    """A finished job: one answer a task, in the order of its positions."""

    job: Job
    curves: Curves


@dataclass(frozen=True)
class Part:
    """An operating point that a running job has measured, of the task at `position` of its block."""

    job: Job
    position: int
    run: MeasuredRun


@dataclass(frozen=True)
class Failed:
    """A job without an answer. `detail` tells the user why; what becomes of it is decided elsewhere."""

    job: Job
    kind: FailureKind
    detail: str


class Executor(Protocol):
    """Evaluator of jobs. Used by one thread; the caller alone talks to the store.

    `slots` jobs keep it busy; it may change. `next_done` returns None when nothing ended within `timeout_s`, so that
    the caller can notice an interrupt; it is only called while jobs are running. A job may have any number of parts
    before it ends. `close` abandons what still runs.
    """

    description: str

    @property
    def slots(self) -> int: ...

    def submit(self, job: Job) -> None: ...

    def next_done(self, timeout_s: float) -> Done | Failed | Part | None: ...

    def close(self) -> None: ...
