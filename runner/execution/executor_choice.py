"""Choice of the executor of a sweep: this process or Ray, whichever finishes sooner."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gpuscout.runner.engines.base import MISSING, Cost, is_exclusive, measures, task_seconds
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.executors.base import Executor
from gpuscout.runner.execution.executors.child import needs_child
from gpuscout.runner.execution.executors.in_process import InProcessExecutor
from gpuscout.sweeps.curves import IntArray
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.expand import Expansion

EXECUTORS = ("auto", "in-process", "ray")

# Start, first task and stop of a local Ray took 5 to 8 s where it was measured.
RAY_START_S = 8.0
# To plan with, not to promise: points a second that a cheap engine answers on one core, which can be shared out, and
# how long the controller takes to store a block, apart from the points and tasks it stores a second, which cannot.
_CHEAP_POINTS_PER_S = 2_000_000.0
_STORED_BLOCK_S = 0.007
_STORED_POINTS_PER_S = 150_000.0
_STORED_TASKS_PER_S = 20_000.0


@dataclass(frozen=True)
class Choice:
    """An executor that is not started yet, and why it was chosen."""

    kind: str
    reason: str
    expansion: Expansion
    ray_address: str | None = None
    max_servers: int | None = None

    def start(self) -> Executor:
        if self.kind == "in-process":
            return InProcessExecutor(self.expansion)
        from gpuscout.runner.execution.executors.ray import RayExecutor

        return RayExecutor(self.expansion, address=self.ray_address, max_servers=self.max_servers)


@dataclass(frozen=True)
class Work:
    """Rough work of a run: seconds of one core's evaluating, and seconds of storing by the controller."""

    evaluating_s: float = 0.0
    storing_s: float = 0.0

    def __mul__(self, part: float) -> Work:
        return Work(self.evaluating_s * part, self.storing_s * part)

    def seconds(self, cores: int = 1) -> float:
        return self.evaluating_s / cores + self.storing_s


def expected_work(expansion: Expansion, block_tasks: IntArray) -> Work:
    """Return the work of evaluating and storing this many tasks of each block."""
    evaluating = storing = 0.0
    starts = [*map(expansion.first_block, range(len(expansion.sweep.engines))), expansion.block_count]
    for part, start, stop in zip(expansion.sweep.engines, starts, starts[1:], strict=False):
        tasks, blocks = int(block_tasks[start:stop].sum()), int((block_tasks[start:stop] > 0).sum())
        points = tasks * len(part.ladder)
        # One that is missing says so of every task, at no cost.
        engine = cached_engine(part.name, part.options)
        cheap = part.fingerprint == MISSING or engine.cost is Cost.CHEAP
        evaluating += points / _CHEAP_POINTS_PER_S if cheap else tasks * task_seconds(engine)
        storing += points / _STORED_POINTS_PER_S + tasks / _STORED_TASKS_PER_S + blocks * _STORED_BLOCK_S
    return Work(evaluating, storing)


def duration(seconds: float) -> str:
    """Return text such as "less than 1 s", "about 40 s", "about 12 min" """
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:,.0f} min" if seconds < 5400 else f"about {seconds / 3600:,.1f} h"


def choose_executor(
    expansion: Expansion,
    *,
    executor: str = "auto",
    ray_address: str | None = None,
    max_servers: int | None = None,
    work: Work,
) -> Choice:
    """Return decide where the work is done.

    `max_servers` run at once, of an engine that starts some; None: as many as fit.
    """
    if executor not in EXECUTORS:
        raise InputError(f'unknown executor "{executor}"', hint=f"one of {', '.join(EXECUTORS)}")
    engines = [cached_engine(part.name, part.options) for part in expansion.sweep.engines]
    if any(measures(engine) and is_exclusive(engine) for engine in engines):
        if ray_address or executor == "ray":
            raise InputError("a running server is measured without Ray", hint="leave --ray-address and --executor out")
        return Choice("in-process", "one operating point after the other, because it measures", expansion)
    if ray_address and executor == "in-process":
        raise InputError("--ray-address needs the executor ray", hint="leave --executor out")
    if ray_address:
        return Choice("ray", f"the Ray cluster at {ray_address}", expansion, ray_address, max_servers)
    if executor == "ray":
        return Choice("ray", "a local Ray, as asked", expansion, max_servers=max_servers)
    here = "in a child process" if any(map(needs_child, expansion.sweep.engines)) else "in this process"
    if executor == "in-process":
        return Choice("in-process", f"{here}, as asked", expansion)
    if any(map(measures, engines)):
        return Choice("ray", "a local Ray, which gives servers their GPUs", expansion, max_servers=max_servers)
    if any(part.placement.runtime_env for part in expansion.sweep.engines):
        return Choice("ray", "a local Ray, which the runtime_env of an engine needs", expansion)
    cores = os.cpu_count() or 1
    alone_s, shared_s = work.seconds(), RAY_START_S + work.seconds(cores)
    if shared_s < alone_s:
        reason = (
            f"a local Ray on {cores} cores ({duration(shared_s)}; this process alone would take {duration(alone_s)})"
        )
        return Choice("ray", reason, expansion)
    return Choice("in-process", f"{here} ({duration(alone_s)}; Ray would take {RAY_START_S:.0f} s to start)", expansion)
