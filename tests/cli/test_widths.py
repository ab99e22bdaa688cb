"""Nothing that people read is wider than their terminal; only addresses and commands to copy are never folded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuscout.runner.cli.main import execute

pytestmark = pytest.mark.slow

MODELS = "Qwen3-8B,Qwen3-32B,Llama-3.3-70B-Instruct"
ASKED = [
    ["gpus", "list"],
    ["gpus", "show", "H100"],
    ["models", "list", "Qwen/*"],
    ["models", "show", "gpt-oss-120b"],
    ["workloads", "show", "chat"],
    ["engines", "list"],
    ["engines", "show", "roofline"],
    ["prices", "list"],
    ["prices", "show", "H100"],
    ["plan", "--model", MODELS, "--gpu", "Hopper,L4", "--server", "vllm,sglang", "--tp", "1,2,4,8", "--pp", "1,2"],
    ["fit", "Qwen/Qwen3-235B-A22B-FP8", "2xH100", "--context", "32k"],
    ["sweeps", "list"],
    ["recommend"],
    ["recommend", "--top", "4", "--model", "Qwen3-32B"],
    ["recommend", "--have", "H100=8,L4=4"],
    ["capacity", "--rate", "20"],
    ["query", "--limit", "5"],
    ["pareto", "--model", "Qwen3-8B"],
    ["compare", "server:vllm", "server:sglang"],
    ["compare", "now", "price:H100=1.8"],
    ["doctor"],
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('widths') / 'gpuscout.db'}"
    run = ["run", "--model", MODELS, "--gpu", "H100,H200,L4", "--server", "vllm,sglang", "--concurrency", "1,8,64"]
    assert execute([*run, "--db", url]) == 0
    return url


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_the_terminal(
    database: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("GPUSCOUT_DB", database)
    for arguments in ASKED:
        assert execute(arguments) in (0, 6), arguments
        for line in capsys.readouterr().out.splitlines():
            longest = max(line.split(), key=len, default="")
            address = len(longest) > width - 12 or "gpuscout.db" in longest
            assert len(line) <= width or address, (arguments, line)


def test_the_answer_for_ten_models_fits_a_small_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    models = "Qwen3-0.6B,Qwen3-1.7B,Qwen3-4B,Qwen3-8B,Qwen3-14B,Qwen3-32B,Qwen3-30B-A3B,gpt-oss-20b,gpt-oss-120b"
    run = ["run", "--model", f"{models},Llama-3.3-70B-Instruct", "--gpu", "H100,H200,B200", "--concurrency", "1,8,64"]
    assert execute(run) == 0
    capsys.readouterr()
    assert execute(["recommend"]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 24


def test_no_figure_is_cut_however_narrow_the_terminal_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    run = ["run", "--model", "Qwen3-32B", "--gpu", "H100,H200,B200", "--workload", "chat", "--engine", "simulator"]
    limits = ["--slo", "p99_e2e<=30s", "--slo", "p95_itl<=80ms", "--slo", "p95_ttft<=5s"]
    assert execute(run) == 0
    capsys.readouterr()
    for width in (80, 50):
        monkeypatch.setenv("COLUMNS", str(width))
        assert execute(["pareto", *limits, "--json"]) == 0
        points = [one for one in json.loads(capsys.readouterr().out)["points"] if not one.get("dominated")]
        assert execute(["pareto", *limits]) == 0
        told = [line.split() for line in capsys.readouterr().out.splitlines()]
        rows = [words for words in told if words and words[0] in ("H100", "H200", "B200")]
        assert len(rows) == len(points)
        for words, point in zip(rows, points, strict=True):
            assert str(point["concurrency"]) in words
    monkeypatch.setenv("COLUMNS", "80")
    assert execute(["recommend", *limits]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(place for place, line in enumerate(lines) if line.split()[:2] == ["model", "best"])
    heading, below, row = lines[place : place + 3]
    assert (heading.split()[-1], below.split()[-1], row.split()[-1]) == ("limits", "met", "%")
    for width in (80, 70):
        monkeypatch.setenv("COLUMNS", str(width))
        assert execute(["recommend", *limits, "--top", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        place = next(place for place, line in enumerate(lines) if line.split()[:2] == ["model", "best"])
        assert "limits" in lines[place]
        assert all("%" in line and "…" not in line for line in lines[place + 2 : place + 4])
