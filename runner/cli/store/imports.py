"""`gpuscout import`: measured results into the store, and what was imported listed and removed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, err, open_store, print_json, print_table
from gpuscout.runner.cli.options import GpuFile, grouped
from gpuscout.runner.cli.show.measured.import_report import import_document, print_exports, print_files, print_refused
from gpuscout.runner.cli.show.measured.outliers import far_off, outlier_row
from gpuscout.sweeps.errors import InputError, NoStoreError
from gpuscout.sweeps.servers import ONE_OF_SERVERS

if TYPE_CHECKING:
    from gpuscout.runner.accuracy.worst import Outlier
    from gpuscout.runner.imports.files import ImportedFile
    from gpuscout.runner.imports.inferencex import Question
    from gpuscout.store.measured.imported import ImportedGroup


_FAR_OFF = 2.0


# As `store/measured/formats/table.py` has them, which takes too long to import for a help text.
CSV_COLUMNS = (
    "id, model, gpu, num_gpus, tp, pp, dp, ep, precision, kv_precision, server, server_version, server_options, "
    "gpu_memory_utilization, max_model_len, input_len, output_len, load, concurrency, request_rate, ttft_ms, itl_ms, "
    "e2e_s, output_tokens_per_s, requests_per_s, latency_stat, spec_decoding, disaggregated, prefix_cached, power_w, "
    "joules_per_output_token, measured_on, source, trust, latest, split, notes"
)


def register(app: typer.Typer) -> None:
    app.command(
        "import",
        rich_help_panel="Store",
        epilog="Example: gpuscout import results/*.json --gpu H100 --tp 1 --server vllm --server-version 0.24.0\n\n"
        f"Columns of a CSV: {CSV_COLUMNS}; percentiles such as p99_ttft_ms; x_... is kept as it is. What a file lacks "
        "is said by flags; docs/import.md has all of it.",
    )(import_results)


def _fact(flag: str, metavar: str, text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel="Facts missing from the files")


@dataclass(frozen=True)
class Facts:
    """Facts stated about all runs of an import; None: not stated. An option group, see `options.grouped`."""

    model: Annotated[str | None, _fact("--model", "NAME", "The model: a name, org/name or ./folder.")] = None
    gpu: Annotated[str | None, _fact("--gpu", "NAME", "The GPU.")] = None
    tp: Annotated[str | None, _fact("--tp", "N", "Tensor parallelism.")] = None
    pp: Annotated[str | None, _fact("--pp", "N", "Pipeline parallelism (default: 1).")] = None
    dp: Annotated[str | None, _fact("--dp", "N", "Data parallelism (default: 1).")] = None
    ep: Annotated[str | None, _fact("--ep", "N", "Expert parallelism (default: 1).")] = None
    server: Annotated[str | None, _fact("--server", "NAME", f"{ONE_OF_SERVERS}.")] = None
    server_version: Annotated[str | None, _fact("--server-version", "VERSION", "Such as 0.24.0, or unknown.")] = None
    precision: Annotated[str | None, _fact("--precision", "NAME", "Of the weights (default: the model's own).")] = None
    kv_precision: Annotated[str | None, _fact("--kv-precision", "NAME", "Of the KV cache (default: unknown).")] = None
    input_len: Annotated[str | None, _fact("--input-len", "TOKENS", "Input tokens of a request.")] = None
    output_len: Annotated[str | None, _fact("--output-len", "TOKENS", "Output tokens of a request.")] = None
    concurrency: Annotated[str | None, _fact("--concurrency", "N", "Requests always in flight.")] = None
    request_rate: Annotated[str | None, _fact("--request-rate", "RATE", "Requests per second.")] = None
    gpu_memory_utilization: Annotated[
        str | None, _fact("--gpu-memory-utilization", "FRACTION", "The server's share of GPU memory (default: 0.9).")
    ] = None
    max_model_len: Annotated[
        str | None, _fact("--max-model-len", "TOKENS", "The longest sequence (input + output).")
    ] = None
    source: Annotated[str | None, _fact("--source", "TEXT", "Source of the runs (default: the file).")] = None


@grouped
def import_results(
    facts: Facts,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FORMAT] FILE…",
            help="Results of vllm, guidellm, llm-d, aiperf, inference-perf, llm-optimizer, inferencex or csv, or what "
            "`gpuscout export` wrote; "
            "`public`: the runs that ship.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", metavar="FILE", help="YAML: patterns of files or labels -> the above."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="PATTERN",
            help="Fields in the names of files: '{model}_{gpu}_tp{tp}_*'; any of the above.",
        ),
    ] = None,
    gpu_file: GpuFile = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DAY", help="`inferencex` online: measured on this day or later.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="BASE", help="`inferencex` online: the server to ask.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be stored; store nothing.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List what was imported: all, or FILE… (patterns).")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what was imported from FILE… (patterns).")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put measured results into the store, beside the estimates.

    A run is identified by its content: importing it again adds nothing. Facts missing from a file must be given here,
    or the file is refused. Of a refused or broken file nothing is imported; the other files are (exit status 2).
    """
    if list_ or remove:
        if dry_run or (list_ and remove):
            raise InputError("--list, --remove and --dry-run cannot be combined")
        if list_:
            _list(arguments or [], db, json=json)
        else:
            _remove(arguments or [], db, yes=yes, json=json)
        return
    if not arguments:
        raise InputError("no files given", hint="gpuscout import FILE…; `gpuscout import public` has public runs")
    _import(arguments, asdict(facts), mapping, name, gpu_file, db, since=since, url=url, dry_run=dry_run, json=json)


