"""The groups of a ranking from placed rows: configurations and opinions of engines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.portions import portions
from gpuscout.store.ranking.answer.descriptions import Description, Descriptions
from gpuscout.store.ranking.candidates import statements as statements
from gpuscout.store.ranking.candidates.candidates import Candidates
from gpuscout.store.ranking.candidates.placing import Indices, Placed
from gpuscout.store.ranking.candidates.trust import Place, metric_with_errors, trusted_metric
from gpuscout.store.ranking.measures import DECIMALS, MEASURES, Aim, Array
from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.question.confidence import chance
from gpuscout.store.ranking.question.limits import UNKNOWN, Flags
from gpuscout.store.ranking.types import Backing, Chance, Operating, Opinion, RankedConfig, Unranked
from gpuscout.sweeps.slo import Slo

_OPERATING = tuple(field.name for field in fields(Operating))


@dataclass(frozen=True)
class Shown:
    """The rows of a ranking that are returned, by group: `top` places, the best of GPU types, what nothing backs."""

    rows: Indices
    group: Indices
    place: Indices

    @classmethod
    def of(cls, ranked: Placed, level: Indices, question: Question) -> Shown:
        keep = np.ones(len(ranked.rows), dtype=bool)
        if question.top is not None:
            keep = ranked.gpu_place == 1
            if question.gpu_types is not None:
                keep &= _types_before(ranked) < question.gpu_types
            keep |= ranked.place <= question.top
            keep[first_of_levels(ranked, level)] = True
        return cls(ranked.rows[keep], ranked.group[keep], ranked.place[keep])

    def in_turn(self, connection: sa.Connection, pool: Candidates) -> Shown:
        """Return the same, equals in the order of their names, and of these only those that are returned.

        Hundreds may share a place: of a group count the `top`, and the first of each GPU type and level of trust.
        """
        names = _names_of_equals(connection, pool, self)
        columns = (self.group.tolist(), self.place.tolist(), self.rows.tolist())
        turns = [(group, place, names.get(row, ())) for group, place, row in zip(*columns, strict=True)]
        order = sorted(range(len(turns)), key=turns.__getitem__)
        rows, group = self.rows[order], self.group[order]
        keep = np.ones(len(order), dtype=bool)
        if pool.question.top is not None:
            keep = np.arange(len(order)) - np.searchsorted(group, group) < pool.question.top
            for kind in (pool.codes.gpu, pool.level):
                _, first = np.unique((group << 32) + kind[rows], return_index=True)
                keep[first] = True
        return Shown(rows[keep], group[keep], self.place[order][keep])


def _names_of_equals(connection: sa.Connection, pool: Candidates, shown: Shown) -> dict[int, tuple[Any, ...]]:
    """Return the names of the rows that share their place of their group with others."""
    places = np.stack([shown.group, shown.place], axis=1)
    _, which, count = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    equals = shown.rows[count[which.reshape(-1)] > 1].tolist()
    row_of = {pool.task(row): row for row in equals if row < pool.estimates}
    names: dict[int, tuple[Any, ...]] = {}
    if pool.measured is not None:
        runs = (row for row in equals if row >= pool.estimates)
        names = {row: _names(pool.measured.described(row - pool.estimates)) for row in runs}
    for some in portions(list(row_of), statements.BATCH):
        for about in connection.execute(statements.named(some)).mappings():
            names[row_of[about["task_id"]]] = _names(dict(about))
    return names


def first_of_levels(ranked: Placed, level: Indices) -> Indices:
    """Return the first placed row of each group and level of trust; `level` is of all rows."""
    kind = ranked.group * 2 + level[ranked.rows]
    _, first = np.unique(kind, return_index=True)
    return np.asarray(first, dtype=np.int64)


def _types_before(ranked: Placed) -> Indices:
    """Return the number of GPU types whose best is at a better place of the group, for every placed row."""
    _, first = np.unique((ranked.group << 32) + ranked.gpu, return_index=True)
    best = np.zeros(len(ranked.rows), dtype=np.int64)
    best[first] = 1
    before = np.cumsum(best) - best
    starts = np.diff(ranked.group, prepend=-1) != 0
    ties = starts | (np.diff(ranked.place, prepend=0) != 0)
    index = np.arange(len(before))
    start_of_group, start_of_tie = (np.maximum.accumulate(np.where(at, index, 0)) for at in (starts, ties))
    return np.asarray(before[start_of_tie] - before[start_of_group], dtype=np.int64)


def configs_of(pool: Candidates, shown: Shown, described: Descriptions) -> dict[int, list[RankedConfig]]:
    """Return the configurations of every group, best first."""
    opinions = _opinions(pool, shown.rows)
    aim, weighted, more_is_better = pool.aim, pool.aim.is_weighted, pool.aim.more_is_better
    also = [name for name in pool.question.also if name != aim.name]
    parts = [name for name, _ in aim.weights]
    names = list(dict.fromkeys([*parts, *also]))
    objective = aim.name
    found: dict[int, list[RankedConfig]] = {}
    best: dict[int, float] = {}
    # The best of a group comes first, before anything is compared with it.
    credentials = _Credentials(pool, shown.rows)
    columns = (pool.values, pool.unit_costs.usd, pool.operating.interpolated, pool.backed, pool.held)
    figures = (column[shown.rows].tolist() for column in columns)
    for row, group, place, value, usd, interpolated, backed, held in zip(
        shown.rows.tolist(), shown.group.tolist(), shown.place.tolist(), *figures, strict=True
    ):
        about = described[row]
        intervals, counted = described.intervals(row), described.at_confidence(row)
        ranges = described.ranges(row, intervals, names)
        first = best.setdefault(group, value)
        worse = first - value if more_is_better else value - first
        config = RankedConfig(
            **{name: about[name] for name in _OPERATING if name in about},
            place=place,
            objective=value / first if weighted else value,
            behind_best=_share(worse, first),
            objective_range=_range(aim, ranges, value, first, described.values(row, about, counted, parts)),
            interpolated=interpolated,
            usd_per_hour=None if math.isnan(usd) else usd,
            values=described.values(row, about, counted, names) if also or weighted else {objective: value},
            ranges=ranges,
            opinions=opinions.get(row, ()),
            backed=backed,
            held=held,
            intervals=intervals,
            at_confidence=counted,
            **credentials.of(row, about, intervals),
        )
        found.setdefault(group, []).append(config)
    return found


def _range(
    aim: Aim,
    ranges: Mapping[str, tuple[float, float]],
    value: float,
    first: float,
    parts: Mapping[str, float | None],
) -> tuple[float, float] | None:
    """Return the range of the objective.

    Of several, weighted: if all of them were as good, or as bad, as expected.
    """
    if not aim.is_weighted:
        return ranges.get(aim.name)
    ends = [0.0, 0.0]
    for measure_name, weight in aim.weights:
        part = parts[measure_name]
        if part and measure_name in ranges:
            better_last = MEASURES[measure_name].more_is_better
            for place, end in enumerate(ranges[measure_name][:: -1 if better_last else 1]):
                ends[place] += (-weight if better_last else weight) * math.log(end / part)
    low, high = (value / first * math.exp(end) for end in ends)
    return (low, high) if ranges else None


def _share(worse: float, first: float) -> float:
    """Return a difference as a fraction of the first. Figures that count as equal may differ in the last bits."""
    return worse / first if first and abs(worse) * DECIMALS > 0.5 else 0.0


# A limit that is used up to this share keeps the load from being higher.
_BINDS = 0.97


class _Credentials:
    """Backing of a ranked configuration, and its chances of meeting the limits."""

    def __init__(self, pool: Candidates, rows: Indices) -> None:
        self._pool = pool
        self._slos = pool.question.slos
        figures, ratios = pool.bounded(rows)
        self._bounded = dict(zip(rows.tolist(), zip(figures.T.tolist(), ratios.T.tolist(), strict=True), strict=True))
        self._objective_metric = trusted_metric(pool.aim)
        self._nothing = not (self._slos or pool.measured or pool.errors.seen)

    def of(self, row: int, about: Description, intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
        """Return fields of `RankedConfig`."""
        if self._nothing:
            return {}
        pool = self._pool
        is_measured = row >= pool.estimates and pool.measured is not None
        tail = pool.question.assume_tail if any(slo.percentile for slo in self._slos) else None
        if is_measured or about.get("simulated"):
            tail = None
        scale = 1.0 if pool.choice.percentiles else tail  # where some were simulated the figures have it already
        figures, ratios = self._bounded[row]
        values = [
            figure * (scale if scale and slo.percentile else 1.0)
            for slo, figure in zip(self._slos, figures, strict=True)
        ]
        binding = self._binding(ratios)
        runs = pool.measured.runs_of(row - pool.estimates) if is_measured and pool.measured else None
        return {
            "runs": runs,
            "extended": bool(is_measured and pool.measured and pool.measured.is_extended(row - pool.estimates)),
            "backing": None if is_measured else self._backing(row, about, binding),
            "chances": tuple(
                self._chance(slo, value, about, intervals, tail) for slo, value in zip(self._slos, values, strict=True)
            ),
            "binding": binding and binding.name,
            "percentiles": {
                slo.name: value for slo, value in zip(self._slos, values, strict=True) if slo.percentile is not None
            },
            "assumed_tail": tail,
        }

    def _binding(self, ratios: Sequence[float]) -> Slo | None:
        """Return the limit on a latency that is used up most, if hardly anything is left of it."""
        used = [(ratio, -line) for line, ratio in enumerate(ratios) if not self._slos[line].at_least]
        ratio, line = max(used, default=(0.0, 0))
        return self._slos[-line] if _BINDS <= ratio < UNKNOWN else None

    def _chance(
        self,
        slo: Slo,
        value: float,
        about: Description,
        intervals: Mapping[str, tuple[float, float]],
        tail: float | None,
    ) -> Chance:
        scale = tail if tail and slo.percentile else 1.0
        figure = slo.column if tail else slo.figure
        if figure not in intervals:
            return Chance(slo, value, None)
        low, high = intervals[figure]
        expected = about[figure] * scale
        probability = chance(expected, (low * scale, high * scale), slo.limit, at_least=slo.at_least)
        return Chance(slo, expected, probability)

    def _backing(self, row: int, about: Description, binding: Slo | None) -> Backing | None:
        """Return the errors near a row: of what binds it or the objective, but of a percentile none are near."""
        pool = self._pool
        if not pool.errors.seen or pool.about["drafted"][row]:
            return None
        simulated = bool(about.get("simulated"))
        metrics = [self._objective_metric]
        if binding is not None:
            metrics = [metric_with_errors(binding.figure if simulated else binding.column)]
        metrics += pool.choice.tails if simulated else []
        found = [pool.errors.nearest(self._place(row, about), metric) for metric in metrics]
        return next((backing for backing in found if backing is None or not backing.near), found[0])

    def _place(self, row: int, about: Description) -> Place:
        pool = self._pool
        engine_id, gpu_id, model_id = (int(pool.about[name][row]) for name in ("engine_id", "gpu_id", "model_id"))
        return Place(
            engine_id,
            gpu_id,
            model_id,
            about["num_gpus"],
            about["tensor_parallel"],
            int(pool.about["precision"][row]),
            about["concurrency"],
            about["request_rate"] is not None,
        )


def _names(about: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the names that order equal figures, compared here because databases sort text differently."""
    return (
        about["gpu"],
        about["tensor_parallel"],
        about["pipeline_parallel"],
        about["data_parallel"],
        about["expert_parallel"],
        about["precision"],
        about["kv_precision"] or "",
        about["server"],
        about["gpu_memory_utilization"],
        about["max_model_len"],
        about["server_options"],
        about["speculative"],
        about["task_id"] or 0,
    )


