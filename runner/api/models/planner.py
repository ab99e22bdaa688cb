"""The capacity planner's functions: what a model needs, by its name, without naming a GPU. GiB are 2^30 bytes.

`ModelArchitecture` has the same figures in GB (10^9 bytes) and more of them.
"""

from __future__ import annotations

from gpuscout.runner.api.models.model import GB, ModelArchitecture, ModelLike

GIB = 2.0**30


def model_total_params(model: ModelLike, *, hf_token: str | None = None) -> int:
    """Return the number of weights in the checkpoint, vision towers included. Raises as `ModelArchitecture` does.

    >>> model_total_params("Qwen/Qwen3-32B")
    32762123264
    """
    return _model(model, hf_token).num_parameters


def model_memory_req(model: ModelLike, precision: str | None = None, *, hf_token: str | None = None) -> float:
    """Return GiB of the weights, over all GPUs; None: as the checkpoint is. Raises UnknownNameError for a precision.

    >>> round(model_memory_req("Qwen/Qwen3-32B"), 1), round(model_memory_req("Qwen/Qwen3-32B", "fp8"), 1)
    (61.0, 32.1)
    """
    return _model(model, hf_token).model_memory_gb(precision) * GB / GIB


def kv_cache_req(
    model: ModelLike,
    context_len: int,
    batch_size: int = 1,
    *,
    kv_precision: str | None = None,
    hf_token: str | None = None,
) -> float:
    """Return GiB that `batch_size` sequences of `context_len` tokens keep, over all GPUs.

    Raises InputError for a length, batch or precision that cannot be.

    >>> kv_cache_req("Qwen/Qwen3-32B", context_len=4096, batch_size=2)
    2.0
    """
    kept = _model(model, hf_token).kv_cache_memory_gb(context_len, batch_size, kv_precision=kv_precision)
    return kept * GB / GIB


def find_possible_tp(model: ModelLike, *, hf_token: str | None = None) -> list[int]:
    """Return all tensor parallel sizes that a server accepts, ascending.

    >>> find_possible_tp("Qwen/Qwen3-32B")
    [1, 2, 4, 8, 16, 32, 64]
    """
    return _model(model, hf_token).possible_tensor_parallel_sizes()


def max_context_len(model: ModelLike, *, hf_token: str | None = None) -> int | None:
    """Return the longest sequence in tokens; None where the configuration does not say.

    >>> max_context_len("Qwen/Qwen3-32B")
    40960
    """
    return _model(model, hf_token).max_context_length()


def _model(model: ModelLike, token: str | None) -> ModelArchitecture:
    return model if isinstance(model, ModelArchitecture) else ModelArchitecture(model, token)
