"""`gpuscout run` and `gpuscout plan`: a sweep from a YAML spec or from flags."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from gpuscout.runner.cli.common import (
    DEFAULT_STORE,
    Db,
    Json,
    count,
    err,
    json_text,
    leave_if_nothing,
    open_store,
    write_file,
)
from gpuscout.runner.cli.options import GpuFile, Have, PriceOptions, Sort, grouped, owned
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.sweep.options import AskOptions, ExecutionOptions, SweepFlags
from gpuscout.sweeps.errors import InputError, NothingMatchesError, NothingQualifiesError
from gpuscout.sweeps.text import printable

if TYPE_CHECKING:
    from gpuscout.runner.api.run import RunOptions
    from gpuscout.runner.execution.controller import RunReport
    from gpuscout.runner.execution.executor_choice import Choice
    from gpuscout.store.database.connect import Store
    from gpuscout.store.ranking.question.asked import Question
    from gpuscout.store.ranking.types import Group, Ranking
    from gpuscout.sweeps.spec.spec import SweepSpec

_EXIT_FAILURES = 5

Spec = Annotated[Path | None, typer.Argument(help="A sweep spec (YAML). Without it, the flags below make one.")]
SaveSpec = Annotated[
    Path | None, typer.Option("--save-spec", help="Write the sweep to this file, as a spec that asks the same.")
]
OutputJson = Annotated[
    Path | None, typer.Option("--output-json", metavar="FILE", help="Write the document of --json to a file.")
]
Force = Annotated[bool, typer.Option("--force", help="Let --save-spec replace a file that exists.")]


def register(app: typer.Typer) -> None:
    app.command("run", rich_help_panel="Sweeps", epilog="Example: gpuscout run --model Qwen3-32B --slo 'itl<=30'")(run)
    app.command("plan", rich_help_panel="Sweeps", epilog="Example: gpuscout plan sweep.yaml --why Qwen/Qwen3-32B,L4")(
        plan
    )


@grouped
def run(
    flags: SweepFlags,
    asking: AskOptions,
    prices: PriceOptions,
    execution: ExecutionOptions,
    spec: Spec = None,
    have: Have = None,
    sort: Sort = None,
    gpu_file: GpuFile = None,
    save_spec: SaveSpec = None,
    force: Force = False,
    output_json: OutputJson = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Compute what a sweep still lacks, store it, recommend. Running it again resumes or does nothing.

    With --have, the available GPUs serve all models, unless some are named. Exit status 5: tasks failed, 6:
    nothing qualifies.
    """
    from gpuscout.runner.api import run as api
    from gpuscout.runner.api.fp8 import in_fp8
    from gpuscout.runner.cli.show.deployments.inventory import read_inventory
    from gpuscout.store.results.catalogues import ModelsAt

    # Everything that can be refused is, before there is a store or a saved spec.
    inventory = read_inventory(have, gpu_file) if have else None
    if inventory is not None:
        flags = flags.on(inventory)
    sweep_spec, expansion = api.read_and_expand(partial(flags.spec, spec), gpu_file=gpu_file, known=ModelsAt(db))
    asked = asking.question(sweep_spec, prices, (gpu.name for gpu in expansion.sweep.gpus))
    if inventory is not None:
        asked = owned(asked, inventory)
    api.check_run(sweep_spec, expansion, executor=execution.executor, ray_address=execution.ray_address)
    if save_spec is not None:
        _save(_asking(sweep_spec, asked, gpu_file), save_spec, force=force)

    with open_store(db, create=True) as store:
        run_and_report(
            store,
            sweep_spec,
            partial(api.run, sweep_spec, store, expansion=expansion),
            asked,
            beside=partial(in_fp8, sweep_spec, expansion),
            top=asking.top,
            rates=asking.rate or (),
            inventory=inventory,
            sort=sort,
            json=json,
            output_json=output_json,
            **execution.arguments(gpu_file),
        )


