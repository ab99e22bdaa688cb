"""What engines report besides operating points, such as llm-optimizer's tuning advice: the `extras` of stored tasks."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from gpuscout.store.ranking.scope import ABOUT, nothing_matches, scope_of
from gpuscout.store.ranking.types import Question
from gpuscout.store.schema import engines, tasks
from gpuscout.sweeps.errors import InputError


def reported(connection: sa.Connection, question: Question, part: str) -> list[dict[str, Any]]:
    """The tasks of which an engine reports this part besides operating points, from the newest version that answered.

    Raises UnknownNameError, InputError when nothing matches.
    """
    scope = scope_of(connection, question)
    answers = scope.answers
    about = [answers.c[column.name] for column in ABOUT]
    rows = connection.execute(
        sa.select(*about, engines.c.name.label("engine"), engines.c.fingerprint, tasks.c.extras)
        .select_from(answers)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .join(engines, engines.c.id == answers.c.engine_id)
        .where(tasks.c.extras.is_not(None))
        .order_by(answers.c.model, answers.c.gpu, answers.c.num_gpus, engines.c.created_at.desc(), answers.c.task_id)
    )
    newest: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in rows.mappings():
        task = dict(row)
        extras = json.loads(task.pop("extras"))
        case = tuple(task[name] for name in task if name not in ("task_id", "fingerprint"))
        if part in extras:
            newest.setdefault(case, task | extras)
    if not newest:
        error = nothing_matches(connection, scope)
        raise InputError(f"{error.message}, or no engine reports {part} for what does", hint=error.hint)
    return list(newest.values())
