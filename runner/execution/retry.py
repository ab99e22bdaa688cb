"""The retry policy: failed work is split, tried again after a delay, or given up. Pure, except for `DelayQueue`.

The only place that decides about retries: Ray is told to make none.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from gpuscout.sweeps.outcomes import Outcome

_T = TypeVar("_T")


class FailureKind(StrEnum):
    """Kinds of reasons why an executor has no answer to a job."""

    ERROR = "error"  # the engine raised, or it could not be started
    ENGINE_MISSING = "engine_missing"  # the worker does not have this engine, or another version of it
    CRASHED = "crashed"  # the process that ran the engine died of it
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"  # the machine or the worker went away, most likely through no fault of the engine


@dataclass(frozen=True)
class Split:
    """Try both halves on their own."""


@dataclass(frozen=True)
class Retry:
    delay_s: float


@dataclass(frozen=True)
class GiveUp:
    """Store the failure of every task of the job."""

    outcome: Outcome


Decision = Split | Retry | GiveUp

# A machine that dies takes all its jobs along, and another one may need a moment to take its place.
_LOST_DELAYS_S = (0.5, 2.0, 8.0)
# What alone fails once may have been unlucky. Memory is often short because of a neighbour, who needs time to finish.
_ALONE_DELAYS_S = {FailureKind.CRASHED: (0.2,), FailureKind.TIMEOUT: (0.0,), FailureKind.OUT_OF_MEMORY: (2.0,)}
_STORED_AS = {
    FailureKind.ERROR: Outcome.ERROR,
    FailureKind.ENGINE_MISSING: Outcome.ENGINE_MISSING,
    FailureKind.CRASHED: Outcome.CRASHED,
    FailureKind.TIMEOUT: Outcome.TIMEOUT,
    FailureKind.OUT_OF_MEMORY: Outcome.ERROR,
    FailureKind.WORKER_LOST: Outcome.CRASHED,
}
ENOUGH_IN_VAIN = 5
"""After so many tasks of a block that failed alone, and not one that was answered, the rest is not tried one by one."""


def decide(kind: FailureKind, attempt: int, tasks: int, *, in_vain: int = 0) -> Decision:
    """Return the decision after attempt number `attempt` (from 1) of a job of `tasks` tasks failed.

    `in_vain` counts the tasks of the same block that were given up alone, as long as no task of it was answered: an
    engine that hangs on everything must not cost one timeout a task.
    """
    if kind is FailureKind.ENGINE_MISSING:
        return GiveUp(_STORED_AS[kind])
    if kind is FailureKind.WORKER_LOST and attempt <= len(_LOST_DELAYS_S):
        return Retry(_LOST_DELAYS_S[attempt - 1])
    if in_vain >= ENOUGH_IN_VAIN:
        return GiveUp(_STORED_AS[kind])
    if tasks > 1:
        return Split()
    delays = _ALONE_DELAYS_S.get(kind, ())
    return Retry(delays[attempt - 1]) if attempt <= len(delays) else GiveUp(_STORED_AS[kind])


class DelayQueue(Generic[_T]):
    """Work that waits for its time. What falls due together comes out one by one, `spacing_s` apart.

    Work without a delay comes out first, the last in first: halves of halves before the next half, so that a task at
    fault is found before much else was tried.
    """

    def __init__(self, spacing_s: float = 0.02) -> None:
        self._spacing_s = spacing_s
        self._waiting: list[tuple[float, int, _T]] = []
        self._last_due = 0.0
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: _T, now: float, delay_s: float = 0.0) -> None:
        """Add a step. `now` is any clock that only goes forward, in seconds."""
        due = 0.0
        if delay_s > 0:
            due = self._last_due = max(now + delay_s, self._last_due + self._spacing_s)
        self._count += 1
        heapq.heappush(self._waiting, (due, -self._count, work))

    def take(self, now: float) -> _T | None:
        """Return something that is due; None when nothing is."""
        if not self._waiting or self._waiting[0][0] > now:
            return None
        return heapq.heappop(self._waiting)[2]
