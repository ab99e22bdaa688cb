"""Loads that move: request rates over time, from a CSV file of rates or a trace of requests, read in a stream.

A CSV file has the columns `time` and `rate` (requests/s; or `requests_per_min`, `requests_per_h`), and may have `model`
and `workload`. Times are seconds, times of day (08:30) or dates with times (2026-11-28T08:30), one form a file; the
rows of one model and workload are in order. A rate holds until the next row; the last one holds as long as the one
before it did, with times of day until 24:00, unless a last row without a rate says when the load ends. A trace is
counted into steps. A short load may stand for itself instead of a file: "0:00=2, 8:00=40, 18:00=10".
"""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.errors import InputError, nearest
from gpuscout.sweeps.traffic.times import DAY_MS, EXAMPLE, LATEST_S, form_of, time_at, time_of_day
from gpuscout.sweeps.traffic.trace import (
    INPUT_NAMES,
    LONGEST_LINE,
    OUTPUT_NAMES,
    lines,
    opened,
    rows,
    time_of,
    tokens_of,
)

MOST_STEPS = 200_000
MOST_SERIES = 1_000
STEP_OF_TRACES_S = 60.0
HIGHEST_RATE = 1e9
"""Requests/s of any load that is sized."""
_PER_SECOND = {"rate": 1.0, "requests_per_s": 1.0, "requests_per_min": 1 / 60, "requests_per_h": 1 / 3600}
_CALLED = {"timestamp": "time", "rps": "rate", "qps": "rate", "requests_per_second": "rate"}
_NAMES = ("model", "workload")


@dataclass(frozen=True, eq=False)
class Series:
    """The requests/s of one model and workload, constant in each of n steps. None: of whichever are asked about.

    starts_ms       n, milliseconds since the load begins, ascending       ends_ms   where the last step ends
    rates           n, requests/s                                           mean_lengths  tokens in and out of a trace
    """

    starts_ms: npt.NDArray[np.int64]
    ends_ms: int
    rates: npt.NDArray[np.float64]
    model: str | None = None
    workload: str | None = None
    mean_lengths: tuple[float, float] | None = None

    @property
    def peak(self) -> float:
        return float(self.rates.max())

    @property
    def requests(self) -> float:
        return float(self.rates @ np.diff(self.starts_ms, append=self.ends_ms)) / 1000

    @property
    def name(self) -> str:
        """ "Qwen/Qwen3-32B, chat" """
        return ", ".join(filter(None, (self.model, self.workload))) or "all"


@dataclass(frozen=True)
class MovingLoad:
    """All series of a file on one clock. `begins`: its first time as the file has it. `notes`: what was assumed."""

    file: str
    series: tuple[Series, ...]
    seconds: float
    begins: str
    notes: tuple[str, ...] = ()


def read_load(file: str | Path, step_s: float | None = None) -> MovingLoad:
    """Read request rates over time: a CSV file, a trace of requests, or a text such as "0:00=2, 8:00=40" (requests/s).

    `step_s`: average over steps of so many seconds; None: the steps of the CSV file, a minute for a trace.
    Raises InputError with the line and the column of what is wrong, for more than `MOST_STEPS` steps, and for more than
    `MOST_SERIES` pairs of model and workload.
    """
    if step_s is not None and not 0.001 <= step_s <= LATEST_S:
        raise InputError(f"invalid step of {step_s:g} s: expected at least a millisecond")
    if "=" in str(file):
        text = "time,rate\n" + "\n".join(",".join(part.split("=", 1)) for part in str(file).split(","))
        return _rated(Path("--load"), ["time", "rate"], io.StringIO(text), step_s, header=0)
    path = Path(file)
    with opened(path) as stream:
        head = stream.readline(LONGEST_LINE)
        stream.seek(0)
        names = _header(head)
        if head.lstrip().startswith("{") or set(names) & set(INPUT_NAMES):
            return _counted(path, stream, step_s or STEP_OF_TRACES_S)
        return _rated(path, [_CALLED.get(name.lower(), name.lower()) for name in names], stream, step_s)


