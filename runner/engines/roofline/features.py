"""Case columns as numeric arrays: what the roofline's formulas need of model, GPU, precision and lengths, row by row.

Figures of models and GPUs are read once per block and gathered by index, so the cost per case is a few array
operations whatever the number of models. Everything is per whole model (before parallelism) unless the name says
otherwise; bytes, FLOP, seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.roofline.bins import Bins, bins_of
from gpuscout.sweeps.cases import CaseColumns
from gpuscout.sweeps.curves import FloatArray
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import AttentionGroup, AttentionType, ModelSpec
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS, Precision, kv_element_bytes
from gpuscout.sweeps.servers import server_named
from gpuscout.sweeps.speculative import Speculative

GIB = 2.0**30
_SIXTEEN_BIT = 2.0  # bytes
_KV_BYTES = np.array([kv_element_bytes(p) if p in KV_PRECISIONS else _SIXTEEN_BIT for p in PRECISIONS])
# NVIDIA's names of boards whose host is its Arm CPU (Grace), which is slower at one thread than an x86 server CPU.
_ARM_HOSTS = ("GH", "GB")
_RECURRENT = (AttentionType.LINEAR, AttentionType.MAMBA)
# Query heads of an indexer: 64 in DeepSeek-V3.2, 32 in GLM-5 (`index_n_heads`).
INDEX_HEADS = 64
_MXFP4_WIDTH = 256


@dataclass(frozen=True)
class WeightSplit:
    """Bytes of a checkpoint at one precision by what reads them. Their sum is `ModelSpec.weight_bytes`."""

    layers: float  # all layers without routed experts: read at every step
    experts: float  # routed experts: read as far as tokens reach them
    embedding: float  # input table: looked up
    head: float  # output projection (0 when tied)
    vision: float  # towers: not read when decoding


def split_weights(model: ModelSpec, precision: Precision) -> WeightSplit:
    """Return the bytes of `model.weight_bytes(precision)` by their place."""
    if precision is model.precision:
        shrunk, bits = model.native_quantized_parameters, model.native_weight_bits
    else:
        shrunk, bits = model.linear_parameters, precision.weight_bits
    wide = _SIXTEEN_BIT
    if precision in (Precision.FP32, Precision.FP16, Precision.BF16):
        shrunk, wide = 0, precision.weight_bits / 8
    # A checkpoint that quantises only a part (MXFP4) quantises the experts first.
    shrunk_experts = min(shrunk, model.routed_expert_parameters)
    shrunk_layers = shrunk - shrunk_experts
    saved = wide - bits / 8
    apart = model.embedding_parameters + model.head_parameters + model.vision_parameters
    layer_parameters = model.total_parameters - model.routed_expert_parameters - apart
    return WeightSplit(
        layers=layer_parameters * wide - shrunk_layers * saved,
        experts=model.routed_expert_parameters * wide - shrunk_experts * saved,
        embedding=model.embedding_parameters * wide,
        head=model.head_parameters * wide,
        vision=model.vision_parameters * wide,
    )


def is_mxfp4(model: ModelSpec, precision: Precision) -> bool:
    """Return whether these are weights in MXFP4, as the checkpoint has them (gpt-oss)."""
    return precision is Precision.FP4 and model.precision is precision and model.quantization_method == "mxfp4"


def padded_experts(model: ModelSpec, gpu: GPUSpec, precision: Precision) -> float:
    """Return the ratio of the size of routed experts in memory to that in the checkpoint.

    MXFP4 kernels for Hopper and Blackwell want widths in multiples of 256: the 2880 of gpt-oss are stored as 3072.
    """
    wants = gpu.vendor.casefold() == "nvidia" and float(gpu.compute_capability or 0) >= 9.0
    if not (wants and is_mxfp4(model, precision)):
        return 1.0
    return -(-model.hidden_size // _MXFP4_WIDTH) * _MXFP4_WIDTH / model.hidden_size


def multiplied_in(model: ModelSpec, gpu: GPUSpec, precision: Precision) -> str:
    """Return the format a case's matrices are multiplied in: a key of `gpu.dense_tflops`.

    A precision without matrix units of its own is expanded to 16 bits (weight-only execution). MXFP4 weights are
    multiplied with MXFP8 activations where the GPU has fp4 units, at the rate of 8 bits, and expanded elsewhere.
    """
    wanted = precision.arithmetic
    if is_mxfp4(model, precision):
        wanted = "fp8" if gpu.supports("fp4") else "bf16"
    return next((a for a in (wanted, "bf16", "fp16") if gpu.supports(a)), "fp32")


@dataclass(frozen=True)
class Features:
    """One value per case in every array."""

    # deployment
    tp: FloatArray
    pp: FloatArray
    dp: FloatArray
    ep: FloatArray
    input_len: FloatArray  # of requests that vary the mean, as of all that follows
    output_len: FloatArray
    prefill_len: FloatArray  # tokens of a prompt that are not found in the prefix cache
    held_len: FloatArray  # tokens of a running sequence, at mid-output
    context_len: FloatArray  # tokens one request may grow to
    # weights, bytes
    layer_bytes: FloatArray
    expert_bytes: FloatArray
    embedding_bytes: FloatArray
    head_bytes: FloatArray  # read at every step; of a tied model the input table
    vision_bytes: FloatArray
    # arithmetic, FLOP
    layer_flop: FloatArray  # per token, routed experts left out
    expert_flop: FloatArray  # per token
    head_flop: FloatArray  # per token
    decode_attention_flop: FloatArray  # per running sequence and step, at mid-output
    decode_index_flop: FloatArray  # the same of the indexers of sparse attention, which score every key
    prefill_attention_flop: FloatArray  # per prompt, of the tokens that are not cached
    prefill_index_flop: FloatArray  # the same of the indexers
    # shape of the model
    layers: FloatArray
    moe_layers: FloatArray
    recurrent_layers: FloatArray
    sparse_layers: FloatArray  # with an indexer that picks the keys to read
    mla_layers: FloatArray
    hidden: FloatArray
    expert_share: FloatArray  # experts per token / experts; 1 for dense models
    experts_per_token: FloatArray
    moe: npt.NDArray[np.bool_]
    tied: npt.NDArray[np.bool_]
    # KV cache per tensor-parallel rank, all layers, bytes
    kv_read_bytes: FloatArray  # read per running sequence and step, at mid-output
    kv_growth_bytes: FloatArray  # read more for each further token of context
    kv_mean_bytes: FloatArray  # kept per running sequence, at mid-output, constant states included, cached tokens not
    kv_shared_bytes: FloatArray  # kept once for all: the cached tokens, which requests have in common
    kv_longest_bytes: FloatArray  # of one request of `context_len` tokens while its prompt is worked on, states too
    state_bytes: FloatArray  # constant state per sequence, read and written at every step
    # accelerator
    memory_bytes: FloatArray  # usable by software
    memory_fraction: FloatArray
    bandwidth: FloatArray  # bytes/s
    flops: FloatArray  # peak FLOP/s of the format the matrices are multiplied in
    flops16: FloatArray  # peak FLOP/s in 16 bits, for attention
    multiply_bits: FloatArray  # 4, 8, 16 or 32: width of that format
    pcie: FloatArray  # bytes/s, one direction
    link: FloatArray  # bytes/s, one direction, whole fabric
    link_pair: FloatArray  # bytes/s to one peer
    scale_up: FloatArray
    node: FloatArray
    arm_host: npt.NDArray[np.bool_]
    # server options
    max_num_seqs: FloatArray  # sequences that run at once on one attention rank, at most
    batched_tokens: FloatArray  # of prompts in one step, at most
    within_budget: npt.NDArray[np.bool_]  # whether running sequences take their tokens from it
    poll_interval: FloatArray  # steps between two looks for new requests
    # speculative decoding
    draft_tokens: FloatArray  # drafted and verified for a sequence in every step
    draft_cost: FloatArray  # of drafting one token, as a share of a step without drafts
    tokens_per_step: FloatArray  # that a sequence gets, on average
    decode_steps: FloatArray  # from the first to the last token of a request

    def take(self, rows: npt.NDArray[np.bool_]) -> Features:
        """Return the rows under a mask."""
        return Features(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def features(cases: CaseColumns) -> Features:
    """Return the features of every case."""
    model, gpu, precision = cases.model, cases.gpu, cases.precision
    tp = cases.tensor_parallel.astype(np.float64)
    bins = bins_of(cases)

    def of_model(figure: Callable[[ModelSpec], float]) -> FloatArray:
        return np.array([figure(m) for m in cases.models], dtype=np.float64)[model]

    def of_gpu(figure: Callable[[GPUSpec], float]) -> FloatArray:
        return np.array([figure(g) for g in cases.gpus], dtype=np.float64)[gpu]

    def of_draft(figure: Callable[[Speculative], float]) -> FloatArray:
        return np.array([figure(d) for d in cases.drafts], dtype=np.float64)[cases.draft]

    used = _distinct(model, precision, len(PRECISIONS))
    splits = np.full((len(cases.models), len(PRECISIONS), 5), np.nan)
    for m, p in used:
        split = split_weights(cases.models[m], PRECISIONS[p])
        splits[m, p] = (split.layers, split.experts, split.embedding, split.head, split.vision)
    weights = splits[model, precision]
    padding = np.ones((len(cases.models), len(cases.gpus), len(PRECISIONS)))

    # (model, GPU, precision) decides the matrix units; a table over the few combinations that occur.
    peaks = np.full((len(cases.models), len(cases.gpus), len(PRECISIONS), 2), np.nan)
    pair = model * len(cases.gpus) + gpu
    for mg, p in _distinct(pair, precision, len(PRECISIONS)):
        m, g = divmod(mg, len(cases.gpus))
        name = multiplied_in(cases.models[m], cases.gpus[g], PRECISIONS[p])
        padding[m, g, p] = padded_experts(cases.models[m], cases.gpus[g], PRECISIONS[p])
        peaks[m, g, p] = (cases.gpus[g].dense_tflops.get(name, 1.0) * 1e12, _bits(name))
    peak = peaks[model, gpu, precision]

    output_len, drafted = bins.by_request(bins.output_len), of_draft(lambda d: d.draft_tokens)
    per_step, surplus = of_draft(lambda d: d.tokens_per_step), of_draft(lambda d: d.surplus)
    attention = _attention(cases, bins)
    experts = of_model(lambda m: max(m.experts, 1))
    chosen = of_model(lambda m: max(m.experts_per_token, 1))
    head = of_model(lambda m: m.head_parameters or m.embedding_parameters)
    tied = of_model(lambda m: m.head_parameters) == 0
    dense = of_model(lambda m: m.linear_parameters - m.routed_expert_parameters)
    return Features(
        tp=tp,
        pp=cases.pipeline_parallel.astype(np.float64),
        dp=cases.data_parallel.astype(np.float64),
        ep=cases.expert_parallel.astype(np.float64),
        input_len=bins.by_request(bins.input_len),
        output_len=output_len,
        prefill_len=bins.by_request(bins.input_len - bins.cached),
        held_len=bins.by_step(bins.input_len + bins.output_len / 2),
        context_len=cases.max_model_len.astype(np.float64),
        layer_bytes=weights[:, 0],
        expert_bytes=weights[:, 1] * padding[model, gpu, precision],
        embedding_bytes=weights[:, 2],
        head_bytes=np.where(tied, weights[:, 2], weights[:, 3]),
        vision_bytes=weights[:, 4],
        layer_flop=2 * dense,
        expert_flop=2 * of_model(lambda m: m.routed_expert_parameters) * chosen / experts,
        head_flop=2 * head,
        layers=of_model(lambda m: m.layers),
        moe_layers=of_model(lambda m: m.moe_layers),
        recurrent_layers=of_model(lambda m: sum(g.layers for g in m.attention if g.type in _RECURRENT)),
        sparse_layers=of_model(lambda m: sum(g.layers for g in m.attention if g.index_elements_per_token)),
        mla_layers=of_model(lambda m: sum(g.layers for g in m.attention if g.type is AttentionType.MLA)),
        hidden=of_model(lambda m: m.hidden_size),
        expert_share=chosen / experts,
        experts_per_token=chosen,
        moe=of_model(lambda m: m.experts) > 0,
        tied=tied,
        memory_bytes=of_gpu(lambda g: g.memory_usable_gib * GIB),
        memory_fraction=cases.gpu_memory_utilization,
        bandwidth=of_gpu(lambda g: g.memory_bandwidth_gbs * 1e9),
        flops=peak[:, 0],
        flops16=of_gpu(lambda g: max(g.dense_tflops.get("bf16", 0.0), g.dense_tflops.get("fp16", 0.0)) * 1e12),
        multiply_bits=peak[:, 1],
        # An unknown link (0) is ignored on one GPU; `support.untimed` stops the others.
        pcie=of_gpu(lambda g: (g.pcie_gbs or 1) * 1e9),
        link=of_gpu(lambda g: (g.link_gbs or 1) * 1e9),
        link_pair=of_gpu(lambda g: (g.link_pair_gbs or 1) * 1e9),
        scale_up=of_gpu(lambda g: g.scale_up_gpus),
        node=of_gpu(lambda g: g.gpus_per_node),
        arm_host=of_gpu(lambda g: g.name.startswith(_ARM_HOSTS)) > 0,
        max_num_seqs=_seats(cases, drafted),
        batched_tokens=cases.option("max_num_batched_tokens").astype(np.float64),
        within_budget=_within_budget(cases),
        poll_interval=np.maximum(
            cases.option("scheduler_recv_interval"), cases.option("num_continuous_decode_steps")
        ).astype(np.float64),
        draft_tokens=drafted,
        draft_cost=of_draft(lambda d: d.draft_cost),
        tokens_per_step=per_step,
        # As `Speculative.steps` has it.
        decode_steps=np.where(drafted > 0, np.maximum((output_len - 1 + surplus) / per_step, 1.0), output_len - 1)
        * (output_len > 1),
        **attention,
    )


def _seats(cases: CaseColumns, draft_tokens: FloatArray) -> FloatArray:
    """Return sequences that run at once on one attention rank: each needs room in a step for the tokens it is given."""
    seats = cases.option("max_num_seqs").astype(np.float64)
    room = np.maximum(cases.option("max_num_batched_tokens") // (1 + draft_tokens), 1.0)
    return np.where(_within_budget(cases), np.minimum(seats, room), seats)


def _within_budget(cases: CaseColumns) -> npt.NDArray[np.bool_]:
    shared = np.array([server_named(name).decodes_within_budget for name in cases.servers], dtype=np.bool_)
    return np.asarray(shared[cases.server])


def _attention(cases: CaseColumns, bins: Bins) -> dict[str, FloatArray]:
    """Return cache bytes and attention arithmetic of every case, summed over the model's groups of layers."""
    model, tp = cases.model[bins.case], cases.tensor_parallel[bins.case].astype(np.float64)
    groups = max((len(m.attention) for m in cases.models), default=0)
    empty = AttentionGroup(AttentionType.FULL, 0, 0, 1, 0, 0, 0.0)
    table = [[*m.attention, *[empty] * (groups - len(m.attention))] for m in cases.models]

    def of_group(figure: Callable[[AttentionGroup], float]) -> FloatArray:
        figures = np.array([[figure(g) for g in row] for row in table], dtype=np.float64)
        return figures.reshape(len(table), groups)[model]

    layers = of_group(lambda g: g.layers)
    window = of_group(lambda g: g.window or np.inf)
    readable = of_group(lambda g: g.read_topk or np.inf)
    mla = of_group(lambda g: g.type is AttentionType.MLA) > 0
    kv_heads = of_group(lambda g: max(g.kv_heads, 1))
    heads = of_group(lambda g: g.heads)
    elements = layers * of_group(lambda g: g.kv_elements_per_token)
    index_elements = layers * of_group(lambda g: g.index_elements_per_token)
    recurrent = of_group(lambda g: g.type in _RECURRENT)

    element_bytes: FloatArray = _KV_BYTES[cases.kv_precision[bins.case]]
    states = _total(layers * of_group(lambda g: g.state_bytes)) / tp
    ranks = tp[:, None]
    # A rank holds whole heads: with more ranks than heads the cache is replicated; MLA has one latent vector for all.
    held = np.where(mla, 1.0, np.ceil(kv_heads / ranks) / kv_heads)
    mid = (bins.input_len + bins.output_len / 2)[:, None]
    cached = bins.cached[:, None]

    def kept(tokens: FloatArray, room: FloatArray) -> FloatArray:
        return _total(elements * held * np.minimum(tokens, room)) * element_bytes

    # Of a window only what has not moved out of it is shared.
    shared = np.maximum(cached - np.maximum(mid - window, 0.0), 0.0)

    attended = np.minimum(np.minimum(mid, window), readable)
    read = ((elements - index_elements) * attended + index_elements * np.minimum(mid, window)) * held
    growing = (elements - index_elements) * (mid < np.minimum(window, readable)) + index_elements * (mid < window)
    growth = growing * held
    # In decoding MLA multiplies with the latent vector itself (absorbed projections), for scores and for values.
    width = of_group(lambda g: 2 * g.kv_elements_per_token if g.type is AttentionType.MLA else g.qk_dim + g.v_dim)
    decode_flop = layers * heads * width * np.where(recurrent > 0, 0.0, attended) * 2

    prompt = bins.input_len[:, None]

    def pairs(tokens: FloatArray) -> FloatArray:
        """Count pairs of tokens: a causal triangle, cut to a band as wide as a token can look back."""
        reach = np.minimum(np.minimum(window, readable), tokens)
        return np.asarray(reach * (tokens - reach / 2))

    computed = pairs(prompt) - pairs(cached)
    recurrent_pairs = (prompt - cached) * of_group(lambda g: g.qk_dim)  # the state of a head is qk_dim x v_dim
    shape = of_group(lambda g: g.qk_dim + g.v_dim)
    # An indexer multiplies each key with its query heads, before tokens are picked.
    scores = 2 * INDEX_HEADS * index_elements
    prefill_flop = 2 * layers * heads * shape * np.where(recurrent > 0, recurrent_pairs, computed)
    longest = cases.max_model_len[bins.case].astype(np.float64)[:, None]
    chunk = cases.option("max_num_batched_tokens")[bins.case][:, None]
    return {
        "decode_attention_flop": bins.by_step(_total(decode_flop)),
        "decode_index_flop": bins.by_step(_total(scores * mid)),
        "prefill_attention_flop": bins.by_request(_total(prefill_flop)),
        "prefill_index_flop": bins.by_request(_total(scores * (prompt**2 - cached**2) / 2)),
        "kv_read_bytes": bins.by_step(_total(read) * element_bytes),
        "kv_growth_bytes": bins.by_step(_total(growth) * element_bytes),
        "kv_mean_bytes": bins.by_step(kept(mid, window) - kept(shared, window) + states),
        "kv_shared_bytes": bins.by_request(kept(cached, window)),
        # A chunk of a prompt is stored before a window moves on.
        "kv_longest_bytes": bins.by_request(kept(longest, window - 1 + chunk) + states),
        "state_bytes": bins.by_request(states),
    }


def _total(groups: FloatArray) -> FloatArray:
    """Return row sums.

    One column after the other, so that a row's sum does not depend on how many groups others have.
    """
    return functools.reduce(np.add, groups.T, np.zeros(len(groups)))


def _distinct(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], size: int) -> Iterable[tuple[int, int]]:
    """Return the pairs of codes that occur; `size` is the number of values of `right`."""
    return (divmod(int(code), size) for code in np.unique(left * size + right))


def _bits(arithmetic: str) -> float:
    return {"fp4": 4.0, "fp8": 8.0, "int8": 8.0, "fp32": 32.0}.get(arithmetic, 16.0)
