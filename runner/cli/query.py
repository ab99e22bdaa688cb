"""`gpuscout query`: what the store holds of each task, filtered. So far: the tuning advice of llm-optimizer."""

from __future__ import annotations

from enum import StrEnum
from json import loads as parse
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, err, print_json, print_table
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gpuscout.store.rank import Question

_FILTERS = "What counts"


class Show(StrEnum):
    TUNING = "tuning"  # what llm-optimizer reports beside operating points


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout query --show tuning --model Qwen/Qwen3-32B --gpu H100"
    app.command("query", rich_help_panel="Sweeps", epilog=example)(query)


def query(
    show: Annotated[
        Show, typer.Option("--show", help="tuning: concurrency limits, roofline and commands of llm-optimizer.")
    ] = Show.TUNING,
    sweep: Annotated[
        str | None, typer.Option("--sweep", help="A sweep's name or id.", rich_help_panel=_FILTERS)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="An id, bare name or glob; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="A name, alias or glob; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    workload: Annotated[
        str | None, typer.Option("--workload", help="A workload of a stored sweep.", rich_help_panel=_FILTERS)
    ] = None,
    input_len: Annotated[
        int | None, typer.Option("--input-len", min=1, help="Input tokens.", rich_help_panel=_FILTERS)
    ] = None,
    output_len: Annotated[
        int | None, typer.Option("--output-len", min=1, help="Output tokens.", rich_help_panel=_FILTERS)
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option("--engine", help="An engine; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    server: Annotated[
        list[str] | None, typer.Option("--server", help="vllm or sglang; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="Of the weights: fp8 …; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    max_gpus: Annotated[
        int | None, typer.Option("--max-gpus", min=1, help="GPUs of one deployment.", rich_help_panel=_FILTERS)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Tasks to show.")] = 20,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show what the store holds. Computes nothing."""
    from gpuscout.store.connect import open_store
    from gpuscout.store.rank import Question

    question = Question(
        sweep=sweep,
        models=tuple(model or ()),
        gpus=tuple(gpu or ()),
        workload=workload,
        input_len=input_len,
        output_len=output_len,
        engines=tuple(engine or ()),
        servers=tuple(server or ()),
        precisions=tuple(precision or ()),
        max_gpus=max_gpus,
    )
    with open_store(db) as store, store.reading() as connection:
        found = _reported(connection, question, show.value)
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
