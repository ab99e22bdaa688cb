"""Errors over measured runs, summed up for recommendations: by GPU family, kind of model, concurrency and metric."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from gpuscout.runner.accuracy.errors import metric_error, ratios
from gpuscout.runner.accuracy.estimate import Estimates, RunCases
from gpuscout.runner.accuracy.names import RunNames
from gpuscout.store.measured import LoadKind
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.trust import ObservedError

# Requests in flight, both ends included; None: no upper end.
CONCURRENCY_BANDS: tuple[tuple[int, int | None], ...] = ((1, 8), (9, 64), (65, None))
# Fewer runs do not say what to expect of another one.
_FEWEST = 3
_COLUMNS: Mapping[str, str] = {"ttft_ms": "ttft", "itl_ms": "itl", "output_tokens_per_s": "throughput"}


def errors_seen(estimates: Estimates, names: RunNames | None = None) -> tuple[ObservedError, ...]:
    """The errors of closed-loop runs, where at least three runs are alike: of each family, and of each vendor.

    Models that differ in weights only count as one. `names` None: those of the catalogues and the Hub.
    """
    cases = RunCases(estimates.runs, names).cases
    rows = [row for row in cases if estimates.runs[row].load is LoadKind.CLOSED_LOOP]
    family = np.array([cases[row].gpu.family for row in rows])
    vendor = np.array([cases[row].gpu.vendor for row in rows])
    moe = np.array([cases[row].model.is_moe for row in rows], dtype=np.bool_)
    model = np.array([same_architecture(cases[row].model) for row in rows])
    concurrency = estimates.concurrency[rows]
    found = []
    ratio = {metric: values[rows] for metric, values in ratios(estimates).items()}
    families = [*sorted(set(family.tolist())), *sorted(set(vendor.tolist()))]
    for name, kind, (start, end) in itertools.product(families, ("dense", "moe"), CONCURRENCY_BANDS):
        alike = (concurrency >= start) & (concurrency <= (end or np.inf)) & (moe == (kind == "moe"))
        alike &= (family == name) | (vendor == name)
        for column, metric in _COLUMNS.items():
            error = metric_error(ratio[metric][alike])
            if error is None or error.runs < _FEWEST:
                continue
            models = len(set(model[alike & np.isfinite(ratio[metric])].tolist()))
            seen = (error.runs, models, error.median, error.p90, error.bias)
            found.append(ObservedError(name, kind, start, end, column, *seen))
    return tuple(found)


def same_architecture(model: ModelSpec) -> str:
    """Equal for models that differ in weights only (DeepSeek V3 and R1), or in precision."""
    return f"{model.model_type} {model.layers}x{model.hidden_size}" + (f" E{model.experts}" if model.is_moe else "")
