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
from gpuscout.sweeps.cases import Case, canonical_json, content_digest
from gpuscout.sweeps.curves import METRICS
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import MEASURED_SERVERS, server_called
from gpuscout.sweeps.settings import SHORT_SIZES

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
DEFAULT_MEMORY = 0.9
_IDENTITY = (
    "id", "model", "gpu", "tp", "pp", "dp", "ep", "precision", "kv_precision", "server", "server_version", "input_len",
    "output_len", "concurrency", "ttft_ms", "itl_ms", "output_tokens_per_s", "measured_on", "source",
)  # fmt: skip
_TOLD = ("e2e_s", "load_detail", "variant", "server_options", "gpu_memory_utilization", "trust", "latest", "split")
_FIGURES = (*METRICS, "percentiles", "tool", "native_itl_name", "native_itl_ms")
_SAME = ("precision", "kv_precision", "server", "input_len", "output_len", "gpu_memory_utilization", "max_model_len")
_REQUIRED = ("id", "model", "gpu", "tp", "precision", "server", "input_len", "output_len")


class LoadKind(StrEnum):
    """Kinds of load on a measured run."""

    CLOSED_LOOP = "closed loop"  # `concurrency` requests always in flight
    REQUEST_RATE = "request rate"  # requests come by themselves, so many a second
    OFFLINE_MAXIMUM = "offline maximum"  # all requests at once; the best throughput the server finds by itself


