"""The reference of sweep specs, from the JSON Schema that `gpuscout schema` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from commands import cell

from gpuscout.sweeps.spec.spec import spec_json_schema

_INTRO = """# Keys of a sweep spec

Generated from the JSON Schema that `gpuscout schema` prints; save that as a file and your editor completes and
checks specs. Where a list is allowed, a single value may stand without one.

| key | value | meaning |
|---|---|---|
"""
_MANY = 12  # so many choices are still listed


def page() -> str:
    """A row for each key, those of mappings below the key that holds them."""
    rows = _rows(spec_json_schema(), "")
    return _INTRO + "\n".join(f"| `{key}` | {value} | {meaning} |" for key, value, meaning in rows) + "\n"


def _rows(schema: Mapping[str, Any], above: str) -> Iterator[tuple[str, str, str]]:
    required = schema.get("required", ())
    for key, value in schema.get("properties", {}).items():
        meaning = value.get("description", "") + (" Required." if key in required else "")
        if "default" in value and value["default"] not in (None, [], {}):
            meaning += f" Default: {value['default']}."
        yield above + key, cell(", ".join(dict.fromkeys(_types(value)))), cell(meaning)
        for inner in _mappings(value):
            yield from _rows(inner, f"{above}{key}.")


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    for option in schema.get("anyOf", schema.get("oneOf", ())):
        yield from _types(option)
    if "enum" in schema:
        some = [str(value) for value in schema["enum"]]
        yield ", ".join(some) if len(some) <= _MANY else f"one of {len(some)} names, such as {', '.join(some[:5])}"
    elif "const" in schema:
        yield str(schema["const"])
    elif schema.get("type") == "array":
        yield "list"
    elif schema.get("type") == "object":
        yield "mapping"
    elif isinstance(schema.get("type"), str) and schema["type"] != "null":
        yield schema["type"]


def _mappings(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The mappings with keys of their own that a value may be, or hold in a list; the same one once."""
    seen: list[Any] = []
    stack = [schema]
    while stack:
        one = stack.pop()
        stack += [*one.get("anyOf", ()), *one.get("oneOf", ())]
        if isinstance(one.get("items"), Mapping):
            stack.append(one["items"])
        if one.get("properties") and one["properties"] not in seen:
            seen.append(one["properties"])
            yield one
