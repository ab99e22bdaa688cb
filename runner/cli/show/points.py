"""Rows of operating points as output, and the columns of `query` and `pareto`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from gpuscout.runner.cli.show.certainty import ranged
from gpuscout.runner.cli.show.output import Column, Output, a_figure, number, whole_number, yes_or_no
from gpuscout.store.prices.prices import Prices
from gpuscout.store.queries.operating_points.point_columns import COLUMNS, PERCENTILE, RANGES, ends_of
from gpuscout.store.queries.operating_points.points import check_column
from gpuscout.store.ranking.question.asked import Kind, Question
from gpuscout.sweeps.settings import PARALLELISM, STARTED
from gpuscout.sweeps.slo import Slo
from gpuscout.sweeps.speculative import speculative_from
from gpuscout.sweeps.text import percent

# What a table holds unless columns are chosen; machines get everything.
TABLE = (
    "model", "gpu", "num_gpus", *PARALLELISM, "precision", "kv_precision", "server", *STARTED, "engine", "kind",
    "input_len", "output_len", "request_rate", "concurrency", "queued", "approximate", "ttft_ms", "itl_ms",
    "output_tokens_per_s", "output_tokens_per_s_per_gpu", "usd_per_mtok",
)  # fmt: skip
DROP = ("output_tokens_per_s", "ttft_ms", "kv_precision", "output_len", "input_len", "precision", "engine", "queued")
# Only worth their room where they tell rows apart.
_DETAILS = {
    *PARALLELISM, "kv_precision", "server", "engine", "kind", "queued", "request_rate",
}  # fmt: skip

_tenths = partial(percent, places=1)
_HEADINGS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "input_len": ("in", whole_number),
    "output_len": ("out", whole_number),
    "num_gpus": ("GPUs", whole_number),
    "tensor_parallel": ("TP", whole_number),
    "pipeline_parallel": ("PP", whole_number),
    "data_parallel": ("DP", whole_number),
    "expert_parallel": ("EP", whole_number),
    "gpu_memory_utilization": ("memory", "{:g}".format),
    "max_model_len": ("context", whole_number),
    "concurrency": ("c", whole_number),
    "ttft_ms": ("TTFT ms", number),
    "itl_ms": ("ITL ms", number),
    "e2e_s": ("E2E s", number),
    "output_tokens_per_s": ("tok/s", number),
    "requests_per_s": ("req/s", number),
    "output_tokens_per_s_per_gpu": ("tok/s/GPU", number),
    "output_tokens_per_s_per_user": ("tok/s/user", number),
    "usd_per_hour": ("USD/h", number),
    "usd_per_mtok": ("USD/Mtok", number),
    "kwh_per_mtok": ("kWh/Mtok", number),
    "task_id": ("task", str),
    "run_id": ("run", str),
    "request_rate": ("driven at req/s", number),
    "requests_waiting": ("waiting", number),
    "kv_cache_usage": ("KV held", _tenths),
    "preempted_share": ("preempted", _tenths),
    "goodput_per_s": ("goodput/s", number),
}
_WORDS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "gpu": ("GPU", str),
    "kv_precision": ("KV", str),
    "speculative": ("drafts", lambda text: speculative_from(text).short),
    "queued": ("queued", yes_or_no),
    "approximate": ("model guessed", yes_or_no),
    "stored_at": ("stored", lambda time: f"{time:%Y-%m-%d %H:%M} UTC"),
    "server_version": ("server version", str),
    "measured_on": ("measured", str),
}


def column_of(name: str) -> Column:
    """Return the format of a column of points."""
    if form := PERCENTILE.fullmatch(name):
        return a_figure(name, f"p{form['percentile']} {_HEADINGS[form['metric']][0]}")
    if name in _HEADINGS:
        return a_figure(name, *_HEADINGS[name])
    if name in RANGES:
        figure, end = RANGES[name]
        return a_figure(name, f"{column_of(figure).heading} {end} (80 %)")
    return Column(name, *_WORDS.get(name, (name.replace("_", " "), str)))


def with_range(column: Column, row: Mapping[str, Any], *, named: bool = True) -> Column:
    """Return the column of a figure with its range where rows hold one (`ranged_row`), which `named` says."""
    if f"{column.name}_low" not in row:
        return column
    return a_figure(column.name, f"{column.heading} (80 % range)" if named else column.heading, str)


def ranged_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a row with their ranges: "0.53 (0.33–0.86)", "0.53 (measured)", "0.53 (unknown)"."""

    found = dict(row)
    for name in RANGES:
        column, end = RANGES[name]
        if end == "low" and name in row:
            ends = (row[name], row[f"{column}_high"])
            found[column] = ranged(row[column], None if None in ends else ends, Kind(row["kind"].split(",")[0]))
    return found


def chosen(given: str | None, output: Output, default: Sequence[str] = TABLE, *, slos: Sequence[Slo] = ()) -> list[str]:
    """Return the columns of `--columns`, or else those that suit the output and the limits. Raises UnknownNameError."""
    if given is not None:
        return list(dict.fromkeys(check_column(name.strip()) for name in given.split(",")))
    tails = [slo.figure for slo in slos if slo.percentile is not None]
    # The ends of a range stand behind its figure.
    if not (output.json or output.csv):
        return list(dict.fromkeys([*default, *tails]))
    return list(dict.fromkeys(part for name in (*COLUMNS, *tails) for part in (name, *ends_of([name]))))


def distinguishing(names: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of a table without details that all rows share and marks that no row has."""
    rare = ("approximate", *STARTED)
    names = [name for name in names if name not in rare or any(row[name] for row in rows)]
    return [name for name in names if name not in _DETAILS or len({row[name] for row in rows}) > 1]


def limits_document(question: Question) -> dict[str, object]:
    """Return the limits that points met, as JSON types."""
    return {"slos": [str(slo) for slo in question.slos], "assumed_tail": question.assume_tail}


def price_remarks(prices: Prices, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the reasons why GPUs of these rows have no price."""
    gpus: dict[str, list[str]] = defaultdict(list)
    for gpu in sorted({row["gpu"] for row in rows if row.get("gpu") in prices.missing}):
        gpus[prices.missing[gpu]].append(gpu)
    return [f"no price of {', '.join(names)}: {reason}" for reason, names in gpus.items()]
