"""`gpuscout sweeps list | show`: the sweeps of a store and where they stand."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, print_json, print_table

sweeps = typer.Typer(help="The sweeps of a store.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(sweeps, name="sweeps", rich_help_panel="Sweeps")


@sweeps.command("list", epilog="Example: gpuscout sweeps list")
def list_sweeps(db: Db = DEFAULT_STORE, json: Json = False) -> None:
    """List sweeps and their revisions, the one run last first."""
    from gpuscout.store import sweeps as stored
    from gpuscout.store.connect import open_store

    with open_store(db) as store, store.reading() as connection:
        found = stored.list_sweeps(connection)
    if json:
        print_json(
            {
                "sweeps": [
                    {
                        "name": sweep.name,
                        "revision": sweep.revision,
                        "tasks": sweep.task_count,
                        "excluded_combinations": sweep.excluded_count,
                        "engines": [engine.name for engine in sweep.engines],
                        "created_at": sweep.created_at.isoformat(),
                        "finished_at": sweep.finished_at and sweep.finished_at.isoformat(),
                    }
                    for sweep in found
                ]
            }
        )
        return
    print_table(
        ["sweep", "revision", "tasks", "engines", "created", "state"],
        [
            [
                sweep.name,
                sweep.revision,
                f"{sweep.task_count:,}",
                ", ".join(engine.name for engine in sweep.engines),
                f"{sweep.created_at:%Y-%m-%d %H:%M} UTC",
                "finished" if sweep.finished_at else "unfinished",
            ]
            for sweep in found
        ],
        right=["revision", "tasks"],
    )


@sweeps.command("show", epilog="Example: gpuscout sweeps show quickstart")
def show_sweep(
    name: Annotated[str, typer.Argument(help="The sweep's name: its newest revision is shown.")],
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show how far a sweep is and what failed."""
    from gpuscout.store.blocks import open_failures, sweep_progress
    from gpuscout.store.connect import open_store
    from gpuscout.store.sweeps import list_sweeps, sweep_by_name
    from gpuscout.sweeps.errors import UnknownNameError, nearest

    with open_store(db) as store, store.reading() as connection:
        sweep = sweep_by_name(connection, name)
        if sweep is None:
            names = sorted({known.name for known in list_sweeps(connection)})
            raise UnknownNameError(
                "sweep", name, nearest(name, names), hint=f"sweeps here: {', '.join(names) or 'none'}"
            )
        progress = sweep_progress(connection, sweep.id)
        failed = open_failures(connection, sweep.id)
    document = {
        "name": sweep.name,
        "revision": sweep.revision,
        "description": sweep.description,
        "blocks_done": progress.done,
        "blocks": progress.blocks,
        "tasks_done": progress.tasks_done,
        "tasks": progress.tasks,
        "excluded_combinations": sweep.excluded_count,
        "created_at": sweep.created_at.isoformat(timespec="seconds"),
        "finished_at": sweep.finished_at and sweep.finished_at.isoformat(timespec="seconds"),
        "failures": [{"outcome": failure.outcome.value, "message": failure.message} for failure in failed],
    }
    if json:
        print_json(document)
        return
    for key, value in document.items():
        if key != "failures":
            print(f"{key:22} {value}")
    for failure in failed:
        print(f"failed: {failure.outcome}: {failure.message}")
