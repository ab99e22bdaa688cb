"""The fitted constants of the roofline engine: what each one means, and how they are read from JSON.

A constant is a pooled value times a factor of the accelerator's vendor, times one of its generation
(`GPUSpec.family`), times one of the server. A vendor, generation or server without a factor takes 1: the pool, the
vendor's or the pooled value. There are no factors of models, so that an estimate for a model nobody measured rests on
the same constants.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuscout.runner.engines.roofline.uncertainty import errors_from, interval_table
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.curves import FloatArray
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.reading import read_settings
from gpuscout.sweeps.trust import ObservedError

FORMAT = 2


@dataclass(frozen=True)
class Physical:
    """The value of every constant for every row (or one value for all rows)."""

    # bandwidth: share of the peak that is reached
    memory_efficiency: FloatArray  # dense weights
    expert_efficiency: FloatArray  # routed experts, relative to dense weights
    kv_efficiency: FloatArray  # KV cache, relative to dense weights
    state_efficiency: FloatArray  # constant states of linear-attention and Mamba layers, relative to dense weights
    routing_spread: FloatArray  # tokens that choose experts independently, per token: similar tokens choose alike
    activation_passes: FloatArray  # times a layer reads or writes each token's hidden state
    expert_passes: FloatArray  # the same for the copy of it that each chosen expert gets
    # arithmetic: share of the peak that is reached
    flops_efficiency: FloatArray  # matrices in 16 bits with many tokens
    flops_efficiency_8bit: FloatArray  # the same in 8 bits, relative
    flops_efficiency_4bit: FloatArray  # the same in 4 bits, relative
    expert_flops_efficiency: FloatArray  # grouped matrices of routed experts, relative
    attention_efficiency: FloatArray  # attention scores and values, of the 16-bit peak
    indexer_efficiency: FloatArray  # scores of the indexer of sparse attention, of the 16-bit peak
    half_tokens: FloatArray  # tokens in one prefill at which half of `flops_efficiency` is reached
    overlap: FloatArray  # exponent of the soft maximum of memory and compute time; 1 = no overlap
    # fixed time
    layer_us: FloatArray  # per layer and step
    moe_layer_us: FloatArray  # per MoE layer and step, added
    mla_layer_us: FloatArray  # per layer of latent attention (MLA) and step, added
    quantize_layer_us: FloatArray  # per layer and step with 8-bit matrices, added: activations are scaled and rounded
    recurrent_layer_us: FloatArray  # per linear-attention or Mamba layer and step, added
    sparse_layer_us: FloatArray  # per layer of sparse attention and step, added: scoring and picking the keys to read
    step_ms: FloatArray  # per step: sampling, scheduling
    sequence_us: FloatArray  # per running sequence and step: sampling, detokenising, scheduling
    arm_host: FloatArray  # how many times longer the host takes per sequence where it is an Arm CPU (NVIDIA Grace)
    # communication
    allreduce_us: FloatArray  # latency of one all-reduce over the fast link, per doubling of ranks
    pcie_allreduce_us: FloatArray  # the same over PCIe
    network_allreduce_us: FloatArray  # the same between nodes
    link_efficiency: FloatArray  # share of the fast link's bandwidth that is reached
    # The same of PCIe and of the network between nodes. May exceed 1: exchanges hide behind arithmetic, and servers
    # send fewer bits over slow links.
    pcie_efficiency: FloatArray
    pcie_contention: FloatArray  # power of (GPUs / 2) by which PCIe slows down as more GPUs share the host's bridges
    network_gbs: FloatArray  # GB/s of one GPU to another node, one direction
    expert_imbalance: FloatArray  # how much more the fullest expert-parallel rank has to do, per sqrt(ln ranks / load)
    # several requests at once
    interference: FloatArray  # share of the prefills of other requests that delays a running one
    ttft_base_ms: FloatArray  # tokenising, HTTP, scheduling of one request
    ttft_prefill: FloatArray  # own prefill, as a multiple of the time the matrices need
    eager_steps: FloatArray  # fixed times of a step that a prefill takes more: its kernels are launched one by one
    first_wave_ms: FloatArray  # more for requests that arrive together with all others: batch sizes met first
    burst_share: FloatArray  # of requests that arrive together with all others: the rounds of a closed loop
    ttft_steps: FloatArray  # steps (of an ITL each) until a server that looks at every step takes up new requests
    poll_share: FloatArray  # of the steps between two looks for new requests (`scheduler_recv_interval`), waited for


NAMES: tuple[str, ...] = tuple(f.name for f in fields(Physical))


@dataclass(frozen=True)
class Constants:
    """Constants and where they come from. Factors: a row of `NAMES` per vendor, family or server, the last all 1."""

    pooled: FloatArray
    vendors: tuple[str, ...]
    vendor_factors: FloatArray
    families: tuple[str, ...]
    family_factors: FloatArray
    servers: tuple[str, ...]
    server_factors: FloatArray
    kernels: tuple[str, ...]  # generations without runs, placed by what measured kernels say of them
    kernel_factors: FloatArray
    source: str
    runs: int
    fitted_on: str
    data_digest: str
    interval_groups: tuple[str, ...] = field(compare=False)
    intervals: FloatArray = field(compare=False)  # regimes x metrics x (low, high): uncertainty.py
    errors: tuple[ObservedError, ...] = field(default=(), compare=False)  # on models that a fit had not seen
    # By what was left out of a fit, and by part of its runs; fractions.
    errors_of_fit: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict, compare=False)
    digest: str = field(default="", compare=False)

    def rows(
        self,
        gpus: Sequence[GPUSpec],
        servers: Sequence[str],
        gpu: npt.NDArray[np.int64],
        server: npt.NDArray[np.int64],
    ) -> Physical:
        """Return the constants of every row; `gpu` and `server` index the two sequences."""
        of_vendor = self.vendor_factors[[_position(gpu.vendor, self.vendors) for gpu in gpus]]
        of_family = of_vendor * self.family_factors[[_position(gpu.family, self.families) for gpu in gpus]]
        of_family = of_family * self.kernel_factors[[_position(gpu.family, self.kernels) for gpu in gpus]]
        of_server = self.server_factors[[_position(name, self.servers) for name in servers]]
        table = self.pooled * of_family[:, None, :] * of_server[None, :, :]
        return Physical(*np.ascontiguousarray(table[gpu, server].T))

    def interval_group(self, gpu: GPUSpec) -> int:
        """Return a GPU's position in `interval_groups`: its vendor if its family was fitted, else the last."""
        fitted = gpu.family in self.families and gpu.vendor in self.interval_groups
        return self.interval_groups.index(gpu.vendor) if fitted else len(self.interval_groups) - 1

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> Constants:
        """Return constants from the form that `constants.json` has.

        Raises ValueError when something is missing or odd.
        """
        if document.get("format") != FORMAT:
            raise ValueError(f"format {document.get('format')!r}, expected {FORMAT}")
        pooled = _values(document.get("pooled"), "pooled")
        if missing := [name for name in NAMES if name not in pooled]:
            raise ValueError(f"pooled: missing {', '.join(missing)}")
        vendors, vendor_factors = _factors(document.get("vendors"), "vendors")
        families, family_factors = _factors(document.get("families"), "families")
        servers, server_factors = _factors(document.get("servers"), "servers")
        kernels, kernel_factors = _factors(document.get("kernels", {}), "kernels")
        interval_groups, intervals = interval_table(document.get("intervals"))
        runs = document.get("runs")
        if not isinstance(runs, int):
            raise ValueError("runs: expected the number of measured runs")
        # Only numbers decide: the same constants with another note, or other errors seen, give the same figures.
        decides = {
            key: document[key]
            for key in ("pooled", "vendors", "families", "servers", "kernels", "intervals")
            if key in document
        }
        return cls(
            pooled=np.array([pooled[name] for name in NAMES]),
            vendors=vendors,
            vendor_factors=vendor_factors,
            families=families,
            family_factors=family_factors,
            servers=servers,
            server_factors=server_factors,
            kernels=kernels,
            kernel_factors=kernel_factors,
            source=str(document.get("source", "")),
            runs=runs,
            fitted_on=str(document.get("fitted_on", "")),
            data_digest=str(document.get("data_digest", "")),
            interval_groups=interval_groups,
            intervals=intervals,
            errors=errors_from(document.get("errors_seen")),
            errors_of_fit=_errors_of_fit(document.get("errors", {})),
            digest=hashlib.sha256(canonical_json(decides)).hexdigest()[:16],
        )

    def to_dict(self) -> dict[str, Mapping[str, object]]:
        """Return all that decides the numbers, in the form that `from_dict` reads: `pooled`, `vendors`, `families` …"""

        def factors(names: tuple[str, ...], rows: FloatArray) -> dict[str, object]:
            return {name: dict(zip(NAMES, row.tolist(), strict=True)) for name, row in zip(names, rows, strict=False)}

        return {
            "pooled": dict(zip(NAMES, self.pooled.tolist(), strict=True)),
            "vendors": factors(self.vendors, self.vendor_factors),
            "families": factors(self.families, self.family_factors),
            "servers": factors(self.servers, self.server_factors),
            "kernels": factors(self.kernels, self.kernel_factors),
        }

    @classmethod
    def load(cls, file: Path | str | None = None) -> Constants:
        """Return the constants of this file, or those that ship with gpuscout. Raises InputError."""
        return _shipped() if file is None else _read(Path(file))


