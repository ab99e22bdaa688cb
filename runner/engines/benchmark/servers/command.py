"""The command that starts a server for a case: what `gpuscout deploy` writes for it, or one of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from gpuscout.runner.engines.benchmark.options import ServedOptions
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.errors import InputError, nearest, quoted
from gpuscout.sweeps.secret import secret_in
from gpuscout.sweeps.servers import REGISTRY, Deployment, Launch
from gpuscout.sweeps.servers.options import default_options

HOST = "127.0.0.1"
PLACEHOLDERS: tuple[str, ...] = (
    "model", "port", "host", "gpu", "tp", "pp", "dp", "ep", "num_gpus", "precision", "kv_precision", "server",
    "gpu_memory_utilization", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
)  # fmt: skip
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
# vLLM starts its workers itself: inside Ray it would otherwise look for GPUs among those of the cluster that are free.
# https://docs.vllm.ai/en/stable/serving/parallelism_scaling/
_OWN_WORKERS = ("--distributed-executor-backend", "mp")


@dataclass(frozen=True)
class Command:
    """Arguments, and the files that they name, by name in the folder in which the server is started."""

    arguments: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)


def check_command(command: Sequence[str]) -> None:
    """Raise InputError for a command of the user's that cannot be used for every case."""
    if not command or not all(isinstance(part, str) and part for part in command):
        raise InputError(
            "invalid command: expected a list of arguments, such as [vllm, serve, '{model}', --port, '{port}']"
        )
    for name in (name for part in command for name in _PLACEHOLDER.findall(part)):
        if name not in PLACEHOLDERS:
            close = nearest(name, PLACEHOLDERS, limit=1)
            meant = f"did you mean {{{close[0]}}}? " if close else ""
            raise InputError(
                f"invalid command: unknown placeholder {{{name}}}", hint=f"{meant}known: {', '.join(PLACEHOLDERS)}"
            )
    if not any("{port}" in part for part in command):
        raise InputError("invalid command: {port} is missing", hint="the server has to listen at the port it is given")
    for part in command:
        if secret := secret_in(part):
            raise InputError(
                f"invalid command: {quoted(secret)} would be stored with the results",
                hint="servers read keys and tokens from environment variables (VLLM_API_KEY, HF_TOKEN)",
            )


def command_for(case: Case, port: int, max_model_len: int, options: ServedOptions) -> Command:
    """Return the command for the server of a case. Raises InputError for what the server cannot do."""
    loads, own = options.model_path or case.model.name, options.command
    limits = default_options(case.server, case.gpu.name, case.gpu.memory_usable_gib) | dict(case.server_options)
    if own is not None:
        values = {
            "model": loads,
            "port": port,
            "host": HOST,
            "gpu": case.gpu.name,
            "tp": case.tensor_parallel,
            "pp": case.pipeline_parallel,
            "dp": case.data_parallel,
            "ep": case.expert_parallel,
            "num_gpus": case.num_gpus,
            "precision": case.precision,
            "kv_precision": case.kv_precision,
            "server": case.server,
            "gpu_memory_utilization": f"{case.gpu_memory_utilization:g}",
            "max_model_len": max_model_len,
            "max_num_seqs": limits["max_num_seqs"],
            "max_num_batched_tokens": limits["max_num_batched_tokens"],
        }
        return Command(tuple(_PLACEHOLDER.sub(lambda found: str(values[found[1]]), part) for part in own))
    launch = _launch(case, loads, max_model_len, limits["max_num_seqs"], options.draft)
    arguments = _with_value(_with_value(launch.command, "--host", HOST), "--port", str(port))
    if launch.server == "vllm" and case.num_gpus > 1:
        arguments += _OWN_WORKERS
    return Command(arguments, {name: yaml.safe_dump(dict(content)) for name, content in launch.files.items()})


def _launch(case: Case, model: str, max_model_len: int, max_num_seqs: int, draft: str | None) -> Launch:
    server = REGISTRY.get(case.server)
    if server is None or server.launch is None:
        raise InputError(
            f"no command to start {case.server} is known", hint="give it as the option `command` of the engine"
        )
    about = case.model
    return server.launch(
        Deployment(
            model=model,
            gpu=case.gpu.name,
            vendor=case.gpu.vendor,
            gpus_per_node=case.gpu.gpus_per_node,
            is_moe=about.is_moe,
            tensor_parallel=case.tensor_parallel,
            pipeline_parallel=case.pipeline_parallel,
            data_parallel=case.data_parallel,
            expert_parallel=case.expert_parallel,
            precision=case.precision,
            kv_precision=case.kv_precision,
            checkpoint_precision=about.precision,
            checkpoint_kv_precision=about.kv_precision,
            gpu_memory_utilization=case.gpu_memory_utilization,
            max_model_len=max_model_len,
            # Its flags count the sequences of a rank, as the case does.
            concurrency=max_num_seqs * case.data_parallel,
            expert_size=about.expert_size,
            weight_block=about.weight_block,
            server_options=dict(case.server_options),
            speculative=case.speculative,
            draft=draft,
        )
    )


def _with_value(arguments: Sequence[str], flag: str, value: str) -> tuple[str, ...]:
    """Return the arguments with another value of a flag that they have."""
    after = arguments.index(flag) + 1
    return (*arguments[:after], value, *arguments[after + 1 :])
