"""Counting the weights of a decoder, exactly where the architecture is known: tables, mixers, MLPs and experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from gpuscout.sweeps.models.architecture import AttentionGroup
from gpuscout.sweeps.models.families import SHARED_EXPERT_IN_EVERY_MOE_LAYER, Family
from gpuscout.sweeps.models.fields import (
    CONTEXT,
    EXPERT_WIDTH,
    EXPERTS,
    EXPERTS_PER_TOKEN,
    HIDDEN,
    INTERMEDIATE,
    MAX_PARAMETERS,
    SHARED_EXPERTS,
    VOCABULARY,
    Fields,
)
from gpuscout.sweeps.models.layers import Layer, Mlp
from gpuscout.sweeps.models.weights.mixers import mixer_sizes


class Component(StrEnum):
    """Matrices that quantised checkpoints shrink or spare together."""

    MIXER = "mixer"
    DENSE_MLP = "dense MLP"
    SHARED_EXPERTS = "shared experts"
    ROUTED_EXPERTS = "routed experts"


@dataclass(frozen=True)
class LayerSize:
    """Weights of one layer: its matrices by component, and the rest (norms, biases, routers, convolutions).

    `mlp_width` is that of its dense MLP; None: it has none. `experts` are those of this layer.
    """

    linear: Mapping[Component, int]
    other: int
    routed_bias: int = 0
    groups: tuple[AttentionGroup, ...] = ()
    mlp_width: int | None = None
    experts: int = 0
    experts_per_token: int = 0

    @property
    def idle(self) -> int:
        """Weights of the experts that a token is not routed to."""
        routed = self.linear.get(Component.ROUTED_EXPERTS, 0) + self.routed_bias
        return routed - routed * self.experts_per_token // self.experts if self.experts else 0


@dataclass(frozen=True)
class DecoderSize:
    """Weights of a decoder. `layers` has one entry a layer, equal layers sharing one object."""

    layers: tuple[LayerSize, ...]
    table: int
    lookups: int
    head: int
    rest: int

    def component(self, component: Component) -> int:
        """Return weights of the matrices of one component in all layers."""
        return sum(layer.linear.get(component, 0) for layer in self.layers)

    @property
    def experts(self) -> int:
        """Routed experts of a layer that has some, the most where layers differ."""
        return max((layer.experts for layer in self.layers), default=0)

    @property
    def experts_per_token(self) -> int:
        return max((layer.experts_per_token for layer in self.layers), default=0)

    @property
    def moe_layers(self) -> int:
        return sum(layer.experts > 0 for layer in self.layers)

    @property
    def linear(self) -> int:
        return sum(sum(layer.linear.values()) for layer in self.layers)

    @property
    def routed(self) -> int:
        """All routed experts with their biases."""
        return self.component(Component.ROUTED_EXPERTS) + sum(layer.routed_bias for layer in self.layers)

    @property
    def mlp_widths(self) -> tuple[int, ...]:
        """The different widths of the dense MLPs, ascending."""
        return tuple(sorted({layer.mlp_width for layer in self.layers if layer.mlp_width is not None}))

    @property
    def total(self) -> int:
        in_layers = self.linear + sum(layer.other + layer.routed_bias for layer in self.layers)
        return self.table + self.lookups + self.head + self.rest + in_layers

    @property
    def active(self) -> int:
        """Weights that one token is multiplied with: not the tables, unless the table is also the output projection."""
        looked_up = self.lookups + (self.table if self.head else 0)
        return self.total - looked_up - sum(layer.idle for layer in self.layers)


def decoder_size(fields: Fields, family: Family, layers: tuple[Layer, ...], *, tied: bool) -> DecoderSize:
    """Count everything but vision towers and multi-token-prediction layers."""
    hidden, vocabulary = fields.required(*HIDDEN), fields.required(*VOCABULARY)
    sizes: dict[tuple[Layer, Fields], LayerSize] = {}
    placed = list(zip(layers, fields.of_layers(len(layers)), strict=True))
    for layer, view in dict.fromkeys(placed):
        sizes[layer, view] = _layer_size(view, family, layer)
    table = vocabulary * hidden
    size = DecoderSize(
        layers=tuple(sizes[key] for key in placed),
        table=table,
        lookups=_lookups(fields, family, len(layers)),
        head=0 if tied else table,
        rest=_outside_the_layers(fields, family, len(layers)),
    )
    if size.total > MAX_PARAMETERS:
        raise fields.error(HIDDEN[0], hidden, f"sizes that together give at most {MAX_PARAMETERS:.0e} parameters")
    return size


def _lookups(fields: Fields, family: Family, layers: int) -> int:
    """Count the tables beside that of the tokens, which are only looked up."""
    lookups = 0
    if family.learned_positions:
        lookups += fields.required(*HIDDEN) * fields.integer(*CONTEXT, default=0, low=0)
    if per_layer := fields.integer("hidden_size_per_layer_input", default=0, low=0):
        vocabulary = fields.integer("vocab_size_per_layer_input", default=fields.required(*VOCABULARY))
        lookups += per_layer * layers * vocabulary
    return lookups


def _outside_the_layers(fields: Fields, family: Family, layers: int) -> int:
    """Return norms, biases and projections that belong to no layer."""
    hidden = fields.required(*HIDDEN)
    rest = family.outer_norms * hidden * (2 if family.centred_norms else 1)
    rest += fields.required(*VOCABULARY) * family.head_bias
    if per_layer := fields.integer("hidden_size_per_layer_input", default=0, low=0):
        rest += hidden * per_layer * layers + per_layer
    if streams := fields.integer("altup_num_inputs", default=0, low=0, high=64):
        rest += 2 * (streams - 1) * hidden * hidden
    if fields.has("o_lora_rank"):
        streams = _streams(fields)
        rest += streams * streams * hidden + streams + 1
    return rest


def _layer_size(fields: Fields, family: Family, layer: Layer) -> LayerSize:
    hidden = fields.required(*HIDDEN)
    linear: dict[Component, int] = {}
    other = family.layer_norms * hidden * (2 if family.centred_norms else 1)
    mixers = mixer_sizes(fields, family, layer)
    if mixers:
        linear[Component.MIXER] = sum(mixer.linear for mixer in mixers)
        other += sum(mixer.other for mixer in mixers)
    if per_layer := fields.integer("hidden_size_per_layer_input", default=0, low=0):
        linear[Component.MIXER] = linear.get(Component.MIXER, 0) + 2 * hidden * per_layer
        other += hidden
    if fields.has("altup_num_inputs"):
        linear[Component.MIXER] += _alternating(fields, hidden)
    if fields.has("o_lora_rank"):
        streams = _streams(fields)
        other += 2 * ((2 + streams) * streams * (streams * hidden + 1) + 3)
    groups = tuple(mixer.group for mixer in mixers)
    matrices = 3 if family.gated_mlp else 2
    if layer.mlp is Mlp.DENSE:
        width = layer.mlp_width or _dense_width(fields, hidden)
        linear[Component.DENSE_MLP] = matrices * hidden * width
        bias = fields.flag("mlp_bias", "use_bias") if family.mlp_bias is None else family.mlp_bias
        other += ((matrices - 1) * width + hidden) * bias
        return LayerSize(linear, other, groups=groups, mlp_width=width)
    if layer.mlp is not Mlp.MOE:
        return LayerSize(linear, other, groups=groups)
    experts = fields.required(*EXPERTS)
    width = fields.required(*EXPERT_WIDTH, *INTERMEDIATE)
    latent = fields.integer("moe_latent_size", "routed_expert_hidden_size", default=0, low=0)
    linear[Component.ROUTED_EXPERTS] = experts * matrices * (latent or hidden) * width
    shared = _shared_width(fields, width)
    linear[Component.SHARED_EXPERTS] = matrices * hidden * shared + 2 * hidden * latent
    unused = fields.integer("zero_expert_num", default=0, low=0)  # LongCat: chosen like experts, but without weights
    other += hidden * (experts + unused) + experts * family.expert_bias
    other += hidden if shared and family.shared_expert_gate else 0
    other += latent if fields.flag("latent_moe_use_norm") else 0
    other += 4 * hidden + experts if fields.flag("enable_moe_block") else 0
    chosen = fields.required(*EXPERTS_PER_TOKEN, high=experts + unused)
    return LayerSize(
        linear,
        other,
        routed_bias=experts * ((matrices - 1) * width + hidden) * family.expert_bias,
        groups=groups,
        experts=experts,
        experts_per_token=round(chosen * experts / (experts + unused)),
    )


def _dense_width(fields: Fields, hidden: int) -> int:
    """Return the width of a dense MLP; where some layers are mixtures, `intermediate_size` may mean their experts."""
    names: tuple[str, ...] = ("dense_intermediate_size", "intermediate_size_mlp", *INTERMEDIATE)
    match fields.text("model_type"):
        case "granitemoehybrid":
            names = ("shared_intermediate_size", *names)
        case "qwen":  # whose figure counts both halves of the gated MLP
            return fields.required("intermediate_size") // 2
        case "lfm2":
            return _adjusted_width(fields)
    ratio = fields.number("expansion_ratio", "intermediate_multiple_size", default=4.0, low=0.01, high=100.0)
    return fields.integer(*names, default=int(ratio * hidden))


def _adjusted_width(fields: Fields) -> int:
    """Return the width of LFM2: two thirds of the figure, times a multiplier, rounded up, unless it says otherwise."""
    width = fields.required("block_ff_dim", "intermediate_size")
    if not fields.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = int(fields.number("block_ffn_dim_multiplier", default=1.0, low=0.01, high=100.0) * int(2 * width / 3))
    multiple = fields.integer("block_multiple_of", default=256)
    return -(-width // multiple) * multiple


def _alternating(fields: Fields, hidden: int) -> int:
    """Count Gemma 3n's predictions between several streams of the hidden state, and a low-rank residual."""
    streams = fields.required("altup_num_inputs", high=64)
    rank = fields.integer("laurel_rank", default=64)
    predicted = streams**3 + streams**2 + streams * hidden + 2 * hidden
    return predicted + 2 * hidden * rank + hidden


