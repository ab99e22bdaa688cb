"""How fast the engine llm-optimizer goes through BentoML's Python package, or what stands in for it.

`python -m tests.bench.llm_optimizer FOLDER` prints operating points per second; FOLDER is put on the path first. The
stand-in answers faster than the real package, which makes about 27,000 calls a second: each call is held back to that.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

_CALL_S = 1 / 27_000
_REPEATS = 3


def points_per_s(directory: Path) -> float:
    """In a process of its own, with the real package where it is installed."""
    from gpuscout.runner.engines.llm_optimizer import probe

    if probe.kind() != "bentoml":
        source = Path(__file__).parents[1] / "support" / "standin"
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(directory)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    command = [sys.executable, "-m", "tests.bench.llm_optimizer", str(directory)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def _measured() -> float:
    from gpuscout.runner.engines.registry import create_engine
    from gpuscout.runner.resolve.spec import CHEAP_LADDER
    from gpuscout.sweeps.cases import Case, CaseColumns
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
    from gpuscout.sweeps.models.catalogue import ModelCatalogue

    model, gpus = ModelCatalogue.load().get("Qwen/Qwen3-8B"), GPUCatalogue.load()
    cases = CaseColumns.of(
        Case(model, gpus.resolve(gpu), 128 * n, 256, tensor_parallel=tp)
        for gpu in ("H100", "H200", "B200", "L40S")
        for tp in (1, 2, 4, 8)
        for n in range(1, 17)
    )
    engine, ladder = create_engine("llm-optimizer"), np.array(CHEAP_LADDER)
    engine.evaluate(cases.take(np.arange(1)), ladder)  # looks the model up
    best = 0.0
    for _ in range(_REPEATS):
        started = time.perf_counter()
        points = len(engine.evaluate(cases, ladder).points)
        best = max(best, points / (time.perf_counter() - started))
    return best


def _hold_calls_back() -> None:
    import llm_optimizer.performance as package

    invented = package._invented

    def held(*given: object) -> object:
        until = time.perf_counter() + _CALL_S
        answer = invented(*given)
        while time.perf_counter() < until:
            pass
        return answer

    package._invented = held


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import llm_optimizer.performance

    if hasattr(llm_optimizer.performance, "_invented"):
        _hold_calls_back()
    print(_measured())
