"""Sweeps as the store knows them: registered once by digest, found again by digest or name.

The caller owns the transaction of every function here: `Store.writing()` for those that register or note something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from gpuscout.store.database import bulk
from gpuscout.store.results.deletion import Unshared
from gpuscout.store.results.registry import register_engine, register_ladder, register_traffics, stored_ladders
from gpuscout.store.results.trust import note_trust
from gpuscout.store.schema import (
    blocks,
    engines,
    exclusions,
    failures,
    membership,
    sweep_engines,
    sweep_workloads,
    sweeps,
)
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.errors import UnknownNameError, nearest
from gpuscout.sweeps.expand import Census, Exclusion, Expansion
from gpuscout.sweeps.trust import NO_TRUST, Trust
from gpuscout.sweeps.workloads import Workload


@dataclass(frozen=True)
class NewSweepEngine:
    """One engine of a new sweep. `block_tasks` counts the tasks of each of its blocks, which follow one another."""

    name: str
    fingerprint: str
    options: Mapping[str, object]
    ladder: Sequence[int]
    block_size: int
    block_tasks: Sequence[int]
    trust: Trust = NO_TRUST


@dataclass(frozen=True)
class NewSweep:
    """Sweep for `register_sweep`. `resolved` is JSON-able; `combinations` counts tasks and excluded combinations."""

    digest: bytes
    name: str
    description: str
    spec_text: str
    resolved: Mapping[str, object]
    combinations: int
    gpuscout_version: str
    engines: Sequence[NewSweepEngine]
    workloads: Sequence[Workload] = ()
    exclusions: Sequence[Exclusion] = ()

    @classmethod
    def of(
        cls, expansion: Expansion, census: Census, *, description: str, spec_text: str, gpuscout_version: str
    ) -> NewSweep:
        """Return the sweep of an expansion, as counted by its census."""
        sweep = expansion.sweep
        starts = [*(expansion.first_block(i) for i in range(len(sweep.engines))), expansion.block_count]
        counts: list[int] = census.block_tasks.tolist()
        return cls(
            digest=sweep.digest(),
            name=sweep.name,
            description=description,
            spec_text=spec_text,
            resolved=sweep.identity(),
            combinations=census.combinations,
            gpuscout_version=gpuscout_version,
            engines=[
                NewSweepEngine(
                    part.name,
                    part.fingerprint,
                    part.options,
                    part.ladder,
                    part.block_size,
                    counts[start:stop],
                    part.trust,
                )
                for part, start, stop in zip(sweep.engines, starts, starts[1:], strict=False)
            ],
            workloads=tuple(dict.fromkeys(sweep.workloads)),  # in lockstep one may come several times
            exclusions=census.exclusions,
        )


@dataclass(frozen=True)
class SweepEngine:
    """An engine of a stored sweep; its blocks are `first_block` to `first_block + block_count - 1`."""

    engine_id: int
    name: str
    fingerprint: str
    ladder: tuple[int, ...]
    block_size: int
    first_block: int
    block_count: int


@dataclass(frozen=True)
class SweepRecord:
    """A stored sweep. `revision` counts from 1 within its name; `finished_at` None: blocks or failures are open.

    `cancelled_at` None: not cancelled since it was run last.
    """

    id: int
    digest: bytes
    name: str
    revision: int
    latest_run: int
    description: str
    combinations: int
    task_count: int
    excluded_count: int
    created_at: datetime
    finished_at: datetime | None
    cancelled_at: datetime | None
    gpuscout_version: str
    engines: tuple[SweepEngine, ...]

    def engine_of(self, block: int) -> SweepEngine:
        """Return the engine that answers this block."""
        return next(e for e in self.engines if e.first_block <= block < e.first_block + e.block_count)


# Any number will do, as long as all versions of gpuscout use the same.
_REGISTRATION_LOCK = 0x67707377

_RECORD = (
    "id",
    "digest",
    "name",
    "revision",
    "latest_run",
    "description",
    "combinations",
    "task_count",
    "excluded_count",
    "created_at",
    "finished_at",
    "cancelled_at",
    "gpuscout_version",
)


def find_sweep(connection: sa.Connection, digest: bytes) -> SweepRecord | None:
    """Return the sweep with this digest; None when it was never run on this store."""
    return _one(connection, _select().where(sweeps.c.digest == digest))


def sweep_by_name(connection: sa.Connection, name: str) -> SweepRecord | None:
    """Return the revision of a sweep that was run last; None when there is no sweep of this name."""
    return _one(connection, _select().where(sweeps.c.name == name).order_by(sweeps.c.latest_run.desc()).limit(1))


def list_sweeps(connection: sa.Connection) -> list[SweepRecord]:
    """Return all sweeps and revisions, the one that was run last first."""
    rows = connection.execute(_select().order_by(sweeps.c.latest_run.desc())).all()
    return [_record(connection, row) for row in rows]


def register_sweep(connection: sa.Connection, new: NewSweep) -> SweepRecord:
    """Store a sweep with its blocks, all pending, and note the run; one that is stored already is only noted.

    A cancelled sweep is cancelled no more. Blocks without tasks are done from the start. Safe beside other runners that
    register the same sweep.
    """
    serialise_registration(connection)
    found = find_sweep(connection, new.digest)
    if found is None:
        _insert(connection, new)
        found = find_sweep(connection, new.digest)
        assert found is not None
    note_run(connection, found.id)
    resume_sweep(connection, found.id)
    record = find_sweep(connection, new.digest)
    assert record is not None
    return record


def note_run(connection: sa.Connection, sweep_id: int) -> None:
    """Make this sweep the one its name means."""
    serialise_registration(connection)
    latest = sa.select(sa.func.coalesce(sa.func.max(sweeps.c.latest_run), 0) + 1).scalar_subquery()
    connection.execute(sa.update(sweeps).where(sweeps.c.id == sweep_id).values(latest_run=latest))


def cancel_sweep(connection: sa.Connection, sweep_id: int) -> bool:
    """Let nobody claim blocks of a sweep until it is run again; False when it is finished or cancelled already.

    Blocks that are being computed may still be committed. What is stored stays.
    """
    cancel = (
        sa.update(sweeps)
        .where(sweeps.c.id == sweep_id, sweeps.c.finished_at.is_(None), sweeps.c.cancelled_at.is_(None))
        .values(cancelled_at=datetime.now(UTC))
    )
    return connection.execute(cancel).rowcount > 0


def resume_sweep(connection: sa.Connection, sweep_id: int) -> bool:
    """Let blocks of a cancelled sweep be claimed again; False when it was not cancelled."""
    resume = (
        sa.update(sweeps).where(sweeps.c.id == sweep_id, sweeps.c.cancelled_at.is_not(None)).values(cancelled_at=None)
    )
    return connection.execute(resume).rowcount > 0


@dataclass(frozen=True)
class Deleted:
    """Numbers of rows deleted with a sweep. Tasks and cases that something else refers to are not among them."""

    blocks: int
    tasks: int
    points: int
    cases: int
    failures: int


def delete_sweep(connection: sa.Connection, sweep_id: int) -> Deleted:
    """Delete a sweep, finished or not, and those tasks and cases that nothing else refers to.

    Tasks of other sweeps stay, as do measured runs, the cases they use and tasks that never belonged to this sweep.
    On SQLite hold the `RunnerLock`: a runner remembers ids, which SQLite gives out again. On Postgres runners may go
    on: those of this sweep find no more blocks, those of others compute again what they wanted to reuse.
    """
    serialise_registration(connection)
    # Commits lock their block first: those under way are waited for, later ones find no block any more.
    mine = sa.select(blocks.c.block).where(blocks.c.sweep_id == sweep_id).order_by(blocks.c.block)
    connection.execute(mine.with_for_update()).all()
    doomed = Unshared(connection, sweep_id)
    counts = {
        table.name: connection.execute(sa.delete(table).where(table.c.sweep_id == sweep_id)).rowcount
        for table in (failures, membership, blocks, exclusions, sweep_workloads, sweep_engines)
    }
    connection.execute(sa.delete(sweeps).where(sweeps.c.id == sweep_id))
    tasks, points, cases = doomed.delete(connection)
    return Deleted(counts["blocks"], tasks, points, cases, counts["failures"])


def serialise_registration(connection: sa.Connection) -> None:
    """Let one registration happen at a time, for revisions and runs count up; SQLite has one writer anyway.

    Not a lock on the table: a commit that finishes a sweep holds its row and would wait for us, as we for the row.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_REGISTRATION_LOCK)))


