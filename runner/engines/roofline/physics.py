"""The roofline's formulas: time of a decode step, time of a prefill, and what several requests do to each other.

Arrays of cases have shape (n, 1) and arrays of operating points (n, ladder); time in seconds, sizes in bytes, work in
FLOP. Each formula holds per GPU. Sources: the roofline model (Williams et al. 2009); "Efficiently Scaling Transformer
Inference" (Pope et al. 2022) for the traffic of tensor parallelism; the constants are fitted (constants.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gpuscout.runner.engines.roofline.constants import Physical
from gpuscout.runner.engines.roofline.features import Features
from gpuscout.sweeps.curves import FloatArray

_WIDE = 2.0  # bytes of one activation between GPUs
SMALLEST_DEFAULT_BUDGET = 2048.0  # prompt tokens in one step, of all servers on all GPUs


@dataclass(frozen=True)
class Step:
    """Seconds of one decode step by cause; their sum is the step. `memory` and `compute` overlap in `work`.

    `drafting`: of speculative decoding, on top of verifying, which the others are of.
    """

    memory: FloatArray
    compute: FloatArray
    work: FloatArray
    communication: FloatArray
    overhead: FloatArray
    drafting: FloatArray | float = 0.0

    @property
    def total(self) -> FloatArray:
        total: FloatArray = self.work + self.communication + self.overhead + self.drafting
        return total


@dataclass(frozen=True)
class Link:
    """A group of GPUs that exchange data: seconds of latency per operation, bytes/s one GPU sends."""

    latency: FloatArray
    bandwidth: FloatArray


def step_seconds(
    f: Features, k: Physical, sequences: FloatArray, kv_tokens: FloatArray, prefill_tokens: FloatArray
) -> FloatArray:
    """Return seconds of one step of an attention rank, for simulators of schedulers. Arguments broadcast.

    `sequences` running sequences, whose caches hold `kv_tokens` tokens together, get a token each, while
    `prefill_tokens` tokens of prompts are worked on; 0 of either is possible. Between windows and prompts of other
    lengths than the case's it is linear in `kv_tokens`. A prompt alone takes as long as `operate` counts for it, one
    beside running sequences delays them as it does there.
    """
    kv_bytes = sequences * f.kv_read_bytes + (kv_tokens - sequences * f.held_len) * f.kv_growth_bytes
    decoding = decode_step(f, k, np.maximum(sequences, 1.0), kv_bytes / np.maximum(sequences, 1.0)).total
    alone, _ = prefill(f, k, np.maximum(prefill_tokens, 1.0))
    _, more = prefill(f, k)
    beside = prefill_tokens / f.prefill_len * np.minimum(k.interference, 1.0) * more
    by_itself = np.where(prefill_tokens > 0, k.ttft_prefill * alone + k.eager_steps * fixed_time(f, k), 0.0)
    seconds: FloatArray = np.where(sequences > 0, decoding + beside, by_itself)
    return seconds


def decode_step(f: Features, k: Physical, running: FloatArray, kv_bytes: FloatArray | None = None) -> Step:
    """Return one step that gives each of `running` sequences (per attention rank) its next token, with drafts several.

    Drafted tokens are verified in one pass: weights, caches and states are read as for one token of each sequence, the
    arithmetic, the activations and what GPUs exchange are those of all of them, which also reach more experts.
    """
    plain = _pass(f, k, running, np.ones_like(f.draft_tokens), kv_bytes)
    if not f.draft_tokens.any():
        return plain
    verifying = _pass(f, k, running, f.draft_tokens + 1.0, kv_bytes)
    return replace(verifying, drafting=f.draft_tokens * f.draft_cost * plain.total)


def _pass(f: Features, k: Physical, running: FloatArray, each: FloatArray, kv_bytes: FloatArray | None) -> Step:
    """Return one pass through all layers with `each` tokens of each of `running` sequences.

    `kv_bytes` of cache are read for each; None: those of a sequence in the middle of its output.
    With pipeline stages the batch is cut into `pp` microbatches that follow each other through the stages: a token
    still passes every layer, each with a microbatch, so the step is the sum over the stages.
    """
    batch = np.maximum(running / f.pp, 1.0)
    tokens = batch * each
    routed = tokens * f.dp  # tokens that meet the experts, which all attention ranks share
    imbalance = _imbalance(f, k, routed)
    bandwidth = f.bandwidth * k.memory_efficiency
    read = f.kv_read_bytes if kv_bytes is None else kv_bytes
    # The fullest rank reads all its experts at most.
    reached = np.minimum(reached_experts(f, k, routed) * imbalance, 1.0)
    memory = (
        (f.layer_bytes + f.head_bytes) / f.tp / bandwidth
        + reached * (f.expert_bytes / (f.tp * f.dp) / (bandwidth * k.expert_efficiency))
        + batch * ((read / k.kv_efficiency + 2 * f.state_bytes / k.state_efficiency) / bandwidth)
        + tokens * (activation_bytes(f, k) / bandwidth)
    )
    flops = peak_flops(f, k)
    attention = f.decode_attention_flop / k.attention_efficiency + f.decode_index_flop / k.indexer_efficiency
    compute = tokens * (((f.layer_flop + f.head_flop) / flops + attention / f.flops16) / f.tp) + tokens * imbalance * (
        f.expert_flop / f.tp / (flops * k.expert_flops_efficiency)
    )
    work = soft_max(memory, compute, k.overlap)
    exchange = communication(f, k, tokens)
    # Servers prepare the next step while the GPU works on this one: the host shows as far as it is the slower.
    host = 1e-6 * k.sequence_us * np.where(f.arm_host, k.arm_host, 1.0) * running
    device = work + exchange + fixed_time(f, k)
    return Step(memory, compute, work, exchange, soft_max(device, host, k.overlap) - work - exchange)


def prefill(f: Features, k: Physical, tokens: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    """Return seconds to prefill one prompt alone, and what each further prompt adds when the server is busy.

    `tokens` of a prompt; None: all that are not found in the prefix cache.
    Alone it also waits for all weights and for the fixed time of every layer. A busy server runs prompts together
    with other work, which hides those, and its pipeline stages work on different prompts at once.
    """
    tokens = f.prefill_len if tokens is None else tokens
    peak = peak_flops(f, k)
    per_token = f.layer_flop + f.expert_flop / k.expert_flops_efficiency
    bandwidth = f.bandwidth * k.memory_efficiency
    attention = f.prefill_attention_flop / k.attention_efficiency + f.prefill_index_flop / k.indexer_efficiency
    attention = attention * (tokens / f.prefill_len) / f.flops16 / f.tp
    exchange = communication(f, k, tokens)
    rest = attention + tokens * activation_bytes(f, k) / bandwidth

    def compute(at_once: FloatArray) -> FloatArray:
        """Return seconds of arithmetic of one prompt when so many tokens are multiplied together."""
        saturation = at_once / (at_once + k.half_tokens)
        return (tokens * per_token / saturation + f.head_flop) / peak / f.tp + rest

    experts = reached_experts(f, k, tokens) * f.expert_bytes / (f.dp * k.expert_efficiency)
    weights = (f.layer_bytes + f.head_bytes + experts) / f.tp / bandwidth
    passes = prefill_passes(f, tokens)
    arithmetic = compute(np.minimum(tokens, f.batched_tokens))
    alone = soft_max(weights * passes, arithmetic, k.overlap) + exchange + fixed_time(f, k) * passes
    packed = compute(f.batched_tokens) + exchange
    return alone, packed / f.pp


def prefill_passes(f: Features, tokens: FloatArray) -> FloatArray:
    """Return the number of times a prompt reads the weights: once, and once more for each chunk beyond a usual budget.

    The constants are fitted to servers with their defaults: what their chunks cost is in them.
    """
    chunks: FloatArray = np.ceil(tokens / f.batched_tokens)
    return 1.0 + np.maximum(chunks - np.ceil(tokens / SMALLEST_DEFAULT_BUDGET), 0.0)


def fixed_time(f: Features, k: Physical) -> FloatArray:
    """Return seconds of a step that depend neither on tokens nor on bytes: launching kernels, sampling, scheduling."""
    every_layer = k.layer_us + np.where(f.multiply_bits == 8, k.quantize_layer_us, 0.0)
    layers_us = (
        f.layers * every_layer
        + f.moe_layers * k.moe_layer_us
        + f.recurrent_layers * k.recurrent_layer_us
        + f.mla_layers * k.mla_layer_us
        + f.sparse_layers * k.sparse_layer_us
    )
    return 1e-6 * layers_us + 1e-3 * k.step_ms


def activation_bytes(f: Features, k: Physical) -> FloatArray:
    """Return bytes of activations that one token moves through a GPU's memory.

    Norms and residuals work on the whole hidden state on every tensor-parallel rank; routing copies it once for each
    chosen expert that the rank holds.
    """
    experts = k.expert_passes * f.moe_layers * f.experts_per_token / f.ep
    return (k.activation_passes * f.layers + experts) * f.hidden * _WIDE


def reached_experts(f: Features, k: Physical, tokens: FloatArray) -> FloatArray:
    """Share of the routed experts that `tokens` tokens reach: 1 - (1 - chosen/experts)^tokens."""
    share = np.minimum(f.expert_share, 1 - 1e-12)
    return 1.0 - (1.0 - share) * np.exp((tokens - 1.0) * k.routing_spread * np.log1p(-share))


def communication(f: Features, k: Physical, tokens: FloatArray) -> FloatArray:
    """Return seconds of all exchanges between GPUs while `tokens` tokens (per attention rank) pass all layers.

    Tensor parallelism: two all-reduces a layer of 2 (tp-1)/tp x tokens x hidden x 2 bytes. Data-parallel attention
    before shared experts: all-to-all of the tokens' hidden states to the ranks of their experts (8-bit there, 16-bit
    back) with expert parallelism, else all-gather and reduce-scatter of every token. Pipeline: one hand-over a stage.
    """
    tensor = group_link(f, k, f.tp)
    sent = tokens * f.hidden * _WIDE
    doublings = np.log2(f.tp)
    allreduce = doublings * tensor.latency + 2 * (f.tp - 1) / f.tp * sent / tensor.bandwidth
    # Experts that all attention ranks share replace the second all-reduce by an exchange among those ranks.
    shared = f.moe & (f.dp > 1)
    everyone = group_link(f, k, f.tp * f.dp)
    spread = np.minimum(f.experts_per_token, f.ep)
    to_experts = np.where(f.ep > 1, 1.5 * spread * (1 - 1 / f.ep), 2 * (f.dp - 1)) * sent / f.tp
    exchange = 2 * np.log2(f.tp * f.dp) * everyone.latency + to_experts / everyone.bandwidth
    layers_with_two = f.layers - np.where(shared, f.moe_layers, 0.0)
    handover = group_link(f, k, f.tp * f.pp)
    stages = f.pp * handover.latency + (f.pp - 1) * sent / f.tp / handover.bandwidth
    return (
        np.where(f.tp > 1, (f.layers + layers_with_two) * allreduce, 0.0)
        + np.where(shared, f.moe_layers * exchange, 0.0)
        + np.where(f.pp > 1, stages, 0.0)
    )


def group_link(f: Features, k: Physical, gpus: FloatArray) -> Link:
    """Return the link `gpus` GPUs share: the fast one, PCIe beyond what it joins, the network between nodes.

    On a fabric of pairwise links one GPU sends over its links to the group's other members only. Over PCIe all GPUs
    share the bridges of the host.
    """
    fast = (f.scale_up > 1) & (gpus <= f.scale_up)
    near = gpus <= f.node
    reachable = np.minimum(f.link, f.link_pair * np.maximum(gpus - 1, 1))
    pcie = f.pcie * np.exp(-k.pcie_contention * np.log(np.maximum(gpus / 2, 1.0)))
    bandwidth = np.where(fast, reachable, np.where(near, pcie, np.minimum(f.pcie, k.network_gbs * 1e9)))
    latency = np.where(fast, k.allreduce_us, np.where(near, k.pcie_allreduce_us, k.network_allreduce_us))
    return Link(latency * 1e-6, bandwidth * np.where(fast, k.link_efficiency, k.pcie_efficiency))


def peak_flops(f: Features, k: Physical) -> FloatArray:
    """Return FLOP/s that matrices reach with many tokens: the peak of their format times its fitted efficiency."""
    relative = np.where(f.multiply_bits == 8, k.flops_efficiency_8bit, 1.0)
    relative = np.where(f.multiply_bits == 4, k.flops_efficiency_4bit, relative)
    return f.flops * k.flops_efficiency * relative


def soft_max(a: FloatArray, b: FloatArray, exponent: FloatArray) -> FloatArray:
    """Return (a^p + b^p)^(1/p), the time of two that overlap in part: p = 1 adds them, p = inf is the maximum."""
    large = np.maximum(a, b)
    return large * np.exp(np.log1p(np.exp(exponent * np.log(np.minimum(a, b) / large))) / exponent)


def _imbalance(f: Features, k: Physical, routed: FloatArray) -> FloatArray:
    """Return the work of the fullest of `ep` ranks as a multiple of the mean (>= 1).

    n tokens fall on a rank like balls into bins: the fullest bin exceeds the mean n by about sqrt(2 n ln ep).
    """
    load = routed * f.experts_per_token / f.ep
    return 1.0 + np.where(f.moe, k.expert_imbalance, 0.0) * np.sqrt(2 * np.log(f.ep) / load)
