"""Main loop of a child process: receives a sweep, then jobs, and answers each. Ends with its parent."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection

from gpuscout.runner.execution.evaluate import EngineMissing, evaluate_job, the_engine
from gpuscout.runner.execution.retry import FailureKind
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.expand import Expansion

_PR_SET_PDEATHSIG = 1


def serve(descriptor: int, parent: int) -> None:
    """Answer jobs until the parent is gone."""
    os.set_inheritable(descriptor, False)
    _die_with(parent, descriptor)
    connection = Connection(descriptor)
    sweep, engine = connection.recv()
    part = sweep.engines[engine]
    limit_gb = part.placement.memory_limit_gb
    if limit_gb is not None:
        resource.setrlimit(resource.RLIMIT_AS, (int(limit_gb * 1e9), int(limit_gb * 1e9)))
    expansion = Expansion(sweep)
    try:
        the_engine(part)
    except EngineMissing as error:
        connection.send((FailureKind.ENGINE_MISSING.value, str(error)))
        return
    connection.send(("ready", None))

    def emit(position: int, run: MeasuredRun) -> None:
        connection.send(("part", (position, run)))

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("done", evaluate_job(expansion, job, emit)))
        except MemoryError:
            limit = "" if limit_gb is None else f" (memory_limit_gb: {limit_gb:g})"
            connection.send((FailureKind.OUT_OF_MEMORY.value, f"out of memory{limit}"))
        except Exception as error:
            connection.send((FailureKind.ERROR.value, f"the answer cannot be used: {type(error).__name__}: {error}"))


def _die_with(parent: int, descriptor: int) -> None:
    """Kill this process and what it started when the parent is gone, also in the middle of a job."""
    if sys.platform == "linux":
        # The thread below does not get a turn while an engine hangs in native code; this does.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

    def watch() -> None:
        hung_up = select.poll()
        hung_up.register(descriptor, 0)
        hung_up.poll()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
