"""The requests of a workload: prompts of random tokens, as long as it says, and the times at which they come."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator

import numpy as np

from gpuscout.runner.engines.benchmark.traffic.client import Request
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import FloatArray
from gpuscout.sweeps.traffic.trace import BLOCK_TOKENS, Trace
from gpuscout.sweeps.traffic.traffic import POISSON

# Tokens that mean something to the server (begin, end, image …) are at the ends of every vocabulary.
_FIRST, _LAST = 0.1, 0.9
# Of tokens: a load of 1,024 in flight may have a hundred million of them.
_FOUR_BYTES = "i"


class Requests:
    """The requests of one case at one load, drawn from a seed: the same ones for the same seed, case and load.

    Prompts are random token ids, so that they are exactly as long as they should be and share nothing that a prefix
    cache could find; of a workload with `cached_input` they begin alike, those of a trace share its blocks.
    """

    def __init__(self, case: Case, load: str, seed: int) -> None:
        digest = CaseColumns.of([case]).digests()[0]
        self._case = case
        self._traffic = case.traffic
        self._random = np.random.default_rng([seed, *digest, *load.encode()])
        # What requests of any load share.
        self._shared = np.random.default_rng([seed, *digest])
        vocabulary = case.model.vocab_size
        self._tokens = range(int(_FIRST * vocabulary), max(int(_LAST * vocabulary), int(_FIRST * vocabulary) + 1))
        self._prefix = array(_FOUR_BYTES)
        self._blocks: dict[int, array[int]] = {}

    def draw(self, count: int) -> list[Request]:
        """Return the next requests."""
        trace = self._traffic.trace
        if isinstance(trace, Trace):
            rows = itertools.islice(itertools.cycle(range(len(trace))), count)
            return [Request(self._recorded(trace, row), int(trace.output_len[row])) for row in rows]
        lengths = [
            np.full(count, fixed) if varied is None else varied.sample(self._random, count)
            for fixed, varied in (
                (self._case.input_len, self._traffic.input_len),
                (self._case.output_len, self._traffic.output_len),
            )
        ]
        return [Request(self._prompt(int(read)), int(written)) for read, written in zip(*lengths, strict=True)]

    def arrivals(self, count: int, request_rate: float) -> FloatArray:
        """Return seconds after the start at which so many requests are sent, the first of them at once.

        Times are drawn, then scaled to the very rate: a few dozen of them would be off by more than their spread says.
        """
        trace, arrivals = self._traffic.trace, self._traffic.arrivals
        if count < 2:
            return np.zeros(count)
        if isinstance(trace, Trace) and arrivals is None and trace.seconds > 0:
            recorded = np.diff(trace.at_s)
            gaps = recorded[np.arange(count - 1) % len(recorded)]
        else:
            cv = (arrivals or POISSON).cv
            gaps = np.ones(count - 1) if cv == 0 else self._random.gamma(1 / cv**2, cv**2, count - 1)
        times: FloatArray = np.concatenate([[0.0], np.cumsum(gaps / (gaps.mean() * request_rate))])
        return times

    def _prompt(self, length: int) -> array[int]:
        cached = min(int(length * self._traffic.cached_input), length - 1)
        if len(self._prefix) < cached:
            self._prefix += self._ids(self._shared, cached - len(self._prefix))
        return self._prefix[:cached] + self._ids(self._random, length - cached)

    def _recorded(self, trace: Trace, row: int) -> array[int]:
        """Return a prompt of a trace: its known blocks, and what they leave open."""
        length = int(trace.input_len[row])
        if trace.hash_ids is None:
            return self._prompt(length)
        prompt = array(_FOUR_BYTES, itertools.islice(self._of_blocks(trace.hash_ids[row]), length))
        return prompt + self._ids(self._random, length - len(prompt))

    def _of_blocks(self, blocks: tuple[int, ...]) -> Iterator[int]:
        for block in blocks:
            if block not in self._blocks:
                self._blocks[block] = self._ids(self._shared, BLOCK_TOKENS)
            yield from self._blocks[block]

    def _ids(self, random: np.random.Generator, count: int) -> array[int]:
        return array(_FOUR_BYTES, random.integers(self._tokens.start, self._tokens.stop, count).tolist())
