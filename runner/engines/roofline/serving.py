"""Many requests at once: latencies and throughput of a closed loop from the times of one step and one prefill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.roofline.constants import Physical
from gpuscout.runner.engines.roofline.features import Features
from gpuscout.runner.engines.roofline.physics import (
    SMALLEST_DEFAULT_BUDGET,
    Step,
    decode_step,
    fixed_time,
    prefill,
    prefill_passes,
)
from gpuscout.sweeps.curves import Bound, FloatArray, IntArray


@dataclass(frozen=True)
class Operation:
    """Operating points, cases x concurrencies."""

    ttft_ms: FloatArray
    itl_ms: FloatArray
    e2e_s: FloatArray
    bound: IntArray
    queued: npt.NDArray[np.bool_]


def operate(
    f: Features, k: Physical, running: FloatArray, concurrency: FloatArray, median: FloatArray | float = 0.0
) -> Operation:
    """Return a closed loop that keeps `concurrency` requests in flight, spread evenly over the attention ranks.

    `running` is how many sequences one rank's cache holds. In the time of one request every other running one of its
    rank is prefilled once. A share of the requests arrives together with all others and waits for half of their
    prefills on average: a closed loop starts so, and requests of equal lengths stay together from round to round. The
    other prefills fall evenly on the steps that a request lives through, and make them longer: those in which it waits
    to be taken up by the server and those of its output. ITL is the time of such a step; of speculative decoding, whose
    steps give several tokens, a token's share of it. With an output of one token nothing falls between tokens, and ITL
    is what a next token would take.

    TTFT is a fixed part, the request's own prefill, and both waits. Ranks of data-parallel attention that share experts
    step together, and wait for each other before one of them takes up a request.
    Requests beyond `running` wait for a place: each holds its place for as long as a running request lives. Where a
    step's budget of tokens cannot prefill as fast as `running` sequences would end, fewer decode and the others wait
    for their prompts: steps are full then.
    """
    asked = np.maximum(concurrency / f.dp, 1.0)
    batch = np.minimum(asked, running)
    others = batch - 1.0
    # Steps beyond an output's length never happen.
    steps = f.decode_steps + 1.0
    ranks = np.where(f.moe, f.dp, 1.0)
    looks = np.minimum(k.ttft_steps * ranks + k.poll_share * (f.poll_interval - 1.0), steps)
    decoding = np.minimum(batch, _fed(f, looks + f.decode_steps))
    step = decode_step(f, k, decoding)
    alone, more = prefill(f, k)
    together = np.minimum(k.burst_share, 1.0) / 2
    waited = together * others * (1.0 - median)
    # The first request of all meets no step in progress.
    taken_up = looks * ((decoding - 1.0) / decoding)
    between = (1 - together) * (decoding - 1.0) / np.maximum(taken_up + steps - 1.0, 1.0)
    # A prompt delays others by no more than its own time.
    pace = step.total + between * np.minimum(k.interference, 1.0) * more
    gaps = np.where(f.output_len > 1, f.output_len - 1.0, 1.0)
    itl = np.where(f.output_len > 1, pace * (f.decode_steps / gaps), step.total / f.tokens_per_step)
    start = (
        1e-3 * k.ttft_base_ms
        + k.ttft_prefill * alone
        + k.eager_steps * fixed_time(f, k) * prefill_passes(f, f.prefill_len)
    )
    # Short requests meet few batch sizes: what is met first takes an eighth of their time at most.
    met_first = np.minimum(2e-3 * together * k.first_wave_ms, (start + step.total * f.decode_steps) / 8)
    first_wave = (1.0 - median) * (others / batch) * met_first
    ttft = start + first_wave + more * waited + taken_up * pace
    answering = itl * (f.output_len - 1.0)
    # All prompts of a round pass the same GPUs: a round cannot be shorter than their prefills, nor than their steps.
    ttft = np.maximum(ttft, batch * (more + _more_steps(f, decoding) * step.total) - answering)
    ttft = np.maximum(ttft, batch / decoding * (taken_up * pace + answering) - answering)
    life = ttft + answering
    ttft = ttft + (asked / batch - 1.0) * life
    return Operation(ttft * 1e3, itl * 1e3, ttft + answering, _bound(step), asked > running)


def _fed(f: Features, life: FloatArray) -> FloatArray:
    """Return sequences that live at once when every step is full.

    Those that end, after `life` steps, are replaced by as many prompts as the rest of the budget works on.
    """
    fed = np.maximum(f.pp * f.batched_tokens * life / (f.prefill_len + life * (1.0 + f.draft_tokens)), 1.0)
    return np.where(f.within_budget & (f.output_len > 1), fed, np.inf)


def _more_steps(f: Features, batch: FloatArray) -> FloatArray:
    """Return steps that a prompt takes more than with a usual budget of tokens, which running sequences take a part of.

    While prompts are worked on, half of the sequences decode, on average.
    """
    decoding = np.where(f.output_len > 1, batch * (1.0 + f.draft_tokens) / 2, 0.0)
    chunks, usual = (
        f.prefill_len / np.maximum(b - decoding, b / 2) for b in (f.batched_tokens, SMALLEST_DEFAULT_BUDGET)
    )
    return np.where(f.within_budget, np.maximum(chunks - usual, 0.0), 0.0)


def _bound(step: Step) -> IntArray:
    """Return codes of what takes the largest part of a decode step. Prefills between the steps are not counted."""
    memory_bound = step.memory >= step.compute
    largest = np.where(memory_bound, step.memory, step.compute)
    code = np.where(memory_bound, Bound.MEMORY.code, Bound.COMPUTE.code)
    for seconds, bound in ((step.communication, Bound.COMMUNICATION), (step.overhead, Bound.OVERHEAD)):
        code = np.where(seconds > largest, bound.code, code)
        largest = np.maximum(largest, seconds)
    return code
