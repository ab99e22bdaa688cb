"""Reads measured runs for a ranking: which configurations they are of, and their medians as points of curves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from gpuscout.store.ranking.candidates.placing import Indices
from gpuscout.store.ranking.measures import Array
from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.question.limits import Limit
from gpuscout.store.ranking.question.lookup import means_measured
from gpuscout.store.ranking.question.scope import Condition, Scope
from gpuscout.store.remembered import remembered
from gpuscout.store.schema import cases, failures, gpus, measured_runs, membership, models, percentiles, tasks
from gpuscout.sweeps.curves import METRICS
from gpuscout.sweeps.errors import InputError, NothingMatchesError
from gpuscout.sweeps.settings import SETTINGS
from gpuscout.sweeps.workloads import LOADS

CLOSED_LOOP, _, _OFFLINE = range(len(LOADS))
LENGTHS = ("input_len", "output_len")
# What tells configurations apart besides the names; the KV precision does only where it is known.
_SETTINGS = tuple(name for name in SETTINGS if name not in ("kv_precision", "max_model_len"))
# Runs that are named in a statement; of more, the percentiles of all are read.
_FEW = 1_000
Key = tuple[Any, ...]


class RunFacts(NamedTuple):
    """Facts about a run beside its figures. `implausible`: what it does that its hardware cannot."""

    source: str
    server_version: str | None
    day: date | None
    requests_completed: int | None
    requests_failed: int | None
    implausible: str | None


@dataclass(frozen=True)
class Points:
    """Medians, ordered by configuration, load and concurrency (infinite: not known). NaN: no run has the figure.

    `configuration` indexes the configurations, `load` `LOADS`. The runs of point p are `runs[starts[p]:starts[p + 1]]`.
    `above` and `below` are the neighbours between which and a point it may be interpolated, -1: none. `anchor` is the
    point itself, or the measured one that an estimate was scaled to where a curve is continued (`extension.py`).
    """

    configuration: Indices
    load: Indices
    rate: Array
    figures: dict[str, Array]
    starts: Indices
    runs: Sequence[RunFacts]
    above: Indices
    below: Indices
    anchor: Indices

    def __len__(self) -> int:
        return len(self.load)

    def figures_at(self, points: Indices) -> dict[str, Array]:
        """Return their figures; NaN for -1."""
        there = points >= 0
        return {name: np.where(there, column[points], np.nan) for name, column in self.figures.items()}


def counts(connection: sa.Connection, question: Question) -> bool:
    """Return whether there are measured runs, and they are asked for. Raises UnknownNameError."""
    return means_measured(question.kinds, question.engines) and _are_there(connection)


def check_there_are_any(connection: sa.Connection) -> None:
    """Raise InputError if the store has no measured runs."""
    if not _are_there(connection):
        raise InputError(
            "the store has no measured runs", hint="gpuscout import FILE adds yours, import public others'"
        )


def _are_there(connection: sa.Connection) -> bool:
    first = sa.select(measured_runs.c.id).limit(1)
    return remembered(connection, _are_there, lambda: connection.execute(first).first() is not None)


def configurations_of(
    connection: sa.Connection, scope: Scope, question: Question
) -> tuple[dict[int, int], list[dict[str, Any]]]:
    """Return the configurations of all cases in the scope that were
    measured, and of each case the number of its own.
    """
    names = (*LENGTHS, "num_gpus", *SETTINGS)
    query = (
        sa.select(
            cases.c.id, models.c.name.label("model"), gpus.c.name.label("gpu"), *(cases.c[name] for name in names)
        )
        .join(models, models.c.id == cases.c.model_id)
        .join(gpus, gpus.c.id == cases.c.gpu_id)
        .where(*_on_cases(scope, question), cases.c.id.in_(sa.select(measured_runs.c.case_id)))
        .order_by(cases.c.id)
    )
    number_of: dict[int, int] = {}
    numbers: dict[Key, int] = {}
    found: list[dict[str, Any]] = []
    for row in connection.execute(query).mappings():
        key = (*_key(row), row["kv_precision"])
        number = numbers.setdefault(key, len(found))
        if number == len(found):
            found.append({**row, "max_model_len": row["input_len"] + row["output_len"]})
        number_of[row["id"]] = number
    return number_of, found


def _on_cases(scope: Scope, question: Question) -> list[Condition]:
    if question.min_context is None:
        return [*scope.on_cases]
    # That a deployment takes more than it was asked for is not known.
    return [*scope.on_cases, cases.c.input_len + cases.c.output_len >= question.min_context]


def _key(row: Mapping[Any, Any]) -> Key:
    """Return the key that distinguishes configurations, without the KV precision."""
    return tuple(row[name] for name in ("model", "gpu", *LENGTHS, *_SETTINGS))


def estimated_cases(
    connection: sa.Connection, scope: Scope, configurations: Sequence[Mapping[str, Any]]
) -> list[set[int]]:
    """Return the cases of estimates that each configuration matches; with a sweep, those of its tasks."""
    found: list[set[int]] = [set() for _ in configurations]
    numbers: dict[Key, list[int]] = {}
    for number, one in enumerate(configurations):
        numbers.setdefault(_key(one), []).append(number)
    if not numbers:
        return found
    columns = (*LENGTHS, "kv_precision", *_SETTINGS)
    source = cases.join(models, models.c.id == cases.c.model_id).join(gpus, gpus.c.id == cases.c.gpu_id)
    # A few values of each column leave few cases to compare.
    conditions: list[Condition] = [
        cases.c.model_id.in_([i for name in {one["model"] for one in configurations} for i in scope.models.ids[name]]),
        cases.c.gpu_id.in_([i for name in {one["gpu"] for one in configurations} for i in scope.gpus.ids[name]]),
    ]
    conditions += [cases.c[n].in_(sorted({one[n] for one in configurations})) for n in (*LENGTHS, *_SETTINGS)]
    if scope.sweep is not None:
        member = sa.exists().where(
            tasks.c.case_id == cases.c.id,
            membership.c.task_id == tasks.c.id,
            membership.c.sweep_id == scope.sweep.id,
        )
        # A task that failed on the way is no member, but it has measured some points.
        begun = sa.exists().where(
            failures.c.case_id == cases.c.id,
            failures.c.sweep_id == scope.sweep.id,
            measured_runs.c.task_key == failures.c.task_key,
        )
        conditions.append(sa.or_(member, begun))
    else:
        conditions.append(sa.exists().where(tasks.c.case_id == cases.c.id))
    query = sa.select(
        cases.c.id, models.c.name.label("model"), gpus.c.name.label("gpu"), *(cases.c[name] for name in columns)
    )
    for row in connection.execute(query.select_from(source).where(*conditions)).mappings():
        for number in numbers.get(_key(row), ()):
            kv = configurations[number]["kv_precision"]
            if None in (kv, row["kv_precision"]) or kv == row["kv_precision"]:
                found[number].add(row["id"])
    return found


def on_runs(question: Question) -> list[Condition]:
    """Return the conditions of a question on measured runs besides their cases."""
    runs = measured_runs.c
    found: list[Condition] = []
    if not question.implausible:
        found.append(runs.implausible.is_(None))
    if not question.set_aside:
        found.append(runs.set_aside.is_(None))
    if question.server_versions:
        version = runs.server_version
        of_these = (version.startswith(f"{name}.", autoescape=True) for name in question.server_versions)
        found.append(sa.or_(version.in_(question.server_versions), *of_these))
    if question.since is not None:
        found.append(runs.measured_on >= question.since)
    if question.until is not None:
        found.append(runs.measured_on <= question.until)
    return found


def runs_statement(scope: Scope, question: Question) -> sa.Select[Any]:
    """Return all measured runs that a question is about."""
    runs = measured_runs.c
    query = sa.select(
        runs.id, runs.case_id, runs.load, runs.concurrency, runs.request_rate, *(runs[name] for name in METRICS),
        runs.source, runs.server_version, runs.measured_on, runs.requests_completed, runs.requests_failed,
        runs.implausible,
    )  # fmt: skip
    query = query.where(*on_runs(question))
    if conditions := _on_cases(scope, question):
        query = query.where(runs.case_id.in_(sa.select(cases.c.id).where(*conditions)))
    return query.order_by(runs.id)


def left_out_as_implausible(connection: sa.Connection, scope: Scope, question: Question) -> int:
    """Return the number of measured runs in question that beat their hardware, and count only if it asks for them."""
    if question.implausible or not counts(connection, question):
        return 0
    asked = runs_statement(scope, dataclasses.replace(question, implausible=True)).order_by(None).subquery()
    return connection.execute(
        sa.select(sa.func.count()).select_from(asked).where(asked.c.implausible.is_not(None))
    ).scalar_one()


def left_out_as_set_aside(connection: sa.Connection, scope: Scope, question: Question) -> int:
    """Return the number of measured runs in question that do not stand for their configuration, and so do not count."""
    if question.set_aside or not counts(connection, question):
        return 0
    asked = runs_statement(scope, dataclasses.replace(question, set_aside=True)).order_by(None)
    plain = asked.where(measured_runs.c.set_aside.is_not(None)).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(plain)).scalar_one()


def with_left_out(
    error: NothingMatchesError, connection: sa.Connection, scope: Scope, question: Question
) -> NothingMatchesError:
    """Return the error of a question without an answer, that says which measured runs would be one if they counted."""
    hints = [
        f"measured runs that match but do not count: {runs:,} {why} ({flag} counts them)"
        for runs, why, flag in (
            (left_out_as_set_aside(connection, scope, question), "that are set aside", "--set-aside"),
            (left_out_as_implausible(connection, scope, question), "better than the hardware can be", "--implausible"),
        )
        if runs
    ]
    return NothingMatchesError(error.message, hint="\n    ".join([*hints, error.hint or ""])) if hints else error


def points_of(
    connection: sa.Connection, statement: sa.Select[Any], known: Mapping[int, int], limits: Sequence[Limit]
) -> Points | None:
    """Return the runs of these cases as points; None: there are none."""
    rows = [row for row in connection.execute(statement) if row.case_id in known]
    if not rows:
        return None
    ids, case_ids, loads, *numbers, sources, versions, days, completed, failed, doubts = zip(*rows, strict=True)
    configuration = np.array([known[case_id] for case_id in case_ids], dtype=np.int64)
    load = np.array([LOADS.index(word) for word in loads], dtype=np.int64)
    concurrency, rate, *metrics = np.array(numbers, dtype=np.float64)
    figures = dict(zip(METRICS, metrics, strict=True))
    tails = [limit for limit in limits if limit.slo.percentile is not None]
    figures |= {limit.column: _percentiles(connection, limit, ids) for limit in tails}
    offline = load == _OFFLINE
    for name in ("ttft_ms", "itl_ms", "e2e_s", *(limit.column for limit in tails)):
        figures[name][offline] = np.nan
    concurrency[offline] = np.nan
    rate[offline | (load == CLOSED_LOOP) | ~np.isnan(concurrency)] = np.nan
    concurrency = np.nan_to_num(concurrency, nan=np.inf)

    keys = [np.nan_to_num(rate, nan=0.0), concurrency, load, configuration]
    order = np.lexsort(keys)
    new = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
    starts = np.concatenate([[0], 1 + np.flatnonzero(new), [len(order)]]).astype(np.int64)
    first = order[starts[:-1]]
    point = np.repeat(np.arange(len(first)), np.diff(starts))
    medians = {name: _medians(column[order], point, starts) for name, column in figures.items()}
    medians |= {"concurrency": concurrency[first], "queued": np.zeros(len(first))}
    notes = [
        RunFacts(sources[run], versions[run], days[run], completed[run], failed[run], doubts[run])
        for run in order.tolist()
    ]
    origins: dict[frozenset[tuple[str, str | None]], int] = {}
    bounds = starts.tolist()
    origin = np.array(
        [
            origins.setdefault(frozenset((run.source, run.server_version) for run in notes[start:stop]), len(origins))
            for start, stop in itertools.pairwise(bounds)
        ]
    )
    follows = (load[first] == CLOSED_LOOP)[1:]
    for key in (configuration[first], load[first], origin):
        follows &= key[1:] == key[:-1]
    here = np.arange(len(first))
    above = np.where(np.append(follows, False), here + 1, -1)
    below = np.where(np.insert(follows, 0, False), here - 1, -1)
    return Points(configuration[first], load[first], rate[first], medians, starts, notes, above, below, here)


def _percentiles(connection: sa.Connection, limit: Limit, run_ids: Sequence[int]) -> Array:
    """Return the percentile that a limit is on, of each run; NaN where it is not stored."""
    query = sa.select(percentiles.c.run_id, percentiles.c.value).where(
        percentiles.c.metric == limit.slo.column, percentiles.c.percentile == limit.slo.percentile
    )
    if len(run_ids) < _FEW:
        query = query.where(percentiles.c.run_id.in_(run_ids))
    stored = {row.run_id: row.value for row in connection.execute(query)}
    return np.array([stored.get(run_id, np.nan) for run_id in run_ids], dtype=np.float64)


def _medians(values: Array, point: Indices, starts: Indices) -> Array:
    """Return the median of each point's runs, which stand one after another; of those that know the value."""
    values = values[np.lexsort((values, point))]  # NaN goes last
    known = np.add.reduceat(~np.isnan(values), starts[:-1], dtype=np.int64)
    low, high = starts[:-1] + np.maximum(known - 1, 0) // 2, starts[:-1] + np.minimum(known // 2, np.diff(starts) - 1)
    return np.where(known > 0, (values[low] + values[high]) / 2, np.nan)
