"""Printing of measured runs that are far from their estimates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gpuscout.runner.cli.common import count, print_json
from gpuscout.runner.cli.show.output import Column, Output, a_figure, number, print_rows
from gpuscout.sweeps.names import bare

if TYPE_CHECKING:
    from gpuscout.runner.accuracy.report import AccuracyReport
    from gpuscout.runner.accuracy.worst import Outlier

_HEADINGS = {"ttft_ms": "TTFT ms", "itl_ms": "ITL ms", "output_tokens_per_s": "tok/s"}
_NAMED = 3  # files that are named in one line

_TABLE = (
    Column("file", "file"),
    Column("model", "model", show=bare),
    Column("configuration", "configuration"),
    a_figure("concurrency", "c", "{:,}".format),
    Column("metric", "figure", show=_HEADINGS.__getitem__, whole=True),
    a_figure("measured", "measured"),
    a_figure("estimated", "estimated"),
    a_figure("factor", "off by", lambda factor: f"{number(factor)}x"),
    Column("outside_interval", "80 % interval", show=lambda outside: "outside" if outside else "within", unknown="-"),
)
_ALL = (
    *_TABLE[:1], Column("run", "run"), *_TABLE[1:], Column("implausible", "implausible"), Column("engine", "engine"),
    Column("source", "source"),
)  # fmt: skip
_DROP = ("estimated", "outside_interval", "model", "concurrency")


def print_worst(reports: Sequence[AccuracyReport], most: int, output: Output) -> None:
    """Print the runs furthest from the estimates of every engine, so many of each."""
    from gpuscout.runner.accuracy.worst import outliers
    from gpuscout.runner.cli.show.wording import print_wrapped

    found = [(one, outliers(one.estimates, one.trust)) for one in reports]
    rows = [{"engine": one.engine} | outlier_row(outlier) for one, all_of_it in found for outlier in all_of_it[:most]]
    if output.json:
        print_json({"worst": rows})
        return
    print_rows(_TABLE if output.for_people else _ALL, rows, output, drop=_DROP)
    if not output.for_people:
        return
    for one, all_of_it in found:
        far = sum(outlier.factor > 2 for outlier in all_of_it)
        outside = sum(outlier.outside is True for outlier in all_of_it)
        summary = (
            f"{one.engine}: {far:,} of {count(len(all_of_it), 'run')} over 2x off, {outside:,} outside its interval"
        )
        print_wrapped(summary + ("; a fifth of all are to be expected there" if outside else ""))
    for row in rows:
        if row["implausible"]:
            print_wrapped(f"implausible: {row['file']}: {row['implausible']}")


def far_off(found: Sequence[Outlier]) -> str:
    """Return text such as "3 runs are over 2x off the estimate: a.json (TTFT ms 5.1x), …" """
    runs = "1 run is" if len(found) == 1 else f"{len(found):,} runs are"
    named = ", ".join(
        f"{outlier.file} ({_HEADINGS[outlier.metric]} {number(outlier.factor)}x)" for outlier in found[:_NAMED]
    )
    more = " …; gpuscout accuracy --worst 20 lists them" if len(found) > _NAMED else ""
    return f"{runs} over 2x off the estimate: {named}{more}"


def outlier_row(outlier: Outlier) -> dict[str, Any]:
    """Return one run for machines."""
    run = outlier.run
    return {
        "file": outlier.file,
        "run": run.details.get("run") or run.details.get("label"),
        "source": run.source,
        "model": run.model,
        "configuration": " ".join(_settings(outlier)),
        "gpu": run.gpu,
        "num_gpus": run.num_gpus,
        "precision": run.precision.value,
        "server": run.server,
        "server_version": run.server_version,
        "input_len": run.input_len,
        "output_len": run.output_len,
        "concurrency": run.concurrency,
        "metric": outlier.metric,
        "measured": outlier.measured,
        "estimated": outlier.estimated,
        "ratio": outlier.ratio,
        "factor": outlier.factor,
        "outside_interval": outlier.outside,
        "implausible": run.implausible,
    }


def _settings(outlier: Outlier) -> Iterable[str]:
    run = outlier.run
    yield f"{run.gpu} x{run.num_gpus}"
    sizes = {"tp": run.tp, "pp": run.pp, "dp": run.dp, "ep": run.ep}
    if run.tp != run.num_gpus or run.ep > 1:
        yield from (f"{name}{size}" for name, size in sizes.items() if size > 1)
    yield run.precision.value
    if run.server != "vllm":
        yield run.server
    yield f"{run.input_len}/{run.output_len}"
