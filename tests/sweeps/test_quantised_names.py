"""Models by names that are not in the catalogue: renamed repositories, and quantised ones of well-known makers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuscout import ModelArchitecture, ModelCatalogue, ModelSpec, open_store
from gpuscout.sweeps.errors import HubOfflineError
from gpuscout.sweeps.models.quantised_names import model_by_its_name
from gpuscout.sweeps.precision import Precision

CATALOGUE = ModelCatalogue.load()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("META-LLAMA/llama-3.1-70b-INSTRUCT", "meta-llama/Llama-3.1-70B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-70B", "meta-llama/Llama-3.1-70B"),
        ("meta-llama/meta-llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("Meta-Llama-3.1-405B", "meta-llama/Llama-3.1-405B"),
        ("neuralmagic/Qwen3-8B-FP8-dynamic", "RedHatAI/Qwen3-8B-FP8-dynamic"),
    ],
)
def test_a_renamed_repository_is_found_under_both_names(written: str, meant: str) -> None:
    assert CATALOGUE.resolve(written) == [meant]
    assert ModelArchitecture(written).model_id == meant


QUANTISED = [
    ("nvidia/Llama-3.3-70B-Instruct-FP8", "meta-llama/Llama-3.3-70B-Instruct", "fp8", 8.03, "fp8"),
    ("nvidia/DeepSeek-R1-FP4", "deepseek-ai/DeepSeek-R1", "fp4", 4.5, "fp8"),
    ("nvidia/Qwen3-8B-NVFP4", "Qwen/Qwen3-8B", "fp4", 4.5, "fp8"),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "meta-llama/Llama-3.1-8B-Instruct", "fp8", 8.03, "bf16"),
    ("RedHatAI/Qwen3-32B-quantized.w4a16", "Qwen/Qwen3-32B", "int4-weight-only", 4.125, "bf16"),
    ("neuralmagic/Qwen2.5-7B-Instruct-quantized.w8a8", "Qwen/Qwen2.5-7B-Instruct", "int8", 8.03, "bf16"),
    ("redhatai/qwen3-14b-quantized.w8a16", "Qwen/Qwen3-14B", "int8-weight-only", 8.0, "bf16"),
    ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B", "fp8", 8.002, "bf16"),
    ("Qwen/Qwen2.5-72B-Instruct-AWQ", "Qwen/Qwen2.5-72B-Instruct", "int4-weight-only", 4.156, "bf16"),
    ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct", "int4-weight-only", 4.156, "bf16"),
    ("amd/Llama-3.1-70B-Instruct-FP8-KV", "meta-llama/Llama-3.1-70B-Instruct", "fp8", 8.03, "fp8"),
    ("amd/Llama-3.3-70B-Instruct-MXFP4-Preview", "meta-llama/Llama-3.3-70B-Instruct", "fp4", 4.25, "bf16"),
    ("unsloth/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct", "bf16", 16, "bf16"),
    ("unsloth/Qwen3-14B-unsloth-bnb-4bit", "Qwen/Qwen3-14B", "int4-weight-only", 4.125, "bf16"),
    ("unsloth/gpt-oss-20b-BF16", "openai/gpt-oss-20b", "bf16", 16, "bf16"),
    ("mlx-community/Qwen3-8B-4bit", "Qwen/Qwen3-8B", "int4-weight-only", 4.5, "bf16"),
]


@pytest.mark.parametrize(("name", "base", "precision", "bits", "kv"), QUANTISED)
def test_a_quantised_repository_is_its_base_model_in_fewer_bits(
    name: str, base: str, precision: str, bits: float, kv: str
) -> None:
    model, original = model_by_its_name(name), CATALOGUE.get(base)
    assert model is not None
    assert (model.name, model.precision, model.kv_precision) == (name, Precision(precision), Precision(kv))
    assert model.native_weight_bits == pytest.approx(bits, abs=0.005)
    assert (model.total_parameters, model.attention) == (original.total_parameters, original.attention)
    assert f"{precision} assumed from its name, on the architecture of {base}" in model.caveats[0]
    assert ModelSpec.from_dict(json.loads(json.dumps(model.to_dict()))) == model


@pytest.mark.parametrize(
    "name", ["nobody/Qwen3-8B-FP8", "unsloth/Qwen3-8B-GGUF", "nvidia/Nothing-8B-FP8", "nvidia/-FP8"]
)
def test_a_name_that_says_nothing_is_not_guessed_at(name: str) -> None:
    assert model_by_its_name(name) is None


def test_the_hub_is_asked_first_and_what_was_assumed_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with open_store(str(tmp_path / "s.db"), create=True) as store:
        for _ in range(2):
            model = ModelArchitecture("nvidia/Qwen3-8B-NVFP4", store=store)
            assert (model.source, model.architecture.assumed is None) == ("its name", False)
    with pytest.raises(HubOfflineError):
        ModelArchitecture("nvidia/Qwen3-8B-NVFP4", revision="main")
    assert CATALOGUE.get("Qwen/Qwen3-8B").caveats == ()
    assert "assumed" not in CATALOGUE.get("Qwen/Qwen3-8B").to_dict()
