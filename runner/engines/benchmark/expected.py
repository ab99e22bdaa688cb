"""Expectations of a measurement for plans: which servers cannot hold their case, and how long measuring takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpuscout.runner.engines.base import Expected
from gpuscout.runner.engines.benchmark.options import LoadOptions, ServedOptions
from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.runner.engines.roofline.features import features
from gpuscout.runner.engines.roofline.memory import memory, why_it_does_not_fit
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.traffic.traffic import PLAIN

# Assumed, not measured: what a server takes to start beside reading its weights, and how fast it reads them (a local
# disk; one that downloads them takes longer).
_START_S = 60.0
_WEIGHTS_BYTES_PER_S = 1e9


def expected(
    cases: CaseColumns,
    ladders: Sequence[tuple[int, ...]],
    load: LoadOptions,
    server: ServedOptions | None,
    *,
    adaptive: bool = False,
) -> Expected:
    """Return the effort of measuring one configuration's cases. `server` None: it runs already.

    `adaptive`: not the whole ladder is measured, but as many of its steps as halving it takes.
    """
    unfit = unfit_cases(cases) if server is not None and server.fit_check else {}
    asked = [row for row, ladder in enumerate(ladders) if ladder and row not in unfit]
    if not asked:
        return Expected(0, 0.0)
    starts = server is not None
    case = cases.case(asked[0])
    seconds = _START_S + case.model.weight_bytes(case.precision) / _WEIGHTS_BYTES_PER_S if starts else 0.0
    return Expected(int(starts), seconds + sum(_load_s(cases, row, ladders[row], load, adaptive) for row in asked))


def unfit_cases(cases: CaseColumns) -> dict[int, str]:
    """Return the reason why no server can hold a case, by position, where weights and cache alone exceed memory."""
    found = features(cases)
    needs = memory(found)
    return {row: why_it_does_not_fit(needs, found, row) for row in np.flatnonzero(needs.cannot_fit).tolist()}


def _load_s(cases: CaseColumns, row: int, ladder: Sequence[int], load: LoadOptions, adaptive: bool) -> float:
    """Return the seconds of one case: a round of requests to warm up, then the rounds that count."""
    case = cases.case(row)
    if case.traffic.open_loop:
        return load.seconds_at_rate
    plain = CaseColumns.of([replace(case, traffic=PLAIN)])
    points = RooflineEngine().evaluate(plain, np.array(ladder, dtype=np.int64)).points
    rounds = np.array([load.requests_at(step) / step + 1 for step in points.concurrency.tolist()])
    share = min(1.0, (math.log2(len(ladder)) + 1) / len(ladder)) if adaptive else 1.0
    return share * float((rounds * points.e2e_s).sum())
