"""`gpuscout init` and `gpuscout schema`: help with writing a sweep spec."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gpuscout.runner.cli.common import write_file


def register(app: typer.Typer) -> None:
    app.command("init", rich_help_panel="Sweeps", epilog="Example: gpuscout init && gpuscout run sweep.yaml")(init)
    app.command("schema", rich_help_panel="Sweeps", epilog="Example: gpuscout schema > gpuscout.schema.json")(schema)


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("sweep.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a commented sweep spec that runs as it is."""
    from gpuscout.sweeps.spec.starter import starter_spec

    write_file(starter_spec(), file, force=force, hint="--force replaces it; or name another file")
    print(f"wrote {file}; next: gpuscout run {shlex.quote(str(file))}")


def schema() -> None:
    """Print the JSON Schema of sweep specs, for editors."""
    import json

    from gpuscout.sweeps.spec.spec import spec_json_schema

    print(json.dumps(spec_json_schema(), indent=2))
