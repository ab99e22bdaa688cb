"""The one tree of errors that users can cause or meet; the command line prints them in one place.

GpuscoutError                 exit 1
├── InputError                exit 2   something the user gave is wrong
│   ├── SpecError                      a sweep spec: carries every problem found, with its place
│   ├── UnknownNameError               a name that no catalogue holds, with the nearest names
│   └── ModelConfigError               a model configuration that cannot be understood
├── StoreUnreachableError     exit 3   no connection, not a store, read-only, damaged, disk full
├── StoreOutdatedError        exit 4   `gpuscout db upgrade` is needed
├── StoreBusyError            exit 3   another runner holds this SQLite store
└── SweepInterrupted          exit 130 what was finished is stored
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass


class GpuscoutError(Exception):
    """Base of all expected errors: `message` says what and where, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(GpuscoutError):
    exit_code = 2


@dataclass(frozen=True)
class SpecProblem:
    """One thing wrong with a spec. `line` and `column` count from 1; None for a spec built from flags."""

    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        where = "  ".join(
            part for part in (place, f"{self.key}: {self.message}" if self.key else self.message) if part
        )
        return f"{where}\n    {self.hint}" if self.hint else where


class SpecError(InputError):
    """A spec that cannot be run; lists every problem at once, in the order of the file."""

    def __init__(self, problems: Iterable[SpecProblem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file or "", p.line or 0, p.column or 0)))
        count = len(self.problems)
        super().__init__(
            "\n".join(str(problem) for problem in self.problems)
            + f"\n{count} problem{'s' if count != 1 else ''}, nothing was run."
        )


class UnknownNameError(InputError):
    """`kind` (model, GPU, workload …) has no entry `name`; `suggestions` are the nearest, best first."""

    def __init__(
        self, kind: str, name: str, suggestions: Iterable[str] = (), *, hint: str | None = None
    ) -> None:
        self.kind, self.name, self.suggestions = kind, name, tuple(suggestions)
        meant = f"did you mean {' or '.join(self.suggestions)}?" if self.suggestions else None
        super().__init__(
            f"unknown {kind} {json.dumps(name, ensure_ascii=False)}",
            hint="   ".join(part for part in (meant, hint) if part) or None,
        )


class ModelConfigError(InputError):
    """A model configuration (config.json) that is damaged, hostile or not a causal language model."""


class StoreUnreachableError(GpuscoutError):
    exit_code = 3


class StoreBusyError(GpuscoutError):
    exit_code = 3


class StoreOutdatedError(GpuscoutError):
    exit_code = 4


class SweepInterrupted(GpuscoutError):
    exit_code = 130


def nearest(name: str, candidates: Iterable[str], *, limit: int = 3) -> list[str]:
    """The candidates most like `name`, best first, ignoring case; empty when none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=limit, cutoff=0.6)
    return [by_folded[folded] for folded in found]
