"""Facts from the headers of a checkpoint's safetensors files: dtype, exact size, quantised bytes.

A header counts *stored elements* by dtype. For floats of 16 bits and more an element is a parameter. A quantised
checkpoint packs several weights into one element (U8, I32 …) and stores scales beside them: there the bytes are exact,
and what is not stored in 16 bits or more counts as quantised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuscout.sweeps.models.architecture import ModelSpec

_BYTES = {
    "F64": 8.0,
    "I64": 8.0,
    "U64": 8.0,
    "F32": 4.0,
    "I32": 4.0,
    "U32": 4.0,
    "F16": 2.0,
    "BF16": 2.0,
    "I16": 2.0,
    "U16": 2.0,
    "I8": 1.0,
    "U8": 1.0,
    "BOOL": 1.0,
    "F8_E4M3": 1.0,
    "F8_E5M2": 1.0,
    "F8_E8M0": 1.0,
    "F6_E2M3": 0.75,
    "F6_E3M2": 0.75,
    "F4": 0.5,
}
# Tensors that are no weights: scales and zero points of quantised ones.
_SCALES = re.compile(r"scales?(_inv|_2|_bias)?$|zeros?(_point)?$|g_idx$|absmax$|quant_map$|quant_state|weight_shape$")
_FURTHER = re.compile(r"(^|\.)(mtp|nextn|eagle)")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,4})\.")
_TOWER = re.compile(r"vision|visual|audio|speech|image|encoder")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PLAIN = frozenset({"F64", *_DTYPES})
# Below this, the difference is buffers (rotary frequencies, masks), not weights.
_BUFFERS = 0.001
# Beyond this factor, the checkpoint holds something else than what the configuration describes.
_MOST = 2.0
_TOWERS = ("vision_config", "audio_config", "speech_config", "vision_tower_config")


@dataclass(frozen=True)
class StoredWeights:
    """Weights of a checkpoint: `elements` by dtype and, of those of 16 bits and more, the number of `plain` ones.

    `whole`: multi-token-prediction layers are among them if there are any, since the tensors' names are not known.
    """

    elements: Mapping[str, int]
    plain: int
    whole: bool

    @classmethod
    def of_counts(cls, elements: Mapping[str, int]) -> StoredWeights:
        """Build it from counts alone, as the Hub's API has them."""
        return cls(elements, sum(count for dtype, count in elements.items() if dtype in _PLAIN), whole=True)

    @classmethod
    def of_tensors(cls, tensors: Iterable[tuple[str, str, int]], layers: int) -> StoredWeights:
        """Build it from (name, dtype, elements) of every tensor; layers beyond `layers` predict further tokens."""
        elements: dict[str, int] = {}
        plain = 0
        for name, dtype, count in tensors:
            layer = None if _TOWER.search(name) else _LAYER.search(name)
            if _FURTHER.search(name) or (layer is not None and int(layer.group(1)) >= layers):
                continue
            elements[dtype] = elements.get(dtype, 0) + count
            plain += count if dtype in _PLAIN and not _SCALES.search(name) else 0
        return cls(elements, plain, whole=False)

    @property
    def bytes(self) -> float | None:
        """None: a dtype is not known."""
        if not self.elements.keys() <= _BYTES.keys():
            return None
        return sum(count * _BYTES[dtype] for dtype, count in self.elements.items())


NOTHING_STORED = StoredWeights({}, 0, whole=True)


def with_stored_bytes(model: ModelSpec, config: Mapping[str, Any], stored: StoredWeights) -> ModelSpec:
    """Return the quantised model with its files' bytes, and their count of weights that are not stored plainly.

    Files that hold less than half or more than twice what was derived change nothing but make the model `approximate`.
    """
    size = stored.bytes
    if model.quantization_method is None or not size or (stored.whole and _predicts_further(config)):
        return model
    derived = model.weight_bytes(model.precision)
    if not derived / _MOST <= size <= derived * _MOST:
        note = f"its files hold {size / 1e9:,.1f} GB, its configuration describes {derived / 1e9:,.1f} GB"
        return replace(model, approximate=True, notes=(*model.notes, note))
    quantised = model.total_parameters - stored.plain
    if not 0 < quantised <= model.linear_parameters:  # tables are quantised too, or the counts say nothing
        quantised = model.native_quantized_parameters
    bits = (size - 2.0 * (model.total_parameters - quantised)) * 8 / max(quantised, 1)
    if not 0 < bits <= 16:
        return model
    return replace(model, native_quantized_parameters=quantised, native_weight_bits=bits)


def with_stated_dtype(config: Mapping[str, Any], elements: Mapping[str, int]) -> Mapping[str, Any]:
    """Return the configuration, with the dtype of most elements where it states none: what servers then load it as."""
    sections = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    if any(section.get(key) is not None for section in sections for key in ("torch_dtype", "dtype")):
        return config
    dtype = _DTYPES.get(max(elements, key=lambda name: elements[name], default=""))
    return config if dtype is None else {**config, "torch_dtype": dtype}


def missing_parameters(model: ModelSpec, config: Mapping[str, Any], stored: StoredWeights) -> int:
    """Return the number of parameters in the checkpoint beyond those derived; 0 when they agree or cannot be compared.

    They agree within 0.1 %. They cannot be compared for a quantised checkpoint, and a larger one may hold
    multi-token-prediction layers, which `ModelSpec` leaves out, or a copy of the tied output projection.
    """
    elements = stored.elements
    if model.quantization_method is not None or not elements or not elements.keys() <= _PLAIN:
        return 0
    missing = sum(elements.values()) - model.total_parameters
    further = missing > 0 and stored.whole and _predicts_further(config)
    copied = model.tied_embeddings and missing == model.vocab_size * model.hidden_size
    if abs(missing) <= _BUFFERS * model.total_parameters or copied or further:
        return 0
    return missing


def with_exact_size(model: ModelSpec, config: Mapping[str, Any], stored: StoredWeights) -> ModelSpec:
    """Return the model with the number of parameters its checkpoint really holds.

    A difference of one output projection means that it is tied; in a multimodal model a surplus belongs to its
    towers; any other difference is shared out over the decoder layers in proportion. A checkpoint less than half or
    more than twice as large as derived changes nothing but marks the model `approximate`.
    """
    missing = missing_parameters(model, config, stored)
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
        note = f"its files hold {missing:+,} parameters compared with its configuration"
        return replace(model, approximate=True, notes=(*model.notes, note))
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
    """Return whether the checkpoint holds multi-token-prediction layers."""
    sections = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return any(
        isinstance(value, int) and value > 0
        for section in sections
        for key, value in section.items()
        if "nextn_predict" in key or "mtp" in key
    )
