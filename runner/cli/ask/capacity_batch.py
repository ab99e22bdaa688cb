"""`gpuscout capacity --batch`: the options of work to finish in time, and how its answer is printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from gpuscout.runner.cli.ask.capacity_load import parse_duration
from gpuscout.runner.cli.common import leave_if_nothing, open_store, print_json
from gpuscout.runner.cli.options import Many, parse_prices, under
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_rows, whole_number, yes_or_no
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.runner.cli.options import PriceOptions
    from gpuscout.store.queries.sizing.batch import Batch, BatchCapacity, BatchGroup, BatchOffer, BatchPlan
    from gpuscout.store.ranking.question.asked import Question

_AMOUNT = re.compile(
    r"(?:(?P<workload>.+)=)?\s*(?P<value>\d{1,15}(?:\.\d{1,15})?)\s*(?P<scale>[kKMGBT]?)\s*"
    r"(?P<unit>|requests?|req|tokens?|tok)\s*"
)
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_INTERRUPTIONS = re.compile(r"\s*(?P<value>\d{1,6}(?:\.\d{1,9})?)\s*/\s*(?P<unit>h|d)\s*")

_option = under("Work to finish")


@dataclass(frozen=True)
class BatchOptions:
    """Work to finish within a time."""

    batch: Annotated[
        Many, _option("--batch", help="Requests, or output tokens: 5M, 2B tokens, chat=5M; repeat. Needs --within.")
    ] = None
    within: Annotated[str | None, _option("--within", help="Time until it is done, start-up included: 8h.")] = None
    interruptions: Annotated[
        str | None, _option("--interruptions", help="Allow spot machines that are interrupted at this rate: 0.05/h.")
    ] = None
    lost_work: Annotated[str, _option("--lost-work", help="With --interruptions: work that each one undoes.")] = "5min"
    spot_price: Annotated[
        Many, _option("--spot-price", metavar="GPU=USD", help="Spot price, instead of the price books'; repeat.")
    ] = None

    def check(self) -> None:
        """Raise InputError where an option lacks the one that it depends on."""
        if self.batch and self.within is None:
            raise InputError("--batch needs the time it may take", hint="for example --batch 5M --within 8h")
        lacking = "--batch" if not self.batch else None if self.interruptions is not None else "--interruptions"
        for flag, given, about in (
            ("--within", self.within is not None, "--batch"),
            ("--interruptions", self.interruptions is not None, "--batch"),
            ("--lost-work", self.lost_work != "5min", "--interruptions"),
            ("--spot-price", bool(self.spot_price), "--interruptions"),
        ):
            if given and lacking in (about, "--batch"):
                raise InputError(f"{flag} needs {lacking}")

    def batches(self, startup: str) -> list[Batch]:
        from gpuscout.store.queries.sizing.batch import Batch

        found = []
        for text in self.batch or ():
            form = _AMOUNT.fullmatch(text)
            if form is None or not float(form["value"]) > 0:
                raise InputError(
                    f'--batch: invalid amount "{text}": expected a number of requests or tokens',
                    hint="for example 5M, 300k requests, 2B tokens or chat=5M",
                )
            found.append(
                Batch(
                    amount=float(form["value"]) * _SCALES[form["scale"]],
                    within_s=parse_duration("--within", self.within or ""),
                    tokens=form["unit"].startswith("tok"),
                    workload=form["workload"].strip() if form["workload"] else None,
                    startup_s=parse_duration("--startup", startup),
                    interruptions_per_h=None if self.interruptions is None else _per_hour(self.interruptions),
                    lost_work_s=parse_duration("--lost-work", self.lost_work),
                )
            )
        return found


def _per_hour(text: str) -> float:
    form = _INTERRUPTIONS.fullmatch(text)
    if form is None:
        raise InputError(f'--interruptions: invalid rate "{text}"', hint="a number an hour or a day: 0.05/h, 1/d")
    return float(form["value"]) / (24 if form["unit"] == "d" else 1)


def print_batch(
    db: str,
    question: Question,
    options: BatchOptions,
    startup: str,
    prices: PriceOptions,
    output: Output,
    *,
    whole_nodes: bool,
) -> None:
    """Answer `capacity --batch`."""
    from dataclasses import replace

    from gpuscout.runner.cli.show.deployments.batch import print_batch_aside, print_batch_lines
    from gpuscout.store.queries.sizing.batch import batch_capacity
    from gpuscout.store.ranking.question.lookup import stored_gpus

    batches = options.batches(startup)
    with open_store(db) as store, store.reading() as connection:
        names = stored_gpus(connection).ids
        question = replace(question, prices=prices.rules(names))
        spot = parse_prices(options.spot_price or (), names)
        found = batch_capacity(connection, question, batches, whole_nodes=whole_nodes, spot_prices=spot)
    if output.json:
        print_json(batch_document(found))
    elif output.for_people:
        print_batch_lines(found)
    else:
        rows = [
            {**picked(group.group, *CASE), **_about(group, plan), **_offer(group, offer)}
            for group in found.groups
            for plan in group.plans
            for offer in plan.offers
        ]
        for_machines = [Column(name, name) for name in (*CASE, *_ABOUT, *_OFFER)]
        print_rows(_FOR_READERS if output.md else for_machines, rows, output)
        print_batch_aside(found)
    leave_if_nothing(any(group.plans for group in found.groups))


_FOR_READERS = (
    Column("model", "model"),
    Column("workload", "workload"),
    Column("configuration", "configuration"),
    Column("purchase", "paid"),
    a_figure("gpus", "GPUs", whole_number),
    a_figure("gpu_hours", "GPU hours"),
    a_figure("usd", "USD"),
    a_figure("usd_low", "low (80 %)"),
    a_figure("usd_high", "high (80 %)"),
    a_figure("safe_gpus", "safe GPUs (90 %)", whole_number),
    a_figure("safe_usd", "safe USD (90 %)"),
    a_figure("usd_per_mtok", "USD/Mtok"),
    Column("kind", "kind"),
    Column("backed", "measured near", yes_or_no),
)
_ABOUT = ("gpu", "configuration", "kind", "backed", "limits_met", "concurrency", "requests_per_s_per_replica")
_PLAIN = ("purchase", "replicas", "gpus", "seconds", "gpu_hours", "usd")
_OFFER = (*_PLAIN, "usd_low", "usd_high", "usd_per_mtok", "safe_replicas", "safe_gpus", "safe_usd")


def _about(group: BatchGroup, plan: BatchPlan) -> dict[str, Any]:
    from gpuscout.runner.cli.show.deployments.sized import plan_row

    return {**plan_row(group.group, plan), **picked(plan.config, "concurrency")}


def _offer(group: BatchGroup, offer: BatchOffer) -> dict[str, Any]:
    low, high = offer.usd_range or (None, None)
    safe = offer.safe
    return {
        **picked(offer, *_PLAIN),
        "usd_low": low,
        "usd_high": high,
        "usd_per_mtok": None if offer.usd is None else offer.usd / (group.requests * group.group.output_len / 1e6),
        "safe_replicas": safe and safe.replicas,
        "safe_gpus": safe and safe.gpus,
        "safe_usd": safe and safe.usd,
    }


def batch_document(found: BatchCapacity) -> dict[str, object]:
    from gpuscout.runner.cli.show.deployments.batch import together
    from gpuscout.runner.cli.show.deployments.sized import outs_document, question_document
    from gpuscout.runner.cli.show.prices import prices_document

    return {
        **picked(found.batches[0], "within_s", "startup_s", "interruptions_per_h", "lost_work_s"),
        **question_document(found.rankings[0].question),
        "prices": prices_document(found.prices),
        "spot_prices": None if found.spot is None else prices_document(found.spot),
        "groups": [
            {
                **picked(group.group, *CASE, "engine", "caveats"),
                "requests": group.requests,
                "output_tokens": group.requests * group.group.output_len,
                "plans": [
                    {**_about(group, plan), "offers": [_offer(group, offer) for offer in plan.offers]}
                    for plan in group.plans
                ],
                "out": outs_document(group.out),
            }
            for group in found.groups
        ],
        "together": together(found),
    }
