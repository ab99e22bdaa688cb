"""Lookup of the names people type for models, GPUs, engines, sweeps and workloads in the store.

The tables of names are small: they are read as a whole and matched here, so that queries compare ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from gpuscout.store.ranking.question.asked import BENCHMARK, MEASURED, Kind, Question
from gpuscout.store.remembered import remembered
from gpuscout.store.schema import (
    engines,
    gpus,
    imported_workloads,
    ladders,
    models,
    sweep_engines,
    sweep_workloads,
    sweeps,
    traffics,
)
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.groups import member_of
from gpuscout.sweeps.names import matches, meant, near
from gpuscout.sweeps.servers import taken_for_engine
from gpuscout.sweeps.workloads import RATE_MARK

_LISTED = 8
_NO_ESTIMATES = (MEASURED, BENCHMARK)


@dataclass(frozen=True)
class SweepParts:
    """A sweep as far as a ranking needs it. `ladders`: the concurrencies it asks of each engine, by engine id."""

    id: int
    name: str
    ladders: Mapping[int, frozenset[int]]


def find_sweep_parts(connection: sa.Connection, wanted: str | int) -> SweepParts:
    """Return the newest revision of the sweep of this name (the one that was run last), or else the sweep of this id.

    Raises UnknownNameError.
    """
    rows = connection.execute(sa.select(sweeps.c.id, sweeps.c.name).order_by(sweeps.c.latest_run.desc())).all()
    text = str(wanted)
    named = [(row.id, row.name) for row in rows if row.name == wanted]
    named += [(row.id, row.name) for row in rows if str(row.id) == text]
    if not named:
        names = list(dict.fromkeys(row.name for row in rows))
        hint = f"the store has {listed(names)}" if names else "the store has no sweeps yet: gpuscout run SPEC"
        raise UnknownNameError("sweep", text, nearest(text, names), hint=hint)
    sweep_id, name = named[0]
    asked: dict[int, frozenset[int]] = {}
    parts = (
        sa.select(sweep_engines.c.engine_id, ladders.c.concurrencies)
        .join(ladders, ladders.c.id == sweep_engines.c.ladder_id)
        .where(sweep_engines.c.sweep_id == sweep_id)
        .order_by(sweep_engines.c.position)
    )
    for engine_id, steps in connection.execute(parts):
        asked[engine_id] = asked.get(engine_id, frozenset()) | {int(step) for step in steps.split(",")}
    return SweepParts(sweep_id, name, asked)


@dataclass(frozen=True)
class NameIndex:
    """One table of names: the ids of each name. Several ids are versions of one thing, whose figures differ."""

    ids: Mapping[str, tuple[int, ...]]

    @property
    def have_versions(self) -> bool:
        return any(len(ids) > 1 for ids in self.ids.values())

    def only(self, chosen: Iterable[str]) -> NameIndex:
        return NameIndex({name: self.ids[name] for name in chosen})

    def all_ids(self) -> list[int]:
        return [row_id for ids in self.ids.values() for row_id in ids]


def stored_names(connection: sa.Connection, table: sa.Table) -> NameIndex:
    """Return every name of `models`, `gpus` or `engines`, the one stored last first."""
    return remembered(connection, (stored_names, table.name), lambda: _stored_names(connection, table))


def _stored_names(connection: sa.Connection, table: sa.Table) -> NameIndex:
    found: dict[str, tuple[int, ...]] = {}
    for row in connection.execute(
        sa.select(table.c.id, table.c.name).order_by(table.c.created_at.desc(), table.c.id.desc())
    ):
        found[row.name] = (*found.get(row.name, ()), row.id)
    return NameIndex(found)


def stored_gpus(connection: sa.Connection) -> NameIndex:
    """Return every name of a GPU, the one stored last first."""
    return stored_names(connection, gpus)


def choose_models(connection: sa.Connection, wanted: Sequence[str]) -> NameIndex:
    """Return the models of these names (see `gpuscout.sweeps.names`), earlier names included.

    Raises UnknownNameError.
    """
    from gpuscout.sweeps.models.catalogue import ModelCatalogue

    return _choose(stored_names(connection, models), "model", wanted, ModelCatalogue.load().spellings)


def choose_gpus(
    connection: sa.Connection,
    wanted: Sequence[str],
    *,
    vendors: Sequence[str] = (),
    min_memory_gb: float | None = None,
) -> NameIndex:
    """Return the GPUs of these names, aliases, globs, groups or vendors' spellings, whatever their case and separators.

    Of these the ones of a vendor and with so much memory (10^9 bytes). Raises UnknownNameError, InputError when the
    store has none.
    """
    known = stored_names(connection, gpus)
    if not wanted:
        return _having(connection, known, vendors, min_memory_gb)
    rows = connection.execute(sa.select(gpus.c.name, gpus.c.vendor, gpus.c.figures).order_by(gpus.c.created_at))
    figures = {row.name: {"vendor": row.vendor} | json.loads(row.figures) for row in rows}
    aliases = {name: known_of.get("aliases", ()) for name, known_of in figures.items()}
    names: list[str] = []
    for text in wanted:
        belongs = member_of(text)
        group = [n for n in known.ids if belongs(n, figures[n]["vendor"], figures[n].get("family", ""))]
        names += group or [_catalogued(text, known)]
    chosen = _choose(known, "GPU", names, aliases.__getitem__)
    return _having(connection, chosen, vendors, min_memory_gb)


def _having(
    connection: sa.Connection, known: NameIndex, vendors: Sequence[str], min_memory_gb: float | None
) -> NameIndex:
    """Return the GPUs of these vendors with at least so much memory, by their newest figures."""
    if not vendors and min_memory_gb is None:
        return known
    rows = connection.execute(sa.select(gpus.c.name, gpus.c.vendor, gpus.c.memory_gb).order_by(gpus.c.created_at))
    newest = {row.name: row for row in rows}
    there = sorted({row.vendor for row in newest.values()})
    for vendor in vendors:
        if vendor.casefold() not in map(str.casefold, there):
            raise UnknownNameError("vendor", vendor, nearest(vendor, there), hint=f"the store has {listed(there)}")
    makers = {vendor.casefold() for vendor in vendors}
    chosen = [
        name
        for name in known.ids
        if (not makers or newest[name].vendor.casefold() in makers) and newest[name].memory_gb >= (min_memory_gb or 0)
    ]
    if not chosen and newest:
        conditions = [f"of {listed(vendors)}"] if vendors else []
        conditions += [f"with {min_memory_gb:g} GB or more"] if min_memory_gb is not None else []
        of = [newest[name] for name in known.ids]
        hint = (
            f"they are of {listed(sorted({row.vendor for row in of}))}, with up to {max(r.memory_gb for r in of):g} GB"
        )
        raise InputError(f"no GPU {' '.join(conditions)} among these", hint=hint)
    return known.only(chosen)


def choose_engines(connection: sa.Connection, wanted: Sequence[str]) -> NameIndex:
    """Return the engines of these names or globs in the order of `wanted`; without any, the newest engine first.

    "measured" and "benchmark" are names that are known and stand for none of them: see `means_measured`. Raises
    UnknownNameError.
    """
    known = stored_names(connection, engines)
    if wanted:
        known = NameIndex({**known.ids, **dict.fromkeys(_NO_ESTIMATES, ())})
    chosen = _choose(known, "engine", wanted)
    return chosen.only(name for name in chosen.ids if name not in _NO_ESTIMATES)


def means_measured(kinds: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return whether measured runs count: unless other kinds or engines are named. Raises UnknownNameError."""
    if kinds and Kind.MEASURED not in choose_word("kind", kinds, list(Kind)):
        return False
    return not wanted or any(matches(text, name) for text in wanted for name in _NO_ESTIMATES)


