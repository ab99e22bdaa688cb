"""Exports back into a store: what it lacks is added, nothing it holds changes.

The file becomes a store of its own first, so that a broken one changes nothing; merging two stores is what `copy`
does. Nothing is believed that can be checked: models and GPUs must have the digests the rows name, cases, tasks and
measured runs the digests that follow from their columns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from gpuscout.store.database import bulk
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.measured.runs import MeasuredRun, day_or_month, deployed
from gpuscout.store.measured.stored import digest_without_kv, store_runs
from gpuscout.store.results.registry import (
    name_workloads,
    register_engine,
    register_gpus,
    register_ladder,
    register_models,
    register_traffics,
)
from gpuscout.store.results.trust import note_document
from gpuscout.store.schema import (
    cases,
    engines,
    gpus,
    measured_runs,
    models,
    operating_points,
    point_percentiles,
    tasks,
)
from gpuscout.store.transfer.columns import CASE, ESTIMATED, MEASURED
from gpuscout.store.transfer.copy import Copied, copy_store
from gpuscout.store.transfer.files import read_rows
from gpuscout.store.transfer.placement import Placed
from gpuscout.store.transfer.whole_file import working_folder
from gpuscout.sweeps.cases import Case, CaseColumns, content_digest, task_keys
from gpuscout.sweeps.curves import BOUNDS, METRICS, SERVER_METRICS
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.precision import PRECISIONS, Precision
from gpuscout.sweeps.servers.options import options_from, options_text
from gpuscout.sweeps.settings import STARTED
from gpuscout.sweeps.speculative import NO_DRAFTS, speculative_from
from gpuscout.sweeps.traffic.traffic import PLAIN, Traffic, traffic_from
from gpuscout.sweeps.workloads import LOADS

_AT_ONCE = 5_000
_MOST_CHARACTERS = 50_000_000  # at once: rows that define models are long
_T = TypeVar("_T")


def read_back(file: Path, target: Store) -> Copied:
    """Add an export to a store; what was added. Raises InputError with the place of what is wrong."""
    with _as_store(file, target) as own:
        return copy_store(own, target)


def size_of(file: Path, target: Store) -> Copied:
    """Return the row counts of an export, checked as `read_back` checks it; nothing is added. Raises InputError."""
    with _as_store(file, target) as own:
        with own.reading() as connection:
            tables = (tasks, operating_points, measured_runs)
            counts = [
                connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables
            ]
        return Copied(counts[0], tasks=counts[0], points=counts[1], measured_runs=counts[2])


@contextmanager
def _as_store(file: Path, target: Store) -> Iterator[Store]:
    """Yield an export as a store of its own, for the block."""
    with (
        working_folder("gpuscout-import-") as folder,
        open_store(str(folder / "import.db"), create=True) as own,
    ):
        fill(file, own, target)
        yield own


def fill(file: Path, own: Store, target: Store) -> None:
    """Put an export into an empty store. Models and GPUs it does not define are taken from `target`, by digest.

    Every answer and run says which file it came from: digests prove that rows belong together, not that they are true.
    """
    with own.writing() as connection:
        _Filling(connection, target).everything(file)
        for table in (tasks, measured_runs):
            connection.execute(sa.update(table).values(imported_from=file.name))


@dataclass(frozen=True)
class _Definition:
    """The column of an export that defines a model or a GPU, the one of a store, and what both hold as JSON."""

    column: str
    stored: sa.Column[str]
    kind: type[ModelSpec] | type[GPUSpec]


_DEFINED = {
    "model": _Definition("model_architecture", models.c.architecture, ModelSpec),
    "gpu": _Definition("gpu_figures", gpus.c.figures, GPUSpec),
}


@dataclass
class _Filling:
    """One file on its way into an empty store, in one transaction. Ids are those of that store."""

    connection: sa.Connection
    target: Store
    # Models and GPUs by the names of their columns and their digests.
    defined: dict[tuple[str, str], Any] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    engines: dict[tuple[str, str, str], int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    runs: set[str] = field(default_factory=set)
    ladders: dict[str, int] = field(default_factory=dict)
    steps: dict[str, frozenset[int]] = field(default_factory=dict)
    # Operating points that are still to come, by the key of their task.
    lacking: dict[str, int] = field(default_factory=dict)
    # Name, input_len, output_len and traffic_id of workloads; in their order, so without values.
    workloads: dict[tuple[str, int, int, int | None], None] = field(default_factory=dict)

    def everything(self, file: Path) -> None:
        portion: list[Placed] = []
        characters = 0
        for place, row in read_rows(file):
            portion.append(Placed(place, row))
            characters += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(portion) == _AT_ONCE or characters > _MOST_CHARACTERS:
                self._store(portion)
                portion.clear()
                characters = 0
        self._store(portion)
        # What was stored last is the newest name.
        name_workloads(self.connection, reversed(self.workloads))
        if not self.tasks and not self.runs:
            raise InputError(f"{file}: contains no results")
        if self.lacking:
            key, points = next(iter(self.lacking.items()))
            raise InputError(
                f"{file}: operating points are missing, {points} of task {key}: the file is not whole",
                hint="export it again",
            )

    def _store(self, rows: list[Placed]) -> None:
        kinds = (ESTIMATED, MEASURED)
        estimated, measured = ([row for row in rows if row.word("kind", kinds) == kind] for kind in kinds)
        self._store_cases(rows)
        self._store_tasks(estimated)
        self._store_points([row for row in estimated if row.has("concurrency")])
        self._store_runs(measured)

    # --- what is asked -------------------------------------------------------------------------------------------

    def _store_cases(self, rows: list[Placed]) -> None:
        new: dict[str, Placed] = {}
        for row in rows:
            for name, definition in _DEFINED.items():
                if row.has(definition.column):
                    self._define(row, name)
            if row.text("case_digest") not in self.cases:
                new.setdefault(row.text("case_digest"), row)
        if not new:
            return
        asked = [self._case(row) for row in new.values()]
        known = [row.has("kv_precision") for row in new.values()]
        digests = [
            digest if kv_known else digest_without_kv(digest)
            for digest, kv_known in zip(CaseColumns.of(asked).digests(), known, strict=True)
        ]
        for row, found in zip(new.values(), digests, strict=True):
            if found.hex() != row.text("case_digest"):
                raise row.error("case_digest", "not that of the case in this row: something was changed")
        columns: dict[str, Any] = {
            **{
                column.name: [row.values[column.name] for row in new.values()]
                for column in CASE
                if column.name not in ("traffic", *STARTED)
            },
            "server_options": [options_text(case.server_options) for case in asked],
            "speculative": [case.speculative.text for case in asked],
            "traffic_id": register_traffics(self.connection, [case.traffic.shape_text for case in asked]),
            "request_rate": [case.traffic.request_rate for case in asked],
        }  # fmt: skip
        for row, traffic_id in zip(new.values(), columns["traffic_id"], strict=True):
            for name in row.known("workload", row.names) or ():
                self.workloads[name, row.tokens("input_len"), row.tokens("output_len"), traffic_id] = None
        ids, _ = bulk.insert_missing(
            self.connection,
            cases,
            "digest",
            {
                "digest": digests,
                "model_id": self._named(register_models, models, [case.model for case in asked], new),
                "gpu_id": self._named(register_gpus, gpus, [case.gpu for case in asked], new),
                **columns,
            },
        )
        self.cases |= dict(zip(new, ids, strict=True))

    def _case(self, row: Placed) -> Case:
        kv = row.known("kv_precision", lambda name: row.word(name, PRECISIONS))
        sizes: dict[str, Any] = {column.name: row.count(column.name) for column in CASE[1:5]}
        case = Case(
            self._named_by(row, "model"),
            self._named_by(row, "gpu"),
            row.tokens("input_len"),
            row.tokens("output_len"),
            Precision(row.word("precision", PRECISIONS)),
            # Stands for an unknown one in the digest, too.
            Precision.BF16 if kv is None else Precision(kv),
            **sizes,
            server=row.text("server"),
            gpu_memory_utilization=row.figure("gpu_memory_utilization"),
            max_model_len=row.tokens("max_model_len"),
            traffic=_traffic(row),
            server_options=_started(row, "server_options", options_from, ()),
            speculative=_started(row, "speculative", speculative_from, NO_DRAFTS),
        )
        if case.num_gpus != row.count("num_gpus"):
            raise row.error("num_gpus", f"{row.count('num_gpus')} is not tp x pp x dp = {case.num_gpus}")
        return case

    def _define(self, row: Placed, name: str) -> None:
        """Take the definition of the model or GPU that a row holds."""
        known, digest = _DEFINED[name], row.text(f"{name}_digest")
        try:
            found = known.kind.from_dict(json.loads(row.text(known.column)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise row.error(known.column, f"cannot be understood ({type(error).__name__}: {error})") from error
        if found.digest().hex() != digest:
            raise row.error(known.column, "does not have the digest that the row names")
        self.defined[name, digest] = found

    def _named_by(self, row: Placed, name: str) -> Any:
        """Return the model or GPU of a row, as a row before it or the target defines it."""
        known, digest = _DEFINED[name], row.text(f"{name}_digest")
        if (name, digest) not in self.defined:
            text = self._text_in_target(known, digest)
            if text is None:
                raise row.error(known.column, f"no row and no store defines this version of {row.text(name)}")
            self.defined[name, digest] = known.kind.from_dict(json.loads(text))
        found = self.defined[name, digest]
        if found.name != row.text(name):
            raise row.error(name, f"its digest is that of {found.name}: something was changed")
        return found

    def _text_in_target(self, known: _Definition, digest: str) -> str | None:
        try:
            wanted = bytes.fromhex(digest)
        except ValueError:
            return None
        with self.target.reading() as connection:
            query = sa.select(known.stored).where(known.stored.table.c.digest == wanted)
            return connection.execute(query).scalar()

    def _named(
        self,
        register: Callable[[sa.Connection, list[_T]], list[int]],
        table: sa.Table,
        things: list[_T],
        rows: Mapping[str, Placed],
    ) -> list[int]:
        """Return the ids of models or GPUs, as old as the first row that names them: the newest stands in a ranking."""
        unique = {id(thing): (thing, row) for thing, row in reversed(list(zip(things, rows.values(), strict=True)))}
        ids = register(self.connection, [thing for thing, _ in unique.values()])
        for row_id, (_, row) in zip(ids, unique.values(), strict=True):
            self._age(table, row_id, row)
        by_thing = dict(zip(unique, ids, strict=True))
        return [by_thing[id(thing)] for thing in things]

    def _age(self, table: sa.Table, row_id: int, row: Placed) -> None:
        moment = row.moment("stored_at")
        older = sa.and_(table.c.id == row_id, table.c.created_at > moment)
        self.connection.execute(sa.update(table).where(older).values(created_at=moment))

    # --- what is answered ----------------------------------------------------------------------------------------

    def _engine(self, row: Placed) -> int:
        key = (row.text("engine"), row.text("engine_fingerprint"), row.text("engine_options"))
        if key not in self.engines:
            identity = _Engine(key[0], key[1], row.json("engine_options"))
            self.engines[key] = register_engine(self.connection, identity)
            self._age(engines, self.engines[key], row)
        if row.has("engine_trust"):
            try:
                note_document(self.connection, self.engines[key], row.json("engine_trust"))
            except (ValueError, TypeError, KeyError, AttributeError, sa.exc.StatementError) as error:
                raise row.error("engine_trust", "cannot be understood") from error
        return self.engines[key]

    def _store_tasks(self, rows: list[Placed]) -> None:
        new: dict[str, Placed] = {}
        for row in rows:
            if row.text("task_key") not in self.tasks:
                new.setdefault(row.text("task_key"), row)
        if not new:
            return
        for key, row in new.items():
            [expected] = task_keys(
                [bytes.fromhex(row.text("case_digest"))],
                engine=row.text("engine"),
                fingerprint=row.text("engine_fingerprint"),
                options_digest=content_digest(row.json("engine_options")),
            )
            if key != expected.hex():
                raise row.error("task_key", "does not follow from the case and the engine: something was changed")
        told = list(new.values())
        columns: dict[str, Any] = {
            "key": [bytes.fromhex(key) for key in new],
            "case_id": [self.cases[row.text("case_digest")] for row in told],
            "engine_id": [self._engine(row) for row in told],
            "ladder_id": [self._ladder(row) for row in told],
            "outcome": [row.word("outcome", _ANSWERS) for row in told],
            "created_at": [row.moment("stored_at") for row in told],
        }
        columns["detail"] = [row.values["detail"] for row in told]
        columns["extras"] = [row.known("extras", row.json_text) for row in told]
        for name in ("needed_gib", "usable_gib"):
            columns[name] = [row.known(name, row.figure) for row in told]
        for name in ("kv_capacity_tokens", "fits_up_to"):
            columns[name] = [row.known(name, row.tokens) for row in told]
        ids, _ = bulk.insert_missing(self.connection, tasks, "key", columns)
        # Older exports do not say it.
        self.lacking |= {key: row.count("points") for key, row in new.items() if row.values["points"]}
        self.tasks |= dict(zip(new, ids, strict=True))

    def _ladder(self, row: Placed) -> int:
        text = row.text("ladder")
        if text not in self.ladders:
            self.ladders[text] = register_ladder(self.connection, row.ladder("ladder"))
        return self.ladders[text]

    def _steps(self, row: Placed) -> frozenset[int]:
        """Return the concurrencies of the ladder of a task."""
        text = row.text("ladder")
        if text not in self.steps:
            self.steps[text] = frozenset(row.ladder("ladder"))
        return self.steps[text]

    def _store_points(self, rows: list[Placed]) -> None:
        if not rows:
            return
        for row in rows:
            if row.text("outcome") != Outcome.OK:
                raise row.error("outcome", f"{row.text('outcome')} with an operating point: something was changed")
            if row.count("concurrency") not in self._steps(row) and not row.has("request_rate"):
                raise row.error("concurrency", "not one of the ladder: something was changed")
        columns: dict[str, Any] = {
            "task_id": [self.tasks[row.text("task_key")] for row in rows],
            "concurrency": [row.count("concurrency") for row in rows],
            "bound": [row.word("bound", BOUNDS) for row in rows],
            "queued": [row.values["queued"] is True for row in rows],
            "regime": [row.known("regime", partial(row.count, least=0, below=2**15)) for row in rows],
            **{name: [row.figure(name) for row in rows] for name in METRICS},
            **{name: [row.known(name, row.figure) for row in rows] for name in SERVER_METRICS},
        }
        try:
            bulk.insert(self.connection, operating_points, columns)
        except sa.exc.IntegrityError as error:
            raise InputError(f"{rows[0].place} and following: duplicate operating point") from error
        tails = [
            (self.tasks[row.text("task_key")], row.count("concurrency"), *tail)
            for row in rows
            if row.has("percentiles")
            for tail in row.percentiles()
        ]
        if tails:
            names = ("task_id", "concurrency", "metric", "percentile", "value")
            columns = dict(zip(names, map(list, zip(*tails, strict=True)), strict=True))
            bulk.insert(self.connection, point_percentiles, columns)
        for key, points in Counter(row.text("task_key") for row in rows).items():
            if key in self.lacking:
                self.lacking[key] -= points
                if self.lacking[key] <= 0:
                    del self.lacking[key]

    def _store_runs(self, rows: list[Placed]) -> None:
        runs = []
        for row in rows:
            if row.text("run_digest") in self.runs:
                raise row.error("run_digest", "duplicate run")
            self.runs.add(row.text("run_digest"))
            run = self._run(row)
            if run.digest().hex() != row.text("run_digest"):
                raise row.error("run_digest", "not that of the run in this row: something was changed")
            runs.append(run)
        store_runs(
            self.connection,
            runs,
            imported_at=[row.moment("stored_at") for row in rows],
            # What measured it is not in the row, so that this alone is taken as it is.
            task_keys=[row.known("task_key", row.digest) for row in rows],
        )

    def _run(self, row: Placed) -> MeasuredRun:
        details = row.json("details") if row.has("details") else {}
        derived = details.get("derived", [])
        if not isinstance(derived, list):
            raise row.error("details", "expected a list of the figures that are derived")
        figures = {name: row.known(name, row.figure) for name in METRICS}
        measured: dict[str, Any] = {name: None if name in derived else value for name, value in figures.items()}
        case, day = self._case(row), row.known("measured_on", row.day)
        load, rate = row.word("load", LOADS), row.known("request_rate", row.figure)
        if (load == "request_rate") != (rate is not None):
            raise row.error("load", "contradicts the request rate")
        return MeasuredRun(
            id=details.get("run") or "",
            **deployed(case) | ({} if row.has("kv_precision") else {"kv_precision": None}),
            server_version=row.known("server_version", row.text),
            concurrency=row.known("concurrency", row.count),
            request_rate=rate,
            **measured,
            measured_on=None if day is None else day_or_month(day, details),
            source=row.text("source"),
            tool=row.known("tool", row.text),
            native_itl_name=row.known("native_itl_name", row.text),
            native_itl_ms=row.known("native_itl_ms", row.figure),
            percentiles={tail[:2]: tail[2] for tail in row.percentiles()} if row.has("percentiles") else {},
            derived={name: value for name, value in figures.items() if name in derived and value is not None},
            implausible=row.known("implausible", row.text),
            details=details,
            case=case,
        )


_ANSWERS = tuple(outcome.value for outcome in OUTCOMES if outcome.is_answer)


@dataclass(frozen=True)
class _Engine:
    name: str
    fingerprint: str
    options: Mapping[str, object]


def _started(row: Placed, name: str, read: Callable[[str], _T], unless_given: _T) -> _T:
    """Return the server options and drafts of a case; exports of versions that did not know it have no such column."""
    if not row.has(name):
        return unless_given
    try:
        return read(row.text(name))
    except ValueError as error:
        raise row.error(name, str(error)) from error


def _traffic(row: Placed) -> Traffic:
    """Return that of an estimate's case; a measured run has its load, and its rate, beside its case."""
    estimated = row.text("kind") == ESTIMATED
    rate = row.known("request_rate", row.figure) if estimated else None
    if not row.has("traffic") and rate is None:
        return PLAIN
    try:
        return traffic_from(row.json("traffic"), rate)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise row.error("traffic", f"cannot be understood ({type(error).__name__}: {error})") from error
