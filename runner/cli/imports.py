"""`gpuscout import`: measured results into the store, and what was imported listed and removed."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, print_json, print_table
from gpuscout.runner.cli.options import grouped
from gpuscout.sweeps.errors import InputError, NoStoreError

if TYPE_CHECKING:
    from gpuscout.runner.imports.exports import ImportedExport
    from gpuscout.runner.imports.files import ImportedFile
    from gpuscout.store.measured.stored import ImportedGroup, NewRun

_SHOWN = 20


def register(app: typer.Typer) -> None:
    app.command(
        "import",
        rich_help_panel="Store",
        epilog="Example: gpuscout import results/*.json --gpu H100 --tp 1 --server vllm --server-version 0.24.0",
    )(import_results)


def _fact(flag: str, metavar: str, text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel="What the files do not say")


@dataclass(frozen=True)
class Facts:
    """What is said of all runs of an import; None: nothing. An option group, see `options.grouped`."""

    model: Annotated[str | None, _fact("--model", "NAME", "The model: a name, org/name or ./folder.")] = None
    gpu: Annotated[str | None, _fact("--gpu", "NAME", "The GPU.")] = None
    tp: Annotated[str | None, _fact("--tp", "N", "Tensor parallelism.")] = None
    pp: Annotated[str | None, _fact("--pp", "N", "Pipeline parallelism (1 if nobody says).")] = None
    dp: Annotated[str | None, _fact("--dp", "N", "Data parallelism (1 if nobody says).")] = None
    ep: Annotated[str | None, _fact("--ep", "N", "Expert parallelism (1 if nobody says).")] = None
    server: Annotated[str | None, _fact("--server", "NAME", "vllm, sglang or trtllm.")] = None
    server_version: Annotated[str | None, _fact("--server-version", "VERSION", "Such as 0.24.0, or unknown.")] = None
    precision: Annotated[
        str | None, _fact("--precision", "NAME", "Of the weights (the model's own if nobody says).")
    ] = None
    kv_precision: Annotated[
        str | None, _fact("--kv-precision", "NAME", "Of the KV cache (unknown if nobody says).")
    ] = None
    input_len: Annotated[str | None, _fact("--input-len", "TOKENS", "Input tokens of a request.")] = None
    output_len: Annotated[str | None, _fact("--output-len", "TOKENS", "Output tokens of a request.")] = None
    concurrency: Annotated[str | None, _fact("--concurrency", "N", "Requests always in flight.")] = None
    request_rate: Annotated[str | None, _fact("--request-rate", "RATE", "Requests per second.")] = None
    gpu_memory_utilization: Annotated[
        str | None, _fact("--gpu-memory-utilization", "FRACTION", "The server's share of GPU memory (0.9).")
    ] = None
    max_model_len: Annotated[
        str | None, _fact("--max-model-len", "TOKENS", "The longest sequence (input + output).")
    ] = None
    source: Annotated[str | None, _fact("--source", "TEXT", "Where the runs come from (the file).")] = None


@grouped
def import_results(
    facts: Facts,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FORMAT] FILE…",
            help="Results of vllm, guidellm, llm-d, aiperf, llm-optimizer or csv, or what `gpuscout export` wrote; "
            "`public`: the runs that ship.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="YAML: patterns of files or labels -> the above."),
    ] = None,
    gpu_file: Annotated[Path | None, typer.Option("--gpu-file", help="A YAML file with GPUs of your own.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be stored; store nothing.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List what was imported: all, or FILE… (patterns).")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what was imported from FILE… (patterns).")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put measured results into the store, beside the estimates.

    A run is known by its content: importing again adds nothing. What a file does not say must be said here, or it is
    refused. A refused or broken file imports nothing and stops no other (exit 2).
    """
    if list_ or remove:
        if dry_run or (list_ and remove):
            raise InputError("--list, --remove and --dry-run do not go together")
        if list_:
            _list(arguments or [], db, json=json)
        else:
            _remove(arguments or [], db, yes=yes, json=json)
        return
    if not arguments:
        raise InputError("no files given", hint="gpuscout import FILE…; `gpuscout import public` has public runs")
    _import(arguments, asdict(facts), mapping, gpu_file, db, dry_run=dry_run, json=json)


