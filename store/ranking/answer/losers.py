"""Reasons why configurations are not ranked, and the closest ones where none is."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from gpuscout.store.ranking.answer.descriptions import Description, Descriptions, describe
from gpuscout.store.ranking.candidates import statements as statements
from gpuscout.store.ranking.candidates.candidates import Candidates
from gpuscout.store.ranking.candidates.fetched import fetch
from gpuscout.store.ranking.candidates.placing import Indices
from gpuscout.store.ranking.candidates.statements import OUTCOME_CODES
from gpuscout.store.ranking.measures import Array
from gpuscout.store.ranking.question.asked import MEASURED, Trusted
from gpuscout.store.ranking.question.limits import UNKNOWN, Limit
from gpuscout.store.ranking.question.lookup import means_estimated
from gpuscout.store.ranking.question.scope import Scope
from gpuscout.store.ranking.types import Cause, Loser, Losers, Operating, SweepExclusion, Unmet
from gpuscout.store.schema import exclusions, sweep_workloads, sweeps
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.slo import Slo

Shortfall = tuple[tuple[Unmet, ...], Operating | None, tuple[float | None, ...]]
_OUTCOMES = {code: outcome for outcome, code in OUTCOME_CODES.items()}


@dataclass(frozen=True)
class Lost:
    """Rows of one group that are out for the same cause, the nearest to being ranked first."""

    group: int
    cause: Cause
    slo: Slo | None
    count: int
    rows: list[int]


def losers_of(pool: Candidates, answered: Set[int]) -> list[Lost]:
    """Return every row of a group that is not ranked, by cause; of each cause the examples that were asked for.

    `answered` are the groups of which something is ranked.
    """
    rows = np.flatnonzero(pool.own & ~pool.rankable)
    codes, ratio = _causes(pool, rows)
    order = np.lexsort((pool.about["task_id"][rows], pool.num_gpus[rows], ratio, codes, pool.codes.group[rows]))
    rows, codes, ratio = rows[order], codes[order], ratio[order]
    kind = pool.codes.group[rows] * 1_000 + codes
    _, starts, counts = np.unique(kind, return_index=True, return_counts=True)
    groups = pool.codes.group[rows[starts]].tolist()
    nearest = _nearest_of_causes(pool, codes[starts], ratio[starts], groups)
    most = len(rows) if pool.question.examples is None else pool.question.examples
    found = []
    for place, (start, count, group) in enumerate(zip(starts.tolist(), counts.tolist(), groups, strict=True)):
        is_told = not pool.question.briefly or place in nearest or group not in answered
        cause, slo = _meaning(pool, int(codes[start]))
        shown = rows[start : start + min(count, most if is_told else 0)].tolist()
        found.append(Lost(group, cause, slo, count, shown))
    return found


def _nearest_of_causes(pool: Candidates, codes: Array, ratio: Array, groups: Sequence[int]) -> set[int]:
    """Return the place nearest to being ranked, by cause; between equals, of the first group by name.

    Apart for groups that only measured runs answer, which may be set aside.
    """
    nearest: dict[tuple[int, bool], tuple[float, tuple[str, int, int], int]] = {}
    for place, (code, how_near, group) in enumerate(zip(codes.tolist(), ratio.tolist(), groups, strict=True)):
        kind = code, pool.engines[group][0] == MEASURED
        this = how_near, pool.codes.groups[group], place
        nearest[kind] = min(nearest.get(kind, this), this)
    return {place for _, _, place in nearest.values()}


_MISSED = 100  # and the position of the SLO that is missed by most
_UNMEASURED = (
    Cause.NO_POINT,
    Cause.NO_PERCENTILE,
    Cause.NO_PRICE,
    Cause.NO_TDP,
    Cause.NOT_TRUSTED,
    Cause.NOT_ASKED,
)
_UNMEASURED_CODES = {cause: len(_OUTCOMES) + place for place, cause in enumerate(_UNMEASURED)}


def _causes(pool: Candidates, rows: Indices) -> tuple[Array, Array]:
    """Return a number for the cause of each row, and how far it is from being ranked (infinite where nothing says)."""
    outcome = pool.about["outcome"][rows]
    refused = outcome != OUTCOME_CODES[Outcome.OK]
    codes = np.where(refused, outcome, _UNMEASURED_CODES[Cause.NO_POINT])
    ratio = np.where(refused, pool.about["memory_ratio"][rows], np.inf)

    _, ratios = pool.bounded(rows)
    worst = ratios.max(axis=0, initial=0.0)
    missed = ~refused & ~np.isnan(pool.operating.figures["concurrency"][rows]) & (worst > 1)
    for position, slo in reversed(list(enumerate(pool.question.slos))):
        this = missed & (ratios[position] == worst)
        codes[this] = _MISSED + position
        if slo.percentile is not None:
            unknown = this & ((rows >= pool.estimates) | bool(pool.choice.percentiles)) & (worst == UNKNOWN)
            codes[unknown] = _UNMEASURED_CODES[Cause.NO_PERCENTILE]
    ratio = np.where(missed & (worst < UNKNOWN), worst, ratio)

    if pool.no_percentiles:
        codes[~refused & ~missed & (rows < pool.estimates)] = _UNMEASURED_CODES[Cause.NO_PERCENTILE]
    qualifies = pool.operating.qualifies[rows]
    no_price = pool.aim.needs("price") & np.isnan(pool.unit_costs.usd[rows])
    codes[qualifies] = _UNMEASURED_CODES[Cause.NO_TDP]
    codes[qualifies & no_price] = _UNMEASURED_CODES[Cause.NO_PRICE]
    codes[pool.valued[rows] & ~pool.trusted[rows]] = _UNMEASURED_CODES[Cause.NOT_TRUSTED]
    codes[qualifies & ~pool.asked[rows]] = _UNMEASURED_CODES[Cause.NOT_ASKED]
    return codes, np.nan_to_num(ratio, nan=np.inf)


def _meaning(pool: Candidates, code: int) -> tuple[Cause, Slo | None]:
    if code >= _MISSED:
        return Cause.MISSES_SLO, pool.question.slos[code - _MISSED]
    if code < len(_OUTCOMES):
        return Cause(_OUTCOMES[code]), None
    return _UNMEASURED[code - len(_OUTCOMES)], None


def in_words(pool: Candidates, lost: Lost, described: Descriptions) -> Losers:
    """Return the losers as the ranking tells them."""
    examples = tuple(_loser(pool, lost, row, described[row]) for row in lost.rows)
    return Losers(lost.cause, lost.slo, lost.count, examples)


def _loser(pool: Candidates, lost: Lost, row: int, about: Description) -> Loser:
    detail, note, ratio = "", None, None
    if lost.slo is not None:
        line = pool.question.slos.index(lost.slo)
        figures, ratios = pool.bounded(np.array([row]))
        detail = _missed(pool, lost.slo, row, float(figures[line, 0]), about)
        ratio = float(ratios[line, 0]) if ratios[line, 0] < UNKNOWN else None
    elif lost.cause is Cause.NO_POINT:
        detail = about["detail"] or "no operating point with the figures asked for"
    elif lost.cause is Cause.NO_PERCENTILE:
        detail = "estimates are means" if row < pool.estimates else "its runs do not report this percentile"
    elif lost.cause is Cause.NO_PRICE:
        detail = pool.prices.missing[about["gpu"]]
    elif lost.cause is Cause.NO_TDP:
        detail = "its TDP is not known"
    elif lost.cause is Cause.NOT_TRUSTED:
        detail = "an estimate" if pool.question.trust == Trusted.MEASURED else "no measured runs near this"
    elif lost.cause is Cause.NOT_ASKED:
        detail = f"measured in {about['precision']} with {about['server']}"
    elif about["needed_gib"] is not None and about["usable_gib"] is not None and lost.cause is Cause.DOES_NOT_FIT:
        detail = f"needs {about['needed_gib']:,.4g} of {about['usable_gib']:,.4g} GiB per GPU"
        note = about["detail"]
        ratio = about["needed_gib"] / about["usable_gib"] if about["usable_gib"] else None
    else:
        detail = about["detail"] or "the engine gave no reason"
    return Loser.of({**about, "detail": detail, "note": note, "ratio": ratio})


def _missed(pool: Candidates, slo: Slo, row: int, value: float, about: Description) -> str:
    """Return text such as "ITL 37.8 ms at concurrency 1" """
    name = slo.metric.upper() if not slo.at_least else "rate"
    if math.isnan(value):
        return f"{name} is unknown"
    measured = row >= pool.estimates
    known = measured or bool(pool.choice.percentiles)
    if slo.percentile is not None and known:
        name = f"{name} p{slo.percentile:g}"
    unit = slo.unit if slo.at_least else f" {slo.unit}"
    tail = f" x {pool.question.assume_tail:g}" if slo.percentile is not None and not known else ""
    where = f"at concurrency {about['concurrency']}" if about["concurrency"] is not None else "at its request rate"
    return f"{name} {value:,.4g}{unit}{tail} {where}{', measured' if measured else ''}"


# --- what comes closest ------------------------------------------------------------------------------------------


def shortfalls_of(
    connection: sa.Connection, scope: Scope, pool: Candidates, groups: Sequence[int]
) -> dict[int, Shortfall]:
    """Return the SLOs that no configuration meets even alone, or else the least violation, of groups without any."""
    if not pool.limits or not groups:
        return {}
    hopeless = np.flatnonzero(
        np.isin(pool.codes.group, groups) & pool.own & pool.ok & ~np.isnan(pool.operating.figures["concurrency"])
    )
    figures, ratios = pool.bounded(hopeless)
    violation = ratios.max(axis=0)
    usable = violation < UNKNOWN
    together = _nearest(pool, hopeless[usable], violation[usable])
    unmet = {number: [] for number in groups}  # type: dict[int, list[tuple[Slo, _Near]]]
    for limit in pool.limits:
        for group, near in _nearest_alone(connection, scope, pool, limit, hopeless).items():
            if 1 < near.ratio < UNKNOWN:
                unmet[group].append((limit.slo, near))
    wanted = {(near.task, near.point) for found in unmet.values() for _, near in found if near.task > 0}
    wanted |= {(pool.task(row), int(pool.operating.low[row])) for row in together.values() if row < pool.estimates}
    known = describe(connection, wanted)

    def in_words(task: int, point: int | None) -> Operating:
        if task > 0:
            return Operating.of(known[task, point or 0])
        assert pool.measured is not None
        return Operating.of(pool.measured.described(-task - 1, point))

    def as_limited(value: float, slo: Slo, estimated: bool) -> float:
        """Return the value compared with the limit: of an estimate's mean the percentile that is assumed."""
        means = estimated and slo.percentile is not None and not pool.choice.percentiles
        return value * (pool.question.assume_tail or 1.0) if means else value

    shortfalls: dict[int, Shortfall] = {}
    for number in groups:
        out = tuple(
            Unmet(slo, as_limited(near.value, slo, near.task > 0), in_words(near.task, near.point))
            for slo, near in unmet[number]
        )
        closest, values = None, ()  # type: Operating | None, tuple[float | None, ...]
        if not out and number in together:
            row = together[number]
            closest = in_words(pool.task(row), int(pool.operating.low[row]) if row < pool.estimates else None)
            column = figures[:, np.searchsorted(hopeless, row)].tolist()
            values = tuple(
                None if math.isnan(value) else as_limited(value, slo, row < pool.estimates)
                for slo, value in zip(pool.question.slos, column, strict=True)
            )
        shortfalls[number] = (out, closest, values)
    return shortfalls


