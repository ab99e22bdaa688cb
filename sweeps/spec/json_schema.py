"""JSON Schemas of files that people write, for editors."""

from __future__ import annotations

from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of_files(own: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of spec files, made of pydantic's schema of the spec itself.

    Names in catalogues and agreement between keys are beyond a schema. A spec that extends another may leave out
    what that one has, so only `name` is required.
    """
    schema = _cleaned(own)
    properties: dict[str, Any] = schema["properties"]
    one_engine = properties["engines"]["anyOf"][0]
    properties["engine"] = {**one_engine, "description": "The estimator, by its name or as a mapping with its options."}
    properties["extends"] = {
        "type": "string",
        "minLength": 1,
        "description": "Another spec, relative to this one. Keys of this spec replace its keys; `limits` are merged.",
    }
    required = [key for key in schema["required"] if key != "name"]
    return {
        "$schema": DIALECT,
        "title": "gpuscout sweep spec",
        "description": "Models x GPUs x parallelism x workloads to evaluate with one or more engines.",
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "anyOf": [{"required": ["extends"]}, {"required": required}],
        "not": {"required": ["engine", "engines"]},
        "additionalProperties": False,
    }


def _cleaned(node: Any, *, names: bool = False) -> Any:
    """Return without pydantic's titles and defaults, which editors would show.

    `names`: the keys of `node` are names.
    """
    if isinstance(node, list):
        return [_cleaned(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _cleaned(entry, names=key == "properties" and not names)
        for key, entry in node.items()
        if names or key not in ("title", "default")
    }
