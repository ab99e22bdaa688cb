"""Imported runs as their files: listed, counted and removed."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from gpuscout.store.measured.formats.reported import variant
from gpuscout.store.portions import portions
from gpuscout.store.results.trust import OVER_STORED, forget_errors
from gpuscout.store.schema import blocks, cases, failures, measured_runs, membership, percentiles, sweeps, tasks


@dataclass(frozen=True)
class ImportedGroup:
    """Runs that came from the same place by the same tool."""

    file: str | None
    source: str
    tool: str | None
    runs: int
    measured_from: date | None
    measured_to: date | None
    imported_at: datetime
    """The latest import."""


@dataclass(frozen=True)
class Removed:
    """Counts of what was removed; `engines`: those whose errors over stored runs were kept."""

    runs: int
    percentiles: int
    cases: int
    engines: int


def imported_groups(connection: sa.Connection, patterns: Sequence[str] = ()) -> list[ImportedGroup]:
    """Return imported runs by place and tool, in the order of the first import."""
    groups: dict[tuple[str | None, str, str | None], list[Any]] = {}
    for row in matching_runs(connection, patterns):
        groups.setdefault((row.file, row.source, row.tool), []).append(row)
    imported = []
    for (file, source, tool), rows in groups.items():
        days = [row.measured_on for row in rows if row.measured_on is not None]
        latest = max(row.imported_at for row in rows)
        imported.append(
            ImportedGroup(file, source, tool, len(rows), min(days, default=None), max(days, default=None), latest)
        )
    return imported


def remove_runs(connection: sa.Connection, patterns: Sequence[str]) -> Removed:
    """Remove the runs whose file or source matches one of these patterns, and cases that nothing uses then.

    With them go the errors that were kept of engines over stored runs, for they count runs that are gone, and what
    sweeps know of having measured them: those measure again when they are run. Estimates are never touched.
    """
    ids = [row.id for row in matching_runs(connection, patterns)]
    case_ids = set[int]()
    tails = 0
    for some in portions(ids):
        case_ids |= set(
            connection.execute(sa.select(measured_runs.c.case_id).where(measured_runs.c.id.in_(some))).scalars()
        )
        _forget_tasks(connection, some)
        tails += connection.execute(sa.delete(percentiles).where(percentiles.c.run_id.in_(some))).rowcount
        connection.execute(sa.delete(measured_runs).where(measured_runs.c.id.in_(some)))
    users = [sa.select(table.c.id).where(table.c.case_id == cases.c.id) for table in (tasks, failures, measured_runs)]
    gone = 0
    for some in portions(sorted(case_ids)):
        unused = sa.and_(cases.c.id.in_(some), *(~user.exists() for user in users))
        gone += connection.execute(sa.delete(cases).where(unused)).rowcount
    return Removed(len(ids), tails, gone, forget_errors(connection, OVER_STORED) if ids else 0)


def _forget_tasks(connection: sa.Connection, run_ids: Sequence[int]) -> None:
    """Delete the tasks that measured these runs, and open their sweeps again."""
    keys = sa.select(measured_runs.c.task_key).where(measured_runs.c.id.in_(run_ids))
    task_ids = connection.execute(sa.select(tasks.c.id).where(tasks.c.key.in_(keys))).scalars().all()
    if not task_ids:
        return
    members = membership.c.task_id.in_(task_ids)
    of_sweeps = connection.execute(sa.select(membership.c.sweep_id).where(members).distinct()).scalars().all()
    connection.execute(sa.delete(membership).where(members))
    connection.execute(sa.delete(tasks).where(tasks.c.id.in_(task_ids)))
    connection.execute(
        sa.update(blocks).where(blocks.c.sweep_id.in_(of_sweeps)).values(state="pending", runner_id=None)
    )
    connection.execute(sa.update(sweeps).where(sweeps.c.id.in_(of_sweeps)).values(finished_at=None))


def runs_without_concurrency(connection: sa.Connection, patterns: Sequence[str] = ()) -> int:
    """Return the number of stored runs at a request rate of unknown concurrency, which no estimate is compared with."""
    wanted = {row.id for row in matching_runs(connection, patterns)}
    rated = sa.and_(measured_runs.c.load == "request_rate", measured_runs.c.concurrency.is_(None))
    return len(wanted & set(connection.execute(sa.select(measured_runs.c.id).where(rated)).scalars()))


def runs_of_variants(connection: sa.Connection, patterns: Sequence[str] = ()) -> int:
    """Return the number of stored runs of deployments that are not plain, which no estimate is compared with."""
    return sum(variant(row.details) is not None for row in matching_runs(connection, patterns))


@dataclass(frozen=True)
class ImportedRun:
    """One imported run: where it came from, and what its source said of it."""

    id: int
    file: str | None
    source: str
    tool: str | None
    measured_on: date | None
    imported_at: datetime
    details: Mapping[str, Any]


def matching_runs(connection: sa.Connection, patterns: Sequence[str]) -> list[ImportedRun]:
    """Return runs whose file or source matches; all without patterns. "public" stands for the public files."""
    wanted = ["public:*" if pattern == "public" else pattern for pattern in patterns]
    columns = measured_runs.c["id", "source", "tool", "measured_on", "imported_at", "details"]
    rows = []
    for row in connection.execute(sa.select(*columns).order_by(measured_runs.c.id)):
        details = json.loads(row.details) if row.details else {}
        file = details.get("file")
        if not wanted or any(fnmatch.fnmatchcase(name, p) for name in (file, row.source) if name for p in wanted):
            rows.append(ImportedRun(row.id, file, row.source, row.tool, row.measured_on, row.imported_at, details))
    return rows
