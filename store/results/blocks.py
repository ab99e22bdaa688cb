"""The blocks of a sweep: who computes what, what failed, and when a sweep is finished.

    pending --claim--> claimed --commit (writes.py)--> done --reopen, when tasks failed--> pending
                       claimed --release, or the runner died--> free to be claimed again

Every claim raises the block's attempt number, and only the current attempt may be released or committed: a runner that
lost its claim cannot disturb the one that has it. The caller owns the transaction, `Store.writing()` for all but
`open_failures` and `sweep_progress`, and should commit a claim at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from gpuscout.store.schema import blocks, failures, membership, sweeps, tasks
from gpuscout.sweeps.outcomes import Outcome

_ONLY_WHEN_ASKED = (Outcome.CRASHED.value, Outcome.TIMEOUT.value)


@dataclass(frozen=True)
class ClaimedBlock:
    block: int
    attempt: int


@dataclass(frozen=True)
class OpenFailure:
    """The latest failure of a task that this sweep still lacks."""

    block: int
    task_key: bytes
    case_id: int
    engine_id: int
    outcome: Outcome
    message: str


@dataclass(frozen=True)
class SweepProgress:
    """Blocks by state, tasks in done blocks, and open failures by outcome."""

    pending: int
    claimed: int
    done: int
    tasks_done: int
    tasks: int
    failures: dict[Outcome, int] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        return self.pending + self.claimed + self.done


def claim_blocks(
    connection: sa.Connection,
    sweep_id: int,
    runner_id: int,
    limit: int,
    is_alive: Callable[[int], bool],
    *,
    in_flight: Collection[int] | None = None,
) -> list[ClaimedBlock]:
    """Claim up to `limit` blocks for a runner, lowest numbers first; none of a cancelled sweep.

    Takes pending blocks and those whose runner is gone, at once and without a clock: `is_alive` is asked for every
    other runner that has claimed something. With `in_flight`, the blocks this runner is still busy with, also those
    that are claimed in its name without its knowing, and never one that it is busy with, even if it lost that claim.
    Returns fewer, or none, when there are not enough; never waits.
    No block is ever given to two runners, however many ask at once.
    """
    claimed = sa.select(blocks.c.runner_id).where(
        blocks.c.sweep_id == sweep_id, blocks.c.state == "claimed", blocks.c.runner_id != runner_id
    )
    dead = [other for other in connection.execute(claimed.distinct()).scalars() if not is_alive(other)]
    gone: sa.ColumnElement[bool] = blocks.c.runner_id.in_(dead if in_flight is None else [*dead, runner_id])
    free = sa.or_(blocks.c.state == "pending", sa.and_(blocks.c.state == "claimed", gone))
    if in_flight is not None:
        free &= blocks.c.block.not_in(in_flight)
    cancelled = sa.select(sweeps.c.id).where(sweeps.c.id == sweep_id, sweeps.c.cancelled_at.is_not(None))
    # Rows that another runner is claiming at this moment are skipped (Postgres), not waited for.
    chosen = (
        sa.select(blocks.c.block)
        .where(blocks.c.sweep_id == sweep_id, free, ~cancelled.exists())
        .order_by(blocks.c.block)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    claim = (
        sa.update(blocks)
        .where(blocks.c.sweep_id == sweep_id, blocks.c.block.in_(sa.select(chosen.c.block)))
        .values(state="claimed", runner_id=runner_id, attempt=blocks.c.attempt + 1)
        .returning(blocks.c.block, blocks.c.attempt)
    )
    rows = connection.execute(claim).all()
    return sorted((ClaimedBlock(row.block, row.attempt) for row in rows), key=lambda claimed: claimed.block)


def release_blocks(
    connection: sa.Connection, sweep_id: int, runner_id: int, claimed: Iterable[ClaimedBlock]
) -> list[int]:
    """Give blocks back uncomputed; returns those that were still ours, in the order given."""
    released = []
    for claim in claimed:
        given_back = connection.execute(
            sa.update(blocks)
            .where(*claimed_by(sweep_id, claim.block, runner_id, claim.attempt))
            .values(state="pending", runner_id=None)
        )
        if given_back.rowcount:
            released.append(claim.block)
    return released


def claimed_by(sweep_id: int, block: int, runner_id: int, attempt: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the fence: true of a block only for the runner that has claimed it, in this attempt."""
    return (
        blocks.c.sweep_id == sweep_id,
        blocks.c.block == block,
        blocks.c.state == "claimed",
        blocks.c.runner_id == runner_id,
        blocks.c.attempt == attempt,
    )


