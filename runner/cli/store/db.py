"""`gpuscout db status | upgrade | copy`: the schema revision of a store, and moving results between stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, err, print_json

if TYPE_CHECKING:
    from gpuscout.store.transfer.copy import Copied

db_commands = typer.Typer(
    help="Status, upgrades and copies of stores.", no_args_is_help=True, epilog="Example: gpuscout db status"
)


def register(app: typer.Typer) -> None:
    app.add_typer(db_commands, name="db", rich_help_panel="Store")


@db_commands.command("status", epilog="Example: gpuscout db status --db postgresql://scout@db/gpuscout")
def status(db: Db = DEFAULT_STORE, json: Json = False) -> None:
    """Show the store's revision. Exit 0: up to date, 3: not reachable, 4: outdated."""
    from gpuscout.store.database.upgrade import store_status

    found = store_status(db)
    if json:
        print_json({"store": found.url, "revision": found.current, "head": found.head, "up_to_date": found.up_to_date})
    else:
        print(f"{found.url}: {found.summary}")
    if not found.up_to_date:
        raise typer.Exit(4)


@db_commands.command("upgrade", epilog="Example: gpuscout db upgrade --db sqlite:///gpuscout.db")
def upgrade(db: Db = DEFAULT_STORE) -> None:
    """Upgrade a store to this version's schema. A SQLite file is backed up first."""
    from gpuscout.store.database.upgrade import upgrade_store

    done = upgrade_store(db)
    print(done.summary)


@db_commands.command("copy", epilog="Example: gpuscout db copy gpuscout.db postgresql://scout@db/gpuscout")
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store to read: a file or a URL.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The store to add to; made when it does not exist.")],
    json: Json = False,
) -> None:
    """Add all results and sweeps of one store to another.

    What DST holds never changes. Copying again adds only what is new; a copy that was stopped goes on.
    """
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.transfer.copy import copy_store

    with (
        open_store(source) as read,
        open_store(target, create=True, like=read.path) as write,
        _progress(quiet=json) as on_progress,
    ):
        copied = copy_store(read, write, on_progress=on_progress)
        place = write.url_for_display
    if json:
        print_json({"store": place, **asdict(copied)})
        return
    print(
        f"{place}: {count(copied.sweeps, 'sweep')}, {count(copied.tasks, 'task')}, "
        f"{count(copied.points, 'operating point')}, {count(copied.measured_runs, 'measured run')}, "
        f"{count(copied.prices, 'price')} and {count(copied.failures, 'failure')} added; "
        f"{copied.tasks_seen - copied.tasks:,} of {count(copied.tasks_total, 'task')} were there"
    )


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Copied], None]]:
    """Yield a callback for every portion. Shows nothing when quiet or when standard error is not a terminal."""
    console = err()
    if quiet or not console.is_terminal:
        yield lambda copied: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=20), TextColumn("{task.percentage:>3.0f} %  {task.fields[text]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        line = bar.add_task("", total=1, text="")
        yield lambda copied: bar.update(
            line,
            total=max(copied.tasks_total, 1),
            completed=copied.tasks_seen,
            text=f"{copied.tasks_seen:,}/{copied.tasks_total:,} tasks, {copied.points:,} points added",
        )
