"""Intervals from what cross-validation left over: factors around an estimate that hold for models nobody fitted.

The runs of one model on one GPU type are off together, so what counts is the number of such curves. A vendor of which
few were measured has intervals drawn to those of GPU families that a fit has not seen at all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.calibration.rows import Figures, FitRows
from gpuscout.runner.engines.roofline.uncertainty import BAND_NAMES, INTERVAL_METRICS, UNSEEN, regimes
from gpuscout.sweeps.curves import FloatArray, IntArray

# 80 % of the runs of a new model lie between these quantiles of the runs of other models: a little outside 10 and
# 90 %, because the next model is off in its own way.
INTERVAL_QUANTILES = (0.08, 0.92)
# So many curves of a vendor say as much of its next one as all families left out do.
_PRIOR_CURVES = 2
# Fewer runs of a vendor in a band say less than those of all its bands; families left out likewise.
_FEWEST, _FEWEST_FAMILIES = 12, 4
_LEAST = 0.05  # of a logarithm: an interval surrounds its estimate
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LeftOver:
    """Measured values against figures of fits that had not seen them, as logarithms of the ratio, by metric.

    `familiar`: fits that had seen the row's GPU family, though not the row's `unit` (its model); `unfamiliar`: fits
    that had not seen its family. NaN where there is none.
    """

    rows: FitRows
    familiar: Mapping[str, FloatArray]
    unfamiliar: Mapping[str, FloatArray]

    @classmethod
    def of(cls, rows: FitRows, familiar: Figures, families_out: Figures | None) -> LeftOver:
        """Build it from the rows. `families_out` None: all rows are of one family."""
        nothing = Figures(*(np.full(len(rows), np.nan) for _ in INTERVAL_METRICS))
        return cls(rows, _residuals(rows, familiar), _residuals(rows, families_out or nothing))

    def ends(self, metric: str, band: int, vendor: str | None, without: Flags) -> tuple[float, float]:
        """Return the ends of an interval, as logarithms, without the rows `without`.

        `vendor` None: of families not fitted.
        """
        of_band = (self._bands == band) & ~without
        known = np.isfinite(self.unfamiliar[metric])
        prior = None
        for sample in (known & of_band, known & ~without):
            if sample.any() and (prior is None or len(prior[1]) < _FEWEST_FAMILIES):
                prior = self._quantiles(self.unfamiliar[metric], sample), set(self.rows.family[sample].tolist())
        if vendor is None:
            return (-np.inf, np.inf) if prior is None else prior[0]
        known = np.isfinite(self.familiar[metric]) & (self.rows.vendor == vendor)
        sample = known & of_band
        if sample.sum() < _FEWEST:
            sample = known & ~without
        if not sample.any():
            return (-np.inf, np.inf) if prior is None else prior[0]
        own = self._quantiles(self.familiar[metric], sample, alike=False)
        if prior is None:
            return own
        curves = len(np.unique(self._curves[sample]))
        drawn = (curves * np.array(own) + _PRIOR_CURVES * np.array(prior[0])) / (curves + _PRIOR_CURVES)
        return float(drawn[0]), float(drawn[1])

    def _quantiles(self, residual: FloatArray, sample: Flags, *, alike: bool = True) -> tuple[float, float]:
        """Return quantiles where a curve of n runs counts as sqrt(n); with `alike` every GPU family counts as one."""
        _, inverse, counts = np.unique(self._curves[sample], return_inverse=True, return_counts=True)
        weight = counts[inverse] ** -0.5
        if alike:
            _, family = np.unique(self.rows.family[sample], return_inverse=True)
            weight = weight / np.bincount(family, weight)[family]
        order = np.argsort(residual[sample], kind="stable")
        values, weight = residual[sample][order], weight[order]
        positions = (np.cumsum(weight) - weight / 2) / weight.sum()
        low, high = np.interp(INTERVAL_QUANTILES, positions, values)
        return float(low), float(high)

    @functools.cached_property
    def _bands(self) -> IntArray:
        return _bands(self.rows)

    @functools.cached_property
    def _curves(self) -> IntArray:
        _, curves = np.unique(np.char.add(np.char.add(self.rows.unit, "|"), self.rows.gpu), return_inverse=True)
        return curves


def interval_document(left: LeftOver) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return the part `intervals` of a constants file, by vendor and for families not fitted.

    Empty where no row has one of the metrics: the engine wants all of them, or none.
    """
    if not all(np.isfinite(residual).any() for residual in left.familiar.values()):
        return {}
    nothing = np.zeros(len(left.rows), dtype=np.bool_)
    groups: dict[str, str | None] = {vendor: vendor for vendor in np.unique(left.rows.vendor).tolist()}
    found = {}
    for name, vendor in (groups | {UNSEEN: None}).items():
        ends = {
            metric: {band: left.ends(metric, b, vendor, nothing) for b, band in enumerate(BAND_NAMES)}
            for metric in INTERVAL_METRICS
        }
        if np.isfinite([list(of_band.values()) for of_band in ends.values()]).all():
            found[name] = {
                metric: {b: factors(*pair) for b, pair in of_band.items()} for metric, of_band in ends.items()
            }
    return found


def factors(low: float, high: float) -> list[float]:
    """Return an interval's ends, on both sides of the estimate at least a little."""
    return [round(float(np.exp(min(low, -_LEAST))), 4), round(float(np.exp(max(high, _LEAST))), 4)]


def coverage(left: LeftOver) -> dict[str, dict[str, float]]:
    """Return the share of runs inside intervals that were made without the residuals of their own model, by metric.

    For all runs, for every vendor and for every band of a vendor; and of GPU families left out, where every family
    counts alike. A metric is left out where no run has it, or the runs of one model only.
    """
    rows, bands = left.rows, _bands(left.rows)
    units_of_rows = rows.unit
    familiar, unfamiliar = ({m: np.full(len(rows), np.nan) for m in INTERVAL_METRICS} for _ in range(2))
    for metric in INTERVAL_METRICS:
        for inside, residual, units, vendor_of in (
            (familiar[metric], left.familiar[metric], units_of_rows, rows.vendor),
            (unfamiliar[metric], left.unfamiliar[metric], rows.family, None),
        ):
            known = np.isfinite(residual)
            if len(np.unique(units[known])) < 2:
                continue
            of = np.zeros(len(rows), dtype=np.str_) if vendor_of is None else vendor_of
            for unit, vendor, band in set(zip(units[known].tolist(), of[known].tolist(), bands[known], strict=True)):
                tested = known & (units == unit) & (of == vendor) & (bands == band)
                low, high = left.ends(metric, band, vendor or None, units == unit)
                inside[tested] = (residual[tested] >= min(low, -_LEAST)) & (residual[tested] <= max(high, _LEAST))
    found = {}
    for name, part in _parts(rows, bands):
        shares = {m: round(float(np.nanmean(v[part])), 4) for m, v in familiar.items() if np.isfinite(v[part]).any()}
        if shares:
            found[name] = shares
    of_families = {}
    for metric, inside in unfamiliar.items():
        each = [inside[(rows.family == family) & np.isfinite(inside)] for family in np.unique(rows.family)]
        if shares_of := [float(part.mean()) for part in each if len(part)]:
            of_families[metric] = round(float(np.mean(shares_of)), 4)
    return found | ({"closed loop, family left out": of_families} if of_families else {})


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
