"""The guardian of a server: a process of its own that ends the server when its owner ends, however that is.

It is a session of its own, so that neither Ctrl-C nor the end of the owner's process group reaches it. Its standard
input is the owner's end of a pipe: a line says that the server was ended in order, the end of file that the owner died.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from gpuscout.runner.engines.benchmark.processes import Identity, Note, end, family, found, identity

_LOOK_S = 0.5


class Guardian:
    """The owner's side: watches over a server of this process from its start to `leave`."""

    def __init__(self, server: Identity, note: Note) -> None:
        owner = (*note.owner, *server, str(note.path), note.about)
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from gpuscout.runner.engines.benchmark.guardian import watch\nwatch{owner!r}"
        )
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def leave(self) -> None:
        """The server has ended: there is nothing to watch over any more."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(OSError):
                self._process.stdin.write(b"\n")
                self._process.stdin.close()
        self._process.wait()


def watch(owner_pid: int, owner_start: float, pid: int, start: float, note_path: str, about: str) -> None:
    """Wait for the owner's word or its end; in the process of the guardian."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    note = Note(Path(note_path), (owner_pid, owner_start), about)
    known = {(pid, start)}
    note.write(known)
    # A child that was started at the same moment may hold a copy of the pipe: then the owner's end shows in its id.
    while found([note.owner]):
        now = {each for root in found(known) for each in _identities(root)}
        if now != known:
            known = now
            note.write(known)
        if select.select([0], [], [], _LOOK_S)[0]:
            if os.read(0, 1):
                return
            break
    end(list(dict.fromkeys([*found([(pid, start)]), *note.processes()])))
    note.remove()


def _identities(root: psutil.Process) -> list[Identity]:
    members = []
    for process in family(root):
        with suppress(psutil.Error):
            members.append(identity(process))
    return members
