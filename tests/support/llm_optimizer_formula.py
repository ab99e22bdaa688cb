"""What BentoML's llm-optimizer says, as arithmetic: its estimates where the package cannot be installed.

Worked out from recorded calls of it, which it gives again: `tests/runner/test_llm_optimizer_output.py`. Left out is
whether a model fits: the tool counts some mixtures of experts several times too large and then has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuscout.sweeps.models.architecture import AttentionType, ModelSpec

_GIB = 2.0**30
# Memory bandwidth in GiB/s and TFLOPS in 16 and in 8 bits (None: it refuses fp8), by its names of GPUs.
GPUS: dict[str, tuple[float, float, float | None]] = {
    "A100": (2039, 312.0, None),
    "H100": (3350, 989.5, 1978.0),
    "H200": (4800, 989.0, 1978.0),
    "B200": (8000, 2250.0, 4500.0),
    "L4": (300, 120.0, 242.0),
    "L40": (864, 181.0, 362.0),
    "L40S": (864, 362.0, 733.0),
}
_PREFILL_SHARE, _DECODE_SHARE = 0.45, 0.30  # of the peak, its defaults


@dataclass(frozen=True)
class Shape:
    """What it knows of a model when it computes times."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int

    @classmethod
    def of(cls, model: ModelSpec) -> Shape:
        """Return what it reads in config.json, where latent attention has as many KV heads as heads."""
        latent = any(group.type is AttentionType.MLA for group in model.attention)
        kv_heads = model.attention_heads if latent else model.kv_heads
        return cls(model.layers, model.hidden_size, model.attention_heads, kv_heads)


def latencies_ms(
    shape: Shape, gpu: str, num_gpus: int, precision: str, concurrency: int, input_len: int
) -> tuple[float, float]:
    """Return TTFT and ITL. All prompts are prefilled at once; an output token is the first after the prompt.

    Raises ValueError for fp8 on a GPU without it.
    """
    bandwidth_gib_s, tflops16, tflops8 = GPUS[gpu]
    width = 1 if precision == "fp8" else 2
    tflops = tflops8 if precision == "fp8" else tflops16
    if tflops is None:
        raise ValueError(f"fp8 precision not supported on {gpu}")
    bandwidth, flops = bandwidth_gib_s * _GIB, tflops * 1e12
    kv_width = shape.kv_heads * (shape.hidden // shape.heads)
    # No experts, an MLP of four times the hidden size with two matrices.
    weights = shape.layers * (2 * shape.hidden**2 + 2 * shape.hidden * kv_width + 8 * shape.hidden**2)

    def moved(tokens: int) -> float:
        """Return bytes: weights, caches of all layers, activations and the scores of one layer."""
        each = 2 * shape.layers * kv_width * tokens + shape.hidden * tokens + shape.heads * tokens**2
        return float(width * (weights + concurrency * each))

    def flop(new: int, attended: int) -> float:
        attention = new * attended * shape.layers * (4 * shape.hidden + 3 * shape.heads)
        return float(concurrency * (2 * weights * new + attention))

    def seconds(flop: float, moved: float, share: float) -> float:
        memory_bound = flop / moved < flops / bandwidth
        return (moved / bandwidth if memory_bound else flop / (flops * share)) / num_gpus

    first = seconds(flop(input_len, input_len), moved(input_len), _PREFILL_SHARE)
    following = seconds(flop(1, input_len + 2), moved(input_len + 1), _DECODE_SHARE)
    return 1e3 * first, 1e3 * following
