"""GPUs that are there: as people write them, in files of theirs, or asked of Ray, Kubernetes or the NVIDIA driver.

A text is `GPU=NUMBER` (in nodes of the usual size), `GPU=NODESxGPUS` (H100=4x8: four nodes of eight), or a file with
such lines, or a CSV file with the columns `gpu` and `gpus` and, of each node a row, `node`.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuscout.store.queries.placements.nodes import Nodes, merged
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.names import parted, squeeze
from gpuscout.sweeps.text import printable

FORM = "write GPU=NUMBER, such as A100-40GB=16 (or H100=4x8 for nodes), or a file with one a line"
_NUMBER = re.compile(r"(?:(?P<nodes>\d{1,6})\s*[x×*]\s*)?(?P<gpus>\d{1,6})")
_LARGEST_NODE = 1_024  # the largest that are sold as one hold 72 to 576
_TIMEOUT_S = 30
_LONGEST_FILE = 10_000_000
_COLUMNS = ("node", "gpu", "gpus")
_KUBERNETES_GPUS = {
    "nvidia.com/gpu": ("nvidia.com/gpu.product",),
    "amd.com/gpu": ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
}
# Slices of GPUs, and GPUs that several pods share, are no GPUs that a server could have to itself.
_SLICED = re.compile(r"mig-|-shared$", re.IGNORECASE)
_RAY = """
import json, sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("NODES " + json.dumps([
    {"name": node.get("NodeName") or node["NodeID"], "resources": node["Resources"]}
    for node in ray.nodes() if node["Alive"]
]))
"""


@dataclass(frozen=True)
class Fleet:
    """Nodes, and what was found but not counted, with the reason."""

    nodes: tuple[Nodes, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Counted:
    """Nodes as they are found one by one."""

    catalogue: GPUCatalogue
    found: list[Nodes] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)

    def add(self, product: str, gpus: int, name: str) -> None:
        gpu = None if _SLICED.search(product) else self.catalogue.find(product)
        if gpu is None:
            self.unknown[product] = self.unknown.get(product, 0) + gpus
        elif gpus:
            self.found.append(Nodes(gpu.name, gpus, 1, (name,)))

    def fleet(self, source: str, notes: Sequence[str] = ()) -> Fleet:
        unknown = [
            f'{source}: {number:,} of "{printable(name)}" not counted: not a whole GPU of the catalogue'
            for name, number in self.unknown.items()
        ]
        if not self.found:
            raise InputError("; ".join([f"{source}: no GPUs found", *notes, *unknown]), hint=FORM)
        return Fleet(tuple(merged(self.found)), (*notes, *unknown))


def read_fleet(texts: Iterable[str], gpu_file: Path | None = None) -> Fleet:
    """Read an inventory: "H100=16", "H100=4x8" (nodes x GPUs), or the name of a file with such lines or with columns.

    Several texts add up. Raises InputError for invalid text and UnknownNameError for an unknown GPU.
    """
    catalogue = gpus_with(gpu_file)
    nodes_found: list[Nodes] = []
    for place, name, number, node in _entries(texts):
        form = _NUMBER.fullmatch(number.strip())
        nodes = int(form["nodes"] or 1) if form else 0
        gpus = int(form["gpus"]) if form else 0
        if form is None or not 0 < nodes * gpus < 10**6:
            raise InputError(f'{place}: invalid inventory "{printable(f"{name}={number}")[:60]}"', hint=FORM)
        whole_nodes = node is not None or form["nodes"] is not None
        if whole_nodes and gpus > _LARGEST_NODE:
            raise InputError(f"{place}: a node of {gpus:,} GPUs: expected at most {_LARGEST_NODE:,}", hint=FORM)
        gpu = catalogue.resolve(name.strip())
        if whole_nodes:
            nodes_found.append(Nodes(gpu.name, gpus, nodes, () if node is None else (node,)))
            continue
        whole, rest = divmod(gpus, gpu.gpus_per_node)
        nodes_found += [Nodes(gpu.name, gpu.gpus_per_node, whole)] if whole else []
        nodes_found += [Nodes(gpu.name, rest, 1)] if rest else []
    if not nodes_found:
        raise InputError("--have: no GPUs given", hint=FORM)
    return Fleet(tuple(merged(nodes_found)))


def _entries(texts: Iterable[str]) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield the place in the file, the GPU, the number, and the node's name (None: not stated)."""
    for text in texts:
        if "=" in text or not Path(text).exists():
            yield from (("--have", *_parted("--have", part), None) for part in parted([text]))
            continue
        lines = _text_of(Path(text)).splitlines()
        first = next((line for line in lines if line.partition("#")[0].strip()), "")
        if "=" not in first and "gpu" in {name.strip() for name in first.split(",")}:
            try:
                yield from _rows(text, lines)
            except csv.Error as error:
                raise InputError(f"{text}: not CSV: {error}") from error
            continue
        for number_of_line, line in enumerate(lines, start=1):
            if entry := line.partition("#")[0].strip():
                place = f"{text}:{number_of_line}"
                yield (place, *_parted(place, entry), None)


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _LONGEST_FILE:
            raise InputError(f"{path}: longer than {_LONGEST_FILE:,} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _parted(place: str, entry: str) -> tuple[str, str]:
    name, equals, number = entry.rpartition("=")
    if not equals:
        raise InputError(f'{place}: invalid inventory "{printable(entry)[:60]}"', hint=FORM)
    return name, number


def _rows(file: str, lines: list[str]) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield the rows of a CSV file: `node,gpu,gpus`, a row a node, or without `node` in nodes of the usual size."""
    reader = csv.reader(lines)
    names: list[str] = []
    seen: set[str] = set()
    for values in reader:
        place = f"{file}:{reader.line_num}"
        if not any(values) or values[0].lstrip().startswith("#"):
            continue
        if not names:
            names = [value.strip() for value in values]
            wrong = [name for name in names if name not in _COLUMNS]
            if wrong or len(set(names)) < len(names) or not {"gpu", "gpus"} <= set(names):
                raise InputError(f"{place}: expected the columns gpu and gpus, and node if there are several")
            continue
        if len(values) != len(names):
            raise InputError(f"{place}: expected {len(names)} values ({', '.join(names)}), got {len(values)}")
        row = dict(zip(names, (value.strip() for value in values), strict=True))
        node = row.get("node")
        if node is not None and (not node or node in seen):
            problem = f'a second row of node "{printable(node)[:60]}"' if node else "node: empty"
            raise InputError(f"{place}: {problem}", hint="a node has GPUs of one type: one row a node")
        seen |= {node} if node else set()
        yield place, row["gpu"], row["gpus"], node


def fleet_from(source: str, *, ray_address: str = "auto", gpu_file: Path | None = None) -> Fleet:
    """Return the GPUs that Ray, Kubernetes or the NVIDIA driver reports: "ray", "kubectl" or "nvidia-smi".

    Raises InputError where the tool is missing, fails, takes longer than half a minute, or reports no GPUs.
    """
    word = squeeze(source)
    asking: Mapping[str, Callable[[_Counted], Fleet]] = {
        "ray": lambda counted: _of_ray(counted, ray_address),
        "kubectl": _of_kubernetes,
        "nvidiasmi": _of_driver,
    }
    if word not in asking:
        raise InputError(f'--gpus-from: invalid source "{printable(source)[:60]}"', hint="ray, kubectl or nvidia-smi")
    return asking[word](_Counted(gpus_with(gpu_file)))


def _of_driver(counted: _Counted) -> Fleet:
    """Return the GPUs of this machine, one node."""
    printed = _run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], "nvidia-smi")
    names = [line.strip() for line in printed.splitlines() if line.strip()]
    for name in dict.fromkeys(names):
        counted.add(name, names.count(name), "this machine")
    return counted.fleet("nvidia-smi")


def _of_kubernetes(counted: _Counted) -> Fleet:
    """Return the allocatable GPUs of a cluster's nodes that take new pods, by the labels of GPU feature discovery."""
    printed = _run(["kubectl", "get", "nodes", "--output=json"], "kubectl")
    notes: list[str] = []
    try:
        for item in json.loads(printed)["items"]:
            _count_node(counted, item, notes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("--gpus-from kubectl: its answer is not a list of nodes") from error
    return counted.fleet("kubectl", notes)


def _count_node(counted: _Counted, item: Mapping[str, Any], notes: list[str]) -> None:
    name = str(item["metadata"]["name"])
    labels = item["metadata"].get("labels") or {}
    for resource, products in _KUBERNETES_GPUS.items():
        number = int(item["status"].get("allocatable", {}).get(resource, 0))
        product = next((labels[label] for label in products if label in labels), None)
        if number and item.get("spec", {}).get("unschedulable"):
            notes.append(f"kubectl: {printable(name)} takes no new pods: its {number} GPUs are not counted")
        elif number and product is None:
            notes.append(f"kubectl: {printable(name)} has {number} of {resource} without the label {products[0]}")
        elif number:
            counted.add(str(product).replace("_", " "), number, name)


def _of_ray(counted: _Counted, address: str) -> Fleet:
    """Return the GPUs of the living nodes of a cluster, by the accelerator type that Ray found on each."""
    printed = _run([sys.executable, "-c", _RAY, address], "ray")
    line = next((line for line in printed.splitlines() if line.startswith("NODES ")), None)
    if line is None:
        raise InputError("--gpus-from ray: its answer is not a list of nodes")
    notes = []
    for node in json.loads(line.removeprefix("NODES ")):
        number = int(node["resources"].get("GPU", 0))
        kinds = [one.partition(":")[2] for one in node["resources"] if one.startswith("accelerator_type:")]
        if number and len(kinds) == 1:
            counted.add(kinds[0], number, node["name"])
        elif number:
            notes.append(f"ray: {printable(node['name'])} has {number} GPUs of a type that Ray does not know")
    return counted.fleet("ray", notes)


def _run(command: list[str], tool: str) -> str:
    """Return the output of a command. Raises InputError where it is missing, fails, or takes too long."""
    if shutil.which(command[0]) is None:
        raise InputError(f"--gpus-from {tool}: {tool} is not installed here", hint=f"--have names GPUs: {FORM}")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list of arguments, no shell
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"--gpus-from {tool}: no answer within {_TIMEOUT_S} s") from None
    except OSError as error:
        raise InputError(f"--gpus-from {tool}: {error.strerror}") from error
    if done.returncode:
        said = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        raise InputError(f"--gpus-from {tool}: it failed: {printable(said)[:300]}")
    return done.stdout