def run_and_report(
    store: Store,
    spec: SweepSpec,
    run: Callable[..., RunReport],
    question: Question,
    *,
    beside: Callable[[Question, Ranking], Sequence[Group]] | None = None,
    top: int = 1,
    rates: Sequence[str] = (),
    inventory: Mapping[str, int] | None = None,
    sort: str | None = None,
    json: bool,
    output_json: Path | None = None,
    **options: Unpack[RunOptions],
) -> None:
    """Run a sweep with a line that moves, then print what to buy. Exit status 5 when tasks have failed."""
    from gpuscout.runner.cli.ask.capacity import capacity_document, parse_rate
    from gpuscout.runner.cli.show.deployments.capacity_table import print_capacity
    from gpuscout.runner.cli.show.deployments.inventory import print_inventory
    from gpuscout.runner.cli.show.output import Output
    from gpuscout.runner.cli.show.progress import progress_line
    from gpuscout.runner.cli.show.ranking.document import config_document
    from gpuscout.runner.cli.show.ranking.notes import DETAILED, in_8_bit
    from gpuscout.runner.cli.show.ranking.table import TIES, print_ranking, ranking_document
    from gpuscout.runner.cli.show.wording import print_wrapped
    from gpuscout.runner.execution.controller import RunCallbacks
    from gpuscout.runner.resolve.spec import explained_names
    from gpuscout.store.queries.placements.inventory import served
    from gpuscout.store.queries.sizing.capacity import Demand
    from gpuscout.store.queries.sizing.capacity_question import capacity, node_sizes
    from gpuscout.store.ranking.rank import rank

    load = [parse_rate("--rate", text) for text in rates]
    with progress_line(quiet=json) as line:

        def on_start(choice: Choice) -> None:
            for name in explained_names(spec, gpu_file=options.get("gpu_file")):
                line.say(name)
            line.say(f"{choice.reason}        store: {store.url_for_display}")

        report = run(callbacks=RunCallbacks(start=on_start, progress=line.show, notice=line.say), **options)
    ranking = sized = None
    try:
        with store.reading() as connection:
            asked = replace(question, sweep=report.sweep.id)
            if inventory is None and output_json is None and not json:
                asked = replace(asked, briefly=True, top=top, gpu_types=max(top, TIES))
            ranking = rank(connection, asked)
            nodes = node_sizes(connection)
            if load:
                sized = capacity(connection, replace(question, sweep=report.sweep.id), load, Demand())
    except InputError as error:
        # Where everything failed the summary says so, and the exit status is that of failures.
        if not report.open_failures:
            if not isinstance(error, NothingMatchesError):
                raise
            err().print(_summary(report))  # nothing of what was measured counts
            raise NothingQualifiesError(error.message, hint=error.hint) from error
    if ranking is not None and inventory is not None:
        found = served(ranking.groups, inventory, nodes)
        print_inventory(found, inventory, Output(json=json), sort=sort)
        if not json:
            err().print(_summary(report))
        leave_if_nothing(any(one.shares for one in found))
        return
    document = {"run": _report_document(report), **(ranking_document(ranking) if ranking else {})}
    few = ranking is not None and beside is not None and len(ranking.groups) <= DETAILED
    others = beside(question, ranking) if few and beside and ranking else ()
    document["in_fp8"] = [
        {**picked(group, *CASE), "best": config_document(group.best)} for group in others if group.best is not None
    ]
    if sized is not None:
        document["capacity"] = capacity_document(sized)
    if output_json is not None:
        write_file(json_text(document) + "\n", output_json, force=True)
    if json:
        print(json_text(document))
    else:
        # The answer comes last: it is what fits the terminal.
        err().print(_summary(report))
        if ranking:
            print_ranking(ranking, top=top)
            for note in in_8_bit(ranking, others):
                print_wrapped(note)
        if sized is not None:
            print_capacity(sized)
        _print_reasons(store, report)
    if report.open_failures:
        raise typer.Exit(_EXIT_FAILURES)
    if ranking is not None:
        leave_if_nothing(any(group.configs or group.unranked for group in ranking.groups))


