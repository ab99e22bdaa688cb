"""`gpuscout accuracy`: how far an engine's estimates are from measured runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import Json, count, err, out, print_json, print_table
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.runner.accuracy.errors import GroupErrors
    from gpuscout.runner.accuracy.report import AccuracyReport
    from gpuscout.store.measured import MeasuredRun

PUBLIC = "public"
_FIGURES = [
    "runs",
    "answered",
    *(f"{m} {part}" for m in ("ITL", "TTFT", "tokens/s") for part in ("err", "p90", "bias")),
]


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout accuracy --measured my_runs.csv --predictions estimates.csv"
    app.command("accuracy", rich_help_panel="Trust", epilog=example)(accuracy)


def accuracy(
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--measured",
            help="`public` (the runs that ship), `public:serving_runs` (one file of them) or a CSV file; repeat.",
        ),
    ] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", help="An engine; repeat to compare.")] = None,
    constants: Annotated[
        Path | None, typer.Option("--constants", help="Constants of roofline, as `gpuscout calibrate` writes them.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="model, gpu, precision, server, concurrency, input_len, output_len, tp or source."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Write every estimate to this CSV file.")
    ] = None,
    json: Json = False,
) -> None:
    """Estimate measured runs and show the errors, by group, and how good the choice of GPU is."""
    from gpuscout.runner.accuracy.report import DEFAULT_GROUPINGS, report, write_predictions
    from gpuscout.runner.engines.registry import create_engine

    engines = engine or ["roofline"]
    if predictions and len(engines) > 1:
        raise InputError("--predictions holds the estimates of one engine", hint="name one --engine")
    runs = measured_runs(measured or [PUBLIC])
    err().print(f"estimating {count(len(runs), 'measured run')} with {', '.join(engines)}")
    reports = []
    for name in engines:
        options = {"constants_file": str(constants)} if constants and name == "roofline" else {}
        reports.append(report(create_engine(name, options), runs, by=by or DEFAULT_GROUPINGS))
    if predictions:
        write_predictions(reports[0].estimates, predictions)
    if json:
        print_json({"accuracy": [one.to_dict() for one in reports]})
        return
    for one in reports:
        _print_report(one)


def measured_runs(sources: Iterable[str]) -> tuple[MeasuredRun, ...]:
    """The runs of all sources; a run that two of them hold counts once. Raises InputError."""
    from gpuscout.store.measured import public_runs, read_runs

    def read(source: str) -> tuple[MeasuredRun, ...]:
        kind, _, part = source.partition(":")
        return public_runs(*filter(None, [part])) if kind == PUBLIC else read_runs(Path(source))

    found = map(read, sources)
    return tuple(dict.fromkeys(run for runs in found for run in runs))


def _print_report(one: AccuracyReport) -> None:
    for load, part in one.loads.items():
        rows = [["all runs", "", *_figures(part.total)]]
        rows += [
            [by.replace("_", " "), name, *_figures(group)]
            for by, groups in part.groups.items()
            for name, group in groups.items()
        ]
        # Columns without a figure (offline maxima have no latencies) only take room.
        used = [i for i, _ in enumerate(_FIGURES, start=2) if any(row[i] for row in rows)]
        columns = ["by", "group", *(_FIGURES[i - 2] for i in used)]
        title = f"{one.engine} {one.fingerprint}: {load} ({count(part.total.runs, 'run')})"
        print_table(columns, [[*row[:2], *(row[i] for i in used)] for row in rows], title=title, right=columns[2:])
        out().print()
    if choice := one.choice:
        out().print(
            f"choice of GPU by cost per token under ITL limits: {count(choice.questions, 'question')}, "
            f"right {choice.right:.0%}, within 5 % of the cheapest {choice.near:.0%}, mean regret {choice.regret:.1%}"
        )
    if order := one.order:
        out().print(f"order of GPU types by offline maximum: {order.right:.1%} of {count(order.pairs, 'pair')} right")
    for fraction, runs in one.memory_assumed.items():
        if float(fraction) > 1:
            out().print(f"{count(runs, 'run')} measured where the engine says the model does not fit: as if it did")
    for reason, runs in one.reasons.items():
        out().print(f"not answered: {count(runs, 'run')}: {reason}")
    out().print("err: median of |estimate / measured - 1|; p90: its 90th percentile; bias: median of the signed error")


def _figures(group: GroupErrors) -> list[str]:
    cells = [f"{group.runs:,}", f"{group.coverage:.1%}"]
    for name in ("itl", "ttft", "throughput"):
        error = group.metrics.get(name)
        cells += [f"{error.median:.1%}", f"{error.p90:.0%}", f"{error.bias:+.1%}"] if error else ["", "", ""]
    return cells
