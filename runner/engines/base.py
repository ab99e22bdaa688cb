"""The interface of an engine: what turns cases into curves, and what an engine may tell about itself.

Public: an engine of a package of its own needs no other module of gpuscout. `__all__` keeps its meaning between
releases; what is in no list here may change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS, SERVER_METRICS, Bound, Curves, FloatArray, IntArray, Points
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.settings import STARTED
from gpuscout.sweeps.trust import NO_TRUST, ObservedError, Trust

if TYPE_CHECKING:
    from gpuscout.store.measured import MeasuredRun

__all__ = [
    "About",
    "Bound",
    "Case",
    "CaseAnswer",
    "CaseColumns",
    "Cost",
    "Curves",
    "Ended",
    "Engine",
    "Expected",
    "FloatArray",
    "IntArray",
    "Measurement",
    "ObservedError",
    "Option",
    "Outcome",
    "Point",
    "Points",
    "Precision",
    "Trust",
    "answered",
    "as_ladder",
    "silence",
]

_Name = TypeVar("_Name")

MISSING = "missing"
"""The fingerprint of an engine that cannot run here: none of its results is ever stored under it."""


class Cost(Enum):
    """Expense of one task; decides how many tasks make a block and whether Ray pays."""

    CHEAP = "cheap"  # arithmetic: microseconds a point
    EXPENSIVE = "expensive"  # a call, a process or a download a task
    DEAR = EXPENSIVE  # its name before; engines of others may still use it


class Engine(Protocol):
    """An estimator of serving performance.

    `evaluate` answers every case of a block for one ladder of concurrencies (ascending, unique). A point must not
    depend on which other concurrencies or cases are asked in the same call, so that a longer ladder later can be
    answered by its missing steps alone. One bad case must not raise: it gets an outcome. Whatever still raises
    fails its tasks. `answered` puts the answers of an engine that works case by case together.

    These members are all an engine needs; its options are the keyword arguments of its constructor. It may also have

    about       an `About`, on the class: what it covers, which options it takes, how to install what it needs
    missing()   a method: why it cannot run here, in one line; None when it can
    sparse      True when it cannot answer every concurrency: it may then leave points out
    task_s      seconds of one core that a task takes, roughly, where `cost` is EXPENSIVE; 1 unless it says so
    unsupported_traffic(traffic)  a method: why it cannot answer for requests that vary or arrive (a
                `gpuscout.sweeps.traffic.traffic.Traffic`), None when it can; without it, such cases are never asked
    understands  which of "server_options" and "speculative" of a case its figures take into account; without it, cases
                that have them are never asked
    trust()     a method: a `gpuscout.sweeps.trust.Trust`, how far its figures are from measured ones
    note()      a method: what a run or plan with it has to say, in one line; None: nothing
    of_medians()  a method: the engine for benchmarks that tell medians over requests, not means
    settled()   a method: the engine with those options decided that depend on this machine, before results get keys
    refuses(sweep)  a method: why it cannot answer for a `gpuscout.sweeps.sweep.Sweep`, in one line; None: nothing

    An engine that measures has `measures = True`, and `measure` is called instead of `evaluate`:

    measure(cases, ladders)  yields a `Measurement` for every operating point as soon as it is measured, and one `Ended`
                for every case, after its points. `ladders` has the concurrencies that are still to be measured of each
                case, ascending; (0,) for one in an open loop. Points are stored as measured runs at once, and stay
                whatever happens to the rest
    expected(cases, ladders)  an `Expected`: what measuring the cases of one block will take
    left(ladder, runs)  the concurrencies of a case's ladder that are worth measuring beside its measured `runs`;
                without it, all that those do not have
    exclusive   what only one of its tasks at a time may use, such as an address; empty or without it: nothing
    """

    name: str
    cost: Cost
    in_process: bool  # safe inside the controller's process: no hangs, crashes, printing or global state
    options: Mapping[str, object]  # JSON-able; together with the fingerprint they determine every number

    def fingerprint(self) -> str:
        """Identify everything but the options that determines this engine's numbers."""
        ...

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves: ...


