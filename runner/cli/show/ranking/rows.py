"""Rows of a ranking as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from gpuscout.runner.cli.show.certainty import trust
from gpuscout.runner.cli.show.output import Column, Output, Row, a_figure, print_rows
from gpuscout.runner.cli.show.points import column_of
from gpuscout.runner.cli.show.wording import configuration, limit, workload
from gpuscout.store.ranking.measures import MEASURES
from gpuscout.store.ranking.rows import COLUMNS, columns_of, ranking_rows, shown
from gpuscout.store.ranking.types import Group, RankedConfig, Ranking
from gpuscout.sweeps.curves import METRICS
from gpuscout.sweeps.text import percent

_VALUES = {"cost": "usd_per_mtok", "energy": "kwh_per_mtok"}


def print_ranking_rows(ranking: Ranking, output: Output, *, top: int | None) -> None:
    """Print one row a configuration: everything as CSV, what a reader wants as Markdown."""
    rows = ranking_rows(ranking, top=top)
    if not output.md:
        print_rows([Column(name, name) for name in columns_of(ranking)], rows, output)
        return
    pairs = ((group, config) for group in ranking.groups for config in shown(group, top))
    shown_rows = [row | _for_readers(row, *pair) for row, pair in zip(rows, pairs, strict=True)]
    print_rows(_columns(ranking, shown_rows), shown_rows, output)


def _columns(ranking: Ranking, rows: Sequence[Row]) -> list[Column]:
    """Return the columns for a reader: the objective with its range first, one for each figure that was asked for."""
    question, aim = ranking.question, ranking.question.aim
    names = [name for name in (*dict(aim.weights), *question.also) if aim.is_weighted or name != aim.name]
    asked = {*(MEASURES[name].column for name in names), *(slo.column for slo in question.slos)}
    figures = [*dict.fromkeys(_VALUES[name] for name in names if name in _VALUES), "concurrency", "ttft_ms", "itl_ms"]
    figures += [name for name in ("e2e_s", "requests_per_s") if name in asked]
    figures += columns_of(ranking)[len(COLUMNS) :]
    if any(row["lowest_opinion"] is not None for row in rows):
        figures += ["lowest_opinion", "highest_opinion"]
    found = [column_of("model"), Column("case", "workload"), Column("configuration", "configuration")]
    found += [
        a_figure("objective_value", aim.unit),
        a_figure("objective_low", "low (80 %)"),
        a_figure("objective_high", "high (80 %)"),
        a_figure("behind_best", "behind", lambda behind: f"{100 * behind:,.0f} %" if behind else "best"),
    ]
    found += [a_figure(name, name.replace("_", " ")) if "opinion" in name else column_of(name) for name in figures]
    found += map(column_of, ("output_tokens_per_s", "output_tokens_per_s_per_gpu"))
    if question.slos:
        found.append(a_figure("limits_met", f"limits met ({', '.join(map(limit, question.slos))})", percent))
    found += [a_figure("usd_per_gpu_hour", "USD/h per GPU"), Column("kind", "kind"), Column("trust", "trust")]
    return found + ([Column("remarks", "remarks")] if any(row["remarks"] for row in rows) else [])


def _for_readers(row: Row, group: Group, config: RankedConfig) -> dict[str, object]:
    """Return figures as they count, what the row rests on, and what must be known of it."""
    figures: dict[str, object] = {name: config.counted(name) for name in METRICS}
    tokens = config.counted("output_tokens_per_s")
    figures["output_tokens_per_s_per_gpu"] = None if tokens is None else tokens / config.num_gpus
    remarks = [name for name in ("interpolated", "queued") if row[name]]
    if config.assumed_tail is not None:
        remarks.append(f"percentiles assumed to be {config.assumed_tail:g} x the mean")
    if row["price_is_old"]:
        remarks.append("price over 180 days old")
    if config.cannot_start:
        remarks.append(f"deploy cannot write it: {config.cannot_start}")
    if row["caveats"] is not None:
        remarks.append(str(row["caveats"]))
    return figures | {
        "case": workload(group),
        "configuration": configuration(config, group.input_len, group.output_len),
        "kind": config.kind_label,
        "trust": trust(config).replace("\u00a0", " "),
        "remarks": ", ".join(remarks),
    }
