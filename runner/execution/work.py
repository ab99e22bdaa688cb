"""Remaining work of a sweep: the tasks of a block that the store lacks, and their missing concurrencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gpuscout.runner.engines.base import CaseAnswer, Cost, Engine, answered, is_exclusive, left_to_measure, measures
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.evaluate import Job, block_cases
from gpuscout.store.database.connect import Connection
from gpuscout.store.measured import MeasuredRun
from gpuscout.store.measured.stored import runs_of_tasks
from gpuscout.store.results.blocks import open_failures
from gpuscout.store.results.tasks import Answer, StoredTask, stored_tasks
from gpuscout.sweeps.cases import CaseColumns, task_keys
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.outcomes import Outcome

# Failures that may cost a worker or an hour again: tried again only when the user asks for it.
_NOT_AGAIN = (Outcome.CRASHED, Outcome.TIMEOUT)


@dataclass(frozen=True)
class BlockWork:
    """One block beside what the store holds of it.

    `reused` maps positions of tasks that need no computing to their ids in the store; `answers` are of tasks all of
    whose points were measured before their run ended; `jobs` are the rest.
    """

    cases: CaseColumns
    keys: list[bytes]
    reused: dict[int, int]
    jobs: list[Job]
    answers: list[Answer] = field(default_factory=list)


def block_work(
    connection: Connection, expansion: Expansion, sweep_id: int, block: int, *, retry_failed: bool = False
) -> BlockWork:
    """Return the remaining work for one block of a registered sweep.

    A job is what has to finish within a task timeout: a call of a cheap engine, one task of an expensive one. Tasks
    that crashed or timed out in an earlier run are left out unless `retry_failed`.
    """
    cases, keys = keyed_cases(expansion, block)
    part = expansion.sweep.engines[expansion.engine_of(block)]
    reused, lacking = split(part.ladder, keys, stored_tasks(connection, keys))
    given_up = set()
    if not retry_failed:
        given_up = {f.task_key for f in open_failures(connection, sweep_id, block) if f.outcome in _NOT_AGAIN}
    engine = cached_engine(part.name, part.options)
    if measures(engine):
        tried = sorted(position for positions in lacking.values() for position in positions)
        runs = runs_of_tasks(connection, [keys[position] for position in tried])
        known = {position: runs[keys[position]] for position in tried if keys[position] in runs}
        tried = [position for position in tried if keys[position] not in given_up]
        return _to_measure(block, cases, keys, reused, part.ladder, tried, known, engine)
    expensive = engine.cost is Cost.EXPENSIVE
    jobs: list[Job] = []
    for concurrencies, positions in lacking.items():
        tried = [position for position in positions if keys[position] not in given_up]
        if tried:
            whole = Job(block, np.array(tried, dtype=np.int64), np.array(concurrencies, dtype=np.int64))
            jobs += whole.cut(1) if expensive else [whole]
    return BlockWork(cases, keys, reused, jobs)


def _to_measure(
    block: int,
    cases: CaseColumns,
    keys: list[bytes],
    reused: dict[int, int],
    ladder: tuple[int, ...],
    tried: list[int],
    known: Mapping[int, Sequence[MeasuredRun]],
    engine: Engine,
) -> BlockWork:
    """Return the tasks at the positions `tried` as one job, or apart; those of which enough is `known` are answered."""
    asked = np.array(ladder, dtype=np.int64)

    def is_complete(position: int) -> bool:
        if not (runs := known.get(position, ())):
            return False
        return cases.traffics[cases.traffic[position]].open_loop or not left_to_measure(engine, ladder, runs)

    complete = [position for position in tried if is_complete(position)]
    rest = [position for position in tried if position not in complete]
    answers = []
    if complete:
        answers = [Answer(np.array(complete, dtype=np.int64), asked, answered([CaseAnswer()] * len(complete)))]
    jobs = []
    if rest:
        whole = Job(block, np.array(rest, dtype=np.int64), asked, known={p: known[p] for p in rest if p in known})
        jobs = whole.cut(1) if is_exclusive(engine) else [whole]
    return BlockWork(cases, keys, reused, jobs, answers)


def keyed_cases(expansion: Expansion, block: int) -> tuple[CaseColumns, list[bytes]]:
    """Return the cases of a block and their task keys."""
    part = expansion.sweep.engines[expansion.engine_of(block)]
    cases = block_cases(expansion, block)
    keys = task_keys(
        cases.digests(), engine=part.name, fingerprint=part.fingerprint, options_digest=part.options_digest
    )
    return cases, keys


def split(
    ladder: tuple[int, ...], keys: list[bytes], known: dict[bytes, StoredTask]
) -> tuple[dict[int, int], dict[tuple[int, ...], list[int]]]:
    """Return the positions that are known, with their tasks' ids, and the others by the concurrencies they lack."""
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
    """Return the concurrencies to compute. From the first step that did not fit on, a curve has no points."""
    known = set(stored)
    end = None if fits_up_to is None else min((c for c in stored if c > fits_up_to), default=None)
    return tuple(c for c in wanted if c not in known and (end is None or c < end))
