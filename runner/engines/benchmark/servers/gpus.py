"""The GPUs of this node: what they are, and how much of their memory is in use.

Asked by the programs that come with their drivers, `nvidia-smi`, `amd-smi` and `rocm-smi`; a node whose GPUs none of
them shows is what Ray says it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.library import gpus_with

_ASK_S = 30.0
_RETURNED_WITHIN_S = 60.0
_LOOK_S = 1.0
# The driver's own and that of contexts of others who only look.
_IDLE_SHARE = 0.03
_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class NodeGpu:
    """A GPU as its driver shows it. Memory in MiB; None: not known."""

    index: str
    uuid: str
    name: str
    used_mib: float | None
    total_mib: float | None


def driver_names() -> list[str]:
    """Return the names of all GPUs of this node, as their drivers print them."""
    return [gpu.name for gpu in _all_gpus()]


def node_gpus() -> list[NodeGpu]:
    """Return the GPUs of this node that this process may use, as their drivers show them."""
    gpus = _all_gpus()
    visible = next((os.environ[name] for name in _VISIBLE if name in os.environ), None)
    if visible is None:
        return gpus
    chosen = [part.strip() for part in visible.split(",")]
    return [gpu for gpu in gpus if any(part == gpu.index or (part and gpu.uuid.startswith(part)) for part in chosen)]


_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def visible_devices() -> str | None:
    """Return the devices this process may use, as its environment names them."""
    return next((f"{name}={os.environ[name]}" for name in _VISIBLE if os.environ.get(name)), None)


def accelerator_types(resources: Iterable[str]) -> list[str]:
    """Return the accelerator types among the names of a Ray node's resources."""
    return [name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)]


def names_here() -> list[str]:
    """Return the names of the GPUs of this node, by their drivers or else by Ray; empty: unknown."""
    return [gpu.name for gpu in node_gpus()] or ray_names()


def ray_names() -> list[str]:
    """Return the accelerator types of this node's Ray; none outside a Ray worker."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return []
    here = ray.get_runtime_context().get_node_id()
    return [name for node in ray.nodes() if node["NodeID"] == here for name in accelerator_types(node["Resources"])]


def is_one_of(gpu: GPUSpec, names: Sequence[str], catalogue: GPUCatalogue | None = None) -> bool:
    """Return whether any of these names, as drivers and Ray spell them, means this GPU."""
    known = gpus_with() if catalogue is None else catalogue
    own = {name.casefold() for name in (gpu.name, *gpu.aliases)}
    for name in names:
        meant = known.find(name)
        if name.casefold() in own or (meant is not None and meant.name == gpu.name):
            return True
    return False


def wait_for_memory(until_s: float = _RETURNED_WITHIN_S) -> str | None:
    """Wait until the memory of the visible GPUs is free; the fault otherwise. None: it is free, or not known."""
    until = time.monotonic() + until_s
    while busy := [gpu for gpu in node_gpus() if _is_busy(gpu)]:
        if time.monotonic() >= until:
            usage = ", ".join(
                f"{gpu.name} {gpu.index}: {gpu.used_mib:,.0f} of {gpu.total_mib:,.0f} MiB" for gpu in busy
            )
            return f"GPU memory is in use ({usage})"
        time.sleep(_LOOK_S)
    return None


def _is_busy(gpu: NodeGpu) -> bool:
    return gpu.used_mib is not None and bool(gpu.total_mib) and gpu.used_mib > _IDLE_SHARE * (gpu.total_mib or 0)


def memory_is_known() -> bool:
    return any(gpu.used_mib is not None for gpu in node_gpus())


def _all_gpus() -> list[NodeGpu]:
    return _nvidia() or _amd_smi() or _rocm_smi()


def _nvidia() -> list[NodeGpu]:
    query = ["--query-gpu=index,uuid,name,memory.used,memory.total", "--format=csv,noheader,nounits"]
    rows = [[part.strip() for part in line.split(",")] for line in _said("nvidia-smi", *query).splitlines()]
    return [NodeGpu(row[0], row[1], row[2], _mib(row[3]), _mib(row[4])) for row in rows if len(row) == 5]


def _amd_smi() -> list[NodeGpu]:
    static = _listed(_said("amd-smi", "static", "--asic", "--json"), "gpu_data")
    used = {str(entry.get("gpu")): entry for entry in _listed(_said("amd-smi", "metric", "-m", "--json"), "gpu_data")}
    return [
        NodeGpu(
            index := str(entry["gpu"]),
            "",
            str(entry["asic"]["market_name"]),
            _amd_mib(used.get(index), "used_vram"),
            _amd_mib(used.get(index), "total_vram"),
        )
        for entry in static
        if "gpu" in entry and "market_name" in entry.get("asic", {})
    ]


def _rocm_smi() -> list[NodeGpu]:
    said = _said("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    with suppress(ValueError, AttributeError):
        cards = {name: card for name, card in json.loads(said).items() if name.startswith("card")}
        return [
            NodeGpu(
                name.removeprefix("card"),
                "",
                str(card.get("Card Series") or card.get("Card series") or card.get("Card Model")),
                _bytes_mib(card.get("VRAM Total Used Memory (B)")),
                _bytes_mib(card.get("VRAM Total Memory (B)")),
            )
            for name, card in cards.items()
        ]
    return []


def _listed(text: str, key: str) -> list[dict[str, dict[str, object]]]:
    """Return the entries of a document of amd-smi, a list in some versions and one under a key in others."""
    with suppress(ValueError, AttributeError):
        document = json.loads(text)
        entries = document.get(key, []) if isinstance(document, dict) else document
        return [entry for entry in entries if isinstance(entry, dict)]
    return []


def _amd_mib(entry: dict[str, dict[str, object]] | None, name: str) -> float | None:
    with suppress(KeyError, TypeError, ValueError):
        value: object = (entry or {})["mem_usage"][name]
        return float(str(value["value"] if isinstance(value, dict) else value).split()[0])
    return None


def _bytes_mib(text: object) -> float | None:
    return _number(text, lambda number: number / 2**20)


def _mib(text: str) -> float | None:
    return _number(text, lambda number: number)


def _number(text: object, convert: Callable[[float], float]) -> float | None:
    with suppress(TypeError, ValueError):
        return convert(float(str(text)))
    return None


def _said(program: str, *arguments: str) -> str:
    """Return the output of a program; empty where it is not installed, fails or hangs."""
    if (path := shutil.which(program)) is None:
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(  # noqa: S603
            [path, *arguments], capture_output=True, text=True, timeout=_ASK_S, check=True, stdin=subprocess.DEVNULL
        ).stdout
    return ""