def is_done_by(connection: sa.Connection, sweep_id: int, block: int, runner_id: int, attempt: int) -> bool:
    """Return whether a block was committed by this runner in this attempt.

    Certain even while the server still works on that very commit, which is waited for (Postgres).
    """
    query = (
        sa.select(blocks.c.state, blocks.c.runner_id, blocks.c.attempt)
        .where(blocks.c.sweep_id == sweep_id, blocks.c.block == block)
        .with_for_update()
    )
    row = connection.execute(query).one_or_none()
    return row is not None and tuple(row) == ("done", runner_id, attempt)


def reopen_failed_blocks(connection: sa.Connection, sweep_id: int, *, include_crashed: bool = False) -> list[int]:
    """Make done blocks with open failures pending again; returns their numbers, ascending.

    Tasks that crashed or timed out alone do not reopen a block unless `include_crashed`: they may take a runner down
    or an hour again. (In a block reopened for another task, `open_failures` tells which to leave out.)
    """
    failed = select_open_failures(sweep_id).subquery()
    worth = sa.select(failed.c.block)
    if not include_crashed:
        worth = worth.where(failed.c.outcome.not_in(_ONLY_WHEN_ASKED))
    reopen = (
        sa.update(blocks)
        .where(blocks.c.sweep_id == sweep_id, blocks.c.state == "done", blocks.c.block.in_(worth))
        .values(state="pending", runner_id=None, finished_at=None)
        .returning(blocks.c.block)
    )
    return sorted(connection.execute(reopen).scalars())


def open_failures(connection: sa.Connection, sweep_id: int, block: int | None = None) -> list[OpenFailure]:
    """Return the open failures of a sweep, or of one of its blocks, in the order in which they happened."""
    query = select_open_failures(sweep_id, block).order_by(failures.c.id)
    return [
        OpenFailure(row.block, row.task_key, row.case_id, row.engine_id, Outcome(row.outcome), row.message)
        for row in connection.execute(query)
    ]


def sweep_progress(connection: sa.Connection, sweep_id: int) -> SweepProgress:
    """Return the progress of a sweep, whoever computes it."""
    states = {
        row.state: row
        for row in connection.execute(
            sa.select(
                blocks.c.state,
                sa.func.count().label("blocks"),
                sa.cast(sa.func.sum(blocks.c.task_count), sa.BigInteger).label("tasks"),
            )
            .where(blocks.c.sweep_id == sweep_id)
            .group_by(blocks.c.state)
        )
    }
    failed = select_open_failures(sweep_id).subquery()
    by_outcome = connection.execute(sa.select(failed.c.outcome, sa.func.count()).group_by(failed.c.outcome))

    def count(state: str, what: str) -> int:
        return int(getattr(states[state], what)) if state in states else 0

    return SweepProgress(
        pending=count("pending", "blocks"),
        claimed=count("claimed", "blocks"),
        done=count("done", "blocks"),
        tasks_done=count("done", "tasks"),
        tasks=sum(int(row.tasks) for row in states.values()),
        failures={Outcome(outcome): number for outcome, number in by_outcome},
    )


def count_open_failures(connection: sa.Connection, sweep_id: int, block: int | None = None) -> int:
    """Return the number of tasks of a sweep, or of one of its blocks, that have failed and are still lacking."""
    failed = select_open_failures(sweep_id, block).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(failed)).scalar_one()


def finish_if_done(connection: sa.Connection, sweep_id: int) -> bool:
    """Note that a sweep is finished when all its blocks are done and no failure is open; whether it is."""
    # Of two last blocks committed at once, the second must see the first. The lock is one that foreign keys to the
    # sweep do not conflict with; SQLite has a single writer and no such clause.
    connection.execute(sa.select(sweeps.c.id).where(sweeps.c.id == sweep_id).with_for_update(key_share=True))
    unfinished = sa.select(blocks.c.block).where(
        blocks.c.sweep_id == sweep_id, blocks.c.state.in_(("pending", "claimed"))
    )
    if connection.execute(unfinished.limit(1)).first() or count_open_failures(connection, sweep_id):
        return False
    connection.execute(
        sa.update(sweeps)
        .where(sweeps.c.id == sweep_id, sweeps.c.finished_at.is_(None))
        .values(finished_at=datetime.now(UTC))
    )
    return True


def select_open_failures(sweep_id: int, block: int | None = None) -> sa.Select[*tuple[Any, ...]]:
    """Return the latest failure of every task of the sweep that is not in its membership."""
    latest = sa.select(sa.func.max(failures.c.id)).where(failures.c.sweep_id == sweep_id)
    if block is not None:
        latest = latest.where(failures.c.block == block)
    stored = (
        sa.select(membership.c.task_id)
        .join(tasks, tasks.c.id == membership.c.task_id)
        .where(membership.c.sweep_id == sweep_id, tasks.c.key == failures.c.task_key)
    )
    return sa.select(failures).where(
        failures.c.id.in_(latest.group_by(failures.c.task_key)), ~stored.correlate(failures).exists()
    )
