"""Every kind of model against what `transformers` counts of its own modules, and what is said of those not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuscout.sweeps.errors import ModelConfigError
from gpuscout.sweeps.models.architecture import AttentionType, ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.models.config import architecture_from_config
from gpuscout.sweeps.precision import Precision

DATA = Path(__file__).parent.parent / "data"
VARIANTS: dict[str, Any] = json.loads((DATA / "model_configs.json").read_text(encoding="utf-8"))
# Written by tests/assets/count_architectures.py: configurations with all defaults, weights and cache elements counted.
COUNTED: dict[str, Any] = json.loads((DATA / "architectures.json").read_text(encoding="utf-8"))["models"]
CONFIGS = ModelCatalogue({name: entry["config"] for name, entry in COUNTED.items()})
WIDGET = {
    "model_type": "widget",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
}


def parse(config: Any, **changes: Any) -> ModelSpec:
    """The architecture of a configuration with some fields replaced."""
    return architecture_from_config({**config, **changes}, name="test/model", source="config.json")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_layer_is_counted(name: str) -> None:
    expected = VARIANTS[name]
    model = parse(expected["config"])
    assert model.total_parameters == pytest.approx(expected["parameters"], rel=1e-6)
    assert not model.approximate
    if "kv_bytes_per_token" in expected:
        assert model.kv_bytes_per_token(Precision.BF16) == expected["kv_bytes_per_token"]
    if "state_bytes" in expected:
        assert sum(group.layers * group.state_bytes for group in model.attention) == expected["state_bytes"]


def test_no_architecture_passes_for_exact_that_is_not() -> None:
    wrong, exact = [], []
    for name, entry in COUNTED.items():
        try:
            model = parse(CONFIGS.config(name))
        except ModelConfigError:
            continue
        if model.approximate:
            assert model.notes, name
            continue
        exact.append(name)
        if model.total_parameters != pytest.approx(entry["parameters"], rel=0.005):
            wrong.append((name, model.total_parameters, entry["parameters"]))
        grown = sum(
            group.layers * group.kv_elements_per_token
            for group in model.attention
            if group.type in (AttentionType.FULL, AttentionType.SLIDING)
        )
        if entry.get("cache_elements_per_token", grown) != grown:
            wrong.append((name, grown, entry["cache_elements_per_token"]))
    assert wrong == []
    assert len(exact) >= 130


# Models of no known family


def test_a_guess_says_what_was_assumed() -> None:
    model = parse(WIDGET)
    assert model.approximate
    assert model.notes == ("model_type widget is not known: counted as a decoder of the usual kind",)
    assert parse(WIDGET, hidden_act=None).notes[1:] == ("MLPs assumed to have a gate",)
    assert "as many heads for keys and values" in parse(WIDGET, num_key_value_heads=None).notes[1]
    assert parse(WIDGET, n_memory_layers=4).notes[1:] == ("not read: n_memory_layers",)
    assert ModelSpec.from_dict(json.loads(json.dumps(model.to_dict()))) == model


def test_the_activation_tells_whether_an_mlp_has_a_gate() -> None:
    gated, plain = parse(WIDGET), parse(WIDGET, hidden_act="relu2")
    assert gated.total_parameters - plain.total_parameters == 32 * 4096 * 14336


@pytest.mark.parametrize(
    "more",
    [
        {"attention": {"num_heads": 32, "kv_heads": 8}},
        {"experts": {"num_experts": 16, "top_k": 4}},
        {"mamba_d_state": 128, "mamba_n_heads": 64},
        {"ssm_cfg": {"d_state": 128}},
        {"rwkv_head_size": 64},
        {"lru_width": 4096},
    ],
)
def test_what_was_not_understood_is_refused_not_defaulted(more: dict[str, Any]) -> None:
    with pytest.raises(ModelConfigError, match=r"widget is not supported: unknown fields"):
        parse(WIDGET, **more)


@pytest.mark.parametrize(
    "more",
    [
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e6},
        {"vision_config": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}},
        {"generation_config": {"top_k": 20}, "task_specific_params": {"chat": {"top_k": 5}}},
        {"attention_dropout": 0.0, "initializer_range": 0.02, "num_nextn_predict_layers": 1, "head_dim": 128},
    ],
)
def test_what_decides_on_nothing_is_not_mentioned(more: dict[str, Any]) -> None:
    assert not [note for note in parse(WIDGET, **more).notes if note.startswith("not read")]


# --- quantisers --------------------------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "max_position_embeddings": 131072,
}  # fmt: skip
E4M3 = {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False}
QUARK_FP8 = {"weight": E4M3, "input_tensors": E4M3, "output_tensors": None, "bias": None}
QUARK_FP4 = {"dtype": "fp4", "group_size": 32, "qscheme": "per_group", "is_dynamic": False, "scale_format": "e8m0"}


@pytest.mark.parametrize(
    ("settings", "precision", "kv_precision", "weight_gb"),
    [
        # 6.98 B parameters of 4.25 bits, and two tables of 0.525 B of 16 bits.
        (
            {"quant_method": "quark", "exclude": ["lm_head"], "global_quant_config": {"weight": QUARK_FP4}},
            "fp4",
            "bf16",
            5.81,
        ),
        # What the projections of keys and values put out is fp8, and so is the cache.
        (
            {
                "quant_method": "quark",
                "exclude": ["lm_head"],
                "global_quant_config": QUARK_FP8,
                "layer_quant_config": {
                    layer: {**QUARK_FP8, "output_tensors": E4M3} for layer in ("*k_proj", "*v_proj")
                },
                "export": {"kv_cache_group": ["*k_proj", "*v_proj"]},
            },
            "fp8",
            "fp8",
            9.08,
        ),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}},
            "fp8",
            "bf16",
            None,
        ),
        (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
            "int4-weight-only",
            "bf16",
            None,
        ),
        # As MLX writes them: settings without a method.
        ({"bits": 4, "group_size": 64}, "int4-weight-only", "bf16", None),
    ],
    ids=["quark-mxfp4", "quark-fp8-kv", "torchao", "hqq", "mlx"],
)  # fmt: skip
def test_every_quantiser_says_what_weights_and_cache_weigh(
    settings: dict[str, Any], precision: str, kv_precision: str, weight_gb: float | None
) -> None:
    model = architecture_from_config({**LLAMA, "quantization_config": settings}, name="org/quantised")
    assert (model.precision, model.kv_precision) == (precision, kv_precision)
    weighs = model.weight_bytes(model.precision) / 1e9
    assert weighs == pytest.approx(weight_gb, abs=0.01) if weight_gb else 4 < weighs < 10
