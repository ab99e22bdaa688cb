"""The Python API of a run: from a spec to results in a store, with the same defaults as the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import yaml

from gpuscout.runner.engines.base import MISSING, MissingEngine, note_of
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.execution.controller import RunCallbacks, RunReport, run_sweep
from gpuscout.runner.execution.executor_choice import Work, choose_executor
from gpuscout.runner.resolve.models import KnownModels
from gpuscout.runner.resolve.spec import all_problems, engine_entries, names_file, resolve
from gpuscout.store.database.connect import Store
from gpuscout.store.results.catalogues import StoredModels
from gpuscout.store.results.sweeps import SweepRecord, named_sweep, resolved_identity, spec_text
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.errors import InputError, SpecError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.spec.entries import ModelEntry
from gpuscout.sweeps.spec.spec import InvalidSpecError, SweepSpec, parse_spec
from gpuscout.sweeps.speculative import UNCHECKED
from gpuscout.sweeps.sweep import Sweep


def expand(spec: SweepSpec, *, gpu_file: Path | None = None, known: KnownModels | None = None) -> Expansion:
    """Return the tasks of a spec, with all names looked up. Raises SpecError with every name that is not known.

    `known` are models that need no network: `StoredModels` of an open store, `ModelsAt` of one there may be.
    """
    return Expansion(resolve(spec, gpu_file=gpu_file, known=known))


def read_and_expand(
    read: Callable[[], SweepSpec], *, gpu_file: Path | None = None, known: KnownModels | None = None
) -> tuple[SweepSpec, Expansion]:
    """Return a spec and its tasks. Raises SpecError with all that is wrong, with its form and with its names, at once.

    >>> spec, expansion = read_and_expand(lambda: load_spec("sweep.yaml"))
    """
    try:
        spec = read()
    except InvalidSpecError as invalid:
        raise all_problems(invalid, gpu_file=gpu_file, known=known) from None
    return spec, expand(spec, gpu_file=gpu_file, known=known)


def check_run(spec: SweepSpec, expansion: Expansion, *, executor: str = "auto", ray_address: str | None = None) -> None:
    """Check whether `run` would start at all: raises InputError for what it refuses, before anything is written."""
    choose_executor(expansion, executor=executor, ray_address=ray_address, work=Work())
    check_limits(spec, expansion)
    check_any(expansion)


def check_any(expansion: Expansion) -> None:
    """Raise InputError where no combination can run, with every reason."""
    census = expansion.census()
    if census.tasks:
        return
    reasons = dict.fromkeys(
        f"{exclusion.model}: {exclusion.detail}" if exclusion.model else exclusion.detail
        for exclusion in census.exclusions
    )
    raise InputError(
        f"nothing can run: all {census.combinations:,} combinations are impossible", hint="\n    ".join(reasons) or None
    )


def run(
    spec: SweepSpec,
    store: Store,
    *,
    expansion: Expansion | None = None,
    executor: str = "auto",
    ray_address: str | None = None,
    max_servers: int | None = None,
    gpu_file: Path | None = None,
    task_timeout_s: float | None = None,
    retry_failed: bool = False,
    callbacks: RunCallbacks | None = None,
    lock_wait_s: float | None = 0.0,
) -> RunReport:
    """Compute and store what the store lacks of a sweep. `expansion` is that of `spec`, if it was expanded before.

    `executor` is auto, in-process or ray. `max_servers` run at once of an engine that starts some; None: as many as
    there are GPUs for. `task_timeout_s` limits every engine, instead of what the spec says of it;
    None keeps that. With `retry_failed`, tasks that crashed or timed out before are tried again too. `lock_wait_s` is
    how long to wait for another runner of a SQLite store; None waits for ever. Raises SpecError (also when the sweep
    has more tasks than `limits.max_tasks`), SweepInterrupted after Ctrl-C, StoreBusyError, StoreUnreachableError.

    >>> spec = parse_spec("{name: first, models: Qwen3-8B, gpus: [L4, H100], workloads: chat}")
    >>> with open_store("gpuscout.db", create=True) as store:
    ...     report = run(spec, store)
    """
    if expansion is None:
        expansion = expand(spec, gpu_file=gpu_file, known=StoredModels(store))
    expansion = _as_on_workers(expansion, executor=executor, ray_address=ray_address)
    if task_timeout_s is not None:
        expansion = Expansion(_limited(expansion.sweep, task_timeout_s))
    check_run(spec, expansion, executor=executor, ray_address=ray_address)
    for notice in notes_of_engines(expansion.sweep):
        (callbacks or RunCallbacks()).notice(notice)
    return run_sweep(
        store,
        expansion,
        description=spec.description or "",
        spec_text=self_contained(spec, gpu_file=gpu_file),
        choose=lambda work: choose_executor(
            expansion, executor=executor, ray_address=ray_address, max_servers=max_servers, work=work
        ),
        callbacks=callbacks,
        lock_wait_s=lock_wait_s,
        retry_failed=retry_failed,
    )


def notes_of_engines(sweep: Sweep) -> list[str]:
    """Return notes on the estimates, a sentence each: which engines cannot run, why, what installs them."""
    engines = (cached_engine(part.name, part.options) for part in sweep.engines if part.fingerprint != MISSING)
    drafted = [UNCHECKED] if any(not drafts.is_plain for drafts in sweep.speculative) else []
    notes = (note for engine in engines if (note := note_of(engine)) is not None)
    return [*_missing_engines(sweep), *notes, *drafted]


def _missing_engines(sweep: Sweep) -> list[str]:
    engines = [
        cached_engine(part.name, part.options)
        for part in sweep.engines
        if part.fingerprint == MISSING and not part.placement.runtime_env
    ]
    return [
        f"engine {engine.name} cannot run, its tasks will fail: {engine.reason}"
        for engine in engines
        if isinstance(engine, MissingEngine)
    ]


def _as_on_workers(expansion: Expansion, *, executor: str, ray_address: str | None) -> Expansion:
    """Return the same with engines that only Ray's workers have, by their `runtime_env`, as they are there."""
    sweep = expansion.sweep
    elsewhere = [part for part in sweep.engines if part.fingerprint == MISSING and part.placement.runtime_env]
    if not elsewhere or executor == "in-process":
        return expansion
    from gpuscout.runner.execution.executors.ray import fingerprints

    found = dict(zip(map(id, elsewhere), fingerprints(elsewhere, ray_address), strict=True))
    parts = tuple(replace(part, fingerprint=found.get(id(part), part.fingerprint)) for part in sweep.engines)
    return Expansion(replace(sweep, engines=parts))


