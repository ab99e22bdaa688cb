"""Commits blocks beside the thread that computes or collects them, several at once where the database takes them.

A server stores one block on one core while its client waits, so that two commits at once are worth it; SQLite has one
writer, and commits there happen in the caller's thread.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results import durable
from gpuscout.store.results.durable import PATIENT, Patience
from gpuscout.store.results.registry import register_gpus, register_models
from gpuscout.store.results.tasks import BlockResult
from gpuscout.sweeps.cases import CaseColumns

COMMITS_AT_ONCE = 3
"""Blocks that are computed and not stored yet, at most: so many are computed again when a runner is killed."""


class Committer:
    """A writer that commits each submitted block exactly once, in no particular order. Used by one thread.

    A submitted block stays the runner's: keep it among the blocks `claim` is told are in flight until `finished` names
    it. Leaving the `with` block waits for all commits; what they raise is raised by `finished`.
    """

    def __init__(self, runner: RunnerLock, *, at_once: int = COMMITS_AT_ONCE, patience: Patience = PATIENT) -> None:
        self._runner = runner
        self._patience = patience
        self._at_once = at_once
        self._threads = None if runner.store.is_sqlite else ThreadPoolExecutor(at_once, "gpuscout-commit")
        self._registered: set[bytes] = set()
        self._done: list[tuple[BlockResult, bool]] = []
        self._running: dict[Future[bool], BlockResult] = {}

    def submit(self, result: BlockResult) -> None:
        """Have a block committed; waits while as many as are allowed are being committed, so that memory is bounded."""
        if self._threads is None:
            self._done.append((result, self._commit(result)))
            return
        while len(self._running) >= self._at_once:
            self._collect(block=True)
        self._register(result.cases)
        self._running[self._threads.submit(self._commit, result)] = result

    def finished(self, *, all_of_them: bool = False) -> list[tuple[BlockResult, bool]]:
        """Return the blocks whose commits have ended since the last call, and whether this attempt stored them.

        With `all_of_them`, every commit is waited for. Raises what `durable.commit` raises.
        """
        self._collect(block=False)
        while all_of_them and self._running:
            self._collect(block=True)
        done, self._done = self._done, []
        return done

    def __len__(self) -> int:
        """Return the number of submitted blocks that `finished` has not given yet."""
        return len(self._running) + len(self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=True)

    def _register(self, cases: CaseColumns) -> None:
        """Store models and GPUs that are new apart: of two commits that do so, the second would wait for the first."""
        models = [model for code, model in enumerate(cases.models) if code in cases.model]
        gpus = [gpu for code, gpu in enumerate(cases.gpus) if code in cases.gpu]
        digests = {model.digest() for model in models} | {gpu.digest() for gpu in gpus}
        if digests <= self._registered:
            return

        def register(connection: sa.Connection) -> None:
            register_models(connection, models)
            register_gpus(connection, gpus)

        durable.writing(self._runner.store, register, patience=self._patience)
        self._registered |= digests

    def _commit(self, result: BlockResult) -> bool:
        return durable.commit(self._runner, result, patience=self._patience)

    def _collect(self, *, block: bool) -> None:
        wait(self._running, timeout=None if block else 0, return_when=FIRST_COMPLETED)
        for future in [future for future in self._running if future.done()]:
            self._done.append((self._running.pop(future), future.result()))
