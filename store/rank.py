"""Ranks what is stored: the best GPU for each model and workload, and why the others lost. Computes no estimate.

Of every configuration (task) the operating point counts that is best for the objective and meets *all* SLOs, and the
configurations of a group (a model under one pair of lengths) are ranked by it. The database does both. The rules:

*Ties.* Figures equal to six decimals are equal. Between points of one task, one that does not queue goes first, then
the lower concurrency. Between configurations: not queued, fewer GPUs, lower ITL, lower TTFT, then GPU name, TP, PP,
DP, EP, precision, KV precision, server, memory fraction and maximum length, ascending.
*Queueing.* A point with more requests in flight than the KV cache holds is real, its TTFT includes the wait, and it
is recommended when its objective is higher. It says `queued`; an SLO on TTFT or E2E keeps the wait short.
*One engine per group.* Estimates of different engines are never mixed in one ranking: a group shows the engine that
comes first in `Question.engines`, else in the sweep, else the one stored last, of those that have any answer for it.
*Versions never compete.* Of the answers of one engine (whatever fingerprint and options) for one configuration, by the
names of model and GPU, the newest stands: the engine stored last, then the model's figures, then the GPU's. Where a
sweep is named only its own tasks count, and of an engine it lists twice the first.
*Sweeps.* A sweep's name means the revision that was run last. Only concurrencies of its own ladder count, although the
store may hold more for the same task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from gpuscout.store import ranking_points as statements
from gpuscout.store.ranking_losers import excluded, losers_of, shortfalls_of
from gpuscout.store.ranking_points import GroupKey, group_key
from gpuscout.store.ranking_scope import Scope, nothing_matches, scope_of
from gpuscout.store.ranking_types import (
    DEFAULT_OBJECTIVE,
    MEASURES,
    Group,
    Measure,
    Question,
    RankedConfig,
    Ranking,
    measure_of,
)
from gpuscout.sweeps.outcomes import Outcome

__all__ = ["DEFAULT_OBJECTIVE", "MEASURES", "Group", "Question", "RankedConfig", "Ranking", "rank"]


def rank(connection: sa.Connection, question: Question) -> Ranking:
    """Answer a question from the store alone.

    Raises UnknownNameError for a name the store does not know and an objective that is none, InputError for a store
    without results and for filters that leave nothing.
    """
    measure = measure_of(question.objective)
    scope = scope_of(connection, question)
    outcomes: dict[GroupKey, dict[str, int]] = defaultdict(dict)
    for row in connection.execute(statements.counts(scope)):
        outcomes[group_key(row)][row.outcome] = row.tasks
    if not outcomes:
        raise nothing_matches(connection, scope)

    ranked = _by_group(connection.execute(statements.ranked(scope, measure, question.slos, top=question.top)))
    candidates = {key: rows[0].candidates for key, rows in ranked.items()}
    losers = losers_of(connection, scope, question, measure, outcomes, candidates)
    hopeless = [key for key, found in outcomes.items() if key not in ranked and Outcome.OK in found]
    shortfalls = shortfalls_of(connection, scope, question.slos, hopeless)
    engines = _engines(connection, scope)

    groups = []
    for key in sorted(outcomes, key=lambda key: (key[1:], key[0])):
        model, input_len, output_len = key
        configs, gpu_configs = _configs(ranked.get(key, []), measure)
        unreachable, closest = shortfalls.get(key, ((), None))
        groups.append(
            Group(
                model=model,
                workload=scope.workloads.get((input_len, output_len)),
                input_len=input_len,
                output_len=output_len,
                engine=engines[key][0],
                other_engines=tuple(engines[key][1:]),
                configs=tuple(configs[: question.top]),
                best_per_gpu=tuple(gpu_configs),
                candidates=candidates.get(key, 0),
                losers=tuple(losers.get(key, ())),
                unreachable=unreachable,
                closest=closest,
            )
        )
    exclusions = excluded(connection, scope)
    name, sweep_id = (scope.sweep.name, scope.sweep.id) if scope.sweep else (None, None)
    return Ranking(question, name, sweep_id, tuple(groups), exclusions)


def _by_group(rows: Iterable[sa.Row[Any]]) -> dict[GroupKey, list[sa.Row[Any]]]:
    groups: dict[GroupKey, list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        groups[group_key(row)].append(row)
    return dict(groups)


def _configs(rows: list[sa.Row[Any]], measure: Measure) -> tuple[list[RankedConfig], list[RankedConfig]]:
    """The configurations of a group, best first, and the best of each GPU type.

    The database lets equal figures share a place. The names that decide then are compared here, because databases
    sort text in different ways.
    """
    rows.sort(key=_tie_break)
    configs = []
    gpus: dict[str, RankedConfig] = {}
    for row in rows:
        worse = rows[0].objective - row.objective if measure.more_is_better else row.objective - rows[0].objective
        # Figures that count as equal may differ in the last bits, to either side.
        behind = max(worse / rows[0].objective, 0.0) if rows[0].objective else 0.0
        config = RankedConfig.of({**row._mapping, "behind_best": behind})
        configs.append(config)
        gpus.setdefault(config.gpu, config)
    return configs, list(gpus.values())


def _tie_break(row: sa.Row[Any]) -> tuple[Any, ...]:
    return (
        row.place,
        row.gpu,
        row.tensor_parallel,
        row.pipeline_parallel,
        row.data_parallel,
        row.expert_parallel,
        row.precision,
        row.kv_precision or "",
        row.server,
        row.gpu_memory_utilization,
        row.max_model_len,
        row.task_id,
    )


def _engines(connection: sa.Connection, scope: Scope) -> dict[GroupKey, list[str]]:
    """The engines that have answers for each group: first the one that is shown."""
    if len(scope.engines.ids) == 1:
        return defaultdict(lambda: list(scope.engines.ids))
    name_of = {engine_id: name for name, ids in scope.engines.ids.items() for engine_id in ids}
    order = list(scope.engines.ids)
    found: dict[GroupKey, set[str]] = defaultdict(set)
    for row in connection.execute(statements.engines_of_groups(scope)):
        found[group_key(row)].add(name_of[row.engine_id])
    return {key: sorted(names, key=order.index) for key, names in found.items()}
