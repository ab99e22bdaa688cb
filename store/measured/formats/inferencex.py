"""InferenceX (formerly InferenceMAX): the list of rows that its public interface answers, one row a run.

Times are seconds; `tpot` is (E2E - TTFT) / (n - 1) of each request, `itl` pools the gaps. `conc` is of the whole
deployment. On rows of one server (not disaggregated) the prefill fields repeat the decode fields, and the number of
GPUs is the larger of `decode_tp` and `decode_ep`: `num_decode_gpu` multiplies them. `decode_dp_attention` is one rank
of attention a GPU. Older rows have medians in place of means. Lengths are uniform in 0.8 to 1.0 of the nominal ones,
which are kept as lengths. The data are published for reuse with attribution: every run names its source.
"""

from __future__ import annotations

import re

from gpuscout.store.measured.formats.node import Node, day_of, scaled
from gpuscout.store.measured.formats.reported import Contents, Load, Reported, known
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.sweeps.precision import precision_called, precision_detail
from gpuscout.sweeps.servers import MEASURED_SERVERS, server_called

SOURCE = "InferenceX"
ATTRIBUTION = "InferenceX by SemiAnalysis"
# Its short names of models. Others are told by a mapping file: labels are short names.
MODELS = {
    "dsr1": "deepseek-ai/DeepSeek-R1-0528",
    "dsv4": "deepseek-ai/DeepSeek-V4-Pro",
    "glm5": "zai-org/GLM-5-FP8",
    "glm5.1": "zai-org/GLM-5.1-FP8",
    "gptoss": "openai/gpt-oss-120b",
    "gptoss120b": "openai/gpt-oss-120b",
    "kimik2.5": "moonshotai/Kimi-K2.5",
    "kimik2.6": "moonshotai/Kimi-K2.6",
    "llama70b": "meta-llama/Llama-3.3-70B-Instruct",
    "minimax2.5": "MiniMaxAI/MiniMax-M2.5",
    "minimaxm2.5": "MiniMaxAI/MiniMax-M2.5",
    "minimaxm2.7": "MiniMaxAI/MiniMax-M2.7",
    "qwen3.5": "Qwen/Qwen3.5-397B-A17B",
}
_METRICS = {"ttft": ("ttft_ms", 1e3), "tpot": ("itl_ms", 1e3), "itl": ("token_gap_ms", 1e3), "e2el": ("e2e_s", 1.0)}
_FIGURE = re.compile(r"(?P<what>mean|median|p(?P<percent>\d{1,2}(?:\.\d+)?))_(?P<metric>ttft|tpot|itl|e2el)")
_VERSION = re.compile(r"v?(\d+\.\d+(?:\.\d+)?(?:\.?(?:rc|post|dev)\d+(?:\.post\d+)?)*)")


def recognises(file: SourceFile) -> bool:
    first = file.first
    row = first.elements()[0] if first is not None and isinstance(first.value, list) and first.value else first
    return row is not None and all(name in row for name in ("hardware", "framework", "conc", "metrics"))


def read(file: SourceFile) -> Contents:
    runs, without = [], 0
    for document in file.documents:
        for row in document.elements() if isinstance(document.value, list) else [document]:
            if row.mapping()["isl"].missing or row["osl"].missing:
                without += 1
            else:
                runs.append(_run(row))
    notes = (f"{file.name}: {without:,} rows without fixed lengths are left out",) if without else ()
    return Contents(tuple(runs), notes)


