"""Measured runs as rows: one dataclass, the reader of CSV files, and the public runs that ship with gpuscout.

A file has one line a run, the columns `id, model, gpu, tp, precision, server, input_len, output_len` and whatever is
known of the others that `formats/table.py` lists; runs at a `request_rate` are left out. `FILE.csv.gz` is read as well.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

from gpuscout.store.measured.formats import table
from gpuscout.store.measured.formats.reported import Reported, variant
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import MEASURED_SERVERS, server_called

# Serving runs of InferenceX, AIConfigurator's validation set and others; AccelMark's runs on other GPUs; offline maxima
# of TensorRT-LLM's performance overview and others. SOURCES.md says more.
PUBLIC_FILES = (
    "serving_runs",
    "other_gpus",
    "max_throughput",
    "serving_runs_2026_11",
    "serving_runs_llama_3_1_70b",
    "max_throughput_2026_11",
)
# What the shipped constants are fitted to. The other file stays outside: it shows how far the constants carry to
# generations that nobody fitted.
FITTED_FILES = ("serving_runs", "max_throughput")
_IDENTITY = (
    "id", "model", "gpu", "tp", "pp", "dp", "ep", "precision", "kv_precision", "server", "server_version", "input_len",
    "output_len", "concurrency", "ttft_ms", "itl_ms", "output_tokens_per_s", "measured_on", "source",
)  # fmt: skip
_TOLD = ("e2e_s", "load_detail", "variant", "server_options", "gpu_memory_utilization", "trust", "latest", "split")
_REQUIRED = ("id", "model", "gpu", "tp", "precision", "server", "input_len", "output_len")


class LoadKind(StrEnum):
    """How a run was loaded."""

    CLOSED_LOOP = "closed loop"  # `concurrency` requests always in flight
    OFFLINE_MAXIMUM = "offline maximum"  # all requests at once; the best throughput the server finds by itself


@dataclass(frozen=True)
class MeasuredRun:
    """One measured run. None where it is not known.

    `num_gpus` = tp x pp x dp. `itl_ms` is (end to end - TTFT) / (output tokens - 1), the mean over requests like
    `ttft_ms`, or of both the median where `latency_stat` says so; `output_tokens_per_s` counts the whole deployment.
    `load` follows from `concurrency`; `load_detail`: "static-batch" (`concurrency` requests begin and end together) or
    "burst" (so many are sent at once). `variant` says how the deployment differs from a plain one: "drafted",
    "disaggregated", "prefix-cached". `percentiles` by metric and percentile. `server_options` (name and value, by name)
    and `gpu_memory_utilization` are what the source tells of the server. `power_w` is the mean of one GPU. `trust` is
    "high", "medium" or "low"; `latest` False: there is a newer run of the same configuration; `split` is "fit" or
    "reference", which nothing is fitted to.
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
    e2e_s: float | None = None
    percentiles: Mapping[tuple[str, float], float] = field(default_factory=dict, hash=False)
    load_detail: str | None = None
    latency_stat: str = "mean"
    variant: str | None = None
    precision_detail: str | None = None
    server_options: tuple[tuple[str, int | float | str], ...] = ()
    gpu_memory_utilization: float | None = None
    power_w: float | None = None
    trust: str | None = None
    latest: bool | None = None
    split: str | None = None
    notes: str | None = None

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
        raise _unknown(unknown[0])
    return tuple(run for file in files or PUBLIC_FILES for run in _public(file))


def public_file(name: str) -> SourceFile:
    """One of `PUBLIC_FILES` as the CSV file it is. Raises UnknownNameError."""
    if name not in PUBLIC_FILES:
        raise _unknown(name)
    data = importlib.resources.files(__package__).joinpath(f"{name}.csv.gz").read_bytes()
    return SourceFile(f"public:{name}", data)


def _unknown(name: str) -> UnknownNameError:
    hint = f"there are {', '.join(PUBLIC_FILES)}"
    return UnknownNameError("public runs", name, nearest(name, PUBLIC_FILES), hint=hint)


def read_runs(file: Path) -> tuple[MeasuredRun, ...]:
    """The runs of a CSV file. Raises InputError with file, line and column of what is wrong."""
    return comparable_runs(file)[0]