def _import(
    arguments: list[str],
    flags: dict[str, str | None],
    mapping: Path | None,
    name: str | None,
    gpu_file: Path | None,
    db: str,
    *,
    since: str | None,
    url: str | None,
    dry_run: bool,
    json: bool,
) -> None:
    from gpuscout.runner.imports import inferencex
    from gpuscout.runner.imports.complete import Completer
    from gpuscout.runner.imports.exports import import_exports, split_exports
    from gpuscout.runner.imports.file_names import NamePattern
    from gpuscout.runner.imports.files import (
        compare_files,
        is_public,
        read_files,
        read_online,
        split_format,
        store_file,
    )
    from gpuscout.runner.imports.stated import Mappings, from_flags
    from gpuscout.runner.resolve.models import ModelFinder
    from gpuscout.store.results.catalogues import ModelsAt
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

    exports, arguments = split_exports(arguments)
    refused = False
    if exports:
        if json and arguments:
            raise InputError("--json describes exports or other results, not both", hint="import them separately")
        with open_store(db, create=True) as store:
            taken = import_exports(exports, store, dry_run=dry_run)
        print_exports(taken, dry_run=dry_run, json=json)
        refused = any(file.error for file in taken)
    if not arguments:
        raise typer.Exit(2 if refused else 0)
    online = _online(flags, since, url) if arguments == [inferencex.NAME] else None
    if online is None and (since is not None or url is not None):
        raise InputError(
            "--since and --url are for InferenceX online",
            hint="gpuscout import inferencex --model NAME, without a file",
        )
    if online is not None:
        flags = flags | {"model": None, "gpu": None}  # which say what to ask for
    chosen, names = (None, []) if online is not None else split_format(arguments)
    catalogue = GPUCatalogue.load()
    completer = Completer(
        from_flags(flags),
        Mappings() if mapping is None else Mappings.read(mapping),
        catalogue if gpu_file is None else catalogue.with_file(gpu_file),
        ModelFinder(ModelsAt(db)),
        None if name is None else NamePattern.of(name),
    )
    completer.check_flags()
    if completer.flags and names and all(map(is_public, names)):
        given = ", ".join(value.origin for value in completer.flags.values())
        raise InputError(f"{given}: the public runs say this themselves", hint="leave it out")
    files = [read_online(online, completer)] if online is not None else list(read_files(names, chosen, completer))
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
    if completer.names is not None and (others := completer.names.unmatched):
        such = "" if len(others) == 1 else f" and {len(others) - 1} more"
        print(f"note: {others[0]}{such}: does not match --name {completer.names.text}", file=sys.stderr)
    far = _far_off([file for file in files if not file.error and not is_public(file.name)], db, gpu_file)
    if json:
        print_json(import_document(files, dry_run=dry_run) | {"over_2x_off": [outlier_row(one) for one in far]})
    else:
        print_files(files, dry_run=dry_run)
        if far:
            err().print(f"note: {far_off(far)}", soft_wrap=True)
    print_refused(files)
    if refused or any(file.error for file in files):
        raise typer.Exit(2)