def _run(row: Node) -> Reported:
    metrics = row["metrics"].mapping()
    means: dict[str, float] = {}
    percentiles: dict[tuple[str, float], float] = {}
    for name, node in metrics.items():
        match = _FIGURE.fullmatch(name)
        value = node.figure() if match else None
        if match is None or value is None:
            continue
        metric, scale = _METRICS[match["metric"]]
        if match["what"] == "mean":
            means[metric] = scaled(value, scale)
        else:
            percentiles[metric, float(match["percent"] or 50)] = scaled(value, scale)
    medians = not {"ttft_ms", "itl_ms"} & means.keys()
    if medians:
        means = {metric: value for (metric, percent), value in percentiles.items() if percent == 50}
    disaggregated = row["disagg"].flag() or False
    gpus, sizes = _sizes(row, disaggregated=disaggregated)
    per_gpu = metrics["output_tput_per_gpu"].figure()
    decoding = row["num_decode_gpu"].count() or gpus if disaggregated else gpus
    method = row["spec_method"].text() or "none"
    image, model = row["image"].text(), row["model"].required().text() or ""
    precision = row["precision"].required().text() or ""
    return Reported(
        place=row.place,
        tool="InferenceX",
        label=model,
        run=row["run_url"].text(),
        source=SOURCE,
        measured_on=day_of(row["date"].moment()),
        deployment={
            "model": MODELS.get(model, model),
            "gpu": (row["hardware"].required().text() or "").upper(),
            "precision": precision_called(precision) or precision,
            "server": _server(row["framework"].required()),
            **({"server_version": version} if (version := _version(image)) else {}),
            **{name: str(size) for name, size in sizes.items()},
        },
        input_len=row["isl"].size(),
        output_len=row["osl"].size(),
        load=Load("closed_loop", row["conc"].required().size()),
        ttft_ms=means.get("ttft_ms"),
        itl_ms=means.get("itl_ms"),
        e2e_s=means.get("e2e_s"),
        output_tokens_per_s=None if per_gpu is None else scaled(per_gpu, decoding),
        native_itl_name="tpot",
        native_itl_ms=means.get("itl_ms"),
        percentiles=percentiles,
        details=known(
            {
                "attribution": ATTRIBUTION,
                "run_url": row["run_url"].text(),
                "image": image,
                "framework": row["framework"].text(),
                "latency_stat": "median" if medians else None,
                "drafts_tokens": method != "none" or None,
                "spec_decoding": method if method != "none" else None,
                "disaggregated": disaggregated or None,
                "multinode": row["is_multinode"].flag() or None,
                "prefill": _workers(row, "prefill") if disaggregated else None,
                "decode": _workers(row, "decode") if disaggregated else None,
                "precision_detail": precision_detail(precision),
                "power_w": metrics["avg_power_w"].figure(),
                "joules_per_output_token": metrics["joules_per_output_token"].figure(),
                "mean_token_gap_ms": means.get("token_gap_ms"),
            }
        ),
    )


def _sizes(row: Node, *, disaggregated: bool) -> tuple[int, dict[str, int]]:
    """Return the GPUs of the deployment, and its parallelism; of a disaggregated one that of its decode workers."""
    tp, ep = row["decode_tp"].size() or 1, row["decode_ep"].size() or 1
    if disaggregated:
        gpus = (row["num_prefill_gpu"].count() or 0) + (row["num_decode_gpu"].count() or 0) or max(tp, ep)
        tp = 1 if row["decode_dp_attention"].flag() or gpus % tp else tp
    else:
        gpus = max(tp, ep) * max(row["decode_num_workers"].count() or 1, 1)
        tp = 1 if row["decode_dp_attention"].flag() else tp
    return gpus, {"tp": tp, "dp": gpus // tp, "ep": ep}


def _workers(row: Node, role: str) -> dict[str, object]:
    names = ("tp", "ep", "dp_attention", "num_workers")
    return known({name: row[f"{role}_{name}"].value for name in names} | {"gpus": row[f"num_{role}_gpu"].value})


def _server(framework: Node) -> str:
    """Return the server of a framework such as vllm, trt or dynamo-sglang; another one as it is called."""
    name = (framework.text() or "").casefold()
    return next((server for part in name.split("-") if (server := server_called(part)) in MEASURED_SERVERS), name)


def _version(image: str | None) -> str | None:
    """Return the version in the tag of an image: 0.5.12 of lmsysorg/sglang:v0.5.12-rocm700-mi35x; else the tag."""
    tag = (image or "").rpartition(":")[2] if ":" in (image or "") else ""
    match = _VERSION.match(tag)
    return match[1] if match else tag or None
