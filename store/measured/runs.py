"""Measured runs as rows: one dataclass, the reader of CSV files, and the public runs that ship with gpuscout.

A file has one line a run and the columns `id, model, gpu, tp, precision, server, input_len, output_len` and whatever
is known of `num_gpus, pp, dp, ep, kv_precision, server_version, concurrency, ttft_ms, itl_ms, output_tokens_per_s,
measured_on, source`; other columns are ignored. An empty field is unknown. `FILE.csv.gz` is read as well.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import importlib.resources
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.precision import Precision

# Closed-loop serving runs of InferenceX and of AIConfigurator's validation set; AccelMark's runs on other GPUs;
# the offline maxima of TensorRT-LLM's performance overview. SOURCES.md says more.
PUBLIC_FILES = ("serving_runs", "other_gpus", "max_throughput")
T = TypeVar("T")
_REQUIRED = ("id", "model", "gpu", "tp", "precision", "server", "input_len", "output_len")


class LoadKind(StrEnum):
    """How a run was loaded."""

    CLOSED_LOOP = "closed loop"  # `concurrency` requests always in flight
    OFFLINE_MAXIMUM = "offline maximum"  # all requests at once; the best throughput the server finds by itself


@dataclass(frozen=True)
class MeasuredRun:
    """One measured run. None where it is not known.

    `num_gpus` = tp x pp x dp. `itl_ms` is (end to end - TTFT) / (output tokens - 1), the mean over requests like
    `ttft_ms`; `output_tokens_per_s` counts the whole deployment. `load` follows from `concurrency`.
    """

    id: str
    model: str
    gpu: str
    tp: int
    pp: int
    dp: int
    ep: int
    precision: Precision
    kv_precision: Precision | None
    server: str
    server_version: str | None
    input_len: int
    output_len: int
    concurrency: int | None
    ttft_ms: float | None
    itl_ms: float | None
    output_tokens_per_s: float | None
    measured_on: str | None
    source: str | None

    @property
    def num_gpus(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def load(self) -> LoadKind:
        return LoadKind.OFFLINE_MAXIMUM if self.concurrency is None else LoadKind.CLOSED_LOOP

    @property
    def throughput(self) -> float | None:
        """Output tokens/s of the deployment: as measured, or what a closed loop with these latencies gives."""
        if self.output_tokens_per_s is not None:
            return self.output_tokens_per_s
        if self.concurrency is None or self.ttft_ms is None or self.itl_ms is None:
            return None
        e2e_s = (self.ttft_ms + self.itl_ms * (self.output_len - 1)) / 1000
        return self.concurrency * self.output_len / e2e_s


def public_runs(*files: str) -> tuple[MeasuredRun, ...]:
    """The public runs that ship with gpuscout: all, or those of some of `PUBLIC_FILES`. Raises UnknownNameError."""
    if unknown := [file for file in files if file not in PUBLIC_FILES]:
        raise UnknownNameError("public runs", unknown[0], nearest(unknown[0], PUBLIC_FILES))
    return tuple(run for file in files or PUBLIC_FILES for run in _public(file))


def read_runs(file: Path) -> tuple[MeasuredRun, ...]:
    """The runs of a CSV file. Raises InputError with file, line and column of what is wrong."""
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"not a CSV file ({error})"
        raise InputError(f"cannot read measured runs from {file}: {reason}") from error
    return tuple(_rows(text, str(file)))


def runs_digest(runs: Iterable[MeasuredRun]) -> str:
    """16 hexadecimal digits that identify what was measured, whatever the order of the runs or the file's form."""
    lines = sorted(canonical_json(astuple(run)) for run in runs)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


@functools.cache
def _public(file: str) -> tuple[MeasuredRun, ...]:
    data = importlib.resources.files(__package__).joinpath(f"{file}.csv.gz").read_bytes()
    return tuple(_rows(gzip.decompress(data).decode(), f"{file}.csv"))


def _rows(text: str, file: str) -> Iterator[MeasuredRun]:
    lines = csv.DictReader(io.StringIO(text, newline=""))
    if missing := [name for name in _REQUIRED if name not in (lines.fieldnames or ())]:
        raise InputError(
            f"{file}:1: not a file of measured runs: no column {', '.join(missing)}",
            hint=f"columns every file needs: {', '.join(_REQUIRED)}",
        )
    seen: set[str] = set()
    for line in lines:
        try:
            run = _run(line)
            if run.id in seen:
                raise ValueError(f"id: {run.id!r} is given twice")
        except ValueError as error:
            raise InputError(f"{file}:{lines.line_num}: {error}") from error
        seen.add(run.id)
        yield run


def _run(line: Mapping[str, str | None]) -> MeasuredRun:
    def text(name: str) -> str | None:
        return (line.get(name) or "").strip() or None

    def parsed(name: str, parse: Callable[[str], T], expected: str) -> T | None:
        value = text(name)
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError:
            raise ValueError(f"{name}: expected {expected}, got {value!r}") from None

    def given(name: str, value: T | None) -> T:
        if value is None:
            raise ValueError(f"{name}: missing")
        return value

    def whole(name: str) -> int | None:
        return parsed(name, _positive_int, "a positive whole number")

    def figure(name: str) -> float | None:
        return parsed(name, _positive, "a positive number")

    def precision(name: str) -> Precision | None:
        return parsed(name, Precision, f"one of {', '.join(Precision)}")

    run = MeasuredRun(
        id=given("id", text("id")),
        model=given("model", text("model")),
        gpu=given("gpu", text("gpu")),
        tp=given("tp", whole("tp")),
        pp=whole("pp") or 1,
        dp=whole("dp") or 1,
        ep=whole("ep") or 1,
        precision=given("precision", precision("precision")),
        kv_precision=precision("kv_precision"),
        server=given("server", text("server")),
        server_version=text("server_version"),
        input_len=given("input_len", whole("input_len")),
        output_len=given("output_len", whole("output_len")),
        concurrency=whole("concurrency"),
        ttft_ms=figure("ttft_ms"),
        itl_ms=figure("itl_ms"),
        output_tokens_per_s=figure("output_tokens_per_s"),
        measured_on=text("measured_on"),
        source=text("source"),
    )
    if (gpus := whole("num_gpus")) not in (None, run.num_gpus):
        raise ValueError(f"num_gpus: {gpus} is not tp x pp x dp = {run.num_gpus}")
    if (run.ttft_ms, run.itl_ms, run.output_tokens_per_s) == (None, None, None):
        raise ValueError("ttft_ms, itl_ms and output_tokens_per_s are all missing: nothing was measured")
    return run


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value
