"""Prices as output: their sources, which of them decide, and the document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.document import picked
from gpuscout.runner.cli.show.fitted import short_gpu
from gpuscout.sweeps.text import percent

if TYPE_CHECKING:
    from gpuscout.store.prices.prices import GpuPrice, Prices
    from gpuscout.store.ranking.types import Ranking


def price_notes(ranking: Ranking, *, top: int = 1) -> list[str]:
    """Return sources of the prices of the `top` rows of each group, or else of the best two, and where they decide."""
    from gpuscout.store.ranking.rows import listed

    question = ranking.question
    if not any(question.aim.needs("price") or name.startswith("cost") for name in ("", *question.also)):
        return []
    shown = [config.gpu for group in ranking.groups for config in listed(group)[: max(top, 2)]]
    notes = price_sources(ranking.prices, shown)
    return notes + decisions(ranking) + _sellers(ranking) + _unpriced(ranking, shown)


def _sellers(ranking: Ranking) -> list[str]:
    """Return the winners at each provider's own prices, where there is one answer only."""
    if len(ranking.groups) != 1 or not ranking.groups[0].sellers:
        return []
    unit = ranking.question.aim.unit
    text = (f"{one.provider}: {one.gpu} x{one.num_gpus} {usd(one.objective)}" for one in ranking.groups[0].sellers)
    return [f"at each seller's own prices ({unit}): {'; '.join(text)}"]


def prices_in_short(ranking: Ranking, gpus: Iterable[str], *, by_gpu: bool) -> list[str]:
    """Return one line on the prices of these GPUs: what each costs, or else from when they are; and what has none.

    Where they come from, and which of them decide, `price_notes` says in full.
    """
    question, found = ranking.question, ranking.prices
    if not any(question.aim.needs("price") or name.startswith("cost") for name in ("", *question.also)):
        return []
    if by_gpu and not found.rules.whole_instances:
        return prices_by_gpu(found, gpus) + _unpriced(ranking, gpus)
    priced = [found.known[gpu] for gpu in dict.fromkeys(gpus) if gpu in found.known]
    days = [day for price in priced if price.dates for day in price.dates]
    notes = [f"{_kind(found)}, {min(days):%Y-%m} to {max(days):%Y-%m}"] if days else []
    return notes + _unused(found) + _unpriced(ranking, gpus)


def prices_by_gpu(found: Prices, gpus: Iterable[str]) -> list[str]:
    """Return one line with what each of these GPUs costs; with whole instances that depends on the deployment."""
    priced = [gpu for gpu in dict.fromkeys(gpus) if gpu in found.known]
    if not priced:
        return _unused(found)
    hour = "hour of a single GPU, its whole instance paid" if found.rules.whole_instances else "GPU hour"
    summary = "; ".join(_in_short(found, gpu) for gpu in priced)
    return [f"{_kind(found)}, USD per {hour}: {summary}", *_unused(found)]


def _kind(found: Prices) -> str:
    rules = found.rules
    return f"prices: {rules.purchase}, median of sellers" + (
        f", {percent(rules.discount)} off" if rules.discount else ""
    )


def _unused(found: Prices) -> list[str]:
    unused = _unused_overrides(found)
    where = "no result of this question runs on"
    return [f"--price changes nothing here: {where} {', '.join(unused)}"] if unused else []


def _in_short(prices: Prices, gpu: str) -> str:
    """Return text such as "L40S 2.06 (0.79-3.50, 5 sellers)" """
    price = prices.known[gpu]
    hourly = price.per_hour(1)
    if price.dates is None:
        return f"{short_gpu(gpu)} {usd(hourly.usd)} (--price)"
    old = f", read {price.dates[0]:%Y-%m} to {price.dates[1]:%Y-%m}" if prices.is_old(gpu) else ""
    span = f"{usd(hourly.low)}\u2013{usd(hourly.high)}, " if hourly.low < hourly.high else ""
    return f"{short_gpu(gpu)} {usd(hourly.usd)} ({span}{count(len(price.providers), 'seller')}{old})"


def _unpriced(ranking: Ranking, shown: Iterable[str]) -> list[str]:
    """Return the GPUs without a price, with the reasons."""
    ranked_by_price = ranking.question.aim.needs("price")
    lacking: dict[str, list[str]] = defaultdict(list)
    unranked = (one.gpu for group in ranking.groups for one in group.unranked)
    for gpu in sorted({*unranked} if ranked_by_price else {*shown}):
        if gpu in ranking.prices.missing:
            lacking[ranking.prices.missing[gpu]].append(gpu)
    text, does = ("unranked", "ranks") if ranked_by_price else ("no price", "prices")
    return [
        f"{text}: {', '.join(gpus)}: {reason}; --price '{gpus[0]}'=USD {does} it" for reason, gpus in lacking.items()
    ]


