"""What a sweep still needs: which tasks of a block the store lacks, and for which concurrencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from gpuscout.runner.evaluate import Ask, BlockJob
from gpuscout.store.blocks import open_failures
from gpuscout.store.writes import StoredTask, stored_tasks
from gpuscout.sweeps.cases import CaseColumns, task_keys
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.outcomes import Outcome

# Failures that may cost a worker or an hour again: tried again only when the user asks for it.
_NOT_AGAIN = (Outcome.CRASHED, Outcome.TIMEOUT)


@dataclass(frozen=True)
class BlockWork:
    """One block beside what the store holds of it.

    `reused` maps positions of tasks that need no computing to their ids in the store; `job` asks for the rest.
    """

    cases: CaseColumns
    keys: list[bytes]
    reused: dict[int, int]
    job: BlockJob


def block_work(connection: Connection, expansion: Expansion, sweep_id: int, block: int) -> BlockWork:
    """What is to be done for one block of a registered sweep."""
    cases, keys = keyed_cases(expansion, block)
    ladder = expansion.sweep.engines[expansion.engine_of(block)].ladder
    reused, lacking = split(ladder, keys, stored_tasks(connection, keys))
    given_up = {f.task_key for f in open_failures(connection, sweep_id, block) if f.outcome in _NOT_AGAIN}
    asks = []
    for concurrencies, positions in lacking.items():
        tried = [position for position in positions if keys[position] not in given_up]
        if tried:
            asks.append(Ask(np.array(tried, dtype=np.int64), np.array(concurrencies, dtype=np.int64)))
    return BlockWork(cases, keys, reused, BlockJob(block, tuple(asks)))


def keyed_cases(expansion: Expansion, block: int) -> tuple[CaseColumns, list[bytes]]:
    """The cases of a block and their task keys. Two names for one task (a user's GPU file may hold such) count once."""
    part = expansion.sweep.engines[expansion.engine_of(block)]
    cases = expansion.block(block)
    keys = task_keys(
        cases.digests(), engine=part.name, fingerprint=part.fingerprint, options_digest=part.options_digest
    )
    first = {key: position for position, key in reversed(list(enumerate(keys)))}
    if len(first) == len(keys):
        return cases, keys
    rows = np.array(sorted(first.values()), dtype=np.int64)
    return cases.take(rows), [keys[row] for row in rows.tolist()]


def split(
    ladder: tuple[int, ...], keys: list[bytes], known: dict[bytes, StoredTask]
) -> tuple[dict[int, int], dict[tuple[int, ...], list[int]]]:
    """Positions that need no computing with the ids of their tasks, and the others by the concurrencies they lack."""
    reused: dict[int, int] = {}
    lacking: dict[tuple[int, ...], list[int]] = {}
    # Tasks of one block mostly share one stored ladder: work out once what it lacks.
    missing_of: dict[tuple[tuple[int, ...], int | None], tuple[int, ...]] = {}
    for position, key in enumerate(keys):
        task = known.get(key)
        if task is None:
            lacking.setdefault(ladder, []).append(position)
            continue
        stored = (task.ladder, task.fits_up_to)
        if stored not in missing_of:
            missing_of[stored] = _missing(ladder, *stored)
        # Any answer but a curve is final, whatever the ladder.
        missing = missing_of[stored] if task.outcome == Outcome.OK else ()
        if missing:
            lacking.setdefault(missing, []).append(position)
        else:
            reused[position] = task.id
    return reused, lacking


def _missing(wanted: tuple[int, ...], stored: tuple[int, ...], fits_up_to: int | None) -> tuple[int, ...]:
    """The concurrencies to compute. From the first step that did not fit on, a curve has no points."""
    known = set(stored)
    end = None if fits_up_to is None else min((c for c in stored if c > fits_up_to), default=None)
    return tuple(c for c in wanted if c not in known and (end is None or c < end))
