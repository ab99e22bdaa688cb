"""Operating points as rows: estimates and measured runs under the same columns, filtered, sorted and limited by SQL.

`query` streams dictionaries; `COLUMNS` says what they may hold. What is unknown is None: a measured run without a
concurrency, an estimate's server version. Of several versions of an answer the newest stands, as in a ranking, unless
all are asked for; with a sweep only its own tasks and concurrencies count, and measured runs of what it estimates.
Without an order of the user's rows come estimates first, then by task and concurrency, then measured runs as they were
imported; this order also breaks ties. Unknown values are last, whichever way is sorted.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import Any

import sqlalchemy as sa

from gpuscout.store.prices.prices import Prices
from gpuscout.store.queries.operating_points.point_columns import (
    COLUMNS,
    PERCENTILE,
    RANGES,
    DeploymentCosts,
    Field,
    deployment_costs,
    estimated_fields,
    measured_fields,
    needs_of,
)
from gpuscout.store.ranking.candidates.runs import on_runs, with_left_out
from gpuscout.store.ranking.question.asked import Kind, Question
from gpuscout.store.ranking.question.limits import limits_on_runs
from gpuscout.store.ranking.question.lookup import means_estimated, means_measured
from gpuscout.store.ranking.question.scope import Condition, Scope, nothing_matches, scope_of
from gpuscout.store.results.catalogues import caveats_of
from gpuscout.store.schema import cases, engines, gpus, measured_runs, membership, models, operating_points, tasks
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.settings import SETTINGS

__all__ = ["COLUMNS", "PointReader", "check_column", "query"]

Row = dict[str, Any]
# More rows than this are read through a cursor of the server, so many at a time.
_CHUNK = 5_000
_EXAMPLE = "itl_ms sorts ascending, -output_tokens_per_s descending"


def query(
    connection: sa.Connection,
    question: Question,
    *,
    columns: Sequence[str] | None = None,
    sort: Sequence[str] = (),
    limit: int | None = None,
    all_versions: bool = False,
) -> Iterator[Row]:
    """Stream the operating points that a question leaves in: its filters, kinds, SLOs and prices count.

    Rows hold `columns` in their order, all of `COLUMNS` by default; "p95_ttft_ms" is a percentile of measured runs,
    "itl_ms_low" and "itl_ms_high" are the ends of the 80 % interval of an estimate (`RANGES`).
    `sort` names columns, the first decides, "-itl_ms" descending. At most `limit` rows. Memory stays bounded: read the
    rows before the connection's transaction ends.

    Raises UnknownNameError for names that the store does not know and columns that do not exist, InputError for filters
    that leave nothing in an empty store or sweep.
    """
    reader = PointReader(connection, question, all_versions=all_versions)
    return reader.rows(columns if columns is not None else list(COLUMNS), sort=sort, limit=limit)


def check_column(name: str) -> str:
    """Return the column's name. Raises UnknownNameError."""
    if name in COLUMNS or name in RANGES or PERCENTILE.fullmatch(name):
        return name
    close = nearest(name, COLUMNS) or [known for known in COLUMNS if name.casefold() in known][:3]
    raise UnknownNameError(
        "column", name, close, hint="gpuscout query --list-columns lists all; p95_ttft_ms is a percentile"
    )


