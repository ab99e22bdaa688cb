"""Ranking of rows of tasks: answers that stand, their values, their places in each group. Columns in, columns out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuscout.store.prices.prices import GpuPrice
from gpuscout.store.ranking.candidates.fetched import Rows
from gpuscout.store.ranking.candidates.statements import OUTCOME_CODES
from gpuscout.store.ranking.measures import DECIMALS, Aim, Array
from gpuscout.store.ranking.question.asked import MEASURED
from gpuscout.store.ranking.question.limits import Flags, Limit, between, hold
from gpuscout.store.ranking.question.lookup import NameIndex
from gpuscout.sweeps.outcomes import Outcome

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Codes:
    """Integer codes for groups, GPU types and engines by name (their ids are versions)."""

    groups: list[tuple[str, int, int]]  # (model, input length, output length)
    group: Indices
    gpus: list[str]
    gpu: Indices
    engines: list[str]
    engine: Indices

    @classmethod
    def of(cls, about: Mapping[str, Array], models: NameIndex, gpus: NameIndex, engines: NameIndex) -> Codes:
        model_names, model = _numbered(models, about["model_id"])
        lengths = [about[name].astype(np.int64) for name in ("input_len", "output_len")]
        _, pair = np.unique((lengths[0] << 31) + lengths[1], return_inverse=True)
        # By the name of the model: a group is one whatever the version of its figures.
        keys = pair.reshape(-1) * len(model_names) + model
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        groups = [(model_names[model[i]], int(lengths[0][i]), int(lengths[1][i])) for i in first]
        gpu_names, gpu = _numbered(gpus, about["gpu_id"])
        engine_names, engine = _numbered(engines, about["engine_id"])
        return cls(groups, group.reshape(-1), gpu_names, gpu, engine_names, engine)

    def take(self, rows: Any) -> Codes:
        return Codes(self.groups, self.group[rows], self.gpus, self.gpu[rows], self.engines, self.engine[rows])


def _numbered(names: NameIndex, ids: Array) -> tuple[list[str], Indices]:
    """Return the names, and for each id the position of its name."""
    listed = list(names.ids)
    position = {row_id: place for place, name in enumerate(listed) for row_id in names.ids[name]}
    return listed, _looked_up(position, ids)


def _looked_up(of: Mapping[int, int], ids: Array) -> Indices:
    table = np.zeros(max(of, default=0) + 1, dtype=np.int64)
    for row_id, value in of.items():
        table[row_id] = value
    return table[ids.astype(np.int64)]


def versions(rows: Rows, models: NameIndex, gpus: NameIndex, engines: NameIndex) -> list[Indices]:
    """Return the age of the engine, the model and the GPU of each row, 0: the newest of its name."""
    return [
        _looked_up({row_id: age for ids in names.ids.values() for age, row_id in enumerate(ids)}, rows.about[column])
        for names, column in ((engines, "engine_id"), (models, "model_id"), (gpus, "gpu_id"))
    ]


def newest(rows: Rows, codes: Codes, configuration: Array, ages: Sequence[Indices]) -> Indices:
    """Return the rows that stand among versions: of each engine's answers to one configuration the newest."""
    task = -rows.about["task_id"]
    order = np.lexsort((task, *reversed(ages), codes.engine, configuration))
    same = (np.diff(configuration[order]) == 0) & (np.diff(codes.engine[order]) == 0)
    return np.sort(order[np.concatenate([[True], ~same])])


def first_engines(codes: Codes, outcome: Array) -> Indices:
    """Return the preferred engine of each group, among those that have an answer."""
    first = np.full(len(codes.groups), 2 * len(codes.engines), dtype=np.int64)
    np.minimum.at(first, codes.group, _preference(codes, outcome))
    return first % len(codes.engines)


def engines_of_groups(codes: Codes, outcome: Array) -> dict[int, list[str]]:
    """Return the engines that have results for each group, the preferred first, whether these stand or not."""
    ranks = 2 * len(codes.engines)
    engines: dict[int, dict[str, None]] = {}
    for group, rank in zip(
        *np.divmod(np.unique(codes.group * ranks + _preference(codes, outcome)), ranks), strict=True
    ):
        engines.setdefault(int(group), {}).setdefault(codes.engines[rank % len(codes.engines)])
    return {group: list(names) for group, names in engines.items()}


