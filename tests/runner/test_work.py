"""What a block lacks, by tables: tasks that are not stored, and concurrencies that stored ones lack."""

from __future__ import annotations

import pytest

from gpuscout.runner.execution.work import split
from gpuscout.store.results.tasks import StoredTask
from gpuscout.sweeps.outcomes import Outcome


def stored(task_id: int, ladder: tuple[int, ...], outcome: str = "ok", fits_up_to: int | None = None) -> StoredTask:
    return StoredTask(task_id, ladder, Outcome(outcome).value, fits_up_to)


@pytest.mark.parametrize(
    ("ladder", "known", "reused", "lacking"),
    [
        ((1, 2), {}, {}, {(1, 2): [0, 1]}),
        ((1, 2), {b"a": stored(7, (1, 2))}, {0: 7}, {(1, 2): [1]}),
        ((1, 2), {b"a": stored(7, (1, 2, 4))}, {0: 7}, {(1, 2): [1]}),  # more is stored than asked
        ((1, 2, 4), {b"a": stored(7, (1, 2)), b"b": stored(8, (1, 2))}, {}, {(4,): [0, 1]}),
        ((1, 2, 4), {b"a": stored(7, (1, 4)), b"b": stored(8, (1, 2))}, {}, {(2,): [0], (4,): [1]}),
        # From the first step that did not fit on, a curve has no points; those before it may be lacking.
        ((1, 2, 4, 8), {b"a": stored(7, (1, 2, 4), fits_up_to=2)}, {0: 7}, {(1, 2, 4, 8): [1]}),
        ((1, 2, 3, 8), {b"a": stored(7, (1, 2, 4), fits_up_to=2)}, {}, {(3,): [0], (1, 2, 3, 8): [1]}),
        ((1, 8), {b"a": stored(7, (1, 4), fits_up_to=4)}, {}, {(8,): [0], (1, 8): [1]}),  # all stored steps fit
        # Any answer but a curve is final.
        ((1, 2), {b"a": stored(7, (), "does_not_fit"), b"b": stored(8, (1,), "not_supported")}, {0: 7, 1: 8}, {}),
    ],
)
def test_what_is_lacking(
    ladder: tuple[int, ...],
    known: dict[bytes, StoredTask],
    reused: dict[int, int],
    lacking: dict[tuple[int, ...], list[int]],
) -> None:
    assert split(ladder, [b"a", b"b"], known) == (reused, lacking)
