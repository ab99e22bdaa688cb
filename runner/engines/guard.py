"""Calls into engines of other packages: whatever they do, it ends in an answer or in one kind of error."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from types import FrameType

from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.text import message_of


class EngineFailed(Exception):
    """An error for an engine that raised something, left the program or interrupted it; the message is one line."""


@contextmanager
def guarded(*, foreign: bool) -> Iterator[None]:
    """Turn what an engine raises into EngineFailed, SystemExit and an interrupt that nobody sent included.

    What is ours (GpuscoutError) and MemoryError pass. A `foreign` engine that prints does so to standard error, since
    standard output is one document or one table.
    """
    printing = redirect_stdout(sys.stderr) if foreign and sys.stderr is not None else nullcontext()
    with _interrupts() as was_sent, printing:
        try:
            yield
        except (GpuscoutError, MemoryError):
            raise
        except KeyboardInterrupt as error:
            if was_sent():
                raise
            raise EngineFailed("an unexpected KeyboardInterrupt") from error
        except BaseException as error:
            raise EngineFailed(words_of(error)) from error


def words_of(error: BaseException) -> str:
    """Return the kind of an error and what it says, in one line."""
    text = message_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_foreign(thing: object) -> bool:
    """Return whether an engine or its class comes from another package."""
    module = str(getattr(thing, "__module__", None) or type(thing).__module__)
    return module.partition(".")[0] != "gpuscout"


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a check of whether Ctrl-C was pressed meanwhile. Only the main thread is ever interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    sent = False
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal sent
        sent = True
        if callable(previous):
            previous(number, frame)

    if not callable(previous):  # ignored, or not Python's
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: sent
    finally:
        signal.signal(signal.SIGINT, previous)