class RunOptions(TypedDict, total=False):
    """The options of `run`."""

    executor: str
    ray_address: str | None
    max_servers: int | None
    gpu_file: Path | None
    task_timeout_s: float | None
    retry_failed: bool
    callbacks: RunCallbacks | None
    lock_wait_s: float | None


def stored_spec(store: Store, name: str) -> tuple[SweepSpec, SweepRecord]:
    """Return the spec of a sweep of the store, as it was run last.

    Raises UnknownNameError, InputError where there is none.
    """
    with store.reading() as connection:
        record = named_sweep(connection, name)
        text = spec_text(connection, record.id)
    if not text.strip():
        raise InputError(
            f"no spec describes {record.name}: it was stored through the Python API",
            hint="call again what stored it: nothing that is stored is computed twice",
        )
    return parse_spec(text), record


def resume(store: Store, name: str, **options: Unpack[RunOptions]) -> RunReport:
    """Go on with a sweep of the store, without the file it was described in; the options are those of `run`.

    Raises UnknownNameError for a name the store does not hold, SpecError when a file that the spec names is gone, and
    InputError when what the spec means has changed since: the rest would not be of the same sweep.
    """
    spec, record = stored_spec(store, name)
    expansion = _as_on_workers(
        expand(spec, gpu_file=options.get("gpu_file"), known=StoredModels(store)),
        executor=options.get("executor", "auto"),
        ray_address=options.get("ray_address"),
    )
    sweep = expansion.sweep
    if sweep.digest() != record.digest:
        with store.reading() as connection:
            before = resolved_identity(connection, record.id)
        raise InputError(
            f"{name} cannot be resumed: {', '.join(changes(before, sweep.identity()))} changed since it was run",
            hint="gpuscout run SPEC makes a new revision of it and reuses what is stored",
        )
    return run(spec, store, expansion=expansion, **options)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences of two sweeps by their identities: keys of a spec, with named entries."""
    now = json.loads(canonical_json(dict(now)))
    changed = []
    for key in {**before, **now}:
        if before.get(key) == now.get(key):
            continue
        entries = [entry for side in (before, now) for entry in side.get(key) or () if isinstance(entry, dict)]
        names = {entry["name"] for entry in entries if "name" in entry}
        differing = sorted(n for n in names if _named(before.get(key), n) != _named(now.get(key), n))
        changed.append(f"{key} ({', '.join(differing)})" if differing else key)
    return changed


def _named(entries: Any, name: str) -> object:
    return [entry for entry in entries or () if entry.get("name") == name]


def self_contained(spec: SweepSpec, *, gpu_file: Path | None = None) -> str:
    """Return the text of a spec as it can be read anywhere on this machine: what it extends merged, its paths absolute.

    A spec without either is kept as it was written, comments included. `gpu_file` counts as named by the spec.
    """
    update: dict[str, object] = {}
    if any(entry.is_path for entry in spec.models):
        update["models"] = tuple(_with_absolute_path(spec, number) for number in range(len(spec.models)))
    if any(names_file(entry) for entry in spec.engines):
        update["engines"] = engine_entries(spec)
    if spec.gpu_file is not None:
        update["gpu_file"] = os.path.abspath(spec.resolve_path(("gpu_file",), spec.gpu_file))
    elif gpu_file is not None:
        update["gpu_file"] = os.path.abspath(gpu_file)
    if not update and "extends" not in yaml.safe_load(spec.text):
        return spec.text
    return spec.model_copy(update=update).to_yaml()


def _with_absolute_path(spec: SweepSpec, number: int) -> ModelEntry:
    entry = spec.models[number]
    if not entry.is_path:
        return entry
    return entry.model_copy(update={"model": os.path.abspath(spec.resolve_path(("models", number), entry.model))})


def _limited(sweep: Sweep, task_timeout_s: float) -> Sweep:
    if task_timeout_s <= 0:
        raise InputError("a task timeout must be more than 0 s")
    parts = (replace(part, placement=replace(part.placement, task_timeout_s=task_timeout_s)) for part in sweep.engines)
    return replace(sweep, engines=tuple(parts))


# More combinations than this are not even counted, unless `limits.max_tasks` says when to stop.
_MOST_COMBINATIONS = 2 * 10**9
_COUNTED_AT_ONCE = 1 << 17


def check_limits(spec: SweepSpec, expansion: Expansion) -> None:
    """Raise SpecError when a sweep is larger than it may be; counts its tasks only as far as that takes."""
    limit = spec.limits.max_tasks
    asked = expansion.raw_combinations * len(expansion.sweep.engines)
    if limit is None:
        if asked > _MOST_COMBINATIONS:
            raise SpecError(
                [
                    spec.problem(
                        ("limits", "max_tasks"),
                        f"the sweep has {asked:,} combinations; more than {_MOST_COMBINATIONS:,} are not even counted",
                        "shorten its lists, or say how many tasks you expect: limits: {max_tasks: …}",
                    )
                ]
            )
        return
    if asked <= limit:
        return
    tasks, whole = _tasks_up_to(limit, expansion)
    if tasks > limit:
        number = f"{tasks:,}" if whole else f"at least {tasks:,}"
        raise SpecError([spec.problem(("limits", "max_tasks"), f"the sweep has {number} tasks, {limit:,} are allowed")])


def _tasks_up_to(limit: int, expansion: Expansion) -> tuple[int, bool]:
    """Return the number of tasks, and whether all were counted: counting ends once they are more than `limit`."""
    sweep = expansion.sweep
    # In blocks as large as counting likes them; of whom they are asked makes no difference to their number.
    engines = tuple(replace(part, block_size=_COUNTED_AT_ONCE) for part in sweep.engines)
    blocks = Expansion(replace(sweep, engines=engines))
    tasks = 0
    for block in range(blocks.block_count):
        tasks += len(blocks.block(block))
        if tasks > limit:
            return tasks, block == blocks.block_count - 1
    return tasks, True
