"""Properties of an inference server, and the parts of a launch that all servers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative

# Servers listen where a load balancer or a Service reaches them.
ANY_ADDRESS = "0.0.0.0"  # noqa: S104
SIXTEEN_BITS = ("bf16", "fp16")
# Of 16-bit formats and fp32, by the name that servers give to `--dtype`.
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class Deployment:
    """One replica: a model on the GPUs of one node. `concurrency` requests are in flight at its operating point.

    Precisions are of the weights and the KV cache as they should run, and as the checkpoint has them. `kv_precision`
    None: not known, the checkpoint's stays. `max_model_len` in tokens; `gpu_memory_utilization` a fraction.
    `server_options` are those that differ from the server's defaults. `draft` is what drafts the tokens of
    `speculative`: "mtp" (heads of the checkpoint), "ngram" (what stands in the prompt) or a model; None: nobody said.
    `expert_size` is the width of a routed expert, `weight_block` the side of the blocks that share a scale in an FP8
    checkpoint; None: there are none.
    """

    model: str
    gpu: str
    vendor: str
    gpus_per_node: int
    is_moe: bool
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    expert_parallel: int
    precision: str
    kv_precision: str | None
    checkpoint_precision: str
    checkpoint_kv_precision: str
    gpu_memory_utilization: float
    max_model_len: int
    concurrency: int
    expert_size: int | None = None
    weight_block: int | None = None
    server_options: Mapping[str, int] = field(default_factory=dict)
    speculative: Speculative = NO_DRAFTS
    draft: str | None = None

    @property
    def num_gpus(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def sequences_per_rank(self) -> int:
        """Requests that each data-parallel rank takes at once: as told, or as many as are in flight."""
        return self.server_options.get("max_num_seqs", -(-self.concurrency // self.data_parallel))


@dataclass(frozen=True)
class Launch:
    """Command that starts a server: arguments, not a line for a shell.

    `files` maps names to YAML documents that the command reads from its working directory. `image` None: no image is
    known for these GPUs. `documentation` maps every flag of the command to the page that says what it means.
    """

    server: str
    command: tuple[str, ...]
    image: str | None
    port: int
    health: str
    documentation: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def small_batches(gpu: str, memory_gib: float) -> tuple[int, int]:
    """Return the sequences at once and prompt tokens a step of an unknown server: vLLM's on small GPUs."""
    return 256, 2048


