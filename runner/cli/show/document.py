"""JSON documents from dataclasses: fields under their own names, or under others where a document calls them so."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuscout.store.ranking.types import Question

CASE = ("model", "workload", "input_len", "output_len")


def about_answer(question: Question) -> dict[str, Any]:
    """What every answer says of itself: who gave it, when (UTC), and what was asked beyond the defaults."""
    from gpuscout import __version__
    from gpuscout.store.ranking.types import Question

    usual = Question()
    asked = {
        field.name: getattr(question, field.name)
        for field in fields(question)
        if field.name not in _HOW and getattr(question, field.name) != getattr(usual, field.name)
    }
    return {
        "gpuscout_version": __version__,
        "answered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "question": {name: _plain(value) for name, value in asked.items()},
    }


# How much is told, and what stands in the document under names of its own.
_HOW = ("top", "gpu_types", "examples", "briefly", "prices", "slos")


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def picked(value: object, *names: str, **renamed: str) -> dict[str, Any]:
    """These fields and properties of a value; of `renamed`, key by key, the field that each key is for."""
    return {key: getattr(value, name) for key, name in {**dict(zip(names, names, strict=True)), **renamed}.items()}
