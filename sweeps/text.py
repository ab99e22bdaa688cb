"""Text of strangers: what no name may hold, and how any text is shown so that it moves nothing but the eye.

Control characters set a terminal's title and colours and move its cursor, a line break forges a row of a table, and
characters for writing from right to left make one name look like another.
"""

from __future__ import annotations

import re
from decimal import Decimal

# C0, DEL and C1; marks and overrides of writing direction; other characters without a shape; line and paragraph
# separators; halves of surrogate pairs; tags. Joiners stay: some scripts need them.
_SHAPELESS = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f"
)
_UNPRINTABLE = re.compile(f"[{_SHAPELESS}]")
# What makes up text of several lines, as it is.
_IN_LINES = re.compile(rf"(?!\r\n|[\n\t])[{_SHAPELESS}]")
_EXPONENT = re.compile(r"(?<![\w.])[-+]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})[eE][-+]?\d{1,2}(?!\d)")
_LONGEST_SAID = 2_000
_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s]*@")


def printable(text: str) -> str:
    r"""Return one line, whatever the text: characters without a shape are written as in Python, a line break as \n."""
    return _UNPRINTABLE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return the same for text of several lines: line ends and tabs stay."""
    return _IN_LINES.sub(_escape, text)


def clean(text: str) -> str:
    """Return the text as any database takes it: Postgres knows no NUL, neither knows half a surrogate pair."""
    return text.replace("\0", "").encode(errors="replace").decode()


def fault_in(text: str) -> str | None:
    """Return the reason why a name or another line of text is refused; None: it is accepted."""
    found = _UNPRINTABLE.search(text)
    if found is None:
        return None
    character = found[0]
    kind = (
        "a line break"
        if character in "\n\r\x0b\x0c\x85\u2028\u2029"
        else "a control character"
        if character < "\xa0"
        else "an invisible character"
    )
    return f"text with {kind} (U+{ord(character):04X})"


def without_exponents(text: str) -> str:
    """Return the same with numbers such as 9e-1 or 1.5E3 in digits: 0.9, 1500."""
    return _EXPONENT.sub(lambda match: f"{Decimal(match[0]):f}", text)


def message_of(error: BaseException) -> str:
    """Return the message of an error, in one line and shortened; empty for one without any."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        return ""
    return printable(text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}…")


def percent(share: float, places: int = 0) -> str:
    """Return a share in percent, as it is printed: "44 %"."""
    return f"{100 * share:,.{places}f} %"


def without_passwords(text: str) -> str:
    """Return passwords in URLs as ***: what stands between the first ":" after "//" and the last "@"."""
    return _PASSWORD.sub(r"\1:***@", text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
