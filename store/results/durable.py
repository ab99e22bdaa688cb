"""Access to a store that may go away: a lost connection is retried, a commit in doubt is looked up.

Whatever is lost before COMMIT was sent never happened, and is simply done again. When the answer to a COMMIT is lost,
nobody knows: `commit` then reads the block's state before it writes, and work given to `writing` must be repeatable.
Only what may pass is tried again: lost or refused connections, a server that stops or starts, deadlocks and
serialisation failures. A SQLite store that is locked, full, read-only or damaged is reported at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gpuscout.store.database import driver_errors
from gpuscout.store.database.connect import Store
from gpuscout.store.database.locks import RunnerLock
from gpuscout.store.results.blocks import ClaimedBlock, claim_blocks, is_done_by, release_blocks
from gpuscout.store.results.tasks import BlockResult, commit_block
from gpuscout.sweeps.errors import GpuscoutError, StoreBusyError, StoreUnreachableError

_T = TypeVar("_T")

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
_LOOK_UP_S = 0.2
_ONE_OUTAGE_S = 10.0


@dataclass(frozen=True)
class Patience:
    """Limits on waiting for a store that is away.

    `seconds` count from the first failure on. `stop` is asked several times a second while waiting; once it says
    True, the next failure is final. `notice` is told what is wrong whenever the waiting begins, without a password, in
    whichever thread waits; see `once_an_outage`.
    """

    seconds: float = 60.0
    stop: Callable[[], bool] = lambda: False
    notice: Callable[[str], None] = lambda text: None


PATIENT = Patience()


def once_an_outage(notice: Callable[[str], None]) -> Callable[[str], None]:
    """Return a `notice` for several threads: what all of them meet at about the same time is told once."""
    lock = threading.Lock()
    told_at = -math.inf

    def tell(text: str) -> None:
        nonlocal told_at
        with lock:
            now = time.monotonic()
            if now - told_at >= _ONE_OUTAGE_S:
                told_at = now
                notice(text)

    return tell


def reading(store: Store, work: Callable[[sa.Connection], _T], *, patience: Patience = PATIENT) -> _T:
    """Return the result of `work` in a `Store.reading()` transaction, which is run again when the store went away.

    Raises StoreUnreachableError, saying for how long it was tried; StoreBusyError.
    """

    def once() -> _T:
        with store.reading() as connection:
            return work(connection)

    return _persistent(once, patience)


def writing(store: Store, work: Callable[[sa.Connection], _T], *, patience: Patience = PATIENT) -> _T:
    """Return the result of `work` in a `Store.writing()` transaction, which is run again when the store went away.

    `work` must do no harm when it is run again after it was committed: registering, releasing, noting; not claiming
    and not committing a block, for which there are `claim` and `commit`.
    Raises StoreUnreachableError, saying for how long it was tried; StoreBusyError.
    """

    def once() -> _T:
        with store.writing() as connection:
            return work(connection)

    return _persistent(once, patience)


def claim(
    runner: RunnerLock, sweep_id: int, limit: int, *, in_flight: Collection[int], patience: Patience = PATIENT
) -> list[ClaimedBlock]:
    """Claim up to `limit` blocks for a runner, as `claim_blocks` does.

    `in_flight` are all blocks of the sweep that this runner has claimed and neither committed nor released: any other
    one that is claimed in its name is a claim whose COMMIT was not answered, and is claimed again.
    Raises StoreUnreachableError, saying for how long it was tried; StoreBusyError.
    """

    def once() -> list[ClaimedBlock]:
        runner.restore()
        with runner.store.writing() as connection:
            return claim_blocks(connection, sweep_id, runner.runner_id, limit, runner.is_alive, in_flight=in_flight)

    return _persistent(once, patience)


def commit(runner: RunnerLock, result: BlockResult, *, patience: Patience = PATIENT) -> bool:
    """Store a block exactly once, as `commit_block` does; whether it is stored by this attempt.

    False when the block belongs to another attempt now, or when tasks it wanted to reuse have been deleted
    meanwhile: then the block is given back, and whoever claims it next computes them.
    Raises StoreUnreachableError, saying for how long it was tried; StoreBusyError.
    """
    in_doubt = False

    def once() -> bool:
        nonlocal in_doubt
        runner.restore()
        with runner.store.writing() as connection:
            if in_doubt and is_done_by(connection, result.sweep_id, result.block, result.runner_id, result.attempt):
                return True
            stored = commit_block(connection, result)
            in_doubt = True
        return stored

    try:
        return _persistent(once, patience)
    except IntegrityError as error:
        if not driver_errors.is_missing_reference(error):
            raise
    given_back = [ClaimedBlock(result.block, result.attempt)]
    writing(
        runner.store,
        lambda connection: release_blocks(connection, result.sweep_id, result.runner_id, given_back),
        patience=patience,
    )
    return False


def _persistent(once: Callable[[], _T], patience: Patience) -> _T:
    """Call `once` until it succeeds, fails for good, or patience ends."""
    failed_at: float | None = None
    delay = _FIRST_DELAY_S
    while True:
        try:
            return once()
        except (StoreUnreachableError, StoreBusyError) as error:
            if not driver_errors.may_pass(error):
                raise
            now = time.monotonic()
            if failed_at is None:
                failed_at = now
                patience.notice(error.message)
            tried_s = now - failed_at
            if tried_s >= patience.seconds or patience.stop():
                raise _given_up(error, tried_s) from error
        _wait(min(delay, max(patience.seconds - tried_s, 0.0)), patience)
        delay = min(2 * delay, _LONGEST_DELAY_S)


def _wait(seconds: float, patience: Patience) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not patience.stop():
        time.sleep(min(left, _LOOK_UP_S))


def _given_up(error: GpuscoutError, tried_s: float) -> StoreUnreachableError:
    return StoreUnreachableError(
        f"{error.message} (tried again for {tried_s:.0f} s)",
        hint="everything stored so far is kept: run the same command when the store is back",
    )
