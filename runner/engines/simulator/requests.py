"""The requests of one rank of a deployment: their lengths, what is cached of them, and the times between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuscout.runner.engines.simulator.kernel import IntColumn
from gpuscout.runner.engines.simulator.load import Lengths
from gpuscout.sweeps.curves import FloatArray
from gpuscout.sweeps.traffic.lengths import Lengths as Distribution
from gpuscout.sweeps.traffic.trace import Trace
from gpuscout.sweeps.traffic.traffic import POISSON, Traffic

# n times between arrivals at one rank, with a mean of 1.
Gaps = Callable[[np.random.Generator, int], FloatArray]


def lengths_of(traffic: Traffic, input_len: int, output_len: int, kv_tokens: int, ranks: int, spread: float) -> Lengths:
    """Return samples of one rank's requests; `kv_tokens` bound what its cache holds of a trace's prefixes.

    In a closed loop, lengths that the case fixes are drawn evenly from within the share `spread` around them: real
    requests, and those of load generators, are never equal to the token, and equal ones would march in step.
    """
    spread = 0.0 if traffic.open_loop else spread
    if isinstance(traffic.trace, Trace):
        return _of_trace(traffic.trace, kv_tokens, ranks, traffic.cached_input)

    def sample(random: np.random.Generator, n: int) -> tuple[IntColumn, IntColumn, IntColumn]:
        prompt = _around(random, n, input_len, spread, traffic.input_len)
        output = _around(random, n, output_len, spread, traffic.output_len)
        return prompt, _cached(prompt, traffic.cached_input), output

    return sample


def _around(random: np.random.Generator, n: int, length: int, spread: float, varied: Distribution | None) -> IntColumn:
    if varied is not None:
        return varied.sample(random, n)
    return np.maximum(np.rint(length * random.uniform(1 - spread, 1 + spread, n)), 1).astype(np.int64)


def _of_trace(trace: Trace, kv_tokens: int, ranks: int, cached_input: float) -> Lengths:
    """Return the requests of the trace for every rank, one rank's after the other's, over and over."""
    cached = _cached(trace.input_len, cached_input) if cached_input else trace.cached_tokens(kv_tokens, ranks)
    order = np.concatenate(_in_turn(trace, ranks))

    def sample(random: np.random.Generator, n: int) -> tuple[IntColumn, IntColumn, IntColumn]:
        row = order[np.arange(n) % len(order)]
        return trace.input_len[row], cached[row], trace.output_len[row]

    return sample


def _in_turn(trace: Trace, ranks: int) -> list[IntColumn]:
    """Return the rows of a trace that each of `ranks` gets."""
    return [np.arange(rank, len(trace), ranks) for rank in range(min(ranks, len(trace)))]


def _cached(prompt: IntColumn, share: float) -> IntColumn:
    """Return the cached tokens: at least one token of a prompt is computed."""
    return np.minimum((prompt * share).astype(np.int64), prompt - 1)


def arrivals_of(traffic: Traffic, ranks: int) -> Gaps:
    """Return times between the requests that one of `ranks` gets when they are handed out in turn."""
    if isinstance(traffic.trace, Trace) and traffic.arrivals is None and traffic.trace.seconds > 0:
        return _recorded(traffic.trace, ranks)
    cv = (traffic.arrivals or POISSON).cv

    def every(random: np.random.Generator, n: int) -> FloatArray:
        if cv == 0:
            return np.ones(n)
        return random.exponential(1.0, n) if cv == 1 else random.gamma(1 / cv**2, cv**2, n)

    def in_turn(random: np.random.Generator, n: int) -> FloatArray:
        between: FloatArray = every(random, n * ranks).reshape(n, ranks).mean(axis=1)
        return between

    return in_turn


def _recorded(trace: Trace, ranks: int) -> Gaps:
    """Return the gaps before the requests of `_of_trace`; between two ranks' requests they are means."""
    gaps = [np.diff(trace.at_s[rows], prepend=np.nan) for rows in _in_turn(trace, ranks)]
    recorded = np.concatenate(gaps)
    inside = recorded[~np.isnan(recorded)]
    mean = float(inside.mean()) if len(inside) else 0.0
    recorded = np.where(np.isnan(recorded), 1.0, recorded / mean) if mean > 0 else np.ones(len(recorded))

    def taken(random: np.random.Generator, n: int) -> FloatArray:
        found: FloatArray = recorded[np.arange(n) % len(recorded)]
        return found

    return taken
