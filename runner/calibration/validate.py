"""Cross-validation: what a fit says to runs of a model, of a GPU type or of a GPU family that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuscout.runner.calibration.fit import fit
from gpuscout.runner.calibration.parameters import Parameters
from gpuscout.runner.calibration.rows import Figures, FitRows

LEFT_OUT = ("model", "gpu", "family")


def held_out(kinds: Sequence[FitRows], parameters: Parameters, left_out: str) -> list[Figures]:
    """For the rows of every kind, the figures of a fit to all runs of other models (or GPU types, or families).

    Every fit begins with the priors: a start at the fit to all runs would remember what is left out.
    """
    found = [Figures(*(np.full(len(rows), np.nan) for _ in range(3))) for rows in kinds]
    for name in sorted({str(name) for rows in kinds for name in getattr(rows, left_out)}):
        tested = [getattr(rows, left_out) == name for rows in kinds]
        others = [rows.take(~mask) for rows, mask in zip(kinds, tested, strict=True)]
        vector = fit(others, parameters, roughly=True).vector
        for rows, mask, figures in zip(kinds, tested, found, strict=True):
            if not mask.any():
                continue
            part = rows.take(mask)
            predicted = part.predict(parameters.logs(vector, parameters.masks(part.family, part.server)))
            for metric, values in vars(predicted).items():
                getattr(figures, metric)[mask] = values
    return found