@dataclass(frozen=True)
class EngineInfo:
    """Identity of an engine: all that determines its numbers. Equal info means equal answers for equal cases."""

    name: str
    fingerprint: str
    options: Mapping[str, object]


def trust_of(engine: Engine) -> Trust:
    """Return the accuracy that an engine states."""
    says = getattr(engine, "trust", None)
    return NO_TRUST if says is None else says()


def understood_by(engine: Engine) -> frozenset[str]:
    """Return the members of `gpuscout.sweeps.settings.STARTED` that an engine takes into account."""
    return frozenset(getattr(engine, "understands", ()))


def settled(engine: Engine) -> Engine:
    """Return the engine with everything decided that its numbers depend on."""
    decide = getattr(engine, "settled", None)
    decided: Engine = engine if decide is None else decide()
    return decided


def note_of(engine: Engine) -> str | None:
    """Return the note on an engine's results; None: nothing."""
    says = getattr(engine, "note", None)
    note: str | None = None if says is None else says()
    return note


def task_seconds(engine: Engine) -> float:
    """Return the seconds of one core that a task of an expensive engine takes, roughly."""
    return float(getattr(engine, "task_s", 1.0))


def measures(engine: Engine) -> bool:
    """Return whether its answers are measured runs."""
    return bool(getattr(engine, "measures", False))


def used_alone(engine: Engine) -> str:
    """Return the resource that only one task at a time may use, whoever runs it; empty: none."""
    return str(getattr(engine, "exclusive", "") or "")


def is_exclusive(engine: Engine) -> bool:
    """Return whether two of its tasks must not run at the same time."""
    return bool(used_alone(engine))


def left_to_measure(engine: Engine, ladder: Sequence[int], runs: Sequence[MeasuredRun]) -> tuple[int, ...]:
    """Return the concurrencies of a ladder that an engine is still to measure, beside those already measured."""
    known = {run.concurrency for run in runs}
    decide = getattr(engine, "left", None)
    left: Sequence[int] = ladder if decide is None else decide(ladder, runs)
    return tuple(step for step in left if step not in known)


def info(engine: Engine) -> EngineInfo:
    return EngineInfo(engine.name, engine.fingerprint(), dict(engine.options))