def _shared_width(fields: Fields, expert_width: int) -> int:
    """Return the summed width of the experts every token passes through, 0 without any."""
    if fields.has("zero_expert_num") or fields.flag("use_residual"):  # LongCat, Arctic: a dense MLP beside the experts
        return fields.required(*INTERMEDIATE)
    if fields.text("model_type") in SHARED_EXPERT_IN_EVERY_MOE_LAYER:
        return expert_width
    if fields.flag("enable_moe_block"):  # Gemma 4: the dense MLP beside the experts
        return fields.required(*INTERMEDIATE)
    width = fields.integer(
        "share_expert_dim",
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
        low=0,
    )
    if not fields.flag("use_mixed_mlp_moe", default=True):
        return 0
    if width is not None:
        return width
    return expert_width * fields.integer(*SHARED_EXPERTS, default=0, low=0, high=1024)


def _streams(fields: Fields) -> int:
    """Return residual streams of DeepSeek V4's hyper-connections."""
    return fields.integer("hc_mult", default=4, high=64)


def attention_groups(size: DecoderSize) -> tuple[AttentionGroup, ...]:
    """Return the attention of all layers, equal layers in one group, in the order in which they first occur."""
    counts: dict[AttentionGroup, int] = {}
    for layer in size.layers:
        for group in layer.groups:
            counts[group] = counts.get(group, 0) + 1
    return tuple(replace(group, layers=count) for group, count in counts.items())
