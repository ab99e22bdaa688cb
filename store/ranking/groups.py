"""From placed rows to what a ranking tells of each group: configurations, opinions of engines, prices that decide."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuscout.store.ranking.described import Described, Description
from gpuscout.store.ranking.limits import Flags
from gpuscout.store.ranking.measures import DECIMALS, Array
from gpuscout.store.ranking.placing import Indices, Placed
from gpuscout.store.ranking.study import Study
from gpuscout.store.ranking.types import Backing, Flip, Operating, Opinion, Question, RankedConfig, Unranked


@dataclass(frozen=True)
class Shown:
    """The rows of a ranking that are returned, by group: `top` places and the best of GPU types."""

    rows: Indices
    group: Indices
    place: Indices

    @classmethod
    def of(cls, ranked: Placed, question: Question) -> Shown:
        keep = np.ones(len(ranked.rows), dtype=bool)
        if question.top is not None:
            keep = ranked.gpu_place == 1
            if question.gpu_types is not None:
                keep &= _types_before(ranked) < question.gpu_types
            keep |= ranked.place <= question.top
        return cls(ranked.rows[keep], ranked.group[keep], ranked.place[keep])


def _types_before(ranked: Placed) -> Indices:
    """For every placed row, how many GPU types have their best at a better place of its group."""
    _, first = np.unique((ranked.group << 32) + ranked.gpu, return_index=True)
    best = np.zeros(len(ranked.rows), dtype=np.int64)
    best[first] = 1
    before = np.cumsum(best) - best
    starts = np.diff(ranked.group, prepend=-1) != 0
    ties = starts | (np.diff(ranked.place, prepend=0) != 0)
    index = np.arange(len(before))
    start_of_group, start_of_tie = (np.maximum.accumulate(np.where(at, index, 0)) for at in (starts, ties))
    return np.asarray(before[start_of_tie] - before[start_of_group], dtype=np.int64)


def configs_of(study: Study, shown: Shown, described: Described) -> dict[int, list[RankedConfig]]:
    """The configurations of every group, best first."""
    opinions = _opinions(study, shown.rows)
    aim, weighted, more_is_better = study.aim, study.aim.is_weighted, study.aim.more_is_better
    also = [name for name in study.question.also if name != aim.name]
    parts = [name for name, _ in aim.weights]
    names = list(dict.fromkeys([*parts, *also]))
    objective = aim.name
    found: dict[int, list[tuple[tuple[Any, ...], RankedConfig]]] = {}
    best: dict[int, float] = {}
    # The best of a group comes first, before anything is compared with it.
    credentials = _Credentials(study)
    columns = (study.values, study.worth.usd, study.found.interpolated)
    figures = (column[shown.rows].tolist() for column in columns)
    for row, group, place, value, usd, interpolated in zip(
        shown.rows.tolist(), shown.group.tolist(), shown.place.tolist(), *figures, strict=True
    ):
        about = described[row]
        intervals = described.intervals(row)
        first = best.setdefault(group, value)
        worse = first - value if more_is_better else value - first
        in_order: list[Any] = [
            *map(about.__getitem__, Operating.__match_args__),
            place,
            value / first if weighted else value,
            _share(worse, first),
            interpolated,
            None if math.isnan(usd) else usd,
            described.values(row, about, intervals, names) if also or weighted else {objective: value},
            opinions.get(row, ()),
            *credentials.of(row, about, intervals),
        ]
        config = RankedConfig(*in_order)
        found.setdefault(group, []).append((_tie_break(config), config))
    return {
        group: [config for _, config in sorted(configs, key=lambda pair: pair[0])] for group, configs in found.items()
    }


def _share(worse: float, first: float) -> float:
    """A difference as a fraction of the first. Figures that count as equal may differ in the last bits."""
    return worse / first if first and abs(worse) * DECIMALS > 0.5 else 0.0


class _Credentials:
    """The fields of ranked configurations from `runs` on."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._tails = [(line, slo) for line, slo in enumerate(study.question.slos) if slo.percentile is not None]
        self._nothing = not (self._tails or study.measured or study.errors.seen or study.intervals)

    def of(self, row: int, about: Description, intervals: dict[str, tuple[float, float]]) -> tuple[Any, ...]:
        if self._nothing:
            return ()
        study = self._study
        if row >= study.estimates and study.measured is not None:
            runs = study.measured.runs_of(row - study.estimates)
            return runs, None, {}, False, self._percentiles(row, 1.0), None
        tail = study.question.assume_tail if self._tails else None
        cautious = study.question.cautious and bool(intervals)
        backing = self._backing(row, about["concurrency"])
        return None, backing, intervals, cautious, self._percentiles(row, tail or 1.0), tail

    def _backing(self, row: int, concurrency: int) -> Backing | None:
        if not self._study.errors.seen:
            return None
        engine_id, gpu_id, model_id = (
            int(self._study.about[name][row]) for name in ("engine_id", "gpu_id", "model_id")
        )
        return self._study.errors.nearest(engine_id, gpu_id, model_id, concurrency)

    def _percentiles(self, row: int, tail: float) -> dict[str, float]:
        if not self._tails:
            return {}
        figures, _ = self._study.bounded(np.array([row]))
        return {slo.name: float(figures[line, 0]) * tail for line, slo in self._tails}


