"""BentoML's Python package in this process: its functions as they are, nothing printed, models looked up once."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuscout.runner.engines.base import silence
from gpuscout.runner.engines.llm_optimizer import probe
from gpuscout.runner.engines.llm_optimizer.output import Concurrency, Report, Roofline, Tuning
from gpuscout.runner.engines.llm_optimizer.support import their_gpu, their_precision
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.models.architecture import ModelSpec

_LOOK_UP = "get_model_config_and_precision_from_hf"


class Package:
    """The package, loaded. Raises whatever the package raises; AttributeError when it lacks what is needed here."""

    def __init__(self) -> None:
        with silence():
            common = importlib.import_module(f"{probe.PACKAGE}.common")
            performance = importlib.import_module(f"{probe.PACKAGE}.performance")
            self.gpus = frozenset(probe.gpu_table())
            self.fingerprint = probe.fingerprint()
        self._given: dict[str, object] = {}
        self._describe: Any = getattr(common, "ModelConfig", None) or performance.ModelConfig
        self._look_up = _remembered(getattr(common, _LOOK_UP), self._given)
        self._estimate: Any = performance.estimate_llm_performance
        self._run: Any = performance.run_performance_estimation
        self._params: Any = performance.PerformanceEstimationParams

    def model(self, name: str) -> object:
        """Return the package's own description of a model: from the Hub the first time, from memory afterwards."""
        return self._look_up(name)

    def given(self, model: ModelSpec) -> object:
        """Return the package's description of a model from gpuscout's figures, without the Hub.

        Parameters are those of the checkpoint: from the Hub the package counts them in its own way.
        """
        if model.name not in self._given:
            self._given[model.name] = self._describe(
                num_params=float(model.total_parameters),
                num_layers=model.layers,
                hidden_dim=model.hidden_size,
                num_heads=model.attention_heads,
                num_kv_heads=model.kv_heads,
                vocab_size=model.vocab_size,
                inferred_precision=their_precision(model.precision),
            )
        return self._given[model.name]

    def estimate(self, case: Case, model: object, concurrency: int) -> Figures:
        """Return one operating point. Raises ValueError for a GPU or a precision the package does not know."""
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
        """Return the report beside the operating points. Raises ValueError when the constraints cannot be met."""
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


def _remembered(look_up: Any, given: Mapping[str, object]) -> Any:
    """Return the package's lookup of a model on the Hub, remembering answers, not failures.

    `run_performance_estimation` calls it for every task: a download each, for a model that never changes. Models in
    `given` are not asked about.
    """
    asking = functools.cache(look_up)

    def remembering(name: str) -> object:
        return given[name] if name in given else asking(name)

    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == probe.PACKAGE]:
        if getattr(module, _LOOK_UP, None) is look_up:
            setattr(module, _LOOK_UP, remembering)
    return remembering


# --- what it returns: objects or dicts, under the names of any version --------------------------------------------


@dataclass(frozen=True)
class Figures:
    """One operating point as the tool gives it, for all GPUs together. Infinite latencies: it does not fit.

    Memory as in the tool: `needed_gb` counts 2^30 bytes, `usable_gb` is a share of the nominal size of its table,
    and it compares the two. None: not said.
    """

    ttft_ms: float
    itl_ms: float
    e2e_s: float
    output_tokens_per_s: float
    requests_per_s: float
    memory_bound: bool | None
    needed_gb: float | None
    usable_gb: float | None

    @property
    def fits(self) -> bool:
        return math.isfinite(self.ttft_ms) and math.isfinite(self.itl_ms) and math.isfinite(self.e2e_s)


def figures(result: object, *, concurrency: int, output_len: int) -> Figures:
    """Read a `PerformanceResult`. 0 and infinity are values; only what is absent or None is not there.

    What an older version leaves out follows from the rest as the tool itself computes it. Raises ValueError when
    latencies are missing or not numbers.
    """
    ttft_ms = number(result, "ttft_ms", "ttft")
    itl_ms = number(result, "itl_ms", "itl")
    if ttft_ms is None or itl_ms is None:
        raise ValueError("the result has no TTFT or no ITL")
    e2e_s = number(result, "e2e_latency_s", "e2e_s")
    if e2e_s is None:
        e2e_s = (ttft_ms + output_len * itl_ms) / 1e3
    requests = number(result, "requests_per_sec")
    if requests is None:
        requests = concurrency / e2e_s if e2e_s > 0 else math.inf
    throughput = number(result, "output_throughput_tps", "throughput", "tps")
    if throughput is None:
        throughput = requests * output_len
    memory_bound = value(result, "bottleneck_is_memory")
    return Figures(
        ttft_ms,
        itl_ms,
        e2e_s,
        throughput,
        requests,
        None if memory_bound is None else bool(memory_bound),
        number(result, "memory_needed_gb"),
        number(result, "usable_vram_gb"),
    )


def report(result: object) -> Report:
    """Read the report that `run_performance_estimation` returns beside the operating points."""
    best = value(value(result, "best_configs"), "best_output_throughput")
    limits = value(result, "concurrency_limits")
    return Report(
        roofline=Roofline(
            number(best, "hardware_ops_per_byte"),
            number(best, "prefill_arithmetic_intensity"),
            number(best, "decode_arithmetic_intensity"),
            _bound(value(best, "prefill_is_memory_bound")),
            _bound(value(best, "decode_is_memory_bound")),
        ),
        concurrency=Concurrency(
            _count(limits, "kv_cache_limit"),
            _count(limits, "prefill_compute_limit"),
            _count(limits, "decode_capacity_limit"),
            _count(limits, "overall_limit", "max_concurrent_requests", "max_concurrent"),
            _count(result, "optimal_concurrency"),
        ),
        tuning=_tuning(value(result, "tuning_commands")),
    )


def value(source: object, *names: str) -> Any:
    """Return the first of these that is there, of a dict or an object; None when none is."""
    for name in names:
        found = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
        if found is not None:
            return found
    return None


def number(source: object, *names: str) -> float | None:
    """Return the value as a number. Raises ValueError for anything else, NaN included."""
    found = value(source, *names)
    if found is None:
        return None
    if isinstance(found, bool | str | bytes):
        raise ValueError(f"{names[0]} is {found!r}, not a number")
    try:
        read = float(found)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{names[0]} is {found!r}, not a number") from error
    if math.isnan(read):
        raise ValueError(f"{names[0]} is not a number")
    return read


def _count(source: object, *names: str) -> int | None:
    found = number(source, *names)
    return int(found) if found is not None and math.isfinite(found) else None


def _bound(is_memory: object) -> str | None:
    return None if is_memory is None else "memory" if is_memory else "compute"


def _tuning(commands: object) -> Tuning:
    """Turn level -> framework -> commands into framework -> level -> commands."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for level, frameworks in commands.items() if isinstance(commands, Mapping) else ():
        for framework, content in frameworks.items() if isinstance(frameworks, Mapping) else ():
            lines = value(content, "commands")
            if isinstance(lines, list | tuple) and lines:
                found.setdefault(str(framework), {})[str(level)] = tuple(str(line) for line in lines)
    return found
