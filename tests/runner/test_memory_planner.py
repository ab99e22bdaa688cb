"""Memory figures beside those of llm-d-planner's `capacity_planner`, over the whole catalogue.

Both read the same configurations and, over HTTP, the same safetensors headers. Where gpuscout differs, a test here says
why and what explains the difference to the byte.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuscout.sweeps.models.architecture import AttentionType, ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from tests.support.hub import safetensors, serving

pytestmark = pytest.mark.slow

CATALOGUE = ModelCatalogue.load()
COUNTS = json.loads((Path(__file__).parents[1] / "data" / "parameter_counts.json").read_text())["models"]
GIB = 2**30
# Layers that are described one by one, or by a pattern: fields that the planner does not read.
LAYER_BY_LAYER = ("nemotron-nas", "nemotron_h", "deepseek_ref")

# Attributes are all that the planner reads of a configuration.
PLANNER = """
import json, sys, warnings
from types import SimpleNamespace
warnings.simplefilter("ignore")
from planner import capacity_planner as planner

def tried(work):
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

found = {}
for name, fields in json.load(sys.stdin).items():
    config = SimpleNamespace(**fields)
    found[name] = {
        "tensor_parallel": tried(lambda: planner.find_possible_tp(config)),
        "kv_bytes": tried(lambda: planner.KVCacheDetail(name, config).per_token_memory_bytes),
        "weights_gib": tried(lambda: planner.model_memory_req(name, config)),
    }
