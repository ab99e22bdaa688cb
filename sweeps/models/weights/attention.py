"""Weights and caches of attention in its variants: headed, latent, compressed, one layer each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuscout.sweeps.models.architecture import AttentionGroup, AttentionType
from gpuscout.sweeps.models.families import Family
from gpuscout.sweeps.models.fields import CONTEXT, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, Fields
from gpuscout.sweeps.models.layers import Layer, Mixer


@dataclass(frozen=True)
class MixerSize:
    """Weights of one layer's mixer: `linear` in matrices, `other` in norms, biases and convolutions."""

    linear: int
    other: int
    group: AttentionGroup


def head_dim_of(fields: Fields) -> int:
    """Return the width of one head."""
    hidden, heads = fields.required(*HIDDEN), fields.required(*HEADS)
    return fields.integer(*HEAD_DIM, default=max(1, hidden // heads), high=2**16)


def kv_heads_of(fields: Fields, heads: int) -> int:
    """Return key-value heads: one for each head unless the configuration says fewer."""
    alone = fields.flag("multi_query") and not fields.flag("new_decoder_architecture")
    if alone or not fields.has(*KV_HEADS):
        return 1 if alone else heads
    count = fields.required(*KV_HEADS)
    if heads % count:
        raise fields.error(fields.find(*KV_HEADS)[0], count, f"a divisor of the {heads} attention heads")
    return count


@dataclass(frozen=True)
class _Heads:
    """The heads of one layer: how many for queries and for keys and values, and how wide."""

    queries: int
    keys: int
    key_dim: int
    value_dim: int
    key_is_value: bool = False


def _heads_of(fields: Fields, layer: Layer) -> _Heads:
    """Return the heads of a layer; those with a window may have their own figures."""
    heads = fields.required(*HEADS)
    if layer.mixer is Mixer.SLIDING and (other := fields.section("attention_other_setting")) is not None:
        heads = other.integer("num_attention_heads", default=heads)
        dim = other.integer("head_dim", default=head_dim_of(fields))
        return _Heads(heads, kv_heads_of(other, heads), dim, dim)
    kv_heads = layer.kv_heads or kv_heads_of(fields, heads)
    dim = head_dim_of(fields)
    value_dim = fields.integer("v_head_dim", default=dim, high=2**16)
    if layer.mixer is Mixer.SLIDING:
        heads = fields.integer("swa_num_attention_heads", default=heads)
        kv_heads = fields.integer("swa_num_key_value_heads", default=kv_heads)
        dim = fields.integer("swa_head_dim", default=dim, high=2**16)
        value_dim = fields.integer("swa_v_head_dim", default=value_dim, high=2**16)
    elif fields.has("global_head_dim"):
        dim = value_dim = fields.required("global_head_dim", high=2**16)
        if fields.flag("attention_k_eq_v"):
            return _Heads(heads, fields.integer("num_global_key_value_heads", default=kv_heads), dim, dim, True)
    return _Heads(heads, kv_heads, dim, value_dim)


def headed(fields: Fields, family: Family, layer: Layer) -> MixerSize:
    """Return multi-head, grouped-query and multi-query attention, over everything or over a window."""
    hidden, shape = fields.required(*HIDDEN), _heads_of(fields, layer)
    heads, kv_heads = shape.queries, shape.keys
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", kv_heads, f"a divisor of the {heads} attention heads")
    queries, keys, values = heads * shape.key_dim, kv_heads * shape.key_dim, kv_heads * shape.value_dim
    stored = 0 if layer.shared_cache or layer.mixer is Mixer.CROSS else keys + values
    projected = 0 if layer.shared_cache else (keys if shape.key_is_value else keys + values)
    output = heads * shape.value_dim
    gate = output if family.output_gate or fields.flag("attn_output_gate") else 0
    if shared := fields.integer("share_q_dim", default=0, low=0):  # Step 3: queries through a smaller width
        linear = hidden * (shared + projected + gate) + shared * queries + output * hidden
    else:
        linear = hidden * (queries + projected + gate) + output * hidden
    if family.head_gate or fields.flag("use_head_wise_attn_gate", "use_attention_gate"):
        linear += hidden * heads
    bias = fields.flag("attention_bias", "use_bias", "qkv_bias", "add_qkv_bias", "bias")
    other = (queries + projected) * (bias if family.qkv_bias is None else family.qkv_bias)
    output_bias = fields.flag("attention_out_bias", "attention_output_bias", default=bias)
    other += hidden * (output_bias if family.output_bias is None else family.output_bias)
    other += shared
    norm = family.qk_norm or ("head" if fields.flag("use_qk_norm", "qk_norm", "qk_layernorm") else "none")
    if norm == "full":
        other += queries + keys
    elif norm == "head":
        other += shape.key_dim * (1 if layer.shared_cache else 2)
    other += heads if family.attention_sinks else 0
    window = _window(fields) if layer.mixer is Mixer.SLIDING else None
    group = AttentionGroup(
        AttentionType.FULL if window is None else AttentionType.SLIDING,
        layers=1,
        heads=heads,
        kv_heads=kv_heads,
        qk_dim=shape.key_dim,
        v_dim=shape.value_dim,
        kv_elements_per_token=stored,
        window=window,
    )
    if layer.mixer is not Mixer.SPARSE:
        return MixerSize(linear, other, group)
    return _with_block_indexer(fields, MixerSize(linear, other, group))


def _window(fields: Fields) -> int | None:
    """Return the tokens a sliding layer keeps; None when the longest sequence fits in."""
    window = fields.required("sliding_window", "attention_chunk_size", "sliding_window_size", high=2**40)
    context = fields.integer(*CONTEXT, high=2**40)
    return None if context is not None and window >= context else window


def _with_block_indexer(fields: Fields, size: MixerSize) -> MixerSize:
    """Return sparse attention over blocks of tokens (MiniMax M3): each query reads the best blocks."""
    sparse = fields.section("sparse_attention_config") or fields
    heads = sparse.integer("sparse_num_index_heads", "index_n_heads", default=4)
    dim = sparse.integer("sparse_index_dim", "index_head_dim", default=128)
    block = sparse.integer("sparse_block_size", "index_block_size", default=128)
    blocks = sparse.integer("sparse_topk_blocks", "index_topk_blocks", default=16)
    hidden = fields.required(*HIDDEN)
    return MixerSize(
        size.linear + hidden * (heads + 1) * dim,
        size.other + 2 * dim,
        _with_indexer(size.group, index=dim, read_topk=block * blocks),
    )


def latent(fields: Fields) -> MixerSize:
    """Return multi-head latent attention, with or without the indexer that picks the tokens to read."""
    hidden, heads = fields.required(*HIDDEN), fields.required(*HEADS)
    latent, rope = fields.required("kv_lora_rank"), fields.required("qk_rope_head_dim", low=0)
    nope, value = fields.required("qk_nope_head_dim"), fields.required("v_head_dim")
    query_rank = fields.integer("q_lora_rank", default=0, low=0)
    queries = heads * (nope + rope)
    linear = hidden * query_rank + query_rank * queries if query_rank else hidden * queries
    linear += hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden
    if fields.flag("mla_use_output_gate"):
        linear += hidden * heads * value
    other = query_rank + latent
    if fields.flag("attention_bias"):
        other += query_rank + latent + rope + hidden
    group = AttentionGroup(
        AttentionType.MLA,
        layers=1,
        heads=heads,
        kv_heads=1,
        qk_dim=nope + rope,
        v_dim=value,
        kv_elements_per_token=latent + rope,
    )
    if (topk := fields.integer("index_topk", high=2**40)) is None:
        return MixerSize(linear, other, group)
    index_heads, index_dim = fields.required("index_n_heads"), fields.required("index_head_dim")
    linear += (query_rank or hidden) * index_heads * index_dim + hidden * index_dim + hidden * index_heads
    return MixerSize(linear, other + 2 * index_dim, _with_indexer(group, index=index_dim, read_topk=topk))


def compressed(fields: Fields, layer: Layer) -> MixerSize:
    """Read DeepSeek V4's: one shared key-value head over a window, and compressed entries over everything before it."""
    hidden, heads, dim = fields.required(*HIDDEN), fields.required(*HEADS), head_dim_of(fields)
    rank, window = fields.required("q_lora_rank"), fields.required("sliding_window", high=2**40)
    groups, out_rank = fields.integer("o_groups", default=1), fields.required("o_lora_rank")
    linear = hidden * rank + rank * heads * dim + hidden * dim
    linear += heads * dim * out_rank + groups * out_rank * hidden
    other = rank + dim + heads
    kind, elements, index, topk, state = AttentionType.SLIDING, float(dim), 0.0, None, 0
    if layer.mixer in (Mixer.COMPRESSED_4, Mixer.COMPRESSED_128):
        ratio = 4 if layer.mixer is Mixer.COMPRESSED_4 else 128
        series = 2 if layer.mixer is Mixer.COMPRESSED_4 else 1
        linear += 2 * hidden * series * dim
        other += ratio * series * dim + dim
        kind, elements, state = AttentionType.MLA, dim / ratio, window * dim * 2
        if layer.mixer is Mixer.COMPRESSED_4:
            index_heads, index_dim = fields.required("index_n_heads"), fields.required("index_head_dim")
            linear += 4 * hidden * index_dim + rank * index_heads * index_dim + hidden * index_heads
            other += ratio * 2 * index_dim + index_dim
            index = index_dim / ratio
            topk = ratio * fields.required("index_topk", high=2**40)
    group = AttentionGroup(
        kind,
        layers=1,
        heads=heads,
        kv_heads=1,
        qk_dim=dim,
        v_dim=dim,
        kv_elements_per_token=elements + index,
        window=window if kind is AttentionType.SLIDING else None,
        read_topk=topk,
        state_bytes=state,
        index_elements_per_token=index,
    )
    return MixerSize(linear, other, group)


def _with_indexer(group: AttentionGroup, *, index: int, read_topk: int) -> AttentionGroup:
    """Return the same attention with an indexer that keeps `index` elements a token and picks `read_topk` tokens."""
    return replace(
        group,
        kv_elements_per_token=group.kv_elements_per_token + index,
        index_elements_per_token=index,
        read_topk=read_topk,
    )
