"""Placement of servers on the nodes of a cluster: each on one that has the GPUs of its case, once they are free."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gpuscout.runner.engines.benchmark.servers.gpus import is_one_of
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.library import gpus_with

# How long a kind of node that was there may be away before its cases are left for another run.
_COMES_BACK_S = 300.0


@dataclass(frozen=True)
class Node:
    """A node with GPUs: how many Ray gives away, and what they are called by their drivers or by Ray.

    `resources` are Ray's, with how much of each the node has.
    """

    id: str
    gpus: int
    names: tuple[str, ...]
    resources: tuple[tuple[str, float], ...] = ()

    def lacks(self, asked: Mapping[str, float]) -> bool:
        """Return whether the node lacks a resource even when nothing else runs there."""
        has = dict(self.resources)
        return any(has.get(name, 0.0) < amount for name, amount in asked.items())


class NoSuchNode(Exception):
    """An error with the reason why no node of the cluster can start this server."""


@dataclass(frozen=True)
class _Taken:
    node: str
    gpus: int


class ServerPlaces:
    """Gives GPUs of nodes to servers. `most` servers run at once; None: as many as there are GPUs for."""

    def __init__(self, most: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._nodes: dict[str, Node] = {}
        self._last_seen: dict[Node, float] = {}
        self._taken: dict[object, _Taken] = {}
        self._catalogue: GPUCatalogue = gpus_with()

    def update(self, nodes: Sequence[Node]) -> None:
        """Take over the nodes that are alive now."""
        self._nodes = {node.id: node for node in nodes}
        for node in nodes:
            self._last_seen[node] = self._clock()

    def take(self, server: object, gpu: GPUSpec, count: int, asked: Mapping[str, float] | None = None) -> str | None:
        """Return the node that starts `server` now, whose GPUs are taken until `leave`; None: when others have ended.

        `asked` is what else of Ray's resources it takes. Raises NoSuchNode where waiting is in vain.
        """
        asked = asked or {}
        with_gpus = [node for node in self._nodes.values() if self._suits(node, gpu, count)]
        suitable = [node for node in with_gpus if not node.lacks(asked)]
        if not suitable and not self._comes_back(gpu, count, asked):
            if with_gpus:
                text = ", ".join(f"{name}: {amount:g}" for name, amount in asked.items())
                raise NoSuchNode(
                    f"not supported here: no node with {count} x {gpu.name} has what `run:` of the engine asks for "
                    f"({text})"
                )
            there = sorted({f"{node.gpus} x {' or '.join(dict.fromkeys(node.names)) or 'unknown GPUs'}"
                            for node in self._nodes.values()})  # fmt: skip
            raise NoSuchNode(
                f"not supported here: the case is for {count} x {gpu.name} on one node; "
                f"nodes have {', '.join(there) or 'no GPUs'}"
            )
        if self._most is not None and len(self._taken) >= self._most:
            return None
        free = {node.id: node.gpus - self._in_use().get(node.id, 0) for node in suitable}
        # The fullest that has enough, so that larger servers find room elsewhere.
        fitting = sorted((left, id_) for id_, left in free.items() if left >= count)
        if not fitting:
            return None
        node = fitting[0][1]
        self._taken[server] = _Taken(node, count)
        return node

    def leave(self, server: object) -> None:
        """Forget a server that has ended."""
        self._taken.pop(server, None)

    def _in_use(self) -> Mapping[str, int]:
        used: dict[str, int] = {}
        for taken in self._taken.values():
            used[taken.node] = used.get(taken.node, 0) + taken.gpus
        return used

    def _suits(self, node: Node, gpu: GPUSpec, count: int) -> bool:
        return node.gpus >= count and is_one_of(gpu, node.names, self._catalogue)

    def _comes_back(self, gpu: GPUSpec, count: int, asked: Mapping[str, float]) -> bool:
        return any(
            self._suits(node, gpu, count) and not node.lacks(asked) and self._clock() - seen < _COMES_BACK_S
            for node, seen in self._last_seen.items()
        )
