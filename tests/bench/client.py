"""The load client beside a server with known delays, 64 in flight: by how much each figure is off what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gpuscout.runner.engines.benchmark.client import connected
from gpuscout.runner.engines.benchmark.load import closed_loop
from gpuscout.runner.engines.benchmark.requests import Requests
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from tests.support.openai_server import serving_openai

_MODEL = "Qwen/Qwen3-0.6B"
_CLIENTS, _REQUESTS = 64, 512
_INPUT, _OUTPUT = 128, 32
_TTFT_MS, _ITL_MS = 1_000.0, 50.0  # 1,280 events/s: what one process can write and another read beside it


def client(say: Callable[..., None]) -> None:
    model, gpu = ModelCatalogue.load().get(_MODEL), GPUCatalogue.load().get("H100-SXM-80GB")
    case = Case(model, gpu, _INPUT, _OUTPUT)

    async def observed(url: str) -> object:
        async with connected(url, _MODEL, key=None, timeout_s=600) as sender:
            return await closed_loop(sender, Requests(case, "bench", 0).draw(_REQUESTS), _CLIENTS)

    with serving_openai(model=_MODEL, ttft_ms=_TTFT_MS, itl_ms=_ITL_MS) as server:
        found = asyncio.run(observed(server.url))
    replies = found.succeeded
    e2e_s = (_TTFT_MS + _ITL_MS * (_OUTPUT - 1)) / 1e3
    ttft_ms = sorted(1e3 * reply.ttft_s for reply in replies)
    itl_ms = sorted(1e3 * reply.itl_s for reply in replies)
    told = {
        "TTFT": (sum(ttft_ms) / len(ttft_ms), _TTFT_MS),
        "TTFT p99": (ttft_ms[int(0.99 * len(ttft_ms))], _TTFT_MS),
        "ITL": (sum(itl_ms) / len(itl_ms), _ITL_MS),
        "ITL p99": (itl_ms[int(0.99 * len(itl_ms))], _ITL_MS),
        "tokens/s": (sum(reply.output_tokens for reply in replies) / found.duration_s, _CLIENTS * _OUTPUT / e2e_s),
    }
    for name, (measured, true) in told.items():
        say(
            f"load client, {_CLIENTS} in flight: {name} off what the server was told",
            100 * (measured / true - 1),
            "%",
            ".1f",
        )
    say("  achieved of the requests in flight", 100 * found.kept_up, "%", ".0f")
    say("  of a core, at 1,280 events/s", 100 * found.cpu, "%", ".0f")
