"""Merging of a store into another one: missing results are added, nothing the other holds ever changes.

Everything is found again by content - digests and keys - since ids differ from store to store. One snapshot of the
source is read in portions, and each portion is written in one transaction: a copy that was killed goes on where it
stopped when it is started again, and a finished one finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gpuscout.store.database import bulk, driver_errors
from gpuscout.store.database.connect import Store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results import durable
from gpuscout.store.results.growth import Offer, grow
from gpuscout.store.results.registry import name_workloads, register_rows, stored_ladders
from gpuscout.store.results.tasks import stored_tasks
from gpuscout.store.schema import (
    cases,
    engines,
    errors_seen,
    gpus,
    imported_workloads,
    intervals,
    ladders,
    measured_runs,
    membership,
    models,
    operating_points,
    percentiles,
    point_percentiles,
    prices,
    tasks,
    token_prices,
    traffics,
)
from gpuscout.store.transfer import copy_sweeps
from gpuscout.store.transfer.copy_sweeps import CopyCases
from gpuscout.sweeps.errors import InputError, StoreBusyError

_ROWS_AT_ONCE = 2_000

_IDENTITY: dict[sa.Table, tuple[str, ...]] = {
    models: ("name", "digest"),
    gpus: ("name", "digest"),
    engines: ("name", "fingerprint", "options_digest"),
    ladders: ("concurrencies",),
    traffics: ("shape",),
}


@dataclass
class Copied:
    """Progress of a copy. `tasks_seen` of `tasks_total` have been looked at; the others count added rows."""

    tasks_total: int
    tasks_seen: int = 0
    sweeps: int = 0
    tasks: int = 0
    points: int = 0
    measured_runs: int = 0
    prices: int = 0
    failures: int = 0


def copy_store(source: Store, target: Store, *, on_progress: Callable[[Copied], None] = lambda copied: None) -> Copied:
    """Add everything of `source` to `target`; in bounded memory, however large they are.

    A task that both hold keeps its points and gains those it lacks. A sweep is the same when its digest is; a new one
    gets the next revision of its name there and counts as run when it has arrived. A finished sweep arrives
    finished; the blocks an unfinished one lacks are pending, so that running it there goes on with them.

    Raises InputError when both are one store, StoreBusyError when another runner holds a SQLite target or somebody
    deletes from the target meanwhile, StoreUnreachableError.
    """
    if _place(source) == _place(target):
        raise InputError(f"a store cannot be copied into itself: {target.url_for_display}")
    with source.reading() as read, RunnerLock(target).held():
        copied = Copied(read.execute(sa.select(sa.func.count()).select_from(tasks)).scalar_one())
        try:
            _Copy(read, target, copied, on_progress).everything()
        except IntegrityError as error:
            if not driver_errors.is_missing_reference(error):
                raise
            raise _disturbed(target) from error
        return copied


def _place(store: Store) -> object:
    return store.url.set(password=None) if store.path is None else store.path.resolve()


class _Copy:
    """One copy under way. The ids of names and sweeps in the source lead to those in the target."""

    def __init__(
        self, read: sa.Connection, target: Store, copied: Copied, on_progress: Callable[[Copied], None]
    ) -> None:
        self._read = read
        self._target = target
        self._copied = copied
        self._on_progress = on_progress
        self._ids: dict[sa.Table, dict[int, int]] = {}
        self._ladder_of = stored_ladders(read)

    def everything(self) -> None:
        # Names and sweeps first: tasks refer to them, and every task arrives together with its membership. Blocks last:
        # one that is done says that its tasks are there.
        for table, names in _IDENTITY.items():
            self._ids[table] = self._names(table, names)
        self._names_of_workloads()
        self._sweep_ids, self._copied.sweeps = copy_sweeps.register_all(self._read, self._target, self._ids)
        for rows in self._portions(tasks):
            self._tasks(rows)
            self._copied.tasks_seen += len(rows)
            self._on_progress(self._copied)
        for rows in self._portions(measured_runs):
            self._measured_runs(rows)
        for table in (intervals, errors_seen):
            rows = self._read.execute(sa.select(table)).all()
            durable.writing(self._target, partial(_store_trust, table, rows, self._ids[engines]))
        for table in (prices, token_prices):
            for rows in self._portions(table):
                self._copied.prices += durable.writing(self._target, partial(_store_prices, table, rows))
        for sweep_id, target_id in self._sweep_ids.items():
            self._copied.failures += copy_sweeps.settle(
                self._read, self._target, sweep_id, target_id, self._ids[engines], self._cases
            )

    def _portions(self, table: sa.Table) -> Iterator[Sequence[Any]]:
        last = 0
        query = sa.select(table).order_by(table.c.id).limit(_ROWS_AT_ONCE)
        while rows := self._read.execute(query.where(table.c.id > last)).all():
            yield rows
            last = rows[-1].id

    def _names(self, table: sa.Table, names: tuple[str, ...]) -> dict[int, int]:
        rows = self._read.execute(sa.select(table).order_by(table.c.id)).mappings().all()
        identities = [{name: row[name] for name in names} for row in rows]
        others = [{name: row[name] for name in row if name not in (*names, "id")} for row in rows]
        ids = durable.writing(
            self._target, lambda connection: register_rows(connection, table, identities, others.__getitem__)
        )
        return dict(zip((row["id"] for row in rows), ids, strict=True))

    def _names_of_workloads(self) -> None:
        rows = self._read.execute(sa.select(imported_workloads).order_by(imported_workloads.c.id)).all()
        names = [
            (row.name, row.input_len, row.output_len, row.traffic_id and self._ids[traffics][row.traffic_id])
            for row in rows
        ]
        durable.writing(self._target, lambda connection: name_workloads(connection, names))

    def _cases(self, ids: Iterable[int]) -> CopyCases:
        """Read cases of the source; what is returned stores them in a target and gives their ids there."""
        rows = list(bulk.select_by_keys(self._read, sa.select(cases), cases.c.id, sorted(set(ids))))
        columns = columns_of(cases, rows)
        for name, table in (("model_id", models), ("gpu_id", gpus), ("traffic_id", traffics)):
            columns[name] = [None if old is None else self._ids[table][old] for old in columns[name]]

        def store(connection: sa.Connection) -> dict[int, int]:
            new_ids, _ = bulk.insert_missing(connection, cases, "digest", columns)
            return dict(zip((row.id for row in rows), new_ids, strict=True))

        return store

    def _tasks(self, rows: Sequence[Any]) -> None:
        offered = [self._ladder_of[row.ladder_id] for row in rows]
        known = durable.reading(self._target, lambda connection: stored_tasks(connection, [row.key for row in rows]))
        # Most of a copy that is made again is there already, and need not even be read.
        wanted = {
            row.id
            for row, ladder in zip(rows, offered, strict=True)
            if row.key not in known or not set(ladder).issubset(known[row.key].ladder)
        }
        store_cases = self._cases(row.case_id for row in rows)
        points = self._read_points(operating_points, wanted)
        tails = self._read_points(point_percentiles, wanted)
        between = membership.c.task_id.between(rows[0].id, rows[-1].id)
        members = self._read.execute(sa.select(membership).where(between)).all()

        def store(connection: sa.Connection) -> tuple[int, int]:
            case_ids = store_cases(connection)
            columns = columns_of(tasks, rows)
            columns["case_id"] = [case_ids[old] for old in columns["case_id"]]
            for name, table in (("engine_id", engines), ("ladder_id", ladders)):
                columns[name] = [self._ids[table][old] for old in columns[name]]
            ids, inserted = bulk.insert_missing(connection, tasks, "key", columns)
            new_ids = dict(zip((row.id for row in rows), ids, strict=True))
            fresh = {row.id for row, new in zip(rows, inserted, strict=True) if new}
            if not fresh <= wanted:
                raise _disturbed(self._target)
            grow(
                connection,
                [
                    Offer(new_ids[row.id], ladder, row.outcome, row.fits_up_to)
                    for row, ladder in zip(rows, offered, strict=True)
                    if row.id in wanted - fresh
                ],
            )
            added = _store_points(connection, [row for row in points if row.task_id in fresh], new_ids)
            _store_tails(connection, tails, new_ids)
            rest = [row for row in points if row.task_id not in fresh]
            added += _store_points(connection, rest, new_ids, unless_stored=("task_id", "concurrency"))
            bulk.insert(
                connection,
                membership,
                {
                    "sweep_id": [self._sweep_ids[row.sweep_id] for row in members],
                    "task_id": [new_ids[row.task_id] for row in members],
                },
                unless_stored=("sweep_id", "task_id"),
            )
            return len(fresh), added

        added, new_points = durable.writing(self._target, store)
        self._copied.tasks += added
        self._copied.points += new_points

    def _read_points(self, table: sa.Table, task_ids: set[int]) -> list[Any]:
        if not task_ids:
            return []
        column = table.c.task_id
        query = sa.select(table).where(column.between(min(task_ids), max(task_ids))).order_by(column)
        return [row for row in self._read.execute(query) if row.task_id in task_ids]

    def _measured_runs(self, rows: Sequence[Any]) -> None:
        store_cases = self._cases(row.case_id for row in rows)
        between = percentiles.c.run_id.between(rows[0].id, rows[-1].id)
        details = self._read.execute(sa.select(percentiles).where(between)).all()

        def store(connection: sa.Connection) -> int:
            case_ids = store_cases(connection)
            columns = columns_of(measured_runs, rows)
            columns["case_id"] = [case_ids[old] for old in columns["case_id"]]
            ids, inserted = bulk.insert_missing(connection, measured_runs, "digest", columns)
            fresh = {row.id: run_id for row, run_id, new in zip(rows, ids, inserted, strict=True) if new}
            columns = columns_of(percentiles, [row for row in details if row.run_id in fresh])
            columns["run_id"] = [fresh[old] for old in columns["run_id"]]
            bulk.insert(connection, percentiles, columns)
            return len(fresh)

        self._copied.measured_runs += durable.writing(self._target, store)


def _disturbed(target: Store) -> StoreBusyError:
    return StoreBusyError(
        f"something was deleted from {target.url_for_display} during the copy", hint="start the copy again"
    )


def _store_points(
    connection: sa.Connection, rows: Sequence[Any], task_ids: Mapping[int, int], *, unless_stored: tuple[str, ...] = ()
) -> int:
    columns = columns_of(operating_points, rows)
    columns["task_id"] = [task_ids[old] for old in columns["task_id"]]
    return bulk.insert(connection, operating_points, columns, unless_stored=unless_stored)


def _store_tails(connection: sa.Connection, rows: Sequence[Any], task_ids: Mapping[int, int]) -> None:
    columns = columns_of(point_percentiles, rows)
    columns["task_id"] = [task_ids[old] for old in columns["task_id"]]
    bulk.insert(
        connection, point_percentiles, columns, unless_stored=tuple(point_percentiles.primary_key.columns.keys())
    )


def _store_trust(table: sa.Table, rows: Sequence[Any], engine_ids: Mapping[int, int], connection: sa.Connection) -> int:
    columns = columns_of(table, rows)
    columns["engine_id"] = [engine_ids[old] for old in columns["engine_id"]]
    return bulk.insert(connection, table, columns, unless_stored=tuple(table.primary_key.columns.keys()))


def _store_prices(table: sa.Table, rows: Sequence[Any], connection: sa.Connection) -> int:
    unique = next(rule for rule in table.constraints if isinstance(rule, sa.UniqueConstraint))
    return bulk.insert(connection, table, columns_of(table, rows), unless_stored=tuple(unique.columns.keys()))


def columns_of(table: sa.Table, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Return rows of a table as columns, without their ids, which are the source's own."""
    names = [column.name for column in table.columns]
    values = list(zip(*rows, strict=True)) or [()] * len(names)
    return {name: list(column) for name, column in zip(names, values, strict=True) if name != "id"}
