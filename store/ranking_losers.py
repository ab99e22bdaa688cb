"""Why configurations are not ranked, and what comes closest where none is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from gpuscout.store import ranking_points as statements
from gpuscout.store.ranking_points import GroupKey, group_key
from gpuscout.store.ranking_scope import Scope
from gpuscout.store.ranking_types import (
    Cause,
    Loser,
    Losers,
    Measure,
    Operating,
    Question,
    SweepExclusion,
    Unmet,
)
from gpuscout.store.schema import exclusions, sweeps
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.slo import Slo

Shortfall = tuple[tuple[Unmet, ...], Operating | None]


def losers_of(
    connection: sa.Connection,
    scope: Scope,
    question: Question,
    measure: Measure,
    outcomes: Mapping[GroupKey, Mapping[str, int]],
    candidates: Mapping[GroupKey, int],
) -> dict[GroupKey, list[Losers]]:
    """Every task of a group that is not among its ranked `candidates`, by cause. `outcomes` counts its tasks."""
    losers: dict[GroupKey, list[Losers]] = defaultdict(list)
    if any(found.get(Outcome.OK, 0) > candidates.get(key, 0) for key, found in outcomes.items()):
        missing = statements.missing_slos(scope, measure, question.slos, examples=question.examples)
        for key, missed, rows in _alike(connection.execute(missing), "missed"):
            slo = question.slos[missed] if missed >= 0 else None
            cause = Cause.MISSES_SLO if slo else Cause.NO_POINT
            losers[key].append(Losers(cause, slo, rows[0].alike, tuple(_without_point(row, slo) for row in rows)))
    if any(set(found) - {Outcome.OK} for found in outcomes.values()):
        refused = statements.refused(scope, examples=question.examples)
        for key, outcome, rows in _alike(connection.execute(refused), "outcome"):
            losers[key].append(Losers(Cause(outcome), None, rows[0].alike, tuple(map(_refused, rows))))
    for found in losers.values():
        found.sort(key=lambda out: (out.slo is None, -out.count, out.cause))
    return losers


def shortfalls_of(
    connection: sa.Connection, scope: Scope, slos: Sequence[Slo], groups: Sequence[GroupKey]
) -> dict[GroupKey, Shortfall]:
    """For groups of which no configuration qualifies: the SLOs none meets even alone, or else the least violation."""
    if not slos or not groups:
        return {}
    models = sorted({model for model, _, _ in groups})

    def nearest(*together: Slo) -> dict[GroupKey, sa.Row[Any]]:
        rows = connection.execute(statements.nearest(scope, together, models))
        return {group_key(row): row for row in rows}

    alone = [(slo, nearest(slo)) for slo in slos]
    together = nearest(*slos)
    shortfalls: dict[GroupKey, Shortfall] = {}
    for key in groups:
        unmet = tuple(
            Unmet(slo, value, Operating.of(rows[key]._mapping))
            for slo, rows in alone
            if key in rows and (value := rows[key]._mapping[slo.column]) is not None and value > slo.limit
        )
        closest = Operating.of(together[key]._mapping) if key in together and not unmet else None
        shortfalls[key] = (unmet, closest)
    return shortfalls


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


def _alike(rows: Iterable[sa.Row[Any]], kind: str) -> list[tuple[GroupKey, Any, list[sa.Row[Any]]]]:
    """Rows of one group and one value of the column `kind`, in their order."""
    alike: dict[tuple[GroupKey, Any], list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        alike[group_key(row), row._mapping[kind]].append(row)
    return [(key, value, found) for (key, value), found in alike.items()]


def _without_point(row: sa.Row[Any], slo: Slo | None) -> Loser:
    """A configuration that runs but has no point to recommend."""
    if slo is None:
        return _loser(row, "no operating point with the figures asked for", None)
    value = row._mapping[slo.column]
    if value is None:
        return _loser(row, f"{slo.metric.upper()} is unknown", None)
    return _loser(row, f"{slo.metric.upper()} {value:,.4g} {slo.unit} at concurrency {row.concurrency}", row.ratio)


def _refused(row: sa.Row[Any]) -> Loser:
    """A configuration that its engine says cannot run."""
    if row.needed_gib is not None and row.usable_gib is not None and row.outcome == Outcome.DOES_NOT_FIT:
        detail = f"needs {row.needed_gib:,.4g} of {row.usable_gib:,.4g} GiB per GPU"
        return _loser(row, detail, row.ratio, note=row.detail)
    return _loser(row, row.detail or "the engine gave no reason", None)


def _loser(row: sa.Row[Any], detail: str, ratio: float | None, *, note: str | None = None) -> Loser:
    return Loser.of({**row._mapping, "detail": detail, "note": note, "ratio": ratio})
