"""Load on a server: so many requests always in flight, or requests that come at their own times; and what came back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gpuscout.runner.engines.benchmark.errors import BenchmarkError
from gpuscout.runner.engines.benchmark.traffic.client import Client, Reply, Request
from gpuscout.sweeps.curves import FloatArray
from gpuscout.sweeps.text import percent

MOST_FAILED = 0.05
"""The share of requests that may fail; with more, the figures of the others are those of another load."""
LEAST_ACHIEVED = 0.9
"""The share of the load that was asked for which a client has to keep up."""
MOST_BUSY = 0.8
"""The share of a core that a client may use: beyond, its own delays are in what it measures."""

Send = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True)
class Observed:
    """The replies to the requests of one operating point.

    `duration_s` is the time from the first request to the last token, `mean_concurrency` the requests in
    flight on average until the last one was sent (where no other was sent after the first ones: of all the time).
    `kept_up` is the share of the load that the client achieved: requests in flight of those asked for, or the rate at
    which it sent of the rate it was to send at. `cpu` is the share of one core that the client used.
    """

    replies: Sequence[Reply]
    duration_s: float
    mean_concurrency: float
    kept_up: float
    cpu: float
    extras_refused: bool = False

    @property
    def succeeded(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.failure is None]

    @property
    def failures(self) -> dict[str, int]:
        """Numbers of failed requests, by kind."""
        return dict(Counter(reply.failure for reply in self.replies if reply.failure is not None))

    @property
    def client_bound(self) -> str | None:
        """Reason why the client, not the server, may have limited the figures; None: it did not."""
        if self.cpu > MOST_BUSY:
            return f"the client used {percent(self.cpu)} of a core"
        return f"the client achieved {percent(self.kept_up)} of the load" if self.kept_up < LEAST_ACHIEVED else None


async def warm_up(client: Client, requests: Sequence[Request]) -> None:
    """Send these requests at once and forget what they took. A server that refuses the extras gets none from then on.

    Raises BenchmarkError when none of them succeeds.
    """
    first = await client.send(requests[0])
    if first.failure in ("status 400", "status 422") and client.extras:
        client.extras.clear()
        first = await client.send(requests[0])
    replies = [first, *await asyncio.gather(*(client.send(request) for request in requests[1:]))]
    failed = [reply for reply in replies if reply.failure is not None]
    if len(failed) == len(replies):
        raise BenchmarkError(f"no request succeeded: {failures_by_kind(failed)}")


async def closed_loop(client: Client, requests: Sequence[Request], concurrency: int) -> Observed:
    """Keep `concurrency` requests in flight until all are sent. Raises BenchmarkError when too many of them fail."""
    watch = _Watch(client, len(requests))
    waiting = iter(requests)

    async def one_after_the_other() -> None:
        for request in waiting:
            await watch.send(request)

    await watch.all_of([one_after_the_other() for _ in range(concurrency)])
    observed = watch.observed()
    return Observed(
        observed.replies,
        observed.duration_s,
        observed.mean_concurrency,
        observed.mean_concurrency / concurrency,
        observed.cpu,
        observed.extras_refused,
    )


async def open_loop(client: Client, requests: Sequence[Request], at_s: FloatArray, most_in_flight: int) -> Observed:
    """Send every request at its time, whatever became of those before it.

    Raises BenchmarkError when too many fail, or more than `most_in_flight` have no answer yet.
    """
    watch = _Watch(client, len(requests))

    async def every_one() -> None:
        async with asyncio.TaskGroup() as group:
            for request, at in zip(requests, at_s.tolist(), strict=True):
                await asyncio.sleep(max(watch.started_s + at - time.perf_counter(), 0.0))
                if watch.in_flight >= most_in_flight:
                    raise BenchmarkError(
                        f"{watch.in_flight:,} requests had no answer yet, as many as max_in_flight allows: "
                        f"the server does not keep up with {len(requests) / at_s[-1]:,.3g} requests/s"
                    )
                group.create_task(watch.send(request))

    await watch.all_of([every_one()])
    return watch.observed(meant_s=float(at_s[-1]))


def failures_by_kind(failed: Sequence[Reply]) -> str:
    """Return the failures by kind, each with the words of the first."""
    first = {reply.failure: reply.words for reply in reversed(failed)}
    counts = Counter(reply.failure for reply in failed)
    return "; ".join(f"{count:,} x {kind} ({first[kind]})" for kind, count in counts.most_common())


class _Watch:
    """A sender of requests that keeps the replies, and stops when too many fail."""

    def __init__(self, client: Client, count: int) -> None:
        self._client = client
        self._count = count
        self._replies: list[Reply] = []
        self._failed: list[Reply] = []
        self._ended_s: list[float] = []
        self.in_flight = 0
        self._cpu_s = time.process_time()
        self.started_s = time.perf_counter()

    async def send(self, request: Request) -> None:
        self.in_flight += 1
        try:
            reply = await self._client.send(request)
        finally:
            self.in_flight -= 1
        self._replies.append(reply)
        self._ended_s.append(reply.last_s if reply.failure is None else time.perf_counter())
        if reply.failure is not None:
            self._failed.append(reply)
        if len(self._failed) > MOST_FAILED * self._count:
            raise BenchmarkError(
                f"{len(self._failed):,} of {len(self._replies):,} requests failed: {failures_by_kind(self._failed)}"
            )

    @staticmethod
    async def all_of(jobs: Sequence[Awaitable[None]]) -> None:
        """Wait for all; what the first of them raises ends the others and is raised."""

        async def run(job: Awaitable[None]) -> None:
            await job

        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(run(job))
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from None

    def observed(self, *, meant_s: float | None = None) -> Observed:
        """Return the observations. `meant_s`: how long sending was to take; None: as long as it took."""
        cpu_s = time.process_time() - self._cpu_s
        ended_s = max(self._ended_s)
        sent = [reply.sent_s for reply in self._replies]
        first_s, last_s = min(sent), max(sent)
        # Those sent at the start are sent one after the other, too.
        until_s = last_s if last_s > min(self._ended_s) else ended_s
        in_flight_s = sum(
            max(min(ended, until_s) - reply.sent_s, 0.0)
            for reply, ended in zip(self._replies, self._ended_s, strict=True)
        )
        kept_up = 1.0 if not meant_s else min(meant_s / max(last_s - first_s, 1e-9), 1.0)
        return Observed(
            self._replies,
            ended_s - first_s,
            in_flight_s / (until_s - first_s),
            kept_up,
            cpu_s / (ended_s - self.started_s),
            not self._client.extras,
        )


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
