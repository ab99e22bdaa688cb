"""From a Hugging Face `config.json` of any layout to a `ModelSpec`, or to an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuscout.sweeps.errors import ModelConfigError, NotCausalError
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.attention import kv_heads_of
from gpuscout.sweeps.models.families import FAMILIES, IMPLIED_FIELDS, NOT_CAUSAL, NOT_CAUSAL_HEADS, Family
from gpuscout.sweeps.models.fields import CONTEXT, HEADS, HIDDEN, VOCABULARY, Fields, describe
from gpuscout.sweeps.models.layers import layers_of
from gpuscout.sweeps.models.parameters import attention_groups, decoder_size
from gpuscout.sweeps.models.quantization import quantization_of
from gpuscout.sweeps.models.vision import vision_parameters

_TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "text_model_config")


def architecture_from_config(config: Mapping[str, Any], *, name: str, source: str | None = None) -> ModelSpec:
    """Understand a configuration. `source` (a path or address) is where errors say the problem is; else `name`.

    A ModelOpt `hf_quant_config.json` goes into the key `hf_quant_config`. Multi-token-prediction layers are left
    out. An unknown `model_type` with the usual fields gives an architecture marked `approximate`.
    Raises ModelConfigError.
    """
    source = source or name
    if not isinstance(config, Mapping):
        raise ModelConfigError(f"{source}: found {describe(config)}, expected an object of fields")
    fields = _flattened(config, source)
    model_type = fields.text("model_type") or ""
    if len(model_type) > 64 or not model_type.isprintable():
        raise fields.error("model_type", model_type, "the short name of an architecture")
    if model_type in IMPLIED_FIELDS:
        fields = Fields({**IMPLIED_FIELDS[model_type], **fields.config}, source=source)
    _refuse_other_models(fields, model_type)
    family = FAMILIES.get(model_type, Family())
    layers = layers_of(fields, family)
    tied = fields.flag("tie_word_embeddings", default=family.tied)
    size = decoder_size(fields, family, layers, tied=tied)
    groups = attention_groups(size)
    if not groups:
        raise fields.error(
            "num_hidden_layers", len(layers), "at least one layer with attention, linear attention or Mamba"
        )
    hidden, heads = fields.required(*HIDDEN), fields.required(*HEADS)
    vision = vision_parameters(fields, fields.text("multimodal_model_type"), hidden)
    quantization = quantization_of(fields, size)
    latent = fields.find("kv_lora_rank", "o_lora_rank")[1] is not None
    searched = [layer.kv_heads for layer in layers if layer.kv_heads]
    return ModelSpec(
        name=name,
        model_type=model_type or "unknown",
        total_parameters=size.total + vision,
        active_parameters=size.active,
        embedding_parameters=size.table + size.lookups,
        head_parameters=size.head,
        routed_expert_parameters=size.routed,
        vision_parameters=vision,
        linear_parameters=size.linear,
        tied_embeddings=tied,
        layers=len(layers),
        moe_layers=size.moe_layers,
        experts=size.experts,
        experts_per_token=size.experts_per_token,
        hidden_size=hidden,
        attention_heads=heads,
        kv_heads=1 if latent else max(searched, default=0) or kv_heads_of(fields, heads),
        vocab_size=fields.required(*VOCABULARY),
        max_context=fields.integer(*CONTEXT, high=2**40),
        attention=groups,
        precision=quantization.precision,
        kv_precision=quantization.kv_precision,
        native_quantized_parameters=quantization.parameters,
        native_weight_bits=quantization.bits,
        quantization_method=quantization.method,
        approximate=model_type not in FAMILIES,
        mlp_widths=size.mlp_widths,
    )


def _flattened(config: Mapping[str, Any], source: str) -> Fields:
    """The language model's fields; of the outer ones, those that the inner configuration does not repeat."""
    outer = Fields(config, source=source)
    for name in _TEXT_SECTIONS:
        if (inner := outer.section(name)) is not None:
            outside = {key: value for key, value in config.items() if key not in _TEXT_SECTIONS}
            inside = {key: value for key, value in inner.config.items() if value is not None}
            merged = {**outside, "multimodal_model_type": config.get("model_type"), **inside}
            return Fields(merged, source=source)
    return outer


def _refuse_other_models(fields: Fields, model_type: str) -> None:
    """Encoders, encoder-decoders and models with a head that generates no text."""
    if model_type in NOT_CAUSAL:
        raise _not_causal(fields, "model_type", model_type)
    if fields.config.get("is_encoder_decoder") is True:
        raise _not_causal(fields, "is_encoder_decoder", True)
    heads = fields.items("architectures") or []
    if heads and all(isinstance(head, str) and head.endswith(NOT_CAUSAL_HEADS) for head in heads):
        raise _not_causal(fields, "architectures", heads[0])


def _not_causal(fields: Fields, field: str, found: object) -> NotCausalError:
    error = fields.error(field, found, "a causal language model")
    return NotCausalError(error.message, hint="gpuscout estimates models that generate text token by token")
