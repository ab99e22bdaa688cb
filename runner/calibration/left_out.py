"""Estimates with constants that were fitted without the GPU family of each run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gpuscout.runner.accuracy.estimate import Estimates, estimate
from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.document import placed_by_kernels, write_constants
from gpuscout.runner.calibration.fit import fit, parameters_of
from gpuscout.runner.calibration.rows import FitRows, fit_rows
from gpuscout.runner.engines.base import Engine
from gpuscout.runner.engines.roofline.constants import FORMAT
from gpuscout.store.measured import MeasuredRun

_MOST = 24  # runs of one deployment in a fit, as in cross-validation


def constants_without(kinds: Sequence[FitRows], family: str) -> dict[str, object]:
    """Return the constants file of a fit to all rows but those of a GPU family."""
    others = [rows.take(rows.family != family).thinned(_MOST) for rows in kinds]
    parameters = parameters_of(others)
    constants = parameters.document(fit(others, parameters, roughly=True).vector)
    return {
        "format": FORMAT,
        "source": f"runs on other GPUs than {family}",
        "runs": sum(len(rows) for rows in others),
        **constants,
        "kernels": placed_by_kernels(constants),
    }


def estimates_left_out(
    make: Callable[[Path], Engine],
    runs: Iterable[MeasuredRun],
    fitted: Iterable[MeasuredRun],
    names: RunNames,
    tell: Callable[[str], None],
) -> Estimates:
    """Return estimates of `runs`, each family by an engine whose constants are fitted to `fitted` without it.

    `make` makes an engine with the constants of a file. Runs on GPUs that nobody knows are left out.
    """
    kinds = fit_rows(fit_for_fitting(tuple(fitted)), names)
    by_family: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        if (gpu := names.gpus.find(run.gpu)) is not None:
            by_family.setdefault(gpu.family, []).append(run)
    parts: list[Estimates] = []
    with tempfile.TemporaryDirectory() as folder:
        for family, members in sorted(by_family.items()):
            tell(f"leaving out {family}: {len(members):,} runs")
            file = Path(folder) / f"{len(parts)}.json"
            write_constants(constants_without(kinds, family), file)
            parts.append(estimate(make(file), members, names))
    found = parts[0]
    for part in parts[1:]:
        found = found.followed_by(part)
    return found
