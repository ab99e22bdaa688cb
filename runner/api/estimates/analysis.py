"""Analysis of one deployment: latency of one request, best throughput, roofline, requests each resource takes.

Latencies and throughputs are an engine's operating points. An engine that reports a roofline and limits of its own
(llm-optimizer) is quoted; for any other they follow from the bytes and FLOP that the built-in engine counts:

arithmetic intensity    FLOP per byte of a GPU's memory: of one prompt (prefill), and of a decode step at the optimal
                        concurrency. Below the hardware's ratio the phase is bound by memory
kv_cache_limit          requests of full length whose KV caches fit at once
prefill_compute_limit   requests in flight whose prefills alone, at peak FLOP/s, take as long as one request lives
decode_capacity_limit   requests that add as much time to a decode step as its weights take to read: beyond them ITL
                        grows in proportion to the concurrency
overall_limit           the smallest of the three
optimal_concurrency     where the engine's throughput is highest, with no request waiting for a place in the KV cache
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from gpuscout.runner.engines.roofline.intensity import Roofline, rooflines
from gpuscout.store.queries.answers import StoredAnswer
from gpuscout.sweeps.cases import Case


@dataclass(frozen=True)
class AnalysisConfig:
    """The deployment and the workload of an analysis. Lengths are in tokens."""

    model: str
    gpu: str
    num_gpus: int
    precision: str
    input_len: int
    output_len: int
    server: str
    engine: str


@dataclass(frozen=True)
class AnalysisMetrics:
    """Latencies of one request alone, throughputs of the whole deployment at their best, and what limits both.

    `bottleneck` is what limits a decode step at the best throughput: memory, compute, communication or overhead.
    Intensities are in FLOP per byte, limits in requests in flight of the whole deployment. None: not known.
    """

    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_s: float | None = None
    output_tokens_per_s: float | None = None
    input_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    bottleneck: str | None = None
    hardware_ops_per_byte: float | None = None
    prefill_arithmetic_intensity: float | None = None
    decode_arithmetic_intensity: float | None = None
    prefill_bound: str | None = None
    decode_bound: str | None = None
    kv_cache_limit: int | None = None
    prefill_compute_limit: int | None = None
    decode_capacity_limit: int | None = None
    overall_limit: int | None = None
    optimal_concurrency: int | None = None


@dataclass(frozen=True)
class PerformanceAnalysis:
    """Every analysis of one model on one configuration. `error` says why there are no metrics; None: there are."""

    config: AnalysisConfig
    metrics: AnalysisMetrics
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        config, m = self.config, self.metrics
        lengths = f"{config.input_len:,} in / {config.output_len:,} out"
        lines = [f"{config.model} on {config.gpu} x{config.num_gpus} {config.precision}, {lengths}, by {config.engine}"]
        if self.error is not None:
            return f"{lines[0]}\n  {self.error}"
        best = f"{_shown(m.output_tokens_per_s)} tokens/s out, {_shown(m.input_tokens_per_s)} in"
        intensities = (
            f"prefill {_shown(m.prefill_arithmetic_intensity)} ({m.prefill_bound or 'unknown'})",
            f"decode {_shown(m.decode_arithmetic_intensity)} ({m.decode_bound or 'unknown'})",
        )
        limits = (
            f"KV cache {_shown(m.kv_cache_limit)}",
            f"prefill {_shown(m.prefill_compute_limit)}",
            f"decode {_shown(m.decode_capacity_limit)}",
        )
        return "\n".join(
            [
                *lines,
                f"  one request      TTFT {_shown(m.ttft_ms)} ms, ITL {_shown(m.itl_ms)} ms, E2E {_shown(m.e2e_s)} s",
                f"  best throughput  {best}, {_shown(m.requests_per_s)} requests/s at {_shown(m.optimal_concurrency)} "
                f"in flight, bound by {m.bottleneck or 'unknown'}",
                f"  FLOP per byte    hardware {_shown(m.hardware_ops_per_byte)}, {', '.join(intensities)}",
                f"  requests         {', '.join(limits)}; overall {_shown(m.overall_limit)}",
            ]
        )


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Analysed:
    """A case, who answered it, and its operating points by concurrency, which may be none.

    `refused` says why there are none.
    """

    case: Case
    engine: str
    curve: Sequence[StoredAnswer]
    refused: str | None = None


def analyses_of(analysed: Sequence[Analysed]) -> tuple[PerformanceAnalysis, ...]:
    """Analyse many cases at once, in their order."""
    answered = [one for one in analysed if one.curve]
    best = [_best(one.curve).concurrency or 1 for one in answered]
    own = iter(zip(rooflines([one.case for one in answered], best), best, strict=True))
    return tuple(_analysis(one, *next(own)) if one.curve else _refused(one) for one in analysed)


def _best(curve: Sequence[StoredAnswer]) -> StoredAnswer:
    """Return the point of the highest throughput at which no request waits, as a ranking has it; else of all points."""
    running = [point for point in curve if not point.queued] or curve
    return max(running, key=lambda point: point.output_tokens_per_s or 0.0)


def _config(one: Analysed) -> AnalysisConfig:
    case = one.case
    return AnalysisConfig(
        model=case.model.name,
        gpu=case.gpu.name,
        num_gpus=case.num_gpus,
        precision=case.precision.value,
        input_len=case.input_len,
        output_len=case.output_len,
        server=case.server,
        engine=one.engine,
    )


def _refused(one: Analysed) -> PerformanceAnalysis:
    return PerformanceAnalysis(_config(one), AnalysisMetrics(), one.refused or "the engine has no operating point")


def _analysis(one: Analysed, roofline: Roofline, best_concurrency: int) -> PerformanceAnalysis:
    case, alone = one.case, one.curve[0]
    best = _best(one.curve)
    metrics: dict[str, Any] = {
        "output_tokens_per_s": best.output_tokens_per_s,
        "input_tokens_per_s": None if best.requests_per_s is None else best.requests_per_s * case.input_len,
        "requests_per_s": best.requests_per_s,
        "bottleneck": best.bound,
        "optimal_concurrency": best_concurrency,
    }
    if alone.concurrency == 1:
        metrics |= {"ttft_ms": alone.ttft_ms, "itl_ms": alone.itl_ms, "e2e_s": alone.e2e_s}
    reported = _reported(best.extras)
    metrics |= reported or _derived(case, alone, roofline)
    limits = [metrics[name] for name in _LIMITS if metrics.get(name) is not None]
    metrics.setdefault("overall_limit", min(limits) if limits else None)
    return PerformanceAnalysis(_config(one), AnalysisMetrics(**metrics))


_LIMITS = ("kv_cache_limit", "prefill_compute_limit", "decode_capacity_limit")
_NAMES = frozenset(field.name for field in fields(AnalysisMetrics))


def _derived(case: Case, alone: StoredAnswer, roofline: Roofline) -> dict[str, Any]:
    """Return the roofline and the limits of an engine that reports none."""
    hardware = roofline.hardware_ops_per_byte
    metrics = {name: value for name, value in asdict(roofline).items() if name in _NAMES}
    for phase in ("prefill", "decode"):
        metrics[f"{phase}_bound"] = "memory" if metrics[f"{phase}_arithmetic_intensity"] < hardware else "compute"
    if alone.kv_capacity_tokens is not None:
        metrics["kv_cache_limit"] = alone.kv_capacity_tokens // case.context_len
    if alone.concurrency == 1 and alone.e2e_s is not None:
        metrics["prefill_compute_limit"] = max(1, int(alone.e2e_s / roofline.prefill_s))
    return metrics


def _reported(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Return the roofline and the limits that llm-optimizer keeps with its answers; empty for any other engine."""
    sections = [section for name in ("roofline", "concurrency") if isinstance(section := extras.get(name), Mapping)]
    metrics = {name: value for section in sections for name, value in section.items() if name in _NAMES}
    optimum = extras.get("concurrency", {}).get("empirical_optimum") if sections else None
    return metrics | ({"optimal_concurrency": optimum} if metrics and optimum is not None else {})
