"""Facts that a `model_type` implies beyond its configuration, and the types that are not causal language models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Mixers(StrEnum):
    """Kinds of token mixing of a model family."""

    ATTENTION = "attention"  # the layers' types say which kind; without any, all of them attend
    STATE_SPACE = "state space"  # Mamba only
    MAMBA_HYBRID = "Mamba hybrid"  # Mamba, with attention in some layers
    MAMBA_BESIDE_ATTENTION = "Mamba beside attention"  # both in every layer
    SHORT_CONVOLUTION = "short convolution"  # gated convolutions, with attention in some layers


@dataclass(frozen=True)
class Family:
    """The rules of one kind of decoder. None: the configuration decides (`attention_bias`, `mlp_bias`, `qk_norm`)."""

    gated_mlp: bool = True  # gate, up and down projections; otherwise only two matrices
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: str | None = None  # "head": one vector of head_dim; "full": over all heads; "none"
    layer_norms: int = 2  # normalisation vectors of hidden_size per layer
    outer_norms: int = 1  # and outside the layers: after the last one, in some families after the embedding
    centred_norms: bool = False  # LayerNorm: weights and biases
    tied: bool = False  # when the configuration does not say
    head_bias: bool = False  # output projection with a bias
    learned_positions: bool = False
    expert_bias: bool = False  # routers and experts with biases
    shared_expert_gate: bool = False
    attention_sinks: bool = False
    head_gate: bool = False  # one gate per head and layer
    output_gate: bool = False  # a gate as wide as the queries
    sliding_period: int | None = None  # every n-th layer attends to everything, the others to the window
    mixers: Mixers = Mixers.ATTENTION


_LLAMA = Family()
_QWEN2 = Family(qkv_bias=True, output_bias=False)
_QWEN2_MOE = Family(qkv_bias=True, output_bias=False, shared_expert_gate=True)
_QWEN3 = Family(qk_norm="head")
_QWEN3_NEXT = Family(qk_norm="head", shared_expert_gate=True, output_gate=True)
_GEMMA = Family(tied=True)
_GEMMA2 = Family(tied=True, layer_norms=4, sliding_period=2)
_GEMMA3 = Family(tied=True, layer_norms=4, qk_norm="head", sliding_period=6)
_OLMO2 = Family(qk_norm="full")
_STEP = Family(qk_norm="head", head_gate=True)
_COHERE = Family(tied=True, layer_norms=1)
_TWO_MATRICES = Family(gated_mlp=False)
_GPT2 = Family(
    gated_mlp=False,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    centred_norms=True,
    tied=True,
    learned_positions=True,
)
_BLOOM = replace(_GPT2, learned_positions=False, outer_norms=2)
_GPTJ = Family(gated_mlp=False, mlp_bias=True, centred_norms=True, layer_norms=1, head_bias=True)
_STATE_SPACE = Family(layer_norms=1, mixers=Mixers.STATE_SPACE)
_SELECTIVE = replace(_STATE_SPACE, tied=True)
_MAMBA_HYBRID = Family(mixers=Mixers.MAMBA_HYBRID)
_LFM2 = Family(tied=True, qk_norm="head", mixers=Mixers.SHORT_CONVOLUTION)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("llama", "mistral", "ministral", "ministral3", "mixtral", "yi", "phi3", "phimoe", "smollm3", "seed_oss"),
        _LLAMA,
    ),
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared", "granite_swa", "granitemoe_swa"), _LLAMA),
    **dict.fromkeys(("granitemoehybrid", "bamba", "jamba"), _MAMBA_HYBRID),
    "falcon_h1": Family(mixers=Mixers.MAMBA_BESIDE_ATTENTION),
    **dict.fromkeys(("llama4", "llama4_text"), Family(qk_norm="none")),
    **dict.fromkeys(("nemotron-nas", "minimax", "minimax_m1", "minimax_text_01"), _LLAMA),
    **dict.fromkeys(("internlm", "internlm2", "internlm3", "baichuan", "xverse", "minicpm", "minicpm3"), _LLAMA),
    **dict.fromkeys(("ernie4_5", "ernie4_5_moe", "aria_text", "cwm", "emu3_text_model", "exaone", "helium"), _LLAMA),
    **dict.fromkeys(("axk1", "mistral4", "youtu", "sarvam_mla", "longcat_flash", "bitnet", "solar_open"), _LLAMA),
    **dict.fromkeys(("step3_text", "step3_vl"), _LLAMA),
    **dict.fromkeys(("hyperclovax", "iquestcoder", "telechat2", "emu3", "lara_mini", "arctic"), _LLAMA),
    **dict.fromkeys(("qwen2", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "mimo"), _QWEN2),
    **dict.fromkeys(("qwen2_5_omni_text", "chatglm", "qwen"), _QWEN2),
    "qwen2_moe": _QWEN2_MOE,
    **dict.fromkeys(("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text"), _QWEN3),
    **dict.fromkeys(("qwen3_omni_moe_text", "hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan", "hy_v3"), _QWEN3),
    **dict.fromkeys(("kolibri1", "mellum"), _QWEN3),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), _QWEN3_NEXT),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "deepseek_ref"), _LLAMA),
    **dict.fromkeys(("kimi_k2", "kimi_linear", "glm_moe_dsa", "glm4_moe_lite"), _LLAMA),
    "mimo_v2_flash": Family(qk_norm="none"),
    **dict.fromkeys(("glm4_moe", "sarvam_moe"), Family(output_bias=False)),
    "glm": Family(output_bias=False),
    "glm4": Family(output_bias=False, layer_norms=4),
    **dict.fromkeys(("dots1", "exaone4", "exaone_moe"), Family(qk_norm="head")),
    "minimax_m2": Family(qk_norm="full"),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"), _QWEN3),
    **dict.fromkeys(("step3p5", "step3p7"), _STEP),
    "afmoe": Family(qk_norm="head", layer_norms=4, output_gate=True),
    "gpt_oss": Family(expert_bias=True, attention_sinks=True, sliding_period=2),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "vaultgemma": Family(tied=True, sliding_period=2),
    **dict.fromkeys(
        ("gemma3", "gemma3_text", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"), _GEMMA3
    ),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), replace(_GEMMA3, sliding_period=5)),
    "nemotron_h": Family(gated_mlp=False, layer_norms=1),
    "nemotron": Family(gated_mlp=False, centred_norms=True),
    **dict.fromkeys(("olmo2", "olmoe", "olmo3", "flex_olmo", "olmo_hybrid"), _OLMO2),
    "olmo": Family(layer_norms=0, outer_norms=0),
    "nanochat": Family(gated_mlp=False, layer_norms=0, outer_norms=0, qk_norm="none"),
    "cohere": _COHERE,
    **dict.fromkeys(("cohere2", "cohere2_moe"), Family(tied=True, layer_norms=1, sliding_period=4)),
    **dict.fromkeys(("stablelm", "orion"), Family(centred_norms=True)),
    "starcoder2": Family(gated_mlp=False, centred_norms=True, tied=True),
    "falcon": Family(gated_mlp=False, centred_norms=True, tied=True, layer_norms=1),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "opt", "biogpt"), _GPT2),
    "gpt_neo": Family(
        gated_mlp=False, output_bias=True, mlp_bias=True, centred_norms=True, tied=True, learned_positions=True
    ),
    "gpt_neox": Family(gated_mlp=False, qkv_bias=True, output_bias=True, mlp_bias=True, centred_norms=True),
    "persimmon": Family(gated_mlp=False, qkv_bias=True, output_bias=True, mlp_bias=True, centred_norms=True),
    "bloom": _BLOOM,
    **dict.fromkeys(("gptj", "codegen"), _GPTJ),
    "mpt": Family(gated_mlp=False, tied=True),
    "dbrx": Family(layer_norms=2),
    "phi": Family(
        gated_mlp=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        centred_norms=True,
        layer_norms=1,
        head_bias=True,
    ),
    **dict.fromkeys(("apertus", "apertus1p5_text"), Family(gated_mlp=False, qk_norm="head")),
    **dict.fromkeys(("arcee", "nemotron3"), _TWO_MATRICES),
    "jais2": Family(gated_mlp=False, centred_norms=True),
    "grok-1": Family(layer_norms=4),
    **dict.fromkeys(("mamba2",), _STATE_SPACE),
    **dict.fromkeys(("mamba", "falcon_mamba"), _SELECTIVE),
    **dict.fromkeys(("lfm2", "lfm2_moe"), _LFM2),
    "lfm3": replace(_LFM2, layer_norms=4),
    "laguna": Family(qk_norm="head", head_gate=True),
}

# What configurations of these types leave out because their class has it as a default.
IMPLIED_FIELDS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208},
    "gpt_bigcode": {"multi_query": True},
    "dbrx": {"num_key_value_heads": 1},
    "mimo_v2_flash": {"swa_num_key_value_heads": 8},
}

SHARED_EXPERT_IN_EVERY_MOE_LAYER = ("llama4", "llama4_text")  # as wide as one routed expert, never stated

# Encoders, encoder-decoders, speech and image models: nothing that generates token by token from a KV cache.
# fmt: off
NOT_CAUSAL = frozenset({
    "albert", "align", "altclip", "bart", "beit", "bert", "big_bird", "bigbird_pegasus", "blip", "clap", "clip",
    "clipseg", "convbert", "convnext", "data2vec-text", "deberta", "deberta-v2", "deit", "detr", "dinov2",
    "distilbert", "dpr", "electra", "ernie", "esm", "flava", "fnet", "funnel", "hubert", "layoutlm", "led",
    "longformer", "longt5", "lxmert", "m2m_100", "marian", "mask2former", "mbart", "megatron-bert", "mobilebert",
    "modernbert", "mpnet", "mt5", "mvp", "nllb-moe", "nomic_bert", "nystromformer", "pegasus", "plbart",
    "prophetnet", "rembert", "resnet", "roberta", "roc_bert", "sam", "seamless_m4t", "segformer", "siglip",
    "speech_to_text", "splinter", "squeezebert", "swin", "switch_transformers", "t5", "umt5", "videomae",
    "vision-encoder-decoder", "vit", "vits", "wav2vec2", "wavlm", "whisper", "xlm-roberta", "xlm-roberta-xl",
    "xmod", "yolos",
})
# fmt: on
NOT_CAUSAL_HEADS = (
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForImageClassification",
    "ForObjectDetection",
    "ForAudioClassification",
    "ForSpeechSeq2Seq",
    "ForCTC",
)
