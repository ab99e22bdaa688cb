"""The engine `simulator`: percentiles, for requests that vary and arrive, by simulation over the roofline's steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gpuscout.runner.engines.base import About, CaseAnswer, Cost, Option, Point, answered
from gpuscout.runner.engines.roofline.engine import RooflineEngine
from gpuscout.runner.engines.roofline.features import features
from gpuscout.runner.engines.roofline.memory import memory, why_it_does_not_fit
from gpuscout.runner.engines.roofline.physics import step_seconds
from gpuscout.runner.engines.roofline.uncertainty import regimes
from gpuscout.runner.engines.simulator.kernel import CHUNKED, PREFILL_FIRST, WHOLE_PROMPTS
from gpuscout.runner.engines.simulator.load import (
    DoesNotFitError,
    Lengths,
    SaturatedError,
    Server,
    Simulated,
    closed_loop,
    open_loop,
)
from gpuscout.runner.engines.simulator.requests import arrivals_of, lengths_of
from gpuscout.runner.engines.simulator.steps import StepSeconds, StepTimes, tabulate
from gpuscout.runner.engines.simulator.uncertainty import with_tails
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.curves import PERCENTILE_METRICS, Bound, Curves, FloatArray, IntArray
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.settings import STARTED
from gpuscout.sweeps.slo import Slo, parse_slo
from gpuscout.sweeps.traffic.trace import NamedTrace
from gpuscout.sweeps.traffic.traffic import Traffic
from gpuscout.sweeps.trust import Trust

VERSION = "4"
_ROUNDS = 10  # requests of each client of a closed loop, as InferenceX has it
# The wait of the first wave in most runs, as a share of the fitted mean, which a few stalls of a minute raise. It is
# the one number taken from measured percentiles. Fitted with each GPU family left out it came to 0.30 to 0.50,
# depending on the loss, and to 0 to 0.35 with a loss that weighs families alike.
_FIRST_WAVE = 0.4
_POLICIES = {"vllm": CHUNKED, "sglang": PREFILL_FIRST, "trtllm": WHOLE_PROMPTS}


class Simulator:
    """A discrete-event simulation of every rank of a deployment, with the step times of `roofline`.

    What does not fit, or no server runs, is answered as `roofline` answers it.
    """

    name = "simulator"
    cost = Cost.EXPENSIVE
    task_s = 0.05  # 0.01 s at a request rate to 0.2 s for a ladder; without numba some ten times that
    in_process = True
    understands = frozenset(STARTED)
    about = About(
        covers="percentiles; lengths that vary, arrivals, traces, cached input; any model on any GPU",
        options={
            "constants_file": Option("constants of the roofline, made by `gpuscout calibrate`"),
            "length_spread": Option(
                "lengths of a closed loop vary by this share around those of a workload that fixes them",
                float,
                0.1,
                above=None,
                at_most=1.0,
            ),
            "error": Option("standard error of the 99th percentile of TTFT, as a share of it", float, 0.05, above=0),
            "goodput": Option("limits of a request that counts in goodput_per_s, such as ttft<=500ms, itl<=30ms", list),
        },
    )

    def __init__(
        self,
        *,
        constants_file: Path | str | None = None,
        length_spread: float = 0.1,
        error: float = 0.05,
        goodput: Sequence[str] | None = None,
    ) -> None:
        self._roofline = RooflineEngine(constants_file=constants_file)
        self._error, self._spread = error, length_spread
        chosen = {"length_spread": (length_spread, 0.1), "error": (error, 0.05)}
        changed: dict[str, object] = {name: value for name, (value, default) in chosen.items() if value != default}
        limits = sorted({_limit_of_a_request(text) for text in goodput or ()}, key=str)
        self._goodput = {slo.column: slo.limit for slo in reversed(limits)}
        if limits:
            changed["goodput"] = [str(slo) for slo in limits]
        self.options: Mapping[str, object] = {**self._roofline.options, **changed}

    def fingerprint(self) -> str:
        return f"{VERSION}-{self._roofline.fingerprint()}"

    def trust(self) -> Trust:
        """Return the roofline's trust for means, and for percentiles the errors on GPU families left out."""
        return with_tails(self._roofline.trust(), len(self._roofline.constants.interval_groups))

    def unsupported_traffic(self, traffic: Traffic) -> str | None:
        """Refuse traces of which only the digest is known, which cannot be replayed."""
        return "the trace of this case is not available" if isinstance(traffic.trace, NamedTrace) else None

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
        return answered([self._answer(cases.take(np.array([row])), ladder) for row in range(len(cases))])

    def _answer(self, case: CaseColumns, ladder: IntArray) -> CaseAnswer:
        asked = self._roofline.evaluate(case, np.zeros(0, dtype=np.int64))
        outcome = OUTCOMES[int(asked.outcome[0])]
        needed, usable = float(asked.needed_gib[0]), float(asked.usable_gib[0])
        answer = partial(
            CaseAnswer,
            needed_gib=None if np.isnan(needed) else needed,
            usable_gib=None if np.isnan(usable) else usable,
        )
        if outcome is not Outcome.OK:
            return answer(outcome, asked.details.get(0))
        if (server := case.servers[case.server[0]]) not in _POLICIES:
            return answer(Outcome.NOT_SUPPORTED, f"how {server} schedules requests is not modelled")
        capacity = int(asked.kv_capacity_tokens[0])
        deployment = _Deployment(self._roofline, case, capacity, self._spread, self._goodput)
        try:
            points = list(self._points(deployment, case, ladder))
        except DoesNotFitError:
            f = features(case)
            return answer(Outcome.DOES_NOT_FIT, why_it_does_not_fit(memory(f), f, 0))
        except SaturatedError as saturated:
            most = saturated.requests_per_s * int(case.data_parallel[0])
            return answer(detail=f"saturated from {most:,.3g} req/s", fits_up_to=0, kv_capacity_tokens=capacity)
        return answer(points=points, kv_capacity_tokens=capacity)

    def _points(self, deployment: _Deployment, case: CaseColumns, ladder: IntArray) -> Iterator[Point]:
        traffic = case.traffics[case.traffic[0]]
        if traffic.open_loop:
            yield deployment.at_rate(traffic, self._error)
            return
        for concurrency in ladder.tolist():
            yield deployment.at_concurrency(concurrency, self._error)


