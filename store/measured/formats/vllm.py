"""vLLM: the JSON of `vllm bench serve --save-result`, single, appended (`--append-result`) or of `vllm bench sweep`.

Means, medians, deviations and percentiles are milliseconds. `tpot` is (E2E - TTFT) / (n - 1) of each request, `itl`
the gaps between chunks of all requests in one pool. The file names neither GPU, parallelism nor server; `--metadata`
and the settings of a sweep stand beside the figures and are read as far as they say so.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuscout.store.measured.formats.arguments import deployment, drafts_tokens, normalised
from gpuscout.store.measured.formats.flat import flat_figures, is_figure, is_flat_result, reported_figures
from gpuscout.store.measured.formats.node import Node, day_of, scalars
from gpuscout.store.measured.formats.reported import Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile

_OWN_KEYS = {
    "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate",
    "burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
    "request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests", "rtfx", "run_number", "ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps",
}  # fmt: skip


def recognises(file: SourceFile) -> bool:
    first = next(_results(file), None) if file.first is not None else None
    return first is not None and is_flat_result(first) and "mean_e2e_latency_ms" not in first


def read(file: SourceFile) -> Contents:
    runs, notes = [], []
    for result in _results(file):
        if result.mapping()["completed"].required().count() == 0:
            notes.append(f"{result.file}{result.place}: no request succeeded, left out")
        else:
            runs.append(_run(result))
    return Contents(tuple(runs), tuple(notes))


def _results(file: SourceFile) -> Iterator[Node]:
    for document in file.documents:
        if isinstance(document.value, list):
            yield from document.elements()
        else:
            yield document


def _run(result: Node) -> Reported:
    figures = flat_figures(result)
    completed = result["completed"].count() or 1
    if "ramp_up_strategy" in result:
        raise result["ramp_up_strategy"].wrong("a load that grows cannot be compared")
    concurrency, rate = result["max_concurrency"].size(), result["request_rate"].rate()
    extra = {key: value for key, value in scalars(result).items() if key not in _OWN_KEYS and not is_figure(key)}
    stated = deployment(extra)
    if model := result["model_id"].text():
        stated["model"] = model
    sent = result["num_prompts"].count()
    load = Load.of(concurrency, rate)
    if load.concurrency and sent and sent < load.concurrency:  # there are never more in flight than there are
        load = load._replace(concurrency=sent)
    date, number = result["date"], result["run_number"].number()
    targets = normalised(extra)
    return Reported(
        place=result.place,
        tool="vllm bench serve",
        label=result["label"].text(),
        run=" ".join(part for part in (date.text(), None if number is None else f"run {number:g}") if part) or None,
        measured_on=day_of(date.moment()),
        deployment=stated,
        input_len=Node(targets.get("random_input_len"), result.file, "random_input_len").size(),
        output_len=Node(targets.get("random_output_len"), result.file, "random_output_len").size(),
        load=load,
        **reported_figures(figures, result, completed),
        details=known(
            {
                "completed": completed,
                "failed": result["failed"].count(),
                "duration_s": result["duration"].figure(),
                "backend": result["backend"].text(),
                "max_concurrency": concurrency if concurrency != load.concurrency else None,
                "burstiness": result["burstiness"].number(),
                "total_tokens_per_s": result["total_token_throughput"].figure(),
                "goodput_requests_per_s": result["request_goodput"].figure(),
                "mean_token_gap_ms": figures.means.get("token_gap_ms"),
                "drafts_tokens": drafts_tokens(extra) or "spec_decode_acceptance_rate" in result or None,
                "metadata": extra,
            }
        ),
    )
