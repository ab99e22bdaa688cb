"""`ModelArchitecture`: the needs of a model before any GPU is named: parameters, precisions, memory, parallelism."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuscout.runner.resolve.models import FoundModel, ModelFinder, model_text
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS, Precision, precision_called

if TYPE_CHECKING:
    from gpuscout.runner.api.cases import StoreLike

GB = 1e9
_TORCH = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16"}


@dataclass(frozen=True)
class KVCacheGroup:
    """The layers of a model that share one kind of attention, and what they keep.

    `attention` is full, sliding, mla, linear or mamba. `bytes_per_token` is by how much the cache of a long sequence
    grows with each token (0: it has stopped growing, or never grew), `gb` what is kept in all (10^9 bytes). `window`:
    tokens that are kept at most, None: all.
    """

    attention: str
    layers: int
    heads: int
    kv_heads: int
    window: int | None
    bytes_per_token: float
    gb: float


@dataclass(frozen=True)
class KVCacheDetail:
    """The KV caches of `batch_size` sequences of `context_length` tokens, over all layers and GPUs. GB are 10^9 bytes.

    `attention_kind` says for people which heads share a cache (MHA, GQA, MQA, MLA) and what other layers do instead.
    """

    attention_kind: str
    kv_precision: str
    context_length: int
    batch_size: int
    bytes_per_token: float
    bytes_per_sequence: float
    total_gb: float
    groups: tuple[KVCacheGroup, ...]

    @property
    def attention_type(self) -> str:
        """The same as `attention_kind`."""
        return self.attention_kind

    @property
    def per_token_memory_bytes(self) -> float:
        """The same as `bytes_per_token`."""
        return self.bytes_per_token

    @property
    def per_request_kv_cache_gb(self) -> float:
        """KV cache of one sequence, in GB (10^9 bytes)."""
        return self.bytes_per_sequence / GB

    @property
    def kv_cache_size_gb(self) -> float:
        """The same as `total_gb`."""
        return self.total_gb

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON types."""
        return asdict(self) | {"groups": [asdict(group) for group in self.groups]}


