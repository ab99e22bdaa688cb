"""The simulator: requests a second on one core, a sweep on one and on two Ray workers, and how near theory it is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.runner.engines.roofline.features import features
from gpuscout.runner.engines.roofline.physics import step_seconds
from gpuscout.runner.engines.simulator.kernel import simulate
from gpuscout.runner.engines.simulator.steps import StepSeconds
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from tests.support.commands import environment
from tests.support.queueing import from_littles_law, from_m_d_1, from_m_m_k, from_steady_steps, run

Say = Callable[..., None]
_CLIENTS = 64


def simulator(say: Say, directory: Path, tasks: int) -> None:
    compiled = hasattr(simulate, "py_func")
    if compiled:
        _requests_per_s(simulate, 1_000)  # compiles
        rate = max(_requests_per_s(simulate, 200_000) for _ in range(3))
        say("simulator, 512 output tokens, 64 in flight: one core, numba", rate, "requests/s")
    plain = getattr(simulate, "py_func", simulate)
    took = min(1_000 / _requests_per_s(plain, 1_000) for _ in range(3))
    say("  1,000 requests in plain Python", took, "s", ".3f")
    itl, throughput = from_steady_steps()
    say("  closed loop: ITL off what its steps imply", 100 * itl, "%", ".2f")
    say("  closed loop: throughput off what its steps imply", 100 * throughput, "%", ".2f")
    say("  mean wait off M/D/1", 100 * from_m_d_1(), "%", ".2f")
    say("  mean wait off M/M/k", 100 * from_m_m_k(), "%", ".2f")
    say("  requests in flight off Little's law, at most", 100 * from_littles_law(), "%", ".2f")
    seconds = {workers: _sweep_seconds(directory, tasks, workers) for workers in (1, 2)}
    say(f"{tasks:,} simulator tasks on one Ray worker", tasks / seconds[1], "tasks/s", ",.1f")
    say("  two workers, of one's time", 100 * seconds[2] / seconds[1], "%", ".0f")


def _requests_per_s(loop: Callable[..., tuple[int, int]], n: int) -> float:
    random = np.random.default_rng(1)
    prompt, output = random.integers(922, 1_127, n + _CLIENTS), random.integers(461, 564, n + _CLIENTS)
    started = time.perf_counter()
    run(
        np.zeros(n + _CLIENTS), prompt, output, _steps(), counted=n, clients=_CLIENTS, max_num_seqs=256,
        kv_capacity=400_000, loop=loop,
    )  # fmt: skip
    return n / (time.perf_counter() - started)


def _steps() -> StepSeconds:
    """Those of Qwen3-8B on an H100."""
    model, gpu = ModelCatalogue.load().get("Qwen/Qwen3-8B"), GPUCatalogue.load().resolve("H100")
    case = CaseColumns.of([Case(model, gpu, 1024, 512)])
    k = RooflineEngine().constants.rows(case.gpus, case.servers, case.gpu, case.server)
    f = features(case)
    return lambda sequences, kv, prompt: step_seconds(f, k, sequences, kv, prompt)


_PROGRAM = """
import sys, time, ray
from tests.bench.sweeps import run_in, sweep
cpus, file, tasks = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
gpus = ["H100", "H200", "B200", "A100-80GB-SXM", "L40S"]
spec = sweep(tasks, name="simulated", engine="simulator", load="request_rate", models=["Qwen/Qwen3-8B"], gpus=gpus,
             concurrency=None, tensor_parallel=[1], request_rate=[1, 2, 4, 8],
             workloads=[dict(name=f"w{i}", input_len=256 + 8 * i, output_len=128 + i) for i in range(tasks // 20)])
ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
warm = sweep(20, name="warm-up", engine="simulator", models=["Qwen/Qwen3-8B"], gpus=["H100"], concurrency=[1],
             tensor_parallel=[1, 2], workloads=["chat", "rag"])
run_in(file + ".warm-up", warm, "ray")
started = time.perf_counter()
report = run_in(file, spec, "ray")
assert report.progress.computed_tasks == tasks, report.progress
print(time.perf_counter() - started)
"""


def _sweep_seconds(directory: Path, tasks: int, workers: int) -> float:
    """Without Ray's start and numba's compilation, whose results all workers share."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(workers), str(directory / f"simulated-{workers}.db"), str(tasks)],
        env=environment(),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(done.stdout.split()[-1])
