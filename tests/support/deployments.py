"""A deployment for tests of the servers' launch commands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpuscout.sweeps.servers.base import Deployment


def a_deployment(**changes: Any) -> Deployment:
    """Qwen3-32B as its checkpoint is, on 4 of the 8 H100 of a node, but for the `changes`."""
    plain = Deployment(
        model="Qwen/Qwen3-32B",
        gpu="H100-SXM-80GB",
        vendor="NVIDIA",
        gpus_per_node=8,
        is_moe=False,
        tensor_parallel=4,
        pipeline_parallel=1,
        data_parallel=1,
        expert_parallel=1,
        precision="bf16",
        kv_precision="bf16",
        checkpoint_precision="bf16",
        checkpoint_kv_precision="bf16",
        gpu_memory_utilization=0.9,
        max_model_len=1536,
        concurrency=100,
    )
    return replace(plain, **changes)
