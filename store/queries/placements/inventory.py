"""Capacity of GPUs that somebody owns: for each model the deployment that gets the most out of all of them.

Every model is looked at by itself, as if it had the whole inventory. A replica that fits a node shares it with others
and is never cut in two; one that does not has whole nodes of its own, whose other GPUs are idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuscout.store.ranking.types import Group, RankedConfig


@dataclass(frozen=True)
class Share:
    """Replicas of one configuration on the GPUs of one type."""

    config: RankedConfig
    replicas: int

    @property
    def gpus(self) -> int:
        return self.replicas * self.config.num_gpus


@dataclass(frozen=True)
class Served:
    """One model under one workload on the whole inventory; no shares: it does not run there within the limits."""

    group: Group
    shares: tuple[Share, ...]

    @property
    def replicas(self) -> int:
        return sum(share.replicas for share in self.shares)

    @property
    def gpus(self) -> int:
        return sum(share.gpus for share in self.shares)

    @property
    def output_tokens_per_s(self) -> float:
        return sum(share.replicas * (share.config.output_tokens_per_s or 0.0) for share in self.shares)

    @property
    def concurrency(self) -> int:
        """Requests in flight, one a user."""
        return sum(share.replicas * (share.config.concurrency or 0) for share in self.shares)

    @property
    def tokens_range(self) -> tuple[float, float] | None:
        """80 % interval of the total throughput, at least; None: not known for a share."""
        ends = [share.config.intervals.get("output_tokens_per_s") for share in self.shares]
        known = [(s.replicas * end[0], s.replicas * end[1]) for s, end in zip(self.shares, ends, strict=True) if end]
        if not known or len(known) < len(ends):
            return None
        return sum(low for low, _ in known), sum(high for _, high in known)


def replicas_on(count: int, num_gpus: int, gpus_per_node: int) -> int:
    """Return the number of deployments of `num_gpus` GPUs that so many GPUs in nodes of this size hold."""
    if num_gpus > gpus_per_node:
        whole = -(-num_gpus // gpus_per_node) * gpus_per_node
        return count // whole if count >= whole else count // num_gpus
    nodes, rest = divmod(count, gpus_per_node)
    return nodes * (gpus_per_node // num_gpus) + rest // num_gpus


def served(groups: Iterable[Group], inventory: Mapping[str, int], nodes: Mapping[str, int]) -> list[Served]:
    """Return the deployments that the inventory (GPUs by type) serves, most output tokens per second first."""
    found = []
    for group in groups:
        best: dict[str, Share] = {}
        for config in group.configs:
            count = inventory.get(config.gpu, 0)
            replicas = replicas_on(count, config.num_gpus, nodes.get(config.gpu, 8))
            share = Share(config, replicas)
            if replicas and (config.gpu not in best or _worth(share) > _worth(best[config.gpu])):
                best[config.gpu] = share
        shares = tuple(best[gpu] for gpu in inventory if gpu in best)
        found.append(Served(group, shares))
    return sorted(found, key=lambda one: (not one.shares, -one.output_tokens_per_s, one.group.model))


def _worth(share: Share) -> tuple[float, int]:
    return share.replicas * (share.config.output_tokens_per_s or 0.0), -share.gpus
