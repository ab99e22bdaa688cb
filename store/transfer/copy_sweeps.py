"""The sweeps of a store in another one: registered there before their tasks are copied, settled afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from gpuscout.store.database import bulk
from gpuscout.store.database.connect import Store
from gpuscout.store.results import durable
from gpuscout.store.results.blocks import count_open_failures, finish_if_done
from gpuscout.store.results.sweeps import note_run, serialise_registration
from gpuscout.store.schema import (
    blocks,
    engines,
    exclusions,
    failures,
    ladders,
    sweep_engines,
    sweep_workloads,
    sweeps,
    traffics,
)

_ROWS_AT_ONCE = 5_000

CopyCases = Callable[[sa.Connection], Mapping[int, int]]
"""Stores cases that were read from the source; gives the id in the target by the id in the source."""
Ids = Mapping[sa.Table, Mapping[int, int]]


def register_all(read: sa.Connection, target: Store, ids: Ids) -> tuple[dict[int, int], int]:
    """Return the target's id of each sweep of the source, in the order of last runs, and the number of new ones.

    New ones arrive with all their blocks pending and without having been run.
    """
    target_ids: dict[int, int] = {}
    new = 0
    rows = [row._asdict() for row in read.execute(sa.select(sweeps).order_by(sweeps.c.id))]
    for row in rows:
        target_ids[row["id"]], inserted = durable.writing(target, _registration(read, row, ids))
        new += inserted
    return {row["id"]: target_ids[row["id"]] for row in sorted(rows, key=lambda row: row["latest_run"])}, new


def settle(
    read: sa.Connection,
    target: Store,
    sweep_id: int,
    target_id: int,
    engine_ids: Mapping[int, int],
    read_cases: Callable[[Iterable[int]], CopyCases],
) -> int:
    """Copy what became of the blocks of a sweep, whose tasks are there; how many failures were added.

    Only blocks that nobody has taken in the target change. A sweep that is finished there stays as it is.
    """
    state = sa.select(sweeps.c.finished_at, sweeps.c.latest_run).where(sweeps.c.id == target_id)
    finished_at, latest_run = durable.reading(target, lambda connection: tuple(connection.execute(state).one()))
    added = 0
    if finished_at is None:
        for rows in _portions(read, failures, failures.c.id, sweep_id):
            store_cases = read_cases(row.case_id for row in rows)
            added += durable.writing(target, partial(_failures, rows, target_id, engine_ids, store_cases))
        for rows in _portions(read, blocks, blocks.c.block, sweep_id):
            durable.writing(target, partial(_blocks, rows, target_id))
    finished_there = read.execute(sa.select(sweeps.c.finished_at).where(sweeps.c.id == sweep_id)).scalar_one()

    def finish(connection: sa.Connection) -> None:
        if finished_at is None and finish_if_done(connection, target_id) and finished_there is not None:
            connection.execute(sa.update(sweeps).where(sweeps.c.id == target_id).values(finished_at=finished_there))
        if not latest_run:
            note_run(connection, target_id)

    durable.writing(target, finish)
    return added


def _registration(read: sa.Connection, row: Mapping[str, Any], ids: Ids) -> Callable[[sa.Connection], tuple[int, bool]]:
    """Read the parts of a sweep; the returned function stores them and returns the id and whether it is new."""
    parts = {
        table: [
            {name: value for name, value in part.items() if name != "id"}
            for part in read.execute(sa.select(table).where(table.c.sweep_id == row["id"])).mappings()
        ]
        for table in (sweep_engines, sweep_workloads, exclusions)
    }
    for part in parts[sweep_engines]:
        part |= {"engine_id": ids[engines][part["engine_id"]], "ladder_id": ids[ladders][part["ladder_id"]]}
    for part in parts[sweep_workloads]:
        part |= {"traffic_id": None if part["traffic_id"] is None else ids[traffics][part["traffic_id"]]}
    query = sa.select(blocks.c.block, blocks.c.attempt, blocks.c.task_count).where(blocks.c.sweep_id == row["id"])
    found = read.execute(query.order_by(blocks.c.block)).all()

    def register(connection: sa.Connection) -> tuple[int, bool]:
        serialise_registration(connection)
        known = connection.execute(sa.select(sweeps.c.id).where(sweeps.c.digest == row["digest"])).scalar_one_or_none()
        if known is not None:
            return known, False
        latest = sa.select(sa.func.coalesce(sa.func.max(sweeps.c.revision), 0)).where(sweeps.c.name == row["name"])
        values = {name: value for name, value in row.items() if name != "id"}
        values |= {"revision": connection.execute(latest).scalar_one() + 1, "latest_run": 0, "finished_at": None}
        new_id: int = connection.execute(sa.insert(sweeps).values(values).returning(sweeps.c.id)).scalar_one()
        for table, rows in parts.items():
            if rows:
                connection.execute(sa.insert(table), [part | {"sweep_id": new_id} for part in rows])
        bulk.insert(
            connection,
            blocks,
            {
                "sweep_id": new_id,
                "block": [block.block for block in found],
                "state": ["pending" if block.task_count else "done" for block in found],
                "attempt": [block.attempt for block in found],
                "task_count": [block.task_count for block in found],
                "failure_count": 0,
            },
        )
        return new_id, True

    return register


def _failures(
    rows: Sequence[Any],
    target_id: int,
    engine_ids: Mapping[int, int],
    store_cases: CopyCases,
    connection: sa.Connection,
) -> int:
    """Add failures that the target does not know: those of other attempts or of other tasks."""
    query = sa.select(failures.c.sweep_id, failures.c.block, failures.c.attempt, failures.c.task_key)
    keys = sorted({row.task_key for row in rows})
    known = {tuple(row) for row in bulk.select_by_keys(connection, query, failures.c.task_key, keys)}
    rows = [row for row in rows if (target_id, row.block, row.attempt, row.task_key) not in known]
    if not rows:
        return 0
    case_ids = store_cases(connection)
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows]
        for name in ("block", "attempt", "task_key", "outcome", "message", "failed_at")
    }
    columns["sweep_id"] = target_id
    columns["case_id"] = [case_ids[row.case_id] for row in rows]
    columns["engine_id"] = [engine_ids[row.engine_id] for row in rows]
    bulk.insert(connection, failures, columns)
    for block in sorted(set(columns["block"])):
        connection.execute(
            sa.update(blocks)
            .where(blocks.c.sweep_id == target_id, blocks.c.block == block)
            .values(failure_count=count_open_failures(connection, target_id, block))
        )
    return len(rows)


def _blocks(rows: Sequence[Any], target_id: int, connection: sa.Connection) -> None:
    """Note which blocks are done. Attempts never fall: a failure names the one it happened in."""
    done = [
        {"number": row.block, "tried": row.attempt, "tasks": row.task_count, "at": row.finished_at}
        for row in rows
        if row.state == "done"
    ]
    if done:
        tried = sa.bindparam("tried", type_=blocks.c.attempt.type)
        connection.execute(
            sa.update(blocks)
            .where(
                blocks.c.sweep_id == target_id,
                blocks.c.block == sa.bindparam("number"),
                blocks.c.state == "pending",
            )
            .values(
                state="done",
                attempt=sa.case((blocks.c.attempt < tried, tried), else_=blocks.c.attempt),
                task_count=sa.bindparam("tasks"),
                finished_at=sa.bindparam("at"),
            ),
            done,
        )


def _portions(read: sa.Connection, table: sa.Table, key: sa.Column[int], sweep_id: int) -> Iterator[Sequence[Any]]:
    """Yield the rows of a sweep in a table, in the order of `key`, some thousand at a time."""
    last = -1
    query = sa.select(table).where(table.c.sweep_id == sweep_id).order_by(key).limit(_ROWS_AT_ONCE)
    while rows := read.execute(query.where(key > last)).all():
        yield rows
        last = getattr(rows[-1], key.name)