def means_estimated(kinds: Sequence[str]) -> bool:
    """Return whether estimates count. Raises UnknownNameError."""
    return not kinds or Kind.ESTIMATED in choose_word("kind", kinds, list(Kind))


def choose_word(kind: str, wanted: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the words of a closed vocabulary that are meant, whatever their case. Raises UnknownNameError."""
    for text in wanted:
        if text.casefold() not in words:
            raise UnknownNameError(kind, text, nearest(text, words), hint=f"allowed: {', '.join(words)}")
    return [text.casefold() for text in wanted]


@dataclass(frozen=True)
class NamedWorkload:
    """A name for requests of these lengths (tokens) and this traffic; `traffic_id` None: plain traffic."""

    name: str
    input_len: int
    output_len: int
    traffic_id: int | None


def workload_names(connection: sa.Connection, sweep_id: int | None) -> list[NamedWorkload]:
    """Return the workloads of a sweep, or of all sweeps, those run last first, and then those that were imported.

    At whatever rate, one has one name.
    """
    return remembered(connection, (workload_names, sweep_id), lambda: _workload_names(connection, sweep_id))


def _workload_names(connection: sa.Connection, sweep_id: int | None) -> list[NamedWorkload]:
    columns = ("name", "input_len", "output_len", "traffic_id")
    statement = (
        sa.select(*(sweep_workloads.c[name] for name in columns))
        .join(sweeps, sweeps.c.id == sweep_workloads.c.sweep_id)
        .order_by(sweeps.c.latest_run.desc(), sweep_workloads.c.name)
    )
    if sweep_id is not None:
        statement = statement.where(sweeps.c.id == sweep_id)
    found = [NamedWorkload(name.partition(RATE_MARK)[0], *rest) for name, *rest in connection.execute(statement)]
    if sweep_id is None:
        imported = sa.select(*(imported_workloads.c[name] for name in columns)).order_by(imported_workloads.c.id.desc())
        found += [NamedWorkload(*row) for row in connection.execute(imported)]
    return list(dict.fromkeys(found))


def workloads_called(workload: str, named: Sequence[NamedWorkload]) -> list[NamedWorkload]:
    """Return the workloads that go by this name, whatever its case. Raises UnknownNameError."""
    names = list(dict.fromkeys(known.name for known in named))
    found = [known for known in named if matches(workload, known.name)]
    if not found:
        there = f"the store has {listed(names)}; or" if names else "no sweep of the store names workloads:"
        hint = f"{there} give --input-len and --output-len"
        raise UnknownNameError("workload", workload, nearest(workload, names), hint=hint)
    return found


def traffics_asked(connection: sa.Connection, question: Question) -> list[int | None]:
    """Return the kinds of traffic that a question is about, each ranked by itself; None: plain traffic.

    Those of its workload or its sweep, else all that the store knows. Raises UnknownNameError.
    """
    known = connection.execute(sa.select(traffics.c.id).order_by(traffics.c.id)).scalars().all()
    if not known:
        return [None]
    sweep = None if question.sweep is None else find_sweep_parts(connection, question.sweep)
    named = workload_names(connection, sweep.id if sweep else None)
    if question.workload is not None:
        named = workloads_called(question.workload, named)
    elif sweep is None:
        return [None, *known]
    return list(dict.fromkeys(workload.traffic_id for workload in named)) or [None]


def listed(names: Sequence[str]) -> str:
    """Return text such as "a, b, c and 4 more" """
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _choose(
    known: NameIndex, kind: str, wanted: Sequence[str], others: Callable[[str], Iterable[str]] = lambda name: ()
) -> NameIndex:
    """Return the names that `wanted` stand for, in its order."""
    if not wanted:
        return known
    chosen: dict[str, None] = {}
    for text in wanted:
        found = meant(text, known.ids, others)
        if not found:
            raise _unknown(kind, text, known, others)
        chosen.update(dict.fromkeys(found))
    return known.only(chosen)


def _unknown(kind: str, text: str, known: NameIndex, others: Callable[[str], Iterable[str]]) -> InputError:
    if not known.ids:
        return InputError("the store holds no results yet", hint="gpuscout run SPEC computes some")
    there = f"the store has {listed(sorted(known.ids))}"
    if kind == "engine" and (server := taken_for_engine(text)):
        return UnknownNameError(kind, text, hint=f"{server}; {there}")
    return UnknownNameError(kind, text, near(text, known.ids, others), hint=there)


def _catalogued(text: str, known: NameIndex) -> str:
    """Return the stored name of a GPU that only the catalogue knows by this spelling (nvidia-smi's, Kubernetes')."""
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

    gpu = GPUCatalogue.load().find(text)
    return gpu.name if gpu is not None and gpu.name in known.ids and text not in known.ids else text
