"""How the rows of a ranking are printed as CSV and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.output import Column, Output, Row, a_figure, print_rows
from gpuscout.runner.cli.show.points import column_of
from gpuscout.sweeps.curves import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuscout.store.ranking.types import RankedConfig, Ranking

_FIRST = ("model", "input_len", "output_len", "gpu", "num_gpus", "tensor_parallel", "precision", "server")
_LAST = ("output_tokens_per_s", "output_tokens_per_s_per_gpu", "usd_per_hour", "kind")
_VALUES = {"cost": "usd_per_mtok", "energy": "kwh_per_mtok"}


def print_ranking_rows(ranking: Ranking, output: Output, *, top: int | None) -> None:
    """One row a configuration: everything as CSV, what a reader wants as Markdown."""
    from gpuscout.store.ranking.rows import columns_of, ranking_rows, shown

    rows = ranking_rows(ranking, top=top)
    if not output.md:
        print_rows([Column(name, name) for name in columns_of(ranking)], rows, output)
        return
    configs = (config for group in ranking.groups for config in shown(group, top))
    told = [row | _for_readers(row, config) for row, config in zip(rows, configs, strict=True)]
    print_rows(_columns(ranking, told), told, output)


def _columns(ranking: Ranking, rows: Sequence[Row]) -> list[Column]:
    """What a reader wants: the objective first, a column for each figure that was asked for, remarks if there are."""
    from gpuscout.store.ranking.rows import COLUMNS, columns_of
    from gpuscout.store.ranking.types import MEASURES

    question, aim = ranking.question, ranking.question.aim
    names = [name for name in (*dict(aim.weights), *question.also) if aim.is_weighted or name != aim.name]
    asked = {*(MEASURES[name].column for name in names), *(slo.column for slo in question.slos)}
    figures = [*dict.fromkeys(_VALUES[name] for name in names if name in _VALUES), "concurrency", "ttft_ms", "itl_ms"]
    figures += [name for name in ("e2e_s", "requests_per_s") if name in asked]
    figures += columns_of(ranking)[len(COLUMNS) :]
    if any(row["lowest_opinion"] is not None for row in rows):
        figures += ["lowest_opinion", "highest_opinion"]
    objective = a_figure("objective_value", aim.unit)
    behind = a_figure("behind_best", "behind", lambda behind: f"{100 * behind:,.0f} %" if behind else "best")
    remarks = [Column("remarks", "remarks")] if any(row["remarks"] for row in rows) else []
    last = [a_figure(name, name.replace("_", " ")) if "opinion" in name else column_of(name) for name in figures]
    last += map(column_of, _LAST)
    return [*map(column_of, _FIRST), objective, behind, *last, Column("trust", "trust"), *remarks]


def _for_readers(row: Row, config: RankedConfig) -> dict[str, object]:
    """Figures as they count, what the row rests on, and what must be known of it."""
    figures: dict[str, object] = {name: config.counted(name) for name in METRICS}
    tokens = config.counted("output_tokens_per_s")
    figures["output_tokens_per_s_per_gpu"] = None if tokens is None else tokens / config.num_gpus
    remarks = [name for name in ("interpolated", "queued") if row[name]]
    if config.assumed_tail is not None:
        remarks.append(f"percentiles assumed to be {config.assumed_tail:g} x the mean")
    if row["caveats"] is not None:
        remarks.append(str(row["caveats"]))
    return figures | {"trust": _trust(row), "remarks": ", ".join(remarks)}


def _trust(row: Row) -> str:
    """What a row rests on, in short: its runs and their sources, or the error of its engine near it."""
    if row["runs"] is not None:
        return ", ".join([count(row["runs"], "run"), *row["sources"]])
    if row["error_runs"] is None:
        return "no measured runs near this"
    return f"{row['error_metric']} +-{row['error_median']:.0%} ({row['error_runs']} runs, {row['error_gpu_family']})"
