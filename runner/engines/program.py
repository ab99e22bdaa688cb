"""Programs of other environments that engines call: found, run within limits, and their interpreters looked at."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LONGEST_DETAIL = 300
_QUOTED_SHEBANG = re.compile(r"""^'''exec' ("(?P<quoted>[^"]+)"|(?P<plain>\S+)) """)


@dataclass(frozen=True)
class Printed:
    """Output and end of a process. `status` None: it ran longer than allowed and was killed."""

    stdout: str
    stderr: str
    status: int | None


def program_at(command: str) -> str | None:
    """Return the absolute path of the program of this name or path; None when there is none."""
    path = shutil.which(os.path.expanduser(command))
    return None if path is None else os.path.abspath(path)


def run(command: list[str], timeout_s: float, more: Mapping[str, str] | None = None) -> Printed:
    """Run a program without a shell and without a terminal, with `more` environment variables.

    Raises OSError when it cannot be started.
    """
    environment = (
        os.environ
        | dict(more or {})
        | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "10000", "PYTHONIOENCODING": "utf-8"}
    )
    # Files, not pipes: a pipe that a process of its own keeps open would outlast the time limit.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=os.sep
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            process.kill()
            process.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Printed(texts[0], texts[1], status)


def shortened(text: str) -> str:
    """Return a message of another program in the length that is kept with a task."""
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 1] + "…"


def interpreter_of(path: str) -> str | None:
    """Return the Python that a console script names in its first lines; None for any other kind of program."""
    try:
        with open(path, "rb") as file:
            first, second = (file.readline(4096).decode(errors="replace").rstrip("\r\n") for _ in range(2))
    except OSError:
        return None
    if not first.startswith("#!"):
        return None
    words = first[2:].split()
    if words and words[0].endswith("/sh") and (match := _QUOTED_SHEBANG.match(second)):
        found: str | None = match["quoted"] or match["plain"]  # how pip writes a path too long for a first line
    elif len(words) == 2 and words[0].endswith("/env"):
        found = shutil.which(words[1])
    else:
        found = first[2:].strip()
    return found if found and "python" in Path(found).name and os.access(found, os.X_OK) else None
