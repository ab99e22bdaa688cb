"""The controller: claims the blocks of a sweep, has computed what the store lacks, commits each block at once.

It alone talks to the store; executors only evaluate. What it stores is the same whichever executor runs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import gpuscout
from gpuscout.runner.choose import Choice, expected_seconds
from gpuscout.runner.executors.base import Done, Executor
from gpuscout.runner.interrupt import Interrupt
from gpuscout.runner.work import BlockWork, block_work
from gpuscout.store.blocks import ClaimedBlock, claim_blocks, release_blocks, reopen_failed_blocks, sweep_progress
from gpuscout.store.connect import Store
from gpuscout.store.locks import RunnerLock
from gpuscout.store.sweeps import NewSweep, SweepRecord, find_sweep, note_run, register_sweep
from gpuscout.store.writes import Answer, BlockResult, commit_block
from gpuscout.sweeps.errors import GpuscoutError, SweepInterrupted
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome

# How long to wait for an answer before looking whether the user wants to stop.
_LOOK_UP_S = 0.2


@dataclass
class Progress:
    """Where a run stands. `done_*` and `total_*` count the whole sweep, what earlier runs did included.

    `computed_tasks` counts answers of this run, failures left out; `reused_tasks` those that were in the store.
    """

    total_tasks: int
    total_blocks: int
    done_tasks: int = 0
    done_blocks: int = 0
    computed_tasks: int = 0
    reused_tasks: int = 0
    points: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    @property
    def failed_tasks(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if not outcome.is_answer)


@dataclass(frozen=True)
class RunReport:
    """What a run did. `already_complete`: this very sweep was finished before, nothing was even expanded.

    `open_failures` counts tasks of the sweep that failed and are still lacking, whichever run they failed in;
    `elsewhere` counts blocks that other runners are computing.
    """

    sweep: SweepRecord
    progress: Progress
    seconds: float
    already_complete: bool = False
    open_failures: int = 0
    elsewhere: int = 0


def run_sweep(
    store: Store,
    expansion: Expansion,
    *,
    choose: Callable[[float], Choice],
    description: str = "",
    spec_text: str = "",
    on_start: Callable[[Choice], None] = lambda choice: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    lock_wait_s: float | None = 0.0,
) -> RunReport:
    """Compute and store what the store lacks of a sweep.

    `choose` is told how many seconds of one core's work are left and says where it is done; the executor only starts
    when a block needs computing. Raises SweepInterrupted after Ctrl-C or SIGTERM: finished blocks stay
    stored, claimed ones are given back. Raises StoreBusyError when another runner holds a SQLite store for longer
    than `lock_wait_s` (None waits for ever).
    """
    started = time.monotonic()
    digest = expansion.sweep.digest()
    with store.reading() as connection:
        record = find_sweep(connection, digest)
    if record is not None and record.finished_at is not None:
        return _already_complete(store, record, started)
    with Interrupt() as interrupt, RunnerLock(store).held(wait_s=lock_wait_s) as runner:
        census = expansion.census()
        new = NewSweep.of(
            expansion,
            census,
            description=description,
            spec_text=spec_text,
            gpuscout_version=gpuscout.__version__,
        )
        with store.writing() as connection:
            record = register_sweep(connection, new)
            reopen_failed_blocks(connection, record.id)
            stands = sweep_progress(connection, record.id)
        progress = Progress(stands.tasks, stands.blocks, stands.tasks_done, stands.done)
        run = _Run(store, expansion, record, runner, progress, on_progress)
        if stands.pending or stands.claimed:
            left = (stands.tasks - stands.tasks_done) / max(stands.tasks, 1)
            choice = choose(expected_seconds(expansion, census.block_tasks) * left)
            on_start(choice)
            run.work(choice, interrupt)
    with store.reading() as connection:
        stands = sweep_progress(connection, record.id)
    return RunReport(
        record,
        progress,
        time.monotonic() - started,
        open_failures=sum(stands.failures.values()),
        elsewhere=stands.pending + stands.claimed,
    )


def _already_complete(store: Store, record: SweepRecord, started: float) -> RunReport:
    with store.writing() as connection:
        note_run(connection, record.id)
    blocks = sum(engine.block_count for engine in record.engines)
    progress = Progress(record.task_count, blocks, record.task_count, blocks, reused_tasks=record.task_count)
    return RunReport(record, progress, time.monotonic() - started, already_complete=True)


@dataclass(frozen=True)
class _InFlight:
    claimed: ClaimedBlock
    work: BlockWork


class _Run:
    """One run of one sweep by one runner."""

    def __init__(
        self,
        store: Store,
        expansion: Expansion,
        record: SweepRecord,
        runner: RunnerLock,
        progress: Progress,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._expansion = expansion
        self._record = record
        self._runner = runner
        self._progress = progress
        self._on_progress = on_progress
        self._in_flight: dict[int, _InFlight] = {}
        self._executor: Executor | None = None

    def work(self, choice: Choice, interrupt: Interrupt) -> None:
        """Claim, evaluate and commit until there is nothing left to claim."""
        try:
            while not interrupt.requested:
                self._fill(choice, interrupt)
                if not self._in_flight or self._executor is None:
                    return
                done = self._executor.next_done(_LOOK_UP_S)
                if done is not None:
                    self._commit(self._in_flight.pop(done.job.block), done)
        finally:
            if self._executor is not None:
                self._executor.close()
            self._give_back()
        raise SweepInterrupted(
            f"stopped: {self._progress.done_tasks:,} of {self._progress.total_tasks:,} tasks are stored",
            hint="run the same command to go on",
        )

    def _fill(self, choice: Choice, interrupt: Interrupt) -> None:
        """Claim blocks until the executor is busy. Blocks that need no computing are committed here."""
        while not interrupt.requested and len(self._in_flight) < (self._executor.slots if self._executor else 1):
            with self._store.writing() as connection:
                claimed = claim_blocks(connection, self._record.id, self._runner.runner_id, 1, self._runner.is_alive)
            if not claimed:
                return
            self._take_up(claimed[0], choice)

    def _take_up(self, claimed: ClaimedBlock, choice: Choice) -> None:
        with self._store.reading() as connection:
            work = block_work(connection, self._expansion, self._record.id, claimed.block)
        flight = _InFlight(claimed, work)
        if not work.job.asks:
            self._commit(flight, Done(work.job, []))
            return
        # Noted before the executor starts: if that fails, the block is given back.
        self._in_flight[claimed.block] = flight
        if self._executor is None:
            self._executor = choice.start()
        self._executor.submit(work.job)

    def _commit(self, flight: _InFlight, done: Done) -> None:
        work = flight.work
        result = BlockResult(
            sweep_id=self._record.id,
            block=flight.claimed.block,
            attempt=flight.claimed.attempt,
            runner_id=self._runner.runner_id,
            engine_id=self._record.engine_of(flight.claimed.block).engine_id,
            cases=work.cases,
            keys=work.keys,
            answers=[
                Answer(ask.positions, ask.ladder, curves)
                for ask, curves in zip(done.job.asks, done.answers, strict=True)
            ],
            reused=work.reused,
        )
        with self._store.writing() as connection:
            ours = commit_block(connection, result)
        if ours:
            self._count(work, done)
        self._on_progress(self._progress)

    def _count(self, work: BlockWork, done: Done) -> None:
        progress = self._progress
        progress.done_blocks += 1
        progress.done_tasks += len(work.keys)
        progress.reused_tasks += len(work.reused)
        for curves in done.answers:
            outcomes = Counter(OUTCOMES[code] for code in curves.outcome.tolist())
            progress.outcomes.update(outcomes)
            progress.computed_tasks += sum(count for outcome, count in outcomes.items() if outcome.is_answer)
            progress.points += len(curves.points)

    def _give_back(self) -> None:
        claimed = [flight.claimed for flight in self._in_flight.values()]
        if not claimed:
            return
        # Blocks of a runner that is gone are free anyway, so a store that fails now must not hide why we are leaving.
        with suppress(GpuscoutError), self._store.writing() as connection:
            release_blocks(connection, self._record.id, self._runner.runner_id, claimed)
