"""An OpenAI-compatible server with known delays, that records when it wrote what: `python -m` it, or `serving_openai`.

Times are those of the clock that all processes of a machine share (CLOCK_MONOTONIC), so that a client's can be held
against them. POST /behave decides how the next requests are answered, GET /record what was written since it was asked
last.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Served:
    """A server that is running; `url` is where its API starts."""

    url: str
    process: subprocess.Popen[str]

    def behave(self, **how: object) -> None:
        """Answer the next requests so: see `_Server.answer_badly`."""
        self._ask("/behave", json.dumps(how).encode())

    def record(self) -> list[dict[str, Any]]:
        """What was asked and written since the last call."""
        found: list[dict[str, Any]] = self._ask("/record")
        return found

    def _ask(self, path: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path, data, timeout=60) as answer:
            return json.loads(answer.read())


@dataclass(frozen=True)
class Truth:
    """What a server did by its own record, in the units of measured runs: every value of a metric, and tokens/s."""

    values: Mapping[str, Sequence[float]]
    output_tokens_per_s: float

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Truth:
        timed = [(record["arrived"], record["writes"]) for record in records]
        values = {
            "ttft_ms": [1e3 * (writes[0] - arrived) for arrived, writes in timed],
            "itl_ms": [1e3 * (writes[-1] - writes[0]) / (len(writes) - 1) for _, writes in timed],
            "e2e_s": [writes[-1] - arrived for arrived, writes in timed],
            "token_gap_ms": [1e3 * (b - a) for _, writes in timed for a, b in itertools.pairwise(writes)],
        }
        seconds = max(writes[-1] for _, writes in timed) - min(arrived for arrived, _ in timed)
        return cls(values, sum(len(writes) for _, writes in timed) / seconds)


@contextmanager
def serving_openai(*, environ: Mapping[str, str] | None = None, **options: object) -> Iterator[Served]:
    """A server as a process of its own, with the options of this program; it is ended afterwards."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.openai_server", *flags],
        cwd=REPOSITORY,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http"), line
        yield Served(line.strip(), process)
    finally:
        process.kill()
        process.communicate()


