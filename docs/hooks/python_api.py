"""The reference of the Python API, from signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import gpuscout

_INTRO = """# Python reference

Generated from docstrings. Everything is imported from `gpuscout`; [the Python API](../python-api.md) introduces it with
examples that a test runs.
"""
_ALIGNED = re.compile(r"^\s*\S.*\S {2,}\S")


def page() -> str:
    """A section for each public name."""
    sections = [_INTRO]
    for name in sorted(gpuscout.__all__, key=str.lower):
        sections.append("\n".join(_section(name, getattr(gpuscout, name))))
    return "\n".join(sections)


def _section(name: str, value: Any) -> Iterator[str]:
    yield f"## {name}\n"
    module = gpuscout._HOMES[name]
    yield f"`gpuscout.{module.removeprefix('gpuscout.')}`\n"
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        yield f"{_constant(name, module)}\n"
        return
    yield from _signature(name, value)
    yield from documented(inspect.getdoc(value) or "")
    if inspect.isclass(value):
        for member, function in vars(value).items():
            inner = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
            if not member.startswith("_") and inspect.isroutine(inner) and inspect.getdoc(inner):
                yield f"### {name}.{member}\n"
                if not isinstance(function, property):
                    yield from _signature(member, inner)
                yield from documented(inspect.getdoc(inner) or "")


def _constant(name: str, module: str) -> str:
    home = importlib.import_module(module if module.startswith("gpuscout") else f"gpuscout.{module}")
    return f"A value of type `{type(getattr(home, name)).__name__}`."


def _signature(name: str, value: Any) -> Iterator[str]:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    parameters = [re.sub(r"<[^>]*>", "…", str(one).replace("'", "")) for one in signature.parameters.values()]
    returned = signature.return_annotation
    known = isinstance(returned, str) and not inspect.isclass(value)
    arrow = f" -> {returned}" if known else ""
    kinds = [one.kind for one in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    line = f"{name}({', '.join(parameters)}){arrow}"
    if len(line) > 100:
        line = f"{name}(\n    " + ",\n    ".join(parameters) + f",\n){arrow}"
    yield f"```python\n{line}\n```\n"


def documented(text: str) -> Iterator[str]:
    """A docstring as Markdown: examples and tables of arguments keep their layout."""
    for paragraph in filter(str.strip, re.split(r"\n\s*\n", text)):
        lines = paragraph.splitlines()
        if lines[0].lstrip().startswith(">>>"):
            yield f"```pycon\n{inspect.cleandoc(paragraph)}\n```\n"
        elif (len(lines) > 1 and _ALIGNED.match(lines[0])) or all(line.startswith("    ") for line in lines):
            yield f"```text\n{paragraph}\n```\n"
        else:
            yield paragraph.replace("<", "&lt;").replace("[", "\\[") + "\n"
