"""The event loop: requests through queue, prefill and decode of one rank of a continuous-batching server.

Between two events (an arrival that can be admitted, a finished prompt, a finished sequence, a full KV cache) the batch
does not change and the time of a step grows linearly with the KV cache, so any number of decode steps is one sum. The
loop is plain Python over arrays, which numba compiles where it is installed (`pip install 'gpuscout[simulator]'`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.curves import FloatArray

Function = TypeVar("Function", bound=Callable[..., object])


def _compiled(function: Function) -> Function:
    """Return the function as numba compiles it, once for this machine; as it is where numba is not installed."""
    try:
        from numba import njit
    except ImportError:
        return function
    return cast(Function, njit(cache=True)(function))


IntColumn = npt.NDArray[np.int64]

# How a server mixes prompts and decode steps.
CHUNKED = 0  # vLLM: prompts fill what decoding leaves of the token budget, cut into chunks
PREFILL_FIRST = 1  # SGLang: waiting prompts have steps of their own, during which nothing is decoded
WHOLE_PROMPTS = 2  # TensorRT-LLM: as CHUNKED, but a prompt enters a step whole

DONE, STUCK = 0, 1


@_compiled
def _step_seconds(
    table: FloatArray, tokens_per_kv: float, prefill_tokens: FloatArray, sequences: int, kv_tokens: float, prompt: float
) -> float:
    """Return seconds of a step, interpolated in the table; beyond its last columns the last slope goes on."""
    last = table.shape[1] - 2
    at = 0.0 if sequences == 0 else kv_tokens / (sequences * tokens_per_kv)
    column = min(int(at), last)
    share = at - column
    if prompt <= 0:
        low = table[sequences, column, 0]
        return float(low + share * (table[sequences, column + 1, 0] - low))
    right = 1
    while right < len(prefill_tokens) - 1 and prefill_tokens[right] < prompt:
        right += 1
    weight = (prompt - prefill_tokens[right - 1]) / (prefill_tokens[right] - prefill_tokens[right - 1])
    low = table[sequences, column, right - 1]
    low += share * (table[sequences, column + 1, right - 1] - low)
    high = table[sequences, column, right]
    high += share * (table[sequences, column + 1, right] - high)
    return float(low + weight * (high - low))


@_compiled
def _steps_until(seconds: float, first: float, growth: float) -> int:
    """Return the fewest steps of `first`, `first + growth`, … seconds that together take at least `seconds`."""
    if growth <= first * 1e-12:
        steps = int(np.ceil(seconds / first))
    else:
        linear = first - growth / 2
        steps = int(np.ceil((np.sqrt(linear * linear + 2 * growth * seconds) - linear) / growth))
    return max(steps, 1)


@_compiled
def _answered(rounds: int, pace: float) -> float:
    """Return the tokens answered after so many rounds: one comes with the prompt, `pace` with each other round."""
    return 1.0 + (rounds - 1) * pace if rounds > 0 else 0.0


@_compiled
def simulate(
    arrival: FloatArray,
    prompt: IntColumn,
    cached: IntColumn,
    shared: IntColumn,
    rounds: IntColumn,
    first: int,
    counted: int,
    clients: int,
    table: FloatArray,
    tokens_per_kv: float,
    prefill_tokens: FloatArray,
    max_num_seqs: int,
    max_batched_tokens: int,
    kv_capacity: int,
    pace: float,
    verified: int,
    policy: int,
    admitted: FloatArray,
    first_token: FloatArray,
    finished: FloatArray,
    preempted: IntColumn,
    gap_from: FloatArray,
    gap_to: FloatArray,
    gap_count: IntColumn,
    totals: FloatArray,
) -> tuple[int, int]:
    """Run until the first `counted` requests have left; returns DONE or STUCK, and the number of gap segments.

    arrival            s, ascending; with `clients` > 0 (a closed loop) only the first `clients` are given, and each
                       request that leaves is followed by the next one at once (`arrival` is filled in)
    prompt             tokens of each request; `cached` of them need no prefill
    rounds             steps that give each request tokens: the one that ends its prompt, and decode steps
    shared             of a prompt's tokens, those that have a place in the KV cache already
    kv_capacity        tokens the KV cache of the rank holds
    pace, verified     tokens that a decode step gives a sequence on average, and of the token budget that it takes: 1
                       and 1 unless tokens are drafted
    admitted, first_token, finished   filled in: s, when a request got a place, its first and its last token
    preempted          filled in: how often each request lost its place
    gap_from, gap_to, gap_count       filled in: gaps between tokens, as segments of `gap_count` gaps that grow evenly
                                      from `gap_from` to `gap_to` s
    totals             filled in: KV tokens held (without shared ones) integrated over time since the request `first`
                       was admitted, that time in s, and steps

    STUCK: a request alone is larger than the KV cache.
    """
    requests = len(prompt)
    now = 0.0
    running = 0
    kv = 0.0  # tokens that decoding reads
    found = 0.0  # of them those that are shared
    decoded = 0  # decode steps so far: a sequence that starts at step s with n tokens to go ends at step s + n
    arrived = clients if clients > 0 else 0
    head = 0  # the next request that has never been admitted
    ends = [(0, 0)]
    heapq.heappop(ends)
    generated = np.zeros(requests, dtype=np.int64)  # tokens of the answer that a preempted request has already
    started_at = np.zeros(requests, dtype=np.int64)  # decode step at which it last began to decode
    ends_at = np.full(requests, -1, dtype=np.int64)  # decode step of a sequence's last token; -1: it does not decode
    order = [0]  # decoding requests in order of admission: the last one is preempted first
    order.pop()
    again = [0]  # preempted requests, the first to be admitted again is the last entry
    again.pop()
    partial = -1  # the request whose prompt is being read in chunks
    partial_left = 0
    left = counted
    segments = 0
    # Decoding sequences that wait for prompts: s so far, and in groups who joined after how much of it.
    stall = 0.0
    groups = 0
    joined = np.zeros(max_num_seqs + 2, dtype=np.float64)
    members = np.zeros(max_num_seqs + 2, dtype=np.int64)
    integral = 0.0
    since = -1.0
    steps = 0
    entering = np.empty(max_num_seqs + 1, dtype=np.int64)

    while left > 0:
        if clients == 0:
            while arrived < requests and arrival[arrived] <= now:
                arrived += 1
        # Prompts that enter this step.
        budget = max_batched_tokens - (0 if policy == PREFILL_FIRST else running * verified)
        taken = 0
        seats = 0  # of prompts that end in this step
        if partial >= 0 and budget > 0:
            chunk = min(partial_left, budget)
            partial_left -= chunk
            taken += chunk
            budget -= chunk
            if partial_left == 0:
                entering[seats] = partial
                seats += 1
                partial = -1
        while partial < 0 and budget > 0 and running + seats < max_num_seqs and (len(again) > 0 or head < arrived):
            request = again[-1] if len(again) > 0 else head
            tokens = prompt[request] + _answered(generated[request], pace)
            held = running * pace  # a place for the next tokens of every sequence that decodes
            if kv - found + tokens - shared[request] + held > kv_capacity:
                if running == 0 and seats == 0 and kv < 0.5:
                    return STUCK, segments
                break
            need = max(int(np.ceil(tokens)) - cached[request], 1)
            if policy == WHOLE_PROMPTS and need > budget and taken > 0:
                break
            if len(again) > 0:
                again.pop()
            else:
                head += 1
                admitted[request] = now
                if request == first:
                    integral = 0.0
                    since = now
            kv += tokens
            found += shared[request]
            chunk = need if policy == WHOLE_PROMPTS else min(need, budget)
            taken += chunk
            budget -= chunk
            if chunk == need:
                entering[seats] = request
                seats += 1
            else:
                partial = request
                partial_left = need - chunk

        if taken > 0:
            decoding = 0 if policy == PREFILL_FIRST else running
            # Prompts cost as much in a step of their own as they would add to a step of the sequences that wait.
            cache = kv if running > 0 else 0.0
            seconds = _step_seconds(table, tokens_per_kv, prefill_tokens, running, cache, float(taken))
            if decoding < running:
                seconds -= _step_seconds(table, tokens_per_kv, prefill_tokens, running, cache, 0.0)
            now += seconds
            steps += 1
            integral += (kv - found) * seconds
            if decoding > 0:
                gap_from[segments] = seconds
                gap_to[segments] = seconds
                gap_count[segments] = decoding
                segments += 1
                kv += decoding * pace
                decoded += 1
            elif running > 0:
                if groups == 0:
                    joined[0], members[0], groups = 0.0, running, 1
                stall += seconds
                groups += 1 if members[groups - 1] > 0 else 0
                joined[groups - 1], members[groups - 1] = stall, 0
            for position in range(seats):
                request = entering[position]
                if generated[request] == 0:
                    first_token[request] = now
                generated[request] += 1
                kv += 1.0 if generated[request] == 1 else pace
                started_at[request] = decoded
                if groups > 0 and generated[request] < rounds[request]:
                    members[groups - 1] += 1
                ends_at[request] = decoded + rounds[request] - generated[request]
                running += 1
                order.append(request)
                heapq.heappush(ends, (ends_at[request], request))
        elif running == 0:
            now = arrival[arrived]
            continue
        else:
            # Only decoding, until a sequence ends, a request arrives that can enter, or the cache is full.
            while ends[0][0] != ends_at[ends[0][1]]:
                heapq.heappop(ends)  # of a preempted sequence
            count = ends[0][0] - decoded
            room = int((kv_capacity - kv + found) // (running * pace))
            if room < 1 and count > 0:
                # The one admitted last makes room, and is read again with what it has answered so far.
                while ends_at[order[-1]] < 0:
                    order.pop()
                victim = order.pop()
                if running == 1:
                    return STUCK, segments
                ends_at[victim] = -1
                generated[victim] += decoded - started_at[victim]
                kv -= prompt[victim] + _answered(generated[victim], pace)
                found -= shared[victim]
                running -= 1
                last = groups - 1
                while last > 0 and members[last] == 0:
                    last -= 1
                members[max(last, 0)] -= 1
                again.append(victim)
                preempted[victim] += 1
                continue
            count = min(count, max(room, 1))
            begin = _step_seconds(table, tokens_per_kv, prefill_tokens, running, kv, 0.0)
            if count > 0:
                last_kv = kv + (count - 1) * running * pace
                end = _step_seconds(table, tokens_per_kv, prefill_tokens, running, last_kv, 0.0)
                growth = 0.0 if count == 1 else (end - begin) / (count - 1)
                blocked = len(again) > 0 or head < arrived
                if not blocked and clients == 0 and arrived < requests and running < max_num_seqs:
                    count = min(count, _steps_until(arrival[arrived] - now, begin, growth))
                seconds = count * (begin + growth * (count - 1) / 2)
                alike = count
                if groups > 0:
                    for group in range(groups):
                        if members[group] > 0:
                            gap_from[segments] = gap_to[segments] = begin + stall - joined[group]
                            gap_count[segments] = members[group]
                            segments += 1
                    stall, groups, alike = 0.0, 0, count - 1
                if alike > 0:
                    gap_from[segments] = begin + growth * (count - alike)
                    gap_to[segments] = begin + growth * (count - 1)
                    gap_count[segments] = running * alike
                    segments += 1
                integral += seconds * (kv - found + running * pace * (count - 1) / 2)
                now += seconds
                steps += count
                kv += running * pace * count
                decoded += count

        # Sequences whose last token this step gave.
        while len(ends) > 0 and ends[0][0] <= decoded:
            step, request = heapq.heappop(ends)
            if step != ends_at[request]:
                continue
            ends_at[request] = -1
            running -= 1
            kv -= prompt[request] + _answered(rounds[request], pace)
            found -= shared[request]
            finished[request] = now
            if request < counted:
                left -= 1
            if clients > 0 and arrived < requests:
                arrival[arrived] = now
                arrived += 1
        if running == 0:
            stall, groups = 0.0, 0
            order.clear()
        elif len(order) > 4 * running + 64:
            kept = [request for request in order if ends_at[request] >= 0]
            order.clear()
            order.extend(kept)
        if segments + max_num_seqs + 4 > len(gap_count):
            return DONE, -1
    totals[0], totals[1], totals[2] = integral, now - since, steps
    return DONE, segments
