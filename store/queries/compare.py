"""Comparison of two rankings of one question: added, vanished and changed configurations, and the winners.

A configuration is the same on both sides by its names and settings, whatever the versions of models, GPUs and engines.
Its objective is compared at the best operating point of either side. Metrics are compared at equal concurrencies, at
all of them that both sides store, where the sides have answers of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any

import numpy as np
import sqlalchemy as sa

from gpuscout.store.prices.books import book_names, prices_for, quotes_of
from gpuscout.store.prices.prices import Prices
from gpuscout.store.queries.compare_sides import PRICE_FORMS, Form, Side
from gpuscout.store.ranking.answer.aside import CaseKey, case_of
from gpuscout.store.ranking.measures import DECIMALS, Array
from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.question.lookup import means_estimated
from gpuscout.store.ranking.question.scope import Scope, scope_of
from gpuscout.store.ranking.rank import rank
from gpuscout.store.ranking.types import Cause, Configuration, Group, RankedConfig, Ranking
from gpuscout.store.schema import cases, engines, operating_points, tasks
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.settings import SETTINGS

METRICS = ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s")
Key = tuple[Any, ...]
# Rows that are turned into columns at once.
_CHUNK = 50_000


class Status(StrEnum):
    """Change of a configuration from the first side to the second."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    QUALIFIES = "qualifies"  # answered on both sides, ranked on the second only
    DROPS_OUT = "drops out"  # answered on both sides, ranked on the first only
    ADDED = "added"  # answered on the second only
    VANISHED = "vanished"  # answered on the first only


@dataclass(frozen=True)
class Change:
    """A configuration that is ranked on one side at least; `change` of the objective is a fraction of the first's."""

    model: str
    workload: str | None
    input_len: int
    output_len: int
    before: RankedConfig | None
    after: RankedConfig | None
    status: Status
    change: float | None
    traffic: str | None = None

    @property
    def config(self) -> RankedConfig:
        found = self.after or self.before
        assert found is not None
        return found


@dataclass(frozen=True)
class Winner:
    """The best of one model under one workload on both sides.

    Leads are those over the best of another GPU type, as fractions; None: there is none. `staying`: how far the first
    side's winner is behind the best of the second; None: it is not ranked there, or there was none. `refused`: why the
    one side without a winner answers nothing here, where its engine does not support it or gives no such percentile;
    the winner does not change.
    """

    model: str
    workload: str | None
    input_len: int
    output_len: int
    before: RankedConfig | None
    after: RankedConfig | None
    lead_before: float | None
    lead_after: float | None
    staying: float | None
    change: float | None
    changes: bool
    traffic: str | None = None
    refused: str | None = None

    @property
    def changes_gpu(self) -> bool:
        return self.refused is None and (self.before and self.before.gpu) != (self.after and self.after.gpu)


@dataclass(frozen=True)
class MetricChange:
    """Change of a metric at equal concurrencies: fractions of the first side's. `worst` is the largest, signed."""

    points: int
    median: float
    worst: float
    worst_at: Change | None
    worst_concurrency: int


@dataclass(frozen=True)
class PriceChange:
    """USD per hour of one GPU; None: no price."""

    gpu: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Comparison:
    """`added`, `vanished` and `both` count all configurations that have an answer, whether they are ranked or not.

    `prices` are those of GPUs that results are stored of; `other_prices` of all others in the books, where the sides
    differ in prices alone. `rankings` is empty where prices were compared in a store without results.
    """

    sides: tuple[Side, Side]
    rankings: tuple[Ranking, ...]
    winners: tuple[Winner, ...]
    changes: tuple[Change, ...]
    added: int
    vanished: int
    both: int
    metrics: Mapping[str, MetricChange]
    prices: tuple[PriceChange, ...]
    other_prices: tuple[PriceChange, ...] = ()

    @property
    def statuses(self) -> Counter[Status]:
        return Counter(change.status for change in self.changes)


