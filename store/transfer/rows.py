"""Contents of a store as rows of an export, read in portions: bounded memory, however large the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

import sqlalchemy as sa

from gpuscout.store.database import bulk
from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.question.lookup import workload_names
from gpuscout.store.ranking.question.scope import Condition, scope_of
from gpuscout.store.results.trust import trust_document
from gpuscout.store.schema import (
    cases,
    engines,
    gpus,
    ladders,
    measured_runs,
    models,
    operating_points,
    percentiles,
    point_percentiles,
    tasks,
    traffics,
)
from gpuscout.store.transfer.columns import CASE, ESTIMATED, FIRST_POINT, MEASURED, NAMES, POINT, Value
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.settings import STARTED

Row = list[Value]
WorkloadKey = tuple[int, int, int | None]  # input_len, output_len, traffic_id

_AT_ONCE = 2_000
_PERCENTILES = NAMES.index("percentiles") - FIRST_POINT - len(POINT)
_NAMED = (
    models.c.name.label("model"),
    models.c.digest.label("model_digest"),
    gpus.c.name.label("gpu"),
    gpus.c.digest.label("gpu_digest"),
    cases.c.model_id,
    cases.c.gpu_id,
    cases.c.traffic_id,
    cases.c.digest.label("case_digest"),
    *(cases.c[column.name] for column in CASE if column.name not in ("traffic", *STARTED)),
    *(sa.func.nullif(cases.c[name], "").label(name) for name in STARTED),
    traffics.c.shape.label("traffic"),
    cases.c.request_rate.label("case_request_rate"),
)


def export_rows(connection: sa.Connection, question: Question) -> Iterator[Row]:
    """Yield all answers a question is about, estimates first, as rows of `COLUMNS`, whatever its limits.

    All points of a task come, whatever the ladder of the sweep that is asked for: with fewer the task would not be the
    one its key names. Raises UnknownNameError for names the store does not know.
    """
    scope = scope_of(connection, question)
    defined = _Defined(connection)
    called = _names_of_workloads(connection)
    kinds = question.kinds or (ESTIMATED, MEASURED)
    if ESTIMATED in kinds and question.engines != (MEASURED,):
        yield from _estimated(connection, scope.source, scope.conditions, defined, called)
    # Sweeps have no measured runs.
    if MEASURED in kinds and scope.sweep is None and (not question.engines or MEASURED in question.engines):
        yield from _measured(connection, scope.on_cases, defined, called)


def _names_of_workloads(connection: sa.Connection) -> Mapping[WorkloadKey, str]:
    names: dict[WorkloadKey, list[str]] = {}
    for known in workload_names(connection, None):
        names.setdefault((known.input_len, known.output_len, known.traffic_id), []).append(known.name)
    return {key: ",".join(of_key) for key, of_key in names.items()}


def _workload(row: sa.RowMapping, called: Mapping[WorkloadKey, str]) -> str | None:
    return called.get((row["input_len"], row["output_len"], row["traffic_id"]))


class _Defined:
    """Gives the definition of a model, a GPU or an engine the first time it is asked for, None afterwards."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._given: set[tuple[str, int]] = set()

    def model(self, row_id: int) -> str | None:
        return self._text(models, models.c.architecture, row_id)

    def gpu(self, row_id: int) -> str | None:
        return self._text(gpus, gpus.c.figures, row_id)

    def engine(self, row_id: int) -> str | None:
        if not self._is_new("engine", row_id):
            return None
        document = trust_document(self._connection, row_id)
        return canonical_json(document).decode() if document else None

    def _text(self, table: sa.Table, column: sa.Column[str], row_id: int) -> str | None:
        if not self._is_new(table.name, row_id):
            return None
        return self._connection.execute(sa.select(column).where(table.c.id == row_id)).scalar_one()

    def _is_new(self, kind: str, row_id: int) -> bool:
        is_new = (kind, row_id) not in self._given
        self._given.add((kind, row_id))
        return is_new


