"""Figures of flat result objects as the clients of vLLM and SGLang write them: mean_ttft_ms, p99.9_tpot_ms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from gpuscout.store.measured.formats.node import Node, scaled

_FIGURE = re.compile(
    r"(?P<what>mean|median|std|p(?P<percentile>\d+(?:\.\d+)?))_(?P<metric>ttft|tpot|itl|e2el|e2e_latency)_ms"
)
# `tpot` is (E2E - TTFT) / (n - 1) of each request, `itl` the gaps between the chunks of all requests in one pool.
_METRICS = {
    "ttft": ("ttft_ms", 1.0),
    "tpot": ("itl_ms", 1.0),
    "itl": ("token_gap_ms", 1.0),
    "e2el": ("e2e_s", 1e-3),
    "e2e_latency": ("e2e_s", 1e-3),
}


@dataclass(frozen=True)
class FlatFigures:
    """Means by metric, percentiles by metric and percentile; `native_itl` is what the client calls the nearest ITL."""

    means: dict[str, float] = field(default_factory=dict)
    percentiles: dict[tuple[str, float], float] = field(default_factory=dict)

    @property
    def native_itl(self) -> tuple[str, float | None]:
        if "itl_ms" in self.means or "token_gap_ms" not in self.means:
            return "tpot", self.means.get("itl_ms")
        return "itl", self.means["token_gap_ms"]


def reported_figures(figures: FlatFigures, result: Node, completed: int) -> dict[str, Any]:
    """Return the fields of `Reported` that a result object and its figures tell."""
    native_name, native_ms = figures.native_itl
    mean_input_len, mean_output_len = _mean_lengths(result, completed)
    return {
        "mean_input_len": mean_input_len,
        "mean_output_len": mean_output_len,
        **{name: figures.means.get(name) for name in ("ttft_ms", "itl_ms", "e2e_s")},
        "output_tokens_per_s": result["output_throughput"].figure(),
        "requests_per_s": result["request_throughput"].required().figure(),
        "native_itl_name": native_name,
        "native_itl_ms": native_ms,
        "percentiles": figures.percentiles,
    }


def is_figure(key: str) -> bool:
    return _FIGURE.fullmatch(key) is not None


def flat_figures(result: Node) -> FlatFigures:
    """Return the figures of a result object, which are milliseconds all."""
    figures = FlatFigures()
    for key, node in result.items():
        match = _FIGURE.fullmatch(key)
        value = node.figure() if match and match["what"] != "std" else None
        if match is None or value is None:
            continue
        metric, scale = _METRICS[match["metric"]]
        if match["what"] == "mean":
            figures.means[metric] = scaled(value, scale)
        else:
            figures.percentiles[metric, float(match["percentile"] or 50)] = scaled(value, scale)
    return figures


def is_flat_result(document: Node) -> bool:
    return isinstance(document["request_throughput"].value, int | float)


def _mean_lengths(result: Node, completed: int) -> tuple[float | None, float | None]:
    """Mean input and output tokens of a request, from the totals."""
    totals = [result[f"total_{side}_tokens"].figure() for side in ("input", "output")]
    first, second = (None if total is None else total / completed for total in totals)
    return first, second
