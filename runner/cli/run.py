"""`gpuscout run` and `gpuscout plan`: a sweep from a YAML spec or from flags."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, err, print_json
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.servers import ONE_OF_SERVERS

if TYPE_CHECKING:
    from gpuscout.runner.api.run import RunOptions
    from gpuscout.runner.execution.controller import RunReport
    from gpuscout.runner.execution.executor_choice import Choice
    from gpuscout.store.database.connect import Store
    from gpuscout.sweeps.spec.spec import SweepSpec

# What a sweep from flags is called when --name does not say.
_NAME_OF_FLAGS = "from-flags"
_EXIT_FAILURES = 5

_SWEEP = "Sweep without a file"
Spec = Annotated[Path | None, typer.Argument(help="A sweep spec (YAML). Without it, the flags below make one.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A model; repeat for more.", rich_help_panel=_SWEEP)]
Gpus = Annotated[list[str] | None, typer.Option("--gpu", help="A GPU; repeat for more.", rich_help_panel=_SWEEP)]
Workloads = Annotated[
    list[str] | None, typer.Option("--workload", help="A preset; repeat for more.", rich_help_panel=_SWEEP)
]
InputLen = Annotated[int | None, typer.Option("--input-len", help="Input tokens.", rich_help_panel=_SWEEP)]
OutputLen = Annotated[int | None, typer.Option("--output-len", help="Output tokens.", rich_help_panel=_SWEEP)]
TensorParallel = Annotated[str | None, typer.Option("--tp", help="auto, or sizes: 1,2,4.", rich_help_panel=_SWEEP)]
PrecisionFlag = Annotated[
    list[str] | None, typer.Option("--precision", help="native, fp8, bf16 …; repeat for more.", rich_help_panel=_SWEEP)
]
Servers = Annotated[
    list[str] | None, typer.Option("--server", help=f"{ONE_OF_SERVERS}; repeat.", rich_help_panel=_SWEEP)
]
Concurrency = Annotated[
    str | None, typer.Option("--concurrency", help="Requests in flight: 1,8,64.", rich_help_panel=_SWEEP)
]
Engines = Annotated[
    list[str] | None,
    typer.Option("--engine", help="An engine, also instead of those of a spec; repeat.", rich_help_panel=_SWEEP),
]
MaxGpus = Annotated[int | None, typer.Option("--max-gpus", help="At most this many GPUs.", rich_help_panel=_SWEEP)]
SweepName = Annotated[str | None, typer.Option("--name", help="What to call the sweep.", rich_help_panel=_SWEEP)]
GpuFile = Annotated[Path | None, typer.Option("--gpu-file", help="A YAML file with GPUs of your own.")]
SaveSpec = Annotated[
    Path | None, typer.Option("--save-spec", help="Write the sweep to this file, as a spec that asks the same.")
]
Force = Annotated[bool, typer.Option("--force", help="Let --save-spec replace a file that exists.")]
Objective = Annotated[str | None, typer.Option("--objective", help="What to rank by in the end.")]
SloFlag = Annotated[list[str] | None, typer.Option("--slo", help="A limit: 'ttft<=500ms'; repeat for more.")]
ExecutorFlag = Annotated[str, typer.Option("--executor", help="auto, in-process or ray.")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="A running Ray cluster.")]
TaskTimeout = Annotated[
    float | None,
    typer.Option("--task-timeout", metavar="SECONDS", min=0.001, help="End tasks that take longer, of every engine."),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try tasks again that crashed or timed out in earlier runs, too.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for another runner of this SQLite store.")]


def register(app: typer.Typer) -> None:
    app.command("run", rich_help_panel="Sweeps", epilog="Example: gpuscout run sweep.yaml --slo 'itl<=30ms'")(run)
    app.command("plan", rich_help_panel="Sweeps", epilog="Example: gpuscout plan sweep.yaml --why Qwen/Qwen3-32B,L4")(
        plan
    )


def run(
    spec: Spec = None,
    model: Models = None,
    gpu: Gpus = None,
    workload: Workloads = None,
    input_len: InputLen = None,
    output_len: OutputLen = None,
    tp: TensorParallel = None,
    precision: PrecisionFlag = None,
    server: Servers = None,
    concurrency: Concurrency = None,
    engine: Engines = None,
    max_gpus: MaxGpus = None,
    name: SweepName = None,
    gpu_file: GpuFile = None,
    save_spec: SaveSpec = None,
    force: Force = False,
    objective: Objective = None,
    slo: SloFlag = None,
    executor: ExecutorFlag = "auto",
    ray_address: RayAddress = None,
    task_timeout: TaskTimeout = None,
    retry_failed: RetryFailed = False,
    wait: Wait = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Compute what a sweep still lacks, store it, recommend. Running it again resumes or does nothing."""
    from gpuscout.runner.api import run as api
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.results.catalogues import ModelsAt

    read = partial(
        _spec,
        spec,
        model=model,
        gpu=gpu,
        workload=workload,
        input_len=input_len,
        output_len=output_len,
        tp=tp,
        precision=precision,
        server=server,
        concurrency=concurrency,
        engine=engine,
        max_gpus=max_gpus,
        name=name,
    )
    # Everything that can be refused is, before there is a store or a saved spec.
    sweep_spec, expansion = api.read_and_expand(read, gpu_file=gpu_file, known=ModelsAt(db))
    asked = question(sweep_spec, objective, slo)
    api.check_run(sweep_spec, expansion, executor=executor, ray_address=ray_address)
    if save_spec is not None:
        _save(_asking(sweep_spec, asked, gpu_file), save_spec, force=force)

    with open_store(db, create=True) as store:
        run_and_report(
            store,
            sweep_spec,
            partial(api.run, sweep_spec, store, expansion=expansion),
            asked,
            json=json,
            executor=executor,
            ray_address=ray_address,
            gpu_file=gpu_file,
            task_timeout_s=task_timeout,
            retry_failed=retry_failed,
            lock_wait_s=None if wait else 0.0,
        )


