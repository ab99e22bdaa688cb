"""Model architectures: exact counts, caches, precisions, damaged configurations, and the catalogue."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout.sweeps.errors import InputError, ModelConfigError, UnknownNameError
from gpuscout.sweeps.models.architecture import AttentionGroup, AttentionType, ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.models.config import architecture_from_config
from gpuscout.sweeps.precision import Precision

CATALOGUE = ModelCatalogue.load()
COUNTS: dict[str, list[int]] = json.loads(
    Path(__file__).parents[1].joinpath("data", "parameter_counts.json").read_text(encoding="utf-8")
)["models"]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def parse(config: Any, **changes: Any) -> ModelSpec:
    """The architecture of a configuration with some fields replaced."""
    return architecture_from_config({**config, **changes}, name="test/model", source="config.json")


# Weights


@pytest.mark.parametrize("name", COUNTS)
def test_counts_agree_with_the_checkpoint(name: str) -> None:
    total, tables, routed = COUNTS[name]
    model = CATALOGUE.get(name)
    assert model.total_parameters == pytest.approx(total, rel=0.005)
    untied = model.embedding_parameters + model.head_parameters
    only_input = model.model_type == "nemotron_h"  # whose output projection the counts file leaves out here
    assert (model.embedding_parameters if only_input else untied) == pytest.approx(tables, rel=0.005)
    assert model.routed_expert_parameters == pytest.approx(routed, rel=0.005)
    assert not model.approximate


def test_nearly_all_counts_are_exact() -> None:
    exact = [name for name, (total, _, _) in COUNTS.items() if CATALOGUE.get(name).total_parameters == total]
    assert len(exact) >= len(COUNTS) - 1  # Step 3.7's vision tower is counted approximately


def headed(
    model_type: str, hidden: int, layers: int, heads: int, kv: int, inner: int, vocabulary: int, **more: Any
) -> Any:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        **more,
    }


MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "q_lora_rank": None}
PUBLISHED = {  # families that the catalogue does not hold: configuration and published number of parameters
    "gemma-2-9b": (headed("gemma2", 3584, 42, 16, 8, 14336, 256000, head_dim=256, sliding_window=4096), 9241705984),
    "gemma-3-1b": (
        headed("gemma3_text", 1152, 26, 4, 1, 6912, 262144, head_dim=256, sliding_window=512, sliding_window_pattern=6),
        999885952,
    ),
    "gemma-7b": (headed("gemma", 3072, 28, 16, 16, 24576, 256000, head_dim=256), 8537680896),
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
        124439808,
    ),
    "falcon-7b": (
        {
            "model_type": "falcon",
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "multi_query": True,
            "vocab_size": 65024,
        },
        6921720704,
    ),
    "starcoder2-7b": (
        headed("starcoder2", 4608, 32, 36, 4, 18432, 49152, use_bias=True, sliding_window=4096),
        7173923840,
    ),
    "OLMo-2-7B": (headed("olmo2", 4096, 32, 32, 32, 11008, 100352), 7298617344),
    "Qwen1.5-MoE-A2.7B": (
        headed(
            "qwen2_moe", 2048, 24, 16, 16, 5632, 151936,
            moe_intermediate_size=1408, shared_expert_intermediate_size=5632, num_experts=60, num_experts_per_tok=4,
        ),
        14315784192,
    ),
    "DeepSeek-V2-Lite": (
        headed(
            "deepseek_v2", 2048, 27, 16, 16, 10944, 102400, **MLA,
            n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2, moe_intermediate_size=1408,
            first_k_dense_replace=1,
        ),
        15706484224,
    ),
    "pythia-6.9b": (headed("gpt_neox", 4096, 32, 32, 32, 16384, 50432), 6857302016),
    "command-r": (headed("cohere", 8192, 40, 64, 64, 22528, 256000), 34980831232),
    "granite-3.0-8b": (headed("granite", 4096, 40, 32, 8, 12800, 49155, tie_word_embeddings=True), 8170848256),
    "Qwen3-Next-80B-A3B": (
        headed(
            "qwen3_next", 2048, 48, 16, 2, 5120, 151936, head_dim=256, full_attention_interval=4,
            num_experts=512, num_experts_per_tok=10, moe_intermediate_size=512, shared_expert_intermediate_size=512,
            linear_num_value_heads=32, linear_num_key_heads=16, linear_key_head_dim=128, linear_value_head_dim=128,
        ),
        79674391296,
    ),
    "OLMoE": (headed("olmoe", 2048, 16, 16, 16, 1024, 50304, num_experts=64, num_experts_per_tok=8), 6919161856),
    "MiniMax-M1": (
        headed(
            "minimax_m1", 6144, 80, 64, 8, 9216, 200064, head_dim=128, num_local_experts=32, num_experts_per_tok=2,
            attn_type_list=[*[0] * 7, 1] * 10,
        ),
        456_089_655_296,
    ),
    "Kimi-Linear-48B-A3B": (
        headed(
            "kimi_linear", 2304, 27, 32, 32, 9216, 163840, **MLA, num_experts=256, num_experts_per_token=8,
            num_shared_experts=1, moe_intermediate_size=1024, first_k_dense_replace=1,
            linear_attn_config={"num_heads": 32, "head_dim": 128, "full_attn_layers": [4, 8, 12, 16, 20, 24, 27]},
        ),
        49122681728,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_other_families(name: str) -> None:
    config, total = PUBLISHED[name]
    assert parse(config).total_parameters == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen3-30B-A3B", 3.3),
        ("deepseek-ai/DeepSeek-V3", 37),
        ("openai/gpt-oss-120b", 5.1),
        ("mistralai/Mixtral-8x7B-v0.1", 12.9),
        ("Qwen/Qwen3-8B", 8.2 - 0.62),
    ],
)
def test_active_parameters(name: str, billions: float) -> None:
    assert CATALOGUE.get(name).active_parameters == pytest.approx(billions * 1e9, rel=0.1)


def test_multi_token_prediction_layers_are_left_out() -> None:
    plain = CATALOGUE.config("deepseek-ai/DeepSeek-V3")
    assert parse(plain, num_nextn_predict_layers=1) == parse(plain)


def test_nested_text_config_is_the_same_model() -> None:
    nested = {
        "architectures": ["SomeForConditionalGeneration"],
        "model_type": "some_vl",
        "torch_dtype": "bfloat16",
        "text_config": {key: value for key, value in LLAMA.items() if key != "torch_dtype"},
    }
    assert parse(nested) == parse(LLAMA)


def test_heads_of_sliding_layers_may_differ() -> None:
    config = CATALOGUE.config("stepfun-ai/Step-3.7-Flash")
    other = {"num_attention_heads": 96, "num_attention_groups": 8}
    groups = parse(config, attention_other_setting=other).attention
    assert [(group.type.value, group.heads) for group in groups] == [("full", 64), ("sliding", 96)]


# Caches


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 32 * 2 * 8 * 128 * 2),
        ("deepseek-ai/DeepSeek-V3", 61 * (512 + 64) * 2),
        ("deepseek-ai/DeepSeek-V3.2", 61 * (512 + 64 + 128) * 2),
        ("openai/gpt-oss-120b", 18 * 2 * 8 * 64 * 2),
        ("Qwen/Qwen3.5-27B", 16 * 2 * 4 * 256 * 2),
        ("Qwen/Qwen3.5-397B-A17B", 15 * 2 * 2 * 256 * 2),
        ("nvidia/Nemotron-H-56B-Base-8K", 10 * 2 * 8 * 128 * 2),
        ("ibm-granite/granite-4.0-h-small", 4 * 2 * 8 * 128 * 2),
        ("google/gemma-4-26B-A4B", 5 * 2 * 2 * 512 * 2),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", 49 * 2 * 8 * 128 * 2),
        ("moonshotai/Kimi-K3", 24 * (512 + 64) * 2),
        # Compressed: 30 layers at one entry per 4 tokens with an indexer, 31 at one per 128.
        ("deepseek-ai/DeepSeek-V4-Pro", (30 * (512 + 128) / 4 + 31 * 512 / 128) * 2),
    ],
)
def test_kv_bytes_per_token(name: str, expected: float) -> None:
    model = CATALOGUE.get(name)
    assert model.kv_bytes_per_token(Precision.BF16) == expected
    assert model.kv_bytes_per_token(Precision.FP8) == expected / 2
    # What a long sequence grows by.
    growth = model.kv_bytes_per_sequence(Precision.BF16, 20_001) - model.kv_bytes_per_sequence(Precision.BF16, 20_000)
    assert growth == pytest.approx(expected)


def test_windows_and_states_bound_a_sequence() -> None:
    gpt_oss = CATALOGUE.get("openai/gpt-oss-120b")
    layer = 2 * 8 * 64 * 2
    assert gpt_oss.kv_bytes_per_sequence(Precision.BF16, 100) == 36 * layer * 100
    assert gpt_oss.kv_bytes_per_sequence(Precision.BF16, 1000) == 18 * layer * (1000 + 128)
    granite = CATALOGUE.get("ibm-granite/granite-4.0-h-small")
    state = 128 * 64 * 128 * 4 + (128 * 64 + 2 * 128) * 3 * 2
    assert granite.kv_bytes_per_sequence(Precision.BF16, 1) == 36 * state + 4 * 2 * 8 * 128 * 2
    gemma = CATALOGUE.get("google/gemma-4-26B-A4B")
    assert gemma.kv_bytes_per_sequence(Precision.BF16, 4096) == 2 * (25 * 2 * 8 * 256 * 1024 + 5 * 2 * 2 * 512 * 4096)


def test_sparse_attention_reads_less_than_it_stores() -> None:
    (group,) = CATALOGUE.get("deepseek-ai/DeepSeek-V3.2").attention
    assert (group.read_topk, group.index_elements_per_token) == (2048, 128)
    _, sparse = CATALOGUE.get("MiniMaxAI/MiniMax-M3").attention
    assert (sparse.layers, sparse.read_topk) == (57, 16 * 128)
    by_layers = {group.layers: group for group in CATALOGUE.get("deepseek-ai/DeepSeek-V4-Pro").attention}
    assert (by_layers[30].read_topk, by_layers[31].read_topk) == (4 * 1024, None)
    assert by_layers[30].state_bytes == 128 * 512 * 2


@pytest.mark.parametrize("name", CATALOGUE.names())
def test_every_entry_is_consistent(name: str) -> None:
    model = CATALOGUE.get(name)
    check_sane(model)
    assert not model.approximate
    mixers = sum(group.layers for group in model.attention)
    assert mixers == model.layers if model.model_type not in ("nemotron_h", "nemotron-nas") else mixers < model.layers
    assert {1, 2} <= set(model.tensor_parallel_sizes(8))
    assert model.weight_bytes(model.precision) <= model.weight_bytes(Precision.BF16)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("meta-llama/Llama-2-7b-hf", "MHA"),
        ("meta-llama/Llama-3.1-8B-Instruct", "GQA"),
        ("deepseek-ai/DeepSeek-V3", "MLA"),
        ("deepseek-ai/DeepSeek-V3.2", "MLA, sparse"),
        ("openai/gpt-oss-120b", "GQA + sliding window"),
        ("Qwen/Qwen3.5-27B", "GQA + linear attention"),
        ("nvidia/Nemotron-H-56B-Base-8K", "GQA + Mamba"),
    ],
)
def test_attention_kind(name: str, kind: str) -> None:
    assert CATALOGUE.get(name).attention_kind == kind


def test_tensor_parallel_sizes() -> None:
    assert parse(LLAMA).tensor_parallel_sizes(64) == (1, 2, 4, 8, 16, 32)
    assert CATALOGUE.get("Qwen/Qwen2.5-7B").tensor_parallel_sizes(32) == (
        1,
        2,
        4,
    )  # 28 heads, 4 KV heads, an MLP 18,944 wide
    assert CATALOGUE.get("Qwen/Qwen2.5-0.5B-Instruct").tensor_parallel_sizes(8) == (1, 2)  # 14 heads, 2 KV heads
    assert 16 in CATALOGUE.get("deepseek-ai/DeepSeek-V3").tensor_parallel_sizes(16)


# Precisions


@pytest.mark.parametrize(
    ("name", "precision", "kv", "gigabytes"),
    [
        ("Qwen/Qwen3-8B", Precision.BF16, Precision.BF16, 16.4),
        ("meta-llama/Llama-2-7b-hf", Precision.FP16, Precision.FP16, 13.5),
        ("Qwen/Qwen3-32B-FP8", Precision.FP8, Precision.BF16, 34.3),
        ("RedHatAI/Qwen3-8B-FP8-dynamic", Precision.FP8, Precision.BF16, 9.5),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", Precision.FP8, Precision.FP8, 72.8),
        ("nvidia/DeepSeek-V3.1-NVFP4", Precision.FP4, Precision.FP8, 397),
        ("openai/gpt-oss-120b", Precision.FP4, Precision.BF16, 65.2),
        ("openai/gpt-oss-20b", Precision.FP4, Precision.BF16, 13.76),
        ("moonshotai/Kimi-K2.5", Precision.INT4_WEIGHT_ONLY, Precision.BF16, 595),
        ("deepseek-ai/DeepSeek-V4-Pro", Precision.FP4, Precision.BF16, 851),
    ],
)
def test_checkpoints(name: str, precision: Precision, kv: Precision, gigabytes: float) -> None:
    model = CATALOGUE.get(name)
    assert (model.precision, model.kv_precision) == (precision, kv)
    assert model.weight_bytes(precision) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def packed(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights, **more}}}


@pytest.mark.parametrize(
    ("quantization", "precision", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, Precision.INT4_WEIGHT_ONLY, 4.16),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, Precision.INT8_WEIGHT_ONLY, 8.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, Precision.INT4_WEIGHT_ONLY, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, Precision.INT8, 8.03),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, Precision.FP8, 8.002),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, Precision.FP4, 4.5),
        ({"quant_method": "mxfp4"}, Precision.FP4, 4.25),
        (packed({"num_bits": 8, "type": "int"}, input_activations={"num_bits": 8}), Precision.INT8, 8.03),
        (packed({"num_bits": 4, "type": "int", "group_size": 128}), Precision.INT4_WEIGHT_ONLY, 4.125),
        (packed({"num_bits": 4, "type": "float", "group_size": 32}), Precision.FP4, 4.25),
    ],
)
def test_quantization_methods(quantization: dict[str, Any], precision: Precision, bits: float) -> None:
    model = parse(LLAMA, quantization_config=quantization)
    assert model.precision is precision
    assert model.native_weight_bits == pytest.approx(bits, rel=0.002)
    assert model.native_quantized_parameters == model.linear_parameters
    assert model.quantization_method == quantization["quant_method"]


def test_modelopt_file_and_its_nested_form() -> None:
    flat = parse(LLAMA, hf_quant_config={"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"})
    nested = parse(LLAMA, hf_quant_config={"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}})
    assert flat == nested
    assert (flat.precision, flat.kv_precision) == (Precision.FP8, Precision.FP8)


def test_spared_modules_stay_in_16_bits() -> None:
    def quantized(*ignore: str) -> int:
        config = {"quant_method": "fp8", "ignored_layers": [*ignore, "lm_head", "re:.*mlp\\.gate$", "*.kv_b_proj"]}
        return parse(CATALOGUE.config("Qwen/Qwen3-30B-A3B"), quantization_config=config).native_quantized_parameters

    whole, attention = quantized(), 2048 * (32 + 2 * 4 + 32) * 128
    assert whole == CATALOGUE.get("Qwen/Qwen3-30B-A3B").linear_parameters
    assert whole - quantized("model.layers.3.self_attn*") == attention
    assert whole - quantized("re:.*self_attn.*") == 48 * attention
    assert quantized("re:.*self_attn.*", "re:.*mlp\\.experts.*") == 0


def test_weights_at_other_precisions() -> None:
    model = CATALOGUE.get("Qwen/Qwen3-8B")
    rest = model.total_parameters - model.linear_parameters
    assert model.weight_bytes(Precision.FP32) == 4 * model.total_parameters
    assert model.weight_bytes(Precision.FP16) == 2 * model.total_parameters
    assert model.weight_bytes(Precision.FP8) == pytest.approx(model.linear_parameters * 8.03 / 8 + 2 * rest)


# Damaged and foreign configurations


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "4096"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": math.nan}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**18}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**5000}, "num_hidden_layers"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"layer_types": ["thinking"] * 32}, "layer_types"),
        ({"num_experts": 8, "num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"torch_dtype": 16}, "torch_dtype"),
        ({"quantization_config": {"quant_method": "magic"}}, "quant_method"),
        ({"quantization_config": []}, "quantization_config"),
        ({"model_type": "bert"}, "model_type"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "model_type"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"text_config": 7}, "text_config"),
    ],
)
def test_damage_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelConfigError) as caught:
        parse(LLAMA, **changes)
    assert caught.value.message.startswith("config.json: ")
    assert f"{field}: found " in caught.value.message
    assert ", expected " in caught.value.message


@pytest.mark.parametrize("config", [None, [], "llama", 3])
def test_not_an_object(config: Any) -> None:
    with pytest.raises(ModelConfigError, match=r"^x: found .*, expected an object"):
        architecture_from_config(config, name="x", source=None)


def test_unknown_type_with_the_usual_fields_is_approximate() -> None:
    model = parse(LLAMA, model_type="newest")
    assert model.approximate
    assert model.total_parameters == parse(LLAMA).total_parameters


def check_sane(model: ModelSpec) -> None:
    assert 0 < model.active_parameters <= model.total_parameters <= 10**16
    parts = model.linear_parameters + model.embedding_parameters + model.head_parameters + model.vision_parameters
    assert parts <= model.total_parameters
    assert 0 <= model.routed_expert_parameters < model.total_parameters
    assert 0 <= model.native_quantized_parameters <= model.linear_parameters
    assert 0 < sum(group.layers for group in model.attention) <= model.layers
    for precision in Precision:
        assert 0 < model.weight_bytes(precision) < math.inf
    for tokens in (1, 1000, 10**6):
        assert 0 < model.kv_bytes_per_sequence(model.kv_precision, tokens) < math.inf
    assert 1 in model.tensor_parallel_sizes(8)
    assert ModelSpec.from_dict(json.loads(json.dumps(model.to_dict()))) == model


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(10**30), max_value=10**30),
    st.integers(min_value=0, max_value=256),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["moe", "full_attention", "fp8", "awq", "NVFP4", "M*-E", 10**5000]),
    st.lists(st.one_of(st.integers(-3, 130), st.text(max_size=4), st.none()), max_size=100),
    st.dictionaries(
        st.sampled_from(["num_heads", "weights", "quant_method", "num_bits"]), st.integers(-1, 9), max_size=3
    ),
)
SAMPLES = [CATALOGUE.config(name) for name in CATALOGUE.names()]
FIELD_NAMES = sorted({key for config in SAMPLES for key in config} | {"text_config", "is_encoder_decoder", "dtype"})


def places(config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every field of a configuration, nested ones too."""
    found = [(config, key) for key in config]
    for value in list(config.values()):
        if isinstance(value, dict):
            found += places(value)
    return found