class PointReader:
    """The points of one question; names are looked up once."""

    def __init__(self, connection: sa.Connection, question: Question, *, all_versions: bool = False) -> None:
        self.connection, self.question = connection, question
        self.scope: Scope = scope_of(connection, question)
        self._all_versions = all_versions

    @cached_property
    def worth(self) -> DeploymentCosts:
        """Prices and TDPs of the GPUs asked about. Raises UnknownNameError for an unknown book or provider."""
        return deployment_costs(self.connection, self.scope, self.question.prices)

    @property
    def prices(self) -> Prices:
        return self.worth.prices

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of points that count. Raises UnknownNameError."""
        asked = self.question
        estimated = means_estimated(asked.kinds) and (not asked.engines or bool(self.scope.engines.ids))
        measured = means_measured(asked.kinds, asked.engines)
        return [kind for kind, counts in ((Kind.ESTIMATED, estimated), (Kind.MEASURED, measured)) if counts]

    @property
    def caveats(self) -> dict[str, tuple[str, ...]]:
        """Guesses and assumptions about the models asked about, by their names."""
        return caveats_of(self.connection, self.scope.models.ids)

    def has_any(self) -> bool:
        """Return whether there are points, within the SLOs or not."""
        free = PointReader(self.connection, replace(self.question, slos=()), all_versions=self._all_versions)
        return next(free.rows(["kind"], limit=1), None) is not None

    def check_any(self) -> None:
        """Raise InputError where there are no points, and not because of the SLOs; it says what the store has."""
        if not self.question.slos or not self.has_any():
            error = nothing_matches(self.connection, self.scope)
            raise with_left_out(error, self.connection, self.scope, self.question)

    def rows(
        self,
        columns: Sequence[str],
        *,
        sort: Sequence[str] = (),
        limit: int | None = None,
        of: Mapping[Kind, Sequence[int]] | None = None,
    ) -> Iterator[Row]:
        """Stream points, see `query`. `of`: only those of these tasks and runs."""
        order = [_Order.of(text) for text in sort]
        names = [check_column(name) for name in columns]
        if limit is not None and limit < 0:
            raise InputError(f"limit must be 0 or more, got {limit}")
        fetched = list(dict.fromkeys([*names, *(by.name for by in order)]))
        streams = [
            (dict(zip(fetched, values, strict=True)) for chunk in chunks for values in chunk)
            for _, chunks in self.chunks(fetched, order=order, limit=limit, of=of)
        ]
        found: Iterator[Row] = chain.from_iterable(streams)
        if order and len(streams) > 1:
            found = heapq.merge(*streams, key=lambda row: tuple(by.key(row[by.name]) for by in order))
        if len(fetched) > len(names):
            found = ({name: row[name] for name in names} for row in found)
        return islice(found, limit)

    def chunks(
        self,
        columns: Sequence[str],
        *,
        order: Sequence[_Order] = (),
        limit: int | None = None,
        of: Mapping[Kind, Sequence[int]] | None = None,
    ) -> Iterator[tuple[Kind, Iterator[Sequence[Sequence[Any]]]]]:
        """Yield the same as bare values, many rows at a time, each kind by itself."""
        large = limit is None or limit > _CHUNK
        for kind in self.kinds:
            if of is None or of.get(kind):
                statement = _within(self._statement(kind, columns, order, limit), kind, of)
                result = self.connection.execute(statement, execution_options={"yield_per": _CHUNK} if large else {})
                yield kind, result.partitions(_CHUNK)

    def _statement(
        self, kind: Kind, names: Sequence[str], order: Sequence[_Order], limit: int | None
    ) -> sa.Select[Any]:
        priced = self.worth if any(map(needs_of, names)) else None
        slos, tail = self.question.slos, self.question.assume_tail
        if kind is Kind.ESTIMATED:
            fields = estimated_fields(self.scope.workloads, priced)
            source, conditions = self._estimates()
            ties = [operating_points.c.task_id, operating_points.c.concurrency]
        else:
            fields = measured_fields(self.scope.workloads, priced)
            source, conditions = self._measured()
            tail = None
            ties = [measured_runs.c.id]
        for limit_on in limits_on_runs(slos):
            figure = fields(limit_on.slo.figure)
            if tail is not None and limit_on.slo.percentile is not None:  # only where nothing was simulated
                figure = sa.func.coalesce(figure, fields(limit_on.slo.column) * tail)
            conditions.append(limit_on.allows(figure))
        selected = [self._sortable(fields, name, order).label(name) for name in names]
        by = [*(key.clause() for key in order), *ties]
        return sa.select(*selected).select_from(source).where(*conditions).order_by(*by).limit(limit)

    def _sortable(self, fields: Field, name: str, order: Sequence[_Order]) -> sa.ColumnElement[Any]:
        """Return a column; text that is sorted by is compared by code points, as SQLite and Python do."""
        column = fields(name)
        by_text = any(by.name == name for by in order) and COLUMNS.get(name, (float,))[0] is str
        if by_text and self.connection.dialect.name == "postgresql":
            return sa.cast(column, sa.Text).collate("C")
        return column

    def _estimates(self) -> tuple[sa.FromClause, list[Condition]]:
        source = self.scope.named.join(engines, engines.c.id == tasks.c.engine_id)
        conditions = [*self.scope.conditions, *self.scope.on_ladder(operating_points)]
        if not self._all_versions:
            conditions += self.scope.standing()
        return source.join(operating_points, operating_points.c.task_id == tasks.c.id), conditions

    def _measured(self) -> tuple[sa.FromClause, list[Condition]]:
        source = (
            measured_runs.join(cases, cases.c.id == measured_runs.c.case_id)
            .join(models, models.c.id == cases.c.model_id)
            .join(gpus, gpus.c.id == cases.c.gpu_id)
        )
        question = self.question
        conditions = [*self.scope.on_cases, *on_runs(question)]
        if question.min_context is not None:
            conditions.append(cases.c.input_len + cases.c.output_len >= question.min_context)
        if self.scope.sweep is not None:
            conditions.append(_estimated_by(self.scope.sweep.id))
        return source, conditions


def _estimated_by(sweep_id: int) -> Condition:
    """Return whether a sweep estimates the configuration of a measured case; an unknown KV precision is any."""
    of, model, gpu = cases.alias("of"), models.alias("of_model"), gpus.alias("of_gpu")
    settings = [name for name in SETTINGS if name not in ("kv_precision", "max_model_len")]
    kv = sa.or_(of.c.kv_precision == cases.c.kv_precision, of.c.kv_precision.is_(None), cases.c.kv_precision.is_(None))
    return (
        sa.exists(sa.literal(1))
        .select_from(
            of.join(model, model.c.id == of.c.model_id)
            .join(gpu, gpu.c.id == of.c.gpu_id)
            .join(tasks, tasks.c.case_id == of.c.id)
            .join(membership, membership.c.task_id == tasks.c.id)
        )
        .where(
            membership.c.sweep_id == sweep_id,
            model.c.name == models.c.name,
            gpu.c.name == gpus.c.name,
            kv,
            *(of.c[name] == cases.c[name] for name in ("input_len", "output_len", *settings)),
        )
        .correlate(cases, models, gpus)
    )


def _within(statement: sa.Select[Any], kind: Kind, of: Mapping[Kind, Sequence[int]] | None) -> sa.Select[Any]:
    if of is None:
        return statement
    return statement.where((tasks if kind is Kind.ESTIMATED else measured_runs).c.id.in_(of[kind]))


@dataclass(frozen=True)
class _Order:
    """One column to sort by."""

    name: str
    descending: bool

    @classmethod
    def of(cls, text: str) -> _Order:
        form = re.fullmatch(r"\s*(-?)\s*([^\s-].*?)\s*", text)
        if form is None:
            raise InputError(f'cannot sort by "{text}"', hint=_EXAMPLE)
        return cls(check_column(form[2]), bool(form[1]))

    def clause(self) -> sa.ColumnElement[Any]:
        column: sa.ColumnElement[Any] = sa.column(self.name)
        return (column.desc() if self.descending else column.asc()).nulls_last()

    def key(self, value: Any) -> tuple[bool, Any]:
        """Return the sort key in Python that matches the clause."""
        return (value is None, None if value is None else _Falling(value) if self.descending else value)


@dataclass(frozen=True)
class _Falling:
    """A value that sorts the other way round."""

    value: Any

    def __lt__(self, other: _Falling) -> bool:
        return bool(other.value < self.value)
