"""Layers of a model from its configuration: the mixer (attention, linear attention, Mamba) and the MLP of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from gpuscout.sweeps.models.families import Family, Mixers
from gpuscout.sweeps.models.fields import (
    EXPERT_WIDTH,
    EXPERTS,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    MAX_LAYERS,
    MAX_SIZE,
    Fields,
)


class Mixer(StrEnum):
    FULL = "full"
    SPARSE = "sparse"  # stores every token, reads those an indexer picks
    SLIDING = "sliding"
    LINEAR = "linear"
    MAMBA = "mamba"
    CONVOLUTION = "convolution"  # a short gated convolution
    CROSS = "cross"  # attends to the tokens of an image, keeps nothing of the text
    COMPRESSED_4 = "compressed 4"  # one cache entry for 4 tokens, an indexer picks among them
    COMPRESSED_128 = "compressed 128"  # one cache entry for 128 tokens
    NONE = "none"


class Mlp(StrEnum):
    DENSE = "dense"
    MOE = "moe"
    NONE = "none"


@dataclass(frozen=True)
class Layer:
    """One layer. `kv_heads` and `mlp_width` override the model's; a `shared_cache` layer reads an earlier one's.

    `beside` is a second mixer that works on the same input.
    """

    mixer: Mixer
    mlp: Mlp
    beside: Mixer | None = None
    kv_heads: int | None = None
    mlp_width: int | None = None
    shared_cache: bool = False


_MIXER_NAMES = {
    "full_attention": Mixer.FULL,
    "attention": Mixer.FULL,
    "global_attention": Mixer.FULL,
    "sliding_attention": Mixer.SLIDING,
    "chunked_attention": Mixer.SLIDING,
    "local_attention": Mixer.SLIDING,
    "linear_attention": Mixer.LINEAR,
    "mamba": Mixer.MAMBA,
    "mamba2": Mixer.MAMBA,
    "conv": Mixer.CONVOLUTION,
    "short_conv": Mixer.CONVOLUTION,
    "indexed_attention": Mixer.SPARSE,
    "deepseek_sparse_attention": Mixer.SPARSE,
    "minimax_m3_sparse": Mixer.SPARSE,
    "compressed_sparse_attention": Mixer.COMPRESSED_4,
    "heavily_compressed_attention": Mixer.COMPRESSED_128,
}
# How many of the first layers are dense in a mixture of experts.
_DENSE_FIRST = (
    "first_k_dense_replace",
    "moe_layer_start_index",
    "num_dense_layers",
    "n_dense_layers",
    "moe_layer_num_skipped",
)
_COMPRESS_RATIOS = {0: Mixer.SLIDING, 4: Mixer.COMPRESSED_4, 128: Mixer.COMPRESSED_128}
# Hybrids whose layers are a mixer or an MLP, by the letters of their pattern and the names of their list.
_SINGLE_BLOCKS = {
    "M": Layer(Mixer.MAMBA, Mlp.NONE),
    "*": Layer(Mixer.FULL, Mlp.NONE),
    "-": Layer(Mixer.NONE, Mlp.DENSE),
    "E": Layer(Mixer.NONE, Mlp.MOE),
}
_SINGLE_BLOCK_NAMES = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "mlp": "-",
    "moe": "E",
}


def layers_of(fields: Fields, family: Family) -> tuple[Layer, ...]:
    """Return the layers in order, multi-token-prediction layers left out."""
    if (blocks := _single_blocks(fields)) is not None:
        return blocks
    if (items := fields.items("block_configs", limit=MAX_LAYERS)) is not None:
        return _searched_blocks(fields, items)
    count = fields.required(*LAYERS, high=MAX_LAYERS)
    if fields.has("zero_expert_num"):  # LongCat: a layer is two of attention and dense MLP, the first beside experts
        return (Layer(Mixer.FULL, Mlp.MOE), Layer(Mixer.FULL, Mlp.DENSE)) * count
    mlps = [Mlp.NONE] * count if family.mixers is Mixers.STATE_SPACE else _mlps(fields, count)
    layers = [Layer(mixer, mlp) for mixer, mlp in zip(_mixers(fields, family, count), mlps, strict=True)]
    if family.mixers is Mixers.MAMBA_BESIDE_ATTENTION:
        layers = [replace(layer, beside=Mixer.MAMBA) for layer in layers]
    return tuple(_sharing(fields, layers))


def _sharing(fields: Fields, layers: list[Layer]) -> list[Layer]:
    """Return the layers, with those marked that read the keys and values of an earlier one."""
    count = len(layers)
    if fields.flag("use_cla"):  # Hunyuan: neighbours share
        factor = fields.integer("cla_share_factor", default=1, high=count)
        return [replace(layer, shared_cache=index % factor > 0) for index, layer in enumerate(layers)]
    shared = fields.integer("num_kv_shared_layers", default=0, low=0, high=count - 1)
    if not shared:
        return layers
    width = None
    if fields.flag("use_double_wide_mlp"):
        width = 2 * fields.required(*INTERMEDIATE)
    last = [replace(layer, shared_cache=True, mlp_width=width) for layer in layers[count - shared :]]
    return layers[: count - shared] + last


def _single_blocks(fields: Fields) -> tuple[Layer, ...] | None:
    """Read the layers of Nemotron-H: one letter or name a layer."""
    names = fields.items("layers_block_type", limit=MAX_LAYERS)
    letters: list[Any]
    if (pattern := fields.text("hybrid_override_pattern")) is not None:
        field, letters, allowed = "hybrid_override_pattern", list(pattern), "the letters M, *, - and E"
    elif names is not None and (fields.text("model_type") or "").startswith("nemotron_h"):
        field, allowed = "layers_block_type", "mamba, attention, mlp or moe"
        letters = [_SINGLE_BLOCK_NAMES.get(name) if isinstance(name, str) else None for name in names]
    else:
        return None
    if not 1 <= len(letters) <= MAX_LAYERS or any(letter not in _SINGLE_BLOCKS for letter in letters):
        raise fields.error(field, pattern if pattern is not None else names, f"1 to {MAX_LAYERS} layers of {allowed}")
    return tuple(_SINGLE_BLOCKS[letter] for letter in letters)


def _searched_blocks(fields: Fields, items: list[Any]) -> tuple[Layer, ...]:
    """Read the layers of Nemotron-NAS, each with KV heads and an MLP width of its own, or without one of them."""
    hidden, heads = fields.required(*HIDDEN), fields.required(*HEADS)
    layers = []
    for index, item in enumerate(items):
        place = f"block_configs[{index}]"
        if not isinstance(item, dict):
            raise fields.error(place, item, "an object")
        block = Fields(item, source=fields.source, path=f"{place}.")
        attention, mlp = block.section("attention"), block.section("ffn")
        kv_heads = width = None
        if attention is not None and not attention.flag("no_op") and not attention.flag("replace_with_linear"):
            kv_heads = max(1, heads // attention.required("n_heads_in_group", high=heads))
        if mlp is not None and not mlp.flag("no_op"):
            ratio = mlp.number("ffn_mult", default=4.0, low=1e-3, high=1e3)
            width = -(-int(2 * ratio * hidden / 3) // 256) * 256
            if not 0 < width <= MAX_SIZE:
                raise fields.error(place, ratio, "a multiple that gives a usual width")
        layers.append(
            Layer(
                Mixer.FULL if kv_heads else Mixer.NONE,
                Mlp.DENSE if width else Mlp.NONE,
                kv_heads=kv_heads,
                mlp_width=width,
            )
        )
    if not layers:
        raise fields.error("block_configs", items, "at least one layer")
    return tuple(layers)


def _mixers(fields: Fields, family: Family, count: int) -> list[Mixer]:
    """Return the mixer of every layer, from whichever of the published conventions the configuration follows."""
    if family.mixers is Mixers.STATE_SPACE:
        return [Mixer.MAMBA] * count
    full = Mixer.SPARSE if fields.has("index_topk") else Mixer.FULL
    stated = None if fields.states("layer_types") else _stated_mixers(fields, count)
    if stated is not None:
        return stated
    if (types := fields.items("layer_types", count=count)) is not None:
        return _named_mixers(fields, family, types, full)
    match family.mixers:
        case Mixers.MAMBA_HYBRID:
            return _attending(fields, count, Mixer.MAMBA)
        case Mixers.SHORT_CONVOLUTION:
            return _attending(fields, count, Mixer.CONVOLUTION)
    return _windowed(fields, family, count, full)


def _named_mixers(fields: Fields, family: Family, types: list[Any], full: Mixer) -> list[Mixer]:
    """Read mixers by the name of each layer's type."""
    names = dict(_MIXER_NAMES)
    if family.mixers is Mixers.MAMBA_HYBRID:
        names["linear_attention"] = Mixer.MAMBA  # as transformers calls it
    if family.mixers is Mixers.MAMBA_BESIDE_ATTENTION:
        names["hybrid"] = Mixer.FULL
    mixers = [names.get(item) if isinstance(item, str) else None for item in types]
    if None in mixers:
        wrong = types[mixers.index(None)]
        raise fields.error("layer_types", wrong, f"one of {', '.join(_MIXER_NAMES)} for each layer")
    return [full if mixer is Mixer.FULL else mixer for mixer in mixers if mixer]


