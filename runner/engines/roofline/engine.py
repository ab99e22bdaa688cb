"""The engine `roofline`: answers blocks of cases with NumPy arithmetic, some microseconds a point."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.base import About, Cost, Option
from gpuscout.runner.engines.roofline.constants import NAMES, Constants, Physical
from gpuscout.runner.engines.roofline.features import GIB, Features, features
from gpuscout.runner.engines.roofline.memory import memory, why_it_does_not_fit
from gpuscout.runner.engines.roofline.serving import operate
from gpuscout.runner.engines.roofline.support import reasons, untimed
from gpuscout.runner.engines.roofline.uncertainty import Intervals, interval_factors, regimes
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.curves import MEAN_OF_BINS, Curves, IntArray, Points
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.settings import STARTED
from gpuscout.sweeps.traffic.trace import NamedTrace
from gpuscout.sweeps.traffic.traffic import Traffic
from gpuscout.sweeps.trust import Trust

# Changes whenever the formulas do: results of another version are other results.
VERSION = "4"


class RooflineEngine:
    """Physics with fitted constants; the constants of `constants_file` (JSON) or those that ship with gpuscout."""

    name = "roofline"
    cost = Cost.CHEAP
    in_process = True
    understands = frozenset(STARTED)
    about = About(
        covers="all models, GPUs and servers: calibrated physics; cached input, means of lengths that vary",
        options={"constants_file": Option("constants written by `gpuscout calibrate`, instead of those that ship")},
    )

    def __init__(self, *, constants_file: Path | str | None = None) -> None:
        self.constants = Constants.load(constants_file)
        # A worker makes its own engine from the options.
        self.options: Mapping[str, object] = {} if constants_file is None else {"constants_file": str(constants_file)}

        self._median = 0.0

    def of_medians(self) -> RooflineEngine:
        """Return a variant of this engine for median latencies: most requests do not arrive with all others."""
        engine = copy.copy(self)
        engine._median = 1.0
        return engine

    def fingerprint(self) -> str:
        return f"{VERSION}-{self.constants.digest}"

    def unsupported_traffic(self, traffic: Traffic) -> str | None:
        """Return the reason: queueing and the order of requests have no closed form."""
        if traffic.open_loop:
            return "roofline answers for closed loops only; the engine simulator answers for requests that arrive"
        if isinstance(traffic.trace, NamedTrace):
            return "the trace of this case is not available"
        if traffic.trace is not None and traffic.trace.hash_ids is not None and not traffic.cached_input:
            return "what a prefix cache finds of a trace depends on its order, which the engine simulator follows"
        return None

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
        n = len(cases)
        outcome = np.full(n, Outcome.OK.code, dtype=np.int64)
        details = _invalid(cases)
        outcome[list(details)] = Outcome.INVALID.code
        refused = {row: text for row, text in reasons(cases).items() if row not in details}
        outcome[list(refused)] = Outcome.NOT_SUPPORTED.code
        details |= refused

        needed, usable = np.full(n, np.nan), np.full(n, np.nan)
        capacity = np.full(n, -1, dtype=np.int64)
        rows = np.flatnonzero(outcome == Outcome.OK.code)
        valid = cases if len(rows) == n else cases.take(rows)
        f = features(valid)
        m = memory(f)
        needed[rows], usable[rows] = m.needed / GIB, m.usable / GIB
        capacity[rows] = m.capacity_tokens.astype(np.int64)
        fits = m.fits
        for position in np.flatnonzero(~fits).tolist():
            row = int(rows[position])
            outcome[row] = Outcome.DOES_NOT_FIT.code
            details[row] = why_it_does_not_fit(m, f, position)
        for position, text in untimed(valid).items():
            if fits[position]:
                outcome[rows[position]], details[int(rows[position])] = Outcome.NOT_SUPPORTED.code, text
        timed = outcome[rows] == Outcome.OK.code
        points = self._points(valid.take(timed), f.take(timed), m.running[timed], rows[timed], ladder)
        for row in rows[timed].tolist():
            if cases.traffics[cases.traffic[row]].varies:
                details[row] = MEAN_OF_BINS
        return Curves(outcome, needed, usable, capacity, np.full(n, -1, dtype=np.int64), points, details)

    def intervals(self, cases: CaseColumns, points: Points) -> Intervals:
        """Return the 80 % intervals of operating points that this engine gave for these cases."""
        group = self.groups(cases)[points.task]
        regime = regimes(points.concurrency, group)
        factors = self.constants.intervals[regime]
        figures = (points.ttft_ms, points.itl_ms, points.output_tokens_per_s)
        ends = [(figure * factors[:, m, 0], figure * factors[:, m, 1]) for m, figure in enumerate(figures)]
        return Intervals(*ends)

    def groups(self, cases: CaseColumns) -> IntArray:
        """Return the group of intervals of every case: those of approximate architectures follow the others."""
        of_gpu = np.array([self.constants.interval_group(gpu) for gpu in cases.gpus], dtype=np.int64)
        approximate = np.array([model.approximate for model in cases.models], dtype=np.bool_)
        groups: IntArray = of_gpu[cases.gpu] + np.where(
            approximate[cases.model], len(self.constants.interval_groups), 0
        )
        return groups

    def known_regimes(self, regime: IntArray) -> npt.NDArray[np.int8]:
        """Return regimes as points carry them: -1 where no interval is known."""
        known = interval_factors(self.constants.intervals)
        codes = np.array([code if code in known else -1 for code in range(len(self.constants.intervals))], np.int8)
        return codes[regime]

    def trust(self) -> Trust:
        """Return intervals and errors of the calibration, both on models that a fit had not seen."""
        return Trust(interval_factors(self.constants.intervals), self.constants.errors)

    def _points(
        self,
        cases: CaseColumns,
        f: Features,
        running: npt.NDArray[np.float64],
        rows: npt.NDArray[np.int64],
        ladder: IntArray,
    ) -> Points:
        """Return the operating points of cases that fit; `rows` are their positions in the block."""
        k = self.constants.rows(cases.gpus, cases.servers, cases.gpu, cases.server)
        concurrency = ladder.astype(np.float64)[None, :]
        columns = Features(**{name: values[:, None] for name, values in vars(f).items()})
        constants = Physical(*(getattr(k, name)[:, None] for name in NAMES))
        operation = operate(columns, constants, running[:, None], concurrency, self._median)
        requests_per_s = concurrency / operation.e2e_s
        regime = self.known_regimes(regimes(ladder[None, :], self.groups(cases)[:, None]))
        return Points(
            task=np.repeat(rows, len(ladder)),
            concurrency=np.tile(ladder, len(rows)),
            ttft_ms=operation.ttft_ms.ravel(),
            itl_ms=operation.itl_ms.ravel(),
            e2e_s=operation.e2e_s.ravel(),
            output_tokens_per_s=(requests_per_s * columns.output_len).ravel(),
            requests_per_s=requests_per_s.ravel(),
            bound=operation.bound.ravel(),
            queued=operation.queued.ravel(),
            # Intervals are those of runs without drafts.
            regime=np.where(columns.draft_tokens > 0, np.int8(-1), regime).ravel(),
        )


def _invalid(cases: CaseColumns) -> dict[int, str]:
    """Return the reason why a case is meaningless, by position."""
    ranks = cases.tensor_parallel * cases.data_parallel
    least = np.minimum.reduce(
        [
            cases.tensor_parallel,
            cases.pipeline_parallel,
            cases.data_parallel,
            cases.expert_parallel,
            cases.input_len,
            cases.output_len,
        ]
    )
    layers = np.array([model.layers for model in cases.models], dtype=np.int64)[cases.model]
    experts = np.array([model.experts for model in cases.models], dtype=np.int64)[cases.model]
    fraction = cases.gpu_memory_utilization
    checks = (
        (least < 1, "lengths and parallel sizes must be at least 1"),
        (~((fraction > 0) & (fraction <= 1)), "gpu_memory_utilization must be above 0 and at most 1"),
        (cases.max_model_len < cases.input_len + cases.output_len, "input and output exceed max_model_len"),
        (cases.pipeline_parallel > layers, "more pipeline stages than layers"),
        ((cases.expert_parallel > 1) & (experts == 0), "expert parallelism needs a mixture-of-experts model"),
        (ranks % np.maximum(cases.expert_parallel, 1) != 0, "expert parallelism must divide tp x dp"),
    )
    found: dict[int, str] = {}
    for failed, text in checks:
        for row in np.flatnonzero(failed).tolist():
            found.setdefault(row, text)
    return found
