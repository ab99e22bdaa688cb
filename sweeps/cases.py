"""Cases: what is asked of an engine, one by one or as columns, and the digests that identify them.

A case digest covers everything that can change an answer: the model's and the GPU's figures, parallelism,
precisions, server, memory fraction and lengths. It also covers the *names* of the model and the GPU: some engines
look a model up by its id, and two models of one architecture must stay apart in a ranking. A task key adds the
engine's fingerprint and options. Server options are part of a digest where they differ from the server's defaults
(servers/options.py), traffic and drafts where there are any: a case is the same with and without naming a default.
Digests are the first 16 bytes of SHA-256, hashed from prefixes that many rows share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.precision import PRECISIONS, Precision
from gpuscout.sweeps.servers.options import ServerOptions, default_options
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative
from gpuscout.sweeps.traffic.traffic import PLAIN, Traffic

DIGEST_BYTES = 16
_CASE_SCHEMA = b"gpuscout case 1\0"
_TASK_SCHEMA = b"gpuscout task 1\0"
# What differs from row to row of a block, in the order in which it is hashed.
_ROW = np.dtype(
    [
        ("tensor_parallel", "<u4"),
        ("pipeline_parallel", "<u4"),
        ("data_parallel", "<u4"),
        ("expert_parallel", "<u4"),
        ("gpu_memory_utilization", "<f8"),
        ("max_model_len", "<u8"),
        ("input_len", "<u8"),
        ("output_len", "<u8"),
    ]
)


@dataclass(frozen=True)
class Case:
    """One deployment under one workload. Lengths in tokens; `gpu_memory_utilization` is a fraction of GPU memory.

    `server_options` are those that differ from the server's defaults, as `servers.options.server_options` gives them.
    """

    model: ModelSpec
    gpu: GPUSpec
    input_len: int
    output_len: int
    precision: Precision = Precision.BF16
    kv_precision: Precision = Precision.BF16
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: int = 1
    server: str = "vllm"
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    traffic: Traffic = PLAIN
    server_options: ServerOptions = ()
    speculative: Speculative = NO_DRAFTS

    @property
    def num_gpus(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def context_len(self) -> int:
        """Tokens one sequence may grow to: `max_model_len`, or exactly the longest of the workload."""
        return self.max_model_len or self.traffic.longest(self.input_len, self.output_len)


@dataclass(frozen=True)
class CaseColumns:
    """n cases as columns. `model`, `gpu`, `server`, `options`, `traffic` and `draft` index the tuples.

    Precisions are codes. Without `server_options` all are the servers' defaults, without `traffics` all of it is plain,
    without `drafts` nothing is drafted.
    """

    models: tuple[ModelSpec, ...]
    gpus: tuple[GPUSpec, ...]
    servers: tuple[str, ...]
    model: npt.NDArray[np.int64]
    gpu: npt.NDArray[np.int64]
    server: npt.NDArray[np.int64]
    precision: npt.NDArray[np.int64]
    kv_precision: npt.NDArray[np.int64]
    tensor_parallel: npt.NDArray[np.int64]
    pipeline_parallel: npt.NDArray[np.int64]
    data_parallel: npt.NDArray[np.int64]
    expert_parallel: npt.NDArray[np.int64]
    gpu_memory_utilization: npt.NDArray[np.float64]
    max_model_len: npt.NDArray[np.int64]
    input_len: npt.NDArray[np.int64]
    output_len: npt.NDArray[np.int64]
    server_options: tuple[ServerOptions, ...] = ((),)
    options: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    traffics: tuple[Traffic, ...] = (PLAIN,)
    traffic: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    drafts: tuple[Speculative, ...] = (NO_DRAFTS,)
    draft: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _digests: list[bytes] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("options", "traffic", "draft"):
            if len(getattr(self, name)) != len(self.model):  # none was given
                object.__setattr__(self, name, np.zeros(len(self.model), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.model)

    @property
    def num_gpus(self) -> npt.NDArray[np.int64]:
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    def take(self, rows: npt.NDArray[Any]) -> CaseColumns:
        """Return the cases at these positions (or under this boolean mask), in that order."""
        columns = {name: getattr(self, name)[rows] for name in COLUMN_NAMES}
        tuples = {name: getattr(self, name) for name in _TUPLES}
        return CaseColumns(**tuples, **columns)

    def option(self, name: str) -> npt.NDArray[np.int64]:
        """Return the value of one server option in every case: as given, or the default of its server on its GPU."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        defaults = np.array(
            [[default_options(s, g.name, g.memory_usable_gib)[name] for s in self.servers] for g in self.gpus],
            dtype=np.int64,
        )
        given = np.array([dict(options).get(name, 0) for options in self.server_options], dtype=np.int64)[self.options]
        values: npt.NDArray[np.int64] = np.where(given > 0, given, defaults[self.gpu, self.server])
        return values

    def case(self, row: int) -> Case:
        """Return case number `row` as an object, for engines that answer one case at a time."""
        return Case(
            model=self.models[self.model[row]],
            gpu=self.gpus[self.gpu[row]],
            server=self.servers[self.server[row]],
            precision=PRECISIONS[self.precision[row]],
            kv_precision=PRECISIONS[self.kv_precision[row]],
            tensor_parallel=int(self.tensor_parallel[row]),
            pipeline_parallel=int(self.pipeline_parallel[row]),
            data_parallel=int(self.data_parallel[row]),
            expert_parallel=int(self.expert_parallel[row]),
            gpu_memory_utilization=float(self.gpu_memory_utilization[row]),
            max_model_len=int(self.max_model_len[row]),
            input_len=int(self.input_len[row]),
            output_len=int(self.output_len[row]),
            traffic=self.traffics[self.traffic[row]],
            server_options=self.server_options[self.options[row]],
            speculative=self.drafts[self.draft[row]],
        )

    @classmethod
    def of(cls, cases: Iterable[Case]) -> CaseColumns:
        """Return columns of these cases, in their order."""
        cases = list(cases)
        models = tuple(dict.fromkeys(case.model for case in cases))
        gpus = tuple({id(case.gpu): case.gpu for case in cases}.values())
        servers = tuple(dict.fromkeys(case.server for case in cases))
        traffics = tuple(dict.fromkeys(case.traffic for case in cases)) or (PLAIN,)
        options = tuple(dict.fromkeys(case.server_options for case in cases)) or ((),)
        drafts = tuple(dict.fromkeys(case.speculative for case in cases)) or (NO_DRAFTS,)

        def ints(values: Iterable[int]) -> npt.NDArray[np.int64]:
            return np.fromiter(values, dtype=np.int64, count=len(cases))

        gpu_position = {id(gpu): position for position, gpu in enumerate(gpus)}
        model_position = {model: position for position, model in enumerate(models)}
        return cls(
            models=models,
            gpus=gpus,
            servers=servers,
            model=ints(model_position[case.model] for case in cases),
            gpu=ints(gpu_position[id(case.gpu)] for case in cases),
            server=ints(servers.index(case.server) for case in cases),
            precision=ints(case.precision.code for case in cases),
            kv_precision=ints(case.kv_precision.code for case in cases),
            tensor_parallel=ints(case.tensor_parallel for case in cases),
            pipeline_parallel=ints(case.pipeline_parallel for case in cases),
            data_parallel=ints(case.data_parallel for case in cases),
            expert_parallel=ints(case.expert_parallel for case in cases),
            gpu_memory_utilization=np.array([case.gpu_memory_utilization for case in cases], dtype=np.float64),
            max_model_len=ints(case.context_len for case in cases),
            input_len=ints(case.input_len for case in cases),
            output_len=ints(case.output_len for case in cases),
            traffics=traffics,
            traffic=ints(traffics.index(case.traffic) for case in cases),
            server_options=options,
            options=ints(options.index(case.server_options) for case in cases),
            drafts=drafts,
            draft=ints(drafts.index(case.speculative) for case in cases),
        )

    def digests(self) -> list[bytes]:
        """Return the case digest of every row, 16 bytes each."""
        if self._digests or not len(self):
            return self._digests
        model_digests = [model.digest() for model in self.models]
        gpu_digests = [gpu.digest() for gpu in self.gpus]
        prefixes: dict[tuple[int, ...], Any] = {}
        shared = (
            *(self.model, self.gpu, self.server, self.precision, self.kv_precision),
            *(self.options, self.traffic, self.draft),
        )  # fmt: skip
        groups = zip(*(column.tolist() for column in shared), strict=True)
        row_bytes = self._packed_rows()
        size = _ROW.itemsize
        for position, group in enumerate(groups):
            prefix = prefixes.get(group)
            if prefix is None:
                model, gpu, server, precision, kv_precision, options, traffic, draft = group
                prefix = hashlib.sha256(_CASE_SCHEMA + model_digests[model] + gpu_digests[gpu])
                prefix.update(f"{self.servers[server]}\0{PRECISIONS[precision]}\0{PRECISIONS[kv_precision]}\0".encode())
                if given := self.server_options[options]:
                    prefix.update(canonical_json(dict(given)) + b"\0")
                if identity := self.traffics[traffic].identity():
                    prefix.update(b"traffic\0" + canonical_json(identity) + b"\0")
                if drafted := self.drafts[draft].given:
                    prefix.update(b"speculative\0" + canonical_json(drafted) + b"\0")
                prefixes[group] = prefix
            digest = prefix.copy()
            digest.update(row_bytes[position * size : (position + 1) * size])
            self._digests.append(digest.digest()[:DIGEST_BYTES])
        return self._digests

    def _packed_rows(self) -> bytes:
        rows = np.empty(len(self), dtype=_ROW)
        for name in _ROW.names or ():
            rows[name] = getattr(self, name)
        return rows.tobytes()


_TUPLES = ("models", "gpus", "servers", "server_options", "traffics", "drafts")
COLUMN_NAMES: tuple[str, ...] = tuple(f.name for f in fields(CaseColumns) if f.name not in (*_TUPLES, "_digests"))


def task_keys(case_digests: Sequence[bytes], *, engine: str, fingerprint: str, options_digest: bytes) -> list[bytes]:
    """Return the task key of every case for one engine, 16 bytes each."""
    prefix = hashlib.sha256(_TASK_SCHEMA + f"{engine}\0{fingerprint}\0".encode() + options_digest)
    keys = []
    for case_digest in case_digests:
        key = prefix.copy()
        key.update(case_digest)
        keys.append(key.digest()[:DIGEST_BYTES])
    return keys


def canonical_json(value: object) -> bytes:
    """Return JSON with sorted keys and no spaces: equal values give equal bytes. NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def content_digest(value: object) -> bytes:
    """Return the 16-byte digest of a JSON-able value."""
    return hashlib.sha256(canonical_json(value)).digest()[:DIGEST_BYTES]
