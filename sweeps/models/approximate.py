"""Assumptions about a model of an unknown family, and the parts of its configuration that were not understood."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gpuscout.sweeps.errors import ModelConfigError
from gpuscout.sweeps.models.families import Family
from gpuscout.sweeps.models.fields import KV_HEADS, Fields

# Activations that come with a gate, or without one.
_GATED = re.compile(r"glu|silu|swish|gelu_pytorch_tanh")
_PLAIN = re.compile(r"relu|gelu|xielu|tanh|quick")
# Names of figures that decide on weights and caches.
_STRUCTURE = re.compile(
    r"head|expert|moe|mlp|ffn|intermediate|attn|attention|_kv|kv_|layer|hidden|width|_dim|dim_|_rank|_state|state_"
    r"|conv|window|pattern|top_?k|mamba|ssm|recurrent"
)
# Mixers of tokens that are no attention: a model that has them is not estimated as one that only attends.
_OTHER_MIXERS = re.compile(
    r"mamba|ssm|rwkv|lru|recurrent|retention|hyena|linear_attn|linear_key|linear_value|delta|kda|conv_|_conv"
    r"|state_size|d_state|dt_rank|time_step|time_mix|cross_attention|cross_decoder|yoco|altup|mem_blocks"
)
# Settings that have such names and decide on neither; and groups that describe something beside the decoder.
_NO_STRUCTURE = re.compile(
    r"dropout|drop|_eps|epsilon|init|std|coef|loss|scal|theta|token|bias|implementation|impl$|softcap|cap$|clip|mult"
    r"|layer_norm|layernorm|norm_|_norm|aux|output_|use_cache|router|freq|rope|rotary|partial|pdrop|chunk|act$|_fn$"
    r"|num_nextn|mtp|max_|seq|version|pretraining|classifier|head_type|prefix|multiplier|factor|_type$|jitter|temper"
)
_BY_LAYER = "per_layer_config"  # a group that is read as a whole, by numbers of layers
_OTHER_GROUPS = re.compile(
    r"vision|visual|image|video|audio|speech|sound|talker|wav|code_predictor|codec|rope|rotary|quant|compress|generation"
    r"|auto_map|label|task|loss|token|lora|adapter|projector|perceiver|connector|former|encoder|draft|mtp|eagle"
    r"|specul|norm|init|act|dropout|router|scal|sparsity|peft|tower|mm_|resampler|dflash"
)


def assumed_family(fields: Fields) -> Family:
    """Return the rules of a decoder of no known family: a gated MLP where the activation is one's."""
    activation = fields.text("hidden_act", "hidden_activation", "activation_function", "activation", "mlp_hidden_act")
    plain = activation is not None and not _GATED.search(activation) and _PLAIN.search(activation) is not None
    return Family(gated_mlp=not plain)


def assumptions(fields: Fields, model_type: str, layers: int, *, known: bool) -> tuple[str, ...]:
    """Return the assumptions made, in words; none for a known family that is described as usual.

    Raises ModelConfigError for a model of no known family that describes more than was understood.
    """
    unread = sorted(_unread_groups(fields))
    if known:
        return (f"not read: {', '.join(unread)}",) if unread else ()
    figures = sorted(_unread_figures(fields))
    strange = unread + [name for name in figures if _OTHER_MIXERS.search(name)]
    strange += [
        name
        for name, value in fields.config.items()
        if isinstance(value, list) and len(value) == layers and layers > 1 and name not in {*fields.seen, *strange}
    ]
    if strange:
        raise ModelConfigError(
            f"{fields.source}: the kind of model {model_type or '(without model_type)'} is not supported: "
            f"unknown fields {', '.join(strange[:6])}",
            hint="its layers differ from the usual ones, and a guess would be far off",
        )
    notes = [f"model_type {model_type or '(none)'} is not known: counted as a decoder of the usual kind"]
    if fields.find("hidden_act", "hidden_activation", "activation_function", "activation", "mlp_hidden_act")[1] is None:
        notes.append("MLPs assumed to have a gate")
    if not fields.has(*KV_HEADS, "kv_lora_rank", "multi_query"):
        notes.append("as many heads for keys and values as for queries assumed")
    if figures:
        notes.append(f"not read: {', '.join(figures)}")
    return tuple(notes)


def _unread_groups(fields: Fields) -> Iterator[str]:
    """Yield nested settings that by their names decide on weights or caches and that nobody asked for."""
    for name, group in fields.config.items():
        if not isinstance(group, Mapping) or _OTHER_GROUPS.search(name) or name == _BY_LAYER:
            continue
        for key, value in group.items():
            if _structural(key, value) and not {key, f"{name}.{key}"} & fields.seen:
                yield f"{name}.{key}"


def _unread_figures(fields: Fields) -> Iterator[str]:
    """Yield the same of settings that are not nested."""
    for name, value in fields.config.items():
        if not isinstance(value, Mapping) and _structural(name, value) and name not in fields.seen:
            yield name


def _structural(name: object, value: Any) -> bool:
    """Return whether a setting is a figure (or several) that could decide on weights or caches."""
    if not isinstance(name, str) or not _STRUCTURE.search(name) or _NO_STRUCTURE.search(name):
        return False
    if isinstance(value, bool):
        return value
    return (isinstance(value, int | float) and value > 1) or (isinstance(value, list | tuple) and len(value) > 0)
