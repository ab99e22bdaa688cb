"""`gpuscout recommend`: the best GPU for each model and workload, from the store alone."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, err, leave_if_nothing, open_store, out, print_json, write_file
from gpuscout.runner.cli.options import AimOptions, DeploymentRate, Filters, Have, PriceOptions, Sort, grouped, owned
from gpuscout.runner.cli.show.output import Output
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.runner.api.models.fit import MemoryFit
    from gpuscout.store.ranking.question.asked import Question
    from gpuscout.store.ranking.types import Ranking

_REPORTED = 12


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout recommend --workload chat --slo 'ttft<=500ms' --slo 'itl<=30ms' --price H200=2.80"
    app.command("recommend", rich_help_panel="Sweeps", epilog=example)(recommend)


@grouped
def recommend(
    aim: AimOptions,
    filters: Filters,
    prices: PriceOptions,
    output: Output,
    rate: DeploymentRate = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Configurations per model, those of other GPUs first.")] = 1,
    have: Have = None,
    sort: Sort = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Of one model: every configuration, why it lost, and all prices; paged.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a report of one page, to sign."),
    ] = None,
    measure_top: Annotated[
        int | None,
        typer.Option("--measure-top", min=1, metavar="N", help="Write a sweep that measures the best N and rivals."),
    ] = None,
    measure_spec: Annotated[
        Path, typer.Option("--measure-spec", metavar="FILE", help="With --measure-top: the file it is written to.")
    ] = Path("measure-top.yaml"),
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="With --measure-top: few points around the limits, not the whole ladder.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements that read the answers.")] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Recommend the best configuration for each model and workload. Computes nothing.

    With --have, the available GPUs instead: for each model the most output tokens per second they can serve. Exit
    status 6: nothing qualifies.
    """
    from gpuscout.runner.cli.show.deployments.inventory import print_inventory, read_inventory
    from gpuscout.runner.cli.show.ranking.rows import print_ranking_rows
    from gpuscout.runner.cli.show.ranking.table import TIES, explanation, print_notes, print_ranking, ranking_document
    from gpuscout.store.queries.placements.inventory import served
    from gpuscout.store.queries.sizing.capacity_question import node_sizes
    from gpuscout.store.ranking.question.lookup import stored_gpus
    from gpuscout.store.ranking.rank import rank, sql_of

    if sql and not output.for_people:
        raise InputError("--sql prints a statement, not rows: leave out --json, --csv and --md")
    if adaptive and measure_top is None:
        raise InputError("--adaptive needs --measure-top", hint="add --measure-top 5")
    question = replace(aim.asked(filters.question()), request_rate=rate)
    if have:
        inventory = read_inventory(have)
        question = owned(question, inventory)
        with open_store(db) as store, store.reading() as connection:
            found = served(rank(connection, question).groups, inventory, node_sizes(connection))
        print_inventory(found, inventory, output, sort=sort)
        leave_if_nothing(any(one.shares for one in found))
        return
    # Ties may be with several GPU types.
    in_short = replace(question, top=top, examples=1, gpu_types=max(top, TIES), briefly=True)
    in_full = replace(question, top=None, examples=None)
    with open_store(db) as store, store.reading() as connection:
        rules = prices.rules(stored_gpus(connection).ids)
        if sql:
            print(sql_of(connection, replace(question, prices=rules)))
            return
        if explain and output.for_people:
            _check_one(rank(connection, replace(in_short, prices=rules)))
        asked = in_full if explain else in_short if output.for_people else replace(question, top=top + 1, examples=1)
        ranking = rank(connection, replace(asked, prices=rules))
        if report is not None:
            paper = rank(connection, for_report(replace(question, prices=rules)))
            _write_report(paper, report, db, store.url_for_display)
        if measure_top is not None:
            best = rank(connection, replace(question, prices=rules, top=measure_top, gpu_types=max(measure_top, TIES)))
            _write_measurements(best, measure_top, measure_spec, adaptive=adaptive)
    if output.json:
        print_json(ranking_document(ranking))
    elif not output.for_people:
        print_ranking_rows(ranking, output, top=None if explain else top)
        print_notes(ranking, top=None if explain else top)
    elif explain:
        _paged(explanation(ranking, out().width))
    else:
        print_ranking(ranking, top=top)
        print("nothing was recomputed.")
    leave_if_nothing(any(group.configs or group.unranked for group in ranking.groups))


def for_report(question: Question) -> Question:
    """Return the question in the detail of a report: alternatives, and an example of each reason to be out."""
    return replace(question, top=_REPORTED, examples=1)


def _write_report(ranking: Ranking, file: Path, db: str, store: str) -> None:
    """Write the page about a ranking. Raises InputError where the file cannot be written."""
    from gpuscout.runner.cli.show.ranking.report import report_page

    write_file(report_page(ranking, memory_of_bests(ranking, db), store=store), file, force=True)
    err().print(f"written: {file}", soft_wrap=True)


def _write_measurements(ranking: Ranking, top: int, file: Path, *, adaptive: bool) -> None:
    """Write the sweep that measures the best of a ranking. Raises InputError where a file of the name exists."""
    from gpuscout.runner.api.measure_top import spec_to_measure

    spec = spec_to_measure(ranking, top, name=re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem), adaptive=adaptive)
    write_file(spec.to_yaml(directory=str(file.parent)), file, hint="--measure-spec names another one")
    message = (
        f"{len(spec.only)} configurations to measure are in {file}: gpuscout plan {file}, then gpuscout run {file}"
    )
    err().print(message, soft_wrap=True)


def memory_of_bests(ranking: Ranking, db: str) -> list[MemoryFit | None]:
    """Return the memory use of each group's best; None where there is none, or a file alone knows its model or GPU."""
    from gpuscout.runner.api.models.fit import fit_memory
    from gpuscout.store.results.catalogues import ModelsAt
    from gpuscout.sweeps.errors import GpuscoutError

    fits: list[MemoryFit | None] = []
    for group in ranking.groups:
        best = group.best
        try:
            fits.append(
                None
                if best is None
                else fit_memory(
                    group.model,
                    best.gpu,
                    best.num_gpus,
                    context_length=best.max_model_len,
                    precision=best.precision,
                    kv_precision=best.kv_precision,
                    tensor_parallel_size=best.tensor_parallel,
                    pipeline_parallel_size=best.pipeline_parallel,
                    data_parallel_size=best.data_parallel,
                    expert_parallel_size=best.expert_parallel,
                    server=best.server,
                    gpu_memory_utilization=best.gpu_memory_utilization,
                    known=ModelsAt(db),
                )
            )
        except GpuscoutError:
            fits.append(None)  # a model or GPU that only a file has
    return fits


def _check_one(ranking: Ranking) -> None:
    """Raise InputError where several models would be explained: hundreds of lines that nobody reads."""
    from gpuscout.store.ranking.question.lookup import listed

    models = sorted({group.model for group in ranking.groups})
    if len(models) > 1:
        raise InputError(
            f"--explain takes one model, but {len(models)} match", hint=f"add --model NAME: {listed(models)}"
        )


def _paged(lines: list[str]) -> None:
    """Print lines, through the user's pager where a terminal has fewer of them."""
    if sys.stdout.isatty() and len(lines) >= out().height:
        import click

        click.echo_via_pager("\n".join(lines))
    else:
        print("\n".join(lines))
