"""The statements of a ranking. One row a task comes out of the database; ranking the rows is arithmetic on columns.

For every task one point is picked along the primary key of the points: the best one within all limits, or else the one
that comes nearest to them. (A window over the points would sort them all, which takes twice as long, and one over the
tasks would sort by names.) SQLite is quickest with a correlated subquery for the concurrency of the point. Postgres
would run that twice and join all points once more: there the picked point is the smallest array of what decides and
the figures themselves, of each task where few tasks are asked about, and in one pass over all points where all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from gpuscout.store.ranking.measures import DECIMALS, Aim
from gpuscout.store.ranking.question.intervals import Intervals, pessimistic, pessimistic_tail
from gpuscout.store.ranking.question.limits import UNKNOWN, Limit
from gpuscout.store.ranking.question.scope import Condition, Scope
from gpuscout.store.schema import cases, engines, gpus, models, operating_points, point_percentiles, tasks
from gpuscout.sweeps.curves import MEAN_OF_BINS, METRICS, SERVER_METRICS
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.precision import PRECISIONS
from gpuscout.sweeps.servers import MEASURED_SERVERS
from gpuscout.sweeps.settings import SETTINGS
from gpuscout.sweeps.slo import percentile_name

Number = sa.ColumnElement[Any]

OUTCOME_CODES = {outcome.value: code for code, outcome in enumerate(OUTCOMES)}
PRECISION_CODES = {precision.value: code for code, precision in enumerate(PRECISIONS)}
SERVER_CODES = {server: code for code, server in enumerate(MEASURED_SERVERS)}
BATCH = 5_000
"""Of tasks or points that are asked for by number, how many one statement is to look up."""
_RAN = tasks.c.outcome == Outcome.OK.value


@dataclass(frozen=True)
class Choice:
    """Rule that picks the points: the aim between those within all limits. `columns` are the figures to fetch of each.

    `intervals`: figures count by the pessimistic ends of these. `percentiles`: columns that stand for a metric's
    percentile; where it was not simulated it is `assume_tail` times the mean, or not known. `simulating`: the ids of
    the engines that have percentiles.
    """

    aim: Aim
    limits: Sequence[Limit]
    columns: tuple[str, ...]
    intervals: Intervals = field(default_factory=dict)
    percentiles: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    assume_tail: float | None = None
    simulating: Sequence[int] = ()

    def figure(self, points: sa.FromClause, name: str) -> Number:
        """Return a column of operating points as it counts."""
        if name in self.percentiles:
            return self._percentile(points, *self.percentiles[name])
        return pessimistic(points, name, self.intervals) if self.intervals else points.c[name]

    def _percentile(self, points: sa.FromClause, metric: str, percentile: float) -> Number:
        """Return a percentile that was simulated, else the assumed multiple of
        the mean, if any; as its interval has it.
        """
        found = _simulated(points, metric, percentile)
        if self.intervals:
            found = found * pessimistic_tail(points, percentile_name(metric, percentile), self.intervals)
        if self.assume_tail is not None:
            found = sa.func.coalesce(found, pessimistic(points, metric, self.intervals) * self.assume_tail)
        return found

    @property
    def tails(self) -> list[str]:
        """The simulated figures that limits are on: "p95_ttft_ms"."""
        return [percentile_name(*which) for which in self.percentiles.values()]

    def sides(self, *, interpolate: bool) -> tuple[str, ...]:
        """Return the stored neighbours to fetch besides, see `ranking/question/limits.py`."""
        if not interpolate:
            return ()
        upwards = any(not limit.slo.at_least for limit in self.limits)
        downwards = any(limit.slo.at_least for limit in self.limits)
        return (*(("above",) if upwards else ()), *(("below",) if downwards else ()))


def _simulated(points: sa.FromClause, metric: str, percentile: float) -> Number:
    """Return a percentile of points that was simulated; NULL: it was not."""
    tail = point_percentiles.c
    return (
        sa.select(tail.value)
        .where(tail.task_id == points.c.task_id, tail.concurrency == points.c.concurrency)
        .where(tail.metric == metric, tail.percentile == percentile)
        .correlate(points)
        .scalar_subquery()
    )


@dataclass(frozen=True)
class _Pick:
    """Order that picks the point of a task: the first of those that meet the conditions.

    The picks of one statement have orders of one length.
    """

    order: Sequence[Number]
    where: Sequence[Condition] = ()


def engines_with_percentiles(connection: sa.Connection, scope: Scope) -> list[int]:
    """Return the ids of the engines of the scope that have simulated percentiles."""
    found = sa.select(point_percentiles.c.task_id).join(tasks, tasks.c.id == point_percentiles.c.task_id).limit(1)
    return [
        engine_id
        for engine_id in scope.engines.all_ids()
        if connection.execute(found.where(tasks.c.engine_id == engine_id)).first() is not None
    ]


def select_answered(scope: Scope, choice: Choice, *, sides: Sequence[str]) -> sa.Select[Any]:
    """Return one row for every task that ran: what it is, its point, and the neighbours of that point.

    NULLs stand for points that there are not. An id that all tasks of the scope share is left out.
    """
    near = operating_points.alias("near")
    meets = [*_known(near, choice), *_meets(near, choice, choice.limits)]
    # A queue only where nothing else meets the limits; among equals the fewest requests in flight.
    picks = [_Pick([near.c.queued, _score(near, choice), near.c.concurrency], meets)]
    if choice.limits:
        picks.append(_Pick([_worst(near, choice, choice.limits), near.c.queued, near.c.concurrency]))
    return _with_points(scope, choice, near, picks, sides)


def select_refused(scope: Scope) -> sa.Select[Any]:
    """Return one row for every task that could not run: what it is, its outcome, and needed to usable memory."""
    ratio = tasks.c.needed_gib / sa.func.nullif(tasks.c.usable_gib, 0.0, type_=sa.Double)
    outcome = sa.case(OUTCOME_CODES, value=tasks.c.outcome).label("outcome")
    columns = (*_about(scope), outcome, ratio.label("memory_ratio"))
    return sa.select(*columns).select_from(scope.source).where(*scope.conditions, ~_RAN)


def straddling(scope: Scope, choice: Choice) -> sa.Select[Any]:
    """Select as `select_answered`, at the highest point that meets all limits on latencies, with the next above."""
    near = operating_points.alias("near")
    latencies = [limit for limit in choice.limits if not limit.slo.at_least]
    highest = _Pick([-near.c.concurrency], _meets(near, choice, latencies))
    return _with_points(scope, choice, near, [highest], ("above",))


def nearest_alone(scope: Scope, choice: Choice, limit: Limit, model_ids: Sequence[int]) -> sa.Select[Any]:
    """Select as `select_answered`, at the point of each task of these models that comes nearest to one limit."""
    near = operating_points.alias("near")
    nearest = _Pick([_worst(near, choice, [limit]), near.c.queued, near.c.concurrency])
    only = replace(choice, columns=(limit.column,))
    return _with_points(scope, only, near, [nearest]).where(cases.c.model_id.in_(model_ids))


def select_at_most(scope: Scope, choice: Choice, wanted: Sequence[tuple[int, int]]) -> sa.Select[Any]:
    """Return the stored point at the highest concurrency up to the given one, for each (task, concurrency)."""
    asked = _written_out(wanted, column1=sa.BigInteger, column2=sa.Integer)
    near, point = operating_points.alias("near"), operating_points.alias("point")
    below = (near.c.task_id == asked.c.column1, near.c.concurrency <= asked.c.column2, *scope.on_ladder(near))
    # What is on the ladder depends on the task's engine.
    of_task = sa.select(sa.func.max(near.c.concurrency)).where(*below).correlate(asked, tasks, cases)
    highest = of_task.scalar_subquery()
    source = (
        asked.join(tasks, tasks.c.id == asked.c.column1)
        .join(cases, cases.c.id == tasks.c.case_id)
        .join(point, sa.and_(point.c.task_id == tasks.c.id, point.c.concurrency == highest))
    )
    figures = (choice.figure(point, name).label(name) for name in ("concurrency", "queued", *choice.columns))
    return sa.select(tasks.c.id, *figures).select_from(source)


def same_configurations(scope: Scope) -> sa.Select[Any]:
    """Return the cases of the scope, each with the first one that has its
    names and settings (versions have cases apart).
    """
    chosen = sa.select(tasks.c.case_id).select_from(scope.source).where(*scope.conditions)
    same = [models.c.name, gpus.c.name, cases.c.input_len, cases.c.output_len, *(cases.c[n] for n in SETTINGS)]
    first = sa.func.min(cases.c.id).over(partition_by=same)
    named = cases.join(models, models.c.id == cases.c.model_id).join(gpus, gpus.c.id == cases.c.gpu_id)
    return sa.select(cases.c.id, first).select_from(named).where(cases.c.id.in_(chosen))


def described(wanted: Iterable[tuple[int, int]], tails: Sequence[tuple[str, float]] = ()) -> sa.Select[Any]:
    """Return tasks at operating points, by (task, concurrency): configuration, engine, outcome and all figures.

    `tails`: percentiles of metrics that are wanted as well, as columns such as "p95_ttft_ms".

    A concurrency of 0 asks for the task alone, with NULLs in place of the figures.
    """
    asked = _written_out(wanted, column1=sa.BigInteger, column2=sa.Integer)
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
        *(cases.c[name] for name in ("input_len", "output_len", "num_gpus", *SETTINGS, "request_rate")),
        engines.c.name.label("engine"),
        engines.c.fingerprint,
        tasks.c.engine_id,
        *(tasks.c[name] for name in ("outcome", "detail", "needed_gib", "usable_gib", "imported_from")),
        (tasks.c.detail == MEAN_OF_BINS).label("mean_of_bins"),
        sa.exists()
        .where(point_percentiles.c.task_id == point.c.task_id, point_percentiles.c.concurrency == point.c.concurrency)
        .correlate(point)
        .label("simulated"),
        *(point.c[name] for name in ("concurrency", *METRICS, "bound", "queued", "regime", *SERVER_METRICS)),
        *(_simulated(point, *which).label(percentile_name(*which)) for which in tails),
    ).select_from(source)


def named(wanted: Iterable[int]) -> sa.Select[Any]:
    """Return the GPU and the settings of tasks, by id."""
    asked = _written_out(((task,) for task in wanted), column1=sa.BigInteger)
    # Outer joins as in `described`.
    source = (
        asked.outerjoin(tasks, tasks.c.id == asked.c.column1)
        .outerjoin(cases, cases.c.id == tasks.c.case_id)
        .outerjoin(gpus, gpus.c.id == cases.c.gpu_id)
    )
    settings = (cases.c[name] for name in SETTINGS)
    return sa.select(tasks.c.id.label("task_id"), gpus.c.name.label("gpu"), *settings).select_from(source)


def _written_out(rows: Iterable[Sequence[int]], **columns: Any) -> sa.CTE:
    """Return a table of whole numbers, written out: bound parameters are limited in number.

    Both databases call the columns of VALUES column1, column2.
    """
    values = ",".join(f"({','.join(str(int(number)) for number in row)})" for row in rows)
    return sa.text(f"VALUES {values}").columns(**columns).cte("wanted")


def _with_points(
    scope: Scope, choice: Choice, near: sa.FromClause, picks: Sequence[_Pick], sides: Sequence[str] = ()
) -> sa.Select[Any]:
    """Return one row for every task that ran, with the point that the first of the picks finds that finds any."""
    names = ("concurrency", "queued", *choice.columns)
    point_of = _smallest_array if scope.on_postgres else _by_concurrency
    source, point = point_of(scope, choice, names, near, picks)
    figures = [point[name].label(f"point_{name}") for name in names]
    for side in sides:
        source, neighbour = _neighbour(scope, choice, source, names, point["concurrency"], side)
        figures += [neighbour[name].label(f"{side}_{name}") for name in names]
    return sa.select(*_about(scope), *figures).select_from(source).where(*scope.conditions, _RAN)


def about_tasks() -> list[Number]:
    """Return columns of tasks with their cases: ids, sizes and codes, by which answers are put together and trusted."""
    return [
        tasks.c.id.label("task_id"),
        tasks.c.case_id,
        tasks.c.engine_id,
        *(cases.c[n] for n in ("model_id", "gpu_id", "input_len", "output_len", "num_gpus", "tensor_parallel")),
        sa.case(PRECISION_CODES, value=cases.c.precision).label("precision"),
        sa.case(SERVER_CODES, value=cases.c.server).label("server"),
        sa.case((cases.c.speculative != "", 1), else_=0).label("drafted"),
        sa.case((cases.c.request_rate.is_not(None), 1), else_=0).label("arriving"),
    ]


def _about(scope: Scope) -> list[Number]:
    shared = scope.shared_ids
    return [column for column in about_tasks() if column.name not in shared]


def _by_concurrency(
    scope: Scope, choice: Choice, names: Sequence[str], near: sa.FromClause, picks: Sequence[_Pick]
) -> tuple[sa.FromClause, Mapping[str, Number]]:
    """Return the tasks of the scope with their points, found by the concurrency that a subquery picks."""
    found = [_first(scope, near, pick.order, pick.where, of_task=bool(choice.intervals)) for pick in picks]
    point = operating_points.alias("point")
    at = point.c.concurrency == (sa.func.coalesce(*found) if len(found) > 1 else found[0])
    source = scope.source.outerjoin(point, sa.and_(point.c.task_id == tasks.c.id, at))
    return source, {name: choice.figure(point, name) for name in names}


def _smallest_array(
    scope: Scope, choice: Choice, names: Sequence[str], near: sa.FromClause, picks: Sequence[_Pick]
) -> tuple[sa.FromClause, Mapping[str, Number]]:
    """Return the tasks of the scope with their points, each the smallest
    array of what decides and the point's figures.
    """
    figures = [as_double(choice.figure(near, name)) for name in names]
    smallest = []
    for number, pick in enumerate(picks):
        # Between equals the concurrency decides in any case: it is the first of the figures.
        deciding = [as_double(entry) for entry in pick.order if entry is not near.c.concurrency]
        arrays: Number = sa.func.min(postgresql.array([*deciding, *figures]), type_=postgresql.ARRAY(sa.Double))
        not_before = [sa.and_(sa.true(), *before.where).is_not(sa.true()) for before in picks[:number]]
        smallest.append(arrays.filter(sa.true(), *pick.where, *not_before))
    found = sa.func.coalesce(*smallest, type_=postgresql.ARRAY(sa.Double)).label("found")
    picked: sa.FromClause
    # Which interval holds around a point depends on its task.
    if scope.is_everything and not choice.intervals:
        picked = sa.select(near.c.task_id, found).group_by(near.c.task_id).subquery("picked")
        source = scope.source.outerjoin(picked, picked.c.task_id == tasks.c.id)
    else:
        mine = (near.c.task_id == tasks.c.id, *scope.on_ladder(near))
        picked = sa.select(found).where(*mine).lateral("picked")
        source = scope.source.outerjoin(picked, sa.true())
    return source, {name: picked.c.found[len(deciding) + 1 + place] for place, name in enumerate(names)}


def _neighbour(
    scope: Scope, choice: Choice, source: sa.FromClause, names: Sequence[str], concurrency: Number, side: str
) -> tuple[sa.FromClause, Mapping[str, Number]]:
    """Return the stored point next to that of a task, above or below."""
    upwards = side == "above"
    # Arrays hold it as a double, by which Postgres would not look it up in the primary key.
    concurrency = sa.cast(concurrency, sa.Integer) if scope.on_postgres else concurrency
    other = operating_points.alias(f"any_{side}" if not scope.on_postgres else side)
    order = other.c.concurrency if upwards else other.c.concurrency.desc()
    beyond = other.c.concurrency > concurrency if upwards else other.c.concurrency < concurrency
    if scope.on_postgres:
        mine = (other.c.task_id == tasks.c.id, beyond, *scope.on_ladder(other))
        figures = [choice.figure(other, name).label(name) for name in names]
        lateral = sa.select(*figures).where(*mine).order_by(order).limit(1).lateral(f"next_{side}")
        return source.outerjoin(lateral, sa.true()), {name: lateral.c[name] for name in names}
    neighbour = operating_points.alias(side)
    at = neighbour.c.concurrency == _first(scope, other, [order], [beyond])
    joined = source.outerjoin(neighbour, sa.and_(neighbour.c.task_id == tasks.c.id, at))
    return joined, {name: choice.figure(neighbour, name) for name in names}


def _first(
    scope: Scope,
    near: sa.FromClause,
    order: Sequence[Number],
    where: Sequence[Condition],
    *,
    of_task: bool = False,
) -> sa.ScalarSelect[int]:
    """Return the concurrency of the point of a task that comes first. `of_task`: the order depends on the task."""
    columns: list[Number] = [near.c.concurrency]
    if of_task:
        columns += [value.label(f"order_{place}") for place, value in enumerate(order)]
    mine = sa.select(*columns).where(near.c.task_id == tasks.c.id, *where, *scope.on_ladder(near))
    mine = mine.correlate_except(near)
    if of_task:
        # SQLite looks up what an ORDER BY names in the same query only.
        points = mine.subquery(f"{near.name}_points")  # type: ignore[attr-defined]
        mine, order = sa.select(points.c.concurrency), list(points.c)[1:]
    return mine.order_by(*order).limit(1).scalar_subquery()


def as_double(value: Number) -> Number:
    return sa.cast(sa.cast(value, sa.Integer) if isinstance(value.type, sa.Boolean) else value, sa.Double)


def _known(points: sa.FromClause, choice: Choice) -> list[Condition]:
    aim = choice.aim
    # No interval makes a figure known, nor 0 of what is above it.
    return [points.c[name] > 0 if aim.positive else points.c[name].is_not(None) for name in aim.columns]


def _score(points: sa.FromClause, choice: Choice) -> Number:
    """Return an ascending sort key, best first, equal to `Aim.point_score`."""
    aim = choice.aim
    if not aim.is_weighted:
        value = choice.figure(points, aim.columns[0])
        return sa.func.round(value * (-DECIMALS if aim.single.highest_column else DECIMALS))
    figures = {name: choice.figure(points, name) for name in aim.exponents()}
    terms = [
        sa.func.ln(sa.case((figures[name] > 0, figures[name]))) * exponent for name, exponent in aim.exponents().items()
    ]
    return sa.func.round(sum(terms[1:], terms[0]) * DECIMALS)


def _meets(points: sa.FromClause, choice: Choice, limits: Sequence[Limit]) -> list[Condition]:
    return [limit.allows(choice.figure(points, limit.column)) for limit in limits]


def _worst(points: sa.FromClause, choice: Choice, limits: Sequence[Limit]) -> Number:
    """Return the largest ratio of a figure to its limit, as `worst_ratio` has it."""
    worst: Number = sa.literal(0.0)
    for position, limit in enumerate(limits):
        found = choice.figure(points, limit.column)
        part = limit.value / sa.case((found > 0, found)) if limit.slo.at_least else found / limit.value
        ratio = sa.func.coalesce(part, UNKNOWN)
        worst = sa.case((ratio > worst, ratio), else_=worst) if position else ratio
    return worst


# --- rows --------------------------------------------------------------------------------------------------------