class _Deployment:
    """One case made ready to be simulated: its step times, its servers, its requests."""

    def __init__(
        self,
        roofline: RooflineEngine,
        case: CaseColumns,
        capacity_tokens: int,
        spread: float,
        goodput: Mapping[str, float],
    ) -> None:
        self._goodput = goodput
        traffic = case.traffics[case.traffic[0]]
        self._digest = case.digests()[0]
        self._roofline, self._group = roofline, roofline.groups(case)
        self._ranks = int(case.data_parallel[0])
        input_len, output_len = int(case.input_len[0]), int(case.output_len[0])
        f = features(case)
        k = roofline.constants.rows(case.gpus, case.servers, case.gpu, case.server)
        server = case.servers[case.server[0]]
        per_rank = max(capacity_tokens // self._ranks, 1)
        self._lengths: Lengths = lengths_of(traffic, input_len, output_len, per_rank, self._ranks, spread)
        kept_once = int(traffic.cached_input * input_len)
        self._start_s = 1e-3 * float(k.ttft_base_ms[0])
        self._first_wave_s = 1e-3 * float(k.first_wave_ms[0])
        self._burst_share = min(float(k.burst_share[0]), 1.0)
        # Steps until a busy server takes up a request, as the roofline has them.
        ranks = self._ranks if case.models[case.model[0]].is_moe else 1
        self._looks = float(k.ttft_steps[0]) * ranks + float(k.poll_share[0]) * (float(f.poll_interval[0]) - 1)
        drafts = case.drafts[case.draft[0]]
        self._looks *= drafts.tokens_per_step  # of tokens
        seats = int(f.max_num_seqs[0])
        self._server = Server(
            policy=_POLICIES[server],
            max_num_seqs=max(min(seats, per_rank // max(input_len - kept_once, 1) + 1), 1),
            max_num_batched_tokens=int(case.option("max_num_batched_tokens")[0]),
            kv_capacity_tokens=max(per_rank, kept_once + 1),
            kept_once_tokens=kept_once,
            drafts=drafts,
        )
        self._seconds = partial(step_seconds, f, k)
        self._prompt, self._held = float(f.prefill_len[0]), float(f.held_len[0])
        self._times = _times(self._seconds, self._server, int(case.max_model_len[0]))

    def at_concurrency(self, concurrency: int, error: float) -> Point:
        """Return the load of a rank: requests in flight are spread evenly over the ranks."""
        fewest, more = divmod(concurrency, self._ranks)
        loads = [(fewest + 1, more), (fewest, self._ranks - more)]
        parts = [(self._closed(clients, error), ranks) for clients, ranks in loads if clients and ranks]
        found = _together(parts)
        return self._point(concurrency, found, found.queued)

    def _closed(self, clients: int, error: float) -> Simulated:
        seed = _seed(self._digest, f"clients {clients}")
        return closed_loop(
            self._times,
            self._server,
            self._lengths,
            clients,
            rounds=_ROUNDS,
            first_wave_s=self._first_wave(clients),
            stalls_s=self._burst_share * self._first_wave_s * (clients - 1) / clients,
            seed=seed,
            error=error,
        )

    def _first_wave(self, clients: int) -> FloatArray:
        """Return seconds that each request of the burst at the beginning of a closed loop waits longer."""
        if self._server.policy == WHOLE_PROMPTS:  # each in a step of its own: the last waits for all others
            return np.arange(clients, dtype=np.float64) * self._longer_alone_s(clients)
        return np.full(clients, _FIRST_WAVE * self._first_wave_s if clients > 1 else 0.0)

    def at_rate(self, traffic: Traffic, error: float) -> Point:
        """Return the load of a rank: every rank gets one request after the other, in turn."""
        assert traffic.request_rate is not None
        found = open_loop(
            self._times,
            self._server,
            self._lengths,
            arrivals_of(traffic, self._ranks),
            traffic.request_rate / self._ranks,
            seed=_seed(self._digest, "rate"),
            error=error,
        )
        whole = _together([(found, self._ranks)])
        in_flight = whole.requests_per_s * whole.e2e_s
        return self._point(max(round(in_flight), 1), whole, whole.queued, in_open_loop=True)

    def _regime(self, concurrency: int) -> int:
        """Return the regime whose intervals hold; none with drafts, since the intervals are of runs without."""
        if not self._server.drafts.is_plain:
            return -1
        return int(self._roofline.known_regimes(regimes(np.array([concurrency]), self._group))[0])

    def _longer_alone_s(self, in_flight: float, *, than_step: bool = False) -> float:
        """Return how much longer a prompt's own step takes than it delays a busy server, in the roofline.

        `than_step`: than the step that it shares with the sequences that run.
        """
        running = min(max(in_flight, 1.0), float(self._server.max_num_seqs))
        kv_tokens = running * self._held

        def seconds(sequences: float, kv_tokens: float, prompt: float) -> float:
            return float(self._seconds(*(np.array([value]) for value in (sequences, kv_tokens, prompt)))[0])

        shared = seconds(running, kv_tokens, self._prompt)
        if not than_step:
            shared -= seconds(running, kv_tokens, 0.0)
        return max(seconds(0.0, 0.0, self._prompt) - shared, 0.0)

    def _point(self, concurrency: int, found: Simulated, queued: bool, *, in_open_loop: bool = False) -> Point:
        in_flight = found.requests_per_s * found.e2e_s
        busy = max(1 - self._ranks / in_flight, 0.0) if in_flight > 0 else 0.0
        longer_s = self._longer_alone_s(in_flight / self._ranks, than_step=self._server.policy != PREFILL_FIRST)
        start_ms = 1e3 * (self._start_s + busy * longer_s) + busy * self._looks * found.itl_ms
        later = {"ttft_ms": start_ms, "e2e_s": start_ms / 1e3, "itl_ms": 0.0}
        # Clients of a closed loop ask later again, arrivals of an open loop come as they come.
        slower = 1.0 if in_open_loop else found.e2e_s / (found.e2e_s + start_ms / 1e3)
        requests_per_s = found.requests_per_s * slower
        server_metrics = {
            "requests_waiting": found.waiting,
            "kv_cache_usage": found.kv_usage,
            "preempted_share": found.preempted,
        }
        if self._goodput:
            server_metrics["goodput_per_s"] = requests_per_s * found.share_within(self._goodput, later)
        return Point(
            concurrency=concurrency,
            ttft_ms=found.ttft_ms + start_ms,
            itl_ms=found.itl_ms,
            e2e_s=found.e2e_s + start_ms / 1e3,
            output_tokens_per_s=found.output_tokens_per_s * slower,
            requests_per_s=requests_per_s,
            bound=Bound.UNKNOWN,
            queued=queued,
            regime=self._regime(concurrency),
            percentiles={key: value + later[key[0]] for key, value in found.percentiles.items()},
            server_metrics=server_metrics,
        )


def _limit_of_a_request(text: str) -> Slo:
    """Return a limit on a latency of each request. Raises InputError."""
    slo = parse_slo(text)
    if slo.at_least or slo.percentile is not None:
        raise InputError(
            f"engine simulator, option goodput: {text} is not a limit of one request",
            hint="ttft, itl and e2e without a percentile, for example ttft<=500ms",
        )
    return slo


def _times(seconds: StepSeconds, server: Server, longest: int) -> StepTimes:
    return tabulate(
        seconds,
        max_num_seqs=server.max_num_seqs,
        max_prefill_tokens=server.max_num_batched_tokens,
        longest_sequence=longest,
    )


def _together(parts: Sequence[tuple[Simulated, int]]) -> Simulated:
    """Return several ranks as one deployment; each part is what one rank saw, and how many ranks saw it.

    Means and percentiles are weighted by requests: ranks differ by one request in flight at most.
    """
    rates = np.array([found.requests_per_s * ranks for found, ranks in parts])
    shares = rates / rates.sum()

    def mean(values: Iterable[float]) -> float:
        return float(np.dot(shares, list(values)))

    return Simulated(
        ttft_ms=mean(found.ttft_ms for found, _ in parts),
        itl_ms=mean(found.itl_ms for found, _ in parts),
        e2e_s=mean(found.e2e_s for found, _ in parts),
        requests_per_s=float(rates.sum()),
        output_tokens_per_s=sum(found.output_tokens_per_s * ranks for found, ranks in parts),
        percentiles={key: mean(found.percentiles[key] for found, _ in parts) for key in parts[0][0].percentiles},
        waiting=sum(found.waiting * ranks for found, ranks in parts),
        kv_usage=mean(found.kv_usage for found, _ in parts),
        preempted=mean(found.preempted for found, _ in parts),
        ttft_p99_error=max(found.ttft_p99_error for found, _ in parts),
        latencies={
            metric: np.concatenate([found.latencies[metric] for found, _ in parts]) for metric in PERCENTILE_METRICS
        },
        weights=np.concatenate(
            [found.weights * share / found.weights.sum() for (found, _), share in zip(parts, shares, strict=True)]
        ),
    )


def _seed(digest: bytes, of: str) -> int:
    """Return the same numbers for the same case and load, everywhere."""
    return int.from_bytes(hashlib.sha256(digest + of.encode()).digest()[:8], "little")
