"""`gpuscout accuracy`: how far an engine's estimates are from measured runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, count, err, open_store, out, print_json
from gpuscout.runner.cli.options import GpuFile, PriceOptions, grouped
from gpuscout.runner.cli.show.measured.fit_errors import fit_errors, print_fit_errors
from gpuscout.runner.cli.show.output import Column, Output, Row, a_figure, print_rows, whole_number
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.text import percent

if TYPE_CHECKING:
    from gpuscout.runner.accuracy.errors import GroupErrors
    from gpuscout.runner.accuracy.names import RunNames
    from gpuscout.runner.accuracy.report import AccuracyReport
    from gpuscout.runner.accuracy.sources import Measured
    from gpuscout.runner.engines.base import Engine


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout accuracy --measured my_runs.csv --predictions estimates.csv"
    app.command("accuracy", rich_help_panel="Trust", epilog=example)(accuracy)


@grouped
def accuracy(
    output: Output,
    prices: PriceOptions,
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--measured",
            help="`public` (the runs that ship), `public:serving_runs` (one file of them), `stored` (those imported "
            "into --db), `stored:PATTERN` (a file or source of them) or a CSV file; repeat.",
        ),
    ] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", help="An engine; repeat to compare.")] = None,
    constants: Annotated[
        Path | None, typer.Option("--constants", help="Constants of roofline, as `gpuscout calibrate` writes them.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="model, vendor, family, gpu, precision, server, load_band, vendor_load_band, concurrency, tp …",
        ),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            "--worst", min=1, help="List this many runs, furthest from their estimates first (of --measured stored)."
        ),
    ] = None,
    percentiles: Annotated[
        bool, typer.Option("--percentiles", help="Compare simulated with measured percentiles instead.")
    ] = False,
    family_left_out: Annotated[
        bool,
        typer.Option("--family-left-out", help="With --percentiles: fit the constants without each GPU family first."),
    ] = False,
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out",
            help="The errors of roofline on models, GPU types and GPU families that a fit had not seen, as `gpuscout "
            "calibrate` found them, instead.",
        ),
    ] = False,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Write every estimate to this CSV file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw estimated against measured: FILE.png, .svg or .html.")
    ] = None,
    gpu_file: GpuFile = None,
    store: Annotated[
        bool, typer.Option("--store", help="Keep the errors over stored runs, for `gpuscout recommend` to show.")
    ] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Compare estimates with measured runs.

    Shows errors by group, and how often the cheapest GPU is chosen. The choice is made with one fixed list of prices,
    so that figures can be compared, unless prices are named. With --worst, the files that may be wrong instead.
    roofline was fitted to the public runs: --left-out prints its errors on what a fit had not seen. Exit status 5: an
    engine answered nothing.
    """
    from gpuscout.runner.accuracy.names import RunNames
    from gpuscout.runner.accuracy.report import DEFAULT_GROUPINGS, report, write_predictions
    from gpuscout.runner.accuracy.sources import PUBLIC, STORED, measured_runs
    from gpuscout.runner.cli.plots.accuracy import accuracy_plot
    from gpuscout.runner.cli.plots.files import check_plot, save
    from gpuscout.runner.cli.show.measured.outliers import print_worst
    from gpuscout.runner.engines.registry import create_engine

    if left_out:
        if measured or engine or by or worst or percentiles or family_left_out or predictions or plot or store:
            raise InputError("--left-out takes --constants and a form of output only")
        _print_left_out(constants, output)
        return
    engines = list(dict.fromkeys(engine or ["roofline"]))
    sources = measured or [STORED if worst else PUBLIC]
    if predictions and len(engines) > 1:
        raise InputError("--predictions holds the estimates of one engine", hint="name one --engine")
    if store and any(source.partition(":")[0] != STORED for source in sources):
        raise InputError("--store keeps errors over runs of the store", hint="add --measured stored")
    for source in sources:
        if predictions and predictions.exists() and Path(source).exists() and predictions.samefile(source):
            raise InputError(f"--predictions would replace the measured runs in {source}", hint="name another file")
    if plot:
        check_plot(plot)
    names = RunNames.at(db, gpu_file)
    found = measured_runs(sources, db, names, implausible=worst is not None)
    gpu_prices = _gpu_prices(prices, db, {run.gpu for run in found.runs})
    if percentiles:
        from gpuscout.runner.cli.accuracy.percentiles import print_percentiles

        if predictions or plot or worst or store:
            raise InputError("--percentiles cannot be combined with --predictions, --plot, --worst or --store")
        if len(engine or ()) > 1 or (constants and family_left_out):
            raise InputError("--percentiles takes one --engine, and either --constants or --family-left-out")
        answered = print_percentiles(
            (engine or ["simulator"])[0],
            found.runs,
            names,
            by=by or (),
            left_out=family_left_out,
            constants=constants,
            output=output,
        )
        if not answered:
            raise typer.Exit(5)
        return
    if family_left_out:
        raise InputError(
            "--family-left-out needs --percentiles", hint="`gpuscout calibrate` prints the errors of means"
        )
    err().print(f"estimating {count(len(found.runs), 'measured run')} with {', '.join(engines)}")
    print_left_out(found)
    reports = []
    for name in engines:
        options = {"constants_file": str(constants)} if constants and name == "roofline" else {}
        asked = create_engine(name, options)
        reports.append(report(asked, found.runs, by=by or DEFAULT_GROUPINGS, prices=gpu_prices, names=names))
        if store:
            err().print(_keep(asked, reports[-1], db, names))
    if predictions:
        write_predictions(reports[0].estimates, predictions)
    if plot:
        save(accuracy_plot(reports), plot)
    if worst is not None:
        print_worst(reports, worst, output)
    elif output.json:
        print_json({"accuracy": [one.to_dict() for one in reports]})
    elif output.for_people:
        for one in reports:
            _print_report(one, output)
    else:
        columns = [Column("engine", "engine"), Column("load", "load"), *_COLUMNS]
        print_rows(columns, (row for one in reports for load in one.loads for row in _rows(one, load)), output)
    for one in reports:
        if not one.answered:
            text = f"{one.engine} answered none of {count(one.runs, 'run')}"
            err().print(f"{text}: {max(one.reasons, key=lambda reason: one.reasons[reason])}")
    if not all(one.answered for one in reports):
        raise typer.Exit(5)


