"""The quality of a choice made with estimates: the cheapest GPU under a latency limit, the order of offline maxima."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpuscout.runner.accuracy.errors import closed_loop_throughput
from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.sweeps.precision import Precision

ITL_LIMITS_MS = (10, 20, 30, 50, 75, 100)
# USD per GPU-hour: one fixed list, so that figures of different engines and days can be compared. No market prices.
REFERENCE_PRICES: Mapping[str, float] = {
    "H100-SXM-80GB": 2.99,
    "H200-SXM-141GB": 3.79,
    "B200": 5.49,
    "B300": 6.49,
    "GB200": 6.49,
    "GB300": 7.49,
}
_NEAR = 0.05
_CLEARLY_DIFFERENT = 1.10


@dataclass(frozen=True)
class GpuChoice:
    """Quality of the GPU that estimates call cheapest per output token. Shares and regret are fractions.

    A question is a model, server, precision and lengths measured on two GPU types or more, with a limit of ITL that at
    least two of them meet. Regret is the extra cost of the chosen GPU over the cheapest by its own measured runs; a
    choice that never meets the limit, or none, pays for the costliest.
    """

    questions: int
    right: float
    near: float  # within 5 % of the cheapest
    regret: float  # mean


@dataclass(frozen=True)
class Question:
    """One question of `gpu_choice`: `chosen` by estimates ("": no GPU meets the limit), `cheapest` by measured runs."""

    model: str
    server: str
    precision: Precision
    input_len: int
    output_len: int
    limit_ms: float
    chosen: str
    cheapest: str
    regret: float


@dataclass(frozen=True)
class MaximaOrder:
    """Of pairs of GPU types whose measured maxima differ by more than 10 %, the share that estimates order right."""

    pairs: int
    right: float


def gpu_choice(estimates: Estimates, prices: Mapping[str, float] = REFERENCE_PRICES) -> GpuChoice | None:
    """Return the quality of the choice among closed-loop runs on GPUs that have a price. None without a question."""
    regrets = [question.regret for question in gpu_questions(estimates, prices)]
    if not regrets:
        return None
    n = len(regrets)
    return GpuChoice(
        n, sum(r < 1e-9 for r in regrets) / n, sum(r <= _NEAR for r in regrets) / n, statistics.mean(regrets)
    )


def gpu_questions(estimates: Estimates, prices: Mapping[str, float] = REFERENCE_PRICES) -> list[Question]:
    """Return the questions of `gpu_choice` and how they are answered."""
    throughput = closed_loop_throughput(estimates).tolist()
    alike: dict[tuple[str, str, Precision, int, int], list[int]] = defaultdict(list)
    for position, run in enumerate(estimates.runs):
        if run.load is LoadKind.CLOSED_LOOP and run.ttft_ms and run.itl_ms and run.gpu in prices:
            alike[run.model, run.server, run.precision, run.input_len, run.output_len].append(position)
    return [
        Question(*key, limit, *answer)
        for key, positions in alike.items()
        for limit in ITL_LIMITS_MS
        if (answer := _answer(estimates, throughput, positions, limit, prices)) is not None
    ]


def _answer(
    estimates: Estimates, throughput: list[float], positions: list[int], limit_ms: float, prices: Mapping[str, float]
) -> tuple[str, str, float] | None:
    """Return the GPU chosen, the cheapest one and the regret; None where fewer than two GPUs meet the limit."""
    measured: dict[str, float] = {}
    estimated: dict[str, float] = {}
    for position in positions:
        run = estimates.runs[position]
        dollars = prices[run.gpu] * run.num_gpus
        if run.itl_ms is not None and run.itl_ms <= limit_ms and run.throughput:
            measured[run.gpu] = min(dollars / run.throughput, measured.get(run.gpu, math.inf))
        if estimates.itl_ms[position] <= limit_ms:  # never of NaN
            estimated[run.gpu] = min(dollars / throughput[position], estimated.get(run.gpu, math.inf))
    if len(measured) < 2:
        return None
    chosen = min(estimated, key=lambda gpu: estimated[gpu]) if estimated else ""
    cheapest = min(measured, key=lambda gpu: measured[gpu])
    return chosen, cheapest, measured.get(chosen, max(measured.values())) / measured[cheapest] - 1


def maxima_order(estimates: Estimates) -> MaximaOrder | None:
    """Return the order of GPU types by offline maxima of equal deployments, repeats by their median.

    None without a pair.
    """
    deployments: dict[tuple[object, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position, run in enumerate(estimates.runs):
        if run.load is LoadKind.OFFLINE_MAXIMUM and run.throughput:
            deployments[_deployment(run)][run.gpu].append(position)
    pairs = right = 0
    for by_gpu in deployments.values():
        for one, other in itertools.combinations(by_gpu.values(), 2):
            measured = _measured_maximum(estimates, one) / _measured_maximum(estimates, other)
            if max(measured, 1 / measured) <= _CLEARLY_DIFFERENT:
                continue
            estimated = estimates.output_tokens_per_s[one[0]] / estimates.output_tokens_per_s[other[0]]
            pairs += 1
            right += bool(np.isfinite(estimated) and (estimated > 1) == (measured > 1))
    return MaximaOrder(pairs, right / pairs) if pairs else None


def _measured_maximum(estimates: Estimates, repeats: list[int]) -> float:
    return statistics.median(estimates.runs[position].throughput or 0 for position in repeats)


def _deployment(run: MeasuredRun) -> tuple[object, ...]:
    sizes = (run.tp, run.pp, run.dp, run.ep, run.input_len, run.output_len)
    return (run.model, run.server, run.server_version, run.precision, run.kv_precision, *sizes)
