"""From placed rows to what a ranking tells of each group: configurations, opinions of engines, prices that decide."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuscout.store.ranking.candidates import Candidates
from gpuscout.store.ranking.descriptions import Description, Descriptions
from gpuscout.store.ranking.limits import Flags
from gpuscout.store.ranking.measures import DECIMALS, Array
from gpuscout.store.ranking.placing import Indices, Placed
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


def configs_of(pool: Candidates, shown: Shown, described: Descriptions) -> dict[int, list[RankedConfig]]:
    """The configurations of every group, best first."""
    opinions = _opinions(pool, shown.rows)
    aim, weighted, more_is_better = pool.aim, pool.aim.is_weighted, pool.aim.more_is_better
    also = [name for name in pool.question.also if name != aim.name]
    parts = [name for name, _ in aim.weights]
    names = list(dict.fromkeys([*parts, *also]))
    objective = aim.name
    found: dict[int, list[tuple[tuple[Any, ...], RankedConfig]]] = {}
    best: dict[int, float] = {}
    # The best of a group comes first, before anything is compared with it.
    credentials = _Credentials(pool)
    columns = (pool.values, pool.unit_costs.usd, pool.operating.interpolated)
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

    def __init__(self, pool: Candidates) -> None:
        self._pool = pool
        self._tails = [(line, slo) for line, slo in enumerate(pool.question.slos) if slo.percentile is not None]
        self._nothing = not (self._tails or pool.measured or pool.errors.seen or pool.intervals)

    def of(self, row: int, about: Description, intervals: dict[str, tuple[float, float]]) -> tuple[Any, ...]:
        if self._nothing:
            return ()
        pool = self._pool
        if row >= pool.estimates and pool.measured is not None:
            runs = pool.measured.runs_of(row - pool.estimates)
            return runs, None, {}, False, self._percentiles(row, 1.0), None
        tail = pool.question.assume_tail if self._tails else None
        cautious = pool.question.cautious and bool(intervals)
        backing = self._backing(row, about["concurrency"])
        return None, backing, intervals, cautious, self._percentiles(row, tail or 1.0), tail

    def _backing(self, row: int, concurrency: int) -> Backing | None:
        if not self._pool.errors.seen:
            return None
        engine_id, gpu_id, model_id = (int(self._pool.about[name][row]) for name in ("engine_id", "gpu_id", "model_id"))
        return self._pool.errors.nearest(engine_id, gpu_id, model_id, concurrency)

    def _percentiles(self, row: int, tail: float) -> dict[str, float]:
        if not self._tails:
            return {}
        figures, _ = self._pool.bounded(np.array([row]))
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


def unranked_rows(pool: Candidates) -> list[int]:
    """Of every group and GPU type that qualifies but cannot be valued the row with the highest throughput per GPU."""
    rows = np.flatnonzero(pool.own & pool.trusted & pool.operating.qualifies & np.isnan(pool.values))
    if not len(rows):
        return []
    per_gpu = pool.operating.figures["output_tokens_per_s"][rows] / pool.num_gpus[rows]
    kind = pool.codes.group[rows] * len(pool.codes.gpus) + pool.codes.gpu[rows]
    order = np.lexsort((pool.about["task_id"][rows], pool.num_gpus[rows], -per_gpu, kind))
    first: list[int] = rows[order[np.diff(kind[order], prepend=-1) != 0]].tolist()
    return first


def unranked_of(pool: Candidates, rows: list[int], described: Descriptions) -> dict[int, list[Unranked]]:
    """These rows in words, by group, in the order of the names of GPUs."""
    missing = pool.prices.missing if pool.aim.needs("price") else {}
    reasons = [missing.get(gpu, "its TDP is not known") for gpu in pool.codes.gpus]
    found: dict[int, list[Unranked]] = {}
    for row, group, gpu in zip(rows, pool.codes.group[rows].tolist(), pool.codes.gpu[rows].tolist(), strict=True):
        config = None if pool.question.briefly else described.operating(row)
        found.setdefault(group, []).append(Unranked(pool.codes.gpus[gpu], reasons[gpu], config))
    return {group: sorted(types, key=lambda one: one.gpu) for group, types in found.items()}


# --- several engines ---------------------------------------------------------------------------------------------


def _opinions(pool: Candidates, rows: Indices) -> dict[int, tuple[Opinion, ...]]:
    """What every engine that answered says of these rows' configurations, the row itself first.

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
    """The rows that have one of these numbers in a column, by number."""
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


# --- prices that decide ------------------------------------------------------------------------------------------


def flips_of(pool: Candidates, ranked: Placed) -> dict[int, list[Flip]]:
    """Where another GPU type would be best if one GPU's price were the lowest or the highest of its range."""
    if not pool.aim.needs("price") or not len(ranked.rows):
        return {}
    # What is less trusted does not win by a price.
    rows, of_group, place = ranked.rows, ranked.group, ranked.place
    if (level := pool.level[rows]).any():
        best_level = np.full(len(pool.codes.groups), level.max())
        np.minimum.at(best_level, of_group, level)
        trusted = level == best_level[of_group]
        rows, of_group, place = rows[trusted], of_group[trusted], place[trusted]
    types = of_group * len(pool.codes.gpus) + pool.codes.gpu[rows]
    order = np.argsort(types, kind="stable")
    rows, types, place = rows[order], types[order], place[order]
    starts = np.flatnonzero(np.diff(types, prepend=-1) != 0)
    counts = np.diff(starts, append=len(rows))
    figures = {name: pool.operating.figures[name][rows] for name in pool.aim.columns}

    def best(usd: Array) -> tuple[Array, Indices]:
        """The best value of every GPU type of every group, and the first row that has it."""
        values = pool.aim.values(figures, pool.num_gpus[rows], usd[rows], pool.unit_costs.tdp_w[rows])
        lowest = np.minimum.reduceat(values, starts)
        have_it = np.flatnonzero(values == np.repeat(lowest, counts))
        return lowest, rows[have_it[np.searchsorted(have_it, starts)]]

    now, _ = best(pool.unit_costs.usd)
    low, low_row = best(pool.unit_costs.usd_low)
    high, high_row = best(pool.unit_costs.usd_high)
    kind = types[starts]
    group, gpu = kind // len(pool.codes.gpus), kind % len(pool.codes.gpus)
    found: dict[int, list[Flip]] = {}
    # Figures that are equal to six decimals are equal.
    now_count, low_count, high_count = (np.rint(values * DECIMALS).tolist() for values in (now, low, high))
    # Of every group the best type first, ties in the order of the ranking.
    by_name = np.argsort(np.argsort(pool.codes.gpus))
    by_group = np.lexsort((by_name[gpu], place[starts], group))
    bounds = [*np.flatnonzero(np.diff(group[by_group], prepend=-1) != 0).tolist(), len(by_group)]
    for start, stop in itertools.pairwise(bounds):
        first, *others = by_group[start:stop].tolist()
        if not others:
            continue
        winner = pool.codes.gpus[gpu[first]]
        flips = []
        if now_count[others[0]] < high_count[first]:
            usd = pool.unit_costs.usd_high[high_row[first]] / pool.num_gpus[high_row[first]]
            flips.append(Flip(winner, float(usd), pool.codes.gpus[gpu[others[0]]], winner))
        for other in others:
            if low_count[other] < now_count[first]:
                usd = pool.unit_costs.usd_low[low_row[other]] / pool.num_gpus[low_row[other]]
                name = pool.codes.gpus[gpu[other]]
                flips.append(Flip(name, float(usd), name, winner))
        if flips:
            found[int(group[first])] = flips
    return found
