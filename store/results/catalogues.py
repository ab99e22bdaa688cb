"""The model architectures and GPUs in a store, found again by name: a model fetched once needs no network any more."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.remembered import remembered
from gpuscout.store.results.registry import register_models
from gpuscout.store.schema import gpus, models
from gpuscout.sweeps.errors import NoStoreError
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec

# How stored architectures show that something about them was guessed or assumed.
APPROXIMATE_MARK = '"approximate":true'
_DOUBTFUL = (APPROXIMATE_MARK, '"assumed":')


def stored_models(connection: sa.Connection, names: Sequence[str]) -> dict[str, ModelSpec]:
    """Return the architectures stored last under these names; names that are not stored are left out.

    An architecture written by a release that described models differently counts as not stored.
    """
    # What was assumed while the Hub could not be asked must not stand in for its answer.
    return {name: model for name, model in _described(connection, names).items() if model.assumed is None}


def _described(connection: sa.Connection, names: Collection[str]) -> dict[str, ModelSpec]:
    query = sa.select(models.c.name, models.c.architecture).where(models.c.name.in_(names)).order_by(models.c.id)
    found = {}
    for name, text in connection.execute(query):
        with suppress(KeyError, TypeError, ValueError):
            found[name] = ModelSpec.from_dict(json.loads(text))
    return found


def caveats_of(connection: sa.Connection, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the caveats of the models that have any (`ModelSpec.caveats`), which their answers carry."""
    key = (caveats_of, frozenset(names))
    return remembered(connection, key, lambda: _caveats_of(connection, names))


def _caveats_of(connection: sa.Connection, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    doubtful = sa.or_(*(models.c.architecture.contains(mark) for mark in _DOUBTFUL))
    query = sa.select(models.c.name).where(models.c.name.in_(names), doubtful)
    if not (marked := [name for (name,) in connection.execute(query)]):
        return {}
    return {name: model.caveats for name, model in _described(connection, marked).items() if model.caveats}


class StoredModels:
    """The models of an open store, as `resolve` looks them up and adds to them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, names: Sequence[str]) -> dict[str, ModelSpec]:
        """Return the architectures stored last under these names. Raises StoreUnreachableError."""
        with self._store.reading() as connection:
            return stored_models(connection, names)

    def remember(self, architectures: Sequence[ModelSpec]) -> None:
        """Store models that were fetched, each under its own name. Raises StoreBusyError, StoreUnreachableError."""
        with self._store.writing() as connection:
            register_models(connection, architectures)


class ModelsAt:
    """The models of the store at a URL, opened when it is first asked; where there is no store, nothing is known.

    Only reads: never creates or changes a store. Raises what `open_store` raises for one that cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def find(self, names: Sequence[str]) -> dict[str, ModelSpec]:
        """Return the architectures stored last under these names."""
        try:
            store = open_store(self._url)
        except NoStoreError:
            return {}
        with store:
            return StoredModels(store).find(names)

    def remember(self, architectures: Sequence[ModelSpec]) -> None:
        """Remember nothing: this view only reads."""


def stored_gpus(connection: sa.Connection) -> list[GPUSpec]:
    """Return every GPU by name. Figures written by a release that described GPUs differently count as not stored."""
    found: dict[str, GPUSpec] = {}
    for name, text in connection.execute(sa.select(gpus.c.name, gpus.c.figures).order_by(gpus.c.id)):
        with suppress(KeyError, TypeError, ValueError):
            found[name] = GPUSpec.from_dict(json.loads(text))
    return list(found.values())


def newest_figures(connection: sa.Connection, table: sa.Table, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the `to_dict` values of the models or GPUs (by `table`) stored last under these names, by name."""
    asked = sorted(names)
    column = table.c.architecture if table is models else table.c.figures
    stored = sa.select(table.c.name, column).where(table.c.name.in_(asked)).order_by(table.c.created_at, table.c.id)
    return remembered(
        connection,
        (newest_figures, table.name, *asked),
        lambda: {name: json.loads(text) for name, text in connection.execute(stored)},
    )
