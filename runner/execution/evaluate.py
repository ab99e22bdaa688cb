"""Evaluating one job: runs wherever the executor puts it, needs no database, returns columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.base import (
    CaseAnswer,
    Ended,
    Engine,
    MissingEngine,
    answered,
    left_to_measure,
    measures,
    understood_by,
)
from gpuscout.runner.engines.guard import EngineFailed, guarded, is_foreign
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.answer_checks import checked
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.cases import COLUMN_NAMES, CaseColumns
from gpuscout.sweeps.curves import Curves, IntArray, Points
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.servers.options import options_text
from gpuscout.sweeps.sweep import EnginePart
from gpuscout.sweeps.text import message_of

# Called with the position in its block of the task that was measured, and what was measured.
Emit = Callable[[int, MeasuredRun], None]


@dataclass(frozen=True)
class Job:
    """A unit of work of an executor: the tasks at `positions` of a block, for the concurrencies of `ladder`.

    `attempt` counts from 1 how often exactly these tasks were tried together in this run. `known` are the points that
    are measured already, by position.
    """

    block: int
    positions: IntArray
    ladder: IntArray
    attempt: int = 1
    known: Mapping[int, Sequence[MeasuredRun]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    def again(self) -> Job:
        return replace(self, attempt=self.attempt + 1)

    def knowing(self, measured: Mapping[int, Sequence[MeasuredRun]]) -> Job:
        """Return the same without what was measured meanwhile, by position."""
        new = {position: (*self.known.get(position, ()), *measured[position]) for position in measured}
        return replace(self, known={**self.known, **new})

    def cut(self, size: int) -> list[Job]:
        """Return the same tasks as jobs of at most this size."""
        starts = range(0, len(self), size)
        return [replace(self, positions=self.positions[start : start + size], attempt=1) for start in starts]

    def halves(self) -> list[Job]:
        return self.cut((len(self) + 1) // 2)


def evaluate_job(expansion: Expansion, job: Job, emit: Emit) -> Curves:
    """Return the answer to a job. Never raises for what an engine does: its tasks get an outcome.

    What an engine measures goes to `emit` at once; its answer has the outcomes and no points.
    Raises EngineMissing when this process has another version of the engine than the sweep was resolved with, or none.
    """
    part = expansion.sweep.engines[expansion.engine_of(job.block)]
    engine = the_engine(part)
    if measures(engine):
        for found in measured_parts(expansion, job):
            if isinstance(found, Curves):
                return found
            emit(*found)
    return evaluate(engine, block_cases(expansion, job.block).take(job.positions), job.ladder)


class EngineMissing(Exception):
    """An error with the reason why this process cannot answer for an engine of the sweep."""


_fingerprints: dict[tuple[str, bytes], str] = {}


def the_engine(part: EnginePart) -> Engine:
    """Return the engine of a sweep in this process.

    Raises EngineMissing: another version must not answer in its name.
    """
    key = (part.name, part.options_digest)
    try:
        engine = cached_engine(part.name, part.options)
        if key not in _fingerprints:
            with guarded(foreign=is_foreign(engine)):
                _fingerprints[key] = engine.fingerprint()
    except (EngineFailed, GpuscoutError) as error:
        raise EngineMissing(f"engine {part.name} cannot be used: {message_of(error)}") from error
    if (here := _fingerprints[key]) != part.fingerprint:
        if isinstance(engine, MissingEngine):
            raise EngineMissing(engine.reason)
        raise EngineMissing(
            f"engine {part.name} is another version here ({here}) than the sweep was made with ({part.fingerprint})"
        )
    return engine


def block_cases(expansion: Expansion, block: int) -> CaseColumns:
    """Return the cases of a block. Axes in lockstep may come to one case twice, which counts once."""
    cases = expansion.block(block)
    if not expansion.sweep.zipped:
        return cases
    first: dict[bytes, int] = {}
    for row, digest in enumerate(cases.digests()):
        first.setdefault(digest, row)
    return cases if len(first) == len(cases) else cases.take(np.array(list(first.values()), dtype=np.int64))


def evaluate(engine: Engine, cases: CaseColumns, ladder: IntArray) -> Curves:
    """Return the engine's checked answer. Where it raises, the block is halved until the task at fault stands alone."""
    if not len(cases):
        return failed(0, Outcome.ERROR, "")
    try:
        with guarded(foreign=is_foreign(engine)):
            refused = _refused_options(engine, cases) | _refused_traffic(engine, cases)
            if not refused:
                answer = engine.evaluate(_unchangeable(cases), _read_only(ladder))
                open_loop = np.array([traffic.open_loop for traffic in cases.traffics], dtype=np.bool_)[cases.traffic]
                sparse = bool(getattr(engine, "sparse", False))
                return checked(answer, len(cases), ladder, sparse=sparse, open_loop=open_loop)
        taken = np.array([row not in refused for row in range(len(cases))], dtype=np.bool_)
        return _with_refused(evaluate(engine, cases.take(taken), ladder), taken, refused)
    except MemoryError as error:
        if len(cases) == 1:
            return failed(1, Outcome.ERROR, f"out of memory: MemoryError {message_of(error)}".rstrip())
    except (EngineFailed, GpuscoutError) as error:
        if len(cases) == 1:
            return failed(1, Outcome.ERROR, message_of(error))
    half = len(cases) // 2
    rows = np.arange(len(cases))
    return joined([evaluate(engine, cases.take(part), ladder) for part in (rows[:half], rows[half:])])


