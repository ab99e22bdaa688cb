"""The simulator's event loop by itself, and how far it is from what theory says: for its tests and benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.simulator.kernel import CHUNKED, PREFILL_FIRST, WHOLE_PROMPTS, simulate
from gpuscout.runner.engines.simulator.steps import StepSeconds, tabulate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Run:
    code: int
    arrival: Floats
    admitted: Floats
    first_token: Floats
    finished: Floats
    gaps: Floats
    weights: Ints
    kv_token_seconds: float
    preemptions: int
    held_s: float


def run(
    arrival: Floats,
    prompt: Ints,
    output: Ints,
    seconds: StepSeconds,
    *,
    cached: Ints | None = None,
    share_cached: bool = False,
    counted: int | None = None,
    clients: int = 0,
    max_num_seqs: int,
    max_batched_tokens: int = 8192,
    kv_capacity: int = 10**12,
    policy: int = CHUNKED,
    pace: float = 1.0,
    verified: int = 1,
    loop: Callable[..., tuple[int, int]] = simulate,
) -> Run:
    n = len(prompt)
    times = tabulate(
        seconds,
        max_num_seqs=max_num_seqs,
        max_prefill_tokens=max_batched_tokens,
        longest_sequence=int((prompt + output).max()),
    )
    admitted, first_token, finished = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    room = 8 * n + 4096
    gap_from, gap_to, gap_count, totals = np.empty(room), np.empty(room), np.zeros(room, np.int64), np.zeros(3)
    preempted = np.zeros(n, np.int64)
    arrival = arrival.astype(np.float64).copy()
    found = np.zeros(n, np.int64) if cached is None else cached
    code, segments = loop(
        arrival, prompt, found, found if share_cached else np.zeros(n, np.int64), output, 0, counted or n, clients,
        times.seconds, times.tokens_per_kv, times.prefill_tokens, max_num_seqs, max_batched_tokens, kv_capacity, pace,
        verified, policy,
        admitted, first_token, finished, preempted, gap_from, gap_to, gap_count, totals,
    )  # fmt: skip
    # The middle of every gap: they grow evenly within a segment.
    middles = (gap_from[:segments] + gap_to[:segments]) / 2
    return Run(
        code, arrival, admitted, first_token, finished, middles, gap_count[:segments], totals[0],
        int(preempted.sum()), totals[1],
    )  # fmt: skip


def linear(sequences: Floats, kv_tokens: Floats, prefill_tokens: Floats) -> Floats:
    """Step seconds that the table holds exactly."""
    return np.asarray(2e-3 + 1e-4 * sequences + 2e-8 * kv_tokens + 1e-5 * prefill_tokens)


def from_m_d_1() -> float:
    """How far the mean wait at one server with equal service is from Pollaczek-Khinchine's, as a share of it.

    Mean wait = rho x service / (2 (1 - rho)).
    """
    rho, service, n, warm = 0.7, 0.01, 1_000_000, 2_000
    arrival = np.cumsum(np.random.default_rng(7).exponential(service / rho, n))
    one = np.ones(n, np.int64)
    found = run(arrival, one, one, lambda r, kv, p: service + 0 * p, max_num_seqs=1, max_batched_tokens=1)
    wait = (found.admitted - found.arrival)[warm:].mean()
    return float(wait / (rho * service / (2 * (1 - rho))) - 1)


def from_m_m_k() -> float:
    """How far the mean wait for one of k places with exponential service is from Erlang C's, as a share of it.

    Mean wait = C(k, a) x service / (k (1 - rho)).
    """
    k, rho, step, mean, n, warm = 4, 0.7, 1e-4, 1_000, 1_500_000, 5_000
    random = np.random.default_rng(11)
    output = np.maximum(np.ceil(random.exponential(mean, n)), 1).astype(np.int64)
    service = step * output.mean()
    arrival = np.cumsum(random.exponential(service / (k * rho), n))
    one = np.ones(n, np.int64)
    found = run(arrival, one, output, lambda r, kv, p: step + 0 * p, max_num_seqs=k, max_batched_tokens=1_000)
    load = k * rho
    full = load**k / math.factorial(k) / (1 - rho)
    erlang_c = full / (sum(load**i / math.factorial(i) for i in range(k)) + full)
    wait = (found.admitted - found.arrival)[warm:].mean()
    return float(wait / (erlang_c * service / (k * (1 - rho))) - 1)


def from_steady_steps() -> tuple[float, float]:
    """How far ITL and throughput of a closed loop of equal requests are from its steps', as shares of them.

    All seats taken, a token takes a step, plus its share of the prompts read in between.
    """
    n, clients, prompt, output = 12_800, 64, 1_024, 512
    found = run(
        np.zeros(n), np.full(n, prompt), np.full(n, output), linear, counted=n - 64, clients=clients,
        max_num_seqs=clients,
    )  # fmt: skip
    kv = clients * (prompt + output / 2)
    step = 2e-3 + 1e-4 * clients + 2e-8 * kv + 1e-5 * prompt * clients / output
    middle = slice(n // 2, n - 64)
    itl = (found.finished - found.first_token)[middle].mean() / (output - 1)
    throughput = (middle.stop - middle.start) * output / np.ptp(found.finished[middle])
    return float(itl / step - 1), float(throughput / (clients / step) - 1)


def from_littles_law() -> float:
    """The largest difference of requests in flight from rate x time in the system, as a share, over kinds of loads.

    Requests in flight are integrated over time; rates and times are those of the requests that came meanwhile.
    """
    worst = 0.0
    random = np.random.default_rng(13)
    n = 30_000
    prompt, output = random.integers(1, 2_000, n), random.integers(1, 400, n)
    for policy in (CHUNKED, PREFILL_FIRST, WHOLE_PROMPTS):
        for clients, gap in ((48, 0.0), (0, 0.06), (0, 0.1)):
            arrival = np.zeros(n) if clients else np.cumsum(random.exponential(gap, n))
            found = run(
                arrival, prompt, output, linear, clients=clients, max_num_seqs=32, kv_capacity=40_000, policy=policy
            )
            begin, end = found.arrival[n // 10], found.arrival[n - n // 10]
            inside = np.clip(found.finished, begin, end) - np.clip(found.arrival, begin, end)
            came = (found.arrival >= begin) & (found.arrival < end)
            times = (found.finished - found.arrival)[came]
            worst = max(worst, abs(inside.sum() / times.sum() - 1))
    return float(worst)