def run_and_report(
    store: Store,
    spec: SweepSpec,
    run: Callable[..., RunReport],
    question: dict[str, Any],
    *,
    json: bool,
    **options: Unpack[RunOptions],
) -> None:
    """Run a sweep with a line that moves, then print what to buy. Exit status 5 when tasks have failed."""
    from gpuscout.runner.cli.show.progress import progress_line
    from gpuscout.runner.cli.show.ranking_table import print_ranking, ranking_document
    from gpuscout.runner.execution.controller import RunCallbacks
    from gpuscout.runner.resolve.spec import explained_names
    from gpuscout.store.ranking.rank import Question, rank

    with progress_line(quiet=json) as line:

        def on_start(choice: Choice) -> None:
            for name in explained_names(spec, gpu_file=options.get("gpu_file")):
                line.say(name)
            line.say(f"{choice.reason}        store: {store.url_for_display}")

        report = run(callbacks=RunCallbacks(start=on_start, progress=line.show, notice=line.say), **options)
    ranking = None
    try:
        with store.reading() as connection:
            ranking = rank(connection, Question(sweep=report.sweep.id, **question))
    except InputError:
        if not report.open_failures:
            raise
        # Everything failed: the summary says so, and the exit status that of failures.
    if json:
        print_json({"run": _report_document(report), **(ranking_document(ranking) if ranking else {})})
    else:
        if ranking:
            print_ranking(ranking)
        err().print(_summary(report, ranked=ranking is not None))
    if report.open_failures:
        raise typer.Exit(_EXIT_FAILURES)


