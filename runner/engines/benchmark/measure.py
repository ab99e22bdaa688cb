"""Measures a case on a running server: one operating point after the other, the lowest load first."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from gpuscout.runner.engines.benchmark.errors import BenchmarkError
from gpuscout.runner.engines.benchmark.options import OWN, LoadOptions
from gpuscout.runner.engines.benchmark.traffic.client import api_key, connected
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint
from gpuscout.runner.engines.benchmark.traffic.figures import run_of
from gpuscout.runner.engines.benchmark.traffic.generators import point
from gpuscout.runner.engines.benchmark.traffic.load import Observed, closed_loop, open_loop, warm_up
from gpuscout.runner.engines.benchmark.traffic.requests import Requests
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.cases import Case

_WARM_UP_AT_RATE = 4


def measure(endpoint: Endpoint, case: Case, ladder: Sequence[int], load: LoadOptions) -> Iterator[MeasuredRun]:
    """Yield the measured runs of a case at the concurrencies of `ladder`, or at its own request rate where it has one.

    Every run comes as soon as it is measured. Raises BenchmarkError when the next one cannot be measured.
    """
    rate = case.traffic.request_rate
    if rate is not None:
        if ladder:
            yield _point(endpoint, case, None, load)
        return
    for concurrency in ladder:
        yield _point(endpoint, case, concurrency, load)


def _point(endpoint: Endpoint, case: Case, concurrency: int | None, load: LoadOptions) -> MeasuredRun:
    if load.generator != OWN:
        return point(load.generator, endpoint, case, concurrency, load)
    started, observed = asyncio.run(_observed(endpoint, case, concurrency, load))
    if not observed.succeeded:
        raise BenchmarkError("no request succeeded")
    return run_of(case, endpoint, observed, concurrency=concurrency, started=started)


async def _observed(
    endpoint: Endpoint, case: Case, concurrency: int | None, load: LoadOptions
) -> tuple[datetime, Observed]:
    """Return the replies of one operating point, and its start.

    Prompts are made before, so that they cost no time in it.
    """
    rate = case.traffic.request_rate or 0.0
    requests = Requests(case, f"{concurrency} in flight" if concurrency else f"{rate}/s", load.seed)
    warming = requests.draw(concurrency or _WARM_UP_AT_RATE)
    key = api_key(load.api_key_env)
    async with connected(endpoint.url, endpoint.model, key=key, timeout_s=load.request_timeout_s) as client:
        if concurrency is not None:
            counted = requests.draw(load.requests_at(concurrency))
            await warm_up(client, warming)
            with _uncollected():
                return datetime.now(UTC), await closed_loop(client, counted, concurrency)
        counted = requests.draw(load.requests_at_rate(rate))
        at_s = requests.arrivals(len(counted), rate)
        await warm_up(client, warming)
        with _uncollected():
            return datetime.now(UTC), await open_loop(client, counted, at_s, load.max_in_flight)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Suspend garbage collection: it stops this process for tens of milliseconds, which figures would have."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
