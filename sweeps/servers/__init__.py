"""The inference servers that deployments are estimated and launched for. One module each; a new one is a line here."""

from __future__ import annotations

from collections.abc import Mapping

from gpuscout.sweeps.servers import sglang, trtllm, vllm
from gpuscout.sweeps.servers.base import Deployment, Launch, Server

__all__ = [
    "MEASURED_SERVERS",
    "ONE_OF_SERVERS",
    "REGISTRY",
    "SERVERS",
    "SERVER_ALIASES",
    "Deployment",
    "Launch",
    "Server",
    "server_called",
    "server_named",
    "taken_for_engine",
]

REGISTRY: Mapping[str, Server] = {server.name: server for server in (vllm.SERVER, sglang.SERVER, trtllm.SERVER)}

SERVERS: tuple[str, ...] = tuple(REGISTRY)
# Measured runs name these besides; nothing estimates or starts them.
MEASURED_SERVERS: tuple[str, ...] = (*SERVERS, "atom", "transformers-neuronx")
SERVER_ALIASES: Mapping[str, str] = {alias: server.name for server in REGISTRY.values() for alias in server.aliases}
ONE_OF_SERVERS = f"{', '.join(SERVERS[:-1])} or {SERVERS[-1]}"
"""For help texts: "vllm, sglang or trtllm"."""


def server_called(name: str) -> str:
    """Return the server of this name or alias, in any case; another name as it is, in small letters."""
    return SERVER_ALIASES.get(name.casefold(), name.casefold())


def taken_for_engine(name: str) -> str | None:
    """Return the hint for a server named where an engine is expected; None for another name."""
    server = REGISTRY.get(server_called(name))
    return (
        None if server is None else f"{server.title} is a server, not an engine that estimates: --server {server.name}"
    )


def server_named(name: str) -> Server:
    """Return the server of exactly this name; where there is none of it, one of which nothing is known."""
    return REGISTRY.get(name) or Server(name=name, title=name)
