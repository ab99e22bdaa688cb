"""Measured runs in a ranking: of every configuration a curve of medians, judged by the same rules as estimates.

A configuration is one by names and settings: model, GPU, sizes, precisions, server, memory fraction and lengths; what
context it was started with is not known.
*Repeats.* Runs of one configuration at one concurrency are one point: every figure is the median of the runs that have
it. A run driven at a request rate counts at the concurrency that was measured; where none was, runs of one rate are a
point without a concurrency. All offline maxima of a configuration are one such point; it has throughputs and no
latencies, so it meets no limit on them.
*Between points* as for estimates, but only between closed-loop neighbours whose runs come from the same sources and
server versions: what lies between two servers is neither.
*Percentiles* count where the runs store exactly that one.
*Beyond the last point* the estimate of the same configuration continues the curve: `extension.py`.
*Precedence.* A measured configuration that has, at one point, all figures that the objective and the limits need stands
for the estimates of it, also where it misses a limit. An unknown KV precision is any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.ranking.candidates.extension import extended
from gpuscout.store.ranking.candidates.fetched import Rows
from gpuscout.store.ranking.candidates.placing import Indices, OperatingPoints, operating_points_of
from gpuscout.store.ranking.candidates.runs import (
    CLOSED_LOOP,
    LENGTHS,
    Points,
    configurations_of,
    counts,
    estimated_cases,
    points_of,
    runs_statement,
)
from gpuscout.store.ranking.candidates.statements import OUTCOME_CODES, PRECISION_CODES, SERVER_CODES, Choice
from gpuscout.store.ranking.measures import Aim, Array
from gpuscout.store.ranking.question.asked import MEASURED, Question, Trusted
from gpuscout.store.ranking.question.limits import Flags, Limit, at, hold, limits_on_runs, worst_ratio
from gpuscout.store.ranking.question.scope import Scope
from gpuscout.store.ranking.types import Runs
from gpuscout.sweeps.curves import METRICS, Bound
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.workloads import LOADS

MEASURED_ID = 0
"""Stands for an engine's id; those of engines start at 1."""


@dataclass(frozen=True)
class Measured:
    """Measured configurations, one row each, as the candidates have rows of tasks.

    `low` and `high` are the points that a row's operating point lies at or between. `decides`: it stands for estimates.
    `estimated` are the cases that estimates of the same configuration have.
    """

    configurations: list[dict[str, Any]]
    limits: list[Limit]
    points: Points
    operating: OperatingPoints
    low: Indices
    high: Indices
    decides: Flags
    estimated: list[set[int]]

    def __len__(self) -> int:
        return len(self.configurations)

    def about(self, scope: Scope) -> dict[str, Array]:
        """Return the columns that rows of tasks have. In place of a task the negative of the row, counting from 1."""
        count = len(self)

        def ids(name: str, known: Mapping[str, tuple[int, ...]]) -> Array:
            return np.array([known[one[name]][0] for one in self.configurations], dtype=np.float64)

        columns = {
            "task_id": -1.0 - np.arange(count),
            "case_id": np.zeros(count),
            "engine_id": np.full(count, float(MEASURED_ID)),
            "outcome": np.full(count, float(OUTCOME_CODES[Outcome.OK])),
            "model_id": ids("model", scope.models.ids),
            "gpu_id": ids("gpu", scope.gpus.ids),
            "memory_ratio": np.full(count, np.nan),
            "precision": np.array([PRECISION_CODES[one["precision"]] for one in self.configurations], dtype=np.float64),
            "drafted": np.zeros(count),
            "arriving": np.zeros(count),
            "server": np.array([SERVER_CODES[one["server"]] for one in self.configurations], dtype=np.float64),
        }
        return columns | {
            name: np.array([one[name] for one in self.configurations], dtype=np.float64)
            for name in (*LENGTHS, "num_gpus", "tensor_parallel")
        }

    def described(self, row: int, point: int | None = None) -> dict[str, Any]:
        """Return a row in words, at its operating point or at another of its points."""
        low, high = (int(self.low[row]), int(self.high[row])) if point is None else (point, point)
        figures = {name: self.points.figures[name] for name in ("concurrency", "queued", *METRICS)}
        here = {name: column[[low]] for name, column in figures.items()}
        if low != high:
            there = {name: column[[high]] for name, column in figures.items()}
            here = at(here, there, self.operating.figures["concurrency"][[row]])
        known = {name: float(column[0]) for name, column in here.items()}
        return {
            **self.configurations[row],
            "task_id": None,
            "engine": MEASURED,
            "fingerprint": None,
            "outcome": Outcome.OK.value,
            **dict.fromkeys(("detail", "needed_gib", "usable_gib")),
            **{name: None if np.isnan(known[name]) else known[name] for name in METRICS},
            "concurrency": int(known["concurrency"]) if np.isfinite(known["concurrency"]) else None,
            "bound": Bound.UNKNOWN.value,
            "queued": False,
        }

    def runs_of(self, row: int) -> Runs:
        """Return the runs that a row's figures rest on."""
        points = sorted({int(self.points.anchor[self.low[row]]), int(self.points.anchor[self.high[row]])})
        starts = self.points.starts
        runs = [run for point in points for run in self.points.runs[starts[point] : starts[point + 1]]]
        days = [run.day for run in runs if run.day is not None]
        rate = float(self.points.rate[points[0]])
        return Runs(
            repeats=int(min(starts[point + 1] - starts[point] for point in points)),
            load=LOADS[self.points.load[points[0]]],
            request_rate=None if np.isnan(rate) else rate,
            sources=tuple(sorted({run.source for run in runs})),
            server_versions=tuple(sorted({run.server_version for run in runs if run.server_version is not None})),
            first_day=min(days, default=None),
            last_day=max(days, default=None),
            requests_completed=_sum(run.requests_completed for run in runs),
            requests_failed=_sum(run.requests_failed for run in runs),
            implausible=next((run.implausible for run in runs if run.implausible is not None), None),
        )

    def is_extended(self, row: int) -> bool:
        """Return whether its operating point lies beyond what was measured."""
        return bool(self.points.anchor[self.high[row]] != self.high[row])

    def nearest_to(self, limit: Limit) -> tuple[Indices, Array]:
        """Return the point of every row that comes nearest to one limit, and its distance."""
        ratio = limit.ratio(self.points.figures)
        nearest = _first(self.points.configuration, ratio, self.points.figures["concurrency"])
        return nearest, ratio[nearest]


