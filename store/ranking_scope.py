"""Which tasks a ranking is about: one answer of one engine for every configuration that the question leaves in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gpuscout.store.ranking_names import (
    Names,
    SweepParts,
    choose_engines,
    choose_gpus,
    choose_models,
    choose_word,
    find_sweep,
    lengths_of,
    listed,
    workload_names,
)
from gpuscout.store.ranking_types import Question
from gpuscout.store.schema import cases, gpus, membership, models, tasks
from gpuscout.sweeps.cases import SERVERS
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.precision import PRECISIONS

GROUP = ("model", "input_len", "output_len")
_CONFIGURATION = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
    "precision",
    "kv_precision",
    "server",
    "gpu_memory_utilization",
    "max_model_len",
)

CONFIGURATIONS = (
    tasks.join(cases, cases.c.id == tasks.c.case_id)
    .join(models, models.c.id == cases.c.model_id)
    .join(gpus, gpus.c.id == cases.c.gpu_id)
)
ABOUT: tuple[sa.ColumnElement[Any], ...] = (
    tasks.c.id.label("task_id"),
    models.c.name.label("model"),
    gpus.c.name.label("gpu"),
    *(cases.c[name] for name in ("input_len", "output_len", "num_gpus", *_CONFIGURATION)),
)
"""What identifies a task and its configuration, from `CONFIGURATIONS`."""

Condition = sa.ColumnElement[bool]


@dataclass(frozen=True)
class Scope:
    """The tasks that count, as a table expression: ids, outcome, the columns of `GROUP`, GPU and number of GPUs.

    `answers` are all answers to the question, also those of other engines and older versions. `models`, `gpus` and
    `engines` are the names that the question leaves in, the preferred engine first.
    """

    tasks: sa.CTE
    answers: sa.CTE
    sweep: SweepParts | None
    models: Names
    gpus: Names
    engines: Names
    workloads: dict[tuple[int, int], str]

    def on_ladder(self, points: sa.FromClause) -> list[Condition]:
        """Only the concurrencies that the sweep asked of the task's engine."""
        if self.sweep is None:
            return []
        asked = set(self.sweep.ladders.values())
        if len(asked) == 1:
            return [points.c.concurrency.in_(sorted(asked.pop()))]
        return [
            sa.or_(
                sa.false(),
                *(
                    sa.and_(self.tasks.c.engine_id == engine, points.c.concurrency.in_(sorted(ladder)))
                    for engine, ladder in self.sweep.ladders.items()
                ),
            )
        ]


def scope_of(connection: sa.Connection, question: Question) -> Scope:
    """Look up every name of the question. Raises UnknownNameError."""
    sweep = None if question.sweep is None else find_sweep(connection, question.sweep)
    sweep_id = sweep.id if sweep else None
    named = workload_names(connection, sweep_id)
    lengths = None if question.workload is None else lengths_of(question.workload, named)
    model_names = choose_models(connection, question.models)
    gpu_names = choose_gpus(connection, question.gpus)
    engine_names = choose_engines(connection, question.engines)
    if sweep is not None:
        engine_names = _in_order_of(sweep, engine_names, chosen=bool(question.engines))

    conditions: list[Condition] = []
    if question.models:
        conditions.append(cases.c.model_id.in_(model_names.all_ids()))
    if question.gpus:
        conditions.append(cases.c.gpu_id.in_(gpu_names.all_ids()))
    if question.engines:
        conditions.append(tasks.c.engine_id.in_(engine_names.all_ids()))
    if lengths is not None:
        pairs = (sa.and_(cases.c.input_len == read, cases.c.output_len == written) for read, written in lengths)
        conditions.append(sa.or_(*pairs))
    if question.input_len is not None:
        conditions.append(cases.c.input_len == question.input_len)
    if question.output_len is not None:
        conditions.append(cases.c.output_len == question.output_len)
    if question.servers:
        conditions.append(cases.c.server.in_(choose_word("server", question.servers, SERVERS)))
    if question.precisions:
        conditions.append(cases.c.precision.in_(choose_word("precision", question.precisions, PRECISIONS)))
    if question.max_gpus is not None:
        conditions.append(cases.c.num_gpus <= question.max_gpus)

    narrow = bool(question.models) and (lengths is not None or question.input_len is not None)
    answers = _answers(conditions, sweep_id, narrow=narrow)
    versions = any(names.have_versions for names in (model_names, gpu_names, engine_names))
    standing = _standing(answers, engine_names, versions=versions)
    # The sweep that was run last names a workload.
    workloads = {(input_len, output_len): name for name, input_len, output_len in reversed(named)}
    return Scope(standing, answers, sweep, model_names, gpu_names, engine_names, workloads)


