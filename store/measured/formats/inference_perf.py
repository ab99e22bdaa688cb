"""inference-perf: the `stage_N_lifecycle_metrics.json` of one stage of load, as 0.7 writes it.

All times are seconds. `time_per_output_token` divides by tokens that were counted again from the text, and
`inter_token_latency` pools the gaps between them, so neither is the ITL, which follows from the end-to-end latency, the
TTFT and the tokens that were served. The file names neither model nor deployment; the summary of several stages mixes
their loads and is refused. A stage driven by concurrency also has a rate, at which requests were handed out.
"""

from __future__ import annotations

import re

from gpuscout.store.measured.formats.node import Node, scaled
from gpuscout.store.measured.formats.reported import Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.errors import InputError

_METRICS = {
    "time_to_first_token": ("ttft_ms", 1e3),
    "request_latency": ("e2e_s", 1.0),
    "inter_token_latency": ("token_gap_ms", 1e3),
}
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)|median")


def recognises(file: SourceFile) -> bool:
    first = file.first
    return first is not None and "load_summary" in first and "successes" in first


def read(file: SourceFile) -> Contents:
    runs, notes = [], []
    for stage in file.documents:
        if stage.mapping()["successes"].required().mapping()["count"].required().count() == 0:
            notes.append(f"{stage.file}{stage.place}: no request succeeded, left out")
        else:
            runs.append(_run(stage))
            if "time_per_output_token" in stage["successes"]["latency"]:
                note = "ITL follows from latencies and served tokens; time_per_output_token counts the text again"
                notes.append(f"{stage.file}{stage.place}: {note}")
    return Contents(tuple(runs), tuple(notes))


def _run(stage: Node) -> Reported:
    load, sound = stage["load_summary"].mapping(), stage["successes"]
    concurrency, rate = load["concurrency"].size(), load["requested_rate"].rate()
    if concurrency is None and rate is None:
        raise InputError(
            f"{stage.file}{stage.place}: a summary of stages whose loads differ",
            hint="import the stages themselves: stage_0_lifecycle_metrics.json and so on",
        )
    means: dict[str, float | None] = {}
    percentiles: dict[tuple[str, float], float] = {}
    for key, (metric, scale) in _METRICS.items():
        node = sound["latency"][key]
        value = node["mean"].figure()
        means[metric] = None if value is None else scaled(value, scale)
        for name, entry in node.items():
            match = _PERCENTILE.fullmatch(name)
            if match and (value := entry.figure()):
                percentiles[metric, float(match[1] or 50)] = scaled(value, scale)
    throughput, recounted = sound["throughput"], sound["latency"]["time_per_output_token"]["mean"].figure()
    served = sound["output_tokens"] if "output_tokens" in sound else sound["output_len"]
    return Reported(
        place=stage.place,
        tool="inference-perf",
        mean_input_len=(sound["prompt_tokens"] if "prompt_tokens" in sound else sound["prompt_len"])["mean"].figure(),
        mean_output_len=served["mean"].figure(),
        load=Load("closed_loop", concurrency) if concurrency is not None else Load.of(None, rate),
        ttft_ms=means["ttft_ms"],
        e2e_s=means["e2e_s"],
        output_tokens_per_s=throughput["output_tokens_per_sec"].figure(),
        requests_per_s=throughput["requests_per_sec"].figure(),
        native_itl_name="time_per_output_token",
        native_itl_ms=None if recounted is None else scaled(recounted, 1e3),
        percentiles=percentiles,
        details=known(
            {
                "completed": sound["count"].count(),
                "failed": stage["failures"]["count"].count(),
                "duration_s": stage["benchmark_time_seconds"].figure(),
                "achieved_rate": load["achieved_rate"].figure(),
                "mean_token_gap_ms": means["token_gap_ms"],
                "shared_prefixes": (sound["prompt_tokens"]["cached"].figure() or 0) > 0 or None,
            }
        ),
    )
