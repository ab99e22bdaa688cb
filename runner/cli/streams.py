"""Standard output and error as all commands write to them: nothing in a text gets out that would move a terminal."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import IO, Any

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import printable_lines


@dataclass(frozen=True)
class Captured:
    """Output of a command while `captured`: its document, and its messages."""

    documents: io.StringIO = field(default_factory=io.StringIO)
    messages: io.StringIO = field(default_factory=io.StringIO)


_CAPTURED: ContextVar[Captured | None] = ContextVar("captured", default=None)


# Plain forms of what gpuscout prints beyond ASCII, for encodings without it: dashes of ranges, dots, bars of charts.
_PLAIN = {"\N{EN DASH}": "-", "\N{HORIZONTAL ELLIPSIS}": "...", "\N{NO-BREAK SPACE}": " "} | {
    chr(bar): str(height) for height, bar in enumerate(range(0x2581, 0x2589), 1)
}
_PLAINLY = "gpuscout-plainly"


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that an encoding lacks by its plain form, or else its escape."""
    if isinstance(error, UnicodeEncodeError) and (plain := _PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(_PLAINLY, _plainly)


class OutputFailed(InputError):
    """Standard output is full, closed, or otherwise cannot be written to."""


class ExactStream(io.TextIOWrapper):
    """A text stream over the buffer of another one, whose errors are OutputFailed, but for a reader that left.

    Written through, so that several of them over one buffer keep the order of what is printed.
    """

    def __init__(self, below: Any, errors: str = "backslashreplace") -> None:
        super().__init__(
            below.buffer,
            encoding=below.encoding,
            errors=errors,
            newline="",
            line_buffering=below.line_buffering,
            write_through=True,
        )
        self.below = below  # closes the buffer when it goes

    def write(self, text: str, /) -> int:
        with _as_ours():
            return super().write(text)

    def flush(self) -> None:
        with _as_ours():
            super().flush()


class PrintableStream(ExactStream):
    """A stream that escapes unprintable characters; `exact` is for data, `styled` for a console's texts."""

    def __init__(self, below: Any) -> None:
        super().__init__(below, _PLAINLY)
        self.exact = ExactStream(below)
        self.styled = ExactStream(below, _PLAINLY)

    def write(self, text: str, /) -> int:
        return super().write(printable_lines(text))


@contextmanager
def _as_ours() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"cannot write the output: {error.strerror or error}") from error


def use_printable_streams() -> None:
    """Escape all that is printed from now on. A closed stream is one that cannot be written to."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = _closed()
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, PrintableStream):
            setattr(sys, name, PrintableStream(stream))


def exact(stream: IO[str]) -> IO[str]:
    """Return the stream for what must get out as it is."""
    return stream.exact if isinstance(stream, PrintableStream) else stream


def styled(stream: IO[str]) -> IO[str]:
    """Return the stream for a console, which escapes its texts itself."""
    return stream.styled if isinstance(stream, PrintableStream) else stream


def give_up(stream: Any) -> None:
    """Let Python end without another try to write what cannot be written."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _closed() -> IO[str]:
    """Return a stream on which every write fails, as on a descriptor that is not there."""
    return open(os.open(os.devnull, os.O_RDONLY), "w", closefd=True, encoding="utf-8")


@contextmanager
def captured() -> Iterator[Captured]:
    """Capture the JSON documents and launch commands that commands of this thread print, and their standard error."""
    taken = Captured()
    token = _CAPTURED.set(taken)
    try:
        yield taken
    finally:
        _CAPTURED.reset(token)


def documents() -> IO[str]:
    """Return the stream for documents: standard output, unless it is captured."""
    taken = _CAPTURED.get()
    return sys.stdout if taken is None else taken.documents


def messages() -> IO[str]:
    """Return the stream for messages: standard error, unless it is captured."""
    taken = _CAPTURED.get()
    return sys.stderr if taken is None else taken.messages
