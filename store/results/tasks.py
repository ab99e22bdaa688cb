"""Storing the answers of a block, exactly once, and looking up what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from gpuscout.store.database import bulk
from gpuscout.store.database.columns import Coded
from gpuscout.store.results.blocks import claimed_by, count_open_failures, finish_if_done
from gpuscout.store.results.growth import Offer, grow
from gpuscout.store.results.registry import (
    RegisteredIds,
    register_gpus,
    register_ladder,
    register_models,
    register_names,
    register_traffics,
    stored_ladders,
)
from gpuscout.store.schema import blocks, cases, failures, membership, operating_points, point_percentiles, tasks
from gpuscout.sweeps.cases import COLUMN_NAMES, CaseColumns, canonical_json
from gpuscout.sweeps.curves import BOUNDS, METRICS, PERCENTILE_COLUMNS, SERVER_METRICS, Curves, IntArray, Points
from gpuscout.sweeps.outcomes import OUTCOMES
from gpuscout.sweeps.precision import PRECISIONS
from gpuscout.sweeps.servers.options import options_text
from gpuscout.sweeps.settings import PARALLELISM
from gpuscout.sweeps.text import clean

__all__ = ["Answer", "BlockResult", "RegisteredIds", "StoredTask", "commit_block", "register_names", "stored_tasks"]

_Thing = TypeVar("_Thing")

_PLAIN_CASE_COLUMNS = (*PARALLELISM, "num_gpus", "gpu_memory_utilization", "max_model_len", "input_len", "output_len")
_LONGEST_TEXT = 4_000  # characters kept of a message; tracebacks of engines can be endless
_OUTCOME_NAMES = [outcome.value for outcome in OUTCOMES]
_BOUND_NAMES = [bound.value for bound in BOUNDS]
_PRECISION_NAMES = [precision.value for precision in PRECISIONS]
_IS_ANSWER = np.array([outcome.is_answer for outcome in OUTCOMES])


class StoredTask(NamedTuple):
    """A stored answer. `ladder`: every concurrency asked so far, ascending; `fits_up_to` None: no early end."""

    id: int
    ladder: tuple[int, ...]
    outcome: str
    fits_up_to: int | None


@dataclass(frozen=True)
class Answer:
    """Answer of an engine for the tasks at `positions` of a block, asked for the concurrencies of `ladder`."""

    positions: IntArray
    ladder: IntArray
    curves: Curves


@dataclass(frozen=True)
class BlockResult:
    """Everything about one evaluated block. `cases` and `keys` are all its tasks.

    Each position is in one of the answers or in `reused`, which gives the id of a task that was stored already and
    asked for enough; positions in neither are tasks that were not tried, and stay lacking.
    """

    sweep_id: int
    block: int
    attempt: int
    runner_id: int
    engine_id: int
    cases: CaseColumns
    keys: Sequence[bytes]
    answers: Sequence[Answer] = ()
    reused: Mapping[int, int] = field(default_factory=dict)


def stored_tasks(connection: sa.Connection, keys: Sequence[bytes]) -> dict[bytes, StoredTask]:
    """Return the keys of these that have an answer. 100,000 keys take well under a second."""
    ladder_of = stored_ladders(connection)
    query = sa.select(tasks.c.key, tasks.c.id, tasks.c.ladder_id, tasks.c.outcome, tasks.c.fits_up_to)
    return {
        key: StoredTask(task_id, ladder_of[ladder_id], outcome, fits_up_to)
        for key, task_id, ladder_id, outcome, fits_up_to in bulk.select_by_keys(connection, query, tasks.c.key, keys)
    }


def commit_block(connection: sa.Connection, result: BlockResult) -> bool:
    """Store a block: cases, tasks, points, failures, membership and state, in the caller's one transaction.

    False, and nothing is written, when the claim was lost: the block belongs to another attempt now. A task that
    somebody else has stored meanwhile stays theirs and only gets the points it lacks. A curve asked for more
    concurrencies than before grows; what is stored of it never changes. When this was the last open block of the
    sweep, the sweep is finished.
    """
    now = datetime.now(UTC)
    done = connection.execute(
        sa.update(blocks)
        .where(*claimed_by(result.sweep_id, result.block, result.runner_id, result.attempt))
        .values(state="done", finished_at=now, task_count=len(result.keys))
    )
    if not done.rowcount:
        return False
    known, new = set(result.reused.values()), set[int]()
    failed = False
    if result.answers:
        said = _Said(result)
        case_ids = _store_cases(connection, result.cases, said.position)
        for task_id, inserted in zip(*_store_tasks(connection, result, said, case_ids, now), strict=True):
            (new if inserted else known).add(task_id)
        failed = _store_failures(connection, result, said, case_ids, now)
    # A task that is new in this transaction cannot be a member yet.
    for members, maybe_stored in ((new, ()), (known - new, ("sweep_id", "task_id"))):
        rows = {"sweep_id": result.sweep_id, "task_id": sorted(members)}
        bulk.insert(connection, membership, rows, unless_stored=maybe_stored)
    if failed or result.attempt > 1:
        connection.execute(
            sa.update(blocks)
            .where(blocks.c.sweep_id == result.sweep_id, blocks.c.block == result.block)
            .values(failure_count=count_open_failures(connection, result.sweep_id, result.block))
        )
    finish_if_done(connection, result.sweep_id)
    return True


class _Said:
    """The answers of a block as one: `position` in the block, and the same columns as `Curves`, in one order."""

    def __init__(self, result: BlockResult) -> None:
        curves = [answer.curves for answer in result.answers]
        for answer in result.answers:
            if len(answer.positions) != len(answer.curves):
                raise ValueError(f"{len(answer.curves)} answers to {len(answer.positions)} tasks")
        self.position = np.concatenate([answer.positions for answer in result.answers])
        if len(self.position) + len(result.reused) != len({*self.position.tolist(), *result.reused}):
            raise ValueError("a task of the block is answered or reused twice")
        self.starts = np.cumsum([0, *(len(part) for part in curves)])
        self.answer = np.repeat(np.arange(len(curves)), [len(part) for part in curves])
        self.outcome = np.concatenate([part.outcome for part in curves])
        self.is_answer: npt.NDArray[np.bool_] = _IS_ANSWER[self.outcome]
        self.needed_gib = np.concatenate([part.needed_gib for part in curves])
        self.usable_gib = np.concatenate([part.usable_gib for part in curves])
        self.kv_capacity_tokens = np.concatenate([part.kv_capacity_tokens for part in curves])
        self.fits_up_to = np.concatenate([part.fits_up_to for part in curves])
        self.details = {
            start + row: clean(text)[:_LONGEST_TEXT]
            for start, part in zip(self.starts.tolist(), curves, strict=False)
            for row, text in part.details.items()
        }

        self.extras = {
            start + row: canonical_json(dict(extra)).decode()
            for start, part in zip(self.starts.tolist(), curves, strict=False)
            for row, extra in part.extras.items()
        }

    def __len__(self) -> int:
        return len(self.position)


def _store_cases(connection: sa.Connection, rows: CaseColumns, position: IntArray) -> npt.NDArray[np.int64]:
    """Return the ids of the cases at these positions, those not known yet stored."""
    digests = rows.digests()
    columns = {name: getattr(rows, name)[position] for name in (*COLUMN_NAMES, "num_gpus")}
    ids, _ = bulk.insert_missing(
        connection,
        cases,
        "digest",
        {
            "digest": [digests[row] for row in position.tolist()],
            "model_id": _ids_of(columns["model"], rows.models, partial(register_models, connection)),
            "gpu_id": _ids_of(columns["gpu"], rows.gpus, partial(register_gpus, connection)),
            "precision": Coded(columns["precision"], _PRECISION_NAMES),
            "kv_precision": Coded(columns["kv_precision"], _PRECISION_NAMES),
            "server": Coded(columns["server"], rows.servers),
            "traffic_id": register_traffics(
                connection, [rows.traffics[code].shape_text for code in columns["traffic"].tolist()]
            ),
            "request_rate": [rows.traffics[code].request_rate for code in columns["traffic"].tolist()],
            "server_options": Coded(columns["options"], [options_text(options) for options in rows.server_options]),
            "speculative": Coded(columns["draft"], [draft.text for draft in rows.drafts]),
            **{name: columns[name] for name in _PLAIN_CASE_COLUMNS},
        },
    )
    return np.array(ids, dtype=np.int64)


def _ids_of(codes: IntArray, things: Sequence[_Thing], register: Callable[[list[_Thing]], list[int]]) -> list[int]:
    """Return the id of every code's thing; only those that occur are registered."""
    occurring, inverse = np.unique(codes, return_inverse=True)
    ids: list[int] = np.array(register([things[code] for code in occurring.tolist()]))[inverse].tolist()
    return ids


