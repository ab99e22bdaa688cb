"""The number format that each quantisation method stores weights in, from its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gpuscout.sweeps.models.fields import Fields
from gpuscout.sweeps.precision import Precision


@dataclass(frozen=True)
class Format:
    """A number format: the precision it counts as and the bits of one weight, scales included."""

    precision: Precision
    bits: float


@dataclass(frozen=True)
class Formats:
    """`main` is that of most weights. `other` is that of all but the experts (or dense MLPs), where it differs.

    `named` are those of modules that the settings name one by one; None: they stay in 16 bits.
    """

    main: Format
    other: Format | None = None
    named: tuple[tuple[str, Format | None], ...] = field(default=())


FP8 = Format(Precision.FP8, Precision.FP8.weight_bits)
NVFP4 = Format(Precision.FP4, 4 + 8 / 16)
MXFP4 = Format(Precision.FP4, 4 + 8 / 32)
_MXFP8 = Format(Precision.FP8, 8 + 8 / 32)
_INT8 = Format(Precision.INT8, Precision.INT8.weight_bits)
_INT8_WEIGHTS = Format(Precision.INT8_WEIGHT_ONLY, Precision.INT8_WEIGHT_ONLY.weight_bits)
_INT4_WEIGHTS = Format(Precision.INT4_WEIGHT_ONLY, Precision.INT4_WEIGHT_ONLY.weight_bits)
# ModelOpt's algorithms; MIXED_PRECISION is 4 bits in the experts (the MLPs of dense models), 8 bits elsewhere.
_ALGORITHMS = {
    "FP8": FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8,
    "FP8_PB_WO": FP8,
    "MXFP8": _MXFP8,
    "NVFP4": NVFP4,
    "NVFP4_AWQ": NVFP4,
    "NVFP4_SVDQUANT": NVFP4,
    "MXFP4": MXFP4,
    "W4A8_MXFP4_FP8": MXFP4,
    "W4A16_AWQ": _INT4_WEIGHTS,
    "W4A8_AWQ": _INT4_WEIGHTS,
    "W8A16": _INT8_WEIGHTS,
    "W8A8_SQ_PER_CHANNEL": _INT8,
    "INT8_SQ": _INT8,
    "MIXED_PRECISION": NVFP4,
}
_METHODS = (
    "fp8, fbgemm_fp8, mxfp4, mxfp8, nvfp4, awq, gptq, auto-round, compressed-tensors, bitsandbytes, quark, torchao, "
    "hqq or modelopt"
)
# Settings by which a method is known that is not named.
_TELLING = {
    "quant_type": "torchao",
    "global_quant_config": "quark",
    "config_groups": "compressed-tensors",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "_load_in_4bit": "bitsandbytes",
    "_load_in_8bit": "bitsandbytes",
    "weight_block_size": "fp8",
    "w_bit": "awq",
    "bits": "gptq",
}
_FORMAT_NAMES = {"e4m3": "fp8", "float8_e4m3fn": "fp8", "float-quantized": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}


def algorithm_formats(section: Fields, algorithm: str) -> Formats:
    """Return the formats of one of ModelOpt's algorithms."""
    if algorithm.upper() not in _ALGORITHMS:
        raise section.error("quant_algo", algorithm, f"one of {', '.join(_ALGORITHMS)}")
    mixed = FP8 if algorithm.upper() == "MIXED_PRECISION" else None
    return Formats(_ALGORITHMS[algorithm.upper()], mixed)


def method_of(config: Fields) -> str | None:
    """Return the method that the settings name or show by their other fields; None when they are empty.

    Raises ModelConfigError for settings that show none: weights are not taken to be unquantised then.
    """
    if (method := config.text("quant_method", "quantization_method")) is not None:
        return method
    if not any(value is not None and value != {} for value in config.config.values()):
        return None
    if (method := next((found for key, found in _TELLING.items() if config.has(key)), None)) is not None:
        return method
    for name in ("fmt", "format", "weight_format", "mode"):
        _, value = config.find(name)
        if isinstance(value, str) and value.lower() in _FORMAT_NAMES:
            return _FORMAT_NAMES[value.lower()]
    raise config.error("quant_method", None, _METHODS)


