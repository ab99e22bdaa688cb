"""In which precision a checkpoint is stored and which of its weights: `quantization_config` and ModelOpt's file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpuscout.sweeps.models.fields import Fields
from gpuscout.sweeps.models.stored.formats import NVFP4, Formats, algorithm_formats, method_formats, method_of
from gpuscout.sweeps.models.weights.parameters import Component, DecoderSize
from gpuscout.sweeps.precision import Precision

_DTYPES = {"float16": Precision.FP16, "half": Precision.FP16, "bfloat16": Precision.BF16, "float32": Precision.FP32}
_SECTIONS = ("quantization_config", "compression_config", "quantization")  # the last is that of MLX
_KV_NAMES = {"FP8": Precision.FP8, "INT8": Precision.INT8, "NVFP4": Precision.FP4}


@dataclass(frozen=True)
class Quantization:
    """A quantisation: `parameters` weights take `bits` bits on average, the rest 16. `method` None: there is none."""

    precision: Precision
    kv_precision: Precision
    parameters: int
    bits: float
    method: str | None = None


def quantization_of(fields: Fields, size: DecoderSize) -> Quantization:
    """Return the quantisation of the checkpoint.

    Without any list of spared modules, the usual practice of each method holds.
    """
    stored = _dtype(fields)
    kv_default = Precision.BF16 if stored is Precision.FP32 else stored
    modelopt = fields.section("hf_quant_config")
    if modelopt is not None:
        modelopt = modelopt.section("quantization") or modelopt
    config = next((part for name in _SECTIONS if (part := fields.section(name)) is not None), None)
    sections = [section for section in (modelopt, config) if section is not None]
    for section in sections:
        section.hint = "how many bytes other formats take is not known"
    algorithm = next((found for section in sections if (found := section.text("quant_algo"))), None)
    method = "modelopt" if algorithm is not None else None if config is None else method_of(config)
    if algorithm is not None:
        formats = algorithm_formats(sections[0], algorithm)
    elif config is not None and method is not None:
        formats = method_formats(fields, config, method)
    else:
        return Quantization(stored, _kv_precision(sections, kv_default), 0, stored.weight_bits)
    spared = _spared(sections, size)
    if spared is None:
        spared = _usually_spared(fields, formats, method or "", size)
    parameters, bits = _quantized(size, formats, spared)
    return Quantization(formats.main.precision, _kv_precision(sections, kv_default), parameters, bits, method)


def _dtype(fields: Fields) -> Precision:
    name = fields.text("torch_dtype", "dtype")
    if name is None or name == "auto":
        return Precision.BF16
    plain = name.removeprefix("torch.")
    if plain not in _DTYPES:
        raise fields.error("torch_dtype", name, f"one of {', '.join(_DTYPES)}")
    return _DTYPES[plain]


def _kv_precision(sections: Iterable[Fields], default: Precision) -> Precision:
    """Return the cache precision the checkpoint carries scales for, else that of its activations."""
    for section in sections:
        if (own := _quark_kv_precision(section)) is not None:
            return own
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


def _quark_kv_precision(section: Fields) -> Precision | None:
    """Return Quark's: what the projections of keys and values put out, when it exports them as a group of the cache."""
    layers = section.section("layer_quant_config")
    export = section.section("export")
    group = (export.items("kv_cache_group") if export is not None else None) or []
    own = section.section("kv_cache_quant_config")
    settings = [layers.section(name) for name in group if layers is not None and isinstance(name, str)]
    settings += [own.section(name) for name in list(own.config)[:100]] if own is not None else []
    for found in settings:
        output = found.section("output_tensors") if found is not None else None
        dtype = (output.text("dtype") or "").lower() if output is not None else ""
        if dtype.startswith("fp8"):
            return Precision.FP8
        if dtype == "int8":
            return Precision.INT8
    return None


# Lists of modules that stay in 16 bits, under the names of the different methods, and what a module name is part of.
_SPARED_LISTS = (
    "ignore",
    "ignored_layers",
    "modules_to_not_convert",
    "exclude_modules",
    "exclude",
    "skip_modules",
    "llm_int8_skip_modules",
)
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
    """Return layers and components whose matrices stay in 16 bits; None without any list."""
    lists = [names for section in sections for key in _SPARED_LISTS if (names := section.items(key, limit=50_000))]
    named = {part for names in lists for name in names if isinstance(name, str) for part in _named(name[:200])}
    every = range(len(size.layers))
    spared = {(number, part) for place, part in named for number in (every if place is None else (place,))}
    return spared if lists else None


def _named(pattern: str) -> list[tuple[int | None, Component]]:
    """Return the parts that a name or pattern such as `model.layers.3.self_attn*` or `re:.*shared_experts.*` selects.

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


def _usually_spared(fields: Fields, formats: Formats, method: str, size: DecoderSize) -> set[tuple[int, Component]]:
    """Return what stays unquantised without a list: MXFP4 spares all but experts, NVFP4 latent MoE attention."""
    every = range(len(size.layers))
    if not size.experts:
        return set()
    if method.lower() == "mxfp4":
        return {(layer, part) for layer in every for part in Component if part is not Component.ROUTED_EXPERTS}
    if formats.main is NVFP4 and fields.has("kv_lora_rank"):
        return {(layer, Component.MIXER) for layer in every}
    return set()


def _quantized(size: DecoderSize, formats: Formats, spared: set[tuple[int, Component]]) -> tuple[int, float]:
    """Return the quantised weights and their average bits. Of two formats, `main` is for experts (or dense MLPs)."""
    small = Component.ROUTED_EXPERTS if size.experts else Component.DENSE_MLP
    named = {part: found for pattern, found in formats.named for part in _named(pattern[:200])}
    parameters, bits = 0, 0.0
    for number, layer in enumerate(size.layers):
        for component, count in layer.linear.items():
            usual = formats.main if formats.other is None or component is small else formats.other
            own = named.get((number, component), named.get((None, component), usual))
            if own is not None and (number, component) not in spared:
                parameters += count
                bits += count * own.bits
    return parameters, bits / parameters if parameters else formats.main.bits