def _store_tasks(
    connection: sa.Connection, result: BlockResult, said: _Said, case_ids: npt.NDArray[np.int64], now: datetime
) -> tuple[list[int], list[bool]]:
    """Store the answers that are final and their points; the ids of their tasks and which of these are new."""
    final = np.flatnonzero(said.is_answer)
    if not len(final):
        return [], []
    ladders = [tuple(answer.ladder.tolist()) for answer in result.answers]
    # In one order for all: two transactions that register the same new ones must not wait for each other.
    id_of = {ladder: register_ladder(connection, ladder) for ladder in sorted(set(ladders))}
    ladder_ids = np.array([id_of[ladder] for ladder in ladders])
    ids, inserted = bulk.insert_missing(
        connection,
        tasks,
        "key",
        {
            "key": [result.keys[position] for position in said.position[final].tolist()],
            "case_id": case_ids[final],
            "engine_id": result.engine_id,
            "ladder_id": ladder_ids[said.answer[final]],
            "outcome": Coded(said.outcome[final], _OUTCOME_NAMES),
            "detail": [said.details.get(row) for row in final.tolist()],
            "extras": [said.extras.get(row) for row in final.tolist()],
            "needed_gib": said.needed_gib[final],
            "usable_gib": said.usable_gib[final],
            "kv_capacity_tokens": _unless_negative(said.kv_capacity_tokens[final]),
            "fits_up_to": _unless_negative(said.fits_up_to[final]),
            "created_at": now,
        },
    )
    task_ids = np.full(len(said), -1, dtype=np.int64)
    task_ids[final] = ids
    grown = np.zeros(len(said), dtype=bool)
    if not all(inserted):
        stored = final[~np.array(inserted)]
        grown[stored] = grow(
            connection,
            [
                Offer(
                    int(task_ids[row]),
                    result.answers[said.answer[row]].ladder.tolist(),
                    OUTCOMES[said.outcome[row]],
                    int(said.fits_up_to[row]) if said.fits_up_to[row] >= 0 else None,
                )
                for row in stored.tolist()
            ],
        )
    fresh = np.zeros(len(said), dtype=bool)
    fresh[final] = inserted
    for answer, start in zip(result.answers, said.starts.tolist(), strict=False):
        row = answer.curves.points.task + start
        _store_points(connection, answer.curves.points, task_ids[row], fresh[row])
        _store_points(connection, answer.curves.points, task_ids[row], grown[row], unless_stored=True)
    return ids, inserted


