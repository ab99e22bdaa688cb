"""Plan of a run: how many tasks, which cannot run and why, which are stored, how long the rest takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuscout.runner.engines.base import Cost, Expected, measures
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.evaluate import evaluate
from gpuscout.runner.execution.executor_choice import Work, expected_work
from gpuscout.runner.execution.work import keyed_cases, split
from gpuscout.store.database.connect import Store
from gpuscout.store.results.tasks import stored_tasks
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.expand import Census, Expansion
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.servers.options import options_text

# Up to this many tasks a cheap engine is asked which of them cannot run; beyond, only a run finds out.
_MOST_TASKS_TO_TRY = 200_000


@dataclass(frozen=True)
class Plan:
    """`hopeless` counts the tasks to compute that will not get a curve, by outcome; None where it was not tried.

    `measuring` is what engines that measure will take; None: there are none.
    """

    census: Census
    stored: int
    to_compute: int
    points: int
    work: Work
    hopeless: Counter[Outcome] | None
    measuring: Expected | None = None


def plan_sweep(expansion: Expansion, store: Store | None) -> Plan:
    """Look every task up in the store, block by block; None when there is no store yet."""
    census = expansion.census()
    try_them = census.tasks <= _MOST_TASKS_TO_TRY
    hopeless: Counter[Outcome] = Counter()
    stored = points = 0
    measuring = None
    lacking_tasks = np.zeros(expansion.block_count, dtype=np.int64)
    for block in np.flatnonzero(census.block_tasks).tolist():
        part = expansion.sweep.engines[expansion.engine_of(block)]
        cases, keys = keyed_cases(expansion, block)
        known = {}
        if store is not None:
            with store.reading() as connection:
                known = stored_tasks(connection, keys)
        reused, lacking = split(part.ladder, keys, known)
        stored += len(reused)
        lacking_tasks[block] = len(keys) - len(reused)
        points += sum(len(positions) * len(ladder) for ladder, positions in lacking.items())
        engine: Any = cached_engine(part.name, part.options)
        if measures(engine) and hasattr(engine, "expected"):
            steps = {row: ladder for ladder, positions in lacking.items() for row in positions}
            takes: Expected = engine.expected(cases, [steps.get(row, ()) for row in range(len(keys))])
            measuring = takes if measuring is None else measuring + takes
        if try_them and lacking:
            rows = np.array(sorted(row for positions in lacking.values() for row in positions), dtype=np.int64)
            hopeless += _hopeless(cases.take(rows), part.name, dict(part.options))
    return Plan(
        census=census,
        stored=stored,
        to_compute=int(lacking_tasks.sum()),
        points=points,
        work=expected_work(expansion, lacking_tasks),
        hopeless=hopeless if try_them else None,
        measuring=measuring,
    )


def _hopeless(cases: CaseColumns, name: str, options: dict[str, object]) -> Counter[Outcome]:
    engine = cached_engine(name, options)
    if engine.cost is not Cost.CHEAP or not engine.in_process:
        return Counter()
    curves = evaluate(engine, cases, np.array([1], dtype=np.int64))
    return Counter(OUTCOMES[code] for code in curves.outcome.tolist() if OUTCOMES[code] is not Outcome.OK)


@dataclass(frozen=True)
class Verdict:
    """Verdict on one combination before a run: it runs, or the reason why not."""

    description: str
    reason: str | None


def why(expansion: Expansion, cheap_only: bool = True) -> list[Verdict]:
    """Return a verdict on every combination of a (narrowed) sweep: exclusions first, then what the engines say."""
    verdicts = [
        Verdict(f"{exclusion.model or 'any model'} ({exclusion.combinations:,} combinations)", exclusion.detail)
        for exclusion in expansion.census().exclusions
    ]
    for block in range(expansion.block_count):
        part = expansion.sweep.engines[expansion.engine_of(block)]
        engine = cached_engine(part.name, part.options)
        if cheap_only and engine.cost is not Cost.CHEAP:
            continue
        cases = expansion.block(block)
        if not len(cases):
            continue
        curves = evaluate(engine, cases, np.array([1], dtype=np.int64))
        for row, code in enumerate(curves.outcome.tolist()):
            outcome = OUTCOMES[code]
            reason = None
            if outcome is not Outcome.OK:
                reason = f"{outcome.value.replace('_', ' ')}: {curves.details.get(row, 'no details')}"
            verdicts.append(Verdict(_describe(cases, row, part.name), reason))
    return verdicts


def _describe(cases: CaseColumns, row: int, engine: str) -> str:
    case = cases.case(row)
    options = [options_text(case.server_options), case.speculative.text]
    started = "".join(f"  {text}" for text in options if text)
    return (
        f"{case.model.name} on {case.gpu.name} x{case.num_gpus}  tp={case.tensor_parallel} pp={case.pipeline_parallel} "
        f"dp={case.data_parallel} ep={case.expert_parallel}  {case.precision}, KV {case.kv_precision}  {case.server}"
        f"{started}  {case.input_len:,} in / {case.output_len:,} out  ({engine})"
    )
