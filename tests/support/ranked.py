"""A ranked configuration made by hand."""

from __future__ import annotations

from gpuscout.store.ranking.types import RankedConfig


def a_config(rate: float, num_gpus: int, gpu: str = "H100") -> RankedConfig:
    """So many requests/s (of 512 output tokens) on so many GPUs, estimated."""
    return RankedConfig(
        task_id=1,
        gpu=gpu,
        num_gpus=num_gpus,
        tensor_parallel=num_gpus,
        pipeline_parallel=1,
        data_parallel=1,
        expert_parallel=1,
        precision="fp8",
        kv_precision="fp8",
        server="vllm",
        gpu_memory_utilization=0.9,
        max_model_len=1536,
        engine="roofline",
        fingerprint="f",
        concurrency=64,
        ttft_ms=100.0,
        itl_ms=10.0,
        e2e_s=5.0,
        output_tokens_per_s=rate * 512,
        requests_per_s=rate,
        bound="memory",
        queued=False,
        place=1,
        objective=1.0,
        behind_best=0.0,
    )