def _store_points(
    connection: sa.Connection,
    points: Points,
    task_ids: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.bool_],
    *,
    unless_stored: bool = False,
) -> None:
    """Store the chosen points; `task_ids` gives the task of each."""
    if not chosen.any():
        return
    pick: Any = slice(None) if chosen.all() else chosen
    bulk.insert(
        connection,
        operating_points,
        {
            "task_id": task_ids[pick],
            "concurrency": points.concurrency[pick],
            **{name: getattr(points, name)[pick] for name in METRICS},
            "bound": Coded(points.bound[pick], _BOUND_NAMES),
            "queued": points.queued[pick],
            "regime": _unless_negative(points.regime[pick]),
            **_server_metrics(points, pick),
        },
        unless_stored=("task_id", "concurrency") if unless_stored else (),
    )
    if points.percentiles is None:
        return
    row, column = np.nonzero(~np.isnan(points.percentiles) & chosen[:, None])
    said = [PERCENTILE_COLUMNS[code] for code in column.tolist()]
    bulk.insert(
        connection,
        point_percentiles,
        {
            "task_id": task_ids[row],
            "concurrency": points.concurrency[row],
            "metric": [metric for metric, _ in said],
            "percentile": [percentile for _, percentile in said],
            "value": points.percentiles[row, column],
        },
        unless_stored=("task_id", "concurrency", "metric", "percentile") if unless_stored else (),
    )


def _server_metrics(points: Points, pick: Any) -> dict[str, np.ma.MaskedArray[Any, Any]]:
    """Return the columns of what engines know of the server; none where none of these engines does."""
    if points.server_metrics is None:
        return {}
    values = points.server_metrics[pick]
    return {
        name: np.ma.masked_array(values[:, place], np.isnan(values[:, place]))
        for place, name in enumerate(SERVER_METRICS)
    }


def _store_failures(
    connection: sa.Connection, result: BlockResult, said: _Said, case_ids: npt.NDArray[np.int64], now: datetime
) -> bool:
    """Store what failed in this attempt; whether anything did."""
    failed = np.flatnonzero(~said.is_answer)
    names = [_OUTCOME_NAMES[code] for code in said.outcome[failed].tolist()]
    bulk.insert(
        connection,
        failures,
        {
            "sweep_id": result.sweep_id,
            "block": result.block,
            "attempt": result.attempt,
            "task_key": [result.keys[position] for position in said.position[failed].tolist()],
            "case_id": case_ids[failed],
            "engine_id": result.engine_id,
            "outcome": names,
            "message": [said.details.get(row, name) for row, name in zip(failed.tolist(), names, strict=True)],
            "failed_at": now,
        },
    )
    return bool(len(failed))


def _unless_negative(values: IntArray) -> np.ma.MaskedArray[Any, Any]:
    """Return NULL where an engine does not say."""
    return np.ma.masked_array(values, values < 0)
