"""Combinations of server, accelerator and precision that nobody can run, with the reason for the user.

NVIDIA: tensor units from compute capability 7.5 (int8), 8.0 (bf16), 8.9 (fp8) and 10.0 (fp4) on. Without them vLLM
and SGLang still run fp8 weights, and vLLM fp4 weights, in 16-bit arithmetic from capability 8.0 on (Marlin kernels);
these cases are estimated, not refused; so are MXFP4 checkpoints (gpt-oss) on CDNA3, where Triton kernels expand them
(https://blog.vllm.ai/2025/08/05/gpt-oss.html). vLLM has plug-ins for TPU, Gaudi and Trainium; SGLang is for NVIDIA
and AMD, TensorRT-LLM for NVIDIA from capability 8.0 on.
"""

from __future__ import annotations

import numpy as np

from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import FP8_BLOCK, ModelSpec
from gpuscout.sweeps.precision import PRECISIONS, Precision
from gpuscout.sweeps.servers import REGISTRY, Server, server_named

_KNOWN_VENDORS = {vendor.casefold() for server in REGISTRY.values() for vendor in server.vendors}
_MARLIN_CAPABILITY = 8.0


def reasons(cases: CaseColumns) -> dict[int, str]:
    """Return the reason why a case is not supported, by position; cases that are supported are left out."""
    split = (cases.tensor_parallel, cases.data_parallel, cases.expert_parallel)
    columns = (cases.model, cases.gpu, cases.server, cases.precision, cases.kv_precision, *split)
    distinct, inverse = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    texts = [
        refusal(cases.models[m], cases.gpus[g], cases.servers[s], PRECISIONS[p], PRECISIONS[kv])
        or _split_refusal(cases.models[m], server_named(cases.servers[s]), PRECISIONS[p], tp, dp, ep)
        for m, g, s, p, kv, tp, dp, ep in distinct.tolist()
    ]
    found = _prompts_too_long(cases)
    if not any(texts):
        return found
    return found | {row: text for row, i in enumerate(inverse.ravel().tolist()) if (text := texts[i])}


def _prompts_too_long(cases: CaseColumns) -> dict[int, str]:
    """Return cases of servers that take prompts whole, told to take fewer tokens in a step than a prompt has.

    Fewer than their default: with that, longer prompts are estimated as if it were raised.
    """
    whole = np.array([not server_named(name).cuts_prompts for name in cases.servers], dtype=np.bool_)
    if not whole.any():
        return {}
    usual = np.array([server_named(name).batch_defaults("", np.inf)[1] for name in cases.servers])[cases.server]
    stated = [dict(options).get("max_num_batched_tokens") for options in cases.server_options]
    most = np.array([np.inf if tokens is None else tokens for tokens in stated])[cases.options]
    return {
        row: f"{server_named(cases.servers[cases.server[row]]).title} takes prompts whole: max_num_batched_tokens "
        f"{most[row]:,.0f} is less than their {cases.input_len[row]:,} tokens"
        for row in np.flatnonzero(whole[cases.server] & (most < np.minimum(cases.input_len, usual))).tolist()
    }


def untimed(cases: CaseColumns) -> dict[int, str]:
    """Return by position why times cannot be estimated, where a GPU lacks a figure for them.

    Only GPUs of a user's own lack figures.
    """
    lacking = [_unknown_figures(gpu) for gpu in cases.gpus]
    if not any(lacking):
        return {}
    found = {}
    for row, (gpu, tp) in enumerate(zip(cases.gpu.tolist(), cases.num_gpus.tolist(), strict=True)):
        figures = [figure for figure, from_gpus in lacking[gpu].items() if tp >= from_gpus]
        if figures:
            found[row] = f"times cannot be estimated without {' and '.join(figures)} of {cases.gpus[gpu].name}"
    return found


def _unknown_figures(gpu: GPUSpec) -> dict[str, int]:
    """Return the figures that are not known, and from how many GPUs on they are needed."""
    known = {
        "memory_bandwidth_gbs": (gpu.memory_bandwidth_gbs > 0, 1),
        "16-bit TFLOPS (dense_tflops)": (gpu.supports("bf16") or gpu.supports("fp16"), 1),
        "link_gbs": (gpu.link_gbs > 0, 2),
        "pcie_gbs": (gpu.pcie_gbs > 0, gpu.fast_link_gpus + 1),
    }
    return {name: gpus for name, (is_known, gpus) in known.items() if not is_known}


def refusal(model: ModelSpec, gpu: GPUSpec, server: str, precision: Precision, kv_precision: Precision) -> str | None:
    """Return the reason why `server` cannot serve this model on this GPU at these precisions; None when it can."""
    about = server_named(server)
    return (
        _server_refusal(gpu, about)
        or _weights_refusal(model, gpu, about, precision)
        or _kv_refusal(gpu, about, kv_precision)
    )


