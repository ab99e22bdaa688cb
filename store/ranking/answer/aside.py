"""Results set aside in an answer: models and lengths that only measured runs have, which the question does not name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gpuscout.store.ranking.question.asked import MEASURED, Question, Trusted
from gpuscout.store.ranking.types import Group

CaseKey = tuple[str, int, int, str | None]
"""Model, input and output tokens, and how requests vary and arrive (`Group.traffic`)."""


class HasCase(Protocol):
    """Anything about a model, lengths in tokens and traffic (as in `Group`)."""

    @property
    def model(self) -> str: ...
    @property
    def input_len(self) -> int: ...
    @property
    def output_len(self) -> int: ...
    @property
    def traffic(self) -> str | None: ...


def case_of(of: HasCase) -> CaseKey:
    """Return the model, the lengths in tokens and how requests vary and arrive."""
    return of.model, of.input_len, of.output_len, of.traffic


def measured_aside(question: Question, groups: Iterable[Group]) -> set[CaseKey]:
    """Return the groups that only measured runs answer, at lengths no sweep has, unless the question names them.

    Imported public runs have so many lengths that they would bury the answer.
    """
    named = (question.workload, question.input_len, question.output_len, question.kinds, question.engines)
    if any(named) or question.trust == Trusted.MEASURED:
        return set()
    sides = {case_of(group): group.engine == MEASURED and group.workload is None for group in groups}
    return set() if all(sides.values()) else {case for case, only_measured in sides.items() if only_measured}
