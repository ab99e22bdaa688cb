"""The fit: damped Gauss-Newton steps on logarithms with a robust loss. Deterministic, NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuscout.runner.calibration.parameters import Parameters
from gpuscout.runner.calibration.rows import Figures, FitRows
from gpuscout.sweeps.curves import FloatArray

# How much a metric counts, and the error of a logarithm up to which it counts squared (beyond: ever less).
_WEIGHTS = {"itl": 1.0, "ttft": 0.35, "throughput": 0.7}
_SCALES = {"itl": 0.1, "ttft": 0.1, "throughput": 0.1}
# Degrees of freedom of Student's t, whose tails residuals have: runs with speculative decoding, a cached prefix or a
# cold first round do not say so, and must not move the constants of all others.
_FREEDOM = 2.5
# A fit begins with nearly normal tails, where one minimum draws from everywhere, and narrows them from there.
_FIRST_FREEDOM = 30.0
# An offline maximum says less than a closed loop: the server chose batch sizes that nobody tells.
_OFFLINE_WEIGHT = 0.3
_DELTA = 1e-4  # of a logarithm, for derivatives
_ENOUGH = 1e-7  # relative gain of a step below which a fit ends
_MOST_STEPS = 100
_ROUGHLY = 1e-4  # the same where only its predictions count


def parameters_of(kinds: Sequence[FitRows]) -> Parameters:
    """Return the parameters of a fit to these rows, the factors of their vendors and families included."""
    return Parameters(
        np.unique(np.concatenate([rows.vendor for rows in kinds])).tolist(),
        np.unique(np.concatenate([rows.family for rows in kinds])).tolist(),
    )


def predict(rows: FitRows, parameters: Parameters, vector: FloatArray) -> Figures:
    """Return the estimates for rows with the constants of a vector."""
    masks = parameters.masks(rows.vendor, rows.family, rows.server)
    return rows.predict(parameters.logs(vector, masks, parameters.before(rows.family)))


@dataclass(frozen=True)
class Fit:
    """A fitted vector, the objective it reached and the steps it took."""

    vector: FloatArray
    objective: float
    steps: int


def fit(
    kinds: Sequence[FitRows], parameters: Parameters, start: FloatArray | None = None, *, roughly: bool = False
) -> Fit:
    """Return the vector that minimises robust squared log errors plus the distance from the priors.

    It begins with the priors, or at `start`, which is then near the end. A rough fit ends sooner: its predictions are
    the same to a fraction of a percent, its constants are not.
    """
    problem = [_Problem(rows, parameters) for rows in kinds if len(rows)]
    if start is not None:
        return _minimised(problem, parameters, start.copy(), _FREEDOM, roughly)
    first = _minimised(problem, parameters, np.zeros(len(parameters.width)), _FIRST_FREEDOM, roughly)
    last = _minimised(problem, parameters, first.vector, _FREEDOM, roughly)
    return Fit(last.vector, last.objective, first.steps + last.steps)


def _minimised(
    problem: Sequence[_Problem], parameters: Parameters, vector: FloatArray, freedom: float, roughly: bool
) -> Fit:
    prior = parameters.width**-2.0

    def objective(vector: FloatArray) -> float:
        return sum(part.loss(vector, freedom) for part in problem) + float(prior @ vector**2)

    best, damping, steps = objective(vector), 1e-2, 0
    while steps < _MOST_STEPS:
        gradient = prior * vector
        curvature = np.diag(prior)
        for part in problem:
            slope, bend = part.normal(vector, freedom)
            gradient, curvature = gradient + slope, curvature + bend
        steps += 1
        while damping < 1e8:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -gradient)
            tried = np.clip(vector + step, parameters.low, parameters.high)
            reached = objective(tried)
            if reached < best:
                break
            damping *= 5
        else:
            break
        gain, vector, best, damping = best - reached, tried, reached, damping / 5
        if gain < (_ROUGHLY if roughly else _ENOUGH) * best:
            break
    return Fit(vector, best, steps)


class _Problem:
    """Residuals of rows of one kind of load and their derivatives."""

    def __init__(self, rows: FitRows, parameters: Parameters) -> None:
        self._rows = rows
        self._parameters = parameters
        self._masks = parameters.masks(rows.vendor, rows.family, rows.server)
        self._before = parameters.before(rows.family)
        # The factors that apply, and the rows to which they do.
        kinds, of = np.unique(self._masks, axis=1, return_inverse=True)
        self._alike = [(kinds[:, kind], np.flatnonzero(of.ravel() == kind)) for kind in range(kinds.shape[1])]
        self._fitted = sorted({slot.constant for slot in parameters.slots})
        self._metrics = ("throughput",) if rows.offline else tuple(_WEIGHTS)
        factor = _OFFLINE_WEIGHT if rows.offline else 1.0
        weights = [factor * _WEIGHTS[m] ** 2 * rows.weight for m in self._metrics]
        measured = [np.log(getattr(rows.measured, m)) for m in self._metrics]
        self._weight = np.where(np.isfinite(measured), weights, 0.0)
        self._measured = np.nan_to_num(measured)
        self._scale = np.array([_SCALES[m] for m in self._metrics])[:, None]

    def _table(self, vector: FloatArray) -> FloatArray:
        return self._parameters.logs(vector, self._masks, self._before)

    def _logs(self, figures: Figures) -> FloatArray:
        return np.log([getattr(figures, m) for m in self._metrics])

    def loss(self, vector: FloatArray, freedom: float) -> float:
        logs = self._logs(self._rows.predict(self._table(vector)))
        z = (logs - self._measured) / self._scale
        return float((self._weight * freedom * np.log1p(z**2 / freedom)).sum())

    def normal(self, vector: FloatArray, freedom: float) -> tuple[FloatArray, FloatArray]:
        """Return gradient and curvature of the weighted squares of residuals, by slot.

        The derivative of a factor is that of its constant where the factor applies, so rows to which the same factors
        apply are summed by constant first.
        """
        table = self._table(vector)
        logs = self._logs(self._rows.predict(table))
        z = (logs - self._measured) / self._scale
        robust = np.sqrt(self._weight / (1 + z**2 / freedom))
        slopes = np.empty((len(self._fitted), *logs.shape))
        for number, constant in enumerate(self._fitted):
            moved = table.copy()
            moved[constant] += _DELTA
            slopes[number] = (self._logs(self._rows.predict(moved)) - logs) / _DELTA
        slopes *= robust / self._scale
        residual = robust * z
        place = {constant: number for number, constant in enumerate(self._fitted)}
        at = [place[slot.constant] for slot in self._parameters.slots]
        gradient, curvature = np.zeros(len(at)), np.zeros((len(at), len(at)))
        for applies, rows in self._alike:
            part = slopes[:, :, rows].reshape(len(self._fitted), -1)
            gradient += applies * (part @ residual[:, rows].ravel())[at]
            curvature += np.outer(applies, applies) * (part @ part.T)[np.ix_(at, at)]
        return gradient, curvature
