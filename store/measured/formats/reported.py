"""One measured run as a result file reports it, in one vocabulary for all tools; None where the file is silent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

# Metrics whose percentiles are stored. `itl_ms` is (E2E - TTFT) / (output tokens - 1), one value a request;
# `token_gap_ms` are the gaps between the tokens or chunks of all requests in one pool, which some tools call ITL.
PERCENTILE_METRICS = ("ttft_ms", "itl_ms", "token_gap_ms", "e2e_s")

DEPLOYMENT = (
    "model", "gpu", "tp", "pp", "dp", "ep", "precision", "kv_precision", "server", "server_version",
    "gpu_memory_utilization", "max_model_len",
)  # fmt: skip


class Load(NamedTuple):
    """Arrival of requests: one of `LOADS`, the requests always in flight, requests/s."""

    kind: str
    concurrency: int | None = None
    request_rate: float | None = None

    @classmethod
    def of(cls, concurrency: int | None, request_rate: float | None) -> Load:
        """Return the load of limits on concurrency, rate, both or neither; an infinite rate is none.

        With a rate the limit is only a ceiling: how many requests were in flight is not known. Without either, all
        requests were sent at once.
        """
        if request_rate is not None and request_rate != math.inf:
            return cls("request_rate", None, request_rate)
        return cls("offline_maximum") if concurrency is None else cls("closed_loop", concurrency)


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One run as its file has it.

    `place` leads to the run within its file, to be written after the name of that (": benchmarks[0]", ":3"; empty: the
    file is one run); `label` is what its author called it; `run` tells it from its repeats (an id, a start time, a
    number). `deployment` holds what the file says of those in `DEPLOYMENT`, as written: whoever imports resolves names.
    `input_len` and `output_len` are the tokens a request was meant to have, the means are what the requests had. `load`
    None: the file does not tell. `itl_ms` is (E2E - TTFT) / (output tokens - 1); `native_itl_name` and `native_itl_ms`
    are the tool's own name and value of it, or of what comes nearest where `itl_ms` is None. `details`: JSON-able,
    whatever else is worth keeping.
    """

    place: str = ""
    tool: str | None = None
    tool_version: str | None = None
    label: str | None = None
    run: str | None = None
    source: str | None = None
    measured_on: date | None = None

    deployment: Mapping[str, str] = field(default_factory=dict)

    input_len: int | None = None
    output_len: int | None = None
    mean_input_len: float | None = None
    mean_output_len: float | None = None
    load: Load | None = None

    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_s: float | None = None
    output_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    native_itl_name: str | None = None
    native_itl_ms: float | None = None
    percentiles: Mapping[tuple[str, float], float] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """The runs of one file, and what its reader has to say of runs that were left out or are odd."""

    runs: tuple[Reported, ...]
    notes: tuple[str, ...] = ()


# What details say of a run that no estimate can be compared with, and no plain run may be mixed with.
_VARIANTS = {
    "drafts_tokens": "drafted",
    "disaggregated": "disaggregated",
    "shared_prefixes": "prefix-cached",
    "client_bound": "client-bound",
    "other_server": "of another server",
}


def variant(details: Mapping[str, object]) -> str | None:
    """Return how a run differs from a plain deployment: "drafted", "disaggregated" …; None: it does not."""
    return ", ".join(word for name, word in _VARIANTS.items() if details.get(name)) or None


def known(details: Mapping[str, object]) -> dict[str, object]:
    """Return without what is unknown or empty."""
    return {name: value for name, value in details.items() if value is not None and value not in ({}, [], "")}
