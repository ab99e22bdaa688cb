"""Engines by name: those built in and those that other packages add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata

from gpuscout.runner.engines.base import Engine
from gpuscout.sweeps.cases import canonical_json
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest

ENTRY_POINTS = "gpuscout.engines"
EngineFactory = Callable[..., Engine]


def engine_names() -> list[str]:
    """Every engine that can be named, built-in ones first."""
    return list(_factories())


def create_engine(name: str, options: Mapping[str, object] | None = None) -> Engine:
    """The engine of this name with these options.

    Raises UnknownNameError for a name nobody provides and InputError for options the engine does not take.
    """
    factories = _factories()
    if name not in factories:
        raise UnknownNameError("engine", name, nearest(name, factories), hint=f"engines here: {', '.join(factories)}")
    try:
        return factories[name]()(**(options or {}))
    except TypeError as error:
        raise InputError(f"engine {name}: {error}") from error


_created: dict[tuple[str, bytes], Engine] = {}


def cached_engine(name: str, options: Mapping[str, object]) -> Engine:
    """Like `create_engine`, but one object a process: a worker answers many blocks with it."""
    key = (name, canonical_json(dict(options)))
    if key not in _created:
        _created[key] = create_engine(name, options)
    return _created[key]


def _roofline() -> EngineFactory:
    from gpuscout.runner.engines.roofline import RooflineEngine

    return RooflineEngine


@cache
def _factories() -> dict[str, Callable[[], EngineFactory]]:
    """What loads the engine class of each name; nothing is imported before it is called."""
    factories: dict[str, Callable[[], EngineFactory]] = {"roofline": _roofline}
    for entry_point in metadata.entry_points(group=ENTRY_POINTS):
        factories.setdefault(entry_point.name, entry_point.load)
    return factories
