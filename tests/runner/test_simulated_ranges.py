"""Answers about simulated percentiles say how sure they are, and are backed where runs that report them are near."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gpuscout import recommend_gpus
from tests.assets.update_tails import FILE, PAGE, table
from tests.support.in_process import gpuscout

pytestmark = pytest.mark.slow

MEASURED, UNMEASURED = "deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-8B"
ASKED = ("--slo", "ttft:p95<=20s", "--objective", "cost")


def said(folder: Path, *arguments: str) -> str:
    done = gpuscout(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts on GPUs of which runs report percentiles, and a dense model, of which none does."""
    folder = tmp_path_factory.mktemp("simulated")
    closed = {"gpus": ["H200"], "workloads": ["chat"], "engine": "simulator", "slo": ["ttft:p95<=20s"]}
    arriving = {"name": "x", "input_len": 1024, "output_len": 512, "arrivals": "poisson"}
    specs: dict[str, dict[str, Any]] = {
        "closed": {**closed, "models": [MEASURED], "tensor_parallel": 8, "concurrency": [16, 32]},
        "dense": {**closed, "models": [UNMEASURED], "tensor_parallel": 1, "concurrency": [16, 32]},
        "open": {**closed, "models": [MEASURED], "tensor_parallel": 8, "load": "request_rate", "request_rate": [1]}
        | {"workloads": [arriving]},
    }
    for name, spec in specs.items():
        (folder / f"{name}.json").write_text(json.dumps({"name": name, **spec}))
        said(folder, "run", f"{name}.json")
    return folder


def best(folder: Path, sweep: str, *more: str) -> dict[str, Any]:
    (group,) = json.loads(said(folder, "recommend", "--sweep", sweep, *ASKED, *more, "--json"))["groups"]
    found: dict[str, Any] = group["configurations"][0]
    return found


def test_ranges_and_probabilities_are_those_of_the_percentile(folder: Path) -> None:
    for sweep in ("closed", "dense", "open"):
        config = best(folder, sweep)
        (limit,) = config["limits"]
        value = config["percentiles"]["ttft:p95_ms"]
        assert config["p95_ttft_ms_low"] < value == limit["value"] < config["p95_ttft_ms_high"]
        assert 0 < limit["probability"] < 1
        # A tail is less certain than a mean.
        spread = config["p95_ttft_ms_high"] / config["p95_ttft_ms_low"]
        assert spread > config["ttft_ms_high"] / config["ttft_ms_low"] > 1
        assert config["objective_low"] < config["objective_value"] < config["objective_high"]


def test_only_runs_that_report_percentiles_back_one(folder: Path) -> None:
    """Means of dense models were measured on H200, and of requests in a closed loop; their percentiles were not."""
    assert best(folder, "closed")["backed"]
    assert not best(folder, "dense")["backed"]
    assert not best(folder, "open")["backed"]
    for sweep in ("dense", "open"):
        (group,) = json.loads(said(folder, "recommend", "--sweep", sweep, "--slo", "itl<=100ms", "--json"))["groups"]
        assert group["configurations"][0]["backed"]


def test_a_binding_percentile_is_told_with_its_own_errors(folder: Path) -> None:
    """No run reports a p95, so the errors of p99 are told, and called so."""
    config = best(folder, "closed", "--slo", f"ttft:p95<={best(folder, 'closed')['percentiles']['ttft:p95_ms']:.0f}ms")
    assert config["binding"] == "ttft:p95"
    assert (config["trust"]["metric"], config["trust"]["near"]) == ("p99_ttft_ms", True)
    limit = f"ttft:p95<={config['percentiles']['ttft:p95_ms']:.3f}ms"
    shown = said(folder, "recommend", "--sweep", "closed", "--slo", limit, "--explain")
    assert "TTFT p99: half of " in " ".join(shown.split())


def test_a_safe_answer_holds_the_far_end_of_the_percentile(folder: Path) -> None:
    sure = best(folder, "closed", "--cautious")
    assert sure["concurrency"] <= best(folder, "closed")["concurrency"]
    assert sure["p95_ttft_ms_high"] <= 20_000
    assert sure["limits"][0]["probability"] >= 0.9
    (sized,) = json.loads(said(folder, "capacity", "--sweep", "closed", *ASKED[:2], "--rate", "20", "--json"))["groups"]
    first = sized["best_per_gpu"][0]
    assert first["usd_per_month_low"] < first["usd_per_month"] < first["usd_per_month_high"]
    assert first["safe_gpus"] >= first["gpus"]


def test_rows_frontiers_and_python_have_the_ends(folder: Path) -> None:
    for command in ("recommend", "query"):
        rows = csv.DictReader(io.StringIO(said(folder, command, "--sweep", "closed", *ASKED[:2], "--csv")))
        for row in rows:
            assert float(row["p95_ttft_ms_low"]) < float(row["p95_ttft_ms"]) < float(row["p95_ttft_ms_high"])
    asked = ("pareto", "--sweep", "closed", "--metrics", "cost,ttft:p95")
    for point in json.loads(said(folder, *asked, "--json"))["points"]:
        assert point["p95_ttft_ms_low"] < point["p95_ttft_ms"] < point["p95_ttft_ms_high"]
    assert "p95 TTFT" in (shown := said(folder, *asked))
    assert shown.count("–") >= 4
    (found,) = recommend_gpus(
        UNMEASURED, gpus=["H200"], slos="ttft:p95<=20s", engine="simulator", max_gpus=1, batch_size=16
    )
    assert found.estimate is not None
    tails = found.estimate.percentiles
    assert tails["p95_ttft_ms_low"] < tails["p95_ttft_ms"] < tails["p95_ttft_ms_high"]


def test_the_page_shows_the_intervals_that_ship() -> None:
    assert table(json.loads(FILE.read_text(encoding="utf-8"))) in PAGE.read_text(encoding="utf-8")


def test_a_frontier_says_what_was_simulated_and_how_sure_it_is(folder: Path) -> None:
    """As a ranking does: the kind, the range of a percentile that a limit is on, and what nobody measured."""
    asked = ("pareto", "--slo", "ttft:p95<=20s")
    for sweep, backed in (("closed", True), ("dense", False), ("open", False)):
        points = json.loads(said(folder, *asked, "--sweep", sweep, "--json"))["points"]
        assert {point["kind"] for point in points} == {"estimated, simulated p95"}
        assert {point["backed"] for point in points} == {backed}
        assert all(point["p95_ttft_ms_low"] < point["p95_ttft_ms"] < point["p95_ttft_ms_high"] for point in points)
        shown = said(folder, *asked, "--sweep", sweep)
        assert "; estimated, simulated p95\n" in shown
        assert "p95 TTFT ms (80 % range)" in " ".join(shown.split())
        assert ("? unmeasured" in shown) is not backed
    markdown = said(folder, *asked, "--sweep", "closed", "--md")
    assert "| estimated, simulated p95 |" in markdown
    measured = ("pareto", "--metrics", "cost,ttft:p95", "--sweep", "dense")
    assert "; estimated, simulated p95\n" in said(folder, *measured)
