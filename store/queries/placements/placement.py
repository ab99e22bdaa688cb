"""Placement of replicas on the available GPUs, so that all rates are carried at the least use.

An integer programme, solved by HiGHS (https://highs.dev) through `scipy.optimize.milp`, with the bound that it proved.
Variables are the replicas of each configuration on the nodes of each size, and how these fill the nodes.

*Nodes.* A replica that fits a node is never cut in two; how replicas of several sizes fill nodes of one size is the
arc-flow formulation of bin packing (J. M. Valério de Carvalho, Annals of Operations Research 86, 1999): a node is a
path from 0 to its size, each replica an arc as long as its GPUs. A larger replica takes whole nodes of its own.
*Estimates.* A configuration counts on nodes smaller than those it was estimated on only where it fits one, or spans
nodes in its estimate as well and its tensor parallelism stays within one.
*Used* are the GPUs of replicas, and all GPUs of the nodes that a larger one takes.
*Missing.* Where not all rates can be carried: the fewest GPUs of one type, in nodes of their usual size, with which
they can; found by the same programme with those nodes added.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from gpuscout.store.queries.placements.filling import Choice, contents
from gpuscout.store.queries.placements.nodes import MOST_NODES, Added, Filled, Missing, Need, Nodes, Placed, Placement
from gpuscout.store.queries.sizing.capacity import rate_of
from gpuscout.store.ranking.types import RankedConfig
from gpuscout.sweeps.errors import OutOfTimeError, needing

_EXACT = 1e-6  # what the solver may be off by, relative to each rate


def candidates(need: Need, sizes: Mapping[str, int], nodes: Nodes) -> list[tuple[RankedConfig, int]]:
    """Return the best configurations of each number of GPUs that run on such nodes, and the nodes they span.

    `sizes`: GPUs per node that estimates assume, by GPU type.
    """
    best: dict[int, RankedConfig] = {}
    size = nodes.gpus_per_node
    for config in need.configs:
        if config.gpu != nodes.gpu or not rate_of(config, need.group.output_len):
            continue
        estimated = sizes.get(config.gpu, size)
        within = config.num_gpus <= size
        if not within and size < estimated and (config.num_gpus <= estimated or config.tensor_parallel > size):
            continue
        known = best.get(config.num_gpus)
        if known is None or _worth(config, need) > _worth(known, need):
            best[config.num_gpus] = config
    kept: list[RankedConfig] = []
    for _, config in sorted(best.items()):
        if not any(_stands_for(one, config, need, size) for one in kept):
            kept.append(config)
    return [(config, -(-config.num_gpus // size)) for config in kept]


def _stands_for(small: RankedConfig, large: RankedConfig, need: Need, size: int) -> bool:
    """Return whether replicas of `small` where one of `large` is always do as well, and are as much to be trusted."""
    (trusted, rate), (needed, asked) = _worth(small, need), _worth(large, need)
    nodes = -(-large.num_gpus // size)
    if nodes == 1:
        number = large.num_gpus // small.num_gpus
    elif small.num_gpus <= size:
        number = nodes * (size // small.num_gpus)
    else:
        number = nodes // -(-small.num_gpus // size)
    return trusted >= needed and number * rate >= asked


def _worth(config: RankedConfig, need: Need) -> tuple[bool, float]:
    return config.backed, rate_of(config, need.group.output_len) or 0.0


class _Programme:
    """The integer programme: columns and rows as they are added, and the solution read back."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.upper: list[float] = []
        self.rows: list[tuple[dict[int, float], float]] = []

    def column(self, cost: float, upper: float) -> int:
        self.cost.append(cost)
        self.upper.append(upper)
        return len(self.cost) - 1

    def at_least(self, least: float, coefficients: Mapping[int, float]) -> None:
        self.rows.append((dict(coefficients), least))

    def solve(self, time_limit_s: float) -> tuple[list[int] | None, float, bool]:
        """Return the columns (None: no solution is known), the bound, and whether there can be no solution."""
        with needing("placing needs SciPy, which is not installed", hint="pip install 'gpuscout[placement]'"):
            from scipy.optimize import Bounds, LinearConstraint, milp
            from scipy.sparse import csr_array
        entries = [(row, column, value) for row, (found, _) in enumerate(self.rows) for column, value in found.items()]
        places, columns, values = zip(*entries, strict=True)
        matrix = csr_array((values, (places, columns)), shape=(len(self.rows), len(self.cost)))
        result: Any = milp(
            np.array(self.cost),
            integrality=np.ones(len(self.cost)),
            bounds=Bounds(0, np.array(self.upper)),
            constraints=LinearConstraint(matrix, lb=np.array([least for _, least in self.rows])),
            options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
        )
        bound = result.mip_dual_bound
        found = None if result.x is None else [round(value) for value in result.x]
        # All columns are bounded: "unbounded or infeasible" (4) is infeasible (2).
        impossible = result.status == 2 or (result.status == 4 and "nfeasible" in result.message)
        return found, 0.0 if bound is None or not math.isfinite(bound) else float(bound), impossible


