"""Kernel efficiencies of GPU generations, derived from the kernels that AIConfigurator measured.

    python -m gpuscout.runner.calibration.kernels [FOLDER] > runner/engines/roofline/kernels.json

FOLDER is `systems/data` of the package aiconfigurator-core (Apache-2.0), by default of the one that is installed. Read
are its tables of matrix products, attention, grouped experts and all-reduces, of each server the newest version;
nothing else of it. The tables stay there: what ships are these constants and their source. They have the meaning that
they have in `engines/roofline/constants.py`, so that a generation without serving runs can be placed beside those that
have some: a fit sees what servers make of a kernel, this how kernels differ from one generation to the next.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.aiconfigurator.support import our_gpu
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec

# Systems of the package with all tables, by what the catalogue calls their GPU; the engine does not cover the last.
_TIMED = ["a100_sxm", "l40s", "h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300", "rtx_pro_6000_server"]
SYSTEMS = {**{system: gpu for system in _TIMED if (gpu := our_gpu(system))}, "b60": "Arc Pro B60"}
# The generations with most serving runs: others are placed relative to them.
REFERENCE = ("Hopper", "Blackwell", "Blackwell-Ultra")
# Formats of weights: bytes of an element with its scales, and the arithmetic that a kernel may use.
_FORMATS = {"bfloat16": (2.0, "bf16"), "fp8": (1.0, "fp8"), "fp8_block": (1.0, "fp8"), "nvfp4": (0.5625, "fp4")}
_FEW_TOKENS, _MANY_TOKENS, _PROMPT_TOKENS = 16, 8192, 4096
# Beyond these the data cannot come from a cache.
_LARGE_WEIGHTS, _LARGE_CACHE = 2e8, 3e8
_SMALL_MESSAGE, _ALLREDUCE_BYTES = 8192, 2
_DIGITS = 4

# Shares of what the GPU could do at best. Those that are relative to another one are the same on all generations,
# within what the tables scatter.
PLAIN_EFFICIENCIES = ("memory_efficiency", "flops_efficiency", "attention_efficiency")

Column = npt.NDArray[Any]
Table = Mapping[str, Column]
Figures = dict[str, float]


def derive(folder: Path, systems: Mapping[str, str] = SYSTEMS) -> dict[str, dict[str, float]]:
    """Return the constants of every generation: of each the geometric mean over its GPUs and over servers."""
    of_family: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for system, name in systems.items():
        gpu = GPUCatalogue.load().get(name)
        for constant, value in of_system(folder / system, gpu).items():
            of_family[gpu.family][constant].append(value)
    return {
        family: {constant: _rounded(_mean(values)) for constant, values in sorted(constants.items())}
        for family, constants in sorted(of_family.items())
    }


def of_system(folder: Path, gpu: GPUSpec) -> Figures:
    """Return the constants of one GPU type."""
    found: dict[str, list[float]] = defaultdict(list)
    for measure, kind, name in (
        (_matrices, "gemm", "gemm_perf"),
        (_decode_attention, "attention", "generation_attention_perf"),
        (_prefill_attention, "attention", "context_attention_perf"),
        (_experts, "moe", "moe_perf"),
        (_exchanges, "comm", "custom_allreduce_perf"),
    ):
        for table in _newest(folder / kind, name):
            for constant, value in measure(table, gpu).items():
                found[constant].append(value)
    means = {constant: _mean(values) for constant, values in found.items()}
    for part, whole in (
        ("kv_efficiency", "memory_efficiency"),
        ("expert_efficiency", "memory_efficiency"),
        ("flops_efficiency_8bit", "flops_efficiency"),
        ("flops_efficiency_4bit", "flops_efficiency"),
        ("expert_flops_efficiency", "flops_efficiency"),
    ):
        if part in means:  # these are relative
            means[part] /= means[whole]
    return means


def kernel_factors() -> dict[str, dict[str, float]]:
    """Return the `family_factors` of generations outside `REFERENCE`, of which there are few runs or none.

    Those inside have serving runs enough to say it better, kernels and all. Exchanges over PCIe are left out: what
    servers send over it is not what the tables measure.
    """
    return {
        family: {name: factor for name, factor in factors.items() if name in PLAIN_EFFICIENCIES}
        for family, factors in family_factors().items()
        if family not in REFERENCE
    }


def family_factors() -> dict[str, dict[str, float]]:
    """Return each generation's mean ratio of kernel times to `REFERENCE`, of the shipped file."""
    families: Mapping[str, Mapping[str, float]] = shipped()["families"]
    found: dict[str, dict[str, float]] = {}
    for family, constants in families.items():
        known = {name: [families[other][name] for other in REFERENCE if name in families[other]] for name in constants}
        found[family] = {name: _rounded(value / _mean(known[name])) for name, value in constants.items() if known[name]}
    return found


