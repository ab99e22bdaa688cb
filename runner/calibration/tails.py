"""Intervals and errors of simulated percentiles, from runs on GPU families that the constants were fitted without.

Every run that reports percentiles is of one model, so nothing narrower than a family can be left out, and all
estimates take the same intervals, whatever their vendor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.errors import tail_ratios, weighted_quantiles
from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.accuracy.seen import errors_seen
from gpuscout.runner.calibration.intervals import INTERVAL_QUANTILES, factors
from gpuscout.runner.engines.roofline.uncertainty import BAND_NAMES, regimes
from gpuscout.sweeps.curves import PERCENTILE_METRICS, FloatArray, IntArray
from gpuscout.sweeps.slo import is_percentile, percentile_name

FORMAT = 1
# No run reports a 95th percentile: its interval holds those of both neighbours.
_NOT_REPORTED, _NEIGHBOURS = 95.0, (90.0, 99.0)
# Fewer families in a band say less than those of all bands.
_FEWEST_FAMILIES = 4
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LeftOverTails:
    """Logarithms of measured / estimated percentiles ("p99_ttft_ms"), one value a run, and its family and band."""

    residuals: Mapping[str, FloatArray]
    family: npt.NDArray[np.str_]
    band: IntArray

    @classmethod
    def of(cls, estimates: Estimates, names: RunNames) -> LeftOverTails:
        """Return the residuals of estimates that were made without the family of each run."""
        found = (names.gpus.find(run.gpu) for run in estimates.runs)
        return cls(
            {name: -np.log(ratio) for name, ratio in tail_ratios(estimates).items() if np.isfinite(ratio).any()},
            np.array(["" if gpu is None else gpu.family for gpu in found], dtype=np.str_),
            regimes(estimates.concurrency, np.zeros(len(estimates), dtype=np.int64)),
        )

    def interval(self, name: str, band: int, without: str | None = None) -> tuple[float, float]:
        """Return the ends of an interval as logarithms; every family but `without` counts alike."""
        known = np.isfinite(self.residuals[name]) & (self.family != (without or ""))
        sample = known & (self.band == band)
        if len(np.unique(self.family[sample])) < _FEWEST_FAMILIES:
            sample = known
        _, family, runs = np.unique(self.family[sample], return_inverse=True, return_counts=True)
        low, high = weighted_quantiles(self.residuals[name][sample], 1 / runs[family], INTERVAL_QUANTILES)
        return float(low), float(high)

    def inside(self) -> dict[str, float]:
        """Return the share of runs inside an interval made without their family, where every family counts alike."""
        found = {}
        for name, residual in self.residuals.items():
            shares = []
            for family in np.unique(self.family[np.isfinite(residual)]).tolist():
                mine = np.isfinite(residual) & (self.family == family)
                ends = np.log([factors(*self.interval(name, band, family)) for band in range(len(BAND_NAMES))])
                low, high = ends[self.band[mine]].T
                shares.append(float(((residual[mine] >= low) & (residual[mine] <= high)).mean()))
            found[name] = round(float(np.mean(shares)), 4)
        return found


def tails_document(estimates: Estimates, names: RunNames) -> dict[str, object]:
    """Return the simulator's errors of percentiles, from estimates made without the GPU family of each run."""
    left = LeftOverTails.of(estimates, names)
    intervals = {
        name: {band: factors(*left.interval(name, number)) for number, band in enumerate(BAND_NAMES)}
        for name in left.residuals
    }
    errors = [
        {field: round(value, 4) if isinstance(value, float) else value for field, value in asdict(error).items()}
        for error in errors_seen(estimates, names, family_left_out=estimates)
        if is_percentile(error.metric)
    ]
    for metric in PERCENTILE_METRICS:
        below, above = (percentile_name(metric, percentile) for percentile in _NEIGHBOURS)
        between = percentile_name(metric, _NOT_REPORTED)
        if {below, above} <= intervals.keys():
            intervals[between] = {
                band: [min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)]
                for band, pairs in zip(
                    BAND_NAMES, zip(intervals[below].values(), intervals[above].values(), strict=True), strict=True
                )
            }
    return {
        "format": FORMAT,
        "runs": len(estimates),
        "inside": left.inside(),
        "intervals": intervals,
        "errors_seen": errors,
    }
