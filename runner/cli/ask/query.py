"""`gpuscout query`: operating points of the store, filtered and sorted; or the tuning advice of llm-optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, count, err, open_store, print_json, print_table
from gpuscout.runner.cli.options import DeploymentRate, Filters, PriceOptions, SloOptions, grouped
from gpuscout.runner.cli.show.output import Column, Output, print_json_rows, print_rows
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from gpuscout.store.queries.operating_points.points import PointReader

_DEFAULT_LIMIT = 20
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="A,B,C", help="These columns, in this order; see --list-columns.")
]
AllVersions = Annotated[
    bool,
    typer.Option("--all-versions", help="Include answers that newer versions of an engine, model or GPU replaced."),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw it too: FILE.png, FILE.svg or FILE.html.")
]


class Show(StrEnum):
    POINTS = "points"
    TUNING = "tuning"  # what llm-optimizer reports beside operating points


class Latency(StrEnum):
    ITL = "itl"
    TTFT = "ttft"
    E2E = "e2e"
    INTERACTIVITY = "interactivity"


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout query --model Qwen/Qwen3-32B --slo 'itl<=30ms' --sort -output_tokens_per_s_per_gpu"
    app.command("query", rich_help_panel="Sweeps", epilog=example)(query)


@grouped
def query(
    filters: Filters,
    limits: SloOptions,
    prices: PriceOptions,
    output: Output,
    show: Annotated[
        Show, typer.Option("--show", help="tuning: concurrency limits, roofline and commands of llm-optimizer.")
    ] = Show.POINTS,
    columns: Columns = None,
    sort: Annotated[
        list[str] | None, typer.Option("--sort", metavar="COLUMN", help="-COLUMN sorts descending; repeat for more.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows to show; 0: all.")] = _DEFAULT_LIMIT,
    offset: Annotated[
        int, typer.Option("--offset", min=0, help="Rows to leave out before these: the next page of a list.")
    ] = 0,
    all_versions: AllVersions = False,
    list_columns: Annotated[bool, typer.Option("--list-columns", help="List all columns.")] = False,
    plot: Plot = None,
    latency: Annotated[Latency, typer.Option("--latency", help="Latency axis of --plot.")] = Latency.ITL,
    rate: DeploymentRate = None,
    db: Db = DEFAULT_STORE,
) -> None:
    """Show operating points of the store, estimated and measured. Computes nothing.

    --plot draws throughput over latency: for each GPU type the best that any of its configurations can do.
    """
    if list_columns:
        _print_columns(output)
        return
    from gpuscout.store.queries.operating_points.points import PointReader
    from gpuscout.store.queries.reports import reported

    if plot is not None:
        from gpuscout.runner.cli.plots.files import check_plot

        check_plot(plot)
    if show is Show.TUNING and (columns or sort or plot):
        raise InputError("--columns, --sort and --plot are about operating points, not --show tuning")
    question = replace(limits.limited(filters.question()), request_rate=rate)
    with open_store(db) as store, store.reading() as connection:
        if show is Show.TUNING:
            _print_tuning(reported(connection, question, show.value), limit or None, output)
            return
        question = prices.of(question, connection)
        reader = PointReader(connection, question, all_versions=all_versions)
        _print_points(reader, columns, sort or [], Page(offset, limit or None), output)
        if plot is not None:
            _plot_curves(reader, plot, latency)


# --- operating points --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """A part of a list: `limit` rows from row `offset` on; None: all of them."""

    offset: int
    limit: int | None

    @property
    def end(self) -> int | None:
        return None if self.limit is None else self.offset + self.limit


def _print_points(reader: PointReader, given: str | None, sort: list[str], page: Page, output: Output) -> None:
    from gpuscout.runner.cli.show.fitted import bare_names
    from gpuscout.runner.cli.show.points import (
        DROP,
        chosen,
        column_of,
        distinguishing,
        limits_document,
        price_remarks,
        ranged_row,
        with_range,
    )
    from gpuscout.runner.cli.show.wording import assumed, print_wrapped
    from gpuscout.store.queries.operating_points.point_columns import ends_of

    names = chosen(given, output, slos=reader.question.slos)
    ends = [] if given else ends_of(["usd_per_mtok", *(by.lstrip("-") for by in sort)])
    fetched = list(dict.fromkeys([*names, *ends]))
    # One more than is shown tells whether there are more.
    rows = _some(reader, reader.rows(fetched, sort=sort, limit=None if page.end is None else page.end + 1))
    shown = islice(rows, page.offset, page.end)
    if output.json:
        head = {
            "sort": sort,
            "limit": page.limit,
            "offset": page.offset,
            **limits_document(reader.question),
            "caveats": reader.caveats,
        }
        print_json_rows(head, "points", shown)
    else:
        if not output.for_people:
            print_rows([column_of(name) for name in fetched], shown, output)
        else:
            held = list(shown)
            if given:
                print_rows([column_of(name) for name in names], held, output)
            elif held:
                short = bare_names({row["model"] for row in held})
                ranged = [{**ranged_row(row), "model": short[row["model"]]} for row in held]
                columns = [with_range(column_of(name), held[0], named=False) for name in distinguishing(names, held)]
                print_rows(columns, ranged, output, drop=DROP)
                print_wrapped(f"{', '.join(sorted({row['kind'] for row in held}))}; in brackets 80 % ranges")
            for remark in price_remarks(reader.prices, held) if "usd_per_mtok" in names else ():
                print(remark)
            if page.offset and not held:
                err().print(f"fewer than {page.offset + 1:,} points match: --offset leaves out all of them")
            for caveat in chain.from_iterable(reader.caveats.values()):
                print_wrapped(f"note: {caveat}")
            if (note := assumed(reader.question)) is not None:
                print_wrapped(note)
    if next(rows, None) is not None:
        first = (
            f"points {page.offset + 1:,} to {page.end:,}"
            if page.offset
            else f"the first {count(page.end or 0, 'point')}"
        )
        err().print(f"{first}; --offset {page.end} goes on, --limit shows more (0: all), --sort and filters others")


def _some(reader: PointReader, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the rows. Raises InputError where there are none, and not because of a limit on latency or rate."""
    from gpuscout.runner.cli.show.wording import none_meets

    first = next(rows, None)
    if first is not None:
        return chain([first], rows)
    reader.check_any()
    err().print(none_meets(reader.question), soft_wrap=True)
    return iter(())


