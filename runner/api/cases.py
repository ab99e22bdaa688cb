"""Single cases answered through a store: looked up, computed as a sweep where they are missing, read back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from gpuscout.runner.engines.base import Cost
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.controller import run_sweep
from gpuscout.runner.execution.executor_choice import choose_executor
from gpuscout.runner.execution.work import split
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.queries.answers import StoredAnswer, answers_at
from gpuscout.store.results.blocks import open_failures
from gpuscout.store.results.tasks import StoredTask, stored_tasks
from gpuscout.sweeps.cases import Case, CaseColumns, task_keys
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.settings import STARTED
from gpuscout.sweeps.sweep import EnginePart, Sweep, SweptModel
from gpuscout.sweeps.workloads import Workload

StoreLike = Store | str | os.PathLike[str]

# The axes of a sweep in lockstep are checked against each other in tables: their product stays small.
_MOST_CASES = 200
# A sweep has one ladder: so many operating points that nobody asked for may be computed to have one sweep, not two.
_SPARE_POINTS = 2_000
LOCK_WAIT_S = 60.0  # for another runner of a SQLite store

_LOCKSTEP = (
    "models",
    "gpus",
    "servers",
    "data_parallel",
    "tensor_parallel",
    "gpu_memory_utilization",
    "max_model_len",
    *STARTED,
    "workloads",
)


@contextmanager
def opened(store: StoreLike | None) -> Iterator[Store]:
    """Yield the store to work with: an open one as it is, one at a place (created if need be), or one in memory."""
    if isinstance(store, Store):
        yield store
        return
    if store is not None and not isinstance(store, str | os.PathLike):
        raise InputError(f"store must be an open store, a path or a URL, got {store!r}")
    with open_store("sqlite://" if store is None else os.fspath(store), create=True) as own:
        yield own


@dataclass
class _Wanted:
    """A case, and the concurrencies at which it is asked for."""

    case: Case
    concurrencies: set[int] = field(default_factory=set)


def answer_cases(
    store: Store, engine: EnginePart, asked: Sequence[tuple[Case, int]], *, sweep: str
) -> list[StoredAnswer]:
    """Return the engine's answer to every case at a concurrency, in their order.

    What the store has is only read. The rest is computed, vectorised, and stored as revisions of the sweep of this
    name; the ladder of `engine` is ignored. What no engine could run is answered as INVALID with the reason.
    Raises what `run_sweep` raises.
    """
    cases = CaseColumns.of(case for case, _ in asked)
    keys = task_keys(
        cases.digests(), engine=engine.name, fingerprint=engine.fingerprint, options_digest=engine.options_digest
    )
    wanted: dict[bytes, _Wanted] = {}
    for key, (case, concurrency) in zip(keys, asked, strict=True):
        wanted.setdefault(key, _Wanted(case)).concurrencies.add(concurrency)
    known = _known(store, wanted)
    lacking = {
        key: _Wanted(want.case, missing)
        for key, want in wanted.items()
        if (missing := _missing(key, want.concurrencies, known))
    }
    others: dict[bytes, StoredAnswer] = {}
    for chunk in _chunks(lacking, engine):
        others |= _computed(store, engine, {key: lacking[key] for key in chunk}, sweep)
    if lacking:
        known = _known(store, wanted)
    places = [(known[key].id, at) for key, want in wanted.items() if key in known for at in want.concurrencies]
    with store.reading() as connection:
        found = answers_at(connection, places)
    others |= {
        key: _left_out(engine, want.case) for key, want in wanted.items() if key not in known and key not in others
    }
    answers = []
    for key, (_, at) in zip(keys, asked, strict=True):
        stored = found[known[key].id, at] if key in known else others[key]
        # A curve that was to grow may have failed to.
        answers.append(others[key] if stored.concurrency is None and key in others else stored)
    return answers


def _known(store: Store, wanted: Mapping[bytes, _Wanted]) -> dict[bytes, StoredTask]:
    with store.reading() as connection:
        return stored_tasks(connection, list(wanted))


def _missing(key: bytes, concurrencies: set[int], known: dict[bytes, StoredTask]) -> set[int]:
    """Return the cases for which the engine has to be asked."""
    _, lacking = split(tuple(sorted(concurrencies)), [key], known)
    return {concurrency for ladder in lacking for concurrency in ladder}


def _chunks(lacking: Mapping[bytes, _Wanted], engine: EnginePart) -> Iterator[list[bytes]]:
    """Yield the cases cut into sweeps. An expensive engine is asked for nothing that is not wanted."""
    spare = _SPARE_POINTS if cached_engine(engine.name, engine.options).cost is Cost.CHEAP else 0
    chunk: list[bytes] = []
    ladder: set[int] = set()
    points = 0
    for key in sorted(lacking, key=lambda key: sorted(lacking[key].concurrencies)):
        concurrencies = lacking[key].concurrencies
        computed = (len(chunk) + 1) * len(ladder | concurrencies)
        if chunk and (len(chunk) == _MOST_CASES or computed - points - len(concurrencies) > spare):
            yield chunk
            chunk, ladder, points = [], set(), 0
        chunk.append(key)
        ladder |= concurrencies
        points += len(concurrencies)
    if chunk:
        yield chunk


def _computed(
    store: Store, engine: EnginePart, wanted: Mapping[bytes, _Wanted], name: str
) -> dict[bytes, StoredAnswer]:
    """Compute and store what can run; the answers of those cases that failed, which the store keeps apart."""
    ladder = {concurrency for want in wanted.values() for concurrency in want.concurrencies}
    part = replace(engine, ladder=tuple(sorted(ladder)))
    expansion = Expansion(_in_lockstep(name, part, [want.case for want in wanted.values()]))
    if not expansion.census().tasks:
        return {}
    report = run_sweep(
        store,
        expansion,
        choose=lambda work: choose_executor(expansion, work=work),
        description=f"asked for by gpuscout.{name}",
        lock_wait_s=LOCK_WAIT_S,
    )
    if not report.open_failures:
        return {}
    with store.reading() as connection:
        failures = open_failures(connection, report.sweep.id)
    return {failure.task_key: StoredAnswer(failure.outcome, failure.message) for failure in failures}


def _in_lockstep(name: str, engine: EnginePart, cases: Sequence[Case]) -> Sweep:
    """Return the sweep of exactly these cases; precisions in lockstep, too, would be looked up for all pairs."""
    return Sweep(
        name=name,
        models=tuple(SweptModel(case.model, (case.precision,), (case.kv_precision,)) for case in cases),
        gpus=tuple(case.gpu for case in cases),
        engines=(engine,),
        workloads=tuple(
            Workload(f"{case.input_len}x{case.output_len}", case.input_len, case.output_len) for case in cases
        ),
        servers=tuple(case.server for case in cases),
        tensor_parallel=tuple(case.tensor_parallel for case in cases),
        data_parallel=tuple(case.data_parallel for case in cases),
        gpu_memory_utilization=tuple(case.gpu_memory_utilization for case in cases),
        max_model_len=tuple(case.max_model_len for case in cases),
        server_options=tuple(case.server_options for case in cases),
        speculative=tuple(case.speculative for case in cases),
        zipped=(_LOCKSTEP,),
    )


def _left_out(engine: EnginePart, case: Case) -> StoredAnswer:
    """Return the answer for a case that was not computed: expansion says why no engine could run it."""
    exclusions = Expansion(_in_lockstep("one", engine, [case])).census().exclusions
    if exclusions:
        return StoredAnswer(Outcome.INVALID, exclusions[0].detail)
    return StoredAnswer(Outcome.ERROR, "no answer was stored")
