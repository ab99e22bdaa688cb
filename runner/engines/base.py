"""The interface of an engine: what turns cases into curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.curves import Curves, IntArray


class Cost(Enum):
    """How dear one task is; decides how many tasks make a block and whether Ray pays."""

    CHEAP = "cheap"  # vectorised arithmetic: microseconds a point
    DEAR = "dear"  # a call, a process or a download a task


@dataclass(frozen=True)
class EngineInfo:
    """What determines an engine's numbers. Equal info means equal answers for equal cases."""

    name: str
    fingerprint: str
    options: Mapping[str, object]


class Engine(Protocol):
    """An estimator of serving performance.

    `evaluate` answers every case of a block for one ladder of concurrencies (ascending, unique). A point must not
    depend on which other concurrencies or cases are asked in the same call, so that a longer ladder later can be
    answered by its missing steps alone. One bad case must not raise: it gets an outcome. Whatever still raises
    fails the whole block.
    """

    name: str
    cost: Cost
    in_process: bool  # safe inside the controller's process: no hangs, crashes, printing or global state
    options: Mapping[str, object]

    def fingerprint(self) -> str:
        """Identifies everything but the options that determines this engine's numbers."""
        ...

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves: ...


def info(engine: Engine) -> EngineInfo:
    return EngineInfo(engine.name, engine.fingerprint(), dict(engine.options))


def as_ladder(concurrencies: object) -> IntArray:
    """An ascending array of unique positive concurrencies."""
    ladder = np.unique(np.asarray(concurrencies, dtype=np.int64))
    if ladder.size == 0 or ladder[0] < 1:
        raise ValueError("a ladder needs at least one concurrency, all of them at least 1")
    return ladder
