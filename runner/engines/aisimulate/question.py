"""The questions to `aisimulate predict`: one operating point of a case as the file that it reads, and its requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gpuscout.runner.engines.aiconfigurator.support import number_formats, their_system
from gpuscout.runner.engines.roofline.features import is_mxfp4
from gpuscout.runner.engines.simulator.requests import arrivals_of, lengths_of
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.traffic.trace import BLOCK_TOKENS, Trace
from gpuscout.sweeps.traffic.traffic import POISSON, Traffic

# Requests of each client of a closed loop; of long answers fewer, for its time grows with their tokens.
_ROUNDS, _ROUNDS_OF_LONG, _LONG = 10, 5, 4096
_OPEN_LOOP_REQUESTS = 400
_MOST_OF_A_TRACE = 1_000
_SPREAD = 0.1  # of lengths that a case fixes, in a closed loop: equal requests would march in step
_SEED = 1


def question(
    case: Case,
    model: str,
    concurrency: int,
    requests: str,
    *,
    database_mode: str,
    backend_version: str,
    seats: int,
    tokens: int,
) -> dict[str, Any]:
    """Return the file for one load: `concurrency` requests in flight or, in an open loop, the case's own rate.

    `requests` is the file that `requests_of` makes. `seats` and `tokens` are sequences and prompt tokens that a step
    may hold; requests beyond wait.
    """
    return {
        "traffic": _traffic(case, concurrency, requests),
        "engine": {
            "mode": "aggregated",
            "model": model,
            "hardware": their_system(case.gpu.name),
            "backend": case.server,
            "backend_version": backend_version,
            "database_mode": database_mode,
            **_formats(case),
            "workers": {
                "aggregated": {
                    "parallelism": _parallelism(case),
                    "scheduler": {"max_sequences": seats, "max_batched_tokens": tokens},
                    "kv_cache": {"capacity": {"memory_fraction": case.gpu_memory_utilization}},
                }
            },
        },
    }


def unsupported(traffic: Traffic) -> str | None:
    """Return the reason why it cannot answer for such requests: its shared prefixes have one length, and no bursts."""
    if not traffic.cached_input:
        return None
    if traffic.varies:
        return "AISimulate supports cached input of fixed lengths only"
    if traffic.arrivals is not None and traffic.arrivals.cv not in (0.0, 1.0):
        return "AISimulate supports cached input with Poisson and constant arrivals only"
    return None


def requests_of(case: Case, concurrency: int) -> str:
    """Return the requests of a case and load as a trace in Mooncake's form, one JSON object a line."""
    traffic = case.traffic
    random = np.random.default_rng(int.from_bytes(CaseColumns.of([case]).digests()[0][:8], "little"))
    n = _OPEN_LOOP_REQUESTS if traffic.open_loop else concurrency * _rounds(case)
    recorded = traffic.trace if isinstance(traffic.trace, Trace) else None
    n = min(max(n, len(recorded)), _MOST_OF_A_TRACE) if recorded is not None else n
    prompt, _, output = lengths_of(traffic, case.input_len, case.output_len, 0, 1, _SPREAD)(random, n)
    at_ms = np.zeros(n)
    if traffic.request_rate is not None:
        at_ms = np.cumsum(arrivals_of(traffic, 1)(random, n)) / traffic.request_rate * 1e3
    lines = []
    fresh = 1 << 40  # beyond the blocks of any trace
    for number in range(n):
        blocks = -(-int(prompt[number]) // BLOCK_TOKENS)
        ids = list(range(fresh, fresh + blocks))
        fresh += blocks
        if recorded is not None and recorded.hash_ids is not None:
            ids = [*recorded.hash_ids[number % len(recorded)], *ids][:blocks]
        one = {"timestamp": round(float(at_ms[number]), 3), "input_length": int(prompt[number])}
        lines.append(json.dumps({**one, "output_length": int(output[number]), "hash_ids": ids}))
    return "\n".join(lines) + "\n"


def _rounds(case: Case) -> int:
    return _ROUNDS if case.output_len < _LONG else _ROUNDS_OF_LONG


def _traffic(case: Case, concurrency: int, requests: str) -> dict[str, Any]:
    rate = case.traffic.request_rate
    closed = {"type": "concurrency", "concurrency": concurrency}
    if not case.traffic.cached_input:
        trace = {"type": "trace", "paths": [requests], "format": "mooncake"}
        return {"source": trace, "load": closed if rate is None else {"type": "trace_timestamps"}}
    source = {"type": "synthetic", "input_tokens": case.input_len, "output_tokens": case.output_len}
    source["cached_prefix_tokens"] = min(int(case.traffic.cached_input * case.input_len), case.input_len - 1)
    if rate is None:
        return {"source": source, "load": closed, "stop": {"requests_per_load_unit": _rounds(case)}}
    even = (case.traffic.arrivals or POISSON).cv == 0
    load = {"type": "constant_rate"} if even else {"type": "poisson", "seed": _SEED}
    return {
        "source": source,
        "load": {**load, "requests_per_second": rate},
        "stop": {"requests": _OPEN_LOOP_REQUESTS},
    }


def _parallelism(case: Case) -> dict[str, int]:
    """Return the sizes: data parallelism is whole replicas of dense models, attention ranks of mixtures of experts."""
    sizes = {"tensor": case.tensor_parallel, "pipeline": case.pipeline_parallel}
    if not case.model.is_moe:
        return {**sizes, "replicas": case.data_parallel}
    shared = case.tensor_parallel * case.data_parallel
    experts = {"moe_expert": case.expert_parallel, "moe_tensor": shared // case.expert_parallel}
    return {**sizes, "replicas": 1, "attention_data": case.data_parallel, **experts}


def _formats(case: Case) -> dict[str, str]:
    """Return number formats that its reading of the checkpoint does not give: those asked for, and MXFP4's activations.

    Servers multiply MXFP4 weights with 8-bit activations where the GPU has fp4 units; by itself it takes 16 bits.
    """
    formats = number_formats(case)
    if is_mxfp4(case.model, case.precision) and case.gpu.supports("fp4"):
        formats["moe_quant_mode"] = "w4a8_mxfp4_mxfp8"
    return formats