def nothing_matches(connection: sa.Connection, scope: Scope) -> InputError:
    """Why there is no answer at all, and what the store, or the sweep that was asked for, does have."""
    within = _answers([], scope.sweep.id if scope.sweep else None, narrow=False)

    def present(name: str) -> list[Any]:
        return list(connection.execute(sa.select(within.c[name]).distinct().order_by(within.c[name])).scalars())

    where = f'sweep "{scope.sweep.name}"' if scope.sweep else "the store"
    models_there = present("model")
    if not models_there:
        return InputError(f"{where} holds no results yet", hint="gpuscout run SPEC computes them")
    lengths = connection.execute(
        sa.select(within.c.input_len, within.c.output_len).distinct().order_by(sa.text("1, 2"))
    )
    workloads = [
        f"{scope.workloads[pair]} ({pair[0]}/{pair[1]})" if pair in scope.workloads else f"{pair[0]}/{pair[1]}"
        for pair in (tuple(row) for row in lengths)
    ]
    there = {"models": models_there, "GPUs": present("gpu"), "workloads (input/output tokens)": workloads}
    if scope.sweep is None or len(scope.engines.ids) > 1:
        there["engines"] = list(scope.engines.ids)
    return InputError(
        f"nothing in {where} matches all of these filters",
        hint="\n    ".join(f"{kind}: {listed(names)}" for kind, names in there.items()),
    )


def _in_order_of(sweep: SweepParts, known: Names, *, chosen: bool) -> Names:
    """The engines of a sweep in its order, or those of them that the user chose in theirs."""
    position = {engine: place for place, engine in enumerate(sweep.ladders)}
    ids = {
        name: tuple(sorted((engine for engine in versions if engine in position), key=position.__getitem__))
        for name, versions in known.ids.items()
    }
    present = [name for name in ids if ids[name]]
    if not chosen:
        present.sort(key=lambda name: position[ids[name][0]])
    return Names({name: ids[name] for name in present})


def _answers(conditions: Sequence[Condition], sweep_id: int | None, *, narrow: bool) -> sa.CTE:
    """All answers to the question, one row a task. `narrow`: the index on model and lengths selects few."""
    source = CONFIGURATIONS
    if sweep_id is not None:
        member = sa.and_(membership.c.sweep_id == sweep_id, membership.c.task_id == tasks.c.id)
        # SQLite would start from all members of the sweep, where it could start from the index on cases.
        if narrow:
            conditions = [*conditions, sa.exists().where(member).correlate(tasks)]
        else:
            source = source.join(membership, member)
    columns = (*ABOUT, tasks.c.engine_id, tasks.c.outcome, cases.c.model_id, cases.c.gpu_id)
    return sa.select(*columns).select_from(source).where(*conditions).cte("answers")


def _standing(answers: sa.CTE, engine_names: Names, *, versions: bool) -> sa.CTE:
    """The answers that stand: of one engine in each group, and of the newest versions for each configuration.

    Nearly every store has one engine without versions; then there is nothing to choose and no sorting.
    """
    if not versions and len(engine_names.ids) <= 1:
        return answers
    # The ids of a name come newest first.
    rank = {engine: place for place, ids in enumerate(engine_names.ids.values()) for engine in ids}
    age = {engine: age for ids in engine_names.ids.values() for age, engine in enumerate(ids)}
    model, gpu = models.alias("version_of_model"), gpus.alias("version_of_gpu")
    ranks = (
        sa.select(
            answers,
            sa.case(rank, value=answers.c.engine_id, else_=len(rank)).label("engine_rank"),
            sa.case(age, value=answers.c.engine_id, else_=0).label("engine_age"),
            model.c.created_at.label("model_stored"),
            gpu.c.created_at.label("gpu_stored"),
        )
        .join(model, model.c.id == answers.c.model_id)
        .join(gpu, gpu.c.id == answers.c.gpu_id)
        .cte("ranks")
    )
    group = [ranks.c[name] for name in GROUP]
    same = [*group, ranks.c.engine_rank, ranks.c.gpu, *(ranks.c[name] for name in _CONFIGURATION)]
    newest = [ranks.c.engine_age, ranks.c.model_stored.desc(), ranks.c.gpu_stored.desc(), ranks.c.task_id.desc()]
    choice = sa.select(
        ranks,
        sa.func.min(ranks.c.engine_rank).over(partition_by=group).label("first_engine"),
        sa.func.row_number().over(partition_by=same, order_by=newest).label("version"),
    ).cte("choice")
    return (
        sa.select(*(choice.c[column.name] for column in answers.c))
        .where(choice.c.engine_rank == choice.c.first_engine, choice.c.version == 1)
        .cte("standing")
    )
