"""Scope of a question: every name looked up, every filter a condition on tasks and cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa

from gpuscout.store.ranking.question.asked import BENCHMARK, Question
from gpuscout.store.ranking.question.lookup import (
    NamedWorkload,
    NameIndex,
    SweepParts,
    choose_engines,
    choose_gpus,
    choose_models,
    choose_word,
    find_sweep_parts,
    listed,
    stored_names,
    traffics_asked,
    workload_names,
    workloads_called,
)
from gpuscout.store.ranking.question.started import started_as
from gpuscout.store.remembered import remembered
from gpuscout.store.schema import cases, engines, gpus, measured_runs, membership, models, sweeps, tasks, traffics
from gpuscout.sweeps.errors import InputError, NothingMatchesError, UnknownNameError
from gpuscout.sweeps.precision import PRECISIONS, precision_called
from gpuscout.sweeps.servers import SERVERS
from gpuscout.sweeps.settings import SETTINGS
from gpuscout.sweeps.text import percent

ABOUT: tuple[sa.ColumnElement[Any], ...] = (
    tasks.c.id.label("task_id"),
    models.c.name.label("model"),
    gpus.c.name.label("gpu"),
    *(cases.c[name] for name in ("input_len", "output_len", "num_gpus", *SETTINGS)),
)
"""What identifies a task and its configuration to people, see `Scope.answers`."""

Condition = sa.ColumnElement[bool]
WorkloadKey = tuple[int, int, int | None]
"""Input tokens, output tokens, id of the traffic (None: plain)."""
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Scope:
    """The tasks that a question is about, of all its engines and all versions.

    `source` joins tasks, cases and, for a sweep, its members. `models`, `gpus` and `engines` are the names that the
    question leaves in, the preferred engine first. `workloads` names lengths and traffic. `on_cases` are the conditions
    on cases alone, which measured runs have to meet as well. `asked` is the question. `traffic` is the shape of the one
    kind of traffic asked about, None: plain, or several kinds; `has_traffic`: the store has any that is not plain.
    """

    source: sa.FromClause
    conditions: tuple[Condition, ...]
    sweep: SweepParts | None
    models: NameIndex
    gpus: NameIndex
    engines: NameIndex
    workloads: dict[WorkloadKey, str]
    on_cases: tuple[Condition, ...] = ()
    on_postgres: bool = False
    asked: Question = field(default_factory=Question)
    traffic: str | None = None
    has_traffic: bool = False
    traffic_id: int | None = None

    @property
    def is_everything(self) -> bool:
        """Whether no filter leaves anything out."""
        return self.sweep is None and not self.conditions

    @property
    def shared_ids(self) -> dict[str, int]:
        """The columns of ids in which all tasks have the same, and that id."""
        named = {"model_id": self.models, "gpu_id": self.gpus, "engine_id": self.engines}
        ids = {column: names.all_ids() for column, names in named.items()}
        return {column: found[0] for column, found in ids.items() if len(found) == 1}

    @property
    def answers(self) -> sa.CTE:
        """All tasks as a table expression with names: `ABOUT`, engine_id, outcome, model_id, gpu_id, traffic, rate."""
        columns = (*ABOUT, tasks.c.engine_id, tasks.c.outcome, cases.c.model_id, cases.c.gpu_id, cases.c.request_rate)
        shape: sa.ColumnElement[Any] = sa.null()
        if self.has_traffic:
            of_case = sa.select(traffics.c.shape).where(traffics.c.id == cases.c.traffic_id)
            shape = of_case.correlate(cases).scalar_subquery()
        selected = sa.select(*columns, shape.label("traffic"))
        return selected.select_from(self.named).where(*self.conditions).cte("answers")

    @property
    def named(self) -> sa.FromClause:
        """All tasks with their cases, models and GPUs."""
        return self.source.join(models, models.c.id == cases.c.model_id).join(gpus, gpus.c.id == cases.c.gpu_id)

    def standing(self) -> list[Condition]:
        """Return for each engine's answers to one configuration the newest: by
        engine, then the model's figures, the GPU's.

        The same rule as `ranking/candidates/placing.py` has for rows.
        """
        if not any(names.have_versions for names in (self.engines, self.models, self.gpus)):
            return []
        same: list[sa.ColumnElement[Any]] = [tasks.c.case_id]
        if self.models.have_versions or self.gpus.have_versions:
            same = [models.c.name, gpus.c.name, *(cases.c[name] for name in ("input_len", "output_len", *SETTINGS))]
        versions = ((self.engines, tasks.c.engine_id), (self.models, cases.c.model_id), (self.gpus, cases.c.gpu_id))
        ages = [
            sa.case(
                {i: age for ids in names.ids.values() for age, i in enumerate(ids)}, value=column, else_=len(names.ids)
            )
            for names, column in versions
            if names.have_versions
        ]
        age = sa.func.row_number().over(partition_by=[engines.c.name, *same], order_by=[*ages, tasks.c.id.desc()])
        named = self.named.join(engines, engines.c.id == tasks.c.engine_id)
        aged = sa.select(tasks.c.id, age.label("age")).select_from(named).where(*self.conditions).subquery()
        return [tasks.c.id.in_(sa.select(aged.c.id).where(aged.c.age == 1))]

    def on_ladder(self, points: sa.FromClause) -> list[Condition]:
        """Select only the concurrencies that the sweep asked of the engine; in an open loop it asked for none."""
        if self.sweep is None:
            return []
        open_loop = [cases.c.request_rate.is_not(None)] if self.has_traffic else []
        asked = set(self.sweep.ladders.values())
        if len(asked) == 1 and not open_loop:
            return [points.c.concurrency.in_(sorted(asked.pop()))]
        return [
            sa.or_(
                sa.false(),
                *open_loop,
                *(
                    sa.and_(tasks.c.engine_id == engine, points.c.concurrency.in_(sorted(ladder)))
                    for engine, ladder in self.sweep.ladders.items()
                ),
            )
        ]


def scopes_of(connection: sa.Connection, question: Question) -> list[Scope]:
    """Return the scopes of a question, one for each kind of traffic it is about. Raises what `scope_of` raises."""
    return [scope_of(connection, question, traffic=(traffic,)) for traffic in traffics_asked(connection, question)]


def scope_of(connection: sa.Connection, question: Question, *, traffic: tuple[int | None, ...] | None = None) -> Scope:
    """Look up every name of the question; `traffic`: only cases of these kinds, None: all.

    Raises UnknownNameError, InputError for numbers and days that cannot be.
    """
    _check(question)
    sweep = None if question.sweep is None else find_sweep_parts(connection, question.sweep)
    named = workload_names(connection, sweep.id if sweep else None)
    chosen = None if question.workload is None else workloads_called(question.workload, named)
    try:
        model_names = choose_models(connection, question.models)
    except UnknownNameError as error:
        raise _maybe_missing(connection, error) from None
    gpu_names = choose_gpus(connection, question.gpus, vendors=question.vendors, min_memory_gb=question.min_memory_gb)
    engine_names = choose_engines(connection, question.engines)
    if sweep is not None:
        engine_names = _in_order_of(sweep, engine_names, chosen=bool(question.engines))

    conditions = [*_on_cases(question, chosen), *started_as(connection, question)]
    has_traffic = _has_traffic(connection)
    if traffic is not None and has_traffic:
        conditions.append(_of_traffic(traffic))
        named = [workload for workload in named if workload.traffic_id in traffic]
    if question.request_rate is not None:
        conditions.append(_at_rate(connection, question.request_rate, sweep))
    by_lengths = chosen is not None or question.input_len is not None
    if question.models or by_lengths:
        # The index on cases starts with the model: naming all models lets lengths alone use it too.
        conditions.append(cases.c.model_id.in_(model_names.all_ids()))
    if question.gpus or question.vendors or question.min_memory_gb is not None:
        conditions.append(cases.c.gpu_id.in_(gpu_names.all_ids()))
    on_cases = tuple(conditions)
    conditions += _on_tasks(question)
    if question.engines:
        conditions.append(tasks.c.engine_id.in_(engine_names.all_ids()))
    elif measuring := stored_names(connection, engines).ids.get(BENCHMARK):
        conditions.append(tasks.c.engine_id.not_in(measuring))

    source: sa.FromClause = tasks.join(cases, cases.c.id == tasks.c.case_id)
    if sweep is not None:
        member = sa.and_(membership.c.sweep_id == sweep.id, membership.c.task_id == tasks.c.id)
        # SQLite would start from all members of the sweep, where it could start from the index on cases.
        if question.models and by_lengths:
            conditions.append(sa.exists().where(member).correlate(tasks))
        else:
            source = source.join(membership, member)
    # The sweep that was run last names a workload.
    workloads = {(known.input_len, known.output_len, known.traffic_id): known.name for known in reversed(named)}
    return Scope(
        source,
        tuple(conditions),
        sweep,
        model_names,
        gpu_names,
        engine_names,
        workloads,
        on_cases,
        on_postgres=connection.dialect.name == "postgresql",
        asked=question,
        traffic=_shape(connection, traffic),
        has_traffic=has_traffic,
        traffic_id=None if traffic is None else traffic[0],
    )


def _maybe_missing(connection: sa.Connection, error: UnknownNameError) -> UnknownNameError:
    """Return the same error; where a sweep is not finished, it says so: the model may be among what is missing."""
    done = sa.select(sa.func.count()).where(membership.c.sweep_id == sweeps.c.id).scalar_subquery()
    rows = connection.execute(
        sa.select(sweeps.c.name, sweeps.c.task_count, done.label("done")).where(sweeps.c.finished_at.is_(None))
    ).all()
    unfinished = [f"sweep {row.name} is at {percent(row.done / max(row.task_count, 1))}" for row in rows]
    if not unfinished:
        return error
    found = UnknownNameError(error.kind, error.name, error.suggestions)
    found.hint = "   ".join(
        part for part in (found.hint, f"{listed(unfinished)}: it may be among the missing results") if part
    )
    return found


def _has_traffic(connection: sa.Connection) -> bool:
    """Return whether any case has requests that vary or arrive."""
    first = sa.select(traffics.c.id).limit(1)
    return remembered(connection, _has_traffic, lambda: connection.execute(first).first() is not None)


def _of_traffic(kinds: Sequence[int | None]) -> Condition:
    ids = [kind for kind in kinds if kind is not None]
    plain = [cases.c.traffic_id.is_(None)] if None in kinds else []
    return sa.or_(*plain, *([cases.c.traffic_id.in_(ids)] if ids else []))


def _at_rate(connection: sa.Connection, request_rate: float, sweep: SweepParts | None) -> Condition:
    """Select the lowest stored rate of each configuration that is enough. Raises InputError where none is."""
    if not (math.isfinite(request_rate) and request_rate > 0):
        raise InputError(
            f"invalid rate {request_rate:g}: expected a number of requests per second above 0",
            hint="of one deployment, for example 5; `gpuscout capacity --rate` sizes several replicas",
        )
    rate = cases.c.request_rate
    most = connection.execute(sa.select(sa.func.max(rate))).scalar()
    if most is None or most < request_rate:
        there = "no estimates at request rates" if most is None else f"no estimate above {most:g} requests/s"
        raise InputError(
            f"the store has {there}, got {request_rate:g}/s of one deployment",
            hint="run a sweep with `load: request_rate` and `engine: simulator`",
        )
    other = cases.alias("at_other_rate")
    same = ("model_id", "input_len", "output_len", "gpu_id", "num_gpus", *(n for n in SETTINGS if n != "kv_precision"))
    lowest = sa.select(sa.func.min(other.c.request_rate)).where(
        other.c.request_rate >= request_rate,
        *(other.c[name] == cases.c[name] for name in same),
        *(other.c[name].is_not_distinct_from(cases.c[name]) for name in ("kv_precision", "traffic_id")),
    )
    if sweep is not None:
        task = tasks.alias("task_at_other_rate")
        member = sa.select(membership.c.task_id).where(membership.c.sweep_id == sweep.id)
        lowest = lowest.where(sa.exists().where(task.c.case_id == other.c.id, task.c.id.in_(member)))
    found: Condition = rate == lowest.correlate(cases).scalar_subquery()
    return found


def _shape(connection: sa.Connection, traffic: tuple[int | None, ...] | None) -> str | None:
    """Return the shape of a single kind of traffic; None: plain, or several kinds."""
    if traffic is None or len(traffic) != 1 or traffic[0] is None:
        return None
    shape: str = connection.execute(sa.select(traffics.c.shape).where(traffics.c.id == traffic[0])).scalar_one()
    return shape


def _check(question: Question) -> None:
    """Raise InputError for what no result can meet, or no database compare."""
    for name in ("input_len", "output_len", "max_gpus", "min_context", "tensor_parallel", "num_gpus"):
        given = getattr(question, name)
        for number in given if isinstance(given, tuple) else () if given is None else (given,):
            if not 1 <= number <= _LARGEST:
                raise InputError(f"{name.replace('_', ' ')}: {number} is not from 1 to {_LARGEST:,}")
    memory = question.min_memory_gb
    if memory is not None and not 0 < memory < math.inf:
        raise InputError(f"invalid memory {memory:g} GB: expected a number above 0", hint="80 is 80 x 10^9 bytes")
    if question.since is not None and question.until is not None and question.since > question.until:
        raise InputError(f"no day is in the range {question.since} to {question.until}")


def _on_cases(question: Question, chosen: Sequence[NamedWorkload] | None) -> list[Condition]:
    """Return the conditions that do not depend on names in the store."""
    found: list[Condition] = []
    if chosen is not None:
        lengths = dict.fromkeys((workload.input_len, workload.output_len) for workload in chosen)
        found.append(sa.or_(*(sa.and_(cases.c.input_len == i, cases.c.output_len == o) for i, o in lengths)))
    if question.input_len is not None:
        found.append(cases.c.input_len == question.input_len)
    if question.output_len is not None:
        found.append(cases.c.output_len == question.output_len)
    if question.servers:
        found.append(cases.c.server.in_(choose_word("server", question.servers, SERVERS)))
    if question.precisions:
        found.append(
            cases.c.precision.in_(
                choose_word("precision", [precision_called(name) or name for name in question.precisions], PRECISIONS)
            )
        )
    if question.tensor_parallel:
        found.append(cases.c.tensor_parallel.in_(question.tensor_parallel))
    if question.num_gpus:
        found.append(cases.c.num_gpus.in_(question.num_gpus))
    if question.max_gpus is not None:
        found.append(cases.c.num_gpus <= question.max_gpus)
    return found


def _on_tasks(question: Question) -> list[Condition]:
    """Return the conditions that differ between estimates and measured runs."""
    found: list[Condition] = []
    if question.min_context is not None:
        found.append(cases.c.max_model_len >= question.min_context)
    if question.since is not None:
        found.append(tasks.c.created_at >= datetime.combine(question.since, time(), UTC))
    if question.until is not None:
        found.append(tasks.c.created_at < datetime.combine(question.until + timedelta(days=1), time(), UTC))
    return found


def nothing_matches(connection: sa.Connection, scope: Scope) -> NothingMatchesError:
    """Return the error for a question without any answer, with the contents of the store or of the sweep asked for."""
    within: sa.FromClause = cases.outerjoin(tasks, cases.c.id == tasks.c.case_id)
    measured = sa.exists().where(measured_runs.c.case_id == cases.c.id)
    answered = sa.or_(tasks.c.id.is_not(None), measured)
    if scope.sweep is not None:
        answered = membership.c.sweep_id == scope.sweep.id
        within = within.join(membership, membership.c.task_id == tasks.c.id)

    def present(name: sa.ColumnElement[Any], table: sa.Table, ref: sa.ColumnElement[int]) -> list[Any]:
        used = sa.select(ref).select_from(within).where(answered).distinct()
        return list(connection.execute(sa.select(name).where(table.c.id.in_(used)).distinct().order_by(name)).scalars())

    where = f'sweep "{scope.sweep.name}"' if scope.sweep else "the store"
    models_there = present(models.c.name, models, cases.c.model_id)
    if not models_there:
        return NothingMatchesError(f"{where} holds no results yet", hint="gpuscout run SPEC computes them")
    lengths = connection.execute(
        sa.select(cases.c.input_len, cases.c.output_len, cases.c.traffic_id)
        .select_from(within)
        .where(answered)
        .distinct()
        .order_by(sa.text("1, 2"))
    )
    workloads = [
        f"{name} ({row[0]}/{row[1]})" if (name := scope.workloads.get(tuple(row))) else f"{row[0]}/{row[1]}"
        for row in lengths
    ]
    there = {
        "models": models_there,
        "GPUs": present(gpus.c.name, gpus, cases.c.gpu_id),
        "workloads (input/output tokens)": workloads,
    }
    engines_there = present(engines.c.name, engines, tasks.c.engine_id)
    if len(engines_there) > 1:
        there["engines"] = engines_there
    filtered = {
        "servers": (scope.asked.servers, cases.c.server),
        "precisions": (scope.asked.precisions, cases.c.precision),
        "TP": (scope.asked.tensor_parallel, cases.c.tensor_parallel),
    }
    for kind, (_, column) in {kind: both for kind, both in filtered.items() if both[0]}.items():
        values = connection.execute(sa.select(column).select_from(within).where(answered).distinct().order_by(column))
        there[kind] = [str(value) for value in values.scalars()]
    if scope.asked.since is not None or scope.asked.until is not None:
        days = sa.func.min(tasks.c.created_at), sa.func.max(tasks.c.created_at)
        oldest, newest = connection.execute(sa.select(*days).select_from(within).where(answered)).one()
        if oldest is not None:
            there["estimates stored"] = [f"{oldest:%Y-%m-%d} to {newest:%Y-%m-%d}"]
    return NothingMatchesError(
        f"nothing in {where} matches all of these filters",
        hint="\n    ".join(f"{kind}: {listed(names)}" for kind, names in there.items()),
    )


def _in_order_of(sweep: SweepParts, known: NameIndex, *, chosen: bool) -> NameIndex:
    """Return the engines of a sweep in its order, or those of them that the user chose in theirs."""
    position = {engine: place for place, engine in enumerate(sweep.ladders)}
    ids = {
        name: tuple(sorted((engine for engine in versions if engine in position), key=position.__getitem__))
        for name, versions in known.ids.items()
    }
    present = [name for name in ids if ids[name]]
    if not chosen:
        present.sort(key=lambda name: position[ids[name][0]])
    return NameIndex({name: ids[name] for name in present})