@grouped
def plan(
    flags: SweepFlags,
    spec: Spec = None,
    gpu_file: GpuFile = None,
    why: Annotated[
        str | None, typer.Option("--why", help="Explain one configuration: MODEL,GPU[,tp=2][,pp=…][,workload=…].")
    ] = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show the plan of a run, without computing anything.

    Lists tasks, exclusions with reasons, stored results and the expected time.
    """
    from gpuscout.runner.api import run as api
    from gpuscout.runner.cli.show.plan import print_plan, print_why
    from gpuscout.store.results.catalogues import ModelsAt

    sweep_spec, expansion = api.read_and_expand(partial(flags.spec, spec), gpu_file=gpu_file, known=ModelsAt(db))
    if why is not None:
        print_why(expansion, why, json=json)
    else:
        api.check_limits(sweep_spec, expansion)
        print_plan(expansion, db, json=json)


def _asking(spec: SweepSpec, asked: Question, gpu_file: Path | None) -> SweepSpec:
    """Return the spec with what the flags say of the GPUs and the question, so that it alone gives the same answer."""
    update: dict[str, object] = {"objective": asked.objective, "slo": asked.slos}
    if gpu_file is not None:
        if spec.gpu_file is not None:
            raise InputError(
                f"--save-spec: a spec names one GPU file, here {spec.gpu_file} and {gpu_file} are",
                hint="put the GPUs of both into one file",
            )
        update["gpu_file"] = os.path.relpath(gpu_file, os.path.dirname(spec.file or "") or ".")
    return spec.model_copy(update=update)


def _save(spec: SweepSpec, file: Path, *, force: bool) -> None:
    write_file(spec.to_yaml(directory=str(file.parent)), file, force=force)


def _report_document(report: RunReport) -> dict[str, object]:
    progress = report.progress
    return {
        "sweep": report.sweep.name,
        **picked(report.sweep, "revision", excluded_combinations="excluded_count"),
        **picked(report, "already_complete", "open_failures", blocks_elsewhere="elsewhere"),
        **picked(progress, "computed_tasks", "reused_tasks", tasks="total_tasks", operating_points="points"),
        "outcomes": {outcome.value: number for outcome, number in progress.outcomes.items()},
        "seconds": round(report.seconds, 3),
    }


_MOST_REASONS = 5


def _print_reasons(store: Store, report: RunReport) -> None:
    """Print the last lines of a run with failures: every reason once, the most frequent first."""
    from gpuscout.store.results.failure_groups import failure_groups

    if not report.open_failures:
        return
    with store.reading() as connection:
        groups = failure_groups(connection, report.sweep.id)
    for group in groups[:_MOST_REASONS]:
        why = group.message or group.outcome.value.replace("_", " ")
        err().print(f"{count(group.tasks, 'task')} failed ({group.engine}): {printable(why)}", soft_wrap=True)
    if len(groups) > _MOST_REASONS:
        err().print(
            f"{count(len(groups) - _MOST_REASONS, 'more reason')}; see gpuscout sweeps show {report.sweep.name}"
        )


def _summary(report: RunReport) -> str:
    from gpuscout.runner.cli.show.wording import counted

    progress = report.progress
    if report.already_complete:
        return f"nothing to compute: all {count(progress.total_tasks, 'task')} of {report.sweep.name} are in the store."
    curveless = [
        counted(number, outcome.value.replace("_", " "))
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
    if report.elsewhere:
        lines.append(f"{count(report.elsewhere, 'block')} are being computed by other runners.")
    if report.open_failures:
        lines.append(
            "failed tasks are tried again by the next run of the same command (--retry-failed: also those that "
            f"crashed or timed out); gpuscout sweeps show {report.sweep.name} groups them by reason."
        )
    return "\n".join(lines)
