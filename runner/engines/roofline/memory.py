"""Memory of a GPU: weights, activations, the runtime, and the number of requests whose caches fit beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.roofline.features import GIB, Features
from gpuscout.sweeps.curves import FloatArray

# Measured on vLLM 0.19 with H100s by llm-d-planner, GiB per GPU. Inside `gpu_memory_utilization`, as vLLM counts.
ACTIVATIONS_DENSE_GIB = 2.0
ACTIVATIONS_MOE_GIB = 2.5
RUNTIME_ALONE_GIB = 0.3  # CUDA context and the like, one GPU
RUNTIME_GROUP_GIB = 2.1  # the same with communication buffers


@dataclass(frozen=True)
class Memory:
    """Bytes per GPU of every case, and the sequences that run at once on one attention rank."""

    weights: FloatArray
    activations: FloatArray
    runtime: FloatArray
    one_request: FloatArray  # cache of one request of `context_len` tokens
    usable: FloatArray
    running: FloatArray  # sequences of mean length that run at once on one attention rank; at least 1
    capacity_tokens: FloatArray  # of the whole deployment, in requests of `context_len` tokens

    @property
    def needed(self) -> FloatArray:
        """Bytes per GPU without which not even one request runs."""
        needed: FloatArray = self.weights + self.activations + self.runtime + self.one_request
        return needed

    @property
    def fits(self) -> npt.NDArray[np.bool_]:
        fits: npt.NDArray[np.bool_] = self.needed <= self.usable
        return fits

    @property
    def cannot_fit(self) -> npt.NDArray[np.bool_]:
        """True where weights and cache alone are too large, whatever activations and the runtime take."""
        too_large: npt.NDArray[np.bool_] = self.weights + self.one_request > self.usable
        return too_large


def memory(f: Features) -> Memory:
    """Return the use of memory on the fullest GPU of every case.

    Tensor parallelism divides all weights, the experts are divided further by the data-parallel ranks (which share
    them), pipeline stages hold whole layers; the first one also holds the input table, the last one the output head.
    """
    stage = np.ceil(f.layers / f.pp) / np.maximum(f.layers, 1)
    first = f.embedding_bytes + f.vision_bytes
    # The head of a tied model is its input table: a single stage holds it once.
    ends = np.where(f.pp > 1, np.maximum(first, f.head_bytes), first + np.where(f.tied, 0.0, f.head_bytes))
    weights = (stage * (f.layer_bytes + f.expert_bytes / f.dp) + ends) / f.tp
    activations = np.where(f.moe, ACTIVATIONS_MOE_GIB, ACTIVATIONS_DENSE_GIB) * GIB
    # Replicas of a dense model do not talk to each other.
    together = f.tp * f.pp * np.where(f.moe, f.dp, 1.0)
    runtime = np.where(together > 1, RUNTIME_GROUP_GIB, RUNTIME_ALONE_GIB) * GIB
    usable = f.memory_bytes * f.memory_fraction
    free = usable - weights - activations - runtime
    one_request = stage * f.kv_longest_bytes
    own = (free - stage * f.kv_shared_bytes) / np.maximum(stage * f.kv_mean_bytes, 1.0)
    running = np.clip(own, 1.0, f.max_num_seqs)
    capacity = f.dp * f.context_len * np.maximum(free, 0.0) / np.maximum(one_request, 1.0)
    return Memory(weights, activations, runtime, one_request, usable, running, capacity)


def why_it_does_not_fit(m: Memory, f: Features, row: int) -> str:
    """Return one line for the user, in GiB per GPU."""
    parts = [("weights", m.weights), ("activations", m.activations), ("runtime", m.runtime)]
    text = " + ".join(f"{name} {values[row] / GIB:.1f} GiB" for name, values in parts)
    if m.needed[row] - m.one_request[row] <= m.usable[row]:
        text += f" + KV cache of one request ({f.context_len[row]:.0f} tokens) {m.one_request[row] / GIB:.1f} GiB"
    memory_gib, fraction = f.memory_bytes[row] / GIB, f.memory_fraction[row]
    return f"{text} per GPU; {m.usable[row] / GIB:.1f} GiB usable per GPU ({memory_gib:g} x {fraction:g})"
