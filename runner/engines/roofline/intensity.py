"""The roofline diagram of deployments: FLOP per byte of prefill and decoding beside what the hardware can feed.

Everything per GPU, from the same bytes and FLOP as the engine's estimates, at peak figures, without fitted constants.
Source: the roofline model (Williams et al. 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuscout.runner.engines.roofline.features import features
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import FloatArray


@dataclass(frozen=True)
class Roofline:
    """FLOP per byte; below `hardware_ops_per_byte` reading memory takes longer than multiplying.

    `decode_capacity_limit`: the requests in flight that add as much time to a decode step as its weights take to read.
    Beyond it, ITL grows in proportion to the concurrency. At least 1. `prefill_s`: seconds of one prompt at peak.
    """

    hardware_ops_per_byte: float
    prefill_arithmetic_intensity: float
    decode_arithmetic_intensity: float
    decode_capacity_limit: int
    prefill_s: float


def rooflines(cases: Sequence[Case], concurrencies: Sequence[int]) -> list[Roofline]:
    """Return the diagram of each case: prefill of one prompt, decoding at this concurrency (of the whole deployment).

    Prefill reads the weights that a prompt reaches and writes its KV cache; a decode step reads the weights that its
    requests reach and their KV caches at mean length, half-way through the output. The GPUs' bandwidths must be known.
    """
    f = features(CaseColumns.of(cases))
    batch = np.maximum(np.array(concurrencies, dtype=np.float64) / f.dp, 1.0)
    always, experts = (f.layer_bytes + f.head_bytes) / f.tp, f.expert_bytes / (f.tp * f.dp)

    def reached(tokens: FloatArray) -> FloatArray:
        share: FloatArray = 1.0 - (1.0 - np.minimum(f.expert_share, 1.0)) ** tokens
        return share

    of_token = (f.layer_flop + f.expert_flop) / f.tp
    prefill_flop = f.input_len * of_token + (f.head_flop + f.prefill_attention_flop) / f.tp
    prefill_bytes = always + reached(f.input_len) * experts + f.kv_mean_bytes
    request_flop = of_token + (f.head_flop + f.decode_attention_flop) / f.tp
    request_bytes = f.kv_read_bytes + 2 * f.state_bytes
    decode_bytes = always + reached(batch * f.dp) * experts + batch * request_bytes
    hardware = f.flops / f.bandwidth
    capacity = f.dp * (always + experts) / (request_bytes + request_flop / hardware)
    prefill_s = np.maximum(prefill_flop / f.flops, prefill_bytes / f.bandwidth)
    figures = (hardware, prefill_flop / prefill_bytes, batch * request_flop / decode_bytes, capacity, prefill_s)
    return [
        Roofline(ops, prefill, decode, max(1, int(limit)), seconds)
        for ops, prefill, decode, limit, seconds in zip(*(column.tolist() for column in figures), strict=True)
    ]
