"""A continuous-batching server simulated one step at a time, in plain Python: what the event loop has to agree with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Seconds = Callable[[int, float, float], float]


@dataclass
class Request:
    arrival: float
    prompt: int
    cached: int
    output: int
    answered: int = 0
    to_read: int = 0
    admitted: float = -1.0
    first_token: float = -1.0
    finished: float = -1.0


def serve(
    requests: Sequence[Request],
    seconds: Seconds,
    *,
    clients: int = 0,
    max_num_seqs: int,
    max_batched_tokens: int,
    kv_capacity: int,
    prefill_first: bool = False,
    share_cached: bool = False,
    whole_prompts: bool = False,
    pace: float = 1.0,
    verified: int = 1,
) -> list[float]:
    """Fill in when requests are admitted, answered and finished; return every gap between tokens, one per token.

    `output` and `answered` count steps: with drafts each but the first gives `pace` tokens and takes `verified` of the
    budget. In a closed loop of `clients`, each request that leaves is followed by the next. Times are those of whole
    steps.
    """
    ahead = list(requests[clients:]) if clients else []
    queue = list(requests[:clients]) if clients else list(requests)
    reading: list[Request] = []
    decoding: list[Request] = []
    stalled: dict[int, float] = {}
    gaps: list[float] = []
    now = 0.0

    def tokens(one: Request) -> float:
        return one.prompt + (1.0 + (one.answered - 1) * pace if one.answered else 0.0)

    def held() -> float:
        return sum(tokens(one) for one in (*reading, *decoding))

    def kept(*more: Request) -> float:
        own = sum(tokens(one) for one in (*reading, *decoding, *more))
        return own - (sum(one.cached for one in (*reading, *decoding, *more)) if share_cached else 0)

    while queue or reading or decoding:
        budget = max_batched_tokens - (0 if prefill_first else len(decoding) * verified)
        taken, complete = 0, []
        if reading and budget > 0:
            chunk = min(reading[0].to_read, budget)
            reading[0].to_read -= chunk
            taken, budget = chunk, budget - chunk
            if reading[0].to_read == 0:
                complete.append(reading[0])
        while (
            queue
            and queue[0].arrival <= now
            and budget > 0
            and not any(one.to_read for one in reading)
            and len(reading) + len(decoding) < max_num_seqs
            and kept(queue[0]) + len(decoding) * pace <= kv_capacity
        ):
            need = max(math.ceil(tokens(queue[0])) - queue[0].cached, 1)
            if whole_prompts and need > budget and taken:
                break
            one = queue.pop(0)
            one.admitted = one.admitted if one.admitted >= 0 else now
            chunk = need if whole_prompts else min(need, budget)
            one.to_read = need - chunk
            taken, budget = taken + chunk, budget - chunk
            reading.append(one)
            if not one.to_read:
                complete.append(one)
        if not taken and not decoding:
            now = queue[0].arrival
            continue
        if not taken and kept() + len(decoding) * pace > kv_capacity:
            queue.insert(0, decoding.pop())
            continue
        steps_on = decoding if not taken or not prefill_first else []
        took = seconds(len(decoding), float(held()) if decoding else 0.0, float(taken))
        if len(steps_on) < len(decoding):
            took -= seconds(len(decoding), float(held()), 0.0)
        now += took
        for one in decoding:
            stalled[id(one)] = stalled.get(id(one), 0.0) + took
        for one in list(steps_on):
            one.answered += 1
            gaps.append(stalled.pop(id(one)))
        for one in complete:
            reading.remove(one)
            one.first_token = one.first_token if one.answered else now
            one.answered += 1
            stalled.pop(id(one), None)
            decoding.append(one)
        for one in [one for one in decoding if one.answered == one.output]:
            decoding.remove(one)
            one.finished = now
            if ahead:
                ahead[0].arrival = now
                queue.append(ahead.pop(0))
    return gaps
