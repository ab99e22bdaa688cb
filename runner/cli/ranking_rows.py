"""How the rows of a ranking are printed as CSV and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.output import Column, Output, Row, a_figure, print_rows
from gpuscout.runner.cli.points import column_of

if TYPE_CHECKING:
    from gpuscout.store.ranking.types import Ranking

_FIRST = ("model", "input_len", "output_len", "gpu", "num_gpus", "tensor_parallel", "precision", "server")
_LAST = (
    "concurrency",
    "ttft_ms",
    "itl_ms",
    "output_tokens_per_s",
    "output_tokens_per_s_per_gpu",
    "usd_per_hour",
    "kind",
)


def print_ranking_rows(ranking: Ranking, output: Output, *, top: int | None) -> None:
    """One row a configuration: everything as CSV, what a reader wants as Markdown."""
    from gpuscout.store.ranking.rows import COLUMNS, ranking_rows

    rows = ranking_rows(ranking, top=top)
    columns = [Column(name, name) for name in COLUMNS]
    if output.md:
        objective = a_figure("objective_value", ranking.question.aim.unit)
        behind = a_figure("behind_best", "behind", lambda behind: f"{100 * behind:,.0f} %" if behind else "best")
        columns = [*map(column_of, _FIRST), objective, behind, *map(column_of, _LAST), Column("trust", "trust")]
        rows = (row | {"trust": _trust(row)} for row in rows)
    print_rows(columns, rows, output)


def _trust(row: Row) -> str:
    """What a row rests on, in short: its runs and their sources, or the error of its engine near it."""
    if row["runs"] is not None:
        return ", ".join([count(row["runs"], "run"), *row["sources"]])
    if row["error_runs"] is None:
        return "no measured runs near this"
    return f"{row['error_metric']} +-{row['error_median']:.0%} ({row['error_runs']} runs, {row['error_gpu_family']})"
