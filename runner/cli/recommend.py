"""`gpuscout recommend`: the best GPU for each model and workload, from the store alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, leave_if_nothing, print_json
from gpuscout.runner.cli.options import AimOptions, Filters, Have, PriceOptions, Sort, grouped, owned
from gpuscout.runner.cli.show.output import Output
from gpuscout.sweeps.errors import InputError


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout recommend --workload chat --slo 'ttft<=500ms' --slo 'itl<=30ms' --price H200=2.80"
    app.command("recommend", rich_help_panel="Sweeps", epilog=example)(recommend)


@grouped
def recommend(
    aim: AimOptions,
    filters: Filters,
    prices: PriceOptions,
    output: Output,
    top: Annotated[int, typer.Option("--top", min=1, help="Configurations per model, of other GPUs first.")] = 1,
    have: Have = None,
    sort: Sort = None,
    explain: Annotated[bool, typer.Option("--explain", help="List every configuration that lost, and why.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements that read the answers.")] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Recommend the best configuration for each model and workload. Computes nothing.

    With --have, what GPUs that are there can serve instead: of each model the most output tokens per second. Exit
    status 6: nothing qualifies.
    """
    from gpuscout.runner.cli.show.inventory import print_inventory, read_inventory
    from gpuscout.runner.cli.show.ranking_rows import print_ranking_rows
    from gpuscout.runner.cli.show.ranking_table import print_notes, print_ranking, ranking_document
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.queries.capacity_question import node_sizes
    from gpuscout.store.queries.inventory import served
    from gpuscout.store.ranking.lookup import stored_names
    from gpuscout.store.ranking.rank import rank, sql_of
    from gpuscout.store.schema import gpus

    if sql and not output.for_people:
        raise InputError("--sql prints a statement, not rows: leave out --json, --csv and --md")
    question = aim.asked(filters.question())
    if have:
        inventory = read_inventory(have)
        question = owned(question, inventory)
        with open_store(db) as store, store.reading() as connection:
            found = served(rank(connection, question).groups, inventory, node_sizes(connection))
        print_inventory(found, inventory, output, sort=sort)
        leave_if_nothing(any(one.shares for one in found))
        return
    if explain:
        question = replace(question, top=None, examples=None)
    else:
        # One more than is listed, for the runner-up.
        listed = top + 1
        question = replace(question, top=listed, examples=1)
        if output.for_people:
            question = replace(question, gpu_types=listed, briefly=True)
    with open_store(db) as store, store.reading() as connection:
        question = replace(question, prices=prices.rules(stored_names(connection, gpus).ids))
        if sql:
            print(sql_of(connection, question))
            return
        ranking = rank(connection, question)
    if output.json:
        print_json(ranking_document(ranking))
    elif not output.for_people:
        print_ranking_rows(ranking, output, top=None if explain else top)
        print_notes(ranking, top=None if explain else top)
    else:
        print_ranking(ranking, top=top, explain=explain)
        print("nothing was recomputed.")
    leave_if_nothing(any(group.configs or group.unranked for group in ranking.groups))