@functools.cache
def _shipped() -> Constants:
    text = importlib.resources.files(__package__).joinpath("constants.json").read_text("utf-8")
    return Constants.from_dict(json.loads(text))


def _read(file: Path) -> Constants:
    try:
        document = json.loads(read_settings(file, "utf-8"))
        if not isinstance(document, dict):
            raise ValueError("expected a JSON object")
        return Constants.from_dict(document)
    except OSError as error:
        raise InputError(
            f"cannot read the roofline constants {file}: {error.strerror or error}",
            hint="`gpuscout calibrate` writes such a file",
        ) from error
    except ValueError as error:
        raise InputError(f"roofline constants {file}: {error}") from error


def _position(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else len(names)


def _values(mapping: object, where: str) -> dict[str, float]:
    """Return a mapping of names of constants to positive finite numbers."""
    if not isinstance(mapping, dict):
        raise ValueError(f"{where}: expected a mapping of constants")
    for name, value in mapping.items():
        if name not in NAMES:
            raise ValueError(f"{where}: unknown constant {name!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{where}.{name}: expected a positive number, got {value!r}")
    return mapping


def _errors_of_fit(part: object) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    loads = list(part.values()) if isinstance(part, dict) else [None]
    figures = [values for load in loads for values in (load.values() if isinstance(load, dict) else [None])]
    for values in figures:
        if not (isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())):
            raise ValueError(f"errors: expected fractions by what was left out, load and metric, got {values!r}")
    assert isinstance(part, dict)
    return part


def _factors(table: object, where: str) -> tuple[tuple[str, ...], FloatArray]:
    """Return names and one row of factors each, then a row of ones for names that are not in the table."""
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected a mapping of names")
    rows = [_values(values, f"{where}.{name}") for name, values in table.items()]
    factors = [[row.get(name, 1.0) for name in NAMES] for row in rows] + [[1.0] * len(NAMES)]
    return tuple(table), np.array(factors)
