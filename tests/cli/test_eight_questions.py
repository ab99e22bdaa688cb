"""Eight questions that people ask, each answered by one command (after `run` or `import` where it is about a store)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpuscout import estimate_performance
from tests.support.in_process import gpuscout

QUICK = ["run", "--model", "Qwen3-8B,Qwen3-32B", "--gpu", "H100,H200,B200,L40S", "--concurrency", "1,8,32,128"]


def answer(folder: Path, *arguments: str, status: int = 0) -> str:
    done = gpuscout(*arguments, cwd=folder)
    assert done.returncode == status, done.stderr
    return done.stdout


def document(folder: Path, *arguments: str) -> Any:
    return json.loads(answer(folder, *arguments, "--json"))


def test_the_cheapest_gpus_for_a_chat_with_limits_and_a_load(tmp_path: Path) -> None:
    """Llama-3.3-70B, p95 of the TTFT within 1 s, 30 tokens/s for each user, 20 requests/s: on what, for how much?"""
    model = ["--model", "Llama-3.3-70B-Instruct", "--workload", "chat", "--precision", "native,fp8"]
    limits = ["--slo", "p95_ttft<=1s", "--slo", "tok/s/user>=30", "--assume-tail", "1.3"]
    found = document(tmp_path, "run", *model, *limits, "--rate", "20")
    [group] = found["groups"]
    best = group["configurations"][0]
    assert best["itl_ms"] <= 1000 / 30 + 1e-6
    assert best["percentiles"]["ttft:p95_ms"] <= 1000
    assert best["backed"]
    low, high = (best["objective_low"], best["objective_high"])
    assert low < best["objective_value"] < high
    assert {config["precision"] for config in group["configurations"]} >= {"fp8"}
    [sized] = found["capacity"]["groups"]
    assert sized["requests_per_s"] == 20
    first = sized["best_per_gpu"][0]
    assert first["gpus"] == first["replicas"] * first["gpus_per_replica"]
    assert first["requests_per_s_per_replica"] * first["replicas"] * 0.8 >= 20 - 1e-6


@pytest.mark.slow
def test_what_fp8_would_cost_is_told_beside_a_16_bit_answer(tmp_path: Path) -> None:
    """Nothing is kept of it, and where precisions are named nothing is told."""
    ask = ["--model", "Llama-3.3-70B-Instruct", "--workload", "chat", "--gpu", "H200,B200", "--price", "H200=3"]
    found = document(tmp_path, "run", *ask)
    [plain], [fp8] = found["groups"], found["in_fp8"]
    assert (plain["configurations"][0]["precision"], fp8["best"]["precision"]) == ("bf16", "fp8")
    assert (fp8["model"], fp8["workload"]) == (plain["model"], "chat")
    # What nobody has measured may be cheaper, and says so apart: no run of a dense model in 16 bit is of a B200.
    assert plain["unproven"]["objective_value"] < plain["configurations"][0]["objective_value"]
    assert (plain["unproven"]["gpu"], plain["unproven"]["backed"]) == ("B200", False)
    named = document(tmp_path, "run", *ask, "--precision", "native,fp8")
    in_one = [c for c in named["groups"][0]["best_per_gpu"] if c["precision"] == "fp8"]
    assert named["in_fp8"] == []
    assert fp8["best"]["objective_value"] in [config["objective_value"] for config in in_one]
    assert fp8["best"]["objective_low"] < fp8["best"]["objective_value"] < plain["configurations"][0]["objective_value"]
    told = " ".join(answer(tmp_path, "run", *ask).split())
    assert "an fp8 checkpoint of Llama-3.3-70B-Instruct would cost " in told
    precisions = document(tmp_path, "query", "--sweep", "Llama-3.3-70B-Instruct-chat", "--limit", "0")["points"]
    assert {row["precision"] for row in precisions} <= {"bf16", "fp8"}


def test_whether_two_gpus_are_enough(tmp_path: Path) -> None:
    told = answer(tmp_path, "fit", "Qwen/Qwen3-235B-A22B-FP8", "2xH200", "--context", "32k")
    assert re.search(r"fits: .* of 126\.4 GiB per GPU; room for \d\.\d requests at once", told)


def test_what_another_price_changes(tmp_path: Path) -> None:
    answer(tmp_path, *QUICK)
    found = document(tmp_path, "compare", "now", "price:H100=1.8")
    assert [price["gpu"] for price in found["prices"]] == ["H100-SXM-80GB"]
    assert found["prices"][0]["b_usd_per_gpu_hour"] == 1.8
    assert found["configurations_added"] == found["configurations_vanished"] == 0
    changed = [winner for winner in found["winners"] if winner["changes"]]
    assert changed
    assert all(winner["b"]["gpu"] == "H100-SXM-80GB" for winner in changed)


def test_which_of_many_files_are_wrong(tmp_path: Path) -> None:
    said = estimate_performance("Qwen/Qwen3-8B", "H100", input_length=1024, output_length=512, batch_size=16)
    assert said.ttft_ms is not None
    assert said.itl_ms is not None
    head = "id,model,gpu,tp,precision,server,server_version,input_len,output_len,concurrency,ttft_ms,itl_ms"
    for number in range(60):
        factor = 3.0 if number % 20 == 7 else 1.0
        figures = f"{said.ttft_ms:.6g},{said.itl_ms * factor * (0.97 + number / 1000):.6g}"
        line = f"r{number},Qwen/Qwen3-8B,H100,1,bf16,vllm,0.19.1,1024,512,16,{figures}"
        (tmp_path / f"bench-{number:02}.csv").write_text(f"{head}\n{line}\n")
    answer(tmp_path, "import", *sorted(file.name for file in tmp_path.glob("*.csv")))
    worst = document(tmp_path, "accuracy", "--worst", "3")["worst"]
    assert {row["file"] for row in worst} == {"bench-07.csv", "bench-27.csv", "bench-47.csv"}


def test_how_many_users_one_gpu_takes(tmp_path: Path) -> None:
    found = document(tmp_path, "run", "--model", "Llama-3.1-8B-Instruct", "--gpu", "1xL40S")
    [config] = found["groups"][0]["configurations"]
    assert (config["gpu"], config["num_gpus"]) == ("L40S", 1)
    assert config["itl_ms"] <= 50
    assert config["concurrency"] > 8
    sure = document(tmp_path, "recommend", "--confidence", "0.9")["groups"][0]["configurations"][0]
    assert sure["concurrency"] <= config["concurrency"]
    assert sure["limits"][0]["probability"] >= 0.9


@pytest.mark.slow
def test_what_sixteen_gpus_can_serve(tmp_path: Path) -> None:
    found = document(tmp_path, "run", "--have", "A100-40GB=16")
    rows = found["served"]
    assert len(rows) + len(found["not_served"]) > 100
    assert [row["output_tokens_per_s"] for row in rows] == sorted(
        (row["output_tokens_per_s"] for row in rows), reverse=True
    )
    largest = next(row for row in rows if row["model"] == "Qwen/Qwen3-235B-A22B")
    assert "pp2" in largest["configuration"]
    assert all(row["tokens_low"] < row["output_tokens_per_s"] < row["tokens_high"] for row in rows)


@pytest.mark.slow
def test_one_server_against_another(tmp_path: Path) -> None:
    answer(tmp_path, *QUICK, "--server", "vllm,sglang")
    found = document(tmp_path, "compare", "server:vllm", "server:sglang")
    assert found["configurations_on_both_sides"] > 0
    assert found["metrics_at_equal_concurrencies"]["itl_ms"]["points"] > 0
    assert {winner["a"]["server"] for winner in found["winners"] if winner["a"]} == {"vllm"}
    assert {winner["b"]["server"] for winner in found["winners"] if winner["b"]} == {"sglang"}


@pytest.mark.slow
def test_a_picture_of_the_trade_off(tmp_path: Path) -> None:
    answer(tmp_path, *QUICK)
    ask = ["pareto", "--model", "Qwen3-32B", "--gpu", "H200,B200", "--slo", "itl<=50ms", "--plot", "slide.svg"]
    answer(tmp_path, *ask)
    drawn = (tmp_path / "slide.svg").read_text()
    for told in ("H200-SXM-141GB", "B200", "estimated", "ITL &lt;= 50 ms", "USD per GPU hour"):
        assert told in drawn, told