def _plot_curves(reader: PointReader, file: Path, latency: Latency) -> None:
    from gpuscout.runner.cli.plots.curves import COLUMNS, curves
    from gpuscout.runner.cli.plots.files import save
    from gpuscout.store.queries.operating_points.pareto import metric_of

    metric = metric_of(latency.value)
    save(curves(reader.rows([*COLUMNS, metric.column]), metric), file)
    err().print(f"drawn: {file}", soft_wrap=True)


def _print_columns(output: Output) -> None:
    from gpuscout.store.queries.operating_points.points import COLUMNS

    rows: Iterable[dict[str, Any]] = [{"name": name, "meaning": about[1]} for name, about in COLUMNS.items()]
    rows = [
        *rows,
        {"name": "p95_ttft_ms", "meaning": "a percentile of ttft_ms, itl_ms or e2e_s, measured or simulated"},
        {"name": "itl_ms_low", "meaning": "with _low or _high: an end of an estimate's 80 % interval, of any figure"},
    ]
    if output.json:
        print_json({"columns": rows})
        return
    print_rows([Column("name", "column", whole=True), Column("meaning", "meaning")], rows, output)


# --- tuning advice -----------------------------------------------------------------------------------------------


def _print_tuning(everything: list[dict[str, Any]], limit: int | None, output: Output) -> None:
    """Print a table of what limits each configuration, then its commands, one a line to copy."""
    found = everything[:limit]
    if output.json:
        print_json({Show.TUNING.value: found, "tasks": len(everything)})
        return
    if not output.for_people:
        raise InputError("--show tuning has no rows for --csv and --md", hint="--json holds all of it")
    figures = ["KV cache", "prefill", "decode", "overall", "suggested"]
    names = ["kv_cache_limit", "prefill_compute_limit", "decode_capacity_limit", "overall_limit", "empirical_optimum"]
    print_table(
        ["model", "GPUs", "precision", "in / out", *figures],
        [
            [
                task["model"],
                f"{task['gpu']} x{task['num_gpus']}",
                task["precision"],
                f"{task['input_len']:,} / {task['output_len']:,}",
                *(task.get("concurrency", {}).get(name) for name in names),
            ]
            for task in found
        ],
        title="requests in flight that each resource allows, in the engine's opinion",
        right=figures,
    )
    for task in found:
        print(f"\n{task['model']} on {task['gpu']} x{task['num_gpus']}, {task['precision']}, {task['engine']}")
        for framework, levels in task["tuning"].items():
            # Stored in the order of the alphabet; the simple commands come first.
            for level in sorted(levels, reverse=True):
                print(f"  {framework}, {level}:")
                for command in levels[level]:
                    print(f"    {command}")
    if len(everything) > len(found):
        err().print(f"{len(found)} of {count(len(everything), 'task')}: --limit shows more, filters choose others")