def _tie_break(config: RankedConfig) -> tuple[Any, ...]:
    """Equal figures share a place; then names decide, compared here because databases sort text in different ways."""
    return (
        config.place,
        config.gpu,
        config.tensor_parallel,
        config.pipeline_parallel,
        config.data_parallel,
        config.expert_parallel,
        config.precision,
        config.kv_precision or "",
        config.server,
        config.gpu_memory_utilization,
        config.max_model_len,
        config.task_id or 0,
    )


def unranked_rows(study: Study) -> list[int]:
    """Of every group and GPU type that qualifies but cannot be valued the row with the highest throughput per GPU."""
    rows = np.flatnonzero(study.own & study.trusted & study.found.qualifies & np.isnan(study.values))
    if not len(rows):
        return []
    per_gpu = study.found.figures["output_tokens_per_s"][rows] / study.num_gpus[rows]
    kind = study.cast.group[rows] * len(study.cast.gpus) + study.cast.gpu[rows]
    order = np.lexsort((study.about["task_id"][rows], study.num_gpus[rows], -per_gpu, kind))
    first: list[int] = rows[order[np.diff(kind[order], prepend=-1) != 0]].tolist()
    return first


def unranked_of(study: Study, rows: list[int], described: Described) -> dict[int, list[Unranked]]:
    """These rows in words, by group, in the order of the names of GPUs."""
    missing = study.prices.missing if study.aim.needs("price") else {}
    reasons = [missing.get(gpu, "its TDP is not known") for gpu in study.cast.gpus]
    found: dict[int, list[Unranked]] = {}
    for row, group, gpu in zip(rows, study.cast.group[rows].tolist(), study.cast.gpu[rows].tolist(), strict=True):
        config = None if study.question.briefly else described.operating(row)
        found.setdefault(group, []).append(Unranked(study.cast.gpus[gpu], reasons[gpu], config))
    return {group: sorted(types, key=lambda one: one.gpu) for group, types in found.items()}


# --- several engines ---------------------------------------------------------------------------------------------


def _opinions(study: Study, rows: Indices) -> dict[int, tuple[Opinion, ...]]:
    """What every engine that answered says of these rows' configurations, the row itself first.

    A measured configuration may be that of several tasks of an engine: the best of them is its opinion.
    """
    if len(study.cast.engines) < 2:
        return {}
    alike = _alike(study.configuration, study.configuration[rows])
    of_case: dict[int, list[int]] = {}
    if study.measured is not None:
        shown = [study.measured.estimated[row - study.estimates] for row in rows.tolist() if row >= study.estimates]
        of_case = _alike(study.about["case_id"][: study.estimates], np.array([case for one in shown for case in one]))
    valued = study.valued
    found = {}
    for row in rows.tolist():
        others = alike[int(study.configuration[row])]
        if row >= study.estimates and study.measured is not None:
            cases = study.measured.estimated[row - study.estimates]
            estimates = [other for case in cases for other in of_case.get(case, ())]
            others = [row, *_best_of_engines(study, valued, estimates)]
        if len(others) > 1:
            others = sorted(others, key=lambda other: (other != row, study.cast.engine[other]))
            found[row] = tuple(_opinion(study, valued, row, other) for other in others)
    return found


