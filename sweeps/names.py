"""The names people type: how they may be spelled, which wildcards they may hold, and which known names they stand for.

Specs, questions, imports and options all come here, so that every command understands the same. Case never matters,
nor does the kind of separator between words (spaces, "-", "_"); separators may be left out where that is not
ambiguous. `*`, `?` and `[…]` are wildcards. Of a name with a slash (organisation/model) the part after it is enough.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from gpuscout.sweeps.errors import InputError, nearest

_COUNTED = re.compile(
    r"(?:(?P<before>\d{1,5})\s*[xX×*]\s*)?(?P<name>.+?)(?:\s*[:×*]\s*(?P<after>\d{1,5})|\s+[xX](?P<x>\d{1,5}))?"
)
_TOKENS = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,3})?)\s*(?P<unit>[kKmM]?)i?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_WILDCARDS = re.compile(r"[*?\[]")
_SEPARATORS = re.compile(r"[\s_\-‐‑‒–—®™]+")


def has_wildcard(text: str) -> bool:
    return _WILDCARDS.search(text) is not None


def bare(name: str) -> str:
    """Return the part after the slash."""
    return name.rpartition("/")[2]


@functools.lru_cache(maxsize=10_000)
def fold(text: str) -> str:
    """Return lower case, with one kind of separator."""
    return _SEPARATORS.sub("-", text.casefold().strip())


def squeeze(text: str) -> str:
    """Return lower case, without separators: what all spellings of a name share."""
    return _SEPARATORS.sub("", text.casefold())


def matches(text: str, name: str) -> bool:
    """Return whether a name or glob, as people type it, means this very name."""
    spellings = (name,) if "/" in text else (name, bare(name))
    if has_wildcard(text):
        return any(fnmatchcase(fold(spelling), fold(text)) for spelling in spellings)
    return fold(text) in map(fold, spellings)


def _no_others(name: str) -> Iterable[str]:
    return ()


def meant(text: str, known: Iterable[str], others: Callable[[str], Iterable[str]] = _no_others) -> list[str]:
    """Return the known names that `text` stands for, in their order; none when it stands for none.

    The closest spelling decides: the very name, or else another of its spellings (`others`), then the same in another
    case or with other separators, then without separators, then the only name that begins with these words. A glob is
    matched with the names, or else with `others`.
    """
    known = list(known)
    if has_wildcard(text):
        pattern = fold(text)
        by_name = [name for name in known if fnmatchcase(fold(name), pattern)]
        return by_name or [name for name in known if any(fnmatchcase(fold(o), pattern) for o in others(name))]
    for form in (str, fold, squeeze):
        wanted = form(text)
        found = [name for name in known if form(name) == wanted]
        found = found or [name for name in known if any(form(other) == wanted for other in others(name))]
        if found:
            return found
    return _beginning_with(text, known, others)


def _beginning_with(text: str, known: Iterable[str], others: Callable[[str], Iterable[str]]) -> list[str]:
    """Return the only name that begins with these whole words; none if there are several.

    Of models with an organisation every word counts: they may be others of the Hub.
    """
    start = f"{fold(text)}-"
    if "/" in text or start == "-":
        return []
    found = [name for name in known if any(fold(s).startswith(start) for s in (name, bare(name), *others(name)))]
    return found if len(found) == 1 else []


def near(text: str, known: Iterable[str], others: Callable[[str], Iterable[str]] = _no_others) -> list[str]:
    """Return up to three known names that are spelled most like `text`, or have another spelling that is."""
    spelled = {spelling: name for name in known for spelling in (*others(name), name)}
    return list(dict.fromkeys(spelled[spelling] for spelling in nearest(text, spelled)))


def parted(texts: Iterable[str] | None) -> list[str]:
    """Return names that are given several times, or several at once with commas between them: one by one."""
    return [part.strip() for text in texts or () for part in text.split(",") if part.strip()]


def counted(text: str) -> tuple[int | None, str]:
    """Read "2xH200", "H200:2" and "H200 x2" as a number and a name; None: no number is given. Raises InputError."""
    form = _COUNTED.fullmatch(text.strip())
    numbers = [form[part] for part in ("before", "after", "x") if form[part]] if form else []
    if form is None or len(numbers) > 1 or any(int(number) == 0 for number in numbers):
        raise InputError(f'invalid GPUs "{text}": expected a name, or a number and a name', hint="for example 2xH200")
    return int(numbers[0]) if numbers else None, form["name"].strip()


def tokens(text: str) -> int:
    """Read "32k" (32 x 1,024) or "32768" as a number of tokens. Raises InputError."""
    form = _TOKENS.fullmatch(str(text).strip().replace(",", ""))
    found = float(form["number"]) * _UNITS[form["unit"].lower()] if form else 0
    if found < 1 or found != int(found):
        raise InputError(f'invalid number of tokens "{text}"', hint="for example 32768, or 32k for 32 x 1,024")
    return int(found)