def place(
    needs: Sequence[Need],
    pools: Sequence[Nodes],
    sizes: Mapping[str, int],
    *,
    headroom: float = 0.2,
    min_replicas: int = 1,
    weights: Mapping[str, float] | None = None,
    added: Sequence[Nodes] = (),
    time_limit_s: float = 60.0,
) -> Placement | None:
    """Return the placement that uses the least; None: not everything fits.

    `weights`: what a GPU of each type counts, such as USD per hour; None: 1. With `added`, nodes that may be used
    besides, only their GPUs count. Raises OutOfTimeError where no solution was found in time, InputError without SciPy.
    """
    programme = _Programme()
    all_pools = [*pools, *added]
    choices: list[Choice] = []
    columns: list[int] = []
    flows: list[dict[tuple[int, int], int]] = []
    whole: list[list[int]] = [[] for _ in all_pools]
    for place_of_pool, pool in enumerate(all_pools):
        weight = (weights or {}).get(pool.gpu, 1.0) if not added else float(place_of_pool >= len(pools))
        here: dict[int, list[int]] = {}
        for place_of_need, need in enumerate(needs):
            for config, spans in candidates(need, sizes, pool):
                rate = rate_of(config, need.group.output_len) or 0.0
                taken = config.num_gpus if spans == 1 else spans * pool.gpus_per_node
                most = math.ceil(need.rate / (rate * (1 - headroom))) + min_replicas
                choices.append(Choice(place_of_need, config, place_of_pool, spans, rate))
                column = programme.column(weight * taken, min(most, pool.gpus // taken))
                columns.append(column)
                if spans == 1:
                    here.setdefault(config.num_gpus, []).append(column)
                else:
                    whole[place_of_pool].append(len(columns) - 1)
        flows.append(_pack(programme, pool, here, {columns[c]: choices[c].spans for c in whole[place_of_pool]}))
    for place_of_need, need in enumerate(needs):
        own = [(column, one) for column, one in zip(columns, choices, strict=True) if one.need == place_of_need]
        if not own:
            return None
        wanted = need.rate / (1 - headroom)
        programme.at_least(1 - _EXACT, {column: one.rate / wanted for column, one in own})
        programme.at_least(min_replicas, {column: 1.0 for column, _ in own})
    found, bound, impossible = programme.solve(time_limit_s)
    if found is None:
        if impossible:
            return None
        raise OutOfTimeError(
            f"no placement was found within {time_limit_s:g} s, nor proved impossible",
            hint="--time-limit 5min searches longer; fewer models at a time are quicker",
        )
    counts = {place: found[column] for place, column in enumerate(columns) if found[column]}
    filled: list[Filled] = []
    new: list[Added] = []
    for place_of_pool, pool in enumerate(all_pools):
        arcs = {arc: found[column] for arc, column in flows[place_of_pool].items() if found[column]}
        mine = {choices[place]: count for place, count in counts.items() if choices[place].pool == place_of_pool}
        here_filled = contents(pool, arcs, mine)
        filled += here_filled
        if mine and place_of_pool >= len(pools):
            gpus = sum(_taken(choice, all_pools) * count for choice, count in mine.items())
            new.append(Added(pool.gpu, gpus, pool.gpus_per_node, sum(one.nodes for one in here_filled)))
    used = sum(programme.cost[columns[place]] * count for place, count in counts.items())
    if weights is None or added:
        bound = math.ceil(bound - 1e-6)  # GPUs are whole
    placed = tuple(
        Placed(one.need, one.config, all_pools[one.pool].gpus_per_node, counts[place])
        for place, one in enumerate(choices)
        if place in counts
    )
    gpus = sum(_taken(choices[place], all_pools) * count for place, count in counts.items())
    return Placement(placed, tuple(filled), gpus, used, min(bound, used), tuple(new))


def _taken(choice: Choice, pools: Sequence[Nodes]) -> int:
    return choice.config.num_gpus if choice.spans == 1 else choice.spans * pools[choice.pool].gpus_per_node


def _pack(
    programme: _Programme, pool: Nodes, sizes: Mapping[int, Sequence[int]], whole: Mapping[int, int]
) -> dict[tuple[int, int], int]:
    """Make the replicas on these nodes fit them: the columns of arcs by (where an arc begins, its length).

    sizes  the columns of replicas by their GPUs       whole  of larger ones, the nodes that each takes
    """
    arcs: dict[tuple[int, int], int] = {}
    reached = {0}
    for size in sorted(sizes, reverse=True):
        for start in range(pool.gpus_per_node - size + 1):
            if start in reached:
                arcs[start, size] = programme.column(0.0, pool.nodes * (pool.gpus_per_node // size))
                reached.add(start + size)
    at: dict[int, dict[int, float]] = {position: {} for position in sorted(reached - {0})}
    for (start, size), column in arcs.items():
        at[start + size][column] = 1.0
        if start:
            at[start][column] = -1.0
    for balance in at.values():
        programme.at_least(0.0, balance)
    begun = {column: -1.0 for (start, _), column in arcs.items() if start == 0}
    if begun or whole:
        programme.at_least(-pool.nodes, begun | {column: -float(spans) for column, spans in whole.items()})
    for size, columns in sizes.items():
        carried = {column: 1.0 for (_, length), column in arcs.items() if length == size}
        programme.at_least(0.0, carried | dict.fromkeys(columns, -1.0))
    return arcs


def missing(
    needs: Sequence[Need],
    pools: Sequence[Nodes],
    sizes: Mapping[str, int],
    gpus: Iterable[str],
    *,
    headroom: float = 0.2,
    min_replicas: int = 1,
    time_limit_s: float = 60.0,
) -> list[Missing]:
    """Return the GPUs to add: of each of these types the fewest that do, the fewest first.

    Where no type alone does, the fewest GPUs of several; empty: some need has no configuration on any of them, or
    nothing was found in time: a search has half of what is left of `time_limit_s`, and a second at least.
    """
    new = []
    for gpu in gpus:
        nodes = sum(_most_nodes(need, gpu, sizes[gpu], headroom, min_replicas) for need in needs)
        if nodes:
            new.append(Nodes(gpu, sizes[gpu], min(nodes, MOST_NODES)))
    found: list[Missing] = []
    ends = time.monotonic() + time_limit_s
    for added in [*([one] for one in new), *([new] if len(new) > 1 else [])]:
        if len(added) > 1 and found:
            break
        with suppress(OutOfTimeError):
            placement = place(
                needs,
                pools,
                sizes,
                headroom=headroom,
                min_replicas=min_replicas,
                added=added,
                time_limit_s=max(1.0, (ends - time.monotonic()) / 2),
            )
            if placement is not None:
                found.append(Missing(placement.added, math.ceil(placement.bound)))
    return sorted(found, key=lambda one: (one.gpus, one.added[0].gpu))


def _most_nodes(need: Need, gpu: str, size: int, headroom: float, min_replicas: int) -> int:
    """Return the number of nodes of a type that carry the need alone, whatever the configuration."""
    best = 0
    for config in need.configs:
        rate = rate_of(config, need.group.output_len)
        if config.gpu == gpu and rate:
            replicas = max(math.ceil(need.rate / (rate * (1 - headroom))), min_replicas)
            best = max(best, replicas * -(-config.num_gpus // size))
    return best