def measured_parts(expansion: Expansion, job: Job) -> Iterator[tuple[int, MeasuredRun] | Curves]:
    """Measure a job: each point with the position of its task, and last the outcomes of all its tasks.

    What the engine raises fails the tasks that had not ended. Raises EngineMissing as `evaluate_job` does.
    """
    engine: Any = the_engine(expansion.sweep.engines[expansion.engine_of(job.block)])
    cases = block_cases(expansion, job.block).take(job.positions)
    positions = job.positions.tolist()
    ended: dict[int, Ended] = {}
    fault = "the engine gave no outcome"
    try:
        with guarded(foreign=is_foreign(engine)):
            measuring = iter(engine.measure(cases, [_left_of(engine, cases, row, job) for row in range(len(cases))]))
        while True:
            # Only what the engine does itself: not what becomes of its points.
            with guarded(foreign=is_foreign(engine)):
                found = next(measuring, None)
            if found is None:
                break
            if isinstance(found, Ended):
                ended[found.row] = found
            else:
                yield positions[found.row], found.run
    except (EngineFailed, GpuscoutError) as error:
        fault = message_of(error)
    open_ends = (Ended(row, Outcome.ERROR, fault) for row in range(len(cases)) if row not in ended)
    ended.update({end.row: end for end in open_ends})
    answer = answered(
        CaseAnswer(end.outcome, end.detail, extras=end.extras) for end in (ended[row] for row in range(len(cases)))
    )
    yield checked(answer, len(cases), job.ladder, sparse=True)


def _left_of(engine: Engine, cases: CaseColumns, row: int, job: Job) -> tuple[int, ...]:
    """Return the steps of a case that are still to be measured; in an open loop the one step is 0."""
    known = job.known.get(int(job.positions[row]), ())
    if cases.traffics[cases.traffic[row]].open_loop:
        return () if known else (0,)
    return left_to_measure(engine, job.ladder.tolist(), known)


def _unchangeable(cases: CaseColumns) -> CaseColumns:
    """Return the cases in arrays that cannot be written to: what an engine changes in them would be believed."""
    columns = {name: _read_only(getattr(cases, name)) for name in COLUMN_NAMES}
    return replace(cases, **columns)


def _read_only(values: Any) -> Any:
    view = values.view()
    view.setflags(write=False)
    return view


def _refused_options(engine: Engine, cases: CaseColumns) -> dict[int, str]:
    """Return the reasons against cases with server options or drafts that the engine would ignore, by position."""
    understood = understood_by(engine)
    refused: dict[int, str] = {}
    for name, codes, texts in (
        ("server_options", cases.options, [options_text(options) for options in cases.server_options]),
        ("speculative", cases.draft, [drafts.text for drafts in cases.drafts]),
    ):
        if name not in understood and any(texts):
            what = "server options" if name == "server_options" else "speculative decoding"
            reasons = [f"{engine.name} does not take {what} into account: {text}" if text else None for text in texts]
            refused |= {row: why for row, code in enumerate(codes.tolist()) if (why := reasons[code]) is not None}
    return refused


def _refused_traffic(engine: Engine, cases: CaseColumns) -> dict[int, str]:
    """Return the reason why the engine cannot answer cases whose requests vary or arrive, by position.

    An engine that says nothing of traffic would answer as if there were none.
    """
    if all(traffic.is_plain for traffic in cases.traffics):
        return {}
    unsupported = getattr(engine, "unsupported_traffic", None)
    reasons = [
        None
        if traffic.is_plain
        else f"{engine.name} answers for fixed lengths in a closed loop alone"
        if unsupported is None
        else unsupported(traffic)
        for traffic in cases.traffics
    ]
    return {row: reason for row, code in enumerate(cases.traffic.tolist()) if (reason := reasons[code]) is not None}


def _with_refused(curves: Curves, taken: npt.NDArray[np.bool_], refused: Mapping[int, str]) -> Curves:
    """Return the answer to the cases that were taken, and NOT_SUPPORTED for the others."""
    rows = np.flatnonzero(taken)
    whole = failed(len(taken), Outcome.NOT_SUPPORTED, "")
    for name in ("outcome", "needed_gib", "usable_gib", "kv_capacity_tokens", "fits_up_to"):
        getattr(whole, name)[rows] = getattr(curves, name)
    return replace(
        whole,
        points=replace(curves.points, task=rows[curves.points.task]),
        details={**{int(rows[row]): text for row, text in curves.details.items()}, **refused},
        extras={int(rows[row]): extra for row, extra in curves.extras.items()},
    )


def failed(count: int, outcome: Outcome, detail: str) -> Curves:
    """Return the answer for `count` tasks that all met the same fate."""
    nothing = np.zeros(0, dtype=np.int64)
    unknown = np.full(count, np.nan)
    empty = np.zeros(0)
    return Curves(
        outcome=np.full(count, outcome.code, dtype=np.int64),
        needed_gib=unknown,
        usable_gib=unknown,
        kv_capacity_tokens=np.full(count, -1, dtype=np.int64),
        fits_up_to=np.full(count, -1, dtype=np.int64),
        points=Points(nothing, nothing, empty, empty, empty, empty, empty, nothing, np.zeros(0, dtype=bool), nothing),
        details=dict.fromkeys(range(count), detail),
    )


def joined(parts: Sequence[Curves]) -> Curves:
    """Return the answers for consecutive parts of a block as one."""
    starts = np.cumsum([0, *(len(part) for part in parts)])[:-1].tolist()
    points = Points.joined(
        [replace(part.points, task=part.points.task + start) for part, start in zip(parts, starts, strict=True)]
    )
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("outcome", "needed_gib", "usable_gib", "kv_capacity_tokens", "fits_up_to")
    }
    details = {
        start + row: text for part, start in zip(parts, starts, strict=True) for row, text in part.details.items()
    }
    extras = {
        start + row: extra for part, start in zip(parts, starts, strict=True) for row, extra in part.extras.items()
    }
    return Curves(points=points, details=details, extras=extras, **columns)
