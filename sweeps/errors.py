"""The one tree of errors that users can cause or meet; the command line prints them in one place.

GpuscoutError                 exit 1
├── InputError                exit 2   something the user gave is wrong
│   ├── SpecError                      a sweep spec: carries every problem found, with its place
│   │   ├── InvalidSpecError               and the part of it that is sound, whose names can still be looked up
│   │   └── GpuFileError                   a user's file of GPUs, and the names in it
│   ├── NothingMatchesError            a question that no stored result is about
│   ├── UnknownNameError               a name that no catalogue holds, with the nearest names
│   ├── ModelConfigError               a model configuration that cannot be understood
│   │   ├── MissingFieldError              it lacks a field
│   │   └── NotCausalError                 it describes no causal language model
│   └── HubError                       a model that could not be fetched from the Hugging Face Hub
│       ├── HubModelNotFoundError          no such model or revision, or private without a token
│       ├── HubGatedError                  its terms have to be accepted first
│       ├── HubAccessError                 a token is needed, wrong or lacks permission
│       ├── HubOfflineError                HF_HUB_OFFLINE is set and the local cache does not hold it
│       ├── HubTimeoutError                no answer in time
│       ├── HubRateLimitError              too many requests
│       ├── HubServerError                 the Hub failed, or the endpoint is not a Hugging Face Hub
│       └── HubUnreachableError            no connection
├── NothingQualifiesError     exit 6   the question is answered: nothing meets it
├── StoreUnreachableError     exit 3   no connection, not a store, read-only, damaged, disk full
├── StoreOutdatedError        exit 4   `gpuscout db upgrade` is needed
├── StoreBusyError            exit 3   another runner holds this SQLite store
└── SweepInterrupted          exit 130 what was finished is stored
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
        where = "  ".join(part for part in (place, f"{self.key}: {self.message}" if self.key else self.message) if part)
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


class NothingMatchesError(InputError):
    """A question that matches no stored result; the hint lists the stored ones."""


class GpuFileError(SpecError):
    """An unusable GPU file. `names` are its GPUs as far as they could be read: not unknown, only unusable."""

    def __init__(self, problems: Iterable[SpecProblem], names: Iterable[str]) -> None:
        super().__init__(problems)
        self.names = tuple(names)


class UnknownNameError(InputError, ValueError):
    """`kind` (model, GPU, workload …) has no entry `name`; `suggestions` are the nearest, best first.

    A ValueError as well: what Python programs expect of a wrong name.
    """

    def __init__(self, kind: str, name: str, suggestions: Iterable[str] = (), *, hint: str | None = None) -> None:
        self.kind, self.name, self.suggestions = kind, name, tuple(suggestions)
        meant = f"did you mean {' or '.join(self.suggestions)}?" if self.suggestions else None
        super().__init__(
            f"unknown {kind} {json.dumps(name, ensure_ascii=False)}",
            hint="   ".join(part for part in (meant, hint) if part) or None,
        )


class ModelConfigError(InputError):
    """A model configuration (config.json) that is damaged, hostile or not a causal language model."""


class MissingFieldError(ModelConfigError):
    """A model configuration that lacks a field which nothing else implies."""


class NotCausalError(ModelConfigError):
    """An encoder, a diffusion pipeline …: nothing that generates text token by token."""


class HubError(InputError):
    """A model could not be fetched from the Hugging Face Hub. Messages never quote tokens or a server."""


class HubModelNotFoundError(HubError):
    """The Hub holds no such model or revision, or does not show it to this user."""


class HubGatedError(HubError):
    """The model is public, but its terms have to be accepted on its page first."""


class HubAccessError(HubError):
    """The Hub requires a token, or refuses the one it was given (401, 403)."""


class HubOfflineError(HubError):
    """HF_HUB_OFFLINE forbids to ask the Hub, and the local cache does not hold the model."""


class HubTimeoutError(HubError):
    """The Hub did not answer within the time-outs of huggingface_hub."""


class HubRateLimitError(HubError):
    """The Hub answers 429; `retry_after_s` is how long it asks to wait, None when it does not say."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class HubServerError(HubError):
    """The Hub failed (5xx), sent less than it announced, or the endpoint is not a Hugging Face Hub."""


class HubUnreachableError(HubError):
    """There is no connection to the Hub."""


class OutOfTimeError(InputError):
    """A search that ended without a placement, and without a proof that there is none."""


class NothingQualifiesError(GpuscoutError):
    exit_code = 6


class StoreUnreachableError(GpuscoutError):
    exit_code = 3


class NoStoreError(StoreUnreachableError):
    """There is no store at this place yet."""


class TookTooLongError(StoreUnreachableError):
    """Whoever asked is no longer waiting, or was to have the answer by now."""


class StoreBusyError(GpuscoutError):
    exit_code = 3


class StoreOutdatedError(GpuscoutError):
    exit_code = 4


class SweepInterrupted(GpuscoutError):
    exit_code = 130


@contextmanager
def needing(message: str, *, hint: str) -> Iterator[None]:
    """Raise InputError where the block imports a package that is not installed."""
    try:
        yield
    except ImportError as error:
        raise InputError(message, hint=hint) from error


# "workload" means "workloads" and not "load", too.
_MUCH_LESS_ALIKE = 0.25


def nearest(name: str, candidates: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the candidates most like `name`, best first, ignoring case; empty when none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    folded = name.casefold()
    found = difflib.get_close_matches(folded, by_folded, n=limit, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, candidate, folded).ratio() for candidate in found]
    return [
        by_folded[one] for one, ratio in zip(found, likeness, strict=True) if ratio > likeness[0] - _MUCH_LESS_ALIKE
    ]


_LONGEST_QUOTE = 60


def quoted(text: str) -> str:
    """Return text in double quotes, escaped (no control characters reach a terminal), shortened when long."""
    shown = text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"
    return json.dumps(shown, ensure_ascii=not shown.isprintable())
