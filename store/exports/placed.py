"""One row of an export and where it stands: every value fetched with a check that names file, line and column."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from gpuscout.store.exports.columns import Value
from gpuscout.sweeps.cases import DIGEST_BYTES
from gpuscout.sweeps.errors import InputError


@dataclass(frozen=True)
class Placed:
    """A row and its place. Whatever fetches a value raises InputError when it is missing or not what is expected."""

    place: str
    values: Mapping[str, Value]

    def error(self, name: str, problem: str) -> InputError:
        return InputError(f"{self.place}: {name}: {problem}")

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.error(name, "missing")
        return value

    def word(self, name: str, words: Sequence[str]) -> str:
        text = self.text(name)
        if text not in words:
            raise self.error(name, f'expected one of {", ".join(words)}, got "{text}"')
        return text

    def count(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or not 0 < value < 2**63:
            raise self.error(name, "missing" if value is None else f"expected a whole number above 0, got {value}")
        return value

    def figure(self, name: str) -> float:
        value = self.values.get(name)
        if not isinstance(value, float) or not 0 <= value < float("inf"):
            raise self.error(name, "missing" if value is None else f"expected a finite number, got {value}")
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
        try:
            found = json.loads(self.text(name))
        except ValueError as error:
            raise self.error(name, f"not JSON ({error})") from error
        if not isinstance(found, dict):
            raise self.error(name, "expected an object")
        return found

    def moment(self, name: str) -> datetime:
        try:
            found = datetime.fromisoformat(self.text(name))
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        except ValueError as error:
            raise self.error(name, "expected a time such as 2026-11-21T10:00:00+00:00") from error

    def day(self, name: str) -> date | None:
        if self.values.get(name) is None:
            return None
        try:
            return date.fromisoformat(self.text(name))
        except ValueError as error:
            raise self.error(name, "expected a date such as 2026-11-21") from error

    def percentiles(self) -> list[tuple[str, float, float]]:
        try:
            found = json.loads(self.text("percentiles"))
            return [(str(metric), float(percentile), float(value)) for metric, percentile, value in found]
        except (ValueError, TypeError) as error:
            raise self.error("percentiles", "expected a list of [metric, percentile, value]") from error
