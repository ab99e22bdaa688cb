"""A resolved sweep: names looked up, axes as tuples. What `expand` unfolds and a digest identifies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuscout.sweeps.cases import content_digest
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers.options import ServerOptions
from gpuscout.sweeps.spec.rules import Rule
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative
from gpuscout.sweeps.trust import NO_TRUST, Trust
from gpuscout.sweeps.workloads import Workload

# Raised when the order or the meaning of an expansion changes: block k must mean the same in every run of a sweep.
_EXPANSION_SCHEMA = 1

# The axes of the product, the slowest first. The order decides which tasks share a block.
AXES: tuple[str, ...] = (
    "models",
    "gpus",
    "servers",
    "precision",
    "kv_precision",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
    "tensor_parallel",
    "gpu_memory_utilization",
    "max_model_len",
    "server_options",
    "speculative",
    "workloads",
)


@dataclass(frozen=True)
class SweptModel:
    """A model of a sweep. `precision` and `kv_precision` replace the sweep's axes for this model; None keeps them.

    In these axes None stands for the model's own precision ("native").
    """

    architecture: ModelSpec
    precision: tuple[Precision | None, ...] | None = None
    kv_precision: tuple[Precision | None, ...] | None = None


@dataclass(frozen=True)
class Placement:
    """Place and limits of an engine's tasks. Changes no numbers: no digest covers it.

    `task_timeout_s`: one task of an expensive engine, one call of a cheap one, ends within these seconds; None: any.
    `memory_limit_gb`: what the engine's process may allocate, in 10^9 bytes of address space; None: anything.
    The rest is what Ray is asked for each task; None and empty ask for nothing. Without Ray it means nothing.
    """

    task_timeout_s: float | None = None
    memory_limit_gb: float | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    accelerator_type: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    runtime_env: Mapping[str, object] = field(default_factory=dict)

    @property
    def limited(self) -> bool:
        """Whether an engine must be stoppable by force."""
        return self.task_timeout_s is not None or self.memory_limit_gb is not None


@dataclass(frozen=True)
class EnginePart:
    """One engine of a sweep: every combination is asked of it for each concurrency of `ladder`.

    `block_size` combinations, counted before exclusions, make one block.
    """

    name: str
    fingerprint: str
    options: Mapping[str, object]
    ladder: tuple[int, ...]
    block_size: int
    placement: Placement = Placement()
    trust: Trust = NO_TRUST  # what the engine says of its accuracy; like its placement no part of the identity

    @property
    def options_digest(self) -> bytes:
        return content_digest(dict(self.options))


@dataclass(frozen=True)
class Sweep:
    """The product of the axes, once for each engine.

    `tensor_parallel` None is `auto`. In `precision` and `kv_precision` None is the model's own, in `max_model_len`
    the workload's input and output. `server_options` are as given: what is a server's default on a GPU counts as not
    given there. Axes named together in one group of `zipped` run in lockstep.
    `max_gpus` excludes larger deployments.
    """

    name: str
    models: tuple[SweptModel, ...]
    gpus: tuple[GPUSpec, ...]
    engines: tuple[EnginePart, ...]
    workloads: tuple[Workload, ...]
    servers: tuple[str, ...] = ("vllm",)
    precision: tuple[Precision | None, ...] = (None,)
    kv_precision: tuple[Precision | None, ...] = (None,)
    tensor_parallel: tuple[int, ...] | None = None
    pipeline_parallel: tuple[int, ...] = (1,)
    data_parallel: tuple[int, ...] = (1,)
    expert_parallel: tuple[int, ...] = (1,)
    gpu_memory_utilization: tuple[float, ...] = (0.9,)
    max_model_len: tuple[int | None, ...] = (None,)
    server_options: tuple[ServerOptions, ...] = ((),)
    speculative: tuple[Speculative, ...] = (NO_DRAFTS,)
    zipped: tuple[tuple[str, ...], ...] = ()
    exclude: tuple[Rule, ...] = ()
    only: tuple[Rule, ...] = ()
    max_gpus: int | None = None

    def identity(self) -> dict[str, object]:
        """Return all that determines the tasks of this sweep and their division into blocks, JSON-able.

        The name is part of it: two sweeps of one content under two names are two sweeps that share their tasks.
        """
        return {
            "schema": _EXPANSION_SCHEMA,
            "name": self.name,
            "models": [
                {
                    "name": swept.architecture.name,
                    "digest": swept.architecture.digest().hex(),
                    "precision": swept.precision,
                    "kv_precision": swept.kv_precision,
                }
                for swept in self.models
            ],
            "gpus": [{"name": gpu.name, "digest": gpu.digest().hex()} for gpu in self.gpus],
            "engines": [
                {
                    "name": part.name,
                    "fingerprint": part.fingerprint,
                    "options": dict(part.options),
                    "ladder": part.ladder,
                    "block_size": part.block_size,
                }
                for part in self.engines
            ],
            "workloads": [
                {
                    "name": workload.name,
                    "input_len": workload.input_len,
                    "output_len": workload.output_len,
                    **({} if workload.traffic.is_plain else {"traffic": workload.traffic.identity()}),
                }
                for workload in self.workloads
            ],
            "servers": self.servers,
            "precision": self.precision,
            "kv_precision": self.kv_precision,
            "tensor_parallel": self.tensor_parallel or "auto",
            "pipeline_parallel": self.pipeline_parallel,
            "data_parallel": self.data_parallel,
            "expert_parallel": self.expert_parallel,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "max_model_len": self.max_model_len,
            "zip": self.zipped,
            "exclude": [rule.to_dict() for rule in self.exclude],
            "only": [rule.to_dict() for rule in self.only],
            "max_gpus": self.max_gpus,
            # Sweeps of versions without these axes keep their digests.
            **({} if self.server_options == ((),) else {"server_options": [dict(o) for o in self.server_options]}),
            **({} if self.speculative == (NO_DRAFTS,) else {"speculative": [s.given for s in self.speculative]}),
        }

    def digest(self) -> bytes:
        """Return the 16 bytes that identify the sweep."""
        return content_digest(self.identity())
