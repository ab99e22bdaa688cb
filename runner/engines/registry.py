"""Engines by name: those built in and those that other packages add; their options checked, missing ones replaced."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib import metadata

from gpuscout.runner.engines.base import About, Cost, Engine, MissingEngine, Option, note_of, settled, trust_of
from gpuscout.runner.engines.guard import EngineFailed, guarded
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.servers import taken_for_engine
from gpuscout.sweeps.text import message_of
from gpuscout.sweeps.trust import Trust

ENTRY_POINTS = "gpuscout.engines"
_BUILT_IN = {
    "roofline": "gpuscout.runner.engines.roofline:RooflineEngine",
    "simulator": "gpuscout.runner.engines.simulator.engine:Simulator",
    "llm-optimizer": "gpuscout.runner.engines.llm_optimizer:LlmOptimizerEngine",
    "aiconfigurator": "gpuscout.runner.engines.aiconfigurator:AIConfiguratorEngine",
    "aisimulate": "gpuscout.runner.engines.aisimulate.engine:AISimulateEngine",
    "benchmark": "gpuscout.runner.engines.benchmark.engine:BenchmarkEngine",
}
EngineFactory = Callable[..., Engine]


def engine_names() -> list[str]:
    """Return every engine that can be named, built-in ones first."""
    return list(_factories())


def create_engine(name: str, options: Mapping[str, object] | None = None) -> Engine:
    """Return the engine of this name with these options; a `MissingEngine` when it is known but cannot run here.

    Raises UnknownNameError for a name nobody provides and InputError for options the engine does not take.
    """
    given = dict(options or {})
    try:
        with guarded(foreign=name not in _BUILT_IN):
            factory = _factory(name)
            declared = about_of(factory).options
            known = _parameters(factory) if declared is None else declared
    except EngineFailed as error:
        return MissingEngine(name, f"engine {name} does not load: {error}", options=given)
    _check_names(name, given, known)
    checked = given if declared is None else checked_options(name, given, declared)
    if name in _BUILT_IN:
        return _made(name, factory, checked)
    try:
        with guarded(foreign=True):
            engine = _made(name, factory, checked)
            if fault := interface_fault(engine):
                raise TypeError(fault)
    except EngineFailed as error:
        return MissingEngine(name, f"engine {name} cannot be used: {error}", options=given)
    return engine


def _made(name: str, factory: EngineFactory, options: dict[str, object]) -> Engine:
    try:
        engine = factory(**options)
    except TypeError as error:
        raise InputError(f"engine {name}: {message_of(error)}") from error
    missing = getattr(engine, "missing", None)
    why: str | None = missing() if missing is not None else None
    return engine if why is None else MissingEngine(name, why, cost=engine.cost, options=engine.options)


def interface_fault(engine: Engine) -> str | None:
    """Return the part of the interface that an engine lacks, by trying everything but an answer; None: nothing."""
    if not isinstance(engine.cost, Cost):
        return f"its cost is {engine.cost!r}, not one of {', '.join(map(str, Cost))}"
    if not isinstance(engine.in_process, bool):
        return f"its in_process is {engine.in_process!r}, not True or False"
    if not isinstance(engine.options, Mapping):
        return "its options are not a mapping"
    canonical_json(dict(engine.options))
    fingerprint = settled(engine).fingerprint()
    if not isinstance(fingerprint, str) or not fingerprint.strip():
        return f"its fingerprint is {fingerprint!r}, not a text"
    if not isinstance(trust_of(engine), Trust):
        return "its trust() is not a Trust"
    if not isinstance(note_of(engine), str | None):
        return "its note() is neither a text nor None"
    return None if callable(getattr(engine, "evaluate", None)) else "it has no evaluate()"


def about(name: str) -> About:
    """Return the description of the engine of this name. Raises UnknownNameError."""
    try:
        with guarded(foreign=name not in _BUILT_IN):
            factory = _factory(name)
            described = about_of(factory)
            return (
                described if described.options is not None else replace(described, options=_parameters(factory) or {})
            )
    except EngineFailed:  # it does not load: `create_engine` tells why
        return About()


def about_of(factory: EngineFactory) -> About:
    found = getattr(factory, "about", None)
    return found if isinstance(found, About) else About()


_created: dict[tuple[str, bytes], Engine] = {}


def cached_engine(name: str, options: Mapping[str, object]) -> Engine:
    """Create an engine once a process: a worker answers many blocks with it."""
    key = (name, canonical_json(dict(options)))
    if key not in _created:
        _created[key] = create_engine(name, options)
    return _created[key]


def checked_options(engine: str, given: Mapping[str, object], declared: Mapping[str, Option]) -> dict[str, object]:
    """Return the options with their defaults filled in. Raises InputError with everything that is wrong with them."""
    _check_names(engine, given, declared)
    problems = []
    checked = {name: option.default for name, option in declared.items()}
    for name, value in given.items():
        if value is None:
            continue
        accepted = _accepted(value, declared[name])
        if accepted is None:
            close = nearest(str(value), declared[name].choices, limit=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            problems.append(f"option {name}: must be {declared[name].allowed}, not {_quoted(value)}{meant}")
        checked[name] = accepted
    if problems:
        raise InputError("\n".join(f"engine {engine}, {problem}" for problem in problems))
    return checked


def _check_names(engine: str, given: Iterable[str], known: Mapping[str, Option] | None) -> None:
    """Raise InputError for options nobody knows; None knows any."""
    if known is None:
        return
    problems = []
    for name in given:
        if name in known:
            continue
        close = nearest(name, known, limit=1)
        problems.append(
            f"engine {engine} has no option {_quoted(name)}" + (f"; did you mean {close[0]}?" if close else "")
        )
    if problems:
        raise InputError("\n".join(problems), hint=f"its options: {', '.join(known) or 'none'}")


def _accepted(value: object, option: Option) -> object | None:
    """Return the value as the engine gets it; None when it is not allowed."""
    if option.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not option.kind:
        return None
    if option.choices:
        return {choice.casefold(): choice for choice in option.choices}.get(str(value).casefold())
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, list):
        return value if value and all(isinstance(part, str) and part.strip() for part in value) else None
    if isinstance(value, int | float):
        too_low = option.above is not None and value <= option.above
        too_high = option.at_most is not None and value > option.at_most
        if not math.isfinite(value) or too_low or too_high:
            return None
    return value


def _parameters(factory: EngineFactory) -> Mapping[str, Option] | None:
    """Return the options that a constructor's parameters name; None when it takes any."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    empty = inspect.Parameter.empty
    return {p.name: Option("", default=None if p.default is empty else p.default) for p in parameters}


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _factory(name: str) -> EngineFactory:
    factories = _factories()
    if name not in factories:
        there = f"installed engines: {', '.join(factories)}"
        if meant := taken_for_engine(name):
            raise UnknownNameError("engine", name, hint=f"{meant}; {there}")
        raise UnknownNameError("engine", name, nearest(name, factories), hint=there)
    factory: EngineFactory = factories[name]()
    return factory


@cache
def _factories() -> dict[str, Callable[[], EngineFactory]]:
    """Return a loader of the engine class for each name; nothing is imported before it is called."""
    built_in = (metadata.EntryPoint(name, place, ENTRY_POINTS) for name, place in _BUILT_IN.items())
    factories: dict[str, Callable[[], EngineFactory]] = {engine.name: engine.load for engine in built_in}
    for entry_point in metadata.entry_points(group=ENTRY_POINTS):
        factories.setdefault(entry_point.name, entry_point.load)
    return factories
