"""`gpuscout capacity --batch`: the options of work to finish in time, and how its answer is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.ask.capacity_load import parse_duration
from gpuscout.runner.cli.common import leave_if_nothing, out, print_json
from gpuscout.runner.cli.options import Many, parse_prices
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, number, print_rows, whole_number, yes_or_no
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.runner.cli.options import PriceOptions
    from gpuscout.store.queries.sizing.batch import Batch, BatchCapacity, BatchGroup, BatchOffer, BatchPlan
    from gpuscout.store.ranking.types import Question

_WORK = "Work to finish"
_AMOUNT = re.compile(
    r"(?:(?P<workload>.+)=)?\s*(?P<value>\d{1,15}(?:\.\d{1,15})?)\s*(?P<scale>[kKMGBT]?)\s*"
    r"(?P<unit>|requests?|req|tokens?|tok)\s*"
)
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_INTERRUPTIONS = re.compile(r"\s*(?P<value>\d{1,6}(?:\.\d{1,9})?)\s*/\s*(?P<unit>h|d)\s*")
_MOST_GPUS = 8


def _option(*names: str, help: str, **rest: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_WORK, **rest)


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

    from gpuscout.runner.cli.show.wording import GLUE, caveats_of, print_aside
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.queries.sizing.batch import batch_capacity
    from gpuscout.store.ranking.question.lookup import stored_names
    from gpuscout.store.schema import gpus

    batches = options.batches(startup)
    with open_store(db) as store, store.reading() as connection:
        names = stored_names(connection, gpus).ids
        question = replace(question, prices=prices.rules(names))
        spot = parse_prices(options.spot_price or (), names)
        found = batch_capacity(connection, question, batches, whole_nodes=whole_nodes, spot_prices=spot)
    if output.json:
        print_json(batch_document(found))
    elif output.for_people:
        for line in batch_lines(found, out().width):
            print(line.replace(GLUE, " ").rstrip())
    else:
        rows = [
            {**picked(group.group, *CASE), **_about(group, plan), **_offer(group, offer)}
            for group in found.groups
            for plan in group.plans
            for offer in plan.offers
        ]
        for_machines = [Column(name, name) for name in (*CASE, *_ABOUT, *_OFFER)]
        print_rows(_FOR_READERS if output.md else for_machines, rows, output)
        caveats = caveats_of(group.group for group in found.groups)
        print_aside([*_premises(found), *caveats, *_remarks(found, found.groups)])
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
    from gpuscout.runner.cli.show.wording import configuration

    return {
        "configuration": configuration(plan.config, group.group.input_len, group.group.output_len),
        **picked(plan.config, "gpu", "backed", "concurrency", kind="told_kind", limits_met="likelihood"),
        **picked(plan, "requests_per_s_per_replica"),
    }


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
    from gpuscout.runner.cli.show.prices import prices_document
    from gpuscout.store.ranking.question.confidence import CAUTIOUS

    question, batch = found.rankings[0].question, found.batches[0]
    return {
        **picked(batch, "within_s", "startup_s", "interruptions_per_h", "lost_work_s"),
        "slos": [str(slo) for slo in question.slos],
        "assumed_tail": question.assume_tail,
        "trust": str(question.trust),
        "confidence": question.confidence,
        "safe_confidence": max(CAUTIOUS, question.confidence),
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
                "out": [
                    {"gpu": one.gpu, "cause": one.cause.value, "slo": str(one.slo) if one.slo else None}
                    for one in group.out
                ],
            }
            for group in found.groups
        ],
        "together": together(found),
    }


def together(found: BatchCapacity) -> dict[str, Any] | None:
    """Sum what the cheapest of all groups take; None: there is one group, or one without a price."""
    from gpuscout.runner.cli.show.wording import case_of, measured_aside
    from gpuscout.store.queries.sizing.capacity import summed_range

    aside = measured_aside(found.rankings[0].question, (group.group for group in found.groups))
    groups = [group for group in found.groups if case_of(group.group) not in aside]
    best = [group.plans[0].best for group in groups if group.plans]
    if len(groups) < 2 or len(best) < len(groups) or any(offer.usd is None for offer in best):
        return None
    low, high = summed_range(offer.usd_range for offer in best) or (None, None)
    return {
        "groups": len(best),
        "gpus": sum(offer.gpus for offer in best),
        "usd": sum(offer.usd or 0.0 for offer in best),
        "usd_low": low,
        "usd_high": high,
    }


def batch_lines(found: BatchCapacity, width: int) -> list[str]:
    """Yield lines for people: every way to pay for the cheapest configuration, the cheapest one of other GPU types."""
    from gpuscout.runner.cli.show.certainty import trust
    from gpuscout.runner.cli.show.deployments.moving import gpus_out
    from gpuscout.runner.cli.show.wording import (
        case_of,
        doubt,
        doubts,
        measured_aside,
        not_shown,
        workload,
        wrapped,
    )

    lines = [line for told in _premises(found) for line in wrapped(told, width, indent=0)]
    aside = measured_aside(found.rankings[0].question, (group.group for group in found.groups))
    groups = [group for group in found.groups if case_of(group.group) not in aside]
    for group in groups:
        heading = f"{number(group.requests)} requests ({number(group.requests * group.group.output_len)} output tokens)"
        lines += ["", *wrapped(f"{group.group.model}, {workload(group.group)}: {heading}", width, indent=0)]
        lines += _table(group, width) if group.plans else ["  no configuration can do it"]
        notes = list(group.group.caveats)
        if group.plans:
            first = group.plans[0]
            notes.append(f"{first.config.told_kind}: {trust(first.config)}")
            notes += doubts(doubt(plan.config, group.group) for plan in group.plans)
        notes += gpus_out(group.out)
        lines += [line for note in notes for line in wrapped(note, width, indent=2)]
    notes = [*([not_shown(aside)] if aside else []), *_remarks(found, groups)]
    return [*lines, "", *(line for note in notes for line in wrapped(note, width, indent=0))]


def _premises(found: BatchCapacity) -> list[str]:
    from gpuscout.runner.cli.show.deployments.moving import spell_time
    from gpuscout.runner.cli.show.wording import premises

    first, *others = premises(found.rankings[0].question, "nothing is kept free")
    return [f"within {spell_time(found.batches[0].within_s)}; {first}", *others]


def _remarks(found: BatchCapacity, groups: Sequence[BatchGroup]) -> list[str]:
    """Return the sum of several batches, prices, and what spot machines and start-up are taken for."""
    from gpuscout.runner.cli.show.deployments.moving import spell_time
    from gpuscout.runner.cli.show.fitted import short_gpu
    from gpuscout.runner.cli.show.prices import prices_by_gpu
    from gpuscout.runner.cli.show.wording import alike

    batch = found.batches[0]
    notes = []
    if (sums := together(found)) is not None:
        told = f"the first of all {sums['groups']} together: {sums['gpus']:,} GPUs, {sums['usd']:,.0f} USD"
        notes.append(told + alike(sums["usd_low"], sums["usd_high"]))
    gpus = list(dict.fromkeys(plan.config.gpu for group in groups for plan in group.plans[:2]))
    notes += prices_by_gpu(found.prices, gpus)
    if found.spot is not None:
        unknown = [short_gpu(gpu) for gpu in gpus if gpu not in found.spot.known]
        if unknown:
            notes.append(
                f"no spot price of {', '.join(unknown)}: --spot-price '{unknown[0]}'=USD, or rows of a price book"
            )
        notes.append(
            f"spot: a machine is interrupted {number(batch.interruptions_per_h or 0)} times an hour on average, "
            f"another is there at once and starts in {spell_time(batch.startup_s)}, {spell_time(batch.lost_work_s)} of "
            f"work are done again: {100 * batch.lasting(1):.3g} % of the paid time of a machine is work that lasts"
        )
    notes.append(
        f"replicas are paid from their order to the end of the work, and start in {spell_time(batch.startup_s)}. safe: "
        "sized to be done in time with a probability of 90 %."
    )
    return notes


def _table(group: BatchGroup, width: int) -> list[str]:
    from gpuscout.runner.cli.show.certainty import without_range
    from gpuscout.runner.cli.show.deployments.moving import spell_time
    from gpuscout.runner.cli.show.fitted import FittedColumn, fitted
    from gpuscout.runner.cli.show.wording import describe, doubt, load

    shown = list(_shown(group))

    def money(plan: BatchPlan, offer: BatchOffer) -> str:
        if offer.usd is None:
            return "-"
        told = f"{offer.usd:,.0f}" if offer.usd >= 100 else f"{offer.usd:,.2f}"
        if offer.usd_range is None:
            return without_range(told, plan.config.kind)
        low, high = map(number, offer.usd_range)
        return f"{told} ({low}–{high})"

    columns = [
        FittedColumn("configuration", [describe(plan.config, group.group) for plan, _ in shown], least=16),
        FittedColumn("", [doubt(plan.config, group.group) for plan, _ in shown]),
        FittedColumn("paid", [offer.purchase for _, offer in shown]),
        FittedColumn("GPUs", [f"{offer.gpus:,}" for _, offer in shown], right=True),
        FittedColumn("done in", [spell_time(offer.seconds) for _, offer in shown], right=True),
        FittedColumn("USD (80 % range)", [money(plan, offer) for plan, offer in shown], right=True),
        FittedColumn("safe", [f"{o.safe.gpus:,}" if o.safe else "-" for _, o in shown], right=True),
        FittedColumn("USD", [number(o.safe.usd) if o.safe and o.safe.usd else "-" for _, o in shown], right=True),
        FittedColumn("req/s each", [number(p.requests_per_s_per_replica) for p, _ in shown], right=True, drop=1),
        FittedColumn("c", [load(plan.config) for plan, _ in shown], right=True, drop=2),
    ]
    return fitted(columns, width, indent=2)


def _shown(group: BatchGroup) -> Iterator[tuple[BatchPlan, BatchOffer]]:
    for place, plan in enumerate(group.plans[: _MOST_GPUS + 1]):
        for offer in plan.offers if place == 0 else plan.offers[:1]:
            yield plan, offer
