"""Needs of a deployment besides its GPUs: nodes, the link between them, power, and who sells it."""

from __future__ import annotations

from dataclasses import dataclass

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.wording import GLUE
from gpuscout.store.prices.prices import Prices
from gpuscout.store.ranking.types import Configuration
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

_MOST_SELLERS = 4


@dataclass(frozen=True)
class Site:
    """Nodes, power and sellers that so many GPUs of one type need.

    `link` None: a deployment is one GPU. `link_gb_per_s` is one way, of a GPU; `tdp_kw` that of the GPUs alone (None:
    not known). `sellers` are those whose prices count: who has GPUs free, and when, no price list says.
    """

    nodes: int
    link: str | None
    link_gb_per_s: float | None
    tdp_kw: float | None
    sellers: tuple[str, ...]


def site_of(prices: Prices, config: Configuration, *, gpus: int | None = None, nodes: int | None = None) -> Site | None:
    """Return the site of one deployment, or of `gpus` GPUs on `nodes` nodes. None: no catalogue here has the GPU."""
    gpu = GPUCatalogue.load().find(config.gpu)
    if gpu is None:
        return None
    price = prices.known.get(config.gpu)
    total = gpus or config.num_gpus
    link, gb_per_s = (gpu.link_kind, gpu.link_gbs) if gpu.scale_up_gpus > 1 else ("PCIe", gpu.pcie_gbs)
    linked = config.num_gpus > 1
    return Site(
        nodes=nodes or -(-total // gpu.gpus_per_node),
        link=link if linked else None,
        link_gb_per_s=gb_per_s if linked else None,
        tdp_kw=None if gpu.tdp_w is None else gpu.tdp_w * total / 1000,
        sellers=() if price is None else price.providers,
    )


def site(found: Site) -> str:
    """Return text such as "1 node, NVLink 4 (450 GB/s a GPU); 1.4 kW TDP; sold by AWS, GCP"."""
    parts = [count(found.nodes, "node")]
    if found.link is not None:
        parts[0] += f", {found.link} ({number(found.link_gb_per_s or 0.0)}{GLUE}GB/s a GPU)"
    if found.tdp_kw is not None:
        parts.append(f"{number(found.tdp_kw)}{GLUE}kW TDP of GPUs")
    if found.sellers:
        others = len(found.sellers) - _MOST_SELLERS
        named = ", ".join(found.sellers[:_MOST_SELLERS]) + (f" and {others} more" if others > 0 else "")
        parts.append(f"sold by {named} (availability not known)")
    return "; ".join(parts)