class _Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.records: list[dict[str, Any]] = []
        self.behaviour: dict[str, Any] = {}
        self.asked = 0
        self.slots = asyncio.Semaphore(options.slots)
        self.random = random.Random(0)

    async def completions(self, request: Any) -> Any:
        from aiohttp import web

        arrived = time.monotonic()
        self.asked += 1
        body = await request.json()
        count = body["max_tokens"]
        record = {
            "arrived": arrived,
            "prompt": body["prompt"],
            "count": count,
            "authorised": "Authorization" in request.headers,
        }
        self.records.append(record)
        if self.asked - self.behaviour.get("from", 0) > self.behaviour.get("after", 0):
            while self.asked - self.behaviour.get("from", 0) < self.behaviour.get("hold", 0):
                await asyncio.sleep(0.002)
        # An answer without entries of its own is false in older aiohttp.
        if (answer := await self.answer_badly(request, body)) is not None:
            return answer
        count = body["max_tokens"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with self.slots:
            record["writes"] = await self.write(response, body, count)
        prompt = body["prompt"].split() if isinstance(body["prompt"], str) else body["prompt"]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": 0}
        if self.options.own_end:
            await self.send(response, choices=[{"index": 0, "text": "", "finish_reason": "length"}])
        await self.send(response, choices=[], usage=usage)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def write(self, response: Any, body: Mapping[str, Any], count: int) -> list[float]:
        due, writes = time.monotonic(), []
        for number in range(count):
            due += self.delay_s(self.options.itl_ms if number else self.options.ttft_ms)
            await asyncio.sleep(max(due - time.monotonic(), 0))
            if body.get("cut_after") == number:
                response._req.transport.abort()
                return writes
            last = number == count - 1 and not self.options.own_end
            writes.append(time.monotonic())
            await self.send(response, choices=[{"index": 0, "text": "w", "finish_reason": "length" if last else None}])
        return writes

    def delay_s(self, mean_ms: float) -> float:
        """The next delay: varied ones keep requests that were sent together from ending together."""
        return mean_ms / 1e3 * (1 + self.options.varied * self.random.uniform(-1, 1))

    async def send(self, response: Any, **event: object) -> None:
        await response.write(
            b"data: " + json.dumps({"id": "1", "object": "text_completion", **event}).encode() + b"\n\n"
        )

    async def answer_badly(self, request: Any, body: dict[str, Any]) -> Any:
        """The answer of a server that misbehaves; None: go on, with whatever was changed in `body`.

        `after`: so many requests are answered well first; `every`: of the others only each so-manieth misbehaves.
        `hold`: those others are only answered once so many have been asked.
        """
        from aiohttp import web

        how = self.behaviour
        number = self.asked - how.get("from", 0) - how.get("after", 0)
        if not how or number <= 0 or number % how.get("every", 1):
            return None
        match how.get("answer"):
            case "extras":
                if "ignore_eos" in body or "min_tokens" in body:
                    return web.json_response({"error": {"message": "Unrecognized request argument"}}, status=400)
            case "reset":
                request.transport.abort()
                await asyncio.sleep(0)
            case "drop reused":
                if request.protocol in self.seen:
                    request.transport.close()
                    return web.Response(status=500)
                self.seen.add(request.protocol)
            case "stall":
                await asyncio.sleep(3600)
            case "cut":
                body["cut_after"] = how["events"]
            case "short":
                body["max_tokens"] -= 1
            case "exit":
                os._exit(how.get("status", 1))
            case "malformed":
                event = how.get("event", "{nothing") * how.get("times", 1)
                return web.Response(body=f"data: {event}\n\n".encode(), content_type="text/event-stream")
            case "shorter prompt":
                body["prompt"] = body["prompt"][: len(body["prompt"]) // 2]
            case "key":
                return web.json_response(
                    {"error": {"message": request.headers.get("Authorization", "no key")}}, status=401
                )
            case int(status):
                return web.json_response({"error": {"message": how.get("words", "on purpose")}}, status=status)
        return None

    @property
    def seen(self) -> set[Any]:
        found: set[Any] = self.__dict__.setdefault("_seen", set())
        return found

    async def behave(self, request: Any) -> Any:
        from aiohttp import web

        self.behaviour = await request.json()
        self.behaviour["from"] = self.asked
        return web.json_response({})

    async def record(self, request: Any) -> Any:
        from aiohttp import web

        told, self.records = self.records, []
        return web.json_response(told)

    async def models(self, request: Any) -> Any:
        from aiohttp import web

        if self.options.key and request.headers.get("Authorization") != f"Bearer {os.environ[self.options.key]}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        names = [f"other-{number}" for number in range(self.behaviour.get("other_models", 0))]
        listed = [{"id": name, "object": "model"} for name in (*names, self.options.model)]
        return web.json_response({"object": "list", "data": listed})

    async def version(self, request: Any) -> Any:
        from aiohttp import web

        return (
            web.json_response({"version": self.options.version}) if self.options.version else web.Response(status=404)
        )

    async def health(self, request: Any) -> Any:
        from aiohttp import web

        return web.Response()


async def _serve(options: argparse.Namespace) -> None:
    from aiohttp import web

    server = _Server(options)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/completions", server.completions)
    app.router.add_get("/v1/models", server.models)
    app.router.add_get("/version", server.version)
    app.router.add_get("/health", server.health)
    app.router.add_post("/behave", server.behave)
    app.router.add_get("/record", server.record)
    await asyncio.sleep(options.starts_in_s)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="Qwen/Qwen3-8B")
    parser.add_argument("--version", default="0.32.0")
    parser.add_argument("--ttft-ms", type=float, default=20.0)
    parser.add_argument("--itl-ms", type=float, default=2.0)
    parser.add_argument("--varied", type=float, default=0.0, help="0.5: every delay is half to one and a half of these")
    parser.add_argument("--slots", type=int, default=1024, help="requests that are worked on at once")
    parser.add_argument(
        "--own-end", type=int, default=0, help="1: an event of its own for the end, as llama.cpp has it"
    )
    parser.add_argument("--key", default="", help="environment variable with the key that it wants")
    parser.add_argument("--starts-in-s", type=float, default=0.0)
    logging.disable(logging.CRITICAL)  # clients that go away
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
