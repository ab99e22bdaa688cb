"""The servers by name, and the deployment that a ranked configuration stands for."""

from __future__ import annotations

import math
import shlex

import yaml

from gpuscout.store.database.connect import Connection
from gpuscout.store.ranking.types import Group, RankedConfig
from gpuscout.store.results.catalogues import newest_figures
from gpuscout.store.schema import gpus, models
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.servers import REGISTRY, Deployment, Launch, server_called


def launch_of(deployment: Deployment, server: str) -> Launch:
    """How this server starts it. Raises UnknownNameError, and InputError for what it cannot do."""
    known = REGISTRY.get(server_called(server))
    if known is None or known.launch is None:
        able = [name for name, about in REGISTRY.items() if about.launch is not None]
        raise UnknownNameError("server", server, nearest(server, able), hint=f"allowed: {', '.join(able)}")
    return known.launch(deployment)


def deployment_of(connection: Connection, group: Group, config: RankedConfig) -> Deployment:
    """What a ranked configuration asks for, by the newest figures of its model and GPU. Raises InputError."""
    concurrency = config.concurrency
    if concurrency is None:
        raise InputError(
            "how many requests were in flight is not known of this measured run", hint="--rank 2, or --config"
        )
    model, gpu = newest_figures(connection, models, group.model), newest_figures(connection, gpus, config.gpu)
    return Deployment(
        model=group.model,
        gpu=config.gpu,
        vendor=gpu["vendor"],
        gpus_per_node=gpu["gpus_per_node"],
        is_moe=model["experts"] > 0,
        tensor_parallel=config.tensor_parallel,
        pipeline_parallel=config.pipeline_parallel,
        data_parallel=config.data_parallel,
        expert_parallel=config.expert_parallel,
        precision=config.precision,
        kv_precision=config.kv_precision,
        checkpoint_precision=model["precision"],
        checkpoint_kv_precision=model["kv_precision"],
        gpu_memory_utilization=config.gpu_memory_utilization,
        max_model_len=config.max_model_len,
        concurrency=math.ceil(concurrency),
    )


def shell_script(launch: Launch) -> str:
    """The command for a shell, quoted, after the files that it reads."""
    lines = [
        f"printf '%s\\n' {' '.join(map(shlex.quote, yaml.safe_dump(dict(content)).splitlines()))} > {shlex.quote(file)}"
        for file, content in launch.files.items()
    ]
    return "\n".join([*lines, shlex.join(launch.command)])
