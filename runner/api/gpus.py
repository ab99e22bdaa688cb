"""`list_available_gpus` and `get_gpu_spec`: the catalogue of GPUs for Python, with a user's own."""

from __future__ import annotations

from pathlib import Path

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import gpus_with
from gpuscout.sweeps.gpus.gpu import GPUSpec


def list_available_gpus(
    *,
    vendor: str | None = None,
    family: str | None = None,
    min_memory_gb: float | None = None,
    gpu_file: str | Path | None = None,
) -> list[str]:
    """The names of the GPUs that can be asked about, in the order of the catalogue: by vendor, then by generation.

    The conditions narrow it (`min_memory_gb` of 10^9 bytes of one GPU); `gpu_file` adds GPUs of your own. Raises
    UnknownNameError for a vendor or family nobody has, InputError when no GPU meets all conditions, GpuFileError.

    >>> "H200-SXM-141GB" in list_available_gpus()
    True
    >>> list_available_gpus(vendor="AMD", min_memory_gb=200)
    ['MI325X', 'MI350X', 'MI355X']
    """
    chosen = gpus_with(gpu_file).select(vendor=vendor, family=family, min_memory_gb=min_memory_gb)
    return [gpu.name for gpu in chosen]


def get_gpu_spec(name: str, *, gpu_file: str | Path | None = None) -> GPUSpec:
    """The figures of a GPU, by its name or alias, or as nvidia-smi, rocm-smi and Kubernetes print it.

    Raises UnknownNameError with the nearest names, InputError for what is no text, GpuFileError.

    >>> h200 = get_gpu_spec("nvidia h200")
    >>> h200.name, h200.memory_gb, h200.memory_bandwidth_gbs, h200.dense_tflops["fp8"]
    ('H200-SXM-141GB', 141, 4800, 1979)
    """
    if not isinstance(name, str):
        raise InputError(f"a GPU is named by a text, not {name!r}")
    return gpus_with(gpu_file).resolve(name)
