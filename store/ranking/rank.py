"""The ranking of stored results: the best GPU for each model and workload, and why others lost. Computes no estimate.

Of every configuration (task) the operating point counts that is best for the objective and meets *all* SLOs, and the
configurations of a group (a model under one pair of lengths) are ranked by it. The database reduces curves to points
(`candidates/statements.py`), placing them is arithmetic on columns (`candidates/placing.py`). The rules:

*Objectives and weights*: `measures.py`. *Prices*: `prices`. *Points between stored ones*: `question/limits.py`.
*Ties.* Figures equal to six decimals are equal. Between points of one configuration, the lower concurrency goes first.
Between configurations: not queued, fewer GPUs, lower ITL, lower TTFT, then GPU name, TP, PP, DP, EP, precision, KV
precision, server, memory fraction and maximum length, ascending.
*Queueing.* A point with more requests in flight than the KV cache holds is real, and its TTFT includes the wait. It
buys a few per cent of throughput with seconds of waiting, so a configuration is only shown at such a point, marked
`queued`, where none of its points without a queue meets the limits.
*Measured over estimated.* Measured runs of a configuration stand for all estimates of it: see `candidates/measured.py`.
*One engine per group.* Estimates of different engines are never mixed in one ranking: a group shows the engine that
comes first in `Question.engines`, else in the sweep, else the one stored last, of those that have any answer for it
("not supported" is none); and, beside its estimates, what was measured. What the others say of the same configuration,
each at its own best point, stands beside it (`RankedConfig.opinions`).
*Percentiles.* An estimate is a mean. It meets a limit on a percentile only where `Question.assume_tail` says by what to
multiply the mean; measured runs meet it by exactly that percentile.
*Trust*: `Trusted`, `candidates/trust.py`. What measurements back goes first, whatever its figures, unless the question
ranks all alike; what would be better if its estimate held is told beside it.
*Confidence.* Where the question asks for one, estimates count by the figures that hold with this probability
(`question/confidence.py`): for the point of each configuration, for the limits and for the objective.
*Load.* Where what measurements back goes first, an estimate that is best beyond all measured loads stands at the
highest one that runs are near (`RankedConfig.held`).
*Ties.* A lead below what the two may be wrong by together is a tie (`candidates/trust.py`).
*What can be started.* Of every configuration that is returned the ranking says what keeps its server from being started
so (`answer/launches.py`).
*What was asked.* A measured run in a precision, or with a server, that none of its group's estimates has answers only
where the question names it.
*Versions never compete.* Of the answers of one engine (whatever fingerprint and options) for one configuration, by the
names of model and GPU, the newest stands: the engine stored last, then the model's figures, then the GPU's. Where a
sweep is named only its own tasks count, and of an engine it lists twice the first.
*Sweeps.* A sweep's name means the revision that was run last. Only concurrencies of its own ladder count, although the
store may hold more for the same task.
*What cannot be valued* (a GPU without the price or the TDP that the objective needs) qualifies without being ranked,
and says why. Nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.prices.csv_file import gpu_name
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.ranking.answer.descriptions import Descriptions
from gpuscout.store.ranking.answer.groups import Shown, configs_of, unranked_of, unranked_rows
from gpuscout.store.ranking.answer.launches import Launches
from gpuscout.store.ranking.answer.losers import excluded, in_words, losers_of, shortfalls_of
from gpuscout.store.ranking.answer.price_changes import flips_of, sellers_of
from gpuscout.store.ranking.candidates import statements as statements
from gpuscout.store.ranking.candidates.candidates import Candidates, choice_of, read_candidates
from gpuscout.store.ranking.candidates.placing import placed
from gpuscout.store.ranking.candidates.runs import (
    check_there_are_any,
    counts,
    left_out_as_implausible,
    left_out_as_set_aside,
    runs_statement,
    with_left_out,
)
from gpuscout.store.ranking.candidates.trust import ties_of
from gpuscout.store.ranking.measures import DEFAULT_OBJECTIVE, MEASURES
from gpuscout.store.ranking.question.asked import MEASURED, Question, Trusted
from gpuscout.store.ranking.question.confidence import EXPECTED, HIGHEST
from gpuscout.store.ranking.question.lookup import choose_word, means_estimated, stored_names
from gpuscout.store.ranking.question.scope import Scope, nothing_matches, scopes_of
from gpuscout.store.ranking.types import Group, Losers, RankedConfig, Ranking
from gpuscout.store.results.catalogues import caveats_of
from gpuscout.store.schema import gpus, membership, sweeps
from gpuscout.sweeps.errors import InputError

__all__ = [
    "DEFAULT_OBJECTIVE",
    "MEASURES",
    "Group",
    "PriceRules",
    "Question",
    "RankedConfig",
    "Ranking",
    "rank",
    "sql_of",
]


def rank(connection: sa.Connection, question: Question) -> Ranking:
    """Answer a question from the store alone.

    Raises UnknownNameError for a name the store does not know, an unknown objective and a price book or provider
    that does not exist, InputError for a store without results and for filters that leave nothing.
    """
    _check(connection, question)
    _provide_logarithms(connection)
    rankings: list[Ranking] = []
    nothing: list[InputError] = []
    for scope in scopes_of(connection, question):
        try:
            rankings.append(_ranked(connection, scope, question))
        except InputError as error:
            nothing.append(error)
    if not rankings:
        raise nothing[0]
    return _joined(rankings)


def _joined(rankings: Sequence[Ranking]) -> Ranking:
    """Return answers for several kinds of traffic as one."""
    first = rankings[0]
    if len(rankings) == 1:
        return first
    prices = replace(
        first.prices,
        known={gpu: price for one in rankings for gpu, price in one.prices.known.items()},
        missing={gpu: why for one in rankings for gpu, why in one.prices.missing.items()},
    )
    groups = sorted((group for one in rankings for group in one.groups), key=_place_of)
    return replace(first, groups=tuple(groups), prices=prices)


def _place_of(group: Group) -> tuple[int, int, str, str]:
    return group.input_len, group.output_len, group.traffic or "", group.model


def _ranked(connection: sa.Connection, scope: Scope, question: Question) -> Ranking:
    pool = read_candidates(connection, scope, question)
    if pool is None:
        if (question.engines and not scope.engines.ids) or not means_estimated(question.kinds):
            check_there_are_any(connection)
        raise with_left_out(nothing_matches(connection, scope), connection, scope, question)
    groups = _groups(connection, scope, pool)
    name, sweep_id = (scope.sweep.name, scope.sweep.id) if scope.sweep else (None, None)
    missing = 0 if sweep_id is None else _missing_tasks(connection, sweep_id)
    return Ranking(
        question,
        name,
        sweep_id,
        tuple(groups),
        excluded(connection, scope),
        pool.prices,
        missing,
        implausible_runs=left_out_as_implausible(connection, scope, question),
        set_aside_runs=left_out_as_set_aside(connection, scope, question),
    )


def _missing_tasks(connection: sa.Connection, sweep_id: int) -> int:
    """Return the number of tasks of a sweep that are not answered yet; 0 for a finished sweep."""
    sweep = connection.execute(
        sa.select(sweeps.c.task_count, sweeps.c.finished_at).where(sweeps.c.id == sweep_id)
    ).one()
    if sweep.finished_at is not None:
        return 0
    stored = sa.select(sa.func.count()).select_from(membership).where(membership.c.sweep_id == sweep_id)
    return int(sweep.task_count) - connection.execute(stored).scalar_one()


def sql_of(connection: sa.Connection, question: Question) -> str:
    """Return the statements that read the answers to a question, with their parameters written out, for reading.

    The first reads operating points, the second what could not run, a third the measured runs if there are any; empty
    lines stand between them. Raises what `rank` raises for names.
    """
    _check(connection, question)
    found: list[sa.Select[Any]] = []
    for scope in scopes_of(connection, question):
        choice = choice_of(connection, scope, question)
        if means_estimated(question.kinds):
            sides = choice.sides(interpolate=question.interpolate)
            found += [statements.select_answered(scope, choice, sides=sides), statements.select_refused(scope)]
        if counts(connection, question):
            found.append(runs_statement(scope, question))
    written = (one.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}) for one in found)
    return "\n\n".join(f"{one};" for one in written)


def _groups(connection: sa.Connection, scope: Scope, pool: Candidates) -> list[Group]:
    ranked = placed(
        np.flatnonzero(pool.own & pool.rankable),
        pool.codes,
        pool.operating,
        pool.num_gpus,
        pool.values,
        pool.level,
        more_is_better=pool.aim.more_is_better,
    )
    shown = Shown.of(ranked, pool.level, pool.question).in_turn(connection, pool)
    lost = losers_of(pool, set(ranked.group.tolist()))
    unranked = unranked_rows(pool)
    examples = [row for losers in lost for row in losers.rows]
    rows = [*shown.rows.tolist(), *examples, *([] if pool.question.briefly else unranked)]
    described = Descriptions(connection, pool, rows)

    configs = configs_of(pool, shown, described)
    losers: dict[int, list[Losers]] = {}
    for out in lost:
        losers.setdefault(out.group, []).append(in_words(pool, out, described))
    aside = unranked_of(pool, unranked, described)
    flips, sellers = flips_of(pool, ranked), sellers_of(pool, ranked)
    candidates = np.bincount(ranked.group, minlength=len(pool.codes.groups))
    qualify = np.bincount(pool.codes.group[pool.own & pool.operating.qualifies], minlength=len(pool.codes.groups))
    runs = np.bincount(pool.codes.group[pool.own & pool.ok], minlength=len(pool.codes.groups))
    hopeless = np.flatnonzero((qualify == 0) & (runs > 0)).tolist()
    shortfalls = {} if pool.no_percentiles else shortfalls_of(connection, scope, pool, hopeless)

    caveats = caveats_of(connection, {model for model, _, _ in pool.codes.groups})

    groups = []
    launches = Launches(connection)
    for number, (model, input_len, output_len) in enumerate(pool.codes.groups):
        all_configs = launches.checked(model, configs.get(number, []))
        gpus: dict[str, RankedConfig] = {}
        for config in all_configs:
            gpus.setdefault(config.gpu, config)
        unreachable, closest, closest_values = shortfalls.get(number, ((), None, ()))
        engine, *others = pool.engines[number]
        best_per_gpu = tuple(gpus.values())[: pool.question.gpu_types]
        groups.append(
            Group(
                model=model,
                workload=scope.workloads.get((input_len, output_len, scope.traffic_id)),
                input_len=input_len,
                output_len=output_len,
                engine=engine,
                other_engines=tuple(name for name in others if name != MEASURED),
                configs=tuple(all_configs[: pool.question.top]),
                best_per_gpu=best_per_gpu,
                candidates=int(candidates[number]),
                losers=tuple(sorted(losers.get(number, ()), key=lambda out: (out.slo is None, -out.count, out.cause))),
                unreachable=unreachable,
                closest=closest,
                closest_values=closest_values,
                unproven=_unproven(all_configs),
                ties=ties_of(pool.aim, best_per_gpu),
                sellers=tuple(sellers.get(number, ())),
                unranked=tuple(aside.get(number, ())),
                flips=tuple(flips.get(number, ())),
                caveats=caveats.get(model, ()),
                traffic=scope.traffic,
            )
        )
    return sorted(groups, key=_place_of)


def _unproven(configs: Sequence[RankedConfig]) -> RankedConfig | None:
    """Return the configurations that would beat the best if their estimates held, best first; see `Group.unproven`."""
    better = (config for config in configs if config.behind_best < 0 and not config.backed)
    return next(better, None) if configs and configs[0].backed else None


def _check(connection: sa.Connection, question: Question) -> None:
    """Raise InputError for numbers that mean nothing, UnknownNameError."""
    choose_word("trust", [question.trust], list(Trusted))
    tail = question.assume_tail
    if tail is not None and not (math.isfinite(tail) and tail >= 1):
        raise InputError(
            f"invalid tail {tail:g}: expected at least 1, since a percentile is at least the mean",
            hint="for example 1.3",
        )
    if not EXPECTED <= question.confidence <= HIGHEST:
        raise InputError(
            f"invalid confidence {question.confidence:g}: expected {EXPECTED} to {HIGHEST}",
            hint="0.5 takes estimates as they are, 0.9 asks for what holds in nine of ten cases",
        )
    discount = question.prices.discount
    if not 0 <= discount < 1:
        raise InputError(
            f"invalid discount {discount:g}: expected a share from 0 to below 1",
            hint="0.3 takes 30 % off the prices of the books",
        )
    overrides = question.prices.overrides
    stored = stored_names(connection, gpus).ids if overrides else ()
    for gpu, usd in (overrides or {}).items():
        gpu_name(gpu, stored)
        if not 0 <= usd < math.inf:
            raise InputError(f"{gpu}: invalid price {usd:g}: expected USD per GPU hour from 0")


def _provide_logarithms(connection: sa.Connection) -> None:
    """Provide ln(), which weights need and SQLite has only if it was built with it."""
    if connection.dialect.name != "sqlite":
        return
    raw = connection.connection.dbapi_connection
    assert raw is not None
    try:
        raw.execute("SELECT ln(1.0)")
    except Exception:
        raw.create_function("ln", 1, lambda value: None if value is None else math.log(value), deterministic=True)
