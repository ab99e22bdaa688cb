"""Last words of a process that is ended from outside: Ray ends any process that has lost its cluster."""

from __future__ import annotations

import subprocess
from contextlib import suppress

_SHELL = 'read -r word || printf "%s\\n" "$@" >&2'


class LastWords:
    """Lines on standard error for the moment this process ends, however it ends, unless they are taken back before."""

    def __init__(self, *lines: str) -> None:
        self._waits: subprocess.Popen[bytes] | None = None
        with suppress(OSError):
            # A process of its own, since nothing of this one is left then; it waits for the end of the pipe.
            self._waits = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", _SHELL, "sh", *lines],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def take_back(self) -> None:
        """Withdraw the message: nothing will be printed."""
        if self._waits is not None and self._waits.stdin is not None:
            with suppress(OSError):
                self._waits.stdin.write(b"\n")
                self._waits.stdin.close()
            self._waits.wait()
            self._waits = None
