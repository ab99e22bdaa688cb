"""Many rows as columns, the form in which engines answer and databases are fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, Any]
"""Column name -> its values: a list of plain Python values (None: NULL), an array (NaN or masked: NULL), or `Coded`;
anything else is the same in every row. All of a mapping are equally long, and at least one is not the same value."""


@dataclass(frozen=True)
class Coded:
    """A column with few different values: row i holds `words[codes[i]]`."""

    codes: npt.NDArray[np.integer]
    words: Sequence[Any]

    def __len__(self) -> int:
        return len(self.codes)


def row_count(columns: Columns) -> int:
    return next((len(values) for values in columns.values() if isinstance(values, list | np.ndarray | Coded)), 0)


def take(columns: Columns, rows: Sequence[int]) -> dict[str, Any]:
    """Return the selected rows, in the given order."""
    chosen = np.asarray(rows, dtype=np.intp)
    return {name: _take(values, rows, chosen) for name, values in columns.items()}


def plain(values: Any, count: int) -> Any:
    """Return `count` Python values as SQLite's driver takes them."""
    if isinstance(values, list):
        first = next((value for value in values if value is not None), None)
        return list(map(_stored, values)) if isinstance(first, date) else values
    if isinstance(values, Coded):
        return np.array(values.words, dtype=object)[values.codes].tolist()
    if isinstance(values, np.ndarray):
        return _plain_array(values)
    return repeat(_stored(values), count)


def _stored(value: Any) -> Any:
    """Return a value as SQLAlchemy stores it in SQLite, which knows no times."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value.isoformat() if isinstance(value, date) else value


def _plain_array(values: npt.NDArray[Any]) -> list[Any]:
    unknown: npt.NDArray[Any] | None = None
    if isinstance(values, np.ma.MaskedArray):
        unknown, values = np.ma.getmaskarray(values), values.data
    elif values.dtype.kind == "f":
        unknown = np.isnan(values)
    result: list[Any] = values.tolist()
    if unknown is not None:
        for row in np.flatnonzero(unknown).tolist():
            result[row] = None
    return result


def _take(values: Any, rows: Sequence[int], chosen: npt.NDArray[np.intp]) -> Any:
    if isinstance(values, list):
        return [values[row] for row in rows]
    if isinstance(values, Coded):
        return Coded(values.codes[chosen], values.words)
    return values[chosen] if isinstance(values, np.ndarray) else values
