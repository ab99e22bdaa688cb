"""One operating point by simulation: a load put on a server, until its 99th percentiles are known well enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from gpuscout.runner.engines.simulator.kernel import STUCK, IntColumn, simulate
from gpuscout.runner.engines.simulator.steps import StepTimes
from gpuscout.sweeps.curves import PERCENTILES, FloatArray
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative

FEWEST_REQUESTS = 1_000  # of which the 99th percentile leaves ten
MOST_REQUESTS = 64_000
_BATCHES = 10
_SUSTAINED = 0.98

# Prompt tokens, cached prompt tokens and output tokens of so many requests.
Lengths = Callable[[np.random.Generator, int], tuple[IntColumn, IntColumn, IntColumn]]


Column = TypeVar("Column", FloatArray, IntColumn)


@dataclass(frozen=True)
class Server:
    """Limits of one rank of a server. `policy` is one of the kernel's.

    `kept_once_tokens` of the capacity hold what prompts have in common; where there are any, the cached tokens of a
    prompt are those.
    """

    policy: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_capacity_tokens: int
    kept_once_tokens: int = 0
    drafts: Speculative = NO_DRAFTS


@dataclass(frozen=True)
class Simulated:
    """Latencies and counts of the measured requests of one load.

    Means and percentiles over requests; ITL of a request is (E2E - TTFT) / (output tokens - 1).

    percentiles      by metric and percentile
    waiting          requests that wait for a place, mean over time
    kv_usage         share of the KV cache that is held, mean over time
    preempted        share of the requests that lost their place at least once
    ttft_p99_error   standard error of the 99th percentile of TTFT, as a share of it (batch means)
    latencies        by metric, a value a request; the ITL of an answer of one token is 0
    weights          what each request counts
    """

    ttft_ms: float
    itl_ms: float
    e2e_s: float
    requests_per_s: float
    output_tokens_per_s: float
    percentiles: dict[tuple[str, float], float]
    waiting: float
    kv_usage: float
    preempted: float
    ttft_p99_error: float
    latencies: Mapping[str, FloatArray]
    weights: FloatArray

    @property
    def queued(self) -> bool:
        """Whether a good part of the requests in flight waits for a place, and not for a step or two."""
        return self.waiting > max(1.0, 0.05 * self.requests_per_s * self.e2e_s)

    def share_within(self, limits: Mapping[str, float], later: Mapping[str, float]) -> float:
        """Return the share of requests whose every latency, with what comes `later` on top, is within its limit."""
        within = [self.latencies[metric] + later[metric] <= limit for metric, limit in limits.items()]
        return float(np.average(np.all(within, axis=0), weights=self.weights))


class DoesNotFitError(Exception):
    """A request alone is larger than the KV cache."""


class SaturatedError(Exception):
    """More requests arrive than are served."""

    def __init__(self, requests_per_s: float) -> None:
        super().__init__(f"saturated from {requests_per_s:g} requests/s")
        self.requests_per_s = requests_per_s


def closed_loop(
    times: StepTimes,
    server: Server,
    lengths: Lengths,
    clients: int,
    *,
    rounds: int,
    first_wave_s: FloatArray,
    stalls_s: float,
    seed: int,
    error: float,
) -> Simulated:
    """Return `clients` requests in flight at all times, as load generators keep them.

    All clients begin at once, whoever has its answer asks again at once, and all of the `rounds` requests a client
    count: the burst at the beginning is why measured means of TTFT are far above their medians. In percentiles its
    requests wait `first_wave_s` longer, one figure a client, as those of most measured runs do; in means all wait
    `stalls_s`, which is what benchmarks of every kind show on average: those that warm a server up before, and the few
    whose servers stand still at their beginning. The experiment is made again with other lengths until there are
    `FEWEST_REQUESTS` and the standard error of the 99th percentile of TTFT is at most the share `error` of it, or
    `MOST_REQUESTS` are counted. Raises DoesNotFitError.
    """
    random = np.random.default_rng(seed)
    counted = rounds * clients
    runs: list[_Counted] = []
    while True:
        prompt, cached, output = lengths(random, counted + clients)
        steps = _rounds(server.drafts, random, output)
        run = _run(times, server, np.zeros(clients), prompt, cached, steps, 0, counted, clients)
        for column in (run.first_token, run.finished):
            column[:clients] += first_wave_s
        runs.append(_Counted(run, output, 0, counted))
        requests = counted * len(runs)
        if requests < FEWEST_REQUESTS:
            continue
        found = _summary(runs, server)
        if found.ttft_p99_error <= error or requests >= MOST_REQUESTS:
            more_s = stalls_s - float(first_wave_s.sum()) / counted
            found = replace(found, ttft_ms=found.ttft_ms + 1e3 * more_s, e2e_s=found.e2e_s + more_s)
            # Little's law, which holds whatever happens at both ends of a short experiment.
            rate = clients / found.e2e_s
            mean_output = float(np.mean(np.concatenate([one.answered for one in runs])))
            return replace(found, requests_per_s=rate, output_tokens_per_s=rate * mean_output)


def open_loop(
    times: StepTimes,
    server: Server,
    lengths: Lengths,
    gaps: Callable[[np.random.Generator, int], FloatArray],
    requests_per_s: float,
    *,
    seed: int,
    error: float,
) -> Simulated:
    """Return requests that arrive `requests_per_s` on average, `gaps` apart (times with a mean of 1).

    The first fifth is not counted. Raises SaturatedError where the server, with all requests there at once, serves no
    more than `_SUSTAINED` of the rate; DoesNotFitError.
    """
    most = _throughput(times, server, lengths, seed)
    if requests_per_s >= _SUSTAINED * most:
        raise SaturatedError(most)
    counted = FEWEST_REQUESTS
    while True:
        random = np.random.default_rng(seed)
        warm = counted // 4
        total = warm + counted + server.max_num_seqs + counted // 4
        prompt, cached, output = lengths(random, total)
        arrival = np.cumsum(gaps(random, total)) / requests_per_s
        steps = _rounds(server.drafts, random, output)
        run = _run(times, server, arrival, prompt, cached, steps, warm, warm + counted, 0)
        found = _summary([_Counted(run, output, warm, warm + counted)], server)
        if found.ttft_p99_error <= error or counted >= MOST_REQUESTS:
            return found
        counted = min(2 * counted, MOST_REQUESTS)


def _throughput(times: StepTimes, server: Server, lengths: Lengths, seed: int) -> float:
    """Return requests/s that are served when there are always more."""
    n = max(FEWEST_REQUESTS, 8 * server.max_num_seqs)
    random = np.random.default_rng(seed)
    prompt, cached, output = lengths(random, n + 2 * server.max_num_seqs)
    steps = _rounds(server.drafts, random, output)
    run = _run(times, server, np.zeros(len(prompt)), prompt, cached, steps, 0, n, 0)
    ended = np.sort(run.finished[:n])
    begin, end = ended[n // 4], ended[-1 - n // 8]
    return float((n - n // 4 - n // 8 - 1) / (end - begin)) if end > begin else np.inf


def _rounds(drafts: Speculative, random: np.random.Generator, output: IntColumn) -> IntColumn:
    """Return steps that answers of these lengths take, the one of their first token among them.

    With drafts those of a renewal process: normal around Wald's mean, within what drafts can give.
    """
    if drafts.is_plain:
        return output
    after_first = output - 1
    mean = (after_first + drafts.surplus) / drafts.tokens_per_step
    drawn = np.rint(mean + np.sqrt(after_first) * drafts.spread * random.standard_normal(len(output)))
    fewest = -(-after_first // (drafts.draft_tokens + 1))
    return 1 + np.clip(drawn.astype(np.int64), fewest, after_first)


@dataclass(frozen=True)
class _Run:
    arrival: FloatArray
    admitted: FloatArray
    first_token: FloatArray
    finished: FloatArray
    preempted: IntColumn
    kv_token_seconds: float
    seconds: float


def _run(
    times: StepTimes,
    server: Server,
    arrival: FloatArray,
    prompt: IntColumn,
    cached: IntColumn,
    rounds: IntColumn,
    first: int,
    counted: int,
    clients: int,
) -> _Run:
    room = 8 * len(prompt) + 4096 + 2 * server.max_num_seqs
    while True:
        came = np.zeros(len(prompt))
        came[: len(arrival)] = arrival
        admitted, first_token, finished = (np.full(len(prompt), np.nan) for _ in range(3))
        preempted = np.zeros(len(prompt), np.int64)
        totals = np.zeros(3)
        code, segments = simulate(
            came, prompt, cached, cached if server.kept_once_tokens else np.zeros_like(cached), rounds,
            first, counted, clients, times.seconds, times.tokens_per_kv, times.prefill_tokens,
            server.max_num_seqs, server.max_num_batched_tokens, server.kv_capacity_tokens - server.kept_once_tokens,
            server.drafts.tokens_per_step, 1 + server.drafts.draft_tokens, server.policy,
            admitted, first_token, finished, preempted,
            np.empty(room), np.empty(room), np.zeros(room, np.int64), totals,
        )  # fmt: skip
        if code == STUCK:
            raise DoesNotFitError
        if segments >= 0:
            held, seconds, _ = totals.tolist()
            held += server.kept_once_tokens * seconds
            return _Run(came, admitted, first_token, finished, preempted, held, seconds)
        room *= 2


@dataclass(frozen=True)
class _Counted:
    """The requests `first` to `last` of a run, in order of arrival."""

    run: _Run
    output: IntColumn
    first: int
    last: int

    def of(self, column: Column) -> Column:
        return column[self.first : self.last]

    @property
    def answered(self) -> IntColumn:
        return self.output[self.first : self.last]

    @property
    def served(self) -> tuple[float, float, float]:
        """Requests and output tokens that left between the first and the last counted one, and those seconds."""
        ended = self.of(self.run.finished)
        begin, end = float(ended.min()), float(ended.max())
        inside = (self.run.finished > begin) & (self.run.finished <= end)
        return float(inside.sum()), float(self.output[inside].sum()), end - begin


def _summary(runs: Sequence[_Counted], server: Server) -> Simulated:
    """Return all counted requests of several runs together."""
    came, admitted, began, ended = (
        np.concatenate([one.of(getattr(one.run, name)) for one in runs])
        for name in ("arrival", "admitted", "first_token", "finished")
    )
    answered = np.concatenate([one.answered for one in runs])
    several = answered > 1
    figures: dict[str, FloatArray] = {
        "ttft_ms": (began - came) * 1e3,
        "itl_ms": (ended - began)[several] / (answered[several] - 1) * 1e3,
        "e2e_s": ended - came,
    }
    requests, tokens, seconds = (sum(part) for part in zip(*(one.served for one in runs), strict=True))
    tails = np.array([np.percentile(batch, 99) for batch in np.array_split(figures["ttft_ms"], _BATCHES)])
    held = sum(one.run.kv_token_seconds for one in runs) / sum(one.run.seconds for one in runs)
    itl_ms = np.zeros(len(answered))
    itl_ms[several] = figures["itl_ms"]
    return Simulated(
        ttft_ms=float(figures["ttft_ms"].mean()),
        itl_ms=float(figures["itl_ms"].mean()) if several.any() else 0.0,
        e2e_s=float(figures["e2e_s"].mean()),
        requests_per_s=requests / seconds,
        output_tokens_per_s=tokens / seconds,
        percentiles={
            (metric, percentile): float(np.percentile(values, percentile))
            for metric, values in figures.items()
            for percentile in PERCENTILES
            if len(values)
        },
        waiting=float((admitted - came).mean()) * requests / seconds,
        kv_usage=held / server.kv_capacity_tokens,
        preempted=float(np.mean(np.concatenate([one.of(one.run.preempted) for one in runs]) > 0)),
        ttft_p99_error=float(np.std(tails, ddof=1) / np.sqrt(_BATCHES) / np.mean(tails)),
        latencies=figures | {"itl_ms": itl_ms},
        weights=np.ones(len(answered)),
    )
