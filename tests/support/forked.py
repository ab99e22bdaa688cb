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

from gpuscout.runner.cli.main import main
from tests.support.commands import GPUSCOUT, environment

_PATH = sys.path[:]
_ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
# What nearly every command imports when it begins to work. Ray, transformers and their like are not among it.
FORKS.set_forkserver_preload(
    [
        __name__,
        "alembic.command",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite",
        "tests.support.stores",
        "gpuscout.runner.api.run",
        "gpuscout.runner.execution.controller",
        "gpuscout.runner.engines.roofline.engine",
        "gpuscout.runner.execution.executors.in_process",
        "gpuscout.store.ranking.rank",
    ]
)


def gpuscout(
    *arguments: str | Path, cwd: Path, plugins: Path | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder; the caller looks at the exit status. Engines of `plugins` are known to it."""
    command = [str(GPUSCOUT), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder, "stdout"), Path(folder, "stderr")
        _start_server()
        process = FORKS.Process(target=_run, args=(command, cwd, environment(plugins), _PATH, *streams))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout_s)
        return subprocess.CompletedProcess(command, process.exitcode, *(stream.read_text() for stream in streams))


def _start_server() -> None:
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