def compare(connection: sa.Connection, one: Side, other: Side) -> Comparison:
    """Raise what `rank` raises, and InputError for weighted objectives, whose figures have no unit."""
    if one.question.aim.is_weighted:
        raise InputError("weighted objectives have no figure to compare", hint="--objective instead of --weight")
    by_prices = {one.form, other.form} <= PRICE_FORMS
    moves = tuple(_of_books(connection, one, other)) if by_prices else ()
    if by_prices and connection.execute(sa.select(cases.c.id).limit(1)).first() is None:
        return Comparison((one, other), (), (), (), 0, 0, 0, {}, (), moves)
    first = _Seen.of(connection, one)
    seen = (first, _Seen.of(connection, other, first.answered if by_prices else None))
    known = [side.answered.keys() | side.ranked.keys() for side in seen]
    if by_prices:
        # The same results, runs among them, whatever has a price.
        known = [known[0] | known[1]] * 2
    changes = tuple(_changes(*seen, *known))
    priced = {gpu for side in seen for gpu in (*side.ranking.prices.known, *side.ranking.prices.missing)}
    return Comparison(
        sides=(one, other),
        rankings=(seen[0].ranking, seen[1].ranking),
        winners=tuple(_winners(*seen)),
        changes=changes,
        added=len(known[1] - known[0]),
        vanished=len(known[0] - known[1]),
        both=len(known[0] & known[1]),
        metrics={} if by_prices else _metrics(connection, *seen, changes),
        # Of other sides a GPU without a price is one that the side has not.
        prices=tuple(
            change
            for change in _prices(*(side.ranking.prices for side in seen))
            if by_prices or None not in (change.before, change.after)
        ),
        other_prices=tuple(move for move in moves if move.gpu not in priced),
    )


@dataclass(frozen=True)
class _Seen:
    """One side: every ranked configuration, and the task of every one that has an answer."""

    side: Side
    scope: Scope
    ranking: Ranking
    groups: Mapping[CaseKey, Group]
    ranked: Mapping[Key, RankedConfig]
    answered: Mapping[Key, int]

    @classmethod
    def of(cls, connection: sa.Connection, side: Side, answered: Mapping[Key, int] | None = None) -> _Seen:
        """Build a side. `answered`: that of the other side, where it cannot differ."""
        question = side.question
        try:
            ranking = rank(connection, replace(question, top=None))
        except UnknownNameError:
            raise
        except InputError as error:
            raise InputError(f"{side.label}: {error.message}", hint=error.hint) from error
        groups = {(group.model, group.input_len, group.output_len, group.traffic): group for group in ranking.groups}
        ranked: dict[Key, RankedConfig] = {}
        for case, group in groups.items():
            for config in group.configs:
                ranked.setdefault(_key(case, config, side.form), config)
        scope = scope_of(connection, question)
        if answered is None:
            answered = _answered(connection, scope, groups, side.form) if means_estimated(question.kinds) else {}
            # Of several versions the one that stands.
            answered |= {key: config.task_id for key, config in ranked.items() if config.task_id is not None}
        return cls(side, scope, ranking, groups, ranked, answered)


_SETTINGS = ("gpu", "num_gpus", *SETTINGS)
# What is not known of every measured run, or only at least; of several configurations that are alike the best counts.
_UNKNOWN_OF_RUNS = ("kv_precision", "gpu_memory_utilization", "max_model_len")
# Settings that the sides differ in, or that are not known of both: they do not tell configurations apart.
_LEFT_OUT: Mapping[Form, tuple[str, ...]] = {
    Form.KIND: _UNKNOWN_OF_RUNS,
    Form.SERVER: ("server",),
    Form.GPU: ("gpu",),
    Form.PRECISION: ("precision", "kv_precision"),
    Form.OPTION: ("server_options",),
    Form.DRAFTS: ("speculative",),
}
_TOLD_APART = {form: tuple(n for n in _SETTINGS if n not in _LEFT_OUT.get(form, ())) for form in Form}
_SETTINGS_OF = {form: attrgetter(*names) for form, names in _TOLD_APART.items()}


