"""The guardian of a server: a process of its own that ends the server when its owner ends, however that is.

It is a session of its own and nobody's child: neither Ctrl-C nor the end of the owner's process group reaches it, nor
does a Ray worker, which ends its children when it goes. It is there before the server is. Its standard input is the
owner's end of a pipe: a line names the server, another says that it was ended in order, the end of file that the owner
died.
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

_LOOK_S = 1.0
_READY, _ENDED = b"ready\n", b"ended"


class Guardian:
    """The owner's side: watches over what this process starts under a note, from before its start to `leave`."""

    def __init__(self, note: Note) -> None:
        """Start the guardian, and wait until it is ready."""
        arguments = (*note.owner, os.getppid(), str(note.path), note.about)
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from gpuscout.runner.engines.benchmark.servers.guardian import watch\nwatch{arguments!r}"
        )
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != _READY:
            raise OSError("the process that ends a server when its owner dies did not start")

    def watch_over(self, server: Identity) -> None:
        """Note the children of the server, which has started, from now on."""
        self._tell(f"{server[0]} {server[1]!r}".encode())

    def leave(self) -> None:
        """End the guardian of a server that has ended. Returns when the guardian has gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._process.stdin.closed:
            self._tell(_ENDED)
            self._process.stdin.close()
            self._process.stdout.read()
            self._process.stdout.close()
            self._process.wait()

    def _tell(self, word: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(word + b"\n")
            self._process.stdin.flush()


def watch(owner_pid: int, owner_start: float, parent: int, note_path: str, about: str) -> None:
    """Wait for the owner's word or its end; in the process of the guardian."""
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    note = Note(Path(note_path), (owner_pid, owner_start), about)
    known: set[Identity] = set()
    note.write(known)
    os.write(1, _READY)
    # Somebody may have inherited the pipe: then the owner's end shows in its id. A Ray worker whose node has gone, with
    # its parent, may live on.
    while _is_child(note.owner, parent):
        if select.select([0], [], [], _LOOK_S)[0]:
            words = os.read(0, 1024).splitlines()
            if _ENDED in words:
                return
            if not words:
                break
            pid, start = words[-1].split()
            known.add((int(pid), float(start)))
        now = {each for root in found(known) for each in _identities(root)}
        if now != known:
            known = now
            note.write(known)
    end(list(dict.fromkeys([*found(known), *note.processes()])))
    note.remove()


def _is_child(owner: Identity, parent: int) -> bool:
    """Return whether the owner runs, as a child of the same process as before."""
    with suppress(psutil.Error):
        return any(process.ppid() == parent for process in found([owner]))
    return False


def _identities(root: psutil.Process) -> list[Identity]:
    members = []
    for process in family(root):
        with suppress(psutil.Error):
            members.append(identity(process))
    return members
