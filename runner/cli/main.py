"""The `gpuscout` command: puts the groups of commands together and prints every error in one place."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from functools import cache
from typing import Annotated, Any

import typer

from gpuscout.runner.cli import doctor, mcp, serve
from gpuscout.runner.cli.accuracy import accuracy, calibrate
from gpuscout.runner.cli.aliases import Suggesting
from gpuscout.runner.cli.ask import capacity, compare, deploy, fit, pareto, place, query, recommend
from gpuscout.runner.cli.crash import traced, write_report
from gpuscout.runner.cli.help import group_options
from gpuscout.runner.cli.secrets import hide_password
from gpuscout.runner.cli.store import catalogues, db, export, imports, prices
from gpuscout.runner.cli.streams import OutputFailed, give_up, use_printable_streams
from gpuscout.runner.cli.sweep import init, run, sweeps, workloads
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.text import message_of, without_passwords

app = typer.Typer(
    name="gpuscout",
    cls=Suggesting,
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
    place,
    fit,
    deploy,
    query,
    pareto,
    export,
    serve,
    mcp,
    accuracy,
    calibrate,
    imports,
    init,
    catalogues,
    workloads,
    prices,
    sweeps,
    db,
    doctor,
):
    group.register(app)
group_options(app)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    context.obj = {"verbose": verbose}
    if version:
        from gpuscout import __version__

        print(f"gpuscout {__version__}")
        raise typer.Exit


@cache
def all_commands() -> Any:
    """Return all commands as one, built once: the page and tests run many in a process."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line and leave with its exit status."""
    hide_password()
    use_printable_streams()
    collect_rarely()
    sys.exit(execute(sys.argv[1:]))


def collect_rarely() -> None:
    """Look for circular garbage rarely: a command ends soon, and a large answer has nothing but live objects."""
    gc.set_threshold(200_000, 50, 100)


def execute(arguments: list[str]) -> int:
    """Run one command; returns its exit status and prints expected errors without a traceback."""
    verbose = "-v" in arguments or "--verbose" in arguments
    try:
        status = _status_of(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        give_up(sys.stdout)
        return 0
    except GpuscoutError as error:
        if isinstance(error, OutputFailed):
            give_up(sys.stdout)
        return _report(error, error.message, error.hint, error.exit_code, verbose)
    except Exception as error:
        report = write_report(error, arguments)
        hint = "this is a bug in gpuscout: please report it with " + (report or "the output of `gpuscout -v …`")
        return _report(error, f"unexpected {type(error).__name__}: {message_of(error)}", hint, 1, verbose)


def _status_of(arguments: list[str]) -> int:
    try:
        all_commands()(arguments)
        return 0
    except SystemExit as leave:
        # typer's own way to end: usage errors (2), Ctrl-C (130), typer.Exit, and 1 when the reader of a pipe has left.
        if isinstance(leave.__context__, BrokenPipeError):
            return 0
        return leave.code if isinstance(leave.code, int) else 0


def _report(error: Exception, message: str, hint: str | None, exit_code: int, verbose: bool) -> int:
    lines = [message, *([f"    {hint}"] if hint else []), *([traced(error).rstrip()] if verbose else [])]
    with suppress(OutputFailed, BrokenPipeError):
        print(without_passwords("\n".join(lines)), file=sys.stderr)
    return exit_code