@dataclass(frozen=True)
class MeasuredRun:
    """One measured run: of a file, of the public runs or of a store. None where it is not known.

    `id` tells it from others (of a stored run: its digest). `num_gpus` = tp x pp x dp. `itl_ms` is (end to end - TTFT)
    / (output tokens - 1), the mean over requests like `ttft_ms` and `e2e_s`, or of all the median where `latency_stat`
    says so; throughputs count the whole deployment. `load` follows from `request_rate` and `concurrency`, which at a
    request rate is the mean of what was in flight. `percentiles` by metric and percentile. `native_itl_name` and
    `native_itl_ms` are what the tool has of the ITL under its own name. `derived` has figures that follow from those of
    the file, which lacks them. `implausible`: what the run does that its hardware cannot, and what probably explains
    it; such a run never counts unless it is asked for. `measured_on` is as exact as the source: a day, a month or a
    year. `details` is whatever else is known of the run, JSON-able; the properties below read it. `case`: what was
    deployed and asked, once names are resolved; it does not count when runs are compared.
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
    requests_per_s: float | None = None
    request_rate: float | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    tool: str | None = None
    native_itl_name: str | None = None
    native_itl_ms: float | None = None
    percentiles: Mapping[tuple[str, float], float] = field(default_factory=dict, hash=False)
    derived: Mapping[str, float] = field(default_factory=dict, hash=False)
    implausible: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    case: Case | None = field(default=None, compare=False, repr=False)

    @property
    def num_gpus(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def context_len(self) -> int:
        """Tokens a sequence may grow to: `max_model_len`, or exactly those of the requests."""
        return self.max_model_len or self.input_len + self.output_len

    @property
    def load(self) -> LoadKind:
        if self.request_rate is not None:
            return LoadKind.REQUEST_RATE
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

    @property
    def day(self) -> date | None:
        """The day it was measured; of a month or a year the first one."""
        return None if self.measured_on is None else date.fromisoformat(f"{self.measured_on}-01-01"[:10])

    @property
    def load_detail(self) -> str | None:
        """ "static-batch" (`concurrency` requests begin and end together) or "burst" (so many are sent at once)."""
        return self.details.get("load_detail")

    @property
    def latency_stat(self) -> str:
        """Statistic that the latencies are of all requests: "mean" or "median"."""
        return self.details.get("latency_stat") or "mean"

    @property
    def variant(self) -> str | None:
        """Difference from a plain deployment: "drafted", "disaggregated", "prefix-cached"; None: no difference."""
        return variant(self.details)

    @property
    def set_aside(self) -> str | None:
        """Reason why it does not stand for a plain deployment of its configuration, e.g. "drafted"; None: it does."""
        reasons = [self.variant, "low trust" if self.trust == "low" else None]
        reasons.append("superseded" if self.latest is False else None)
        return ", ".join(reason for reason in reasons if reason) or None

    @property
    def precision_detail(self) -> str | None:
        """Details of the precision in the source beyond its name, such as "mxfp4" or "awq"."""
        return self.details.get("precision_detail")

    @property
    def server_options(self) -> tuple[tuple[str, int | float | str], ...]:
        """Settings of the server in the source: name and value, by name."""
        return tuple(sorted(self.details.get("server_options", {}).items()))

    @property
    def power_w(self) -> float | None:
        """The mean power of one GPU in watts."""
        return self.details.get("power_w")

    @property
    def trust(self) -> str | None:
        """ "high", "medium" or "low", as whoever collected it judged."""
        return self.details.get("trust")

    @property
    def latest(self) -> bool | None:
        """False: there is a newer run of the same configuration."""
        return self.details.get("latest")

    @property
    def split(self) -> str | None:
        """ "fit", or "reference": nothing is fitted to it."""
        return self.details.get("split")

    @property
    def notes(self) -> str | None:
        return self.details.get("notes")

    def requests(self, outcome: str) -> int | None:
        """Return the number of requests "completed" or "failed"; None: the file does not say."""
        number = self.details.get(outcome)
        return number if isinstance(number, int) else None

    def figure(self, name: str) -> float | None:
        """Return one of `METRICS`, as it is stored: measured, or derived."""
        value: float | None = getattr(self, name)
        return self.derived.get(name) if value is None else value

    def digest(self) -> bytes:
        """Return 16 bytes that identify what was measured, on what, when and in which run; not the file or its format.

        Model and GPU count by their names: better figures of a GPU do not make another run of an old one.
        """
        day = self.day
        return content_digest(
            {
                "model": self.model,
                "gpu": self.gpu,
                **{name: getattr(self, short) for short, name in SHORT_SIZES.items()},
                "num_gpus": self.num_gpus,
                "precision": self.precision.value,
                "server": self.server,
                "gpu_memory_utilization": self.gpu_memory_utilization or DEFAULT_MEMORY,
                "input_len": self.input_len,
                "output_len": self.output_len,
                "max_model_len": self.context_len,
                "kv_precision": self.kv_precision and self.kv_precision.value,
                "server_version": self.server_version,
                "load": [
                    self.load.name.lower(),
                    None if self.request_rate else self.concurrency,
                    self.request_rate,
                ],
                **{name: getattr(self, name) for name in METRICS},
                "percentiles": sorted([*key, float(value)] for key, value in self.percentiles.items()),
                "measured_on": day and day.isoformat(),
                "run": self.details.get("run"),
            }
        )


def case_of(run: MeasuredRun, model: ModelSpec, gpu: GPUSpec, *, kv_precision: Precision | None = None) -> Case:
    """Return the case of a run, with the defaults of estimates where nothing was said.

    `kv_precision` is what to assume where the run does not say it; None: the model's own.
    """
    return Case(
        model=model,
        gpu=gpu,
        input_len=run.input_len,
        output_len=run.output_len,
        precision=run.precision,
        kv_precision=run.kv_precision or kv_precision or model.kv_precision,
        tensor_parallel=run.tp,
        pipeline_parallel=run.pp,
        data_parallel=run.dp,
        expert_parallel=run.ep,
        server=run.server,
        gpu_memory_utilization=run.gpu_memory_utilization or DEFAULT_MEMORY,
        max_model_len=run.max_model_len,
    )


def public_runs(*files: str) -> tuple[MeasuredRun, ...]:
    """Return the public runs that ship with gpuscout: all, or those of some of `PUBLIC_FILES`.

    Raises UnknownNameError.
    """
    if unknown := [file for file in files if file not in PUBLIC_FILES]:
        raise _unknown(unknown[0])
    return tuple(run for file in files or PUBLIC_FILES for run in _public(file))


def public_file(name: str) -> SourceFile:
    """Return one of `PUBLIC_FILES` as the CSV file it is. Raises UnknownNameError."""
    if name not in PUBLIC_FILES:
        raise _unknown(name)
    data = importlib.resources.files(__package__).joinpath(f"{name}.csv.gz").read_bytes()
    return SourceFile(f"public:{name}", data)


def _unknown(name: str) -> UnknownNameError:
    hint = f"known: {', '.join(PUBLIC_FILES)}"
    return UnknownNameError("public runs", name, nearest(name, PUBLIC_FILES), hint=hint)


def read_runs(file: Path) -> tuple[MeasuredRun, ...]:
    """Return the runs of a CSV file. Raises InputError with file, line and column of what is wrong."""
    return comparable_runs(file)[0]


def comparable_runs(file: Path) -> tuple[tuple[MeasuredRun, ...], int]:
    """Return the runs of a CSV file, and how many others are at a request rate. Raises what `read_runs` raises."""
    rows = tuple(_rows(SourceFile.open(file).text, str(file)))
    runs = tuple(run for run in rows if run is not None)
    return runs, len(rows) - len(runs)


def runs_digest(runs: Iterable[MeasuredRun]) -> str:
    """Return 16 hexadecimal digits of what was measured, whatever the order of runs or the file's form."""
    lines = sorted(canonical_json(_contents(run)) for run in runs)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


