"""Intervals of measured values around an estimate, as engines state them by regime, and their pessimistic end.

TTFT and ITL have intervals of their own; that of E2E follows from both, and a request rate has that of the throughput.
Percentiles have their own ("p95_ttft_ms"), where an engine has any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from gpuscout.store.schema import cases, tasks

Intervals = Mapping[int, Mapping[int, Mapping[str, tuple[float, float]]]]
"""By engine id, regime and metric the factors (low, high), see `gpuscout.sweeps.trust`."""

_PARTS = {
    "ttft_ms": ("ttft_ms",),
    "itl_ms": ("itl_ms",),
    "e2e_s": ("ttft_ms", "itl_ms"),
    "output_tokens_per_s": ("output_tokens_per_s",),
    "requests_per_s": ("output_tokens_per_s",),
}
_RATES = ("output_tokens_per_s", "requests_per_s")
_AS_IS = (1.0, 1.0)


def intervals_around(point: Mapping[str, Any], intervals: Intervals) -> dict[str, tuple[float, float]]:
    """Return the interval of every metric of a point of which one is known.

    `point` has engine_id, regime, output_len and the metrics, None: unknown; and percentiles ("p95_ttft_ms") or not.
    """
    factors = intervals.get(point["engine_id"], {}).get(point["regime"], {})
    found: dict[str, tuple[float, float]] = {}
    # Straight on, for every configuration that is shown comes here.
    for metric, (part, *more) in _PARTS.items():
        value = point[metric]
        if value is None:
            continue
        if not more:
            if part in factors:
                low, high = factors[part]
                found[metric] = value * low, value * high
        elif part in factors or more[0] in factors:
            ttft_ms, itl_ms = point[part], point[more[0]]
            if ttft_ms is not None and itl_ms is not None:
                ttft, itl = factors.get(part, _AS_IS), factors.get(more[0], _AS_IS)
                decode_ms = itl_ms * (point["output_len"] - 1)
                low, high = (ttft_ms * ttft[end] + decode_ms * itl[end] for end in (0, 1))
                found[metric] = low / 1000, high / 1000
    for name in factors.keys() - _PARTS.keys():
        if (value := point.get(name)) is not None:
            low, high = factors[name]
            found[name] = value * low, value * high
    return found


def pessimistic(points: sa.FromClause, metric: str, intervals: Intervals) -> sa.ColumnElement[Any]:
    """Return a metric of points of a task at the pessimistic end of its interval; as it is where none is known."""
    parts = _PARTS.get(metric, ())
    known = _that_have(parts, intervals)
    value: sa.ColumnElement[Any] = points.c[metric]
    if not known:
        return value
    end = 0 if metric in _RATES else 1
    factors = [_factor(points, part, known, end) for part in parts]
    if metric != "e2e_s":
        return sa.func.coalesce(value * factors[0], value)
    ttft, itl = factors
    total = (points.c.ttft_ms * ttft + points.c.itl_ms * itl * (cases.c.output_len - 1)) / 1000
    return sa.case((value.is_not(None), sa.func.coalesce(total, value)))


def pessimistic_tail(points: sa.FromClause, name: str, intervals: Intervals) -> sa.ColumnElement[Any]:
    """Return the factor from a percentile of a task's points ("p95_ttft_ms") to that end of its range; 1: not known."""
    known = _that_have((name,), intervals)
    as_is = sa.literal(1.0, sa.Double)
    return sa.func.coalesce(_factor(points, name, known, 1), as_is) if known else as_is


def _that_have(metrics: Sequence[str], intervals: Intervals) -> Intervals:
    """Return the intervals of the regimes that have one of these metrics, in order."""
    found = {
        engine: {regime: factors for regime, factors in sorted(regimes.items()) if any(m in factors for m in metrics)}
        for engine, regimes in sorted(intervals.items())
    }
    return {engine: regimes for engine, regimes in found.items() if regimes}


def _factor(points: sa.FromClause, metric: str, known: Intervals, end: int) -> sa.ColumnElement[Any]:
    """Return this end of a factor for the regime of a point; NULL: there are none of its engine and regime."""
    by_engine = {
        engine: sa.case(
            {regime: sa.literal(factors.get(metric, _AS_IS)[end], sa.Double) for regime, factors in regimes.items()},
            value=points.c.regime,
            else_=sa.null(),
        )
        for engine, regimes in known.items()
    }
    return sa.case(by_engine, value=tasks.c.engine_id, else_=sa.null())


def pessimistic_end(metric: str, interval: tuple[float, float]) -> float:
    return interval[0] if metric in _RATES else interval[1]
