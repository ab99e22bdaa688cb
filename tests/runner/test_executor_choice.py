"""Where a sweep runs, by tables: what was asked for, what an engine needs, and which is done sooner."""

from __future__ import annotations

import os

import numpy as np
import pytest

import gpuscout
from gpuscout.runner.engines.aiconfigurator.engine import AIConfiguratorEngine
from gpuscout.runner.engines.base import MissingEngine
from gpuscout.runner.engines.registry import create_engine
from gpuscout.runner.execution.executor_choice import RAY_START_S, Work, choose_executor, duration, expected_work
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.expand import Expansion

SPEC = {"name": "s", "models": "Qwen/Qwen3-8B", "gpus": "L4", "workloads": "chat"}


@pytest.fixture(scope="module")
def expansion() -> Expansion:
    return gpuscout.expand(gpuscout.spec_from_mapping(SPEC))


@pytest.mark.parametrize(
    ("asked", "work", "cores", "kind", "reason"),
    [
        ({}, Work(1.0, 0.5), 4, "in-process", "in this process (about 2 s; Ray would take 8 s to start)"),
        ({}, Work(0.1, 0.1), 64, "in-process", "in this process (less than 1 s; "),
        # 40 s of evaluating on 4 cores are 10 s, and 8 s of starting Ray.
        ({}, Work(40.0), 4, "ray", "a local Ray on 4 cores (about 18 s; this process alone would take about 40 s)"),
        ({}, Work(40.0), 1, "in-process", "in this process (about 40 s; "),
        ({}, Work(RAY_START_S * 2), 2, "in-process", "in this process"),  # as soon as Ray
        ({}, Work(0.0, 1000.0), 64, "in-process", "in this process"),  # storing cannot be shared out
        ({"executor": "in-process"}, Work(1e6), 64, "in-process", "in this process, as asked"),
        ({"executor": "ray"}, Work(0.1), 1, "ray", "a local Ray, as asked"),
        ({"ray_address": "ray://head:10001"}, Work(0.1), 1, "ray", "the Ray cluster at ray://head:10001"),
    ],
)
def test_the_executor(
    expansion: Expansion,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, str],
    work: Work,
    cores: int,
    kind: str,
    reason: str,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    choice = choose_executor(expansion, **asked, work=work)
    assert choice.kind == kind
    assert choice.reason.startswith(reason)
    assert choice.ray_address == asked.get("ray_address")


@pytest.mark.parametrize("asked", [{"executor": "dask"}, {"executor": "in-process", "ray_address": "auto"}])
def test_what_cannot_be(expansion: Expansion, asked: dict[str, str]) -> None:
    with pytest.raises(InputError):
        choose_executor(expansion, **asked, work=Work())


def test_a_runtime_environment_needs_ray() -> None:
    engines = [{"name": "roofline", "run": {"runtime_env": {"pip": ["x"]}}}]
    needing = gpuscout.expand(gpuscout.spec_from_mapping({**SPEC, "engines": engines}))
    assert choose_executor(needing, work=Work()).reason == "a local Ray, which the runtime_env of an engine needs"


def test_work_grows_with_tasks_and_points(expansion: Expansion) -> None:
    one = expected_work(expansion, np.array([1]))
    many = expected_work(expansion, np.array([1000]))
    assert expected_work(expansion, np.array([0])) == Work(0.0, 0.0)
    assert many.evaluating_s == pytest.approx(1000 * one.evaluating_s)
    assert one.storing_s < many.storing_s < 1000 * one.storing_s  # a block costs once
    assert many.seconds(cores=4) == pytest.approx(many.evaluating_s / 4 + many.storing_s)
    assert (many * 0.5).seconds() == pytest.approx(many.seconds() / 2)


@pytest.mark.parametrize("name", ["aiconfigurator", "simulator"])
def test_a_dear_engine_says_how_long_its_tasks_take(name: str) -> None:
    engine = create_engine(name)
    dear = gpuscout.expand(gpuscout.spec_from_mapping({**SPEC, "engines": name}))
    if isinstance(engine, MissingEngine):  # its tasks fail at once
        assert expected_work(dear, np.array([5])).evaluating_s < 1
    else:
        assert expected_work(dear, np.array([5])).evaluating_s == 5 * getattr(engine, "task_s", 1.0)
    assert AIConfiguratorEngine.task_s > 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.3, "less than 1 s"),
        (1, "about 1 s"),
        (89, "about 89 s"),
        (90, "about 2 min"),
        (5399, "about 90 min"),
        (5400, "about 1.5 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("engine", "rates", "tasks"), [("simulator", 2_000, 20), ("simulator", 128, 2), ("simulator", 9, 1)]
)
def test_quick_tasks_of_a_dear_engine_share_blocks(engine: str, rates: int, tasks: int) -> None:
    """About a second's worth, as long as there are blocks enough to share out."""
    spec = {
        **SPEC,
        "tensor_parallel": [1],
        "engines": engine,
        "load": "request_rate",
        "request_rate": [1 + rate for rate in range(rates)],
    }
    expansion = gpuscout.expand(gpuscout.spec_from_mapping({k: v for k, v in spec.items() if k != "concurrency"}))
    [part] = expansion.sweep.engines
    assert (part.block_size, expansion.raw_combinations) == (tasks, rates)