@dataclass(frozen=True)
class _Near:
    """A point and how far it is from a limit. `task` below 0: a measured row, of which `point` is one of its points."""

    ratio: float
    num_gpus: float
    task: int
    point: int
    value: float


def _nearest_alone(
    connection: sa.Connection, scope: Scope, pool: Candidates, limit: Limit, rows: Indices
) -> dict[int, _Near]:
    """Return the point of these rows that comes nearest to one limit, by group, whatever the others."""
    tasks = pool.about["task_id"][rows]
    group_of = dict(zip(tasks.astype(np.int64).tolist(), pool.codes.group[rows].tolist(), strict=True))
    models = {pool.codes.groups[group][0] for group in group_of.values()}
    ids = [row_id for model in sorted(models) for row_id in scope.models.ids[model]]
    found: dict[int, _Near] = {}
    if (tasks > 0).any():
        statement = statements.nearest_alone(scope, pool.choice, limit, ids)
        stored = fetch(connection, scope, statement, (limit.column,))
        stored = stored.take(np.isin(stored.about["task_id"], tasks))
        point = stored.points["point"]
        ratio = limit.ratio(point)
        group = np.array([group_of[int(task)] for task in stored.about["task_id"]], dtype=np.int64)
        order = np.lexsort((stored.about["task_id"], stored.about["num_gpus"], ratio, group))
        for row in order[np.diff(group[order], prepend=-1) != 0].tolist():
            columns = (
                ratio,
                stored.about["num_gpus"],
                stored.about["task_id"],
                point["concurrency"],
                point[limit.column],
            )
            near, gpus, task, concurrency, value = (float(column[row]) for column in columns)
            found[int(group[row])] = _Near(near, gpus, int(task), int(concurrency), value)
    if pool.measured is not None:
        (mine,) = (one for one in pool.measured.limits if one.slo is limit.slo)
        points, ratio = pool.measured.nearest_to(mine)
        for task, group_number in group_of.items():
            if task < 0:
                row = -task - 1
                point_number = int(points[row])
                value = float(pool.measured.points.figures[mine.column][point_number])
                gpus = float(pool.measured.configurations[row]["num_gpus"])
                near_one = _Near(float(ratio[row]), gpus, task, point_number, value)
                best = found.setdefault(group_number, near_one)
                if (near_one.ratio, near_one.num_gpus) < (best.ratio, best.num_gpus):
                    found[group_number] = near_one
    return found


