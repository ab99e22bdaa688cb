"""JSON Schemas of the documents that commands print: inferred from documents, so that tests can hold them to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]

# Mappings whose keys are data (names of objectives, GPUs, groups …), not fields.
MAPS = frozenset(
    {
        *("values", "ranges", "intervals", "percentiles", "outcomes", "statuses", "sources", "dense_tflops", "options"),
        *("details", "packages", "groups_of", "metrics_at_equal_concurrencies", "groups", "loads", "not_answered"),
        *(
            "memory_assumed",
            "inventory",
            "metrics",
            "engines",
            "store",
            "catalogue",
            "expected_without_curve",
            "config",
        ),
    }
)
UNITS = {
    "_ms": "milliseconds",
    "_s": "seconds",
    "_gib": "GiB (2^30 bytes)",
    "_gb": "GB (10^9 bytes)",
    "_bytes": "bytes",
    "_gbs": "GB/s",
    "_w": "watts",
    "_per_s": "per second",
    "_len": "tokens",
}
# What is never null; any other figure or text may be unknown.
ALWAYS_KNOWN = frozenset(
    {"schema_version", "model", "gpu", "num_gpus", "precision", "server", "kind", "engine", "name"}
)
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def inferred(documents: Iterable[Any], key: str = "") -> Schema:
    """The schema that all of these values meet, and no narrower one of its kind."""
    values = list(documents)
    types: dict[str, None] = {}
    found: Schema = {}
    for value in values:
        if value is None:
            types["null"] = None
        elif isinstance(value, list):
            types["array"] = None
        elif isinstance(value, dict):
            types["object"] = None
        else:
            types[_TYPES[type(value)]] = None
    if "number" in types or "integer" in types:
        # A figure may happen to be whole.
        figures = "number" if "number" in types or not _counts(key) else "integer"
        types = {figures if name in ("integer", "number") else name: None for name in types}
    if types and not {"array", "object"} & types.keys() and key not in ALWAYS_KNOWN:
        types["null"] = None
    lists = [value for value in values if isinstance(value, list)]
    mappings = [value for value in values if isinstance(value, dict)]
    if lists:
        items = [item for value in lists for item in value]
        found["items"] = inferred(items) if items else {}
    if mappings and key in MAPS:
        inner = [item for value in mappings for item in value.values()]
        # Of accuracy: groups by what, then by name.
        found["additionalProperties"] = inferred(inner, "groups_of" if key == "groups" else "") if inner else {}
    elif mappings:
        names = list(dict.fromkeys(name for value in mappings for name in value))
        found["properties"] = {
            name: inferred([value[name] for value in mappings if name in value], name) for name in names
        }
        found["required"] = [name for name in names if all(name in value for value in mappings)]
        found["additionalProperties"] = False
    longest_first = sorted(UNITS.items(), key=lambda one: -len(one[0]))
    unit = next((unit for suffix, unit in longest_first if key.endswith(suffix)), "")
    # Only ever unknown in these documents: a figure if its name has a unit, else anything.
    if types.keys() == {"null"}:
        types = {"null": None, "number": None} if unit else {}
    kinds = sorted(types)
    head: Schema = {"type": kinds[0] if len(kinds) == 1 else kinds} if kinds else {}
    return head | ({"description": unit} if unit and "object" not in types else {}) | found


def _counts(key: str) -> bool:
    """Whether a number of this name is always whole."""
    whole = ("place", "count", "concurrency", "runs", "tasks", "points", "gpus", "replicas", "nodes", "len", "revision")
    return key.endswith(
        (*whole, "parallel", "version", "year", "id", "tokens", "parameters", "layers", "heads", "size")
    )
