"""Answers of an engine for a block of tasks: one outcome a task, one operating point a concurrency, as columns."""

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
    """Limits that can bind a decode step at an operating point. The order is part of array codes: append only."""

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


# What an estimate says of the server where an engine knows it: requests that wait for a place and the share of the
# KV cache that is held (means over time), the share of requests that lost their place at least once, and requests/s
# that were within the limits of the engine's option `goodput`.
SERVER_METRICS: tuple[str, ...] = ("requests_waiting", "kv_cache_usage", "preempted_share", "goodput_per_s")


MEAN_OF_BINS = "mean of bins"
"""The detail of an answer whose requests differ in length and count as their mean (`Curves.details`)."""


@dataclass(frozen=True)
class Points:
    """Operating points of the tasks of one block, ordered by (task, concurrency). All arrays have the same length.

    `task` is the position of the task in its block. Concurrency counts requests in flight in the whole deployment,
    and throughput the whole deployment. Figures are finite: a point that does not exist is left out.
    `queued` marks more requests in flight than the KV cache holds: the rest waits, which shows in TTFT. `regime` is
    which of its engine's intervals (`gpuscout.sweeps.trust`) holds around a point, -1 where none is known.
    `percentiles` and `server_metrics` have a row a point and the columns `PERCENTILE_COLUMNS` and `SERVER_METRICS`, NaN
    where one is not known; None: none is.
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
    server_metrics: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: npt.NDArray[Any]) -> Points:
        """Return the points at these positions (or under this boolean mask), in that order."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in POINT_COLUMNS}
        for name in _PARTLY_KNOWN:
            column = getattr(self, name)
            columns[name] = None if column is None else column[rows]
        return Points(**columns)

    @classmethod
    def joined(cls, parts: Sequence[Points]) -> Points:
        """Return these curves concatenated."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in POINT_COLUMNS}
        known: dict[str, Any] = {}
        for name, width in _PARTLY_KNOWN.items():
            found = [getattr(part, name) for part in parts]
            if any(column is not None for column in found):
                known[name] = np.concatenate(
                    [
                        np.full((len(part), width), np.nan) if column is None else column
                        for part, column in zip(parts, found, strict=True)
                    ]
                )
        return cls(**columns, **known)


# Fields of `Points` that may be None, with their numbers of columns.
_PARTLY_KNOWN = {"percentiles": len(PERCENTILE_COLUMNS), "server_metrics": len(SERVER_METRICS)}
POINT_COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(Points) if f.name not in _PARTLY_KNOWN)


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
