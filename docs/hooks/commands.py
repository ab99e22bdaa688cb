"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuscout.runner.cli.main import all_commands

_INTRO = """# Commands

Generated from the commands' own help. Every command takes `--help`; those that print data take `--json`, whose
documents are described in [JSON documents](../json-documents.md); those that use a store take `--db URL`.
"""


def page() -> str:
    """A section for each command and subcommand, with its options."""
    return "\n".join([_INTRO, *(_section(path, command) for path, command in walk(all_commands()))])


def walk(command: Any, path: tuple[str, ...] = ("gpuscout",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    children = getattr(command, "commands", None)
    if children is None:
        if not command.hidden:
            yield path, command
        return
    for name, child in children.items():
        yield from walk(child, (*path, name))


def _section(path: tuple[str, ...], command: Any) -> str:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    usage = " ".join([*path, *(["[OPTIONS]"] if options else []), *map(_argument, arguments)])
    lines = [f"## {' '.join(path)}", "", command.help or "", "", "```text", usage, "```", ""]
    if command.epilog:
        example = command.epilog.removeprefix("Example: ").strip()
        lines += ["Example:", "", "```sh", example, "```", ""]
    if described := [one for one in arguments if getattr(one, "help", None)]:
        lines += _table("argument", [(_argument(one), one.help) for one in described])
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
    for panel, members in panels.items():
        lines += _table(panel, [(", ".join([*one.opts, *one.secondary_opts]), one.help or "") for one in members])
    return "\n".join(lines)


def _argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name += "…" if argument.nargs != 1 else ""
    return name if argument.required else f"[{name}]"


def _table(heading: str, rows: list[tuple[str, str]]) -> list[str]:
    body = [f"| `{name}` | {cell(text)} |" for name, text in rows]
    return [f"| {heading} | |", "|---|---|", *body, ""]


def cell(text: str) -> str:
    """Text as it may stand in a table of Markdown."""
    escaped = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return escaped.replace("[", "\\[")
