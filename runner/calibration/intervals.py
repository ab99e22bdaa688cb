"""Intervals from what cross-validation left over: factors around an estimate that hold for models nobody fitted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpuscout.runner.calibration.rows import Figures, FitRows
from gpuscout.runner.engines.roofline.uncertainty import BAND_NAMES, INTERVAL_METRICS, regimes
from gpuscout.sweeps.curves import FloatArray, IntArray

# 80 % of the runs of a new model lie between these quantiles of the runs of other models: a little outside 10 and
# 90 %, because the next model is off in its own way.
_QUANTILES = (0.08, 0.92)


def interval_document(rows: FitRows, held_out: Figures) -> dict[str, dict[str, list[float]]]:
    """The part `intervals` of a constants file, from figures of fits that had not seen a row's model.

    Empty where no row has one of the metrics: the engine wants all of them, or none.
    """
    bands = _bands(rows)
    everything = np.ones(len(rows), dtype=np.bool_)
    residuals = _residuals(rows, held_out)
    if not all(np.isfinite(residual).any() for residual in residuals.values()):
        return {}
    return {
        metric: {
            name: [round(float(np.exp(end)), 4) for end in _ends(rows, residual, bands == b, everything)]
            for b, name in enumerate(BAND_NAMES)
        }
        for metric, residual in residuals.items()
    }


def coverage(rows: FitRows, held_out: Figures) -> dict[str, float]:
    """The share of runs inside intervals that were made without the residuals of their own model, by metric.

    A metric is left out where no run has it, or the runs of one model only.
    """
    bands = _bands(rows)
    shares = {}
    for metric, residual in _residuals(rows, held_out).items():
        inside = np.zeros(len(rows), dtype=np.bool_)
        for name in np.unique(rows.model):
            for band in range(len(BAND_NAMES)):
                tested = (rows.model == name) & (bands == band)
                low, high = _ends(rows, residual, bands == band, rows.model != name)
                inside[tested] = (residual[tested] >= low) & (residual[tested] <= high)
        known = np.isfinite(residual)
        if len(np.unique(rows.model[known])) > 1:
            shares[metric] = round(float(inside[known].mean()), 4)
    return shares


def _bands(rows: FitRows) -> IntArray:
    return regimes(rows.ladder[:, 0].astype(np.int64), np.ones(len(rows), dtype=np.bool_))


def _residuals(rows: FitRows, held_out: Figures) -> dict[str, FloatArray]:
    return {m: np.log(getattr(rows.measured, m) / getattr(held_out, m)) for m in INTERVAL_METRICS}


def _ends(
    rows: FitRows, residual: FloatArray, band: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Quantiles over the rows of a band; a model with n runs counts as sqrt(n). All bands where a band is empty."""
    chosen = band & others & np.isfinite(residual)
    if not chosen.any():
        chosen = others & np.isfinite(residual)
    if not chosen.any():
        return -np.inf, np.inf
    _, inverse, counts = np.unique(rows.model[chosen], return_inverse=True, return_counts=True)
    weight = counts[inverse] ** -0.5
    order = np.argsort(residual[chosen], kind="stable")
    values, weight = residual[chosen][order], weight[order]
    positions = (np.cumsum(weight) - weight / 2) / weight.sum()
    low, high = np.interp(_QUANTILES, positions, values)
    return float(low), float(high)
