"""Checks between the keys of one spec: axes in lockstep, rules and the names in them, names of models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from gpuscout.sweeps.errors import nearest, quoted
from gpuscout.sweeps.names import has_wildcard, matches
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers.options import options_text, unknown_to
from gpuscout.sweeps.settings import PARALLELISM, SHORT_SIZES
from gpuscout.sweeps.spec.entries import Part
from gpuscout.sweeps.spec.faults import Fault, Faults, Path, as_list, unexpected, unknown
from gpuscout.sweeps.spec.rules import Rule
from gpuscout.sweeps.spec.traffic import RATES
from gpuscout.sweeps.speculative import Speculative
from gpuscout.sweeps.traffic.trace import Trace
from gpuscout.sweeps.workloads import PRESETS, Workload

if TYPE_CHECKING:
    from gpuscout.sweeps.spec.spec import SweepSpec

ZIP_AXES: tuple[str, ...] = (
    "models",
    "gpus",
    "servers",
    *PARALLELISM,
    "precision",
    "kv_precision",
    "gpu_memory_utilization",
    "max_model_len",
    "server_options",
    "speculative",
    "workloads",
)
_NOT_ZIPPED = {
    "concurrency": "every task is evaluated at all its concurrencies, so they cannot run in lockstep with an axis",
    "engine": "every engine answers all tasks, so engines cannot run in lockstep with an axis",
    "engines": "every engine answers all tasks, so engines cannot run in lockstep with an axis",
}
_SYNONYMS = {
    "model": "models",
    "gpu": "gpus",
    "server": "servers",
    "workload": "workloads",
    **SHORT_SIZES,
    "input_len": "workloads",
    "output_len": "workloads",
}


def parse_zip(value: object) -> tuple[tuple[str, ...], ...]:
    """Return groups of axes that run in lockstep: a list of lists of axis names, or one such list."""
    entries = [((), value)] if _is_one_group(value) else as_list(value)
    faults = Faults()
    taken: dict[str, int] = {}
    groups = []
    for number, (path, entry) in enumerate(entries):
        if not isinstance(entry, list | tuple):
            faults.add(unexpected("a list of axes, such as [gpus, tensor_parallel]", entry, path))
            continue
        group = []
        for name_path, name in as_list(entry):
            if fault := _axis_fault(name, taken, number):
                faults.add(fault, under=path + name_path)
            else:
                taken[name] = number
                group.append(name)
        if len(entry) < 2:
            faults.add(Fault("lockstep needs at least two axes", path))
        groups.append(tuple(group))
    faults.raise_if_any()
    return tuple(groups)


def _is_one_group(value: object) -> bool:
    """Return whether a list of axes stands where a list of groups could."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, str) for entry in value)


def _group_path(data: Mapping[str, object], number: int) -> Path:
    return ("zip",) if _is_one_group(data.get("zip")) else ("zip", number)


def _axis_fault(name: object, taken: Mapping[str, int], group: int) -> Fault | None:
    if not isinstance(name, str):
        return unexpected("text (the name of an axis)", name)
    if name in _NOT_ZIPPED:
        return Fault(f"{name} cannot be zipped", hint=_NOT_ZIPPED[name])
    if name not in ZIP_AXES:
        return unknown("axis", name, ZIP_AXES, synonyms=_SYNONYMS)
    if name in taken:
        return Fault(f"{quoted(name)} is {'listed twice' if taken[name] == group else 'in another group already'}")
    return None


def zip_json_schema() -> dict[str, object]:
    group = {
        "type": "array",
        "items": {"type": "string", "enum": list(ZIP_AXES)},
        "minItems": 2,
        "uniqueItems": True,
    }
    return {"anyOf": [group, {"type": "array", "items": group}]}


