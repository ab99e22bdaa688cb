"""`gpuscout workloads`: the presets, what a workload is like, and a workload from recorded requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import count, list_by_default, print_json
from gpuscout.runner.cli.options import grouped
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_rows, whole_number
from gpuscout.sweeps.text import percent

if TYPE_CHECKING:
    from gpuscout.sweeps.traffic.trace import Trace
    from gpuscout.sweeps.workloads import Workload

workloads = typer.Typer(
    help="The workload presets, and workloads from recorded requests.", epilog="Example: gpuscout workloads show chat"
)

_SHARES = (0.5, 0.9, 0.95, 0.99)
_LENGTHS = ("input_len", "output_len")


def register(app: typer.Typer) -> None:
    list_by_default(workloads, list_workloads)
    app.add_typer(workloads, name="workloads", rich_help_panel="Catalogues")


@workloads.command("list", epilog="Example: gpuscout workloads list")
@grouped
def list_workloads(output: Output) -> None:
    """List the presets with their lengths and descriptions."""
    from gpuscout.sweeps.workloads import PRESETS

    rows = [
        {"name": w.name, "input_len": w.input_len, "output_len": w.output_len, "description": w.description}
        for w in PRESETS.values()
    ]
    if output.json:
        print_json({"workloads": rows})
        return
    columns = (
        Column("name", "workload"),
        a_figure("input_len", "input tokens", whole_number),
        a_figure("output_len", "output tokens", whole_number),
        Column("description", "stands for"),
    )
    print_rows(columns, rows, output)


@workloads.command("show", epilog="Example: gpuscout workloads show support --spec capacity.yaml")
@grouped
def show_workload(
    name: Annotated[str, typer.Argument(help="A preset, or a workload of --spec.")],
    output: Output,
    spec: Annotated[Path | None, typer.Option("--spec", help="A sweep spec that has the workload.")] = None,
) -> None:
    """Show the lengths and arrivals of a workload's requests."""
    workload = _workload(name, spec)
    traffic = workload.traffic.shape
    if output.json:
        document = {"name": workload.name, "input_len": workload.input_len, "output_len": workload.output_len}
        document |= {"description": workload.description, "tokens": _percentiles(workload), "traffic": traffic}
        print_json(document)
        return
    rows = [{"tokens": column.removesuffix("_len"), **figures} for column, figures in _percentiles(workload).items()]
    print_rows(_PERCENTILES, rows, output, title=f"{workload.name}: tokens of a request")
    if output.for_people:
        from gpuscout.runner.cli.show.wording import print_wrapped

        for line in (*_arrival_lines(workload), workload.description):
            if line:
                print_wrapped(line)


@workloads.command("from-trace", epilog="Example: gpuscout workloads from-trace traffic.jsonl --cache-tokens 500000")
@grouped
def from_trace(
    file: Annotated[Path, typer.Argument(help="Requests, JSON Lines or CSV: input_length, output_length, timestamp.")],
    output: Output,
    name: Annotated[str, typer.Option("--name", help="Name of the workload.")] = "trace",
    cache_tokens: Annotated[
        int | None, typer.Option("--cache-tokens", min=1, help="Tokens a prefix cache holds; else it never forgets.")
    ] = None,
    bins: Annotated[int, typer.Option("--bins", min=1, max=1000, help="Bins of each length in the workload.")] = 20,
) -> None:
    """Describe recorded requests and write a workload from them."""
    from gpuscout.sweeps.traffic.trace import read_trace

    trace = read_trace(file)
    found = _of_trace(trace, cache_tokens)
    entry = _binned(trace, name, found["cached_input"], bins)
    if output.json:
        print_json({**found, "workload": entry})
        return
    rows = [{"tokens": column.removesuffix("_len"), **_figures(getattr(trace, column))} for column in _LENGTHS]
    print_rows(_PERCENTILES, rows, output, title=f"{file}: {count(len(trace), 'request')}")
    if not output.for_people:
        return
    import yaml

    from gpuscout.runner.cli.show.wording import print_wrapped

    for line in _trace_lines(found, cache_tokens):
        print_wrapped(line)

    print("\nworkloads:")
    print(yaml.safe_dump([entry], sort_keys=False, default_flow_style=None, width=100), end="")


_PERCENTILES = (
    Column("tokens", "tokens"),
    a_figure("mean", "mean", "{:,.0f}".format),
    *(a_figure(f"p{100 * share:g}", f"p{100 * share:g}", whole_number) for share in _SHARES),
    a_figure("longest", "longest", whole_number),
)


