"""JSON documents from dataclasses: fields under their own names, or under others where a document calls them so."""

from __future__ import annotations

from typing import Any

CASE = ("model", "workload", "input_len", "output_len", "traffic")


def picked(value: object, *names: str, **renamed: str) -> dict[str, Any]:
    """Return the named fields and properties of a value; `renamed` maps other keys to their fields."""
    return {key: getattr(value, name) for key, name in {**dict(zip(names, names, strict=True)), **renamed}.items()}
