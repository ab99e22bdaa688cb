"""One engine's accuracy as a whole: computed once, then printed, written as JSON or as a file of predictions."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gpuscout.runner.accuracy.choice import REFERENCE_PRICES, GpuChoice, MaximaOrder, gpu_choice, maxima_order
from gpuscout.runner.accuracy.errors import GROUPINGS, GroupErrors, errors
from gpuscout.runner.accuracy.estimate import Estimates, estimate
from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.engines.base import Engine, trust_of
from gpuscout.store.measured import LoadKind, MeasuredRun, runs_digest
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.reading import writing
from gpuscout.sweeps.trust import NO_TRUST, Trust

DEFAULT_GROUPINGS = ("model", "vendor", "family", "gpu", "precision", "server", "load_band", "vendor_load_band")


@dataclass(frozen=True)
class LoadReport:
    """Errors of the runs of one kind of load: over all of them and by group."""

    total: GroupErrors
    groups: Mapping[str, Mapping[str, GroupErrors]]


@dataclass(frozen=True)
class AccuracyReport:
    """Errors of one engine against measured runs. `memory_assumed` counts runs by assumed memory share."""

    engine: str
    fingerprint: str
    runs: int
    runs_digest: str
    loads: Mapping[str, LoadReport]
    choice: GpuChoice | None
    order: MaximaOrder | None
    reasons: Mapping[str, int]  # why runs have no answer, and how many
    memory_assumed: Mapping[str, int]
    estimates: Estimates
    trust: Trust = NO_TRUST

    @property
    def answered(self) -> int:
        """Number of runs with an answer."""
        return sum(load.total.answered for load in self.loads.values())

    def to_dict(self) -> dict[str, object]:
        """Return a form that JSON can hold; fractions stay fractions."""
        return {
            "engine": self.engine,
            "fingerprint": self.fingerprint,
            "runs": self.runs,
            "runs_digest": self.runs_digest,
            "loads": {load: asdict(report) for load, report in self.loads.items()},
            "gpu_choice": self.choice and asdict(self.choice),
            "maxima_order": self.order and asdict(self.order),
            "not_answered": dict(self.reasons),
            "memory_assumed": dict(self.memory_assumed),
        }


def report(
    engine: Engine,
    runs: Iterable[MeasuredRun],
    *,
    by: Sequence[str] = DEFAULT_GROUPINGS,
    prices: Mapping[str, float] = REFERENCE_PRICES,
    names: RunNames | None = None,
) -> AccuracyReport:
    """Estimate every run with the engine and compare. Raises InputError for a grouping that does not exist.

    `prices` in USD per GPU hour are those of the GPU choice; `names` None: those of the catalogues and the Hub.
    """
    if unknown := [name for name in by if name not in GROUPINGS]:
        raise InputError(f"cannot group runs by {unknown[0]!r}", hint=f"groupings: {', '.join(GROUPINGS)}")
    runs = tuple(runs)
    estimates = estimate(engine, runs, names)
    trust = trust_of(engine)
    loads = {}
    for load in LoadKind:
        if rows := [position for position, run in enumerate(runs) if run.load is load]:
            part = select(estimates, rows)
            groups = {name: errors(part, GROUPINGS[name], trust) for name in by}
            loads[load.value] = LoadReport(errors(part, trust=trust)["all"], groups)
    assumed = Counter(f"{f:g}" for f in estimates.fraction[np.isfinite(estimates.fraction)])
    return AccuracyReport(
        engine=engine.name,
        fingerprint=engine.fingerprint(),
        runs=len(runs),
        runs_digest=runs_digest(runs),
        loads=loads,
        choice=gpu_choice(estimates, prices),
        order=maxima_order(estimates),
        reasons=Counter(estimates.reasons.values()),
        memory_assumed=assumed,
        estimates=estimates,
        trust=trust,
    )


def select(estimates: Estimates, rows: Sequence[int]) -> Estimates:
    """Return the estimates of some of the runs, in the order of `rows`."""
    chosen = np.array(rows, dtype=np.int64)
    columns = ("ttft_ms", "itl_ms", "output_tokens_per_s", "concurrency", "fraction")
    return Estimates(
        runs=tuple(estimates.runs[row] for row in rows),
        reasons={new: estimates.reasons[row] for new, row in enumerate(rows) if row in estimates.reasons},
        regime=None if estimates.regime is None else estimates.regime[chosen],
        percentiles=None if estimates.percentiles is None else estimates.percentiles[chosen],
        **{name: getattr(estimates, name)[chosen] for name in columns},
    )


def write_predictions(estimates: Estimates, file: Path) -> None:
    """Write a CSV file with one line a run; a figure that is not known is empty. Raises InputError."""
    with writing(file), file.open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(("id", "ttft_ms", "itl_ms", "output_tokens_per_s"))
        columns = (estimates.ttft_ms, estimates.itl_ms, estimates.output_tokens_per_s)
        for run, *figures in zip(estimates.runs, *(column.tolist() for column in columns), strict=True):
            lines.writerow((run.id, *(f"{figure:.9g}" if np.isfinite(figure) else "" for figure in figures)))
