"""Answers of the store as pandas data frames, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from importlib import import_module
from typing import Any

from gpuscout.store.queries.operating_points.pareto import Pareto
from gpuscout.store.queries.operating_points.point_columns import COLUMNS
from gpuscout.store.ranking.rows import columns_of, ranking_rows
from gpuscout.store.ranking.types import Ranking
from gpuscout.sweeps.errors import needing

# What pandas calls a column of this type in which values may be missing.
_TYPES: dict[type, str] = {int: "Int64", float: "Float64", bool: "boolean", str: "string"}


def to_dataframe(answer: Ranking | Pareto | Iterable[Mapping[str, Any]]) -> Any:
    """Return a pandas DataFrame of a ranking (one row a configuration), a frontier, or the points of `query`.

    Columns are called as in CSV, with units; what is not known is `pandas.NA`, so that a column has the same type
    whatever rows there are. Raises InputError when pandas is not installed.
    """
    with needing("to_dataframe needs pandas, which is not installed", hint="pip install pandas"):
        pandas = import_module("pandas")
    columns: list[str] | None = None
    if isinstance(answer, Ranking):
        rows, columns = list(ranking_rows(answer)), list(columns_of(answer))
    elif isinstance(answer, Pareto):
        rows = [point for front in answer.fronts for point in front.points]
    else:
        rows = [dict(row) for row in answer]
    frame = pandas.DataFrame(rows, columns=columns)
    for name in frame.columns:
        kind = COLUMNS[name][0] if name in COLUMNS else _type_of(row[name] for row in rows)
        if kind in (date, datetime):
            frame[name] = pandas.to_datetime(frame[name], utc=kind is datetime)
        elif kind in _TYPES:
            frame[name] = frame[name].astype(_TYPES[kind])
    return frame


def _type_of(values: Iterable[Any]) -> type | None:
    """Return the type of the values that are known; None: of several types, or none is."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        return float if float in kinds else int
    return next((known for known in _TYPES if kinds and all(issubclass(kind, known) for kind in kinds)), None)