class ModelArchitecture:
    """A model by its name: of the catalogue, of the Hugging Face Hub, or a local folder or config.json (or its Path).

    Only configurations and header counts are read, never weights. GB are 10^9 bytes.

    >>> model = ModelArchitecture("gpt-oss-120b")
    >>> model.model_id, model.parameters, model.is_quantized
    ('openai/gpt-oss-120b', 116829156672, True)
    >>> model.inferred_precision.value, model.inferred_kv_precision.value
    ('fp4', 'bf16')
    >>> model.possible_tensor_parallel_sizes()
    [1, 2, 4, 8, 16, 32, 64]
    >>> round(model.model_memory_gb(), 1)
    65.2
    """

    def __init__(
        self,
        model_id: str | Path,
        hf_token: str | None = None,
        *,
        revision: str | None = None,
        store: StoreLike | None = None,
    ) -> None:
        """Look the model up.

        `hf_token` replaces HF_TOKEN and the login; `revision` is a branch, tag or commit on the Hub; `store`, an open
        store or the place of one, is asked before the Hub and keeps what the Hub said. Raises UnknownNameError with the
        nearest names, InputError where several models share the name, ModelConfigError for a configuration that
        cannot be understood, and HubError (no such model, gated, offline …) when the Hub is needed and does not help.
        """
        self.given = model_text(model_id)
        found = _found(self.given, hf_token, revision, store)
        self.architecture: ModelSpec = found.architecture
        self.source: str = found.source

    def __repr__(self) -> str:
        return f"ModelArchitecture({self.model_id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelArchitecture) and other.architecture == self.architecture

    def __hash__(self) -> int:
        return hash(self.architecture)

    @property
    def model_id(self) -> str:
        """The full name: org/name, with @revision if one was given; of a local model its folder's name."""
        return self.architecture.name

    @property
    def model_name(self) -> str:
        """The part of `model_id` after the slash."""
        return self.model_id.rpartition("/")[2]

    @property
    def caveats(self) -> tuple[str, ...]:
        """Assumptions and approximations about the model, in sentences; empty: none."""
        return self.architecture.caveats

    @property
    def parameters(self) -> int:
        """Number of weights in the checkpoint, vision towers included."""
        return self.architecture.total_parameters

    @property
    def num_parameters(self) -> int:
        """The same as `parameters`."""
        return self.parameters

    @property
    def num_parameters_billions(self) -> float:
        """`parameters` in units of 10^9."""
        return self.parameters / 1e9

    @property
    def active_parameters(self) -> int:
        """Number of weights that one token is multiplied with: fewer than `parameters` for a mixture of experts."""
        return self.architecture.active_parameters

    @property
    def is_moe(self) -> bool:
        """Whether it is a mixture of experts."""
        return self.architecture.is_moe

    @property
    def is_quantized(self) -> bool:
        """Whether the checkpoint itself holds weights in fewer than 16 bits."""
        return self.architecture.native_quantized_parameters > 0

    @property
    def inferred_precision(self) -> Precision:
        """Precision of the checkpoint's weights: its quantisation, or else its dtype."""
        return self.architecture.precision

    @property
    def inferred_kv_precision(self) -> Precision:
        """Default precision of the KV cache in a server: 16 bits, or what the checkpoint asks for."""
        return self.architecture.kv_precision

    @property
    def inferred_precision_name(self) -> str:
        """The name of `inferred_precision`: bf16, fp8, int4-weight-only …"""
        return self.inferred_precision.value

    @property
    def inferred_dtype(self) -> str:
        """The dtype that layers which are not quantised compute in, as PyTorch writes it: "torch.bfloat16"."""
        return f"torch.{_TORCH.get(self.inferred_precision, 'bfloat16')}"

    @property
    def inferred_kv_cache_dtype(self) -> str:
        """The dtype of the KV cache: as PyTorch writes it, or the word of vLLM's --kv-cache-dtype ("fp8")."""
        kept = self.inferred_kv_precision
        return f"torch.{_TORCH[kept]}" if kept in _TORCH else kept.value

    @property
    def attention_kind(self) -> str:
        """For people: "GQA", "GQA + sliding window", "MLA", "GQA + Mamba" …"""
        return self.architecture.attention_kind

    def max_context_length(self) -> int | None:
        """Return the longest sequence, in tokens; None where the configuration does not say."""
        return self.architecture.max_context

    def possible_tensor_parallel_sizes(self) -> list[int]:
        """Return all sizes that a server accepts (`ModelSpec.tensor_parallel_sizes`), ascending.

        Most nodes have 8 GPUs: larger sizes span nodes.
        """
        heads = max((group.heads for group in self.architecture.attention), default=1)
        return list(self.architecture.tensor_parallel_sizes(heads))

    def model_memory_gb(self, precision: str | None = None) -> float:
        """Return GB of the weights, over all GPUs; None: as the checkpoint is. Raises UnknownNameError.

        >>> model = ModelArchitecture("Qwen/Qwen3-8B")
        >>> round(model.model_memory_gb(), 1), round(model.model_memory_gb("fp8"), 1)
        (16.4, 9.5)
        """
        return self.architecture.weight_bytes(self._precision(precision)) / GB

    def kv_cache_memory_gb(
        self, context_length: int | None = None, batch_size: int = 1, *, kv_precision: str | None = None
    ) -> float:
        """Return GB that `batch_size` sequences of `context_length` tokens (None: the longest) keep, on all GPUs.

        Windows and constant states count as what they are. Raises InputError for a length, batch or precision that
        cannot be, and where no length is given and the model has no longest one.

        >>> round(ModelArchitecture("Qwen/Qwen3-8B").kv_cache_memory_gb(2256, batch_size=32), 2)
        10.65
        """
        return self.get_kv_cache_detail(context_length, batch_size, kv_precision=kv_precision).total_gb

    def get_kv_cache_detail(
        self, context_length: int | None = None, batch_size: int = 1, *, kv_precision: str | None = None
    ) -> KVCacheDetail:
        """Return the KV cache by kinds of attention; arguments and errors are those of `kv_cache_memory_gb`.

        >>> detail = ModelArchitecture("gpt-oss-120b").get_kv_cache_detail(8192)
        >>> detail.attention_kind, detail.bytes_per_token
        ('GQA + sliding window', 36864.0)
        >>> [(group.attention, group.layers, group.window) for group in detail.groups]
        [('sliding', 18, 128), ('full', 18, None)]
        """
        tokens, batch = self._length(context_length), _at_least_one("batch_size", batch_size)
        precision = self._kv_precision(kv_precision)
        whole = self.architecture
        groups = []
        for group in whole.attention:
            part = replace(whole, attention=(group,))
            groups.append(
                KVCacheGroup(
                    attention=group.type.value,
                    layers=group.layers,
                    heads=group.heads,
                    kv_heads=group.kv_heads,
                    window=group.window,
                    bytes_per_token=part.kv_bytes_per_token(precision),
                    gb=batch * part.kv_bytes_per_sequence(precision, tokens) / GB,
                )
            )
        sequence = whole.kv_bytes_per_sequence(precision, tokens)
        return KVCacheDetail(
            attention_kind=whole.attention_kind,
            kv_precision=precision.value,
            context_length=tokens,
            batch_size=batch,
            bytes_per_token=whole.kv_bytes_per_token(precision),
            bytes_per_sequence=sequence,
            total_gb=batch * sequence / GB,
            groups=tuple(groups),
        )

    def total_memory_gb(
        self,
        context_length: int | None = None,
        batch_size: int = 1,
        precision: str | None = None,
        *,
        kv_precision: str | None = None,
        tensor_parallel_size: int = 1,
    ) -> float:
        """Return GB that *each* GPU needs: its part of weights and caches, activations and the runtime.

        The memory model of the built-in engine, which also decides there what fits. Compare it with the memory that
        the server may use (`gpu_memory_utilization` of the GPU's). Raises InputError as `kv_cache_memory_gb` does,
        and for a tensor parallel size that the model cannot have.

        >>> model = ModelArchitecture("meta-llama/Llama-3.3-70B-Instruct")
        >>> round(model.total_memory_gb(2256, 8)), round(model.total_memory_gb(2256, 8, tensor_parallel_size=4))
        (149, 41)
        """
        # The engine's figures: the same for every GPU, so any will do.
        from gpuscout.runner.engines.roofline.features import features
        from gpuscout.runner.engines.roofline.memory import memory

        tokens, batch = self._length(context_length), _at_least_one("batch_size", batch_size)
        tp = _at_least_one("tensor_parallel_size", tensor_parallel_size)
        if tp not in self.architecture.tensor_parallel_sizes(tp):
            sizes = ", ".join(map(str, self.possible_tensor_parallel_sizes()))
            raise InputError(
                f"tensor_parallel_size: {tp} does not divide {self.model_id}", hint=f"possible are {sizes}"
            )
        case = Case(
            model=self.architecture,
            gpu=next(iter(GPUCatalogue.load())),
            input_len=1,
            output_len=1,
            max_model_len=tokens,
            precision=self._precision(precision),
            kv_precision=self._kv_precision(kv_precision),
            tensor_parallel=tp,
        )
        used = memory(features(CaseColumns.of([case])))
        needed = used.needed + (batch - 1) * used.one_request
        return float(needed[0]) / GB

    def _length(self, context_length: int | None) -> int:
        if context_length is not None:
            return _at_least_one("context_length", context_length)
        longest = self.max_context_length()
        if longest is None:
            raise InputError(f"{self.model_id} does not say how long its context is", hint="give context_length")
        return longest

    def _precision(self, name: str | None) -> Precision:
        return _named("precision", name, PRECISIONS, self.inferred_precision)

    def _kv_precision(self, name: str | None) -> Precision:
        return _named("KV precision", name, KV_PRECISIONS, self.inferred_kv_precision)


ModelLike = str | Path | ModelArchitecture
"""A model in any form that the functions of the API take."""


def _found(model_id: str, token: str | None, revision: str | None, store: StoreLike | None) -> FoundModel:
    if store is None:
        return ModelFinder(token=token).find_one(model_id, revision=revision)
    from gpuscout.runner.api.cases import opened
    from gpuscout.store.results.catalogues import StoredModels

    with opened(store) as the_store:
        return ModelFinder(StoredModels(the_store), token=token).find_one(model_id, revision=revision)


def _named(what: str, name: str | None, allowed: tuple[Precision, ...], native: Precision) -> Precision:
    if name is None:
        return native
    if not isinstance(name, str):
        raise InputError(f"{what} must be a string, got {name!r}", hint=f"one of {', '.join(allowed)}")
    if name == "native":
        return native
    meant = precision_called(name)
    if meant not in allowed:
        raise UnknownNameError(what, name, nearest(name, allowed), hint=f"one of {', '.join(allowed)}")
    return meant


def _at_least_one(what: str, number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise InputError(f"{what} must be a whole number of at least 1, not {number!r}")
    return int(number)
