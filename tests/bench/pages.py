"""Pages over a large store, asked over HTTP: how long the answer takes, alone and with many clients at once.

`python -m tests.bench.pages --tasks 100000` asks a store of 1 million points on each database.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from tests.support.served import serving

Say = Callable[..., None]
_ONE = {"model": "Qwen/Qwen3-8B", "workload": "one", "slo": ["itl<=30ms", "ttft<=2s"]}
_CLIENTS = 20
_REPEATS = 15


def pages(say: Say, url: str) -> None:
    """Print the latencies of the pages over the store at `url`, which has the workload of `queries.filled`."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory), "--db", url) as address,
        httpx2.Client(base_url=address, timeout=300) as client,
    ):
        _milliseconds(client, 2.0)  # the first question imports what it needs
        say("  page: one model and workload, first byte", _median(client, lambda turn: 2.0), "ms")
        say("    a slider moved: another price each time", _median(client, lambda turn: 1.5 + turn / 100), "ms")
        with ThreadPoolExecutor(_CLIENTS) as threads:
            took = list(threads.map(lambda turn: _alone(address, 3 + turn / 100), range(_CLIENTS)))
        say(f"    {_CLIENTS} clients at once, the last answer", max(took), "ms")
        say("  page: everything", _first_byte(client, "/", {}), "ms")


def _median(client: httpx2.Client, price: Callable[[int], float]) -> float:
    return statistics.median(_milliseconds(client, price(turn)) for turn in range(_REPEATS))


def _alone(address: str, price: float) -> float:
    with httpx2.Client(base_url=address, timeout=300) as client:
        return _milliseconds(client, price)


def _milliseconds(client: httpx2.Client, price: float) -> float:
    return _first_byte(client, "/", {**_ONE, "price": f"H100={price}"})


def _first_byte(client: httpx2.Client, path: str, parameters: dict[str, object]) -> float:
    started = time.perf_counter()
    with client.stream("GET", path, params=parameters) as answer:
        took = 1000 * (time.perf_counter() - started)
        answer.raise_for_status()
        answer.read()
    return took


def main() -> None:
    from tests.bench.queries import filled, print_figure, stores

    parser = argparse.ArgumentParser(prog="python -m tests.bench.pages")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--store", action="append", default=[], metavar="URL", help="that holds them already")
    options = parser.parse_args()
    with stores(options.tasks) as new:
        for url in options.store or new:
            if not options.store:
                filled(url, options.tasks)
            pages(print_figure, url)


if __name__ == "__main__":
    sys.exit(main())
