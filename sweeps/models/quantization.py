"""In which precision a checkpoint is stored and which of its weights: `quantization_config` and ModelOpt's file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpuscout.sweeps.models.fields import Fields
from gpuscout.sweeps.models.parameters import Component, DecoderSize
from gpuscout.sweeps.precision import Precision

_DTYPES = {"float16": Precision.FP16, "half": Precision.FP16, "bfloat16": Precision.BF16, "float32": Precision.FP32}
_KV_NAMES = {"FP8": Precision.FP8, "INT8": Precision.INT8, "NVFP4": Precision.FP4}
_NVFP4_BITS, _MXFP4_BITS, _MXFP8_BITS = 4 + 8 / 16, 4 + 8 / 32, 8 + 8 / 32


@dataclass(frozen=True)
class Format:
    """A number format: the precision it counts as and the bits of one weight, scales included."""

    precision: Precision
    bits: float


@dataclass(frozen=True)
class Quantization:
    """`parameters` weights take `bits` bits each on average, the rest 16. `method` is None when there is none."""

    precision: Precision
    kv_precision: Precision
    parameters: int
    bits: float
    method: str | None = None


_FP8 = Format(Precision.FP8, Precision.FP8.weight_bits)
_NVFP4 = Format(Precision.FP4, _NVFP4_BITS)
_MXFP4 = Format(Precision.FP4, _MXFP4_BITS)
_INT8 = Format(Precision.INT8, Precision.INT8.weight_bits)
_INT8_WEIGHTS = Format(Precision.INT8_WEIGHT_ONLY, Precision.INT8_WEIGHT_ONLY.weight_bits)
_INT4_WEIGHTS = Format(Precision.INT4_WEIGHT_ONLY, Precision.INT4_WEIGHT_ONLY.weight_bits)
# ModelOpt's algorithms; MIXED_PRECISION is 4 bits in the experts (the MLPs of dense models), 8 bits elsewhere.
_ALGORITHMS = {
    "FP8": _FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": _FP8,
    "FP8_PB_WO": _FP8,
    "MXFP8": Format(Precision.FP8, _MXFP8_BITS),
    "NVFP4": _NVFP4,
    "NVFP4_AWQ": _NVFP4,
    "NVFP4_SVDQUANT": _NVFP4,
    "MXFP4": _MXFP4,
    "W4A8_MXFP4_FP8": _MXFP4,
    "W4A16_AWQ": _INT4_WEIGHTS,
    "W4A8_AWQ": _INT4_WEIGHTS,
    "W8A16": _INT8_WEIGHTS,
    "W8A8_SQ_PER_CHANNEL": _INT8,
    "INT8_SQ": _INT8,
    "MIXED_PRECISION": _NVFP4,
}
_METHODS = "fp8, fbgemm_fp8, mxfp4, mxfp8, nvfp4, awq, gptq, auto-round, compressed-tensors, bitsandbytes or modelopt"


def quantization_of(fields: Fields, size: DecoderSize) -> Quantization:
    """How the checkpoint is stored. Without any list of spared modules, the usual practice of each method holds."""
    stored = _dtype(fields)
    kv_default = Precision.BF16 if stored is Precision.FP32 else stored
    modelopt = fields.section("hf_quant_config")
    if modelopt is not None:
        modelopt = modelopt.section("quantization") or modelopt
    config = fields.section("quantization_config") or fields.section("compression_config")
    sections = [section for section in (modelopt, config) if section is not None]
    algorithm = next((found for section in sections if (found := section.text("quant_algo"))), None)
    method = config.text("quant_method") if config is not None else None
    mixed = None
    if algorithm is not None:
        method = "modelopt"
        if algorithm.upper() not in _ALGORITHMS:
            raise sections[0].error("quant_algo", algorithm, f"one of {', '.join(_ALGORITHMS)}")
        chosen = _ALGORITHMS[algorithm.upper()]
        mixed = _FP8 if algorithm.upper() == "MIXED_PRECISION" else None
    elif config is not None and method is not None:
        chosen, mixed = _format(fields, config, method.lower())
    else:
        return Quantization(stored, _kv_precision(sections, kv_default), 0, stored.weight_bits)
    spared = _spared(sections, size)
    if spared is None:
        spared = _usually_spared(fields, chosen, method.lower(), size)
    parameters, bits = _quantized(size, chosen, mixed, spared)
    return Quantization(chosen.precision, _kv_precision(sections, kv_default), parameters, bits, method)


def _dtype(fields: Fields) -> Precision:
    name = fields.text("torch_dtype", "dtype")
    if name is None or name == "auto":
        return Precision.BF16
    plain = name.removeprefix("torch.")
    if plain not in _DTYPES:
        raise fields.error("torch_dtype", name, f"one of {', '.join(_DTYPES)}")
    return _DTYPES[plain]


def _kv_precision(sections: Iterable[Fields], default: Precision) -> Precision:
    """The cache precision the checkpoint carries scales for, else that of its activations."""
    for section in sections:
        _, scheme = section.find("kv_cache_quant_algo", "kv_cache_scheme")
        if isinstance(scheme, str) and scheme.upper() in _KV_NAMES:
            return _KV_NAMES[scheme.upper()]
        if isinstance(scheme, dict):
            bits = section.checked_integer("kv_cache_scheme.num_bits", scheme.get("num_bits"), high=16)
            if bits == 8:
                return Precision.INT8 if scheme.get("type") == "int" else Precision.FP8
            if bits == 4:
                return Precision.FP4
    return default


def _format(fields: Fields, config: Fields, method: str) -> tuple[Format, Format | None]:
    """The format of the weights, and that of the others when the experts have their own."""
    match method:
        case "fp8" | "fbgemm_fp8" | "deepseek_fp8":
            block = config.items("weight_block_size", limit=2) or []
            area = 1
            for side in block:
                area *= config.checked_integer("weight_block_size", side, high=2**20)
            dense = Format(Precision.FP8, 8 + 32 / area) if len(block) == 2 else _FP8
            expert_type = fields.text("expert_dtype") or config.text("expert_dtype")
            return (_MXFP4, dense) if expert_type in ("fp4", "mxfp4") else (dense, None)
        case "mxfp4" | "gpt_oss_mxfp4":
            return _MXFP4, None
        case "mxfp8":
            return _ALGORITHMS["MXFP8"], None
        case "nvfp4" | "modelopt_fp4":
            return _NVFP4, None
        case "modelopt":
            return _FP8, None
        case "awq" | "gptq" | "gptq_marlin" | "awq_marlin" | "auto-round" | "auto_round" | "autoround":
            bits = config.integer("bits", "w_bit", default=4, high=8)
            return _integer_format(bits, _group_size(config, 128), zero_points=True), None
        case "compressed-tensors" | "compressed_tensors":
            return _compressed_tensors(config)
        case "bitsandbytes":
            if config.flag("load_in_8bit", "_load_in_8bit"):
                return _INT8, None
            nested = config.flag("bnb_4bit_use_double_quant")
            return Format(Precision.INT4_WEIGHT_ONLY, 4 + (8 / 64 if nested else 32 / 64)), None
    raise config.error("quant_method", method, _METHODS)


def _compressed_tensors(config: Fields) -> tuple[Format, Format | None]:
    """One format, or the smallest (in the experts or MLPs) and the largest (elsewhere) of several groups."""
    groups = config.section("config_groups")
    formats: list[Format] = []
    for name in list(groups.config)[:100] if groups is not None else ():
        group = groups.section(name) if groups is not None else None
        weights = group.section("weights") if group is not None else None
        if group is None or weights is None:
            continue
        bits, size = weights.integer("num_bits", default=8, high=8), _group_size(weights, None)
        if weights.text("type") == "float":
            scale = 8 / size if size and bits == 4 else 0.0
            formats.append(Format(Precision.FP4, bits + (scale or 0.5)) if bits == 4 else _FP8)
        elif bits == 8 and (group.config.get("input_activations") or config.text("format") == "int-quantized"):
            formats.append(_INT8)
        else:
            formats.append(_integer_format(bits, size, zero_points=weights.config.get("symmetric") is False))
    if not formats:
        raise config.error("config_groups", None, "at least one group with its weights")
    formats.sort(key=lambda found: found.bits)
    return formats[0], formats[-1] if formats[-1] != formats[0] else None


def _integer_format(bits: int, group: int | None, *, zero_points: bool) -> Format:
    """Integers with one 16-bit scale (and one zero point) per group."""
    overhead = (16 + (bits if zero_points else 0)) / group if group else 0.0
    precision = Precision.INT8_WEIGHT_ONLY if bits > 4 else Precision.INT4_WEIGHT_ONLY
    return Format(precision, bits + overhead)


def _group_size(config: Fields, default: int | None) -> int | None:
    """Weights that share one scale; None for whole rows (written -1, 0 or null)."""
    size = config.integer("group_size", "q_group_size", low=-1)
    return default if size is None else (size if size > 0 else None)


# Lists of modules that stay in 16 bits, under the names of the different methods, and what a module name is part of.
_SPARED_LISTS = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules", "exclude")
_MODULES: tuple[tuple[re.Pattern[str], tuple[Component, ...]], ...] = (
    (re.compile(r"shared?_?experts?(?!_?gate)"), (Component.SHARED_EXPERTS,)),
    (re.compile(r"experts"), (Component.ROUTED_EXPERTS,)),
    (re.compile(r"attn|attention|mixer"), (Component.MIXER,)),
    (re.compile(r"(mlp|feed_forward|ffn)$"), tuple(part for part in Component if part is not Component.MIXER)),
    (re.compile(r"(mlp|feed_forward|ffn)\W.*proj"), (Component.DENSE_MLP,)),
)
# Parts of attention that are small or that servers keep in 16 bits anyway: naming them spares nothing else.
_SMALL_PARTS = re.compile(r"norm|gate\b|indexer|conv|k_proj|v_proj|kv_|proj_[ab]\b|rotary")
_NOT_THE_DECODER = re.compile(r"vision|visual|mtp|lm_head|embed")


def _spared(sections: Iterable[Fields], size: DecoderSize) -> set[tuple[int, Component]] | None:
    """Layers and components whose matrices stay in 16 bits; None without any list."""
    lists = [names for section in sections for key in _SPARED_LISTS if (names := section.items(key, limit=50_000))]
    named = {part for names in lists for name in names if isinstance(name, str) for part in _named(name[:200])}
    every = range(len(size.layers))
    spared = {(number, part) for place, part in named for number in (every if place is None else (place,))}
    return spared if lists else None


def _named(pattern: str) -> list[tuple[int | None, Component]]:
    """What a name or pattern such as `model.layers.3.self_attn*` or `re:.*shared_experts.*` stands for.

    Layer numbers (None: all) and components. Patterns are read for the words in them, never run.
    """
    plain = pattern.removeprefix("re:").replace("\\", "").rstrip(".*$")
    if _NOT_THE_DECODER.search(plain):
        return []
    place = re.search(r"layers\.(\d{1,4})(?!\d)", plain)
    for words, components in _MODULES:
        if (found := words.search(plain)) is not None:
            if Component.MIXER in components and _SMALL_PARTS.search(plain, found.end()):
                return []
            return [(None if place is None else int(place.group(1)), component) for component in components]
    return []


def _usually_spared(fields: Fields, chosen: Format, method: str, size: DecoderSize) -> set[tuple[int, Component]]:
    """Without a list: MXFP4 is for experts only, and NVFP4 leaves the latent attention of MoE models alone."""
    every = range(len(size.layers))
    if not size.experts:
        return set()
    if method == "mxfp4":
        return {(layer, part) for layer in every for part in Component if part is not Component.ROUTED_EXPERTS}
    if chosen is _NVFP4 and fields.find("kv_lora_rank")[1] is not None:
        return {(layer, Component.MIXER) for layer in every}
    return set()


def _quantized(
    size: DecoderSize, chosen: Format, mixed: Format | None, spared: set[tuple[int, Component]]
) -> tuple[int, float]:
    """The quantised weights and their average bits. Of two formats, the smaller is for experts (or dense MLPs)."""
    small = Component.ROUTED_EXPERTS if size.experts else Component.DENSE_MLP
    parameters, bits = 0, 0.0
    for number, layer in enumerate(size.layers):
        for component, count in layer.linear.items():
            if (number, component) not in spared:
                parameters += count
                bits += count * (mixed if mixed is not None and component is not small else chosen).bits
    return parameters, bits / parameters if parameters else chosen.bits
