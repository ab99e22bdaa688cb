"""Accuracy of engines: intervals around their figures, and their errors against measured runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from gpuscout.sweeps.precision import Precision

TRUSTED_METRICS = ("ttft_ms", "itl_ms", "output_tokens_per_s")

ANY = "any"
"""Of `ObservedError.precision` and `ObservedError.link`: all of them together."""


class Link(StrEnum):
    """Connections over which the GPUs of one deployment exchange their data."""

    SINGLE = "single"  # one GPU: nothing
    FAST = "fast"  # NVLink, Infinity Fabric or another link that is made for GPUs
    PCIE = "pcie"


def link_of(num_gpus: int, scale_up_gpus: int) -> Link:
    """Return the link of a deployment of so many GPUs, of which `scale_up_gpus` share a fast link (1: none do)."""
    if num_gpus == 1:
        return Link.SINGLE
    return Link.FAST if scale_up_gpus > 1 else Link.PCIE


def precision_class(precision: Precision) -> str:
    """Return precisions whose runs say something of each other: all 16-bit formats are one."""
    return "16-bit" if precision in (Precision.BF16, Precision.FP16) else precision.value


@dataclass(frozen=True)
class ObservedError:
    """An engine's errors over comparable measured runs. Errors are fractions of what was measured.

    The runs are of GPUs of one family; or, where `gpu_family` names a vendor, of its families that an engine was asked
    about without having been fitted to any run of theirs: what to expect on a family that nobody measured. They are of
    dense or mixture-of-experts models (`model_kind` "dense" or "moe"), of which `models` are different; with
    concurrencies from `concurrency_from` to `concurrency_to` (None: no upper end), both included. `bias` is the median
    of estimated / measured - 1.

    `precision` is a `precision_class`, `link` a `Link`, and with `ANY` all of them together; `tp_from` and `tp_to` are
    the least and the greatest tensor parallelism, both included (None: no upper end).
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
    precision: str = ANY
    link: str = ANY
    tp_from: int = 1
    tp_to: int | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ObservedError:
        """Return the inverse of `asdict`; what came later than the first ten fields may be missing.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        last, most = data["concurrency_to"], data.get("tp_to")
        return cls(
            gpu_family=str(data["gpu_family"]),
            model_kind=str(data["model_kind"]),
            concurrency_from=int(data["concurrency_from"]),
            concurrency_to=None if last is None else int(last),
            metric=str(data["metric"]),
            runs=int(data["runs"]),
            models=int(data["models"]),
            median_error=_finite(data["median_error"]),
            p90_error=_finite(data["p90_error"]),
            bias=_finite(data["bias"]),
            precision=str(data.get("precision", ANY)),
            link=str(data.get("link", ANY)),
            tp_from=int(data.get("tp_from", 1)),
            tp_to=None if most is None else int(most),
        )


@dataclass(frozen=True)
class Trust:
    """Accuracy of an engine, as it states it.

    Metrics are `TRUSTED_METRICS` and percentiles (`gpuscout.sweeps.slo.percentile_name`): "p95_ttft_ms".
    `intervals`: of every regime (the small number that a point carries) and metric the factors (low, high): a measured
    value is expected between low x and high x the estimate with a probability of 80 %.
    """

    intervals: Mapping[int, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    errors: tuple[ObservedError, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold and `from_dict` reads."""
        intervals = {str(r): {m: list(pair) for m, pair in metrics.items()} for r, metrics in self.intervals.items()}
        return {"intervals": intervals, "errors": [asdict(error) for error in self.errors]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trust:
        """Return the inverse of `to_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        intervals = {
            int(regime): {str(metric): (_finite(low), _finite(high)) for metric, (low, high) in metrics.items()}
            for regime, metrics in data["intervals"].items()
        }
        return cls(intervals, tuple(ObservedError.from_dict(error) for error in data["errors"]))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"invalid share {number}")
    return number


NO_TRUST = Trust()


# The name of the release before this one.
ErrorSeen = ObservedError
