"""What llm-optimizer can say instead of an estimate, read off its messages: its exit status is no proof of success."""

from __future__ import annotations

import re
from enum import StrEnum

from gpuscout.runner.engines.base import CaseAnswer
from gpuscout.sweeps.outcomes import Outcome


class Finding(StrEnum):
    """Seven ways to have no estimate. Where an outcome does not say which, the value opens the stored detail."""

    DOES_NOT_FIT = "does not fit"
    PRECISION_NOT_SUPPORTED = "precision not supported"
    UNKNOWN_GPU = "unknown GPU"
    UNKNOWN_MODEL = "unknown model"
    CONSTRAINTS_UNMET = "constraints cannot be met"
    GATED_MODEL = "gated model"
    BROKEN_OUTPUT = "broken output"

    @property
    def outcome(self) -> Outcome:
        return _OUTCOMES[self]

    def answer(self, message: str) -> CaseAnswer:
        """The answer to a case that met this. `message` says more."""
        clear = self.outcome in (Outcome.DOES_NOT_FIT, Outcome.UNKNOWN_MODEL, Outcome.GATED)
        return CaseAnswer.failed(self.outcome, message if clear else f"{self.value}: {message}")


_OUTCOMES = {
    Finding.DOES_NOT_FIT: Outcome.DOES_NOT_FIT,
    Finding.PRECISION_NOT_SUPPORTED: Outcome.NOT_SUPPORTED,
    Finding.UNKNOWN_GPU: Outcome.NOT_SUPPORTED,
    Finding.UNKNOWN_MODEL: Outcome.UNKNOWN_MODEL,
    Finding.CONSTRAINTS_UNMET: Outcome.INVALID,
    Finding.GATED_MODEL: Outcome.GATED,
    Finding.BROKEN_OUTPUT: Outcome.ERROR,
}

# In this order: the Hub's text about an unknown repository also speaks of gated ones.
_PATTERNS: tuple[tuple[Finding, re.Pattern[str]], ...] = tuple(
    (finding, re.compile(pattern, re.IGNORECASE))
    for finding, pattern in (
        (Finding.CONSTRAINTS_UNMET, r"cannot satisfy .*constraint"),
        (Finding.UNKNOWN_GPU, r"invalid value for '--gpu'|unknown gpu|gpu .*(not found|not supported)|unsupported gpu"),
        (Finding.PRECISION_NOT_SUPPORTED, r"precision .*not supported|not supported .*precision|unsupported precision"),
        (Finding.UNKNOWN_MODEL, r"repository not found|repositorynotfound|\b404\b|not a valid model identifier"),
        (Finding.GATED_MODEL, r"gated|restricted|awaiting a review|\b40[13]\b|unauthorized|forbidden"),
    )
)


def finding_in(message: str) -> Finding | None:
    """What an error message of the tool, or of the Hub through it, is about; None when it is something else."""
    return next((finding for finding, pattern in _PATTERNS if pattern.search(message)), None)


def told(error: BaseException) -> str:
    """An exception and what caused it, as one line to search in and to show."""
    parts, seen, current = [], set(), [error]
    while current and id(current[0]) not in seen:
        cause = current.pop()
        seen.add(id(cause))
        parts.append(f"{type(cause).__name__}: {cause}")
        following = cause.__cause__ or cause.__context__
        current = [following] if following is not None else []
    return " ".join(" <- ".join(parts).split())
