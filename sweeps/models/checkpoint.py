"""What the headers of a checkpoint's safetensors files add to its configuration: the dtype and the exact size.

A header counts *stored elements* by dtype. For floats of 16 bits and more an element is a parameter. A quantised
checkpoint packs several weights into one element (U8, I32 …) and stores scales beside them, so its counts say nothing
about the number of parameters and change nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuscout.sweeps.models.architecture import ModelSpec

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PLAIN = frozenset({"F64", *_DTYPES})
# Below this, the difference is buffers (rotary frequencies, masks), not weights.
_BUFFERS = 0.001
# Beyond this factor, the checkpoint holds something else than what the configuration describes.
_MOST = 2.0
_TOWERS = ("vision_config", "audio_config", "speech_config", "vision_tower_config")


def with_stated_dtype(config: Mapping[str, Any], elements: Mapping[str, int]) -> Mapping[str, Any]:
    """The configuration, with the dtype of most elements where it states none: what servers then load it as."""
    sections = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    if any(section.get(key) is not None for section in sections for key in ("torch_dtype", "dtype")):
        return config
    dtype = _DTYPES.get(max(elements, key=lambda name: elements[name], default=""))
    return config if dtype is None else {**config, "torch_dtype": dtype}


def missing_parameters(model: ModelSpec, config: Mapping[str, Any], elements: Mapping[str, int]) -> int:
    """How many more parameters the checkpoint holds than were derived; 0 when they agree or cannot be compared.

    They agree within 0.1 %. They cannot be compared for a quantised checkpoint, and a larger one may hold
    multi-token-prediction layers, which `ModelSpec` leaves out, or a copy of the tied output projection.
    """
    if model.quantization_method is not None or not elements or not elements.keys() <= _PLAIN:
        return 0
    missing = sum(elements.values()) - model.total_parameters
    copied = model.tied_embeddings and missing == model.vocab_size * model.hidden_size
    if abs(missing) <= _BUFFERS * model.total_parameters or copied or (missing > 0 and _predicts_further(config)):
        return 0
    return missing


def with_exact_size(model: ModelSpec, config: Mapping[str, Any], elements: Mapping[str, int]) -> ModelSpec:
    """The model with the number of parameters its checkpoint really holds.

    A difference of one output projection means that it is tied; in a multimodal model a surplus belongs to its
    towers; any other difference is shared out over the decoder layers in proportion. A checkpoint less than half or
    more than twice as large as derived changes nothing but marks the model `approximate`.
    """
    missing = missing_parameters(model, config, elements)
    if not missing:
        return model
    if missing == -model.head_parameters:
        return replace(
            model, total_parameters=model.total_parameters + missing, head_parameters=0, tied_embeddings=True
        )
    if missing > 0 and any(config.get(tower) is not None for tower in _TOWERS):
        return replace(
            model,
            total_parameters=model.total_parameters + missing,
            vision_parameters=model.vision_parameters + missing,
        )
    tables = model.embedding_parameters + model.head_parameters + model.vision_parameters
    decoder = model.total_parameters - tables
    factor = (decoder + missing) / decoder if decoder > 0 else 0.0
    if not 1 / _MOST <= factor <= _MOST:
        return replace(model, approximate=True)
    # The tables that every token is multiplied with stay exact; only what lies in the layers grows or shrinks.
    multiplied = model.embedding_parameters if model.tied_embeddings else model.head_parameters
    return replace(
        model,
        total_parameters=model.total_parameters + missing,
        active_parameters=multiplied + round((model.active_parameters - multiplied) * factor),
        routed_expert_parameters=round(model.routed_expert_parameters * factor),
        linear_parameters=round(model.linear_parameters * factor),
    )


def _predicts_further(config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint holds multi-token-prediction layers."""
    sections = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return any(
        isinstance(value, int) and value > 0
        for section in sections
        for key, value in section.items()
        if "nextn_predict" in key or "mtp" in key
    )
