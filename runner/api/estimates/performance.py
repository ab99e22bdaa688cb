"""`PerformanceEstimate`: an engine's answer for one deployment at one batch size, however it was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gpuscout.store.queries.answers import StoredAnswer
from gpuscout.store.ranking.measures import value_of
from gpuscout.store.ranking.types import Configuration, RankedConfig
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.slo import is_percentile
from gpuscout.sweeps.speculative import UNCHECKED
from gpuscout.sweeps.workloads import Workload


@dataclass(frozen=True)
class PerformanceEstimate:
    """The answer of an engine for one deployment at one batch size, or in `error` why there is none.

    The first fields repeat what was asked, with names and precisions looked up as far as they could be. Latencies are
    means. Throughputs are of the whole deployment, memory is per GPU (GiB, 2^30 bytes), money is in USD. None: not
    known; of an invalid estimate all figures are None but the memory of one that does not fit.

    batch_size          requests in flight in the whole deployment
    server_options      "max_num_seqs=256": those that differ from the server's defaults; empty: none does
    speculative         "draft_tokens=3 acceptance=0.7 draft_cost=0.05"; empty: nothing is drafted
    ttft_ms             time to the first token; waiting for a place in the KV cache included
    itl_ms              (E2E - TTFT) / (output tokens - 1), what vLLM calls TPOT
    bound               what limits a decode step: memory, compute, communication, overhead or unknown
    queued              whether the KV caches hold fewer than `batch_size` requests: the others wait
    interpolated        whether it lies between batch sizes that the engine answered, at a limit (`recommend_gpus` only)
    memory_needed_gib   without which not even one request runs; `memory_usable_gib` is what the server may use
    ttft_ms_low, …_high between them a measured value is expected with a probability of 80 %; of every figure that has
                        such fields. None: the engine does not say how sure it is
    percentiles         those that the engine gives (`engine="simulator"`), of a recommendation those that limits are
                        on, with their ranges: "p95_ttft_ms", "p95_ttft_ms_low" …
    usd_per_hour        of all GPUs; `cost_usd_per_mtok` of a million output tokens, when all are used all the time
    note                what is assumed or approximate about the model or the engine; None: nothing
    fingerprint         identifies what determines the engine's numbers: other fingerprint, other numbers
    outcome             ok, does_not_fit, not_supported, unknown_model, invalid; or a failure: error, timeout, …

    `time_to_first_token_ms`, `inter_token_latency_ms`, `throughput_tokens_per_sec`, `max_concurrent_requests` and
    `max_batch_size` are the same figures under the names of earlier recommenders.
    """

    model_id: str = ""
    gpu_name: str = ""
    num_gpus: int | None = None
    tensor_parallel_size: int | None = None
    input_length: int | None = None
    output_length: int | None = None
    batch_size: int | None = None
    precision: str | None = None
    kv_precision: str | None = None
    context_length: int | None = None
    server: str | None = None
    gpu_memory_utilization: float | None = None
    server_options: str | None = None
    speculative: str | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_s: float | None = None
    output_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    bound: str | None = None
    queued: bool | None = None
    interpolated: bool = False
    memory_needed_gib: float | None = None
    memory_usable_gib: float | None = None
    kv_capacity_tokens: int | None = None
    ttft_ms_low: float | None = None
    ttft_ms_high: float | None = None
    itl_ms_low: float | None = None
    itl_ms_high: float | None = None
    e2e_s_low: float | None = None
    e2e_s_high: float | None = None
    output_tokens_per_s_low: float | None = None
    output_tokens_per_s_high: float | None = None
    requests_per_s_low: float | None = None
    requests_per_s_high: float | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)
    usd_per_hour: float | None = None
    cost_usd_per_mtok: float | None = None
    cost_usd_per_mtok_low: float | None = None
    cost_usd_per_mtok_high: float | None = None
    engine: str | None = None
    fingerprint: str | None = None
    kind: str = "estimated"
    outcome: str = Outcome.OK.value
    error: str | None = None
    note: str | None = None

    def is_valid(self) -> bool:
        """Return whether there are figures; otherwise `error` says why not."""
        return self.error is None

    @property
    def output_tokens_per_s_per_gpu(self) -> float | None:
        """Output tokens per second and GPU."""
        if self.output_tokens_per_s is None or self.num_gpus is None:
            return None
        return self.output_tokens_per_s / self.num_gpus

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types, and `output_tokens_per_s_per_gpu`."""
        return asdict(self) | {"output_tokens_per_s_per_gpu": self.output_tokens_per_s_per_gpu}

    @property
    def time_to_first_token_ms(self) -> float | None:
        """The same as `ttft_ms`."""
        return self.ttft_ms

    @property
    def inter_token_latency_ms(self) -> float | None:
        """The same as `itl_ms`."""
        return self.itl_ms

    @property
    def throughput_tokens_per_sec(self) -> float | None:
        """The same as `output_tokens_per_s`."""
        return self.output_tokens_per_s

    @property
    def max_concurrent_requests(self) -> int | None:
        """Most requests of `context_length` tokens that the KV caches hold at once; None: the engine does not say."""
        if self.kv_capacity_tokens is None or not self.context_length:
            return None
        return self.kv_capacity_tokens // self.context_length

    @property
    def max_batch_size(self) -> int | None:
        """The same as `max_concurrent_requests`: further requests wait."""
        return self.max_concurrent_requests


