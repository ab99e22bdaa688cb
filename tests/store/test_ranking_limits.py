"""Limits and the operating point at a limit, by tables: what holds, how far off, and where between two points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuscout.store.ranking.question.limits import (
    UNKNOWN,
    between,
    hold,
    limits_of,
    limits_on_runs,
    need_percentiles,
    worst_ratio,
)
from gpuscout.sweeps.slo import parse_slo

NAN = math.nan


def point(concurrency: float, itl_ms: float = 0.0, rate: float = 0.0, queued: float = 0.0) -> dict[str, np.ndarray]:
    return {
        "concurrency": np.array([concurrency]),
        "queued": np.array([queued]),
        "itl_ms": np.array([itl_ms]),
        "requests_per_s": np.array([rate]),
    }


@pytest.mark.parametrize(
    ("slo", "figures", "holds", "ratio"),
    [
        ("itl<=20ms", point(8, itl_ms=10), True, 0.5),
        ("itl<=20ms", point(8, itl_ms=20), True, 1.0),
        ("itl<=20ms", point(8, itl_ms=30), False, 1.5),
        ("itl<=20ms", point(8, itl_ms=NAN), False, UNKNOWN),
        ("itl<=20ms", point(NAN, itl_ms=10), False, 0.5),  # no point
        ("rate>=4", point(8, rate=8), True, 0.5),
        ("rate>=4", point(8, rate=2), False, 2.0),
        ("rate>=4", point(8, rate=0), False, UNKNOWN),
        ("itl:p95<=20ms", point(8, itl_ms=14), True, 1.05),  # of 13.33 ms: the limit on the mean with a tail of 1.5
        ("itl:p95<=20ms", point(8, itl_ms=13), True, 0.975),
    ],
)
def test_a_limit(slo: str, figures: dict[str, np.ndarray], holds: bool, ratio: float) -> None:
    limits = limits_of([parse_slo(slo)], assume_tail=1.5)
    assert worst_ratio(limits, figures)[0] == pytest.approx(ratio)
    assert hold(limits, figures)[0] == (holds and ratio <= 1)


def test_percentiles_are_limits_of_runs_and_of_estimates_with_a_tail_only() -> None:
    slos = [parse_slo("ttft:p95<=1s"), parse_slo("itl<=20ms")]
    assert [limit.column for limit in limits_of(slos, None)] == ["itl_ms"]
    assert [limit.column for limit in limits_of(slos, 2.0)] == ["ttft_ms", "itl_ms"]
    assert [limit.value for limit in limits_of(slos, 2.0)] == [500.0, 20.0]
    assert [limit.column for limit in limits_on_runs(slos)] == ["ttft:p95", "itl_ms"]
    assert need_percentiles(slos, None)
    assert not need_percentiles(slos, 2.0)
    assert not need_percentiles(slos[1:], None)


@pytest.mark.parametrize(
    ("slos", "below", "above", "highest", "concurrency", "itl_ms"),
    [
        # ITL 10 ms at 8 and 26 ms at 16 in flight: 2 ms more each.
        (["itl<=20ms"], point(8, 10), point(16, 26), True, 13, 20.0),
        (["itl<=19ms"], point(8, 10), point(16, 26), True, 12, 18.0),
        (["itl<=11.9ms"], point(8, 10), point(16, 26), True, NAN, NAN),  # 9 in flight have 12 ms
        (["itl<=30ms"], point(8, 10), point(16, 26), True, 15, 24.0),  # never the stored points themselves
        (["itl<=20ms"], point(8, 10), point(9, 26), True, NAN, NAN),  # nothing between
        (["itl<=20ms"], point(8, 10), point(NAN, NAN), True, NAN, NAN),  # nothing above
        # Rates 4/s at 8 and 8/s at 16: half a request more each. The lowest that serves them all.
        (["rate>=5"], point(8, 10, 4), point(16, 26, 8), False, 10, 14.0),
        (["rate>=5", "itl<=13ms"], point(8, 10, 4), point(16, 26, 8), False, NAN, NAN),
        (["rate>=5", "itl<=16ms"], point(8, 10, 4), point(16, 26, 8), True, 11, 16.0),
        # A latency that falls with concurrency is met above the crossing.
        (["itl<=20ms"], point(8, 26), point(16, 10), False, 11, 20.0),
        ([], point(8, 10), point(16, 26), True, 15, 24.0),
    ],
)
def test_a_point_between_two(
    slos: list[str],
    below: dict[str, np.ndarray],
    above: dict[str, np.ndarray],
    highest: bool,
    concurrency: float,
    itl_ms: float,
) -> None:
    found = between(below, above, limits_of([parse_slo(slo) for slo in slos], None), highest=highest)
    assert found["concurrency"][0] == pytest.approx(concurrency, nan_ok=True)
    if not math.isnan(concurrency):
        assert found["itl_ms"][0] == pytest.approx(itl_ms)


def test_a_point_between_queues_if_its_upper_neighbour_does() -> None:
    limits = limits_of([parse_slo("itl<=20ms")], None)
    assert between(point(8, 10), point(16, 26, queued=1.0), limits, highest=True)["queued"][0] == 1.0
    assert between(point(8, 10, queued=1.0), point(16, 26), limits, highest=True)["queued"][0] == 0.0
