"""`gpuscout sweeps list | show | resume | cancel | delete`: the sweeps of a store and where they stand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, err, list_by_default, open_store, print_json
from gpuscout.runner.cli.options import GpuFile, PriceOptions, grouped
from gpuscout.runner.cli.show.document import picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_rows, whole_number
from gpuscout.runner.cli.sweep.options import AskOptions, ExecutionOptions
from gpuscout.runner.cli.sweep.run import run_and_report
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import printable

if TYPE_CHECKING:
    from gpuscout.store.ranking.types import SweepExclusion
    from gpuscout.store.results.blocks import SweepProgress
    from gpuscout.store.results.failure_groups import FailureGroup
    from gpuscout.store.results.sweeps import SweepRecord

sweeps = typer.Typer(help="The sweeps of a store.", epilog="Example: gpuscout sweeps show nightly")
Name = Annotated[str, typer.Argument(help="The sweep's name; it means the revision that was run last.")]

_MOST_GROUPS = 10


def register(app: typer.Typer) -> None:
    list_by_default(sweeps, list_sweeps)
    app.add_typer(sweeps, name="sweeps", rich_help_panel="Sweeps")


@sweeps.command("list", epilog="Example: gpuscout sweeps list")
@grouped
def list_sweeps(output: Output, db: Db = DEFAULT_STORE) -> None:
    """List sweeps and their revisions, the one run last first."""
    from gpuscout.store.results import sweeps as stored

    with open_store(db) as store, store.reading() as connection:
        found = stored.list_sweeps(connection)
    rows = [
        {
            **picked(sweep, "name", "revision", tasks="task_count", excluded_combinations="excluded_count"),
            "state": _state(sweep),
            "engines": [engine.name for engine in sweep.engines],
            "created_at": sweep.created_at.isoformat(),
            "finished_at": sweep.finished_at and sweep.finished_at.isoformat(),
        }
        for sweep in found
    ]
    if output.json:
        print_json({"sweeps": rows})
        return
    if not rows and output.for_people:
        err().print("no sweeps yet: gpuscout run SPEC")
        return
    print_rows(_LISTED, rows, output)


_LISTED = (
    Column("name", "sweep"),
    a_figure("revision", "revision", str),
    a_figure("tasks", "tasks", whole_number),
    Column("engines", "engines", ", ".join),
    Column("created_at", "created", lambda time: f"{time[:16].replace('T', ' ')} UTC"),
    Column("state", "state"),
)


@sweeps.command("show", epilog="Example: gpuscout sweeps show quickstart")
def show_sweep(name: Name, db: Db = DEFAULT_STORE, json: Json = False) -> None:
    """Show the progress, failures and exclusions of a sweep."""
    from gpuscout.store.ranking.answer.losers import excluded as excluded_of
    from gpuscout.store.ranking.question.asked import Question
    from gpuscout.store.ranking.question.scope import scope_of
    from gpuscout.store.results.blocks import sweep_progress
    from gpuscout.store.results.failure_groups import failure_groups
    from gpuscout.store.results.sweeps import named_sweep

    with open_store(db) as store, store.reading() as connection:
        sweep = named_sweep(connection, name)
        progress = sweep_progress(connection, sweep.id)
        groups = failure_groups(connection, sweep.id)
        excluded = excluded_of(connection, scope_of(connection, Question(sweep=sweep.name)))
    if json:
        print_json(_document(sweep, progress, groups, excluded))
    else:
        _print_sweep(sweep, progress, groups, excluded)


@sweeps.command("resume", epilog="Example: gpuscout sweeps resume capacity --retry-failed")
@grouped
def resume_sweep(
    name: Name,
    asking: AskOptions,
    prices: PriceOptions,
    execution: ExecutionOptions,
    gpu_file: GpuFile = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Resume a sweep without its file. Its tasks must still be the same."""
    from gpuscout.runner.api import run as api

    with open_store(db) as store:
        spec, _ = api.stored_spec(store, name)
        run_and_report(
            store,
            spec,
            partial(api.resume, store, name),
            asking.question(spec, prices),
            top=asking.top,
            json=json,
            **execution.arguments(gpu_file),
        )


@sweeps.command("cancel", epilog="Example: gpuscout sweeps cancel capacity")
def cancel_sweep(name: Name, db: Db = DEFAULT_STORE, json: Json = False) -> None:
    """Stop a sweep, wherever it runs. Blocks under way are finished, no more are begun; stored results stay."""
    from gpuscout.store.results import sweeps as stored
    from gpuscout.store.results.blocks import sweep_progress
    from gpuscout.store.results.sweeps import named_sweep

    with open_store(db) as store, store.writing() as connection:
        sweep = named_sweep(connection, name)
        cancelled = stored.cancel_sweep(connection, sweep.id)
        progress = sweep_progress(connection, sweep.id)
    if json:
        print_json({"sweep": sweep.name, "revision": sweep.revision, "cancelled": cancelled})
    elif cancelled:
        err().print(
            f"{name} is cancelled: {progress.tasks_done:,} of {progress.tasks:,} tasks are stored.\n"
            f"gpuscout sweeps resume {name}   goes on."
        )
    else:
        err().print(f"nothing to cancel: {name} is {_state(sweep)}.")


