"""Shipping of this gpuscout to the workers of a cluster, and the comparison of both sides' versions."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gpuscout


@dataclass(frozen=True)
class Versions:
    """Versions of the software in a process. `source` identifies the code of gpuscout itself."""

    gpuscout: str
    source: str
    python: str
    ray: str


def versions() -> Versions:
    """Return the versions in this process."""
    import ray

    return Versions(gpuscout.__version__, _source(), platform.python_version(), ray.__version__)


def difference(here: Versions, there: Versions) -> str | None:
    """Return the other side's difference, such as "Python 3.10.4, not 3.11.7 as here"; None when nothing differs."""
    for name, label in (("gpuscout", "gpuscout"), ("python", "Python"), ("ray", "Ray")):
        ours, theirs = getattr(here, name), getattr(there, name)
        if ours != theirs:
            return f"{label} {theirs}, not {ours} as here"
    if here.source != there.source:
        return f"another build of gpuscout {here.gpuscout} than this one"
    return None


@contextmanager
def packaged() -> Iterator[Path]:
    """Yield a folder `gpuscout`, a copy without links for Ray to send, for as long as that takes."""
    with tempfile.TemporaryDirectory(prefix="gpuscout-") as folder:
        package = Path(folder, "gpuscout")
        # In development the package consists of links to the folders of the repository.
        shutil.copytree(_home(), package, symlinks=False, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        yield package


@cache
def _source() -> str:
    """Return a digest of every file of the package."""
    home = _home()
    digest = hashlib.sha256()
    files = [
        Path(folder, file)
        for folder, _, names in os.walk(home, followlinks=True)
        for file in names
        if "__pycache__" not in folder and not file.endswith(".pyc")
    ]
    for file in sorted(files):
        digest.update(f"{file.relative_to(home)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _home() -> Path:
    return Path(gpuscout.__file__).parent
