"""Errors of a server that cannot be benchmarked, or not any further."""

from __future__ import annotations

from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.outcomes import Outcome


class BenchmarkError(GpuscoutError):
    """A failure of the server or the load generator. `outcome` is that of the measured case.

    An outcome that is an answer (`not_supported`) is final; any other one is tried again on the next run.
    """

    def __init__(self, message: str, outcome: Outcome = Outcome.ERROR) -> None:
        super().__init__(message)
        self.outcome = outcome


class RefusedError(BenchmarkError):
    """The server wants another key, another model or another address (401, 403, 404): the same request never works."""
