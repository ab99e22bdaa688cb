"""The traffic of a spec's workloads: lengths that vary, cached input, arrivals, traces; and request rates."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.spec.axes import RANGE_KEYS, NumericAxis
from gpuscout.sweeps.spec.faults import Fault, Faults, InvalidValue, found, is_number, unexpected, unknown, unknown_key
from gpuscout.sweeps.traffic.lengths import Histogram, Lengths, LogNormal, Uniform
from gpuscout.sweeps.traffic.trace import Trace, lines, opened, read_trace
from gpuscout.sweeps.traffic.traffic import CONSTANT, POISSON, Arrivals

# A simulated day of fewer requests has no times to the millisecond left in a double, nor has a deployment a purpose.
RATES = NumericAxis(0.0001, 1_000_000, whole=False)
_MEAN_KEYS = ("mean", "p95", "max")
_KINDS = (*_MEAN_KEYS, "uniform", "histogram")
_LARGEST_TOKENS = 1_000_000_000
_MOST_BINS = 10_000
_DISTRIBUTION_HINT = "for example {mean: 1200, p95: 4000, max: 16000}, {uniform: [64, 512]} or {histogram: file.csv}"


def is_distribution(value: object) -> bool:
    """Return whether a length is a distribution, and not a number, a list or a range."""
    return isinstance(value, Mapping) and not set(value) & set(RANGE_KEYS)


def parse_distribution(value: Mapping[Any, Any]) -> Lengths:
    """Return a distribution of lengths. Raises InvalidValue."""
    keys = set(value)
    if keys == {"uniform"}:
        return _uniform(value["uniform"])
    if keys == {"histogram"}:
        return _histogram(value["histogram"])
    faults = Faults()
    for key in value:
        if key not in _KINDS:
            faults.add(unknown_key(str(key), _KINDS))
        elif key not in _MEAN_KEYS:
            faults.add(Fault(f"`{key}` stands alone", (key,), _DISTRIBUTION_HINT, at_key=True))
    if not keys & set(_MEAN_KEYS):
        faults.raise_if_any()
    figures: dict[str, float] = {}
    for key in _MEAN_KEYS:
        if key not in value:
            faults.add(Fault(f"missing `{key}`", hint=_DISTRIBUTION_HINT))
            continue
        with faults.within((key,)):
            figures[key] = _tokens(value[key], whole=key == "max")
    faults.raise_if_any()
    with _refusing():
        return LogNormal(float(figures["mean"]), float(figures["p95"]), int(figures["max"]))


@contextmanager
def _refusing(*path: str) -> Iterator[None]:
    """Turn the ValueError of figures that contradict each other into a fault at `path`."""
    try:
        yield
    except ValueError as error:
        raise InvalidValue(Fault(str(error), path)) from error


def _uniform(value: object) -> Lengths:
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidValue(unexpected("two numbers of tokens, [lowest, highest]", value, ("uniform",)))
    faults = Faults()
    ends: list[int] = []
    for position, entry in enumerate(value):
        with faults.within(("uniform", position)):
            ends.append(int(_tokens(entry, whole=True)))
    faults.raise_if_any()
    with _refusing("uniform"):
        return Uniform(*ends)


def _histogram(value: object) -> Lengths:
    """Return pairs of tokens and counts, or the name of a CSV file with them."""
    pairs: list[tuple[object, object]]
    if isinstance(value, str):
        pairs = _pairs_of_file(value)
    elif isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = [(pair[0], pair[1]) for pair in value]
    else:
        raise InvalidValue(unexpected("a CSV file, or pairs [tokens, count]", value, ("histogram",)))
    if len(pairs) > _MOST_BINS:
        raise InvalidValue(Fault(f"{len(pairs):,} lengths are too many; at most {_MOST_BINS:,}", ("histogram",)))
    faults = Faults()
    tokens: list[int] = []
    counts: list[float] = []
    for position, (length, count) in enumerate(pairs):
        with faults.within(("histogram", position)):
            tokens.append(int(_tokens(length, whole=True)))
            if not is_number(count):
                raise InvalidValue(unexpected("a count", count))
            counts.append(float(count))
    faults.raise_if_any()
    with _refusing("histogram"):
        return Histogram(tuple(tokens), tuple(counts))


def _pairs_of_file(name: str) -> list[tuple[object, object]]:
    pairs: list[tuple[object, object]] = []
    path = File(name)
    try:
        with opened(path) as stream:
            for number, row in enumerate(csv.reader(lines(path, stream)), start=1):
                if not row or (number == 1 and not row[0].strip().replace(".", "").isdigit()):
                    continue
                if len(pairs) == _MOST_BINS:
                    raise InvalidValue(Fault(f"{name}: more than {_MOST_BINS:,} lengths", ("histogram",)))
                try:
                    length, count = (float(cell) for cell in row)
                except ValueError:
                    message = f"{name}:{number}: expected a number of tokens and a count, got {','.join(row)!r:.60}"
                    raise InvalidValue(Fault(message, ("histogram",))) from None
                pairs.append((length, count))
    except InputError as error:
        raise InvalidValue(Fault(error.message, ("histogram",))) from error
    return pairs


def _tokens(value: object, *, whole: bool) -> int | float:
    noun = "a whole number of tokens" if whole else "a number of tokens"
    if not is_number(value) or (whole and value != value // 1):
        raise InvalidValue(unexpected(noun, value))
    if not 1 <= value <= _LARGEST_TOKENS:
        raise InvalidValue(Fault(f"{found(value)} is out of range; allowed: 1 up to {_LARGEST_TOKENS:,}"))
    return value


def parse_cached_input(value: object) -> float:
    """Return the share of prompt tokens that are found in the prefix cache. Raises InvalidValue."""
    if not is_number(value):
        raise InvalidValue(unexpected("a share of the prompt's tokens, such as 0.4", value))
    if not 0 <= value < 1:
        hint = "it is a share: 0.4, not 40" if 1 <= value <= 100 else None
        raise InvalidValue(Fault(f"{found(value)} is out of range; allowed: 0 up to less than 1", hint=hint))
    return float(value)


def parse_arrivals(value: object) -> Arrivals:
    """Return `poisson`, `constant` or {gamma: {cv: 2}}. Raises InvalidValue."""
    named = {"poisson": POISSON, "constant": CONSTANT}
    if isinstance(value, str):
        if value.casefold() in named:
            return named[value.casefold()]
        raise InvalidValue(unknown("arrival process", value, (*named, "{gamma: {cv: 2}}")))
    if isinstance(value, Mapping) and set(value) == {"gamma"}:
        gamma = value["gamma"]
        cv = gamma.get("cv") if isinstance(gamma, Mapping) and set(gamma) == {"cv"} else None
        if not is_number(cv):
            raise InvalidValue(unexpected("the coefficient of variation, such as {cv: 2}", gamma, ("gamma",)))
        with _refusing("gamma", "cv"):
            return Arrivals(float(cv))
    raise InvalidValue(unexpected("poisson, constant or {gamma: {cv: 2}}", value))


def parse_trace(value: object) -> Trace:
    """Return the requests of a trace file. Raises InvalidValue."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(unexpected("the name of a file with requests (.jsonl or .csv)", value))
    try:
        return read_trace(value)
    except InputError as error:
        raise InvalidValue(Fault(error.message, hint=error.hint)) from error


