"""CSV: one line a run, with the columns of the public runs that ship with gpuscout.

`COLUMNS` names every column; `_ALSO` other tools' names of some. `num_gpus` is checked. Without `load` the load follows
from `concurrency` (a closed loop), `request_rate` or neither (an offline maximum, if there is a throughput; else the
load is not known). Percentiles stand in columns such as `p99_ttft_ms`, `median_itl_ms` or `p90_e2e_ms`. A column that
nobody knows is an error, unless its name begins with `x_`: those are kept in the details. An empty field is unknown.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import TypeVar

from gpuscout.store.measured.formats.node import MEASURABLE, measurable, scaled
from gpuscout.store.measured.formats.reported import DEPLOYMENT, Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.curves import METRICS
from gpuscout.sweeps.errors import InputError, nearest
from gpuscout.sweeps.precision import PRECISIONS, precision_called, precision_detail
from gpuscout.sweeps.reading import TooLarge, most_rows
from gpuscout.sweeps.servers.options import OPTIONS, SYNONYMS
from gpuscout.sweeps.text import fault_in

T = TypeVar("T")
# Every column and what it holds. A file needs those that neither flags nor a mapping file give.
COLUMNS: Mapping[str, str] = {
    "id": "distinguishes a run from its repeats",
    "model": "a name of the catalogue, org/name or ./folder",
    "gpu": "the GPU",
    "num_gpus": "checked against tp x pp x dp",
    "tp": "tensor parallelism",
    "pp": "pipeline parallelism (default: 1)",
    "dp": "data parallelism (default: 1)",
    "ep": "expert parallelism (default: 1)",
    "precision": "of the weights; also int4, w4a16, awq, gptq, w8a8, w8a16, nvfp4, mxfp4 (default: the model's own)",
    "kv_precision": "of the KV cache (default: unknown)",
    "server": "vllm, sglang, trtllm",
    "server_version": "such as 0.24.0",
    "server_options": "name=value, separated by spaces: max_num_seqs=256 stream_interval=10",
    "gpu_memory_utilization": "the server's share of GPU memory (default: 0.9)",
    "max_model_len": "the longest sequence (input + output)",
    "input_len": "input tokens of a request",
    "output_len": "output tokens of a request",
    "load": "closed-loop, request-rate, offline, static-batch or burst",
    "concurrency": "requests in flight",
    "request_rate": "requests per second",
    "ttft_ms": "mean time to first token",
    "itl_ms": "(end to end - TTFT) / (output tokens - 1)",
    "e2e_s": "end-to-end latency in seconds",
    "output_tokens_per_s": "of the whole deployment",
    "requests_per_s": "of the whole deployment",
    "latency_stat": "median where ttft_ms and itl_ms are medians (default: mean)",
    "spec_decoding": "none, or how tokens were drafted: mtp, eagle, ngram",
    "disaggregated": "yes where prefill and decode ran on GPUs of their own",
    "prefix_cached": "yes where requests shared prefixes that a cache kept",
    "power_w": "mean power of one GPU",
    "joules_per_output_token": "energy of the whole deployment",
    "measured_on": "YYYY-MM-DD, YYYY-MM or YYYY",
    "source": "where the run comes from",
    "trust": "high, medium or low: a low one never stands for an estimate",
    "latest": "0 where a newer run of the same configuration exists",
    "split": "fit or reference",
    "notes": "a remark to keep",
}
# Names of other tools and sheets that say exactly what a column of ours says.
_ALSO: Mapping[str, str] = {
    "model_id": "model",
    "isl": "input_len",
    "osl": "output_len",
    "max_concurrency": "concurrency",
    "mean_ttft_ms": "ttft_ms",
    "mean_tpot_ms": "itl_ms",
    "tpot_ms": "itl_ms",
    "output_throughput": "output_tokens_per_s",
    "request_throughput": "requests_per_s",
    "tensor_parallel": "tp",
    "tensor_parallel_size": "tp",
    "note": "notes",
}
_RELATED: Mapping[str, str] = {"dtype": "precision", "quantization": "precision", "quant": "precision"}
_PERCENTILE = re.compile(
    r"(?:(?P<median>median)|p(?P<percent>\d{1,2}(?:\.\d+)?))_(?P<metric>ttft|itl|tpot|e2e|e2el)_ms"
)
_METRICS = {"ttft": ("ttft_ms", 1.0), "itl": ("itl_ms", 1.0), "tpot": ("itl_ms", 1.0)}
_E2E = ("e2e_s", 1e-3)
_KEPT = "x_"
_EXPORT = "case_digest"  # a column of gpuscout's own exports, which have estimates in the same columns
_SIZES = ("tp", "pp", "dp", "ep")
_LOADS = ("closed-loop", "request-rate", "offline", "static-batch", "burst")
_STATISTICS = ("mean", "median")
_YES_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def recognises(file: SourceFile) -> bool:
    if file.kind != "csv":
        return False
    names = {name.strip(' "\r').casefold() for name in file.text.partition("\n")[0].split(",")}
    known = {"model", "gpu", "input_len", "output_len", *METRICS}
    return len(known & {_ALSO.get(name, name) for name in names}) >= 3 and _EXPORT not in names


def read(file: SourceFile) -> Contents:
    return Contents(tuple(rows(file.text, file.name, required=())))


def rows(text: str, file: str, *, required: tuple[str, ...]) -> Iterator[Reported]:
    """Yield the runs of a file.

    Raises InputError, with line and column, also where a `required` column has no value.
    """
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        lines.fieldnames = columns = _columns(lines.fieldnames or (), file)
        if missing := [name for name in required if name not in columns]:
            raise InputError(
                f"{file}:1: not a file of measured runs: no column {', '.join(missing)}",
                hint=f"columns every file needs: {', '.join(required)}; results of other tools: `gpuscout import` "
                "them, then --measured stored",
            )
        seen: set[str] = set()
        for number, line in enumerate(lines):
            if number == most_rows():
                raise TooLarge(file, f"{most_rows():,} rows")
            run = _Line(line, required).run(f":{lines.line_num}")
            if run.run is not None and run.run in seen:
                raise ValueError(f"id: {run.run!r} is given twice")
            seen.add(run.run or "")
            yield run
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file}:{lines.reader.line_num}: {error}") from error


def _columns(header: Sequence[str], file: str) -> list[str]:
    """Return our names of a file's columns. Raises InputError for those that nobody knows."""
    written = [name.strip().casefold() for name in header]
    if _EXPORT in written:
        raise InputError(
            f"{file}:1: an export of gpuscout, which may hold estimates, not a table of measured runs",
            hint=f"gpuscout import {file}",
        )
    columns = [_ALSO.get(name, name) for name in written]
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise ValueError(f"{twice}: duplicate column")
    unknown = [
        name
        for name in columns
        if name and name not in COLUMNS and not name.startswith(_KEPT) and not _PERCENTILE.fullmatch(name)
    ]
    if unknown:
        meant = [
            f"{name}: did you mean {close[0]}?"
            for name in unknown
            if (close := [_RELATED[name]] if name in _RELATED else nearest(name, [*COLUMNS, *_ALSO]))
        ]
        raise InputError(
            f"{file}:1: unknown column{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}",
            hint="   ".join([*meant, f"columns: {', '.join(COLUMNS)}; {_KEPT}... is kept as it is"]),
        )
    return columns


