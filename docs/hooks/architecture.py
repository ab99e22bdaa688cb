"""The picture of the code: rooms in the layers of the import contracts, lines from the imports that there are."""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOORS = ("runner", "store", "sweeps")
_WIDTH, _ROOM_HEIGHT, _LAYER, _HEAD, _GAP = 1000, 34, 78, 34, 26
Imports = Counter[tuple[tuple[str, str], tuple[str, str]]]  # (importing room, imported room) -> modules
_COLOURS = {"runner": "#3b6ea5", "store": "#3f8f6b", "sweeps": "#a5703b"}


@dataclass(frozen=True)
class Room:
    """A module or package of a floor, as a box (px)."""

    floor: str
    name: str
    x: float
    y: float
    width: float
    lines: int

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def picture() -> str:
    """An SVG of the three floors. A line's width grows with the number of imports; between floors they are counted."""
    rooms, height = _placed()
    imports = _imports(rooms)
    panels = [_panel(floor, [room for room in rooms.values() if room.floor == floor]) for floor in FLOORS]
    within = sorted((pair, count) for pair, count in imports.items() if pair[0][0] == pair[1][0])
    lines = [_line(rooms[above], rooms[below], count) for (above, below), count in within]
    boxes = [_box(room) for room in rooms.values()]
    crossing = [_crossing(floor, rooms, imports) for floor in FLOORS[:-1]]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">'
        '<rect width="100%" height="100%" fill="#ffffff"/>' + "".join([*panels, *lines, *boxes, *crossing]) + "</svg>\n"
    )


def layers(floor: str) -> list[list[str]]:
    """The rooms of a floor, layer by layer, the uppermost first, as the import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (found,) = (one for one in contracts if one.get("containers") == [f"gpuscout.{floor}"])
    rows = ([name.strip("() ") for name in re.split(r"[|:]", layer)] for layer in found["layers"])
    return [[name for name in row if _lines(floor, name)] for row in rows]


def _lines(floor: str, name: str) -> int:
    place = ROOT / floor / name
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return sum(len(file.read_text("utf-8").splitlines()) for file in files if file.is_file())


def _placed() -> tuple[dict[tuple[str, str], Room], int]:
    rooms, y = {}, 0
    for floor in FLOORS:
        y += _HEAD
        for row in filter(None, layers(floor)):
            slot = (_WIDTH - 40) / len(row)
            width = min(slot - 14, 210)
            for position, name in enumerate(row):
                x = 20 + slot * position + (slot - width) / 2
                rooms[floor, name] = Room(floor, name, x, y, width, _lines(floor, name))
            y += _LAYER
        y += _GAP - (_LAYER - _ROOM_HEIGHT) + 28
    return rooms, y - _GAP


def _imports(rooms: Mapping[tuple[str, str], Room]) -> Imports:
    """How many modules of one room import one of another."""
    import grimp

    graph = grimp.build_graph("gpuscout")
    counted: Imports = Counter()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            pair = tuple(tuple(name.split(".")[1:3]) for name in (module, other))
            if pair[0] != pair[1] and pair[0] in rooms and pair[1] in rooms:
                counted[pair] += 1
    return counted


def _crossing(floor: str, rooms: Mapping[tuple[str, str], Room], imports: Imports) -> str:
    counted = {
        other: sum(count for (one, two), count in imports.items() if (one[0], two[0]) == (floor, other))
        for other in FLOORS[FLOORS.index(floor) + 1 :]
    }
    text = " · ".join(f"{floor} imports {other} {count} times" for other, count in counted.items())
    y = max(room.y for room in rooms.values() if room.floor == floor) + _ROOM_HEIGHT + 30
    return f'<text x="{_WIDTH / 2}" y="{y}" font-size="12" text-anchor="middle" fill="#444444">↓ {text}</text>'


def _panel(floor: str, rooms: list[Room]) -> str:
    top, bottom = min(room.y for room in rooms) - 26, max(room.y for room in rooms) + _ROOM_HEIGHT + 10
    total = sum(room.lines for room in rooms)
    return (
        f'<rect x="6" y="{top}" width="{_WIDTH - 12}" height="{bottom - top}" rx="8" fill="{_COLOURS[floor]}" '
        f'fill-opacity="0.08" stroke="{_COLOURS[floor]}"/><text x="16" y="{top + 17}" font-size="14" '
        f'font-weight="bold" fill="{_COLOURS[floor]}">{floor}/ <tspan font-weight="normal" font-size="11">'
        f"{total:,} lines</tspan></text>"
    )


def _box(room: Room) -> str:
    return (
        f'<rect x="{room.x:.0f}" y="{room.y}" width="{room.width:.0f}" height="{_ROOM_HEIGHT}" rx="5" fill="#ffffff" '
        f'stroke="{_COLOURS[room.floor]}"/><text x="{room.middle:.0f}" y="{room.y + 15}" font-size="12" '
        f'text-anchor="middle" fill="#222222">{escape(room.name)}</text><text x="{room.middle:.0f}" y="{room.y + 28}" '
        f'font-size="9" text-anchor="middle" fill="#666666">{room.lines:,}</text>'
    )


def _line(above: Room, below: Room, count: int) -> str:
    start, end = above.y + _ROOM_HEIGHT, below.y
    if end <= start:  # beside each other in one layer
        end = start
    bend = start + 22 if end == start else (start + end) / 2
    path = f"M{above.middle:.0f},{start} C{above.middle:.0f},{bend} {below.middle:.0f},{bend} {below.middle:.0f},{end}"
    return (
        f'<path d="{path}" fill="none" stroke="{_COLOURS[above.floor]}" stroke-opacity="0.5" '
        f'stroke-width="{0.6 + math.log2(count) * 0.6:.1f}"/>'
    )
