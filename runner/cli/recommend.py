"""`gpuscout recommend`: the best GPU for each model and workload, from the store alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, print_json
from gpuscout.runner.cli.prices import check_purchase, parse_day, parse_prices, split_books
from gpuscout.runner.cli.ranking import print_ranking, ranking_document
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.store.prices import PriceRules
    from gpuscout.store.ranking_types import Question

__all__ = ["print_ranking", "ranking_document", "register"]

_FILTERS = "What counts"
_PRICES = "Prices"


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout recommend --workload chat --slo 'ttft<=500ms' --slo 'itl<=30ms' --price H200=2.80"
    app.command("recommend", rich_help_panel="Sweeps", epilog=example)(recommend)


def recommend(
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            help="cost (unless given), cost-per-hour, throughput, throughput-per-gpu, ttft, itl, e2e or energy; "
            "the first ranks, more are shown.",
        ),
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="Rank by several: cost=0.7; repeat for more.")
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", help="A limit to meet: 'ttft<=500ms', 'rate>=5/s', 'ttft:p95<=1s'; repeat for more."),
    ] = None,
    no_interpolate: Annotated[
        bool, typer.Option("--no-interpolate", help="Only stored concurrencies, none between them.")
    ] = False,
    assume_tail: Annotated[
        float | None, typer.Option("--assume-tail", help="Take percentiles of estimates as this many times the mean.")
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
    vendor: Annotated[
        list[str] | None, typer.Option("--vendor", help="NVIDIA, AMD …; repeat.", rich_help_panel=_FILTERS)
    ] = None,
    min_memory: Annotated[
        float | None, typer.Option("--min-memory", help="GB (10^9) of one GPU.", rich_help_panel=_FILTERS)
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
    tp: Annotated[str | None, typer.Option("--tp", help="Tensor parallelism: 1,2,4.", rich_help_panel=_FILTERS)] = None,
    max_gpus: Annotated[
        int | None, typer.Option("--max-gpus", min=1, help="GPUs of one deployment.", rich_help_panel=_FILTERS)
    ] = None,
    min_context: Annotated[
        int | None,
        typer.Option("--min-context", min=1, help="Tokens a deployment must take.", rich_help_panel=_FILTERS),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Stored on this day or later.", rich_help_panel=_FILTERS)
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Stored on this day or before.", rich_help_panel=_FILTERS)
    ] = None,
    prices: Annotated[
        str | None,
        typer.Option(
            "--prices", metavar="BOOK[,BOOK]", help="Price books; the first decides.", rich_help_panel=_PRICES
        ),
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="AWS, Lambda …; repeat.", rich_help_panel=_PRICES)
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="us-east-1 …", rich_help_panel=_PRICES)] = None,
    purchase: Annotated[
        str, typer.Option("--purchase", help="on-demand, spot or reserved.", rich_help_panel=_PRICES)
    ] = "on-demand",
    as_of: Annotated[str | None, typer.Option("--as-of", help="No newer prices.", rich_help_panel=_PRICES)] = None,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="GPU=USD", help="USD per GPU hour; repeat.", rich_help_panel=_PRICES),
    ] = None,
    discount: Annotated[
        float, typer.Option("--discount", help="Off the prices of the books: 0.3 is 30 %.", rich_help_panel=_PRICES)
    ] = 0.0,
    whole_instances: Annotated[
        bool, typer.Option("--whole-instances", help="Pay for all GPUs of an instance.", rich_help_panel=_PRICES)
    ] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Configurations per model, of other GPUs first.")] = 1,
    explain: Annotated[bool, typer.Option("--explain", help="List every configuration that lost, and why.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statement that reads the points.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Recommend the best configuration for each model and workload. Computes nothing."""
    from gpuscout.store.connect import open_store
    from gpuscout.store.prices import PriceRules
    from gpuscout.store.rank import DEFAULT_OBJECTIVE, Question, rank, sql_of
    from gpuscout.store.ranking_names import stored_names
    from gpuscout.store.schema import gpus
    from gpuscout.sweeps.slo import parse_slo

    if objective and weight:
        raise InputError("--weight replaces --objective: name the objective in one of them")
    first, *also = objective or [DEFAULT_OBJECTIVE]
    rules = PriceRules(
        books=split_books(prices),
        providers=tuple(provider or ()),
        region=region,
        purchase=check_purchase(purchase),
        as_of=parse_day("--as-of", as_of),
        discount=discount,
        whole_instances=whole_instances,
    )
    question = Question(
        objective=first,
        also=tuple(also),
        weights=tuple(map(_weight, weight or ())),
        slos=tuple(map(parse_slo, slo or ())),
        interpolate=not no_interpolate,
        assume_tail=assume_tail,
        sweep=sweep,
        models=tuple(model or ()),
        gpus=tuple(gpu or ()),
        vendors=tuple(vendor or ()),
        min_memory_gb=min_memory,
        workload=workload,
        input_len=input_len,
        output_len=output_len,
        engines=tuple(engine or ()),
        servers=tuple(server or ()),
        precisions=tuple(precision or ()),
        tensor_parallel=_sizes(tp),
        max_gpus=max_gpus,
        min_context=min_context,
        since=parse_day("--since", since),
        until=parse_day("--until", until),
        # One more than is listed, for the runner-up.
        top=None if explain else top + 1,
        examples=None if explain else 1,
        prices=rules,
    )
    with open_store(db) as store, store.reading() as connection:
        if price:
            question = _with_prices(question, rules, parse_prices(price, stored_names(connection, gpus).ids))
        if sql:
            print(sql_of(connection, question))
            return
        ranking = rank(connection, question)
    if json:
        print_json(ranking_document(ranking))
        return
    print_ranking(ranking, top=top, explain=explain)
    print("nothing was recomputed.")


def _with_prices(question: Question, rules: PriceRules, overrides: dict[str, float]) -> Question:
    return replace(question, prices=replace(rules, overrides=overrides))


def _weight(text: str) -> tuple[str, float]:
    name, equals, figure = text.partition("=")
    try:
        return name.strip(), float(figure if equals else "nothing")
    except ValueError as error:
        raise InputError(f'"{text}" is no weight', hint="write OBJECTIVE=WEIGHT, such as cost=0.7") from error


def _sizes(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(f'--tp: "{text}" is not a list of numbers', hint="for example --tp 1,2,4") from error
