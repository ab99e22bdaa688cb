"""Processes that must not outlive their owner: a server and what it starts, noted on its node and ended whole.

Three nets, each for when the one before fails. The owner ends its server. A guardian, a process in a session of its
own, sees the owner's end by a pipe and ends the server in its place. A note in a file of the node names the server, and
whoever starts the next one there ends what is left of it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

TERM_PATIENCE_S = 15.0
"""From SIGTERM to SIGKILL. vLLM and all its processes take 3 s on a CPU."""
_ALONE_PATIENCE_S = 1.0  # for what is left when its parent has ended
_KILL_PATIENCE_S = 5.0

MARK = "GPUSCOUT_SERVER"
"""The environment variable by which the processes of a server are known, however far they have gone."""

Identity = tuple[int, float]
"""A process: its id, and when it started, because ids are used again."""


def identity(process: psutil.Process) -> Identity:
    return process.pid, process.create_time()


def found(known: Iterable[Sequence[float]]) -> list[psutil.Process]:
    """Return the processes of these that still run; a zombie does not."""
    alive = []
    for pid, created in known:
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if abs(process.create_time() - created) < 0.01 and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def family(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and everything below it, itself first; only itself when it has ended."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return [root]


def end(processes: Sequence[psutil.Process], patience_s: float = TERM_PATIENCE_S) -> list[psutil.Process]:
    """End a family: SIGTERM to its first member, which ends the others, SIGKILL to what is left. Those that stayed."""
    with suppress(IndexError, psutil.Error):
        processes[0].terminate()
    _after(processes[:1], patience_s)
    left = _after(processes, _ALONE_PATIENCE_S)
    everybody = {process for each in left for process in family(each)}  # and what they started meanwhile
    for process in everybody:
        with suppress(psutil.Error):
            process.kill()
    return _after(list(everybody), _KILL_PATIENCE_S)


def _after(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return the processes that still run after so long, at most. Zombies are their parents' to reap."""
    until = time.monotonic() + seconds
    while left := [process for process in processes if _runs(process)]:
        if time.monotonic() >= until:
            break
        time.sleep(0.05)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@dataclass(frozen=True)
class Note:
    """The note of one server on its node: who owns it, which processes it has, what it serves.

    Its folder, which has its log, lies beside the note.
    """

    path: Path
    owner: Identity
    about: str

    @property
    def folder(self) -> Path:
        return self.path.with_suffix("")

    def write(self, processes: Iterable[Identity]) -> None:
        content = {"owner": self.owner, "writer": os.getpid(), "processes": sorted(processes), "about": self.about}
        new = self.path.with_suffix(f".{os.getpid()}.new")
        new.write_text(json.dumps(content))
        new.replace(self.path)

    @property
    def mark(self) -> str:
        """The value of `MARK` in the environment of this server's processes."""
        return self.path.stem

    def processes(self) -> list[psutil.Process]:
        """Return the running processes of the server: those marked, and those noted by the guardian."""
        noted: list[psutil.Process] = []
        with suppress(OSError, ValueError, KeyError, TypeError):
            noted = found(json.loads(self.path.read_text())["processes"])
        return [*dict.fromkeys([*(member for each in noted for member in family(each)), *_marked(self.mark)])]

    def remove(self) -> None:
        """Forget a server that has ended, and its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.path.unlink(missing_ok=True)


def new_note(about: str) -> Note:
    """Return the note of a server that this process is about to start."""
    note = Note(notes_folder() / f"{uuid.uuid4().hex}.json", identity(psutil.Process()), about)
    note.write([])
    note.folder.mkdir()
    return note


def _marked(mark: str) -> list[psutil.Process]:
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and _runs(process):
                marked.append(process)
    return marked


def notes_folder() -> Path:
    """Return the folder of this user's notes on this node. Raises OSError where somebody else could write them."""
    folder = Path(tempfile.gettempdir()) / f"gpuscout-servers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(f"{folder} is not a folder that only this user can write to")
    return folder


def end_orphans() -> list[str]:
    """End the servers on this node whose owners are gone; return what they were."""
    ended = []
    for path in notes_folder().glob("*.json"):
        try:
            content = json.loads(path.read_text())
            if found([content["owner"]]):
                continue
            note = Note(path, tuple(content["owner"]), str(content["about"]))
        except (OSError, ValueError, KeyError, TypeError):
            Note(path, (0, 0.0), "").remove()  # half of a note, by a node that went down
            continue
        if left := note.processes():
            end(left)
            ended.append(note.about)
        note.remove()
    return ended