def _estimated(
    connection: sa.Connection,
    source: sa.FromClause,
    conditions: Sequence[Condition],
    defined: _Defined,
    called: Mapping[WorkloadKey, str],
) -> Iterator[Row]:
    query = (
        sa.select(
            tasks,
            *_NAMED,
            engines.c.name.label("engine"),
            engines.c.fingerprint.label("engine_fingerprint"),
            engines.c.options.label("engine_options"),
            ladders.c.concurrencies.label("ladder"),
        )
        .select_from(
            source.join(models, models.c.id == cases.c.model_id)
            .join(gpus, gpus.c.id == cases.c.gpu_id)
            .join(engines, engines.c.id == tasks.c.engine_id)
            .join(ladders, ladders.c.id == tasks.c.ladder_id)
            .outerjoin(traffics, traffics.c.id == cases.c.traffic_id)
        )
        .where(*conditions)
        .order_by(tasks.c.id)
    )
    for portion in _portions(connection, query):
        points = _points(connection, [task["id"] for task in portion])
        tails = _percentiles(
            connection, [task["id"] for task in portion], point_percentiles.c.task_id, point_percentiles.c.concurrency
        )
        for task in portion:
            found = points.get(task["id"], [])
            row = _row(
                {
                    **task,
                    "points": len(found),
                    "kind": ESTIMATED,
                    "workload": _workload(task, called),
                    "task_key": task["key"],
                    "request_rate": task["case_request_rate"],
                    "stored_at": _moment(task["created_at"]),
                    "model_architecture": defined.model(task["model_id"]),
                    "gpu_figures": defined.gpu(task["gpu_id"]),
                    "engine_trust": defined.engine(task["engine_id"]),
                }
            )
            if not found:
                yield row
                continue
            rest = row[FIRST_POINT + len(POINT) :]
            for point in sorted(found):
                said = tails.get((task["id"], point[0]))
                rest[_PERCENTILES] = json.dumps(sorted(said)) if said else None
                yield [*row[:FIRST_POINT], *point, *rest]
                rest[-3:] = [None, None, None]


def _points(connection: sa.Connection, task_ids: Sequence[int]) -> dict[int, list[tuple[Value, ...]]]:
    query = sa.select(operating_points.c.task_id, *(operating_points.c[column.name] for column in POINT))
    points: dict[int, list[tuple[Value, ...]]] = {}
    for task_id, *figures, queued, regime in bulk.select_by_keys(
        connection, query, operating_points.c.task_id, task_ids
    ):
        points.setdefault(task_id, []).append((*figures, bool(queued), regime))
    return points


def _measured(
    connection: sa.Connection, conditions: Sequence[Condition], defined: _Defined, called: Mapping[WorkloadKey, str]
) -> Iterator[Row]:
    query = (
        sa.select(measured_runs, *_NAMED)
        .select_from(
            measured_runs.join(cases, cases.c.id == measured_runs.c.case_id)
            .join(models, models.c.id == cases.c.model_id)
            .join(gpus, gpus.c.id == cases.c.gpu_id)
            .outerjoin(traffics, traffics.c.id == cases.c.traffic_id)
        )
        .where(*conditions)
        .order_by(measured_runs.c.id)
    )
    for portion in _portions(connection, query):
        tails = _percentiles(connection, [run["id"] for run in portion], percentiles.c.run_id)
        for run in portion:
            yield _row(
                {
                    **run,
                    "kind": MEASURED,
                    "workload": _workload(run, called),
                    "run_digest": run["digest"],
                    "measured_on": run["measured_on"] and run["measured_on"].isoformat(),
                    "percentiles": json.dumps(sorted(tails[run["id"],])) if (run["id"],) in tails else None,
                    "stored_at": _moment(run["imported_at"]),
                    "model_architecture": defined.model(run["model_id"]),
                    "gpu_figures": defined.gpu(run["gpu_id"]),
                }
            )


def _percentiles(
    connection: sa.Connection, ids: Sequence[int], owner: sa.Column[int], *more: sa.Column[int]
) -> dict[tuple[Value, ...], list[tuple[str, float, float]]]:
    """Return (metric, percentile, value) of what belongs to these ids, by `owner` and `more` columns of its table."""
    percentiles_of: dict[tuple[Value, ...], list[tuple[str, float, float]]] = {}
    columns = (owner, *more, *(owner.table.c[name] for name in ("metric", "percentile", "value")))
    for *key, metric, percentile, value in bulk.select_by_keys(connection, sa.select(*columns), owner, ids):
        percentiles_of.setdefault(tuple(key), []).append((metric, percentile, value))
    return percentiles_of


def _portions(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Sequence[sa.RowMapping]]:
    result = connection.execute(query.execution_options(stream_results=True, max_row_buffer=_AT_ONCE))
    yield from result.mappings().partitions(_AT_ONCE)


def _row(values: Mapping[str, Any]) -> Row:
    found = [values.get(name) for name in NAMES]
    return [value.hex() if isinstance(value, bytes) else value for value in found]


def _moment(time: Any) -> str:
    return str(time.astimezone(UTC).isoformat())
