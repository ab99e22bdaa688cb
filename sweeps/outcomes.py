"""Outcomes of a task: answers are final for their key, failures are tried again."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The order is part of array codes: append only."""

    OK = "ok"
    DOES_NOT_FIT = "does_not_fit"
    NOT_SUPPORTED = "not_supported"
    UNKNOWN_MODEL = "unknown_model"
    INVALID = "invalid"
    ERROR = "error"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    GATED = "gated"
    ENGINE_MISSING = "engine_missing"

    @property
    def code(self) -> int:
        return OUTCOMES.index(self)

    @property
    def is_answer(self) -> bool:
        """Final for its task key; everything else is a failure, tried again on the next run."""
        return self in ANSWERS


OUTCOMES: tuple[Outcome, ...] = tuple(Outcome)
ANSWERS = frozenset({Outcome.OK, Outcome.DOES_NOT_FIT, Outcome.NOT_SUPPORTED, Outcome.UNKNOWN_MODEL, Outcome.INVALID})
