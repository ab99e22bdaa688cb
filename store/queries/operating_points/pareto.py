"""The Pareto frontier: operating points that no other dominates in the metrics asked about.

*Domination.* A point dominates another if it is at least as good in all metrics and better in one. Figures that are
equal to six decimals are equal, as in a ranking; points with equal figures do not dominate each other, so all of them
are kept. A point without one of the figures (no price, say) neither dominates nor is on the frontier.
*Groups.* A point competes with those of the same model and lengths or, `across`, with all.
*Queueing.* A point with more requests in flight than the KV cache holds buys a few per cent of throughput with seconds
of waiting, which a metric without TTFT does not show: such points are left out unless they are asked for.
*Order.* The frontier is told from the best to the worst of the first metric, equal ones as `points` orders them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from gpuscout.store.portions import portions
from gpuscout.store.prices.prices import Prices
from gpuscout.store.queries.operating_points.point_columns import ends_of, estimated_metric
from gpuscout.store.queries.operating_points.points import PointReader
from gpuscout.store.ranking.candidates.statements import about_tasks
from gpuscout.store.ranking.candidates.trust import Errors, metric_with_errors
from gpuscout.store.ranking.measures import DECIMALS, MEASURES, Array
from gpuscout.store.ranking.question.asked import Kind, Question
from gpuscout.store.schema import cases, tasks
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.slo import is_percentile

Row = dict[str, Any]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """One axis: a column of points, which way is better, and how people call it."""

    name: str
    column: str
    label: str
    unit: str
    more_is_better: bool = False


_COLUMNS = {
    "cost": "usd_per_mtok",
    "cost-per-hour": "usd_per_hour",
    "energy": "kwh_per_mtok",
    "throughput-per-gpu": "output_tokens_per_s_per_gpu",
}
_LABELS = {"cost": "cost", "energy": "energy (upper bound from TDP)", "e2e": "E2E latency"}

METRICS: dict[str, Metric] = {
    name: Metric(
        name, _COLUMNS.get(name, measure.column), _LABELS.get(name, measure.label), measure.unit, measure.more_is_better
    )
    for name, measure in MEASURES.items()
} | {
    "interactivity": Metric(
        "interactivity", "output_tokens_per_s_per_user", "interactivity", "tokens/s per user", more_is_better=True
    ),
    "rate": Metric("rate", "requests_per_s", "request rate", "requests/s", more_is_better=True),
    "num-gpus": Metric("num-gpus", "num_gpus", "GPUs", "GPUs of a deployment"),
}
"""What a frontier can be of: the objectives of a ranking, and more."""


_TAIL = re.compile(r"(?P<of>ttft|itl|e2e):p(?P<percentile>\d{1,2}(?:\.\d{1,3})?)")


def metric_of(name: str) -> Metric:
    """Return one of `METRICS`, or a percentile such as "ttft:p95". Raises UnknownNameError."""
    plain = name.strip().casefold()
    if form := _TAIL.fullmatch(plain):
        mean, tail = METRICS[form["of"]], f"p{float(form['percentile']):g}"
        return replace(mean, name=plain, column=f"{tail}_{mean.column}", label=f"{mean.label} {tail}")
    found = METRICS.get(plain.replace("_", "-"))
    if found is None:
        hint = f"allowed: {', '.join(METRICS)}, and percentiles such as ttft:p95"
        raise UnknownNameError("metric", name, nearest(name, METRICS), hint=hint)
    return found


@dataclass(frozen=True)
class Front:
    """The frontier of one group; `model`, `workload` and lengths (tokens) are None where groups are put together.

    `points` are rows of operating points, with "dominated" and "backed" (measured, or measured runs are near in every
    metric): those on the frontier, best of the first metric first, then any others that were asked for. Their "kind"
    says which percentiles were simulated, as that of a ranking. `considered` counts both; `queued` and `incomplete`
    points were left out, the latter because a figure of theirs is not known. `traffic` is how requests vary and
    arrive, as JSON; None: fixed lengths in a closed loop.
    """

    model: str | None
    workload: str | None
    input_len: int | None
    output_len: int | None
    points: tuple[Row, ...]
    considered: int
    queued: int
    incomplete: int
    traffic: str | None = None


@dataclass(frozen=True)
class Pareto:
    """Frontiers, by input length, output length and model; `prices` where a metric needs them.

    `tails` are the percentiles that limits are on.
    """

    metrics: tuple[Metric, ...]
    fronts: tuple[Front, ...]
    prices: Prices | None
    tails: tuple[str, ...] = ()

    @property
    def range_columns(self) -> list[str]:
        """The columns with the ends of the 80 % intervals of metrics and tails; what costs no estimate has none."""
        return ends_of(dict.fromkeys([*(axis.column for axis in self.metrics), *self.tails]))


def pareto(
    connection: sa.Connection,
    question: Question,
    metrics: Sequence[str],
    *,
    columns: Sequence[str],
    across: bool = False,
    dominated: bool = False,
    queued: bool = False,
    all_versions: bool = False,
) -> Pareto:
    """Return the frontier of each model and workload, after the question's filters and SLOs. Computes no estimate.

    `metrics` are two or three of `METRICS`. Rows hold `columns` of points and those of the metrics. With `dominated`
    also the points that are not on the frontier, with `queued` those that wait for memory.

    No fronts: no point is within the SLOs. Raises UnknownNameError, InputError for other numbers of metrics and when
    no point matches the filters.
    """
    axes = tuple(dict.fromkeys(map(metric_of, metrics)))
    if len(axes) not in (2, 3):
        raise InputError(
            f"a frontier is of two or three different metrics, not {len(axes)}", hint=f"of {', '.join(METRICS)}"
        )
    reader = PointReader(connection, question, all_versions=all_versions)
    found = _Points.of(reader, axes, across=across)
    tails = tuple(dict.fromkeys(slo.figure for slo in question.slos if slo.percentile is not None))
    priced = any(axis.column.startswith("usd_") for axis in axes)
    if not len(found):
        reader.check_any()
        return Pareto(axes, (), reader.prices if priced else None, tails)
    usable = np.asarray(~np.isnan(found.figures).any(axis=0))
    waits = np.asarray(found.waits & (not queued))
    signs = np.array([[-1.0 if axis.more_is_better else 1.0] for axis in axes])
    best = np.zeros(len(found), dtype=bool)
    shown: list[list[int]] = []
    for members in found.members():
        compete = members[(usable & ~waits)[members]]
        best[compete] = frontier(found.figures[:, compete] * signs)
        kept = compete if dominated else compete[best[compete]]
        order = np.lexsort((kept, found.figures[0, kept] * signs[0, 0], ~best[kept]))
        shown.append(kept[order].tolist())
    figures = list(dict.fromkeys([*(axis.column for axis in axes), *tails]))
    names = list(dict.fromkeys([*columns, "kind", *figures, *ends_of(figures)]))
    rows = _described(reader, names, [found.key(point) for points in shown for point in points])
    backed = _backed(connection, reader, rows, figures)
    for key, row in rows.items():
        row |= {"kind": _kind_label(row, figures), "backed": key in backed}
    fronts = []
    for group, members, points in zip(found.groups, found.members(), shown, strict=True):
        waiting = int(waits[members].sum())
        incomplete = int((~usable & ~waits)[members].sum())
        told_rows = tuple({**rows[found.key(point)], "dominated": not best[point]} for point in points)
        model, workload, input_len, output_len, traffic = group
        considered = len(members) - waiting - incomplete
        fronts.append(
            Front(model, workload, input_len, output_len, told_rows, considered, waiting, incomplete, traffic)
        )
    fronts.sort(key=lambda front: (front.input_len or 0, front.output_len or 0, front.model or ""))
    return Pareto(axes, tuple(fronts), reader.prices if priced else None, tails)


# --- reading -----------------------------------------------------------------------------------------------------

Key = tuple[str, int, int]
_KEY = ("kind", "task_id", "run_id", "concurrency")
_GROUP = ("model", "workload", "input_len", "output_len", "traffic")


@dataclass(frozen=True)
class _Points:
    """All points as columns: `figures` has a row for each metric. Run 0: it is an estimate."""

    task: Array
    run: Array
    concurrency: Array
    figures: Array
    waits: Flags
    group: npt.NDArray[np.int64]
    groups: list[tuple[Any, ...]]

    @classmethod
    def of(cls, reader: PointReader, axes: Sequence[Metric], *, across: bool) -> _Points:
        number: dict[tuple[Any, ...], int] = {}
        columns = (*_KEY[1:], "queued", *(axis.column for axis in axes), *_GROUP)
        figures = [np.empty((len(columns) - len(_GROUP), 0))]
        group = [np.empty(0, dtype=np.int64)]
        for _, chunks in reader.chunks(columns):
            for chunk in chunks:
                parts = list(zip(*chunk, strict=True))
                numbers = parts[: -len(_GROUP)]
                figures.append(np.array(numbers, dtype=np.float64))
                about = zip(*parts[-len(_GROUP) :], strict=True)
                places = [0] * len(chunk) if across else [number.setdefault(one, len(number)) for one in about]
                group.append(np.array(places, dtype=np.int64))
        task, run, concurrency, waits, *values = np.concatenate(figures, axis=1)
        groups = [(None,) * len(_GROUP)] if across else list(number)
        return cls(
            task,
            np.nan_to_num(run),
            np.nan_to_num(concurrency),
            np.stack(values),
            np.asarray(waits == 1),
            np.concatenate(group),
            groups,
        )

    def __len__(self) -> int:
        return len(self.run)

    def key(self, point: int) -> Key:
        if self.run[point]:
            return Kind.MEASURED.value, int(self.run[point]), 0
        return Kind.ESTIMATED.value, int(self.task[point]), int(self.concurrency[point])

    def members(self) -> list[npt.NDArray[np.int64]]:
        """Return the positions of the points of each group."""
        order = np.argsort(self.group, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.group, minlength=len(self.groups)))[:-1])


def _described(reader: PointReader, columns: Sequence[str], keys: Sequence[Key]) -> dict[Key, Row]:
    """Return the points with all columns."""
    wanted = set(keys)
    found: dict[Key, Row] = {}
    names = list(dict.fromkeys([*columns, *_KEY]))
    ids = {kind: sorted({key[1] for key in keys if key[0] == kind}) for kind in Kind}
    for kind, numbers in ids.items():
        for some in portions(numbers):
            for row in reader.rows(names, of={kind: some}):
                measured = row["run_id"] is not None
                key = (kind.value, row["run_id"] or row["task_id"], 0 if measured else row["concurrency"])
                if key in wanted:
                    found[key] = {name: row[name] for name in columns}
    return found


def _kind_label(row: Row, figures: Sequence[str]) -> str:
    """Return the kind of a row with the percentiles that were simulated: "estimated, simulated p95"."""
    kind, *more = str(row["kind"]).split(", ")
    tails = [name.partition("_")[0] for name in figures if is_percentile(name) and row[name] is not None]
    if tails and kind == Kind.ESTIMATED:
        more.insert(0, f"simulated {' and '.join(dict.fromkeys(tails))}")
    return ", ".join([kind, *more])


def _backed(
    connection: sa.Connection, reader: PointReader, rows: Mapping[Key, Row], figures: Sequence[str]
) -> set[Key]:
    """Return the points that were measured, and those that measured runs are near in all of these figures."""
    estimates = [key for key in rows if key[0] == Kind.ESTIMATED]
    backed = {key for key in rows if key[0] != Kind.ESTIMATED}
    errors = Errors.of(connection, reader.scope.engines.all_ids(), reader.scope.models.all_ids())
    if not estimates or not errors.seen:
        return backed
    about_task: dict[int, Sequence[Any]] = {}
    columns = about_tasks()
    for some in portions(sorted({task for _, task, _ in estimates})):
        source = tasks.join(cases, cases.c.id == tasks.c.case_id)
        asked = sa.select(*columns).select_from(source).where(tasks.c.id.in_(some))
        about_task |= {row[0]: tuple(row) for row in connection.execute(asked)}
    told = np.array([about_task[task] for _, task, _ in estimates], dtype=np.float64).T
    about = dict(zip((column.name for column in columns), told, strict=True))
    load = np.array([concurrency for _, _, concurrency in estimates], dtype=np.float64)
    near = np.ones(len(estimates), dtype=bool)
    for figure in figures:
        if (metric := estimated_metric(figure)) is not None:
            has_none = np.array([rows[key][figure] is None for key in estimates])
            near &= errors.backed(about, load, metric_with_errors(metric)) | has_none
    return backed | {key for key, is_near in zip(estimates, near.tolist(), strict=True) if is_near}


# --- the frontier ------------------------------------------------------------------------------------------------

_BLOCK = 2_048


def frontier(figures: Array) -> Flags:
    """Return the columns of `figures` that no other dominates. Two or three rows, of which less is better; no NaN.

    Takes O(n log n) for two rows. For three it goes through the points from the best of the first row on, in blocks,
    and keeps the staircase of the other two: what it leaves of a block is compared pair by pair.
    """
    if figures.shape[1] == 0:
        return np.zeros(0, dtype=bool)
    rounded = np.rint(figures * DECIMALS)
    # In this order nobody is dominated by who comes later.
    order = np.lexsort(rounded[::-1])
    ordered = rounded[:, order]
    # Equal points are one: none of them dominates another.
    first = np.concatenate([[True], (np.diff(ordered) != 0).any(axis=0)])
    distinct = ordered[:, first]
    kept = _two(distinct[1]) if len(distinct) == 2 else _three(distinct[1], distinct[2])
    best = np.empty(len(order), dtype=bool)
    best[order] = kept[np.cumsum(first) - 1]
    return best


def _two(second: Array) -> Flags:
    least = np.minimum.accumulate(second)
    return np.concatenate([[True], second[1:] < least[:-1]])


def _three(second: Array, third: Array) -> Flags:
    best = np.zeros(len(second), dtype=bool)
    steps = _Staircase(np.empty(0), np.empty(0))
    for start in range(0, len(second), _BLOCK):
        left = start + np.flatnonzero(~steps.covers(second[start : start + _BLOCK], third[start : start + _BLOCK]))
        if not len(left):
            continue
        a, b = second[left], third[left]
        # Entry (i, j): the earlier point i is at least as good as j in both.
        before = (a[:, None] <= a[None, :]) & (b[:, None] <= b[None, :])
        best[left] = kept = ~np.triu(before, k=1).any(axis=0)
        steps = steps.plus(a[kept], b[kept])
    return best


@dataclass(frozen=True)
class _Staircase:
    """Pairs of which none is as good as another: `first` ascends, `second` descends."""

    first: Array
    second: Array

    def covers(self, first: Array, second: Array) -> Flags:
        """Return whether a step is at least as good as each of these pairs."""
        if not len(self.first):
            return np.zeros(len(first), dtype=bool)
        step = np.searchsorted(self.first, first, side="right") - 1
        return np.asarray((step >= 0) & (self.second[step] <= second))

    def plus(self, first: Array, second: Array) -> _Staircase:
        """Return the staircase extended by these pairs."""
        firsts, seconds = np.concatenate([self.first, first]), np.concatenate([self.second, second])
        order = np.lexsort((seconds, firsts))
        kept = order[_two(seconds[order])]
        return _Staircase(firsts[kept], seconds[kept])
