"""`--have`: what GPUs that are there can serve, one line a model; and the exit status where nothing qualifies."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from gpuscout.runner.cli.main import execute
from gpuscout.runner.cli.show.deployments.inventory import read_inventory
from gpuscout.store.queries.placements.inventory import replicas_on
from gpuscout.sweeps.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("count", "num_gpus", "node", "replicas"),
    [(16, 8, 8, 2), (16, 16, 8, 1), (16, 3, 8, 4), (20, 8, 8, 2), (20, 4, 8, 5), (24, 12, 8, 1), (15, 16, 8, 0)],
)  # fmt: skip
def test_replicas_are_never_cut_in_two(count: int, num_gpus: int, node: int, replicas: int) -> None:
    assert replicas_on(count, num_gpus, node) == replicas


def test_inventories_as_people_write_them(folder: Path) -> None:
    Path("ours.txt").write_text("H100 = 8   # rack 7\n\nA100-40GB=16\n")
    assert read_inventory(["ours.txt", "H100=4,L4=2"]) == {"H100-SXM-80GB": 12, "A100-SXM-40GB": 16, "L4": 2}
    for wrong in ("H100", "H100=", "H100=0", "H100=many"):
        with pytest.raises(InputError, match="--have: invalid inventory"):
            read_inventory([wrong])


def test_what_sixteen_gpus_serve(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--model", "Qwen3-8B,Qwen3-235B-A22B,DeepSeek-V3"]
    assert execute(["run", "--have", "A100-40GB=16", *models, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["inventory"] == {"A100-SXM-40GB": 16}
    assert document["not_served"] == ["deepseek-ai/DeepSeek-V3"]
    rows = {row["model"]: row for row in document["served"]}
    large, small = rows["Qwen/Qwen3-235B-A22B"], rows["Qwen/Qwen3-8B"]
    # 235 B weights in 16 bits do not fit eight GPUs of 40 GB: two pipeline stages of eight.
    assert "x16 tp8 pp2" in large["configuration"]
    assert (large["replicas"], large["gpus"]) == (1, 16)
    assert small["replicas"] * int(small["configuration"].split(" x")[1].split()[0]) == 16
    assert small["output_tokens_per_s"] > large["output_tokens_per_s"]
    for row in rows.values():
        assert row["tokens_low"] < row["output_tokens_per_s"] < row["tokens_high"]
        assert row["itl_ms"] <= 50

    ask = ["recommend", "--have", "A100-40GB=16"]
    assert execute([*ask, "--sort", "itl_ms", "--csv"]) == 0
    latencies = [float(row["itl_ms"]) for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert latencies == sorted(latencies)
    assert execute([*ask, "--sort", "-replicas", "--csv"]) == 0
    replicas = [int(row["replicas"]) for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert replicas == sorted(replicas, reverse=True)
    assert execute([*ask, "--sort", "speed"]) == 2
    assert "unknown column" in capsys.readouterr().err


def test_the_table_fits_and_the_exit_status_tells(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 100, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        assert execute(["run", "--have", "L40S=4,H100=2", "--model", "Qwen3-8B,Qwen3-32B"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert max(map(len, told)) <= width
        assert told[0].startswith("4 x L40S, 2 x H100-SXM-80GB: each model")
    assert execute(["recommend", "--have", "L40S=4", "--slo", "itl<=0.001ms"]) == 6
    assert execute(["recommend", "--slo", "itl<=0.001ms"]) == 6
    assert execute(["run", "--model", "Qwen3-8B", "--gpu", "L4", "--slo", "itl<=0.001ms"]) == 6
    assert execute(["run", "--have", "L4=2", "--gpu", "L4"]) == 2