def check(spec: SweepSpec, data: Mapping[str, object], broken: Set[str]) -> list[Fault]:
    """Return all contradictions in a spec; `data` is the mapping that `spec` was made of.

    Keys in `broken` hold placeholders, because they are wrong by themselves.
    """
    faults = [] if "zip" in broken else list(_zip_faults(spec, data, broken))
    for key, rules in (("exclude", spec.exclude), ("only", spec.only)):
        if key not in broken:
            for number, rule in enumerate(rules):
                faults.extend(_rule_faults(spec, rule, (key, number), broken))
    if "models" not in broken:
        faults.extend(_model_name_faults(spec))
    if "zip" not in broken:
        faults.extend(_repetition_faults(spec, data, broken))
    if broken.isdisjoint(("load", "request_rate", "workloads")):
        faults.extend(_load_faults(spec))
    if broken.isdisjoint(("servers", "server_options")):
        faults.extend(_option_faults(spec, data))
    return faults


def _option_faults(spec: SweepSpec, data: Mapping[str, object]) -> Iterator[Fault]:
    """Yield options that no server of the sweep has."""
    entries = len(as_list(data.get("server_options")))
    for position, options in enumerate(spec.server_options):
        reasons = [unknown_to(server, options) for server in spec.servers]
        if None not in reasons:
            path: Path = ("server_options", position) if entries == len(spec.server_options) else ("server_options",)
            yield Fault("; ".join(dict.fromkeys(map(str, reasons))), path)


def _load_faults(spec: SweepSpec) -> Iterator[Fault]:
    """Yield faults of rates and arrivals without an open loop, and of concurrencies without a closed one."""
    if spec.load == "concurrency":
        if spec.request_rate:
            yield Fault("needs `load: request_rate`", ("request_rate",), at_key=True)
        for number, workload in enumerate(spec.workloads):
            if workload.traffic.arrivals is not None:
                yield Fault(
                    "requests arrive in an open loop: add `load: request_rate`", ("workloads", number, "arrivals")
                )
        return
    if spec.concurrency is not None:
        yield Fault("with `load: request_rate` the rate decides how many are in flight", ("concurrency",), at_key=True)
    if any("workloads" in group for group in spec.zip):
        yield Fault("workloads cannot be zipped with `load: request_rate`: each is evaluated at every rate", ("zip",))
    for position in _repetitions([_key(rate) for rate in spec.request_rate]):
        yield Fault(f"{_key(spec.request_rate[position])} is listed twice", ("request_rate", position))
    for number, workload in enumerate(spec.workloads):
        if spec.request_rate:
            continue
        trace, hint = workload.traffic.trace, "for example request_rate: {from: 0.5, to: 64, factor: 1.4}"
        rate = trace.request_rate if isinstance(trace, Trace) else None
        if not rate:
            yield Fault(f"no rate for workload {workload.name}: missing `request_rate`", ("workloads", number), hint)
        elif not RATES.minimum <= rate <= RATES.maximum:
            message = f"the trace has {rate:g} requests/s, which is out of range: missing `request_rate`"
            yield Fault(message, ("workloads", number), hint)


def _zip_faults(spec: SweepSpec, data: Mapping[str, object], broken: Set[str]) -> Iterator[Fault]:
    for number, group in enumerate(spec.zip):
        lengths = {}
        for position, axis in enumerate(group):
            if axis in broken:
                continue
            if reason := _unlisted(spec, axis):
                hint = "axes in lockstep need explicit lists of equal length"
                yield Fault(f"{axis} cannot be zipped: {reason}", (*_group_path(data, number), position), hint)
            else:
                lengths[axis] = len(getattr(spec, axis))
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
            yield Fault(f"axes in lockstep need equally many values: {counts}", _group_path(data, number))
        for axis in ("precision", "kv_precision"):
            for position, entry in enumerate(spec.models):
                if axis in group and getattr(entry, axis) is not None and "models" not in broken:
                    message = f"this model cannot have its own {axis}: zip[{number}] ties {axis} to other axes"
                    yield Fault(message, ("models", position, axis))