def _nearest(pool: Candidates, rows: Indices, ratio: Array) -> dict[int, int]:
    """Return the row with the lowest ratio of each group, then fewest GPUs. `ratio` is of these rows."""
    group = pool.codes.group[rows]
    order = np.lexsort((pool.about["task_id"][rows], pool.num_gpus[rows], ratio, group))
    first = order[np.diff(group[order], prepend=-1) != 0]
    return {int(group[place]): int(rows[place]) for place in first.tolist()}


# --- what sweeps left out ----------------------------------------------------------------------------------------


def excluded(connection: sa.Connection, scope: Scope) -> tuple[SweepExclusion, ...]:
    """Return the exclusions of sweeps, the most frequent first; see `Ranking.exclusions`."""
    asked = scope.asked
    if not means_estimated(asked.kinds):
        return ()
    statement = sa.select(exclusions)
    if scope.sweep is not None:
        statement = statement.where(exclusions.c.sweep_id == scope.sweep.id)
    else:
        newest = sa.select(sa.func.max(sweeps.c.latest_run)).group_by(sweeps.c.name)
        statement = statement.join(sweeps, sweeps.c.id == exclusions.c.sweep_id).where(sweeps.c.latest_run.in_(newest))
    of_sweep = sweep_workloads.c
    lengths = [of_sweep[name] == getattr(asked, name) for name in ("input_len", "output_len") if getattr(asked, name)]
    if asked.workload is not None:
        lengths.append(sa.func.lower(of_sweep.name) == asked.workload.lower())
    if lengths:
        statement = statement.where(sa.exists().where(of_sweep.sweep_id == exclusions.c.sweep_id, *lengths))
    # What was left out whatever the model is counted over all models: it is not the number of some.
    every_model = not asked.models
    every_gpu = not (asked.gpus or asked.vendors or asked.min_memory_gb is not None)
    # Sweeps that overlap leave the same out: it is counted once.
    found: dict[tuple[str, str | None, str | None, str], int] = {}
    for row in connection.execute(statement):
        of_model = every_model if row.model is None else row.model in scope.models.ids
        of_gpu = every_gpu if row.gpu is None else row.gpu in scope.gpus.ids
        if of_model and of_gpu:
            what = (row.reason, row.model, row.gpu, row.detail)
            found[what] = max(found.get(what, 0), row.combinations)
    return tuple(
        SweepExclusion(*what, combinations)
        for what, combinations in sorted(found.items(), key=lambda item: (-item[1], str(item[0])))
    )
