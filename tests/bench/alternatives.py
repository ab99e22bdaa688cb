"""What one would reach for instead: Optuna with a database and a grid, Ray Tune with a grid. Same engine and cases."""

from __future__ import annotations

import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np

from gpuscout.runner.api.run import expand
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.sweeps.cases import CaseColumns
from tests.bench.sweeps import LADDER, run_in, sweep

_TASKS = 480


@cache
def _cases() -> list[CaseColumns]:
    """Every task of the sweep, each as columns of its own."""
    return [block.take(np.array([row])) for block in expand(sweep(_TASKS)).blocks() for row in range(len(block))]


def _evaluate(task: int) -> float:
    """The best throughput of one task, computed by itself as a trial of a tuner would."""
    curves = cached_engine("roofline", {}).evaluate(_cases()[task], np.array(LADDER))
    return float(curves.points.output_tokens_per_s.max(initial=0.0))


def gpuscout_tasks_per_s() -> float:
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        report = run_in(Path(directory) / "bench.db", sweep(_TASKS))
        return report.progress.total_tasks / (time.perf_counter() - started)


def optuna_tasks_per_s() -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tasks = len(_cases())
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            storage=f"sqlite:///{directory}/optuna.db",
            sampler=optuna.samplers.GridSampler({"task": list(range(tasks))}),
            direction="maximize",
        )
        started = time.perf_counter()
        study.optimize(lambda trial: _evaluate(trial.suggest_int("task", 0, tasks - 1)), n_trials=tasks)
        return tasks / (time.perf_counter() - started)


def ray_tune_tasks_per_s(tasks: int = 40) -> float:
    """A part of the sweep only: every trial is a process of its own. Ray's start is not counted."""
    from ray import tune

    def trial(config: dict[str, int]) -> dict[str, float]:
        return {"tokens_per_s": _evaluate(config["task"])}

    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        tune.Tuner(
            trial,
            param_space={"task": tune.grid_search(list(range(tasks)))},
            run_config=tune.RunConfig(storage_path=directory, verbose=0),
        ).fit()
        return tasks / (time.perf_counter() - started)
