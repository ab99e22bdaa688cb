"""Damage done to files by chance: bytes, pieces, numbers, words and structure."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Sequence

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_./-]*")
_NUMBERS = [*b"0 -1 1e308 1e999 NaN -Infinity 0.1 1_000 0x10 true 2147483648 1e-320".split(), b"9" * 40]
_PIECES = [
    *b"\" ' , {} [] null %s $(x) &a *a".split(),
    *(text.encode() for text in ("\0", "\x1b[31m", "\u202e", "\u2028", "\r", "\n", ": ", "- ", "<<: ")),
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"[" * 50,
    b"{" * 50,
    b"!!python/object:os.system ",
    b"x" * 10_000,
    b"x" * 140_000,  # more than the csv module takes
]


def damaged(corpus: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the files with some damage; some as it is, some packed with gzip, and the archive damaged."""
    content = chance.choice(corpus)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        content = chance.choice(_WAYS)(content, corpus, chance)
    if chance.random() < 0.06:
        content = gzip.compress(content)
        content = _flip(content, corpus, chance) if chance.random() < 0.5 else content
    return content


def _flip(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]


def _cut(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _drop(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    start, stop = _part(content, chance)
    return content[:start] + content[stop:]


def _repeat(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    start, stop = _part(content, chance)
    return content[:stop] + content[start:stop] * chance.choice((1, 2, 50)) + content[stop:]


def _insert(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(_PIECES) + content[at:]


def _splice(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    start, stop = _part(content, chance)
    other = chance.choice(corpus)
    begin, end = _part(other, chance)
    return content[:start] + other[begin:end] + content[stop:]


def _number(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    return _replaced(content, _NUMBER, chance.choice(_NUMBERS), chance)


def _word(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    other = _WORD.findall(chance.choice(corpus)) or [b"x"]
    return _replaced(content, _WORD, chance.choice([*_PIECES, chance.choice(other)]), chance)


def _lines(content: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def _part(content: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(content) + 1)
    return start, min(len(content), start + chance.choice((1, 5, 40, 400)))


def _replaced(content: bytes, pattern: re.Pattern[bytes], by: bytes, chance: random.Random) -> bytes:
    found = list(pattern.finditer(content))
    if not found:
        return content
    match = chance.choice(found)
    return content[: match.start()] + by + content[match.end() :]


_WAYS: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _flip, _cut, _drop, _repeat, _insert, _splice, _number, _number, _number, _word, _word, _lines,
)  # fmt: skip
