"""AIPerf and GenAI-Perf: `profile_export_aiperf.json`, with or without `schema_version`, up to 1.4.

Up to schema 1.1 the load stands in `input_config.loadgen`, later in `input_config.phases`, of which those that are
excluded from the results (warm-up) do not count. Every metric carries its unit. `inter_token_latency` is (E2E - TTFT) /
(n - 1) of each request, `inter_chunk_latency` pools the gaps. The GPU is only known where telemetry was collected, and
then by name, not by how many served.
"""

from __future__ import annotations

import re

from gpuscout.store.measured.formats.node import Node, day_of, scaled
from gpuscout.store.measured.formats.reported import Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.errors import InputError

_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "ns": 1e-9}
_UNITS: dict[str, dict[str, float]] = {
    "ms": {unit: 1e3 * seconds for unit, seconds in _SECONDS.items()},
    "s": _SECONDS,
    "tokens/s": {"tokens/sec": 1.0, "tokens/s": 1.0, "tok/s": 1.0},
    "requests/s": {"requests/sec": 1.0, "requests/s": 1.0, "req/s": 1.0},
    "tokens": {"tokens": 1.0},
}
_METRICS = {
    "time_to_first_token": ("ttft_ms", "ms"),
    "inter_token_latency": ("itl_ms", "ms"),
    "inter_chunk_latency": ("token_gap_ms", "ms"),
    "request_latency": ("e2e_s", "s"),
}
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")


def recognises(file: SourceFile) -> bool:
    first = file.first
    return first is not None and any("unit" in first[key] for key in ("request_throughput", *_METRICS))


def read(file: SourceFile) -> Contents:
    runs = []
    for document in file.documents:
        if document.mapping()["was_cancelled"].flag():
            raise InputError(
                f"{document.file}{document.place}: was_cancelled: the benchmark was cancelled",
                hint="its figures cover a part of it only",
            )
        if document["is_complete"].flag() is False:
            raise InputError(
                f"{document.file}{document.place}: is_complete: the benchmark did not end",
                hint="its figures cover a part of it only",
            )
        runs.append(_run(document))
    return Contents(tuple(runs))


def _run(document: Node) -> Reported:
    means: dict[str, float | None] = {}
    percentiles: dict[tuple[str, float], float] = {}
    for key, (metric, unit) in _METRICS.items():
        node = document[key]
        means[metric] = _average(node, unit)
        for name, entry in node.items():
            match = _PERCENTILE.fullmatch(name)
            if match and (value := entry.figure()):
                percentiles[metric, float(match[1])] = scaled(value, _scale(node, unit))
    config = document["input_config"]
    stated: dict[str, str] = {}
    names = [*config["endpoint"]["model_names"].elements(), *(m["name"] for m in config["models"]["items"].elements())]
    models = [text for node in names if (text := node.text())]
    if len(models) == 1:
        stated["model"] = models[0]
    gpus = _gpus(document)
    if len(set(gpus)) == 1:
        stated["gpu"] = gpus[0]
    concurrency, rate = _load(config)
    load = None if (concurrency, rate) == (None, None) else Load.of(concurrency, rate)
    input_len, output_len = _lengths(config)
    started = document["start_time"]
    return Reported(
        place=document.place,
        tool="aiperf",
        tool_version=document["aiperf_version"].text(),
        run=" ".join(part for part in (document["benchmark_id"].text(), started.text()) if part) or None,
        measured_on=day_of(started.moment()),
        deployment=stated,
        input_len=input_len,
        output_len=output_len,
        mean_input_len=_average(document["input_sequence_length"], "tokens"),
        mean_output_len=_average(document["output_sequence_length"], "tokens"),
        load=load,
        ttft_ms=means["ttft_ms"],
        itl_ms=means["itl_ms"],
        e2e_s=means["e2e_s"],
        output_tokens_per_s=_average(document["output_token_throughput"], "tokens/s"),
        requests_per_s=_average(document["request_throughput"], "requests/s"),
        native_itl_name="inter_token_latency" if means["itl_ms"] else "inter_chunk_latency",
        native_itl_ms=means["itl_ms"] or means["token_gap_ms"],
        percentiles=percentiles,
        details=known(
            {
                "completed": document["request_count"]["avg"].count(),
                "failed": sum(kind["count"].count() or 0 for kind in document["error_summary"].elements()),
                "duration_s": _average(document["benchmark_duration"], "s"),
                "max_concurrency": concurrency if load and concurrency != load.concurrency else None,
                "mean_concurrency": document["effective_concurrency"]["avg"].figure(),
                "mean_token_gap_ms": means["token_gap_ms"],
                "input_len_std": document["input_sequence_length"]["std"].figure(),
                "output_len_std": document["output_sequence_length"]["std"].figure(),
                "goodput_requests_per_s": _average(document["goodput"], "requests/s"),
                "streaming": config["endpoint"]["streaming"].flag(),
                "gpus_seen": len(gpus) or None,
            }
        ),
    )


def _load(config: Node) -> tuple[int | None, float | None]:
    """Return the concurrency and the request rate.

    Raises InputError where several phases count, whose loads are mixed.
    """
    if config["phases"].missing:
        return config["loadgen"]["concurrency"].size(), config["loadgen"]["request_rate"].rate()
    phases = [phase for phase in config["phases"].elements() if not phase.mapping()["exclude_from_results"].flag()]
    if len(phases) != 1:
        raise config["phases"].wrong(f"{len(phases)} phases count for the results: expected one load")
    [phase] = phases
    return phase["concurrency"].size(), phase["rate"].rate()


def _lengths(config: Node) -> tuple[int | None, int | None]:
    """Return the input and output tokens that a request was meant to have."""
    for dataset in config["datasets"].elements():
        prompts = dataset["prompts"]
        return prompts["isl"]["mean"].whole(), prompts["osl"]["mean"].whole()
    prompt = config["input"]["prompt"]
    return prompt["input_tokens"]["mean"].size(), prompt["output_tokens"]["mean"].size()


def _scale(metric: Node, unit: str) -> float:
    """Return the factor that brings the metric's figures to `unit`."""
    if metric.missing:
        return 1.0
    stated = metric.mapping()["unit"].required()
    scale = _UNITS[unit].get((stated.text() or "").casefold())
    if scale is None:
        raise stated.wrong(f"expected {' or '.join(_UNITS[unit])}")
    return scale


def _average(metric: Node, unit: str) -> float | None:
    value = metric["avg"].figure()
    return None if value is None else scaled(value, _scale(metric, unit))


def _gpus(document: Node) -> list[str]:
    """Return the names of all GPUs that telemetry saw."""
    names = []
    for _, endpoint in document["telemetry_data"]["endpoints"].items():
        for _, gpu in endpoint["gpus"].items():
            if name := gpu["gpu_name"].text():
                names.append(name)
    return names