def _repetition_faults(spec: SweepSpec, data: Mapping[str, object], broken: Set[str]) -> Iterator[Fault]:
    """Yield values listed twice. An axis in lockstep may repeat its values, as long as no combination comes twice."""
    zipped = {axis for group in spec.zip for axis in group}
    for axis in (*ZIP_AXES, "engines"):
        values = getattr(spec, axis)
        if axis not in broken and axis not in zipped and values != "auto":
            entries = [entry for _, entry in as_list(data.get(axis))]
            for position in _repetitions([_key(value) for value in values]):
                key, one_each = _key(values[position]), len(entries) == len(values)
                written = entries[position] if one_each else None
                if isinstance(values[position], Precision) and isinstance(written, str) and written.casefold() != key:
                    yield Fault(f"{written} is {key}, which is listed already", (axis, position))
                else:
                    yield Fault(f"{key} is listed twice", (axis, position) if one_each else (axis,))
    for number, entry in enumerate(() if "models" in broken else spec.models):
        for axis in ("precision", "kv_precision"):
            values = getattr(entry, axis) or ()
            for position in _repetitions([_key(value) for value in values]):
                yield Fault(f"{_key(values[position])} is listed twice", ("models", number, axis, position))
    for number, group in enumerate(spec.zip):
        columns = [getattr(spec, axis) for axis in group]
        if broken.isdisjoint(group) and "auto" not in columns and len({len(column) for column in columns}) == 1:
            rows = [", ".join(_key(value) for value in row) for row in zip(*columns, strict=True)]
            for position in _repetitions(rows):
                yield Fault(f"{', '.join(group)} come to {rows[position]} twice", _group_path(data, number))


def _repetitions(keys: Sequence[str]) -> Iterator[int]:
    """Yield the positions of what came before."""
    seen = set()
    for position, key in enumerate(keys):
        if key in seen:
            yield position
        seen.add(key)


def _key(value: object) -> str:
    """Return a value of an axis as text, as written in a spec."""
    match value:
        case Part():
            return json.dumps(value.given, ensure_ascii=False)
        case Workload():
            return value.name
        case Speculative():
            return value.text or "none"
        case tuple():
            return options_text(value) or "{}"
        case None:
            return "workload"
    return str(value)


def _unlisted(spec: SweepSpec, axis: str) -> str | None:
    """Return the reason why the number of an axis's values is unknown; None: it is known."""
    match axis:
        case "tensor_parallel" if spec.tensor_parallel == "auto":
            return "its sizes are automatic, and differ from model to model"
        case "models":
            globs = (entry.model for entry in spec.models if has_wildcard(entry.model))
            return next((f"{quoted(glob)} may stand for any number of models" for glob in globs), None)
        case "gpus":
            for entry in spec.gpus:
                if entry.name is None or has_wildcard(entry.name) or entry.given != entry.name:
                    shown = quoted(entry.given) if isinstance(entry.given, str) else "a selector"
                    return f"{shown} may stand for any number of GPUs"
    return None


def _rule_faults(spec: SweepSpec, rule: Rule, path: Path, broken: Set[str]) -> Iterator[Fault]:
    """Yield names in rules that nothing in this sweep could have. A preset is let pass: the rule may be inherited."""
    swept = {
        "workload": [workload.name for workload in spec.workloads],
        "engine": [engine.name for engine in spec.engines],
    }
    for name, condition in rule.conditions.items():
        if name not in swept or f"{name}s" in broken:
            continue
        for wanted in (str(test.operand) for test in condition.tests):
            held = (*swept[name], *(PRESETS if name == "workload" else ()))
            known = any(matches(wanted, each) for each in held)
            if not known and (name == "workload" or nearest(wanted, swept[name])):
                yield unknown(f"{name} of this sweep", wanted, swept[name], path=(*path, name))


def _model_name_faults(spec: SweepSpec) -> Iterator[Fault]:
    names: dict[str, int] = {}
    for position, entry in enumerate(spec.models):
        if entry.name is None:
            continue
        if entry.name in names:
            message = f"{quoted(entry.name)} is the name of models[{names[entry.name]}] too"
            yield Fault(message, ("models", position, "name"))
        if has_wildcard(entry.model):
            yield Fault("a glob may stand for many models, which cannot share one name", ("models", position, "name"))
        names.setdefault(entry.name, position)
