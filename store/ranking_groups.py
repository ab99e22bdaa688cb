"""From placed rows to what a ranking tells of each group: configurations, opinions of engines, prices that decide."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuscout.store.ranking_measures import DECIMALS, Array
from gpuscout.store.ranking_places import Indices, Placed
from gpuscout.store.ranking_study import Described, Study
from gpuscout.store.ranking_types import Flip, Operating, Opinion, RankedConfig, Unranked


@dataclass(frozen=True)
class Shown:
    """The rows of a ranking that are returned, by group: `top` places and the best of every GPU type."""

    rows: Indices
    group: Indices
    place: Indices

    @classmethod
    def of(cls, ranked: Placed, top: int | None) -> Shown:
        keep = np.ones(len(ranked.rows), dtype=bool)
        if top is not None:
            keep = (ranked.place <= top) | (ranked.gpu_place == 1)
        return cls(ranked.rows[keep], ranked.group[keep], ranked.place[keep])


def configs_of(study: Study, shown: Shown, described: Described) -> dict[int, list[RankedConfig]]:
    """The configurations of every group, best first."""
    opinions = _opinions(study, shown.rows)
    also = [name for name in study.question.also if name != study.aim.name]
    parts = [name for name, _ in study.aim.weights]
    names = list(dict.fromkeys([*parts, *also]))
    found: dict[int, list[tuple[tuple[Any, ...], RankedConfig]]] = {}
    best: dict[int, float] = {}
    # The best of a group comes first, before anything is compared with it.
    columns = (study.values, study.worth.usd, study.found.interpolated)
    figures = (column[shown.rows].tolist() for column in columns)
    for row, group, place, value, usd, interpolated in zip(
        shown.rows.tolist(), shown.group.tolist(), shown.place.tolist(), *figures, strict=True
    ):
        about = described[row]
        first = best.setdefault(group, value)
        worse = first - value if study.aim.more_is_better else value - first
        known = also or study.aim.is_weighted
        in_order: list[Any] = [
            *map(about.__getitem__, Operating.__match_args__),
            place,
            value / first if study.aim.is_weighted else value,
            # Figures that count as equal may differ in the last bits, to either side.
            max(worse / first, 0.0) if first else 0.0,
            interpolated,
            None if math.isnan(usd) else usd,
            described.values(row, about, names) if known else {study.aim.name: value},
            opinions.get(row, ()),
        ]
        config = RankedConfig(*in_order)
        found.setdefault(group, []).append((_tie_break(config), config))
    return {
        group: [config for _, config in sorted(configs, key=lambda pair: pair[0])] for group, configs in found.items()
    }


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
        config.task_id,
    )


def unranked_rows(study: Study) -> list[int]:
    """Of every group and GPU type that qualifies but cannot be valued the row with the highest throughput per GPU."""
    rows = np.flatnonzero(study.own & study.found.qualifies & np.isnan(study.values))
    if not len(rows):
        return []
    per_gpu = study.found.figures["output_tokens_per_s"][rows] / study.num_gpus[rows]
    kind = study.cast.group[rows] * len(study.cast.gpus) + study.cast.gpu[rows]
    order = np.lexsort((study.rows.about["task_id"][rows], study.num_gpus[rows], -per_gpu, kind))
    first: list[int] = rows[order[np.diff(kind[order], prepend=-1) != 0]].tolist()
    return first


def unranked_of(study: Study, rows: list[int], described: Described) -> dict[int, list[Unranked]]:
    """These rows in words, by group, in the order of the names of GPUs."""
    found: dict[int, list[Unranked]] = {}
    for row in rows:
        config = described.operating(row)
        no_price = study.aim.needs("price") and config.gpu in study.prices.missing
        reason = study.prices.missing[config.gpu] if no_price else "its TDP is not known"
        found.setdefault(int(study.cast.group[row]), []).append(Unranked(config, reason))
    return {group: sorted(configs, key=lambda one: one.config.gpu) for group, configs in found.items()}


# --- several engines ---------------------------------------------------------------------------------------------


def _opinions(study: Study, rows: Indices) -> dict[int, tuple[Opinion, ...]]:
    """What every engine that answered says of these rows' configurations, the engine ranked first."""
    if len(study.cast.engines) < 2:
        return {}
    asked = np.flatnonzero(np.isin(study.configuration, study.configuration[rows]))
    by_configuration: dict[int, list[int]] = {}
    for row in asked.tolist():
        by_configuration.setdefault(int(study.configuration[row]), []).append(row)
    found = {}
    for row in rows.tolist():
        others = by_configuration[int(study.configuration[row])]
        if len(others) > 1:
            others = sorted(others, key=lambda other: (other != row, study.cast.engine[other]))
            found[row] = tuple(_opinion(study, row, other) for other in others)
    return found


def _opinion(study: Study, row: int, other: int) -> Opinion:
    value = float(study.values[other]) if study.rankable[other] else None
    if value is not None and study.aim.is_weighted:
        value /= float(study.values[row])
    return Opinion(study.cast.engines[study.cast.engine[other]], value)


# --- prices that decide ------------------------------------------------------------------------------------------


def flips_of(study: Study, ranked: Placed) -> dict[int, list[Flip]]:
    """Where another GPU type would be best if one GPU's price were the lowest or the highest of its range."""
    if not study.aim.needs("price") or not len(ranked.rows):
        return {}
    rows = ranked.rows
    types = ranked.group * len(study.cast.gpus) + study.cast.gpu[rows]
    order = np.lexsort((np.arange(len(rows)), types))
    starts = np.flatnonzero(np.diff(types[order], prepend=-1) != 0)
    figures = {name: column[rows] for name, column in study.found.figures.items()}

    def best(usd: Array) -> tuple[Array, Indices]:
        """The best value of every GPU type of every group, and its row."""
        values = study.aim.values(figures, study.num_gpus[rows], usd[rows], study.worth.tdp_w[rows])
        by_value = np.lexsort((values, types))
        return values[by_value[starts]], rows[by_value[starts]]

    now, _ = best(study.worth.usd)
    low, low_row = best(study.worth.usd_low)
    high, high_row = best(study.worth.usd_high)
    kind = types[order[starts]]
    group, gpu = kind // len(study.cast.gpus), kind % len(study.cast.gpus)
    found: dict[int, list[Flip]] = {}
    # Of every group the best type first.
    by_group = np.lexsort((now, group))
    bounds = [*np.flatnonzero(np.diff(group[by_group], prepend=-1) != 0).tolist(), len(by_group)]
    for start, stop in itertools.pairwise(bounds):
        first, *others = by_group[start:stop].tolist()
        if not others:
            continue
        winner = study.cast.gpus[gpu[first]]
        flips = []
        if _less(now[others[0]], high[first]):
            usd = study.worth.usd_high[high_row[first]] / study.num_gpus[high_row[first]]
            flips.append(Flip(winner, float(usd), study.cast.gpus[gpu[others[0]]], winner))
        for other in others:
            if _less(low[other], now[first]):
                usd = study.worth.usd_low[low_row[other]] / study.num_gpus[low_row[other]]
                name = study.cast.gpus[gpu[other]]
                flips.append(Flip(name, float(usd), name, winner))
        if flips:
            found[int(group[first])] = flips
    return found


def _less(one: float, other: float) -> bool:
    return round(one * DECIMALS) < round(other * DECIMALS)
