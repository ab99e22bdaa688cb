"""Stored answers for single tasks: the outcome, memory, and one operating point of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from gpuscout.store.database import bulk
from gpuscout.store.portions import portions
from gpuscout.store.ranking.candidates.statements import described
from gpuscout.store.ranking.question.intervals import Intervals, intervals_around
from gpuscout.store.results.trust import intervals_of
from gpuscout.store.schema import point_percentiles, tasks
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.slo import percentile_name

# The pairs are written into the statement, whose length SQLite limits to a million bytes.
_PAIRS_PER_QUERY = 10_000


@dataclass(frozen=True)
class StoredAnswer:
    """The answer to a task at one concurrency. None: the engine does not say, or has no operating point there.

    `needed_gib` and `usable_gib` are per GPU (2^30 bytes), throughputs and `kv_capacity_tokens` of the deployment.
    `percentiles` are those that the engine gives, "p95_ttft_ms" …. `intervals`: of each metric and percentile where a
    measured value is expected with a probability of 80 %; empty: not known.
    `extras` is what only this engine reports of the task.
    """

    outcome: Outcome
    detail: str | None
    needed_gib: float | None = None
    usable_gib: float | None = None
    kv_capacity_tokens: int | None = None
    fits_up_to: int | None = None
    concurrency: int | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_s: float | None = None
    output_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    bound: str | None = None
    queued: bool | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


_FIELDS = tuple(name for name in StoredAnswer.__match_args__ if name not in ("percentiles", "intervals", "extras"))


def answers_at(connection: sa.Connection, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], StoredAnswer]:
    """Return the answers at pairs of a task's id and a concurrency; a concurrency of 0 asks for the task alone."""
    rows = list(_rows(connection, wanted))
    intervals = intervals_of(connection, sorted({row.engine_id for row in rows}))
    percentiles = _percentiles_of(connection, sorted({row.task_id for row in rows}))
    return {
        (row.task_id, row.asked): _answer(row, percentiles.get((row.task_id, row.concurrency), {}), intervals)
        for row in rows
    }


def _percentiles_of(connection: sa.Connection, task_ids: Sequence[int]) -> dict[tuple[int, int], dict[str, float]]:
    """Return the percentiles of points by their task and concurrency."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    query = sa.select(point_percentiles)
    for row in bulk.select_by_keys(connection, query, point_percentiles.c.task_id, task_ids):
        of_point = found.setdefault((row.task_id, row.concurrency), {})
        of_point[percentile_name(row.metric, row.percentile)] = row.value
    return found


def _rows(connection: sa.Connection, wanted: Sequence[tuple[int, int]]) -> Iterator[Any]:
    for some in portions(wanted, _PAIRS_PER_QUERY):
        query = described(some)
        yield from connection.execute(query.add_columns(tasks.c.kv_capacity_tokens, tasks.c.fits_up_to, tasks.c.extras))


def _answer(row: Any, percentiles: Mapping[str, float], intervals: Intervals) -> StoredAnswer:
    values = {name: getattr(row, name) for name in _FIELDS} | {"outcome": Outcome(row.outcome)}
    around = intervals_around({**row._mapping, **percentiles}, intervals)
    extras = json.loads(row.extras) if row.extras else {}
    return StoredAnswer(**values, percentiles=percentiles, intervals=around, extras=extras)
