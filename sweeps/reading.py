"""Reading files of strangers: never more than a limit, whatever the file is and whatever it unpacks to.

What keeps a file from being read, or written, is said in a line.

A limit is there before memory is full, not to keep anybody from large files: GPUSCOUT_MAX_INPUT_MB raises all of them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuscout.sweeps.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
_VARIABLE = "GPUSCOUT_MAX_INPUT_MB"
_RESULTS_MB = 256
_SETTINGS_MB = 4  # of YAML, JSON and CSV that people write
_STREAMED_MB = 64 * _RESULTS_MB  # of exports, which are never in memory as a whole
_ROWS_PER_MB = 1_000
_VALUES_PER_MB = 40_000  # a list of nothing takes twenty times the memory of its two characters


class TooLarge(InputError):
    """An error for a file whose size, packed or unpacked, exceeds a limit."""

    def __init__(self, name: str, limit: str, hint: str | None = None) -> None:
        super().__init__(f"{name}: more than {limit}", hint=hint or f"{_VARIABLE}=… raises the limits, in MB")


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn what keeps a file from being read as text, or as CSV, into an InputError that calls it `what`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {what}: it is not UTF-8 text") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"cannot read {what}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def writing(file: object) -> Iterator[None]:
    """Turn what keeps a file from being written into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error


def results_mb() -> int:
    """Return the largest size of a file of results, unpacked."""
    return max(_RESULTS_MB, _raised_mb())


def streamed_mb() -> int:
    """Return the largest size of a file that is read row by row, unpacked."""
    return max(_STREAMED_MB, 64 * _raised_mb())


def most_rows() -> int:
    """Return the largest number of rows of a table that is in memory as a whole."""
    return results_mb() * _ROWS_PER_MB


def most_values() -> int:
    """Return the largest number of values in a document."""
    return results_mb() * _VALUES_PER_MB


def read_settings(file: Path, encoding: str = "utf-8-sig") -> str:
    """Return the text of a file that people write, a few MB at most.

    Raises TooLarge, OSError and UnicodeDecodeError.
    """
    return read_bounded(file, max(_SETTINGS_MB, _raised_mb())).decode(encoding)


def read_bounded(file: Path, mb: int) -> bytes:
    """Return the bytes of a file, also of a pipe or a device. Raises TooLarge and OSError."""
    with file.open("rb") as stream:
        return bounded(stream, str(file), mb)


def unpacked(data: bytes, name: str, mb: int) -> bytes:
    """Return the data packed with gzip. Raises TooLarge, and InputError for what is damaged."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return bounded(stream, name, mb, "unpacked")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: damaged gzip file ({error})") from error


def bounded(stream: io.BufferedIOBase, name: str, mb: int, what: str = "") -> bytes:
    """Return the rest of a stream. Raises TooLarge."""
    data = stream.read(mb * 1_000_000 + 1)
    if len(data) > mb * 1_000_000:
        raise TooLarge(name, f"{mb:,} MB {what}".rstrip())
    return data


def json_lines(name: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object of each line with the number of the line. Blank lines hold none. Raises InputError."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}:{number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{name}:{number}: expected one JSON object a line")
        yield number, row


def _raised_mb() -> int:
    text = os.environ.get(_VARIABLE, "").strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:12]) <= 10**9):
        raise InputError(f'{_VARIABLE}: expected a whole number of MB, got "{text}"')
    return int(text)
