"""Asks the store how models and workloads fit on GPUs that are there: ranks, reads prices, and places (`place`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from gpuscout.store.queries.placements.nodes import Missing, Need, Nodes, Placement, merged
from gpuscout.store.queries.placements.placement import missing, place
from gpuscout.store.queries.sizing.capacity import Out, Users, out_of, rate_of
from gpuscout.store.queries.sizing.capacity_question import Rate, both_rankings, check_rates, node_sizes
from gpuscout.store.queries.sizing.moving_question import about, check_names
from gpuscout.store.queries.sizing.simulated_rates import of_one_load
from gpuscout.store.ranking.answer.aside import case_of, measured_aside
from gpuscout.store.ranking.rank import Question, Ranking
from gpuscout.store.ranking.types import Group
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.traffic.moving import MovingLoad

LEAST = ("gpus", "usd")


@dataclass(frozen=True)
class Rules:
    """The rules of a placement. Raises InputError for invalid values.

    headroom  as in `Demand`      min_replicas  of every model and workload     least  what is least: "gpus" or "usd"
    time_limit_s  of one search; the answer says how far from the least it may be
    """

    headroom: float = 0.2
    min_replicas: int = 1
    least: str = LEAST[0]
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.headroom < 1:
            raise InputError(f"invalid headroom {self.headroom:g}: expected a share of the capacity from 0 to below 1")
        if not 1 <= self.min_replicas <= 10**6:
            raise InputError(f"invalid min_replicas {self.min_replicas}: expected 1 to 1,000,000")
        if self.least not in LEAST:
            raise InputError(f'invalid least "{self.least}": expected gpus or usd')
        if not 0 < self.time_limit_s <= 86400:
            raise InputError(f"invalid time limit of {self.time_limit_s:g} s: expected more than 0, at most a day")


@dataclass(frozen=True)
class Fit:
    """A placement, or what would have to be added to the GPUs for one (each alone does; empty: nothing does)."""

    placement: Placement | None
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True)
class Placing:
    """The answer. `needs` in the order of the load; `fit` as expected, `safe` so that it holds with 90 %.

    `safe` None: a model and workload does not meet the limits so surely on any GPU. `impossible`: needs that no
    configuration on any stored GPU type carries within the limits, and why the types are out. `unknown`: GPUs that are
    there and of which the store has nothing.
    """

    pools: tuple[Nodes, ...]
    rules: Rules
    rankings: tuple[Ranking, ...]
    needs: tuple[Need, ...]
    fit: Fit
    safe: Fit | None
    impossible: tuple[tuple[Need, tuple[Out, ...]], ...] = ()
    unknown: tuple[str, ...] = ()


def place_on(
    connection: sa.Connection,
    question: Question,
    nodes: Sequence[Nodes],
    load: MovingLoad | Sequence[Rate],
    rules: Rules | None = None,
) -> Placing:
    """Place models and workloads with their rates on nodes you have; of a load that moves, its highest rates.

    Computes no estimate. Raises what `rank` raises, InputError for a load that cannot be placed (users, rates of 0, one
    workload twice), and OutOfTimeError where nothing was found within the time limit.
    """
    rules = rules or Rules()
    pools = merged(nodes)
    if not pools:
        raise InputError("no GPUs to place anything on", hint="for example --have H100=16")
    rankings: list[Ranking] = []
    needs: list[Need] = []
    sure: list[Need | None] = []
    for asked, each in _asked(question, load):
        ranking, safe = both_rankings(connection, asked)
        rankings.append(ranking)
        aside = measured_aside(asked, ranking.groups)
        for group in of_one_load(ranking.groups, arriving=True):
            if case_of(group) in aside:
                continue
            needs.append(_need(group, each))
            surely = safe.get(case_of(group))
            sure.append(None if surely is None or not surely.configs else _need(surely, each))
    names = [case_of(need.group) for need in needs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two rates for {twice[0]}, {twice[1]:,} in / {twice[2]:,} out", hint="give each once")
    needs_and_sure = [pair for pair in zip(needs, sure, strict=True) if pair[0].rate > 0]
    needs, sure = [need for need, _ in needs_and_sure], [one for _, one in needs_and_sure]
    if not needs:
        raise InputError("no rate above 0: there is nothing to place")
    sizes = node_sizes(connection)
    unknown = tuple(dict.fromkeys(pool.gpu for pool in pools if pool.gpu not in sizes))
    for pool in pools:
        sizes.setdefault(pool.gpu, pool.gpus_per_node)
    impossible = tuple((need, tuple(out_of(need.group, ()))) for need in needs if not _able(need))
    if impossible:
        return Placing(tuple(pools), rules, tuple(rankings), tuple(needs), Fit(None), None, impossible, unknown)
    weights = _weights(rankings, pools) if rules.least == "usd" else None
    fit = _fit(needs, pools, sizes, rules, weights)
    surely_able = [one for one in sure if one is not None and _able(one)]
    safe_fit = _fit(surely_able, pools, sizes, rules, weights) if len(surely_able) == len(needs) else None
    return Placing(tuple(pools), rules, tuple(rankings), tuple(needs), fit, safe_fit, unknown=unknown)


def _asked(question: Question, load: MovingLoad | Sequence[Rate]) -> list[tuple[Question, Rate]]:
    if isinstance(load, MovingLoad):
        check_names(question, load)
        return [(about(question, series), Rate(series.peak)) for series in load.series]
    rates = list(load)
    check_rates(rates, question)
    return [(replace(question, workload=rate.workload or question.workload), rate) for rate in rates]


def _need(group: Group, rate: Rate) -> Need:
    load = rate.load(group.output_len)
    if isinstance(load, Users):
        raise InputError("users cannot be placed: how many requests they make differs between configurations")
    return Need(group, load, group.configs)


def _able(need: Need) -> bool:
    return any(rate_of(config, need.group.output_len) for config in need.configs)


def _weights(rankings: Sequence[Ranking], pools: Sequence[Nodes]) -> dict[str, float]:
    known = {gpu: price for ranking in rankings for gpu, price in ranking.prices.known.items()}
    lacking = [pool.gpu for pool in pools if pool.gpu not in known]
    if lacking:
        raise InputError(f"no price of {lacking[0]}", hint=f"--price '{lacking[0]}'=USD, or --least gpus")
    return {gpu: price.per_hour(1).usd for gpu, price in known.items()}


def _fit(
    needs: Sequence[Need],
    pools: Sequence[Nodes],
    sizes: dict[str, int],
    rules: Rules,
    weights: dict[str, float] | None,
) -> Fit:
    found = place(
        needs,
        pools,
        sizes,
        headroom=rules.headroom,
        min_replicas=rules.min_replicas,
        weights=weights,
        time_limit_s=rules.time_limit_s,
    )
    if found is not None:
        return Fit(found)
    gpus = dict.fromkeys(config.gpu for need in needs for config in need.configs)
    lacking = missing(
        needs,
        pools,
        sizes,
        gpus,
        headroom=rules.headroom,
        min_replicas=rules.min_replicas,
        time_limit_s=rules.time_limit_s,
    )
    return Fit(None, tuple(lacking))


def sustained(placing: Placing, need: int) -> tuple[float, tuple[float, float] | None]:
    """Return the requests/s that a need's replicas sustain, and the 80 % range; None: not known."""
    placement = placing.fit.placement
    output_len = placing.needs[need].group.output_len
    mine = [one for one in placement.placed if one.need == need] if placement else []
    rate = math.fsum((rate_of(one.config, output_len) or 0.0) * one.replicas for one in mine)
    ends = [one.config.intervals.get("output_tokens_per_s") for one in mine]
    known = [(end[0] * one.replicas, end[1] * one.replicas) for one, end in zip(mine, ends, strict=True) if end]
    if not known or len(known) < len(mine):
        return rate, None
    low, high = (math.fsum(end[side] for end in known) / output_len for side in (0, 1))
    return rate, (low, high)
