"""Own GPUs against a token API, as tables and as a document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from typing import Any

from gpuscout.runner.cli.common import count, leave_if_nothing, out, print_json
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, number, print_rows, yes_or_no
from gpuscout.runner.cli.show.prices import price_sources, prices_document, usd
from gpuscout.runner.cli.show.wording import (
    GLUE,
    caveats_of,
    describe,
    premises,
    print_aside,
    print_lines,
    share,
    workload,
    wrapped,
)
from gpuscout.store.prices.prices import OLD_AFTER_DAYS
from gpuscout.store.queries.sizing.token_api import AgainstApi, ApiComparison, BreakEven, OwnGpus, usd_per_day
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import percent, printable

_LOAD = re.compile(r"(?P<value>\d{1,15}(?:\.\d{1,15})?(?:[eE]\d{1,2})?)\s*(?P<unit>[kKmMbBtT]?)")
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def number_of_tokens_per_day(text: str) -> float:
    """Read "20M" -> 20,000,000. Raises InputError."""
    form = _LOAD.fullmatch(text.strip())
    value = float(form["value"]) * _UNITS[form["unit"].casefold()] if form else 0.0
    if not value > 0:
        raise InputError(
            f'--tokens-per-day: invalid load "{printable(text)}": expected a positive number',
            hint="for example 20M; k, M, B and T stand for thousands, millions …",
        )
    return value


def show_api_comparison(found: ApiComparison, output: Output, top: int) -> None:
    """Print the comparison in the form asked for."""
    if output.json:
        print_json(api_document(found))
    elif output.for_people:
        print_api_comparison(found, top)
    else:
        pairs = [(one, own) for one in found.answers for own in one.own]
        if output.md:
            rows = [{**picked(one.group, *CASE), "api": one.price.name, **_shown(one, own)} for one, own in pairs]
            columns = [Column(name, name) for name in ("model", "workload", "api")] + list(_COLUMNS)
        else:
            rows = [
                {**picked(one.group, *CASE), "api": one.price.name, "api_usd_per_mtok": one.usd_per_mtok, **_row(own)}
                for one, own in pairs
            ]
            columns = [Column(name, name) for name in rows[0]] if rows else []
        print_rows(columns, rows, output)
        print_aside([*_premises(found), *_remarks(found, None)])
    leave_if_nothing(any(one.own for one in found.answers))


def print_api_comparison(found: ApiComparison, top: int) -> None:
    """Print every model and workload against every price, with the `top` GPU types of each."""
    for told in _premises(found):
        _say(told)
    for one in found.answers:
        print()
        _say(f"{one.group.model}, {workload(one.group)}, against {one.price.name}: {_price(one, found.prices.day)}")
        if not one.own:
            _say("no configuration with a price meets the limits", indent=2)
            continue
        print_rows(_COLUMNS, [_shown(one, own) for own in one.own[:top]], Output(), drop=("backed", "lasting"))
        for line in _notes(one):
            _say(line, indent=2)
    print()
    for note in _remarks(found, top):
        _say(note)


def _premises(found: ApiComparison) -> list[str]:
    kept_free = f"{share(found.demand.headroom)} of the capacity kept free"
    return premises(found.ranking.question, kept_free, "GPUs are paid around the clock")


def _remarks(found: ApiComparison, top: int | None) -> list[str]:
    """Return prices of the GPUs shown, and how to read the columns."""
    shown = [own.config.gpu for one in found.answers for own in one.own[:top]]
    return [
        *caveats_of(one.group for one in found.answers),
        *price_sources(found.prices, shown),
        "break-even: tokens a day, input and output together, from which GPUs cost no more than the API. range: from "
        "the cheapest seller and the upper end of the 80 % interval of a replica's rate to the costliest and the lower "
        "end. lasting: from there on no further replica makes them cost more again.",
    ]


def api_document(found: ApiComparison) -> dict[str, object]:
    question, day = found.ranking.question, found.prices.day
    return {
        "slos": [str(slo) for slo in question.slos],
        "assumed_tail": question.assume_tail,
        "trust": str(question.trust),
        "headroom": found.demand.headroom,
        "prices": prices_document(found.prices),
        "comparisons": [
            {
                **picked(one.group, *CASE, "caveats"),
                "api": asdict(one.price) | {"name": one.price.name, "is_old": day is not None and one.is_old(day)},
                **picked(one, "same_model", "cached_share", "tokens_per_request"),
                "api_usd_per_request": one.usd_per_request,
                "api_usd_per_mtok": one.usd_per_mtok,
                "gpus": [_row(own) for own in one.own],
                "at_load": _at_load(one),
            }
            for one in found.answers
        ],
    }


def _row(own: OwnGpus) -> dict[str, Any]:
    """Return one GPU type, in tokens a day and USD of one replica."""

    def figures(name: str, at: BreakEven | None) -> dict[str, Any]:
        return {f"{name}_tokens_per_day": at and at.tokens_per_day}

    config, at = own.config, own.break_even
    return {
        "gpu": config.gpu,
        **picked(config, "num_gpus", "precision", "kv_precision", "server", "backed", "concurrency"),
        **picked(config, "tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel"),
        "usd_per_replica_hour": own.usd_per_hour,
        "requests_per_s_per_replica": own.requests_per_s,
        "usd_per_mtok_at_full_load": own.usd_per_mtok,
        **figures("break_even", at),
        "break_even_replicas": at and at.replicas,
        "lasting_tokens_per_day": at and at.lasting_tokens_per_day,
        **figures("break_even_low", own.optimistic),
        **figures("break_even_high", own.pessimistic),
    }


def _shown(one: AgainstApi, own: OwnGpus) -> dict[str, Any]:
    low, high = (tokens(at.tokens_per_day if at else None) for at in (own.optimistic, own.pessimistic))
    return {
        **_row(own),
        "configuration": describe(own.config, one.group).replace(GLUE, " "),
        "range": low if low == high else f"{low} to {high}",
    }


def _at_load(one: AgainstApi) -> dict[str, Any] | None:
    if one.at_load is None:
        return None
    plans = []
    for plan in one.at_load.plans:
        cost, ends = usd_per_day(plan)
        low, high = ends or (None, None)
        plans.append(
            {
                "gpu": plan.config.gpu,
                **picked(plan.config, "num_gpus", "precision", "kv_precision", "server", "backed"),
                **picked(plan, "replicas", "gpus", "headroom"),
                "usd_per_day": cost,
                "usd_per_day_low": low,
                "usd_per_day_high": high,
            }
        )
    return {**picked(one.at_load, "tokens_per_day", "requests_per_s", "api_usd_per_day"), "own": plans}


def _say(text: str, indent: int = 0) -> None:
    print_lines(wrapped(text, out().width, indent=indent))


def _price(one: AgainstApi, day: date | None) -> str:
    """Return text such as "0.15 in, 0.6 out USD per million tokens (2026-06-04, book default): 0.4 USD …"."""

    price = one.price
    read = f"{price.input_usd_per_mtok:g} in"
    if one.cached_share:
        cached = price.cached_input_usd_per_mtok
        rate = "no price of its own" if cached is None else f"{cached:g}"
        read += f" ({percent(one.cached_share)} of it cached: {rate})"
    old = f", over {OLD_AFTER_DAYS} days old" if day is not None and one.is_old(day) else ""
    text = f"{read}, {price.output_usd_per_mtok:g} out USD per million tokens ({price.date}{old}, book {price.book})"
    same = "" if one.same_model else f"; it is of another model, {price.model}"
    return f"{text}: {number(one.usd_per_mtok)} USD per million tokens of this workload{same}"


def _notes(one: AgainstApi) -> Iterator[str]:
    at = one.at_load
    if at is None:
        return
    text = f"{tokens(at.tokens_per_day)} tokens a day ({number(at.requests_per_s)} requests/s)"
    yield f"at {text} the API costs {usd(at.api_usd_per_day)} USD a day, {usd(at.api_usd_per_day * 365)} a year"
    for plan in at.plans[:_PLANS]:
        cost, ends = usd_per_day(plan)
        span = f" (80 % range {usd(ends[0])} to {usd(ends[1])})" if ends and ends[0] < ends[1] else ""
        gap = cost - at.api_usd_per_day
        beside = f"{usd(abs(gap))} {'less' if gap < 0 else 'more'} than" if usd(abs(gap)) != usd(0) else "as much as"
        unsure = "" if plan.config.backed else "; no measured run is near"
        replicas = count(plan.replicas, "replica")
        yield f"{describe(plan.config, one.group)}, {replicas}: {usd(cost)} USD a day{span}, {beside} the API{unsure}"


_PLANS = 2


def tokens(value: float | None) -> str:
    """Return text such as "3.2 M" """
    if value is None:
        return "never"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


_COLUMNS = (
    Column("configuration", "configuration"),
    a_figure("usd_per_replica_hour", "USD/h", usd),
    a_figure("usd_per_mtok_at_full_load", "USD/Mtok, full"),
    a_figure("break_even_tokens_per_day", "break-even", tokens, unknown="never"),
    Column("range", "range"),
    a_figure("lasting_tokens_per_day", "lasting", tokens, unknown="never"),
    Column("backed", "measured near", yes_or_no),
)
