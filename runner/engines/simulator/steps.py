"""Seconds of one step of a server's rank, as a table over what the step holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpuscout.sweeps.curves import FloatArray

# Seconds of steps that hold so many sequences, KV tokens and prefill tokens; the arrays have one shape.
StepSeconds = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]

_KV_COLUMNS = 9
_FEWEST_PREFILL_TOKENS = 16


@dataclass(frozen=True)
class StepTimes:
    """Step seconds by sequences, mean KV tokens of a sequence and prefill tokens.

    seconds         shape (max_num_seqs + 1, KV columns, prefill columns); row r is a step that gives r sequences
                    their next token
    tokens_per_kv   mean KV tokens a sequence holds, from one KV column to the next; the first column is 0
    prefill_tokens  prefill tokens of each prefill column, ascending from 0

    Between the columns the kernel interpolates linearly.
    """

    seconds: FloatArray
    tokens_per_kv: float
    prefill_tokens: FloatArray


def tabulate(seconds: StepSeconds, *, max_num_seqs: int, max_prefill_tokens: int, longest_sequence: int) -> StepTimes:
    """The table of a step function, for at most so many sequences and prefill tokens in a step."""
    doublings = max(0, math.ceil(math.log2(max_prefill_tokens / _FEWEST_PREFILL_TOKENS)))
    prefill = np.concatenate([[0.0], max_prefill_tokens / 2.0 ** np.arange(doublings, -1, -1)])
    per_sequence = np.linspace(0.0, float(longest_sequence), _KV_COLUMNS)
    sequences = np.arange(max_num_seqs + 1, dtype=np.float64)[:, None, None]
    shape = (max_num_seqs + 1, _KV_COLUMNS, len(prefill))
    table = seconds(
        np.broadcast_to(sequences, shape),
        np.broadcast_to(sequences * per_sequence[None, :, None], shape),
        np.broadcast_to(prefill[None, None, :], shape),
    )
    return StepTimes(np.ascontiguousarray(table, dtype=np.float64), float(per_sequence[1]), prefill)
