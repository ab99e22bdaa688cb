"""Names of result files say what the files do not: `gpuscout import --name '{model}_{gpu}_tp{tp}_*'`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuscout.runner.cli.main import execute
from gpuscout.runner.imports.file_names import NamePattern
from gpuscout.sweeps.errors import InputError

HEAD = "id,server,server_version,input_len,output_len,concurrency,ttft_ms,itl_ms"


@pytest.mark.parametrize(
    ("pattern", "file", "said"),
    [
        ("{model}_{gpu}_tp{tp}_*", "r/qwen3-32b_h100_tp2_c16.json", {"model": "qwen3-32b", "gpu": "h100", "tp": "2"}),
        ("{gpu} x{tp}-c{concurrency}", "L40S X4-C128.json", {"gpu": "L40S", "tp": "4", "concurrency": "128"}),
        ("*-{server-version}.json", "run-0.19.1.json", {"server_version": "0.19.1"}),
        ("run?.{precision}", "run7.fp8.csv", {"precision": "fp8"}),
        ("{model}-tp{tp}", "x-tpfour.json", None),
        # Nothing of a pattern but its fields and wildcards means anything.
        ("(a|b)+{tp}", "(a|b)+2.json", {"tp": "2"}),
        ("(a|b)+{tp}", "ab2.json", None),
    ],
)
def test_what_a_name_says(pattern: str, file: str, said: dict[str, str] | None) -> None:
    found = NamePattern.of(pattern)
    assert {name: value.text for name, value in found.values(file).items()} == (said or {})
    assert found.unmatched == ([] if said else [file])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.json", "has no field"),
        ("{modle}_*", r'unknown field "\{modle\}"'),
        ("{tp}_{tp}", "twice"),
        ("{tp", "unmatched brace"),
        ("tp}", "unmatched brace"),
    ],
)
def test_what_is_no_pattern(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        NamePattern.of(pattern)


def test_files_are_completed_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("qwen3-32b_H100_tp2_a.csv", "qwen3-8b_L40S_tp1_b.csv", "other.csv"):
        Path(name).write_text(f"{HEAD}\n1,vllm,0.19.1,1024,512,16,90.0,40.0\n")
    Path("gpt-oss-20b_H200_tp1_c.csv").write_text(f"{HEAD},gpu\n1,vllm,0.19.1,1024,512,16,90.0,40.0,L4\n")

    def imported(*arguments: str, status: int = 0) -> tuple[Any, str]:
        capsys.readouterr()
        assert execute(["import", *arguments, "--json"]) == status
        told = capsys.readouterr()
        return json.loads(told.out) if told.out else None, told.err

    names = sorted(file.name for file in Path().glob("*.csv"))
    _, said = imported(*names, "--name", "{model}_{gpu}_tp{tp}_*", status=2)
    # What the file itself says is not contradicted, and what nobody says is asked for.
    assert 'the file says "L4", gpt-oss-20b_H200_tp1_c.csv (--name) says "H200"' in said
    assert "other.csv: does not say the model, the GPU" in said
    assert "note: other.csv: does not match --name {model}_{gpu}_tp{tp}_*" in said
    assert execute(["query", "--json", "--columns", "model,gpu,num_gpus,kind"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == [
        {"model": "Qwen/Qwen3-32B", "gpu": "H100-SXM-80GB", "num_gpus": 2, "kind": "measured"},
        {"model": "Qwen/Qwen3-8B", "gpu": "L40S", "num_gpus": 1, "kind": "measured"},
    ]
    # Of a name before a flag, which is about all files.
    _, said = imported("qwen3-8b_L40S_tp1_b.csv", "--name", "{model}_{gpu}_*", "--gpu", "A100", "--tp", "1")
    assert "already" not in said
    _, said = imported("other.csv", "--name", "{gpu}{nothing}", status=2)
    assert "unknown field" in said
