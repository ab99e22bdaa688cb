"""Continues measured curves beyond their last point by the estimate of the same configuration.

Runs often stop at some concurrency, which says nothing against more. Where exactly one estimate of the preferred engine
is of the measured configuration, its points above the last closed-loop one follow, every figure scaled by measured /
estimated at that point; the estimate there lies on the line between its neighbours if it is not stored. Nothing is
added where requests would wait for memory, nor where the estimate does not reach the last measured point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import sqlalchemy as sa

from gpuscout.store.portions import portions
from gpuscout.store.ranking.candidates.placing import Indices
from gpuscout.store.ranking.candidates.runs import CLOSED_LOOP, Points
from gpuscout.store.ranking.measures import Array
from gpuscout.store.ranking.question.scope import Scope
from gpuscout.store.schema import operating_points
from gpuscout.sweeps.curves import METRICS


def extended(
    connection: sa.Connection, scope: Scope, points: Points, estimated: Sequence[set[int]], standing: Mapping[int, int]
) -> Points:
    """Return the points, and those that follow from estimates. `standing`: the task that stands for each case."""
    last: dict[int, int] = {}
    closed = np.flatnonzero((points.load == CLOSED_LOOP) & np.isfinite(points.figures["concurrency"]))
    for point in closed.tolist():
        configuration = int(points.configuration[point])
        before = last.get(configuration)
        concurrency = points.figures["concurrency"]
        if before is None or concurrency[point] > concurrency[before]:
            last[configuration] = point
    tasks = {
        point: found.pop()
        for configuration, point in last.items()
        if len(found := {standing[case] for case in estimated[configuration] if case in standing}) == 1
    }
    curves = _curves(connection, scope, sorted(set(tasks.values())))
    added: list[tuple[int, Array]] = []  # the last measured point, and figures by (METRICS, concurrency)
    for point, task in sorted(tasks.items()):
        if task in curves:
            added += [(point, row) for row in _beyond(points, point, curves[task])]
    return _with(points, added) if added else points


def _beyond(points: Points, point: int, curve: Array) -> list[Array]:
    """Return scaled rows of an estimated curve above a measured point. `curve`: concurrency, queued, then METRICS."""
    at = float(points.figures["concurrency"][point])
    steps = curve[:, 0]
    if not steps[0] <= at <= steps[-1]:
        return []
    here = np.array([np.interp(at, steps, curve[:, 2 + place]) for place in range(len(METRICS))])
    measured = np.array([points.figures[name][point] for name in METRICS])
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(here > 0, measured / here, np.nan)
    above = curve[(steps > at) & (curve[:, 1] == 0)]
    return [np.concatenate([row[2:] * factor, row[:1]]) for row in above]


def _with(points: Points, added: Sequence[tuple[int, Array]]) -> Points:
    """Return the points with these behind them, each linked to the one before."""
    count, more = len(points), len(added)
    anchors = np.array([point for point, _ in added], dtype=np.int64)
    rows = np.array([row for _, row in added])
    columns = {name: rows[:, place] for place, name in enumerate(METRICS)} | {"concurrency": rows[:, -1]}
    figures = {
        name: np.concatenate([column, columns.get(name, np.full(more, 0.0 if name == "queued" else np.nan))])
        for name, column in points.figures.items()
    }
    above = np.concatenate([points.above, np.full(more, -1, dtype=np.int64)])
    below = np.concatenate([points.below, np.full(more, -1, dtype=np.int64)])
    for place, anchor in enumerate(anchors.tolist()):
        new = count + place
        before = new - 1 if place and anchors[place - 1] == anchor else anchor
        above[before], below[new] = new, before

    def longer(column: Indices, values: Indices) -> Indices:
        return np.concatenate([column, values])

    return replace(
        points,
        configuration=longer(points.configuration, points.configuration[anchors]),
        load=longer(points.load, points.load[anchors]),
        rate=np.concatenate([points.rate, np.full(more, np.nan)]),
        figures=figures,
        above=above,
        below=below,
        anchor=longer(np.arange(count, dtype=np.int64), anchors),
    )


def _curves(connection: sa.Connection, scope: Scope, tasks: Sequence[int]) -> dict[int, Array]:
    """Return the points of these tasks by concurrency: concurrency, queued, then METRICS; NaN: not known."""
    point = operating_points.c
    columns = (point.task_id, point.concurrency, point.queued, *(point[name] for name in METRICS))
    found: dict[int, list[list[float]]] = {}
    for some in portions(tasks):
        statement = (
            sa.select(*columns)
            .where(point.task_id.in_(some), *scope.on_ladder(operating_points))
            .order_by(point.task_id, point.concurrency)
        )
        for task, *figures in connection.execute(statement):
            found.setdefault(task, []).append([np.nan if figure is None else float(figure) for figure in figures])
    return {task: np.array(rows, dtype=np.float64) for task, rows in found.items()}
