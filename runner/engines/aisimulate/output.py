"""The answers of `aisimulate predict`: operating points from its requests, and the meaning of its messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gpuscout.runner.engines.base import CaseAnswer, Point
from gpuscout.runner.engines.program import Printed, shortened
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.curves import PERCENTILES, FloatArray
from gpuscout.sweeps.outcomes import Outcome

# Requests leave slower than this share of the rate at which they come: their queue grows as long as they do.
_SUSTAINED = 0.95
_ESTIMATED = "; the option database_mode: HYBRID estimates what was not timed"
_MEANINGS = (
    ("no kv budget", Outcome.DOES_NOT_FIT),
    ("oom:", Outcome.DOES_NOT_FIT),
    ("no requests completed", Outcome.DOES_NOT_FIT),
    ("missing performance data", Outcome.NOT_SUPPORTED),
    ("no timing data", Outcome.NOT_SUPPORTED),
    ("parallelism width mismatch", Outcome.NOT_SUPPORTED),
    ("invalid quantized moe configuration", Outcome.NOT_SUPPORTED),
    ("http error 404", Outcome.UNKNOWN_MODEL),
    ("repository not found", Outcome.UNKNOWN_MODEL),
)


class Saturated(Exception):
    """Requests come faster than they leave."""


def failure(printed: Printed) -> CaseAnswer:
    """Return the answer that says why there is no estimate."""
    lines = [line.strip() for line in printed.stderr.splitlines() if line.strip()]
    text = " ".join(" ".join(line for line in lines if "execution process exited" not in line).split())
    for words, outcome in _MEANINGS:
        if (at := text.casefold().find(words)) >= 0:
            more = _ESTIMATED if words.startswith("missing") else ""
            return CaseAnswer.failed(outcome, f"AISimulate: {shortened(text[at:])}{more}")
    if '"prediction_status": "invalid"' in printed.stdout or '"prediction_status":"invalid"' in printed.stdout:
        return CaseAnswer.failed(Outcome.DOES_NOT_FIT, "AISimulate: no request completed")
    last = shortened(" ".join(lines[-3:]))
    return CaseAnswer.failed(Outcome.ERROR, f"AISimulate ended with status {printed.status}: {last}".rstrip(": "))


def point(case: Case, concurrency: int, lines: Iterable[str]) -> Point:
    """Return the operating point that its requests (`requests.jsonl`) make.

    In a closed loop those that arrive at once at the beginning do not count, in an open loop the first fifth. ITL of a
    request is (E2E - TTFT) / (output tokens - 1). Raises Saturated, and ValueError for an output that is not its own.
    """
    requests = sorted((_request(line) for line in lines), key=lambda one: float(one["arrival_time_ms"]))
    if not requests:
        raise ValueError("no requests")
    open_loop = case.traffic.request_rate is not None
    came, ended = _column(requests, "arrival_time_ms"), np.sort(_column(requests, "terminal_time_ms"))
    if open_loop:
        if ended[-1] > ended[0] and (ended[-1] - ended[0]) * _SUSTAINED > came[-1] - came[0]:
            raise Saturated
        counted = np.arange(len(requests)) >= len(requests) // 5
    else:
        counted = came > 0 if (came > 0).any() else np.ones(len(requests), dtype=bool)
    ttft_ms = _column(requests, "ttft_ms")[counted]
    e2e_ms = _column(requests, "e2e_latency_ms")[counted]
    tokens = _column(requests, "output_length")[counted]
    itl_ms = (e2e_ms - ttft_ms)[tokens > 1] / (tokens[tokens > 1] - 1)
    if not len(itl_ms):
        itl_ms = np.zeros(1)
    figures = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "e2e_s": e2e_ms / 1e3}
    e2e_s = float(figures["e2e_s"].mean())
    requests_per_s = float(case.traffic.request_rate) if case.traffic.request_rate else concurrency / e2e_s
    return Point(
        concurrency=max(round(requests_per_s * e2e_s), 1) if open_loop else concurrency,
        ttft_ms=float(ttft_ms.mean()),
        itl_ms=float(itl_ms.mean()),
        e2e_s=e2e_s,
        output_tokens_per_s=requests_per_s * float(tokens.mean()),
        requests_per_s=requests_per_s,
        percentiles={
            (metric, percentile): float(np.percentile(values, percentile))
            for metric, values in figures.items()
            for percentile in PERCENTILES
        },
    )


def kv_tokens(printed: Printed, case: Case) -> int | None:
    """Return tokens that the KV caches of the whole deployment hold, where it tells those of a rank."""
    try:
        role = json.loads(printed.stdout)["details"]["sections"]["memory"]["roles"]["aggregated"]
        return int(role["total_kv_size_tokens"]) * case.data_parallel
    except (ValueError, KeyError, TypeError):
        return None


def _request(line: str) -> Mapping[str, Any]:
    request = json.loads(line)
    if not isinstance(request, dict) or request.get("terminal_status") != "completed":
        raise ValueError("a request that is not completed")
    return request


def _column(requests: Iterable[Mapping[str, Any]], name: str) -> FloatArray:
    try:
        values = np.array([float(one[name]) for one in requests], dtype=np.float64)
    except (KeyError, TypeError) as error:
        raise ValueError(f"requests without {name}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is not finite")
    return values
