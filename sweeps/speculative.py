"""Speculative decoding of a case: tokens that are drafted, how many of them hold, and what drafting costs.

Every step the server drafts `draft_tokens` tokens for each sequence and verifies them together with the next one. With
a probability of `acceptance` that a drafted token holds if all before it did, a step gives (1 - a^(k+1)) / (1 - a)
tokens (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", equation 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MOST_DRAFT_TOKENS = 64
AS_GIVEN = "how much holds and what drafting costs are as given"
# Said of every estimate with drafts, for no public run says what held: of its kind, and in a sentence.
DRAFTS_UNCHECKED = "drafts not checked against measurements"
UNCHECKED = f"speculative decoding is not checked against measurements: {AS_GIVEN}"


@dataclass(frozen=True)
class Speculative:
    """Speculative decoding. `draft_cost`: of drafting a token, as a share of a decode step. 0 tokens: no drafts."""

    draft_tokens: int = 0
    acceptance: float = 0.0
    draft_cost: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.draft_tokens <= MOST_DRAFT_TOKENS:
            raise ValueError(f"draft_tokens: expected 0 to {MOST_DRAFT_TOKENS}, got {self.draft_tokens}")
        if not (0 <= self.acceptance <= 1 and 0 <= self.draft_cost <= 1):
            raise ValueError("acceptance and draft_cost: expected shares from 0 to 1")
        if not self.draft_tokens and (self.acceptance or self.draft_cost):
            raise ValueError("without draft_tokens, acceptance and draft_cost must be 0")

    @property
    def is_plain(self) -> bool:
        """Whether nothing is drafted."""
        return not self.draft_tokens

    @property
    def chances(self) -> tuple[float, ...]:
        """The probabilities that a step gives 1, 2, … `draft_tokens` + 1 tokens."""
        a, k = self.acceptance, self.draft_tokens
        return (*(a**held * (1 - a) for held in range(k)), a**k)

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a step gives a sequence, on average."""
        return sum(self.acceptance**held for held in range(self.draft_tokens + 1))

    @property
    def surplus(self) -> float:
        """Tokens by which the last step of an answer exceeds it, on average: E[X (X - 1)] / (2 E[X])."""
        pairs = sum(chance * tokens * (tokens - 1) for tokens, chance in enumerate(self.chances, start=1))
        return pairs / (2 * self.tokens_per_step)

    @property
    def spread(self) -> float:
        """Standard deviation of the steps that n tokens take, over the root of n: of a renewal process."""
        mean = self.tokens_per_step
        variance = sum(chance * (tokens - mean) ** 2 for tokens, chance in enumerate(self.chances, start=1))
        return math.sqrt(variance / mean**3)

    def steps(self, tokens: float) -> float:
        """Return steps that give so many tokens, on average (Wald's equation); with drafts at least one."""
        if self.is_plain:
            return tokens
        return max((tokens + self.surplus) / self.tokens_per_step, 1.0) if tokens > 0 else 0.0

    @property
    def text(self) -> str:
        """ "draft_tokens=3 acceptance=0.7 draft_cost=0.05", as stores and tables have it; empty without drafts."""
        return " ".join(f"{name}={value!r}" for name, value in self.given.items())

    @property
    def short(self) -> str:
        """ "draft3@0.7" for tables: three tokens are drafted, each of which holds with a probability of 0.7."""
        return "" if self.is_plain else f"draft{self.draft_tokens}@{self.acceptance:g}"

    @property
    def given(self) -> Mapping[str, int | float]:
        """As in a spec; empty without drafts."""
        if self.is_plain:
            return {}
        figures = {"acceptance": self.acceptance, "draft_cost": self.draft_cost}
        return {"draft_tokens": self.draft_tokens, **{name: _short(value) for name, value in figures.items()}}


def _short(value: float) -> int | float:
    return int(value) if value.is_integer() else value


NO_DRAFTS = Speculative()


def speculative_from(text: str) -> Speculative:
    """Return the drafts in the text of `Speculative.text`. Raises ValueError for anything else."""
    if not text:
        return NO_DRAFTS
    words = dict(word.partition("=")[::2] for word in text.split())
    if set(words) != {"draft_tokens", "acceptance", "draft_cost"}:
        raise ValueError(f"invalid speculative decoding: {text!r:.200}")
    found = Speculative(int(words["draft_tokens"]), float(words["acceptance"]), float(words["draft_cost"]))
    if found.text != text:
        raise ValueError(f"invalid speculative decoding: {text!r:.200}")
    return found
