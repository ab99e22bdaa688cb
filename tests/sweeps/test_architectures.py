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
    with pytest.raises(ModelConfigError, match=r"widget is not supported: nothing is known of"):
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
