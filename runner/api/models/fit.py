"""Whether a model fits on a number of GPUs: the use of one GPU's memory, and the smallest changes that help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gpuscout.runner.resolve.models import KnownModels, ModelFinder, model_text
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import SERVERS

GIB = 2**30
# What a larger share of a GPU's memory is tried with, and the longest deployment that is looked for.
_LARGER_SHARE = 0.95
_MOST_GPUS = 64
# Contexts that are offered are multiples of this.
_CONTEXT_STEP = 1024
_SMALLER_WEIGHTS = (Precision.FP8, Precision.INT4_WEIGHT_ONLY)


@dataclass(frozen=True)
class FitChange:
    """One change that makes a deployment fit, all else equal. `requests` of the full context run at once then."""

    change: str
    num_gpus: int
    tensor_parallel: int
    pipeline_parallel: int
    precision: str
    kv_precision: str
    context_length: int
    gpu_memory_utilization: float
    requests: float


@dataclass(frozen=True)
class MemoryFit:
    """Memory of one replica of a model, and whether it fits, in GiB (2^30 bytes) of the fullest GPU.

    `reason` says why it cannot run; None: it fits. `usable_gib` is `gpu_memory_utilization` of what software can use.
    `kv_cache_gib` is what weights, activations and the runtime leave for caches, `kv_request_gib` what one request of
    `context_length` tokens takes of it; `requests` of them run at once on the whole deployment, `kv_capacity_tokens`
    tokens in all. The memory model is that of the roofline engine: weights and caches follow from the model's
    configuration, activations and runtime are figures measured with vLLM. `changes`: what makes it fit, the least
    first. `caveats`: what was guessed or assumed of the model.
    """

    model: str
    gpu: str
    num_gpus: int
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    expert_parallel: int
    precision: str
    kv_precision: str
    server: str
    context_length: int
    gpu_memory_utilization: float
    fits: bool
    reason: str | None
    memory_gib: float
    usable_gib: float
    weights_gib: float
    activations_gib: float
    runtime_gib: float
    kv_cache_gib: float
    kv_request_gib: float
    requests: float
    kv_capacity_tokens: int
    changes: tuple[FitChange, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def needed_gib(self) -> float:
        """GiB of one GPU without which not even one request of the context length runs."""
        return self.weights_gib + self.activations_gib + self.runtime_gib + self.kv_request_gib

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON types."""
        document = asdict(self)
        changes = document.pop("changes")
        caveats = list(document.pop("caveats"))
        return document | {"needed_gib": self.needed_gib, "changes": list(changes), "caveats": caveats}


def fit_memory(
    model_id: str | Path,
    gpu_name: str,
    num_gpus: int = 1,
    *,
    context_length: int | None = None,
    precision: str | None = None,
    kv_precision: str | None = None,
    tensor_parallel_size: int | None = None,
    pipeline_parallel_size: int | None = None,
    data_parallel_size: int = 1,
    expert_parallel_size: int = 1,
    server: str = "vllm",
    gpu_memory_utilization: float = 0.9,
    gpu_file: str | Path | None = None,
    hf_token: str | None = None,
    known: KnownModels | None = None,
) -> MemoryFit:
    """Return whether one replica fits on `num_gpus` GPUs and with how much room, or what makes it fit.

    `context_length` None: the model's own. Without sizes, the largest tensor parallel size within a node that fits,
    pipeline stages for the rest. Raises InputError for numbers that contradict, UnknownNameError for names, and what
    looking up the model raises.
    """
    model = ModelFinder(known, token=hf_token).find_one(model_text(model_id)).architecture
    gpu = gpus_with(gpu_file).resolve(gpu_name)
    if server not in SERVERS:
        raise UnknownNameError("server", server, nearest(server, SERVERS), hint=f"one of {', '.join(SERVERS)}")
    if context_length is None:
        if model.max_context is None:
            raise InputError(f"{model.name} does not say how long its context is", hint="give the context length")
        context_length = model.max_context
    for name, number in (("num_gpus", num_gpus), ("context_length", context_length)):
        if number < 1:
            raise InputError(f"{name}: expected a whole number of at least 1, got {number}")
    if not 0 < gpu_memory_utilization <= 1:
        raise InputError(f"gpu_memory_utilization: expected a share from 0 to 1, got {gpu_memory_utilization:g}")
    asked = Case(
        model=model,
        gpu=gpu,
        input_len=max(context_length - 1, 1),
        output_len=1,
        precision=_precision("precision", precision, model.precision),
        kv_precision=_precision("KV precision", kv_precision, model.kv_precision),
        data_parallel=data_parallel_size,
        expert_parallel=expert_parallel_size,
        server=server,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=context_length,
    )
    fixed = _Sizes(tensor_parallel_size, pipeline_parallel_size)
    tried = [_fit(case) for case in _layouts(asked, num_gpus, fixed)]
    best = next((found for found in tried if found.fits), tried[0])
    return best if best.fits else replace(best, changes=tuple(_changes(asked, num_gpus, fixed)))


