"""Charts as SVG that is made on the server: every point is an element with a text, for people, readers and tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuscout.runner.cli.common import count

WIDTH, HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 16, 14, 46
_COLOURS = 8
_SIZE = 5.0


@dataclass(frozen=True)
class Mark:
    """One point: where it stands, its shape (estimated: circle, measured: square), its range and what it is."""

    x: float
    y: float
    measured: bool
    dominated: bool
    colour: int
    text: str
    id: str
    range_x: tuple[float, float] | None
    range_y: tuple[float, float] | None

    @property
    def path(self) -> str:
        """The shape as an SVG path."""
        x, y, r = self.x, self.y, _SIZE
        if self.measured:
            return f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z"
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"


@dataclass(frozen=True)
class Curve:
    """The points of one configuration, from load to load, as an SVG path."""

    path: str
    colour: int


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A scatter plot with logarithmic axes; `colours` are the names that colours stand for, in their order."""

    marks: Sequence[Mark]
    curves: Sequence[Curve]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_label: str
    y_label: str
    colours: Sequence[str]
    diagonal: tuple[tuple[float, float], tuple[float, float]]  # the ends of where both axes have the same value
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def scatter(
    rows: Iterable[Mapping[str, Any]],
    x: str,
    y: str,
    *,
    labels: tuple[str, str],
    curve_by: Sequence[str] = (),
) -> Chart:
    """Return a chart of rows with `x` and `y` above 0, `kind`, `text`, `id`, perhaps `dominated`, `…_low`, `…_high`.

    Rows that agree in all of `curve_by` are joined by a line, in the order of `concurrency`.
    """
    shown = [row for row in rows if (row[x] or 0) > 0 and (row[y] or 0) > 0]
    names = list(dict.fromkeys(str(row["gpu"]) for row in shown))
    across, down = (
        _axis([row[x] for row in shown], _LEFT, WIDTH - _RIGHT),
        _axis([row[y] for row in shown], HEIGHT - _BOTTOM, _TOP),
    )
    marks = [
        Mark(
            across.at(row[x]),
            down.at(row[y]),
            row["kind"] == "measured",
            bool(row.get("dominated")),
            min(names.index(str(row["gpu"])), _COLOURS - 1),
            row["text"],
            row["id"],
            _range(row, x, across),
            _range(row, y, down),
        )
        for row in shown
    ]
    colours = names if len(names) <= _COLOURS else [*names[: _COLOURS - 1], "others"]
    ends = max(across.low, down.low), min(across.high, down.high)
    start, end = ((across.at(value), down.at(value)) for value in ends)
    return Chart(marks, _curves(shown, marks, curve_by), across.ticks(), down.ticks(), *labels, colours, (start, end))


def _curves(rows: Sequence[Mapping[str, Any]], marks: Sequence[Mark], curve_by: Sequence[str]) -> list[Curve]:
    lines: dict[tuple[Any, ...], list[tuple[int, Mark]]] = {}
    for row, mark in zip(rows, marks, strict=True):
        if curve_by and row.get("concurrency") is not None:
            lines.setdefault(tuple(row[name] for name in curve_by), []).append((row["concurrency"], mark))
    return [
        Curve(
            "M" + "L".join(f"{mark.x} {mark.y}" for _, mark in sorted(line, key=lambda one: one[0])), line[0][1].colour
        )
        for line in lines.values()
        if len(line) > 1
    ]


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis from `low` to `high` between two places."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value, within the axis."""
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[Tick]:
        """Return 1, 2 and 5 times powers of ten; powers alone where those are many."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(decades) <= 4 else (1,)
        values = [step * 10.0**power for power in decades for step in steps]
        return [Tick(self.at(value), f"{value:,.10g}") for value in values if self.low <= value <= self.high]


_COURSE_HEIGHT = 180


@dataclass(frozen=True)
class Bar:
    """One step of a course: how many replicas are ready in it."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Course:
    """Replicas over time, on linear axes."""

    bars: Sequence[Bar]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    width: int = WIDTH
    height: int = _COURSE_HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = _COURSE_HEIGHT - _BOTTOM // 2


def course(group: Mapping[str, Any], seconds: float) -> Course | None:
    """Draw the rows `over_time` of a group, for a load that lasts so long; None: nothing can carry it."""
    rows = group["over_time"]
    if not rows:
        return None
    most: int = max(1, *(row["ready"] for row in rows))
    is_whole = len(rows) == group["over_time_rows"]
    ends = [row["start_s"] for row in rows[1:]] + [seconds if is_whole else rows[-1]["start_s"]]
    wide, high = WIDTH - _RIGHT - _LEFT, Course.bottom - _TOP

    def across(at_s: float) -> float:
        return round(_LEFT + wide * at_s / seconds, 1)

    def up(replicas: float) -> float:
        return round(Course.bottom - high * replicas / most, 1)

    bars = [
        Bar(
            across(row["start_s"]),
            up(row["ready"]),
            round(across(end) - across(row["start_s"]), 1),
            round(Course.bottom - up(row["ready"]), 1),
            f"{count(row['ready'], 'replica')} from {row['start_s'] / 3600:.4g} h, "
            f"for {row['requests_per_s']:.4g} requests/s",
        )
        for row, end in zip(rows, ends, strict=True)
    ]
    times = [Tick(across(seconds * part / 4), f"{seconds * part / 4 / 3600:.3g} h") for part in range(5)]
    return Course(bars, times, [Tick(up(ready), f"{ready:,}") for ready in dict.fromkeys((0, most // 2, most))])


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    return _Axis(low / 1.3, high * 1.3, start, end)


def _range(row: Mapping[str, Any], name: str, axis: _Axis) -> tuple[float, float] | None:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if not low or not high or low <= 0 else (axis.at(low), axis.at(high))