def _header(line: str) -> list[str]:
    """Return the names of the columns, as they are."""
    return [name.strip() for name in next(csv.reader([line.lstrip("\ufeff")]), [])]


def read_rates(file: str | Path) -> MovingLoad:
    """Return the same; of a CSV file without times, a rate for each model and workload that never changes."""
    if "=" in str(file):
        return read_load(file)
    path = Path(file)
    with opened(path) as stream:
        names = _header(stream.readline(LONGEST_LINE))
        names = [_CALLED.get(name.lower(), name.lower()) for name in names]
        if "time" in names or not set(names) & _PER_SECOND.keys():
            return read_load(path)
        column = _rate_column(path, names, times=False)
        found: dict[tuple[str | None, str | None], Series] = {}
        for line, row in _csv_rows(path, names, stream):
            key = _key(row)
            if key in found:
                raise InputError(f"{path}:{line}: a second rate for {found[key].name}")
            rate = np.array([_rate(path, line, column, row[column])])
            found[key] = Series(np.zeros(1, dtype=np.int64), 1000, rate, *key)
            if len(found) > MOST_SERIES:
                raise _too_many_series(path, line)
    _check_any(path, found)
    return MovingLoad(str(path), tuple(found.values()), 1.0, "")


@dataclass
class _Steps:
    """One series as it is read: steps as the file has them, or sums in steps of `step_ms`."""

    step_ms: int | None
    starts: array[int] = field(default_factory=lambda: array("q"))
    rates: array[float] = field(default_factory=lambda: array("d"))
    sums: dict[int, float] = field(default_factory=dict)
    first: int | None = None
    last: int = 0
    rate: float | None = None
    gaps: tuple[int, int, int] | None = None
    requests: int = 0
    lengths: tuple[int, int] = (0, 0)

    def change(self, at: int, rate: float | None) -> None:
        """Set the rate from this millisecond on; None: the load has ended."""
        if self.first is None:
            self.first = at
        else:
            gap = at - self.last
            low, high, _ = self.gaps or (gap, gap, gap)
            self.gaps = min(low, gap), max(high, gap), gap
            self._hold(self.last, at)
        self.last, self.rate = at, rate

    def _hold(self, start: int, end: int) -> None:
        assert self.rate is not None
        if self.step_ms is None:
            if not self.rates or self.rates[-1] != self.rate:
                self.starts.append(start)
                self.rates.append(self.rate)
            return
        if (end - start) // self.step_ms > MOST_STEPS:
            raise OverflowError
        for place in range(start // self.step_ms, -(-end // self.step_ms)):
            inside = min(end, (place + 1) * self.step_ms) - max(start, place * self.step_ms)
            self.sums[place] = self.sums.get(place, 0.0) + self.rate * inside

    def count(self, at: int, input_len: int, output_len: int) -> None:
        assert self.step_ms is not None
        self.first = 0
        place = at // self.step_ms
        self.sums[place] = self.sums.get(place, 0.0) + 1000.0
        self.requests += 1
        self.lengths = self.lengths[0] + input_len, self.lengths[1] + output_len

    @property
    def size(self) -> int:
        return len(self.starts) + len(self.sums)

    def series(self, origin: int, end: int, key: tuple[str | None, str | None]) -> Series:
        assert self.first is not None
        if self.step_ms is None:
            starts = np.array(self.starts, dtype=np.int64)
            rates = np.array(self.rates, dtype=np.float64)
        else:
            places = range(self.first // self.step_ms, -(-end // self.step_ms))
            sums = [self.sums.get(place, 0.0) for place in places]
            if self.requests and 2 * (end - places[-1] * self.step_ms) < self.step_ms:
                # A short rest of a step would make a rate of one request.
                sums[-2:], places = [sums[-2] + sums[-1]], places[:-1]
            starts = np.maximum(np.array(places, dtype=np.int64) * self.step_ms, self.first)
            rates = np.array(sums) / np.diff(starts, append=end)
        lengths = None
        if self.requests:
            lengths = self.lengths[0] / self.requests, self.lengths[1] / self.requests
        return Series(starts - origin, end - origin, rates, *key, mean_lengths=lengths)


def _rated(path: Path, names: list[str], stream: IO[str], step_s: float | None, header: int = 1) -> MovingLoad:
    """Return a CSV file of rates; its header counts as so many lines."""
    column = _rate_column(path, names, times=True)
    stream.readline()
    step_ms = None if step_s is None else round(step_s * 1000)
    found: dict[tuple[str | None, str | None], _Steps] = {}
    parse: Callable[[str], int] | None = None
    begins, total = "", 0
    for line, row in _csv_rows(path, names, stream, header):
        parse = parse or form_of(path, line, row["time"])
        at = time_at(path, line, row["time"], parse)
        key = _key(row)
        steps = found.get(key)
        if steps is None:
            steps = found[key] = _Steps(step_ms)
            if len(found) > MOST_SERIES:
                raise _too_many_series(path, line)
        elif steps.rate is None:
            raise InputError(f"{path}:{line}: the load has ended in the row above, which has no {column}")
        elif at <= steps.last:
            problem = "the same time as the row above" if at == steps.last else "an earlier time than the row above"
            raise InputError(
                f"{path}:{line}: time: {row['time']!r:.40}: {problem} of the same model and workload",
                hint="sort the rows by time, each time once; a load over midnight needs dates",
            )
        rate = _rate(path, line, column, row[column]) if row[column].strip() else None
        if rate is None and steps.first is None:
            raise InputError(
                f"{path}:{line}: {column}: expected a number, got an empty field; only the last row may lack it"
            )
        begins = begins or row["time"].strip()
        before = steps.size
        try:
            steps.change(at, rate)
        except OverflowError:
            raise _too_many_steps(path, line) from None
        total += steps.size - before
        if total > MOST_STEPS:
            raise _too_many_steps(path, line)
    _check_any(path, found)
    for steps in found.values():
        end = DAY_MS if parse is time_of_day else steps.last + steps.gaps[2] if steps.gaps else None
        if steps.rate is not None and end is None:
            raise InputError(
                f"{path}: only one row for a model and workload: the end of its rate is missing",
                hint="add a row with the time when the load ends and no rate; --rate sizes for one rate",
            )
        if steps.rate is not None and end is not None:
            if end <= steps.last:
                raise InputError(f"{path}: a rate at 24:00, where the day ends", hint="leave that rate empty")
            steps.change(end, None)
    notes = []
    gaps = [steps.gaps for steps in found.values() if steps.gaps is not None]
    low, high = min(gap[0] for gap in gaps) / 1000, max(gap[1] for gap in gaps) / 1000
    if high > low * 1.001:
        notes.append(f"rows are {low:g} to {high:g} s apart: a rate holds until the next row")
    first = min(steps.first for steps in found.values() if steps.first is not None)
    if parse is time_of_day and first > 0:
        clock = f"{first // 3_600_000}:{first // 60_000 % 60:02}"
        notes.append(f"the load begins at {clock}: a row at 0:00 says what comes before")
    return _load(path, found, begins, notes)


def _counted(path: Path, stream: IO[str], step_s: float) -> MovingLoad:
    """Return a trace: its requests counted in steps."""
    step_ms = round(step_s * 1000)
    found: dict[tuple[str | None, str | None], _Steps] = {}
    origin, last, total = math.nan, -math.inf, 0
    for line, row in rows(path, stream):
        at = time_of(path, line, row)
        if at is None:
            raise InputError(f"{path}:{line}: a request without a time", hint="a load needs the times of its requests")
        if at < last:
            raise InputError(
                f"{path}:{line}: arrives before the request above it", hint="sort the requests by their times"
            )
        origin = at if math.isnan(origin) else origin
        last = at
        if not at - origin <= LATEST_S:
            raise InputError(f"{path}:{line}: expected a time of at most {LATEST_S:g} s after the first")
        key = _key(row)
        steps = found.get(key)
        if steps is None:
            steps = found[key] = _Steps(step_ms)
            if len(found) > MOST_SERIES:
                raise _too_many_series(path, line)
        before = steps.size
        lengths = tokens_of(path, line, row, INPUT_NAMES), tokens_of(path, line, row, OUTPUT_NAMES)
        steps.count(round((at - origin) * 1000), *lengths)
        total += steps.size - before
        if total > MOST_STEPS:
            raise _too_many_steps(path, line)
    _check_any(path, found)
    end = round((last - origin) * 1000) + 1
    if end < 2 * step_ms:
        raise InputError(
            f"{path}: the trace lasts {last - origin:g} s, less than two steps of {step_s:g} s",
            hint="--step 1s counts its requests in shorter steps",
        )
    if len(found) * (end // step_ms) > MOST_STEPS:
        raise _too_many_steps(path, line)
    return _load(path, found, "0", [f"requests are counted in steps of {step_s:g} s"], until=end)


def _load(
    path: Path,
    found: Mapping[tuple[str | None, str | None], _Steps],
    begins: str,
    notes: list[str],
    until: int | None = None,
) -> MovingLoad:
    """Build the load. `until`: where all series end; None: each where its last row does."""
    origin = min(steps.first for steps in found.values() if steps.first is not None)
    series = [steps.series(origin, until or steps.last, key) for key, steps in found.items()]
    end = max(one.ends_ms for one in series)
    if any(one.starts_ms[0] > 0 or one.ends_ms < end for one in series):
        notes = [*notes, "not all models and workloads have rows for the whole time: outside of them they have no load"]
    if not any(one.peak > 0 for one in series):
        raise InputError(f"{path}: no rate above 0")
    return MovingLoad(str(path), tuple(series), end / 1000, begins, tuple(notes))


def _rate_column(path: Path, names: list[str], *, times: bool) -> str:
    """Return the column of rates, the header being what it should be."""
    allowed = {*_PER_SECOND, *_NAMES, *(("time",) if times else ())}
    for place, name in enumerate(names, start=1):
        if name not in allowed:
            near = [] if {";", "\t"} & set(name) else nearest(name, allowed, limit=1)
            raise InputError(
                f'{path}:1: column {place}: unknown column "{name:.60}"',
                hint=f"did you mean {near[0]}?" if near else f"with commas between them: {', '.join(sorted(allowed))}",
            )
        if name in names[: place - 1]:
            raise InputError(f'{path}:1: column {place}: a second column "{name}"')
    rates = [name for name in names if name in _PER_SECOND]
    if len(rates) != 1 or (times and "time" not in names):
        what = "time and one of " if times else "one of "
        raise InputError(f"{path}:1: expected the columns {what}{', '.join(_PER_SECOND)}", hint=EXAMPLE)
    return rates[0]


def _csv_rows(
    path: Path, names: list[str], stream: IO[str], header: int = 1
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield the rows below the header, which was read already, with their line numbers."""
    reader = csv.reader(lines(path, stream))
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            line = reader.line_num + header
            if len(values) != len(names):
                raise InputError(f"{path}:{line}: expected {len(names)} values ({', '.join(names)}), got {len(values)}")
            yield line, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num + header}: not CSV: {error}") from error


def _key(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    model, workload = (str(row.get(name) or "").strip() or None for name in _NAMES)
    return model, workload


def _rate(path: Path, line: int, column: str, text: str) -> float:
    try:
        rate = float(text) * _PER_SECOND[column]
    except ValueError:
        rate = math.nan
    if not 0 <= rate <= HIGHEST_RATE:
        most = f"{HIGHEST_RATE / _PER_SECOND[column]:,.0f}"
        raise InputError(f"{path}:{line}: {column}: expected a number from 0 to {most}, got {text!r:.40}")
    return rate


def _check_any(path: Path, found: Iterable[object]) -> None:
    if not any(True for _ in found):
        raise InputError(f"{path}: no rates", hint=EXAMPLE)


def _too_many_series(path: Path, line: int) -> InputError:
    return InputError(f"{path}:{line}: more than {MOST_SERIES:,} pairs of model and workload")


def _too_many_steps(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}:{line}: more than {MOST_STEPS:,} steps", hint="--step 5min averages the load over longer steps"
    )