def _import(
    arguments: list[str],
    flags: dict[str, str | None],
    mapping: Path | None,
    gpu_file: Path | None,
    db: str,
    *,
    dry_run: bool,
    json: bool,
) -> None:
    from gpuscout.runner.imports.complete import Completer
    from gpuscout.runner.imports.exports import import_exports, split_exports
    from gpuscout.runner.imports.files import compare_files, read_files, split_format, store_file
    from gpuscout.runner.imports.given import Mappings, from_flags
    from gpuscout.runner.models import ModelFinder
    from gpuscout.store.connect import open_store
    from gpuscout.store.models import ModelsAt
    from gpuscout.sweeps.gpu_catalogue import GpuCatalogue

    exports, arguments = split_exports(arguments)
    refused = False
    if exports:
        if json and arguments:
            raise InputError("--json tells of exports or of other results, not of both", hint="import them apart")
        with open_store(db, create=True) as store:
            taken = import_exports(exports, store, dry_run=dry_run)
        _print_exports(taken, dry_run=dry_run, json=json)
        refused = any(file.error for file in taken)
    if not arguments:
        raise typer.Exit(2 if refused else 0)
    chosen, names = split_format(arguments)
    catalogue = GpuCatalogue.load()
    completer = Completer(
        from_flags(flags),
        Mappings() if mapping is None else Mappings.read(mapping),
        catalogue if gpu_file is None else catalogue.with_file(gpu_file),
        ModelFinder(ModelsAt(db)),
    )
    files = list(read_files(names, chosen, completer))
    if dry_run:
        try:
            with open_store(db) as store:
                compare_files(files, store)
        except NoStoreError:
            compare_files(files, None)
    elif any(file.runs for file in files):
        with open_store(db, create=True) as store:
            for file in files:
                store_file(store, file)
    for pattern in sorted(completer.mappings.unused):
        print(f'note: {mapping}: "{pattern}" matches nothing that was imported', file=sys.stderr)
    if json:
        print_json(_document(files, dry_run=dry_run))
    else:
        _print_files(files, dry_run=dry_run)
    _print_refused(files)
    if refused or any(file.error for file in files):
        raise typer.Exit(2)


def _print_exports(exports: Sequence[ImportedExport], *, dry_run: bool, json: bool) -> None:
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


def _print_files(files: Sequence[ImportedFile], *, dry_run: bool) -> None:
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


def _print_refused(files: Iterable[ImportedFile]) -> None:
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


def _document(files: Sequence[ImportedFile], *, dry_run: bool) -> dict[str, object]:
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
        "details": run.details,
    }


# --- what was imported -------------------------------------------------------------------------------------------


def _list(patterns: list[str], db: str, *, json: bool) -> None:
    from gpuscout.store.connect import open_store
    from gpuscout.store.measured.stored import imported_groups

    with open_store(db) as store, store.reading() as connection:
        groups = imported_groups(connection, patterns)
    if json:
        print_json({"imported": [_group_document(group) for group in groups], "runs": sum(g.runs for g in groups)})
    elif groups:
        _print_groups(groups)
    else:
        print("nothing was imported" + (f" from {', '.join(patterns)}" if patterns else ""))


def _remove(patterns: list[str], db: str, *, yes: bool, json: bool) -> None:
    from gpuscout.store.connect import open_store
    from gpuscout.store.measured.stored import imported_groups, remove_runs

    if not patterns:
        raise InputError("nothing to remove given", hint="name files or sources: `gpuscout import --list` has them")
    with open_store(db) as store:
        with store.reading() as connection:
            groups = imported_groups(connection, patterns)
        runs = sum(group.runs for group in groups)
        if not runs:
            raise InputError(
                f"no run was imported from {', '.join(patterns)}", hint="`gpuscout import --list` has files and sources"
            )
        if not yes:
            _confirm(groups, runs)
        with store.writing() as connection:
            removed = remove_runs(connection, patterns)
    if json:
        print_json({"removed_runs": removed.runs, "removed_percentiles": removed.percentiles})
    else:
        print(f"removed {count(removed.runs, 'measured run')}; estimates are untouched")


def _confirm(groups: Sequence[ImportedGroup], runs: int) -> None:
    """Raises InputError where nobody can be asked, Abort when the answer is no."""
    places = dict.fromkeys(group.file or group.source for group in groups)
    what = f"remove {count(runs, 'measured run')} of {', '.join(places)}?"
    if not sys.stdin.isatty():
        raise InputError(f"nobody can be asked here: {what}", hint="--yes removes without asking")
    typer.confirm(what, abort=True, err=True)


def _print_groups(groups: Sequence[ImportedGroup]) -> None:
    rows = []
    for group in groups:
        days = [str(day) for day in (group.measured_from, group.measured_to) if day is not None]
        rows.append(
            (
                group.file,
                None if group.source == group.file else group.source,
                group.tool,
                " to ".join(dict.fromkeys(days)),
                group.imported_at.date(),
                group.runs,
            )
        )
    columns = ["file", "source", "tool", "measured", "imported", "runs"]
    print_table(columns, rows, right=["runs"], whole=["imported"], drop=["imported", "measured"])
    print(f"{count(sum(group.runs for group in groups), 'run')}")


def _group_document(group: ImportedGroup) -> dict[str, object]:
    return {
        "file": group.file,
        "source": group.source,
        "tool": group.tool,
        "runs": group.runs,
        "measured_from": group.measured_from,
        "measured_to": group.measured_to,
        "imported_at": group.imported_at.isoformat(),
    }
