"""Recorded requests: lengths, arrival times and prefix blocks, read in a stream and known by their content.

Understood are the Mooncake form (JSON Lines with `timestamp` in ms, `input_length`, `output_length`, and `hash_ids` of
512-token prefix blocks), JSON Lines with other common names of the same, and CSV with the same columns.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.errors import InputError, quoted
from gpuscout.sweeps.reading import TooLarge, json_lines, most_values, streamed_mb

BLOCK_TOKENS = 512
MOST_REQUESTS = 1_000_000
LONGEST_LINE = 1 << 20
_LONGEST_TOKENS = 10_000_000

_LATEST_S = 1e11  # the year 5138, if counted from 1970
# The names that tools give the columns; times without "_ms" or "_s" are Mooncake's milliseconds, or dates.
INPUT_NAMES = (
    "input_length",
    "input_len",
    "input_tokens",
    "prompt_len",
    "prompt_tokens",
    "num_prefill_tokens",
    "ContextTokens",
)
OUTPUT_NAMES = (
    "output_length", "output_len", "output_tokens", "completion_tokens", "num_decode_tokens", "GeneratedTokens",
)  # fmt: skip
_TIMES = {
    **dict.fromkeys(("timestamp", "TIMESTAMP", "timestamp_ms"), 1e-3),
    **dict.fromkeys(("timestamp_s", "arrived_at", "arrival_time"), 1.0),
}


@dataclass(frozen=True, eq=False)
class Trace:
    """n requests in order of arrival.

    at_s            n, seconds since the first request; all 0 where the file has no times
    input_len, output_len  n, tokens
    file            where they were read; no part of their identity
    hash_ids        n, the ids of each prompt's 512-token blocks; None where the file has none
    """

    at_s: npt.NDArray[np.float64]
    input_len: npt.NDArray[np.int64]
    output_len: npt.NDArray[np.int64]
    hash_ids: tuple[tuple[int, ...], ...] | None = None
    file: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = hashlib.sha256()
        for column in (self.at_s, self.input_len, self.output_len):
            content.update(np.ascontiguousarray(column).tobytes())
        content.update(repr(self.hash_ids).encode())
        object.__setattr__(self, "digest", content.hexdigest()[:32])

    def __len__(self) -> int:
        return len(self.input_len)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def seconds(self) -> float:
        """From the first to the last arrival."""
        return float(self.at_s[-1])

    @property
    def request_rate(self) -> float | None:
        """Requests/s; None where the file has no times."""
        return (len(self) - 1) / self.seconds if self.seconds > 0 else None

    @property
    def arrival_cv(self) -> float | None:
        """Coefficient of variation of the times between arrivals: 0 constant, 1 Poisson, above it bursts."""
        gaps = np.diff(self.at_s)
        return float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else None

    def cached_tokens(self, cache_tokens: int | None = None, replicas: int = 1) -> npt.NDArray[np.int64]:
        """Return prompt tokens of each request that a prefix cache of `cache_tokens` (None: unbounded) would hold.

        `replicas` have a cache each and get the requests in turn.

        A prompt's blocks are found as long as all blocks before them are; the least recently used ones go first. At
        least one token of every prompt is computed.
        """
        found = np.zeros(len(self), dtype=np.int64)
        if self.hash_ids is None:
            return found
        room = None if cache_tokens is None else cache_tokens // BLOCK_TOKENS
        caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(replicas)]
        for row, blocks in enumerate(self.hash_ids):
            held = caches[row % replicas]
            hits = 0
            for block in blocks:
                if block not in held:
                    break
                hits += 1
            for block in blocks:
                held[block] = None
                held.move_to_end(block)
            while room is not None and len(held) > room:
                held.popitem(last=False)
            found[row] = min(hits * BLOCK_TOKENS, int(self.input_len[row]) - 1)
        return found

    def cached_share(self, cache_tokens: int | None = None, replicas: int = 1) -> float:
        """Return the share of all prompt tokens that such caches would have held."""
        return float(self.cached_tokens(cache_tokens, replicas).sum() / self.input_len.sum())

    def identity(self) -> Mapping[str, object]:
        """Return the identity of the content, with figures for people; JSON-able."""
        return {"digest": self.digest, "requests": len(self)}


@dataclass(frozen=True)
class NamedTrace:
    """A trace of which only the identity is known: that of stored cases."""

    digest: str
    requests: int

    def identity(self) -> Mapping[str, object]:
        return {"digest": self.digest, "requests": self.requests}


def read_trace(file: str | Path) -> Trace:
    """Return the requests of a trace file (.jsonl or .csv, either also .gz), read line by line.

    Raises InputError with the line for lengths that are not whole numbers above 0, times that go back or are not
    finite, times or blocks of some requests only, a missing or second column, an empty file, more than `MOST_REQUESTS`
    requests, and more blocks than memory is for.
    """
    path = Path(file)
    times: list[float] = []
    inputs: list[int] = []
    outputs: list[int] = []
    blocks: list[tuple[int, ...]] = []
    ids_left = most_values()
    known: dict[str, bool] = {}
    with opened(path) as stream:
        for number, row in rows(path, stream):
            if len(inputs) == MOST_REQUESTS:
                raise InputError(
                    f"{path}:{number}: more than {MOST_REQUESTS:,} requests",
                    hint="give a part of the trace; percentiles of a million requests do not change with more",
                )
            inputs.append(tokens_of(path, number, row, INPUT_NAMES))
            outputs.append(tokens_of(path, number, row, OUTPUT_NAMES))
            at, ids = time_of(path, number, row), row.get("hash_ids")
            for what, has in (("times", at is not None), ("hash_ids", ids is not None)):
                if known.setdefault(what, has) != has:
                    raise InputError(
                        f"{path}:{number}: some requests have {what}, others have none",
                        hint=f"{what} of all requests, or of none",
                    )
            if times and at is not None and at < times[-1]:
                raise InputError(
                    f"{path}:{number}: arrives before the request above it", hint="sort the requests by their times"
                )
            times.append(0.0 if at is None else at)
            if ids is not None:
                blocks.append(_hash_ids(path, number, ids))
                ids_left -= len(blocks[-1])
                if ids_left < 0:
                    raise TooLarge(f"{path}:{number}", f"{most_values():,} hash_ids")
    if not inputs:
        raise InputError(f"{path}: no requests", hint=f"a line a request, such as {_EXAMPLE}")
    at_s = np.array(times, dtype=np.float64)
    return Trace(
        at_s - at_s[0],
        np.array(inputs, dtype=np.int64),
        np.array(outputs, dtype=np.int64),
        tuple(blocks) or None,
        str(path),
    )


_EXAMPLE = '{"timestamp": 0, "input_length": 1200, "output_length": 150}'


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise InputError(f"cannot read {path}: it is {kind}", hint="expected a file in JSON Lines or CSV")
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig") as stream:
                yield stream
        else:
            with path.open(encoding="utf-8-sig") as stream:
                yield stream
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def lines(path: Path, stream: IO[str]) -> Iterator[str]:
    """Yield the lines that are left. Raises TooLarge, by the line and by the whole."""
    left = streamed_mb() * 1_000_000
    while line := stream.readline(LONGEST_LINE + 1):
        left -= len(line)
        if len(line) > LONGEST_LINE:
            raise InputError(f"{path}: a line is longer than {LONGEST_LINE:,} characters")
        if left < 0:
            raise TooLarge(str(path), f"{streamed_mb():,} MB unpacked")
        yield line


def rows(path: Path, stream: IO[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the requests with their line numbers."""
    left = lines(path, stream)
    first = next(left, "")
    if not first:
        return
    if first.lstrip().startswith("{"):
        yield from json_lines(str(path), chain([first], left))
        return
    header = next(csv.reader([first]), [])
    names = [name.strip() for name in header]
    if not set(names) & set(INPUT_NAMES):
        raise InputError(
            f"{path}:1: expected a JSON object or the header of a CSV file with one of {', '.join(INPUT_NAMES[:3])}",
            hint=f"for example {_EXAMPLE}",
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}:1: a second column {quoted(twice)}")
    for number, values in enumerate(csv.reader(left), start=2):
        if values:
            if len(values) != len(names):
                raise InputError(f"{path}:{number}: expected {len(names)} values, got {len(values)}")
            yield number, dict(zip(names, values, strict=True))