def _print_left_out(file: Path | None, output: Output) -> None:
    """Print the errors that stand in a constants file. Raises InputError where its fit was not cross-validated."""
    from gpuscout.runner.engines.roofline.constants import Constants

    constants = Constants.load(file)
    if not any(of.endswith("left_out") for of in constants.errors_of_fit):
        raise InputError(f"{file}: nothing was left out of its fit", hint="`gpuscout calibrate` without --no-validate")
    err().print(f"constants {constants.digest}, fitted on {constants.fitted_on} to {count(constants.runs, 'run')}")
    if output.json:
        print_json({"errors_of_fit": fit_errors(constants.errors_of_fit)})
    else:
        print_fit_errors(constants.errors_of_fit, output)


def _gpu_prices(options: PriceOptions, db: str, gpus: Iterable[str]) -> Mapping[str, float]:
    """Return USD per GPU hour: the reference prices, or those that the options name. Says which GPUs have none."""
    from gpuscout.runner.accuracy.choice import REFERENCE_PRICES
    from gpuscout.runner.cli.store.prices import quotes_at
    from gpuscout.store.prices.prices import price_gpus

    if options == PriceOptions():
        return REFERENCE_PRICES
    names = sorted(gpus)
    rules = options.rules(names)
    priced = price_gpus(names, quotes_at(db, rules.books and rules.precedence), rules)
    for gpu, reason in priced.missing.items():
        err().print(f"not in the choice of GPU: {gpu}: {reason}")
    return {gpu: price.per_hour(1).usd for gpu, price in priced.known.items()}


def print_left_out(found: Measured) -> None:
    """Print the number of runs that cannot be compared with estimates to standard error, if any."""
    if found.not_comparable:
        err().print(f"left out: {count(found.not_comparable, 'run')} at a request rate whose concurrency is not known")
    if found.variants:
        err().print(f"left out: {count(found.variants, 'run')} of drafted, cached or disaggregated deployments")