@dataclass(frozen=True)
class _Sizes:
    """The sizes that were asked for; None: any."""

    tensor_parallel: int | None
    pipeline_parallel: int | None


def _precision(what: str, name: str | None, native: Precision) -> Precision:
    if name is None or name == "native":
        return native
    if name not in list(Precision):
        raise UnknownNameError(what, name, nearest(name, list(Precision)), hint=f"one of {', '.join(Precision)}")
    return Precision(name)


def _layouts(case: Case, num_gpus: int, fixed: _Sizes) -> list[Case]:
    """Return the ways to split one replica over the GPUs, the largest tensor parallel size first. Raises InputError."""
    tp, pp, dp = fixed.tensor_parallel, fixed.pipeline_parallel, case.data_parallel
    if num_gpus % dp or (tp and (num_gpus // dp) % tp) or (pp and (num_gpus // dp) % pp):
        change = ", ".join(f"{name} {size}" for name, size in (("TP", tp), ("PP", pp), ("DP", dp)) if size and size > 1)
        raise InputError(f"{num_gpus} GPUs cannot be split into {change}", hint="GPUs = TP x PP x DP")
    together = num_gpus // dp
    if tp and pp and tp * pp != together:
        raise InputError(f"TP {tp} x PP {pp} x DP {dp} is not {num_gpus} GPUs", hint="GPUs = TP x PP x DP")
    node = max(case.gpu.gpus_per_node, 1)
    sizes = [tp] if tp else [size for size in range(min(together, node), 0, -1) if together % size == 0]
    split = [(size, together // size) for size in sizes if pp is None or together // size == pp]
    found = [replace(case, tensor_parallel=size, pipeline_parallel=stages) for size, stages in split]
    if not found:
        raise InputError(f"PP {pp} leaves TP {together // (pp or 1)}, but a node has {node} GPUs", hint="name --tp")
    # What no engine could run is only told if there is nothing else.
    return [layout for layout in found if _obstacle(layout) is None] or found[:1]


def _obstacle(case: Case) -> str | None:
    """Return the reason why no server could run this, whatever the memory."""
    from gpuscout.runner.engines.roofline.support import refusal

    model, tp = case.model, case.tensor_parallel
    if tp not in model.tensor_parallel_sizes(tp):
        return f"tensor parallel {tp} does not divide {model.indivisible(tp)}"
    if case.pipeline_parallel > model.layers:
        return f"pipeline parallel {case.pipeline_parallel} needs more than {model.layers} layers"
    if case.expert_parallel > 1 and not model.is_moe:
        return "expert parallelism needs a mixture-of-experts model"
    if model.max_context is not None and case.context_len > model.max_context:
        return f"{case.context_len:,} tokens are more than the model's context of {model.max_context:,}"
    return refusal(model, case.gpu, case.server, case.precision, case.kv_precision)


def _fit(case: Case) -> MemoryFit:
    from gpuscout.runner.engines.roofline.features import features
    from gpuscout.runner.engines.roofline.memory import memory, why_it_does_not_fit

    f = features(CaseColumns.of([case]))
    m = memory(f)
    reason = _obstacle(case) or (None if m.fits[0] else why_it_does_not_fit(m, f, 0))
    capacity = float(m.capacity_tokens[0])
    used = float((m.weights + m.activations + m.runtime)[0])
    return MemoryFit(
        model=case.model.name,
        gpu=case.gpu.name,
        num_gpus=case.num_gpus,
        tensor_parallel=case.tensor_parallel,
        pipeline_parallel=case.pipeline_parallel,
        data_parallel=case.data_parallel,
        expert_parallel=case.expert_parallel,
        precision=case.precision.value,
        kv_precision=case.kv_precision.value,
        server=case.server,
        context_length=case.context_len,
        gpu_memory_utilization=case.gpu_memory_utilization,
        fits=reason is None,
        reason=reason,
        memory_gib=case.gpu.memory_usable_gib,
        usable_gib=float(m.usable[0]) / GIB,
        weights_gib=float(m.weights[0]) / GIB,
        activations_gib=float(m.activations[0]) / GIB,
        runtime_gib=float(m.runtime[0]) / GIB,
        kv_cache_gib=max(float(m.usable[0]) - used, 0.0) / GIB,
        kv_request_gib=float(m.one_request[0]) / GIB,
        requests=capacity / case.context_len,
        kv_capacity_tokens=int(capacity),
        caveats=case.model.caveats,
    )


def _changes(asked: Case, num_gpus: int, fixed: _Sizes) -> Iterator[FitChange]:
    """Yield the single changes that make it fit: free ones first, then those that cost tokens, GPUs or quality."""
    for change, case, gpus, sizes in _candidates(asked, num_gpus, fixed):
        if (found := _first_fit(case, gpus, sizes)) is not None:
            yield FitChange(change, *(getattr(found, field.name) for field in fields(FitChange)[1:]))


def _candidates(asked: Case, num_gpus: int, fixed: _Sizes) -> Iterator[tuple[str, Case, int, _Sizes]]:
    if asked.gpu_memory_utilization < _LARGER_SHARE:
        larger = replace(asked, gpu_memory_utilization=_LARGER_SHARE)
        yield f"{_LARGER_SHARE:g} of the memory", larger, num_gpus, fixed
    if asked.kv_precision is not Precision.FP8:
        yield "KV cache in fp8", replace(asked, kv_precision=Precision.FP8), num_gpus, fixed
    if (shorter := _longest_context(asked, num_gpus, fixed)) is not None:
        yield f"a context of {shorter:,} tokens", _with_context(asked, shorter), num_gpus, fixed
    any_size = _Sizes(None, None)
    if (more := next((n for n in _more_gpus(num_gpus) if _first_fit(asked, n, any_size)), None)) is not None:
        yield f"{more} GPUs", asked, more, any_size
    for precision in _SMALLER_WEIGHTS:
        if asked.model.weight_bytes(precision) < asked.model.weight_bytes(asked.precision):
            yield f"weights in {precision}", replace(asked, precision=precision), num_gpus, fixed


def _more_gpus(num_gpus: int) -> Iterator[int]:
    more = 1 << num_gpus.bit_length()
    while more <= max(_MOST_GPUS, num_gpus):
        yield more
        more *= 2


def _with_context(case: Case, context: int) -> Case:
    return replace(case, max_model_len=context, input_len=max(context - 1, 1))


def _first_fit(case: Case, num_gpus: int, fixed: _Sizes) -> MemoryFit | None:
    try:
        layouts = _layouts(case, num_gpus, fixed)
    except InputError:
        return None
    return next((found for found in map(_fit, layouts) if found.fits), None)


def _longest_context(case: Case, num_gpus: int, fixed: _Sizes) -> int | None:
    """Return the longest context that fits, in steps of 1,024 tokens; None: not even 1,024 tokens do."""
    low, high = 0, case.context_len // _CONTEXT_STEP
    if case.model.max_context is not None:
        high = min(high, case.model.max_context // _CONTEXT_STEP)
    while low < high:
        middle = (low + high + 1) // 2
        if _first_fit(_with_context(case, middle * _CONTEXT_STEP), num_gpus, fixed) is None:
            high = middle - 1
        else:
            low = middle
    return low * _CONTEXT_STEP or None
