"""The statements of a ranking. One row a task comes out of the database; ranking the rows is arithmetic on columns.

For every task a correlated subquery picks one point along the primary key of the points: the best one within all
limits, or else the one that comes nearest to them. (A window over the points would sort them all, which takes twice as
long, and one over the tasks would sort by names.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.ranking_limits import UNKNOWN, Limit
from gpuscout.store.ranking_measures import DECIMALS, Aim, Array
from gpuscout.store.ranking_scope import CONFIGURATION, Condition, Scope
from gpuscout.store.schema import cases, engines, gpus, models, operating_points, tasks
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome

Number = sa.ColumnElement[Any]

METRICS = ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s")
OUTCOME_CODES = {outcome.value: code for code, outcome in enumerate(OUTCOMES)}
_ABOUT = ("task_id", "case_id", "engine_id", "outcome", "model_id", "gpu_id", "input_len", "output_len", "num_gpus")
# Rows that are turned into columns at once: enough to be fast, few enough to hold.
_CHUNK = 50_000


@dataclass(frozen=True)
class Choice:
    """What picks the points: the aim between those within all limits. `columns` are the figures to fetch of each."""

    aim: Aim
    limits: Sequence[Limit]
    columns: tuple[str, ...]

    def sides(self, *, interpolate: bool) -> tuple[str, ...]:
        """The stored neighbours to fetch besides, see `ranking_limits`."""
        if not interpolate:
            return ()
        upwards = any(not limit.slo.at_least for limit in self.limits)
        downwards = any(limit.slo.at_least for limit in self.limits)
        return (*(("above",) if upwards else ()), *(("below",) if downwards else ()))


def answers(scope: Scope, choice: Choice, *, sides: Sequence[str] = ()) -> sa.Select[Any]:
    """One row for every task: `_ABOUT`, needed to usable memory, its point, and the neighbours of that point.

    A task without points has NULLs in their place.
    """
    near, miss = operating_points.alias("near"), operating_points.alias("miss")
    meets = [*_known(near, choice.aim), *_meets(near, choice.limits)]
    # A queue only where nothing else meets the limits; among equals the fewest requests in flight.
    best = _concurrency(scope, near, [near.c.queued, _score(near, choice.aim), near.c.concurrency], meets)
    if not choice.limits:
        return _with_points(scope, choice.columns, best, sides)
    nearest = _concurrency(scope, miss, [_worst(miss, choice.limits), miss.c.queued, miss.c.concurrency], [])
    return _with_points(scope, choice.columns, sa.func.coalesce(best, nearest), sides)


def straddling(scope: Scope, choice: Choice) -> sa.Select[Any]:
    """Like `answers`, at the highest point that meets all limits on latencies, with the next above."""
    near = operating_points.alias("near")
    latencies = [limit for limit in choice.limits if not limit.slo.at_least]
    highest = _concurrency(scope, near, [near.c.concurrency.desc()], _meets(near, latencies))
    return _with_points(scope, choice.columns, highest, ("above",))


def nearest_alone(scope: Scope, limit: Limit, columns: tuple[str, ...], model_ids: Sequence[int]) -> sa.Select[Any]:
    """Like `answers`, at the point of each task of these models that comes nearest to one limit."""
    near = operating_points.alias("near")
    concurrency = _concurrency(scope, near, [_worst(near, [limit]), near.c.queued, near.c.concurrency], [])
    return _with_points(scope, columns, concurrency).where(cases.c.model_id.in_(model_ids))


def same_configurations(scope: Scope) -> sa.Select[Any]:
    """The cases of the scope, each with the first one that has its names and settings (versions have cases apart)."""
    chosen = sa.select(tasks.c.case_id).select_from(scope.source).where(*scope.conditions)
    same = [models.c.name, gpus.c.name, cases.c.input_len, cases.c.output_len, *(cases.c[n] for n in CONFIGURATION)]
    first = sa.func.min(cases.c.id).over(partition_by=same)
    named = cases.join(models, models.c.id == cases.c.model_id).join(gpus, gpus.c.id == cases.c.gpu_id)
    return sa.select(cases.c.id, first).select_from(named).where(cases.c.id.in_(chosen))


def described(wanted: Iterable[tuple[int, int]]) -> sa.Select[Any]:
    """Tasks at operating points, by (task, concurrency): configuration, engine, outcome and all figures.

    A concurrency of 0 asks for the task alone, with NULLs in place of the figures.
    """
    # Whole numbers, written out: bound parameters are limited in number.
    rows = ",".join(f"({int(task)},{int(concurrency)})" for task, concurrency in wanted)
    # Both databases call the columns of VALUES so.
    asked = sa.text(f"VALUES {rows}").columns(column1=sa.BigInteger, column2=sa.Integer).cte("wanted")
    point = operating_points.alias("point")
    # All are there; outer joins keep SQLite from starting with another table than the one with the fewest rows.
    source = (
        asked.outerjoin(tasks, tasks.c.id == asked.c.column1)
        .outerjoin(cases, cases.c.id == tasks.c.case_id)
        .outerjoin(models, models.c.id == cases.c.model_id)
        .outerjoin(gpus, gpus.c.id == cases.c.gpu_id)
        .outerjoin(engines, engines.c.id == tasks.c.engine_id)
        .outerjoin(point, sa.and_(point.c.task_id == tasks.c.id, point.c.concurrency == asked.c.column2))
    )
    return sa.select(
        tasks.c.id.label("task_id"),
        asked.c.column2.label("asked"),
        models.c.name.label("model"),
        gpus.c.name.label("gpu"),
        *(cases.c[name] for name in ("input_len", "output_len", "num_gpus", *CONFIGURATION)),
        engines.c.name.label("engine"),
        engines.c.fingerprint,
        *(tasks.c[name] for name in ("outcome", "detail", "needed_gib", "usable_gib")),
        *(point.c[name] for name in ("concurrency", *METRICS, "bound", "queued")),
    ).select_from(source)


def _with_points(
    scope: Scope, columns: Sequence[str], concurrency: Number, sides: Sequence[str] = ()
) -> sa.Select[Any]:
    point = operating_points.alias("point")
    source = scope.source.outerjoin(point, _at(point, concurrency))
    figures = _figures(point, columns)
    for side in sides:
        neighbour, other = operating_points.alias(side), operating_points.alias(f"any_{side}")
        upwards = side == "above"
        beyond = other.c.concurrency > point.c.concurrency if upwards else other.c.concurrency < point.c.concurrency
        order = other.c.concurrency if upwards else other.c.concurrency.desc()
        source = source.outerjoin(neighbour, _at(neighbour, _concurrency(scope, other, [order], [beyond], point)))
        figures += _figures(neighbour, columns)
    refused = tasks.c.outcome != Outcome.OK.value
    ratio = sa.case((refused, tasks.c.needed_gib / sa.func.nullif(tasks.c.usable_gib, 0.0, type_=sa.Double)))
    about: list[Number] = [
        tasks.c.id.label("task_id"),
        tasks.c.case_id,
        tasks.c.engine_id,
        sa.case(OUTCOME_CODES, value=tasks.c.outcome).label("outcome"),
        *(cases.c[name] for name in _ABOUT[4:]),
    ]
    return sa.select(*about, ratio.label("memory_ratio"), *figures).select_from(source).where(*scope.conditions)


def _figures(points: sa.FromClause, columns: Sequence[str]) -> list[Number]:
    name = points.name  # type: ignore[attr-defined]
    return [points.c[column].label(f"{name}_{column}") for column in ("concurrency", "queued", *columns)]


def _concurrency(
    scope: Scope,
    near: sa.FromClause,
    order: Sequence[Number],
    where: Sequence[Condition],
    *also: sa.FromClause,
) -> sa.ScalarSelect[int]:
    """The concurrency of the point of a task that comes first."""
    return (
        sa.select(near.c.concurrency)
        .where(near.c.task_id == tasks.c.id, *where, *scope.on_ladder(near))
        .order_by(*order)
        .limit(1)
        .correlate(tasks, *also)
        .scalar_subquery()
    )


def _at(points: sa.FromClause, concurrency: Number) -> Condition:
    return sa.and_(
        points.c.task_id == tasks.c.id, points.c.concurrency == concurrency, tasks.c.outcome == Outcome.OK.value
    )


def _known(points: sa.FromClause, aim: Aim) -> list[Condition]:
    return [points.c[name] > 0 if aim.positive else points.c[name].is_not(None) for name in aim.columns]


def _score(points: sa.FromClause, aim: Aim) -> Number:
    """What sorts ascending from the best to the worst, as `Aim.point_score` does."""
    if not aim.is_weighted:
        return sa.func.round(points.c[aim.columns[0]] * (-DECIMALS if aim.single.highest_column else DECIMALS))
    terms = [
        sa.func.ln(sa.case((points.c[name] > 0, points.c[name]))) * exponent
        for name, exponent in aim.exponents().items()
    ]
    return sa.func.round(sum(terms[1:], terms[0]) * DECIMALS)


def _meets(points: sa.FromClause, limits: Sequence[Limit]) -> list[Condition]:
    """Unknown figures meet nothing."""
    return [
        points.c[limit.column] >= limit.value if limit.slo.at_least else points.c[limit.column] <= limit.value
        for limit in limits
    ]


def _worst(points: sa.FromClause, limits: Sequence[Limit]) -> Number:
    """The largest ratio of a figure to its limit, as `worst_ratio` has it."""
    worst: Number = sa.literal(0.0)
    for position, limit in enumerate(limits):
        found = points.c[limit.column]
        part = limit.value / sa.case((found > 0, found)) if limit.slo.at_least else found / limit.value
        ratio = sa.func.coalesce(part, UNKNOWN)
        worst = sa.case((ratio > worst, ratio), else_=worst) if position else ratio
    return worst


# --- rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """The rows of `answers` as columns, in no order; NaN: NULL. `points` holds "point" and every side."""

    about: dict[str, Array]
    points: dict[str, dict[str, Array]]

    def __len__(self) -> int:
        return len(self.about["task_id"])

    def take(self, rows: Any) -> Rows:
        """These rows, by position or as flags."""
        return Rows(
            {name: column[rows] for name, column in self.about.items()},
            {at: {name: column[rows] for name, column in figures.items()} for at, figures in self.points.items()},
        )


def fetch(connection: sa.Connection, statement: sa.Select[Any], columns: Sequence[str]) -> Rows:
    """Run `answers`, `straddling` or `nearest_alone`."""
    cursor = connection.execute(statement).cursor
    assert cursor is not None
    chunks = [np.empty((0, len(statement.selected_columns)))]
    # The driver's own rows: a hundred thousand of them are wanted as columns, not as objects.
    while part := cursor.fetchmany(_CHUNK):
        chunks.append(np.array(part, dtype=np.float64))
    columns_of = np.ascontiguousarray(np.concatenate(chunks).T)
    about = dict(zip((*_ABOUT, "memory_ratio"), columns_of, strict=False))
    names = ("concurrency", "queued", *columns)
    labels = [column.name for column in statement.selected_columns]
    aliases = [label.removesuffix("_concurrency") for label in labels if label.endswith("_concurrency")]
    figures = columns_of[len(about) :].reshape(len(aliases), len(names), columns_of.shape[1])
    points = {alias: dict(zip(names, group, strict=True)) for alias, group in zip(aliases, figures, strict=True)}
    return Rows(about, points)