class _Line:
    """One line of a file by the names of its columns; every reader raises ValueError that begins with the column."""

    def __init__(self, line: Mapping[str, str | None], required: tuple[str, ...]) -> None:
        if None in line:
            raise ValueError("more fields than columns")
        if None in line.values():
            raise ValueError("fewer fields than columns: the line is cut off")
        self.line, self.required = line, required

    def text(self, name: str) -> str | None:
        value = (self.line.get(name) or "").strip() or None
        if value is not None and (fault := fault_in(value)):
            raise ValueError(f"{name}: {fault}")
        if value is None and name in self.required:
            raise ValueError(f"{name}: missing")
        return value

    def parsed(self, name: str, parse: Callable[[str], T], expected: str) -> T | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError:
            raise ValueError(f"{name}: expected {expected}, got {value!r}") from None

    def whole(self, name: str) -> int | None:
        return self.parsed(name, positive_int, "a positive whole number")

    def figure(self, name: str) -> float | None:
        return self.parsed(name, positive, MEASURABLE)

    def word(self, name: str, words: Sequence[str]) -> str | None:
        value = self.text(name)
        if value is not None and value.casefold() not in words:
            raise ValueError(f"{name}: expected one of {', '.join(words)}, got {value!r}")
        return value and value.casefold()

    def flag(self, name: str) -> bool | None:
        word = self.word(name, tuple(_YES_NO))
        return None if word is None else _YES_NO[word]

    def run(self, place: str) -> Reported:
        """Return the run of the line."""
        precisions = {name: self._precision(name) for name in ("precision", "kv_precision")}
        sizes = {name: self.whole(name) for name in _SIZES}
        gpus = math.prod(sizes[name] or 1 for name in ("tp", "pp", "dp"))
        if sizes["tp"] and self.whole("num_gpus") not in (None, gpus):
            raise ValueError(f"num_gpus: {self.whole('num_gpus')} is not tp x pp x dp = {gpus}")
        figures = {name: self.figure(name) for name in METRICS}
        if not any(figures.values()):
            raise ValueError("ttft_ms, itl_ms and output_tokens_per_s are all missing: nothing was measured")
        load, kind = self._load(figures)
        measured_on, month = self._day()
        latency_stat = self.word("latency_stat", _STATISTICS)
        percentiles = self._percentiles()
        if latency_stat == "median":
            medians = {(name, 50.0): figures[name] for name in ("ttft_ms", "itl_ms", "e2e_s")}
            percentiles |= {metric: median for metric, median in medians.items() if median}
        spec_decoding = self.text("spec_decoding")
        drafted = spec_decoding is not None and spec_decoding.casefold() not in ("none", "no", "0", "false")
        detail = precision_detail(self.text("precision") or "")
        return Reported(
            place=place,
            run=self.text("id"),
            source=self.text("source"),
            measured_on=measured_on,
            deployment={name: value for name in DEPLOYMENT if (value := precisions.get(name) or self.text(name))},
            input_len=self.whole("input_len"),
            output_len=self.whole("output_len"),
            load=load,
            ttft_ms=figures["ttft_ms"],
            itl_ms=figures["itl_ms"],
            e2e_s=figures["e2e_s"],
            output_tokens_per_s=figures["output_tokens_per_s"],
            requests_per_s=figures["requests_per_s"],
            percentiles=percentiles,
            details=known(
                {
                    "latency_stat": latency_stat if latency_stat != "mean" else None,
                    "load_detail": kind,
                    "precision_detail": detail,
                    "drafts_tokens": drafted or None,
                    "spec_decoding": spec_decoding if drafted else None,
                    "disaggregated": self.flag("disaggregated") or None,
                    "shared_prefixes": self.flag("prefix_cached") or None,
                    "server_options": self._options(),
                    "power_w": self.figure("power_w"),
                    "joules_per_output_token": self.figure("joules_per_output_token"),
                    "measured_in": month,
                    "trust": self.word("trust", ("high", "medium", "low")),
                    "latest": self.flag("latest"),
                    "split": self.word("split", ("fit", "reference")),
                    "notes": self.text("notes"),
                    **{name: self.text(name) for name in self.line if name and name.startswith(_KEPT)},
                }
            ),
        )

    def _precision(self, name: str) -> str | None:
        text = self.text(name)
        if text is None:
            return None
        if (precision := precision_called(text)) is None:
            raise ValueError(f"{name}: expected one of {', '.join(PRECISIONS)}, got {text!r}")
        return precision.value

    def _load(self, figures: Mapping[str, float | None]) -> tuple[Load | None, str | None]:
        """Return the load, and what `load` says of it beyond that."""
        concurrency, rate = self.whole("concurrency"), self.figure("request_rate")
        load: Load | None = Load.of(concurrency, rate)
        match self.word("load", _LOADS):
            case "closed-loop" | "static-batch" | "burst" as kind if rate is not None or concurrency is None:
                raise ValueError(f"load: {kind} needs a concurrency and no request_rate")
            case "static-batch" | "burst" as kind:
                return load, kind
            case "offline" if concurrency is not None or rate is not None:
                raise ValueError("load: offline has neither concurrency nor request_rate: all requests come at once")
            case "request-rate" if rate is None:
                raise ValueError("load: request-rate needs a request_rate")
            case None if load == Load("offline_maximum"):
                if not (figures["output_tokens_per_s"] or figures["requests_per_s"]):
                    load = None  # latencies alone are no maximum of anything
            case _:
                pass
        return load, None

    def _day(self) -> tuple[date | None, str | None]:
        """Return the day; of a month or a year its first one, and the month or year as it stands there."""
        text = self.text("measured_on")
        if text is not None and re.fullmatch(r"\d{4}(-\d{2})?", text):
            day = self.parsed("measured_on", lambda t: date.fromisoformat(f"{t}-01-01"[:10]), "a date (YYYY-MM-DD)")
            return day, text
        return self.parsed("measured_on", date.fromisoformat, "a date (YYYY-MM-DD, YYYY-MM or YYYY)"), None

    def _percentiles(self) -> dict[tuple[str, float], float]:
        percentiles = {}
        for column in self.line:
            match = _PERCENTILE.fullmatch(column or "")
            if match and (value := self.figure(column)):
                metric, scale = _METRICS.get(match["metric"], _E2E)
                percentiles[metric, 50.0 if match["median"] else float(match["percent"])] = scaled(value, scale)
        return percentiles

    def _options(self) -> dict[str, int | float | str]:
        options: dict[str, int | float | str] = {}
        for word in (self.text("server_options") or "").split():
            name, equals, value = word.lstrip("-").partition("=")
            if not (name and equals and value):
                raise ValueError(f"server_options: expected name=value, separated by spaces, got {word!r}")
            name = name.replace("-", "_").casefold()
            name = SYNONYMS.get(name, name)
            if name in options:
                raise ValueError(f"server_options: {name} is given twice")
            options[name] = number = _number(value)
            if (option := OPTIONS.get(name)) and not (isinstance(number, int) and 1 <= number <= option.most):
                raise ValueError(
                    f"server_options: {name}: expected a whole number from 1 to {option.most:,}, got {value!r}"
                )
        return options


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


def positive(text: str) -> float:
    """Return a number that somebody may have measured. Raises ValueError."""
    value = float(text)
    if not measurable(value) or "_" in text:  # which Python allows within numbers
        raise ValueError
    return value


def positive_int(text: str) -> int:
    """Return a whole number above 0 that a store can hold. Raises ValueError."""
    value = int(text)
    if not 1 <= value < 2**31 or "_" in text:
        raise ValueError
    return value
