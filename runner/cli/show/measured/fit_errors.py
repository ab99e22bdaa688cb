"""The errors that a calibration found, on the runs it was fitted to and on those it left out, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from gpuscout.runner.cli.show.output import Column, Output, Row, a_figure, print_rows
from gpuscout.sweeps.text import percent

_FIGURES = ("itl", "ttft", "throughput", "choice_within_5_percent", "choice_regret", "pairs_in_order")
_COLUMNS = (
    Column("runs_of", "runs of", lambda of: of.replace("_", " ")),
    Column("load", "load"),
    *(a_figure(name, name.replace("_", " "), lambda share: percent(share, 1), unknown="") for name in _FIGURES),
)


def fit_errors(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Row]:
    """Return one row for each part of the runs that a fit had seen, or had not: all figures are fractions."""
    return [
        {"runs_of": of, "load": load} | {name: values.get(name) for name in _FIGURES}
        for of, loads in errors.items()
        for load, values in loads.items()
    ]


def print_fit_errors(errors: Mapping[str, Mapping[str, Mapping[str, float]]], output: Output) -> None:
    """Print medians of absolute errors, the quality of choices, and shares inside intervals."""
    print_rows(_COLUMNS, fit_errors(errors), output)
