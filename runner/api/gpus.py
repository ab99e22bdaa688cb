"""`list_available_gpus` and `get_gpu_spec`: the GPUs of this process (`GPU_LIBRARY`) for Python, with a user's file."""

from __future__ import annotations

from pathlib import Path

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.library import gpus_with


def list_available_gpus(
    *,
    vendor: str | None = None,
    family: str | None = None,
    min_memory_gb: float | None = None,
    gpu_file: str | Path | None = None,
) -> list[str]:
    """List the names of the GPUs that can be asked about, by vendor and generation; those of `GPU_LIBRARY` come last.

    The conditions narrow it (`min_memory_gb` of 10^9 bytes of one GPU); `gpu_file` adds GPUs of your own. Raises
    UnknownNameError for an unknown vendor or family, InputError when no GPU meets all conditions, GpuFileError.

    >>> "H200-SXM-141GB" in list_available_gpus()
    True
    >>> list_available_gpus(vendor="AMD", min_memory_gb=200)
    ['MI325X', 'MI350X', 'MI355X']
    """
    chosen = gpus_with(gpu_file).select(vendor=vendor, family=family, min_memory_gb=min_memory_gb)
    return [gpu.name for gpu in chosen]


def get_gpu_spec(name: str, *, gpu_file: str | Path | None = None) -> GPUSpec:
    """Look up the figures of a GPU by its name or alias, or as nvidia-smi, rocm-smi and Kubernetes print it.

    Raises UnknownNameError with the nearest names, InputError for a name that is not a string, GpuFileError.

    >>> h200 = get_gpu_spec("nvidia h200")
    >>> h200.name, h200.memory_gb, h200.memory_bandwidth_gbs, h200.dense_tflops["fp8"]
    ('H200-SXM-141GB', 141, 4800, 1979)
    """
    if not isinstance(name, str):
        raise InputError(f"GPU name must be a string, got {name!r}")
    return gpus_with(gpu_file).resolve(name)