@dataclass(frozen=True)
class Option:
    """An option of an engine: checked before the engine is made. None in `above`, `at_most`: no such bound."""

    help: str
    kind: type[str] | type[int] | type[float] | type[bool] | type[list[str]] = str
    default: object = None
    choices: tuple[str, ...] = ()
    above: float | None = None
    at_most: float | None = None

    @property
    def allowed(self) -> str:
        """Allowed values, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        bounds = [f"above {self.above:g}"] if self.above is not None else []
        bounds += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        kinds = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}
        kind = kinds[self.kind]
        return " ".join([kind, " and ".join(bounds)]).rstrip()


@dataclass(frozen=True)
class About:
    """Description of an engine for people. Empty texts are not printed; `options` None: see its constructor.

    `install` is the command that installs what the engine needs besides gpuscout, None when it needs nothing.
    """

    covers: str = ""
    install: str | None = None
    options: Mapping[str, Option] | None = None
    homepage: str = ""


@dataclass(frozen=True)
class Measurement:
    """An operating point that was measured, of the case at `row`."""

    row: int
    run: MeasuredRun


@dataclass(frozen=True)
class Ended:
    """The outcome of the case at `row`, after its last point; with a failure it is tried again later."""

    row: int
    outcome: Outcome = Outcome.OK
    detail: str | None = None
    extras: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """The effort of measuring: server starts, and seconds if all is measured one after the other."""

    starts: int = 0
    seconds: float = 0.0

    def __add__(self, other: Expected) -> Expected:
        return Expected(self.starts + other.starts, self.seconds + other.seconds)


class MissingEngine:
    """Stands in for an engine that cannot run here. All its tasks fail as `engine_missing`, other engines go on.

    Its fingerprint is no other engine's: once the engine is installed, a sweep has a new one and computes everything.
    """

    in_process = True
    understands = frozenset(STARTED)  # its tasks fail for what it lacks, not for what they ask

    def __init__(self, name: str, reason: str, *, cost: Cost = Cost.EXPENSIVE, options: Mapping[str, object]) -> None:
        self.name = name
        self.reason = reason
        self.cost = cost
        self.options: Mapping[str, object] = dict(options)

    def fingerprint(self) -> str:
        return MISSING

    def unsupported_traffic(self, traffic: object) -> None:
        """Return None: an engine that is missing refuses no traffic."""

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
        return answered([CaseAnswer.failed(Outcome.ENGINE_MISSING, self.reason)] * len(cases))


@dataclass(frozen=True)
class Point:
    """One operating point of a case. Figures are those of `gpuscout.sweeps.curves.Points`, all finite."""

    concurrency: int
    ttft_ms: float
    itl_ms: float
    e2e_s: float
    output_tokens_per_s: float
    requests_per_s: float
    bound: Bound = Bound.UNKNOWN
    queued: bool = False
    regime: int = -1
    percentiles: Mapping[tuple[str, float], float] = field(default_factory=dict)
    server_metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseAnswer:
    """The answer to one case, for engines that work case by case; fields as in `gpuscout.sweeps.curves.Curves`.

    `points` come in the order of the ladder. None: the engine does not say; in `fits_up_to`: it fits all along.
    """

    outcome: Outcome = Outcome.OK
    detail: str | None = None
    points: Sequence[Point] = ()
    fits_up_to: int | None = None
    needed_gib: float | None = None
    usable_gib: float | None = None
    kv_capacity_tokens: int | None = None
    extras: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def failed(cls, outcome: Outcome, detail: str) -> CaseAnswer:
        return cls(outcome, detail)


def answered(answers: Iterable[CaseAnswer]) -> Curves:
    """Return the answers to the cases of a block, in their order, as columns."""
    answers = list(answers)
    points = [(row, point) for row, answer in enumerate(answers) for point in answer.points]

    def ints(values: Iterable[int | None]) -> IntArray:
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)

    def column(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([getattr(point, name) for _, point in points], dtype=np.float64)

    def gib(values: Iterable[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    return Curves(
        outcome=ints(answer.outcome.code for answer in answers),
        needed_gib=gib(answer.needed_gib for answer in answers),
        usable_gib=gib(answer.usable_gib for answer in answers),
        kv_capacity_tokens=ints(answer.kv_capacity_tokens for answer in answers),
        fits_up_to=ints(answer.fits_up_to for answer in answers),
        points=Points(
            task=ints(row for row, _ in points),
            concurrency=ints(point.concurrency for _, point in points),
            ttft_ms=column("ttft_ms"),
            itl_ms=column("itl_ms"),
            e2e_s=column("e2e_s"),
            output_tokens_per_s=column("output_tokens_per_s"),
            requests_per_s=column("requests_per_s"),
            bound=ints(point.bound.code for _, point in points),
            queued=np.array([point.queued for _, point in points], dtype=np.bool_),
            regime=np.array([point.regime for _, point in points], dtype=np.int8),
            percentiles=_known([point.percentiles for _, point in points], PERCENTILE_COLUMNS),
            server_metrics=_known([point.server_metrics for _, point in points], SERVER_METRICS),
        ),
        details={row: answer.detail for row, answer in enumerate(answers) if answer.detail is not None},
        extras={row: answer.extras for row, answer in enumerate(answers) if answer.extras},
    )


def _known(of_points: Sequence[Mapping[_Name, float]], columns: Sequence[_Name]) -> FloatArray | None:
    if not any(of_points):
        return None
    return np.array([[point.get(name, np.nan) for name in columns] for point in of_points], dtype=np.float64)


@contextmanager
def silence() -> Iterator[None]:
    """Drop what is printed meanwhile by an engine's package; for the whole process, so not for an engine safe in it."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def as_ladder(concurrencies: object) -> IntArray:
    """Return an ascending array of unique positive concurrencies."""
    ladder = np.unique(np.asarray(concurrencies, dtype=np.int64))
    if ladder.size == 0 or ladder[0] < 1:
        raise ValueError("a ladder needs at least one concurrency, all of them at least 1")
    return ladder