print(json.dumps(found))
"""


def planners_fields(name: str) -> dict[str, Any]:
    """A configuration as the planner expects it: with the fields that transformers fills in and it relies on."""
    model, fields = CATALOGUE.get(name), CATALOGUE.config(name)
    fields = {**fields, **fields.pop("text_config", {}), "torch_dtype": "bfloat16"}
    fields.setdefault("num_hidden_layers", model.layers)
    fields.setdefault("num_key_value_heads", fields.get("num_attention_heads", model.attention_heads))
    # A model without dense MLPs publishes a width that nothing in it has.
    fields.setdefault("intermediate_size", fields.get("moe_intermediate_size"))
    if model.model_type == "deepseek_v3":
        fields.setdefault("architectures", ["DeepseekV3ForCausalLM"])
    return {key: value for key, value in fields.items() if value is not None}


def dtypes(model: ModelSpec, total: int) -> dict[str, int]:
    """What the safetensors headers of a checkpoint with so many parameters count."""
    if model.precision in (Precision.BF16, Precision.FP16):
        return {"BF16": total}
    return {"F8_E4M3": model.native_quantized_parameters, "BF16": total - model.native_quantized_parameters}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """The planner's figures by model; a text where it raised."""
    asked = {name: planners_fields(name) for name in CATALOGUE.names()}
    with serving() as hub:
        for name in asked:
            model = CATALOGUE.get(name)
            total = COUNTS.get(name, [model.total_parameters])[0]
            tensors = {dtype: (dtype, [count]) for dtype, count in dtypes(model, total).items()}
            hub.add(name, {}).files["model.safetensors"] = safetensors(tensors)
        done = subprocess.run(
            [sys.executable, "-c", PLANNER],
            input=json.dumps(asked),
            env=hub.environment(tmp_path_factory.mktemp("hub")),
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kv_elements(model: ModelSpec, *types: AttentionType) -> float:
    """Elements that the cache holds for one more token, in the layers of these types (or of all)."""
    return sum(g.layers * g.kv_elements_per_token for g in model.attention if not types or g.type in types)


def types_of(model: ModelSpec) -> set[AttentionType]:
    return {group.type for group in model.attention}


@pytest.mark.slow
def test_the_planner_answers_for_the_whole_catalogue(planned: dict[str, dict[str, Any]]) -> None:
    assert set(planned) == set(CATALOGUE.names())
    silent = {name for name, figures in planned.items() if isinstance(figures["kv_bytes"], str)}
    assert all(CATALOGUE.get(name).model_type in LAYER_BY_LAYER for name in silent)


def test_valid_tensor_parallel_sizes(planned: dict[str, dict[str, Any]]) -> None:
    compared = 0
    for name, figures in planned.items():
        model = CATALOGUE.get(name)
        theirs = figures["tensor_parallel"]
        if isinstance(theirs, str):
            continue
        ours = list(model.tensor_parallel_sizes(model.attention_heads))
        if types_of(model) & {AttentionType.LINEAR, AttentionType.MAMBA}:
            # The heads of linear attention and state spaces must divide, too, which the planner does not look at.
            assert set(ours) <= set(theirs), name
            continue
        assert ours == theirs, name
        compared += 1
    assert compared > len(CATALOGUE) / 2


def test_kv_bytes_per_token(planned: dict[str, dict[str, Any]]) -> None:
    reasons = dict.fromkeys(("equal", "indexer", "latent", "hybrid", "gemma"), 0)
    for name, figures in planned.items():
        model, theirs = CATALOGUE.get(name), figures["kv_bytes"]
        if model.model_type in LAYER_BY_LAYER:
            continue
        ours = kv_elements(model) * 2  # BF16
        if ours == theirs:
            reasons["equal"] += 1
            continue
        fields, types = planners_fields(name), types_of(model)
        index = sum(g.layers * g.index_elements_per_token for g in model.attention) * 2
        if types == {AttentionType.FULL}:
            # Sparse attention keeps keys for its indexer, which the planner leaves out.
            assert ours - index == theirs > 0 < index, name
            reasons["indexer"] += 1
        elif AttentionType.MLA in types and AttentionType.LINEAR not in types:
            # The planner knows the latent cache of DeepSeek V2 and V3 only and counts heads for all other models.
            assert theirs > (7 if model.attention_heads <= 20 else 10) * ours, name
            if "kv_lora_rank" in fields:
                latent = fields["kv_lora_rank"] + fields["qk_rope_head_dim"]
                assert ours - index == model.layers * latent * 2, name
            reasons["latent"] += 1
        elif types & {AttentionType.LINEAR, AttentionType.MAMBA}:
            # Layers with a state of constant size keep nothing for a further token: only the others count.
            growing = sum(g.layers for g in model.attention if g.type in (AttentionType.FULL, AttentionType.MLA))
            if AttentionType.MLA not in types:
                assert ours * model.layers == theirs * growing, name
            assert growing < model.layers, name
            reasons["hybrid"] += 1
        else:
            # Gemma 4's global layers have fewer and wider heads than the sliding ones, which the planner takes for all.
            assert model.model_type.startswith("gemma4"), name
            sliding = next(g for g in model.attention if g.type is AttentionType.SLIDING)
            assert sliding.kv_elements_per_token * model.layers * 2 == theirs, name
            reasons["gemma"] += 1
    assert all(reasons.values()), reasons
    assert reasons["equal"] > 0.4 * len(CATALOGUE), reasons


def test_sliding_windows_bound_what_a_long_request_keeps(planned: dict[str, dict[str, Any]]) -> None:
    """The planner keeps every token in every layer; on purpose gpuscout keeps a window where a layer has one."""
    name = "openai/gpt-oss-120b"
    model = CATALOGUE.get(name)
    assert planned[name]["kv_bytes"] == kv_elements(model) * 2
    window = next(g.window for g in model.attention if g.type is AttentionType.SLIDING)
    assert window is not None
    grown = kv_elements(model, AttentionType.FULL, AttentionType.MLA) * 2
    assert model.kv_bytes_per_token(Precision.BF16) == grown < planned[name]["kv_bytes"]


def test_weights(planned: dict[str, dict[str, Any]]) -> None:
    compared = 0
    for name, figures in planned.items():
        model = CATALOGUE.get(name)
        ours = model.weight_bytes(model.precision) / GIB
        theirs = figures["weights_gib"]
        method = CATALOGUE.config(name).get("quantization_config", {}).get("quant_method")
        if model.precision in (Precision.BF16, Precision.FP16):
            # Exact parameter counts from headers against those derived from the configuration.
            assert ours == pytest.approx(theirs, rel=0.005), name
        elif model.precision is Precision.FP8 and method in ("fp8", "compressed-tensors"):
            # Scales are a fraction of a per cent, which the planner's bytes per parameter leave out.
            assert ours == pytest.approx(theirs, rel=0.006), name
        else:
            continue
        compared += 1
    assert compared > len(CATALOGUE) / 2
