"""Kernel efficiencies: what ships is what the script derives, and it is in the terms of the engine's constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuscout.runner.calibration.kernels import REFERENCE, derive, family_factors, of_system, shipped
from gpuscout.runner.engines.roofline.constants import NAMES
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue


def test_what_ships_is_what_the_script_derives() -> None:
    core = pytest.importorskip("aiconfigurator_core", reason="the tables are those of aiconfigurator-core")
    folder = Path(core.__file__).parent / "systems" / "data"
    assert derive(folder, {"b60": "Arc Pro B60"})["Battlemage"] == shipped()["families"]["Battlemage"]


def test_the_constants_are_those_of_the_engine_and_plausible() -> None:
    families = shipped()["families"]
    assert set(families) == {
        "Ada", "Ampere", "Battlemage", "Blackwell", "Blackwell-RTX", "Blackwell-Ultra", "Hopper",
    }  # fmt: skip
    for constants in families.values():
        assert set(constants) <= {*NAMES, "pcie_contention"}
        for name in ("memory_efficiency", "flops_efficiency", "attention_efficiency"):
            assert 0.3 < constants[name] <= 1.0
    # Two sockets of a host with PCIe cards: more cards share its bridges.
    assert families["Ada"]["pcie_contention"] > 1
    assert "aiconfigurator-core" in shipped()["source"]


def test_factors_place_a_generation_beside_those_with_runs() -> None:
    factors = family_factors()
    for name in ("memory_efficiency", "flops_efficiency"):
        assert np.prod([factors[family][name] for family in REFERENCE]) == pytest.approx(1.0, abs=2e-3)
    assert factors["Ada"]["flops_efficiency"] < 0.85 < 1.1 < factors["Blackwell-RTX"]["flops_efficiency"]
    # Nothing to compare with: the reference has no PCIe cards.
    assert "pcie_efficiency" not in factors["Ada"]


def test_a_kernel_at_the_peak_has_an_efficiency_of_one(tmp_path: Path) -> None:
    """An independent table: products that take exactly as long as bandwidth and peak say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    gpu = GPUCatalogue.load().get("H100-SXM-80GB")
    shapes = [(m, 16384, 16384) for m in (1, 16, 8192)]
    seconds = [
        max(n * k * 2 / (gpu.memory_bandwidth_gbs * 1e9), 2 * m * n * k / (gpu.dense_tflops["bf16"] * 1e12))
        for m, n, k in shapes
    ]
    for version, slower in (("0.9.0", 2.0), ("0.10.0", 1.0)):  # the newer one counts
        folder = tmp_path / "gemm" / "vllm" / version
        folder.mkdir(parents=True)
        columns = {name: [shape[i] for shape in shapes] for i, name in enumerate("mnk")}
        columns |= {"gemm_dtype": ["bfloat16"] * 3, "latency": [1e3 * slower * each for each in seconds]}
        pq.write_table(pa.table(columns), folder / "gemm_perf.parquet")
    found = of_system(tmp_path, gpu)
    assert found == {"memory_efficiency": pytest.approx(1.0), "flops_efficiency": pytest.approx(1.0)}
