"""Reading an inventory and printing what it can serve: one line a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuscout.runner.cli.common import count, print_json
from gpuscout.runner.cli.show.output import Column, Output, a_figure, number, print_rows, whole_number
from gpuscout.runner.cli.show.wording import caveats_of, configuration, print_aside, print_wrapped
from gpuscout.store.queries.placements.inventory import Served
from gpuscout.sweeps.errors import UnknownNameError, nearest
from gpuscout.sweeps.names import bare

_LISTED = 6


def read_inventory(texts: Iterable[str], gpu_file: Path | None = None) -> dict[str, int]:
    """Read "A100-40GB=16" or files with such lines as GPUs by canonical name. Raises InputError, UnknownNameError."""
    from gpuscout.runner.resolve.fleet import read_fleet  # which `recommend` without --have does not need

    found: dict[str, int] = {}
    for pool in read_fleet(texts, gpu_file).nodes:
        found[pool.gpu] = found.get(pool.gpu, 0) + pool.gpus
    return found


_TABLE = (
    Column("model", "model", show=bare),
    Column("workload", "workload", whole=True),
    Column("configuration", "configuration", unknown="-"),
    a_figure("replicas", "replicas", whole_number),
    a_figure("concurrency", "users", whole_number),
    a_figure("output_tokens_per_s", "tok/s"),
    Column("range", "80 %", unknown="-", whole=True),
    a_figure("ttft_ms", "TTFT ms"),
    a_figure("itl_ms", "ITL ms"),
    Column("trust", "trust", whole=True),
)
_DROP = ("trust", "ttft_ms", "itl_ms", "workload")
SORTS = tuple(column.name for column in _TABLE if column.name not in ("workload", "range"))


def print_inventory(found: Sequence[Served], inventory: Mapping[str, int], output: Output, *, sort: str | None) -> None:
    """Print the deployments an inventory serves, sorted by a column (descending with "-"); by default by tokens/s."""

    short = output.for_people and len(inventory) == 1  # the heading names it
    rows = _sorted([_row(one, gpu=not short) for one in found if one.shares], sort)
    out = [one.group.model for one in found if not one.shares]
    caveats = caveats_of(one.group for one in found)
    if output.json:
        print_json({"inventory": dict(inventory), "served": rows, "not_served": out, "caveats": caveats})
        return
    if not output.for_people:
        figures = [Column("tokens_low", "tok/s low"), Column("tokens_high", "tok/s high"), Column("gpus", "GPUs")]
        print_rows([*(column for column in _TABLE if column.name != "range"), *figures], rows, output)
        print_aside(caveats)
        return
    owned = ", ".join(f"{number_of} x {gpu}" for gpu, number_of in inventory.items())
    print_wrapped(f"{owned}: each model as if it had all of them; users are requests in flight")
    one_workload = ("workload",) if len({row["workload"] for row in rows}) <= 1 else ()
    columns = [column for column in _TABLE if column.name not in one_workload]
    print_rows(columns, rows, output, drop=_DROP)
    if out:
        more = f" and {count(len(out) - _LISTED, 'more')[:-1]}" if len(out) > _LISTED else ""
        print_wrapped(f"not served within the limits: {', '.join(map(bare, out[:_LISTED]))}{more} (--json lists all)")
    for caveat in caveats:
        print_wrapped(caveat)


def _sorted(rows: list[dict[str, Any]], sort: str | None) -> list[dict[str, Any]]:
    if sort is None:
        return rows
    name = sort.removeprefix("-")
    if name not in SORTS:
        raise UnknownNameError("column", name, nearest(name, SORTS), hint=f"one of {', '.join(SORTS)}")
    known = [row for row in rows if row[name] is not None]
    unknown = [row for row in rows if row[name] is None]
    return sorted(known, key=lambda row: row[name], reverse=sort.startswith("-")) + unknown


def _row(one: Served, *, gpu: bool) -> dict[str, Any]:
    group, first = one.group, one.shares[0].config
    texts = [configuration(s.config, group.input_len, group.output_len, gpu=gpu) for s in one.shares]
    ends = one.tokens_range
    return {
        "model": group.model,
        "workload": group.workload or f"{group.input_len}/{group.output_len}",
        "configuration": " + ".join(texts),
        "replicas": one.replicas,
        "gpus": one.gpus,
        "concurrency": one.concurrency,
        "output_tokens_per_s": one.output_tokens_per_s,
        "range": None if ends is None else f"{number(ends[0])}–{number(ends[1])}",
        "tokens_low": ends and ends[0],
        "tokens_high": ends and ends[1],
        "ttft_ms": first.ttft_ms,
        "itl_ms": first.itl_ms,
        "trust": first.kind.value if first.runs is not None else "backed" if first.backed else "unmeasured",
    }
