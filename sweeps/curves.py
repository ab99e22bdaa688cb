"""What an engine answers for a block of tasks: one outcome a task, one operating point a concurrency, as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]

METRICS = ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s")
"""The metrics of an operating point, in the order in which they are stored and shown."""


class Bound(StrEnum):
    """Which limit binds a decode step at an operating point. The order is part of array codes: append only."""

    MEMORY = "memory"
    COMPUTE = "compute"
    COMMUNICATION = "communication"
    OVERHEAD = "overhead"
    UNKNOWN = "unknown"

    @property
    def code(self) -> int:
        return BOUNDS.index(self)


BOUNDS: tuple[Bound, ...] = tuple(Bound)


@dataclass(frozen=True)
class Points:
    """Operating points of the tasks of one block, ordered by (task, concurrency). All arrays have the same length.

    `task` is the position of the task in its block. Concurrency counts requests in flight in the whole deployment,
    and throughput the whole deployment. Figures are finite: a point that does not exist is left out.
    `queued` marks more requests in flight than the KV cache holds: the rest waits, which shows in TTFT. `regime` is
    which of its engine's intervals (`gpuscout.sweeps.trust`) holds around a point, -1 where none is known.
    """

    task: IntArray
    concurrency: IntArray
    ttft_ms: FloatArray
    itl_ms: FloatArray
    e2e_s: FloatArray
    output_tokens_per_s: FloatArray
    requests_per_s: FloatArray
    bound: IntArray
    queued: npt.NDArray[np.bool_]
    regime: IntArray

    def __len__(self) -> int:
        return len(self.task)


@dataclass(frozen=True)
class Curves:
    """An engine's answer for a block of n tasks and one ladder of concurrencies.

    outcome             n codes of `Outcome`
    needed_gib          n, GiB per GPU the task needs to hold one request; NaN where the engine does not say
    usable_gib          n, GiB per GPU the server may use; NaN where the engine does not say
    kv_capacity_tokens  n, tokens the KV caches of the whole deployment hold; -1 where the engine does not say
    fits_up_to          n, largest concurrency with a finite answer where the curve ended early, else -1
    details             what to tell the user about a task that is not `ok`, by position in the block
    extras              what only this engine reports about a task (tuning commands, say), JSON-able, by position
    """

    outcome: IntArray
    needed_gib: FloatArray
    usable_gib: FloatArray
    kv_capacity_tokens: IntArray
    fits_up_to: IntArray
    points: Points
    details: Mapping[int, str] = field(default_factory=dict)
    extras: Mapping[int, Mapping[str, object]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.outcome)
