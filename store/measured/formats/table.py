"""CSV: one line a run, with the columns of the public runs that ship with gpuscout.

Columns: `id` tells a run from its repeats; `model, gpu, tp, pp, dp, ep, precision, kv_precision, server,
server_version, gpu_memory_utilization, max_model_len` are the deployment, `num_gpus` is checked; `input_len,
output_len`; `concurrency` (a closed loop), `request_rate` (requests/s) or neither (an offline maximum, if it has a
throughput; else the load is not known); `ttft_ms, itl_ms, e2e_s, output_tokens_per_s, requests_per_s`; `measured_on`
(YYYY-MM-DD) and `source`. Others are ignored, an empty field is unknown.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import TypeVar

from gpuscout.store.measured.formats.node import MEASURABLE, clean, measurable
from gpuscout.store.measured.formats.reported import DEPLOYMENT, Contents, Load, Reported
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.precision import Precision

T = TypeVar("T")
FIGURES = ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s")
_EXPORT = "case_digest"  # a column of gpuscout's own exports, which have estimates in the same columns
_SIZES = ("tp", "pp", "dp", "ep")


def recognises(file: SourceFile) -> bool:
    if file.kind != "csv":
        return False
    names = {name.strip(' "\r').casefold() for name in file.text.partition("\n")[0].split(",")}
    return len({"model", "gpu", "input_len", "output_len", *FIGURES} & names) >= 3 and _EXPORT not in names


def read(file: SourceFile) -> Contents:
    return Contents(tuple(rows(file.text, file.name, required=())))


def rows(text: str, file: str, *, required: tuple[str, ...]) -> Iterator[Reported]:
    """The runs of a file. Raises InputError, with line and column, also where a `required` column has no value."""
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        lines.fieldnames = columns = [name.strip().casefold() for name in lines.fieldnames or ()]
        if _EXPORT in columns:
            raise InputError(
                f"{file}:1: an export of gpuscout, which may hold estimates, not a table of measured runs",
                hint=f"gpuscout import {file}",
            )
        if twice := next((name for name in columns if name and columns.count(name) > 1), None):
            raise ValueError(f"{twice}: this column is there twice")
        if missing := [name for name in required if name not in columns]:
            raise InputError(
                f"{file}:1: not a file of measured runs: no column {', '.join(missing)}",
                hint=f"columns every file needs: {', '.join(required)}; results of other tools: `gpuscout import` "
                "them, then --measured stored",
            )
        seen: set[str] = set()
        for line in lines:
            run = _run(line, lines.line_num, required)
            if run.run is not None and run.run in seen:
                raise ValueError(f"id: {run.run!r} is given twice")
            seen.add(run.run or "")
            yield run
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file}:{lines.reader.line_num}: {error}") from error


def _run(line: Mapping[str, str | None], number: int, required: tuple[str, ...]) -> Reported:
    if None in line:
        raise ValueError("more fields than columns")
    if None in line.values():
        raise ValueError("fewer fields than columns: the line is cut off")

    def text(name: str) -> str | None:
        value = clean(line.get(name) or "").strip() or None
        if value is None and name in required:
            raise ValueError(f"{name}: missing")
        return value

    def parsed(name: str, parse: Callable[[str], T], expected: str) -> T | None:
        value = text(name)
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError:
            raise ValueError(f"{name}: expected {expected}, got {value!r}") from None

    def whole(name: str) -> int | None:
        return parsed(name, positive_int, "a positive whole number")

    def figure(name: str) -> float | None:
        return parsed(name, positive, MEASURABLE)

    for name in ("precision", "kv_precision"):
        parsed(name, Precision, f"one of {', '.join(Precision)}")
    sizes = {name: whole(name) for name in _SIZES}
    gpus = math.prod(sizes[name] or 1 for name in ("tp", "pp", "dp"))
    if sizes["tp"] and whole("num_gpus") not in (None, gpus):
        raise ValueError(f"num_gpus: {whole('num_gpus')} is not tp x pp x dp = {gpus}")
    figures = {name: figure(name) for name in FIGURES}
    if not any(figures.values()):
        raise ValueError("ttft_ms, itl_ms and output_tokens_per_s are all missing: nothing was measured")
    load: Load | None = Load.of(whole("concurrency"), figure("request_rate"))
    if load == Load("offline_maximum") and not (figures["output_tokens_per_s"] or figures["requests_per_s"]):
        load = None  # latencies alone are no maximum of anything
    return Reported(
        place=f":{number}",
        run=text("id"),
        source=text("source"),
        measured_on=parsed("measured_on", date.fromisoformat, "a date (YYYY-MM-DD)"),
        deployment={name: value for name in DEPLOYMENT if (value := text(name))},
        input_len=whole("input_len"),
        output_len=whole("output_len"),
        load=load,
        ttft_ms=figures["ttft_ms"],
        itl_ms=figures["itl_ms"],
        e2e_s=figures["e2e_s"],
        output_tokens_per_s=figures["output_tokens_per_s"],
        requests_per_s=figures["requests_per_s"],
    )


def positive(text: str) -> float:
    """A number that somebody may have measured. Raises ValueError."""
    value = float(text)
    if not measurable(value) or "_" in text:  # which Python allows within numbers
        raise ValueError
    return value


def positive_int(text: str) -> int:
    """A whole number above 0 that a store can hold. Raises ValueError."""
    value = int(text)
    if not 1 <= value < 2**31 or "_" in text:
        raise ValueError
    return value
