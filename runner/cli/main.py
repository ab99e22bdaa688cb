"""The `gpuscout` command: puts the groups of commands together and prints every error in one place."""

from __future__ import annotations

import gc
import sys
import traceback
from typing import Annotated

import typer

from gpuscout.runner.cli import (
    accuracy,
    calibrate,
    capacity,
    catalogues,
    compare,
    db,
    deploy,
    doctor,
    export,
    fit,
    imports,
    init,
    pareto,
    prices,
    query,
    recommend,
    run,
    sweeps,
)
from gpuscout.sweeps.errors import GpuscoutError

app = typer.Typer(
    name="gpuscout",
    help="Which GPUs should serve this model, and what will it cost?",
    epilog="Start with: gpuscout init && gpuscout run sweep.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
for group in (
    run,
    recommend,
    compare,
    capacity,
    fit,
    deploy,
    query,
    pareto,
    export,
    accuracy,
    calibrate,
    imports,
    init,
    catalogues,
    prices,
    sweeps,
    db,
    doctor,
):
    group.register(app)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    context.obj = {"verbose": verbose}
    if version:
        from gpuscout import __version__

        print(f"gpuscout {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line and leave with its exit status."""
    collect_rarely()
    sys.exit(execute(sys.argv[1:]))


def collect_rarely() -> None:
    """Look for circular garbage rarely: a command ends soon, and a large answer has nothing but live objects."""
    gc.set_threshold(200_000, 50, 100)


def execute(arguments: list[str]) -> int:
    """Run one command; returns its exit status and prints expected errors without a traceback."""
    verbose = "-v" in arguments or "--verbose" in arguments
    try:
        app(arguments)
        return 0
    except SystemExit as leave:
        # typer's own way to end: usage errors (2), Ctrl-C (130), typer.Exit, and 1 when the reader of a pipe has left.
        if isinstance(leave.__context__, BrokenPipeError):
            return 0
        return leave.code if isinstance(leave.code, int) else 0
    except GpuscoutError as error:
        return _report(error, error.message, error.hint, error.exit_code, verbose)
    except Exception as error:
        hint = "this is a bug in gpuscout: please report it with the output of `gpuscout -v …`"
        return _report(error, f"unexpected {type(error).__name__}: {error}", hint, 1, verbose)


def _report(error: Exception, message: str, hint: str | None, exit_code: int, verbose: bool) -> int:
    print(message, file=sys.stderr)
    if hint:
        print(f"    {hint}", file=sys.stderr)
    if verbose:
        traceback.print_exception(error)
    return exit_code
