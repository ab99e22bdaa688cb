"""llm-d: Benchmark Report v0.2 and v0.2.1, as YAML or JSON.

Every block of figures carries its unit. What `time_per_output_token` and `inter_token_latency` mean depends on the
tool that loaded the server (`scenario.load.standardized.tool`): see `_ITL_OF_TOOL`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpuscout.store.measured.formats.arguments import deployment, drafts_tokens
from gpuscout.store.measured.formats.node import Node, day_of, scalars, scaled
from gpuscout.store.measured.formats.reported import Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.errors import InputError

_UNITS: dict[str, dict[str, float]] = {
    "ms": {"ms": 1.0, "s": 1e3, "ms/token": 1.0, "s/token": 1e3},
    "s": {"ms": 1e-3, "s": 1.0},
    "tokens/s": {"tokens/s": 1.0},
    "requests/s": {"queries/s": 1.0},
    "tokens": {"count": 1.0},
}
# The block that holds (E2E - TTFT) / (n - 1) of each request. The other one pools the gaps, but for GuideLLM, whose
# time per output token counts the first token in.
_ITL_OF_TOOL = {
    "vllm-benchmark": "time_per_output_token",
    "inferencemax": "time_per_output_token",
    "inference-perf": "time_per_output_token",
    "guidellm": "inter_token_latency",
    "aiperf": "inter_token_latency",
}
_POOLS_GAPS = ("vllm-benchmark", "inferencemax", "inference-perf")
_PERCENTILE = re.compile(r"p(\d+)(?:p(\d+))?")


def recognises(file: SourceFile) -> bool:
    first = next(_reports(file), None) if file.first is not None else None
    return first is not None and {"version", "run", "results"} <= set(first.value if first.is_mapping else ())


def read(file: SourceFile) -> Contents:
    return Contents(tuple(_run(report) for report in _reports(file)))


def _reports(file: SourceFile) -> Iterator[Node]:
    """Yield one report a document, or a list of them."""
    for document in file.documents:
        if isinstance(document.value, list):
            yield from document.elements()
        else:
            yield document


def _run(document: Node) -> Reported:
    version = document.mapping()["version"].required()
    if str(version.value) not in ("0.2", "0.2.1"):
        raise version.wrong("expected version 0.2 or 0.2.1")
    run = document["run"].mapping()
    load = document["scenario"]["load"]["standardized"]
    found = document["results"]["request_performance"]["aggregate"].mapping()
    latency, throughput, requests = found["latency"], found["throughput"], found["requests"]
    tool = load["tool"].text()
    canonical = _ITL_OF_TOOL.get(tool or "")
    blocks = {"ttft_ms": latency["time_to_first_token"], "e2e_s": latency["request_latency"]}
    if canonical:
        blocks["itl_ms"] = latency[canonical]
    if tool in _POOLS_GAPS:
        blocks["token_gap_ms"] = latency["inter_token_latency"]
    percentiles: dict[tuple[str, float], float] = {}
    for metric, block in blocks.items():
        percentiles |= {(metric, p): value for p, value in _percentiles(block, metric.rpartition("_")[2]).items()}
    native = canonical or "inter_token_latency"
    concurrency, rate = load["concurrency"].limit(), load["rate_qps"].rate()
    told_load = not (load["concurrency"].missing and load["rate_qps"].missing)
    how = Load.of(concurrency, rate) if told_load else None
    stack = document["scenario"]["stack"]
    stated, arguments = _deployment(stack)
    time = run["time"]["start"] if "start" in run["time"] else run["time"]["end"]
    return Reported(
        place=document.place,
        tool=f"llm-d ({tool})" if tool else "llm-d",
        tool_version=load["tool_version"].text(),
        label=next(
            (text for part in stack.elements() if (text := part["metadata"]["label"].text())), run["eid"].text()
        ),
        run=" ".join(filter(None, (run["uid"].required().text(), _moment_text(time)))),
        measured_on=day_of(time.moment()),
        deployment=stated,
        input_len=load["input_seq_len"]["value"].whole(),
        output_len=load["output_seq_len"]["value"].whole(),
        mean_input_len=_mean(requests["input_length"], "tokens"),
        mean_output_len=_mean(requests["output_length"], "tokens"),
        load=how,
        ttft_ms=_mean(blocks["ttft_ms"], "ms"),
        itl_ms=_mean(blocks["itl_ms"], "ms") if canonical else None,
        e2e_s=_mean(blocks["e2e_s"], "s"),
        output_tokens_per_s=_mean(throughput["output_token_rate"], "tokens/s"),
        requests_per_s=_mean(throughput["request_rate"], "requests/s"),
        native_itl_name=native,
        native_itl_ms=_mean(latency[native], "ms"),
        percentiles=percentiles,
        details=known(
            {
                "completed": _completed(requests),
                "failed": requests["failures"].count(),
                "incomplete": requests["incomplete"].count(),
                "dataset": load["source"].text(),
                "stage": load["stage"].count(),
                "max_concurrency": concurrency if how and concurrency != how.concurrency else None,
                "input_len_std": requests["input_length"]["stddev"].figure(),
                "output_len_std": requests["output_length"]["stddev"].figure(),
                "mean_token_gap_ms": _mean(blocks["token_gap_ms"], "ms") if tool in _POOLS_GAPS else None,
                "drafts_tokens": drafts_tokens(arguments) or None,
                "shared_prefixes": "prefix" in load or None,
                "server_arguments": arguments,
                "description": run["description"].prose(),
            }
        ),
    )


def _deployment(stack: Node) -> tuple[dict[str, str], dict[str, object]]:
    """Return the entries of the stack's inference engines, and their arguments.

    Several replicas that are all alike are ranks of data parallelism. A deployment that splits prefill and decode, or
    mixes engines, is none that a case can describe: InputError.
    """
    engines = [part for part in stack.elements() if part["standardized"]["kind"].text() == "inference_engine"]
    if not engines:
        return {}, {}
    # Without servers for prefill, those for decode do both.
    split = [engine for engine in engines if engine["standardized"]["role"].text() == "prefill"]
    if split:
        raise split[0]["standardized"]["role"].wrong("prefill and decode on servers of their own cannot be compared")
    kinds = {repr({**engine["standardized"].value, "replicas": None}) for engine in engines}
    if len(kinds) > 1:
        raise stack.wrong("expected replicas that are all alike")
    first = engines[0]["standardized"]
    accelerator = first["accelerator"]
    arguments = scalars(engines[0]["native"]["args"])
    stated = deployment(arguments)
    for field, node in (("gpu", accelerator), ("server", first), ("server_version", first), ("model", first["model"])):
        key = {"gpu": "model", "server": "tool", "server_version": "tool_version", "model": "name"}[field]
        if text := node[key].text():
            stated[field] = text
    for field in ("tp", "pp", "dp", "ep"):
        if size := accelerator["parallelism"][field].size():
            stated[field] = str(size)
    replicas = sum(engine["standardized"]["replicas"].size() or 1 for engine in engines)
    _check_count(accelerator["count"], stated, replicas)
    if replicas > 1:
        if stated.get("ep", "1") != "1":
            raise accelerator["parallelism"].wrong(f"{replicas} replicas with expert parallelism cannot be one case")
        stated["dp"] = str(int(stated.get("dp", "1")) * replicas)
    return stated, arguments


def _check_count(count: Node, parallelism: dict[str, str], replicas: int) -> None:
    """Check `count`, which may be of one replica or of all; anything else contradicts the parallelism."""
    stated = count.size()
    sizes = [parallelism.get(field, "1") for field in ("tp", "pp", "dp")]
    if stated is None or "tp" not in parallelism or not all(size.isdecimal() for size in sizes):
        return
    gpus = int(sizes[0]) * int(sizes[1]) * int(sizes[2])
    if stated not in (gpus, gpus * replicas):
        raise InputError(f"{count.wrong(f'expected tp x pp x dp = {gpus} GPUs').message}, in {replicas} replicas")


def _moment_text(time: Node) -> str | None:
    moment = time.moment()
    return None if moment is None else moment.isoformat()


def _completed(requests: Node) -> int | None:
    total = requests["total"].count()
    lost = (requests["failures"].count() or 0) + (requests["incomplete"].count() or 0)
    return None if total is None else max(total - lost, 0)


def _scale(block: Node, unit: str) -> float:
    stated = block.mapping()["units"].required()
    scale = _UNITS[unit].get(stated.text() or "")
    if scale is None:
        raise stated.wrong(f"expected {' or '.join(_UNITS[unit])}")
    return scale


def _mean(block: Node, unit: str) -> float | None:
    if block.missing:
        return None
    value = block["mean"].required().figure()
    return None if value is None else scaled(value, _scale(block, unit))


def _percentiles(block: Node, unit: str) -> dict[float, float]:
    """Return the percentiles: p0p1 is 0.1 %, p50 50 %, p99p9 99.9 %."""
    percentiles = {}
    for key, node in block.items():
        match = _PERCENTILE.fullmatch(key)
        if match and (value := node.figure()):
            percentiles[float(f"{match[1]}.{match[2] or 0}")] = scaled(value, _scale(block, unit))
    return percentiles
