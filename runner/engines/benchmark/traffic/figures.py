"""The figures of an operating point from its requests, with the formulas of `vllm bench serve`.

TTFT runs from sending a request to its first event with a choice; E2E to its last one; ITL (there: TPOT) is
(E2E - TTFT) / (output tokens - 1) of each request, means are over requests. The gaps between events of all requests in
one pool are `token_gap_ms` (there: ITL). Throughputs are totals over the time from the first request to the last
token. Percentiles are interpolated linearly.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

import gpuscout
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint
from gpuscout.runner.engines.benchmark.traffic.load import Observed
from gpuscout.store.measured import MeasuredRun
from gpuscout.store.measured.runs import deployed
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.curves import PERCENTILES

TOOL = "gpuscout"


def run_of(
    case: Case, endpoint: Endpoint, observed: Observed, *, concurrency: int | None, started: datetime
) -> MeasuredRun:
    """Return the measured run of a case; `concurrency` None: at the request rate of the case."""
    good = observed.succeeded
    ttft_ms = np.array([1e3 * reply.ttft_s for reply in good])
    e2e_s = np.array([reply.e2e_s for reply in good])
    itl_ms = np.array([1e3 * reply.itl_s for reply in good if reply.itl_s is not None])
    gaps_ms = np.array([1e3 * gap for reply in good for gap in reply.gaps_s])
    tokens = sum(reply.output_tokens for reply in good)
    details = {
        "completed": len(good),
        "failed": len(observed.replies) - len(good),
        "failures": observed.failures,
        "duration_s": observed.duration_s,
        "mean_concurrency": observed.mean_concurrency,
        "kept_up": observed.kept_up,
        "client_cpu": observed.cpu,
        "client_bound": observed.client_bound,
        "extras_refused": observed.extras_refused or None,
        "input_len_mean": sum(reply.input_tokens for reply in good) / len(good),
        "output_len_mean": tokens / len(good),
    }
    return MeasuredRun(
        id="",
        **deployed(case),
        **where_and_when(endpoint, started),
        concurrency=max(round(observed.mean_concurrency), 1) if concurrency is None else concurrency,
        request_rate=case.traffic.request_rate if concurrency is None else None,
        ttft_ms=float(ttft_ms.mean()),
        itl_ms=float(itl_ms.mean()) if len(itl_ms) else None,
        e2e_s=float(e2e_s.mean()),
        output_tokens_per_s=tokens / observed.duration_s,
        requests_per_s=len(good) / observed.duration_s,
        percentiles={
            (metric, percentile): float(np.percentile(values, percentile))
            for metric, values in (
                ("ttft_ms", ttft_ms),
                ("itl_ms", itl_ms),
                ("e2e_s", e2e_s),
                ("token_gap_ms", gaps_ms),
            )
            if len(values)
            for percentile in PERCENTILES
        },
        tool=TOOL,
        details={name: value for name, value in details.items() if value not in (None, {})}
        | endpoint.details(case, started, gpuscout.__version__),
        case=case,
    )


def where_and_when(endpoint: Endpoint, started: datetime) -> dict[str, Any]:
    """Return server, source and day of a run that began at `started`."""
    return {
        "server_version": endpoint.server_version,
        "source": endpoint.url,
        "measured_on": started.date().isoformat(),
    }
