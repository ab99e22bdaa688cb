"""Result files of one workload in every format, read, completed and imported as tests need it.

`tests/data/formats`: Qwen3-32B on two B200, 2,000 input and 200 output tokens, 16 requests in flight; means of 250 ms
TTFT, 20 ms ITL, 4.23 s end to end, 756.5 output tokens/s. Where a file holds several runs, this is the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from gpuscout.runner.imports.complete import Completer
from gpuscout.runner.imports.files import ImportedFile, read_files, store_file
from gpuscout.runner.imports.stated import Mappings, from_flags
from gpuscout.runner.resolve.models import ModelFinder
from gpuscout.store.database.connect import Store
from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.store.measured.formats import Reported, SourceFile, recognise
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

FOLDER = Path(__file__).parents[1] / "data" / "formats"
FILES = sorted(FOLDER.iterdir())
MODEL = "Qwen/Qwen3-32B"
FACTS = {"gpu": "B200", "tp": "2", "server": "vllm", "server_version": "0.19.1"}


def reported(name: str, change: Callable[[Any], None] | None = None) -> list[Reported]:
    """The runs of a file of `FOLDER`; or of its document after a change, as JSON."""
    data = (FOLDER / name).read_bytes()
    if change is not None:
        document = yaml.safe_load(data)
        change(document)
        data = json.dumps(document, default=str).encode()
    source = SourceFile(name, data)
    return list(recognise(source).read(source).runs)


def completer(mappings: Mappings | None = None, **facts: str) -> Completer:
    return Completer(from_flags(facts), mappings or Mappings(), GPUCatalogue.load(), ModelFinder())


def complete(run: Reported, **facts: str) -> MeasuredRun:
    return completer(**facts).complete(run, "file")[0]


def loaded(run: MeasuredRun) -> tuple[LoadKind, int | None, float | None]:
    return run.load, run.concurrency, run.request_rate


def completed(*names: str | Path, **facts: str) -> list[ImportedFile]:
    return list(read_files(map(str, names), None, completer(**(facts or FACTS))))


def imported(store: Store, *names: str | Path, **facts: str) -> list[ImportedFile]:
    """Files that are all sound, stored."""
    files = completed(*names, **facts)
    for file in files:
        assert file.error is None, file.error
        store_file(store, file)
    return files


def count(store: Store, table: sa.Table) -> int:
    with store.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
