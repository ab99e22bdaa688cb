"""The interface of an executor: blocks go in, answers come out in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gpuscout.runner.evaluate import BlockJob
from gpuscout.sweeps.curves import Curves


@dataclass(frozen=True)
class Done:
    """A finished job; `answers` has one entry for each of its asks."""

    job: BlockJob
    answers: list[Curves]


class Executor(Protocol):
    """Where blocks are evaluated. Used by one thread; the caller alone talks to the store.

    `slots` jobs keep it busy. `next_done` returns None when nothing finished within `timeout_s`, so that the caller
    can notice an interrupt. `close` abandons what is still running.
    """

    description: str
    slots: int

    def submit(self, job: BlockJob) -> None: ...

    def next_done(self, timeout_s: float) -> Done | None: ...

    def close(self) -> None: ...
