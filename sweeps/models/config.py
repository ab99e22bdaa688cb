"""From a Hugging Face `config.json` of any layout to a `ModelSpec`, or to an error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuscout.sweeps.errors import ModelConfigError, NotCausalError
from gpuscout.sweeps.models.approximate import assumed_family, assumptions
from gpuscout.sweeps.models.architecture import AttentionGroup, AttentionType, ModelSpec
from gpuscout.sweeps.models.families import FAMILIES, IMPLIED_FIELDS, NOT_CAUSAL, NOT_CAUSAL_HEADS
from gpuscout.sweeps.models.fields import CONTEXT, HEADS, HIDDEN, KV_HEADS, VOCABULARY, Fields, describe
from gpuscout.sweeps.models.layers import layers_of
from gpuscout.sweeps.models.stored.quantization import quantization_of
from gpuscout.sweeps.models.weights.parameters import attention_groups, decoder_size
from gpuscout.sweeps.models.weights.vision import tower_notes, vision_parameters

# Where the language model's fields are nested; the thinker of an omni model has a text configuration of its own.
_TEXT_SECTIONS = (
    "thinker_config",
    "text_config",
    "llm_config",
    "language_config",
    "text_model_config",
    "language_model_config",
)
# Groups of settings that some families nest; their fields are read as if they stood outside.
_GROUPS = ("attn_config", "ffn_config", "attention_config", "mlp_config", "moe_config", "ssm_config", "ssm_cfg")


def architecture_from_config(
    config: Mapping[str, Any],
    *,
    name: str,
    source: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Understand a configuration. `source` (a path or address) is where errors say the problem is; else `name`.

    `defaults` supply what the configuration leaves out, nested as it is. A ModelOpt `hf_quant_config.json` goes into
    the key `hf_quant_config`. Multi-token-prediction layers are left out. An unknown `model_type` with the usual
    fields gives an architecture that is `approximate` and says why in its `notes`; one that describes more than was
    understood is refused. Raises ModelConfigError.
    """
    source = source or name
    if not isinstance(config, Mapping):
        raise ModelConfigError(f"{source}: found {describe(config)}, expected an object of fields")
    fields = _flattened(config, source, defaults or {})
    model_type = fields.text("model_type") or ""
    if len(model_type) > 64 or not model_type.isprintable():
        raise fields.error("model_type", model_type, "the short name of an architecture")
    _refuse_other_models(fields, model_type)
    fields.defaults = {**IMPLIED_FIELDS.get(model_type, {}), **fields.defaults}
    if model_type not in FAMILIES:
        fields.hint = "this kind of model is not known, and the usual fields do not describe it"
    family = FAMILIES.get(model_type) or assumed_family(fields)
    layers = layers_of(fields, family)
    tied = fields.flag("tie_word_embeddings", default=family.tied)
    size = decoder_size(fields, family, layers, tied=tied)
    groups = attention_groups(size)
    if not groups:
        raise fields.error(
            "num_hidden_layers", len(layers), "at least one layer with attention, linear attention or Mamba"
        )
    hidden = fields.required(*HIDDEN)
    multimodal = fields.text("multimodal_model_type")
    vision = vision_parameters(fields, multimodal, hidden)
    quantization = quantization_of(fields, size)
    notes = assumptions(fields, model_type, len(layers), known=model_type in FAMILIES)
    notes += tuple(tower_notes(fields, multimodal, vision, size.total))
    heads, kv_heads = _model_heads(fields, groups)
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
        kv_heads=kv_heads,
        vocab_size=fields.required(*VOCABULARY),
        max_context=fields.integer(*CONTEXT, high=2**40),
        attention=groups,
        precision=quantization.precision,
        kv_precision=quantization.kv_precision,
        native_quantized_parameters=quantization.parameters,
        native_weight_bits=quantization.bits,
        quantization_method=quantization.method,
        approximate=bool(notes),
        mlp_widths=size.mlp_widths,
        notes=notes,
    )


def _model_heads(fields: Fields, groups: tuple[AttentionGroup, ...]) -> tuple[int, int]:
    """Return the heads for queries, and for keys and values, of the model: its own, else the most of a layer."""
    attending = [g for g in groups if g.type in (AttentionType.FULL, AttentionType.SLIDING, AttentionType.MLA)]
    stated = fields.find(*HEADS)[1]
    heads = stated if attending and isinstance(stated, int) else max(g.heads for g in attending or groups)
    if any(g.type is AttentionType.MLA for g in attending) or fields.has("o_lora_rank"):
        return heads, 1
    stated = fields.find(*KV_HEADS)[1]
    full = [g.kv_heads for g in attending if g.heads == heads] or [g.kv_heads for g in attending or groups]
    return heads, stated if attending and isinstance(stated, int) and heads % stated == 0 else max(full)


def _flattened(config: Mapping[str, Any], source: str, defaults: Mapping[str, Any]) -> Fields:
    """Return the language model's fields; of the outer ones, those that the inner configuration does not repeat."""
    return Fields(_flat(config, source), source=source, defaults=_flat(defaults, source))


def _flat(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    flat = dict(config)
    for _ in _TEXT_SECTIONS:
        outer = Fields(flat, source=source)
        section = next((found for name in _TEXT_SECTIONS if (found := outer.section(name)) is not None), None)
        if section is None:
            break
        outside = {key: value for key, value in flat.items() if key not in _TEXT_SECTIONS}
        inside = {key: value for key, value in section.config.items() if value is not None}
        kind = flat.get("multimodal_model_type", flat.get("model_type"))
        tied = flat.get("tie_word_embeddings")  # that of the whole model decides
        flat = {**section.config, **outside, "multimodal_model_type": kind, **inside}
        if tied is not None:
            flat["tie_word_embeddings"] = tied
    for name in _GROUPS:
        if isinstance(group := flat.get(name), Mapping):
            flat = {**{key: value for key, value in group.items() if key != "model_type"}, **flat}
    return flat


def _refuse_other_models(fields: Fields, model_type: str) -> None:
    """Refuse encoders, encoder-decoders and models with a head that generates no text."""
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
