"""Certainty of limits and leads from intervals: figures that hold with a probability, chances of meeting a limit.

An engine's interval holds 80 % of what is measured: 10 % lies below its low end and 10 % above its high end. Between
and beyond, the logarithm of a measured value is taken as normal around the estimate, with a width of its own on either
side of it (a split normal distribution, https://en.wikipedia.org/wiki/Split_normal_distribution), since intervals are
not symmetric: a TTFT is more often far longer than far shorter. A confidence of 0.5 therefore is the estimate itself,
and 0.9 the pessimistic end of the interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

from gpuscout.store.ranking.question.intervals import Intervals

EXPECTED = 0.5
CAUTIOUS = 0.9
"""What `--cautious` asks for: the pessimistic end of an 80 % interval."""
HIGHEST = 0.99

_NORMAL = NormalDist()
_END = _NORMAL.inv_cdf(CAUTIOUS)  # standard deviations from the estimate to either end
# An interval may end at the estimate; nothing is certain because of it.
_NARROWEST = 1e-6
# Half of all deviations are below so many standard deviations.
_PROBABLE = _NORMAL.inv_cdf(0.75)


def at_confidence(intervals: Intervals, confidence: float) -> Intervals:
    """Return factors whose pessimistic end holds with this probability; none for `EXPECTED`, which is the estimate."""
    if confidence <= EXPECTED:
        return {}
    power = _NORMAL.inv_cdf(confidence) / _END
    return {
        engine: {
            regime: {metric: (low**power, high**power) for metric, (low, high) in factors.items()}
            for regime, factors in regimes.items()
        }
        for engine, regimes in intervals.items()
    }


def chance(value: float, interval: tuple[float, float], limit: float, *, at_least: bool) -> float | None:
    """Return the probability that a measured value is within a limit; None: nothing can be said of a value of 0."""
    if not (value > 0 and interval[0] > 0):
        return None
    side = width(value, interval[1]) if limit >= value else width(value, interval[0])
    below = _NORMAL.cdf(math.log(limit / value) / side)
    return 1 - below if at_least else below


def width(value: float, end: float) -> float:
    """Return the standard deviation of the logarithm of what is measured,
    on the side of this end of an 80 % interval.
    """
    return max(abs(math.log(end / value)), _NARROWEST) / _END


def probability_ahead(lead: float, widths: Iterable[float]) -> float:
    """Return the probability that the better of two is the better one; `lead` is the logarithm of their ratio."""
    joint = math.hypot(*widths)
    return _NORMAL.cdf(lead / joint) if joint else 1.0


def joint_error(widths: Iterable[float]) -> float:
    """Return the median error of a ratio of two figures, as a fraction."""
    return math.expm1(_PROBABLE * math.hypot(*widths))


def width_of_median(error: float) -> float:
    """Return the standard deviation of the logarithm where half of all errors (fractions) are below `error`."""
    return math.log1p(error) / _PROBABLE