def shipped() -> Mapping[str, Any]:
    """Return the derived constants that ship with the built-in engine: `source` and `families`."""
    text = importlib.resources.files("gpuscout.runner.engines.roofline").joinpath("kernels.json").read_text()
    document: Mapping[str, Any] = json.loads(text)
    return document


# --- kinds of kernels ----------------------------------------------------------------------------------------------


def _matrices(t: Table, gpu: GPUSpec) -> Figures:
    """Fit matrices: few tokens read the weights, many multiply with them."""
    found: Figures = {}
    seconds = t["latency"] * 1e-3
    weights, work = t["n"] * t["k"], 2.0 * t["m"] * t["n"] * t["k"]
    square = (t["n"] >= 4096) & (t["n"] <= 32768) & (t["k"] >= 4096)
    best: dict[str, list[float]] = defaultdict(list)
    for name, (size, arithmetic) in _FORMATS.items():
        of_format = t["gemm_dtype"] == name
        if name == "bfloat16":
            reading = of_format & (t["m"] <= _FEW_TOKENS) & (weights * size >= _LARGE_WEIGHTS)
            _note(found, "memory_efficiency", weights * size / seconds / _bandwidth(gpu), reading)
        if arithmetic in gpu.dense_tflops:
            busy = of_format & (t["m"] == _MANY_TOKENS) & square
            if busy.any():
                best[arithmetic].append(float(np.median((work / seconds / _peak(gpu, arithmetic))[busy])))
    for arithmetic, constant in (
        ("bf16", "flops_efficiency"), ("fp8", "flops_efficiency_8bit"), ("fp4", "flops_efficiency_4bit"),
    ):  # fmt: skip
        if best[arithmetic]:  # of two ways to scale 8 bits, servers take the faster one
            found[constant] = max(best[arithmetic])
    return found


def _decode_attention(t: Table, gpu: GPUSpec) -> Figures:
    found: Figures = {}
    tokens = t["batch_size"] * (t["isl"] + t["step"])
    cache = tokens * t["num_key_value_heads"] * t["head_dim"] * 2 * 2.0
    plain = (t["kv_cache_dtype"] == "bfloat16") & (t["num_key_value_heads"] < t["num_heads"]) & (t["head_dim"] == 128)
    reading = plain & _without_window(t) & (cache >= _LARGE_CACHE)
    _note(found, "kv_efficiency", cache / (t["latency"] * 1e-3) / _bandwidth(gpu), reading)
    return found


def _prefill_attention(t: Table, gpu: GPUSpec) -> Figures:
    found: Figures = {}
    work = 4.0 * t["batch_size"] * t["num_heads"] * t["head_dim"] * t["isl"].astype(np.float64) ** 2 / 2
    plain = (t["attn_dtype"] == "bfloat16") & (t["kv_cache_dtype"] == "bfloat16") & (t["head_dim"] == 128)
    busy = plain & _without_window(t) & (t["isl"] >= _PROMPT_TOKENS) & (work >= 1e11)
    _note(found, "attention_efficiency", work / (t["latency"] * 1e-3) / _peak(gpu, "bf16"), busy)
    return found


