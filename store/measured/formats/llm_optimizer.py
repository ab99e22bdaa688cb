"""llm-optimizer: the JSON of `--output-json`, its `.jsonl` sibling, and single results of its benchmark client.

Latencies are milliseconds; `tpot` is (E2E - TTFT) / (n - 1) of each request, `itl` pools the gaps of all. The best
configurations it lists are copies of test results and are not read. `results.backend` is always "vllm", so the server
is taken from its command; `gpu_count` may count the host's GPUs, so the GPUs follow from the server's arguments.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuscout.store.measured.formats.arguments import deployment, drafts_tokens
from gpuscout.store.measured.formats.flat import flat_figures, is_flat_result, reported_figures
from gpuscout.store.measured.formats.node import Node, scalars
from gpuscout.store.measured.formats.reported import Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.servers import REGISTRY


def recognises(file: SourceFile) -> bool:
    first = file.first
    if first is None:
        return False
    if "test_results" in first or ("results" in first and "config" in first):
        return True
    return is_flat_result(first) and "model_id" not in first and "mean_e2el_ms" not in first


def read(file: SourceFile) -> Contents:
    runs, notes = [], []
    for entry, shared in _entries(file):
        results = entry["results"]
        if results.missing:  # a result of its benchmark client alone
            results = entry
        if results.mapping()["completed"].required().count() == 0:
            notes.append(f"{entry.file}{entry.place}: no request succeeded, left out")
        else:
            runs.append(_run(entry, results, shared))
    return Contents(tuple(runs), tuple(notes))


def _entries(file: SourceFile) -> Iterator[tuple[Node, Node]]:
    """Yield every test result, with what is said of all tests of the file."""
    for document in file.documents:
        tests = document.mapping()["test_results"]
        if tests.missing:
            yield document, document["metadata"]
        for entry in tests.elements():
            yield entry.mapping(), document["metadata"]


def _run(entry: Node, results: Node, shared: Node) -> Reported:
    figures = flat_figures(results)
    about, client = entry["metadata"], entry["config"]["client_args"]
    arguments = scalars(entry["config"]["server_args"])
    stated = deployment(arguments)
    for field, key in (("gpu", "gpu_type"), ("model", "model_tag")):
        said = about[key].text() or shared[key].text()
        if said and said.casefold() != "unknown":
            stated[field] = said
    command = entry["cmd"].prose() or ""
    for server in REGISTRY.values():
        if server.command is not None and server.command.search(command):
            stated["server"] = server.name
    concurrency = client["max_concurrency"].size() or results["max_concurrency"].size()
    rate = client["request_rate"].rate() or results["request_rate"].rate()
    load = Load.of(concurrency, rate)
    completed = results["completed"].count() or 1
    return Reported(
        place=entry.place,
        tool="llm-optimizer",
        deployment=stated,
        input_len=results["random_input_len"].size() or about["input_tokens"].size() or shared["input_len"].size(),
        output_len=results["random_output_len"].size() or about["output_tokens"].size() or shared["output_len"].size(),
        load=load,
        **reported_figures(figures, results, completed),
        details=known(
            {
                "completed": completed,
                "duration_s": results["duration"].figure(),
                "dataset": results["dataset_name"].text(),
                "max_concurrency": concurrency if concurrency != load.concurrency else None,
                "mean_concurrency": results["concurrency"].figure(),
                "mean_token_gap_ms": figures.means.get("token_gap_ms"),
                "drafts_tokens": drafts_tokens(arguments) or (results["accept_length"].number() or 0) > 1 or None,
                "server_arguments": arguments,
                "gpu_count_stated": about["gpu_count"].size() or shared["gpu_count"].size(),
            }
        ),
    )
