"""Measured runs as the arrays of a fit: features, what was measured, and how much each run counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.estimate import Estimates, RunCases, estimate, with_memory
from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.accuracy.seen import same_architecture
from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.runner.engines.roofline.constants import Physical
from gpuscout.runner.engines.roofline.features import Features, features
from gpuscout.runner.engines.roofline.memory import memory
from gpuscout.runner.engines.roofline.serving import operate
from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.curves import FloatArray

# Concurrencies among which the best is sought for an offline maximum.
_MAXIMUM = tuple(4**n for n in range(7))


@dataclass(frozen=True)
class Figures:
    """TTFT and ITL in ms and output tokens/s, one value a row; NaN where unknown."""

    ttft: FloatArray
    itl: FloatArray
    throughput: FloatArray

    def take(self, mask: npt.NDArray[np.bool_]) -> Figures:
        """Return the rows under a mask."""
        return Figures(*(values[mask] for values in vars(self).values()))


@dataclass(frozen=True)
class FitRows:
    """Runs of one kind of load with all that a fit needs. `model` names architectures: copies of one count as one."""

    runs: tuple[MeasuredRun, ...]
    offline: bool
    features: Features
    running: FloatArray
    median: FloatArray  # 1 where latencies are medians, else 0
    ladder: FloatArray  # rows x concurrencies; one column in a closed loop
    measured: Figures
    weight: FloatArray
    model: npt.NDArray[np.str_]
    gpu: npt.NDArray[np.str_]
    vendor: npt.NDArray[np.str_]
    family: npt.NDArray[np.str_]
    server: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def deployment(self) -> npt.NDArray[np.str_]:
        """Equal for runs of one server, GPU type, architecture and precision."""
        return _deployments(self.server, self.gpu, self.model, [run.precision for run in self.runs])

    @property
    def campaign(self) -> npt.NDArray[np.str_]:
        """Equal for runs of one deployment that were measured with one release on one day."""
        when = (f"{run.server_version}|{run.measured_on}|{run.source}" for run in self.runs)
        return np.array(["|".join(pair) for pair in zip(self.deployment, when, strict=True)], dtype=np.str_)

    @property
    def unit(self) -> npt.NDArray[np.str_]:
        """Part to leave out to learn how estimates on a GPU family carry to others on it: the model.

        Where a family was measured with one model only, the deployment.
        """
        families, of = np.unique(self.family, return_inverse=True)
        alone = np.array([len(np.unique(self.model[of == number])) == 1 for number in range(len(families))])
        return np.where(alone[of], self.deployment, self.model)

    def take(self, mask: npt.NDArray[np.bool_]) -> FitRows:
        """Return the rows under a mask."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, values in columns.items():
            if isinstance(values, np.ndarray):
                columns[name] = values[mask]
        columns["runs"] = tuple(run for run, kept in zip(self.runs, mask, strict=True) if kept)
        columns["features"] = self.features.take(mask)
        columns["measured"] = self.measured.take(mask)
        return FitRows(**columns)

    def thinned(self, most: int) -> FitRows:
        """Return about so many runs of each deployment at most, evenly spread and weighted for those left out."""
        keep, weight = np.zeros(len(self), dtype=np.bool_), self.weight.copy()
        keys = self.deployment
        for key in np.unique(keys):
            rows = np.flatnonzero(keys == key)
            kept = rows[:: -(-len(rows) // most)]
            keep[kept] = True
            weight[kept] *= len(rows) / len(kept)
        return replace(self, weight=weight).take(keep)

    def predict(self, logs: FloatArray) -> Figures:
        """Return the estimates with these logarithms of constants (constants x rows)."""
        columns = Features(**{name: values[:, None] for name, values in vars(self.features).items()})
        constants = Physical(*np.exp(logs)[:, :, None])
        operation = operate(columns, constants, self.running[:, None], self.ladder, self.median[:, None])
        throughput = self.ladder * columns.output_len / operation.e2e_s
        best = throughput.argmax(axis=1)[:, None]
        chosen = (operation.ttft_ms, operation.itl_ms, throughput)
        return Figures(*(np.take_along_axis(values, best, axis=1)[:, 0] for values in chosen))

    def estimates(self, figures: Figures) -> Estimates:
        """Return the same figures as answers to the runs."""
        nothing = np.full(len(self), np.nan)
        concurrency = self.ladder[:, 0].astype(np.int64)
        return Estimates(self.runs, figures.ttft, figures.itl, figures.throughput, concurrency, nothing, {})


def fit_rows(runs: Iterable[MeasuredRun], names: RunNames | None = None) -> list[FitRows]:
    """Return rows of the runs that the engine can answer, by kind of load. Kinds without a run are left out."""
    answered = estimate(RooflineEngine(), runs, names)
    cases = RunCases(answered.runs, names).cases
    kinds = []
    for load in LoadKind:
        usable = np.flatnonzero(np.isfinite(answered.itl_ms)).tolist()
        positions = [p for p in usable if answered.runs[p].load is load]
        if not positions:
            continue
        chosen = tuple(answered.runs[p] for p in positions)
        columns = CaseColumns.of([with_memory(cases[p], float(answered.fraction[p])) for p in positions])
        f = features(columns)
        model = np.array([same_architecture(cases[p].model) for p in positions])
        gpu = np.array([cases[p].gpu.name for p in positions])
        server = np.array([run.server for run in chosen])
        offline = load is LoadKind.OFFLINE_MAXIMUM
        ladder = [_MAXIMUM if offline else (run.concurrency,) for run in chosen]
        kinds.append(
            FitRows(
                runs=chosen,
                offline=offline,
                features=f,
                running=memory(f).running,
                median=np.array([run.latency_stat == "median" for run in chosen], dtype=np.float64),
                ladder=np.array(ladder, dtype=np.float64),
                measured=Figures(
                    np.array([run.ttft_ms for run in chosen], dtype=np.float64),
                    np.array([run.itl_ms for run in chosen], dtype=np.float64),
                    np.array([run.throughput for run in chosen], dtype=np.float64),
                ),
                weight=_weight(chosen, _deployments(server, gpu, model, [run.precision for run in chosen])),
                model=model,
                gpu=gpu,
                vendor=np.array([cases[p].gpu.vendor for p in positions]),
                family=np.array([cases[p].gpu.family for p in positions]),
                server=server,
            )
        )
    return kinds


def _weight(runs: tuple[MeasuredRun, ...], deployments: npt.NDArray[np.str_]) -> FloatArray:
    """Mean 1. A deployment measured n times counts as sqrt(n) runs: its errors are alike. Medium trust counts half."""
    _, inverse, counts = np.unique(deployments, return_inverse=True, return_counts=True)
    weight = counts[inverse] ** -0.5 * np.array([0.5 if run.trust == "medium" else 1.0 for run in runs])
    return np.asarray(weight / weight.mean())


def _deployments(*parts: Iterable[str]) -> npt.NDArray[np.str_]:
    """Return a key for each row, equal where all of server, GPU type, architecture and precision are."""
    return np.array(["|".join(key) for key in zip(*parts, strict=True)], dtype=np.str_)
