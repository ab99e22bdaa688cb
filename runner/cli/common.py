"""Parts that all commands share: common options, where output goes, printing of tables and documents."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.streams import documents, messages, styled
from gpuscout.sweeps.errors import InputError, NothingQualifiesError
from gpuscout.sweeps.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from gpuscout.store.database.connect import Store

DEFAULT_STORE = "sqlite:///gpuscout.db"
SCHEMA_VERSION = 1
# The question was answered, and the answer is that nothing meets it.
EXIT_NOTHING_QUALIFIES = NothingQualifiesError.exit_code
# A terminal that says nothing about its width gets lines that a file can hold.
_WIDTH_OF_A_FILE = 200
_GAP = 2
# What a column of words keeps of its width, however narrow the terminal is.
_LEAST = 8

Db = Annotated[
    str,
    typer.Option(
        "--db",
        envvar="GPUSCOUT_DB",
        metavar="URL",
        help="The store: sqlite:///FILE or postgresql://USER@HOST/NAME.",
        rich_help_panel="Common options",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output.", rich_help_panel="Common options"),
]


def out() -> Console:
    """Return the console for data."""
    return _console(sys.stdout)


def err() -> Console:
    """Return the console for messages and progress."""
    return _console(messages())


def _console(stream: Any) -> Console:
    from gpuscout.runner.cli.console import PrintableConsole

    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_FILE
    return PrintableConsole(
        file=styled(stream), highlight=False, soft_wrap=False, width=width, emoji=False, markup=False
    )


def document_head() -> dict[str, object]:
    """Return the first keys of every document: the meaning of its keys, and who wrote it when."""
    from datetime import UTC, datetime

    from gpuscout import __version__

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"schema_version": SCHEMA_VERSION, "gpuscout_version": __version__, "created_at": now}


def json_text(document: Mapping[str, object]) -> str:
    """Return one document for machines; keys carry units and never change meaning within a `schema_version`."""
    return json.dumps({**document_head(), **document}, indent=2, default=str, allow_nan=False)


def open_store(url: str, *, create: bool = False) -> Store:
    """Open the store of a command; commands that need none start without importing SQLAlchemy."""
    from gpuscout.store.database import connect

    return connect.open_store(url, create=create)


def leave_if_nothing(anything: bool) -> None:
    """End with the exit status that says so where nothing qualifies."""
    if not anything:
        raise typer.Exit(EXIT_NOTHING_QUALIFIES)


def print_json(document: Mapping[str, object]) -> None:
    """Print one document for machines."""
    print(json_text(document), file=documents())


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Iterable[str] = (),
    whole: Iterable[str] = (),
    drop: Sequence[str] = (),
) -> None:
    """Print a plain table on standard output.

    `right` names the columns that are figures: they never wrap; nor do those of `whole`, which are names. `drop` names
    columns that are left out, the first one first, until the table fits the terminal; where that is not enough,
    headings take a second line. A figure is never cut: rather is the table wider than the terminal.
    """
    from rich.table import Table

    cells = [["" if value is None else printable(str(value)) for value in row] for row in rows]
    shown = list(range(len(columns)))
    texts = list(zip(columns, *cells, strict=True))
    widths = [max(map(len, column)) for column in texts]
    for name in drop:
        if sum(widths[i] + _GAP for i in shown) - _GAP <= out().width:
            break
        shown.remove(columns.index(name))
    figures = set(right)
    unbroken = figures | set(whole)
    heads = list(columns)
    if sum(widths[i] + _GAP for i in shown) - _GAP > out().width:
        heads = [on_two_lines(name) if name in figures else name for name in columns]
    least = [
        max(map(len, (*head.split("\n"), *column))) if name in unbroken else min(width, _LEAST)
        for (name, *column), head, width in zip(texts, heads, widths, strict=True)
    ]
    table = Table(
        box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", title=title, title_justify="left"
    )
    for i in shown:
        name = columns[i]
        table.add_column(
            heads[i],
            justify="right" if name in figures else "left",
            no_wrap=name in unbroken,
            min_width=least[i],
            overflow="fold",
        )
    for row in cells:
        table.add_row(*(row[i] for i in shown))
    needed = sum(least[i] + _GAP for i in shown) - _GAP
    console = out()
    console.width = max(needed, console.width)
    console.print(table)


def on_two_lines(heading: str) -> str:
    """Return a heading broken at the space that leaves it narrowest: "USD/Mtok (80 % range)" in 11 characters."""
    breaks = [place for place, letter in enumerate(heading) if letter == " "]
    if not breaks:
        return heading
    best = min(breaks, key=lambda place: max(place, len(heading) - place - 1))
    return f"{heading[:best]}\n{heading[best + 1 :]}"


def list_by_default(group: typer.Typer, command: Callable[..., None]) -> None:
    """Make `gpuscout GROUP` mean `gpuscout GROUP list`; `command` is what lists."""

    @group.callback(invoke_without_command=True)
    def list_when_alone(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            command()


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Return text such as "1 task", "2 tasks" """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def write_file(text: str, file: Path, *, force: bool = False, hint: str = "--force replaces it") -> None:
    """Write a file of the user's. Raises InputError where it exists already, unless `force` replaces it."""
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise InputError(f"{file} exists already", hint=hint) from error
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error
