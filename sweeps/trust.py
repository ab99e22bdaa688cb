"""How far an engine's figures can be trusted: intervals around them, and its errors against measured runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANY_FAMILY = "any"
"""Stands for all GPU families together."""

TRUSTED_METRICS = ("ttft_ms", "itl_ms", "output_tokens_per_s")


@dataclass(frozen=True)
class ErrorSeen:
    """An engine's errors over comparable measured runs. Errors are fractions of what was measured.

    The runs are of GPUs of one family (or `ANY_FAMILY`), of dense or mixture-of-experts models (`model_kind` "dense" or
    "moe"), with concurrencies from `concurrency_from` to `concurrency_to` (None: no upper end), both included.
    `bias` is the median of estimated / measured - 1.
    """

    gpu_family: str
    model_kind: str
    concurrency_from: int
    concurrency_to: int | None
    metric: str
    runs: int
    models: int
    median_error: float
    p90_error: float
    bias: float


@dataclass(frozen=True)
class Trust:
    """What an engine says of its own accuracy.

    `intervals`: of every regime (the small number that a point carries) and metric the factors (low, high): a measured
    value is expected between low x and high x the estimate with a probability of 80 %.
    """

    intervals: Mapping[int, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    errors: tuple[ErrorSeen, ...] = ()


NO_TRUST = Trust()
