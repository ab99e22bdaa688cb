"""Curves that are stored already and have been asked for more: what both know together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from gpuscout.store.database import bulk
from gpuscout.store.results.registry import register_ladder, stored_ladders
from gpuscout.store.schema import tasks
from gpuscout.sweeps.outcomes import Outcome


class Offer(NamedTuple):
    """Another answer to a stored task: asked for `ladder`, ascending; `fits_up_to` None: no early end."""

    task_id: int
    ladder: Sequence[int]
    outcome: str
    fits_up_to: int | None


def grow(connection: sa.Connection, offers: Sequence[Offer]) -> list[bool]:
    """Note on stored tasks what else they have been asked for; of which offers they may lack points.

    What they answered stays. A task that is not `ok` has no points to gain; one that does not fit at the steps asked
    now has a curve that ends below them.
    """
    ladder_of = stored_ladders(connection)
    # Locked (Postgres) in one order for all runners: two that extend one ladder must not lose each other's steps.
    query = (
        sa.select(tasks.c.id, tasks.c.ladder_id, tasks.c.outcome, tasks.c.fits_up_to)
        .order_by(tasks.c.id)
        .with_for_update(key_share=True)
    )
    ids = sorted({offer.task_id for offer in offers})
    known = {row.id: row for row in bulk.select_by_keys(connection, query, tasks.c.id, ids)}
    lacking: list[bool] = []
    changes: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for offer in offers:
        stored = known[offer.task_id]
        before = ladder_of[stored.ladder_id]
        union = tuple(sorted({*before, *offer.ladder}))
        may_grow = stored.outcome == Outcome.OK and offer.outcome in (Outcome.OK, Outcome.DOES_NOT_FIT)
        lacking.append(may_grow and union != before)
        if not may_grow:
            continue
        end = _end(before, stored.fits_up_to, offer)
        if (union, end) != (before, stored.fits_up_to):
            changes.setdefault(union, []).append({"task": stored.id, "end": end})
    for union, values in changes.items():
        ladder_id = register_ladder(connection, union)
        connection.execute(
            sa.update(tasks)
            .where(tasks.c.id == sa.bindparam("task"))
            .values(ladder_id=ladder_id, fits_up_to=sa.bindparam("end")),
            values,
        )
    return lacking


def _end(ladder: Sequence[int], fits_up_to: int | None, offer: Offer) -> int | None:
    """Return up to which concurrency the curve of both fits; None: it does not end early."""
    offered = 0 if offer.outcome == Outcome.DOES_NOT_FIT else offer.fits_up_to
    if fits_up_to is None and offered is None:
        return None
    return max(
        ladder[-1] if fits_up_to is None else fits_up_to,
        offer.ladder[-1] if offered is None else offered,
    )
