"""What a `model_type` implies that its configuration does not say, and which types are no causal language models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The rules of one kind of decoder. None: the configuration decides (`attention_bias`, `mlp_bias`, `qk_norm`)."""

    gated_mlp: bool = True  # gate, up and down projections; otherwise only two matrices
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: str | None = None  # "head": one vector of head_dim; "full": over all heads; "none"
    layer_norms: int = 2  # normalisation vectors of hidden_size per layer
    centred_norms: bool = False  # LayerNorm: weights and biases
    tied: bool = False  # when the configuration does not say
    learned_positions: bool = False
    expert_bias: bool = False  # routers and experts with biases
    shared_expert_gate: bool = False
    attention_sinks: bool = False
    head_gate: bool = False  # one gate per head and layer
    sliding_period: int | None = None  # every n-th layer attends to everything, the others to the window


_LLAMA = Family()
_QWEN2 = Family(qkv_bias=True, output_bias=False)
_QWEN2_MOE = Family(qkv_bias=True, output_bias=False, shared_expert_gate=True)
_QWEN3 = Family(qk_norm="head")
_QWEN3_NEXT = Family(qk_norm="head", shared_expert_gate=True)
_GEMMA = Family(tied=True)
_GEMMA2 = Family(tied=True, layer_norms=4, sliding_period=2)
_GEMMA3 = Family(tied=True, layer_norms=4, qk_norm="head", sliding_period=6)
_OLMO2 = Family(qk_norm="full")
_STEP = Family(qk_norm="head", head_gate=True)
_COHERE = Family(tied=True, layer_norms=1)
_GPT2 = Family(
    gated_mlp=False,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    centred_norms=True,
    tied=True,
    learned_positions=True,
)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("llama", "mistral", "ministral", "ministral3", "mixtral", "yi", "phi3", "phimoe", "smollm3", "seed_oss"),
        _LLAMA,
    ),
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared", "granitemoehybrid", "bamba"), _LLAMA),
    **dict.fromkeys(("llama4", "llama4_text"), Family(qk_norm="none")),
    **dict.fromkeys(("nemotron-nas", "minimax", "minimax_m1", "minimax_text_01"), _LLAMA),
    **dict.fromkeys(("internlm2", "internlm3", "ernie4_5", "ernie4_5_moe", "hunyuan_v1_dense"), _LLAMA),
    **dict.fromkeys(("qwen2", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "mimo"), _QWEN2),
    "qwen2_moe": _QWEN2_MOE,
    **dict.fromkeys(("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text"), _QWEN3),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), _QWEN3_NEXT),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "deepseek_ref"), _LLAMA),
    **dict.fromkeys(("kimi_k2", "kimi_linear", "glm_moe_dsa", "glm4_moe_lite"), _LLAMA),
    "glm4_moe": Family(output_bias=False),
    "glm": Family(output_bias=False),
    "glm4": Family(output_bias=False, layer_norms=4),
    "dots1": Family(qk_norm="head"),
    "minimax_m2": Family(qk_norm="full"),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"), _QWEN3),
    **dict.fromkeys(("step3p5", "step3p7"), _STEP),
    "gpt_oss": Family(expert_bias=True, attention_sinks=True, sliding_period=2),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    **dict.fromkeys(("gemma3", "gemma3_text", "gemma4", "gemma4_text"), _GEMMA3),
    "nemotron_h": Family(gated_mlp=False, layer_norms=1),
    "nemotron": Family(gated_mlp=False, centred_norms=True),
    **dict.fromkeys(("olmo2", "olmoe", "olmo3"), _OLMO2),
    "cohere": _COHERE,
    "cohere2": Family(tied=True, layer_norms=1, sliding_period=4),
    "exaone4": Family(qk_norm="head"),
    "stablelm": Family(centred_norms=True),
    "starcoder2": Family(gated_mlp=False, centred_norms=True, tied=True),
    "falcon": Family(gated_mlp=False, centred_norms=True, tied=True, layer_norms=1),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "opt": _GPT2,
    "gpt_neo": Family(
        gated_mlp=False, output_bias=True, mlp_bias=True, centred_norms=True, tied=True, learned_positions=True
    ),
    "gpt_neox": Family(gated_mlp=False, qkv_bias=True, output_bias=True, mlp_bias=True, centred_norms=True),
    "phi": Family(gated_mlp=False, qkv_bias=True, output_bias=True, mlp_bias=True, centred_norms=True, layer_norms=1),
}

# What configurations of these types leave out because their class has it as a default.
IMPLIED_FIELDS: dict[str, dict[str, int]] = {
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208},
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