def _preference(codes: Codes, outcome: Array) -> Indices:
    """Return ranks of the engines of all rows, the preferred first; one that does not support a case has no answer
    for it, and measured runs come last.
    """
    behind = np.array([name == MEASURED for name in codes.engines])[codes.engine]
    behind |= outcome == OUTCOME_CODES[Outcome.NOT_SUPPORTED]
    return np.asarray(codes.engine + len(codes.engines) * behind)


@dataclass(frozen=True)
class OperatingPoints:
    """The operating point of each row: stored, or `interpolated` between the stored `low` and `high` concurrency."""

    figures: dict[str, Array]
    qualifies: Flags
    interpolated: Flags
    low: Array
    high: Array

    def followed_by(self, other: OperatingPoints) -> OperatingPoints:
        """Return the rows followed by those of another, which has the same figures or more."""
        figures = {name: np.concatenate([column, other.figures[name]]) for name, column in self.figures.items()}
        return OperatingPoints(
            figures,
            np.concatenate([self.qualifies, other.qualifies]),
            np.concatenate([self.interpolated, other.interpolated]),
            np.concatenate([self.low, other.low]),
            np.concatenate([self.high, other.high]),
        )


def operating_points_of(rows: Rows, aim: Aim, limits: Sequence[Limit], straddling: Rows | None) -> OperatingPoints:
    """Return the best point of every row within all limits; where none qualifies the stored one that comes nearest."""
    figures = {name: column.copy() for name, column in rows.points["point"].items()}
    qualifies = hold(limits, figures) & aim.known(figures)
    low, high = figures["concurrency"].copy(), figures["concurrency"].copy()
    interpolated = np.zeros(len(rows), dtype=bool)

    def consider(place: Any, below: Mapping[str, Array], above: Mapping[str, Array], *, highest: bool) -> None:
        """Take the point between two stored ones where it is better than what there is."""
        point = between(below, above, limits, highest=highest)
        have = {name: column[place] for name, column in figures.items()}
        better = hold(limits, point) & aim.known(point)
        better &= ~qualifies[place] | _precedes(aim, point, have)
        chosen = np.flatnonzero(better) if isinstance(place, slice) else place[better]
        for name, column in point.items():
            figures[name][chosen] = column[better]
        low[chosen], high[chosen] = below["concurrency"][better], above["concurrency"][better]
        qualifies[chosen] = interpolated[chosen] = True

    stored = rows.points["point"]
    within = qualifies.copy()
    for side, highest in (("above", True), ("below", False)):
        if side in rows.points:
            place = np.flatnonzero(within)
            here = {name: column[place] for name, column in stored.items()}
            there = {name: column[place] for name, column in rows.points[side].items()}
            consider(place, *((here, there) if highest else (there, here)), highest=highest)
    if straddling is not None:
        place = np.flatnonzero(~within)
        place = place[np.isin(rows.about["task_id"][place], straddling.about["task_id"])]
        by_task = np.argsort(straddling.about["task_id"])
        match = by_task[np.searchsorted(straddling.about["task_id"][by_task], rows.about["task_id"][place])]
        found = straddling.take(match)
        for highest in (True, False):
            consider(place, found.points["point"], found.points["above"], highest=highest)
    return OperatingPoints(figures, qualifies, interpolated, low, high)


def _precedes(aim: Aim, one: Mapping[str, Array], other: Mapping[str, Array]) -> Flags:
    """Return whether a point comes before another of its configuration:
    not queued, else better, else less in flight.
    """
    result = np.zeros(len(one["concurrency"]), dtype=bool)
    undecided = ~result
    for left, right in (
        (one["queued"], other["queued"]),
        (aim.point_score(one), aim.point_score(other)),
        (one["concurrency"], other["concurrency"]),
    ):
        result |= undecided & (left < right)
        undecided &= left == right
    return result


@dataclass(frozen=True)
class UnitCosts:
    """USD per hour of each row's deployment at the price that ranks, the lowest and the highest; TDP in W per GPU."""

    usd: Array
    usd_low: Array
    usd_high: Array
    tdp_w: Array