def _insert(connection: sa.Connection, new: NewSweep) -> None:
    counts = [count for engine in new.engines for count in engine.block_tasks]
    now = datetime.now(UTC)
    revision = sa.select(sa.func.coalesce(sa.func.max(sweeps.c.revision), 0) + 1).where(sweeps.c.name == new.name)
    sweep_id = connection.execute(
        sa.insert(sweeps)
        .values(
            digest=new.digest,
            name=new.name,
            revision=connection.execute(revision).scalar_one(),
            latest_run=0,
            description=new.description,
            spec_text=new.spec_text,
            resolved=canonical_json(new.resolved).decode(),
            combinations=new.combinations,
            task_count=sum(counts),
            excluded_count=sum(exclusion.combinations for exclusion in new.exclusions),
            created_at=now,
            finished_at=None if any(counts) else now,
            gpuscout_version=new.gpuscout_version,
        )
        .returning(sweeps.c.id)
    ).scalar_one()
    first_block = 0
    for position, engine in enumerate(new.engines):
        engine_id = register_engine(connection, engine)
        note_trust(connection, engine_id, engine.trust)
        connection.execute(
            sa.insert(sweep_engines).values(
                sweep_id=sweep_id,
                position=position,
                engine_id=engine_id,
                ladder_id=register_ladder(connection, engine.ladder),
                block_size=engine.block_size,
                first_block=first_block,
                block_count=len(engine.block_tasks),
            )
        )
        first_block += len(engine.block_tasks)
    bulk.insert(
        connection,
        blocks,
        {
            "sweep_id": sweep_id,
            "block": list(range(len(counts))),
            "state": ["pending" if count else "done" for count in counts],
            "attempt": 0,
            "task_count": counts,
            "failure_count": 0,
        },
    )
    if new.workloads:
        traffic_ids = register_traffics(connection, [w.traffic.shape_text for w in new.workloads])
        connection.execute(
            sa.insert(sweep_workloads),
            [
                {
                    "sweep_id": sweep_id,
                    "name": w.name,
                    "input_len": w.input_len,
                    "output_len": w.output_len,
                    "traffic_id": traffic_id,
                    "request_rate": w.traffic.request_rate,
                }
                for w, traffic_id in zip(new.workloads, traffic_ids, strict=True)
            ],
        )
    if new.exclusions:
        connection.execute(
            sa.insert(exclusions),
            [
                {
                    "sweep_id": sweep_id,
                    "reason": exclusion.reason,
                    "detail": exclusion.detail,
                    "model": exclusion.model,
                    "combinations": exclusion.combinations,
                }
                for exclusion in new.exclusions
            ],
        )


