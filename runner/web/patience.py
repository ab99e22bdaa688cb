"""Ends questions that take too long, or whose asker has left; the others wait for their turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from gpuscout.store.database.waiting import answer_by

LONGEST_ANSWER_S = 60.0
_LOOK_UP_S = 0.25
# One process uses one core: twenty at once take twice as long for all of them as one after the other, and one alone
# would let whoever asks about everything keep all others waiting.
_AT_ONCE = 3


class Patience:
    """The threads of an application that answer questions, each for at most `longest_s`, its wait for one included."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def answered(self, request: Request, work: Callable[[], Response]) -> Response:
        """Return the result of `work`, in a thread; its reading ends when time is up, when the client is gone, or
        with the server."""
        ends = [time.monotonic() + self._longest_s]

        def working() -> Response:
            with answer_by(lambda: ends[0]):
                return work()

        async def in_turn() -> Response:
            async with self._turns:
                return await run_in_threadpool(working)

        task = asyncio.ensure_future(in_turn())
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_UP_S))[0]:
                if await request.is_disconnected():
                    ends[0] = 0.0
                    break
            return await task
        except asyncio.CancelledError:
            # The server ends, and has waited for its answers for a while.
            ends[0] = 0.0
            return PlainTextResponse("the server was stopped: ask again when it is back\n", 503)
