"""How far estimates can be trusted: the errors of their engines over the measured runs that are nearest to them.

Nearest are runs on the same GPU family, of the same kind of model (dense or mixture of experts), at a concurrency of
the same band, or else of the nearest; where that family has none, those on all families of the vendor. The answer says
which. Of several sources the one with the most runs counts. What was measured on GPUs of another vendor says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from gpuscout.store.ranking.limits import Flags
from gpuscout.store.ranking.measures import MEASURES, Aim, Array
from gpuscout.store.ranking.placing import Indices
from gpuscout.store.ranking.types import Backing, Doubt, RankedConfig
from gpuscout.store.results.trust import errors_of
from gpuscout.store.schema import gpus, models
from gpuscout.sweeps.trust import TRUSTED_METRICS, ObservedError

MEASURED_LEVEL, BACKED_LEVEL, OTHER_LEVEL = range(3)
"""How far a result can be trusted, see `Trusted`: the lower the better."""


def trusted_metric(aim: Aim) -> str:
    """The metric whose errors tell how wrong an objective may be; of weighted ones the one that weighs most.

    What an hour costs is not estimated, so it only tells where nothing else is weighed. An end-to-end latency is mostly
    ITL.
    """
    name, _ = max(aim.weights, key=lambda pair: (_is_estimated(pair[0]), pair[1]))
    column = MEASURES[name].column
    return column if column in TRUSTED_METRICS else "itl_ms"


def _is_estimated(objective: str) -> bool:
    return objective != "cost-per-hour"


@dataclass(frozen=True)
class Errors:
    """The errors of engines in one metric, by engine id, GPU family and kind of model, the one that counts first."""

    seen: dict[tuple[int, str, str], list[tuple[str, ObservedError]]]
    families: dict[int, str]
    vendors: dict[int, str]
    kinds: dict[int, str]

    @classmethod
    def of(cls, connection: sa.Connection, engine_ids: Sequence[int], model_ids: Sequence[int], metric: str) -> Errors:
        """Read them. Three statements over small tables; one where no errors are known."""
        seen: dict[tuple[int, str, str], list[tuple[str, ObservedError]]] = {}
        for engine_id, errors in errors_of(connection, engine_ids).items():
            for source, error in sorted(errors, key=lambda pair: (-pair[1].runs, pair[0])):
                if error.metric == metric:
                    seen.setdefault((engine_id, error.gpu_family, error.model_kind), []).append((source, error))
        if not seen:
            return cls({}, {}, {}, {})
        known = connection.execute(sa.select(gpus.c.id, gpus.c.family, gpus.c.vendor)).all()
        families, vendors = {row.id: row.family for row in known}, {row.id: row.vendor for row in known}
        query = sa.select(models.c.id, models.c.architecture).where(models.c.id.in_(model_ids))
        architectures = connection.execute(query)
        kinds = {row.id: "moe" if json.loads(row.architecture).get("experts") else "dense" for row in architectures}
        return cls(seen, families, vendors, kinds)

    def nearest(self, engine_id: int, gpu_id: int, model_id: int, concurrency: float) -> Backing | None:
        """The errors that are nearest to an estimate; None: no measured runs are near it."""
        if not self.seen:
            return None
        own, vendor = self.families[gpu_id], self.vendors[gpu_id]
        for family in (own, vendor):
            found = self.seen.get((engine_id, family, self.kinds[model_id]), ())
            for source, error in found:
                if _beyond(error, concurrency) == 0:
                    return Backing(source, error, own_family=family == own, same_load=True)
            # What another family did at this load says less than what the own one did at another.
            if found and family == own:
                source, error = min(found, key=lambda one: _beyond(one[1], concurrency))
                return Backing(source, error, own_family=True, same_load=False)
        return None

    def backed(self, engine: Array, gpu: Array, model: Array, concurrency: Array) -> Flags:
        """Which of these estimates have measured runs of their own GPU family near them."""
        result = np.zeros(len(engine), dtype=bool)
        if not self.seen:
            return result
        words = sorted(set(self.families.values()))
        family = _looked_up({row_id: words.index(name) for row_id, name in self.families.items()}, gpu)
        kind = _looked_up({row_id: int(name == "moe") for row_id, name in self.kinds.items()}, model)
        like = (engine.astype(np.int64) * len(words) + family) * 2 + kind
        for (engine_id, name, model_kind), errors in self.seen.items():
            if name not in words:  # all families of a vendor, or one that the store has no GPU of
                continue
            same = like == (engine_id * len(words) + words.index(name)) * 2 + int(model_kind == "moe")
            for _, error in errors:
                result |= (
                    same & (concurrency >= error.concurrency_from) & (concurrency <= (error.concurrency_to or np.inf))
                )
        return result


def _beyond(error: ObservedError, concurrency: float) -> float:
    """By how many requests in flight an estimate is outside the band of these errors."""
    return max(error.concurrency_from - concurrency, concurrency - (error.concurrency_to or np.inf), 0.0)


def _looked_up(of: dict[int, int], ids: Array) -> Indices:
    table = np.zeros(max(of, default=0) + 1, dtype=np.int64)
    table[list(of)] = list(of.values())
    return table[ids.astype(np.int64)]


def doubt_of(aim: Aim, best_per_gpu: Sequence[RankedConfig]) -> Doubt | None:
    """Whether the best may not be the best: it leads another GPU type by less than the error of one of the two."""
    if len(best_per_gpu) < 2 or not any(_is_estimated(name) for name, _ in aim.weights):
        return None
    best, runner_up = best_per_gpu[:2]
    known = [config for config in (best, runner_up) if config.backing is not None]
    if not known or runner_up.behind_best < 0:
        return None
    doubtful = max(known, key=_error)
    return (
        Doubt(runner_up.behind_best, _error(doubtful), doubtful, runner_up)
        if (runner_up.behind_best < _error(doubtful))
        else None
    )


def _error(config: RankedConfig) -> float:
    return config.backing.error.median_error if config.backing is not None else 0.0