def _experts(t: Table, gpu: GPUSpec) -> Figures:
    """Return grouped products of all experts on one GPU: gate, up and down."""
    found: Figures = {}
    seconds = t["latency"] * 1e-3
    one_expert = 3.0 * t["hidden_size"] * t["inter_size"] / t["moe_tp_size"]
    reached = 1 - (1 - t["topk"] / t["num_experts"]) ** t["num_tokens"].astype(np.float64)
    read = one_expert * t["num_experts"] * reached * 2
    work = 2 * one_expert * t["topk"] * t["num_tokens"]
    plain = (t["moe_dtype"] == "bfloat16") & (t["moe_ep_size"] == 1)
    few = plain & (t["num_tokens"] <= 64) & (t["num_tokens"] * t["topk"] >= 8) & (read >= _LARGE_WEIGHTS)
    _note(found, "expert_efficiency", read / seconds / _bandwidth(gpu), few)
    many = plain & (t["num_tokens"] >= _MANY_TOKENS)
    _note(found, "expert_flops_efficiency", work / seconds / _peak(gpu, "bf16"), many)
    return found


def _exchanges(t: Table, gpu: GPUSpec) -> Figures:
    """Return the latency per doubling of GPUs (small messages), and the link's share and contention (largest)."""
    graph = np.array([str(name).endswith("_graph") for name in t.get("backend", [])])
    usable = graph if graph.any() else np.ones(len(t["latency"]), dtype=bool)
    seconds, sent = t["latency"] * 1e-3, t["message_size"] * float(_ALLREDUCE_BYTES)
    small, shares = {}, {}
    for gpus in (2, 4, 8):
        mine = usable & (t["num_gpus"] == gpus)
        if not mine.any():
            continue
        small[gpus] = float(np.median(seconds[mine & (sent <= _SMALL_MESSAGE)]))
        largest = mine & (sent == sent[mine].max())
        rate = 2 * (gpus - 1) / gpus * sent / seconds / (gpu.link_gbs * 1e9)
        shares[gpus] = float(np.median(rate[largest]))
    if not small:
        return {}
    doublings = np.log2(list(small))
    latency_us = 1e6 * float(doublings @ list(small.values()) / (doublings @ doublings))
    if gpu.scale_up_gpus > 1:
        return {"allreduce_us": latency_us, "link_efficiency": shares[max(shares)]}
    if len(shares) < 2:
        return {"pcie_allreduce_us": latency_us}
    slope, level = np.polyfit(np.log(np.array(list(shares)) / 2), np.log(list(shares.values())), 1)
    return {
        "pcie_allreduce_us": latency_us,
        "pcie_efficiency": float(np.exp(level)),
        # Bandwidth that grows with more GPUs is noise.
        "pcie_contention": max(float(-slope), 0.01),
    }


# --- tables --------------------------------------------------------------------------------------------------------


def _newest(folder: Path, name: str) -> Iterator[Table]:
    """Yield a table of each server, of its newest version that has one."""
    import pyarrow.parquet as parquet

    for server in sorted(folder.glob("*")):
        versions = [version for version in server.glob("*") if (version / f"{name}.parquet").exists()]
        if versions:
            newest = max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version.name)])
            table = parquet.read_table(newest / f"{name}.parquet")
            yield {column: table.column(column).to_numpy() for column in table.column_names}


def _note(found: Figures, constant: str, values: Column, rows: npt.NDArray[np.bool_]) -> None:
    if rows.any():
        found[constant] = float(np.median(values[rows]))


def _without_window(t: Table) -> npt.NDArray[np.bool_]:
    return np.asarray(t["window_size"] == 0) if "window_size" in t else np.ones(len(t["latency"]), dtype=bool)


def _bandwidth(gpu: GPUSpec) -> float:
    return gpu.memory_bandwidth_gbs * 1e9


def _peak(gpu: GPUSpec, arithmetic: str) -> float:
    return gpu.dense_tflops[arithmetic] * 1e12


def _mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _installed() -> Path:
    return Path(str(importlib.resources.files("aiconfigurator_core").joinpath("systems/data")))


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _installed()
    document = {
        "source": "derived by gpuscout.runner.calibration.kernels from the measured kernels of aiconfigurator-core "
        "0.12.0 (Apache-2.0, https://github.com/ai-dynamo/aiconfigurator)",
        "families": derive(folder),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