def price_sources(prices: Prices, gpus: Iterable[str]) -> list[str]:
    """Return the sources of the prices of these GPUs, in one note, and each --price that changed nothing."""
    rules = prices.rules
    # What one GPU costs then depends on how many of an instance's a deployment takes.
    hour = "hour of a single GPU, its whole instance paid" if rules.whole_instances else "GPU hour"
    kind = f"{rules.purchase} USD per {hour}, median of providers (lowest to highest)"
    kind += f", {percent(rules.discount)} off" if rules.discount else ""
    parts = [text for gpu in dict.fromkeys(gpus) if (text := _source(prices, gpu))]
    return [*([f"prices: {kind}: {'; '.join(parts)}"] if parts else []), *_unused(prices)]


def _unused_overrides(prices: Prices) -> list[str]:
    """Return the GPUs that were given a price without being asked about, whatever they are called in the store."""
    from gpuscout.store.prices.csv_file import gpu_name

    if not prices.rules.overrides:
        return []
    given, asked = ({gpu_name(name, [name]) for name in names} for names in (prices.rules.overrides, prices.known))
    return sorted(given - asked)


def _source(prices: Prices, gpu: str) -> str | None:
    """Return text such as "L40S 2.06 (0.79 to 3.50: AWS, OCI, RunPod; 2026-01-05 to 2026-09-24)" """
    price = prices.known.get(gpu)
    if price is None:
        return None
    hourly, dates = price.per_hour(1), price.dates
    if dates is None:
        return f"{gpu} {usd(hourly.usd)} (--price)"
    spread = f"{usd(hourly.low)} to {usd(hourly.high)}: " if hourly.low < hourly.high else ""
    days = f"{dates[0]} to {dates[1]}" if dates[0] < dates[1] else f"{dates[0]}"
    return f"{gpu} {usd(hourly.usd)} ({spread}{', '.join(price.providers)}; {days})"


def decisions(ranking: Ranking) -> list[str]:
    """Return one note for each price at which another GPU type would win, with the models it would win."""
    won: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for group in ranking.groups:
        for flip in group.flips:
            won[flip.gpu, usd(flip.usd_per_gpu_hour), flip.winner, flip.loser].append(group.model)
    notes = []
    for (gpu, price, winner, loser), models in sorted(won.items(), key=lambda item: (-len(item[1]), item[0])):
        whose = "" if len(ranking.groups) == 1 else f" ({count(len(models), 'case')}, such as {models[0]})"
        instead = f" instead of {loser}" if gpu == winner else ""
        span = _range(ranking.prices, gpu)
        notes.append(f"the price decides: {gpu}{span}: with {price} {winner} wins{instead}{whose}")
    more = len(notes) - _DECISIONS
    return [*notes[:_DECISIONS], *([f"… and {more} more such prices (--json lists all)"] if more > 0 else [])]


_DECISIONS = 4


def _range(prices: Prices, gpu: str) -> str:
    """Return text such as " 0.79 to 3.50"; nothing with whole instances, where it depends on the deployment."""
    if prices.rules.whole_instances:
        return ""
    hourly = prices.known[gpu].per_hour(1)
    return f" {usd(hourly.low)} to {usd(hourly.high)}"


def price_row(price: GpuPrice) -> dict[str, Any]:
    """Return the price of a GPU by the hour, and the book it comes from."""
    figures = {"usd_per_gpu_hour": "usd", "lowest_usd_per_gpu_hour": "low", "highest_usd_per_gpu_hour": "high"}
    return {**picked(price, "gpu", "book"), **picked(price.per_hour(1), **figures)}


def prices_document(found: Prices) -> dict[str, object]:
    """Return prices as JSON types: USD per GPU hour, or why there is none."""
    from gpuscout.store.prices.prices import OLD_AFTER_DAYS

    rules = found.rules
    known = []
    for price in found.known.values():
        known.append(
            {
                **price_row(price),
                "overridden": price.override is not None,
                "is_old": found.is_old(price.gpu),
                "quotes": [asdict(quote) for quote in price.quotes],
            }
        )
    return {
        "purchase": rules.purchase,
        "discount": rules.discount,
        "whole_instances": rules.whole_instances,
        "as_of": found.day,
        "old_after_days": OLD_AFTER_DAYS,
        "gpus": known,
        "without_price": [{"gpu": gpu, "reason": reason} for gpu, reason in found.missing.items()],
    }


def usd(value: float) -> str:
    return f"{value:,.2f}"
