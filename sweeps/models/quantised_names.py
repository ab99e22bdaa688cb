"""Quantised repositories of well-known makers: the model and the number format that their names stand for.

For where the Hugging Face Hub cannot be asked: a `config.json` always counts more than a name. What comes from here
says so (`ModelSpec.assumed`). The formats are those that the makers' repositories of this kind have in common.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue

_Settings = Mapping[str, Any]


def _compressed(bits: int, kind: str, *, group: int | None = None, activations: bool = False) -> _Settings:
    """Return the settings that llm-compressor writes (compressed-tensors)."""
    weights = {"num_bits": bits, "type": kind, "group_size": group}
    settings: dict[str, Any] = {"weights": weights}
    if activations:
        settings["input_activations"] = {"num_bits": bits, "type": kind}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": settings}}


_MODELOPT_FP8 = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
_MODELOPT_NVFP4 = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
_FP8 = _compressed(8, "float", activations=True)
_BNB_4_BIT = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}
# MLX: groups of 64 with a scale and a bias of 16 bits each, as bitsandbytes without double quantisation.
_MLX_4_BIT = {"quant_method": "bitsandbytes", "load_in_4bit": True}
_MLX_8_BIT = {"quant_method": "gptq", "bits": 8, "group_size": 64}

_WIDE: _Settings = {}
_QUANTIZATION = ("quantization_config", "compression_config", "hf_quant_config")

# Maker -> ends of names, the longest first -> `quantization_config`; `_WIDE`: 16 bits, None: as in the base model.
_MAKERS: dict[str, dict[str, _Settings | None]] = {
    "nvidia": {r"-FP8": _MODELOPT_FP8, r"-(NV)?FP4": _MODELOPT_NVFP4},
    "redhatai": {
        r"-FP8(-dynamic|-block)?": _FP8,
        r"-quantized\.w4a16": _compressed(4, "int", group=128),
        r"-quantized\.w8a8": _compressed(8, "int", activations=True),
        r"-quantized\.w8a16": _compressed(8, "int"),
        r"-NVFP4(A16)?": _compressed(4, "float", group=16, activations=True),
    },
    "qwen": {
        r"-FP8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        r"-AWQ": {"quant_method": "awq", "bits": 4, "group_size": 128},
        r"-GPTQ-Int4": {"quant_method": "gptq", "bits": 4, "group_size": 128},
        r"-GPTQ-Int8": {"quant_method": "gptq", "bits": 8, "group_size": 128},
    },
    "amd": {r"-FP8-KV": _MODELOPT_FP8, r"-MXFP4(-[\w.-]+)?": {"quant_algo": "MXFP4"}},
    "unsloth": {
        r"(-unsloth)?-bnb-4bit": _BNB_4_BIT,
        r"-FP8(-Dynamic|-Block)?": _FP8,
        r"-BF16": _WIDE,
        r"": None,
    },
    "mlx-community": {r"-4bit(-DWQ)?": _MLX_4_BIT, r"-8bit": _MLX_8_BIT, r"-(bf16|fp16)": _WIDE},
}


def model_by_its_name(repo_id: str) -> ModelSpec | None:
    """Return the model of a repository, as its name has it; None for a name that stands for nothing known.

    >>> model = model_by_its_name("RedHatAI/Qwen3-32B-quantized.w4a16")
    >>> model.precision.value, model.assumed
    ('int4-weight-only', 'int4-weight-only assumed from its name, on the architecture of Qwen/Qwen3-32B')
    """
    maker, _, name = ModelCatalogue.load().current(repo_id).partition("/")
    for end, settings in _MAKERS.get(maker.casefold(), {}).items():
        found = re.fullmatch(rf"(?P<base>.+?){end}", name, re.IGNORECASE)
        base = _base(found["base"]) if found else None
        if base is not None:
            return _quantised(base, settings, repo_id)
    return None


def _base(name: str) -> str | None:
    """Return the model of the catalogue whose name ends so."""
    try:
        (base,) = ModelCatalogue.load().resolve(name)
    except (InputError, ValueError):
        return None
    return base


def _quantised(base: str, settings: _Settings | None, name: str) -> ModelSpec:
    from gpuscout.sweeps.models.config import architecture_from_config

    config = ModelCatalogue.load().config(base)
    if settings is not None:
        config = {key: value for key, value in config.items() if key not in _QUANTIZATION}
    if settings:
        config["quantization_config"] = dict(settings)
    model = architecture_from_config(config, name=name, source=f"{name}, after {base}")
    return replace(model, assumed=f"{model.precision.value} assumed from its name, on the architecture of {base}")
