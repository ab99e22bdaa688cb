"""Number formats of weights and KV cache: their names and their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Precision(StrEnum):
    """The precisions a case can name. The order is part of stored codes: append only."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    INT8 = "int8"
    INT8_WEIGHT_ONLY = "int8-weight-only"
    INT4_WEIGHT_ONLY = "int4-weight-only"

    @property
    def code(self) -> int:
        """Position in the enumeration, for arrays."""
        return PRECISIONS.index(self)

    @property
    def weight_bits(self) -> float:
        """Bits one quantised weight takes, scales included.

        fp4 is NVFP4 (4 bits and one 8-bit scale for 16 weights); a checkpoint in MXFP4 (one for 32) carries
        its own figure in `ModelSpec.native_weight_bits`. int4 is AWQ/GPTQ with groups of 128.
        """
        return _WEIGHT_BITS[self]

    @property
    def arithmetic(self) -> str:
        """The key of `GPUSpec.dense_tflops` whose matrix units this precision multiplies with.

        Weight-only formats are expanded and multiplied in 16 bits.
        """
        return "bf16" if self in (Precision.INT8_WEIGHT_ONLY, Precision.INT4_WEIGHT_ONLY) else self.value


PRECISIONS: tuple[Precision, ...] = tuple(Precision)
KV_PRECISIONS: tuple[Precision, ...] = (
    Precision.FP16,
    Precision.BF16,
    Precision.FP8,
    Precision.INT8,
    Precision.FP4,
)

# What tools and checkpoints call the precisions, folded as by `_fold`. The detail of such a name (the format within the
# precision, or the quantiser) is kept beside measured runs; see `precision_detail`.
_SPELLINGS: Mapping[Precision, tuple[str, ...]] = {
    Precision.FP32: ("float32", "float"),
    Precision.FP16: ("float16", "half"),
    Precision.BF16: ("bfloat16",),
    Precision.FP8: (
        "float8", "fp8-e4m3", "fp8-e4m3fn", "fp8-e5m2", "fp8-block", "fp8-dynamic", "fp8-static", "mxfp8", "w8a8-fp8",
        "fp8-w8a8",
    ),
    Precision.FP4: (
        "nvfp4", "mxfp4", "w4a4", "w4a4-nvfp4", "w4a4-mxfp4", "w4a16-nvfp4", "w4a16-mxfp4", "w4a8-mxfp4-mxfp8",
        "modelopt-fp4",
    ),
    Precision.INT8: ("w8a8", "w8a8-int8", "int8-w8a8", "smoothquant"),
    Precision.INT8_WEIGHT_ONLY: ("w8a16", "w8a16-int8", "int8-weight", "int8-wo", "gptq-int8", "awq-int8"),
    Precision.INT4_WEIGHT_ONLY: (
        "int4", "uint4", "w4a16", "w4a16-int4", "int4-weight", "int4-wo", "awq", "gptq", "awq-int4", "gptq-int4",
        "int4-awq", "int4-gptq",
    ),
}  # fmt: skip
PRECISION_ALIASES: Mapping[str, Precision] = {
    spelling: precision for precision, spellings in _SPELLINGS.items() for spelling in spellings
}
_PLAIN = frozenset(("float32", "float", "float16", "half", "bfloat16", "float8"))


def spellings_of(precisions: Iterable[Precision]) -> tuple[str, ...]:
    """Return the other spellings of these precisions."""
    return tuple(spelling for precision in precisions for spelling in _SPELLINGS.get(precision, ()))


def precision_called(name: str) -> Precision | None:
    """Return the precision of this name or spelling (w4a16, awq, nvfp4 …), in any case; None: none has it."""
    folded = _fold(name)
    return PRECISION_ALIASES.get(folded) or (Precision(folded) if folded in PRECISIONS else None)


def precision_detail(name: str) -> str | None:
    """Return the detail of a spelling beyond its precision, such as "mxfp4" or "awq"; None: there is none."""
    folded = _fold(name)
    return folded if folded in PRECISION_ALIASES and folded not in _PLAIN else None


def _fold(name: str) -> str:
    return name.strip().casefold().replace("_", "-").replace(" ", "-")


_WEIGHT_BITS: dict[Precision, float] = {
    Precision.FP32: 32.0,
    Precision.FP16: 16.0,
    Precision.BF16: 16.0,
    Precision.FP8: 8.03,
    Precision.FP4: 4.5,
    Precision.INT8: 8.03,
    Precision.INT8_WEIGHT_ONLY: 8.13,
    Precision.INT4_WEIGHT_ONLY: 4.16,
}
_KV_BYTES: dict[Precision, float] = {
    Precision.FP16: 2.0,
    Precision.BF16: 2.0,
    Precision.FP8: 1.0,
    Precision.INT8: 1.0,
    Precision.FP4: 0.5625,
}


def kv_element_bytes(precision: Precision) -> float:
    """Return bytes of one element of the KV cache, scales included."""
    return _KV_BYTES[precision]
