"""Many requests at once: latencies and throughput of a closed loop from the times of one step and one prefill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.roofline.constants import Physical
from gpuscout.runner.engines.roofline.features import Features
from gpuscout.runner.engines.roofline.physics import Step, decode_step, prefill
from gpuscout.sweeps.curves import Bound, FloatArray, IntArray


@dataclass(frozen=True)
class Operation:
    """Operating points, cases x concurrencies."""

    ttft_ms: FloatArray
    itl_ms: FloatArray
    e2e_s: FloatArray
    bound: IntArray
    queued: npt.NDArray[np.bool_]


def operate(f: Features, k: Physical, running: FloatArray, concurrency: FloatArray) -> Operation:
    """A closed loop that keeps `concurrency` requests in flight, spread evenly over the attention ranks.

    `running` is how many sequences one rank's cache holds. ITL is the decode step plus the part of other requests'
    prefills that falls between two tokens: in the time of one request every other running one is prefilled once, and
    those prefills that it did not already wait for before its first token interrupt its decoding. With an output of
    one token nothing falls between tokens: ITL is the step a next token would take.

    TTFT is a fixed part, the request's own prefill, a wait for prefills ahead of it and for decode steps. A share of
    the requests arrives together with all others and waits for half of their prefills on average: a closed loop
    starts so, and requests of equal lengths stay together from round to round.
    Requests beyond `running` wait for a place: each holds its place for as long as a running request lives.
    """
    asked = np.maximum(concurrency / f.dp, 1.0)
    batch = np.minimum(asked, running)
    others = batch - 1.0
    step = decode_step(f, k, batch)
    alone, more = prefill(f, k)
    step_s = step.total
    waited = np.minimum(k.burst_share, 1.0) * others / 2
    between = np.where(f.output_len > 1, (others - waited) / f.output_len, 0.0)
    itl = step_s + between * k.interference * more
    # The first request of all meets no step in progress; steps beyond an output's length never happen.
    in_progress = np.minimum(k.ttft_steps, f.output_len) * step_s * (others / batch)
    ttft = 1e-3 * k.ttft_base_ms + k.ttft_prefill * alone + more * waited + in_progress
    decoding = itl * (f.output_len - 1.0)
    # All prompts of a round pass the same GPUs: a round cannot be shorter than their prefills.
    ttft = np.maximum(ttft, batch * more - decoding)
    life = ttft + decoding
    ttft = ttft + (asked / batch - 1.0) * life
    return Operation(ttft * 1e3, itl * 1e3, ttft + decoding, _bound(step), asked > running)


def _bound(step: Step) -> IntArray:
    """Codes of what takes the largest part of a decode step. Prefills between the steps are not counted."""
    memory_bound = step.memory >= step.compute
    largest = np.where(memory_bound, step.memory, step.compute)
    code = np.where(memory_bound, Bound.MEMORY.code, Bound.COMPUTE.code)
    for seconds, bound in ((step.communication, Bound.COMMUNICATION), (step.overhead, Bound.OVERHEAD)):
        code = np.where(seconds > largest, bound.code, code)
        largest = np.maximum(largest, seconds)
    return code