def plan(
    spec: Spec = None,
    model: Models = None,
    gpu: Gpus = None,
    workload: Workloads = None,
    input_len: InputLen = None,
    output_len: OutputLen = None,
    tp: TensorParallel = None,
    precision: PrecisionFlag = None,
    server: Servers = None,
    concurrency: Concurrency = None,
    engine: Engines = None,
    max_gpus: MaxGpus = None,
    name: SweepName = None,
    gpu_file: GpuFile = None,
    why: Annotated[
        str | None, typer.Option("--why", help="Explain one configuration: MODEL,GPU[,tp=2][,pp=…][,workload=…].")
    ] = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show what a run would do, without computing: tasks, exclusions with reasons, what is stored, expected time."""
    from gpuscout.runner.api import run as api
    from gpuscout.runner.cli.show.plan import print_plan, print_why
    from gpuscout.store.results.catalogues import ModelsAt

    read = partial(
        _spec,
        spec,
        model=model,
        gpu=gpu,
        workload=workload,
        input_len=input_len,
        output_len=output_len,
        tp=tp,
        precision=precision,
        server=server,
        concurrency=concurrency,
        engine=engine,
        max_gpus=max_gpus,
        name=name,
    )
    sweep_spec, expansion = api.read_and_expand(read, gpu_file=gpu_file, known=ModelsAt(db))
    if why is not None:
        print_why(expansion, why, json=json)
    else:
        api.check_limits(sweep_spec, expansion)
        print_plan(expansion, db, json=json)


def _spec(file: Path | None, **flags: Any) -> SweepSpec:
    """The spec in a file, with the engines of the flags if there are any, or the one that the flags describe."""
    from gpuscout.runner.engines.registry import about
    from gpuscout.sweeps.spec.entries import EngineEntry
    from gpuscout.sweeps.spec.spec import load_spec, spec_from_mapping

    given = {flag: value for flag, value in flags.items() if value is not None}
    if file is not None:
        engines = given.pop("engine", None)
        if given:
            names = ", ".join("--" + flag.replace("_", "-") for flag in given)
            raise InputError(f"{names} cannot be combined with a spec file", hint=f"write it into {file}")
        spec = load_spec(file)
        if engines is not None:
            for name in engines:
                about(name)  # an unknown one is not the file's fault
            spec = spec.model_copy(update={"engines": tuple(EngineEntry(name=name) for name in engines)})
        return spec
    if not given:
        raise InputError(
            "name a spec file, or at least --model and --gpu", hint="gpuscout init writes a spec to start from"
        )
    lengths = {"input_len", "output_len"} & given.keys()
    if len(lengths) == 1:
        raise InputError("--input-len and --output-len go together")
    if not lengths and "workload" not in given:
        given["workload"] = ["chat"]
    workloads = [*given.get("workload", [])]
    if lengths:
        workloads.append({"input_len": given["input_len"], "output_len": given["output_len"]})
    data = {
        "name": given.get("name", _NAME_OF_FLAGS),
        "models": given.get("model"),
        "gpus": given.get("gpu"),
        "workloads": workloads,
        "tensor_parallel": _numbers("--tp", given["tp"]) if given.get("tp", "auto") != "auto" else None,
        "precision": given.get("precision"),
        "servers": given.get("server"),
        "concurrency": _numbers("--concurrency", given["concurrency"]) if "concurrency" in given else None,
        "engines": given.get("engine"),
        "limits": {"max_gpus": given["max_gpus"]} if "max_gpus" in given else None,
    }
    return spec_from_mapping(
        {key: value for key, value in data.items() if value is not None},
        flags={
            "name": "--name",
            "models": "--model",
            "gpus": "--gpu",
            "workloads": "--workload",
            "tensor_parallel": "--tp",
            "precision": "--precision",
            "servers": "--server",
            "concurrency": "--concurrency",
            "engines": "--engine",
            "limits": "--max-gpus",
        },
    )


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f'{flag}: "{text}" is not a list of numbers', hint=f"for example {flag} 1,2,4") from error


def question(spec: SweepSpec, objective: str | None, slos: list[str] | None) -> dict[str, Any]:
    """What to ask the store in the end: flags replace what the spec says."""
    from gpuscout.store.ranking.types import DEFAULT_OBJECTIVE, measure_of
    from gpuscout.sweeps.slo import parse_slo

    chosen = objective or spec.objective or DEFAULT_OBJECTIVE
    measure_of(chosen)  # an objective that is none is better refused before the sweep than after it
    return {"objective": chosen, "slos": tuple(map(parse_slo, slos)) if slos else spec.slo}


def _asking(spec: SweepSpec, asked: dict[str, Any], gpu_file: Path | None) -> SweepSpec:
    """The spec with what the flags say of the GPUs and the question, so that it alone gives the same answer."""
    update = {"objective": asked["objective"], "slo": asked["slos"]}
    if gpu_file is not None:
        if spec.gpu_file is not None:
            raise InputError(
                f"--save-spec: a spec names one GPU file, here {spec.gpu_file} and {gpu_file} are",
                hint="put the GPUs of both into one file",
            )
        update["gpu_file"] = os.path.relpath(gpu_file, os.path.dirname(spec.file or "") or ".")
    return spec.model_copy(update=update)


def _save(spec: SweepSpec, file: Path, *, force: bool) -> None:
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(spec.to_yaml(directory=str(file.parent)))
    except FileExistsError as error:
        raise InputError(f"{file} exists already", hint="--force replaces it") from error
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from error


def _report_document(report: RunReport) -> dict[str, object]:
    progress = report.progress
    return {
        "sweep": report.sweep.name,
        "revision": report.sweep.revision,
        "already_complete": report.already_complete,
        "tasks": progress.total_tasks,
        "computed_tasks": progress.computed_tasks,
        "reused_tasks": progress.reused_tasks,
        "excluded_combinations": report.sweep.excluded_count,
        "open_failures": report.open_failures,
        "blocks_elsewhere": report.elsewhere,
        "operating_points": progress.points,
        "outcomes": {outcome.value: number for outcome, number in progress.outcomes.items()},
        "seconds": round(report.seconds, 3),
    }


def _summary(report: RunReport, *, ranked: bool) -> str:
    progress = report.progress
    if report.already_complete:
        return f"nothing to compute: all {count(progress.total_tasks, 'task')} of {report.sweep.name} are in the store."
    curveless = [
        f"{number:,} {outcome.value.replace('_', ' ')}"
        for outcome, number in progress.outcomes.most_common()
        if outcome.is_answer and outcome != "ok"
    ]
    parts = [
        f"{progress.computed_tasks:,} computed" + (f" ({', '.join(curveless)})" if curveless else ""),
        f"{progress.reused_tasks:,} reused",
        f"{report.sweep.excluded_count:,} excluded",
    ]
    if report.open_failures:
        parts.append(f"{report.open_failures:,} failed")
    lines = [f"{', '.join(parts)}, in {report.seconds:.1f} s."]
    if ranked:
        lines.append(f"gpuscout recommend --sweep {report.sweep.name} --explain   shows why the others lost.")
    if report.elsewhere:
        lines.append(f"{count(report.elsewhere, 'block')} are being computed by other runners.")
    if report.open_failures:
        lines.append(
            "failed tasks are tried again by the next run of the same command (--retry-failed: also those that "
            f"crashed or timed out); gpuscout sweeps show {report.sweep.name} groups them by reason."
        )
    return "\n".join(lines)