def _key(case: CaseKey, config: Configuration, form: Form) -> Key:
    """Return the key that is equal on both sides; it leaves out the kind when kinds are compared."""
    settings = _SETTINGS_OF[form](config)
    rate = getattr(config, "request_rate", None)
    apart = form is not Form.KIND and config.kind is Kind.MEASURED
    return (*case, rate, *settings, config.kind) if apart else (*case, rate, *settings)


def _answered(connection: sa.Connection, scope: Scope, groups: Mapping[CaseKey, Group], form: Form) -> dict[Key, int]:
    """Return the newest task of every configuration that the engine of its group answered, by its `_key`."""
    answers = scope.answers
    names = ("model", "input_len", "output_len", "traffic", "request_rate", *_TOLD_APART[form])
    cursor = connection.execute(
        sa.select(*(answers.c[name] for name in names), engines.c.name, answers.c.task_id)
        .join(engines, engines.c.id == answers.c.engine_id)
        .order_by(answers.c.task_id)
    ).cursor
    assert cursor is not None
    shown = {case: group.engine for case, group in groups.items()}
    found: dict[Key, int] = {}
    # The driver's own rows, whose first columns are the key.
    while part := cursor.fetchmany(_CHUNK):
        found.update((tuple(row[:-2]), row[-1]) for row in part if shown.get(tuple(row[:4])) == row[-2])
    return found


def _changes(one: _Seen, other: _Seen, known: Set[Key], known_after: Set[Key]) -> Iterable[Change]:
    """Yield every configuration ranked on either side: those of the second in its order, then the rest.

    `known` are the configurations that the sides have an answer about.
    """
    more_is_better = other.ranking.question.aim.more_is_better
    for key, after in other.ranked.items():
        before = one.ranked.get(key)
        if before is None:
            yield _change(other, key, None, after, Status.QUALIFIES if key in known else Status.ADDED, None)
            continue
        difference = after.objective - before.objective
        equal = round(difference * DECIMALS) == 0
        better = (difference > 0) == more_is_better
        status = Status.SAME if equal else Status.BETTER if better else Status.WORSE
        yield _change(other, key, before, after, status, _relative(before.objective, after.objective))
    for key, before in one.ranked.items():
        if key not in other.ranked:
            status = Status.DROPS_OUT if key in known_after else Status.VANISHED
            yield _change(one, key, before, None, status, None)


def _change(
    seen: _Seen, key: Key, before: RankedConfig | None, after: RankedConfig | None, status: Status, change: float | None
) -> Change:
    model, input_len, output_len, traffic = key[:4]
    workload = seen.groups[model, input_len, output_len, traffic].workload
    return Change(model, workload, input_len, output_len, before, after, status, change, traffic)


def _relative(before: float, after: float) -> float | None:
    return (after - before) / before if before else None


def _winners(one: _Seen, other: _Seen) -> Iterable[Winner]:
    for case in sorted(
        one.groups.keys() | other.groups.keys(), key=lambda case: (case[1], case[2], case[3] or "", case[0])
    ):
        left, right = one.groups.get(case), other.groups.get(case)
        before, after = (group.best if group else None for group in (left, right))
        keys = [config and _key(case, config, one.side.form) for config in (before, after)]
        refused = _refusal(left, right) if (before is None) != (after is None) else None
        stays = other.ranked.get(keys[0]) if keys[0] else None
        yield Winner(
            model=case[0],
            workload=next((group.workload for group in (right, left) if group), None),
            input_len=case[1],
            output_len=case[2],
            before=before,
            after=after,
            lead_before=_lead(left),
            lead_after=_lead(right),
            staying=stays.behind_best if stays else None,
            change=_relative(before.objective, after.objective) if before and after else None,
            changes=keys[0] != keys[1] and refused is None,
            traffic=case[3],
            refused=refused,
        )