def _select() -> sa.Select[*tuple[Any, ...]]:
    return sa.select(*(sweeps.c[name] for name in _RECORD))


def _one(connection: sa.Connection, query: sa.Select[*tuple[Any, ...]]) -> SweepRecord | None:
    row = connection.execute(query).one_or_none()
    return None if row is None else _record(connection, row)


def _record(connection: sa.Connection, row: sa.Row[*tuple[Any, ...]]) -> SweepRecord:
    ladder_of = stored_ladders(connection)
    parts = connection.execute(
        sa.select(
            sweep_engines.c.engine_id,
            engines.c.name,
            engines.c.fingerprint,
            sweep_engines.c.ladder_id,
            sweep_engines.c.block_size,
            sweep_engines.c.first_block,
            sweep_engines.c.block_count,
        )
        .join_from(sweep_engines, engines, sweep_engines.c.engine_id == engines.c.id)
        .where(sweep_engines.c.sweep_id == row.id)
        .order_by(sweep_engines.c.position)
    )
    return SweepRecord(
        **row._mapping,
        engines=tuple(
            SweepEngine(
                part.engine_id,
                part.name,
                part.fingerprint,
                ladder_of[part.ladder_id],
                part.block_size,
                part.first_block,
                part.block_count,
            )
            for part in parts
        ),
    )


def named_sweep(connection: sa.Connection, name: str, revision: int | None = None) -> SweepRecord:
    """Return a revision of a sweep; None is the one that was run last. Raises UnknownNameError."""
    sweep = sweep_by_name(connection, name)
    if sweep is None:
        names = sorted({known.name for known in list_sweeps(connection)})
        raise UnknownNameError("sweep", name, nearest(name, names), hint=f"sweeps here: {', '.join(names) or 'none'}")
    if revision is None or revision == sweep.revision:
        return sweep
    revisions = {known.revision: known for known in list_sweeps(connection) if known.name == name}
    if revision not in revisions:
        there = ", ".join(map(str, sorted(revisions)))
        raise UnknownNameError("revision", str(revision), hint=f"revisions of {name}: {there}")
    return revisions[revision]


def spec_text(connection: sa.Connection, sweep_id: int) -> str:
    """Return the spec a sweep was made from, with absolute paths."""
    text: str = connection.execute(sa.select(sweeps.c.spec_text).where(sweeps.c.id == sweep_id)).scalar_one()
    return text


def resolved_identity(connection: sa.Connection, sweep_id: int) -> dict[str, Any]:
    """Return the meaning of the spec when it was first run: `Sweep.identity()`."""
    stored = connection.execute(sa.select(sweeps.c.resolved).where(sweeps.c.id == sweep_id)).scalar_one()
    resolved: dict[str, Any] = json.loads(stored)
    return resolved
