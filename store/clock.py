"""Today's date, the same for all that ages, is dated or is cached by the day."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import printable


def today() -> date:
    """Return the day in UTC, or that of `SOURCE_DATE_EPOCH` where output has to be reproducible. Raises InputError."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if seconds is None:
        return datetime.now(UTC).date()
    try:
        return datetime.fromtimestamp(int(seconds), UTC).date()
    except (ValueError, OverflowError, OSError):
        expected = "expected seconds since 1970"
        raise InputError(f'invalid SOURCE_DATE_EPOCH "{printable(seconds)}": {expected}') from None
