"""BentoML's Python package in this process: its functions as they are, nothing printed, models looked up once."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from gpuscout.runner.engines.base import silence
from gpuscout.runner.engines.llm_optimizer import probe
from gpuscout.runner.engines.llm_optimizer.figures import Figures, figures, report
from gpuscout.runner.engines.llm_optimizer.output import Report
from gpuscout.runner.engines.llm_optimizer.support import their_gpu, their_precision
from gpuscout.sweeps.cases import Case

_LOOK_UP = "get_model_config_and_precision_from_hf"


class Package:
    """The package, loaded. Raises whatever the package raises; AttributeError when it lacks what is needed here."""

    def __init__(self) -> None:
        with silence():
            common = importlib.import_module(f"{probe.PACKAGE}.common")
            performance = importlib.import_module(f"{probe.PACKAGE}.performance")
            self.gpus = frozenset(probe.gpu_table())
            self.fingerprint = probe.fingerprint()
        self._look_up = _remembered(getattr(common, _LOOK_UP))
        self._estimate: Any = performance.estimate_llm_performance
        self._run: Any = performance.run_performance_estimation
        self._params: Any = performance.PerformanceEstimationParams

    def model(self, name: str) -> object:
        """The package's own description of a model: from the Hub the first time, from memory afterwards."""
        return self._look_up(name)

    def estimate(self, case: Case, model: object, concurrency: int) -> Figures:
        """One operating point. Raises ValueError for a GPU or a precision the package does not know."""
        result = self._estimate(
            num_gpus=case.tensor_parallel,
            gpu_name=their_gpu(case.gpu.name),
            model_config=model,
            precision=their_precision(case.precision),
            concurrency=concurrency,
            input_length=case.input_len,
            output_length=case.output_len,
            vram_util_factor=case.gpu_memory_utilization,
        )
        return figures(result, concurrency=concurrency, output_len=case.output_len)

    def report(self, case: Case, constraints: str | None) -> Report:
        """What it reports beside operating points. Raises ValueError when the constraints cannot be met."""
        params = self._params(
            model=case.model.name,
            input_len=case.input_len,
            output_len=case.output_len,
            gpu=their_gpu(case.gpu.name),
            num_gpus=case.tensor_parallel,
            precision=their_precision(case.precision),
            framework="both",
            constraints=constraints,
        )
        _, result = self._run(params)
        return report(result)


def _remembered(look_up: Any) -> Any:
    """The package's function that asks the Hub for a model, remembering answers (not failures) for the whole package.

    `run_performance_estimation` calls it for every task: a download each, for a model that never changes.
    """
    if hasattr(look_up, "cache_info"):
        return look_up
    remembering = functools.cache(look_up)
    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == probe.PACKAGE]:
        if getattr(module, _LOOK_UP, None) is look_up:
            setattr(module, _LOOK_UP, remembering)
    return remembering
