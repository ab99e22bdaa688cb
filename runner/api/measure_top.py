"""The sweep that would measure what a ranking recommends: its best configurations and those that may be better."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from gpuscout.runner.resolve.spec import CHEAP_LADDER, EXPENSIVE_LADDER
from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.types import Group, RankedConfig, Ranking
from gpuscout.sweeps.errors import InputError, NothingQualifiesError
from gpuscout.sweeps.servers.options import options_from
from gpuscout.sweeps.settings import PARALLELISM
from gpuscout.sweeps.spec.spec import SweepSpec, spec_from_mapping
from gpuscout.sweeps.spec.workloads import workload_as_given
from gpuscout.sweeps.speculative import speculative_from
from gpuscout.sweeps.traffic.traffic import PLAIN, traffic_from
from gpuscout.sweeps.workloads import Workload

# The axes of a spec that a configuration has a value of, and the field of its rules.
_AXES: Mapping[str, str] = {
    "gpus": "gpu",
    "servers": "server",
    "precision": "precision",
    "kv_precision": "kv_precision",
    **{name: name for name in PARALLELISM},
    "gpu_memory_utilization": "gpu_memory_utilization",
}
# Measured up to so many times the load at which a configuration is recommended: the limit may lie beyond.
_BEYOND = 2


def to_measure(group: Group, top: int) -> list[RankedConfig]:
    """Return the estimates of a group that are worth measuring: the best `top`, and those that may turn out better."""
    doubtful = [tie.config for tie in group.ties] + ([group.unproven] if group.unproven is not None else [])
    wanted = [config for config in (*group.configs[:top], *doubtful) if config.kind is Kind.ESTIMATED]
    return list({config.task_id: config for config in wanted}.values())


def spec_to_measure(ranking: Ranking, top: int, *, name: str, adaptive: bool = False) -> SweepSpec:
    """Return a sweep of the engine `benchmark` over each group's `to_measure`, with objective and limits.

    With `adaptive` it measures few points around the limits instead of the whole ladder. Raises NothingQualifiesError
    where nothing is left to be measured, InputError where a workload cannot be written down.
    """
    chosen = [(group, config) for group in ranking.groups for config in to_measure(group, top)]
    if not chosen:
        raise NothingQualifiesError(
            "there is nothing to measure: no estimate is recommended",
            hint="gpuscout recommend with the same options and --explain says why",
        )
    workloads = _workloads([group for group, _ in chosen])
    slos = [str(slo) for slo in ranking.question.slos]
    load = _load([config for _, config in chosen], CHEAP_LADDER if adaptive else EXPENSIVE_LADDER)
    adaptive = adaptive and "concurrency" in load  # at a rate, every point is a question of its own
    spec: dict[str, object] = {
        "name": name,
        "description": f"Measures what is best by a recommendation (of each the first {top}), and what may be better.",
        "models": _several(group.model for group, _ in chosen),
        **{axis: _several(_plain(getattr(config, field)) for _, config in chosen) for axis, field in _AXES.items()},
        "max_model_len": _several(_max_model_len(workloads[_key(group)], config) for group, config in chosen),
        "server_options": _unique(dict(options_from(config.server_options)) for _, config in chosen),
        "speculative": _unique(dict(speculative_from(config.speculative).given) or "none" for _, config in chosen),
        "workloads": [workload_as_given(workload) for workload in workloads.values()],
        **load,
        "only": [_rule(group, config, workloads[_key(group)]) for group, config in chosen],
        "objective": ranking.question.objective,
        "slo": slos,
        "engine": {"name": "benchmark", **({"adaptive": slos} if adaptive and slos else {})},
    }
    return spec_from_mapping(spec)


def _rule(group: Group, config: RankedConfig, workload: Workload) -> dict[str, object]:
    """Build a rule that matches one configuration, under its own workload."""
    return {
        "model": group.model,
        **{field: _plain(getattr(config, field)) for field in _AXES.values()},
        "max_model_len": config.max_model_len,
        **dict(options_from(config.server_options)),
        "draft_tokens": speculative_from(config.speculative).draft_tokens,
        "workload": workload.name,
    }


def _workloads(groups: Sequence[Group]) -> dict[tuple[object, ...], Workload]:
    """Return the workloads of groups by their content, each with a name of its own."""
    found: dict[tuple[object, ...], Workload] = {}
    for group in groups:
        name = group.workload or f"{group.input_len}-in-{group.output_len}-out"
        traffic = PLAIN if group.traffic is None else traffic_from(json.loads(group.traffic), None)
        if group.traffic is not None and json.loads(group.traffic).get("trace"):
            raise InputError(f"--measure-top: workload {name} follows a trace, which the store does not contain")
        taken = {workload.name for workload in found.values()}
        if _key(group) not in found:
            unique = name if name not in taken else f"{name}-{len(found) + 1}"
            found[_key(group)] = Workload(unique, group.input_len, group.output_len, traffic=traffic)
    return found


def _key(group: Group) -> tuple[object, ...]:
    return group.workload, group.input_len, group.output_len, group.traffic


def _max_model_len(workload: Workload, config: RankedConfig) -> object:
    return "workload" if config.max_model_len == workload.longest else config.max_model_len


def _load(configs: Sequence[RankedConfig], steps: Sequence[int]) -> dict[str, object]:
    """Return the ladder, or the request rates for which the configurations are recommended.

    Raises InputError for both.
    """
    rates = sorted({config.request_rate for config in configs if config.request_rate is not None})
    if not rates:
        return {"concurrency": _ladder(configs, steps)}
    if any(config.request_rate is None for config in configs):
        raise InputError(
            "--measure-top: some configurations are recommended at a request rate, others at a concurrency",
            hint="--sweep or --workload asks for one of these",
        )
    return {"load": "request_rate", "request_rate": rates}


def _ladder(configs: Sequence[RankedConfig], steps: Sequence[int]) -> list[int]:
    """Return the steps up to beyond where the configurations are recommended, and these points themselves."""
    points = {math.ceil(config.concurrency) for config in configs if config.concurrency is not None}
    most = _BEYOND * max(points, default=steps[-1])
    return sorted({step for step in steps if step <= most} | points)


def _several(values: Iterable[object]) -> list[object]:
    return _unique(value for value in values if value is not None)


def _unique(values: Iterable[object]) -> list[object]:
    found: list[object] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _plain(value: object) -> object:
    return str(value) if isinstance(value, str) else value