def _refusal(*groups: Group | None) -> str | None:
    """Return why the side without a winner has no answer, where its engine gives none to such a question."""
    for group in groups:
        if (
            group
            and not group.configs
            and group.losers
            and {one.cause for one in group.losers} <= {Cause.NOT_SUPPORTED, Cause.NO_PERCENTILE}
        ):
            return next((loser.detail for one in group.losers for loser in one.examples), "not supported")
    return None


def _lead(group: Group | None) -> float | None:
    return group.best_per_gpu[1].behind_best if group and len(group.best_per_gpu) > 1 else None


def _of_books(connection: sa.Connection, one: Side, other: Side) -> Iterable[PriceChange]:
    """Return the price changes among all GPUs in the books of both sides."""
    rules = [side.question.prices for side in (one, other)]
    known = book_names(connection)
    books = dict.fromkeys(book for rule in rules for book in rule.precedence if book in known or book in rule.books)
    gpus = {quote.gpu for quote in quotes_of(connection, list(books))} | {
        gpu for r in rules for gpu in r.overrides or ()
    }
    return _prices(*(prices_for(connection, gpus, rule) for rule in rules))


def _prices(one: Prices, other: Prices) -> Iterable[PriceChange]:
    """Yield the GPUs whose prices differ."""
    left, right = one.known, other.known
    for gpu in sorted(left.keys() | right.keys()):
        before, after = (prices[gpu].per_hour(1).usd if gpu in prices else None for prices in (left, right))
        if before != after:
            yield PriceChange(gpu, before, after)


# --- points at equal concurrencies -------------------------------------------------------------------------------


def _metrics(connection: sa.Connection, one: _Seen, other: _Seen, changes: Iterable[Change]) -> dict[str, MetricChange]:
    pairs = [(one.answered[key], other.answered[key], key) for key in one.answered.keys() & other.answered.keys()]
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    if not pairs:
        return {}
    left = _points(connection, one.scope, np.array([pair[0] for pair in pairs]))
    right = _points(connection, other.scope, np.array([pair[1] for pair in pairs]))
    _, here, there = np.intersect1d(left[0], right[0], return_indices=True)
    by_key = {_key(case_of(c), c.config, one.side.form): c for c in changes}
    found = {}
    for position, name in enumerate(METRICS, 1):
        before, after = left[position][here], right[position][there]
        with np.errstate(divide="ignore", invalid="ignore"):
            change = after / before - 1
        known = np.flatnonzero(np.isfinite(change))
        if len(known):
            worst = int(known[np.argmax(np.abs(change[known]))])
            pair, concurrency = divmod(int(left[0][here][worst]), _SHIFT)
            found[name] = MetricChange(
                points=len(known),
                median=float(np.median(change[known])),
                worst=float(change[worst]),
                worst_at=by_key.get(pairs[pair][2]),
                worst_concurrency=concurrency,
            )
    return found


_SHIFT = 1 << 31


def _points(connection: sa.Connection, scope: Scope, of: Array) -> Array:
    """Return points of tasks as columns: place in `of` and concurrency in one number, `METRICS` (NaN: NULL)."""
    point = operating_points
    statement = (
        sa.select(tasks.c.id, point.c.concurrency, *(point.c[name] for name in METRICS))
        .select_from(scope.source.join(point, point.c.task_id == tasks.c.id))
        .where(*scope.conditions, *scope.on_ladder(point))
    )
    cursor = connection.execute(statement).cursor
    assert cursor is not None
    chunks = [np.empty((0, 2 + len(METRICS)))]
    # The driver's own rows: a million of them are wanted as columns, not as objects.
    while part := cursor.fetchmany(_CHUNK):
        chunks.append(np.array(part, dtype=np.float64))
    rows = np.concatenate(chunks)
    order = np.argsort(of)
    place = np.minimum(np.searchsorted(of[order], rows[:, 0]), len(of) - 1)
    ours = of[order][place] == rows[:, 0]
    rows, place = rows[ours], order[place[ours]]
    return np.vstack([place * float(_SHIFT) + rows[:, 1], rows[:, 2:].T])
