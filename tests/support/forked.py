"""The command line in processes forked from one that has imported it: starting Python takes longer than most commands.

They are processes like those of `tests.support.commands`, with a folder, an environment and an exit status of their
own, but no new interpreter: what is about starting, importing and ending one, or about Ray, uses the real command.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

from gpuscout.runner.cli.main import all_commands, main
from tests.support.commands import GPUSCOUT, environment

_PATH = sys.path[:]
all_commands()  # for all that are forked
_ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
# What nearly every command imports when it begins to work. Ray, transformers and their like are not among it.
FORKS.set_forkserver_preload(
    [
        __name__,
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite",
        "tests.support.stores",
        "gpuscout.runner.api.run",
        "gpuscout.runner.cli.console",
        "gpuscout.runner.cli.show.points",
        "gpuscout.runner.cli.show.ranking.table",
        "gpuscout.runner.execution.controller",
        "gpuscout.runner.engines.roofline.engine",
        "gpuscout.runner.execution.executors.in_process",
        "gpuscout.store.ranking.rank",
    ]
)


class Started:
    """A command in a forked process, for a test that disturbs it."""

    def __init__(self, *arguments: str | Path, cwd: Path, plugins: Path | None = None) -> None:
        self.command = [str(GPUSCOUT), *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        self._streams = Path(self._folder.name, "stdout"), Path(self._folder.name, "stderr")
        start_server()
        self._process = FORKS.Process(
            target=_run, args=(self.command, cwd, environment(plugins), _PATH, *self._streams)
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end; what it has written to standard output and standard error."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.command, timeout)
        # Killed early, it may not have opened them.
        out, err = (stream.read_text() if stream.exists() else "" for stream in self._streams)
        self._folder.cleanup()
        return out, err


def gpuscout(
    *arguments: str | Path, cwd: Path, plugins: Path | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder; the caller looks at the exit status. Engines of `plugins` are known to it."""
    process = Started(*arguments, cwd=cwd, plugins=plugins)
    out, err = process.communicate(timeout_s)
    return subprocess.CompletedProcess(process.command, process.poll(), out, err)


def start_server() -> None:
    """Start the process that forks, unless it runs: wherever the test is, with the project before what is installed.

    Packages bring modules called `tests`, too.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), before)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _run(
    command: list[str], cwd: Path, environ: Mapping[str, str], path: list[str], stdout: Path, stderr: Path
) -> None:
    for descriptor, stream in enumerate((stdout, stderr), start=1):
        with stream.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    plugins = environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, plugins), *path]
    sys.argv = command
    main()
