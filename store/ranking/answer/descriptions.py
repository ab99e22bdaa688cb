"""Rows of the candidates in words: configuration, all figures, intervals around them, and the values of objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.portions import portions
from gpuscout.store.ranking.candidates import statements as statements
from gpuscout.store.ranking.candidates.candidates import Candidates
from gpuscout.store.ranking.measures import MEASURES, value_of
from gpuscout.store.ranking.question.intervals import Intervals, intervals_around, pessimistic_end
from gpuscout.store.ranking.types import Operating
from gpuscout.sweeps.curves import METRICS, SERVER_METRICS

Description = Mapping[str, Any]


class Descriptions:
    """Rows of the candidates at their operating points, looked up together."""

    def __init__(self, connection: sa.Connection, pool: Candidates, rows: Iterable[int]) -> None:
        self._pool = pool
        wanted = np.unique(np.array(list(rows), dtype=np.int64))
        wanted = wanted[wanted < pool.estimates]
        columns = (pool.about["task_id"], *map(np.nan_to_num, (pool.operating.low, pool.operating.high)))
        tasks, lows, highs = (column[wanted].astype(np.int64).tolist() for column in columns)
        # The stored concurrencies that the row's point lies between, or twice its own; 0: it has none.
        self._stored = dict(zip(wanted.tolist(), zip(tasks, lows, highs, strict=True), strict=True))
        pairs = {*zip(tasks, lows, strict=True), *zip(tasks, highs, strict=True)}
        self._known = describe(connection, pairs, list(pool.choice.percentiles.values()))

    def __getitem__(self, row: int) -> Description:
        pool = self._pool
        if row >= pool.estimates and pool.measured is not None:
            return pool.measured.described(row - pool.estimates)
        below, above, share = self._neighbours(row)
        if below is above:
            return below

        def between(start: float | None, end: float | None) -> float | None:
            return None if start is None or end is None else start + (end - start) * share

        names = (*METRICS, *SERVER_METRICS, *pool.choice.tails)
        figures = {name: between(below[name], above[name]) for name in names}
        concurrency = int(pool.operating.figures["concurrency"][row])
        return {**below, **figures, "concurrency": concurrency, "queued": above["queued"]}

    def intervals(self, row: int) -> dict[str, tuple[float, float]]:
        """Return the intervals around the metrics of a row that have one."""
        return self._around(row, self._pool.intervals)

    def at_confidence(self, row: int) -> dict[str, float]:
        """Return the metrics of a row that hold with the confidence that was asked for; empty: the estimates count."""
        around = self._around(row, self._pool.choice.intervals)
        return {name: pessimistic_end(name, interval) for name, interval in around.items()}

    def _around(self, row: int, known: Intervals) -> dict[str, tuple[float, float]]:
        if row >= self._pool.estimates or not known:
            return {}
        below, above, share = self._neighbours(row)
        starts = intervals_around(below, known)
        if below is above:
            return starts
        ends = intervals_around(above, known)
        found = {}
        for name in {**starts, **ends}:
            if below[name] is not None and above[name] is not None:
                pair = zip(starts.get(name, (below[name],) * 2), ends.get(name, (above[name],) * 2), strict=True)
                low, high = (start + (end - start) * share for start, end in pair)
                found[name] = low, high
        return found

    def _neighbours(self, row: int) -> tuple[Description, Description, float]:
        """Return the stored points that a row's point lies between, and how far it is from the first to the second."""
        task, low, high = self._stored[row]
        below = self._known[task, low]
        if low == high:
            return below, below, 0.0
        share = (int(self._pool.operating.figures["concurrency"][row]) - low) / (high - low)
        return below, self._known[task, high], share

    def operating(self, row: int) -> Operating:
        return Operating.of(self[row])

    def values(
        self,
        row: int,
        description: Description,
        counted: Mapping[str, float],
        names: Iterable[str],
    ) -> dict[str, float | None]:
        """Return the figures of objectives; None where something they need is not known. `counted` replaces metrics."""
        known = {name: np.nan if description[name] is None else description[name] for name in METRICS} | {**counted}
        found: dict[str, float | None] = {}
        for name in names:
            if MEASURES[name].needs is not None and not known["output_tokens_per_s"] > 0:
                found[name] = None
                continue
            value = self._value(name, known, row)
            found[name] = None if np.isnan(value) else value
        return found

    def ranges(
        self, row: int, intervals: Mapping[str, tuple[float, float]], names: Iterable[str]
    ) -> dict[str, tuple[float, float]]:
        """Return the ranges of objectives' figures that are estimated with a known interval."""
        found = {}
        for name in names:
            column = MEASURES[name].column
            if name != "cost-per-hour" and column in intervals and intervals[column][0] > 0:
                ends = [self._value(name, {column: end}, row) for end in intervals[column]]
                if not np.isnan(ends).any():
                    found[name] = min(ends), max(ends)
        return found

    def _value(self, name: str, figures: Mapping[str, float], row: int) -> float:
        worth = self._pool.unit_costs
        return float(value_of(name, figures, self._pool.num_gpus[row], worth.usd[row], worth.tdp_w[row]))


def describe(
    connection: sa.Connection, pairs: Iterable[tuple[int, int]], tails: Sequence[tuple[str, float]] = ()
) -> dict[tuple[int, int], Description]:
    """Return tasks at stored concurrencies (0: none) in words, with these percentiles of metrics: "p95_ttft_ms"."""
    wanted = sorted(pairs)
    found: dict[tuple[int, int], Description] = {}
    for some in portions(wanted, statements.BATCH):
        result = connection.execute(statements.described(some, tails))
        names = tuple(result.keys())
        found.update({(row[0], row[1]): dict(zip(names, row, strict=True)) for row in result.all()})
    return found
