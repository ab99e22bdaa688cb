"""Why configurations are not ranked, and what comes closest where none is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from gpuscout.store import ranking_points as statements
from gpuscout.store.ranking_limits import UNKNOWN, worst_ratio
from gpuscout.store.ranking_measures import Array
from gpuscout.store.ranking_places import Indices
from gpuscout.store.ranking_points import OUTCOME_CODES
from gpuscout.store.ranking_scope import Scope
from gpuscout.store.ranking_study import Described, Description, Study, describe
from gpuscout.store.ranking_types import Cause, Loser, Losers, Operating, SweepExclusion, Unmet
from gpuscout.store.schema import exclusions, sweeps
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.slo import Slo

Shortfall = tuple[tuple[Unmet, ...], Operating | None]
_OUTCOMES = {code: outcome for outcome, code in OUTCOME_CODES.items()}


@dataclass(frozen=True)
class Lost:
    """Rows of one group that are out for the same cause, the nearest to being ranked first."""

    group: int
    cause: Cause
    slo: Slo | None
    count: int
    rows: list[int]


def losers_of(study: Study) -> list[Lost]:
    """Every row of a group that is not ranked, by cause; of each cause the examples that were asked for."""
    rows = np.flatnonzero(study.own & ~study.rankable)
    codes, ratio = _causes(study, rows)
    order = np.lexsort((study.rows.about["task_id"][rows], study.num_gpus[rows], ratio, codes, study.cast.group[rows]))
    rows, codes = rows[order], codes[order]
    kind = study.cast.group[rows] * 1_000 + codes
    _, starts, counts = np.unique(kind, return_index=True, return_counts=True)
    found = []
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        shown = count if study.question.examples is None else min(count, study.question.examples)
        cause, slo = _meaning(study, int(codes[start]))
        group = int(study.cast.group[rows[start]])
        found.append(Lost(group, cause, slo, count, rows[start : start + shown].tolist()))
    return found


_MISSED = 100  # and the position of the SLO that is missed by most
_UNMEASURED = (Cause.NO_POINT, Cause.NO_PERCENTILE, Cause.NO_PRICE, Cause.NO_TDP)


def _causes(study: Study, rows: Indices) -> tuple[Array, Array]:
    """A number for the cause of each row, and how far it is from being ranked (infinite where nothing says)."""
    figures = {name: column[rows] for name, column in study.found.figures.items()}
    outcome = study.rows.about["outcome"][rows]
    refused = outcome != OUTCOME_CODES[Outcome.OK]
    no_point = len(_OUTCOMES) + _UNMEASURED.index(Cause.NO_POINT)
    codes = np.where(refused, outcome, no_point)
    ratio = np.where(refused, study.rows.about["memory_ratio"][rows], np.inf)

    worst = worst_ratio(study.limits, figures)
    missed = ~refused & ~np.isnan(figures["concurrency"]) & (worst > 1)
    for position, limit in reversed(list(enumerate(study.limits))):
        this = missed & (limit.ratio(figures) == worst)
        codes[this] = _MISSED + position
    ratio = np.where(missed, worst, ratio)

    if study.no_percentiles:
        codes[~refused & ~missed] = len(_OUTCOMES) + _UNMEASURED.index(Cause.NO_PERCENTILE)
    unpriced = study.found.qualifies[rows]
    no_price = study.aim.needs("price") & np.isnan(study.worth.usd[rows])
    codes[unpriced] = len(_OUTCOMES) + _UNMEASURED.index(Cause.NO_TDP)
    codes[unpriced & no_price] = len(_OUTCOMES) + _UNMEASURED.index(Cause.NO_PRICE)
    return codes, np.nan_to_num(ratio, nan=np.inf)


def _meaning(study: Study, code: int) -> tuple[Cause, Slo | None]:
    if code >= _MISSED:
        return Cause.MISSES_SLO, study.limits[code - _MISSED].slo
    if code < len(_OUTCOMES):
        return Cause(_OUTCOMES[code]), None
    return _UNMEASURED[code - len(_OUTCOMES)], None


def in_words(study: Study, lost: Lost, described: Described) -> Losers:
    """The losers as the ranking tells them."""
    examples = tuple(_loser(study, lost, row, described[row]) for row in lost.rows)
    return Losers(lost.cause, lost.slo, lost.count, examples)


def _loser(study: Study, lost: Lost, row: int, about: Description) -> Loser:
    detail, note, ratio = "", None, None
    if lost.slo is not None:
        value = about[lost.slo.column]
        name = lost.slo.metric.upper() if not lost.slo.at_least else "rate"
        if value is None:
            detail = f"{name} is unknown"
        else:
            unit = lost.slo.unit if lost.slo.at_least else f" {lost.slo.unit}"
            tail = f" x {study.question.assume_tail:g}" if lost.slo.percentile is not None else ""
            detail = f"{name} {value:,.4g}{unit}{tail} at concurrency {about['concurrency']}"
            (limit,) = (limit for limit in study.limits if limit.slo is lost.slo)
            ratio = limit.value / value if lost.slo.at_least and value else value / limit.value
    elif lost.cause is Cause.NO_POINT:
        detail = "no operating point with the figures asked for"
    elif lost.cause is Cause.NO_PERCENTILE:
        detail = "an estimate is a mean"
    elif lost.cause is Cause.NO_PRICE:
        detail = study.prices.missing[about["gpu"]]
    elif lost.cause is Cause.NO_TDP:
        detail = "its TDP is not known"
    elif about["needed_gib"] is not None and about["usable_gib"] is not None and lost.cause is Cause.DOES_NOT_FIT:
        detail = f"needs {about['needed_gib']:,.4g} of {about['usable_gib']:,.4g} GiB per GPU"
        note = about["detail"]
        ratio = about["needed_gib"] / about["usable_gib"] if about["usable_gib"] else None
    else:
        detail = about["detail"] or "the engine gave no reason"
    return Loser.of({**about, "detail": detail, "note": note, "ratio": ratio})


# --- what comes closest ------------------------------------------------------------------------------------------


def shortfalls_of(connection: sa.Connection, scope: Scope, study: Study, groups: Sequence[int]) -> dict[int, Shortfall]:
    """For groups of which no configuration qualifies: the SLOs none meets even alone, or else the least violation."""
    if not study.limits or not groups:
        return {}
    hopeless = np.isin(study.cast.group, groups) & study.own & study.ok & ~np.isnan(study.found.low)
    together = _nearest(study, np.flatnonzero(hopeless), worst_ratio(study.limits, study.found.figures))
    model_ids = [
        row_id
        for model in sorted({study.cast.groups[group][0] for group in groups})
        for row_id in scope.models.ids[model]
    ]
    group_of = dict(
        zip(study.rows.about["task_id"][hopeless].tolist(), study.cast.group[hopeless].tolist(), strict=True)
    )
    unmet: dict[int, list[tuple[Slo, float, tuple[int, int]]]] = defaultdict(list)
    for limit in study.limits:
        statement = statements.nearest_alone(scope, limit, (limit.column,), model_ids)
        rows = statements.fetch(connection, statement, (limit.column,))
        rows = rows.take(np.isin(rows.about["task_id"], list(group_of)))
        point, tasks = rows.points["point"], rows.about["task_id"]
        group = np.array([group_of[int(task)] for task in tasks], dtype=np.int64)
        ratio = limit.ratio(point)
        order = np.lexsort((tasks, rows.about["num_gpus"], ratio, group))
        for row in order[np.diff(group[order], prepend=-1) != 0].tolist():
            if 1 < ratio[row] < UNKNOWN:
                at = int(tasks[row]), int(point["concurrency"][row])
                unmet[int(group[row])].append((limit.slo, float(point[limit.column][row]), at))
    wanted = {at for found in unmet.values() for _, _, at in found}
    wanted |= {(study.task(row), int(study.found.low[row])) for row in together.values()}
    known = describe(connection, wanted)
    shortfalls: dict[int, Shortfall] = {}
    for number in groups:
        out = tuple(Unmet(slo, value, Operating.of(known[at])) for slo, value, at in unmet[number])
        closest = None
        if not out and number in together:
            row = together[number]
            closest = Operating.of(known[study.task(row), int(study.found.low[row])])
        shortfalls[number] = (out, closest)
    return shortfalls


def _nearest(study: Study, rows: Indices, ratio: Array) -> dict[int, int]:
    """For each group the row with the lowest ratio, then fewest GPUs."""
    group = study.cast.group[rows]
    order = np.lexsort((study.rows.about["task_id"][rows], study.num_gpus[rows], ratio[rows], group))
    first = order[np.diff(group[order], prepend=-1) != 0]
    return {int(group[place]): int(rows[place]) for place in first.tolist()}


# --- what sweeps left out ----------------------------------------------------------------------------------------


def excluded(connection: sa.Connection, scope: Scope) -> tuple[SweepExclusion, ...]:
    """What sweeps left out, the most frequent first; see `Ranking.exclusions`."""
    statement = sa.select(exclusions)
    if scope.sweep is not None:
        statement = statement.where(exclusions.c.sweep_id == scope.sweep.id)
    else:
        newest = sa.select(sa.func.max(sweeps.c.latest_run)).group_by(sweeps.c.name)
        statement = statement.join(sweeps, sweeps.c.id == exclusions.c.sweep_id).where(sweeps.c.latest_run.in_(newest))
    # Sweeps that overlap leave the same out: it is counted once.
    found: dict[tuple[str, str | None, str | None, str], int] = {}
    for row in connection.execute(statement):
        if (row.model is None or row.model in scope.models.ids) and (row.gpu is None or row.gpu in scope.gpus.ids):
            what = (row.reason, row.model, row.gpu, row.detail)
            found[what] = max(found.get(what, 0), row.combinations)
    return tuple(
        SweepExclusion(*what, combinations)
        for what, combinations in sorted(found.items(), key=lambda item: (-item[1], str(item[0])))
    )
