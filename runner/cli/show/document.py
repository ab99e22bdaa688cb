"""JSON documents from dataclasses: fields under their own names, or under others where a document calls them so."""

from __future__ import annotations

from typing import Any

CASE = ("model", "workload", "input_len", "output_len")


def picked(value: object, *names: str, **renamed: str) -> dict[str, Any]:
    """Return these fields and properties of a value; of `renamed`, key by key, the field that each key is for."""
    return {key: getattr(value, name) for key, name in {**dict(zip(names, names, strict=True)), **renamed}.items()}
