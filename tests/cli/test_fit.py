"""`gpuscout fit`: memory by what fills it, room for requests, the smallest changes, and servers' own logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuscout.runner.api.models.fit import fit_memory
from gpuscout.runner.cli.main import execute
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.names import counted, tokens


def test_the_command_answers_without_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = f"sqlite:///{tmp_path}/none.db"
    asked = ["fit", "Qwen/Qwen3-235B-A22B-FP8", "2xH200", "--context", "32k", "--db", db]
    assert execute(asked) == 0
    told = capsys.readouterr().out
    assert "fits: one request of 32,768 tokens needs 117.6 of 126.4 GiB per GPU; room for 4.0 requests" in told
    assert not (tmp_path / "none.db").exists()
    assert execute([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["fit"]
    parts = [document[f"{name}_gib"] for name in ("weights", "activations", "runtime", "kv_cache")]
    assert sum(parts) == pytest.approx(document["usable_gib"])
    assert document["requests"] == pytest.approx(document["kv_cache_gib"] / document["kv_request_gib"])


def test_what_does_not_fit_names_changes_that_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["fit", "Llama-3.1-8B-Instruct", "L4", "--db", f"sqlite:///{tmp_path}/none.db", "--json"]
    assert execute(asked) == 6
    found = json.loads(capsys.readouterr().out)["fit"]
    assert not found["fits"]
    assert found["needed_gib"] > found["usable_gib"]
    assert found["changes"]
    for change in found["changes"]:
        again = fit_memory(
            found["model"],
            found["gpu"],
            change["num_gpus"],
            context_length=change["context_length"],
            precision=change["precision"],
            kv_precision=change["kv_precision"],
            gpu_memory_utilization=change["gpu_memory_utilization"],
        )
        assert again.fits, change
        assert again.requests == pytest.approx(change["requests"])
    shorter = next(change for change in found["changes"] if change["context_length"] < found["context_length"])
    longer = fit_memory(found["model"], "L4", context_length=shorter["context_length"] + 1024)
    assert not longer.fits  # it is the longest that does


def test_pipeline_stages_are_used_where_a_node_is_too_small() -> None:
    found = fit_memory("Qwen/Qwen3-235B-A22B", "A100-40GB", 16)
    assert (found.fits, found.tensor_parallel, found.pipeline_parallel) == (True, 8, 2)
    with pytest.raises(InputError, match="16 GPUs cannot be split into TP 3"):
        fit_memory("Qwen/Qwen3-235B-A22B", "A100-40GB", 16, tensor_parallel_size=3)
    told = fit_memory("Qwen/Qwen3-32B", "H100", 2, context_length=131_072)
    assert told.reason == "131,072 tokens are more than the model's context of 40,960"
    assert [change.context_length for change in told.changes] == [40_960]


# What servers printed when they started: GiB of weights on one GPU, and tokens that so many GiB of KV cache hold.
# https://github.com/vllm-project/vllm/issues/10517 (Llama 3.1 8B, one GPU): "Loading model weights took 14.9888 GB",
# kv_cache_size=3.81GiB, 1952 blocks of 16 tokens; issues/21348 (4 GPUs): 8.11 GiB, "GPU KV cache size: 178,880 tokens".
@pytest.mark.parametrize(
    ("model", "gpu", "gpus", "weights_gib", "tokens_per_gib"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "A10", 1, 14.9888, 1952 * 16 / 3.81),
        ("Qwen/Qwen3-235B-A22B-FP8", "H100", 4, None, 178_880 / 8.11),
    ],
)
def test_weights_and_cache_are_those_of_servers_logs(
    model: str, gpu: str, gpus: int, weights_gib: float | None, tokens_per_gib: float
) -> None:
    found = fit_memory(model, gpu, gpus, context_length=4096, gpu_memory_utilization=0.95)
    if weights_gib is not None:
        assert found.weights_gib == pytest.approx(weights_gib, rel=0.005)
    assert found.kv_capacity_tokens / found.kv_cache_gib == pytest.approx(tokens_per_gib, rel=0.02)


def test_the_room_for_caches_is_that_of_a_servers_log() -> None:
    # vLLM 0.24 on one H200 prints 103.92 GiB for the KV cache of this checkpoint, in bf16.
    found = fit_memory("nvidia/Gemma-4-31B-IT-NVFP4", "H200", context_length=262_144, kv_precision="bf16")
    assert found.kv_cache_gib == pytest.approx(103.92, rel=0.02)


@pytest.mark.parametrize(
    ("text", "number", "name"),
    [("2xH200", 2, "H200"), ("H200:2", 2, "H200"), ("H200 x2", 2, "H200"), ("16 x A100-40GB", 16, "A100-40GB"),
     ("RTX 4090", None, "RTX 4090"), ("4xRTX4090", 4, "RTX4090"), ("RTX4090", None, "RTX4090")],
)  # fmt: skip
def test_gpus_as_people_write_them(text: str, number: int | None, name: str) -> None:
    assert counted(text) == (number, name)


def test_invalid_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tokens("32k") == 32 * 1024
    assert tokens("131,072") == 131_072
    for text in ("0", "many", "-1", "1.5"):
        with pytest.raises(InputError, match="invalid number of tokens"):
            tokens(text)
    with pytest.raises(InputError, match="invalid GPUs"):
        counted("0xH200")
    assert execute(["fit", "Qwen3-32B", "H10O"]) == 2
    assert "did you mean H100-SXM-80GB" in capsys.readouterr().err


def test_attention_that_every_rank_holds_in_16_bits_is_what_servers_report() -> None:
    # vLLM on B200 at four ranks: 152 GiB of weights per GPU. Experts are shared out, attention and head are not.
    found = fit_memory("nvidia/Kimi-K2.5-NVFP4", "B200", 4, tensor_parallel_size=1, data_parallel_size=4,
                       expert_parallel_size=4, context_length=8192)  # fmt: skip
    assert found.weights_gib == pytest.approx(152, rel=0.01)
