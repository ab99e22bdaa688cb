"""`gpuscout mcp`: the answers of a store as tools for assistants, over the Model Context Protocol."""

from __future__ import annotations

import os

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db
from gpuscout.sweeps.errors import InputError


def register(app: typer.Typer) -> None:
    app.command("mcp", rich_help_panel="Sweeps", epilog="Example: gpuscout mcp --db gpuscout.db")(mcp)


def mcp(db: Db = DEFAULT_STORE) -> None:
    """Serve the answers of a store to assistants, as MCP tools.

    The tools recommend, compare, capacity and fit answer on standard input and output. Reads only, and never asks the
    Hugging Face Hub.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from gpuscout.runner.web.tools import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("gpuscout"):
            raise
        raise InputError(f"{error.name} is not installed", hint="pip install 'gpuscout[mcp]'") from error
    serve(db)
