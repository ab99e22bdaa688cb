"""Which files are wrong: `accuracy --worst` puts planted outliers first, and `import` names what is over 2x off."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from gpuscout import estimate_performance
from gpuscout.runner.cli.main import execute

PLANTED = {"run03.csv": ("itl_ms", 4.0), "run11.csv": ("ttft_ms", 9.0), "run17.csv": ("itl_ms", 2.6)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty files that agree with the estimates within a tenth, but for three."""
    monkeypatch.chdir(tmp_path)
    said = estimate_performance("Qwen/Qwen3-8B", "H100", input_length=1024, output_length=512, batch_size=16)
    assert said.ttft_ms is not None
    assert said.itl_ms is not None
    for number in range(20):
        name = f"run{number:02}.csv"
        figures = {"ttft_ms": said.ttft_ms * (0.95 + 0.005 * number), "itl_ms": said.itl_ms * (1.05 - 0.005 * number)}
        if name in PLANTED:
            metric, factor = PLANTED[name]
            figures[metric] *= factor
        line = {"id": f"r{number}", "model": "Qwen/Qwen3-8B", "gpu": "H100", "tp": 1, "precision": "bf16"}
        line |= {"server": "vllm", "server_version": "0.19.1", "input_len": 1024, "output_len": 512, "concurrency": 16}
        line |= figures
        Path(name).write_text(f"{','.join(line)}\n{','.join(map(str, line.values()))}\n")
    return tmp_path


def test_the_worst_files_come_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"run{number:02}.csv" for number in range(20)]
    assert execute(["import", *files, "--source", "our lab"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "note: 3 runs are over 2x off the estimate: run11.csv (TTFT ms 9" in told

    assert execute(["accuracy", "--worst", "3", "--json"]) == 0
    worst = json.loads(capsys.readouterr().out)["worst"]
    assert [row["file"] for row in worst] == ["run11.csv", "run03.csv", "run17.csv"]
    for row in worst:
        metric, factor = PLANTED[row["file"]]
        assert row["metric"] == metric
        assert row["factor"] == pytest.approx(factor, rel=0.11)
        assert row["factor"] == pytest.approx(row["measured"] / row["estimated"])
        assert row["outside_interval"] is True
        assert row["source"] == "our lab"

    assert execute(["accuracy", "--worst", "4"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()[1:4]] == ["run11.csv", "run03.csv", "run17.csv"]
    assert "roofline: 3 of 20 runs over 2x off, 3 outside its interval" in told
    assert execute(["accuracy", "--worst", "20", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["outside_interval"] for row in rows] == ["true"] * 3 + ["false"] * 17
    assert [float(row["factor"]) for row in rows] == sorted((float(row["factor"]) for row in rows), reverse=True)


def test_the_table_of_the_worst_fits_a_narrow_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert execute(["import", *(f"run{number:02}.csv" for number in range(20))]) == 0
    capsys.readouterr()
    for width in (80, 100, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        assert execute(["accuracy", "--worst", "3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        assert any(line.startswith("run11.csv") and "x" in line for line in lines)
