"""Launch options of a ranked configuration, and whether its server can be given them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from gpuscout.store.ranking.types import RankedConfig
from gpuscout.store.results.catalogues import newest_figures
from gpuscout.store.schema import gpus, models
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.servers import REGISTRY, Deployment
from gpuscout.sweeps.servers.options import default_options, options_from
from gpuscout.sweeps.speculative import speculative_from


class Launches:
    """Deployments of the models and GPUs of a store, by their newest figures."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._figures: dict[tuple[str, str], Mapping[str, Any]] = {}

    def deployment(self, model: str, config: RankedConfig) -> Deployment:
        """Return the launch options of a ranked configuration. Raises InputError."""
        if config.concurrency is None:
            raise InputError(
                "how many requests were in flight is not known of this measured run", hint="--rank 2, or --config"
            )
        about, gpu = self._of(models, model), self._of(gpus, config.gpu)
        options = dict(options_from(config.server_options))
        if config.request_rate is not None:
            # In an open loop `concurrency` is a mean: a server that took no more than that would let the others wait.
            seats = default_options(config.server, config.gpu, gpu["memory_usable_gib"])["max_num_seqs"]
            options.setdefault("max_num_seqs", seats)
        return Deployment(
            model=model,
            gpu=config.gpu,
            vendor=gpu["vendor"],
            gpus_per_node=gpu["gpus_per_node"],
            is_moe=about["experts"] > 0,
            tensor_parallel=config.tensor_parallel,
            pipeline_parallel=config.pipeline_parallel,
            data_parallel=config.data_parallel,
            expert_parallel=config.expert_parallel,
            precision=config.precision,
            kv_precision=config.kv_precision,
            checkpoint_precision=about["precision"],
            checkpoint_kv_precision=about["kv_precision"],
            gpu_memory_utilization=config.gpu_memory_utilization,
            max_model_len=config.max_model_len,
            concurrency=math.ceil(config.concurrency),
            expert_size=about.get("expert_size"),
            weight_block=about.get("weight_block"),
            server_options=options,
            speculative=speculative_from(config.speculative),
        )

    def checked(self, model: str, configs: Sequence[RankedConfig]) -> list[RankedConfig]:
        """Return the configurations of a model, each with what keeps its server from being started so."""
        self._look_up(gpus, (config.gpu for config in configs))
        return [replace(config, cannot_start=self._why_not(model, config)) for config in configs]

    def _why_not(self, model: str, config: RankedConfig) -> str | None:
        server = REGISTRY.get(config.server)
        if server is None or server.launch is None:
            return f"no command is known that starts {config.server}"
        try:
            deployment = self.deployment(model, config)
            # What drafts tokens is said when it is deployed.
            server.launch(replace(deployment, draft=deployment.model) if config.speculative else deployment)
        except InputError as error:
            return error.message
        return None

    def _of(self, table: sa.Table, name: str) -> Mapping[str, Any]:
        self._look_up(table, (name,))
        return self._figures[table.name, name]

    def _look_up(self, table: sa.Table, names: Iterable[str]) -> None:
        unknown = {name for name in names if (table.name, name) not in self._figures}
        if not unknown:
            return
        for name, figures in newest_figures(self._connection, table, unknown).items():
            if table is models and "total_parameters" in figures:
                model = ModelSpec.from_dict(figures)
                figures = {**figures, "expert_size": model.expert_size, "weight_block": model.weight_block}
            self._figures[table.name, name] = figures
