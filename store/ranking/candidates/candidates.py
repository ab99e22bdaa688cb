"""All candidate rows of a question, with points and values, before ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sqlalchemy as sa

from gpuscout.store.portions import portions
from gpuscout.store.prices.books import prices_for, tdp_w
from gpuscout.store.prices.prices import PriceRules, Prices
from gpuscout.store.ranking.candidates import statements as statements
from gpuscout.store.ranking.candidates.fetched import Rows, fetch
from gpuscout.store.ranking.candidates.measured import MEASURED_ID, Measured, measured
from gpuscout.store.ranking.candidates.placing import (
    Codes,
    Indices,
    OperatingPoints,
    UnitCosts,
    engines_of_groups,
    first_engines,
    newest,
    operating_points_of,
    unit_costs,
    versions,
)
from gpuscout.store.ranking.candidates.statements import OUTCOME_CODES, Choice
from gpuscout.store.ranking.candidates.trust import Errors, trusted_metric
from gpuscout.store.ranking.measures import Aim, Array, measure_of
from gpuscout.store.ranking.question.asked import MEASURED, Question, Trusted
from gpuscout.store.ranking.question.confidence import at_confidence
from gpuscout.store.ranking.question.intervals import Intervals
from gpuscout.store.ranking.question.limits import Flags, Limit, hold, limits_of, need_percentiles
from gpuscout.store.ranking.question.lookup import NameIndex, means_estimated
from gpuscout.store.ranking.question.scope import Scope
from gpuscout.store.remembered import remembered
from gpuscout.store.results.trust import intervals_of
from gpuscout.sweeps.outcomes import Outcome


@dataclass(frozen=True)
class Judged:
    """One row a task that stands, of all engines, then one a measured configuration; `estimates` counts the tasks.

    `own`: its group may show it.

    `about` are the columns of `Rows`, `configuration` is the same for tasks of different engines that answer the same.
    `no_percentiles`: limits ask for percentiles, which no estimate meets. `backed`: measured, or an estimate with
    measured runs near it, see `trust.py`. `level` of trust: the lower the better. `trusted`: enough for the question.
    `asked`: not measured in a precision or with a server that nobody asked about. `held`: its point is the highest that
    measured runs are near, below its best.
    """

    choice: Choice
    estimates: int
    no_percentiles: bool
    about: dict[str, Array]
    codes: Codes
    configuration: Array
    own: Flags
    engines: Mapping[int, list[str]]
    operating: OperatingPoints
    measured: Measured | None
    errors: Errors
    intervals: Intervals
    backed: Flags
    level: Indices
    trusted: Flags
    asked: Flags
    held: Flags

    def __len__(self) -> int:
        return len(self.configuration)

    @property
    def aim(self) -> Aim:
        return self.choice.aim

    @property
    def limits(self) -> Sequence[Limit]:
        """On estimates."""
        return self.choice.limits

    @property
    def ok(self) -> Flags:
        return np.asarray(self.about["outcome"] == OUTCOME_CODES[Outcome.OK])

    @property
    def num_gpus(self) -> Array:
        return self.about["num_gpus"]

    def task(self, row: int) -> int:
        return int(self.about["task_id"][row])


@dataclass(frozen=True)
class Candidates(Judged):
    """The same at the prices of a question. `values` are those of the aim, NaN where a price or TDP is not known (or
    the point).
    """

    question: Question
    prices: Prices
    unit_costs: UnitCosts
    values: Array

    @property
    def valued(self) -> Flags:
        """Rows that meet all limits and have a value."""
        return self.operating.qualifies & ~np.isnan(self.values)

    @property
    def rankable(self) -> Flags:
        return self.valued & self.trusted & self.asked

    def bounded(self, rows: Indices) -> tuple[Array, Array]:
        """Return (figures, ratios): of these rows what each SLO bounds, and how
        far it is from the limit, one line an SLO.

        `UNKNOWN`: the figure is not known. A limit on a percentile that estimates have no figure for: NaN and 0.
        """
        slos = self.question.slos
        figures, ratios = np.full((len(slos), len(rows)), np.nan), np.zeros((len(slos), len(rows)))
        parts = [(rows < self.estimates, 0, self.limits, self.operating.figures)]
        if self.measured is not None:
            parts.append(
                (rows >= self.estimates, self.estimates, self.measured.limits, self.measured.operating.figures)
            )
        for mine, first, limits, columns in parts:
            for limit in limits:
                line = slos.index(limit.slo)
                figures[line, mine] = columns[limit.column][rows[mine] - first]
                ratios[line, mine] = limit.ratio({limit.column: figures[line, mine]})
        return figures, ratios


def choice_of(connection: sa.Connection, scope: Scope, question: Question) -> Choice:
    """Return the rule that picks the points of a question. Raises UnknownNameError, InputError."""
    intervals = intervals_of(connection, scope.engines.all_ids())
    aim = question.aim
    for name in question.also:
        measure_of(name)
    tails = {slo.name: (slo.column, slo.percentile) for slo in question.slos if slo.percentile is not None}
    simulating = statements.engines_with_percentiles(connection, scope) if tails else []
    limits = limits_of(question.slos, question.assume_tail, simulated=bool(simulating))
    columns = dict.fromkeys(("ttft_ms", "itl_ms", *aim.columns, *(limit.column for limit in limits)))
    return Choice(
        aim,
        limits,
        tuple(columns),
        at_confidence(intervals, question.confidence),
        percentiles=tails if simulating else {},
        assume_tail=question.assume_tail,
        simulating=simulating,
    )


def read_candidates(connection: sa.Connection, scope: Scope, question: Question) -> Candidates | None:
    """Read, judge and value all results of the scope; None: there are none."""
    # Neither prices nor how much is told change which results there are, and how good they are.
    key = replace(question, prices=PriceRules(), top=None, gpu_types=None, examples=None, briefly=False)
    judged = remembered(
        connection, (_judged, key, scope.traffic_id), lambda: _judged(connection, scope, question), rows=_rows
    )
    if judged is None:
        return None
    aim, about, codes = judged.choice.aim, judged.about, judged.codes
    prices = prices_for(connection, codes.gpus, question.prices)
    asks_energy = any(name == "energy" for name in (*question.also, *dict(aim.weights)))
    costs = unit_costs(codes, about["num_gpus"], prices.known, tdp_w(connection) if asks_energy else {})
    values = aim.values(judged.operating.figures, about["num_gpus"], costs.usd, costs.tdp_w)
    return Candidates(**vars(judged), question=question, prices=prices, unit_costs=costs, values=values)


def _rows(judged: Judged | None) -> int:
    return 1 if judged is None else len(judged)


def _judged(connection: sa.Connection, scope: Scope, question: Question) -> Judged | None:
    intervals = intervals_of(connection, scope.engines.all_ids())
    choice = choice_of(connection, scope, question)
    sides = choice.sides(interpolate=question.interpolate)
    asked = [statements.select_answered(scope, choice, sides=sides), statements.select_refused(scope)]
    if not means_estimated(question.kinds):
        asked = [statement.where(sa.false()) for statement in asked]
    ran, refused = (fetch(connection, scope, statement, choice.columns) for statement in asked)
    rows = ran.followed_by(refused)
    codes = Codes.of(rows.about, scope.models, scope.gpus, scope.engines)
    configuration = rows.about["case_id"]
    if scope.models.have_versions or scope.gpus.have_versions:
        configuration = _same_configurations(connection, scope, configuration)
    if any(names.have_versions for names in (scope.models, scope.gpus, scope.engines)) and len(rows):
        ages = versions(rows, scope.models, scope.gpus, scope.engines)
        stand = newest(rows, codes, configuration, ages)
        rows, codes, configuration = rows.take(stand), codes.take(stand), configuration[stand]
    runs = measured(connection, scope, question, choice, sides, _standing(rows, codes))
    if not len(rows) and runs is None:
        return None

    operating = operating_points_of(
        rows, choice.aim, choice.limits, _straddling(connection, scope, choice, rows, sides)
    )
    no_percentiles = not choice.percentiles and need_percentiles(question.slos, question.assume_tail)
    if no_percentiles:
        operating.qualifies[:] = False
    about = rows.about
    if runs is not None:
        of_runs = runs.about(scope)
        about = {name: np.concatenate([column, of_runs[name]]) for name, column in about.items()}
        operating = operating.followed_by(runs.operating)
        configuration = np.concatenate([configuration, of_runs["task_id"]])
        engines = NameIndex({**scope.engines.ids, MEASURED: (MEASURED_ID,)})
        codes = Codes.of(about, scope.models, scope.gpus, engines)
    errors = Errors.of(connection, scope.engines.all_ids(), scope.models.all_ids())
    held = _hold_to_measured_load(connection, scope, choice, question, errors, about, operating)
    load = operating.figures["concurrency"]
    backed = errors.backed(about, load, trusted_metric(choice.aim))
    simulated = np.isin(about["engine_id"], choice.simulating)
    for tail in choice.tails:
        backed &= errors.backed(about, load, tail) | ~simulated
    backed |= about["engine_id"] == MEASURED_ID
    level, trusted = _trust(question.trust, about, backed)
    return Judged(
        choice,
        len(rows),
        no_percentiles,
        about,
        codes,
        configuration,
        _own(about, codes, runs),
        engines_of_groups(codes, about["outcome"]),
        operating,
        runs,
        errors,
        intervals,
        backed,
        level,
        trusted,
        _asked(question, about, codes, len(rows)),
        held,
    )


def _standing(rows: Rows, codes: Codes) -> dict[int, int]:
    """Return the task of each case by the engine that its group shows, where it ran."""
    if not len(rows):
        return {}
    shown = codes.engine == first_engines(codes, rows.about["outcome"])[codes.group]
    shown &= rows.about["outcome"] == OUTCOME_CODES[Outcome.OK]
    pairs = (rows.about[name][shown].astype(np.int64).tolist() for name in ("case_id", "task_id"))
    return dict(zip(*pairs, strict=True))


def _own(about: Mapping[str, Array], codes: Codes, runs: Measured | None) -> Flags:
    """Return a mask of the rows that their groups may show: those of one engine
    and measured ones; of one configuration only one of both.
    """
    first = first_engines(codes, about["outcome"])
    own = np.asarray(codes.engine == first[codes.group])
    if runs is None:
        return own
    estimates = len(own) - len(runs)
    decided = {case for decides, cases in zip(runs.decides, runs.estimated, strict=True) if decides for case in cases}
    own[:estimates] &= ~np.isin(about["case_id"][:estimates], list(decided))
    shown = set(about["case_id"][:estimates][own[:estimates]].astype(np.int64).tolist())
    for row, (decides, cases) in enumerate(zip(runs.decides, runs.estimated, strict=True)):
        # Runs that lack a figure stand aside for an estimate that is shown.
        own[estimates + row] = decides or shown.isdisjoint(cases)
    return own


def _trust(wanted: str, about: Mapping[str, Array], backed: Flags) -> tuple[Indices, Flags]:
    """Return the level of trust of each row, and whether it suffices; where no trust is asked for, all are equal."""
    alike, enough = np.zeros(len(backed), dtype=np.int64), np.ones(len(backed), dtype=bool)
    if wanted == Trusted.PREFER:
        return np.where(backed, 0, 1), enough
    if wanted == Trusted.MEASURED:
        return alike, np.asarray(about["engine_id"] == MEASURED_ID)
    return alike, backed if wanted == Trusted.BACKED else enough


def _hold_to_measured_load(
    connection: sa.Connection,
    scope: Scope,
    choice: Choice,
    question: Question,
    errors: Errors,
    about: Mapping[str, Array],
    operating: OperatingPoints,
) -> Flags:
    """Move estimates whose best point is beyond all measured loads to the highest stored one that runs are near.

    An estimate far beyond what was measured says less than the same deployment at a load that was: so the latter is
    what stands for it where trust counts. Latencies grow with the load, throughputs and what follows from them get
    better: only for these the best point is the highest.
    """
    held = np.zeros(len(about["task_id"]), dtype=bool)
    if question.trust not in (Trusted.PREFER, Trusted.BACKED) or choice.aim.is_weighted or not errors.seen:
        return held
    if not choice.aim.single.highest_column:
        return held
    most = errors.most_load(about, trusted_metric(choice.aim))
    simulated = np.isin(about["engine_id"], choice.simulating)
    for tail in choice.tails:
        most = np.where(simulated, np.minimum(most, errors.most_load(about, tail)), most)
    beyond = np.flatnonzero(operating.qualifies & (operating.figures["concurrency"] > most))
    row_of = {int(about["task_id"][row]): row for row in beyond.tolist()}
    wanted = [(task, int(most[row])) for task, row in row_of.items() if most[row] >= 1]
    names = ("concurrency", "queued", *choice.columns)
    for some in portions(wanted, statements.BATCH):
        stored = connection.execute(statements.select_at_most(scope, choice, some)).all()
        tasks, *columns = np.array(stored, np.float64).reshape(-1, 1 + len(names)).T
        figures = dict(zip(names, columns, strict=True))
        good = hold(choice.limits, figures) & choice.aim.known(figures)
        rows = np.array([row_of[task] for task in tasks[good].tolist()], np.int64)
        for name, column in figures.items():
            operating.figures[name][rows] = column[good]
        operating.low[rows] = operating.high[rows] = figures["concurrency"][good]
        operating.interpolated[rows] = False
        held[rows] = True
    return held


def _asked(question: Question, about: Mapping[str, Array], codes: Codes, estimates: int) -> Flags:
    """Return a mask of the rows that answer the question: runs of a quantised
    checkpoint, say, do not answer for the plain one.

    A group's estimates say which precisions and servers it is about, unless the question names them; where it has no
    estimates, all runs count.
    """
    asked = np.ones(len(codes.group), dtype=bool)
    runs = slice(estimates, None)
    has_estimates = np.isin(codes.group[runs], codes.group[:estimates])
    for name, named in (("precision", question.precisions), ("server", question.servers)):
        if not named and has_estimates.any():
            pairs = (codes.group << 8) + about[name].astype(np.int64)
            asked[runs] &= ~has_estimates | np.isin(pairs[runs], pairs[:estimates])
    return asked


def _straddling(
    connection: sa.Connection, scope: Scope, choice: Choice, rows: Rows, sides: Sequence[str]
) -> Rows | None:
    """Return points on either side of where both kinds of limits hold, if
    there may be a task that meets them only there.
    """
    if len(sides) < 2:
        return None
    point = rows.points["point"]
    if (hold(choice.limits, point) & choice.aim.known(point) | np.isnan(point["concurrency"])).all():
        return None
    return fetch(connection, scope, statements.straddling(scope, choice), choice.columns)


def _same_configurations(connection: sa.Connection, scope: Scope, case: Array) -> Array:
    """Return the case that stands for each one's configuration in all versions of models and GPUs."""
    cursor = connection.execute(statements.same_configurations(scope)).cursor
    assert cursor is not None
    ids = np.array(cursor.fetchall(), dtype=np.int64).reshape(-1, 2)
    first = np.zeros(ids[:, 0].max(initial=0) + 1)
    first[ids[:, 0]] = ids[:, 1]
    return first[case.astype(np.int64)]
