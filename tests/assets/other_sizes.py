"""How far estimates carry to a tensor parallelism that was not measured: the rule by which runs back smaller ones.

    python -m tests.assets.other_sizes

fits the constants without the runs of one GPU family at one tensor parallelism, in turn for all that have others, and
prints the errors on what was left out, beside those of a fit to all runs, and how many lie inside the 80 % intervals
that ship. `store/ranking/candidates/trust.py` lets runs back every smaller tensor parallelism and twice their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.fit import fit, parameters_of, predict
from gpuscout.runner.calibration.rows import Figures, FitRows, fit_rows
from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.runner.engines.roofline.uncertainty import INTERVAL_METRICS, regimes
from gpuscout.store.measured import public_runs
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

_MOST = 24  # runs of one deployment in a fit, as in cross-validation
_METRICS = ("itl", "ttft", "throughput")
Flags = npt.NDArray[np.bool_]


def main() -> None:
    """Print the table."""
    kinds = fit_rows(fit_for_fitting(public_runs()))
    closed = next(rows for rows in kinds if not rows.offline)
    tp = np.array([run.tp for run in closed.runs])
    parameters = parameters_of(kinds)
    fitted = predict(closed, parameters, fit([rows.thinned(_MOST) for rows in kinds], parameters, roughly=True).vector)
    unseen = Figures(*(np.full(len(closed), np.nan) for _ in range(3)))
    for family, size in sorted(set(zip(closed.family.tolist(), tp.tolist(), strict=True))):
        if len(set(tp[closed.family == family].tolist())) > 1:
            _estimate(kinds, closed, (closed.family == family) & (tp == size), family, size, unseen)
    largest = {family: tp[closed.family == family].max() for family in set(closed.family.tolist())}
    smaller = tp < np.array([largest[family] for family in closed.family.tolist()])
    print("| tensor parallelism | runs | fitted | left out | inside the 80 % interval |\n|---|---|---|---|---|")
    parts = [("all that families were measured with others of", smaller | ~smaller), ("smaller than another", smaller)]
    parts += [("the largest", ~smaller)] + [(f"TP {size}", tp == size) for size in sorted(set(tp.tolist()))]
    for name, part in parts:
        known = part & np.isfinite(unseen.itl)
        if known.any():
            cells = (" / ".join(_errors(closed, figures, known)) for figures in (fitted, unseen))
            print(f"| {name} | {known.sum()} | {' | '.join(cells)} | {' / '.join(_inside(closed, unseen, known))} |")


def _estimate(kinds: list[FitRows], closed: FitRows, tested: Flags, family: str, size: int, found: Figures) -> None:
    """Write the figures of a fit without a family's runs at one size, whatever their load."""
    without = [
        rows.take(~((rows.family == family) & (np.array([run.tp for run in rows.runs]) == size))).thinned(_MOST)
        for rows in kinds
    ]
    parameters = parameters_of(without)
    predicted = predict(closed.take(tested), parameters, fit(without, parameters, roughly=True).vector)
    for metric, values in vars(predicted).items():
        getattr(found, metric)[tested] = values


def _errors(rows: FitRows, figures: Figures, part: Flags) -> Iterator[str]:
    for metric in _METRICS:
        ratio = getattr(figures, metric)[part] / getattr(rows.measured, metric)[part]
        yield f"{np.nanmedian(np.abs(ratio - 1)):.0%}".replace("%", " %")


def _inside(rows: FitRows, figures: Figures, part: Flags) -> Iterator[str]:
    constants, catalogue = RooflineEngine().constants, GPUCatalogue.load()
    groups = np.array([constants.interval_group(catalogue.get(gpu)) for gpu in rows.gpu[part].tolist()])
    ends = constants.intervals[regimes(rows.ladder[part, 0].astype(np.int64), groups)]
    for metric in _METRICS:
        ratio = getattr(rows.measured, metric)[part] / getattr(figures, metric)[part]
        low, high = ends[:, INTERVAL_METRICS.index(metric)].T
        known = np.isfinite(ratio)
        yield f"{((low <= ratio) & (ratio <= high))[known].mean():.0%}".replace("%", " %")


if __name__ == "__main__":
    main()