def _online(flags: dict[str, str | None], since: str | None, url: str | None) -> Question:
    """Return the question for InferenceX. Raises InputError."""
    from gpuscout.runner.cli.options import parse_day
    from gpuscout.runner.imports.inferencex import DEFAULT_URL, Question
    from gpuscout.store.measured.formats.inferencex import MODELS
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

    if flags["model"] is None:
        raise InputError(
            "inferencex: say which model, or name files",
            hint=f"--model NAME; InferenceX calls models {', '.join(MODELS)} …",
        )
    if flags["gpu"] is not None:
        GPUCatalogue.load().resolve(flags["gpu"])
    return Question(flags["model"], flags["gpu"], parse_day("--since", since), url or DEFAULT_URL)


def _far_off(files: Sequence[ImportedFile], db: str, gpu_file: Path | None) -> list[Outlier]:
    """Return runs of these files that are more than twice, or less than half, what the built-in engine says of them."""
    from gpuscout.runner.accuracy.estimate import estimate
    from gpuscout.runner.accuracy.names import RunNames
    from gpuscout.runner.accuracy.worst import outliers
    from gpuscout.runner.engines.base import trust_of
    from gpuscout.runner.engines.registry import create_engine
    from gpuscout.store.measured import LoadKind

    comparable = (LoadKind.CLOSED_LOOP, LoadKind.OFFLINE_MAXIMUM)
    runs = [run for file in files for run in file.runs if run.load in comparable and run.set_aside is None]
    if not runs:
        return []
    engine = create_engine("roofline", {})
    return outliers(estimate(engine, runs, RunNames.at(db, gpu_file)), trust_of(engine), at_least=_FAR_OFF)


def _list(patterns: list[str], db: str, *, json: bool) -> None:
    from gpuscout.store.measured.imported import imported_groups

    with open_store(db) as store, store.reading() as connection:
        groups = imported_groups(connection, patterns)
    if json:
        print_json(
            {
                "imported": [asdict(group) | {"imported_at": group.imported_at.isoformat()} for group in groups],
                "runs": sum(g.runs for g in groups),
            }
        )
    elif groups:
        _print_groups(groups)
    else:
        print("nothing was imported" + (f" from {', '.join(patterns)}" if patterns else ""))


def _remove(patterns: list[str], db: str, *, yes: bool, json: bool) -> None:
    from gpuscout.store.measured.imported import imported_groups, remove_runs

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
    if removed.engines:
        print(
            "the stored errors of engines included these runs and were removed, too; to compute them again: "
            "gpuscout accuracy --measured stored --store",
            file=sys.stderr,
        )


def _confirm(groups: Sequence[ImportedGroup], runs: int) -> None:
    """Raise InputError without a terminal to ask at, Abort when the answer is no."""
    places = dict.fromkeys(group.file or group.source for group in groups)
    what = f"remove {count(runs, 'measured run')} of {', '.join(places)}?"
    if not sys.stdin.isatty():
        raise InputError(f"cannot ask without a terminal: {what}", hint="--yes removes without asking")
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
