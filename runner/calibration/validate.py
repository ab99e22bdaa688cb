"""Cross-validation: what a fit says to runs of a model, of a GPU type or of a GPU family, that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuscout.runner.calibration.fit import fit, parameters_of, predict
from gpuscout.runner.calibration.rows import Figures, FitRows

LEFT_OUT = ("model", "gpu", "family")
_MOST = 24  # runs of one deployment in the fit of what is left out


def held_out(kinds: Sequence[FitRows], left_out: str) -> list[Figures]:
    """For the rows of every kind, the figures of a fit to all runs of other models (GPU types, families).

    Of a deployment with many runs a fit takes some, with more weight: they say much the same. It begins with the
    priors: a start at the fit to all runs would remember what is left out.
    """
    found = [Figures(*(np.full(len(rows), np.nan) for _ in range(3))) for rows in kinds]
    for name in sorted({str(name) for rows in kinds for name in getattr(rows, left_out)}):
        tested = [getattr(rows, left_out) == name for rows in kinds]
        others = [rows.take(~mask).thinned(_MOST) for rows, mask in zip(kinds, tested, strict=True)]
        parameters = parameters_of(others)
        vector = fit(others, parameters, roughly=True).vector
        for rows, mask, figures in zip(kinds, tested, found, strict=True):
            if not mask.any():
                continue
            part = rows.take(mask)
            predicted = predict(part, parameters, vector)
            for metric, values in vars(predicted).items():
                getattr(figures, metric)[mask] = values
    return found
