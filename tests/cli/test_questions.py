"""Questions as people type them: groups and numbers of GPUs, commas, lengths, limits, and the limit of last resort."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from gpuscout.runner.cli.main import execute
from gpuscout.runner.cli.sweep.options import priced_datacenter_gpus
from gpuscout.store.database.connect import open_store
from gpuscout.store.schema import sweeps
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.names import parted
from gpuscout.sweeps.slo import Slo, parse_slo

pytestmark = pytest.mark.slow

FEW = ["--concurrency", "1,16,64"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[dict[str, object]]]:
    assert execute([*arguments, "--json"]) == 0
    document: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("tpot<=30ms", Slo("itl", 30.0)),
        ("p95_ttft<=1s", Slo("ttft", 1000.0, 95.0)),
        ("p99.9_e2e_s<=10", Slo("e2e", 10.0, 99.9)),
        ("ttft_p95<=500", Slo("ttft", 500.0, 95.0)),
        ("mean_itl_ms<=20", Slo("itl", 20.0)),
        ("tok/s/user>=25", Slo("itl", 40.0)),
        ("tps/user>=25", Slo("itl", 40.0)),
        ("interactivity>=25 tok/s", Slo("itl", 40.0)),
        ("p95 ttft <= 2s", Slo("ttft", 2000.0, 95.0)),
        ("TTFT p95 <= 2 s", Slo("ttft", 2000.0, 95.0)),
    ],
)
def test_limits_in_peoples_words(text: str, slo: Slo) -> None:
    assert parse_slo(text) == slo


def test_a_speed_is_a_lower_limit() -> None:
    for text in ("tok/s/user<=30", "interactivity>=0"):
        with pytest.raises(InputError, match="expected a lower limit"):
            parse_slo(text)


def test_groups_of_gpus() -> None:
    catalogue = GPUCatalogue.load()
    datacenter = {gpu.name for gpu in catalogue.select(glob="data-center")}
    assert {"H100-SXM-80GB", "L4", "MI300X", "RTX PRO 6000 Blackwell Server"} <= datacenter
    assert not {"RTX 4090", "RTX A6000", "TPU v5p", "Gaudi 3"} & datacenter
    assert {gpu.family for gpu in catalogue.select(glob="hopper")} == {"Hopper"}
    assert {gpu.vendor for gpu in catalogue.select(glob="amd")} == {"AMD"}
    assert set(priced_datacenter_gpus()) < datacenter
    assert parted(["H100,H200", " L4 "]) == ["H100", "H200", "L4"]


def test_without_a_gpu_all_priced_ones_of_data_centres_are_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = asked(capsys, "run", "--model", "Qwen3-8B", "--exclude", "AMD,H100-PCIe", *FEW, "--top", "40")
    [group] = document["groups"]
    answered = {config["gpu"] for config in group["best_per_gpu"]}  # type: ignore[attr-defined]
    amd = {gpu.name for gpu in GPUCatalogue.load().select(vendor="AMD")}
    assert {"H100-SXM-80GB", "H200-SXM-141GB", "B200", "L4"} <= answered
    assert answered <= set(priced_datacenter_gpus()) - amd - {"H100-PCIe-80GB"}
    hopper = asked(capsys, "run", "--model", "Qwen3-8B", "--gpu", "hopper,NVIDIA A10", *FEW, "--top", "40")
    families = {config["gpu"] for config in hopper["groups"][0]["best_per_gpu"]}  # type: ignore[attr-defined]
    assert families == {gpu.name for gpu in GPUCatalogue.load().select(family="Hopper")} & families | {"A10"}
    assert len(families) >= 5
    # The store understands the same words.
    found = asked(capsys, "recommend", "--gpu", "Hopper,L4", "--top", "40")
    gpus = {config["gpu"] for config in found["groups"][0]["best_per_gpu"]}  # type: ignore[attr-defined]
    assert gpus == families - {"A10"} | {"L4"}
    assert execute(["recommend", "--gpu", "RTX 4090"]) == 2


def test_numbers_of_gpus_and_lengths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--input-len", "8k", "--output-len", "512"]
    document = asked(capsys, "run", "--model", "Qwen3-8B", "--gpu", "2xH200,2xH100", "--tp", "1,2,4", *lengths, *FEW)
    configs = document["groups"][0]["configurations"]
    assert {config["num_gpus"] for config in configs} == {2}  # type: ignore[attr-defined]
    assert document["groups"][0]["input_len"] == 8192
    document = asked(capsys, "run", "--model", "Qwen3-8B", "--gpu", "H200", "--tp", "1,2", "--pp", "1,2", *FEW)
    found = asked(capsys, "recommend", "--gpu", "H200:4", "--input-len", "1k", "--output-len", "512")
    sizes = {(c["tensor_parallel"], c["pipeline_parallel"]) for c in found["groups"][0]["configurations"]}  # type: ignore[attr-defined]
    assert sizes == {(2, 2)}
    assert execute(["recommend", "--gpu", "2xH200,H100"]) == 2
    assert "expected one number of GPUs for all" in capsys.readouterr().err


def test_a_limit_counts_where_none_is_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--model", "Qwen3-32B", "--gpu", "H100", "--tp", "2", "--price", "H100=2", "--trust", "any"]
    assert execute(run) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "ITL <= 50 ms: the limit that counts unless --slo names others; --no-slo lifts it" in told
    limited = asked(capsys, "recommend", "--objective", "throughput")["groups"][0]["configurations"][0]  # type: ignore[index]
    free = asked(capsys, "recommend", "--objective", "throughput", "--no-slo")["groups"][0]["configurations"][0]  # type: ignore[index]
    assert limited["itl_ms"] <= 50 < free["itl_ms"]
    assert limited["output_tokens_per_s"] < free["output_tokens_per_s"]
    assert execute(["recommend", "--no-slo", "--slo", "itl<=30ms"]) == 2
    assert "leave --slo out" in capsys.readouterr().err


def test_prompts_that_are_too_long_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--input-len", "128k", "--output-len", "1000"]
    assert execute(["run", "--model", "Qwen3-32B", "--gpu", "H100", *lengths]) == 2
    told = capsys.readouterr().err
    assert "nothing can run: all 4 combinations are impossible" in told
    assert "132,072 tokens are more than the model's context of 40,960" in told
    assert not (folder / "gpuscout.db").exists()


def test_a_sweep_from_flags_is_called_after_what_it_asks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "run", "--model", "Qwen/Qwen3-8B", "--gpu", "H100", *FEW)
    assert document["run"]["sweep"] == "Qwen3-8B-chat"  # type: ignore[call-overload]
    assert execute(["workloads", "show", "chat"]) == 0
    assert "1,024" in capsys.readouterr().out
    assert execute(["workloads", "show", "chatt"]) == 2
    assert "did you mean chat?" in capsys.readouterr().err


def test_a_model_that_an_unfinished_sweep_may_still_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["run", "--model", "Qwen3-8B", "--gpu", "H100", *FEW]) == 0
    with open_store("gpuscout.db") as store, store.writing() as connection:
        connection.execute(sa.update(sweeps).values(finished_at=None, task_count=16))
    capsys.readouterr()
    assert execute(["recommend", "--model", "Qwen3-32B"]) == 2
    told = capsys.readouterr().err
    assert 'unknown model "Qwen3-32B"' in told
    assert "sweep Qwen3-8B-chat is at 25 %: it may be among the missing results" in told


READ_ONLY = """
import os, sys
from gpuscout.runner.cli.main import execute
os.umask(0o022)
assert execute(["run", "--model", "Qwen3-8B", "--gpu", "H100", "--concurrency", "1,16"]) == 0
os.chmod("gpuscout.db", 0o444)
os.chmod(".", 0o555)

def ask():
    return execute(["recommend"]) or execute(["db", "status"])

ask()  # imports all modules, which another user may not find
os.setgid(65534)
os.setuid(65534)
assert not os.access(".", os.W_OK)
sys.exit(ask())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")
def test_a_store_that_can_only_be_read_is_read(folder: Path) -> None:
    for place in (folder, *folder.parents[:-1]):
        place.chmod(place.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", READ_ONLY], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("H100 x1") == 3
