"""What the load generators of late 2026 wrote against a vLLM server with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuscout.store.measured import LoadKind
from gpuscout.store.measured.formats import SourceFile, recognise
from tests.support.result_files import completed, loaded

FOLDER = Path(__file__).parents[1] / "data" / "today"
FACTS = {"model": "Qwen/Qwen3-0.6B", "gpu": "L4", "tp": "1", "server": "vllm", "server_version": "0.32.0"}
CLOSED, RATE = LoadKind.CLOSED_LOOP, LoadKind.REQUEST_RATE


@pytest.mark.parametrize(
    ("name", "tool", "loads", "ttft_ms", "itl_ms"),
    [
        ("vllm_0.32_c4", "vllm", [(CLOSED, 4, None)], 136.31856924999397, 28.174025090727866),
        ("guidellm_0.8_c4_c16", "guidellm", [(CLOSED, 4, None), (CLOSED, 16, None)], 333.62793922424316, 45.5044378196),
        ("aiperf_0.13_c4", "aiperf", [(CLOSED, 4, None)], 400.73642853125, 146.0863560544355),
        ("aiperf_0.13_rate2", "aiperf", [(RATE, 2, 2.0)], 134.75456415624998, 23.16839920967742),
        # Tokens that it counted again from the text would give 18.889 ms.
        ("inference_perf_0.7_conc_stage_0", "inference-perf", [(CLOSED, 4, None)], 119.854023562, 18.9064),
        ("inference_perf_0.7_rate2_stage_0", "inference-perf", [(RATE, 1, 2.0)], 172.817741667, 28.0061),
    ],
)
def test_the_load_and_the_latencies(name: str, tool: str, loads: list[object], ttft_ms: float, itl_ms: float) -> None:
    source = SourceFile(name, (FOLDER / f"{name}.json").read_bytes())
    assert recognise(source).name == tool
    [file] = completed(FOLDER / f"{name}.json", **FACTS)
    assert file.error is None
    assert [loaded(run) for run in file.runs] == loads
    first = file.runs[0]
    assert (first.input_len, first.output_len) == (128, 32)
    assert first.figure("ttft_ms") == ttft_ms
    assert first.figure("itl_ms") == pytest.approx(itl_ms, rel=1e-9)
    assert ("ttft_ms", 99.0) in first.percentiles
    assert first.details["completed"] in (24, 32, 48)


def test_the_concurrency_that_a_client_reached_is_kept() -> None:
    [file] = completed(FOLDER / "aiperf_0.13_c4.json", **FACTS)
    assert file.runs[0].details["mean_concurrency"] == pytest.approx(3.93, abs=0.01)


@pytest.mark.parametrize("name", ["vllm_0.32_all_failed", "inference_perf_0.7_all_failed"])
def test_a_tool_that_ended_well_though_every_request_failed(name: str) -> None:
    [file] = completed(FOLDER / f"{name}.json", **FACTS)
    assert "no request succeeded" in str(file.error and file.error.hint)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("aiperf_0.13_cancelled", "the benchmark was cancelled"),
        ("inference_perf_0.7_conc_summary", "a summary of stages whose loads differ"),
    ],
)
def test_what_is_no_run_is_refused(name: str, told: str) -> None:
    [file] = completed(FOLDER / f"{name}.json", **FACTS)
    assert told in str(file.error)


def test_a_benchmark_that_did_not_end_and_phases_that_mix_loads_are_refused(tmp_path: Path) -> None:
    document = json.loads((FOLDER / "aiperf_0.13_c4.json").read_text())
    phases = document["input_config"]["phases"]
    for number, (change, told) in enumerate(
        (({"is_complete": False}, "is_complete: the benchmark did not end"),
         ({"input_config": document["input_config"] | {"phases": [*phases, phases[-1]]}}, "2 phases count"))
    ):  # fmt: skip
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(document | change))
        [file] = completed(path, **FACTS)
        assert told in str(file.error)