def unranked_rows(pool: Candidates) -> list[int]:
    """Return each group's and GPU type's unvalued row of the highest throughput per GPU that qualifies."""
    rows = np.flatnonzero(pool.own & pool.trusted & pool.asked & pool.operating.qualifies & np.isnan(pool.values))
    if not len(rows):
        return []
    per_gpu = pool.operating.figures["output_tokens_per_s"][rows] / pool.num_gpus[rows]
    kind = pool.codes.group[rows] * len(pool.codes.gpus) + pool.codes.gpu[rows]
    order = np.lexsort((pool.about["task_id"][rows], pool.num_gpus[rows], -per_gpu, kind))
    first: list[int] = rows[order[np.diff(kind[order], prepend=-1) != 0]].tolist()
    return first


def unranked_of(pool: Candidates, rows: list[int], described: Descriptions) -> dict[int, list[Unranked]]:
    """Return the rows in words, by group, in the order of the names of GPUs."""
    missing = pool.prices.missing if pool.aim.needs("price") else {}
    reasons = [missing.get(gpu, "its TDP is not known") for gpu in pool.codes.gpus]
    found: dict[int, list[Unranked]] = {}
    for row, group, gpu in zip(rows, pool.codes.group[rows].tolist(), pool.codes.gpu[rows].tolist(), strict=True):
        config = None if pool.question.briefly else described.operating(row)
        found.setdefault(group, []).append(Unranked(pool.codes.gpus[gpu], reasons[gpu], config))
    return {group: sorted(types, key=lambda one: one.gpu) for group, types in found.items()}


