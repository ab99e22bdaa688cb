"""The retry policy, as a table, and the queue of work that waits for its next attempt."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscout.runner.execution.evaluate import Job
from gpuscout.runner.execution.executors.shipping import Versions, difference, packaged, versions
from gpuscout.runner.execution.retry import (
    ENOUGH_IN_VAIN,
    Decision,
    DelayQueue,
    FailureKind,
    GiveUp,
    Retry,
    Split,
    decide,
)
from gpuscout.sweeps.outcomes import Outcome


@pytest.mark.parametrize(
    ("kind", "attempt", "tasks", "decision"),
    [
        (FailureKind.ERROR, 1, 1, GiveUp(Outcome.ERROR)),
        (FailureKind.ERROR, 1, 2, Split()),
        (FailureKind.ENGINE_MISSING, 1, 1, GiveUp(Outcome.ENGINE_MISSING)),
        (FailureKind.ENGINE_MISSING, 1, 4096, GiveUp(Outcome.ENGINE_MISSING)),
        (FailureKind.CRASHED, 1, 4096, Split()),
        (FailureKind.CRASHED, 7, 2, Split()),
        (FailureKind.CRASHED, 1, 1, Retry(0.2)),
        (FailureKind.CRASHED, 2, 1, GiveUp(Outcome.CRASHED)),
        (FailureKind.TIMEOUT, 1, 3, Split()),
        (FailureKind.TIMEOUT, 1, 1, Retry(0.0)),
        (FailureKind.TIMEOUT, 2, 1, GiveUp(Outcome.TIMEOUT)),
        (FailureKind.OUT_OF_MEMORY, 1, 2, Split()),
        (FailureKind.OUT_OF_MEMORY, 1, 1, Retry(2.0)),
        (FailureKind.OUT_OF_MEMORY, 2, 1, GiveUp(Outcome.ERROR)),
        (FailureKind.WORKER_LOST, 1, 4096, Retry(0.5)),
        (FailureKind.WORKER_LOST, 2, 4096, Retry(2.0)),
        (FailureKind.WORKER_LOST, 3, 4096, Retry(8.0)),
        (FailureKind.WORKER_LOST, 4, 4096, Split()),
        (FailureKind.WORKER_LOST, 3, 1, Retry(8.0)),
        (FailureKind.WORKER_LOST, 4, 1, GiveUp(Outcome.CRASHED)),
    ],
)
def test_the_policy(kind: FailureKind, attempt: int, tasks: int, decision: Decision) -> None:
    assert decide(kind, attempt, tasks) == decision


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("tasks", [1, 2, 3, 4096])
def test_everything_ends(kind: FailureKind, tasks: int) -> None:
    """However often it fails: a bounded number of attempts, each with fewer tasks or a higher number."""
    attempts, largest = 0, tasks
    attempt = 1
    while True:
        attempts += 1
        match decide(kind, attempt, largest):
            case GiveUp():
                break
            case Split():
                attempt, largest = 1, (largest + 1) // 2
            case Retry():
                attempt += 1
    assert attempts < 60


@pytest.mark.parametrize(
    "kind", [FailureKind.CRASHED, FailureKind.TIMEOUT, FailureKind.OUT_OF_MEMORY, FailureKind.ERROR]
)
def test_an_engine_that_fails_on_everything_is_not_asked_task_by_task(kind: FailureKind) -> None:
    assert isinstance(decide(kind, 1, 4096, in_vain=ENOUGH_IN_VAIN), GiveUp)
    assert decide(kind, 1, 4096, in_vain=ENOUGH_IN_VAIN - 1) == Split()


def test_a_job_is_cut_without_loss() -> None:
    job = Job(3, np.arange(7), np.array([1, 2]), attempt=4)
    for parts in (job.halves(), job.cut(1), job.cut(3)):
        assert np.concatenate([part.positions for part in parts]).tolist() == list(range(7))
        assert all(part.block == 3 and part.attempt == 1 and part.ladder.tolist() == [1, 2] for part in parts)
    assert [len(part) for part in job.halves()] == [4, 3]
    assert job.again().attempt == 5


def test_what_has_no_delay_comes_out_first_and_last_in_first_out() -> None:
    later: DelayQueue[str] = DelayQueue()
    later.add("delayed", 10.0, 1.0)
    later.add("first", 10.0)
    later.add("second", 10.5)
    assert [later.take(10.5), later.take(10.5), later.take(10.5)] == ["second", "first", None]
    assert len(later) == 1
    assert later.take(11.0) == "delayed"


def test_what_fails_together_comes_back_one_by_one() -> None:
    later: DelayQueue[int] = DelayQueue(spacing_s=0.5)
    for number in range(4):
        later.add(number, 100.0, 2.0)
    times = []
    for tick in range(1000, 1100):
        while later.take(tick / 10) is not None:
            times.append(tick / 10)
    assert times == [102.0, 102.5, 103.0, 103.5]


HERE = Versions("1.2.3", "abc", "3.11.7", "2.60.0")


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (HERE, None),
        (Versions("1.2.2", "abc", "3.11.7", "2.60.0"), "gpuscout 1.2.2, not 1.2.3 as here"),
        (Versions("1.2.3", "abc", "3.10.1", "2.60.0"), "Python 3.10.1, not 3.11.7 as here"),
        (Versions("1.2.3", "abc", "3.11.7", "2.50.0"), "Ray 2.50.0, not 2.60.0 as here"),
        (Versions("1.2.3", "xyz", "3.11.7", "2.60.0"), "another build of gpuscout 1.2.3 than this one"),
    ],
)
def test_differing_versions_are_told_in_one_sentence(there: Versions, told: str | None) -> None:
    assert difference(HERE, there) == told


@pytest.mark.slow
def test_the_copy_for_a_cluster_is_a_whole_package_without_links() -> None:
    assert versions() == versions()
    with packaged() as package:
        assert package.name == "gpuscout"
        assert not any(path.is_symlink() for path in package.rglob("*"))
        for file in ("__init__.py", "sweeps/data/gpus.json", "runner/execution/executors/ray.py", "store/schema.py"):
            assert (package / file).is_file()
    assert not package.exists()
