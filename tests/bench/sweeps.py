"""The sweeps that the benchmarks run, and how they run them."""

from __future__ import annotations

from pathlib import Path

from gpuscout.runner.api.run import expand
from gpuscout.runner.execution.controller import RunReport, run_sweep
from gpuscout.runner.execution.executor_choice import choose_executor
from gpuscout.store.database.connect import Store, open_store
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.spec.spec import SweepSpec, spec_from_mapping

LADDER = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256]
_MODELS = ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-14B", "Qwen/Qwen3-30B-A3B", "gpt-oss-120b"]
_TASKS_A_WORKLOAD = 5 * 24 * 4


def sweep(tasks: int, **changes: object) -> SweepSpec:
    """A sweep of about this many tasks for the roofline engine, 11 concurrencies each; most of them fit."""
    workloads = max(1, round(tasks / _TASKS_A_WORKLOAD))
    return spec_from_mapping(
        {
            "name": f"bench-{tasks}",
            "models": _MODELS,
            "gpus": [{"vendor": "NVIDIA", "min_memory_gb": 32}],
            "tensor_parallel": [1, 2, 4, 8],
            "workloads": [
                {"name": f"w{i}", "input_len": 128 + 8 * i, "output_len": 64 + 4 * (i % 100)} for i in range(workloads)
            ],
            "concurrency": LADDER,
            **changes,
        }
    )


def run(store: Store, expansion: Expansion, executor: str = "in-process") -> RunReport:
    return run_sweep(store, expansion, choose=lambda work: choose_executor(expansion, executor=executor, work=work))


def run_in(url: str | Path, spec: SweepSpec, executor: str = "in-process") -> RunReport:
    with open_store(str(url), create=True) as store:
        return run(store, expand(spec), executor)