def _stated_mixers(fields: Fields, count: int) -> list[Mixer] | None:
    """Read mixers by one of the conventions older than `layer_types`; None: it follows none of them."""
    if (ratios := fields.items("compress_ratios", count=count)) is not None:
        chosen = [_COMPRESS_RATIOS.get(ratio) if isinstance(ratio, int) else None for ratio in ratios]
        if None in chosen:
            raise fields.error("compress_ratios", ratios[chosen.index(None)], "0, 4 or 128 for each layer")
        return [mixer for mixer in chosen if mixer]
    if (linear := fields.section("linear_attn_config")) is not None:
        return _by_index(linear, "full_attn_layers", count, Mixer.FULL, Mixer.LINEAR)
    if (kinds := fields.items("attn_type_list", count=count)) is not None:
        return [Mixer.FULL if kind else Mixer.LINEAR for kind in kinds]
    if (windows := fields.items("hybrid_layer_pattern", count=count)) is not None:
        return [Mixer.SLIDING if window else Mixer.FULL for window in windows]
    if (sparse := fields.section("sparse_attention_config")) is not None:
        switches = sparse.items("sparse_attention_freq", count=count) or [1] * count
        return [Mixer.SPARSE if switch else Mixer.FULL for switch in switches]
    if fields.has("cross_attention_layers"):
        crossing = _numbers(fields, "cross_attention_layers", fields.items("cross_attention_layers"))
        return [Mixer.CROSS if index in crossing else Mixer.FULL for index in range(count)]
    period = fields.integer("full_attention_interval", "layer_group_size", high=MAX_LAYERS)
    return None if period is None else _periodic(count, period, Mixer.LINEAR)


