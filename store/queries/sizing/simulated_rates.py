"""Configurations that were simulated at several request rates, as sizing for a load takes them.

One replica carries the highest simulated rate at which all limits hold, and its figures at the share of the load that
it gets are those of the lowest simulated rate that is enough: what queues is in them, percentiles included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter

from gpuscout.store.ranking.types import Configuration, Group, RankedConfig

# A task is one rate; the settings are what stays.
_SETTINGS = tuple(one.name for one in fields(Configuration) if one.name not in ("task_id", "fingerprint"))
settings_of = attrgetter(*_SETTINGS)
"""What tells configurations of one group apart, at whatever rates."""


def highest_rates(configs: Iterable[RankedConfig]) -> list[tuple[RankedConfig, tuple[RankedConfig, ...]]]:
    """Return every configuration once, in the order given: at its highest rate, and at all its rates, ascending.

    Those of closed loops stay as they are, without any rates.
    """
    simulated: dict[object, list[RankedConfig]] = {}
    order: list[RankedConfig] = []
    for config in configs:
        if config.request_rate is None:
            order.append(config)
            continue
        rates = simulated.setdefault(settings_of(config), [])
        if not rates:
            order.append(config)
        rates.append(config)
    for rates in simulated.values():
        rates.sort(key=_rate)
    return [
        (config, ()) if config.request_rate is None else (rates[-1], tuple(rates))
        for config in order
        for rates in [simulated.get(settings_of(config), [])]
    ]


def enough_for(rates: Sequence[RankedConfig], rate: float) -> RankedConfig:
    """Return the lowest of the rates (ascending, the last one is enough) that is at least `rate`."""
    return next((config for config in rates if _rate(config) >= rate), rates[-1])


def of_one_load(groups: Sequence[Group], *, arriving: bool) -> list[Group]:
    """Return the groups; requests simulated both ways count under the load asked about alone."""
    loads: dict[object, set[bool]] = {}
    for group in groups:
        loads.setdefault(_requests(group), set()).add(_arrives(group))
    return [group for group in groups if _arrives(group) == arriving or arriving not in loads[_requests(group)]]


def _rate(config: RankedConfig) -> float:
    return config.request_rate or 0.0


def _shape(group: Group) -> dict[str, object]:
    shape: dict[str, object] = {} if group.traffic is None else json.loads(group.traffic)
    return shape


def _arrives(group: Group) -> bool:
    return "arrivals" in _shape(group)


def _requests(group: Group) -> tuple[object, ...]:
    shape = {name: part for name, part in _shape(group).items() if name != "arrivals"}
    return group.model, group.input_len, group.output_len, json.dumps(shape, sort_keys=True)
