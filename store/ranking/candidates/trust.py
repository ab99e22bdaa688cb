"""Trust in estimates: the errors of their engines over the measured runs that are nearest to them.

*Near* are runs on the same GPU family, of the same kind of model (dense or mixture of experts), in the same precision,
over the same link between the GPUs, at no more than twice their tensor parallelism and at no more than twice, and no
less than half, of their load. Fewer GPUs than were measured do nothing that more of them do not do as well, so runs say
of every smaller tensor parallelism, and of one GPU alone, which has no link: errors are as large where such runs were
kept from the fit as where they were not. It takes eight runs, and two models, since one alone says too little of
others; or one model where its family was measured well otherwise. An estimate with such runs is *backed*; where a limit
is on a simulated percentile, runs that report it have to be near as well, and of requests that arrive there are none.
Without, the errors of its family as a whole say what is known, whatever the precision, link and load, or else those on
families that the engine was not fitted to. Of several sources the one with the most runs counts. What was measured on
GPUs of another vendor says nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.ranking.candidates.placing import Indices
from gpuscout.store.ranking.measures import MEASURES, Aim, Array
from gpuscout.store.ranking.question import confidence
from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.question.limits import Flags
from gpuscout.store.ranking.types import Backing, RankedConfig, Tie
from gpuscout.store.remembered import remembered
from gpuscout.store.results.trust import errors_of
from gpuscout.store.schema import gpus, models
from gpuscout.sweeps.curves import PERCENTILES
from gpuscout.sweeps.precision import PRECISIONS
from gpuscout.sweeps.slo import is_percentile, percentile_name, percentile_of
from gpuscout.sweeps.trust import ANY, TRUSTED_METRICS, Link, ObservedError, link_of, precision_class

_CLASSES = sorted({precision_class(precision) for precision in PRECISIONS})
_CLASS_OF = np.array([_CLASSES.index(precision_class(precision)) for precision in PRECISIONS])
_LINKS = list(Link)
_APPROXIMATE = "approximate"
_KINDS = ("dense", "moe", _APPROXIMATE)
_LOAD_FACTOR = 2
_SIZE_FACTOR = 2
_FEWEST_RUNS = 8
_FEWEST_MODELS = 2
# From so many on a family counts as measured well.
_MANY_MODELS = 4
_MANY_RUNS = 200
# The better of two must be the better one with this probability; it is where a lead equals the joint error.
_SURE_ENOUGH = 0.75


def trusted_metric(aim: Aim) -> str:
    """Return the metric whose errors tell how wrong an objective may be; of weighted ones the one that weighs most.

    What an hour costs is not estimated, so it only tells where nothing else is weighed. An end-to-end latency is mostly
    ITL.
    """
    name, _ = max(aim.weights, key=lambda pair: (pair[0] != "cost-per-hour", pair[1]))
    return metric_with_errors(MEASURES[name].column)


def metric_with_errors(column: str) -> str:
    """Return the metric whose errors stand for those of a column of operating points."""
    if column == "requests_per_s":
        return "output_tokens_per_s"
    return column if column in TRUSTED_METRICS or is_percentile(column) else "itl_ms"


def _mean_of(metric: str) -> str:
    """Return the metric whose runs say how well a family was measured: of a percentile, its mean."""
    return metric_with_errors(metric.partition("_")[2]) if is_percentile(metric) else metric


@dataclass(frozen=True)
class _Gpu:
    family: str
    vendor: str
    scale_up_gpus: int


@dataclass(frozen=True)
class Place:
    """Position of an estimate among measured runs: ids, sizes, a code of its precision, its load.

    `arriving`: requests come at a rate, which says of percentiles that runs of closed loops are not near them.
    """

    engine_id: int
    gpu_id: int
    model_id: int
    num_gpus: int
    tensor_parallel: int
    precision: int
    concurrency: float
    arriving: bool = False


@dataclass(frozen=True)
class Errors:
    """The errors of engines, by engine id, GPU family (or vendor), kind of model and metric; most runs first."""

    seen: Mapping[tuple[int, str, str, str], Sequence[tuple[str, ObservedError]]]
    gpus: Mapping[int, _Gpu]
    kinds: Mapping[int, str]
    measured_well: frozenset[tuple[int, str, str]] = frozenset()  # engine ids, families and metrics

    @classmethod
    def of(cls, connection: sa.Connection, engine_ids: Sequence[int], model_ids: Sequence[int]) -> Errors:
        """Read them. Three statements over small tables; one where no errors are known."""
        key = (cls, tuple(engine_ids), tuple(model_ids))
        return remembered(connection, key, lambda: cls._read(connection, engine_ids, model_ids))

    @classmethod
    def _read(cls, connection: sa.Connection, engine_ids: Sequence[int], model_ids: Sequence[int]) -> Errors:
        seen: dict[tuple[int, str, str, str], list[tuple[str, ObservedError]]] = {}
        for engine_id, errors in errors_of(connection, engine_ids).items():
            for source, error in sorted(errors, key=lambda pair: (-pair[1].runs, pair[0])):
                seen.setdefault((engine_id, error.gpu_family, error.model_kind, error.metric), []).append(
                    (source, error)
                )
        if not seen:
            return cls({}, {}, {})
        _add_tails(seen)
        known = connection.execute(sa.select(gpus.c.id, gpus.c.family, gpus.c.vendor, gpus.c.figures))
        of_gpu = {
            row.id: _Gpu(row.family, row.vendor, int(json.loads(row.figures).get("scale_up_gpus") or 1))
            for row in known
        }
        query = sa.select(models.c.id, models.c.architecture).where(models.c.id.in_(model_ids))
        architectures = connection.execute(query)
        kinds = {row.id: _kind(json.loads(row.architecture)) for row in architectures}
        return cls(seen, of_gpu, kinds, _measured_well(seen))

    def nearest(self, place: Place, metric: str) -> Backing | None:
        """Return the errors that are nearest to an estimate; None: nothing was measured that says anything of it."""
        if not self.seen:
            return None
        gpu, kind = self.gpus[place.gpu_id], self.kinds[place.model_id]
        own = self.seen.get((place.engine_id, gpu.family, kind, metric), ())
        elsewhere = place.arriving and is_percentile(metric)
        near = [] if elsewhere else [(source, error) for source, error in own if self._is_near(place, error)]
        if near:
            source, error = min(near, key=lambda one: self._distance(place, one[1]))
            return Backing(source, error, own_family=True, near=True)
        for family in (gpu.family, gpu.vendor):
            found = self.seen.get((place.engine_id, family, kind, metric), ())
            if whole := [(source, error) for source, error in found if error.precision == ANY]:
                source, error = min(whole, key=lambda one: _beyond(one[1], place.concurrency))
                return Backing(source, error, own_family=family == gpu.family, near=False)
        return None

    def _is_near(self, place: Place, error: ObservedError) -> bool:
        return (
            self._backs(place.engine_id, error)
            and error.precision == _CLASSES[_CLASS_OF[place.precision]]
            and self._link(place) in _links_near(error)
            and place.tensor_parallel <= _most_ranks(error)
            and _loads(error)[0] <= place.concurrency <= _loads(error)[1]
        )

    def _backs(self, engine_id: int, error: ObservedError) -> bool:
        """Return whether the runs say enough, and what they are of, to back an estimate."""
        well = (engine_id, error.gpu_family, _mean_of(error.metric)) in self.measured_well
        enough = error.runs >= _FEWEST_RUNS and (error.models >= _FEWEST_MODELS or well)
        return enough and ANY not in (error.precision, error.link)

    def _distance(self, place: Place, error: ObservedError) -> tuple[float, bool, float]:
        """Return the distance of near runs from an estimate: in size, then in link, then in load."""
        least, most = error.tp_from, error.tp_to or math.inf
        factor = max(least / place.tensor_parallel, place.tensor_parallel / most, 1.0)
        return factor, error.link != self._link(place), _beyond(error, place.concurrency)

    def _link(self, place: Place) -> Link:
        return link_of(place.num_gpus, self.gpus[place.gpu_id].scale_up_gpus)

    def backed(self, about: Mapping[str, Array], concurrency: Array, metric: str) -> Flags:
        """Return a mask of the estimates with measured runs near them: `_is_near` for whole columns."""
        result = np.zeros(len(concurrency), dtype=bool)
        for alike, error in self._alike(about, metric):
            least, most = _loads(error)
            load = concurrency[alike]
            result[alike[(load >= least) & (load <= most)]] = True
        return result

    def most_load(self, about: Mapping[str, Array], metric: str) -> Array:
        """Return the most requests in flight that each estimate has measured runs near; NaN: none whatever the load."""
        result = np.full(len(about["gpu_id"]), np.nan)
        for alike, error in self._alike(about, metric):
            result[alike] = np.fmax(result[alike], _loads(error)[1])
        return result

    def _alike(self, about: Mapping[str, Array], metric: str) -> Iterator[tuple[Indices, ObservedError]]:
        """Yield the estimates that each error may back, whatever their load, as positions."""
        backing = [
            (key, error)
            for key, errors in self.seen.items()
            for _, error in errors
            if key[3] == metric and self._backs(key[0], error)
        ]
        if not backing:
            return
        families = sorted({gpu.family for gpu in self.gpus.values()})
        family = _looked_up({row_id: families.index(gpu.family) for row_id, gpu in self.gpus.items()}, about["gpu_id"])
        kind = _looked_up({row_id: _KINDS.index(name) for row_id, name in self.kinds.items()}, about["model_id"])
        fast = _looked_up({row_id: int(gpu.scale_up_gpus > 1) for row_id, gpu in self.gpus.items()}, about["gpu_id"])
        single, linked, pcie = (_LINKS.index(link) for link in (Link.SINGLE, Link.FAST, Link.PCIE))
        link = np.where(about["num_gpus"] == 1, single, np.where(fast == 1, linked, pcie))
        precision = _CLASS_OF[about["precision"].astype(np.int64)]

        def code(engine: Any, family: Any, kind: Any, precision: Any, link: Any) -> Any:
            """Return one number for the properties that must be equal, for columns or single values."""
            total = engine
            for part, size in (
                (family, len(families)),
                (kind, len(_KINDS)),
                (precision, len(_CLASSES)),
                (link, len(_LINKS)),
            ):
                total = total * size + part
            return total

        codes = code(about["engine_id"].astype(np.int64), family, kind, precision, link)
        codes[about["drafted"] > 0] = -1  # errors are those of runs without drafts
        if is_percentile(metric):
            codes[about["arriving"] > 0] = -1  # and in a closed loop, where others wait
        for (engine_id, name, model_kind, _), error in backing:
            if (
                model_kind not in _KINDS
                or name not in families
                or error.link not in _LINKS
                or error.precision not in _CLASSES
            ):
                continue
            wanted = [
                code(
                    engine_id,
                    families.index(name),
                    _KINDS.index(model_kind),
                    _CLASSES.index(error.precision),
                    _LINKS.index(near),
                )
                for near in _links_near(error)
            ]
            alike = np.flatnonzero(np.logical_or.reduce([codes == one for one in wanted]))
            yield alike[about["tensor_parallel"][alike] <= _most_ranks(error)], error


def _kind(architecture: Mapping[str, Any]) -> str:
    """Return the kind of a stored model. What was seen on known architectures says nothing of one that was guessed."""
    if architecture.get("approximate"):
        return _APPROXIMATE
    return "moe" if architecture.get("experts") else "dense"


def _measured_well(
    seen: Mapping[tuple[int, str, str, str], Sequence[tuple[str, ObservedError]]],
) -> frozenset[tuple[int, str, str]]:
    """Return the families of which one source has many runs of many models, dense and of experts together."""
    runs: Counter[tuple[int, str, str, str]] = Counter()
    models: dict[tuple[int, str, str, str], dict[str, int]] = defaultdict(dict)
    for (engine_id, family, kind, metric), errors in seen.items():
        for source, error in errors:
            if error.precision == ANY:
                key = (engine_id, family, metric, source)
                runs[key] += error.runs
                models[key][kind] = max(models[key].get(kind, 0), error.models)
    return frozenset(
        key[:3] for key, kinds in models.items() if sum(kinds.values()) >= _MANY_MODELS and runs[key] >= _MANY_RUNS
    )


def _add_tails(seen: dict[tuple[int, str, str, str], list[tuple[str, ObservedError]]]) -> None:
    """Let the errors of the next higher percentile stand for one that no run reports."""
    known = [key for key in seen if is_percentile(key[3])]
    for engine_id, family, kind, metric in sorted(known, key=lambda key: (key[:3], percentile_of(key[3]))):
        _, _, column = metric.partition("_")
        for percentile in PERCENTILES:
            if percentile <= percentile_of(metric):
                lower = (engine_id, family, kind, percentile_name(column, percentile))
                seen.setdefault(lower, seen[engine_id, family, kind, metric])


def _links_near(error: ObservedError) -> tuple[Link, ...]:
    """Return the links that these runs say something of: theirs, and one GPU, which has none."""
    return tuple(dict.fromkeys((Link(error.link), Link.SINGLE)))


def _most_ranks(error: ObservedError) -> float:
    """Return the greatest tensor parallelism that is near these runs."""
    return (error.tp_to or math.inf) * _SIZE_FACTOR


def _loads(error: ObservedError) -> tuple[float, float]:
    """Return the least and the most requests in flight that are near these runs."""
    return error.concurrency_from / _LOAD_FACTOR, (error.concurrency_to or math.inf) * _LOAD_FACTOR


def _beyond(error: ObservedError, concurrency: float) -> float:
    """Return by how many requests in flight an estimate is outside the band of these errors."""
    return max(error.concurrency_from - concurrency, concurrency - (error.concurrency_to or np.inf), 0.0)


def _looked_up(of: Mapping[int, int], ids: Array) -> Indices:
    table = np.zeros(max(of, default=0) + 1, dtype=np.int64)
    table[list(of)] = list(of.values())
    return table[ids.astype(np.int64)]


# --- leads -------------------------------------------------------------------------------------------------------


def ties_of(aim: Aim, best_per_gpu: Sequence[RankedConfig]) -> tuple[Tie, ...]:
    """Return the GPU types that the best one does not lead by more than both may be wrong by."""
    if len(best_per_gpu) < 2:
        return ()
    best, *others = best_per_gpu
    ties = []
    for other in others:
        if other.behind_best < 0:
            continue  # it is better, but less trusted
        more = aim.more_is_better
        widths = _width(best, worse=True, more_is_better=more), _width(other, worse=False, more_is_better=more)
        if None in widths:
            continue
        known = [width for width in widths if width is not None]
        ratio = best.objective / other.objective if aim.more_is_better else other.objective / best.objective
        sure = confidence.probability_ahead(math.log(ratio), known) if ratio > 0 else 1.0
        if sure < _SURE_ENOUGH:
            ties.append(Tie(other, other.behind_best, confidence.joint_error(known), sure))
    return tuple(ties)


def _width(config: RankedConfig, *, worse: bool, more_is_better: bool) -> float | None:
    """Return the scatter of measurements around the objective, on its worse or better side; None: not known."""
    if config.objective <= 0:
        return None
    if config.objective_range is not None:
        low, high = config.objective_range
        return confidence.width(config.objective, low if worse == more_is_better else high)
    if config.kind is Kind.MEASURED:
        return 0.0
    return None if config.backing is None else confidence.width_of_median(config.backing.error.median_error)