@dataclass(frozen=True, kw_only=True)
class Server:
    """An inference server: one module of this package each, registered in `SERVERS` of the package.

    `name` is its name in specs, stores and options, `aliases` are others that people type, `title` is the proper one.
    Capabilities are NVIDIA's compute capability. A format without tensor units on a GPU may still run, its weights
    expanded to 16 bits: NVIDIA GPUs from capability 8.0 on do so for the formats in `weight_only` (Marlin kernels),
    CDNA3 for MXFP4 checkpoints where `mxfp4_on_cdna3` (Triton kernels).
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    command: re.Pattern[str] | None = None
    """Found in the command line that starts it, as result files quote it."""
    vendors: tuple[str, ...] = ()
    """Of the accelerators it runs on; none: nothing is known against any."""
    min_capability: float = 0.0
    weight_only: frozenset[Precision] = frozenset({Precision.FP8})
    mxfp4_on_cdna3: bool = True
    int8_on_blackwell: bool = False
    """Whether it has int8 kernels for capability 10.0 and newer."""
    kv_precisions: frozenset[Precision] = frozenset({Precision.FP8})
    """Formats of the KV cache besides those of 16 and 32 bits."""
    narrow_kv_default: bool = False
    """Whether the KV cache of a checkpoint in 8 bits or fewer is in 8 bits unless something else is asked for."""
    whole_blocks: bool = False
    """Whether every rank must hold whole blocks of weights that share a scale."""
    batch_defaults: Callable[[str, float], tuple[int, int]] = small_batches
    """By the name and the usable GiB of a GPU: sequences that run at once and prompt tokens in a step, at most."""
    decodes_within_budget: bool = True
    """Whether the tokens of running sequences count among those of a step, which prompts share."""
    cuts_prompts: bool = True
    """Whether a prompt may be longer than what a step takes of prompts."""
    launch: Callable[[Deployment], Launch] | None = None
    """How a deployment is started; raises InputError for what the server cannot do. None: not known."""


def check(deployment: Deployment, server: str, vendors: tuple[str, ...], multi_node: str) -> None:
    """Refuse what no server supports. `multi_node` is the server's page on several nodes. Raises InputError."""
    name = deployment.model
    if not name or name.startswith("-") or not name.isprintable():
        raise InputError(
            "this model's name cannot be handed to a server", hint="it is empty, an option or not printable"
        )
    if deployment.vendor.casefold() not in map(str.casefold, vendors):
        raise InputError(
            f"no command for {server} on {deployment.gpu}: gpuscout knows how to start it on {', '.join(vendors)}",
            hint="another GPU: --gpu, or another server: --run-with",
        )
    if deployment.num_gpus > deployment.gpus_per_node:
        nodes = -(-deployment.num_gpus // deployment.gpus_per_node)
        raise InputError(
            f"{deployment.num_gpus} GPUs span {nodes} nodes of {deployment.gpus_per_node}: "
            "gpuscout writes commands for one node",
            hint=f"--max-gpus {deployment.gpus_per_node} finds what fits one; several nodes: {multi_node}",
        )
    if deployment.expert_parallel > 1 and not deployment.is_moe:
        raise InputError(f"{name} has no experts to be spread over {deployment.expert_parallel} GPUs")


MTP, NGRAM = "mtp", "ngram"


def draft_of(deployment: Deployment) -> str | None:
    """Return the draft of a deployment; None: nothing is drafted.

    Raises InputError where it is missing or impossible.
    """
    if deployment.speculative.is_plain:
        if deployment.draft is not None:
            raise InputError("this configuration drafts no tokens: leave --draft out")
        return None
    if deployment.draft is None:
        raise InputError(
            f"it drafts {deployment.speculative.draft_tokens} tokens a step, but no draft is named",
            hint="--draft mtp (heads of the checkpoint), --draft ngram, or --draft MODEL",
        )
    if deployment.draft.casefold() in (MTP, NGRAM):
        return deployment.draft.casefold()
    if deployment.draft.startswith("-") or not deployment.draft.strip() or not deployment.draft.isprintable():
        raise InputError("invalid name of a draft model: expected printable text that does not begin with a dash")
    return deployment.draft


def option_flags(deployment: Deployment, flags: Mapping[str, str]) -> list[str]:
    """Return the flags of the given server options, by the server's names of them."""
    options = deployment.server_options
    return [part for name, flag in flags.items() if name in options for part in (flag, str(options[name]))]


def size_flags(sizes: Mapping[str, int]) -> list[str]:
    """Return the flags of the sizes above 1, which is the default of all."""
    return [part for flag, size in sizes.items() if size > 1 for part in (flag, str(size))]


def check_expert_blocks(deployment: Deployment, server: str, ranks: int, hint: str) -> None:
    """Raise InputError where experts are cut inside the blocks that share a scale, as vLLM and SGLang do.

    https://github.com/vllm-project/vllm/issues/17569 . Without expert parallelism each expert is cut into `ranks`.
    """
    d = deployment
    if d.expert_parallel > 1 or not d.expert_size or not d.weight_block or d.precision != d.checkpoint_precision:
        return
    if d.expert_size % ranks or d.expert_size // ranks % d.weight_block:
        raise InputError(
            f"{server} cannot cut the experts of {d.model} ({d.expert_size} wide) into {ranks}: "
            f"its FP8 blocks are {d.weight_block} wide",
            hint=hint,
        )


def dtype_of(deployment: Deployment) -> str | None:
    """Return `--dtype` where the weights are not quantised; None: the checkpoint decides."""
    plain = deployment.checkpoint_precision in DTYPES and deployment.precision in DTYPES
    return DTYPES[deployment.precision] if plain else None


def is_online(deployment: Deployment) -> bool:
    """Return whether a 16-bit checkpoint has to be quantised while it is loaded."""
    return deployment.precision != deployment.checkpoint_precision and deployment.precision not in DTYPES


def check_precision(deployment: Deployment, server: str, online: Mapping[str, str]) -> None:
    """Raise InputError where the weights of the checkpoint cannot run so; `online`: what it quantises itself."""
    have, want = deployment.checkpoint_precision, deployment.precision
    if have == want or (have in DTYPES and want in DTYPES):
        return
    if have not in SIXTEEN_BITS:
        raise InputError(
            f"{deployment.model} is stored in {have}: {server} does not turn it into {want}",
            hint=f"--precision {have} finds a configuration that serves it as it is",
        )
    if want not in online:
        able = f"; it quantises to {', '.join(online)} itself" if online else ""
        raise InputError(
            f"{server} does not quantise {deployment.model} from {have} to {want} when it loads it{able}",
            hint=f"name a checkpoint that is stored in {want}, or --precision {have}",
        )


def kv_follows_model(deployment: Deployment) -> bool:
    """Return whether the KV cache has the format that the server picks by itself."""
    wanted = deployment.kv_precision
    if wanted is None:
        return True
    if dtype_of(deployment) is not None and deployment.checkpoint_kv_precision in SIXTEEN_BITS:
        return wanted == deployment.precision
    return wanted == deployment.checkpoint_kv_precision


def precision_flags(deployment: Deployment, server: str, online: Mapping[str, str], kv: Mapping[str, str]) -> list[str]:
    """Return the flags of precision where the checkpoint does not decide. Raises InputError.

    `online` and `kv` are the server's words for what it quantises itself, and for formats of the KV cache.
    """
    flags = []
    if (dtype := dtype_of(deployment)) is not None:
        flags += ["--dtype", dtype]
    if is_online(deployment):
        flags += ["--quantization", online[deployment.precision]]
    if (word := kv_word(deployment, server, kv)) is not None:
        flags += ["--kv-cache-dtype", word]
    return flags


def kv_word(deployment: Deployment, server: str, kv: Mapping[str, str]) -> str | None:
    """Return the server's word for the format of the KV cache; None where the checkpoint decides. Raises InputError."""
    if deployment.kv_precision is None or kv_follows_model(deployment):
        return None
    if deployment.kv_precision not in kv:
        raise InputError(
            f"{server} has no KV cache in {deployment.kv_precision} for {deployment.model}",
            hint=f"it takes {', '.join(kv)}",
        )
    return kv[deployment.kv_precision]
