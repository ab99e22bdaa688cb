"""Waiting for a database: says so when it takes long, and ends when the user wants to stop."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from gpuscout.sweeps.errors import GpuscoutError, StoreUnreachableError, TookTooLongError

_T = TypeVar("_T")

_LOOK_UP_S = 0.1
_log = logging.getLogger(__name__)
# When reading is to end for those who ask in this context: one of the threads of a server, say.
_until: ContextVar[Callable[[], float] | None] = ContextVar("until", default=None)


@contextmanager
def answer_by(until: Callable[[], float]) -> Iterator[None]:
    """End what this context reads from a store at the moment (`time.monotonic`) that `until` gives.

    `until` is asked several times a second, by whichever thread reads, so another may bring the moment forward.
    Reading then raises TookTooLongError.
    """
    before = _until.set(until)
    try:
        yield
    finally:
        _until.reset(before)


def is_limited() -> bool:
    """Return whether what this context reads ends at some moment."""
    return _until.get() is not None


def is_late() -> bool:
    """Return whether what this context reads should have ended by now."""
    until = _until.get()
    return until is not None and time.monotonic() >= until()


@contextmanager
def while_asked() -> Iterator[None]:
    """Raise TookTooLongError at the start when it is late, and for what fails because it got late."""
    if is_late():
        raise _late()
    try:
        yield
    except GpuscoutError as error:
        if is_late():
            raise _late() from error
        raise


def _late() -> TookTooLongError:
    return TookTooLongError("the answer took longer than the server allows", hint="ask for fewer models or workloads")


@dataclass
class Waits:
    """Rules by which the threads that share a store wait for it.

    `until` is asked several times a second for the moment (`time.monotonic`) at which waiting ends; infinite: it goes
    on. `notice` is told once a wait that it takes long; without one, the log is (Python prints its warnings).
    """

    until: Callable[[], float] = lambda: math.inf
    notice: Callable[[str], None] = _log.warning
    long_s: float = 5.0

    @contextmanager
    def changed(self, *, until: Callable[[], float], notice: Callable[[str], None]) -> Iterator[None]:
        """Yield other rules for the `with` block, for waits that have begun already, too."""
        before = self.until, self.notice
        self.until, self.notice = until, notice
        try:
            yield
        finally:
            self.until, self.notice = before

    def begin(self, what: str) -> Wait:
        """Return a wait that begins now; `what` is waited for, in words."""
        return Wait(self, what)

    def call(self, work: Callable[[], _T], what: str, *, abandon: Callable[[_T], None]) -> _T:
        """Return the result of `work`, or raise its error; its own thread lets the wait end before it does.

        A result that comes too late is given to `abandon`.
        """
        wait = self.begin(what)
        wait.look_up()
        future: Future[_T] = Future()
        threading.Thread(target=_fill, args=(future, work), daemon=True, name="gpuscout-wait").start()
        try:
            while True:
                try:
                    return future.result(_LOOK_UP_S)
                except TimeoutError:
                    if future.done():
                        continue
                wait.look_up()
        except BaseException:
            future.add_done_callback(lambda late: None if late.exception() else abandon(late.result()))
            raise


class Wait:
    """One wait: `look_up` is called now and then while it lasts."""

    def __init__(self, waits: Waits, what: str) -> None:
        self._waits, self._what = waits, what
        self._began = time.monotonic()
        self._told = False

    def look_up(self) -> None:
        """Raise StoreUnreachableError once waiting is to end."""
        now = time.monotonic()
        if now >= self._waits.until() or is_late():
            raise StoreUnreachableError(f"stopped waiting for {self._what}")
        if not self._told and now - self._began >= self._waits.long_s:
            self._told = True
            self._waits.notice(f"still waiting for {self._what}, for {now - self._began:.0f} s")


def _fill(future: Future[_T], work: Callable[[], _T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