def _keep(engine: Engine, one: AccuracyReport, db: str, names: RunNames) -> str:
    """Write the errors of an engine over stored runs into the store, in place of earlier ones; what to tell of it."""
    from gpuscout.runner.accuracy.report import select
    from gpuscout.runner.accuracy.seen import errors_seen
    from gpuscout.runner.accuracy.sources import not_fitted
    from gpuscout.runner.engines.base import info, trust_of
    from gpuscout.store.results.registry import register_engine
    from gpuscout.store.results.trust import OVER_STORED, note_errors

    rows = list(range(len(one.estimates)))
    if trust_of(engine).errors:
        # It was fitted to public runs and brings its errors on models left out; those it was fitted to look smaller.
        rows = not_fitted(one.estimates.runs)
    errors = errors_seen(select(one.estimates, rows), names)
    with open_store(db) as store, store.writing() as connection:
        note_errors(connection, register_engine(connection, info(engine)), OVER_STORED, errors)
    fitted = len(one.estimates) - len(rows)
    apart = f"; {count(fitted, 'public run')} excluded, whose errors the calibration holds" if fitted else ""
    return f"{engine.name}: errors over {count(len(rows), 'run')} of this store kept{apart}"


_METRICS = {"itl": "ITL", "ttft": "TTFT", "throughput": "tokens/s"}
_COLUMNS = (
    Column("by", "by", lambda by: by.replace("_", " ")),
    Column("group", "group"),
    a_figure("runs", "runs", whole_number),
    a_figure("answered", "answered", lambda share: percent(share, 1)),
    *(
        a_figure(f"{metric}_{part}", f"{label} {heading}", show, unknown="")
        for metric, label in _METRICS.items()
        for part, heading, show in (
            ("median_error", "err", lambda error: percent(error, 1)),
            ("p90_error", "p90", percent),
            ("bias", "bias", lambda bias: f"{100 * bias:+,.1f} %"),
            ("inside", "in 80 %", percent),
        )
    ),
)

# What a narrow terminal leaves out, the first one first.
_LESS = tuple(
    f"{metric}_{part}" for part in ("bias", "p90_error", "inside") for metric in ("throughput", "ttft", "itl")
)


def _rows(one: AccuracyReport, load: str) -> list[Row]:
    """Return the errors under one kind of load, of all runs and of every group: fractions of what was measured."""
    part = one.loads[load]
    groups: list[tuple[str, str | None, GroupErrors]] = [("all runs", None, part.total)]
    groups += [(by, name, group) for by, named in part.groups.items() for name, group in named.items()]
    return [
        {"engine": one.engine, "load": load, "by": by, "group": name, "runs": group.runs, "answered": group.coverage}
        | {
            f"{metric}_{name}": getattr(group.metrics.get(metric), field, None)
            for metric in _METRICS
            for name, field in (
                ("median_error", "median"),
                ("p90_error", "p90"),
                ("bias", "bias"),
                ("inside", "inside"),
            )
        }
        for by, name, group in groups
    ]


def _print_report(one: AccuracyReport, output: Output) -> None:
    if not one.answered:
        return  # which is told as an error
    for load, part in one.loads.items():
        rows = _rows(one, load)
        # Columns without a figure (offline maxima have no latencies) only take room.
        used = [column for column in _COLUMNS if any(row[column.name] is not None for row in rows)]
        title = f"{one.engine} {one.fingerprint}: {load} ({count(part.total.runs, 'run')})"
        print_rows(used, rows, output, title=title, drop=_LESS)
        out().print()
    if choice := one.choice:
        out().print(
            f"choice of GPU by cost per token under ITL limits: {count(choice.questions, 'question')}, "
            f"right {percent(choice.right)}, within 5 % of the cheapest {percent(choice.near)}, "
            f"mean regret {percent(choice.regret, 1)}"
        )
    if order := one.order:
        out().print(
            f"order of GPU types by offline maximum: {percent(order.right, 1)} of {count(order.pairs, 'pair')} right"
        )
    for fraction, runs in one.memory_assumed.items():
        if float(fraction) > 1:
            out().print(
                f"{count(runs, 'run')} measured where the engine finds no room for the model: estimated as if it fitted"
            )
    for reason, runs in one.reasons.items():
        out().print(f"not answered: {count(runs, 'run')}: {reason}")
    out().print("err: median of |estimate / measured - 1|; p90: its 90th percentile; bias: median of the signed error")
    if one.trust.intervals:
        out().print("in 80 %: the share of measured figures within the engine's 80 % interval around the estimate")
