"""GuideLLM: its JSON report as 0.3, schema 1 (0.4 to 0.6) and schema 2 (from 0.7) write it; many runs in a file.

Figures are those of successful requests. `inter_token_latency_ms` is (E2E - TTFT) / (n - 1); `time_per_output_token_ms`
counts the first token in and is only noted. Keys that end in `_ms` are milliseconds, `request_latency` is seconds.
Percentiles are called p001 (0.1 %), p01 (1 %), p50, p999 (99.9 %).
"""

from __future__ import annotations

import re

from gpuscout.store.measured.formats.arguments import deployment
from gpuscout.store.measured.formats.node import Node, day_of, scalars
from gpuscout.store.measured.formats.reported import Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile

_METRICS = {
    "time_to_first_token_ms": "ttft_ms",
    "inter_token_latency_ms": "itl_ms",
    "request_latency": "e2e_s",
}
_PERCENTILE = re.compile(r"p(\d{2,3})")


def recognises(file: SourceFile) -> bool:
    first = file.first
    return first is not None and isinstance(first["benchmarks"].value, list)


def read(file: SourceFile) -> Contents:
    runs, notes = [], []
    for report in file.documents:
        for entry in report.mapping()["benchmarks"].required().elements():
            if _requests(entry.mapping())["successful"].count() == 0:
                notes.append(f"{entry.file}{entry.place}: no request succeeded, left out")
            else:
                runs.append(_run(report, entry))
    return Contents(tuple(runs), tuple(notes))


def _run(report: Node, entry: Node) -> Reported:
    metrics = entry["metrics"].mapping()
    spec = report["config"]["spec"]
    means: dict[str, float | None] = {}
    percentiles: dict[tuple[str, float], float] = {}
    for key, metric in _METRICS.items():
        found = metrics[key]["successful"]
        means[metric] = found["mean"].figure()
        percentiles |= {(metric, percent): value for percent, value in _percentiles(found).items()}
    labels = scalars(report["config"]["metadata"]["labels"])
    stated = deployment(labels)
    models = (spec["backend"], entry["config"]["backend"], report["args"])
    model = next((text for node in models if (text := node["model"].text())), entry["worker"]["backend_model"].text())
    if model:
        stated["model"] = model
    data = _data(report, entry)
    requests = _requests(entry)
    lengths = {side: metrics[f"{side}_token_count"]["successful"] for side in ("prompt", "output")}
    started = entry["start_time"] if "start_time" in entry else entry["run_stats"]["start_time"]
    identity = entry["config"]["id_"].text() or entry["id_"].text()
    throughput = metrics["output_tokens_per_second"]["successful"]["mean"]
    return Reported(
        place=entry.place,
        tool="guidellm",
        tool_version=report["metadata"]["guidellm_version"].text(),
        label=next((str(labels[key]) for key in ("label", "name") if key in labels), None),
        run=" ".join(str(part) for part in (identity, started.number()) if part) or None,
        measured_on=day_of(started.moment()),
        deployment=stated,
        input_len=_target(data, "prompt_tokens"),
        output_len=_target(data, "output_tokens"),
        mean_input_len=lengths["prompt"]["mean"].figure(),
        mean_output_len=lengths["output"]["mean"].figure(),
        load=_load(entry),
        ttft_ms=means["ttft_ms"],
        itl_ms=means["itl_ms"],
        e2e_s=means["e2e_s"],
        output_tokens_per_s=throughput.required().figure(),
        requests_per_s=metrics["requests_per_second"]["successful"]["mean"].figure(),
        native_itl_name="inter_token_latency_ms",
        native_itl_ms=means["itl_ms"],
        percentiles=percentiles,
        details=known(
            {
                "completed": requests["successful"].count(),
                "failed": requests["errored"].count(),
                "incomplete": requests["incomplete"].count(),
                "duration_s": entry["duration"].figure(),
                "strategy": _strategy(entry)["type_"].text(),
                "data": data or None,
                "shared_prefixes": _shares_prefixes(report) or None,
                "mean_concurrency": metrics["request_concurrency"]["successful"]["mean"].figure(),
                "input_len_std": lengths["prompt"]["std_dev"].figure(),
                "output_len_std": lengths["output"]["std_dev"].figure(),
                "time_per_output_token_ms": metrics["time_per_output_token_ms"]["successful"]["mean"].figure(),
                "labels": labels,
            }
        ),
    )


def _requests(entry: Node) -> Node:
    """Return the numbers of requests that succeeded, failed and were cut off."""
    for node in (entry["run_stats"]["requests_made"], entry["scheduler_metrics"]["requests_made"]):
        if not node.missing:
            return node
    return entry["metrics"]["request_totals"]


def _strategy(entry: Node) -> Node:
    node = entry["config"]["strategy"]
    return entry["args"]["strategy"] if node.missing else node


def _load(entry: Node) -> Load:
    strategy = _strategy(entry).mapping()
    kind = strategy["type_"].required()
    match kind.text():
        case "synchronous":
            return Load("closed_loop", 1)
        case "concurrent":
            return Load("closed_loop", strategy["streams"].required().size())
        case "throughput":
            return Load("offline_maximum")
        case "constant" | "poisson" | "async":
            return Load("request_rate", None, strategy["rate"].required().rate())
        case _:
            raise kind.wrong("expected synchronous, concurrent, throughput, constant or poisson")


def _percentiles(summary: Node) -> dict[float, float]:
    percentiles = {50.0: median} if (median := summary["median"].figure()) else {}
    for key, node in summary["percentiles"].items():
        match = _PERCENTILE.fullmatch(key)
        if match and (value := node.figure()):
            percentiles[int(match[1]) / (10 if len(match[1]) == 3 else 1)] = value
    return percentiles


def _data(report: Node, entry: Node) -> str:
    """Return the source of the requests, as text: a mapping (schema 2), or the command line's own writing."""
    for node in (report["config"]["spec"]["data"], report["args"]["data"], entry["request_loader"]["data"]):
        first = next(iter(node.value), None) if isinstance(node.value, list) else node.value
        if isinstance(first, dict):
            return ",".join(f"{key}={value}" for key, value in first.items() if isinstance(value, int | str))
        if isinstance(first, str):
            return first
    return ""


def _shares_prefixes(report: Node) -> bool:
    data = report["config"]["spec"]["data"]
    return any(not part["prefix_buckets"].missing for part in (data.elements() if isinstance(data.value, list) else ()))


def _target(data: str, key: str) -> int | None:
    """Return the number of tokens asked for, from any way to write it: {'prompt_tokens': 1024}, prompt_tokens=1024."""
    match = re.search(rf"\b{key}['\"]?\s*[:=]\s*(\d{{1,9}})\b", data)
    return int(match[1]) or None if match else None
