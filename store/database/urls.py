"""Locations of stores: the URLs and paths that people give, and their display without passwords."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from gpuscout.sweeps.errors import InputError

_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")


_SCHEME = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_SETTING = re.compile(r"(^|[\s;&?])(host|hostaddr|port|user|password|dbname|service|sslmode)\s*=", re.IGNORECASE)
_ENCODED = '"@", "/", "#", "%" and ":" in a user or a password are written %40, %2F, %23, %25 and %3A'
_FORMS = "use sqlite:///FILE, a path, or postgresql://USER@HOST/NAME"


def parse_url(text: str) -> sa.URL:
    """Return a SQLite or Postgres URL; whatever does not look like the address of a database is a file's path.

    Raises InputError for other databases, and for a URL that is mistyped or not encoded: it is never taken for a path.
    No message repeats `text`, which may hold a password.
    """
    if "://" not in text:
        _refuse_address(text)
        return sa.URL.create("sqlite", database=str(_expanded(text)) if text != ":memory:" else None)
    if text.partition("://")[2].count("@") > 1:
        raise InputError(
            'this is not a database URL: only one "@" may be in it, the one before the host',
            hint=f"{_ENCODED}; or leave the password out and set PGPASSWORD",
        )
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise InputError("this is not a database URL", hint=f"{_FORMS}; {_ENCODED}") from error
    if url.drivername in _POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.host or url.query:
            raise InputError(
                f"a SQLite URL holds nothing but a path: {display(url)}",
                hint="use sqlite:///FILE, or sqlite:////DIRECTORY/FILE for an absolute path",
            )
        if url.database in (None, "", ":memory:"):
            return sa.URL.create("sqlite")
        _refuse_address(f"./{url.database}")
        return sa.URL.create("sqlite", database=url.database)
    raise InputError(f"results cannot be stored in {url.drivername!r}", hint=_FORMS)


def display(url: sa.URL) -> str:
    """Return the store as people write it and `--db` takes it: a path, or a URL without its password."""
    path = sqlite_path(url)
    if path is not None:
        return str(path)
    shown = url.set(drivername=url.get_backend_name()).difference_update_query(("password", "sslpassword"))
    return shown.render_as_string(hide_password=True)


def sqlite_path(url: sa.URL) -> Path | None:
    """Return the file of a SQLite URL; None for a database in memory and for Postgres."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _refuse_address(path: str) -> None:
    """Raise InputError for what is meant to be an address: as a path, its password would become a file's name."""
    named = path.startswith(("/", "./", "../"))
    if _SCHEME.match(path.removeprefix("./")) or _SETTING.search(path) or ("@" in path and not named):
        raise InputError(
            "this looks like the address of a database, but is not a database URL",
            hint=f'{_FORMS}; a file with such a name is given with its folder: "./…"',
        )


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user; the shell leaves such names alone, too
        return Path(path)
