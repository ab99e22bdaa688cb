"""Cross-validation: what a fit says to runs of a model, of a GPU type or of a GPU family, that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gpuscout.runner.calibration.fit import fit, parameters_of, predict
from gpuscout.runner.calibration.parameters import Parameters
from gpuscout.runner.calibration.rows import Figures, FitRows

LEFT_OUT = ("model", "gpu", "family")
_MOST = 24  # runs of one deployment in the fit of what is left out
_FEWEST = 3  # runs of a campaign that tell its level


def held_out(
    kinds: Sequence[FitRows],
    left_out: str,
    parameters: Callable[[Sequence[FitRows]], Parameters] = parameters_of,
    most: int = _MOST,
    names: Sequence[str] | None = None,
) -> list[Figures]:
    """Return the figures of fits that leave out the model (GPU type, family) of each row, by kind.

    Of a deployment with many runs a fit takes `most`, with more weight: they say much the same. It begins with the
    priors: a start at the fit to all runs would remember what is left out. `names` are what to leave out in turn, None:
    all there are; rows of others get NaN.
    """
    found = [Figures(*(np.full(len(rows), np.nan) for _ in range(3))) for rows in kinds]
    for name in sorted({str(name) for rows in kinds for name in getattr(rows, left_out)} if names is None else names):
        _estimate_unseen(kinds, [getattr(rows, left_out) == name for rows in kinds], found, parameters, most)
    return found


def levelled(rows: FitRows, figures: Figures) -> Figures:
    """Return the figures without each campaign's level, its median ratio to what was measured.

    What is left is how wrong the shape is, over loads and lengths. NaN for campaigns of fewer than three runs.
    """
    _, campaigns = np.unique(rows.campaign, return_inverse=True)
    found = Figures(*(np.full(len(rows), np.nan) for _ in range(3)))
    for metric, values in vars(figures).items():
        ratio = values / getattr(rows.measured, metric)
        for campaign in range(campaigns.max(initial=-1) + 1):
            mine = (campaigns == campaign) & np.isfinite(ratio)
            if mine.sum() >= _FEWEST:
                getattr(found, metric)[mine] = values[mine] / np.median(ratio[mine])
    return found


def familiar(kinds: Sequence[FitRows], number: int, models_out: Figures) -> Figures:
    """Return figures for the rows of one kind, of fits that had seen their GPU family though not their `unit`.

    `models_out` are those of fits without their model, where the family has another one. Of a family that was measured
    with one model every deployment is left out in turn; NaN where there is one only.
    """
    rows = kinds[number]
    found = Figures(*(values.copy() for values in vars(models_out).values()))
    by_deployment = rows.unit == rows.deployment
    for values in vars(found).values():
        values[by_deployment] = np.nan
    for family in np.unique(rows.family[by_deployment]).tolist():
        names = np.unique(rows.deployment[rows.family == family]).tolist()
        for name in names if len(names) > 1 else ():
            left_out = [(other.family == family) & (other.deployment == name) for other in kinds]
            figures = [found if other is rows else None for other in kinds]
            _estimate_unseen(kinds, left_out, figures)
    return found


def _estimate_unseen(
    kinds: Sequence[FitRows],
    tested: Sequence[npt.NDArray[np.bool_]],
    found: Sequence[Figures | None],
    of: Callable[[Sequence[FitRows]], Parameters] = parameters_of,
    most: int = _MOST,
) -> None:
    """Write the figures of a fit to all other rows into the rows under these masks."""
    others = [rows.take(~mask).thinned(most) for rows, mask in zip(kinds, tested, strict=True)]
    parameters = of(others)
    vector = fit(others, parameters, roughly=True).vector
    for rows, mask, figures in zip(kinds, tested, found, strict=True):
        if figures is None or not mask.any():
            continue
        predicted = predict(rows.take(mask), parameters, vector)
        for metric, values in vars(predicted).items():
            getattr(figures, metric)[mask] = values
