"""Times as files write them: seconds, times of the day, dates with and without a zone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from gpuscout.sweeps.errors import InputError

DAY_MS = 86_400_000
LATEST_S = 1e11
EXAMPLE = "the first lines are, for example, time,rate and 08:00,12.5"
_CLOCK = re.compile(r"(?P<h>[01]?\d|2[0-4]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d(?:\.\d{1,6})?))?")


def form_of(path: Path, line: int, text: str) -> Callable[[str], int]:
    """Return the form of the times, by the first one."""
    for form in (_seconds, time_of_day, _date_without_zone, _date_with_zone):
        try:
            form(text)
        except ValueError:
            continue
        return form
    raise InputError(
        f"{path}:{line}: time: expected seconds, 08:30 or 2026-11-28T08:30, got {text!r:.40}", hint=EXAMPLE
    )


def time_at(path: Path, line: int, text: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(text)
    except ValueError:
        raise InputError(
            f"{path}:{line}: time: expected {_FORMS[parse]} as in the first row, got {text!r:.40}"
        ) from None


def _seconds(text: str) -> int:
    at = float(text)
    if not abs(at) <= LATEST_S:
        raise ValueError
    return round(at * 1000)


def time_of_day(text: str) -> int:
    form = _CLOCK.fullmatch(text.strip())
    if form is None:
        raise ValueError
    return round(1000 * (int(form["h"]) * 3600 + int(form["m"]) * 60 + float(form["s"] or 0)))


def _date_without_zone(text: str) -> int:
    at = datetime.fromisoformat(text.strip())
    if at.tzinfo is not None:
        raise ValueError
    return round(at.replace(tzinfo=UTC).timestamp() * 1000)


def _date_with_zone(text: str) -> int:
    at = datetime.fromisoformat(text.strip())
    if at.tzinfo is None:
        raise ValueError
    return round(at.timestamp() * 1000)


_FORMS: Mapping[Callable[[str], int], str] = {
    _seconds: "seconds",
    time_of_day: "a time of day",
    _date_without_zone: "a date and time without a zone",
    _date_with_zone: "a date and time with its zone",
}
