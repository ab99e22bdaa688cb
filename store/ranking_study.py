"""Everything known about one question before anybody is placed: rows that stand, points, values; and their words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store import ranking_points as statements
from gpuscout.store.prices import Prices
from gpuscout.store.prices_books import prices_for
from gpuscout.store.ranking_limits import Flags, Limit, hold, limits_of, need_percentiles
from gpuscout.store.ranking_measures import MEASURES, Aim, Array, measure_of, value_of
from gpuscout.store.ranking_places import (
    Cast,
    Found,
    Worth,
    first_engines,
    newest,
    operating_points_of,
    versions,
    worth,
)
from gpuscout.store.ranking_points import METRICS, OUTCOME_CODES, Choice, Rows
from gpuscout.store.ranking_scope import Scope
from gpuscout.store.ranking_types import Operating, Question
from gpuscout.store.schema import gpus
from gpuscout.sweeps.outcomes import Outcome

Description = Mapping[str, Any]
# Pairs looked up by one statement.
_BATCH = 5_000


@dataclass(frozen=True)
class Study:
    """One row a task that stands, of all engines. `own`: of the engine that its group shows.

    `configuration` is the same for rows of different engines that answer the same. `values` are those of the aim, NaN
    where a price or TDP is not known (or the point). `no_percentiles`: limits ask for percentiles, nothing qualifies.
    """

    question: Question
    aim: Aim
    limits: Sequence[Limit]
    no_percentiles: bool
    prices: Prices
    rows: Rows
    cast: Cast
    configuration: Array
    own: Flags
    engines: Mapping[int, list[str]]
    found: Found
    worth: Worth
    values: Array

    @property
    def ok(self) -> Flags:
        return np.asarray(self.rows.about["outcome"] == OUTCOME_CODES[Outcome.OK])

    @property
    def num_gpus(self) -> Array:
        return self.rows.about["num_gpus"]

    @property
    def rankable(self) -> Flags:
        return self.found.qualifies & ~np.isnan(self.values)

    def task(self, row: int) -> int:
        return int(self.rows.about["task_id"][row])


def choice_of(question: Question) -> Choice:
    """What picks the points of a question. Raises UnknownNameError, InputError."""
    aim = question.aim
    for name in question.also:
        measure_of(name)
    limits = limits_of(question.slos, question.assume_tail)
    columns = dict.fromkeys(("ttft_ms", "itl_ms", *aim.columns, *(limit.column for limit in limits)))
    return Choice(aim, limits, tuple(columns))


def study(connection: sa.Connection, scope: Scope, question: Question) -> Study | None:
    """Read and judge all tasks of the scope; None: there are none."""
    choice = choice_of(question)
    sides = choice.sides(interpolate=question.interpolate)
    rows = statements.fetch(connection, statements.answers(scope, choice, sides=sides), choice.columns)
    if not len(rows):
        return None
    cast = Cast.of(rows, scope.models, scope.gpus, scope.engines)
    engines = _engines_of_groups(cast)
    configuration = rows.about["case_id"]
    if scope.models.have_versions or scope.gpus.have_versions:
        configuration = _same_configurations(connection, scope, configuration)
    if any(names.have_versions for names in (scope.models, scope.gpus, scope.engines)):
        ages = versions(rows, scope.models, scope.gpus, scope.engines)
        stand = newest(rows, cast, configuration, ages)
        rows, cast, configuration = rows.take(stand), cast.take(stand), configuration[stand]

    found = operating_points_of(rows, choice.aim, choice.limits, _straddling(connection, scope, choice, rows, sides))
    no_percentiles = need_percentiles(question.slos, question.assume_tail)
    if no_percentiles:
        found.qualifies[:] = False
    prices = prices_for(connection, cast.gpus, question.prices)
    tdp_w = _tdp_w(connection) if any(name == "energy" for name in (*question.also, *dict(choice.aim.weights))) else {}
    value = worth(cast, rows.about["num_gpus"], prices.known, tdp_w)
    values = choice.aim.values(found.figures, rows.about["num_gpus"], value.usd, value.tdp_w)
    own = cast.engine == first_engines(cast)[cast.group]
    return Study(
        question,
        choice.aim,
        choice.limits,
        no_percentiles,
        prices,
        rows,
        cast,
        configuration,
        np.asarray(own),
        engines,
        found,
        value,
        values,
    )


def _straddling(
    connection: sa.Connection, scope: Scope, choice: Choice, rows: Rows, sides: Sequence[str]
) -> Rows | None:
    """Points on either side of where both kinds of limits hold, if there may be a task that meets them only there."""
    if len(sides) < 2:
        return None
    point = rows.points["point"]
    if (hold(choice.limits, point) & choice.aim.known(point) | np.isnan(point["concurrency"])).all():
        return None
    return statements.fetch(connection, statements.straddling(scope, choice), choice.columns)


def _engines_of_groups(cast: Cast) -> dict[int, list[str]]:
    """The engines that have answers for each group, the preferred first, whether these stand or not."""
    pairs = np.unique(cast.group * len(cast.engines) + cast.engine)
    found: dict[int, list[str]] = {}
    for group, engine in zip(*np.divmod(pairs, len(cast.engines)), strict=True):
        found.setdefault(int(group), []).append(cast.engines[engine])
    return found


def _same_configurations(connection: sa.Connection, scope: Scope, case: Array) -> Array:
    """For each case the one that stands for its configuration in all versions of models and GPUs."""
    first = {row[0]: row[1] for row in connection.execute(statements.same_configurations(scope))}
    return np.array([first[int(case_id)] for case_id in case], dtype=np.float64)


def _tdp_w(connection: sa.Connection) -> dict[str, float]:
    """W per GPU, by the newest figures of every name; without those that are not known."""
    rows = connection.execute(sa.select(gpus.c.name, gpus.c.figures).order_by(gpus.c.created_at))
    figures = {row.name: json.loads(row.figures).get("tdp_w") for row in rows}
    return {name: float(tdp) for name, tdp in figures.items() if tdp is not None}


# --- in words ----------------------------------------------------------------------------------------------------


class Described:
    """Rows of a study with their configuration and all figures, looked up together."""

    def __init__(self, connection: sa.Connection, found: Study, rows: Iterable[int]) -> None:
        self._study = found
        wanted = np.array(sorted(set(rows)), dtype=np.int64)
        columns = (found.rows.about["task_id"], *map(np.nan_to_num, (found.found.low, found.found.high)))
        tasks, lows, highs = (column[wanted].astype(np.int64).tolist() for column in columns)
        # The stored concurrencies that the row's point lies between, or twice its own; 0: it has none.
        self._stored = dict(zip(wanted.tolist(), zip(tasks, lows, highs, strict=True), strict=True))
        self._known = describe(connection, {*zip(tasks, lows, strict=True), *zip(tasks, highs, strict=True)})

    def __getitem__(self, row: int) -> Description:
        task, low, high = self._stored[row]
        below = self._known[task, low]
        if low == high:
            return below
        above = self._known[task, high]
        concurrency = int(self._study.found.figures["concurrency"][row])
        share = (concurrency - low) / (high - low)
        figures = {
            name: None
            if below[name] is None or above[name] is None
            else below[name] + (above[name] - below[name]) * share
            for name in METRICS
        }
        return {**below, **figures, "concurrency": concurrency, "queued": above["queued"]}

    def operating(self, row: int) -> Operating:
        return Operating.of(self[row])

    def values(self, row: int, description: Description, names: Iterable[str]) -> dict[str, float | None]:
        """The figures of objectives; None where something they need is not known."""
        worth = self._study.worth
        known = {name: np.nan if description[name] is None else description[name] for name in METRICS}
        found: dict[str, float | None] = {}
        for name in names:
            if MEASURES[name].needs is not None and not known["output_tokens_per_s"] > 0:
                found[name] = None
                continue
            value = value_of(name, known, description["num_gpus"], worth.usd[row], worth.tdp_w[row])
            found[name] = None if np.isnan(value) else float(value)
        return found


def describe(connection: sa.Connection, pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Description]:
    """Tasks at stored concurrencies (0: none) in words."""
    wanted = sorted(pairs)
    found: dict[tuple[int, int], Description] = {}
    for start in range(0, len(wanted), _BATCH):
        result = connection.execute(statements.described(wanted[start : start + _BATCH]))
        names = tuple(result.keys())
        for row in result.all():
            found[row[0], row[1]] = dict(zip(names, row, strict=True))
    return found
