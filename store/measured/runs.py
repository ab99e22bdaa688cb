"""Measured runs as rows: one dataclass, the reader of CSV files, and the public runs that ship with gpuscout.

A file has one line a run and the columns `id, model, gpu, tp, precision, server, input_len, output_len` and whatever
is known of `num_gpus, pp, dp, ep, kv_precision, server_version, concurrency, ttft_ms, itl_ms, output_tokens_per_s,
measured_on, source`; other columns are ignored, runs at a `request_rate` left out. An empty field is unknown.
`FILE.csv.gz` is read as well.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path

from gpuscout.store.measured.formats import table
from gpuscout.store.measured.formats.reported import Reported
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import SERVERS, server_called

# Closed-loop serving runs of InferenceX and of AIConfigurator's validation set; AccelMark's runs on other GPUs;
# the offline maxima of TensorRT-LLM's performance overview. SOURCES.md says more.
PUBLIC_FILES = ("serving_runs", "other_gpus", "max_throughput")
# What the shipped constants are fitted to. The other file stays outside: it shows how far the constants carry to
# generations that nobody fitted.
FITTED_FILES = ("serving_runs", "max_throughput")
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
    lines = sorted(canonical_json(astuple(run)) for run in runs)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


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
    if server not in SERVERS:
        raise InputError(
            f'{file}{reported.place}: server: expected one of {", ".join(SERVERS)}, got "{says["server"]}"'
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
        measured_on=None if reported.measured_on is None else reported.measured_on.isoformat(),
        source=reported.source,
    )