def _split_refusal(model: ModelSpec, server: Server, precision: Precision, tp: int, dp: int, ep: int) -> str | None:
    """Return why weights with block scales cannot be split so: vLLM and SGLang want whole blocks a rank.

    vLLM issues 17569 and 25292.
    """
    if precision is not model.precision or not server.whole_blocks:
        return None
    blocks = f"is not a multiple of the {FP8_BLOCK} x {FP8_BLOCK} blocks of its FP8 weights"
    ranks = tp * dp // max(ep, 1)
    if model.is_moe and (part := model.part_of_a_block(model.expert_width, ranks)):
        return (
            f"{server.title} cannot split the experts of {model.name} over {ranks} ranks: {model.expert_width} / "
            f"{ranks} = {part} {blocks}; use expert parallelism (ep {tp * dp}) or fewer ranks"
        )
    for width in model.mlp_widths:
        if part := model.part_of_a_block(width, tp):
            return (
                f"{server.title} cannot split an MLP of {model.name} over {tp} ranks: {width} / {tp} = {part} "
                f"{blocks}; use fewer ranks"
            )
    return None


def _server_refusal(gpu: GPUSpec, server: Server) -> str | None:
    name = server.title
    # Nothing is known against a vendor nobody has heard of.
    known = server.vendors and gpu.vendor.casefold() in _KNOWN_VENDORS
    if known and not any(_is_from(gpu, vendor) for vendor in server.vendors):
        return f"{name} does not run on {gpu.vendor} {gpu.name}"
    if _is_from(gpu, "NVIDIA") and _capability(gpu) < server.min_capability:
        return (
            f"{name} needs compute capability {server.min_capability} or newer; {gpu.name} has {gpu.compute_capability}"
        )
    return None


def _weights_refusal(model: ModelSpec, gpu: GPUSpec, server: Server, precision: Precision) -> str | None:
    name = server.title
    nvidia = _is_from(gpu, "NVIDIA")
    if not (gpu.supports("bf16") or gpu.supports("fp16")):
        return None  # nobody has said what it multiplies
    expands = nvidia and _capability(gpu) >= _MARLIN_CAPABILITY
    match precision:
        case Precision.BF16 if not gpu.supports("bf16"):
            return f"{gpu.name} has no bf16 units; use fp16"
        case Precision.FP16 if not gpu.supports("fp16"):
            return f"{gpu.name} has no fp16 units; use bf16"
        case Precision.FP32 if not gpu.supports("fp32"):
            return f"no fp32 TFLOPS are known of {gpu.name}"
        case Precision.FP8 if not gpu.supports("fp8"):
            if not (expands and Precision.FP8 in server.weight_only):
                return f"{gpu.name} has no fp8 units and {name} no weight-only fp8 kernels for it"
        case Precision.FP4 if not gpu.supports("fp4"):
            mxfp4 = model.precision is Precision.FP4 and model.quantization_method == "mxfp4"
            triton = mxfp4 and gpu.family == "CDNA3" and server.mxfp4_on_cdna3
            if not (triton or (expands and (mxfp4 or Precision.FP4 in server.weight_only))):
                return f"{gpu.name} has no fp4 units and {name} no weight-only fp4 kernels for it"
        case Precision.INT8 if not gpu.supports("int8"):
            return f"{gpu.name} has no int8 units; use int8-weight-only"
        case Precision.INT8 if nvidia and not server.int8_on_blackwell and _capability(gpu) >= 10.0:
            return f"{name} has no int8 kernels for Blackwell; use fp8"
        case Precision.INT8_WEIGHT_ONLY | Precision.INT4_WEIGHT_ONLY if nvidia and _capability(gpu) < 7.5:
            return f"{name} has no weight-only kernels for {gpu.name}"
        case _:
            pass
    return None


def _kv_refusal(gpu: GPUSpec, server: Server, kv_precision: Precision) -> str | None:
    name = server.title
    match kv_precision:
        case Precision.FP8 if not gpu.supports("fp8") and _capability(gpu) < 8.0:
            return f"{gpu.name} cannot keep its KV cache in fp8"
        case Precision.INT8 if Precision.INT8 not in server.kv_precisions:
            return f"{name} has no int8 KV cache; use fp8"
        case Precision.FP4 if not (gpu.supports("fp4") and Precision.FP4 in server.kv_precisions):
            return f"{name} has no fp4 KV cache on {gpu.name}; use fp8"
        case _:
            return None


def _is_from(gpu: GPUSpec, vendor: str) -> bool:
    """Return whether a GPU is of this vendor, which a user's own file may spell in any case."""
    return gpu.vendor.casefold() == vendor.casefold()


def _capability(gpu: GPUSpec) -> float:
    """Return NVIDIA's compute capability as a number; 0 where there is none."""
    return float(gpu.compute_capability or 0)
