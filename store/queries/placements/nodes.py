"""Nodes, loads to carry on them, and placements: plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gpuscout.store.ranking.types import Group, RankedConfig
from gpuscout.sweeps.errors import InputError

MOST_NODES = 100_000
"""Of a type that are added, in the search for what is missing."""


@dataclass(frozen=True)
class Nodes:
    """So many nodes with so many GPUs of a type each. `names`: of the nodes, where they are known.

    Raises InputError for fewer than one of either.
    """

    gpu: str
    gpus_per_node: int
    nodes: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus_per_node < 1:
            raise InputError(
                f"invalid nodes: {self.nodes} with {self.gpus_per_node} {self.gpu} each: expected at least 1 of both"
            )

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Need:
    """A load to carry: a model under one workload, with its configurations, at `rate` requests/s."""

    group: Group
    rate: float
    configs: tuple[RankedConfig, ...]


@dataclass(frozen=True)
class Placed:
    """Replicas of one configuration for a need (its place in the order of needs) on nodes of one kind."""

    need: int
    config: RankedConfig
    gpus_per_node: int
    replicas: int


@dataclass(frozen=True)
class Filled:
    """Nodes that are filled alike: `contents` are needs, configurations and how many replicas of each a node holds.

    `nodes_per_replica` above 1: one replica takes so many nodes. `names` as in `Nodes`.
    """

    gpu: str
    gpus_per_node: int
    nodes: int
    contents: tuple[tuple[int, RankedConfig, int], ...]
    nodes_per_replica: int = 1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Added:
    """So many GPUs of a type on so many nodes that are not there."""

    gpu: str
    gpus: int
    gpus_per_node: int
    nodes: int


@dataclass(frozen=True)
class Missing:
    """Nodes with which everything is carried; `bound`: so many GPUs of these types it is proved to take at least."""

    added: tuple[Added, ...]
    bound: int

    @property
    def gpus(self) -> int:
        return sum(one.gpus for one in self.added)


@dataclass(frozen=True)
class Placement:
    """Replicas on GPUs. `used` is the objective (GPUs or USD per hour), `bound` its proven lower bound.

    `gpus` are used in all, on nodes that are there or `added`: GPUs used of nodes that are not there, and those nodes.
    """

    placed: tuple[Placed, ...]
    filled: tuple[Filled, ...]
    gpus: int
    used: float
    bound: float
    added: tuple[Added, ...] = ()

    @property
    def gap(self) -> float:
        """Largest possible distance to the optimum, as a fraction of what is used; 0: proved to be the least."""
        return max(0.0, (self.used - self.bound) / self.used) if self.used else 0.0


def merged(pools: Iterable[Nodes]) -> list[Nodes]:
    """Return nodes of one GPU type and size together, in the order of their first."""
    found: dict[tuple[str, int], list[Nodes]] = {}
    for pool in pools:
        found.setdefault((pool.gpu, pool.gpus_per_node), []).append(pool)
    return [
        replace(same[0], nodes=sum(one.nodes for one in same), names=tuple(name for one in same for name in one.names))
        for same in found.values()
    ]