def _contents(run: MeasuredRun) -> list[object]:
    """Return the measured figures; those that only some runs report are present only where they do."""
    plain = [getattr(run, name) for name in _IDENTITY]
    facts = {name: value for name in _TOLD if (value := getattr(run, name)) not in (None, ())}
    if run.latency_stat != "mean":
        facts["latency_stat"] = run.latency_stat
    return [*plain, facts] if facts else plain


@functools.cache
def _public(file: str) -> tuple[MeasuredRun, ...]:
    return tuple(run for run in _rows(public_file(file).text, f"{file}.csv") if run is not None)


def _rows(text: str, file: str) -> Iterator[MeasuredRun | None]:
    """Yield the runs of a CSV text, None for one at a request rate."""
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
    """Return the run of a line that has all of `_REQUIRED`; a GPU of the catalogue under its own name."""
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
        **stated_sizes(says),
        precision=Precision(says["precision"]),
        kv_precision=None if kv_precision is None else Precision(kv_precision),
        server=server,
        server_version=says.get("server_version"),
        input_len=reported.input_len or 0,
        output_len=reported.output_len or 0,
        concurrency=reported.load and reported.load.concurrency,
        measured_on=day_or_month(reported.measured_on, reported.details),
        source=reported.source,
        details=reported.details,
        **figures_of(reported),
    )


def day_or_month(day: date | None, details: Mapping[str, Any]) -> str | None:
    """Return the date of a run, as exact as its source states it: a day, a month or a year."""
    return None if day is None else details.get("measured_in") or day.isoformat()


def stated_sizes(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the parallelism, the share of memory and the longest sequence that are stated as text, by field."""
    share, longest = values.get("gpu_memory_utilization"), values.get("max_model_len")
    return {
        **{name: int(values.get(name, 1)) for name in SHORT_SIZES},
        "gpu_memory_utilization": None if share is None else float(share),
        "max_model_len": None if longest is None else int(longest),
    }


def deployed(case: Case) -> dict[str, Any]:
    """Return the settings of a case, by the names of `MeasuredRun`."""
    return {
        "model": case.model.name,
        "gpu": case.gpu.name,
        **{short: getattr(case, name) for short, name in SHORT_SIZES.items()},
        **{name: getattr(case, name) for name in _SAME},
    }


def mean_in_flight(details: Mapping[str, Any], requests_per_s: float | None, e2e_s: float | None) -> float | None:
    """Return the mean number of requests in flight: as measured, or by Little's law; None: not known."""
    mean = details.get("mean_concurrency")
    if isinstance(mean, float):
        return mean
    return requests_per_s * e2e_s if requests_per_s and e2e_s else None


def figures_of(reported: Reported) -> dict[str, Any]:
    """Return the fields a `MeasuredRun` shares with a file's run: figures, percentiles, the tool's own."""
    return {name: getattr(reported, name) for name in _FIGURES}
