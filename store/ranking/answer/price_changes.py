"""Effects of other prices: one GPU at the lowest or highest of its prices, all GPUs at those of a provider."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from gpuscout.store.prices.prices import GpuPrice
from gpuscout.store.ranking.candidates.candidates import Candidates
from gpuscout.store.ranking.candidates.placing import Indices, Placed, Sizes
from gpuscout.store.ranking.measures import DECIMALS, Array
from gpuscout.store.ranking.types import Flip, Seller


class _Types:
    """The ranked rows by group and GPU type, the most trusted of each group: what is less trusted wins by no price."""

    def __init__(self, pool: Candidates, ranked: Placed) -> None:
        self._pool = pool
        rows, of_group, place = ranked.rows, ranked.group, ranked.place
        if (level := pool.level[rows]).any():
            best_level = np.full(len(pool.codes.groups), level.max())
            np.minimum.at(best_level, of_group, level)
            trusted = level == best_level[of_group]
            rows, of_group, place = rows[trusted], of_group[trusted], place[trusted]
        types = of_group * len(pool.codes.gpus) + pool.codes.gpu[rows]
        order = np.argsort(types, kind="stable")
        self.rows, types, self.place = rows[order], types[order], place[order]
        self.starts = np.flatnonzero(np.diff(types, prepend=-1) != 0)
        self._counts = np.diff(self.starts, append=len(self.rows))
        self._figures = {name: pool.operating.figures[name][self.rows] for name in pool.aim.columns}
        kind = types[self.starts]
        self.group, self.gpu = kind // len(pool.codes.gpus), kind % len(pool.codes.gpus)

    def best(self, usd: Array) -> tuple[Array, Indices]:
        """Return each group's best value of every GPU type at these prices, and the first row that has it."""
        pool = self._pool
        values = pool.aim.values(self._figures, pool.num_gpus[self.rows], usd, pool.unit_costs.tdp_w[self.rows])
        values = np.nan_to_num(values, nan=np.inf)
        lowest = np.minimum.reduceat(values, self.starts)
        have_it = np.flatnonzero(values == np.repeat(lowest, self._counts))
        return lowest, self.rows[have_it[np.searchsorted(have_it, self.starts)]]


def flips_of(pool: Candidates, ranked: Placed) -> dict[int, list[Flip]]:
    """Return the prices, lowest or highest of one GPU's range, at which another GPU type would be best."""
    if not pool.aim.needs("price") or not len(ranked.rows):
        return {}
    types = _Types(pool, ranked)
    group, gpu = types.group, types.gpu
    now, _ = types.best(pool.unit_costs.usd[types.rows])
    low, low_row = types.best(pool.unit_costs.usd_low[types.rows])
    high, high_row = types.best(pool.unit_costs.usd_high[types.rows])
    found: dict[int, list[Flip]] = {}
    # Figures that are equal to six decimals are equal.
    now_count, low_count, high_count = (np.rint(values * DECIMALS).tolist() for values in (now, low, high))
    # Of every group the best type first, ties in the order of the ranking.
    by_name = np.argsort(np.argsort(pool.codes.gpus))
    by_group = np.lexsort((by_name[gpu], types.place[types.starts], group))
    bounds = [*np.flatnonzero(np.diff(group[by_group], prepend=-1) != 0).tolist(), len(by_group)]
    for start, stop in itertools.pairwise(bounds):
        first, *others = by_group[start:stop].tolist()
        if not others:
            continue
        winner = pool.codes.gpus[gpu[first]]
        flips = []
        if now_count[others[0]] < high_count[first]:
            usd = pool.unit_costs.usd_high[high_row[first]] / pool.num_gpus[high_row[first]]
            flips.append(Flip(winner, float(usd), pool.codes.gpus[gpu[others[0]]], winner))
        for other in others:
            if low_count[other] < now_count[first]:
                usd = pool.unit_costs.usd_low[low_row[other]] / pool.num_gpus[low_row[other]]
                name = pool.codes.gpus[gpu[other]]
                flips.append(Flip(name, float(usd), name, winner))
        if flips:
            found[int(group[first])] = flips
    return found


def sellers_of(pool: Candidates, ranked: Placed) -> dict[int, list[Seller]]:
    """Return each group's best at one provider's prices, of providers that sell two of its GPU types."""
    if not pool.aim.needs("price") or pool.aim.is_weighted or not len(ranked.rows):
        return {}
    types = _Types(pool, ranked)
    sizes = Sizes(pool.codes.gpus, pool.codes.gpu[types.rows], pool.num_gpus[types.rows])
    found: dict[int, list[Seller]] = defaultdict(list)
    for provider, prices in sorted(_by_provider(pool.prices.known.values()).items(), key=lambda one: one[0].casefold()):
        values, rows = types.best(sizes.usd_per_hour(prices)[0])
        sold = np.isfinite(values)
        counts = np.bincount(types.group[sold], minlength=len(pool.codes.groups))
        by_group = np.lexsort((types.place[types.starts], np.rint(values * DECIMALS), types.group))
        first = by_group[np.diff(types.group[by_group], prepend=-1) != 0]
        for kind in first.tolist():
            group, row = int(types.group[kind]), int(rows[kind])
            if counts[group] >= 2:
                gpu = pool.codes.gpus[types.gpu[kind]]
                size, value = int(pool.num_gpus[row]), float(values[kind])
                found[group].append(Seller(provider, gpu, size, value, int(counts[group])))
    return dict(found)


def _by_provider(prices: Iterable[GpuPrice]) -> Mapping[str, Mapping[str, GpuPrice]]:
    """Return the prices of each provider alone for each GPU type, under one spelling of its name."""
    names: dict[str, str] = {}
    found: dict[str, dict[str, GpuPrice]] = defaultdict(dict)
    for price in prices:
        for key in dict.fromkeys(quote.provider.casefold() for quote in price.quotes):
            mine = tuple(quote for quote in price.quotes if quote.provider.casefold() == key)
            name = names.setdefault(key, mine[0].provider)
            found[name][price.gpu] = replace(price, quotes=mine)
    return found
