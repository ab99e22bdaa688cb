"""The workloads of a sweep spec: presets, or lengths whose lists and ranges make several workloads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuscout.sweeps.errors import UnknownNameError, quoted
from gpuscout.sweeps.spec.axes import MAX_VALUES, RANGE_KEYS, TOKENS
from gpuscout.sweeps.spec.entries import LONGEST_NAME, NAME_PATTERN, parse_description, parse_name
from gpuscout.sweeps.spec.faults import (
    KEY_SYNONYMS,
    Fault,
    Faults,
    InvalidValue,
    Path,
    as_list,
    unexpected,
    unknown_key,
)
from gpuscout.sweeps.spec.traffic import (
    arrivals_json_schema,
    distribution_json_schema,
    is_distribution,
    parse_arrivals,
    parse_cached_input,
    parse_distribution,
    parse_trace,
)
from gpuscout.sweeps.traffic.trace import Trace
from gpuscout.sweeps.traffic.traffic import PLAIN, Traffic
from gpuscout.sweeps.workloads import PRESETS, Workload, resolve_workload

_LENGTHS = ("input_len", "output_len")
_DISTRIBUTION_KEYS = {"mean", "p95", "max", "uniform", "histogram"}
_TRAFFIC_KEYS = ("cached_input", "arrivals", "trace")
_WORKLOAD_KEYS = ("name", *_LENGTHS, *_TRAFFIC_KEYS, "description")


def parse_workloads(value: object) -> tuple[Workload, ...]:
    """Return presets, named lengths, or a mapping of names to lengths.

    Lengths may be lists or ranges: all pairs are taken.
    """
    entries: list[tuple[Path, str | None, object]]
    if isinstance(value, Mapping) and not _is_one_workload(value):
        entries = [((str(name),), str(name), entry) for name, entry in value.items()]
    else:
        entries = [(path, None, entry) for path, entry in as_list(value)]
    if not entries:
        raise InvalidValue(Fault("no workload is given", hint=f"presets: {', '.join(PRESETS)}"))
    faults = Faults()
    workloads: list[Workload] = []
    workloads_by_name: dict[str, Workload] = {}
    for path, name, entry in entries:
        with faults.within(path):
            for workload in _workloads_of(name, entry):
                if workloads_by_name.setdefault(workload.name, workload) != workload:
                    raise InvalidValue(Fault(f"another workload is named {quoted(workload.name)} too"))
                workloads.append(workload)
    if len(workloads) > MAX_VALUES:
        faults.add(Fault(f"{len(workloads):,} workloads are too many; at most {MAX_VALUES:,}"))
    faults.raise_if_any()
    return tuple(workloads)


def with_absolute_files(value: object, directory: Callable[[Path], str]) -> object:
    """Return the workloads with absolute files; `directory` is what relative names at a path count from."""
    if isinstance(value, list):
        return [_located(entry, directory((position,))) for position, entry in enumerate(value)]
    if isinstance(value, Mapping) and not _is_one_workload(value):
        return {name: _located(entry, directory((name,))) for name, entry in value.items()}
    return _located(value, directory(()))


def _located(entry: object, directory: str) -> object:
    if not isinstance(entry, Mapping):
        return entry
    found = dict(entry)
    if isinstance(trace := found.get("trace"), str):
        found["trace"] = os.path.abspath(os.path.join(directory, os.path.expanduser(trace)))
    for key in _LENGTHS:
        length = found.get(key)
        if isinstance(length, Mapping) and isinstance(name := length.get("histogram"), str):
            found[key] = {**length, "histogram": os.path.abspath(os.path.join(directory, os.path.expanduser(name)))}
    return found


def _is_one_workload(value: Mapping[Any, Any]) -> bool:
    """Return whether this is a workload itself, given in place of a list, and not a mapping of names to workloads."""
    return any(
        not isinstance(value[key], Mapping) or RANGE_KEYS[0] in value[key] or set(value[key]) & _DISTRIBUTION_KEYS
        for key in (*_LENGTHS, *_TRAFFIC_KEYS)
        if value.get(key) is not None
    )


def _workloads_of(name: str | None, entry: object) -> list[Workload]:
    if name is not None and (entry is None or entry == {}):
        entry = name
    if isinstance(entry, str):
        try:
            return [resolve_workload(entry)]
        except UnknownNameError as error:
            raise InvalidValue(Fault(error.message, hint=error.hint)) from None
    if not isinstance(entry, Mapping):
        presets = ", ".join(PRESETS)
        raise InvalidValue(unexpected(f"a preset ({presets}) or a mapping with input_len and output_len", entry))
    return _swept_workloads(name, entry)


def _swept_workloads(name: str | None, entry: Mapping[Any, Any]) -> list[Workload]:
    faults = Faults()
    for key in entry:
        if key not in _WORKLOAD_KEYS or (key == "name" and name is not None):
            allowed = _WORKLOAD_KEYS if name is None else _WORKLOAD_KEYS[1:]
            faults.add(unknown_key(str(key), allowed, synonyms=KEY_SYNONYMS))
    texts: dict[str, str] = {}
    for key, parse in (("name", parse_name), ("description", parse_description)):
        given = name if key == "name" and name is not None else entry.get(key)
        if given is None:
            continue
        with faults.within((key,) if key in entry else ()):
            texts[key] = parse(given)
    traffic = _traffic(entry, faults)
    lengths: dict[str, tuple[int, ...]] = {}
    for key in _LENGTHS:
        if entry.get("trace") is not None:
            if key in entry:
                faults.add(Fault("the trace says how long requests are; keep one of the two", (key,), at_key=True))
            continue
        if key not in entry:
            faults.add(Fault("missing", (key,), "a number of tokens, a list, a range, or a distribution"))
            continue
        with faults.within((key,)):
            if is_distribution(entry[key]):
                varied = parse_distribution(entry[key])
                traffic[key], lengths[key] = varied, (max(round(varied.mean), 1),)
            else:
                lengths[key] = TOKENS.parse(entry[key])
    if set(traffic) - {"cached_input"} and "name" not in texts:
        faults.add(Fault("missing", ("name",), "a workload whose requests vary needs a name"))
    faults.raise_if_any()
    if (trace := traffic.get("trace")) is not None:
        lengths = {key: (max(round(float(getattr(trace, key).mean())), 1),) for key in _LENGTHS}
    return _all_lengths(
        texts.get("name"),
        texts.get("description", ""),
        lengths["input_len"],
        lengths["output_len"],
        Traffic(**traffic) if traffic else PLAIN,
    )


def _traffic(entry: Mapping[Any, Any], faults: Faults) -> dict[str, Any]:
    """Return the traffic of the entry without its lengths."""
    parsers: Mapping[str, Callable[[object], object]] = {
        "cached_input": parse_cached_input,
        "arrivals": parse_arrivals,
        "trace": parse_trace,
    }
    traffic: dict[str, Any] = {}
    for key, parse in parsers.items():
        if entry.get(key) is None:
            continue
        with faults.within((key,)):
            traffic[key] = parse(entry[key])
    if not traffic.get("cached_input", True):
        del traffic["cached_input"]
    return traffic


def _all_lengths(
    name: str | None, description: str, input_lens: Sequence[int], output_lens: Sequence[int], traffic: Traffic
) -> list[Workload]:
    pairs = len(input_lens) * len(output_lens)
    if pairs > MAX_VALUES:
        raise InvalidValue(Fault(f"{pairs:,} pairs of lengths are too many; at most {MAX_VALUES:,}"))
    if name is not None and pairs == 1:
        return [Workload(name, input_lens[0], output_lens[0], description, traffic)]
    prefix = f"{name}-" if name else ""
    return [
        Workload(f"{prefix}{input_len}x{output_len}", input_len, output_len, description, traffic)
        for input_len in input_lens
        for output_len in output_lens
    ]


def workload_as_given(workload: Workload) -> object:
    """Return it as written in a spec."""
    if PRESETS.get(workload.name) == workload:
        return workload.name
    plain: dict[str, object] = {"name": workload.name}
    traffic = workload.traffic
    if isinstance(traffic.trace, Trace):
        plain["trace"] = traffic.trace.file
    else:
        for key in _LENGTHS:
            varied = getattr(traffic, key)
            plain[key] = getattr(workload, key) if varied is None else varied.as_given()
    if traffic.cached_input:
        plain["cached_input"] = traffic.cached_input
    if traffic.arrivals is not None:
        plain["arrivals"] = traffic.arrivals.as_given()
    return {**plain, "description": workload.description} if workload.description else plain


def workloads_json_schema() -> dict[str, object]:
    """Return the JSON Schema of what `parse_workloads` takes."""
    preset = {"type": "string", "examples": list(PRESETS), "description": f"A preset: {', '.join(PRESETS)}."}
    length = {"anyOf": [TOKENS.json_schema(), distribution_json_schema()]}
    lengths: dict[str, Any] = {
        "type": "object",
        "properties": {
            "input_len": {**length, "description": "Tokens a request brings."},
            "output_len": {**length, "description": "Tokens of its answer."},
            "cached_input": {
                "type": "number",
                "minimum": 0,
                "exclusiveMaximum": 1,
                "description": "Share of the prompt's tokens found in the prefix cache.",
            },
            "arrivals": {**arrivals_json_schema(), "description": "When requests come in an open loop."},
            "trace": {"type": "string", "minLength": 1, "description": "A file of recorded requests (.jsonl, .csv)."},
            "description": {"type": "string"},
        },
        "anyOf": [{"required": ["input_len", "output_len"]}, {"required": ["trace"]}],
        "additionalProperties": False,
    }
    name = {"type": "string", "pattern": NAME_PATTERN, "maxLength": LONGEST_NAME}
    named = {**lengths, "properties": {"name": name, **lengths["properties"]}}
    entry = {"anyOf": [preset, named]}
    by_name = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"anyOf": [lengths, {"type": "null"}, {"type": "object", "maxProperties": 0}]},
    }
    return {"anyOf": [entry, {"type": "array", "items": entry, "minItems": 1}, by_name]}
