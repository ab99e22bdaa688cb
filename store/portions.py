"""Long lists of keys in portions: one statement names only so many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def portions(keys: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """Yield the keys in their order, at most `size` at a time."""
    return (keys[start : start + size] for start in range(0, len(keys), size))