def estimate_of(
    model: ModelSpec,
    workload: Workload,
    config: Configuration,
    batch_size: int | None,
    *,
    point: StoredAnswer | RankedConfig,
    memory: StoredAnswer,
    usd_per_hour: float | None,
    outcome: Outcome = Outcome.OK,
    error: str | None = None,
    note: str | None = None,
) -> PerformanceEstimate:
    """Put together what is known of a configuration: its operating point, its memory and its price."""
    tokens = point.output_tokens_per_s
    notes = [*model.caveats, *([note] if note else []), *([UNCHECKED] if config.speculative else [])]
    low, high = point.intervals.get("output_tokens_per_s", (None, None))

    def cost(output_tokens_per_s: float | None) -> float | None:
        if usd_per_hour is None or not output_tokens_per_s:
            return None
        return float(
            value_of("cost", {"output_tokens_per_s": output_tokens_per_s}, config.num_gpus, usd_per_hour, None)
        )

    return PerformanceEstimate(
        model_id=model.name,
        gpu_name=config.gpu,
        num_gpus=config.num_gpus,
        tensor_parallel_size=config.tensor_parallel,
        input_length=workload.input_len,
        output_length=workload.output_len,
        batch_size=batch_size,
        precision=config.precision,
        kv_precision=config.kv_precision,
        context_length=config.max_model_len,
        server=config.server,
        gpu_memory_utilization=config.gpu_memory_utilization,
        server_options=config.server_options,
        speculative=config.speculative,
        ttft_ms=point.ttft_ms,
        itl_ms=point.itl_ms,
        e2e_s=point.e2e_s,
        output_tokens_per_s=tokens,
        requests_per_s=point.requests_per_s,
        bound=point.bound,
        queued=point.queued,
        interpolated=isinstance(point, RankedConfig) and point.interpolated,
        memory_needed_gib=memory.needed_gib,
        memory_usable_gib=memory.usable_gib,
        kv_capacity_tokens=memory.kv_capacity_tokens,
        **_interval_ends({name: ends for name, ends in point.intervals.items() if not is_percentile(name)}),
        percentiles=_percentiles(point),
        usd_per_hour=usd_per_hour,
        cost_usd_per_mtok=cost(tokens),
        # The more tokens, the cheaper each.
        cost_usd_per_mtok_low=cost(high),
        cost_usd_per_mtok_high=cost(low),
        engine=config.engine,
        fingerprint=config.fingerprint,
        outcome=outcome.value,
        error=error,
        note="; ".join(notes) or None,
    )


def _percentiles(point: StoredAnswer | RankedConfig) -> dict[str, float]:
    if isinstance(point, RankedConfig):
        values = {chance.slo.figure: chance.value for chance in point.chances if chance.slo.percentile is not None}
    else:
        values = dict(point.percentiles)
    return values | _interval_ends({name: point.intervals[name] for name in values.keys() & point.intervals.keys()})


def _interval_ends(intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return intervals by metric as the fields of a `PerformanceEstimate`."""
    return {
        f"{metric}_{end}": value
        for metric, ends in intervals.items()
        for end, value in zip(("low", "high"), ends, strict=True)
    }