def measured(
    connection: sa.Connection,
    scope: Scope,
    question: Question,
    choice: Choice,
    sides: Sequence[str],
    standing: Mapping[int, int],
) -> Measured | None:
    """Return the measured configurations that a question is about; None: there are none. Raises UnknownNameError.

    `standing`: the task of the preferred engine that stands for each case, to continue measured curves by.
    """
    if not counts(connection, question):
        return None
    known, configurations = configurations_of(connection, scope, question)
    estimated = estimated_cases(connection, scope, configurations)
    if scope.sweep is not None:
        # Of a sweep only what it has estimates of.
        kept = [number for number, cases in enumerate(estimated) if cases]
        place = {number: position for position, number in enumerate(kept)}
        known = {case: place[number] for case, number in known.items() if number in place}
        configurations, estimated = [configurations[n] for n in kept], [estimated[n] for n in kept]
    limits = limits_on_runs(question.slos)
    points = points_of(connection, runs_statement(scope, question), known, limits)
    if points is None:
        return None
    if len(present := np.unique(points.configuration)) < len(configurations):
        # Days may leave a configuration without runs.
        points.configuration[:] = np.searchsorted(present, points.configuration)
        configurations, estimated = [configurations[n] for n in present], [estimated[n] for n in present]
    if question.trust != Trusted.MEASURED:
        points = extended(connection, scope, points, estimated, standing)
    operating, low, high = _judged(points, choice.aim, limits, sides)
    needed = [points.figures[name] for name in (*choice.aim.columns, *(limit.column for limit in limits))]
    knows = np.logical_and.reduce([~np.isnan(column) for column in needed])
    decides = np.zeros(len(configurations), dtype=bool)
    decides[points.configuration[knows]] = True
    return Measured(configurations, limits, points, operating, low, high, decides, estimated)


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Sum those that are known; None: none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


# --- judging -----------------------------------------------------------------------------------------------------


def _judged(
    points: Points, aim: Aim, limits: Sequence[Limit], sides: Sequence[str]
) -> tuple[OperatingPoints, Indices, Indices]:
    """Return the operating point of every configuration, with the points it lies at or between."""
    meets = hold(limits, points.figures) & aim.known(points.figures)
    with np.errstate(divide="ignore", invalid="ignore"):
        how_good = np.where(meets, aim.point_score(points.figures), worst_ratio(limits, points.figures))
    concurrency = points.figures["concurrency"]
    chosen = _first(points.configuration, ~meets, how_good, concurrency, points.load)
    neighbours = {side: getattr(points, side)[chosen] for side in sides}
    number = {"task_id": np.arange(len(chosen), dtype=np.float64)}
    rows = Rows(number, {"point": points.figures_at(chosen)} | {s: points.figures_at(n) for s, n in neighbours.items()})

    straddling, highest = None, chosen
    if len(sides) == 2:
        latencies = [limit for limit in limits if not limit.slo.at_least]
        within = hold(latencies, points.figures) & (points.load == CLOSED_LOOP)
        highest = _first(points.configuration, ~within, -concurrency)
        figures = {
            "point": points.figures_at(np.where(within[highest], highest, -1)),
            "above": points.figures_at(np.where(within[highest], points.above[highest], -1)),
        }
        straddling = Rows(number, figures)
    operating = operating_points_of(rows, aim, limits, straddling)
    low, high = chosen.copy(), chosen.copy()
    for row in np.flatnonzero(operating.interpolated).tolist():
        # Between the chosen point, or else the highest within the latencies, and a neighbour.
        for start in (chosen[row], highest[row]):
            for first, second in ((start, points.above[start]), (points.below[start], start)):
                if first >= 0 <= second and (concurrency[first], concurrency[second]) == (
                    operating.low[row],
                    operating.high[row],
                ):
                    low[row], high[row] = first, second
    return operating, low, high


def _first(configuration: Indices, *keys: Any) -> Indices:
    """Return the first point of every configuration."""
    order = np.lexsort((*reversed(keys), configuration))
    return np.asarray(order[np.diff(configuration[order], prepend=-1) != 0])
