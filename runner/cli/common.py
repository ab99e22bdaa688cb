"""What all commands share: their common options, where output goes, how tables and documents are printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_STORE = "sqlite:///gpuscout.db"
SCHEMA_VERSION = 1
# A terminal that says nothing about its width gets lines that a file can hold.
_WIDTH_OF_A_FILE = 200

Db = Annotated[
    str,
    typer.Option(
        "--db",
        envvar="GPUSCOUT_DB",
        metavar="URL",
        help="The store: sqlite:///FILE or postgresql://USER@HOST/NAME.",
        rich_help_panel="Everywhere",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output.", rich_help_panel="Everywhere"),
]


def out() -> Console:
    """Where data goes."""
    return _console(sys.stdout)


def err() -> Console:
    """Where messages and progress go."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_FILE
    return Console(file=stream, highlight=False, soft_wrap=False, width=width, emoji=False, markup=False)


def print_json(document: Mapping[str, object]) -> None:
    """One document for machines; keys carry units and never change meaning within a `schema_version`."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, default=str, allow_nan=False))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, right: Iterable[str] = ()
) -> None:
    """A plain table on standard output. `right` names the columns that are figures: they never wrap."""
    from rich.table import Table

    figures = set(right)
    table = Table(
        box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold", title=title, title_justify="left"
    )
    for column in columns:
        figure = column in figures
        table.add_column(column, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    out().print(table)


def count(number: int, singular: str, plural: str | None = None) -> str:
    """ "1 task", "2 tasks" """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
