"""`gpuscout calibrate`: fits the roofline engine's constants to measured runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpuscout.runner.cli.accuracy.accuracy import print_left_out
from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, err, out, print_json
from gpuscout.runner.cli.options import GpuFile
from gpuscout.runner.cli.show.measured.fit_errors import print_fit_errors
from gpuscout.runner.cli.show.output import Output
from gpuscout.sweeps.errors import InputError


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout calibrate --measured public --measured my_runs.csv --output my_constants.json"
    app.command("calibrate", rich_help_panel="Trust", epilog=example)(calibrate)


def calibrate(
    measured: Annotated[
        list[str] | None,
        typer.Option("--measured", help="`public`, `public:serving_runs`, `stored` (in --db) or a CSV file; repeat."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write the constants to.")] = Path(
        "roofline_constants.json"
    ),
    validate: Annotated[
        bool, typer.Option("--validate/--no-validate", help="Also fit without each model, GPU type and GPU family.")
    ] = True,
    gpu_file: GpuFile = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Fit the constants of `roofline` to measured runs.

    Prints their errors, also on the models, GPU types and GPU families left out of a fit.
    """
    from gpuscout.runner.accuracy.names import RunNames
    from gpuscout.runner.accuracy.sources import PUBLIC, measured_runs
    from gpuscout.runner.calibration.document import calibrate, write_constants
    from gpuscout.runner.engines.roofline.constants import Constants
    from gpuscout.store.clock import today

    sources = measured or [PUBLIC]
    if not output.parent.is_dir() or output.is_dir():
        raise InputError(f"cannot write {output}: {'a directory' if output.is_dir() else 'no such directory'}")
    names = RunNames.at(db, gpu_file)
    found = measured_runs(sources, db, names)
    print_left_out(found)
    document = calibrate(
        found.runs,
        others=measured_runs((PUBLIC,), db, names).runs,
        names=names,
        today=today().isoformat(),
        validate=validate,
        tell=lambda text: err().print(text),
    )
    write_constants(document, output)
    if json:
        print_json({"calibration": {**document, "file": str(output)}})
        return
    print_fit_errors(Constants.from_dict(document).errors_of_fit, Output())
    if not any(source.partition(":")[0] == PUBLIC for source in sources):
        out().print("\nGPU families and servers that none of these runs used have rough constants; for fitted ones add")
        out().print("  --measured public")
    out().print(f"\nwritten to {output}; in a sweep: engines: [{{name: roofline, constants_file: {output}}}]")
