"""`gpuscout recommend`: the best GPU for each model and workload, from the store alone."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, print_json
from gpuscout.runner.cli.ranking import print_ranking, ranking_document

__all__ = ["print_ranking", "ranking_document", "register"]

_FILTERS = "What counts"


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout recommend --workload chat --slo 'ttft<=500ms' --slo 'itl<=30ms'"
    app.command("recommend", rich_help_panel="Sweeps", epilog=example)(recommend)


def recommend(
    objective: Annotated[
        str, typer.Option("--objective", help="throughput-per-gpu, throughput, ttft, itl or e2e.")
    ] = "throughput-per-gpu",
    slo: Annotated[
        list[str] | None, typer.Option("--slo", help="A limit to meet: 'ttft<=500ms'; repeat for more.")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option("--sweep", help="A sweep's name or id.", rich_help_panel=_FILTERS)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="An id, bare name or glob; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="A name, alias or glob; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    workload: Annotated[
        str | None, typer.Option("--workload", help="A workload of a stored sweep.", rich_help_panel=_FILTERS)
    ] = None,
    input_len: Annotated[
        int | None, typer.Option("--input-len", min=1, help="Input tokens.", rich_help_panel=_FILTERS)
    ] = None,
    output_len: Annotated[
        int | None, typer.Option("--output-len", min=1, help="Output tokens.", rich_help_panel=_FILTERS)
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", help="An engine; the first of several is preferred.", rich_help_panel=_FILTERS),
    ] = None,
    server: Annotated[
        list[str] | None, typer.Option("--server", help="vllm, sglang or trtllm; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="Of the weights: fp8 …; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    max_gpus: Annotated[
        int | None, typer.Option("--max-gpus", min=1, help="GPUs of one deployment.", rich_help_panel=_FILTERS)
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Configurations per model, of other GPUs first.")] = 1,
    explain: Annotated[bool, typer.Option("--explain", help="List every configuration that lost, and why.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Recommend the best configuration for each model and workload. Computes nothing."""
    from gpuscout.store.connect import open_store
    from gpuscout.store.rank import Question, rank
    from gpuscout.sweeps.slo import parse_slo

    question = Question(
        objective=objective,
        slos=tuple(map(parse_slo, slo or ())),
        sweep=sweep,
        models=tuple(model or ()),
        gpus=tuple(gpu or ()),
        workload=workload,
        input_len=input_len,
        output_len=output_len,
        engines=tuple(engine or ()),
        servers=tuple(server or ()),
        precisions=tuple(precision or ()),
        max_gpus=max_gpus,
        # One more than is listed, for the runner-up.
        top=None if explain else top + 1,
        examples=None if explain else 1,
    )
    with open_store(db) as store, store.reading() as connection:
        ranking = rank(connection, question)
    if json:
        print_json(ranking_document(ranking))
        return
    print_ranking(ranking, top=top, explain=explain)
    print("nothing was recomputed.")
