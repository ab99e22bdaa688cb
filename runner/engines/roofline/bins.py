"""The requests of cases as bins of equal lengths: what lengths that vary and cached prompts are to the formulas.

Bytes and arithmetic of a step are sums over the requests of its batch, so that of a batch of unequal requests is that
of its mean request. Two means count: over requests (what is read of prompts), and over the decode steps in which a
request is part of the batch, that is by its output tokens (what is kept and read of the KV cache).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.curves import FloatArray, IntArray
from gpuscout.sweeps.traffic.lengths import Lengths
from gpuscout.sweeps.traffic.trace import Trace
from gpuscout.sweeps.traffic.traffic import Traffic

_BINS = 16  # of equal shares of the requests, for prompts and for answers
_WITHIN = 8  # lengths whose mean is that of a bin


@dataclass(frozen=True)
class Bins:
    """One row a bin, in the order of the cases. `cached`: tokens of a prompt that need no prefill."""

    case: IntArray
    share: FloatArray  # of the case's requests
    input_len: FloatArray
    output_len: FloatArray
    cached: FloatArray

    def by_request(self, values: FloatArray) -> FloatArray:
        """Return the mean over the requests of every case: from a value a bin to one a case."""
        return self._mean(values, self.share)

    def by_step(self, values: FloatArray) -> FloatArray:
        """Return the mean over the sequences of a decode step of every case."""
        return self._mean(values, self.share * self.output_len)

    def _mean(self, values: FloatArray, weights: FloatArray) -> FloatArray:
        if not len(self.case) or len(self.case) == self.case[-1] + 1:
            return values  # a bin a case: as they are, to the bit
        starts = np.searchsorted(self.case, np.arange(self.case[-1] + 1))
        found: FloatArray = np.add.reduceat(values * weights, starts) / np.add.reduceat(weights, starts)
        return found


def bins_of(cases: CaseColumns) -> Bins:
    """Return the requests of every case. A case of plain traffic is one bin."""
    input_len, output_len = cases.input_len.astype(np.float64), cases.output_len.astype(np.float64)
    n = len(cases)
    if not n or all(traffic.is_plain for traffic in cases.traffics):
        return Bins(np.arange(n, dtype=np.int64), np.ones(n), input_len, output_len, np.zeros(n))
    cut = [_cut(traffic) for traffic in cases.traffics]
    rows = []
    for row, code in enumerate(cases.traffic.tolist()):
        share, prompt, answer = cut[code]
        prompt = np.full(len(share), input_len[row]) if prompt is None else prompt
        answer = np.full(len(share), output_len[row]) if answer is None else answer
        cached = np.minimum(np.floor(prompt * cases.traffics[code].cached_input), prompt - 1)
        rows.append((np.full(len(share), row, dtype=np.int64), share, prompt, answer, cached))
    return Bins(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _cut(traffic: Traffic) -> tuple[FloatArray, FloatArray | None, FloatArray | None]:
    """Return shares of the requests, and their mean prompts and answers; None: as long as the case says."""
    if isinstance(traffic.trace, Trace):
        return _cut_trace(traffic.trace)
    prompts, answers = (
        None if varied is None else _means(varied) for varied in (traffic.input_len, traffic.output_len)
    )
    of_prompts, of_answers = (1 if part is None else len(part) for part in (prompts, answers))
    share = np.full(of_prompts * of_answers, 1 / (of_prompts * of_answers))
    # Every prompt with every answer: they do not depend on each other.
    return (
        share,
        None if prompts is None else np.repeat(prompts, of_answers),
        None if answers is None else np.tile(answers, of_prompts),
    )


def _means(varied: Lengths) -> FloatArray:
    lengths = varied.quantiles((np.arange(_BINS * _WITHIN) + 0.5) / (_BINS * _WITHIN))
    means = lengths.reshape(_BINS, _WITHIN).mean(axis=1)
    scaled: FloatArray = means * (varied.mean / means.mean())
    return scaled


def _cut_trace(trace: Trace) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return requests with alike prompts, and of those the ones with alike answers."""
    order = np.lexsort((trace.output_len, trace.input_len))
    parts = [
        part[np.argsort(trace.output_len[part], kind="stable")]
        for part in np.array_split(order, min(_BINS, len(order)))
    ]
    bins = [one for part in parts for one in np.array_split(part, min(_BINS, len(part)))]
    share = np.array([len(one) for one in bins]) / len(trace)
    prompts, answers = (
        np.array([float(column[one].mean()) for one in bins]) for column in (trace.input_len, trace.output_len)
    )
    return share, prompts, answers
