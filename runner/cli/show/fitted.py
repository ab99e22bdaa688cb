"""Tables of single lines that fit a width: columns are left out, and names cut, so that rows stay distinguishable."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuscout.runner.cli.common import on_two_lines
from gpuscout.sweeps.names import bare

_CUT = "…"
_SHORTEST = 8
LAST_RESORT = 100


@dataclass(frozen=True)
class FittedColumn:
    """One column: what its cells say, from the first row to the last.

    `right`: figures, to the right. `drop`: how soon it may be left out, 1 first, from `LAST_RESORT` on only where
    nothing else makes room; None: never. `least`: names may be cut to so many characters; None: never cut.
    """

    heading: str
    cells: Sequence[str]
    right: bool = False
    drop: int | None = None
    least: int | None = None

    @property
    def width(self) -> int:
        return max(map(len, (*self.heading.split("\n"), *self.cells)))


def fitted(columns: Iterable[FittedColumn], width: int, *, indent: int = 0) -> list[str]:
    """Return a line of headings and one a row, none longer than `width`.

    What may be left out goes first, then gaps get narrower and names shorter, then headings take a second line, then
    what is left out as a last resort goes; at last lines end where the width does, in a mark that says so.
    """
    shown = [column for column in columns if any(column.cells)]
    room = width - indent
    while (over := _total(shown, 2) - room) > 0:
        dropped = min((column for column in shown if 0 < (column.drop or 0) < LAST_RESORT), key=_drop, default=None)
        # A name that is cut a little says more than a column that is gone.
        if dropped is None or over <= _spare(shown) // 3:
            break
        shown.remove(dropped)
    gap = 2 if _total(shown, 2) - _spare(shown) <= room else 1
    if _total(shown, gap) - _spare(shown) > room:
        shown = [replace(column, heading=on_two_lines(column.heading)) for column in shown]
    while _total(shown, gap) - _spare(shown) > room and any(column.drop for column in shown):
        shown.remove(min((column for column in shown if column.drop), key=_drop))
    widths = [column.width for column in shown]
    headings = [column.heading.split("\n") for column in shown]
    tallest = max(map(len, headings), default=1)
    heads = [[*lines, *[""] * (tallest - len(lines))] for lines in headings]
    texts = [[*head, *column.cells] for head, column in zip(heads, shown, strict=True)]
    for place in sorted(range(len(shown)), key=lambda place: -widths[place]):
        over = sum(widths) + gap * (len(shown) - 1) - room
        least = shown[place].least
        if over > 0 and least is not None:
            widths[place] = max(min(least, widths[place]), widths[place] - over)
            short = shortened(shown[place].cells, widths[place])
            head = [line[: widths[place]] for line in heads[place]]
            texts[place] = [*head, *(short[cell] for cell in shown[place].cells)]
    lines = []
    for row in zip(*texts, strict=True):
        cells = (
            f"{cell:>{size}}" if column.right else f"{cell:<{size}}"
            for cell, size, column in zip(row, widths, shown, strict=True)
        )
        line = (" " * indent + (" " * gap).join(cells)).rstrip()
        lines.append(line if len(line) <= width else line[: width - len(_CUT)] + _CUT)
    return lines


def _drop(column: FittedColumn) -> int:
    return column.drop or 0


def _total(columns: Sequence[FittedColumn], gap: int) -> int:
    return sum(column.width for column in columns) + gap * (len(columns) - 1)


def _spare(columns: Sequence[FittedColumn]) -> int:
    """Return the width that columns lose if all names are cut as far as they may be."""
    return sum(max(column.width - column.least, 0) for column in columns if column.least is not None)


@functools.cache
def short_gpu(name: str) -> str:
    """Return the shortest beginning of a GPU's name that still means it: "H200" for "H200-SXM-141GB"."""
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

    known = GPUCatalogue.load()
    for cut in (place for place, letter in enumerate(name) if letter in "- "):
        found = known.find(name[:cut])
        if found is not None and found.name == name:
            return name[:cut]
    return name


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Return names of models without their owners, where that leaves no two of them alike."""
    known = list(dict.fromkeys(names))
    models = list(map(bare, known))
    return {name: model if models.count(model) == 1 else name for name, model in zip(known, models, strict=True)}


def shortened(names: Iterable[str], width: int) -> Mapping[str, str]:
    """Return names cut in the middle to at most `width` characters, different ones still different.

    The cut moves away from the middle until no two are alike; where every cut leaves some alike, they are numbered.
    """
    known = list(dict.fromkeys(names))
    width = max(width, _SHORTEST)
    kept = width - len(_CUT)
    middle = (kept + 1) // 2
    for head in sorted(range(2, kept - 1), key=lambda head: abs(head - middle)):
        short = {name: _cut(name, head, kept - head) for name in known}
        if len(set(short.values())) == len(known):
            return short
    number = {name: f"{_CUT}{place}" for place, name in enumerate(known, 1)}
    return {name: name if len(name) <= width else name[: width - len(number[name])] + number[name] for name in known}


def _cut(name: str, head: int, tail: int) -> str:
    return name if len(name) <= head + len(_CUT) + tail else f"{name[:head]}{_CUT}{name[-tail:]}"
