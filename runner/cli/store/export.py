"""`gpuscout export`: stored results as CSV, JSON Lines or Parquet; `gpuscout import` takes the last two back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, count, err
from gpuscout.runner.cli.options import Filters, grouped
from gpuscout.runner.cli.streams import exact
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.reading import writing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpuscout.store.transfer.files import Format
    from gpuscout.store.transfer.rows import Row

_STDOUT = "-"


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout export --sweep capacity --output capacity.parquet"
    app.command("export", rich_help_panel="Sweeps", epilog=example)(export)


@grouped
def export(
    filters: Filters,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A .csv, .jsonl or .parquet file; -: standard output.")
    ],
    form: Annotated[
        str | None, typer.Option("--format", help="csv, jsonl or parquet (default: by the file's name).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Write stored results to a file, with their identifiers.

    The file is an archive, a table for other tools, or the way to another store.
    """
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.transfer.files import Format, format_of, write_text
    from gpuscout.store.transfer.rows import export_rows

    file = Path(output)
    chosen = _format(form) if form else Format.CSV if output == _STDOUT else format_of(file)
    if output == _STDOUT and chosen is Format.PARQUET:
        raise InputError("Parquet goes to a file, not to standard output", hint="name one with --output")
    if output != _STDOUT and file.exists() and not force:
        raise InputError(f"{file} already exists", hint="--force replaces it")
    with open_store(db) as store, store.reading() as connection:
        rows = export_rows(connection, filters.question())
        if output == _STDOUT:
            written = write_text(rows, exact(sys.stdout), chosen)
        else:
            written = _to_file(rows, file, chosen, like=store.path)
    place = "" if output == _STDOUT else f" to {file}"
    err().print(f"{count(written, 'row')} written{place}")


def _to_file(rows: Iterable[Row], file: Path, form: Format, *, like: Path | None) -> int:
    """Write beside the file and move it there when it is whole. Raises InputError."""
    from gpuscout.store.transfer.files import write_file
    from gpuscout.store.transfer.whole_file import whole_file

    with writing(file), whole_file(file, like=like) as stream:
        return write_file(rows, stream, form)


def _format(text: str) -> Format:
    from gpuscout.store.transfer.files import Format
    from gpuscout.sweeps.errors import UnknownNameError, nearest

    try:
        return Format(text.casefold())
    except ValueError:
        formats = [form.value for form in Format]
        hint = f"allowed: {', '.join(formats)}"
        raise UnknownNameError("format", text, nearest(text.casefold(), formats), hint=hint) from None
