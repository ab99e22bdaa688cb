"""`gpuscout query`: what the store holds of each task, filtered. So far: the tuning advice of llm-optimizer."""

from __future__ import annotations

from enum import StrEnum
from json import loads as parse
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, err, print_json, print_table
from gpuscout.runner.cli.options import Filters, grouped
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gpuscout.store.rank import Question


class Show(StrEnum):
    TUNING = "tuning"  # what llm-optimizer reports beside operating points


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout query --show tuning --model Qwen/Qwen3-32B --gpu H100"
    app.command("query", rich_help_panel="Sweeps", epilog=example)(query)


@grouped
def query(
    filters: Filters,
    show: Annotated[
        Show, typer.Option("--show", help="tuning: concurrency limits, roofline and commands of llm-optimizer.")
    ] = Show.TUNING,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Tasks to show.")] = 20,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show what the store holds. Computes nothing."""
    from gpuscout.store.connect import open_store

    with open_store(db) as store, store.reading() as connection:
        found = _reported(connection, filters.question(), show.value)
    if json:
        print_json({show.value: found[:limit], "tasks": len(found)})
        return
    _print_tuning(found[:limit])
    if len(found) > limit:
        err().print(f"{limit} of {count(len(found), 'task')}: --limit shows more, filters choose others")


def _reported(connection: Connection, question: Question, part: str) -> list[dict[str, Any]]:
    """The tasks of which an engine reports this part besides operating points, from the newest version that answered.

    Raises UnknownNameError, InputError when nothing matches.
    """
    import sqlalchemy as sa

    from gpuscout.store.ranking_scope import ABOUT, nothing_matches, scope_of
    from gpuscout.store.schema import engines, tasks

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
        extras = parse(task.pop("extras"))
        case = tuple(task[name] for name in task if name not in ("task_id", "fingerprint"))
        if part in extras:
            newest.setdefault(case, task | extras)
    if not newest:
        error = nothing_matches(connection, scope)
        raise InputError(f"{error.message}, or no engine reports {part} for what does", hint=error.hint)
    return list(newest.values())


def _print_tuning(found: list[dict[str, Any]]) -> None:
    """A table of what limits each configuration, then its commands, one a line to copy."""
    figures = ["KV cache", "prefill", "decode", "overall", "suggested"]
    names = ["kv_cache_limit", "prefill_compute_limit", "decode_capacity_limit", "overall_limit", "empirical_optimum"]
    print_table(
        ["model", "GPUs", "precision", "in / out", *figures],
        [
            [
                task["model"],
                f"{task['gpu']} x{task['num_gpus']}",
                task["precision"],
                f"{task['input_len']:,} / {task['output_len']:,}",
                *(task.get("concurrency", {}).get(name) for name in names),
            ]
            for task in found
        ],
        title="requests in flight that each resource allows, in the engine's opinion",
        right=figures,
    )
    for task in found:
        print(f"\n{task['model']} on {task['gpu']} x{task['num_gpus']}, {task['precision']}, {task['engine']}")
        for framework, levels in task["tuning"].items():
            # Stored in the order of the alphabet; the simple commands come first.
            for level in sorted(levels, reverse=True):
                print(f"  {framework}, {level}:")
                for command in levels[level]:
                    print(f"    {command}")
