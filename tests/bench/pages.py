"""Pages over a large store, asked over HTTP: how long the answer takes, alone and with many clients at once.

`python -m tests.bench.pages --tasks 100000` asks a store of 1 million points on each database.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2

from gpuscout.runner.cli.show.ranking.table import TIES
from gpuscout.store.database.connect import open_store
from gpuscout.store.ranking.rank import Question, rank
from gpuscout.sweeps.slo import DEFAULT_ITL_MS, Slo
from tests.support.served import serving

Say = Callable[..., None]
_ONE = {"model": "Qwen/Qwen3-8B", "workload": "one", "slo": ["itl<=30ms", "ttft<=2s"]}
_CLIENTS = 20
_REPEATS = 15
_ROUNDS = 3
# Each question over a connection of its own, as from different people.
_FRESH = httpx2.Limits(max_keepalive_connections=0)
_EVERYTHING = Question(top=1, examples=1, gpu_types=TIES, briefly=True, slos=(Slo("itl", DEFAULT_ITL_MS),))


def pages(say: Say, url: str) -> None:
    """Print the latencies of the pages over the store at `url`, which has the workload of `queries.filled`."""
    with _asking(url, 1) as client:
        say("  page: one model and workload, another limit each time", _median(client, _limit), "ms")
        say("    a slider moved: another price each time", _median(client, _price), "ms")
        say("    asked again", _median(client, lambda turn: _price(0)), "ms")
        say(f"    {_CLIENTS} clients at once with one question, the last answer", _last(client, apart=0), "ms")
        say(f"    {_CLIENTS} clients at once, each with a price of its own", _last(client, apart=1), "ms")
        everything = min(_first_byte(client, "/", {"price": f"H100={2 + turn}"}) for turn in range(_ROUNDS))
    with _asking(url, 2) as client:
        say("    the same with two workers", _last(client, apart=1), "ms")
    say("  page: everything", everything, "ms")
    say("    ratio to the ranking of `recommend`", everything / _ranking(url), "x", ".2f")


def _ranking(url: str) -> float:
    """The milliseconds that the command `recommend` takes to rank everything, without its start."""
    with open_store(url) as store, store.reading() as connection:
        took = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            rank(connection, _EVERYTHING)
            took.append(1000 * (time.perf_counter() - started))
    return min(took)


@contextmanager
def _asking(url: str, workers: int) -> Iterator[httpx2.Client]:
    """A server over the store with a client; all of its workers have answered once, and imported what that takes."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory), "--db", url, "--workers", str(workers)) as address,
        httpx2.Client(base_url=address, timeout=300, limits=_FRESH) as client,
    ):
        _together(client, 1000, 1)
        yield client


def _last(client: httpx2.Client, *, apart: float) -> float:
    """When the last of many clients has its answer, in the best of several rounds. Raises HTTPError for a loss."""
    return min(max(_together(client, 100 * (1 + turn) + apart, apart)) for turn in range(_ROUNDS))


def _together(client: httpx2.Client, first: float, apart: float) -> list[float]:
    """Ask once over each of as many connections. A client for each would load its certificates on our own cores."""
    with ThreadPoolExecutor(_CLIENTS) as threads:
        return list(threads.map(lambda turn: _first_byte(client, "/", _price(first + turn * apart)), range(_CLIENTS)))


def _median(client: httpx2.Client, asked: Callable[[int], dict[str, object]]) -> float:
    """The milliseconds to the first byte of one question after the other."""
    return statistics.median(_first_byte(client, "/", asked(turn)) for turn in range(_REPEATS))


def _limit(turn: int) -> dict[str, object]:
    return {**_ONE, "slo": ["itl<=30ms", f"ttft<={2000 + turn}ms"]}


def _price(turn: float) -> dict[str, object]:
    return {**_ONE, "price": f"H100={2 + turn / 100:g}"}


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
