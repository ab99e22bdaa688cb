"""Facts about a deployment from labels and server arguments, under the names that people and servers use for them."""

from __future__ import annotations

from collections.abc import Mapping

from gpuscout.sweeps.servers import SERVERS

# Our names and, after normalising, those of labels, `vllm serve`, `sglang.launch_server` and `trtllm-serve`.
_NAMES: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "gpu": ("gpu", "gpu_type", "gpu_name", "gpu_model", "accelerator"),
    "tp": ("tp", "tp_size", "tensor_parallel", "tensor_parallel_size"),
    "pp": ("pp", "pp_size", "pipeline_parallel", "pipeline_parallel_size"),
    "dp": ("dp", "dp_size", "data_parallel", "data_parallel_size"),
    "ep": ("ep", "ep_size", "expert_parallel", "expert_parallel_size"),
    "precision": ("precision", "weight_precision"),
    "kv_precision": ("kv_precision", "kv_cache_dtype", "kv_cache_precision"),
    "server": ("server", "engine", "inference_engine", "framework"),
    "server_version": ("server_version", "engine_version", "framework_version"),
    "gpu_memory_utilization": ("gpu_memory_utilization",),
    "max_model_len": ("max_model_len", "context_length"),
}
_VERSIONS = {f"{server}_version": server for server in SERVERS}
_KV_WORDS = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16"}
SPECULATIVE = ("speculative_config", "speculative_model", "speculative_algorithm", "speculative_num_draft_tokens")


def normalised(arguments: Mapping[str, object]) -> dict[str, object]:
    """Return text such as "--tensor-parallel-size" and "Tensor_Parallel_Size" become tensor_parallel_size."""
    return {key.lstrip("-").replace("-", "_").casefold(): value for key, value in arguments.items()}


def deployment(arguments: Mapping[str, object]) -> dict[str, str]:
    """Return the fields of `Reported` that these labels or arguments tell."""
    given = normalised(arguments)
    stated: dict[str, str] = {}
    for field, names in _NAMES.items():
        for name in names:
            value = given.get(name)
            if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
                stated.setdefault(field, str(value).strip())
    for name, server in _VERSIONS.items():
        if name in given:
            stated.setdefault("server", server)
            stated.setdefault("server_version", str(given[name]))
    if kv := stated.pop("kv_precision", None):
        kv = _KV_WORDS.get(kv.casefold(), kv.casefold())
        if kv != "auto":  # which is the model's own, and a server may have another idea of that
            stated["kv_precision"] = "fp8" if kv.startswith("fp8") else kv
    if stated.get("max_model_len") in ("-1", "0", "auto"):
        del stated["max_model_len"]
    if _switched_on(given.get("enable_expert_parallel")) and "ep" not in stated:
        sizes = [stated.get("tp", "1"), stated.get("dp", "1")]
        if all(size.isdecimal() for size in sizes):
            stated["ep"] = str(int(sizes[0]) * int(sizes[1]))
    return stated


def drafts_tokens(arguments: Mapping[str, object]) -> bool:
    """Return whether the server drafted tokens, which no estimate knows of."""
    given = normalised(arguments)
    return any(given.get(name) not in (None, "", False, 0, "None") for name in SPECULATIVE)


def _switched_on(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.casefold() in ("true", "1", "yes", ""))
