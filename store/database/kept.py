"""Stores that a server keeps: connected while it is asked, and what was read of them until they are written to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuscout.store.database.connect import Store

_REST_AFTER_S = 5.0
# Address -> which file stands there, and the store there, while this process keeps stores.
_kept: dict[str, tuple[Hashable, Store]] = {}
_keepers = 0
_keeping = Lock()


@contextmanager
def kept_stores(*, rest_after_s: float = _REST_AFTER_S) -> Iterator[None]:
    """Connect to each place once for as long as this is open: for a server, which asks the same store again and again.

    Whether a store is still there, and of this version, is looked at whenever it is opened, as before. What was read
    of it is remembered until it is written to (`remembered`). A file that nobody asks about for a while is closed.
    """
    global _keepers
    with _keeping:
        _keepers += 1
    ended = Event()
    resting = Thread(target=_rest, args=(ended, rest_after_s), daemon=True, name="gpuscout-rest")
    resting.start()
    try:
        yield
    finally:
        ended.set()
        resting.join()
        with _keeping:
            _keepers -= 1
            let_go = [] if _keepers else [_kept.popitem()[1][1] for _ in list(_kept)]
        for store in let_go:
            store.forget()


def kept(place: str, which: Hashable, make: Callable[[], Store]) -> Store | None:
    """Return the store that is kept at a place, made where none is; None: stores are not kept.

    `which` is what stands there. The store of what stood there before is let go of first.
    """
    with _keeping:
        if not _keepers:
            return None
        known = _kept.get(place)
        if known is not None and known[0] == which:
            return known[1]
        if known is not None:
            _kept.pop(place)[1].forget()
        store = make()
        store.keep()
        _kept[place] = which, store
        return store


def _rest(ended: Event, after_s: float) -> None:
    while not ended.wait(after_s / 5):
        with _keeping:
            stores = [store for _, store in _kept.values()]
        for store in stores:
            store.rest(after_s)
