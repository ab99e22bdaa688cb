"""A batch to finish in time as a table: every way to pay for the cheapest, and the best of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpuscout.runner.cli.common import out
from gpuscout.runner.cli.show.certainty import trust
from gpuscout.runner.cli.show.deployments.moving import spell_time
from gpuscout.runner.cli.show.deployments.sized import answer_lines, gpus_out, shown_groups, with_range
from gpuscout.runner.cli.show.fitted import FittedColumn, fitted, short_gpu
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.prices import prices_by_gpu
from gpuscout.runner.cli.show.wording import (
    alike,
    caveats_of,
    describe,
    doubt,
    doubts,
    load,
    premises,
    print_aside,
    print_lines,
    workload,
)
from gpuscout.store.queries.sizing.batch import BatchCapacity, BatchGroup, BatchOffer, BatchPlan
from gpuscout.store.queries.sizing.capacity import summed_range

_MOST_GPUS = 8


def print_batch_aside(found: BatchCapacity) -> None:
    """Print notes that rows of CSV and Markdown cannot hold."""
    caveats = caveats_of(group.group for group in found.groups)
    print_aside([*_premises(found), *caveats, *_remarks(found, found.groups)])


def together(found: BatchCapacity) -> dict[str, Any] | None:
    """Sum what the cheapest of all groups take; None: there is one group, or one without a price."""
    groups, _ = shown_groups(found.rankings, found.groups)
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


def print_batch_lines(found: BatchCapacity) -> None:
    """Print every way to pay for the cheapest configuration of a group, and the cheapest one of other GPU types."""
    width = out().width
    groups, aside = shown_groups(found.rankings, found.groups)
    blocks = []
    for group in groups:
        heading = f"{number(group.requests)} requests ({number(group.requests * group.group.output_len)} output tokens)"
        table = _table(group, width) if group.plans else ["  no configuration can do it"]
        notes = list(group.group.caveats)
        if group.plans:
            first = group.plans[0]
            notes.append(f"{first.config.kind_label}: {trust(first.config)}")
            notes += doubts(doubt(plan.config, group.group) for plan in group.plans)
        notes += gpus_out(group.out)
        blocks.append((f"{group.group.model}, {workload(group.group)}: {heading}", table, notes))
    print_lines(answer_lines(width, _premises(found), blocks, [*aside, *_remarks(found, groups)]))


def _premises(found: BatchCapacity) -> list[str]:
    first, *others = premises(found.rankings[0].question, "nothing is kept free")
    return [f"within {spell_time(found.batches[0].within_s)}; {first}", *others]


def _remarks(found: BatchCapacity, groups: Sequence[BatchGroup]) -> list[str]:
    """Return the sum of several batches, prices, and what spot machines and start-up are taken for."""
    batch = found.batches[0]
    notes = []
    if (sums := together(found)) is not None:
        text = f"the first of all {sums['groups']} together: {sums['gpus']:,} GPUs, {sums['usd']:,.0f} USD"
        notes.append(text + alike(sums["usd_low"], sums["usd_high"]))
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

    shown = list(_shown(group))

    def money(plan: BatchPlan, offer: BatchOffer) -> str:
        if offer.usd is None:
            return "-"
        text = f"{offer.usd:,.0f}" if offer.usd >= 100 else f"{offer.usd:,.2f}"
        return with_range(text, offer.usd_range, plan.config.kind, number)

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
