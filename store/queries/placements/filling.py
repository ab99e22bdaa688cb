"""Contents of nodes: where the replicas of a solution stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gpuscout.store.queries.placements.nodes import Filled, Nodes
from gpuscout.store.ranking.types import RankedConfig


@dataclass(frozen=True, eq=False)
class Choice:
    need: int
    config: RankedConfig
    pool: int
    spans: int
    rate: float


def contents(pool: Nodes, arcs: Mapping[tuple[int, int], int], counts: Mapping[Choice, int]) -> list[Filled]:
    """Return the contents of the nodes, with equally filled ones together."""
    single = {choice: count for choice, count in counts.items() if choice.spans == 1}
    spanned = sum(choice.spans * count for choice, count in counts.items() if choice.spans > 1)
    bins = _first_fit(single, pool.gpus_per_node)
    if sum(one.nodes for one in bins) > pool.nodes - spanned:
        bins = _along_arcs(single, arcs)
    names = iter(pool.names)

    def named(nodes: int) -> tuple[str, ...]:
        return tuple(name for name, _ in zip(names, range(nodes), strict=False)) if pool.names else ()

    found = [
        Filled(
            pool.gpu,
            pool.gpus_per_node,
            one.nodes,
            tuple((choice.need, choice.config, count) for choice, count in one.holds.items()),
            names=named(one.nodes),
        )
        for one in bins
    ]
    for choice, count in counts.items():
        if choice.spans > 1:
            nodes = choice.spans * count
            held = ((choice.need, choice.config, 1),)
            found.append(Filled(pool.gpu, pool.gpus_per_node, nodes, held, choice.spans, named(nodes)))
    return found


@dataclass
class _Alike:
    """So many nodes that hold the same, with so many free GPUs each."""

    nodes: int
    room: int
    holds: dict[Choice, int]


def _first_fit(counts: Mapping[Choice, int], size: int) -> list[_Alike]:
    """Return replicas, the largest first, each on the first node with room: most often the fewest nodes."""
    bins: list[_Alike] = []
    for choice in sorted(counts, key=lambda choice: -choice.config.num_gpus):
        needs, left = choice.config.num_gpus, counts[choice]
        at = 0
        while left:
            if at == len(bins):
                bins.append(_Alike(left, size, {}))
            here = bins[at]
            each = min(here.room // needs, left)
            if not each:
                at += 1
                continue
            nodes = min(here.nodes, left // each)
            if nodes < here.nodes:
                bins.insert(at + 1, _Alike(here.nodes - nodes, here.room, dict(here.holds)))
            bins[at] = _Alike(nodes, here.room - each * needs, here.holds | {choice: each})
            left -= nodes * each
            at += 1
    alike: dict[tuple[tuple[int, int], ...], _Alike] = {}
    for one in bins:
        same = alike.setdefault(tuple((id(choice), count) for choice, count in one.holds.items()), one)
        same.nodes += 0 if same is one else one.nodes
    return [one for one in alike.values() if one.holds]


def _along_arcs(counts: Mapping[Choice, int], arcs: Mapping[tuple[int, int], int]) -> list[_Alike]:
    """Return replicas on nodes as the arcs of the solution have them."""
    by_size: dict[int, list[Choice]] = {}
    for choice, count in counts.items():
        by_size.setdefault(choice.config.num_gpus, []).extend([choice] * count)
    left = dict(arcs)
    alike: Counter[tuple[tuple[Choice, int], ...]] = Counter()
    while any(by_size.values()):
        at, held = 0, Counter[Choice]()
        while (arc := next((arc for arc in left if arc[0] == at and left[arc]), None)) is not None:
            left[arc] -= 1
            at += arc[1]
            if by_size.get(arc[1]):
                held[by_size[arc[1]].pop()] += 1
        assert at, "the arcs hold every replica"
        if held:
            alike[tuple(held.items())] += 1
    return [_Alike(nodes, 0, dict(holds)) for holds, nodes in alike.items()]
