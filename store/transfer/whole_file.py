"""Files that are there whole or not at all, folders to work in, and the litter of processes that were killed.

What is being written is locked by its writer, and a lock ends with its process: what is there without one is litter,
and is removed by the next that writes in its place. Nothing that is there already is ever opened for writing.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_ANYBODY = 0o666  # before the umask
_LOCK = "in-use"
_SURELY_BEGUN_S = 60.0


@contextmanager
def whole_file(target: Path, *, like: Path | None = None) -> Iterator[IO[bytes]]:
    """Yield a new file, which takes the place of `target` when the `with` block ends and goes when it raises.

    It may be read by whom `target` could be read by, if it is there, and else by no more than `like`. Raises OSError.
    """
    _remove_parts(target)
    mode = _mode(target)
    created = _ANYBODY if mode is not None or like is None else _mode(like) or _ANYBODY
    part = target.with_name(f"{target.name}.part-{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, created & _ANYBODY)
    try:
        with open(descriptor, "wb") as stream:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield stream
            stream.flush()
            part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def working_folder(prefix: str) -> Iterator[Path]:
    """Yield a folder for temporary files; those of killed processes are removed first."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            if folder.stat(follow_symlinks=False).st_uid == os.getuid() and _is_litter(folder / _LOCK, folder):
                shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as name, open(Path(name, _LOCK), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _remove_parts(target: Path) -> None:
    for part in target.parent.glob(f"{glob.escape(target.name)}.part-*"):
        with suppress(OSError):
            if part.stat(follow_symlinks=False).st_uid == os.getuid() and _is_litter(part, part):
                part.unlink()


def _is_litter(lock: Path, whole: Path) -> bool:
    """Return whether nobody holds the lock. What has just been made may be about to be locked."""
    about = whole.stat(follow_symlinks=False)
    if stat.S_ISLNK(about.st_mode) or time.time() - about.st_mtime < _SURELY_BEGUN_S:
        return False
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _mode(file: Path) -> int | None:
    try:
        return stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        return None
