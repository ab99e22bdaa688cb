"""Ends questions that take too long, or whose asker has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gpuscout.store.database.waiting import answer_by

LONGEST_ANSWER_S = 60.0
_LOOK_UP_S = 0.25


async def answered(request: Request, work: Callable[[], Response], longest_s: float) -> Response:
    """Return the result of `work`, in a thread; its reading ends after `longest_s`, or when the client is gone."""
    ends = [time.monotonic() + longest_s]

    def working() -> Response:
        with answer_by(lambda: ends[0]):
            return work()

    task = asyncio.ensure_future(run_in_threadpool(working))
    while not (await asyncio.wait({task}, timeout=_LOOK_UP_S))[0]:
        if await request.is_disconnected():
            ends[0] = 0.0
            break
    return await task
