"""A small store, and `gpuscout serve` over it as a process of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.commands import started
from tests.support.forked import gpuscout

SPEC = """
name: small
models: [Qwen/Qwen3-8B, Qwen/Qwen3-32B]
gpus: [H100, L40S]
tensor_parallel: [1, 2]
workloads: [chat]
"""


def small_store(folder: Path, *more: str) -> Path:
    """Run the small sweep in a folder; returns the folder."""
    (folder / "small.yaml").write_text(SPEC)
    done = gpuscout("run", "small.yaml", *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """The address at which the command serves the store of a folder; it is ended afterwards."""
    process = started("serve", "--port", "0", *options, cwd=folder)
    try:
        yield address_of(process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def address_of(process: subprocess.Popen[str]) -> str:
    """The address that the command prints."""
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stderr.read()
    return found[0]
