"""Rows as output of commands: a table for people, CSV, Markdown, and lists of rows within a JSON document.

A command that prints rows takes the options `Output`, says with `Column` what each cell is called and how it looks, and
hands both to `print_rows`. CSV holds the bare values under names that carry units; tables and Markdown are for reading.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import typer

from gpuscout.runner.cli.common import document_head, print_table
from gpuscout.runner.cli.streams import documents
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import printable

_PANEL = "Common options"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Output:
    """In which form rows are printed; none of these: as a table. An option group, see `options.grouped`."""

    json: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output.", rich_help_panel=_PANEL)
    ] = False
    csv: Annotated[bool, typer.Option("--csv", help="CSV: full precision, units in names.", rich_help_panel=_PANEL)] = (
        False
    )
    md: Annotated[bool, typer.Option("--md", help="A Markdown table.", rich_help_panel=_PANEL)] = False

    def __post_init__(self) -> None:
        chosen = [f"--{name}" for name in ("json", "csv", "md") if getattr(self, name)]
        if len(chosen) > 1:
            raise InputError(f"{' and '.join(chosen)} exclude each other", hint="choose one form of output")

    @property
    def for_people(self) -> bool:
        """Whether notes may stand around the rows."""
        return not (self.json or self.csv or self.md)


def number(value: float) -> str:
    """Return a figure in at most three places that tell something: "0.069", "4.25", "18.3", "12,135"."""
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def whole_number(value: float) -> str:
    """Return text such as "12,135" """
    return f"{value:,}"


def a_share(value: float) -> str:
    """Return text such as "18.3 %", "0.069 %" """
    return f"{number(100 * value)} %"


def yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


@dataclass(frozen=True)
class Column:
    """One column: `name` for machines, with its unit; `heading` and `show` (of a value that is known) for people.

    `figure`: to the right, never wrapped. `whole`: never wrapped. `unknown` is shown to people for None.
    """

    name: str
    heading: str
    show: Callable[[Any], str] = str
    figure: bool = False
    whole: bool = False
    unknown: str = ""

    def cell(self, row: Row) -> str:
        value = row[self.name]
        return self.unknown if value is None else self.show(value)


def a_figure(name: str, heading: str, show: Callable[[Any], str] = number, *, unknown: str = "-") -> Column:
    """Return a column of figures."""
    return Column(name, heading, show, figure=True, unknown=unknown)


def print_rows(
    columns: Sequence[Column],
    rows: Iterable[Row],
    output: Output,
    *,
    title: str | None = None,
    drop: Sequence[str] = (),
) -> None:
    """Print rows as a table, CSV or Markdown; CSV and Markdown are written as rows come, whatever their number.

    Rows map the names of columns to values, None where one is unknown. `drop` names columns that a table leaves out,
    the first one first, until it fits the terminal. JSON documents are each command's own.
    """
    if output.csv:
        _print_csv(columns, rows)
    elif output.md:
        _print_markdown(columns, rows)
    else:
        heading = {column.name: column.heading for column in columns}
        print_table(
            [column.heading for column in columns],
            [[column.cell(row) for column in columns] for row in rows],
            title=title,
            right=[column.heading for column in columns if column.figure],
            whole=[column.heading for column in columns if column.whole],
            drop=[heading[name] for name in drop if name in heading],
        )


def print_json_rows(document: Mapping[str, object], key: str, rows: Iterable[Row]) -> None:
    """Print a JSON document that ends in a list of rows, written as they come, each on a line of its own."""
    head = json.dumps({**document_head(), **document}, indent=2, default=_bare, allow_nan=False)
    write = documents().write
    write(f"{head.removesuffix('}').rstrip()},\n  {json.dumps(key)}: [")
    separator = "\n    "
    for row in rows:
        write(separator + json.dumps(row, default=_bare, allow_nan=False))
        separator = ",\n    "
    write("]\n}\n" if separator == "\n    " else "\n  ]\n}\n")


def print_line(text: str, output: Output) -> None:
    """Print a note beside a table, on standard output; other forms hold rows and nothing else."""
    if output.for_people:
        print(text)


def _print_csv(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Print CSV by RFC 4180: a header, CR LF, quotes only where they are needed; unknown values are empty."""
    writer = csv.writer(sys.stdout)
    writer.writerow([column.name for column in columns])
    names = [column.name for column in columns]
    writer.writerows([_bare(row[name]) for name in names] for row in rows)


def _bare(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value.isoformat() if isinstance(value, date) else value


def _print_markdown(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    def line(cells: Iterable[str]) -> None:
        print(f"| {' | '.join(cells)} |")

    line(_escaped(column.heading) for column in columns)
    line("---:" if column.figure else "---" for column in columns)
    for row in rows:
        line(_escaped(column.cell(row)) for column in columns)


def _escaped(text: str) -> str:
    """Return text for a cell: nothing in it ends the cell or the line, or is taken for markup."""
    for mark in ("\\", "|", "*", "`", "<"):
        text = text.replace(mark, f"\\{mark}")
    return printable(" ".join(text.split()))
