"""TensorRT-LLM: where it runs and how `trtllm-serve` launches it (PyTorch backend, 1.0). `FLAGS` has a page a flag.

https://nvidia.github.io/TensorRT-LLM/1.0.0/commands/trtllm-serve/trtllm-serve.html ; what has no flag stands in a file:
https://nvidia.github.io/TensorRT-LLM/1.0.0/features/quantization.html (FP8 KV cache; checkpoints come quantised) and
https://docs.nvidia.com/dynamo/additional-resources/tensor-rt-llm-details/dp-rank-routing (attention DP spans all ranks
of the tensor-parallel group, each with a KV cache and a batch of its own).
"""

from __future__ import annotations

import re
from typing import Any

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers.base import (
    ANY_ADDRESS,
    MTP,
    NGRAM,
    Deployment,
    Launch,
    Server,
    check,
    check_precision,
    draft_of,
    kv_word,
    option_flags,
    size_flags,
)

NAME = "TensorRT-LLM"
VENDORS = ("NVIDIA",)
# https://nvidia.github.io/TensorRT-LLM/1.0.0/commands/trtllm-serve/run-benchmark-with-trtllm-serve.html
IMAGES = {"nvidia": "nvcr.io/nvidia/tensorrt-llm/release:1.0.0"}
MULTI_NODE = "https://nvidia.github.io/TensorRT-LLM/1.0.0/commands/trtllm-serve/trtllm-serve.html"

_SERVE = "https://nvidia.github.io/TensorRT-LLM/1.0.0/commands/trtllm-serve/trtllm-serve.html"
FLAGS = dict.fromkeys(
    (
        "--host",
        "--port",
        "--backend",
        "--tp_size",
        "--pp_size",
        "--ep_size",
        "--max_batch_size",
        "--max_num_tokens",
        "--max_seq_len",
        "--kv_cache_free_gpu_memory_fraction",
        "--extra_llm_api_options",
    ),
    _SERVE,
)
_KV = {"fp8": "fp8"}
_FILE = "trtllm-serve.yaml"
_PORT = 8000


def launch(deployment: Deployment) -> Launch:
    """Raise InputError for what TensorRT-LLM cannot do."""
    d = deployment
    check(d, NAME, VENDORS, MULTI_NODE)
    check_precision(d, NAME, {})
    if d.precision != d.checkpoint_precision:
        raise InputError(
            f"trtllm-serve has no flag that serves {d.model} in {d.precision} instead of {d.checkpoint_precision}",
            hint=f"--precision {d.checkpoint_precision}",
        )
    if d.data_parallel > 1 and not d.is_moe:
        raise InputError(
            f"trtllm-serve has no data parallelism for {d.model}, which has no experts",
            hint=f"start {d.data_parallel} replicas of TP {d.tensor_parallel} behind a load balancer",
        )
    if d.data_parallel > 1 and d.tensor_parallel > 1:
        raise InputError(
            f"attention of TensorRT-LLM is data-parallel over all ranks or none, not over {d.data_parallel} times TP "
            f"{d.tensor_parallel}",
            hint="--tp 1, or a configuration without data parallelism",
        )
    ranks = d.tensor_parallel * d.data_parallel
    if ranks % d.expert_parallel:
        raise InputError(
            f"TensorRT-LLM spreads experts over a divisor of its {ranks} ranks, not over {d.expert_parallel}"
        )
    options: dict[str, Any] = {"enable_attention_dp": True} if d.data_parallel > 1 else {}
    memory = d.gpu_memory_utilization
    if (word := kv_word(d, NAME, _KV)) is not None:
        # A file with this section replaces what flags say of the KV cache.
        options["kv_cache_config"] = {"dtype": word, "free_gpu_memory_fraction": memory}
    command = ["trtllm-serve", d.model, "--host", ANY_ADDRESS, "--port", str(_PORT), "--backend", "pytorch"]
    sizes = {"--pp_size": d.pipeline_parallel, "--ep_size": d.expert_parallel}
    command += ["--tp_size", str(ranks), *size_flags(sizes)]
    if "stream_interval" in d.server_options:
        options["stream_interval"] = d.server_options["stream_interval"]
    if (draft := draft_of(d)) is not None:
        options["speculative_config"] = _drafts(d, draft)
    sequences = min(d.sequences_per_rank, d.server_options.get("max_num_batched_tokens", d.sequences_per_rank))
    command += ["--max_batch_size", str(sequences), "--max_seq_len", str(d.max_model_len)]
    command += option_flags(d, {"max_num_batched_tokens": "--max_num_tokens"})
    if "kv_cache_config" not in options:
        command += ["--kv_cache_free_gpu_memory_fraction", f"{memory:g}"]
    if options:
        command += ["--extra_llm_api_options", _FILE]
    note = f"the memory fraction {memory:g} is of what the weights leave free, which is how trtllm-serve counts"
    files = {_FILE: options} if options else {}
    return Launch("trtllm", tuple(command), IMAGES["nvidia"], _PORT, "/health", FLAGS, files, (note,))


def _drafts(d: Deployment, draft: str) -> dict[str, object]:
    """Return the configuration of drafting, as documented there:
    https://nvidia.github.io/TensorRT-LLM/1.0.0/features/speculative-decoding.html"""
    drafted = d.speculative.draft_tokens
    if draft == MTP:
        return {"decoding_type": "MTP", "num_nextn_predict_layers": drafted}
    if draft == NGRAM:
        return {"decoding_type": "NGram", "max_draft_len": drafted, "max_matching_ngram_size": 4}
    kind = "Eagle" if "eagle" in draft.casefold() else "DraftTarget"
    return {"decoding_type": kind, "max_draft_len": drafted, "speculative_model_dir": draft}


def batch_defaults(gpu: str, memory_gib: float) -> tuple[int, int]:
    """Return `max_batch_size` and `max_num_tokens` of `trtllm-serve` (1.0)."""
    return 2048, 8192


SERVER = Server(
    name="trtllm",
    title=NAME,
    aliases=("tensorrt-llm", "tensorrt_llm", "trt-llm", "trt"),
    command=re.compile(r"\btrtllm-serve\b"),
    vendors=VENDORS,
    min_capability=8.0,
    weight_only=frozenset(),
    mxfp4_on_cdna3=False,
    int8_on_blackwell=True,
    kv_precisions=frozenset({Precision.FP8, Precision.INT8, Precision.FP4}),
    narrow_kv_default=True,
    batch_defaults=batch_defaults,
    cuts_prompts=False,  # without `enable_chunked_prefill`
    launch=launch,
)
