"""One row of an export and where it stands: every value fetched with a check that names file, line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Never, TypeVar

from gpuscout.store.measured.formats.node import shown
from gpuscout.store.measured.formats.reported import PERCENTILE_METRICS
from gpuscout.store.transfer.columns import Value
from gpuscout.sweeps.cases import DIGEST_BYTES
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.spec.entries import LONGEST_NAME, NAME_PATTERN

_T = TypeVar("_T")


@dataclass(frozen=True)
class Placed:
    """A row and its place. Whatever fetches a value raises InputError when it is missing or not what is expected.

    `values` has every column, None for what is missing.
    """

    place: str
    values: Mapping[str, Value]

    def has(self, name: str) -> bool:
        return self.values[name] is not None

    def known(self, name: str, fetch: Callable[[str], _T]) -> _T | None:
        """Return the value as one of the functions below fetches it; None when it is missing."""
        return fetch(name) if self.has(name) else None

    def error(self, name: str, problem: str) -> InputError:
        return InputError(f"{self.place}: {name}: {problem}")

    def text(self, name: str) -> str:
        value = self.values[name]
        if not isinstance(value, str) or not value:
            raise self.error(name, "missing")
        return value

    def word(self, name: str, words: Sequence[str]) -> str:
        text = self.text(name)
        if text not in words:
            raise self.error(name, f'expected one of {", ".join(words)}, got "{text}"')
        return text

    def count(self, name: str, *, least: int = 1, below: int = 2**31) -> int:
        value = self.values[name]
        if not isinstance(value, int) or not least <= value < below:
            expected = f"expected a whole number from {least} to {below - 1}, got {value}"
            raise self.error(name, "missing" if value is None else expected)
        return value

    def tokens(self, name: str) -> int:
        """Return lengths and capacities, which may be large."""
        return self.count(name, least=0, below=2**63)

    def figure(self, name: str) -> float:
        value = self.values[name]
        if not isinstance(value, float) or not 0 <= value < float("inf"):
            raise self.error(name, "missing" if value is None else f"expected a finite number from 0 on, got {value}")
        return value

    def digest(self, name: str) -> bytes:
        try:
            found = bytes.fromhex(self.text(name))
        except ValueError as error:
            raise self.error(name, "not hexadecimal") from error
        if len(found) != DIGEST_BYTES:
            raise self.error(name, f"expected {2 * DIGEST_BYTES} hexadecimal digits")
        return found

    def json(self, name: str) -> dict[str, Any]:
        found = self._json(name)
        if not isinstance(found, dict):
            raise self.error(name, "expected an object")
        return found

    def json_text(self, name: str) -> str:
        """Return the text of an object."""
        self.json(name)
        return self.text(name)

    def ladder(self, name: str) -> list[int]:
        """Return concurrencies, ascending."""
        parts = self.text(name).split(",")
        steps = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 11]
        if len(steps) < len(parts) or steps != sorted(set(steps)) or not 0 < steps[0] <= steps[-1] < 2**31:
            raise self.error(name, f"expected ascending concurrencies such as 1,2,4, got {shown(self.text(name))}")
        return steps

    def names(self, name: str) -> list[str]:
        """Return names of workloads, the newest first."""
        names = self.text(name).split(",")
        if not all(re.fullmatch(NAME_PATTERN, one) and len(one) <= LONGEST_NAME for one in names):
            raise self.error(name, f"expected names such as chat,rag, got {shown(self.text(name))}")
        return names

    def moment(self, name: str) -> datetime:
        try:
            found = datetime.fromisoformat(self.text(name))
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            raise self.error(name, "expected a time such as 2026-11-21T10:00:00+00:00") from error

    def day(self, name: str) -> date:
        try:
            return date.fromisoformat(self.text(name))
        except ValueError as error:
            raise self.error(name, "expected a date such as 2026-11-21") from error

    def percentiles(self) -> list[tuple[str, float, float]]:
        """Return metric, percentile and value of each."""
        error = self.error("percentiles", "expected a list of [metric, percentile, value]")
        try:
            found = [(metric, float(percent), float(value)) for metric, percent, value in self._json("percentiles")]
        except (ValueError, TypeError, OverflowError) as problem:
            raise error from problem
        for metric, percent, value in found:
            if metric not in PERCENTILE_METRICS or not 0 <= percent <= 100 or not 0 <= value < float("inf"):
                raise error
        if len({(metric, percent) for metric, percent, _ in found}) < len(found):
            raise self.error("percentiles", "duplicate entry")
        return found

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self.text(name), parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise self.error(name, f"not JSON ({error})") from error


def _refused(constant: str) -> Never:
    raise ValueError(f"{constant} is not a JSON number")
