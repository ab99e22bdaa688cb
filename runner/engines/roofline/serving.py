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
    prefills that falls between two tokens: in the time of one output every other running request is prefilled once.
    With an output of one token nothing falls between tokens: ITL is the step a next token would take.

    TTFT is a fixed part, the request's own prefill, a wait for prefills ahead of it and for the step in progress.
    Requests beyond `running` wait for a place: each holds its place for as long as a running request lives.
    """
    asked = np.maximum(concurrency / f.dp, 1.0)
    batch = np.minimum(asked, running)
    others = batch - 1.0
    step = decode_step(f, k, batch)
    alone, more = prefill(f, k)
    step_s = step.total
    shared = np.where(f.output_len > 1, k.interference * more / f.output_len, 0.0)
    itl = step_s + others * shared
    ahead = np.exp(k.queue_exponent * np.log(batch)) - 1.0
    # The first request of all meets no step in progress; steps beyond an output's length never happen.
    in_progress = np.minimum(k.ttft_steps, f.output_len) * step_s * (others / batch)
    ttft = 1e-3 * k.ttft_base_ms + k.ttft_prefill * alone + k.queue_share * more * ahead + in_progress
    decoding = itl * (f.output_len - 1.0)
    # All prompts of a round pass the same GPUs: a round cannot be shorter than their prefills.
    ttft = np.maximum(ttft, batch * more - decoding)
    life = ttft + decoding
    ttft = ttft + (asked / batch - 1.0) * life
    return Operation(ttft * 1e3, itl * 1e3, ttft + decoding, _bound(step), asked > running)


def _bound(step: Step) -> IntArray:
    """Codes of what takes the largest part of a decode step."""
    memory_bound = step.memory >= step.compute
    largest = np.where(memory_bound, step.memory, step.compute)
    code = np.where(memory_bound, Bound.MEMORY.code, Bound.COMPUTE.code)
    for seconds, bound in ((step.communication, Bound.COMMUNICATION), (step.overhead, Bound.OVERHEAD)):
        code = np.where(seconds > largest, bound.code, code)
        largest = np.maximum(largest, seconds)
    return code
