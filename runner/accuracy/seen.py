"""Errors over measured runs, summed up for recommendations: by what an estimate has in common with the runs.

Of every GPU family and kind of model, by band of concurrency: the errors of all runs, and those of each precision and
link apart, with the range of tensor parallelism and of requests in flight that the runs cover.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.errors import metric_error, ratios, tail_ratios
from gpuscout.runner.accuracy.estimate import Estimates, RunCases
from gpuscout.runner.accuracy.names import RunNames
from gpuscout.store.measured import LoadKind
from gpuscout.sweeps.curves import FloatArray, IntArray
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.trust import ANY, ObservedError, link_of, precision_class

# Requests in flight, both ends included; None: no upper end.
CONCURRENCY_BANDS: tuple[tuple[int, int | None], ...] = ((1, 8), (9, 64), (65, None))
# Fewer runs do not say what to expect of another one.
_FEWEST = 3
_COLUMNS: Mapping[str, str] = {"ttft_ms": "ttft", "itl_ms": "itl", "output_tokens_per_s": "throughput"}
Flags = npt.NDArray[np.bool_]


def errors_seen(
    estimates: Estimates, names: RunNames | None = None, *, family_left_out: Estimates | None = None
) -> tuple[ObservedError, ...]:
    """Return the errors of closed-loop runs, where at least three runs are alike.

    Models that differ in weights only count as one. `family_left_out`: answers to runs on families that the engine was
    not fitted to, which say under the name of each vendor what to expect of families that nobody measured: there each
    family counts alike, whatever the number of its runs. `names` None: those of the catalogues and the Hub.
    """
    runs = _ClosedLoop.of(estimates, names)
    found = list(runs.errors(runs.family, apart=True))
    if family_left_out is not None:
        others = _ClosedLoop.of(family_left_out, names)
        found += others.errors(others.vendor, apart=False)
    return tuple(found)


@dataclass(frozen=True)
class _ClosedLoop:
    """Closed-loop runs and their distinguishing properties, one value a run."""

    family: npt.NDArray[np.str_]
    vendor: npt.NDArray[np.str_]
    model: npt.NDArray[np.str_]
    kind: npt.NDArray[np.str_]
    precision: npt.NDArray[np.str_]
    link: npt.NDArray[np.str_]
    tensor_parallel: IntArray
    concurrency: IntArray
    ratio: Mapping[str, FloatArray]

    @classmethod
    def of(cls, estimates: Estimates, names: RunNames | None) -> _ClosedLoop:
        cases = RunCases(estimates.runs, names).cases
        rows = [row for row in cases if estimates.runs[row].load is LoadKind.CLOSED_LOOP]
        mine = [cases[row] for row in rows]
        return cls(
            np.array([case.gpu.family for case in mine], dtype=np.str_),
            np.array([case.gpu.vendor for case in mine], dtype=np.str_),
            np.array([same_architecture(case.model) for case in mine], dtype=np.str_),
            np.array(["moe" if case.model.is_moe else "dense" for case in mine], dtype=np.str_),
            np.array([precision_class(case.precision) for case in mine], dtype=np.str_),
            np.array([link_of(case.num_gpus, case.gpu.scale_up_gpus) for case in mine], dtype=np.str_),
            np.array([case.tensor_parallel for case in mine], dtype=np.int64),
            estimates.concurrency[rows],
            {name: ratio[rows] for name, ratio in _ratios(estimates).items()},
        )

    def errors(self, group: npt.NDArray[np.str_], *, apart: bool) -> Iterator[ObservedError]:
        """Yield those of each group, kind of model and band; with `apart` those of each precision and link as well."""
        bands = CONCURRENCY_BANDS
        for name, kind, (start, end) in itertools.product(sorted(set(group.tolist())), ("dense", "moe"), bands):
            alike = (group == name) & (self.kind == kind)
            alike &= (self.concurrency >= start) & (self.concurrency <= (end or np.inf))
            yield from self._of(alike, name, kind, start, end)
            pairs = zip(self.precision[alike].tolist(), self.link[alike].tolist(), strict=True)
            for precision, link in sorted(set(pairs)) if apart else ():
                yield from self._covered(alike & (self.precision == precision) & (self.link == link), name, kind)

    def _covered(self, alike: Flags, name: str, kind: str) -> Iterator[ObservedError]:
        """Yield those of runs of one precision and link, with what the runs cover."""
        load, tp = self.concurrency[alike], self.tensor_parallel[alike]
        covers = {
            "precision": str(self.precision[alike][0]),
            "link": str(self.link[alike][0]),
            "tp_from": int(tp.min()),
            "tp_to": int(tp.max()),
        }
        for error in self._of(alike, name, kind, int(load.min()), int(load.max())):
            yield ObservedError(**(vars(error) | covers))

    def _of(self, alike: Flags, name: str, kind: str, start: int, end: int | None) -> Iterator[ObservedError]:
        of_family = {family: (self.family[alike] == family).sum() for family in set(self.family[alike].tolist())}
        weight = np.array([1 / of_family[family] for family in self.family[alike].tolist()], dtype=np.float64)
        for column, ratio in self.ratio.items():
            error = metric_error(ratio[alike], weight if len(of_family) > 1 else None)
            if error is None or error.runs < _FEWEST:
                continue
            models = len(set(self.model[alike & np.isfinite(ratio)].tolist()))
            figures = (error.runs, models, error.median, error.p90, error.bias)
            yield ObservedError(name, kind, start, end, column, *figures, ANY, ANY)


def _ratios(estimates: Estimates) -> dict[str, FloatArray]:
    """Estimate / measured of means, and of the percentiles that both have."""
    of_means = ratios(estimates)
    tails = {name: ratio for name, ratio in tail_ratios(estimates).items() if np.isfinite(ratio).any()}
    return {column: of_means[metric] for column, metric in _COLUMNS.items()} | tails


def same_architecture(model: ModelSpec) -> str:
    """Return a key that is equal for models that differ in weights only (DeepSeek V3 and R1), or in precision."""
    return f"{model.model_type} {model.layers}x{model.hidden_size}" + (f" E{model.experts}" if model.is_moe else "")
