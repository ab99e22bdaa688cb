"""The report of a crash: what a maintainer needs, in a file of the user's, without passwords and tokens."""

from __future__ import annotations

import os
import platform
import re
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata

from gpuscout.sweeps.text import printable_lines, without_passwords

_PACKAGES = ("gpuscout", "ray", "sqlalchemy", "alembic", "numpy", "pydantic", "typer", "rich", "psycopg", "pyarrow")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}|(?P<said>(?i:password|token|api[-_]?key|secret)\s*[=:]\s*)[^\s,;'\"&]+"
)
_SHORTEST_SECRET = 6


def write_report(error: BaseException, arguments: Sequence[str]) -> str | None:
    """Return the path of a new file, readable by its owner only; None when none can be written."""
    lines = [
        f"gpuscout {version_of('gpuscout')} ended with an unexpected error, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"command: gpuscout {shlex.join(arguments)}",
        f"Python {platform.python_version()} on {platform.platform()}",
        ", ".join(f"{name} {version_of(name)}" for name in _PACKAGES[1:]),
        "",
        traced(error),
    ]
    try:
        descriptor, path = tempfile.mkstemp(prefix="gpuscout-crash-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(without_secrets("\n".join(lines)))
    except OSError:
        return None
    return path


def traced(error: BaseException) -> str:
    """Return the traceback of an error, also of one that cannot say what it is."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception as failed:
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__} (no text: {failed!r})"


def without_secrets(text: str) -> str:
    """Return the text without passwords in URLs, values of secret variables and anything like a token."""
    values = {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    text = _SECRET_TEXT.sub(lambda match: (match["said"] or "") + "***", text)
    return printable_lines(without_passwords(text))


def version_of(package: str) -> str:
    """Return the version of a package that is installed, or that it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
