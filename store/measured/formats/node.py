"""Values of a parsed document that know their place, so that what is wrong can be told by file, line and key."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import clean, fault_in, printable

_LARGEST = 2**31 - 1
_SMALLEST_FIGURE, _LARGEST_FIGURE = 1e-9, 1e12
MEASURABLE = f"a positive number from {_SMALLEST_FIGURE:g} to {_LARGEST_FIGURE:g}"
_LONGEST_SHOWN = 60
_LONGEST_KEPT = 1_000
_SECRET = re.compile(r"api[-_]?key|secret|passw|credential|auth|(?:hf|access|bearer)[-_]?token", re.IGNORECASE)


class Node:
    """A value, or its absence. What is missing reads as None; what is there and wrong raises InputError."""

    def __init__(self, value: Any, file: str, path: str = "", line: int | None = None) -> None:
        self.value, self.file, self.path, self.line = value, file, path, line

    @property
    def place(self) -> str:
        """Path to this node, to be written after the name of the file: ":3: benchmarks[0].metrics"."""
        return (f":{self.line}" if self.line else "") + (f": {self.path}" if self.path else "")

    def __getitem__(self, key: str) -> Node:
        """Return the value of a key; missing when there is none, or when this is no mapping."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return Node(value, self.file, f"{self.path}.{key}" if self.path else key, self.line)

    def __contains__(self, key: object) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    @property
    def missing(self) -> bool:
        return self.value is None

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    def items(self) -> Iterator[tuple[str, Node]]:
        """Yield the entries of a mapping; none when it is missing."""
        for key in self._as(dict, "a mapping") or ():
            if isinstance(key, str):
                yield key, self[key]

    def elements(self) -> list[Node]:
        """Return the elements of a list; none when it is missing."""
        values = self._as(list, "a list") or ()
        return [Node(value, self.file, f"{self.path}[{position}]", self.line) for position, value in enumerate(values)]

    def required(self) -> Node:
        if self.missing:
            raise self.wrong("missing")
        return self

    def mapping(self) -> Node:
        self.required()._as(dict, "a mapping")
        return self

    def text(self) -> str | None:
        """Return a line of text; empty counts as missing."""
        value: str = self._as(str, "a text") or ""
        if fault := fault_in(value):
            raise self.wrong(fault)
        return value or None

    def prose(self) -> str | None:
        """Return a text of any number of lines as one."""
        return printable(" ".join((self._as(str, "a text") or "").split())) or None

    def flag(self) -> bool | None:
        value: bool | None = self._as(bool, "true or false")
        return value

    def number(self) -> float | None:
        """Return a finite number."""
        value = self.value
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong("expected a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.wrong("expected a finite number")
        return number

    def rate(self) -> float | None:
        """Return a number above 0; infinity, also as a text, is one."""
        if self.value in ("inf", "Infinity", math.inf):
            return math.inf
        number = self.number()
        if number is not None and number <= 0:
            raise self.wrong("expected a number above 0")
        return number

    def figure(self) -> float | None:
        """Return a number that somebody may have measured.

        Tools write 0 for what they could not measure: it is missing.
        """
        number = self.number()
        if number and not measurable(number):
            raise self.wrong("expected a number above 0" if number < 0 else f"expected {MEASURABLE}")
        return number or None

    def count(self) -> int | None:
        """Return a whole number from 0 on."""
        number = self.number()
        if number is None:
            return None
        if number != int(number) or not 0 <= number <= _LARGEST:
            raise self.wrong("expected a whole number")
        return int(number)

    def size(self) -> int | None:
        """Return a whole number above 0; 0 and below, which stand for "not set", count as missing."""
        number = self.number()
        return None if number is None or number <= 0 else self.count()

    def limit(self) -> int | None:
        """Return a size that may be infinite, which counts as missing: there is no limit."""
        return None if self.value in (math.inf, "inf") else self.size()

    def whole(self) -> int | None:
        """Return a number above 0 if it is whole: a fraction is a mean, not a size that somebody set."""
        number = self.figure()
        return int(number) if number is not None and number == int(number) and number <= _LARGEST else None

    def moment(self) -> datetime | date | None:
        """Return a time: seconds since 1970 (UTC), ISO 8601, or YYYYMMDD-HHMMSS as vLLM writes it."""
        value = self.value
        if value is None or isinstance(value, date):
            return value
        try:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, UTC)
            if isinstance(value, str):
                text = value.strip()
                if len(text) == len("YYYYMMDD-HHMMSS") and text[8] == "-":
                    return datetime.strptime(text, "%Y%m%d-%H%M%S")  # local time: nobody knows where
                return datetime.fromisoformat(text)
        except (ValueError, OverflowError, OSError):
            pass
        raise self.wrong("expected a time")

    def wrong(self, message: str) -> InputError:
        """Return the error at this place, with the value that stands there."""
        got = "" if self.missing else f", got {shown(self.value)}"
        return InputError(f"{self.file}{self.place}: {message}{got}")

    def _as(self, kind: type, expected: str) -> Any:
        if self.value is not None and not isinstance(self.value, kind):
            raise self.wrong(f"expected {expected}")
        return self.value


def measurable(number: float) -> bool:
    """Return whether this can be a latency, a throughput or a number of tokens."""
    return _SMALLEST_FIGURE <= number <= _LARGEST_FIGURE


def scaled(value: float, scale: float) -> float:
    """Return a figure in another unit, without the noise that a multiplication adds to what was written."""
    return value if scale == 1 else float(f"{value * scale:.12g}")


def day_of(moment: datetime | date | None) -> date | None:
    return moment.date() if isinstance(moment, datetime) else moment


def shown(value: object) -> str:
    """Return a value as part of a message."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # an integer of thousands of digits
        return "a number"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def scalars(node: Node) -> dict[str, object]:
    """Return the entries of a mapping that are plain values, such as arguments of a server; without secrets."""
    if not node.is_mapping:
        return {}
    kept: dict[str, object] = {}
    for key, value in node.value.items():
        if _SECRET.search(str(key)):
            continue
        if isinstance(value, str):
            kept[printable(str(key))] = clean(value)[:_LONGEST_KEPT]
        elif isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            kept[printable(str(key))] = value
    return kept
