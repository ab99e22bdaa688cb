"""Accuracy that engines state, kept beside their results, so that a recommendation reports it without the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from gpuscout.store.remembered import remembered
from gpuscout.store.schema import errors_seen, intervals
from gpuscout.sweeps.trust import NO_TRUST, ObservedError, Trust

SHIPPED = "calibration"
"""The source of errors that an engine brings itself."""
OVER_STORED = "measured runs of this store"
"""The source of errors over the runs of the store itself."""

_ERROR = tuple(ObservedError.__match_args__)


def note_trust(connection: sa.Connection, engine_id: int, trust: Trust) -> None:
    """Keep an engine's intervals and the errors it brings, in place of those it brought before."""
    rows = [
        {"regime": regime, "metric": metric, "low": low, "high": high}
        for regime, metrics in trust.intervals.items()
        for metric, (low, high) in metrics.items()
    ]
    _replace(connection, intervals, {"engine_id": engine_id}, rows)
    note_errors(connection, engine_id, SHIPPED, trust.errors)


def note_errors(connection: sa.Connection, engine_id: int, source: str, errors: Iterable[ObservedError]) -> None:
    """Keep an engine's errors over the measured runs of one source, in place of those noted before."""
    _replace(connection, errors_seen, {"engine_id": engine_id, "source": source}, [asdict(error) for error in errors])


def forget_errors(connection: sa.Connection, source: str) -> int:
    """Forget the errors of all engines over the measured runs of one source; how many engines had some."""
    mine = errors_seen.c.source == source
    engines = connection.execute(sa.select(errors_seen.c.engine_id).where(mine).distinct()).scalars().all()
    connection.execute(sa.delete(errors_seen).where(mine))
    return len(engines)


def trust_of(connection: sa.Connection, engine_id: int) -> Trust:
    """Return the accuracy that an engine itself states."""
    errors = errors_of(connection, [engine_id]).get(engine_id, [])
    shipped = tuple(error for source, error in errors if source == SHIPPED)
    return Trust(intervals_of(connection, [engine_id]).get(engine_id, {}), shipped)


def trust_document(connection: sa.Connection, engine_id: int) -> dict[str, Any]:
    """Return all that is kept of an engine's accuracy, for an export: `Trust`, and errors by other sources.

    May be empty.
    """
    trust = trust_of(connection, engine_id)
    kept: dict[str, list[dict[str, Any]]] = {}
    for source, error in errors_of(connection, [engine_id]).get(engine_id, []):
        if source != SHIPPED:
            kept.setdefault(source, []).append(asdict(error))
    return {} if trust == NO_TRUST and not kept else {**trust.to_dict(), "kept": kept}


def note_document(connection: sa.Connection, engine_id: int, document: Mapping[str, Any]) -> None:
    """Keep what `trust_document` gave. Raises KeyError, TypeError, ValueError or AttributeError for anything else."""
    note_trust(connection, engine_id, Trust.from_dict(document))
    for source, errors in document.get("kept", {}).items():
        note_errors(connection, engine_id, source, Trust.from_dict({"intervals": {}, "errors": errors}).errors)


def errors_of(connection: sa.Connection, engine_ids: Sequence[int]) -> dict[int, list[tuple[str, ObservedError]]]:
    """Return the errors of each engine with their sources."""
    return remembered(connection, (errors_of, *engine_ids), lambda: _errors_of(connection, engine_ids))


def _errors_of(connection: sa.Connection, engine_ids: Sequence[int]) -> dict[int, list[tuple[str, ObservedError]]]:
    columns = (errors_seen.c[name] for name in ("engine_id", "source", *_ERROR))
    query = sa.select(*columns).where(errors_seen.c.engine_id.in_(engine_ids))
    found: dict[int, list[tuple[str, ObservedError]]] = {}
    for engine_id, source, *error in connection.execute(query.order_by(*errors_seen.primary_key.columns)):
        found.setdefault(engine_id, []).append((source, ObservedError(*error)))
    return found


def intervals_of(
    connection: sa.Connection, engine_ids: Sequence[int]
) -> dict[int, dict[int, dict[str, tuple[float, float]]]]:
    """Return the intervals of each engine, by regime and metric."""
    return remembered(connection, (intervals_of, *engine_ids), lambda: _intervals_of(connection, engine_ids))


def _intervals_of(
    connection: sa.Connection, engine_ids: Sequence[int]
) -> dict[int, dict[int, dict[str, tuple[float, float]]]]:
    query = sa.select(intervals).where(intervals.c.engine_id.in_(engine_ids))
    found: dict[int, dict[int, dict[str, tuple[float, float]]]] = {}
    for row in connection.execute(query.order_by(*intervals.primary_key.columns)):
        found.setdefault(row.engine_id, {}).setdefault(row.regime, {})[row.metric] = (row.low, row.high)
    return found


def _replace(
    connection: sa.Connection, table: sa.Table, owner: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Make these all the rows of an owner. Nothing is written where they are there already."""
    mine = sa.and_(*(table.c[name] == value for name, value in owner.items()))
    wanted = [{**owner, **row} for row in rows]
    columns = [column.name for column in table.columns]
    key = [column.name for column in table.primary_key.columns]

    def ordered(found: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        return [tuple(row[name] for name in columns) for row in sorted(found, key=lambda row: [row[k] for k in key])]

    stored = [dict(row) for row in connection.execute(sa.select(table).where(mine)).mappings()]
    if ordered(stored) == ordered(wanted):
        return
    connection.execute(sa.delete(table).where(mine))
    if wanted:
        connection.execute(sa.insert(table), wanted)
