"""Ctrl-C and SIGTERM as a flag that the controller looks at between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

_LOOK_UP_S = 0.1


class Interrupt:
    """While entered, the first signal sets `requested`; a second one raises KeyboardInterrupt where the program is.

    Outside the main thread, where Python cannot install handlers, it never fires.
    """

    def __init__(self) -> None:
        self.requested = False
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
            raise KeyboardInterrupt
        self.requested = True
