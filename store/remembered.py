"""What was read of one state of a store: for a server, which is asked again and again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

import sqlalchemy as sa

_MEMORY = "gpuscout_memory"
# With their columns about 100 MB.
_MOST_ROWS = 200_000

_Found = TypeVar("_Found")


class Memory:
    """What was read of one state of a store, by what was asked. Threads may share it."""

    def __init__(self, state: str) -> None:
        self.state = state
        self._lock = Lock()
        self._found: dict[Hashable, Any] = {}
        self._rows = 0

    def find(self, key: Hashable) -> Any:
        with self._lock:
            return self._found.get(key)

    def keep(self, key: Hashable, found: Any, rows: int) -> None:
        """Keep an answer of so many rows; where that is too much, it takes the place of all others."""
        with self._lock:
            if self._rows + rows > _MOST_ROWS:
                self._found.clear()
                self._rows = 0
            if rows <= _MOST_ROWS:
                self._found[key] = found
                self._rows += rows


def recall(connection: sa.Connection, memory: Memory) -> None:
    """Let a transaction find, and add to, what was read of the state that it sees."""
    connection.execution_options(**{_MEMORY: memory})


def remembered(
    connection: sa.Connection,
    key: Hashable,
    read: Callable[[], _Found],
    rows: Callable[[_Found], int] = lambda found: 1,
) -> _Found:
    """Return what `read` gives, or gave before under this key in the same state of the store.

    Only stores that are kept (`kept.kept_stores`) remember. Whoever gets an answer may not change it: others get
    the same one. `rows` is how much of it there is.
    """
    memory: Memory | None = connection.get_execution_options().get(_MEMORY)
    if memory is None:
        return read()
    found: _Found | None = memory.find(key)
    if found is None:
        found = read()
        memory.keep(key, found, rows(found))
    return found
