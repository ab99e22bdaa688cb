"""What the errors with models and families left out owe to runs that were measured again with later releases.

    python -m tests.assets.measured_again

A source marks the runs of its own that newer ones replace; other files have some of the same configurations, a model
under another name included. The script prints the errors of all runs, those of runs that no later month measured again
by the same fits, and those of fits to them alone. It takes as long as two calibrations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.document import figures_document
from gpuscout.runner.calibration.rows import Figures, FitRows, fit_rows
from gpuscout.runner.calibration.validate import held_out
from gpuscout.store.measured import public_runs
from tests.assets.ablation import stamp

_MONTH = len("2026-11")


def not_measured_again(rows: FitRows) -> npt.NDArray[np.bool_]:
    """Return False for closed loops whose configuration a later month measured at their load, or on both sides of it.

    Both sides, because sources keep a few loads of a curve.
    """
    curves: dict[tuple[object, ...], list[tuple[str, int]]] = defaultdict(list)
    keys = []
    for run, model in zip(rows.runs, rows.model.tolist(), strict=True):
        sizes = (run.tp, run.pp, run.dp, run.ep, run.input_len, run.output_len)
        keys.append((model, run.gpu, run.server, run.precision, run.load, *sizes))
        if run.concurrency is not None and len(run.measured_on or "") >= _MONTH:
            curves[keys[-1]].append((str(run.measured_on)[:_MONTH], run.concurrency))
    kept = np.ones(len(rows), dtype=np.bool_)
    for row, (run, key) in enumerate(zip(rows.runs, keys, strict=True)):
        if run.concurrency is not None and len(run.measured_on or "") >= _MONTH:
            later = [load for month, load in curves[key] if month > str(run.measured_on)[:_MONTH]]
            kept[row] = not later or not min(later) <= run.concurrency <= max(later)
    return kept


def _tell(name: str, kinds: Sequence[FitRows], figures: Sequence[Figures]) -> None:
    for load, errors in figures_document(kinds, figures).items():
        print(f"{name}; {load}:", ", ".join(f"{metric} {error:.1%}" for metric, error in errors.items()), flush=True)


def main() -> None:
    kinds = fit_rows(fit_for_fitting(public_runs()))
    masks = [not_measured_again(rows) for rows in kinds]
    newest = [rows.take(mask) for rows, mask in zip(kinds, masks, strict=True)]
    print(f"{sum(map(len, newest)):,} of {sum(map(len, kinds)):,} runs were not measured again")
    for left_out in ("model", "family"):
        figures = held_out(kinds, left_out)
        _tell(f"{left_out} left out", kinds, figures)
        _tell("  judged without", newest, [f.take(mask) for f, mask in zip(figures, masks, strict=True)])
        _tell("  fitted and judged without", newest, held_out(newest, left_out))
    print(stamp())


if __name__ == "__main__":
    main()
