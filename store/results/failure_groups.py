"""Failures of a sweep, those alike as one group, with an example."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from gpuscout.store.results.blocks import select_open_failures
from gpuscout.store.schema import cases, engines, failures, gpus, models
from gpuscout.sweeps.outcomes import Outcome

_FIGURE = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class FailureGroup:
    """Open failures of one engine for one reason: messages that differ in figures only count as one.

    `example` describes the case of the first of them, `message` is what was said of it, `attempts` how many runs have
    tried it.
    """

    engine: str
    outcome: Outcome
    message: str
    tasks: int
    example: str
    attempts: int


def failure_groups(connection: sa.Connection, sweep_id: int) -> list[FailureGroup]:
    """Return the open failures of a sweep by engine and reason, the most frequent first."""
    failed = select_open_failures(sweep_id).subquery()
    rows = connection.execute(
        sa.select(
            engines.c.name,
            failed.c.outcome,
            failed.c.message,
            sa.func.count().label("tasks"),
            sa.func.min(failed.c.id).label("first"),
        )
        .join_from(failed, engines, failed.c.engine_id == engines.c.id)
        .group_by(engines.c.name, failed.c.outcome, failed.c.message)
        .order_by(sa.func.min(failed.c.id))
    )
    groups: dict[tuple[str, str, str], tuple[int, FailureGroup]] = {}
    for engine, outcome, message, tasks, first in rows:
        key = (engine, outcome, _FIGURE.sub("#", message))
        if key in groups:
            known, group = groups[key]
            groups[key] = known, replace(group, tasks=group.tasks + tasks)
        else:
            groups[key] = first, FailureGroup(engine, Outcome(outcome), message, tasks, "", 0)
    found = [_with_example(connection, sweep_id, group, first) for first, group in groups.values()]
    return sorted(found, key=lambda group: -group.tasks)


def _with_example(connection: sa.Connection, sweep_id: int, group: FailureGroup, failure_id: int) -> FailureGroup:
    row = connection.execute(
        sa.select(failures.c.task_key, models.c.name.label("model"), gpus.c.name.label("gpu"), cases)
        .join_from(failures, cases, failures.c.case_id == cases.c.id)
        .join(models, cases.c.model_id == models.c.id)
        .join(gpus, cases.c.gpu_id == gpus.c.id)
        .where(failures.c.id == failure_id)
    ).one()
    attempts = connection.execute(
        sa.select(sa.func.count()).where(failures.c.sweep_id == sweep_id, failures.c.task_key == row.task_key)
    ).scalar_one()
    return replace(group, example=_case_text(row), attempts=attempts)


def _case_text(row: Any) -> str:
    sizes: Sequence[tuple[str, int]] = (
        ("tp", row.tensor_parallel),
        ("pp", row.pipeline_parallel),
        ("dp", row.data_parallel),
        ("ep", row.expert_parallel),
    )
    parallel = " ".join(f"{name}={size}" for name, size in sizes if size > 1 or name == "tp")
    lengths = f"{row.input_len:,} in / {row.output_len:,} out"
    return f"{row.model} on {row.gpu} {parallel}  {row.precision}  {row.server}  {lengths}"
