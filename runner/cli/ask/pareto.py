"""`gpuscout pareto`: the Pareto-optimal operating points of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.ask.query import AllVersions, Columns, Plot
from gpuscout.runner.cli.common import DEFAULT_STORE, Db, count, err, open_store
from gpuscout.runner.cli.options import DeploymentRate, Filters, PriceOptions, SloOptions, grouped
from gpuscout.runner.cli.show.document import picked
from gpuscout.runner.cli.show.output import Column, Output, print_json_rows, print_rows, yes_or_no

if TYPE_CHECKING:
    from gpuscout.store.queries.operating_points.pareto import Front, Pareto
    from gpuscout.store.ranking.question.asked import Question

_DEFAULT_METRICS = "cost,interactivity"
# Of the columns of a table these are told above it, or are metrics.
_ABOVE = ("model", "input_len", "output_len", "ttft_ms", "itl_ms", "usd_per_mtok")


# What groups, plots and remarks need.
_ALWAYS = (
    "kind", "model", "workload", "input_len", "output_len", "gpu", "num_gpus", "precision", "server", "concurrency",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout pareto --metrics cost,ttft,itl --workload chat --slo 'ttft<=1s' --plot frontier.svg"
    app.command("pareto", rich_help_panel="Sweeps", epilog=example)(pareto)


@grouped
def pareto(
    filters: Filters,
    limits: SloOptions,
    prices: PriceOptions,
    output: Output,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            metavar="A,B[,C]",
            help="Two or three of cost, cost-per-hour, throughput, throughput-per-gpu, ttft, itl, e2e, interactivity "
            "(1000 / ITL), rate, energy and num-gpus; the first sorts.",
        ),
    ] = _DEFAULT_METRICS,
    across: Annotated[bool, typer.Option("--across", help="One frontier over all models and workloads.")] = False,
    dominated: Annotated[bool, typer.Option("--all", help="Include dominated points, marked as such.")] = False,
    queued: Annotated[
        bool, typer.Option("--queued", help="Include points with more requests in flight than the KV cache holds.")
    ] = False,
    columns: Columns = None,
    all_versions: AllVersions = False,
    plot: Plot = None,
    rate: DeploymentRate = None,
    db: Db = DEFAULT_STORE,
) -> None:
    """Show the Pareto frontier of each model and workload.

    Computes nothing. A point is dominated if another is at least as good in all metrics and better in one; figures
    equal to six decimals are equal, and equal points are all kept.
    """
    from gpuscout.runner.cli.show.points import TABLE, chosen, column_of, limits_document, price_remarks
    from gpuscout.runner.cli.show.wording import assumed, none_meets, print_wrapped
    from gpuscout.store.queries.operating_points.pareto import metric_of
    from gpuscout.store.queries.operating_points.pareto import pareto as frontiers
    from gpuscout.store.results.catalogues import caveats_of

    if plot is not None:
        from gpuscout.runner.cli.plots.files import check_plot

        check_plot(plot)
    axes = [metric_of(name) for name in metrics.split(",")]
    question = replace(limits.limited(filters.question()), request_rate=rate)
    names = chosen(
        columns,
        output,
        [name for name in TABLE if name not in _ABOVE and not name.startswith("output_tokens")],
        slos=question.slos,
    )
    with open_store(db) as store, store.reading() as connection:
        question = prices.of(question, connection)
        found = frontiers(
            connection,
            question,
            [axis.name for axis in axes],
            columns=list(dict.fromkeys([*names, *_ALWAYS])),
            across=across,
            dominated=dominated or plot is not None,
            queued=queued,
            all_versions=all_versions,
        )
        caveats = caveats_of(connection, {front.model for front in found.fronts if front.model is not None})
    ranges = found.range_columns
    if not found.fronts:
        err().print(none_meets(question), soft_wrap=True)
    if plot is not None:
        from gpuscout.runner.cli.plots.files import save
        from gpuscout.runner.cli.plots.frontier import frontier

        # First, for it may refuse: nothing is printed then.
        save(frontier(found, question.slos, _caption(found, question)), plot)
    if output.json:
        document = {
            "metrics": [picked(axis, "name", "column", "unit", "more_is_better") for axis in found.metrics],
            "across": across,
        }
        document |= {**limits_document(question), "caveats": caveats}
        print_json_rows(document, "points", _rows(found, ["kind", *names, "dominated", "backed", *ranges], dominated))
    elif output.for_people:
        for front in found.fronts:
            _print(found, front, names, dominated=dominated, across=across, whole=columns is not None)
        if found.prices is not None:
            for remark in price_remarks(found.prices, [{"gpu": gpu} for gpu in found.prices.missing]):
                print(remark)
        for caveat in chain.from_iterable(caveats.values()):
            print_wrapped(f"note: {caveat}")
        if (note := assumed(question)) is not None:
            print_wrapped(note)
    else:
        axes_shown = (a.column for a in found.metrics)
        shown = list(dict.fromkeys(["model", "input_len", "output_len", "kind", *names, *axes_shown]))
        ends = [name for name in ranges if name not in shown]
        rows = _rows(found, [*shown, "dominated", *ends, "backed"], dominated)
        backed = Column("backed", "backed", yes_or_no)
        print_rows([*_columns(shown, dominated), *map(column_of, ends), backed], rows, output)
    if plot is not None:
        err().print(f"drawn: {plot}", soft_wrap=True)


def _caption(found: Pareto, question: Question) -> list[str]:
    """Return the question, the prices and who drew it when, for below a plot."""
    from datetime import UTC, datetime

    from gpuscout import __version__
    from gpuscout.runner.cli.plots.frontier import named_gpus
    from gpuscout.runner.cli.show.wording import assumed, limit

    limits = ", ".join(map(limit, question.slos))
    asked = [f"limits: {limits} (dashed where on an axis)" if limits else "no limits", assumed(question)]
    if found.prices is not None:
        known = found.prices.known
        note = [f"{gpu} {known[gpu].per_hour(1).usd:.2f}" for gpu in named_gpus(found) if gpu in known]
        asked.append(f"prices: USD per GPU hour, {question.prices.purchase}, median of providers: {', '.join(note)}")
    asked.append(f"gpuscout {__version__}, {datetime.now(UTC):%Y-%m-%d}")
    return [line for line in asked if line]


def _rows(found: Pareto, names: list[str], dominated: bool) -> Any:
    points = chain.from_iterable(front.points for front in found.fronts)
    axes = [axis.column for axis in found.metrics]
    wanted = list(dict.fromkeys([*names, *axes]))
    return ({name: point[name] for name in wanted} for point in points if dominated or not point["dominated"])


def _columns(names: list[str], dominated: bool) -> list[Column]:
    from gpuscout.runner.cli.show.points import column_of

    marks = [Column("dominated", "dominated", yes_or_no)] if dominated else []
    return [*map(column_of, names), *marks]


def _kinds(kinds: Sequence[str]) -> str:
    """Return text such as "estimated, simulated p95 and measured"; what some are besides, with how many of them."""
    texts = []
    for kind in sorted({kind.partition(", ")[0] for kind in kinds}):
        own = [one.split(", ")[1:] for one in kinds if one.partition(", ")[0] == kind]
        words = [kind]
        for more, number in Counter(chain.from_iterable(own)).items():
            words.append(more if number == len(own) else f"{number:,} of {len(own):,} {more}")
        texts.append(", ".join(words))
    return " and ".join(texts)


def _print(found: Pareto, front: Front, names: list[str], *, dominated: bool, across: bool, whole: bool) -> None:
    """Print one group: its name, its frontier, and what was left out."""
    from gpuscout.runner.cli.show.fitted import short_gpu
    from gpuscout.runner.cli.show.points import DROP, distinguishing, ranged_row, with_range
    from gpuscout.runner.cli.show.wording import DOUBTS, UNMEASURED, print_wrapped
    from gpuscout.sweeps.traffic.words import traffic_words

    title = "all models and workloads"
    if front.model is not None:
        lengths = ", ".join([f"{front.input_len:,} in / {front.output_len:,} out", *traffic_words(front.traffic)])
        title = f"{front.model}, {f'{front.workload} ({lengths})' if front.workload else lengths}"
    shown = [point for point in front.points if dominated or not point["dominated"]]
    best = sum(not point["dominated"] for point in shown)
    by = ", ".join(
        f"{axis.label} ({axis.unit})" if axis.unit not in axis.label else axis.label for axis in found.metrics
    )
    print_wrapped(title)
    kinds = _kinds([point["kind"] for point in shown])
    print_wrapped(f"{best:,} of {count(front.considered, 'point')} on the frontier of {by}; {kinds}", indent=2)
    lead = ["model", "input_len", "output_len"] if across else []
    note = names if whole else distinguishing(names, shown)
    columns = list(dict.fromkeys([*lead, *note, *(axis.column for axis in found.metrics)]))
    if shown:
        doubtful = not all(point["backed"] for point in shown)
        rows = [ranged_row(point if whole else point | {"gpu": short_gpu(point["gpu"])}) for point in shown]
        headed = [with_range(column, rows[0]) for column in _columns(columns, dominated)]
        if doubtful:
            mark = Column("backed", "", lambda backed: "" if backed else UNMEASURED)
            headed.insert(columns.index("gpu") + 1 if "gpu" in columns else 0, mark)
        print_rows(headed, rows, Output(), drop=() if whole else DROP)
        if doubtful:
            print(f"{UNMEASURED} {DOUBTS[UNMEASURED]}")
    out = [(front.queued, "wait for memory (--queued)"), (front.incomplete, "lack one of the figures")]
    left = "; ".join(f"{number:,} {reason}" for number, reason in out if number)
    if left:
        print_wrapped(f"left out: {left}")
    print()