def _alike(column: Array, wanted: Array) -> dict[int, list[int]]:
    """The rows that have one of these numbers in a column, by number."""
    found: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(column, wanted)).tolist():
        found.setdefault(int(column[row]), []).append(row)
    return found


def _best_of_engines(study: Study, valued: Flags, rows: list[int]) -> list[int]:
    best: dict[int, tuple[bool, float, int]] = {}
    sign = -1 if study.aim.more_is_better else 1
    for row in rows:
        how_good = (not valued[row], sign * float(study.values[row]) if valued[row] else 0.0, row)
        engine = int(study.cast.engine[row])
        best[engine] = min(best.get(engine, how_good), how_good)
    return [row for _, _, row in best.values()]


def _opinion(study: Study, valued: Flags, row: int, other: int) -> Opinion:
    value = float(study.values[other]) if valued[other] else None
    if value is not None and study.aim.is_weighted:
        value /= float(study.values[row])
    return Opinion(study.cast.engines[study.cast.engine[other]], value)


# --- prices that decide ------------------------------------------------------------------------------------------


def flips_of(study: Study, ranked: Placed) -> dict[int, list[Flip]]:
    """Where another GPU type would be best if one GPU's price were the lowest or the highest of its range."""
    if not study.aim.needs("price") or not len(ranked.rows):
        return {}
    # What is less trusted does not win by a price.
    rows, of_group, place = ranked.rows, ranked.group, ranked.place
    if (level := study.level[rows]).any():
        best_level = np.full(len(study.cast.groups), level.max())
        np.minimum.at(best_level, of_group, level)
        trusted = level == best_level[of_group]
        rows, of_group, place = rows[trusted], of_group[trusted], place[trusted]
    types = of_group * len(study.cast.gpus) + study.cast.gpu[rows]
    order = np.argsort(types, kind="stable")
    rows, types, place = rows[order], types[order], place[order]
    starts = np.flatnonzero(np.diff(types, prepend=-1) != 0)
    counts = np.diff(starts, append=len(rows))
    figures = {name: study.found.figures[name][rows] for name in study.aim.columns}

    def best(usd: Array) -> tuple[Array, Indices]:
        """The best value of every GPU type of every group, and the first row that has it."""
        values = study.aim.values(figures, study.num_gpus[rows], usd[rows], study.worth.tdp_w[rows])
        lowest = np.minimum.reduceat(values, starts)
        have_it = np.flatnonzero(values == np.repeat(lowest, counts))
        return lowest, rows[have_it[np.searchsorted(have_it, starts)]]

    now, _ = best(study.worth.usd)
    low, low_row = best(study.worth.usd_low)
    high, high_row = best(study.worth.usd_high)
    kind = types[starts]
    group, gpu = kind // len(study.cast.gpus), kind % len(study.cast.gpus)
    found: dict[int, list[Flip]] = {}
    # Figures that are equal to six decimals are equal.
    now_count, low_count, high_count = (np.rint(values * DECIMALS).tolist() for values in (now, low, high))
    # Of every group the best type first, ties in the order of the ranking.
    by_name = np.argsort(np.argsort(study.cast.gpus))
    by_group = np.lexsort((by_name[gpu], place[starts], group))
    bounds = [*np.flatnonzero(np.diff(group[by_group], prepend=-1) != 0).tolist(), len(by_group)]
    for start, stop in itertools.pairwise(bounds):
        first, *others = by_group[start:stop].tolist()
        if not others:
            continue
        winner = study.cast.gpus[gpu[first]]
        flips = []
        if now_count[others[0]] < high_count[first]:
            usd = study.worth.usd_high[high_row[first]] / study.num_gpus[high_row[first]]
            flips.append(Flip(winner, float(usd), study.cast.gpus[gpu[others[0]]], winner))
        for other in others:
            if low_count[other] < now_count[first]:
                usd = study.worth.usd_low[low_row[other]] / study.num_gpus[low_row[other]]
                name = study.cast.gpus[gpu[other]]
                flips.append(Flip(name, float(usd), name, winner))
        if flips:
            found[int(group[first])] = flips
    return found
