"""`gpuscout serve`: the answers of a store in a browser and over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, err
from gpuscout.sweeps.errors import InputError


def register(app: typer.Typer) -> None:
    app.command("serve", rich_help_panel="Sweeps", epilog="Example: gpuscout serve --open")(serve)


def serve(
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; others can reach all but loopback.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0: any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="GPUSCOUT_TOKEN", help="Token that callers send; better in GPUSCOUT_TOKEN."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name of this server, as behind a proxy; repeat."),
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option("--time-limit", min=0.1, metavar="S", help="Time limit of an answer, in seconds."),
    ] = 60,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=64, help="Number of processes that answer, each on one core."),
    ] = 1,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Serve the answers of a store as web pages and a REST API.

    The API is at /api/v1. Computes nothing; Ctrl-C ends it.
    """
    try:
        from gpuscout.runner.web.server import serve as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("gpuscout"):
            raise
        raise InputError(f"{error.name} is not installed", hint="pip install 'gpuscout[web]'") from error

    def say(address: str) -> None:
        err().print(f"serving at {address}   Ctrl-C ends it", soft_wrap=True)

    run(
        db,
        host,
        port,
        token=token,
        allowed_hosts=allow_host or (),
        longest_s=time_limit,
        workers=workers,
        open_browser=open_browser,
        say=say,
    )
