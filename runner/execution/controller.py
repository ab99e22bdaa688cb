"""The controller: claims the blocks of a sweep, has computed what the store lacks, commits each block at once.

It alone talks to the store; executors only evaluate. What it stores is the same whichever executor runs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import gpuscout
from gpuscout.runner.engines.plausible import implausible
from gpuscout.runner.execution.evaluate import Job, failed
from gpuscout.runner.execution.executor_choice import Choice, Work, expected_work
from gpuscout.runner.execution.executors.base import Done, Executor, Failed, Part
from gpuscout.runner.execution.interrupt import Interrupt
from gpuscout.runner.execution.retry import DelayQueue, FailureKind, Retry, Split, decide
from gpuscout.runner.execution.shared_tasks import SharedTasks
from gpuscout.runner.execution.work import BlockWork, block_work
from gpuscout.store.database.connect import Store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.measured import MeasuredRun
from gpuscout.store.measured.stored import store_runs
from gpuscout.store.results import durable
from gpuscout.store.results.blocks import (
    ClaimedBlock,
    SweepProgress,
    release_blocks,
    reopen_failed_blocks,
    sweep_progress,
)
from gpuscout.store.results.committer import Committer
from gpuscout.store.results.durable import Patience, once_an_outage
from gpuscout.store.results.sweeps import NewSweep, SweepRecord, find_sweep, note_run, register_sweep
from gpuscout.store.results.tasks import Answer, BlockResult
from gpuscout.sweeps.errors import GpuscoutError, StoreBusyError, StoreUnreachableError, SweepInterrupted
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome

# How long to wait for an answer before looking whether the user wants to stop.
_LOOK_UP_S = 0.2
# How often to look what other runners have left to do, once there is nothing more to claim.
_LOOK_AT_OTHERS_S = 1.0
# How many tasks that others are evaluating are put aside, beside those that keep the executor busy.
_MOST_ELSEWHERE = 8


@dataclass
class Progress:
    """Progress of a run. `done_*` and `total_*` count the whole sweep, what earlier runs did included.

    `computed_tasks` counts answers of this run, failures left out; `reused_tasks` those that were in the store.
    `elsewhere` counts the blocks that other runners are computing while this one has nothing to do but wait for them.
    """

    total_tasks: int
    total_blocks: int
    done_tasks: int = 0
    done_blocks: int = 0
    computed_tasks: int = 0
    reused_tasks: int = 0
    points: int = 0
    elsewhere: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    @property
    def failed_tasks(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if not outcome.is_answer)


@dataclass(frozen=True)
class RunReport:
    """Result of a run. `already_complete`: this very sweep was finished before, nothing was even expanded.

    `open_failures` counts tasks of the sweep that failed and are still lacking, whichever run they failed in;
    `elsewhere` counts blocks that other runners are computing.
    """

    sweep: SweepRecord
    progress: Progress
    seconds: float
    already_complete: bool = False
    open_failures: int = 0
    elsewhere: int = 0


@dataclass(frozen=True)
class RunCallbacks:
    """Callbacks of a run: the executor that starts, every step, and messages."""

    start: Callable[[Choice], None] = lambda choice: None
    progress: Callable[[Progress], None] = lambda progress: None
    notice: Callable[[str], None] = lambda text: None


def run_sweep(
    store: Store,
    expansion: Expansion,
    *,
    choose: Callable[[Work], Choice],
    description: str = "",
    spec_text: str = "",
    callbacks: RunCallbacks | None = None,
    lock_wait_s: float | None = 0.0,
    retry_failed: bool = False,
) -> RunReport:
    """Compute and store what the store lacks of a sweep; when other runners share it, wait until they are done too.

    `choose` is told how much work is left and says where it is done; the executor only starts when a block needs
    computing. Failed tasks of earlier runs are tried again, those that crashed or timed out only
    with `retry_failed`. Raises SweepInterrupted after Ctrl-C or SIGTERM: finished blocks stay stored, claimed ones are
    given back. Raises StoreBusyError when another runner holds a SQLite store for longer than `lock_wait_s` (None
    waits for ever) and StoreUnreachableError when the store stays away for a minute.
    """
    started = time.monotonic()
    callbacks = callbacks or RunCallbacks()
    digest = expansion.sweep.digest()
    record = durable.reading(store, lambda connection: find_sweep(connection, digest))
    if record is not None and record.finished_at is not None:
        return _already_complete(store, record, started)
    notice = once_an_outage(callbacks.notice)
    with (
        Interrupt() as interrupt,
        _stopped_is_no_failure(interrupt),
        store.waits.changed(until=lambda: interrupt.deadline, notice=notice),
        _held(RunnerLock(store), interrupt, callbacks, lock_wait_s) as runner,
    ):
        patience = Patience(stop=lambda: interrupt.requested, notice=notice)
        census = expansion.census()
        new = NewSweep.of(
            expansion,
            census,
            description=description,
            spec_text=spec_text,
            gpuscout_version=gpuscout.__version__,
        )
        record = durable.writing(store, lambda connection: register_sweep(connection, new), patience=patience)
        sweep_id = record.id
        durable.writing(
            store,
            lambda connection: reopen_failed_blocks(connection, sweep_id, include_crashed=retry_failed),
            patience=patience,
        )
        stands = _stands(store, sweep_id, patience)
        progress = Progress(stands.tasks, stands.blocks, stands.tasks_done, stands.done)
        if stands.pending or stands.claimed:
            left = (stands.tasks - stands.tasks_done) / max(stands.tasks, 1)
            choice = choose(expected_work(expansion, census.block_tasks) * left)
            callbacks.start(choice)
            run = _Run(expansion, record, runner, progress, callbacks, interrupt, patience, retry_failed=retry_failed)
            run.work(choice)
        stands = _stands(store, sweep_id, patience)
    return RunReport(
        durable.reading(store, lambda connection: find_sweep(connection, digest)) or record,
        progress,
        time.monotonic() - started,
        open_failures=sum(stands.failures.values()),
        elsewhere=stands.pending + stands.claimed,
    )


@contextmanager
def _stopped_is_no_failure(interrupt: Interrupt) -> Iterator[None]:
    """Let a run that the user stopped end without the error of a store that did not answer any more."""
    try:
        yield
    except (StoreUnreachableError, StoreBusyError) as error:
        if not interrupt.requested:
            raise
        raise SweepInterrupted(
            f"stopped while the store did not answer ({error.message}); what was finished is stored",
            hint="run the same command to go on",
        ) from error


@contextmanager
def _held(
    runner: RunnerLock, interrupt: Interrupt, callbacks: RunCallbacks, wait_s: float | None
) -> Iterator[RunnerLock]:
    """Yield the lock of a runner, waited for in a way that Ctrl-C ends."""
    started = time.monotonic()
    waiting = False
    while True:
        try:
            runner.acquire(0.0)
            break
        except StoreBusyError as error:
            if wait_s is not None and time.monotonic() - started >= wait_s:
                error.hint = "--wait waits for it; a Postgres store takes several runners at once"
                raise
            if not waiting:
                callbacks.notice(f"{error.message}; waiting until it has finished")
                waiting = True
        interrupt.wait(_LOOK_UP_S)
        if interrupt.requested:
            raise SweepInterrupted("stopped: nothing was run, another runner holds this store")
    try:
        yield runner
    finally:
        runner.release()


def _stands(store: Store, sweep_id: int, patience: Patience) -> SweepProgress:
    return durable.reading(store, lambda connection: sweep_progress(connection, sweep_id), patience=patience)


def _is_cancelled(store: Store, record: SweepRecord, patience: Patience) -> bool:
    found = durable.reading(store, lambda connection: find_sweep(connection, record.digest), patience=patience)
    return found is None or found.cancelled_at is not None


def _already_complete(store: Store, record: SweepRecord, started: float) -> RunReport:
    durable.writing(store, lambda connection: note_run(connection, record.id))
    blocks = sum(engine.block_count for engine in record.engines)
    progress = Progress(record.task_count, blocks, record.task_count, blocks, reused_tasks=record.task_count)
    return RunReport(record, progress, time.monotonic() - started, already_complete=True)


@dataclass
class _InFlight:
    """A claimed block until its commit has ended: what is known of its tasks, and how many of its jobs are unanswered.

    `in_vain` counts tasks given up alone as long as none was answered; `measured` has the points that were measured in
    this run, by position.
    """

    claimed: ClaimedBlock
    work: BlockWork
    open_jobs: int
    answers: list[Answer] = field(default_factory=list)
    in_vain: int = 0
    answered: bool = False
    measured: dict[int, list[MeasuredRun]] = field(default_factory=dict)


class _Run:
    """One run of one sweep by one runner."""

    def __init__(
        self,
        expansion: Expansion,
        record: SweepRecord,
        runner: RunnerLock,
        progress: Progress,
        callbacks: RunCallbacks,
        interrupt: Interrupt,
        patience: Patience,
        *,
        retry_failed: bool,
    ) -> None:
        self._store = runner.store
        self._expansion = expansion
        self._record = record
        self._runner = runner
        self._progress = progress
        self._callbacks = callbacks
        self._interrupt = interrupt
        self._patience = patience
        self._retry_failed = retry_failed
        self._in_flight: dict[int, _InFlight] = {}
        self._waiting: DelayQueue[Job] = DelayQueue()
        self._elsewhere: DelayQueue[Job] = DelayQueue()  # evaluated by other runners now
        self._shared = SharedTasks(runner, expansion, patience, callbacks.notice)
        self._running = 0
        self._executor: Executor | None = None
        self._committer = Committer(runner, patience=patience)

    def work(self, choice: Choice) -> None:
        """Claim, evaluate and commit until there is nothing left to claim or to wait for."""
        try:
            with self._committer:
                self._until_done_or_stopped(choice)
                self._note_commits(all_of_them=True)
        finally:
            if self._executor is not None:
                self._executor.close()
            self._give_back()
        if self._interrupt.requested:
            points = sum(len(runs) for flight in self._in_flight.values() for runs in flight.measured.values())
            kept = f", and {points:,} measured point{'' if points == 1 else 's'} of others" if points else ""
            raise SweepInterrupted(
                f"stopped: {self._progress.done_tasks:,} of {self._progress.total_tasks:,} tasks are stored{kept}",
                hint="run the same command to go on",
            )

    def _until_done_or_stopped(self, choice: Choice) -> None:
        while not self._interrupt.requested:
            self._note_commits()
            self._submit_waiting()
            self._fill(choice)
            if self._running:
                self._next_done()
            elif len(self._committer):
                self._note_commits(all_of_them=True)
            elif self._in_flight:
                self._interrupt.wait(_LOOK_UP_S)  # until the next attempt is due
            elif not self._others_at_work():
                return

    def _busy(self) -> bool:
        """Return whether the executor has all it can use; one that has not started needs one block."""
        slots = self._executor.slots if self._executor else 1
        return self._running + len(self._waiting) >= slots or len(self._elsewhere) >= slots + _MOST_ELSEWHERE

    def _fill(self, choice: Choice) -> None:
        """Claim blocks until the executor is busy. Blocks that need no computing are committed here."""
        while not self._interrupt.requested and not self._busy():
            claimed = durable.claim(
                self._runner, self._record.id, 1, in_flight=self._in_flight.keys(), patience=self._patience
            )
            if not claimed:
                return
            self._take_up(claimed[0], choice)

    def _take_up(self, claimed: ClaimedBlock, choice: Choice) -> None:
        work = durable.reading(
            self._store,
            lambda connection: block_work(
                connection, self._expansion, self._record.id, claimed.block, retry_failed=self._retry_failed
            ),
            patience=self._patience,
        )
        # Noted before the executor starts: if that fails, the block is given back.
        flight = self._in_flight[claimed.block] = _InFlight(claimed, work, len(work.jobs), list(work.answers))
        if not work.jobs:
            self._commit(flight)
            return
        if self._executor is None:
            self._executor = choice.start()
            self._interrupt.arm()
        for job in reversed(work.jobs):
            self._waiting.add(job, time.monotonic())
        self._submit_waiting()

    def _submit_waiting(self) -> None:
        """Hand over the jobs whose time has come, as many as the executor can use."""
        while self._executor is not None and self._running < self._executor.slots:
            now = time.monotonic()
            job = self._elsewhere.take(now) or self._waiting.take(now)
            if job is None:
                return
            flight = self._in_flight[job.block]
            if self._shared.is_elsewhere(flight.work, job):
                self._elsewhere.add(job, now, _LOOK_UP_S)
            elif self._shared.found(flight.work, job):
                self._shared.ended(job)
                flight.open_jobs -= 1
                if not flight.open_jobs:
                    self._commit(flight)
            else:
                self._executor.submit(job)
                self._running += 1

    def _next_done(self) -> None:
        assert self._executor is not None
        ended = self._executor.next_done(_LOOK_UP_S)
        if ended is None:
            return
        flight = self._in_flight[ended.job.block]
        if isinstance(ended, Part):
            self._keep(flight, ended)
            return
        self._running -= 1
        self._shared.ended(ended.job)
        if isinstance(ended, Done):
            flight.answered = True
            self._answer(flight, ended)
        else:
            self._lost(flight, ended)

    def _keep(self, flight: _InFlight, part: Part) -> None:
        """Store an operating point at once: it has taken GPUs for minutes, and its task may still fail."""
        run = replace(part.run, implausible=implausible([part.run])[0])
        key = flight.work.keys[part.position]
        durable.writing(
            self._store,
            lambda connection: store_runs(connection, [run], task_keys=[key]),
            patience=self._patience,
        )
        flight.answered = True
        flight.measured.setdefault(part.position, []).append(part.run)
        self._progress.points += 1
        self._callbacks.progress(self._progress)

    def _answer(self, flight: _InFlight, done: Done) -> None:
        flight.answers.append(Answer(done.job.positions, done.job.ladder, done.curves))
        flight.open_jobs -= 1
        if not flight.open_jobs:
            self._commit(flight)

    def _lost(self, flight: _InFlight, lost: Failed) -> None:
        """Do with a job that has no answer as the policy says."""
        job, now = lost.job.knowing(flight.measured), time.monotonic()
        decision = decide(lost.kind, job.attempt, len(job), in_vain=0 if flight.answered else flight.in_vain)
        if isinstance(decision, Split):
            halves = job.halves()
            flight.open_jobs += len(halves) - 1
            for half in reversed(halves):
                self._waiting.add(half, now)
        elif isinstance(decision, Retry):
            self._waiting.add(job.again(), now, decision.delay_s)
        else:
            flight.in_vain += len(job)
            detail = lost.detail
            if len(job) > 1 and lost.kind is not FailureKind.ENGINE_MISSING:
                detail += " (with other tasks of its block: none was answered)"
            elif job.attempt > 1:
                detail += f" ({job.attempt} attempts)"
            self._answer(flight, Done(job, failed(len(job), decision.outcome, detail)))

    def _commit(self, flight: _InFlight) -> None:
        work = flight.work
        block = flight.claimed.block
        result = BlockResult(
            sweep_id=self._record.id,
            block=block,
            attempt=flight.claimed.attempt,
            runner_id=self._runner.runner_id,
            engine_id=self._record.engine_of(block).engine_id,
            cases=work.cases,
            keys=work.keys,
            answers=flight.answers,
            reused=work.reused,
        )
        self._committer.submit(result)
        self._note_commits()

    def _note_commits(self, *, all_of_them: bool = False) -> None:
        for result, ours in self._committer.finished(all_of_them=all_of_them):
            flight = self._in_flight.pop(result.block)
            self._shared.done_with(flight.work)
            if ours:
                self._count(flight)
            self._callbacks.progress(self._progress)

    def _count(self, flight: _InFlight) -> None:
        progress = self._progress
        progress.done_blocks += 1
        progress.done_tasks += len(flight.work.keys)
        progress.reused_tasks += len(flight.work.reused)
        for answer in flight.answers:
            outcomes = Counter(OUTCOMES[code] for code in answer.curves.outcome.tolist())
            progress.outcomes.update(outcomes)
            progress.computed_tasks += sum(count for outcome, count in outcomes.items() if outcome.is_answer)
            progress.points += len(answer.curves.points)

    def _others_at_work(self) -> bool:
        """Return whether other runners still compute blocks of this sweep; waits for a moment if so.

        Blocks of a runner that dies meanwhile are claimed like any others.
        """
        stands = _stands(self._store, self._record.id, self._patience)
        progress = self._progress
        progress.elsewhere = stands.claimed
        progress.done_tasks, progress.done_blocks = stands.tasks_done, stands.done
        self._callbacks.progress(progress)
        if not stands.claimed and not stands.pending:
            return False
        if _is_cancelled(self._store, self._record, self._patience):
            raise SweepInterrupted(
                f"{self._record.name} was cancelled: "
                f"{progress.done_tasks:,} of {progress.total_tasks:,} tasks are stored",
                hint=f"gpuscout sweeps resume {self._record.name}   goes on",
            )
        self._interrupt.wait(_LOOK_AT_OTHERS_S)
        return True

    def _give_back(self) -> None:
        claimed = [flight.claimed for flight in self._in_flight.values()]
        if not claimed:
            return
        # Blocks of a runner that is gone are free anyway, so a store that fails now must not hide why we are leaving.
        with suppress(GpuscoutError), self._store.writing() as connection:
            release_blocks(connection, self._record.id, self._runner.runner_id, claimed)


# The name of the release before this one.
Told = RunCallbacks
