"""Placing rows, by tables: which answers stand, which engine a group shows, and who shares a place."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuscout.store.ranking.candidates.fetched import Rows
from gpuscout.store.ranking.candidates.placing import Codes, OperatingPoints, first_engines, newest, placed, versions
from gpuscout.store.ranking.candidates.statements import OUTCOME_CODES
from gpuscout.store.ranking.question.lookup import NameIndex
from gpuscout.sweeps.outcomes import Outcome

NAN = math.nan


def codes(group: list[int], gpu: list[int], engine: list[int]) -> Codes:
    def numbers(of: list[int]) -> np.ndarray:
        return np.array(of, dtype=np.int64)

    groups = [("m", 1024, 512 + number) for number in range(max(group) + 1)]
    gpus, engines = ([f"{kind}{n}" for n in range(max(of) + 1)] for kind, of in (("gpu", gpu), ("engine", engine)))
    return Codes(groups, numbers(group), gpus, numbers(gpu), engines, numbers(engine))


@pytest.mark.parametrize(
    ("configuration", "engine", "ages", "standing"),
    [
        ([1, 1, 1], [0, 0, 0], [(0, 0, 0), (1, 0, 0), (2, 0, 0)], [0]),  # of one engine's versions the newest
        ([1, 1, 2], [0, 0, 0], [(1, 0, 0), (0, 0, 0), (1, 0, 0)], [1, 2]),  # of each configuration
        ([1, 1, 1], [0, 1, 1], [(1, 0, 0), (1, 0, 0), (0, 0, 0)], [0, 2]),  # of each engine
        ([1, 1], [0, 0], [(0, 1, 0), (0, 0, 1)], [1]),  # the model's figures go before the GPU's
        ([1, 1], [0, 0], [(0, 0, 1), (0, 0, 0)], [1]),
        ([1, 1], [0, 0], [(0, 0, 0), (0, 0, 0)], [1]),  # else the task stored last
    ],
)
def test_the_newest_answer_stands(
    configuration: list[int], engine: list[int], ages: list[tuple[int, int, int]], standing: list[int]
) -> None:
    rows = Rows({"task_id": np.arange(1.0, len(engine) + 1)}, {})
    same = codes([0] * len(engine), [0] * len(engine), engine)
    found = newest(rows, same, np.array(configuration), [np.array(age) for age in zip(*ages, strict=True)])
    assert found.tolist() == standing


def test_ages_count_from_the_id_stored_last() -> None:
    about = {name: np.array([7.0, 3.0, 5.0]) for name in ("engine_id", "model_id", "gpu_id")}
    index = NameIndex({"a": (7, 3), "b": (5,)})
    ages = versions(Rows({"task_id": np.arange(3.0), **about}, {}), index, index, index)
    assert [age.tolist() for age in ages] == [[0, 1, 0]] * 3


def test_a_group_shows_the_first_engine_that_has_an_answer() -> None:
    several, ok = codes([0, 0, 1, 2], [0, 0, 0, 0], [2, 1, 2, 0]), OUTCOME_CODES[Outcome.OK]
    assert first_engines(several, np.full(4, ok)).tolist() == [1, 2, 0]
    # What it does not support is none, unless nobody has another.
    assert first_engines(several, np.array([ok, *[OUTCOME_CODES[Outcome.NOT_SUPPORTED]] * 3])).tolist() == [2, 2, 0]


def ranked(rows: list[tuple[int, int, float, float, int, float]], *, more_is_better: bool = False) -> list[list[int]]:
    """Rows of (group, GPU, value, queued, GPUs, ITL) -> (row, place, place among its GPU type), in order."""
    group, gpu, values, queued, num_gpus, itl = (list(column) for column in zip(*rows, strict=True))
    figures = {
        "queued": np.array(queued, dtype=float),
        "itl_ms": np.array(itl, dtype=float),
        "ttft_ms": np.full(len(rows), NAN),
    }
    nothing = np.zeros(len(rows))
    found = placed(
        np.arange(len(rows)),
        codes([int(g) for g in group], [int(g) for g in gpu], [0] * len(rows)),
        OperatingPoints(figures, nothing.astype(bool), nothing.astype(bool), nothing, nothing),
        np.array(num_gpus, dtype=float),
        np.array(values),
        np.zeros(len(rows), dtype=np.int64),
        more_is_better=more_is_better,
    )
    return [
        list(entry) for entry in zip(found.rows.tolist(), found.place.tolist(), found.gpu_place.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("rows", "more_is_better", "expected"),
    [
        # Less first; places count within the group and the GPU type.
        ([(0, 0, 2.0, 0, 1, 9), (0, 1, 1.0, 0, 1, 9), (0, 0, 3.0, 0, 1, 9)], False, [[1, 1, 1], [0, 2, 1], [2, 3, 2]]),
        ([(0, 0, 2.0, 0, 1, 9), (0, 1, 1.0, 0, 1, 9)], True, [[0, 1, 1], [1, 2, 1]]),
        # Equal figures share a place, and the next one counts them.
        ([(0, 0, 1.0, 0, 1, 9), (0, 0, 1.0, 0, 1, 9), (0, 1, 2.0, 0, 1, 9)], False, [[0, 1, 1], [1, 1, 1], [2, 3, 1]]),
        # Figures equal to six decimals are equal: not queued, fewer GPUs, then the lower ITL go first.
        ([(0, 0, 1.0, 1, 1, 9), (0, 0, 1.0000000001, 0, 1, 9)], False, [[1, 1, 1], [0, 2, 2]]),
        ([(0, 0, 1.0, 0, 2, 9), (0, 0, 1.0, 0, 1, 9)], False, [[1, 1, 1], [0, 2, 2]]),
        ([(0, 0, 1.0, 0, 1, 9), (0, 0, 1.0, 0, 1, 8)], False, [[1, 1, 1], [0, 2, 2]]),
        ([(0, 0, 1.0, 0, 1, NAN), (0, 0, 1.0, 0, 1, 8)], False, [[1, 1, 1], [0, 2, 2]]),  # unknown last
        # Groups apart.
        ([(1, 0, 1.0, 0, 1, 9), (0, 0, 5.0, 0, 1, 9), (1, 0, 0.5, 0, 1, 9)], False, [[1, 1, 1], [2, 1, 1], [0, 2, 2]]),
    ],
)
def test_places(
    rows: list[tuple[int, int, float, float, int, float]], more_is_better: bool, expected: list[list[int]]
) -> None:
    assert ranked(rows, more_is_better=more_is_better) == expected
