"""Counting the weights of a decoder, exactly where the architecture is known: tables, mixers, MLPs and experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from gpuscout.sweeps.models.architecture import AttentionGroup
from gpuscout.sweeps.models.attention import mixer_size
from gpuscout.sweeps.models.families import SHARED_EXPERT_IN_EVERY_MOE_LAYER, Family
from gpuscout.sweeps.models.fields import (
    CONTEXT,
    EXPERTS,
    EXPERTS_PER_TOKEN,
    HIDDEN,
    INTERMEDIATE,
    MAX_PARAMETERS,
    SHARED_EXPERTS,
    VOCABULARY,
    Fields,
)
from gpuscout.sweeps.models.layers import Layer, Mixer, Mlp


class Component(StrEnum):
    """Matrices that quantised checkpoints shrink or spare together."""

    MIXER = "mixer"
    DENSE_MLP = "dense MLP"
    SHARED_EXPERTS = "shared experts"
    ROUTED_EXPERTS = "routed experts"


@dataclass(frozen=True)
class LayerSize:
    """Weights of one layer: its matrices by component, and the rest (norms, biases, routers, convolutions).

    `mlp_width` is that of its dense MLP; None: it has none.
    """

    linear: Mapping[Component, int]
    other: int
    routed_bias: int = 0
    group: AttentionGroup | None = None
    mlp_width: int | None = None


@dataclass(frozen=True)
class DecoderSize:
    """Weights of a decoder. `layers` has one entry a layer, equal layers sharing one object."""

    layers: tuple[LayerSize, ...]
    table: int
    lookups: int
    head: int
    rest: int
    experts: int
    experts_per_token: int
    moe_layers: int

    def component(self, component: Component) -> int:
        """Weights of the matrices of one component in all layers."""
        return sum(layer.linear.get(component, 0) for layer in self.layers)

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
        idle = self.routed - (self.routed * self.experts_per_token // self.experts if self.experts else 0)
        return self.total - looked_up - idle


def decoder_size(fields: Fields, family: Family, layers: tuple[Layer, ...], *, tied: bool) -> DecoderSize:
    """Count everything but vision towers and multi-token-prediction layers."""
    hidden, vocabulary = fields.required(*HIDDEN), fields.required(*VOCABULARY)
    experts = fields.integer(*EXPERTS, default=0, low=0) if any(layer.mlp is Mlp.MOE for layer in layers) else 0
    sizes = {layer: _layer_size(fields, family, layer, experts) for layer in dict.fromkeys(layers)}
    table = vocabulary * hidden
    rest = hidden * (2 if family.centred_norms else 1)
    lookups = 0
    if family.learned_positions:
        lookups += hidden * fields.integer(*CONTEXT, default=0, low=0)
    if per_layer := fields.integer("hidden_size_per_layer_input", default=0, low=0):
        width = per_layer * len(layers)
        lookups += width * fields.integer("vocab_size_per_layer_input", default=vocabulary)
        rest += hidden * width + per_layer
    if fields.find("o_lora_rank")[1] is not None:
        streams = _streams(fields)
        rest += streams * streams * hidden + streams + 1
    size = DecoderSize(
        layers=tuple(sizes[layer] for layer in layers),
        table=table,
        lookups=lookups,
        head=0 if tied else table,
        rest=rest,
        experts=experts,
        experts_per_token=fields.required(*EXPERTS_PER_TOKEN, high=experts) if experts else 0,
        moe_layers=sum(layer.mlp is Mlp.MOE for layer in layers),
    )
    if size.total > MAX_PARAMETERS:
        raise fields.error(HIDDEN[0], hidden, f"sizes that together give at most {MAX_PARAMETERS:.0e} parameters")
    return size


def _layer_size(fields: Fields, family: Family, layer: Layer, experts: int) -> LayerSize:
    hidden = fields.required(*HIDDEN)
    linear: dict[Component, int] = {}
    other, group = family.layer_norms * hidden * (2 if family.centred_norms else 1), None
    if layer.mixer is not Mixer.NONE:
        mixer = mixer_size(fields, family, layer)
        linear[Component.MIXER], group = mixer.linear, mixer.group
        other += mixer.other
    if per_layer := fields.integer("hidden_size_per_layer_input", default=0, low=0):
        linear[Component.MIXER] = linear.get(Component.MIXER, 0) + 2 * hidden * per_layer
        other += hidden
    if fields.find("o_lora_rank")[1] is not None:
        streams = _streams(fields)
        other += 2 * ((2 + streams) * streams * (streams * hidden + 1) + 3)
    routed_bias, mlp_width = 0, None
    matrices = 3 if family.gated_mlp else 2
    if layer.mlp is Mlp.DENSE:
        width = mlp_width = layer.mlp_width or _dense_width(fields, hidden)
        linear[Component.DENSE_MLP] = matrices * hidden * width
        bias = fields.flag("mlp_bias", "use_bias") if family.mlp_bias is None else family.mlp_bias
        other += ((matrices - 1) * width + hidden) * bias
    elif layer.mlp is Mlp.MOE:
        width = fields.required("moe_intermediate_size", "moe_ffn_hidden_size", *INTERMEDIATE)
        latent = fields.integer("moe_latent_size", "routed_expert_hidden_size", default=0, low=0)
        linear[Component.ROUTED_EXPERTS] = experts * matrices * (latent or hidden) * width
        shared = _shared_width(fields, width)
        linear[Component.SHARED_EXPERTS] = matrices * hidden * shared + 2 * hidden * latent
        other += hidden * experts + experts * family.expert_bias
        other += hidden if shared and family.shared_expert_gate else 0
        other += latent if fields.flag("latent_moe_use_norm") else 0
        other += 4 * hidden + experts if fields.flag("enable_moe_block") else 0
        routed_bias = experts * ((matrices - 1) * width + hidden) * family.expert_bias
    return LayerSize(linear, other, routed_bias, group, mlp_width)


def _dense_width(fields: Fields, hidden: int) -> int:
    """The width of a dense MLP; where some layers are mixtures, `intermediate_size` may mean their experts."""
    names: tuple[str, ...] = ("dense_intermediate_size", "intermediate_size_mlp", *INTERMEDIATE)
    if fields.text("model_type") == "granitemoehybrid":
        names = ("shared_intermediate_size", *names)
    return fields.integer(*names, default=4 * hidden)


def _shared_width(fields: Fields, expert_width: int) -> int:
    """The summed width of the experts every token passes through, 0 without any."""
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
    if width is not None:
        return width
    return expert_width * fields.integer(*SHARED_EXPERTS, default=0, low=0, high=1024)


def _streams(fields: Fields) -> int:
    """Residual streams of DeepSeek V4's hyper-connections."""
    return fields.integer("hc_mult", default=4, high=64)


def attention_groups(size: DecoderSize) -> tuple[AttentionGroup, ...]:
    """The attention of all layers, equal layers in one group, in the order in which they first occur."""
    counts: dict[AttentionGroup, int] = {}
    for layer in size.layers:
        if layer.group is not None:
            counts[layer.group] = counts.get(layer.group, 0) + 1
    return tuple(replace(group, layers=count) for group, count in counts.items())
