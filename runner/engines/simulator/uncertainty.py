"""Uncertainty of the simulator: the roofline's intervals and errors for means, and its own for percentiles.

Means take the roofline's, whose steps they are made of. `tails.json` has those of percentiles, by band of load, from
runs on GPU families that a fit had not seen (`python -m tests.assets.update_tails`). Runs with percentiles are closed
loops of one model: a percentile of requests that arrive takes the same interval, but no run is near it.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Any

from gpuscout.runner.engines.roofline.uncertainty import APPROXIMATE_FACTOR, BAND_NAMES, errors_from
from gpuscout.sweeps.trust import Trust

Factors = Mapping[str, tuple[float, float]]


def with_tails(means: Trust, groups: int) -> Trust:
    """Return the uncertainty of the means, by the regimes of the roofline, with that of percentiles.

    `groups`: how many groups of intervals there are; the regimes of approximate architectures follow theirs.
    """
    tails = _shipped()
    errors = errors_from(tails["errors_seen"])
    intervals = {}
    for regime, factors in means.intervals.items():
        approximate = regime >= groups * len(BAND_NAMES)
        of_band = _of_band(BAND_NAMES[regime % len(BAND_NAMES)], approximate=approximate)
        intervals[regime] = {**factors, **of_band}
    return Trust(intervals, (*means.errors, *errors))


@functools.cache
def _of_band(band: str, *, approximate: bool) -> Factors:
    """Return the factors of every percentile in one band of load."""
    found = {}
    for name, of_bands in _shipped()["intervals"].items():
        low, high = of_bands[band]
        if approximate:
            # Both errors are independent: their logarithms add up as squares.
            more = math.log(APPROXIMATE_FACTOR)
            low, high = (math.exp(sign * math.hypot(math.log(end), more)) for sign, end in ((-1, low), (1, high)))
        found[name] = (low, high)
    return found


@functools.cache
def _shipped() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("tails.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
