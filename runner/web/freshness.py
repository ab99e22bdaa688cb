"""The inputs of an answer besides the question: while they are the same, an earlier answer is still true."""

from __future__ import annotations

from gpuscout import __version__
from gpuscout.store.clock import today
from gpuscout.store.database.connect import reach


def freshness(db: str | None) -> str | None:
    """Return a text of the version, the day (prices grow old) and the state of the store, where one is asked.

    None where the store cannot say whether it has changed. Raises GpuscoutError where it cannot be reached.
    """
    state: str | None = "-"
    if db is not None:
        with reach(db) as store:
            state = store.state()
    return f"{__version__} {today().isoformat()} {state}" if state else None
