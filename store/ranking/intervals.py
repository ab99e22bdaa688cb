"""Where a measured value is expected around an estimate, as engines say it by regime, and its pessimistic end.

TTFT and ITL have intervals of their own; that of E2E follows from both, and a request rate has that of the throughput.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """The interval of every metric of a point of which one is known.

    `point` has engine_id, regime, output_len and the metrics, None: unknown.
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
    return found


def pessimistic(points: sa.FromClause, metric: str, intervals: Intervals) -> sa.ColumnElement[Any]:
    """A metric of points of a task at the pessimistic end of its interval; as it is where none is known."""
    parts = _PARTS.get(metric, ())
    known = [
        (engine, regime)
        for engine, regimes in sorted(intervals.items())
        for regime, factors in sorted(regimes.items())
        if any(part in factors for part in parts)
    ]
    value: sa.ColumnElement[Any] = points.c[metric]
    if not known:
        return value

    def of_regimes(factor_of: Any) -> sa.ColumnElement[Any]:
        """A number for every regime of every engine."""
        by_engine = {
            engine: sa.case(
                {regime: factor_of(intervals[engine][regime]) for e, regime in known if e == engine},
                value=points.c.regime,
                else_=sa.null(),
            )
            for engine, _ in known
        }
        return sa.case(by_engine, value=tasks.c.engine_id, else_=sa.null())

    end = 0 if metric in _RATES else 1

    def scaled(part: str, column: str) -> sa.ColumnElement[Any]:
        factor = of_regimes(lambda factors: sa.literal(factors.get(part, _AS_IS)[end], sa.Double))
        return points.c[column] * factor

    if metric != "e2e_s":
        return sa.func.coalesce(scaled(parts[0], metric), value)
    total = (scaled("ttft_ms", "ttft_ms") + scaled("itl_ms", "itl_ms") * (cases.c.output_len - 1)) / 1000
    return sa.case((value.is_not(None), sa.func.coalesce(total, value)))


def pessimistic_end(metric: str, interval: tuple[float, float]) -> float:
    return interval[0] if metric in _RATES else interval[1]
