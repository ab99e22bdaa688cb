"""Imports gpuscout's own exports one file at a time; a broken file is skipped without affecting the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuscout.store.database.connect import Store
from gpuscout.store.transfer.copy import Copied
from gpuscout.store.transfer.files import is_export
from gpuscout.store.transfer.reader import read_back, size_of
from gpuscout.sweeps.errors import GpuscoutError, InputError

FORMAT = "gpuscout"


@dataclass
class ImportedExport:
    """One file: what it added (of a dry run: what it holds), or why nothing."""

    name: str
    tasks: int = 0
    points: int = 0
    measured_runs: int = 0
    error: GpuscoutError | None = None


def split_exports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the exports among `[FORMAT] FILE…`, and the arguments that are left. Raises InputError."""
    if arguments[0] == FORMAT and not Path(FORMAT).exists():
        if len(arguments) == 1:
            raise InputError(f"no files given for the format {FORMAT}", hint=f"for a file of that name: ./{FORMAT}")
        return list(arguments[1:]), []
    exports = [name for name in arguments if _is_export(Path(name))]
    return exports, [name for name in arguments if name not in exports]


def import_exports(names: Iterable[str], store: Store, *, dry_run: bool) -> list[ImportedExport]:
    """Return every file, in order; what is wrong with one is its `error`.

    Raises StoreBusyError, StoreUnreachableError.
    """
    files = []
    for name in names:
        done = ImportedExport(name)
        try:
            added: Copied = size_of(Path(name), store) if dry_run else read_back(Path(name), store)
            done.tasks, done.points, done.measured_runs = added.tasks, added.points, added.measured_runs
        except InputError as error:
            done.error = error
        files.append(done)
    return files


def _is_export(file: Path) -> bool:
    try:
        return file.is_file() and is_export(file)
    except OSError:
        return False
