"""How long measuring will take: from estimated latencies and assumed starts of servers. For planning, not a promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpuscout.runner.engines.base import Expected
from gpuscout.runner.engines.benchmark.options import LoadOptions
from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.traffic.traffic import PLAIN

# Assumed, not measured: what a server takes to start beside reading its weights, and how fast it reads them (a local
# disk; one that downloads them takes longer).
_START_S = 60.0
_WEIGHTS_BYTES_PER_S = 1e9


def expected(cases: CaseColumns, ladders: Sequence[tuple[int, ...]], load: LoadOptions, *, starts: bool) -> Expected:
    """The effort of measuring the cases of one configuration. `starts`: a server is started for them."""
    asked = [row for row, ladder in enumerate(ladders) if ladder]
    if not asked:
        return Expected(0, 0.0)
    case = cases.case(asked[0])
    seconds = _START_S + case.model.weight_bytes(case.precision) / _WEIGHTS_BYTES_PER_S if starts else 0.0
    return Expected(int(starts), seconds + sum(_load_s(cases, row, ladders[row], load) for row in asked))


def _load_s(cases: CaseColumns, row: int, ladder: Sequence[int], load: LoadOptions) -> float:
    """Warming up takes one round of requests, counting as many rounds as there are requests for each in flight."""
    case = cases.case(row)
    if case.traffic.open_loop:
        return load.seconds_at_rate
    plain = CaseColumns.of([replace(case, traffic=PLAIN)])
    points = RooflineEngine().evaluate(plain, np.array(ladder, dtype=np.int64)).points
    rounds = np.array([load.requests_at(step) / step + 1 for step in points.concurrency.tolist()])
    return float((rounds * points.e2e_s).sum())
