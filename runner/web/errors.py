"""Errors over HTTP: the status that stands for an exit status, and problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping

from gpuscout.sweeps.errors import GpuscoutError, TookTooLongError
from gpuscout.sweeps.text import without_passwords

# By the exit status of the command: wrong input, no store, an outdated store, nothing qualifies.
STATUSES: Mapping[int, int] = {2: 400, 3: 503, 4: 503, 6: 404}
TITLES: Mapping[int, str] = {
    2: "This cannot be answered",
    3: "The store cannot be read",
    4: "The store is of another version",
    6: "Nothing qualifies",
}


def status_of(error: GpuscoutError) -> int:
    """Return the HTTP status for an error: one for each exit status, and one for answers that took too long."""
    return 504 if isinstance(error, TookTooLongError) else STATUSES.get(error.exit_code, 500)


def title_of(error: GpuscoutError) -> str:
    took_too_long = isinstance(error, TookTooLongError)
    return "This takes too long" if took_too_long else TITLES.get(error.exit_code, "Something went wrong")


def problem(error: GpuscoutError) -> dict[str, object]:
    """Return the problem document: the command's message and hint, and its exit status."""
    return {
        "type": "about:blank",
        "title": title_of(error),
        "status": status_of(error),
        "detail": without_passwords(error.message),
        "hint": error.hint and without_passwords(error.hint),
        "exit_status": error.exit_code,
    }


def refusal(path: str, status: int) -> tuple[str, str, str]:
    """Return title, message and hint for an address that no route has (404), or a method that it does not take."""
    if status == 404:
        return "Not found", f"nothing is served at {path}", "/ is the first page, /api lists the routes of the REST API"
    return "Not allowed", f"{path} cannot be asked this way", "use GET: answers are read, nothing is changed"
