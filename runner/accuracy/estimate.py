"""Estimating measured runs: each run as a case, one answer of an engine for each run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.engines.base import Cost, Engine, as_ladder, understood_by
from gpuscout.runner.execution.evaluate import evaluate
from gpuscout.store.measured import MeasuredRun, case_of
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS, FloatArray, IntArray
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import server_named
from gpuscout.sweeps.servers.options import OPTIONS, ServerOptions, server_options, unknown_to

# Concurrencies among which an offline maximum is sought: the server chooses by itself.
_CHEAP_MAXIMUM = tuple(2**n for n in range(13))
_DEAR_MAXIMUM = (16, 64, 256, 1024)
# A run that was measured did fit. The share of memory its server took is rarely known: the usual one is tried first,
# then a large one; last, the latencies are asked for as if the GPU had the memory.
_MEMORY_FRACTIONS = (0.9, 0.95)
_STRETCHED_MEMORY = 4.0
_INFERENCEX = ("InferenceX", "AIConfigurator validation")


@dataclass(frozen=True)
class Estimates:
    """An engine's figures for measured runs, one value a run; NaN where there is no answer.

    `concurrency` is the run's; of an offline maximum the one with the most output tokens/s. `fraction` is the share of
    GPU memory that was assumed: above 1 where the engine thinks that the run cannot have fitted. `reasons` says why
    there is no answer, by position. `regime` is that of each point, -1: none; None: not looked at. `percentiles`: a row
    a run and the columns `PERCENTILE_COLUMNS`, NaN where the engine has none; None: not looked at.
    """

    runs: tuple[MeasuredRun, ...]
    ttft_ms: FloatArray
    itl_ms: FloatArray
    output_tokens_per_s: FloatArray
    concurrency: IntArray
    fraction: FloatArray
    reasons: Mapping[int, str]
    regime: IntArray | None = None
    percentiles: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.runs)

    def followed_by(self, other: Estimates) -> Estimates:
        """Return the estimates followed by those of another."""
        return Estimates(
            self.runs + other.runs,
            np.concatenate([self.ttft_ms, other.ttft_ms]),
            np.concatenate([self.itl_ms, other.itl_ms]),
            np.concatenate([self.output_tokens_per_s, other.output_tokens_per_s]),
            np.concatenate([self.concurrency, other.concurrency]),
            np.concatenate([self.fraction, other.fraction]),
            {**self.reasons, **{len(self) + place: reason for place, reason in other.reasons.items()}},
            None if self.regime is None or other.regime is None else np.concatenate([self.regime, other.regime]),
            None
            if self.percentiles is None or other.percentiles is None
            else np.concatenate([self.percentiles, other.percentiles]),
        )


def kv_precision_of(run: MeasuredRun, model: ModelSpec, gpu: GPUSpec) -> Precision:
    """Return the KV precision of a run that does not say it: what the recipes of published benchmarks use.

    They keep the cache in 8 bits where weights have 8 or 4 and the server does so by default or the GPU has fp4 units;
    else the model's own. Assuming the model's own everywhere doubles the errors of long prompts at high concurrency.
    """
    if run.kv_precision is not None:
        return run.kv_precision
    narrow = run.precision in (Precision.FP8, Precision.FP4)
    if narrow and gpu.supports("fp8") and (server_named(run.server).narrow_kv_default or gpu.supports("fp4")):
        return Precision.FP8
    return model.kv_precision


def server_options_of(run: MeasuredRun, gpu: GPUSpec) -> ServerOptions:
    """Return the server options of a run: those its source states, else those of its benchmark's recipe.

    InferenceX starts SGLang on B200 and B300 with `--scheduler-recv-interval` 10, or 30 from 16 requests in flight on;
    AIConfigurator's validation set has its runs.
    """
    stated = {
        name: value
        for name, value in run.server_options
        if name in OPTIONS and unknown_to(run.server, ((name, 1),)) is None and isinstance(value, int) and value > 0
    }
    recipe = run.server == "sglang" and run.source in _INFERENCEX and gpu.name in ("B200", "B300")
    if recipe and not stated:
        stated = {"scheduler_recv_interval": 30 if (run.concurrency or 0) >= 16 else 10}
    return server_options(stated, run.server, gpu.name, gpu.memory_usable_gib)


def expert_parallel_of(run: MeasuredRun, model: ModelSpec) -> int:
    """Return the expert parallelism of a run: where FP8 blocks cannot be split, its server ran with it unsaid."""
    ranks = run.tp * run.dp
    unsaid = run.ep == 1 and run.precision is model.precision and server_named(run.server).whole_blocks
    return ranks if unsaid and model.is_moe and model.part_of_a_block(model.expert_width, ranks) else run.ep


class RunCases:
    """The cases of measured runs. Names are looked up once; those nobody knows are told in `reasons`."""

    def __init__(self, runs: Sequence[MeasuredRun], names: RunNames | None = None) -> None:
        self._names = names or RunNames()
        self._models: dict[str, ModelSpec | str] = {}
        self._gpus: dict[str, GPUSpec | str] = {}
        self.cases: dict[int, Case] = {}
        self.reasons: dict[int, str] = {}
        for position, run in enumerate(runs):
            model, gpu = self._model(run.model), self._gpu(run.gpu)
            if isinstance(model, str) or isinstance(gpu, str):
                self.reasons[position] = model if isinstance(model, str) else str(gpu)
                continue
            case = case_of(run, model, gpu, kv_precision=kv_precision_of(run, model, gpu))
            self.cases[position] = replace(
                case, expert_parallel=expert_parallel_of(run, model), server_options=server_options_of(run, gpu)
            )

    def _model(self, name: str) -> ModelSpec | str:
        if name not in self._models:
            try:
                self._models[name] = self._names.model(name)
            except GpuscoutError as error:
                self._models[name] = error.message
        return self._models[name]

    def _gpu(self, name: str) -> GPUSpec | str:
        if name not in self._gpus:
            try:
                self._gpus[name] = self._names.gpu(name)
            except GpuscoutError as error:
                self._gpus[name] = error.message
        return self._gpus[name]


def estimate(engine: Engine, runs: Iterable[MeasuredRun], names: RunNames | None = None) -> Estimates:
    """Estimate each run with this engine, in the order of the runs. `names` None: of the catalogues and the Hub.

    Runs that report medians are compared with the engine's estimate of medians, or its 50th percentiles, where it has
    such.
    """
    runs = tuple(runs)
    asked = RunCases(runs, names)
    answer = _Answer(runs, dict(asked.reasons))
    cases = asked.cases
    if "server_options" not in understood_by(engine):  # it answers for its own idea of a server's defaults
        cases = {position: replace(case, server_options=()) for position, case in cases.items()}
    medians = {position for position, run in enumerate(runs) if run.latency_stat == "median"}
    for of_stat, positions in ((engine, cases.keys() - medians), (engine_of_medians(engine), medians)):
        answer.ask_all(of_stat, {p: case for p, case in cases.items() if p in positions})
    answer.take_medians(medians)
    ttft_ms, itl_ms, tokens_per_s = answer.figures
    return Estimates(
        runs,
        ttft_ms,
        itl_ms,
        tokens_per_s,
        answer.concurrency,
        answer.fraction,
        answer.reasons,
        answer.regime,
        answer.percentiles,
    )


def engine_of_medians(engine: Engine) -> Engine:
    """Return the engine for runs that report medians; the same one where it makes no difference."""
    of_medians = getattr(engine, "of_medians", None)
    found: Engine = engine if of_medians is None else of_medians()
    return found


class _Answer:
    """Figures of runs while they are collected."""

    def __init__(self, runs: tuple[MeasuredRun, ...], reasons: dict[int, str]) -> None:
        self._runs = runs
        self.figures = tuple(np.full(len(runs), np.nan) for _ in range(3))  # TTFT, ITL, output tokens/s
        self.concurrency = np.array([run.concurrency or 0 for run in runs], dtype=np.int64)
        self.fraction = np.full(len(runs), np.nan)
        self.regime = np.full(len(runs), -1, dtype=np.int64)
        self.percentiles = np.full((len(runs), len(PERCENTILE_COLUMNS)), np.nan)
        self.reasons = reasons

    def ask_all(self, engine: Engine, cases: Mapping[int, Case]) -> None:
        """Fill in what the engine answers, at the first share of memory with which a run fits."""
        waiting = cases
        for fraction in (*_MEMORY_FRACTIONS, _STRETCHED_MEMORY):
            refused = self._ask(engine, {p: with_memory(case, fraction) for p, case in waiting.items()}, fraction)
            waiting = {position: waiting[position] for position in refused}

    def take_medians(self, positions: Iterable[int]) -> None:
        """Take the 50th percentiles of the engine for the latencies of these runs, where it has them."""
        rows = np.array(sorted(positions), dtype=np.int64)
        for figures, metric in zip(self.figures, ("ttft_ms", "itl_ms"), strict=False):
            median = self.percentiles[rows, PERCENTILE_COLUMNS.index((metric, 50.0))]
            figures[rows] = np.where(np.isnan(median), figures[rows], median)

    def _ask(self, engine: Engine, cases: Mapping[int, Case], fraction: float) -> list[int]:
        """Fill in what the engine answers; returns the runs that do not fit. Runs of one case are asked together."""
        maximum = _CHEAP_MAXIMUM if engine.cost is Cost.CHEAP else _DEAR_MAXIMUM
        runs_of: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for position in cases:
            key = (*_deployment(self._runs[position]), cases[position].server_options)
            runs_of[key].append(position)
        by_ladder: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
        for positions in runs_of.values():
            concurrencies = {self._runs[p].concurrency for p in positions}
            ladder = tuple(sorted({c for c in concurrencies if c})) if None not in concurrencies else maximum
            by_ladder[ladder].append(positions)
        refused: list[int] = []
        for ladder, groups in by_ladder.items():
            refused += self._block(engine, [cases[group[0]] for group in groups], groups, ladder, fraction)
        return refused

    def _block(
        self, engine: Engine, cases: list[Case], groups: list[list[int]], ladder: tuple[int, ...], fraction: float
    ) -> list[int]:
        curves = evaluate(engine, CaseColumns.of(cases), as_ladder(ladder))
        p = curves.points
        starts = np.searchsorted(p.task, np.arange(len(cases) + 1))
        refused: list[int] = []
        for number, group in enumerate(groups):
            if curves.outcome[number] != Outcome.OK.code:
                outcome = OUTCOMES[curves.outcome[number]]
                self.reasons |= dict.fromkeys(group, f"{outcome}: {curves.details.get(number, '')}".rstrip(": "))
                refused += group if outcome is Outcome.DOES_NOT_FIT else []
                continue
            mine = slice(starts[number], starts[number + 1])
            for position in group:
                wanted = self._runs[position].concurrency
                at = np.flatnonzero(p.concurrency[mine] == wanted) if wanted else [p.output_tokens_per_s[mine].argmax()]
                if not len(at):
                    self.reasons[position] = f"no answer at concurrency {wanted}"
                    continue
                self.reasons.pop(position, None)
                point = int(starts[number] + at[0])
                self.concurrency[position] = p.concurrency[point]
                self.fraction[position] = fraction
                self.regime[position] = p.regime[point]
                if p.percentiles is not None:
                    self.percentiles[position] = p.percentiles[point]
                for figures, of_points in zip(self.figures, (p.ttft_ms, p.itl_ms, p.output_tokens_per_s), strict=True):
                    figures[position] = of_points[point]
        return refused


def _deployment(run: MeasuredRun) -> tuple[object, ...]:
    """Return the values that make a run's case, and whether it is an offline maximum: equal ones give equal curves."""
    sizes = (run.tp, run.pp, run.dp, run.ep, run.input_len, run.output_len)
    return (run.model, run.gpu, run.precision, run.kv_precision, run.server, *sizes, run.load)


def with_memory(case: Case, fraction: float) -> Case:
    """Return the case with this share of GPU memory; above 1 the GPU gets that many times its memory."""
    if fraction <= 1:
        return replace(case, gpu_memory_utilization=fraction)
    gpu = replace(case.gpu, memory_usable_gib=case.gpu.memory_usable_gib * fraction)
    return replace(case, gpu=gpu, gpu_memory_utilization=_MEMORY_FRACTIONS[-1])