def _attending(fields: Fields, count: int, other: Mixer) -> list[Mixer]:
    """Return attention where the configuration says so, `other` elsewhere."""
    for name in ("attn_layer_indices", "full_attn_idxs"):
        if fields.has(name):
            chosen = _numbers(fields, name, fields.items(name) or [])
            return [Mixer.FULL if index in chosen else other for index in range(count)]
    if fields.has("attn_layer_period"):
        period = fields.required("attn_layer_period", high=MAX_LAYERS)
        offset = fields.integer("attn_layer_offset", default=0, low=0, high=MAX_LAYERS)
        return [Mixer.FULL if index % period == offset else other for index in range(count)]
    if (names := fields.items("layers_block_type", count=count)) is not None:
        return [Mixer.FULL if name == "attention" else other for name in names]
    raise fields.error("layer_types", None, "the kind of each layer: this family attends in some of them only")


def _windowed(fields: Fields, family: Family, count: int, full: Mixer) -> list[Mixer]:
    """Return full attention, or a sliding window on some or all layers."""
    if fields.has("attention_chunk_size"):
        if fields.items("no_rope_layers"):  # empty: by the interval
            no_rope = fields.items("no_rope_layers", count=count) or []
            return [Mixer.SLIDING if uses_rope else Mixer.FULL for uses_rope in no_rope]
        return _periodic(count, fields.integer("no_rope_layer_interval", default=4, high=MAX_LAYERS), Mixer.SLIDING)
    if not fields.has("sliding_window") or not fields.flag("use_sliding_window", default=True):
        return [full] * count
    if fields.has("use_sliding_window") and fields.has("max_window_layers"):
        first = fields.integer("max_window_layers", default=count, low=0, high=MAX_LAYERS)
        return [full if index < first else Mixer.SLIDING for index in range(count)]
    _, pattern = fields.find("sliding_window_pattern", "_sliding_window_pattern")
    if isinstance(pattern, str):
        return _lettered(fields, pattern, count)
    period = (
        fields.integer(
            "sliding_window_pattern",
            "_sliding_window_pattern",
            "global_attn_every_n_layers",
            high=MAX_LAYERS,
        )
        or family.sliding_period
    )
    return [Mixer.SLIDING] * count if period is None else _periodic(count, period, Mixer.SLIDING)


