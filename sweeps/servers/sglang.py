"""SGLang: where it runs and how it is launched (0.5). Every flag is in `FLAGS` with the page that documents it.

https://docs.sglang.io/advanced_features/server_arguments.html and `dp_dpa_smg_guide.html` beside it: with
`--enable-dp-attention` the tensor-parallel size counts all GPUs, and the running requests are shared out between the
ranks; without it the router starts whole replicas, each with its own running requests.
https://docs.sglang.io/advanced_features/quantization.html : of 16-bit checkpoints only fp8 is quantised when loaded.
"""

from __future__ import annotations

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

NAME = "SGLang"
VENDORS = ("NVIDIA", "AMD")
# https://docs.sglang.io/docs/get-started/install ; images for AMD are tagged by GPU family and release.
IMAGES = {"nvidia": "lmsysorg/sglang:v0.5.19"}
MULTI_NODE = "https://docs.sglang.io/advanced_features/server_arguments.html (--nnodes)"

_ARGUMENTS = "https://docs.sglang.io/advanced_features/server_arguments.html"
_DATA_PARALLEL = "https://docs.sglang.io/advanced_features/dp_dpa_smg_guide.html"
FLAGS = {
    "--model-path": _ARGUMENTS,
    "--host": _ARGUMENTS,
    "--port": _ARGUMENTS,
    "--tp-size": _ARGUMENTS,
    "--pp-size": _ARGUMENTS,
    "--dp-size": _DATA_PARALLEL,
    "--enable-dp-attention": _DATA_PARALLEL,
    "--ep-size": "https://docs.sglang.io/advanced_features/expert_parallelism.html",
    "--dtype": _ARGUMENTS,
    "--quantization": "https://docs.sglang.io/advanced_features/quantization.html",
    "--kv-cache-dtype": "https://docs.sglang.io/docs/advanced_features/quantized_kv_cache",
    "--mem-fraction-static": _ARGUMENTS,
    "--max-running-requests": _ARGUMENTS,
    "--context-length": _ARGUMENTS,
    "--chunked-prefill-size": _ARGUMENTS,
    "--stream-interval": _ARGUMENTS,
    "--scheduler-recv-interval": _ARGUMENTS,
    "--num-continuous-decode-steps": _ARGUMENTS,
    **dict.fromkeys(
        (
            "--speculative-algorithm",
            "--speculative-draft-model-path",
            "--speculative-num-steps",
            "--speculative-eagle-topk",
            "--speculative-num-draft-tokens",
        ),
        "https://docs.sglang.io/docs/advanced_features/speculative_decoding",
    ),
}
_OPTIONS = {
    "stream_interval": "--stream-interval",
    "scheduler_recv_interval": "--scheduler-recv-interval",
    "num_continuous_decode_steps": "--num-continuous-decode-steps",
}
_ONLINE = {"fp8": "fp8"}
_KV = {"fp8": "fp8_e4m3", "fp4": "fp4_e2m1", "bf16": "bfloat16"}
_PORT = 30000


def launch(deployment: Deployment) -> Launch:
    """Raise InputError for what SGLang cannot do."""
    d = deployment
    check(d, NAME, VENDORS, MULTI_NODE)
    check_precision(d, NAME, _ONLINE)
    with_attention = d.is_moe and d.data_parallel > 1
    if with_attention and d.pipeline_parallel > 1:
        raise InputError(
            "data-parallel attention of SGLang has no command with pipeline stages here", hint="--tp, --max-gpus"
        )
    ranks = d.tensor_parallel * (d.data_parallel if with_attention else 1)
    if ranks % d.expert_parallel:
        raise InputError(f"SGLang spreads experts over a divisor of its {ranks} ranks, not over {d.expert_parallel}")
    check_expert_blocks(d, NAME, d.tensor_parallel, "fewer GPUs (--tp), or a configuration with expert parallelism")
    notes = [
        "--mem-fraction-static is the share of weights and KV cache alone, without activations and CUDA graphs:"
        " lower it if the server runs out of memory"
    ]
    module, requests = "sglang.launch_server", d.sequences_per_rank
    if with_attention:
        requests *= d.data_parallel
    elif d.data_parallel > 1:
        module = "sglang_router.launch_server"
        notes.append(f"the router starts {d.data_parallel} whole replicas: it needs the package sglang-router")
    command = ["python3", "-m", module, "--model-path", d.model, "--host", ANY_ADDRESS, "--port", str(_PORT)]
    command += ["--tp-size", str(ranks), *size_flags({"--pp-size": d.pipeline_parallel, "--dp-size": d.data_parallel})]
    if with_attention:
        command.append("--enable-dp-attention")
    command += size_flags({"--ep-size": d.expert_parallel})
    command += precision_flags(d, NAME, _ONLINE, _KV)
    command += ["--mem-fraction-static", f"{d.gpu_memory_utilization:g}"]
    command += ["--max-running-requests", str(requests), "--context-length", str(d.max_model_len)]
    command += option_flags(d, _OPTIONS)
    if (tokens := d.server_options.get("max_num_batched_tokens")) is not None:
        # Attention ranks share a chunk out.
        command += ["--chunked-prefill-size", str(tokens * (d.data_parallel if with_attention else 1))]
    if (draft := draft_of(d)) is not None:
        command += _drafts(d, draft, with_attention=with_attention)
    image = IMAGES.get(d.vendor.casefold())
    return Launch("sglang", tuple(command), image, _PORT, "/health", FLAGS, notes=tuple(notes))


def _drafts(d: Deployment, draft: str, *, with_attention: bool) -> list[str]:
    """Return one chain of drafted tokens: the token that is certain counts among those that are verified."""
    drafted = d.speculative.draft_tokens
    verified = ["--speculative-num-draft-tokens", str(drafted + 1)]
    if draft == NGRAM:
        if with_attention or d.vendor.casefold() != "nvidia":
            raise InputError(
                "SGLang drafts n-grams on NVIDIA only, and without data-parallel attention",
                hint="--draft mtp, or a model",
            )
        return ["--speculative-algorithm", "NGRAM", *verified]
    name = draft.casefold()
    algorithm = "EAGLE3" if "eagle3" in name else "EAGLE" if draft == MTP or "eagle" in name else "STANDALONE"
    path = [] if draft == MTP else ["--speculative-draft-model-path", draft]
    chain = ["--speculative-num-steps", str(drafted), "--speculative-eagle-topk", "1"]
    return ["--speculative-algorithm", algorithm, *path, *chain, *verified]


# `server_args.py` (0.5): prompt tokens in a chunk on GPUs with less memory than so many GiB.
_CHUNKS = ((35, 2048), (60, 4096), (160, 8192))


def batch_defaults(gpu: str, memory_gib: float) -> tuple[int, int]:
    """Return the default limits: 2,048 sequences, more where the cache has room; chunks by the GPU's memory."""
    return 2048, next((tokens for limit, tokens in _CHUNKS if memory_gib < limit), 16384)


SERVER = Server(
    name="sglang",
    title=NAME,
    command=re.compile(r"\bsglang\.launch_server\b|\bsglang serve\b"),
    vendors=VENDORS,
    kv_precisions=frozenset({Precision.FP8, Precision.FP4}),
    whole_blocks=True,
    batch_defaults=batch_defaults,
    decodes_within_budget=False,
    launch=launch,
)
