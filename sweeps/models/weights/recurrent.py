"""Weights and states of the mixers without a growing cache: linear attention, Mamba, short convolutions."""

from __future__ import annotations

from gpuscout.sweeps.models.architecture import AttentionGroup, AttentionType
from gpuscout.sweeps.models.fields import HEADS, HIDDEN, Fields
from gpuscout.sweeps.models.weights.attention import MixerSize, head_dim_of

_MAMBA_HEADS = ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads")
_STATES = ("ssm_state_size", "mamba_d_state", "state_size")
_EXPAND = ("mamba_expand", "expand")
_KERNEL = ("conv_kernel", "mamba_d_conv")
_KERNEL_BIAS = ("use_conv_bias", "mamba_conv_bias")
_PROJECTION_BIAS = ("mamba_proj_bias", "use_mamba_bias")
_CONVOLUTION_BYTES = 2  # the last inputs of short convolutions are kept in 16 bits


def linear_attention(fields: Fields) -> MixerSize:
    """Return gated delta net, Kimi delta attention or lightning attention, by the fields that are present."""
    if (kimi := fields.section("linear_attn_config")) is not None:
        return _kimi_delta(fields, kimi)
    if fields.has("linear_num_heads"):
        return _kimi_delta(fields, fields)
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
    hidden, heads = fields.required(*HIDDEN), kimi.required("linear_num_heads", "num_heads")
    dim = kimi.required("linear_head_dim", "head_dim")
    kernel = kimi.integer("short_conv_kernel_size", "linear_conv_kernel_dim", default=4, high=1024)
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


def mamba(fields: Fields) -> MixerSize:
    """Return Mamba 2 where there are heads, else Mamba 1."""
    second = fields.text("model_type") == "mamba2" or fields.has(*_MAMBA_HEADS, "mamba_d_head", "mamba_head_dim")
    return _mamba_2(fields) if second else _mamba_1(fields)


def _mamba_2(fields: Fields) -> MixerSize:
    """Return Mamba 2, under the names of Nemotron-H, of Granite 4 and of its own family."""
    hidden = fields.required(*HIDDEN)
    expanded = fields.integer("mamba_d_ssm", default=hidden * fields.integer(*_EXPAND, default=2, high=64))
    own = fields.text("model_type") == "mamba2"
    head_dim: tuple[str, ...] = ("mamba_head_dim", "mamba_d_head", *(("head_dim",) if own else ()))
    names: tuple[str, ...] = (*_MAMBA_HEADS, *(("num_heads",) if own else ()))
    if fields.has(*names):
        heads = fields.required(*names)
        dim = fields.integer(*head_dim, default=max(1, expanded // heads), high=2**16)
    else:
        dim = fields.required(*head_dim, high=2**16)
        heads = expanded // dim
    states = fields.required(*_STATES, high=2**16)
    groups = fields.integer("n_groups", "mamba_n_groups", "mamba_ngroups", default=1)
    kernel = fields.integer(*_KERNEL, default=4, high=1024)
    inner = heads * dim
    convolved = inner + 2 * groups * states
    linear = hidden * (inner + convolved + heads) + inner * hidden
    other = convolved * (kernel + fields.flag(*_KERNEL_BIAS, default=True)) + 3 * heads
    other += inner if fields.flag("mamba_rms_norm", "rms_norm", default=True) else 0
    other += (inner + convolved + heads + hidden) * fields.flag(*_PROJECTION_BIAS)
    state = heads * dim * states * _state_bytes(fields) + convolved * (kernel - 1) * _CONVOLUTION_BYTES
    return _stateful(AttentionType.MAMBA, linear, other, heads, groups, states, dim, state)


def _mamba_1(fields: Fields) -> MixerSize:
    """Read Mamba 1: a state of its own for each channel."""
    hidden, states = fields.required(*HIDDEN), fields.required(*_STATES, high=2**16)
    inner = hidden * fields.integer(*_EXPAND, default=2, high=64)
    rank = fields.find("time_step_rank", "mamba_dt_rank")[1]
    if rank is None or rank == "auto":
        rank = -(-hidden // 16)
    rank = fields.checked_integer("time_step_rank", rank)
    kernel = fields.integer(*_KERNEL, default=4, high=1024)
    linear = hidden * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * hidden
    other = inner * (states + 1) + inner * (kernel + fields.flag(*_KERNEL_BIAS, default=True)) + inner
    other += (2 * inner + hidden) * fields.flag(*_PROJECTION_BIAS)
    if fields.text("model_type") == "jamba":
        other += rank + 2 * states  # norms of its time step and projections
    state = inner * states * _state_bytes(fields) + inner * (kernel - 1) * _CONVOLUTION_BYTES
    return _stateful(AttentionType.MAMBA, linear, other, inner, 1, states, 1, state)


def convolution(fields: Fields) -> MixerSize:
    """Read LFM2's gated short convolution over the channels, which keeps its last inputs."""
    hidden = fields.required(*HIDDEN)
    kernel = fields.integer("conv_L_cache", "conv_kernel", default=3, high=1024)
    bias = fields.flag("conv_bias")
    state = kernel * hidden * _CONVOLUTION_BYTES
    other = hidden * kernel + 5 * hidden * bias
    return _stateful(AttentionType.CONVOLUTION, 4 * hidden * hidden, other, hidden, 1, 0, 1, state)


def _state_bytes(fields: Fields) -> int:
    """Return bytes of one element of a recurrent state: 32 bits unless the configuration says 16."""
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
