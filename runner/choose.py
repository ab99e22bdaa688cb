"""Where a sweep runs: this process or Ray, whichever is done sooner."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gpuscout.runner.engines.base import Cost
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.executors.base import Executor
from gpuscout.runner.executors.in_process import InProcessExecutor
from gpuscout.sweeps.curves import IntArray
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.expand import Expansion

EXECUTORS = ("auto", "in-process", "ray")

# Start, first task and stop of a local Ray took 5 to 8 s where it was measured.
RAY_START_S = 8.0
# A cheap engine's points a second on one core, and seconds a task of a dear one: to plan with, not to promise.
_CHEAP_POINTS_PER_S = 500_000.0
_DEAR_TASK_S = 1.0


@dataclass(frozen=True)
class Choice:
    """An executor that is not started yet, and why it was chosen."""

    kind: str
    reason: str
    expansion: Expansion
    ray_address: str | None = None

    def start(self) -> Executor:
        if self.kind == "in-process":
            return InProcessExecutor(self.expansion)
        from gpuscout.runner.executors.ray import RayExecutor

        return RayExecutor(self.expansion, address=self.ray_address)


def expected_seconds(expansion: Expansion, block_tasks: IntArray) -> float:
    """What one core takes to evaluate this many tasks of each block, roughly."""
    seconds = 0.0
    starts = [*map(expansion.first_block, range(len(expansion.sweep.engines))), expansion.block_count]
    for part, start, stop in zip(expansion.sweep.engines, starts, starts[1:], strict=False):
        cheap = cached_engine(part.name, part.options).cost is Cost.CHEAP
        task_s = len(part.ladder) / _CHEAP_POINTS_PER_S if cheap else _DEAR_TASK_S
        seconds += task_s * int(block_tasks[start:stop].sum())
    return seconds


def choose_executor(
    expansion: Expansion, *, executor: str = "auto", ray_address: str | None = None, work_s: float
) -> Choice:
    """Decide where `work_s` seconds of one core's work are done."""
    if executor not in EXECUTORS:
        raise InputError(f'unknown executor "{executor}"', hint=f"one of {', '.join(EXECUTORS)}")
    if ray_address and executor == "in-process":
        raise InputError("--ray-address needs the executor ray", hint="leave --executor out")
    if ray_address:
        return Choice("ray", f"the Ray cluster at {ray_address}", expansion, ray_address)
    if executor == "ray":
        return Choice("ray", "a local Ray, as asked", expansion)
    if executor == "in-process":
        return Choice("in-process", "in this process, as asked", expansion)
    cores = os.cpu_count() or 1
    saved_s = work_s * (1 - 1 / cores)
    about = f"about {work_s:.0f} s of work" if work_s >= 1 else "less than 1 s of work"
    if saved_s > RAY_START_S:
        return Choice(
            "ray",
            f"a local Ray on {cores} cores ({about}, worth the {RAY_START_S:.0f} s Ray takes to start)",
            expansion,
        )
    return Choice("in-process", f"in this process ({about}; Ray would take {RAY_START_S:.0f} s to start)", expansion)
