"""Measured runs in a store: added once by their content, listed by where they came from, removed, read back.

A run hangs on a case, so that estimates can be joined by its columns: model and GPU by name, parallelism, precisions,
server and lengths. Where a run does not say them, the case has the defaults of estimates: 0.9 of the GPU's memory and
`max_model_len` = input + output. A KV precision nobody stated is NULL, and matches any.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gpuscout.store.database import bulk, driver_errors
from gpuscout.store.database.connect import Store
from gpuscout.store.measured.formats.reported import variant
from gpuscout.store.measured.imported import matching_runs
from gpuscout.store.measured.runs import DEFAULT_MEMORY, MeasuredRun, day_or_month
from gpuscout.store.portions import portions
from gpuscout.store.results import durable
from gpuscout.store.results.registry import register_gpus, register_models, register_traffics
from gpuscout.store.schema import cases, gpus, measured_runs, models, percentiles
from gpuscout.sweeps.cases import DIGEST_BYTES, CaseColumns, canonical_json
from gpuscout.sweeps.curves import METRICS
from gpuscout.sweeps.errors import StoreBusyError
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers.options import options_from, options_text
from gpuscout.sweeps.settings import PARALLELISM, SHORT_SIZES

_T = TypeVar("_T")

_UNKNOWN_KV = b"gpuscout case, KV precision unknown 1\0"
_ASKED = ("gpu_memory_utilization", "max_model_len", "input_len", "output_len")
# Derived figures that a reader derives again; an ITL that follows from the latencies is as good as a measured one.
_FOLLOWS = ("e2e_s", "output_tokens_per_s", "requests_per_s")
_CASE_COLUMNS = (
    *PARALLELISM, "num_gpus", "precision", "server", "gpu_memory_utilization", "input_len", "output_len"
)  # fmt: skip


def store_runs(
    connection: sa.Connection,
    runs: Sequence[MeasuredRun],
    *,
    imported_at: Sequence[datetime] | None = None,
    task_keys: Sequence[bytes | None] | None = None,
) -> list[bool]:
    """Store those runs that are not stored yet; which of them were new. The caller's transaction is one for all.

    `imported_at`: when each was imported first; None: now. `task_keys`: the task of a sweep that measured each.
    """
    if not runs:
        return []
    columns: dict[str, Any] = {
        "digest": [run.digest() for run in runs],
        "case_id": _store_cases(connection, runs),
        "source": [run.source for run in runs],
        "tool": [run.tool for run in runs],
        "measured_on": [run.day for run in runs],
        "imported_at": datetime.now(UTC) if imported_at is None else imported_at,
        "server_version": [run.server_version for run in runs],
        "load": [run.load.name.lower() for run in runs],
        "concurrency": [run.concurrency for run in runs],
        "request_rate": [run.request_rate for run in runs],
        **{name: [run.figure(name) for run in runs] for name in METRICS},
        "native_itl_name": [run.native_itl_name for run in runs],
        "native_itl_ms": [run.native_itl_ms for run in runs],
        "details": [canonical_json(run.details).decode() if run.details else None for run in runs],
        "implausible": [run.implausible for run in runs],
        "requests_completed": [run.requests("completed") for run in runs],
        "requests_failed": [run.requests("failed") for run in runs],
        "set_aside": [run.set_aside for run in runs],
        "task_key": [None] * len(runs) if task_keys is None else task_keys,
    }
    ids, inserted = bulk.insert_missing(connection, measured_runs, "digest", columns)
    tails = [
        (run_id, metric, percentile, value)
        for run, run_id, new in zip(runs, ids, inserted, strict=True)
        if new
        for (metric, percentile), value in run.percentiles.items()
    ]
    names = ("run_id", "metric", "percentile", "value")
    bulk.insert(connection, percentiles, {name: [row[i] for row in tails] for i, name in enumerate(names)})
    return inserted


def runs_of_tasks(connection: sa.Connection, keys: Sequence[bytes]) -> dict[bytes, list[MeasuredRun]]:
    """Return the runs that tasks of sweeps have measured so far, by the keys of the tasks."""
    query = sa.select(measured_runs.c.id, measured_runs.c.task_key)
    task_of = {row[0]: row[1] for row in bulk.select_by_keys(connection, query, measured_runs.c.task_key, keys)}
    runs: dict[bytes, list[MeasuredRun]] = defaultdict(list)
    for some in portions(sorted(task_of)):
        tails = _tails(connection, percentiles.c.run_id.in_(some))
        for row in connection.execute(_AS_MEASURED.where(measured_runs.c.id.in_(some))):
            details = json.loads(row.details) if row.details else {}
            runs[task_of[row.id]].append(_from_row(row, details, tails.get(row.id, {})))
    return runs


def store_durably(store: Store, runs: Sequence[MeasuredRun]) -> tuple[dict[int, str], list[bool]]:
    """Store runs in one transaction of their own; what `under_other_facts` said before, and which of them were new.

    Raises StoreBusyError when somebody deletes meanwhile what the runs refer to, StoreUnreachableError.
    """
    try:
        return durable.writing(store, lambda at: (under_other_facts(at, runs), store_runs(at, runs)))
    except IntegrityError as error:
        if not driver_errors.is_missing_reference(error):
            raise
        raise StoreBusyError(
            f"something was deleted from {store.url_for_display} meanwhile", hint="start the import again"
        ) from error


def stored_digests(connection: sa.Connection, runs: Sequence[MeasuredRun]) -> set[bytes]:
    """Return the digests of the runs that are stored."""
    return set(bulk.stored_ids(connection, measured_runs, "digest", [run.digest() for run in runs]))


def under_other_facts(connection: sa.Connection, runs: Sequence[MeasuredRun]) -> dict[int, str]:
    """Return runs whose figures are stored already as those of another case or server: by position, from where.

    Equal are model, date, the run's own name and every figure, of which there are at least two.
    """

    def identity(model: str, measured_on: date | None, run: object, figures: Sequence[float | None]) -> object:
        return model, measured_on, run, tuple(figures)

    query = (
        sa.select(models.c.name, *measured_runs.c["digest", "measured_on", "details", "source", *METRICS])
        .select_from(measured_runs.join(cases).join(models))
        .where(models.c.name.in_({run.model for run in runs}))
    )
    stored: dict[object, tuple[bytes, str]] = {}
    for row in connection.execute(query):
        details = json.loads(row.details) if row.details else {}
        key = identity(row.name, row.measured_on, details.get("run"), [getattr(row, name) for name in METRICS])
        stored[key] = row.digest, details.get("file") or row.source
    places = {}
    for position, run in enumerate(runs):
        figures = [run.figure(name) for name in METRICS]
        key = identity(run.model, run.day, run.details.get("run"), figures)
        digest, place = stored.get(key, (run.digest(), ""))
        if digest != run.digest() and len([figure for figure in figures if figure is not None]) > 1:
            places[position] = place
    return places


def stored_runs(
    connection: sa.Connection, patterns: Sequence[str] = (), *, rate_driven: bool = False, implausible: bool = False
) -> list[MeasuredRun]:
    """Return the stored runs estimates compare with, closed loops and offline maxima, oldest import first.

    Of plain deployments alone: no tokens drafted, no prefix cached, not disaggregated, the server's own options, and
    requests that do not vary; nor where the client was the limit. Without those that beat their hardware, unless they
    are asked for.

    With `rate_driven` also runs at a request rate whose mean concurrency is known, as closed loops of it.
    """
    details = {row.id: row.details for row in matching_runs(connection, patterns)}
    query = _AS_MEASURED.where(
        sa.or_(
            measured_runs.c.load != "request_rate",
            sa.and_(sa.literal(rate_driven), measured_runs.c.concurrency.is_not(None)),
        ),
        sa.or_(sa.literal(implausible), measured_runs.c.implausible.is_(None)),
        cases.c.traffic_id.is_(None),
        cases.c.speculative == "",
    )
    tails = _tails(connection)
    return [
        _from_row(row, details[row.id], tails.get(row.id, {}))
        for row in connection.execute(query)
        if row.id in details and variant(details[row.id]) is None
    ]


_AS_MEASURED = (
    sa.select(
        measured_runs,
        models.c.name.label("model"),
        gpus.c.name.label("gpu"),
        *cases.c[(*PARALLELISM, "precision", "kv_precision", "server", "server_options", *_ASKED)],
    )
    .select_from(measured_runs.join(cases).join(models).join(gpus))
    .order_by(measured_runs.c.id)
)


def _tails(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> dict[int, dict[tuple[str, float], float]]:
    """Return the percentiles of runs, by the ids of these."""
    tails: dict[int, dict[tuple[str, float], float]] = defaultdict(dict)
    for tail in connection.execute(sa.select(percentiles).where(*which)):
        tails[tail.run_id][tail.metric, tail.percentile] = tail.value
    return tails


def _from_row(row: sa.Row[Any], details: Mapping[str, Any], tails: Mapping[tuple[str, float], float]) -> MeasuredRun:
    if options := dict(options_from(row.server_options)):
        # Of a case that was measured here; of other runs the source tells them.
        details = {**details, "server_options": options | details.get("server_options", {})}
    derived = {name: getattr(row, name) for name in details.get("derived", ()) if name in _FOLLOWS}
    figures: dict[str, Any] = {name: None if name in derived else getattr(row, name) for name in METRICS}
    return MeasuredRun(
        id=row.digest.hex(),
        model=row.model,
        gpu=row.gpu,
        **{short: getattr(row, name) for short, name in SHORT_SIZES.items()},
        precision=Precision(row.precision),
        kv_precision=None if row.kv_precision is None else Precision(row.kv_precision),
        server=row.server,
        server_version=row.server_version,
        input_len=row.input_len,
        output_len=row.output_len,
        concurrency=row.concurrency,
        # One at a request rate counts as a closed loop of what was in flight.
        request_rate=None if row.concurrency is not None else row.request_rate,
        **figures,
        # A run whose share nobody said hangs on a case with the default.
        gpu_memory_utilization=None if row.gpu_memory_utilization == DEFAULT_MEMORY else row.gpu_memory_utilization,
        max_model_len=None if row.max_model_len == row.input_len + row.output_len else row.max_model_len,
        measured_on=day_or_month(row.measured_on, details),
        source=row.source,
        tool=row.tool,
        native_itl_name=row.native_itl_name,
        native_itl_ms=row.native_itl_ms,
        percentiles=tails,
        derived=derived,
        details=details,
    )


def digest_without_kv(digest: bytes) -> bytes:
    """Return the digest of a case whose KV precision is not known, from that of the same case with a BF16 cache."""
    return hashlib.sha256(_UNKNOWN_KV + digest).digest()[:DIGEST_BYTES]


def _store_cases(connection: sa.Connection, runs: Sequence[MeasuredRun]) -> list[int]:
    complete = [run.case for run in runs if run.case is not None]
    if len(complete) < len(runs):
        raise ValueError("a run without a case cannot be stored")
    model_ids = _registered(connection, [case.model for case in complete], register_models)
    gpu_ids = _registered(connection, [case.gpu for case in complete], register_gpus)
    known = [run.kv_precision is not None for run in runs]
    asked = [
        case if kv else replace(case, kv_precision=Precision.BF16) for case, kv in zip(complete, known, strict=True)
    ]
    digests = zip(known, CaseColumns.of(asked).digests(), strict=True)
    ids, _ = bulk.insert_missing(
        connection,
        cases,
        "digest",
        {
            # No case with a known KV precision has the digest of one without.
            "digest": [digest if kv else digest_without_kv(digest) for kv, digest in digests],
            "model_id": model_ids,
            "gpu_id": gpu_ids,
            "kv_precision": [run.kv_precision and run.kv_precision.value for run in runs],
            "max_model_len": [case.context_len for case in complete],
            "traffic_id": register_traffics(connection, [case.traffic.shape_text for case in complete]),
            "request_rate": [case.traffic.request_rate for case in complete],
            "server_options": [options_text(case.server_options) for case in complete],
            "speculative": [case.speculative.text for case in complete],
            **{name: [_plain(getattr(case, name)) for case in complete] for name in _CASE_COLUMNS},
        },
    )
    return ids


def _registered(
    connection: sa.Connection, things: Sequence[_T], register: Callable[[sa.Connection, list[_T]], list[int]]
) -> list[int]:
    """Return the id of every thing; each is registered once."""
    unique = {id(thing): thing for thing in things}
    ids = dict(zip(unique, register(connection, list(unique.values())), strict=True))
    return [ids[id(thing)] for thing in things]


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Precision) else value
