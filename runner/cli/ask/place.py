"""`gpuscout place`: models and workloads with their rates on GPUs that are there, the least used, or what is missing.

A command of its own beside `capacity`: that one answers with alternatives, a line for each GPU type, this one with one
assignment of everything at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.ask.capacity import Headroom, RateOption, TokensRate, parse_rate
from gpuscout.runner.cli.ask.capacity_load import parse_duration
from gpuscout.runner.cli.common import DEFAULT_STORE, Db, leave_if_nothing, open_store, print_json
from gpuscout.runner.cli.options import Filters, LimitOptions, Many, PriceOptions, grouped, under
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_rows, whole_number, yes_or_no
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.runner.resolve.fleet import Fleet
    from gpuscout.store.queries.placements.nodes import Placed
    from gpuscout.store.queries.placements.placement_question import Fit, Placing
    from gpuscout.store.queries.sizing.capacity_question import Rate
    from gpuscout.sweeps.traffic.moving import MovingLoad

_load, _gpus = under("The load"), under("The GPUs")


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout place --have H100=16,A100-40GB=2x4 --rate chat=20 --rate rag=2 --model Qwen3-32B"
    app.command("place", rich_help_panel="Sweeps", epilog=example)(place)


@grouped
def place(
    limits: LimitOptions,
    filters: Filters,
    prices: PriceOptions,
    output: Output,
    have: Annotated[
        Many,
        _gpus(
            "--have",
            metavar="GPU=N",
            help="A100-40GB=16, H100=4x8 (four nodes of eight), or a file of such lines or of node,gpu,gpus; repeat.",
        ),
    ] = None,
    gpus_from: Annotated[str | None, _gpus("--gpus-from", help="Ask ray, kubectl or nvidia-smi.")] = None,
    ray_address: Annotated[str, _gpus("--ray-address", help="With --gpus-from ray: the cluster.")] = "auto",
    rate: RateOption = None,
    tokens_rate: TokensRate = None,
    load: Annotated[
        str | None,
        _load(
            "--load",
            metavar="FILE",
            help="CSV: model, workload, rate; of rates over time (time) and of traces the highest counts.",
        ),
    ] = None,
    headroom: Headroom = 0.2,
    min_replicas: Annotated[
        int,
        _load("--min-replicas", min=1, help="Minimum number of replicas of each model and workload."),
    ] = 1,
    least: Annotated[str, typer.Option("--least", help="Resource to minimise: gpus, or usd (per hour).")] = "gpus",
    time_limit: Annotated[
        str, typer.Option("--time-limit", help="Time of each search; the best so far counts.")
    ] = "60s",
    db: Db = DEFAULT_STORE,
) -> None:
    """Place models on the GPUs you have, using the fewest of them.

    All limits hold; no estimate is computed. Solved exactly (gpuscout[placement]), with the bound that was proved. A
    replica stays within a node if it fits one. Where not everything fits, it says how many of which GPU are missing.
    Exit status 6: not everything fits.
    """
    from gpuscout.runner.cli.show.deployments.placement import print_placing, print_placing_aside
    from gpuscout.runner.resolve.fleet import FORM, fleet_from, read_fleet
    from gpuscout.store.queries.placements.placement_question import Rules, place_on

    if bool(have) == (gpus_from is not None):
        raise InputError("name the GPUs: either --have or --gpus-from", hint=FORM)
    rules = Rules(headroom, min_replicas, least.casefold(), parse_duration("--time-limit", time_limit))
    needed = _asked(rate, tokens_rate, load)
    fleet = read_fleet(have) if have else fleet_from(str(gpus_from), ray_address=ray_address)
    question = limits.limited(filters.question())
    with open_store(db) as store, store.reading() as connection:
        question = prices.of(question, connection)
        found = place_on(connection, question, fleet.nodes, needed, rules)
    if output.json:
        print_json(placing_document(found, fleet))
    elif output.for_people:
        print_placing(found, fleet.notes)
    else:
        print_rows(_FOR_READERS if output.md else [Column(name, name) for name in _NAMES], _rows(found), output)
        print_placing_aside(found, fleet.notes)
    leave_if_nothing(found.fit.placement is not None)


def _asked(rate: Many, tokens_rate: Many, file: str | None) -> MovingLoad | list[Rate]:
    from gpuscout.sweeps.traffic.moving import read_rates

    rates = [parse_rate("--rate", text) for text in rate or ()]
    rates += [parse_rate("--tokens-rate", text, tokens=True) for text in tokens_rate or ()]
    if file is None:
        if not rates:
            raise InputError("nothing to place: give --rate, --tokens-rate or --load", hint="for example --rate 50")
        return rates
    if rates:
        raise InputError("--load replaces --rate and --tokens-rate: leave them out")
    return read_rates(file)


# --- for machines ------------------------------------------------------------------------------------------------

_SETTINGS = ("precision", "server", "tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel")
_PLACED = ("gpu", "configuration", "replicas", "gpus", "gpus_per_node", "kind", "backed", "limits_met", *_SETTINGS)
_NEED = (*CASE, "requests_per_s", "sustained_requests_per_s", "sustained_low", "sustained_high")
_FOR_READERS = (
    Column("model", "model"),
    Column("workload", "workload"),
    a_figure("requests_per_s", "requests/s"),
    Column("configuration", "configuration"),
    a_figure("replicas", "replicas", whole_number),
    a_figure("gpus", "GPUs", whole_number),
    a_figure("sustained_requests_per_s", "all sustain"),
    a_figure("sustained_low", "low (80 %)"),
    a_figure("sustained_high", "high (80 %)"),
    Column("backed", "measured near", yes_or_no),
)
_NAMES = (*_NEED, *_PLACED)


def _placed(found: Placing, one: Placed) -> dict[str, Any]:
    from gpuscout.runner.cli.show.wording import configuration

    group, config = found.needs[one.need].group, one.config
    return {
        "configuration": configuration(config, group.input_len, group.output_len),
        "gpus": one.replicas * config.num_gpus,
        **picked(one, "replicas", "gpus_per_node"),
        **picked(config, "gpu", "backed", *_SETTINGS, kind="kind_label", limits_met="likelihood"),
    }


def _need(found: Placing, need: int) -> dict[str, Any]:
    from gpuscout.store.queries.placements.placement_question import sustained

    rate, ends = sustained(found, need) if found.fit.placement else (None, None)
    return {
        **picked(found.needs[need].group, *CASE),
        "requests_per_s": found.needs[need].rate,
        "sustained_requests_per_s": rate,
        "sustained_low": ends and ends[0],
        "sustained_high": ends and ends[1],
    }


def _rows(found: Placing) -> list[dict[str, Any]]:
    placement = found.fit.placement
    return [_need(found, one.need) | _placed(found, one) for one in (placement.placed if placement else ())]


def placing_document(found: Placing, fleet: Fleet) -> dict[str, object]:
    from gpuscout.runner.cli.show.deployments.sized import outs_document, question_document

    placement = found.fit.placement
    return {
        "inventory": [{**picked(pool, "gpu", "gpus_per_node", "nodes", "gpus", "names")} for pool in found.pools],
        "inventory_notes": fleet.notes,
        "unknown_gpus": found.unknown,
        **picked(found.rules, "headroom", "min_replicas", "least", "time_limit_s"),
        **question_document(found.rankings[0].question),
        "needs": [
            _need(found, need)
            | {
                "caveats": found.needs[need].group.caveats,
                "placed": [_placed(found, one) for one in (placement.placed if placement else ()) if one.need == need],
            }
            for need in range(len(found.needs))
        ],
        "nodes": [
            {
                **picked(one, "gpu", "gpus_per_node", "nodes", "nodes_per_replica", "names"),
                "holds": [
                    {**picked(found.needs[need].group, "model", "workload"), "gpus_per_replica": config.num_gpus}
                    | {"replicas": replicas}
                    for need, config, replicas in one.contents
                ],
            }
            for one in (placement.filled if placement else ())
        ],
        "expected": _fit(found.fit),
        "safe": None if found.safe is None else _fit(found.safe),
        "impossible": [{**picked(need.group, *CASE), "out": outs_document(outs)} for need, outs in found.impossible],
    }


def _fit(fit: Fit) -> dict[str, object]:
    placement = fit.placement
    return {
        "fits": placement is not None,
        "gpus": placement and placement.gpus,
        "used": placement and placement.used,
        "bound": placement and placement.bound,
        "gap": placement and placement.gap,
        "missing": [
            picked(one, "gpus", "bound")
            | {"added": [picked(added, "gpu", "gpus", "gpus_per_node", "nodes") for added in one.added]}
            for one in fit.missing
        ],
    }
