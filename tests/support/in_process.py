"""The command line in the test's own process: no start, and nothing that was imported or compiled is lost.

What it prints, its exit status and the store are those of the command. What is about processes, signals, plug-ins or
the streams themselves uses `tests.support.forked` or `tests.support.commands`.
"""

from __future__ import annotations

import io
import os
import subprocess
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from gpuscout.runner.cli.main import execute
from tests.support.commands import environment


def gpuscout(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder; the caller looks at the exit status."""
    words = list(map(str, arguments))
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with patch.dict(os.environ, environment(), clear=True), chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        status = execute(words)
    said, told = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(["gpuscout", *words], status, said, told)
