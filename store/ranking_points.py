"""The statements of a ranking: the best operating point of every task, places within a group, and why others are out.

Every one has the same shape: a correlated subquery picks one point of each task along the primary key of the points,
then window functions place the tasks within their group. (A window over the points themselves would sort them all,
which takes twice as long.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from gpuscout.store.ranking_scope import ABOUT, CONFIGURATIONS, GROUP, Condition, Scope
from gpuscout.store.ranking_types import Measure
from gpuscout.store.schema import engines, operating_points, tasks
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.slo import Slo

Number = sa.ColumnElement[float]
GroupKey = tuple[str, int, int]

# Larger than any ratio of a latency to its limit: what is unknown comes last.
_UNKNOWN = 1e300
# Figures that are equal to six decimals are equal: the last bits of floating point must not pick a winner.
_DECIMALS = 1e6


def group_key(row: sa.Row[Any]) -> GroupKey:
    """Model, input and output length: what makes a group."""
    return row.model, row.input_len, row.output_len


def ranked(scope: Scope, measure: Measure, slos: Sequence[Slo], *, top: int | None) -> sa.Select[Any]:
    """The best configurations of every group, best first, at the best point of each that meets all SLOs.

    `place` and `gpu_place` (within the GPU type) count from 1; configurations with the same figures share a place.
    `candidates` counts all of the group. Only places up to `top` and the best of each GPU type are returned.
    """
    near = operating_points.alias("near")
    value = near.c[measure.column]
    best = _concurrency(scope, near, _order(value, measure), [value.is_not(None), *_meets(near, slos)])
    points = operating_points.alias("points")
    objective: sa.ColumnElement[Any] = points.c[measure.column]
    if measure.per_gpu:
        objective = objective / scope.tasks.c.num_gpus
    chosen = (
        sa.select(
            *_keys(scope),
            *(points.c[name] for name in ("concurrency", "queued", "itl_ms", "ttft_ms")),
            objective.label("objective"),
        )
        .select_from(scope.tasks.join(points, _at(scope, points, best)))
        .where(scope.tasks.c.outcome == Outcome.OK)
        .cte("chosen")
    )
    order = [
        _order(chosen.c.objective, measure),
        chosen.c.queued,
        chosen.c.num_gpus,
        chosen.c.itl_ms.nulls_last(),
        chosen.c.ttft_ms.nulls_last(),
    ]
    group = [chosen.c[name] for name in GROUP]
    places = sa.select(
        chosen,
        sa.func.rank().over(partition_by=group, order_by=order).label("place"),
        sa.func.rank().over(partition_by=[*group, chosen.c.gpu], order_by=order).label("gpu_place"),
        sa.func.count().over(partition_by=group).label("candidates"),
    ).cte("places")
    statement = _described(places, "objective", "place", "gpu_place", "candidates")
    if top is not None:
        statement = statement.where(sa.or_(places.c.place <= top, places.c.gpu_place == 1))
    return statement.order_by(places.c.place)


def counts(scope: Scope) -> sa.Select[Any]:
    """How many tasks of each group have each outcome."""
    columns = [scope.tasks.c[name] for name in (*GROUP, "outcome")]
    return sa.select(*columns, sa.func.count().label("tasks")).group_by(*columns)


def engines_of_groups(scope: Scope) -> sa.Select[Any]:
    """The engines that have any answer for a group, whether it stands or not."""
    return sa.select(*(scope.answers.c[name] for name in GROUP), scope.answers.c.engine_id).distinct()


def refused(scope: Scope, *, examples: int | None) -> sa.Select[Any]:
    """Tasks whose outcome is not `ok`, of each outcome the nearest misses first. `ratio`: needed to usable memory."""
    answer = (
        sa.select(
            *_keys(scope),
            sa.cast(sa.null(), sa.Integer).label("concurrency"),
            scope.tasks.c.outcome,
            tasks.c.detail,
            tasks.c.needed_gib,
            tasks.c.usable_gib,
            (tasks.c.needed_gib / sa.func.nullif(tasks.c.usable_gib, 0.0, type_=sa.Double)).label("ratio"),
        )
        .select_from(scope.tasks.join(tasks, tasks.c.id == scope.tasks.c.task_id))
        .where(scope.tasks.c.outcome != Outcome.OK)
        .cte("refused")
    )
    return _examples(answer, ["outcome"], examples, "detail", "needed_gib", "usable_gib")


def missing_slos(scope: Scope, measure: Measure, slos: Sequence[Slo], *, examples: int | None) -> sa.Select[Any]:
    """Tasks without a point that meets all SLOs, at their nearest point; nearest first for each SLO missed by most.

    `missed` is the position of that SLO, -1 where it is not latency that is missing: no point, or no objective.
    """
    qualifying = operating_points.alias("qualifying")
    meets = (
        sa.exists()
        .where(
            qualifying.c.task_id == scope.tasks.c.task_id,
            qualifying.c[measure.column].is_not(None),
            *_meets(qualifying, slos),
            *scope.on_ladder(qualifying),
        )
        .correlate(scope.tasks)
    )
    near = operating_points.alias("near")
    nearest = _concurrency(scope, near, _worst(near, slos), [])
    points = operating_points.alias("points")
    missed: sa.ColumnElement[Any] = sa.literal(-1)
    if slos:
        worst = _worst(points, slos)
        missed = sa.case(
            (sa.or_(points.c.task_id.is_(None), worst <= 1), -1),
            *((_ratio(points, slo) == worst, position) for position, slo in enumerate(slos)),
            else_=-1,
        )
    answer = (
        sa.select(*_keys(scope), points.c.concurrency, missed.label("missed"), _worst(points, slos).label("ratio"))
        .select_from(scope.tasks.outerjoin(points, _at(scope, points, nearest)))
        .where(scope.tasks.c.outcome == Outcome.OK, ~meets)
    )
    return _examples(answer.cte("missing"), ["missed"], examples)


def nearest(scope: Scope, slos: Sequence[Slo], models: Sequence[str]) -> sa.Select[Any]:
    """For every group of these models the one point that comes closest to meeting all these SLOs at once.

    `ratio` is that of the SLO it misses by most to its limit.
    """
    near = operating_points.alias("near")
    concurrency = _concurrency(scope, near, _worst(near, slos), [])
    points = operating_points.alias("points")
    answer = (
        sa.select(*_keys(scope), points.c.concurrency, _worst(points, slos).label("ratio"))
        .select_from(scope.tasks.join(points, _at(scope, points, concurrency)))
        .where(scope.tasks.c.outcome == Outcome.OK, scope.tasks.c.model.in_(models))
    )
    return _examples(answer.cte("nearest"), [], 1)


def _concurrency(scope: Scope, near: sa.FromClause, order: Number, where: Sequence[Condition]) -> sa.ScalarSelect[int]:
    """The concurrency of the point of a task that comes first; among equals not queued, fewest requests in flight."""
    return (
        sa.select(near.c.concurrency)
        .where(near.c.task_id == scope.tasks.c.task_id, *where, *scope.on_ladder(near))
        .order_by(order, near.c.queued, near.c.concurrency)
        .limit(1)
        .correlate(scope.tasks)
        .scalar_subquery()
    )


def _at(scope: Scope, points: sa.FromClause, concurrency: sa.ScalarSelect[int]) -> Condition:
    return sa.and_(points.c.task_id == scope.tasks.c.task_id, points.c.concurrency == concurrency)


def _order(value: Number, measure: Measure) -> Number:
    """What sorts ascending from the best to the worst."""
    return sa.func.round(value * (-_DECIMALS if measure.more_is_better else _DECIMALS))


def _meets(points: sa.FromClause, slos: Sequence[Slo]) -> list[Condition]:
    """Unknown metrics meet nothing."""
    return [points.c[slo.column] <= slo.limit for slo in slos]


def _ratio(points: sa.FromClause, slo: Slo) -> Number:
    return sa.func.coalesce(points.c[slo.column] / slo.limit, _UNKNOWN)


def _worst(points: sa.FromClause, slos: Sequence[Slo]) -> Number:
    """The largest ratio of a metric to its limit: at most 1 when all SLOs are met."""
    worst: sa.ColumnElement[Any] = sa.literal(0.0)
    for position, slo in enumerate(slos):
        ratio = _ratio(points, slo)
        worst = sa.case((ratio > worst, ratio), else_=worst) if position else ratio
    return worst


def _keys(scope: Scope) -> list[sa.ColumnElement[Any]]:
    """What placing needs of a task: sorting is dear, so the rest is looked up for the rows that are left."""
    return [scope.tasks.c[name] for name in ("task_id", *GROUP, "gpu", "num_gpus")]


def _examples(answer: sa.CTE, kinds: Sequence[str], examples: int | None, *more: str) -> sa.Select[Any]:
    """Of every kind in a group the rows with the lowest ratio, and how many there are (`alike`)."""
    kind = [answer.c[name] for name in (*GROUP, *kinds)]
    order = [answer.c.ratio.nulls_last(), answer.c.num_gpus, answer.c.task_id]
    placed = sa.select(
        answer,
        sa.func.row_number().over(partition_by=kind, order_by=order).label("place"),
        sa.func.count().over(partition_by=kind).label("alike"),
    ).cte("placed")
    statement = _described(placed, *kinds, "ratio", "alike", *more)
    if examples is not None:
        statement = statement.where(placed.c.place <= examples)
    return statement.order_by(placed.c.place)


def _described(rows: sa.CTE, *names: str) -> sa.Select[Any]:
    """These columns of the rows that are left, with their configuration, engine and operating point (if any)."""
    points = operating_points.alias("point")
    source = (
        rows.join(CONFIGURATIONS, tasks.c.id == rows.c.task_id)
        .join(engines, engines.c.id == tasks.c.engine_id)
        .outerjoin(points, sa.and_(points.c.task_id == tasks.c.id, points.c.concurrency == rows.c.concurrency))
    )
    return sa.select(
        *ABOUT,
        engines.c.name.label("engine"),
        engines.c.fingerprint,
        *(column for column in points.c if column.name != "task_id"),
        *(rows.c[name] for name in names),
    ).select_from(source)