def comparable_runs(file: Path) -> tuple[tuple[MeasuredRun, ...], int]:
    """The runs of a CSV file, and how many others are at a request rate. Raises what `read_runs` raises."""
    rows = tuple(_rows(SourceFile.open(file).text, str(file)))
    runs = tuple(run for run in rows if run is not None)
    return runs, len(rows) - len(runs)


def runs_digest(runs: Iterable[MeasuredRun]) -> str:
    """16 hexadecimal digits that identify what was measured, whatever the order of the runs or the file's form."""
    lines = sorted(canonical_json(_contents(run)) for run in runs)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


def _contents(run: MeasuredRun) -> list[object]:
    """What was measured; what only some runs tell is there only where they do."""
    plain = [getattr(run, name) for name in _IDENTITY]
    told = {name: value for name in _TOLD if (value := getattr(run, name)) not in (None, ())}
    if run.latency_stat != "mean":
        told["latency_stat"] = run.latency_stat
    return [*plain, told] if told else plain


@functools.cache
def _public(file: str) -> tuple[MeasuredRun, ...]:
    return tuple(run for run in _rows(public_file(file).text, f"{file}.csv") if run is not None)


def _rows(text: str, file: str) -> Iterator[MeasuredRun | None]:
    """The runs of a CSV text, None for one at a request rate."""
    for reported in table.rows(text, file, required=_REQUIRED):
        # Neither a closed loop nor a maximum: no estimate says what a request rate does.
        if reported.load is None:
            raise InputError(
                f"{file}{reported.place}: concurrency: missing",
                hint="latencies are those of so many requests in flight; a run without both a concurrency and a "
                "throughput says nothing",
            )
        yield _run(reported, file) if reported.load.request_rate is None else None


def _run(reported: Reported, file: str) -> MeasuredRun:
    """The run of a line that has all of `_REQUIRED`; a GPU of the catalogue under its own name."""
    says = reported.deployment
    gpu = GPUCatalogue.load().find(says["gpu"])
    server = server_called(says["server"])
    if server not in MEASURED_SERVERS:
        raise InputError(
            f'{file}{reported.place}: server: expected one of {", ".join(MEASURED_SERVERS)}, got "{says["server"]}"'
        )
    kv_precision = says.get("kv_precision")
    return MeasuredRun(
        id=reported.run or "",
        model=says["model"],
        gpu=says["gpu"] if gpu is None else gpu.name,
        tp=int(says["tp"]),
        pp=int(says.get("pp", 1)),
        dp=int(says.get("dp", 1)),
        ep=int(says.get("ep", 1)),
        precision=Precision(says["precision"]),
        kv_precision=None if kv_precision is None else Precision(kv_precision),
        server=server,
        server_version=says.get("server_version"),
        input_len=reported.input_len or 0,
        output_len=reported.output_len or 0,
        concurrency=reported.load and reported.load.concurrency,
        ttft_ms=reported.ttft_ms,
        itl_ms=reported.itl_ms,
        output_tokens_per_s=reported.output_tokens_per_s,
        measured_on=day_or_month(reported.measured_on, reported.details),
        source=reported.source,
        e2e_s=reported.e2e_s,
        percentiles=reported.percentiles,
        gpu_memory_utilization=None if (share := says.get("gpu_memory_utilization")) is None else float(share),
        **told(reported.details),
    )


def day_or_month(day: date | None, details: Mapping[str, Any]) -> str | None:
    """When a run was measured, as exactly as its source says: a day, a month or a year."""
    return None if day is None else details.get("measured_in") or day.isoformat()


def told(details: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `MeasuredRun` that details hold, as those of `Reported` or of a store do."""
    return {
        "load_detail": details.get("load_detail"),
        "latency_stat": details.get("latency_stat") or "mean",
        "variant": variant(details),
        "precision_detail": details.get("precision_detail"),
        "server_options": tuple(sorted((details.get("server_options") or {}).items())),
        "power_w": details.get("power_w"),
        "trust": details.get("trust"),
        "latest": details.get("latest"),
        "split": details.get("split"),
        "notes": details.get("notes"),
    }
