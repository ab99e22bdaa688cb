"""Distributions of the lengths of prompts and answers, in tokens, that can be sampled and cut into bins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.curves import FloatArray

IntColumn = npt.NDArray[np.int64]

_Z95 = 1.6448536269514722  # of the standard normal distribution
# ln(p95 / mean) of a log-normal is Z sigma - sigma^2 / 2, at most Z^2 / 2.
_LARGEST_P95_TO_MEAN = math.exp(_Z95 * _Z95 / 2)


class Lengths(Protocol):
    """A distribution of lengths of at least 1 token."""

    @property
    def mean(self) -> float:
        """Tokens, after the distribution is cut at `longest`."""
        ...

    @property
    def longest(self) -> int:
        """No length is above it."""
        ...

    def sample(self, random: np.random.Generator, n: int) -> IntColumn:
        """Return n lengths."""
        ...

    def quantiles(self, shares: FloatArray) -> IntColumn:
        """Return the lengths below which these shares of all lengths are."""
        ...

    def as_given(self) -> object:
        """Return the distribution as written in a spec; JSON-able, and the same for equal distributions."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Every whole number from `low` to `high` is as likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"expected 1 <= low <= high, got [{self.low}, {self.high}]")

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    @property
    def longest(self) -> int:
        return self.high

    def sample(self, random: np.random.Generator, n: int) -> IntColumn:
        return random.integers(self.low, self.high, n, dtype=np.int64, endpoint=True)

    def quantiles(self, shares: FloatArray) -> IntColumn:
        return np.clip(np.ceil(self.low - 1 + shares * (self.high - self.low + 1)), self.low, self.high).astype(
            np.int64
        )

    def as_given(self) -> object:
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True)
class LogNormal:
    """A log-normal with this mean and 95th percentile (tokens); what would be above `longest` is `longest`.

    With mean m and 95th percentile q, ln(q/m) = 1.645 s - s^2/2 gives the standard deviation s of the logarithm (the
    smaller root), and ln(m) - s^2/2 its mean. q may be m to 3.87 m.
    """

    uncut_mean: float
    p95: float
    longest: int

    def __post_init__(self) -> None:
        if not 1 <= self.uncut_mean <= self.p95:
            raise ValueError(f"expected 1 <= mean <= p95, got mean {self.uncut_mean:g} and p95 {self.p95:g}")
        if self.p95 > _LARGEST_P95_TO_MEAN * self.uncut_mean:
            most = _LARGEST_P95_TO_MEAN * self.uncut_mean
            raise ValueError(
                f"expected a p95 of at most {most:,.0f}, got {self.p95:,.0f}: no log-normal with a mean of "
                f"{self.uncut_mean:,.0f} has a higher one"
            )
        if self.longest < self.uncut_mean:
            raise ValueError(f"expected a max of at least the mean, got {self.longest:,}")

    @property
    def sigma(self) -> float:
        """Of the logarithm."""
        return _Z95 - math.sqrt(max(_Z95**2 - 2 * math.log(self.p95 / self.uncut_mean), 0.0))

    @property
    def mean(self) -> float:
        """Of the cut distribution: the partial expectation below `longest`, and `longest` for the rest."""
        sigma = self.sigma
        if sigma == 0:
            return self.uncut_mean
        mu = math.log(self.uncut_mean) - sigma**2 / 2
        cut = (math.log(self.longest) - mu) / sigma
        return self.uncut_mean * _normal(cut - sigma) + self.longest * (1 - _normal(cut))

    def sample(self, random: np.random.Generator, n: int) -> IntColumn:
        sigma = self.sigma
        drawn = random.lognormal(math.log(self.uncut_mean) - sigma**2 / 2, sigma, n)
        return np.clip(np.rint(drawn), 1, self.longest).astype(np.int64)

    def quantiles(self, shares: FloatArray) -> IntColumn:
        from statistics import NormalDist

        sigma = self.sigma
        inside = np.clip(shares, 1e-9, 1 - 1e-9)
        z = np.array([NormalDist().inv_cdf(float(share)) for share in inside])
        lengths = np.exp(math.log(self.uncut_mean) - sigma**2 / 2 + sigma * z)
        return np.clip(np.rint(lengths), 1, self.longest).astype(np.int64)

    def as_given(self) -> object:
        return {"mean": self.uncut_mean, "p95": self.p95, "max": self.longest}


@dataclass(frozen=True)
class Histogram:
    """Lengths (tokens, ascending) and how often each occurs; the counts need not add up to one."""

    tokens: tuple[int, ...]
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.counts):
            raise ValueError("expected at least one length, and one count for each")
        if self.tokens[0] < 1 or any(low >= high for low, high in zip(self.tokens, self.tokens[1:], strict=False)):
            raise ValueError("expected lengths of at least 1 token, each above the one before it")
        if not all(math.isfinite(count) and count >= 0 for count in self.counts) or sum(self.counts) <= 0:
            raise ValueError("expected counts of at least 0, one of them above 0")

    @cached_property
    def _shares(self) -> FloatArray:
        shares: FloatArray = np.array(self.counts, dtype=np.float64) / sum(self.counts)
        return shares

    @property
    def mean(self) -> float:
        return float(np.dot(self._shares, self.tokens))

    @property
    def longest(self) -> int:
        return max(tokens for tokens, count in zip(self.tokens, self.counts, strict=True) if count > 0)

    def sample(self, random: np.random.Generator, n: int) -> IntColumn:
        return self.quantiles(random.random(n))

    def quantiles(self, shares: FloatArray) -> IntColumn:
        tokens = np.array(self.tokens, dtype=np.int64)
        position = np.searchsorted(np.cumsum(self._shares), shares, side="left")
        return tokens[np.minimum(position, len(tokens) - 1)]

    def as_given(self) -> object:
        return {"histogram": [[tokens, count] for tokens, count in zip(self.tokens, self.counts, strict=True)]}


def lengths_from(value: Mapping[str, object]) -> Lengths:
    """Return the distribution that `as_given` wrote. Raises ValueError, KeyError, TypeError for anything else."""
    if "uniform" in value:
        ends: list[int] = list(value["uniform"])  # type: ignore[call-overload]
        return Uniform(*ends)
    if "histogram" in value:
        pairs: list[tuple[int, float]] = [(tokens, count) for tokens, count in value["histogram"]]  # type: ignore[attr-defined]
        return Histogram(tuple(tokens for tokens, _ in pairs), tuple(count for _, count in pairs))
    return LogNormal(value["mean"], value["p95"], value["max"])  # type: ignore[arg-type]


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))
