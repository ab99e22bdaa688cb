"""Number formats of weights and KV cache: their names and their sizes."""

from __future__ import annotations

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
    """Bytes of one element of the KV cache, scales included."""
    return _KV_BYTES[precision]