# --- several engines ---------------------------------------------------------------------------------------------


def _opinions(pool: Candidates, rows: Indices) -> dict[int, tuple[Opinion, ...]]:
    """Return the answers of all engines for these rows' configurations, the row itself first.

    A measured configuration may be that of several tasks of an engine: the best of them is its opinion.
    """
    if len(pool.codes.engines) < 2:
        return {}
    alike = _alike(pool.configuration, pool.configuration[rows])
    of_case: dict[int, list[int]] = {}
    if pool.measured is not None:
        shown = [pool.measured.estimated[row - pool.estimates] for row in rows.tolist() if row >= pool.estimates]
        of_case = _alike(pool.about["case_id"][: pool.estimates], np.array([case for one in shown for case in one]))
    valued = pool.valued
    found = {}
    for row in rows.tolist():
        others = alike[int(pool.configuration[row])]
        if row >= pool.estimates and pool.measured is not None:
            cases = pool.measured.estimated[row - pool.estimates]
            estimates = [other for case in cases for other in of_case.get(case, ())]
            others = [row, *_best_of_engines(pool, valued, estimates)]
        if len(others) > 1:
            others = sorted(others, key=lambda other: (other != row, pool.codes.engine[other]))
            found[row] = tuple(_opinion(pool, valued, row, other) for other in others)
    return found


def _alike(column: Array, wanted: Array) -> dict[int, list[int]]:
    """Return the rows that have one of these numbers in a column, by number."""
    found: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(column, wanted)).tolist():
        found.setdefault(int(column[row]), []).append(row)
    return found


def _best_of_engines(pool: Candidates, valued: Flags, rows: list[int]) -> list[int]:
    best: dict[int, tuple[bool, float, int]] = {}
    sign = -1 if pool.aim.more_is_better else 1
    for row in rows:
        how_good = (not valued[row], sign * float(pool.values[row]) if valued[row] else 0.0, row)
        engine = int(pool.codes.engine[row])
        best[engine] = min(best.get(engine, how_good), how_good)
    return [row for _, _, row in best.values()]


def _opinion(pool: Candidates, valued: Flags, row: int, other: int) -> Opinion:
    value = float(pool.values[other]) if valued[other] else None
    if value is not None and pool.aim.is_weighted:
        value /= float(pool.values[row])
    return Opinion(pool.codes.engines[pool.codes.engine[other]], value)
