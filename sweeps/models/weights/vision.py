"""Counting the weights of vision towers and projectors: exact for the families of `_EXACT`, close for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpuscout.sweeps.models.fields import Fields

# What a multimodal model's vision_config may leave out, by the outer model_type.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "kimi_k25": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "image_size": 896},
    "kimi_k3": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "image_size": 896},
    "llama4": {"image_size": 336},
    "step3p7": {"hidden_size": 1536, "mlp_ratio": 8960 / 1536, "num_hidden_layers": 47, "image_size": 728},
}


_NOTABLE = 0.01


def vision_parameters(fields: Fields, model_type: str | None, text_hidden: int) -> int:
    """Return weights of everything that is not the decoder; `model_type` is that of the whole multimodal model.

    A `vision_parameters` figure in the configuration (the catalogue's own field) overrides the count.
    """
    stated = fields.integer("vision_parameters", low=0, high=10**12)
    if stated is not None:
        return stated
    section = fields.section("vision_config")
    if section is None:
        return 0
    known: Mapping[str, Any] = {**_DEFAULTS.get(model_type or "", {}), **section.config}
    vision = Fields(known, source=fields.source, path="vision_config.")
    hidden = vision.integer("hidden_size", "embed_dim", "width")
    depth = vision.integer("depth", "num_hidden_layers", "layers", high=1000)
    if hidden is None or depth is None:
        return 0
    ratio = vision.number("mlp_ratio", default=4.0, low=0.1, high=100)
    inner = vision.integer("intermediate_size", default=int(hidden * ratio))
    patch = _side(vision, "patch_size", 14)
    kind = model_type or ""
    if kind in _EXACT:
        return _EXACT[kind](vision, hidden, inner, depth, text_hidden)
    if kind.startswith(("qwen3_vl", "qwen3_5")):
        return _qwen(vision, hidden, inner, depth, patch, deepstack=kind.startswith("qwen3_vl"))
    if kind.startswith("gemma4"):
        return _gemma(vision, hidden, inner, depth, patch) + hidden * text_hidden
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + 5 * hidden
    positions = (_side(vision, "image_size", 448) // patch) ** 2
    projector = text_hidden * (hidden + text_hidden)
    if kind == "step3p7":  # two convolutions, each halving the resolution and doubling the width
        projector = 9 * (2 * hidden * hidden + 8 * hidden * hidden) + 4 * hidden * text_hidden
    return depth * layer + hidden * (3 * patch * patch + positions) + projector


def tower_notes(fields: Fields, model_type: str | None, vision: int, total: int) -> Iterator[str]:
    """Yield notes on inexact figures of the towers. Less than a hundredth of all weights is not worth one."""
    if fields.has("vision_parameters"):
        return
    if fields.has("audio_config", "speech_config", "audio_encoder_config"):
        yield "audio tower not counted"
    exact = model_type in _EXACT or (model_type or "").startswith(("qwen3_vl", "qwen3_5", "gemma4", "step3p7"))
    if fields.has("vision_config") and not exact and (not vision or vision > _NOTABLE * total):
        yield "vision tower counted approximately" if vision else "vision tower not counted"


def _gemma(vision: Fields, hidden: int, inner: int, depth: int, patch: int) -> int:
    """Count Gemma 4's: gated MLPs, no biases, positions in two directions."""
    heads = vision.integer("num_attention_heads", default=16)
    layer = 4 * hidden * hidden + 3 * hidden * inner + 4 * hidden + 2 * max(1, hidden // heads)
    positions = 2 * vision.integer("position_embedding_size", default=10_240)
    return depth * layer + hidden * (3 * patch * patch + positions)


def _qwen(vision: Fields, hidden: int, inner: int, depth: int, patch: int, *, deepstack: bool) -> int:
    """Count those of Qwen3-VL and Qwen3.5: a merger of four patches, in Qwen3-VL three more in between."""
    merged = hidden * vision.integer("spatial_merge_size", default=2, high=64) ** 2
    out = vision.required("out_hidden_size")
    frames = _side(vision, "temporal_patch_size", 2)
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
    merger = merged * (merged + 1) + merged * out + out
    embeddings = hidden * (3 * frames * patch * patch + 1)
    embeddings += hidden * vision.integer("num_position_embeddings", default=2304)
    return depth * layer + embeddings + merger + 2 * hidden + (3 * (merger + 2 * merged) if deepstack else 0)


def _side(vision: Fields, name: str, default: int) -> int:
    """Return the length of one side of an image or patch, which may be given for both sides."""
    value = vision.config.get(name)
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return default if value is None else vision.checked_integer(name, value, high=2**16)


def _encoder(hidden: int, inner: int, depth: int, patch: int, positions: int) -> int:
    """Count those of CLIP and SigLIP: attention and MLPs with biases, two LayerNorms a layer, learned positions."""
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + 5 * hidden
    return depth * layer + hidden * (3 * patch * patch + positions)


def _patches(vision: Fields) -> tuple[int, int]:
    """Return the side of a patch, and how many patches an image has."""
    patch = _side(vision, "patch_size", 14)
    return patch, (_side(vision, "image_size", 336) // patch) ** 2


def _clip(vision: Fields, hidden: int, inner: int, depth: int, text_hidden: int) -> int:
    """Count LLaVA's: CLIP with a class token and a projector of two layers."""
    patch, positions = _patches(vision)
    projector = (hidden + 1) * text_hidden + (text_hidden + 1) * text_hidden
    return _encoder(hidden, inner, depth, patch, positions + 1) + 5 * hidden + projector


def _siglip(vision: Fields, hidden: int, inner: int, depth: int, text_hidden: int) -> int:
    """Count Gemma 3's: SigLIP without its head, and one projection behind a norm."""
    patch, positions = _patches(vision)
    return _encoder(hidden, inner, depth, patch, positions) + 3 * hidden + hidden * text_hidden + hidden


def _pixtral(vision: Fields, hidden: int, inner: int, depth: int, text_hidden: int) -> int:
    """Count Mistral 3's: gated MLPs, no biases, rotary positions; patches merge before a projector of two layers."""
    patch = _side(vision, "patch_size", 14)
    tower = depth * (4 * hidden * hidden + 3 * hidden * inner + 2 * hidden) + 3 * patch * patch * hidden + hidden
    merged = hidden * 2**2
    return tower + hidden + merged * hidden + hidden * text_hidden + text_hidden * text_hidden


def _qwen2(vision: Fields, hidden: int, inner: int, depth: int, text_hidden: int) -> int:
    """Count Qwen2-VL's: `embed_dim` is the width of the tower, `hidden_size` that of its output."""
    width = vision.integer("embed_dim", default=hidden)
    inner = int(width * vision.number("mlp_ratio", default=4.0, low=0.1, high=100))
    layer = 4 * width * (width + 1) + 2 * width * inner + inner + 5 * width
    return depth * layer + _patch_merger(vision, width, hidden, norm=2 * width)


def _qwen2_5(vision: Fields, hidden: int, inner: int, depth: int, text_hidden: int) -> int:
    """Count Qwen2.5-VL's: gated MLPs with biases."""
    layer = 4 * hidden * (hidden + 1) + 3 * hidden * inner + 2 * inner + hidden + 2 * hidden
    out = vision.integer("out_hidden_size", default=text_hidden)
    return depth * layer + _patch_merger(vision, hidden, out, norm=hidden)


def _patch_merger(vision: Fields, width: int, out: int, *, norm: int) -> int:
    """Return the embedding of patches over several frames, and the merger of four patches."""
    patch, frames = _side(vision, "patch_size", 14), _side(vision, "temporal_patch_size", 2)
    merged = width * vision.integer("spatial_merge_size", default=2, high=64) ** 2
    return 3 * frames * patch * patch * width + norm + merged * (merged + 1) + (merged + 1) * out


def _internvit(vision: Fields, hidden: int, inner: int, depth: int, text_hidden: int) -> int:
    """Count InternVL's: a class token, scales of layers, and a projector over four patches."""
    patch, positions = _patches(vision)
    bias = 3 * hidden * vision.flag("attention_bias", "qkv_bias")
    norms = 2 * hidden * vision.flag("use_qk_norm", "qk_normalization")
    layer = 4 * hidden * hidden + hidden + bias + norms + 2 * hidden * inner + inner + hidden + 6 * hidden
    tower = depth * layer + hidden * (3 * patch * patch + 1 + positions + 1 + 1)
    merged = 4 * hidden
    return tower + 2 * merged + (merged + 1) * text_hidden + (text_hidden + 1) * text_hidden


_EXACT: dict[str, Callable[[Fields, int, int, int, int], int]] = {
    "llava": _clip,
    "gemma3": _siglip,
    "mistral3": _pixtral,
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen2_5,
    "internvl": _internvit,
    "internvl_chat": _internvit,
}
