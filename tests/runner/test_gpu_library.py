"""`GPU_LIBRARY`: GPUs that a program adds are known everywhere in its process, whatever is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gpuscout import GPU_LIBRARY, GPUSpec, estimate_performance, get_gpu_spec, list_available_gpus, recommend_gpus
from gpuscout.sweeps.errors import InputError

SHIPPED = list_available_gpus()


@pytest.fixture(autouse=True)
def _left_as_it_was() -> Iterator[None]:
    yield
    for name in [name for name in GPU_LIBRARY if name not in SHIPPED]:
        del GPU_LIBRARY[name]
    assert list_available_gpus() == SHIPPED


def test_it_reads_like_a_dict() -> None:
    assert list(GPU_LIBRARY) == SHIPPED
    assert len(GPU_LIBRARY) == len(SHIPPED)
    assert GPU_LIBRARY["a100_40gb"] is get_gpu_spec("A100-SXM-40GB")
    assert "nvidia h200" in GPU_LIBRARY
    assert GPU_LIBRARY.get("H10O") is None
    with pytest.raises(KeyError, match="did you mean H100-SXM-80GB"):
        GPU_LIBRARY["H10O"]
    with pytest.raises(KeyError, match="was not added"):
        del GPU_LIBRARY["H100-SXM-80GB"]


def test_a_gpu_with_all_figures_is_estimated_like_any_other() -> None:
    h100 = get_gpu_spec("H100")
    GPU_LIBRARY["X100"] = replace(h100, name="X100", aliases=("ex hundred",))
    ours, theirs = (estimate_performance("Qwen/Qwen3-8B", name, 2) for name in ("ex-hundred", "H100"))
    told = {name: value for name, value in theirs.to_dict().items() if "usd" not in name and name != "gpu_name"}
    assert {name: value for name, value in ours.to_dict().items() if name in told} == told
    assert {item.gpu for item in recommend_gpus("Qwen/Qwen3-8B", gpus="X*", prices={"X100": 1})} == {"X100"}


def test_a_gpu_that_ships_can_get_other_figures_for_a_while() -> None:
    before = estimate_performance("Qwen/Qwen3-8B", "H100")
    GPU_LIBRARY["H100-SXM-80GB"] = replace(get_gpu_spec("H100"), memory_bandwidth_gbs=6_700)
    faster = estimate_performance("Qwen/Qwen3-8B", "H100")
    del GPU_LIBRARY["H100-SXM-80GB"]
    assert (faster.itl_ms or 0) < (before.itl_ms or 0)
    assert estimate_performance("Qwen/Qwen3-8B", "H100") == before


def test_without_a_bandwidth_memory_is_known_and_times_are_not() -> None:
    GPU_LIBRARY["Bare"] = GPUSpec("Bare", 80, 60, "9.0", 2024, "Example")
    assert (GPU_LIBRARY["Bare"].manufacturer, GPU_LIBRARY["Bare"].tflops) == ("Example", 60)
    estimate = estimate_performance("Qwen/Qwen3-8B", "Bare")
    assert estimate.outcome == "not_supported"
    assert "memory_bandwidth_gbs" in str(estimate.error)
    assert (estimate.memory_needed_gib or 0) < (estimate.memory_usable_gib or 0)
    assert estimate_performance("Llama-3.3-70B-Instruct", "Bare").outcome == "does_not_fit"
    GPU_LIBRARY["Alone"] = replace(get_gpu_spec("H100"), name="Alone", aliases=(), link_gbs=0, pcie_gbs=0)
    assert estimate_performance("Qwen/Qwen3-8B", "Alone").is_valid()
    assert "link_gbs" in str(estimate_performance("Qwen/Qwen3-8B", "Alone", 2).error)


@pytest.mark.parametrize(
    ("name", "spec", "fault"),
    [
        ("X", 80, "expected a GPUSpec"),
        ("X", GPUSpec("Y", 80), "is called 'Y'"),
        ("H100", GPUSpec("H100", 80), "means both"),
        ("X", GPUSpec("X", 80e9), "memory_gb: expected a number from 1 to 10,000 GB"),
        ("X", GPUSpec("X", True), "memory_gb"),
        ("X", GPUSpec("X", 80, -3), "dense_tflops.fp32"),
        ("X", GPUSpec("X", 80, dense_tflops={"fp12": 3}), "unknown format 'fp12'"),
        ("X", GPUSpec("X", 80, compute_capability="nine"), "compute_capability"),
        ("X\x1b[2J", GPUSpec("X\x1b[2J", 80), "name: expected a text of letters"),
        ("X", GPUSpec("X", 80, memory_bandwidth_gbs=float("nan")), "memory_bandwidth_gbs"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(name: str, spec: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        GPU_LIBRARY[name] = spec
