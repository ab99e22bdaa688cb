"""Support of llm-optimizer: its names for GPUs and precisions, and the cases that it cannot express."""

from __future__ import annotations

from collections.abc import Collection

from gpuscout.runner.engines.llm_optimizer.output import Finding
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.precision import Precision

# Its H100, H200 and A100 are the SXM parts: no other part of these families has its figures.
_THEIR_GPUS = {
    "A100-SXM-80GB": "A100",
    "A100-SXM-40GB": "A100-40GB",
    "L4": "L4",
    "L20": "L20",
    "L40": "L40",
    "L40S": "L40S",
    "H100-SXM-80GB": "H100",
    "H200-SXM-141GB": "H200",
    "B100": "B100",
    "B200": "B200",
}
_OUR_GPUS = {theirs: ours for ours, theirs in _THEIR_GPUS.items()}
GPUS = tuple(_THEIR_GPUS)

_PRECISIONS = {Precision.FP16: "fp16", Precision.BF16: "bf16", Precision.FP8: "fp8"}
_SERVERS = ("vllm", "sglang")
# It has one precision and keeps the cache in that of the weights.
_KV_PRECISIONS = (Precision.FP16, Precision.BF16, Precision.FP8)
FIXED_MEMORY_UTILIZATION = 0.9


def their_gpu(name: str) -> str | None:
    """Return the tool's name for a GPU of the catalogue; None when it has none of these."""
    return _THEIR_GPUS.get(name)


def our_gpu(name: str) -> str | None:
    """Return the catalogue's name of a GPU of the tool; None when the catalogue has none of these."""
    return _OUR_GPUS.get(name.upper())


def their_precision(precision: Precision) -> str | None:
    """Return the tool's name for a precision of weights; None when it has none of this kind."""
    return _PRECISIONS.get(precision)


def refusal(case: Case, known_gpus: Collection[str] | None) -> tuple[Finding | None, str] | None:
    """Return the reason why the tool cannot be asked about a case, None when it can.

    `known_gpus` are the GPUs of the installed copy; None: not known, it will say so itself. The finding is None for
    what is not supported in another way than a GPU or a precision.
    """
    theirs = their_gpu(case.gpu.name)
    if theirs is None:
        return Finding.UNKNOWN_GPU, f"llm-optimizer has no {case.gpu.name}"
    if known_gpus is not None and theirs not in known_gpus:
        return Finding.UNKNOWN_GPU, f"the installed llm-optimizer has no {theirs}"
    if not GPUCatalogue.load().has_exactly(case.gpu):
        return Finding.UNKNOWN_GPU, f"llm-optimizer has figures of its own for {theirs} and cannot use those given here"
    if case.precision not in _PRECISIONS:
        return Finding.PRECISION_NOT_SUPPORTED, f"llm-optimizer supports {', '.join(_PRECISIONS)}, not {case.precision}"
    if case.kv_precision not in _KV_PRECISIONS:
        return Finding.PRECISION_NOT_SUPPORTED, f"llm-optimizer does not support a {case.kv_precision} KV cache"
    for size, name in (
        (case.pipeline_parallel, "pipeline"),
        (case.data_parallel, "data"),
        (case.expert_parallel, "expert"),
    ):
        if size > 1:
            return None, f"llm-optimizer supports tensor parallelism only, not {name} parallelism"
    if case.server not in _SERVERS:
        return None, f"llm-optimizer supports vLLM and SGLang, not {case.server}"
    return None
