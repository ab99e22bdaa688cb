"""What `gpuscout import` tells: of every file what was added or refused, as tables or as a document."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gpuscout.runner.cli.common import count, print_json, print_table

if TYPE_CHECKING:
    from gpuscout.runner.imports.exports import ImportedExport
    from gpuscout.runner.imports.files import ImportedFile
    from gpuscout.store.measured.stored import NewRun

_SHOWN = 20


def print_exports(exports: Sequence[ImportedExport], *, dry_run: bool, json: bool) -> None:
    """Tell what exports added, and why some were refused."""
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
            told = [
                count(file.tasks, "task"),
                count(file.points, "operating point"),
                count(file.measured_runs, "measured run"),
            ]
            print(f"{file.name}: {', '.join(told)} {'in it' if dry_run else 'added'}")
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
    told = [f"{count(added, 'run')} {'would be added' if dry_run else 'added'}", f"{known:,} already there"]
    told += [f"{count(refused, 'file')} refused"] if refused else []
    print(", ".join(told))
    notes = [note for file in sound for note in file.notes]
    for note in notes[:_SHOWN]:
        print(f"note: {note}", file=sys.stderr)
    if len(notes) > _SHOWN:
        print(f"… and {count(len(notes) - _SHOWN, 'more note')} (--json lists all)", file=sys.stderr)


def _print_runs(runs: Sequence[tuple[NewRun, bool]]) -> None:
    def figure(value: float | None, digits: int = 0) -> str | None:
        return None if value is None else f"{value:,.{digits}f}"

    by_model: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    for run, new in runs[:_SHOWN]:
        case = run.case
        kv = f" kv-{case.kv_precision}" if run.kv_known else ""
        by_model[case.model.name].append(
            (
                f"{case.gpu.name} x{case.num_gpus} {case.precision}{kv}",
                f"{case.server} {run.server_version or ''}".rstrip(),
                f"{case.input_len}/{case.output_len}",
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


def _load(run: NewRun) -> str:
    kind, concurrency, rate = run.load
    if kind == "request_rate":
        return f"{rate:g}/s"
    return "maximum" if concurrency is None else f"c={concurrency}"


def print_refused(files: Iterable[ImportedFile]) -> None:
    """Why files were refused; files with the same reason together."""
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
                "file": file.name,
                "format": file.format,
                "added": file.added,
                "already_stored": file.already_stored,
                "error": None if file.error is None else file.error.message,
                "hint": None if file.error is None else file.error.hint,
                "notes": file.notes,
                "runs": [_run_document(run, new) for run, new in zip(file.runs, file.new, strict=True)],
            }
            for file in files
        ],
    }


def _run_document(run: NewRun, new: bool) -> dict[str, object]:
    from gpuscout.store.measured.stored import METRICS

    case, reported = run.case, run.reported
    return {
        "digest": run.digest().hex(),
        "new": new,
        "model": case.model.name,
        "gpu": case.gpu.name,
        "num_gpus": case.num_gpus,
        "tensor_parallel": case.tensor_parallel,
        "pipeline_parallel": case.pipeline_parallel,
        "data_parallel": case.data_parallel,
        "expert_parallel": case.expert_parallel,
        "precision": case.precision,
        "kv_precision": case.kv_precision if run.kv_known else None,
        "server": case.server,
        "server_version": run.server_version,
        "gpu_memory_utilization": case.gpu_memory_utilization,
        "max_model_len": case.context_len,
        "input_len": case.input_len,
        "output_len": case.output_len,
        "load": run.load.kind,
        "concurrency": run.load.concurrency,
        "request_rate_per_s": run.load.request_rate,
        **{name: run.figure(name) for name in METRICS},
        "native_itl_name": reported.native_itl_name,
        "native_itl_ms": reported.native_itl_ms,
        "percentiles": [
            {"metric": metric, "percentile": percentile, "value": value}
            for (metric, percentile), value in sorted(reported.percentiles.items())
        ],
        "tool": reported.tool,
        "measured_on": reported.measured_on,
        "source": run.source,
        "requests_completed": run.requests("completed"),
        "requests_failed": run.requests("failed"),
        "implausible": run.implausible,
        "details": run.details,
    }
