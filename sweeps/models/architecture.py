"""Architecture of a model: counts of parameters, attention layers and their caches."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from gpuscout.sweeps.precision import Precision, kv_element_bytes


class AttentionType(StrEnum):
    FULL = "full"  # every earlier token is stored and read
    SLIDING = "sliding"  # at most `window` tokens are stored and read
    MLA = "mla"  # one latent vector a token for all heads; replicated on every tensor-parallel rank
    LINEAR = "linear"  # a state of constant size (gated delta net, lightning attention …)
    MAMBA = "mamba"  # a state of constant size (state-space layers)
    CONVOLUTION = "convolution"  # the last few inputs (short convolutions)


GROWING = (AttentionType.FULL, AttentionType.MLA)
# DEFAULT_VOCAB_PADDING_SIZE in vLLM's vocab_parallel_embedding.py.
_VOCABULARY_PADDING = 64
FP8_BLOCK = 128
_FP8_BLOCK_BITS = 8 + 32 / FP8_BLOCK**2  # of a weight, with its part of the block's 32-bit scale


@dataclass(frozen=True)
class AttentionGroup:
    """`layers` layers of one model that share one kind of attention. Sizes are per layer, before tensor parallelism.

    `kv_elements_per_token` counts cache elements stored per token (0 for linear and Mamba layers; a fraction when
    the cache is compressed over tokens); `state_bytes` is the constant state of one sequence (linear, Mamba, the
    sliding part of a compressed cache); `window` bounds the tokens stored and read (sliding); `read_topk` bounds the
    tokens *read* per step, not those stored (sparse attention). Of the stored elements, `index_elements_per_token`
    belong to the indexer that picks those tokens: they are read for every token. `heads`, `qk_dim` and `v_dim` size
    the attention arithmetic.
    """

    type: AttentionType
    layers: int
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    kv_elements_per_token: float
    window: int | None = None
    read_topk: int | None = None
    state_bytes: int = 0
    index_elements_per_token: float = 0.0

    def __post_init__(self) -> None:
        for field in ("kv_elements_per_token", "index_elements_per_token"):  # 8 and 8.0 must have one digest
            object.__setattr__(self, field, float(getattr(self, field)))

    def stored_tokens(self, tokens: int) -> int:
        """Return the tokens whose cache is kept, of a sequence of this length."""
        return tokens if self.window is None else min(tokens, self.window)


@dataclass(frozen=True)
class ModelSpec:
    """A causal language model as an estimator sees it. Parameter counts are numbers of weights, not bytes.

    total_parameters = everything in the checkpoint, vision towers included (without multi-token-prediction layers,
    which servers do not load by default). Parts of it: `embedding_parameters` (the input table, only looked up),
    `head_parameters` (the output projection read at every step; 0 extra when `tied_embeddings`, the table is then
    read in its place), `routed_expert_parameters` (all experts of all MoE layers), `vision_parameters` (towers and
    projectors, not read when decoding), `linear_parameters` (all matrices of the decoder layers, experts included:
    what quantisation shrinks by default). `active_parameters` are those one token is multiplied with: the experts
    it is routed to, everything else but vision towers and tables that are only looked up. `kv_heads` is what tensor
    parallelism can divide the cache by: 1 for MLA. `mlp_widths` are the different widths of the dense MLPs.

    `precision` is the checkpoint's own; `native_quantized_parameters` of the weights are stored with
    `native_weight_bits` bits each (scales included), the rest in 16 bits.
    `approximate` marks an architecture of which something had to be assumed, `notes` say what; `assumed` says what was
    taken from the name of a repository that could not be read, None: nothing. `caveats` says all of it to people.
    Notes are no part of the digest.
    """

    name: str
    model_type: str
    total_parameters: int
    active_parameters: int
    embedding_parameters: int
    head_parameters: int
    routed_expert_parameters: int
    vision_parameters: int
    linear_parameters: int
    tied_embeddings: bool
    layers: int
    moe_layers: int
    experts: int
    experts_per_token: int
    hidden_size: int
    attention_heads: int
    kv_heads: int
    vocab_size: int
    max_context: int | None
    attention: tuple[AttentionGroup, ...]
    precision: Precision
    kv_precision: Precision
    native_quantized_parameters: int
    native_weight_bits: float
    quantization_method: str | None = None
    approximate: bool = False
    mlp_widths: tuple[int, ...] = ()
    assumed: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "native_weight_bits", float(self.native_weight_bits))

    @property
    def caveats(self) -> tuple[str, ...]:
        """Caveats of every answer about this model: one sentence each for what is approximate or assumed."""
        approximate = f"{self.name}: approximate ({'; '.join(self.notes) or 'its family is not known'})"
        assumed = f"{self.name}: {self.assumed}"
        return ((approximate,) if self.approximate else ()) + ((assumed,) if self.assumed else ())

    @property
    def expert_width(self) -> int:
        """Inner width of one routed expert, which has three matrices; 0 without experts."""
        per_layer = self.moe_layers * self.experts * 3 * self.hidden_size
        return self.routed_expert_parameters // per_layer if per_layer else 0

    def part_of_a_block(self, width: int, ranks: int) -> int | None:
        """Return a rank's part of a width where it is no multiple of the checkpoint's FP8 blocks.

        None: they hold whole blocks, or the weights do not share scales in blocks of 128 x 128.
        """
        if self.precision is not Precision.FP8 or self.native_weight_bits != _FP8_BLOCK_BITS or width % ranks:
            return None
        return width // ranks if width // ranks % FP8_BLOCK else None

    @property
    def is_moe(self) -> bool:
        return self.experts > 0

    @property
    def expert_size(self) -> int | None:
        """The width of one routed expert, taken to be a gated MLP of three matrices; None: it has none."""
        if not self.experts:
            return None
        width, rest = divmod(self.routed_expert_parameters, self.experts * self.moe_layers * 3 * self.hidden_size)
        return width if rest == 0 else None

    @property
    def weight_block(self) -> int | None:
        """The side of the square blocks that share one scale in an FP8 checkpoint; None: there are none.

        It follows from the bits of a weight: 8, and a share of the 32 of a scale.
        """
        if self.quantization_method != "fp8" or self.native_weight_bits <= 8:
            return None
        return round(math.sqrt(32 / (self.native_weight_bits - 8)))

    @property
    def attention_kind(self) -> str:
        """Heads that share a cache (MHA, GQA, MQA, MLA), and the kinds of the other layers, for people.

        For example "GQA", "GQA + sliding window", "MLA, sparse", "GQA + linear attention", "Mamba".
        """
        types = {group.type for group in self.attention}
        parts = []
        if AttentionType.MLA in types:
            parts.append("MLA")
        elif headed := [g for g in self.attention if g.type in (AttentionType.FULL, AttentionType.SLIDING)]:
            if all(group.kv_heads == group.heads for group in headed):
                parts.append("MHA")
            else:
                parts.append("MQA" if all(group.kv_heads == 1 for group in headed) else "GQA")
        if parts and any(group.read_topk for group in self.attention):
            parts[0] += ", sparse"
        names = {
            AttentionType.SLIDING: "sliding window",
            AttentionType.LINEAR: "linear attention",
            AttentionType.MAMBA: "Mamba",
            AttentionType.CONVOLUTION: "short convolution",
        }
        parts += [name for kind, name in names.items() if kind in types]
        return " + ".join(parts) or "none"

    def weight_bytes(self, precision: Precision) -> float:
        """Return bytes of the whole checkpoint at this precision, vision towers included.

        Its own precision means the checkpoint as it was published; 16 and 32 bits convert every weight; any other
        precision shrinks the matrices of the decoder layers and leaves the rest in 16 bits, as servers do.
        """
        if precision in (Precision.FP32, Precision.FP16, Precision.BF16):
            return self.total_parameters * precision.weight_bits / 8
        if precision == self.precision:
            shrunk, bits = self.native_quantized_parameters, self.native_weight_bits
        else:
            shrunk, bits = self.linear_parameters, precision.weight_bits
        return shrunk * bits / 8 + (self.total_parameters - shrunk) * 2.0

    def kv_bytes_per_token(self, kv_precision: Precision) -> float:
        """Return bytes by which the cache of a long sequence grows with each further token, over all layers.

        Only layers that keep every token count (full attention and MLA, with their indexers; compressed caches at
        their average). Sliding-window layers stop growing at their window, linear and Mamba layers never grow.
        """
        elements = sum(g.layers * g.kv_elements_per_token for g in self.attention if g.type in GROWING)
        return elements * kv_element_bytes(kv_precision)

    def kv_bytes_per_sequence(self, kv_precision: Precision, tokens: int) -> float:
        """Return the bytes a sequence of `tokens` tokens keeps in all layers, windows and constant states too."""
        elements = sum(
            group.layers * group.kv_elements_per_token * group.stored_tokens(tokens) for group in self.attention
        )
        states = sum(group.layers * group.state_bytes for group in self.attention)
        return elements * kv_element_bytes(kv_precision) + states

    def tensor_parallel_sizes(self, limit: int) -> tuple[int, ...]:
        """Return the tensor-parallel degrees up to `limit` that a server accepts, ascending.

        A degree must divide the heads of every attention layer, the width of every dense MLP, and the vocabulary,
        padded to a multiple of 64 as vLLM pads it. Key-value heads are divided among the ranks, or replicated when
        there are fewer of them than ranks; the larger number must be a multiple of the smaller. Experts set no limit.
        """
        return tuple(degree for degree in range(1, limit + 1) if self.indivisible(degree) is None)

    def indivisible(self, degree: int) -> str | None:
        """Return the size that this tensor-parallel degree does not divide, in words; None: a server accepts it."""
        if not all(_splits(group, degree) for group in self.attention):
            return f"{self.attention_heads} attention heads ({self.kv_heads} for keys and values)"
        if width := next((width for width in self.mlp_widths if width % degree), None):
            return f"an MLP {width:,} wide"
        padded = -(-self.vocab_size // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
        return f"a vocabulary of {padded:,} (padded)" if padded % degree else None

    def to_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold and `from_dict` reads.

        `assumed` and `notes` are there only if something is.
        """
        return {name: value for name, value in asdict(self).items() if value or name not in ("assumed", "notes")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Return the inverse of `to_dict`, after JSON too."""
        groups = (AttentionGroup(**{**group, "type": AttentionType(group["type"])}) for group in data["attention"])
        return cls(
            **{
                **data,
                "attention": tuple(groups),
                "mlp_widths": tuple(data.get("mlp_widths", ())),
                "notes": tuple(data.get("notes", ())),
                "precision": Precision(data["precision"]),
                "kv_precision": Precision(data["kv_precision"]),
            }
        )

    def digest(self) -> bytes:
        """Return 16 bytes of all that estimates depend on; the same in every process and release."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        figures = {name: value for name, value in self.to_dict().items() if name != "notes"}
        canonical = json.dumps(figures, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).digest()[:16]


def _splits(group: AttentionGroup, size: int) -> bool:
    """Return whether `size` ranks can share one layer of the group."""
    if group.heads % size:
        return False
    if group.type in (AttentionType.MLA, AttentionType.MAMBA, AttentionType.CONVOLUTION):
        return True
    return group.kv_heads % size == 0 or (group.type != AttentionType.LINEAR and size % group.kv_heads == 0)


# The name of the release before this one.
Architecture = ModelSpec