def method_formats(fields: Fields, config: Fields, method: str) -> Formats:
    """Return the formats of the weights. Raises ModelConfigError for a method that is not known."""
    match method.lower():
        case "fp8" | "fbgemm_fp8" | "deepseek_fp8" | "ptpc_fp8":
            block = config.items("weight_block_size", limit=2) or []
            area = 1
            for side in block:
                area *= config.checked_integer("weight_block_size", side, high=2**20)
            dense = Format(Precision.FP8, 8 + 32 / area) if len(block) == 2 else FP8
            expert_type = fields.text("expert_dtype") or config.text("expert_dtype")
            return Formats(MXFP4, dense) if expert_type in ("fp4", "mxfp4") else Formats(dense)
        case "mxfp4" | "gpt_oss_mxfp4":
            return Formats(MXFP4)
        case "mxfp8":
            return Formats(_MXFP8)
        case "nvfp4" | "modelopt_fp4" | "petit_nvfp4":
            return Formats(NVFP4)
        case "modelopt":
            return Formats(FP8)
        case (
            "awq"
            | "gptq"
            | "gptq_marlin"
            | "awq_marlin"
            | "auto-round"
            | "auto_round"
            | "autoround"
            | "intel/auto-round"
        ):
            bits = config.integer("bits", "w_bit", default=4, high=8)
            return Formats(integer_format(bits, _group_size(config, 128), zero_points=True))
        case "compressed-tensors" | "compressed_tensors":
            return _compressed_tensors(config)
        case "quark":
            return _quark(config)
        case "torchao":
            return Formats(_torchao(config))
        case "hqq":
            return Formats(_hqq(config))
        case "bitsandbytes":
            if config.flag("load_in_8bit", "_load_in_8bit"):
                return Formats(_INT8)
            nested = config.flag("bnb_4bit_use_double_quant")
            return Formats(Format(Precision.INT4_WEIGHT_ONLY, 4 + (8 / 64 if nested else 32 / 64)))
        case "eetq" | "experts_int8" | "tpu_int8":
            return Formats(_INT8_WEIGHTS)
    raise config.error("quant_method", method, _METHODS)


def _compressed_tensors(config: Fields) -> Formats:
    """Return one format, or the smallest (in the experts or MLPs) and the largest (elsewhere) of several groups."""
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
            formats.append(Format(Precision.FP4, bits + (scale or 0.5)) if bits == 4 else FP8)
        elif bits == 8 and (group.config.get("input_activations") or config.text("format") == "int-quantized"):
            formats.append(_INT8)
        else:
            formats.append(integer_format(bits, size, zero_points=weights.config.get("symmetric") is False))
    if not formats:
        raise config.error("config_groups", None, "at least one group with its weights")
    formats.sort(key=lambda found: found.bits)
    return Formats(formats[0], formats[-1] if formats[-1] != formats[0] else None)


def _quark(config: Fields) -> Formats:
    """Read AMD Quark's: one format for all layers and others for those that patterns name."""
    whole = config.section("global_quant_config")
    main = None if whole is None else _quark_format(whole)
    named: list[tuple[str, Format | None]] = []
    layers = config.section("layer_quant_config")
    for pattern in list(layers.config)[:10_000] if layers is not None else ():
        if layers is not None and (settings := layers.section(pattern)) is not None:
            named.append((pattern, _quark_format(settings)))
    if main is None:
        formats = [found for _, found in named if found is not None]
        if not formats:
            raise config.error("global_quant_config", None, "the format of the weights")
        main = formats[0]
    return Formats(main, named=tuple((pattern, found) for pattern, found in named if found != main))


