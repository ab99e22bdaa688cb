"""Intervals from what cross-validation left over: factors around an estimate that hold for models nobody fitted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gpuscout.runner.calibration.rows import Figures, FitRows
from gpuscout.runner.engines.roofline.uncertainty import BAND_NAMES, INTERVAL_METRICS, UNSEEN, regimes
from gpuscout.sweeps.curves import FloatArray, IntArray

# 80 % of the runs of a new model lie between these quantiles of the runs of other models: a little outside 10 and
# 90 %, because the next model is off in its own way.
_QUANTILES = (0.08, 0.92)
# Fewer runs of a vendor in a band say less than those of all its bands, or of all families left out.
_FEWEST = 12
_LEAST = 0.05  # of a logarithm: an interval surrounds its estimate
Flags = npt.NDArray[np.bool_]


def interval_document(
    rows: FitRows, models_out: Figures, families_out: Figures | None
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The part `intervals` of a constants file, by vendor and for families not fitted.

    `models_out` are figures of fits that had not seen a row's model, `families_out` of those that had not seen its GPU
    family; None: all rows are of one family. Empty where no row has one of the metrics: the engine wants all of them,
    or none.
    """
    residuals = _residuals(rows, models_out)
    if not all(np.isfinite(residual).any() for residual in residuals.values()):
        return {}
    unseen = residuals if families_out is None else _residuals(rows, families_out)
    bands = _bands(rows)
    groups = {
        vendor: {
            metric: _by_band(rows, residual, bands, rows.vendor == vendor) for metric, residual in residuals.items()
        }
        for vendor in np.unique(rows.vendor).tolist()
    }
    everything = np.ones(len(rows), dtype=np.bool_)
    groups[UNSEEN] = {m: _by_band(rows, residual, bands, everything) for m, residual in unseen.items()}
    return groups


def _by_band(rows: FitRows, residual: FloatArray, bands: IntArray, of: Flags) -> dict[str, list[float]]:
    """The ends of every band, on both sides of the estimate at least a little."""
    ends = {name: _ends(rows, residual, (bands == b) & of, of) for b, name in enumerate(BAND_NAMES)}
    return {
        name: [round(float(np.exp(min(low, -_LEAST))), 4), round(float(np.exp(max(high, _LEAST))), 4)]
        for name, (low, high) in ends.items()
    }


def coverage(rows: FitRows, held_out: Figures) -> dict[str, dict[str, float]]:
    """The share of runs inside intervals that were made without the residuals of their own model, by metric.

    For all runs, for every vendor and for every band of a vendor. A metric is left out where no run has it, or the
    runs of one model only.
    """
    bands = _bands(rows)
    inside: dict[str, Flags] = {}
    for metric, residual in _residuals(rows, held_out).items():
        known = np.isfinite(residual)
        if len(np.unique(rows.model[known])) < 2:
            continue
        inside[metric] = np.zeros(len(rows), dtype=np.bool_)
        for vendor in np.unique(rows.vendor):
            of = rows.vendor == vendor
            for name in np.unique(rows.model[of]):
                others = rows.model != name
                for band in range(len(BAND_NAMES)):
                    tested = (rows.model == name) & (bands == band) & of
                    low, high = _ends(rows, residual, (bands == band) & of & others, of & others, others)
                    inside[metric][tested] = (residual[tested] >= low) & (residual[tested] <= high)
    residuals = _residuals(rows, held_out)
    found = {}
    for name, part in _parts(rows, bands):
        shares = {
            metric: round(float(flags[part & np.isfinite(residuals[metric])].mean()), 4)
            for metric, flags in inside.items()
            if (part & np.isfinite(residuals[metric])).any()
        }
        if shares:
            found[name] = shares
    return found


def _parts(rows: FitRows, bands: IntArray) -> Iterator[tuple[str, Flags]]:
    yield "closed loop", np.ones(len(rows), dtype=np.bool_)
    for vendor in np.unique(rows.vendor).tolist():
        yield f"closed loop, {vendor}", rows.vendor == vendor
        for b, name in enumerate(BAND_NAMES):
            yield f"closed loop, {vendor}, {name} in flight", (rows.vendor == vendor) & (bands == b)


def _bands(rows: FitRows) -> IntArray:
    return regimes(rows.ladder[:, 0].astype(np.int64), np.zeros(len(rows), dtype=np.int64))


def _residuals(rows: FitRows, held_out: Figures) -> dict[str, FloatArray]:
    return {m: np.log(getattr(rows.measured, m) / getattr(held_out, m)) for m in INTERVAL_METRICS}


def _ends(rows: FitRows, residual: FloatArray, *samples: Flags) -> tuple[float, float]:
    """Quantiles over the first sample that has enough rows, else over the largest.

    A model with n runs on a GPU type counts as sqrt(n).
    """
    known = [sample & np.isfinite(residual) for sample in samples]
    chosen = next((sample for sample in known if sample.sum() >= _FEWEST), max(known, key=lambda s: int(s.sum())))
    if not chosen.any():
        return -np.inf, np.inf
    keys = np.char.add(np.char.add(rows.model[chosen], "|"), rows.gpu[chosen])
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    weight = counts[inverse] ** -0.5
    order = np.argsort(residual[chosen], kind="stable")
    values, weight = residual[chosen][order], weight[order]
    positions = (np.cumsum(weight) - weight / 2) / weight.sum()
    low, high = np.interp(_QUANTILES, positions, values)
    return float(low), float(high)
