"""Rows that many others refer to - models, GPUs, engines, ladders - registered once and found again by content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gpuscout.store.schema import engines, gpus, imported_workloads, ladders, models, traffics
from gpuscout.sweeps.cases import canonical_json, content_digest
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec


class EngineIdentity(Protocol):
    """Identity of an engine: all that determines its numbers; `options` must be JSON-able."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def options(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class RegisteredIds:
    """Ids in the order in which models and GPUs were given."""

    model_ids: tuple[int, ...]
    gpu_ids: tuple[int, ...]
    engine_id: int


def register_names(
    connection: sa.Connection, models: Sequence[ModelSpec], gpus: Sequence[GPUSpec], engine: EngineIdentity
) -> RegisteredIds:
    """Return the ids of models, GPUs and an engine; those not known yet are stored.

    Idempotent, safe beside other writers.
    """
    return RegisteredIds(
        tuple(register_models(connection, models)),
        tuple(register_gpus(connection, gpus)),
        register_engine(connection, engine),
    )


def register_models(connection: sa.Connection, architectures: Sequence[ModelSpec]) -> list[int]:
    """Return the ids of these models, in their order."""

    def row(position: int) -> dict[str, Any]:
        model = architectures[position]
        return {
            "architecture": canonical_json(model.to_dict()).decode(),
            "total_parameters": model.total_parameters,
            "active_parameters": model.active_parameters,
            "precision": model.precision.value,
            "max_context": model.max_context,
            "created_at": datetime.now(UTC),
        }

    identity = [{"name": model.name, "digest": model.digest()} for model in architectures]
    return register_rows(connection, models, identity, row)


def register_gpus(connection: sa.Connection, specs: Sequence[GPUSpec]) -> list[int]:
    """Return the ids of these GPUs, in their order."""

    def row(position: int) -> dict[str, Any]:
        gpu = specs[position]
        return {
            "vendor": gpu.vendor,
            "family": gpu.family,
            "memory_gb": gpu.memory_gb,
            "memory_bandwidth_gbs": gpu.memory_bandwidth_gbs,
            "figures": canonical_json(gpu.to_dict()).decode(),
            "created_at": datetime.now(UTC),
        }

    return register_rows(connection, gpus, [{"name": gpu.name, "digest": gpu.digest()} for gpu in specs], row)


def register_traffics(connection: sa.Connection, shapes: Sequence[str | None]) -> list[int | None]:
    """Return the ids of these shapes of traffic, in their order; None, plain traffic, has none."""
    named = sorted({shape for shape in shapes if shape is not None})
    ids = register_rows(connection, traffics, [{"shape": shape} for shape in named], lambda _: {})
    id_of = dict(zip(named, ids, strict=True))
    return [None if shape is None else id_of[shape] for shape in shapes]


def name_workloads(connection: sa.Connection, names: Iterable[tuple[str, int, int, int | None]]) -> None:
    """Store new names of workloads outside sweeps (name, input_len, output_len, traffic id), the newest last."""
    columns = ("name", "input_len", "output_len", "traffic_id")
    stored = set(map(tuple, connection.execute(sa.select(*(imported_workloads.c[name] for name in columns)))))
    if new := [dict(zip(columns, row, strict=True)) for row in names if row not in stored]:
        connection.execute(sa.insert(imported_workloads), new)


def register_engine(connection: sa.Connection, engine: EngineIdentity) -> int:
    """Return the id of an engine under its present fingerprint and options."""
    options = dict(engine.options)
    identity = {"name": engine.name, "fingerprint": engine.fingerprint, "options_digest": content_digest(options)}
    rest = {"options": canonical_json(options).decode(), "created_at": datetime.now(UTC)}
    return register_rows(connection, engines, [identity], lambda _: rest)[0]


def register_ladder(connection: sa.Connection, concurrencies: Iterable[int]) -> int:
    """Return the id of a set of concurrencies, in whatever order they are given."""
    text = ",".join(str(concurrency) for concurrency in sorted({int(c) for c in concurrencies}))
    return register_rows(connection, ladders, [{"concurrencies": text}], lambda _: {})[0]


def stored_ladders(connection: sa.Connection) -> dict[int, tuple[int, ...]]:
    """Return every ladder, ascending, by id; there are few."""
    rows = connection.execute(sa.select(ladders.c.id, ladders.c.concurrencies))
    return {ladder_id: tuple(int(part) for part in text.split(",")) for ladder_id, text in rows}


def register_rows(
    connection: sa.Connection,
    table: sa.Table,
    identity: Sequence[Mapping[str, Any]],
    rest: Callable[[int], Mapping[str, Any]],
) -> list[int]:
    """Return the ids of the rows with these identities, in their order; `rest` completes those not stored.

    Safe beside other writers.
    """
    if not identity:
        return []
    columns = [table.c[name] for name in identity[0]]
    wanted = [tuple(names.values()) for names in identity]

    def find() -> dict[tuple[Any, ...], int]:
        # The first column narrows enough: a name has few versions.
        query = sa.select(table.c.id, *columns).where(columns[0].in_({key[0] for key in wanted}))
        return {tuple(found): row_id for row_id, *found in connection.execute(query)}

    ids = find()
    # In the order of their identities, so that two transactions cannot wait for each other.
    missing = sorted((key, position) for position, key in enumerate(wanted) if key not in ids)
    if missing:
        make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        statement = make(table).on_conflict_do_nothing(index_elements=columns)
        for _, position in missing:
            connection.execute(statement, {**identity[position], **rest(position)})
        ids = find()
    return [ids[key] for key in wanted]
