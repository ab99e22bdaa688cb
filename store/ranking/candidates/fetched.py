"""Rows of tasks as columns, as the statements of a ranking fetch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.ranking.candidates.statements import OUTCOME_CODES, Number, as_double
from gpuscout.store.ranking.measures import Array
from gpuscout.store.ranking.question.scope import Scope
from gpuscout.sweeps.outcomes import Outcome


@dataclass(frozen=True)
class Rows:
    """Rows of a statement as columns, in no order; NaN: NULL. `points` holds "point" and every side."""

    about: dict[str, Array]
    points: dict[str, dict[str, Array]]

    def __len__(self) -> int:
        return len(self.about["task_id"])

    def take(self, rows: Any) -> Rows:
        """Return the selected rows; `rows` are positions or flags."""
        return Rows(
            {name: column[rows] for name, column in self.about.items()},
            {at: {name: column[rows] for name, column in figures.items()} for at, figures in self.points.items()},
        )

    def followed_by(self, out: Rows) -> Rows:
        """Return the tasks that ran followed by those that could not, which have no points."""
        ran = {"outcome": float(OUTCOME_CODES[Outcome.OK]), "memory_ratio": np.nan}
        about = self.about | {name: np.full(len(self), value) for name, value in ran.items()}
        none = np.full(len(out), np.nan)
        return Rows(
            {name: np.concatenate([column, out.about[name]]) for name, column in about.items()},
            {
                at: {name: np.concatenate([column, none]) for name, column in figures.items()}
                for at, figures in self.points.items()
            },
        )


def fetch(connection: sa.Connection, scope: Scope, statement: sa.Select[Any], columns: Sequence[str]) -> Rows:
    """Run a statement of `statements`; `columns` are those of its points."""
    read = _aggregated if scope.on_postgres else _fetched
    found = read(connection, statement)
    count = found.shape[1]
    names = ("concurrency", "queued", *columns)
    labels = [column.name for column in statement.selected_columns]
    aliases = [label.removesuffix("_concurrency") for label in labels if label.endswith("_concurrency")]
    first = len(labels) - len(aliases) * len(names)
    shared = {name: np.full(count, float(row_id)) for name, row_id in scope.shared_ids.items()}
    figures = found[first:].reshape(len(aliases), len(names), count)
    points = {alias: dict(zip(names, group, strict=True)) for alias, group in zip(aliases, figures, strict=True)}
    return Rows(dict(zip(labels, found[:first], strict=False)) | shared, points)


def _fetched(connection: sa.Connection, statement: sa.Select[Any]) -> Array:
    """Return the columns of a statement, straight from the driver: a
    hundred thousand rows are not wanted as objects.
    """
    cursor: Any = connection.execute(statement).cursor
    numbers = np.fromiter(chain.from_iterable(cursor), dtype=np.float64)
    return np.ascontiguousarray(numbers.reshape(-1, len(statement.selected_columns)).T)


def _aggregated(connection: sa.Connection, statement: sa.Select[Any]) -> Array:
    """Return the same from Postgres as one row, every column one binary
    value: sending rows one by one takes twice as long.
    """
    nan: Number = sa.literal_column("'NaN'")
    sent = [sa.func.float8send(sa.func.coalesce(as_double(column), nan)) for column in statement.selected_columns]
    whole = statement.with_only_columns(*(sa.func.string_agg(number, sa.literal(b"")) for number in sent))
    columns = connection.execute(whole).one()
    return np.array([np.frombuffer(column or b"", dtype=">f8") for column in columns], np.float64)
