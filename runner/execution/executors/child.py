"""A child process that evaluates jobs of one engine, so that an engine that hangs, crashes or swells can be killed.

`child_process.py` is what runs in it. Used without Ray by the in-process executor and with Ray within a worker.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe

from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.evaluate import Job
from gpuscout.runner.execution.executors.base import Done, Failed, Part
from gpuscout.runner.execution.retry import FailureKind
from gpuscout.sweeps.curves import Curves
from gpuscout.sweeps.sweep import EnginePart, Sweep

# Importing and creating an engine is not part of a task, but must end some time when tasks must.
_LONGEST_START_S = 60.0
_LAST_WORDS_BYTES = 2_000
_LOOK_UP_S = 1.0


def needs_child(part: EnginePart) -> bool:
    """Return whether an engine must not run in the process that needs to survive it."""
    return part.placement.limited or not cached_engine(part.name, part.options).in_process


class Child:
    """Evaluates one job after another. The process starts with the first job and again after it died or was killed.

    It is its own session: Ctrl-C does not reach it, and what it starts is killed with it. It dies with this process,
    however that ends. What it prints to the terminal is dropped, but for the last words of a crash.
    """

    def __init__(self, sweep: Sweep, engine: int) -> None:
        self._sweep = sweep
        self._engine = engine
        self._placement = sweep.engines[engine].placement
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._job: Job | None = None
        self._begun = 0.0
        self._deadline: float | None = None
        self._ready = False

    def start(self, job: Job) -> None:
        """Begin a job; only when none is running."""
        self._job = job
        if self._process is None:
            self._spawn()
        assert self._connection is not None
        if self._ready:
            self._set_deadline(self._placement.task_timeout_s)
        # A process that died meanwhile is noticed by poll().
        with suppress(OSError):
            self._connection.send(job)

    def poll(self, timeout_s: float) -> Done | Failed | Part | None:
        """Return the end of the job, or its measurements so far; None if nothing came within `timeout_s`."""
        until = time.monotonic() + timeout_s
        while True:
            ended = self._step(until)
            if ended is not None or time.monotonic() >= until:
                return ended

    def close(self) -> None:
        """Kill the process, whatever it is doing."""
        self._kill()
        self._messages.close()

    def _step(self, until: float) -> Done | Failed | Part | None:
        """Return one message of the process, or the end of waiting for it."""
        assert self._job is not None
        assert self._connection is not None
        assert self._process is not None
        now = time.monotonic()
        limits = [until, now + _LOOK_UP_S] + ([] if self._deadline is None else [self._deadline])
        if self._connection.poll(max(0.0, min(limits) - now)):
            return self._receive()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            doing = "took longer than" if self._ready else "did not start within"
            seconds = self._deadline - self._begun
            self._kill()
            return Failed(self._job, FailureKind.TIMEOUT, f"the engine {doing} {seconds:g} s")
        # A process of its own making may hold the connection open after its death.
        return self._crashed() if self._process.poll() is not None else None

    def _receive(self) -> Done | Failed | Part | None:
        assert self._job is not None
        assert self._connection is not None
        try:
            kind, content = self._connection.recv()
        except Exception:  # the end of the connection, or half an answer that cannot be read
            return self._crashed()
        if kind == "ready":
            self._ready = True
            self._set_deadline(self._placement.task_timeout_s)
            return None
        if kind == "part":
            self._set_deadline(self._placement.task_timeout_s)  # of which every point has its own
            return Part(self._job, *content)
        if isinstance(content, Curves):
            return Done(self._job, content)
        lost = Failed(self._job, FailureKind(kind), str(content))
        if not self._ready or lost.kind is FailureKind.OUT_OF_MEMORY:
            self._kill()
        return lost

    def _crashed(self) -> Failed:
        assert self._job is not None
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        status = self._process.poll()
        self._kill()
        if status is None:
            how = "closed its connection"
        elif status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"ended with exit status {status}"
        words = self._last_words()
        return Failed(self._job, FailureKind.CRASHED, f"the engine's process {how}" + (f": {words}" if words else ""))

    def _last_words(self) -> str:
        """Return the last line it wrote to standard error."""
        size = os.fstat(self._messages.fileno()).st_size
        end = os.pread(self._messages.fileno(), _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES))
        lines = [line.strip() for line in end.decode(errors="replace").replace("\0", "").splitlines()]
        return next((line for line in reversed(lines) if line), "")

    def _spawn(self) -> None:
        ours, theirs = Pipe()
        self._messages.truncate(0)
        arguments = (theirs.fileno(), os.getpid())
        # Not `multiprocessing`, which would import the user's main module once more.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from gpuscout.runner.execution.executors.child_process import serve\nserve{arguments}"
        )
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._connection = ours
        self._ready = False
        timeout_s = self._placement.task_timeout_s
        self._set_deadline(None if timeout_s is None else max(timeout_s, _LONGEST_START_S))
        with suppress(OSError):
            ours.send((self._sweep, self._engine))

    def _set_deadline(self, seconds: float | None) -> None:
        self._begun = time.monotonic()
        self._deadline = None if seconds is None else self._begun + seconds

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