@settings(deadline=None)
@given(st.data())
def test_damaged_configurations_are_understood_or_refused(data: st.DataObject) -> None:
    config = copy.deepcopy(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            config[data.draw(st.sampled_from(FIELD_NAMES))] = data.draw(JUNK)
            continue
        holder, key = data.draw(st.sampled_from(places(config)))
        if data.draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = data.draw(JUNK)
        if not config:
            break
    refusal = None
    try:
        check_sane(parse(config))
    except ModelConfigError as error:
        refusal = error.message
    if refusal is not None:
        assert refusal.startswith("config.json: ")
        assert len(refusal.encode("utf-8")) < 600


# Identity


def test_digest_is_stable_across_processes() -> None:
    name = "google/gemma-4-26B-A4B"
    code = "from gpuscout.sweeps.models.catalogue import ModelCatalogue"
    code += f"; print(ModelCatalogue.load().get({name!r}).digest().hex())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert CATALOGUE.get(name).digest().hex() == other
    assert len(CATALOGUE.get(name).digest()) == 16


def test_digest_changes_with_every_figure_and_not_with_words_about_it() -> None:
    model = parse(LLAMA)
    assert dataclasses.replace(model, notes=("MLPs assumed to have a gate",)).digest() == model.digest()
    for field in dataclasses.fields(model):
        if field.name == "notes":
            continue
        value = getattr(model, field.name)
        changed: Any = "other"
        if isinstance(value, int | float):
            changed = not value if isinstance(value, bool) else value + 1
        if field.name == "attention":
            changed = (dataclasses.replace(value[0], read_topk=7),)
        elif isinstance(value, Precision):
            changed = Precision.INT8
        assert dataclasses.replace(model, **{field.name: changed}).digest() != model.digest(), field.name


def test_whole_numbers_and_floats_have_one_digest() -> None:
    group = AttentionGroup(AttentionType.FULL, 1, 8, 8, 64, 64, kv_elements_per_token=1024)
    assert isinstance(group.kv_elements_per_token, float)
    model = parse(LLAMA)
    assert ModelSpec.from_dict(json.loads(json.dumps(model.to_dict()))).digest() == model.digest()


# The catalogue


def test_names() -> None:
    names = CATALOGUE.names()
    assert len(names) == len(CATALOGUE) >= 100
    assert list(names) == sorted(names, key=str.casefold)
    assert "Qwen/Qwen3-8B" in CATALOGUE
    assert ModelCatalogue.load() is CATALOGUE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("openai/gpt-oss-120b", ["openai/gpt-oss-120b"]),
        ("OpenAI/GPT-OSS-120B", ["openai/gpt-oss-120b"]),
        ("gpt-oss-120b", ["openai/gpt-oss-120b"]),
        ("openai/*", ["openai/gpt-oss-120b", "openai/gpt-oss-20b"]),
        ("gpt-oss-?20b", ["openai/gpt-oss-120b"]),
        ("mixtral-8x7b*", ["mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-v0.1"]),
    ],
)
def test_resolve(text: str, found: list[str]) -> None:
    assert CATALOGUE.resolve(text) == found


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        CATALOGUE.resolve("gpt-oss-12b")
    assert "openai/gpt-oss-120b" in caught.value.suggestions
    with pytest.raises(UnknownNameError) as caught:
        CATALOGUE.get("meta-lama/Llama-3.1-8B-Instruct")
    assert caught.value.suggestions[0] == "meta-llama/Llama-3.1-8B-Instruct"
    with pytest.raises(UnknownNameError):
        CATALOGUE.resolve("nobody/*")


def test_ambiguous_names_list_the_candidates() -> None:
    twins = ModelCatalogue({"a/model": LLAMA, "b/model": {"base": "a/model"}})
    with pytest.raises(InputError, match="several models") as caught:
        twins.resolve("Model")
    assert caught.value.hint == "say a/model or b/model"


def test_importing_the_catalogue_parses_nothing() -> None:
    code = (
        "import sys, gpuscout.sweeps.models.catalogue as m; c = m.ModelCatalogue.load(); c.names();"
        "assert 'gpuscout.sweeps.models.config' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