def tokens_of(path: Path, number: int, row: Mapping[str, Any], names: tuple[str, ...]) -> int:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise InputError(f"{path}:{number}: missing {names[0]}", hint=f"known names: {', '.join(names)}")
    value = row[name]
    try:
        tokens = int(value) if isinstance(value, str) else value
    except ValueError:
        tokens = None
    if isinstance(tokens, float) and tokens.is_integer():
        tokens = int(tokens)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= _LONGEST_TOKENS:
        expected = f"expected a whole number of tokens from 1 to {_LONGEST_TOKENS:,}"
        raise InputError(f"{path}:{number}: {name}: {expected}, got {_shown(value)}")
    return tokens


def time_of(path: Path, number: int, row: Mapping[str, Any]) -> float | None:
    name = next((name for name in _TIMES if name in row), None)
    if name is None:
        return None
    value = row[name]
    try:
        at = float(value) * _TIMES[name]
    except (TypeError, ValueError):
        at = _seconds(value)
    if not math.isfinite(at):
        raise InputError(f"{path}:{number}: {name}: expected a number or a date, got {_shown(value)}")
    if abs(at) > _LATEST_S:
        unit = "ms" if _TIMES[name] < 1 else "s"
        raise InputError(
            f"{path}:{number}: {name}: expected {unit} below {_LATEST_S / _TIMES[name]:g}, got {_shown(value)}"
        )
    return at


def _seconds(value: object) -> float:
    """Return a date and time such as "2023-11-16 18:15:46.68" as seconds since 1970; NaN for anything else."""
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return math.nan
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _shown(value: object) -> str:
    return json.dumps(value, default=str)[:40]


def _hash_ids(path: Path, number: int, ids: object) -> tuple[int, ...]:
    if isinstance(ids, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        return tuple(ids)
    raise InputError(f"{path}:{number}: hash_ids: expected a list of whole numbers")
