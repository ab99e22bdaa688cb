"""`gpuscout compare`: two sweeps, engines, kinds, price books or days, side by side, from the store alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, open_store
from gpuscout.runner.cli.options import AimOptions, DeploymentRate, Filters, PriceOptions, grouped
from gpuscout.runner.cli.show.output import Output
from gpuscout.sweeps.errors import InputError

_API = "api:"


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout compare now price:H100=1.8 --workload chat --slo 'itl<=30ms'"
    app.command("compare", rich_help_panel="Sweeps", epilog=example)(compare)


@grouped
def compare(
    aim: AimOptions,
    filters: Filters,
    prices: PriceOptions,
    output: Output,
    a: Annotated[str, typer.Argument(metavar="A", help="nightly@1, engine:roofline, kind:measured, server:vllm …")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="… gpu:H100, precision:fp8, version:0.19, now, price:H100=1.8, api:Groq …"),
    ] = None,
    tokens_per_day: Annotated[
        str | None, typer.Option("--tokens-per-day", help="With api:NAME: your load, input and output together: 20M.")
    ] = None,
    cached: Annotated[
        float, typer.Option("--cached", help="With api:NAME: share of the input billed as cached.")
    ] = 0.0,
    top: Annotated[int, typer.Option("--top", min=0, help="How many of the largest changes to list.")] = 5,
    rate: DeploymentRate = None,
    db: Db = DEFAULT_STORE,
) -> None:
    """Compare two answers to one question.

    Shows added, removed and changed configurations, and whether the winner changed. A and B are sweeps (nightly,
    nightly@1, an id), engines (engine:roofline), kinds (kind:estimated kind:measured), settings (server:vllm, gpu:H100,
    precision:fp8, option:max_num_seqs=64, drafts:none), server versions of measured runs (version:0.18 version:0.19),
    or prices: now, other ones (price:H100=1.8), books (prices:own), days (as-of:2026-01-31). Computes nothing.

    api:NAME is a price of tokens (api:Groq, api:Groq/gpt-oss-120b; `prices list` has them): from which load GPUs cost
    less than the API, and what --tokens-per-day costs either way. B then narrows the GPUs, or names another API.
    """
    from gpuscout.runner.cli.show.comparison import show_comparison
    from gpuscout.runner.cli.show.deployments.token_api import number_of_tokens_per_day, show_api_comparison
    from gpuscout.store.queries.compare import compare as compared
    from gpuscout.store.queries.compare_sides import side_of, sides_of
    from gpuscout.store.queries.sizing.token_api import against_api

    question = replace(aim.asked(filters.question()), request_rate=rate)
    apis = [text.removeprefix(_API) for text in (a, b or "") if text.startswith(_API)]
    if not apis and (tokens_per_day is not None or cached):
        raise InputError("--tokens-per-day and --cached need a token API on one side", hint="for example api:Groq")
    if not apis and b is None:
        raise InputError("expected two sides to compare, got one", hint="for example: now price:H100=1.8")
    with open_store(db) as store, store.reading() as connection:
        question = prices.of(question, connection)
        if apis:
            for text in (text for text in (a, b) if text is not None and not text.startswith(_API)):
                question = side_of(connection, text, question).question
            load = None if tokens_per_day is None else number_of_tokens_per_day(tokens_per_day)
            against = against_api(connection, apis, question, tokens_per_day=load, cached_share=cached)
            show_api_comparison(against, output, top)
            return
        found = compared(connection, *sides_of(connection, a, b or "", question))
    show_comparison(found, output, top)
