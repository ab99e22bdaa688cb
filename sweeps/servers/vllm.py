"""vLLM: where it runs and how `vllm serve` launches it (0.23). `FLAGS` has the page that documents each flag.

https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/ : `--max-num-seqs` counts per DP rank; without expert
parallelism the experts are split over TP x DP, with it they are spread over exactly as many ranks.
https://docs.vllm.ai/en/v0.20.0/features/quantization/online/ : 16-bit checkpoints can be quantised when loaded.
"""

from __future__ import annotations

import json
import re

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
    check_expert_blocks,
    check_precision,
    draft_of,
    option_flags,
    precision_flags,
    size_flags,
)

NAME = "vLLM"
VENDORS = ("NVIDIA", "AMD", "Intel")  # that a command is known for
# https://docs.vllm.ai/en/stable/deployment/docker/ ; https://rocm.docs.amd.com/projects/ai-ecosystem/en/latest/inference/vllm.html
IMAGES = {
    "nvidia": "vllm/vllm-openai:v0.23.0",
    "amd": "rocm/vllm:rocm7.14.0_cdna_ubuntu24.04_py3.14_pytorch_2.11.0_vllm_0.23.0",
}
MULTI_NODE = "https://docs.vllm.ai/en/stable/serving/parallelism_scaling/"

_ENGINE = "https://docs.vllm.ai/en/stable/configuration/engine_args/"
_DATA_PARALLEL = "https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/"
FLAGS = {
    "--host": "https://docs.vllm.ai/en/stable/cli/serve/",
    "--port": "https://docs.vllm.ai/en/stable/cli/serve/",
    "--tensor-parallel-size": _ENGINE,
    "--pipeline-parallel-size": _ENGINE,
    "--data-parallel-size": _DATA_PARALLEL,
    "--enable-expert-parallel": "https://docs.vllm.ai/en/stable/serving/expert_parallel_deployment/",
    "--dtype": _ENGINE,
    "--quantization": "https://docs.vllm.ai/en/v0.20.0/features/quantization/online/",
    "--kv-cache-dtype": "https://docs.vllm.ai/en/latest/features/quantization/quantized_kvcache/",
    "--gpu-memory-utilization": _ENGINE,
    "--max-num-seqs": _DATA_PARALLEL,
    "--max-model-len": _ENGINE,
    "--max-num-batched-tokens": _ENGINE,
    "--stream-interval": _ENGINE,
    "--speculative-config": "https://docs.vllm.ai/en/stable/features/speculative_decoding/",
}
_OPTIONS = {"max_num_batched_tokens": "--max-num-batched-tokens", "stream_interval": "--stream-interval"}
_ONLINE = {"fp8": "fp8_per_tensor"}
_KV = {"fp8": "fp8", "bf16": "bfloat16"}
_PORT = 8000


def launch(deployment: Deployment) -> Launch:
    """Raise InputError for what vLLM cannot do."""
    d = deployment
    check(d, NAME, VENDORS, MULTI_NODE)
    check_precision(d, NAME, _ONLINE)
    ranks = d.tensor_parallel * d.data_parallel
    if d.expert_parallel not in (1, ranks):
        raise InputError(
            f"vLLM spreads experts over all TP x DP = {ranks} ranks, not over {d.expert_parallel}",
            hint=f"a configuration with EP {ranks} or without it",
        )
    check_expert_blocks(d, NAME, ranks, f"fewer GPUs (--tp), or a configuration with EP {ranks}")
    command = ["vllm", "serve", d.model, "--host", ANY_ADDRESS, "--port", str(_PORT)]
    command += ["--tensor-parallel-size", str(d.tensor_parallel)]
    command += size_flags({"--pipeline-parallel-size": d.pipeline_parallel, "--data-parallel-size": d.data_parallel})
    if d.expert_parallel > 1:
        command.append("--enable-expert-parallel")
    command += precision_flags(d, NAME, _ONLINE, _KV)
    command += ["--gpu-memory-utilization", f"{d.gpu_memory_utilization:g}"]
    # It does not start with more sequences than a step has room for.
    sequences = min(d.sequences_per_rank, d.server_options.get("max_num_batched_tokens", d.sequences_per_rank))
    command += ["--max-num-seqs", str(sequences), "--max-model-len", str(d.max_model_len)]
    command += option_flags(d, _OPTIONS)
    if (draft := draft_of(d)) is not None:
        command += ["--speculative-config", json.dumps(_drafts(d, draft))]
    return Launch("vllm", tuple(command), IMAGES.get(d.vendor.casefold()), _PORT, "/health", FLAGS)


def _drafts(d: Deployment, draft: str) -> dict[str, object]:
    """Return the speculative configuration: with a draft model, its own configuration says how it drafts."""
    if d.pipeline_parallel > 1:
        raise InputError(
            "vLLM drafts no tokens with pipeline stages", hint="--speculative none, or fewer GPUs (--max-gpus)"
        )
    tokens = {"num_speculative_tokens": d.speculative.draft_tokens}
    if draft == NGRAM:
        return {"method": "ngram", **tokens, "prompt_lookup_max": 4}
    return {"method": "mtp", **tokens} if draft == MTP else {"model": draft, **tokens}


def batch_defaults(gpu: str, memory_gib: float) -> tuple[int, int]:
    """Return `EngineArgs.get_batch_defaults` (0.9 and later): by the GPU's memory, with A100 among the small ones."""
    return (1024, 8192) if memory_gib >= 70 and not gpu.startswith("A100") else (256, 2048)


SERVER = Server(
    name="vllm",
    title=NAME,
    command=re.compile(r"\bvllm\.entrypoints\b|\bvllm serve\b"),
    # Google's, AWS's and Intel's accelerators by plug-ins.
    vendors=("NVIDIA", "AMD", "Intel", "Google", "AWS"),
    weight_only=frozenset({Precision.FP8, Precision.FP4}),
    whole_blocks=True,
    batch_defaults=batch_defaults,
    launch=launch,
)
