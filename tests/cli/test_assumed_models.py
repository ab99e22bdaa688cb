"""A model whose precision was taken from its name is said to be one in every answer, in every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.in_process import gpuscout

MODEL = "RedHatAI/Qwen3-32B-quantized.w4a16"
SAID = "int4-weight-only assumed from its name, on the architecture of Qwen/Qwen3-32B"
CASE = ("--model", MODEL, "--workload", "chat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assumed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        done = gpuscout("run", "--model", MODEL, "--gpu", "H100", "--gpu", "L40S", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert SAID in " ".join(done.stdout.split())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("recommend",),
        ("recommend", "--json"),
        ("recommend", "--csv"),
        ("query", "--limit", "1"),
        ("query", "--limit", "1", "--json"),
        ("pareto",),
        ("pareto", "--json"),
        ("capacity", *CASE, "--rate", "5"),
        ("capacity", *CASE, "--rate", "5", "--json"),
        ("deploy", *CASE, "--json"),
        ("fit", MODEL, "H100"),
        ("models", "show", MODEL),
    ],
    ids=lambda command: " ".join(command[:1] + command[-1:]),
)
def test_every_answer_says_so(command: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = gpuscout(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert SAID in " ".join((done.stdout + done.stderr).split())
