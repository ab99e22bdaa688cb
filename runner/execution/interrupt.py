"""Ctrl-C and SIGTERM as a flag that the controller looks at between two steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

_LOOK_UP_S = 0.1
_GRACE_S = 0.5


class Interrupt:
    """While entered, the first signal sets `requested`; a second one raises KeyboardInterrupt where the program is.

    `deadline` is the moment (`time.monotonic`) from which on nobody should wait for anything: half a second after the
    first signal, at once after the second, infinite without any.
    Outside the main thread, where Python cannot install handlers, it never fires.
    """

    def __init__(self) -> None:
        self.requested = False
        self.deadline = math.inf
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        self.arm()
        return self

    def arm(self) -> None:
        """Take the signals, also from a library that has taken them meanwhile, as Ray does when it starts."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.signal(number, self._on_signal)
                self._previous.setdefault(number, previous)

    def wait(self, seconds: float) -> None:
        """Sleep, but not on when the user wants to stop."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_UP_S))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self.deadline = 0.0
            raise KeyboardInterrupt
        self.requested = True
        self.deadline = time.monotonic() + _GRACE_S
