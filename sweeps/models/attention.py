"""Weights and caches of the mixers: attention in its variants, linear attention and Mamba, one layer each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuscout.sweeps.models.architecture import AttentionGroup, AttentionType
from gpuscout.sweeps.models.families import Family
from gpuscout.sweeps.models.fields import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, Fields
from gpuscout.sweeps.models.layers import Layer, Mixer

_CONVOLUTION_BYTES = 2  # the last inputs of short convolutions are kept in 16 bits


@dataclass(frozen=True)
class MixerSize:
    """Weights of one layer's mixer: `linear` in matrices, `other` in norms, biases and convolutions."""

    linear: int
    other: int
    group: AttentionGroup


def mixer_size(fields: Fields, family: Family, layer: Layer) -> MixerSize:
    """The mixer of one layer; `group.layers` is 1."""
    if layer.mixer is Mixer.MAMBA:
        return _mamba(fields)
    if layer.mixer is Mixer.LINEAR:
        return _linear_attention(fields)
    if fields.find("o_lora_rank")[1] is not None and fields.find("q_lora_rank")[1] is not None:
        return _compressed(fields, layer)
    if fields.find("kv_lora_rank")[1] is not None:
        return _latent(fields)
    return _headed(fields, family, layer)


def head_dim_of(fields: Fields) -> int:
    """The width of one head."""
    hidden, heads = fields.required(*HIDDEN), fields.required(*HEADS)
    return fields.integer(*HEAD_DIM, default=max(1, hidden // heads), high=2**16)


def kv_heads_of(fields: Fields, heads: int) -> int:
    """Key-value heads: one for each head unless the configuration says fewer."""
    alone = fields.flag("multi_query") and not fields.flag("new_decoder_architecture")
    if alone or fields.find(*KV_HEADS)[1] is None:
        return 1 if alone else heads
    count = fields.required(*KV_HEADS)
    if heads % count:
        raise fields.error(fields.find(*KV_HEADS)[0], count, f"a divisor of the {heads} attention heads")
    return count


def _headed(fields: Fields, family: Family, layer: Layer) -> MixerSize:
    """Multi-head, grouped-query and multi-query attention, over everything or over a window."""
    hidden, heads, head_dim = fields.required(*HIDDEN), fields.required(*HEADS), head_dim_of(fields)
    sliding = layer.mixer is Mixer.SLIDING
    key_is_value = False
    if sliding and (other := fields.section("attention_other_setting")) is not None:
        heads = other.integer("num_attention_heads", default=heads)
        kv_heads = kv_heads_of(other, heads)
        head_dim = other.integer("head_dim", default=head_dim)
    else:
        kv_heads = layer.kv_heads or kv_heads_of(fields, heads)
    if not sliding and fields.find("global_head_dim")[1] is not None:
        head_dim = fields.required("global_head_dim")
        key_is_value = fields.flag("attention_k_eq_v")
        if key_is_value:
            kv_heads = fields.integer("num_global_key_value_heads", default=kv_heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", kv_heads, f"a divisor of the {heads} attention heads")
    queries, keys = heads * head_dim, kv_heads * head_dim
    stored = 0 if layer.shared_cache else 2 * keys
    projected = 0 if layer.shared_cache else (keys if key_is_value else 2 * keys)
    gate = queries if fields.flag("attn_output_gate") or fields.text("model_type") == "qwen3_next" else 0
    linear = hidden * (queries + projected + gate) + queries * hidden
    if family.head_gate:
        linear += hidden * heads
    bias = fields.flag("attention_bias", "use_bias", "qkv_bias", "bias")
    other_weights = (queries + projected) * (bias if family.qkv_bias is None else family.qkv_bias)
    other_weights += hidden * (bias if family.output_bias is None else family.output_bias)
    norm = family.qk_norm or ("head" if fields.flag("use_qk_norm", "qk_norm") else "none")
    if norm == "full":
        other_weights += queries + keys
    elif norm == "head":
        other_weights += head_dim * (1 if layer.shared_cache else 2)
    other_weights += heads if family.attention_sinks else 0
    group = AttentionGroup(
        AttentionType.SLIDING if sliding else AttentionType.FULL,
        layers=1,
        heads=heads,
        kv_heads=kv_heads,
        qk_dim=head_dim,
        v_dim=head_dim,
        kv_elements_per_token=stored,
        window=fields.required("sliding_window", "attention_chunk_size", high=2**40) if sliding else None,
    )
    if layer.mixer is not Mixer.SPARSE:
        return MixerSize(linear, other_weights, group)
    return _with_block_indexer(fields, MixerSize(linear, other_weights, group))


def _with_block_indexer(fields: Fields, size: MixerSize) -> MixerSize:
    """Sparse attention over blocks of tokens (MiniMax M3): each query reads the best blocks."""
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


def _latent(fields: Fields) -> MixerSize:
    """Multi-head latent attention, with or without the indexer that picks the tokens to read."""
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


def _compressed(fields: Fields, layer: Layer) -> MixerSize:
    """DeepSeek V4: one shared key-value head over a window, and compressed entries over everything before it."""
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


def _linear_attention(fields: Fields) -> MixerSize:
    """Gated delta net, Kimi delta attention or lightning attention, by the fields that are present."""
    if (kimi := fields.section("linear_attn_config")) is not None:
        return _kimi_delta(fields, kimi)
    if fields.find("linear_num_value_heads")[1] is None:
        return _lightning(fields)
    hidden = fields.required(*HIDDEN)
    keys, values = fields.required("linear_num_key_heads"), fields.required("linear_num_value_heads")
    key_dim = fields.required("linear_key_head_dim", high=2**16)
    value_dim = fields.required("linear_value_head_dim", high=2**16)
    kernel = fields.integer("linear_conv_kernel_dim", default=4, high=1024)
    mixed = 2 * keys * key_dim + values * value_dim
    linear = hidden * (mixed + values * value_dim + 2 * values) + values * value_dim * hidden
    other = mixed * kernel + 2 * values + value_dim
    state = values * key_dim * value_dim * _state_bytes(fields) + mixed * (kernel - 1) * _CONVOLUTION_BYTES
    return _stateful(AttentionType.LINEAR, linear, other, values, keys, key_dim, value_dim, state)


def _kimi_delta(fields: Fields, kimi: Fields) -> MixerSize:
    hidden, heads = fields.required(*HIDDEN), kimi.required("num_heads")
    dim, kernel = kimi.required("head_dim"), kimi.integer("short_conv_kernel_size", default=4, high=1024)
    width = heads * dim
    forget = hidden * dim + dim * width
    gate = hidden * width if kimi.flag("use_full_rank_gate") else forget
    linear = 3 * hidden * width + forget + gate + hidden * heads + width * hidden
    other = 3 * width * kernel + width + heads + dim
    state = heads * dim * dim * _state_bytes(fields) + 3 * width * (kernel - 1) * _CONVOLUTION_BYTES
    return _stateful(AttentionType.LINEAR, linear, other, heads, heads, dim, dim, state)


def _lightning(fields: Fields) -> MixerSize:
    hidden, heads, dim = fields.required(*HIDDEN), fields.required(*HEADS), head_dim_of(fields)
    width = heads * dim
    state = heads * dim * dim * _state_bytes(fields)
    return _stateful(AttentionType.LINEAR, 5 * hidden * width, width, heads, heads, dim, dim, state)


def _mamba(fields: Fields) -> MixerSize:
    """Mamba 2, under the names of Nemotron-H and of Granite 4."""
    hidden = fields.required(*HIDDEN)
    heads = fields.required("mamba_num_heads", "mamba_n_heads")
    dim = fields.required("mamba_head_dim", "mamba_d_head", high=2**16)
    states = fields.required("ssm_state_size", "mamba_d_state", high=2**16)
    groups = fields.integer("n_groups", "mamba_n_groups", default=1)
    kernel = fields.integer("conv_kernel", "mamba_d_conv", default=4, high=1024)
    inner = heads * dim
    convolved = inner + 2 * groups * states
    linear = hidden * (inner + convolved + heads) + inner * hidden
    bias = fields.flag("use_conv_bias", "mamba_conv_bias", default=True)
    other = convolved * (kernel + bias) + 3 * heads + inner
    state = heads * dim * states * _state_bytes(fields) + convolved * (kernel - 1) * _CONVOLUTION_BYTES
    return _stateful(AttentionType.MAMBA, linear, other, heads, groups, states, dim, state)


def _state_bytes(fields: Fields) -> int:
    """Bytes of one element of a recurrent state: 32 bits unless the configuration says 16."""
    dtype = fields.find("mamba_ssm_dtype", "mamba_ssm_cache_dtype")[1]
    return 2 if dtype in ("bfloat16", "float16") else 4


def _stateful(
    kind: AttentionType, linear: int, other: int, heads: int, kv_heads: int, qk_dim: int, v_dim: int, state: int
) -> MixerSize:
    group = AttentionGroup(
        kind,
        layers=1,
        heads=heads,
        kv_heads=kv_heads,
        qk_dim=qk_dim,
        v_dim=v_dim,
        kv_elements_per_token=0,
        state_bytes=state,
    )
    return MixerSize(linear, other, group)


def _with_indexer(group: AttentionGroup, *, index: int, read_topk: int) -> AttentionGroup:
    """The same attention with an indexer that keeps `index` elements a token and picks `read_topk` tokens."""
    return replace(
        group,
        kv_elements_per_token=group.kv_elements_per_token + index,
        index_elements_per_token=index,
        read_topk=read_topk,
    )
