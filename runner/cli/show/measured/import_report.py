"""Report of `gpuscout import`: what was added or refused from each file, as tables or as a document."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gpuscout.runner.cli.common import count, print_json, print_table
from gpuscout.runner.cli.show.document import picked
from gpuscout.sweeps.settings import SHORT_SIZES

if TYPE_CHECKING:
    from gpuscout.runner.imports.exports import ImportedExport
    from gpuscout.runner.imports.files import ImportedFile
    from gpuscout.store.measured import MeasuredRun

_SHOWN = 20


def print_exports(exports: Sequence[ImportedExport], *, dry_run: bool, json: bool) -> None:
    """Print the rows that exports added, and the reasons why some were refused."""
    if json:
        document = [
            {
                "file": file.name,
                "tasks": file.tasks,
                "operating_points": file.points,
                "measured_runs": file.measured_runs,
                "error": None if file.error is None else file.error.message,
                "hint": None if file.error is None else file.error.hint,
            }
            for file in exports
        ]
        print_json({"dry_run": dry_run, "exports": document})
    else:
        for file in exports:
            if file.error is not None:
                continue
            parts = [
                count(file.tasks, "task"),
                count(file.points, "operating point"),
                count(file.measured_runs, "measured run"),
            ]
            print(f"{file.name}: {', '.join(parts)} {'in it' if dry_run else 'added'}")
    for file in exports:
        if file.error is not None:
            print(file.error.message, file=sys.stderr)
            if file.error.hint:
                print(f"    {file.error.hint}", file=sys.stderr)


def print_files(files: Sequence[ImportedFile], *, dry_run: bool) -> None:
    sound = [file for file in files if not file.error]
    if dry_run:
        _print_runs([(run, new) for file in sound for run, new in zip(file.runs, file.new, strict=True)])
    elif sound:
        rows = [(file.name, file.format, len(file.runs), file.added, file.already_stored) for file in sound[:_SHOWN]]
        columns = ["file", "format", "runs", "added", "already there"]
        print_table(columns, rows, right=columns[2:], drop=["runs", "format"])
        if len(sound) > _SHOWN:
            print(f"… and {count(len(sound) - _SHOWN, 'more file')} (--json lists all)")
    added, known = sum(file.added for file in files), sum(file.already_stored for file in files)
    refused = len(files) - len(sound)
    parts = [f"{count(added, 'run')} {'would be added' if dry_run else 'added'}", f"{known:,} already there"]
    parts += [f"{count(refused, 'file')} refused"] if refused else []
    print(", ".join(parts))
    notes = [note for file in sound for note in file.notes]
    for note in notes[:_SHOWN]:
        print(f"note: {note}", file=sys.stderr)
    if len(notes) > _SHOWN:
        print(f"… and {count(len(notes) - _SHOWN, 'more note')} (--json lists all)", file=sys.stderr)


def _print_runs(runs: Sequence[tuple[MeasuredRun, bool]]) -> None:
    def figure(value: float | None, digits: int = 0) -> str | None:
        return None if value is None else f"{value:,.{digits}f}"

    by_model: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    for run, new in runs[:_SHOWN]:
        kv = f" kv-{run.kv_precision}" if run.kv_precision else ""
        by_model[run.model].append(
            (
                f"{run.gpu} x{run.num_gpus} {run.precision}{kv}",
                f"{run.server} {run.server_version or ''}".rstrip(),
                f"{run.input_len}/{run.output_len}",
                _load(run),
                figure(run.figure("ttft_ms")),
                figure(run.figure("itl_ms"), 1),
                figure(run.figure("output_tokens_per_s")),
                "yes" if new else "no",
            )
        )
    columns = ["deployment", "server", "in/out", "load", "TTFT ms", "ITL ms", "tok/s", "new"]
    for model, rows in by_model.items():
        right, whole = ["TTFT ms", "ITL ms", "tok/s"], ["in/out", "load"]
        print_table(columns, rows, title=model, right=right, whole=whole, drop=["new"])
    if len(runs) > _SHOWN:
        print(f"… and {count(len(runs) - _SHOWN, 'more run')} (--json lists all)")


def _load(run: MeasuredRun) -> str:
    if run.request_rate is not None:
        return f"{run.request_rate:g}/s"
    return "maximum" if run.concurrency is None else f"c={run.concurrency}"


def print_refused(files: Iterable[ImportedFile]) -> None:
    """Print the reasons why files were refused; files with the same reason together."""
    same: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for file in files:
        if file.error:
            same[file.error.message.removeprefix(f"{file.name}: "), file.error.hint].append(file.name)
    for (message, hint), names in same.items():
        if len(names) > 1:
            print(f"{names[0]} and {count(len(names) - 1, 'more file')}: {message}", file=sys.stderr)
        else:
            print(message if names[0] in message else f"{names[0]}: {message}", file=sys.stderr)
        if hint:
            print(f"    {hint}", file=sys.stderr)


def import_document(files: Sequence[ImportedFile], *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "added": sum(file.added for file in files),
        "already_stored": sum(file.already_stored for file in files),
        "refused": sum(file.error is not None for file in files),
        "files": [
            {
                **picked(file, "format", "added", "already_stored", "notes", file="name"),
                "error": None if file.error is None else file.error.message,
                "hint": None if file.error is None else file.error.hint,
                "runs": [_run_document(run, new) for run, new in zip(file.runs, file.new, strict=True)],
            }
            for file in files
        ],
    }


def _run_document(run: MeasuredRun, new: bool) -> dict[str, object]:
    from gpuscout.store.measured.runs import DEFAULT_MEMORY
    from gpuscout.sweeps.curves import METRICS

    return {
        "digest": run.digest().hex(),
        "new": new,
        **picked(run, "model", "gpu", "num_gpus", **{name: short for short, name in SHORT_SIZES.items()}),
        **picked(run, "precision", "kv_precision", "server", "server_version", "input_len", "output_len"),
        "gpu_memory_utilization": run.gpu_memory_utilization or DEFAULT_MEMORY,
        "load": run.load.name.lower(),
        **{name: run.figure(name) for name in METRICS},
        **picked(run, "concurrency", "native_itl_name", "native_itl_ms", "tool", "source", "implausible", "details"),
        **picked(run, max_model_len="context_len", request_rate_per_s="request_rate", measured_on="day"),
        "percentiles": [
            {"metric": metric, "percentile": percentile, "value": value}
            for (metric, percentile), value in sorted(run.percentiles.items())
        ],
        "requests_completed": run.requests("completed"),
        "requests_failed": run.requests("failed"),
    }
