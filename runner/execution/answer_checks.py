"""Checks of an engine's answer before anything is stored: right shape, asked for, finite, no duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.curves import (
    BOUNDS,
    METRICS,
    PERCENTILE_COLUMNS,
    SERVER_METRICS,
    Curves,
    FloatArray,
    IntArray,
    Points,
)
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.text import printable

_LONGEST_DETAIL = 2_000
_TASK_COLUMNS = {"outcome": "i", "needed_gib": "f", "usable_gib": "f", "kv_capacity_tokens": "i", "fits_up_to": "i"}
_POINT_COLUMNS = {
    "task": "i",
    "concurrency": "i",
    **dict.fromkeys(METRICS, "f"),
    "bound": "i",
    "queued": "b",
    "regime": "i",
}
_KINDS = {"i": "iu", "f": "fiu", "b": "b"}  # of NumPy's types, that may stand for whole numbers, numbers, truth values
_WORDS = {"i": "whole numbers", "f": "numbers", "b": "truth values"}


def checked(
    curves: Curves, count: int, ladder: IntArray, *, sparse: bool, open_loop: npt.NDArray[np.bool_] | None = None
) -> Curves:
    """Return the answer with every task failed whose figures cannot be stored. A `sparse` engine may leave points out.

    Of tasks in an `open_loop` (n flags; None: none is) the engine says how many requests were in flight.

    Raises ValueError when the answer as a whole is not one for this block.
    """
    curves = _shaped(curves, count)
    points = curves.points
    if len(points) and not (points.task.min() >= 0 and points.task.max() < count):
        raise ValueError("the engine answered tasks that were not asked")
    if not np.isin(curves.outcome, np.arange(len(OUTCOMES))).all():
        raise ValueError("the engine gave outcomes that do not exist")
    wrong: dict[int, str] = {}
    unasked = ~np.isin(points.concurrency, ladder)
    if open_loop is not None:
        unasked &= ~open_loop[points.task]
    for name in METRICS:
        values = getattr(points, name)
        for row in np.flatnonzero(~(np.isfinite(values) & (values >= 0)) | unasked).tolist():
            wrong.setdefault(
                int(points.task[row]),
                f"the engine gave {name} = {values[row]} at concurrency {points.concurrency[row]}",
            )
    for row in _repeated(points).tolist():
        wrong.setdefault(int(points.task[row]), f"the engine gave concurrency {points.concurrency[row]} twice")
    for row in np.flatnonzero(~np.isin(points.bound, np.arange(len(BOUNDS))) | (np.abs(points.regime) > 127)).tolist():
        wrong.setdefault(int(points.task[row]), "the engine gave a bound or a regime that does not exist")
    ok = curves.outcome == Outcome.OK.code
    answered = np.bincount(points.task, minlength=count)
    expected = np.where(curves.fits_up_to >= 0, np.searchsorted(ladder, curves.fits_up_to, side="right"), len(ladder))
    wrong_number = answered > expected if sparse else answered != expected
    for row in np.flatnonzero(ok & wrong_number).tolist():
        wrong.setdefault(row, f"the engine gave {answered[row]} of {expected[row]} operating points")
    for row in np.flatnonzero(~ok & (answered > 0)).tolist():
        wrong.setdefault(row, f"the engine gave operating points with outcome {OUTCOMES[curves.outcome[row]]}")
    for row, extra in curves.extras.items():
        if not _is_json(extra):
            wrong.setdefault(row, "the engine gave extras that are not JSON")
    return _without(curves, wrong) if wrong else curves


def _shaped(curves: object, count: int) -> Curves:
    """Return the answer with one value a task and a point in each of its columns. Raises ValueError."""
    if not isinstance(curves, Curves) or not isinstance(curves.points, Points):
        raise ValueError(f"the engine gave {type(curves).__name__}, not Curves")
    answered = np.asarray(curves.outcome)
    if answered.ndim == 1 and len(answered) != count:
        raise ValueError(f"the engine answered {len(answered)} of {count} tasks")
    columns = {name: _column(curves, name, kind, count, "tasks") for name, kind in _TASK_COLUMNS.items()}
    number = np.asarray(curves.points.task).size
    points = {name: _column(curves.points, name, kind, number, "points") for name, kind in _POINT_COLUMNS.items()}
    details = {
        row: printable(" ".join(str(text).split()))[:_LONGEST_DETAIL]
        for row, text in curves.details.items()
        if row in range(count)
    }
    extras = {row: extra for row, extra in curves.extras.items() if row in range(count)}
    return replace(
        curves,
        **columns,
        points=Points(
            **points,
            percentiles=_known(curves.points.percentiles, "percentiles", number, len(PERCENTILE_COLUMNS)),
            server_metrics=_known(curves.points.server_metrics, "server metrics", number, len(SERVER_METRICS)),
        ),
        details=details,
        extras=extras,
    )


def _column(answer: object, name: str, kind: str, count: int, what: str) -> Any:
    values = np.asarray(getattr(answer, name))
    if values.shape != (count,):
        raise ValueError(f"the engine gave {name} of the shape {values.shape} for {count} {what}")
    if values.dtype.kind not in _KINDS[kind] and count:
        raise ValueError(f"the engine gave {name} of the type {values.dtype}, expected {_WORDS[kind]}")
    if kind == "f":
        values = values.astype(np.float64, copy=False)
        if name not in METRICS:  # unknown, as NaN is
            values = np.where(np.isfinite(values), values, np.nan)
    return values


def _known(figures: object, what: str, count: int, width: int) -> FloatArray | None:
    """Return so many figures of each of the points; what is no figure is not known. Raises ValueError."""
    if figures is None:
        return None
    values = np.asarray(figures)
    if values.shape != (count, width) or values.dtype.kind not in _KINDS["f"]:
        raise ValueError(f"the engine gave {what} of the shape {values.shape} for {count} points")
    return np.where(np.isfinite(values) & (values >= 0), values, np.nan)


def _repeated(points: Points) -> IntArray:
    """Return the rows of points whose task has another one at the same concurrency."""
    order = np.lexsort((points.concurrency, points.task))
    task, concurrency = points.task[order], points.concurrency[order]
    return np.asarray(order[1:][(task[1:] == task[:-1]) & (concurrency[1:] == concurrency[:-1])])


def _is_json(extra: object) -> bool:
    try:
        canonical_json(extra)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(extra, Mapping)


def _without(curves: Curves, wrong: Mapping[int, str]) -> Curves:
    """Return the answer with these tasks failed, and why."""
    points = curves.points
    bad = np.array(sorted(wrong), dtype=np.int64)
    outcome = curves.outcome.copy()
    outcome[bad] = Outcome.ERROR.code
    kept = ~np.isin(points.task, bad)
    return replace(
        curves,
        outcome=outcome,
        points=points.take(kept),
        details={**curves.details, **wrong},
        extras={row: extra for row, extra in curves.extras.items() if row not in wrong},
    )
