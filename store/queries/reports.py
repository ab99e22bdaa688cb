"""Reports of engines besides operating points, such as llm-optimizer's tuning advice: the `extras` of stored tasks."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.question.scope import ABOUT, nothing_matches, scope_of
from gpuscout.store.schema import cases, engines, gpus, models, tasks
from gpuscout.sweeps.errors import InputError


def reported(connection: sa.Connection, question: Question, part: str) -> list[dict[str, Any]]:
    """Return the tasks of which an engine reports this part besides operating points, of the answers that stand.

    Raises UnknownNameError, InputError when nothing matches.
    """
    scope = scope_of(connection, question)
    rows = connection.execute(
        sa.select(*ABOUT, engines.c.name.label("engine"), engines.c.fingerprint, tasks.c.extras)
        .select_from(scope.named.join(engines, engines.c.id == tasks.c.engine_id))
        .where(tasks.c.extras.is_not(None), *scope.conditions, *scope.standing())
        .order_by(models.c.name, gpus.c.name, cases.c.num_gpus, tasks.c.id)
    )
    found = [{**row, **json.loads(row["extras"])} for row in rows.mappings()]
    with_part = [{name: value for name, value in task.items() if name != "extras"} for task in found if part in task]
    if not with_part:
        error = nothing_matches(connection, scope)
        raise InputError(f"{error.message}, or no engine reports {part} for what does", hint=error.hint)
    return with_part
