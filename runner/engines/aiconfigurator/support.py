"""Support of AIConfigurator: its names for GPUs and number formats, and the models that it accepts."""

from __future__ import annotations

import atexit
import functools
import json
import re
import tempfile
from pathlib import Path

from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision

_SYSTEMS = {
    "A30": "a30",
    "A100-SXM-80GB": "a100_sxm",
    "A100-PCIe-80GB": "a100_pcie",
    "L4": "l4",
    "L40S": "l40s",
    "H100-SXM-80GB": "h100_sxm",
    "H100-PCIe-80GB": "h100_pcie",
    "H200-SXM-141GB": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "RTX PRO 6000 Blackwell Server": "rtx_pro_6000_server",
}
_GPUS = {system: gpu for gpu, system in _SYSTEMS.items()}
GPUS = tuple(_SYSTEMS)

# How it names a format of matrices, and of the experts' where it has one. The 16-bit formats share their kernels.
_GEMM: dict[Precision, str] = {
    Precision.FP16: "bfloat16",
    Precision.BF16: "bfloat16",
    Precision.FP8: "fp8",
    Precision.FP4: "nvfp4",
    Precision.INT8: "sq",
    Precision.INT8_WEIGHT_ONLY: "int8_wo",
    Precision.INT4_WEIGHT_ONLY: "int4_wo",
}
_EXPERTS: dict[Precision, str] = {
    p: name for p, name in _GEMM.items() if p not in (Precision.INT8, Precision.INT8_WEIGHT_ONLY)
}
_KV: dict[Precision, str] = {
    Precision.FP16: "bfloat16",
    Precision.BF16: "bfloat16",
    Precision.FP8: "fp8",
    Precision.INT8: "int8",
}

# Catalogue entries do not carry `architectures`, by which it recognises a model. Other types are asked for by name.
_ARCHITECTURES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mimo": "MiMoForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def their_system(gpu: str) -> str | None:
    """Return the tool's name for a GPU of the catalogue; None when it does not know the GPU."""
    return _SYSTEMS.get(gpu)


def our_gpu(system: str) -> str | None:
    """Return the catalogue's name of one of its systems; None when the catalogue has none of these (b60)."""
    return _GPUS.get(system.lower())


def refusal(case: Case) -> str | None:
    """Return the reason why it cannot be asked about a case; None when it can, which is not yet an answer."""
    if case.gpu.name not in _SYSTEMS:
        return f"unknown system: AIConfigurator has no {case.gpu.name}"
    if not GPUCatalogue.load().has_exactly(case.gpu):
        return f"unknown system: AIConfigurator has measurements of {case.gpu.name}, not of the figures given here"
    if case.kv_precision not in _KV:
        return f"AIConfigurator has no {case.kv_precision} KV cache"
    if not _is_native(case) and case.precision not in (_EXPERTS if case.model.is_moe else _GEMM):
        return f"AIConfigurator has no {case.precision} weights" + (" of experts" if case.model.is_moe else "")
    return None


def number_formats(case: Case) -> dict[str, str]:
    """Return the arguments that say how weights and cache are stored.

    It reads a checkpoint's own format from its config.
    """
    formats = {"kvcache_quant_mode": _KV[case.kv_precision]}
    if not _is_native(case):
        formats["gemm_quant_mode"] = _GEMM[case.precision]
        if case.model.is_moe:
            formats["moe_quant_mode"] = _EXPERTS[case.precision]
    return formats


def model_path(model: ModelSpec, bundled: frozenset[str]) -> str | None:
    """Return the model argument for it; None when it cannot find this one by its name.

    In this order: the name of a model it comes with, a folder with the configuration from gpuscout's catalogue, a name
    on the Hugging Face Hub. A model of the user's own is none of these, whatever it is called.
    """
    name = model.name
    catalogue = ModelCatalogue.load()
    catalogued = name in catalogue
    if catalogued and catalogue.get(name) != model:
        return None
    if name in bundled:
        return name
    if catalogued and (folder := _folder(name)) is not None:
        return folder
    return name if _HUB_NAME.fullmatch(name) else None


def _is_native(case: Case) -> bool:
    return case.precision == case.model.precision


@functools.cache
def _folder(name: str) -> str | None:
    """Return a folder with a catalogue model's `config.json`; None for a type of unknown architecture."""
    config = ModelCatalogue.load().config(name)
    architecture = _ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        return None
    # The catalogue leaves out what follows from the rest.
    whole = {"num_key_value_heads": config["num_attention_heads"], **config, "architectures": [architecture]}
    folder = _folders() / name.replace("/", "--")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    return str(folder)


@functools.cache
def _folders() -> Path:
    """Return the folder in which this process writes configurations, until it ends."""
    folder = tempfile.TemporaryDirectory(prefix="gpuscout-models-")
    atexit.register(folder.cleanup)
    return Path(folder.name)