def _lettered(fields: Fields, pattern: str, count: int) -> list[Mixer]:
    """Read EXAONE's layers: L for a local layer, G for a global one, repeated; the last layer is global."""
    if not 0 < len(pattern) <= MAX_LAYERS or set(pattern) - {"L", "G"}:
        raise fields.error("sliding_window_pattern", pattern, "a whole number, or the letters L and G")
    mixers = [Mixer.SLIDING if pattern[index % len(pattern)] == "L" else Mixer.FULL for index in range(count)]
    return [*mixers[:-1], Mixer.FULL]


def _periodic(count: int, period: int, other: Mixer) -> list[Mixer]:
    """Return full attention on every `period`-th layer, `other` before it."""
    return [Mixer.FULL if (index + 1) % period == 0 else other for index in range(count)]


def _by_index(fields: Fields, name: str, count: int, listed: Mixer, other: Mixer) -> list[Mixer]:
    """Return `listed` on the layers whose numbers (from 1) the field holds."""
    numbers = fields.items(name) or []
    fields.has("kda_layers")  # the others
    indices = {fields.checked_integer(name, number, high=MAX_LAYERS) for number in numbers}
    return [listed if index + 1 in indices else other for index in range(count)]


def _mlps(fields: Fields, count: int) -> list[Mlp]:
    """Return dense or mixture of experts, layer by layer."""
    experts = max(view.integer(*EXPERTS, default=0, low=0) for view in set(fields.of_layers(count)))
    if experts < 1 or (experts == 1 and not fields.has(*EXPERT_WIDTH)):
        return [Mlp.DENSE] * count
    if not fields.flag("is_moe", "enable_moe", default=True):
        return [Mlp.DENSE] * count
    if (types := fields.items("mlp_layer_types", count=count)) is not None:
        return [Mlp.DENSE if kind == "dense" else Mlp.MOE for kind in types]
    if isinstance(fields.find("moe_layer_freq")[1], list | tuple):
        switches = fields.items("moe_layer_freq", count=count) or []
        return [Mlp.MOE if switch else Mlp.DENSE for switch in switches]
    if (listed := fields.find("moe_layers_enum")[1]) is not None:
        chosen = _numbers(fields, "moe_layers_enum", listed)
        return [Mlp.MOE if index in chosen else Mlp.DENSE for index in range(count)]
    if listed := fields.items("moe_layers"):
        chosen = _numbers(fields, "moe_layers", listed)
        return [Mlp.MOE if index in chosen else Mlp.DENSE for index in range(count)]
    if fields.has("expert_layer_period"):
        period = fields.required("expert_layer_period", high=MAX_LAYERS)
        offset = fields.integer("expert_layer_offset", default=0, low=0, high=MAX_LAYERS)
        return [Mlp.MOE if index % period == offset else Mlp.DENSE for index in range(count)]
    first = fields.integer(*_DENSE_FIRST, default=0, low=0, high=count)
    step = fields.integer(
        "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", "moe_layer_interval", default=1
    )
    dense = _numbers(fields, "mlp_only_layers", fields.items("mlp_only_layers") or [])
    # Counted from the end of each period; moe_layer_freq alone counts from its start.
    offset = 0 if fields.find("moe_layer_freq")[1] is not None else 1
    return [
        Mlp.MOE if index >= first and index not in dense and (index + offset) % step == 0 else Mlp.DENSE
        for index in range(count)
    ]


def _numbers(fields: Fields, name: str, value: Any) -> set[int]:
    """Return layer numbers (from 0), given as a list or as text with commas."""
    if isinstance(value, str) and len(value) <= 10 * MAX_LAYERS:
        value = [int(part) for part in re.findall(r"\b\d{1,6}\b", value, flags=re.ASCII)]
    if not isinstance(value, list | tuple) or len(value) > MAX_LAYERS:
        raise fields.error(name, value, f"at most {MAX_LAYERS} layer numbers")
    return {fields.checked_integer(name, number, low=0) for number in value}
