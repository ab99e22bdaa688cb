"""Number formats: every spelling that tools and checkpoints use, wherever a precision is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuscout import ModelArchitecture
from gpuscout.runner.cli.main import execute
from gpuscout.store.measured.formats import SourceFile, table
from gpuscout.sweeps.errors import UnknownNameError
from gpuscout.sweeps.precision import PRECISIONS, precision_called, precision_detail, spellings_of
from gpuscout.sweeps.spec.spec import parse_spec

SPELLINGS = {
    "int4": "int4-weight-only", "W4A16": "int4-weight-only", "awq": "int4-weight-only", "GPTQ": "int4-weight-only",
    "w8a8": "int8", "w8a16": "int8-weight-only", "int8_weight": "int8-weight-only", "nvfp4": "fp4", "MXFP4": "fp4",
    "fp8_e4m3": "fp8", "bfloat16": "bf16", "half": "fp16", "FP8": "fp8",
}  # fmt: skip
CSV = "model,gpu,tp,precision,server,server_version,input_len,output_len,concurrency,ttft_ms\n"


@pytest.mark.parametrize(("written", "meant"), SPELLINGS.items())
def test_a_spelling_means_one_precision_everywhere(written: str, meant: str) -> None:
    assert precision_called(written) == meant
    spec = parse_spec(f"name: a\nmodels: [Qwen/Qwen3-32B]\ngpus: [H100]\nworkloads: [chat]\nprecision: [{written}]\n")
    assert spec.precision == (meant,)
    rule = "exclude:\n  - {precision: WRITTEN}\n".replace("WRITTEN", written)
    assert str(
        parse_spec(f"name: a\nmodels: [Qwen/Qwen3-32B]\ngpus: [H100]\nworkloads: [chat]\n{rule}").exclude
    ) == str(
        parse_spec(
            f"name: a\nmodels: [Qwen/Qwen3-32B]\ngpus: [H100]\nworkloads: [chat]\n{rule}".replace(written, meant)
        ).exclude
    )
    model = ModelArchitecture("Qwen/Qwen3-32B")
    assert model.model_memory_gb(written) == model.model_memory_gb(meant)
    [run] = table.read(SourceFile("a.csv", f"{CSV}Q,H100,1,{written},vllm,1,10,10,1,5\n".encode())).runs
    assert run.deployment["precision"] == meant
    assert run.details.get("precision_detail") == precision_detail(written)


def test_what_a_spelling_says_beyond_its_precision_is_its_detail() -> None:
    assert [precision_detail(name) for name in ("MXFP4", "w4a16", "fp8_e4m3")] == ["mxfp4", "w4a16", "fp8-e4m3"]
    assert [precision_detail(name) for name in ("fp4", "bf16", "bfloat16", "half", "fp5")] == [None] * 5


def test_no_spelling_means_two_precisions() -> None:
    names = [*PRECISIONS, *spellings_of(PRECISIONS)]
    assert len(names) == len(set(names))
    assert precision_called("w4a8") is None
    with pytest.raises(UnknownNameError, match="w4a8"):
        ModelArchitecture("Qwen/Qwen3-32B").model_memory_gb("w4a8")


def test_flags_take_spellings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "Qwen3-8B", "--gpu", "H100", "--tp", "1", "--input-len", "1000", "--output-len", "100"]
    assert execute(["run", *flags, "--precision", "awq"]) == 0
    capsys.readouterr()
    assert execute(["query", "--precision", "w4a16", "--columns", "precision", "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == [{"precision": "int4-weight-only"}]