@sweeps.command("delete", epilog="Example: gpuscout sweeps delete first-look --yes")
def delete_sweep(
    name: Name,
    revision: Annotated[
        int | None, typer.Option("--revision", help="The revision to delete (default: the one run last).")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Delete a sweep and the results that no other sweep uses. Measured runs always stay."""
    from gpuscout.store.database.locks import RunnerLock
    from gpuscout.store.results import sweeps as stored
    from gpuscout.store.results.sweeps import named_sweep

    with open_store(db) as store:
        with store.reading() as connection:
            sweep = named_sweep(connection, name, revision)
        if not yes:
            _confirm(f"delete {sweep.name}, revision {sweep.revision}, with {count(sweep.task_count, 'task')}?")
        with RunnerLock(store).held(), store.writing() as connection:
            deleted = stored.delete_sweep(connection, sweep.id)
    if json:
        print_json(
            {
                "sweep": sweep.name,
                "revision": sweep.revision,
                "deleted_tasks": deleted.tasks,
                "deleted_operating_points": deleted.points,
                "deleted_failures": deleted.failures,
            }
        )
        return
    kept = sweep.task_count - deleted.tasks
    others = f"; up to {count(kept, 'task')} stay, which other sweeps use or which were not computed" if kept else ""
    err().print(
        f"deleted {sweep.name}, revision {sweep.revision}: {count(deleted.tasks, 'task')} with "
        f"{count(deleted.points, 'operating point')}{others}."
    )


def _confirm(what: str) -> None:
    """Raise InputError without a terminal to ask at, Abort when the answer is no."""
    if not sys.stdin.isatty():
        raise InputError(f"cannot ask without a terminal: {what}", hint="--yes deletes without asking")
    typer.confirm(what, abort=True, err=True)


def _state(sweep: SweepRecord) -> str:
    if sweep.finished_at:
        return "finished"
    return "cancelled" if sweep.cancelled_at else "unfinished"


def _document(
    sweep: SweepRecord, progress: SweepProgress, groups: list[FailureGroup], excluded: Sequence[SweepExclusion]
) -> dict[str, object]:
    return {
        **picked(sweep, "name", "revision", "description", excluded_combinations="excluded_count"),
        "state": _state(sweep),
        **picked(progress, "blocks", "tasks", "tasks_done", blocks_done="done", blocks_claimed="claimed"),
        "tasks_failed": sum(progress.failures.values()),
        "created_at": sweep.created_at.isoformat(timespec="seconds"),
        "finished_at": sweep.finished_at and sweep.finished_at.isoformat(timespec="seconds"),
        "failures": [asdict(group) for group in groups],
        "exclusions": [asdict(exclusion) for exclusion in excluded],
    }


def _print_sweep(
    sweep: SweepRecord, progress: SweepProgress, groups: list[FailureGroup], excluded: Sequence[SweepExclusion]
) -> None:
    failed = sum(progress.failures.values())
    share = 100 * progress.tasks_done / max(progress.tasks, 1)
    state = _state(sweep)
    if progress.claimed and not sweep.finished_at:
        state += f", {count(progress.claimed, 'block')} claimed by a runner"
    engines = ", ".join(dict.fromkeys(engine.name for engine in sweep.engines))
    print(f"{sweep.name}, revision {sweep.revision}: {state}")
    if sweep.description:
        print(f"  {sweep.description}")
    print(f"  engines   {engines}")
    print(f"  tasks     {progress.tasks_done:,} of {progress.tasks:,} done ({share:.0f} %), {failed:,} of them failed")
    print(f"  blocks    {progress.done:,} of {progress.blocks:,} done")
    print(f"  excluded  {count(sweep.excluded_count, 'combination')} that no engine could run")
    for one in excluded[:_MOST_GROUPS]:
        of = " and ".join(filter(None, (one.model, one.gpu)))
        text = f"{one.combinations:,} {one.reason.replace('_', ' ')}{f' ({of})' if of else ''}: {one.detail}"
        print(f"    {printable(text)}")
    if len(excluded) > _MOST_GROUPS:
        print(f"    {count(len(excluded) - _MOST_GROUPS, 'more reason')}; --json has all of them")
    times = f"  created   {sweep.created_at:%Y-%m-%d %H:%M} UTC"
    print(times + (f", finished {sweep.finished_at:%Y-%m-%d %H:%M} UTC" if sweep.finished_at else ""))
    for group in groups[:_MOST_GROUPS]:
        tried = count(group.attempts, "run")
        print(f"\n{count(group.tasks, 'task')} failed: {group.outcome.value.replace('_', ' ')} ({group.engine})")
        print(f"  {printable(group.message)}")
        print(f"  for example {group.example}; tried in {tried}")
    if len(groups) > _MOST_GROUPS:
        print(f"\n{count(len(groups) - _MOST_GROUPS, 'more reason')}; --json has all of them")
    if groups:
        print(f"\ngpuscout sweeps resume {sweep.name} --retry-failed   tries them again")