class Sizes:
    """The deployments of rows by what they cost: a GPU type and how many of them."""

    def __init__(self, gpus: Sequence[str], gpu: Indices, num_gpus: Array) -> None:
        pairs, self._of_row = np.unique((gpu << 32) + num_gpus.astype(np.int64), return_inverse=True)
        self._deployments = [(gpus[pair >> 32], pair & 0xFFFFFFFF) for pair in pairs.tolist()]

    def usd_per_hour(self, prices: Mapping[str, GpuPrice]) -> Array:
        """Return the price that ranks, the lowest and the highest, a line each, for every row; NaN: none is known."""
        table = np.full((3, len(self._deployments)), np.nan)
        for place, (gpu, count) in enumerate(self._deployments):
            if (price := prices.get(gpu)) is not None:
                hourly = price.per_hour(count)
                table[:, place] = hourly.usd, hourly.low, hourly.high
        return np.asarray(table[:, self._of_row.reshape(-1)])


def unit_costs(codes: Codes, num_gpus: Array, prices: Mapping[str, GpuPrice], tdp_w: Mapping[str, float]) -> UnitCosts:
    usd = Sizes(codes.gpus, codes.gpu, num_gpus).usd_per_hour(prices)
    power = np.array([tdp_w.get(name, np.nan) for name in codes.gpus] or [np.nan])
    return UnitCosts(usd[0], usd[1], usd[2], power[codes.gpu])


@dataclass(frozen=True)
class Placed:
    """Rows that are ranked, best first within each group. Places count from 1; equal figures share one."""

    rows: Indices
    group: Indices
    gpu: Indices
    place: Indices
    gpu_place: Indices


def placed(
    ranked: Indices,
    codes: Codes,
    operating: OperatingPoints,
    num_gpus: Array,
    values: Array,
    level: Indices,
    *,
    more_is_better: bool,
) -> Placed:
    """Rank these rows within their groups, and within each GPU type of a group; a lower level goes first."""
    score = np.rint(values[ranked] * (-DECIMALS if more_is_better else DECIMALS))
    unknown_last = [np.nan_to_num(operating.figures[name][ranked], nan=np.inf) for name in ("itl_ms", "ttft_ms")]
    keys = [
        level[ranked].astype(np.float64),
        score,
        operating.figures["queued"][ranked],
        num_gpus[ranked],
        *unknown_last,
    ]
    order = _in_order(codes.group[ranked], keys)
    rows = ranked[order]
    changes = np.logical_or.reduce([np.diff(key[order], prepend=np.nan) != 0 for key in _finite(keys)])
    group = codes.group[rows]
    place = _places(group, changes)
    types = (group << 32) + codes.gpu[rows]
    by_gpu = np.argsort(types, kind="stable")
    types = types[by_gpu]
    gpu_place = np.empty_like(place)
    # Within a GPU type two rows are equal when they share their place in the group.
    gpu_place[by_gpu] = _places(types, np.diff(place[by_gpu], prepend=-1) != 0)
    return Placed(rows, group, codes.gpu[rows], place, gpu_place)


def _in_order(group: Indices, keys: Sequence[Array]) -> Indices:
    """Return the order of rows by group and these keys. The first two leave few ties, which the others then decide."""
    first = (group, *keys[:2])
    order = np.lexsort(first[::-1])
    same = np.logical_and.reduce([key[order[1:]] == key[order[:-1]] for key in first])
    undecided = np.union1d(np.flatnonzero(same), np.flatnonzero(same) + 1)
    rows = order[undecided]
    order[undecided] = rows[np.lexsort([key[rows] for key in (*reversed(keys), group)])]
    return order


def _finite(keys: Sequence[Array]) -> list[Array]:
    """Return the same keys with a number in place of infinity, which has no difference to itself."""
    return [np.nan_to_num(key, posinf=1e308, neginf=-1e308) for key in keys]


def _places(group: Indices, changes: Flags) -> Indices:
    """Return ranks with gaps within runs of one group; `changes`: the row differs from the one before."""
    if not len(group):
        return np.empty(0, dtype=np.int64)
    starts = np.diff(group, prepend=group[0] - 1) != 0
    index = np.arange(len(group))
    first_of_group = np.maximum.accumulate(np.where(starts, index, 0))
    first_of_tie = np.maximum.accumulate(np.where(starts | changes, index, 0))
    return np.asarray(first_of_tie - first_of_group + 1, dtype=np.int64)
