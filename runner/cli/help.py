"""Help with the options of a command in the groups that they are declared in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from typer import Typer
from typer.core import TyperCommand

# How newer releases of typer call the types of options, and people.
_TYPES = {"str": "TEXT", "list[str]": "TEXT", "path": "FILE", "list[path]": "FILE", "int": "N", "float": "NUMBER"}
_TYPE = re.compile(r"<([a-z\[\]]+)(?: range)?>$")
_ARGUMENTS, _OPTIONS, _COMMON = "Arguments", "Options", "Common options"


class Grouped(TyperCommand):
    """A command whose help lists its options by their panels: those of its own first, what all commands have last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {_ARGUMENTS: [], _OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                panel = _ARGUMENTS if argument else getattr(parameter, "rich_help_panel", None) or _OPTIONS
                called = _TYPE.sub(lambda form: _TYPES.get(form[1], form[0]), record[0])
                sections.setdefault(panel, []).append((called, record[1]))
        sections[_COMMON] = [
            *sections.pop(_COMMON, []),
            *(record for record in sections[_OPTIONS] if record[0].startswith("-h, ")),
        ]
        sections[_OPTIONS] = [record for record in sections[_OPTIONS] if not record[0].startswith("-h, ")]
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def group_options(app: Typer) -> None:
    """Group the options in the help of all commands of an app and of its groups."""
    commands: Iterable[Any] = app.registered_commands
    for command in commands:
        command.cls = Grouped
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group_options(group.typer_instance)
