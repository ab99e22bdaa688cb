"""Uncertainty of the roofline engine: 80 % intervals and errors from cross-validated residuals, by regime.

A regime is a band of concurrency on the GPUs of one vendor, of generations that were measured, or on generations that
were not, for a model whose architecture is known or only approximate. An interval is a pair of factors: of the runs of
models (on generations not measured: of GPU families) that a fit had not seen, 80 % lay between low x and high x what it
said. Finer regimes (server, dense or MoE) were tried and carry less well to an unseen model: the runs are of too few
models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from gpuscout.sweeps.curves import FloatArray, IntArray
from gpuscout.sweeps.trust import TRUSTED_METRICS, ObservedError

INTERVAL_METRICS = ("ttft", "itl", "throughput")  # in the order of `TRUSTED_METRICS`
# Upper ends of the bands of concurrency (requests in flight in the whole deployment); the last band is open.
BAND_ENDS = (8, 64)
BAND_NAMES = ("1-8", "9-64", "65-")
# The group of generations that no run of the fit has; the others are called by their vendors.
UNSEEN = "other families"
# What the architecture of a model of no known family may be off by. `tests/assets/count_architectures.py` prints how
# many of the architectures of transformers are counted within this factor when their family is hidden.
APPROXIMATE_FACTOR = 1.2


@dataclass(frozen=True)
class Intervals:
    """Ends of the 80 % intervals of operating points; every array has one value a point, NaN where nothing is known."""

    ttft_ms: tuple[FloatArray, FloatArray]
    itl_ms: tuple[FloatArray, FloatArray]
    output_tokens_per_s: tuple[FloatArray, FloatArray]


def regimes(concurrency: IntArray, group: IntArray) -> IntArray:
    """Return the regime of every point: a row of the table of `interval_table`, whose groups `group` counts."""
    codes: IntArray = np.searchsorted(BAND_ENDS, concurrency, side="left") + group * len(BAND_NAMES)
    return codes


def interval_table(part: object) -> tuple[tuple[str, ...], FloatArray]:
    """Return groups, and regimes x metrics x (low, high), of `intervals` of a constants file. Raises ValueError.

    The group `UNSEEN` is the last; the same groups follow for models whose architecture is approximate. Without that
    part (a fit that was not cross-validated) nothing is known of errors: every factor is NaN; so are those of groups
    without an entry.
    """
    if part is not None and not isinstance(part, Mapping):
        raise ValueError(f"intervals: expected a mapping of vendors, got {part!r}")
    known = part or {}
    groups = (*(name for name in known if name != UNSEEN), UNSEEN)
    table = np.full((len(groups) * len(BAND_NAMES), len(INTERVAL_METRICS), 2), np.nan)
    for g, group in enumerate(groups):
        for m, metric in enumerate(INTERVAL_METRICS) if group in known else ():
            metrics = known[group]
            bands = metrics.get(metric) if isinstance(metrics, Mapping) else None
            for b, band in enumerate(BAND_NAMES):
                pair = bands.get(band) if isinstance(bands, Mapping) else None
                if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, int | float) for x in pair)):
                    raise ValueError(f"intervals.{group}.{metric}.{band}: expected two factors, got {pair!r}")
                low, high = map(float, pair)
                if not 0 < low <= high < float("inf"):
                    raise ValueError(f"intervals.{group}.{metric}.{band}: expected 0 < low <= high, got {pair!r}")
                table[g * len(BAND_NAMES) + b, m] = low, high
    # Both errors are independent: their logarithms add up as squares.
    approximate = np.exp(np.hypot(np.log(table), np.log(APPROXIMATE_FACTOR)) * np.array([-1.0, 1.0]))
    return groups, np.concatenate([table, approximate])


def interval_factors(table: FloatArray) -> dict[int, dict[str, tuple[float, float]]]:
    """Return the table of `interval_table` by regime and metric, without regimes of which nothing is known."""
    known = np.flatnonzero(np.isfinite(table).all(axis=(1, 2)))
    return {
        int(regime): {
            metric: (float(low), float(high))
            for metric, (low, high) in zip(TRUSTED_METRICS, table[regime], strict=True)
        }
        for regime in known
    }


def errors_from(part: object) -> tuple[ObservedError, ...]:
    """Return the errors of the part `errors_seen` of a constants file: a list of mappings. Raises ValueError."""
    if part is None:
        return ()
    names = {field.name for field in fields(ObservedError)}
    try:
        if not isinstance(part, list) or any(set(one) - names for one in part):
            raise TypeError
        return tuple(ObservedError.from_dict(one) for one in part)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"errors_seen: expected a list of mappings of {', '.join(sorted(names))}") from error