def distribution_json_schema() -> dict[str, object]:
    """Return the JSON Schema of what `parse_distribution` takes."""
    tokens: dict[str, object] = {"type": "number", "minimum": 1}
    pair = {"type": "array", "minItems": 2, "maxItems": 2, "prefixItems": [tokens, {"type": "number", "minimum": 0}]}
    log_normal = {
        "type": "object",
        "properties": dict.fromkeys(_MEAN_KEYS, tokens),
        "required": list(_MEAN_KEYS),
        "additionalProperties": False,
        "description": "A log-normal with this mean and 95th percentile, cut at max.",
    }
    return {
        "anyOf": [
            log_normal,
            _only("uniform", {"type": "array", "items": tokens, "minItems": 2, "maxItems": 2}),
            _only("histogram", {"anyOf": [{"type": "string"}, {"type": "array", "items": pair, "minItems": 1}]}),
        ]
    }


def arrivals_json_schema() -> dict[str, object]:
    """Return the JSON Schema of what `parse_arrivals` takes."""
    cv = _only("cv", {"type": "number", "minimum": 0, "maximum": 100})
    return {"anyOf": [{"enum": ["poisson", "constant"]}, _only("gamma", cv)]}


def _only(key: str, schema: Mapping[str, object]) -> dict[str, object]:
    return {"type": "object", "properties": {key: schema}, "required": [key], "additionalProperties": False}