def _quark_format(settings: Fields) -> Format | None:
    """Return the format of `weight`; None: not quantised. Of formats in several steps, the last is the one stored."""
    _, value = settings.find("weight")
    if isinstance(value, list | tuple) and value and isinstance(value[-1], dict):
        weight = Fields(value[-1], source=settings.source, path=f"{settings.path}weight.")
    elif (section := settings.section("weight") if not isinstance(value, list | tuple) else None) is not None:
        weight = section
    else:
        return None
    dtype, size = weight.text("dtype") or "", _group_size(weight, None)
    name = dtype.lower()
    whole = weight.text("qscheme") in (None, "per_tensor", "per_channel")
    if name in ("fp8_e4m3", "fp8_e5m2", "fp8"):
        return Format(Precision.FP8, 8.0 if whole or not size else 8 + 16 / size)
    if name in ("mxfp4", "mx_fp4", "fp4") or (name == "mx" and weight.text("mx_element_dtype") in ("fp4", "fp4_e2m1")):
        scale_bits = 8 if weight.text("scale_format") in (None, "e8m0", "fp8", "e4m3") else 16
        return Format(Precision.FP4, 4 + scale_bits / (size or 32))
    weights_only = settings.find("input_tensors")[1] is None
    if name in ("int8", "uint8") and not weights_only:
        return _INT8
    if name in ("int4", "uint4", "int8", "uint8"):
        return integer_format(int(name[-1]), None if whole else size or 128, zero_points=name.startswith("u"))
    raise weight.error("dtype", dtype, "fp8_e4m3, fp4, mxfp4, int8, uint8, int4 or uint4")


def _torchao(config: Fields) -> Format:
    """Read the format of torchao by the name of its type, alone or in a nested object with its settings."""
    _, kind = config.find("quant_type")
    size = None
    if isinstance(kind, dict):
        kind = kind.get("default", kind)
        if isinstance(kind, dict):
            data = kind.get("_data")
            size = data.get("group_size") if isinstance(data, dict) else None
            kind = kind.get("_type")
    name = re.sub(r"[^a-z0-9]", "", kind.lower()) if isinstance(kind, str) else ""
    if "float8weightonly" in name or "float8dynamic" in name:
        return FP8
    if "nvfp4" in name:
        return NVFP4
    if "int8dynamicactivationint4" in name or "int4weightonly" in name or "int4" in name:
        group = config.checked_integer("quant_type.group_size", 128 if size is None else size, high=2**20)
        return integer_format(4, group, zero_points=True)
    if "int8dynamicactivation" in name:
        return _INT8
    if "int8weightonly" in name:
        return _INT8_WEIGHTS
    raise config.error("quant_type", kind, "a float8, int8, int4 or NVFP4 type of torchao")


def _hqq(config: Fields) -> Format:
    """Read HQQ's: groups with a scale and a zero point of 16 bits each."""
    settings = config.section("quant_config") or config
    weights = settings.section("weight_quant_params") or settings
    bits, size = weights.integer("nbits", "bits", default=4, high=8), _group_size(weights, 64)
    whole = integer_format(bits, None, zero_points=False)
    return Format(whole.precision, bits + 32 / size if size else whole.bits)


def integer_format(bits: int, group: int | None, *, zero_points: bool) -> Format:
    """Return integers with one 16-bit scale (and one zero point) per group."""
    overhead = (16 + (bits if zero_points else 0)) / group if group else 0.0
    precision = Precision.INT8_WEIGHT_ONLY if bits > 4 else Precision.INT4_WEIGHT_ONLY
    return Format(precision, bits + overhead)


def _group_size(config: Fields, default: int | None) -> int | None:
    """Return weights that share one scale; None for whole rows (written -1, 0 or null)."""
    size = config.integer("group_size", "q_group_size", low=-1)
    return default if size is None else (size if size > 0 else None)
