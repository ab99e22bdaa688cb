"""What an engine answers for a block of tasks: one outcome a task, one operating point a concurrency, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

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


# The percentiles of estimates that are kept, over requests.
PERCENTILES: tuple[float, ...] = (50.0, 90.0, 95.0, 99.0)
PERCENTILE_METRICS: tuple[str, ...] = ("ttft_ms", "itl_ms", "e2e_s")
PERCENTILE_COLUMNS: tuple[tuple[str, float], ...] = tuple(
    (metric, percentile) for metric in PERCENTILE_METRICS for percentile in PERCENTILES
)


MEAN_OF_BINS = "mean of bins"
"""The detail of an answer whose requests differ in length and count as their mean (`Curves.details`)."""


@dataclass(frozen=True)
class Points:
    """Operating points of the tasks of one block, ordered by (task, concurrency). All arrays have the same length.

    `task` is the position of the task in its block. Concurrency counts requests in flight in the whole deployment,
    and throughput the whole deployment. Figures are finite: a point that does not exist is left out.
    `queued` marks more requests in flight than the KV cache holds: the rest waits, which shows in TTFT. `regime` is
    which of its engine's intervals (`gpuscout.sweeps.trust`) holds around a point, -1 where none is known.
    `percentiles` has a row a point and the columns `PERCENTILE_COLUMNS`, NaN where one is not known; None: none is.
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
    percentiles: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: npt.NDArray[Any]) -> Points:
        """The points at these positions (or under this boolean mask), in that order."""
        columns = {name: getattr(self, name) for name in POINT_COLUMNS}
        percentiles = None if self.percentiles is None else self.percentiles[rows]
        return Points(**{name: column[rows] for name, column in columns.items()}, percentiles=percentiles)

    @classmethod
    def joined(cls, parts: Sequence[Points]) -> Points:
        """One after the other."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in POINT_COLUMNS}
        percentiles = None
        if any(part.percentiles is not None for part in parts):
            unknown = (np.full((len(part), len(PERCENTILE_COLUMNS)), np.nan) for part in parts)
            percentiles = np.concatenate(
                [
                    nothing if part.percentiles is None else part.percentiles
                    for part, nothing in zip(parts, unknown, strict=True)
                ]
            )
        return cls(**columns, percentiles=percentiles)


POINT_COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(Points) if f.name != "percentiles")


@dataclass(frozen=True)
class Curves:
    """An engine's answer for a block of n tasks and one ladder of concurrencies.

    outcome             n codes of `Outcome`
    needed_gib          n, GiB per GPU the task needs to hold one request; NaN where the engine does not say
    usable_gib          n, GiB per GPU the server may use; NaN where the engine does not say
    kv_capacity_tokens  n, tokens the KV caches of the whole deployment hold; -1 where the engine does not say
    fits_up_to          n, largest concurrency with a finite answer where the curve ended early, else -1
    details             what to tell the user about a task, by position in the block: why it is not `ok`, where its
                        curve ends, or MEAN_OF_BINS
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