def _workload(name: str, spec: Path | None) -> Workload:
    from gpuscout.sweeps.errors import UnknownNameError, nearest
    from gpuscout.sweeps.spec.spec import load_spec
    from gpuscout.sweeps.workloads import resolve_workload

    if spec is None:
        return resolve_workload(name)
    there = {workload.name: workload for workload in load_spec(spec).workloads}
    if name not in there:
        raise UnknownNameError("workload", name, nearest(name, there), hint=f"{spec} has {', '.join(there)}")
    return there[name]


def _percentiles(workload: Workload) -> dict[str, dict[str, float]]:
    import numpy as np

    from gpuscout.sweeps.traffic.trace import Trace

    percentiles: dict[str, dict[str, float]] = {}
    for column in _LENGTHS:
        varied = getattr(workload.traffic, column)
        if isinstance(workload.traffic.trace, Trace):
            percentiles[column] = _figures(getattr(workload.traffic.trace, column))
        elif varied is None:
            length = getattr(workload, column)
            percentiles[column] = {
                "mean": length,
                **{f"p{100 * share:g}": length for share in _SHARES},
                "longest": length,
            }
        else:
            at = varied.quantiles(np.array(_SHARES)).tolist()
            shares = {f"p{100 * share:g}": length for share, length in zip(_SHARES, at, strict=True)}
            percentiles[column] = {"mean": varied.mean, **shares, "longest": varied.longest}
    return percentiles


def _figures(lengths: Any) -> dict[str, float]:
    import numpy as np

    at = np.quantile(lengths, _SHARES, method="inverted_cdf").tolist()
    shares = {f"p{100 * share:g}": length for share, length in zip(_SHARES, at, strict=True)}
    return {"mean": float(lengths.mean()), **shares, "longest": int(lengths.max())}


def _arrival_lines(workload: Workload) -> list[str]:
    from gpuscout.sweeps.traffic.trace import Trace

    traffic = workload.traffic
    lines = []
    if traffic.cached_input:
        lines.append(f"cached: {percent(traffic.cached_input)} of every prompt")
    if traffic.arrivals is not None:
        named = traffic.arrivals.as_given()
        bursts = f"gamma, times between requests vary by {traffic.arrivals.cv:g} of their mean"
        lines.append(f"arrivals: {named if isinstance(named, str) else bursts}")
    if isinstance(trace := traffic.trace, Trace):
        rate = "no times" if trace.request_rate is None else f"{trace.request_rate:.3g} requests/s"
        lines.append(f"trace: {count(len(trace), 'request')}, {rate}, digest {trace.digest}")
    return lines


def _of_trace(trace: Trace, cache_tokens: int | None) -> dict[str, Any]:
    cached = trace.cached_share(cache_tokens) if trace.hash_ids is not None else None
    return {
        "requests": len(trace),
        "seconds": trace.seconds,
        "requests_per_hour": None if trace.request_rate is None else 3600 * trace.request_rate,
        "arrival_cv": trace.arrival_cv,
        "cached_input": None if cached is None else round(cached, 4),
        "cache_tokens": cache_tokens,
        "digest": trace.digest,
    }


def _trace_lines(found: dict[str, Any], cache_tokens: int | None) -> list[str]:
    if found["requests_per_hour"] is None:
        lines = ["rate: the file has no times"]
    else:
        lines = [
            f"rate: {found['requests_per_hour']:,.0f} requests/hour; times between requests vary by "
            f"{found['arrival_cv']:.2f} of their mean (0: constant, 1: Poisson, more: bursts)"
        ]
    cache = "an unbounded cache" if cache_tokens is None else f"a cache of {cache_tokens:,} tokens"
    if found["cached_input"] is None:
        lines.append("cached: the file has no hash_ids, so what a prefix cache would find is not known")
    else:
        lines.append(f"cached: {percent(found['cached_input'])} of all prompt tokens would be in {cache}")
    return lines


def _binned(trace: Trace, name: str, cached: float | None, bins: int) -> dict[str, Any]:
    """Return a workload of a spec with the same lengths in bins of equally many requests, each at its mean."""
    import numpy as np

    entry: dict[str, Any] = {"name": name}
    for column in _LENGTHS:
        ordered = np.sort(getattr(trace, column))
        counts: dict[int, int] = {}
        for part in np.array_split(ordered, min(bins, len(ordered))):
            length = max(round(float(part.mean())), 1)
            counts[length] = counts.get(length, 0) + len(part)
        entry[column] = {"histogram": [[length, count] for length, count in sorted(counts.items())]}
    if cached:
        entry["cached_input"] = cached
    if trace.arrival_cv is not None:
        entry["arrivals"] = {"gamma": {"cv": round(trace.arrival_cv, 2)}}
    return entry
