"""Seconds of one step of a server's rank, as a table over what the step holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.curves import FloatArray

# Seconds of steps that hold so many sequences, KV tokens and prefill tokens; the arrays have one shape.
StepSeconds = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]

_KV_COLUMNS = 9
_FEWEST_PREFILL_TOKENS = 16
_EVERY_ROW, _ROWS_PER_OCTAVE = 64, 16


@dataclass(frozen=True)
class StepTimes:
    """Step seconds by sequences, mean KV tokens of a sequence and prefill tokens.

    seconds         shape (max_num_seqs + 1, KV columns, prefill columns); row r is a step that gives r sequences
                    their next token
    tokens_per_kv   mean KV tokens a sequence holds, from one KV column to the next; the first column is 0
    prefill_tokens  prefill tokens of each prefill column, ascending from 0

    Between the columns the kernel interpolates linearly; rows of many sequences lie between others already (the steps
    of all known models bend so little there that this moves none by more than 0.002 %).
    """

    seconds: FloatArray
    tokens_per_kv: float
    prefill_tokens: FloatArray


def tabulate(seconds: StepSeconds, *, max_num_seqs: int, max_prefill_tokens: int, longest_sequence: int) -> StepTimes:
    """Return the table of a step function, for at most so many sequences and prefill tokens in a step."""
    doublings = max(0, math.ceil(math.log2(max_prefill_tokens / _FEWEST_PREFILL_TOKENS)))
    prefill = np.concatenate([[0.0], max_prefill_tokens / 2.0 ** np.arange(doublings, -1, -1)])
    per_sequence = np.linspace(0.0, float(longest_sequence), _KV_COLUMNS)
    rows = _rows(max_num_seqs)
    sequences = rows.astype(np.float64)[:, None, None]
    shape = (len(rows), _KV_COLUMNS, len(prefill))
    known = seconds(
        np.broadcast_to(sequences, shape),
        np.broadcast_to(sequences * per_sequence[None, :, None], shape),
        np.broadcast_to(prefill[None, None, :], shape),
    )
    return StepTimes(_between(rows, known), float(per_sequence[1]), prefill)


def _rows(most: int) -> npt.NDArray[np.int64]:
    """Return numbers of sequences whose steps are asked for: all of the first, then about 4 % apart; with the last."""
    octaves = math.log2(max(most / _EVERY_ROW, 1.0))
    apart = _EVERY_ROW * 2.0 ** np.linspace(0.0, octaves, math.ceil(octaves * _ROWS_PER_OCTAVE) + 1)
    rows = np.concatenate([np.arange(min(_EVERY_ROW, most) + 1), np.rint(apart).astype(np.int64)])
    return np.unique(np.append(rows[rows <= most], most))


def _between(rows: npt.NDArray[np.int64], known: FloatArray) -> FloatArray:
    """Return the steps of all numbers of sequences, those between `rows` on the line from one to the next."""
    wanted = np.arange(rows[-1] + 1)
    low = np.minimum(np.searchsorted(rows, wanted, side="right") - 1, max(len(rows) - 2, 0))
    high = np.minimum(low + 1, len(rows) - 1)
    share = ((wanted - rows[low]) / np.maximum(rows[high] - rows[low], 1))[:, None, None]
    return np.ascontiguousarray(known[low] + share * (known[high] - known[low]), dtype=np.float64)
