"""Wording of invalid values in a spec: found, allowed, nearest; and pydantic's errors in those words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from gpuscout.sweeps.errors import nearest, quoted
from gpuscout.sweeps.settings import SHORT_SIZES
from gpuscout.sweeps.text import without_exponents

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")


@dataclass(frozen=True)
class Fault:
    """Something wrong with a value, or with the part of it that `path` leads to. `at_key`: with the key itself."""

    message: str
    path: Path = ()
    hint: str | None = None
    at_key: bool = False

    def under(self, path: Path) -> Fault:
        return replace(self, path=path + self.path)


class UnknownKey(Fault):
    """A key that its mapping does not have; `path` ends with it."""


class InvalidValue(ValueError):
    """All faults of one value. A ValueError, so that pydantic collects it with those of other fields."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


class Faults:
    """A collector of the faults of a value's parts, so that one bad part does not hide the next."""

    def __init__(self) -> None:
        self._found: list[Fault] = []

    def add(self, *faults: Fault, under: Path = ()) -> None:
        self._found.extend(fault.under(under) for fault in faults)

    @contextmanager
    def within(self, path: Path) -> Iterator[None]:
        """Collect what the block finds wrong, as faults of the part that `path` leads to."""
        try:
            yield
        except InvalidValue as invalid:
            self.add(*invalid.faults, under=path)

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidValue(*self._found)


def found(value: object) -> str:
    """Return words for a value that was not expected."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {quoted(value)}" if value else 'empty text ("")'
        case int() | float():
            return "a very large number" if abs(value) >= 1e30 else repr(value)
        case Mapping():
            return "a mapping (key: value)"
        case _ if isinstance(value, Sequence):
            return "a list" if value else "an empty list"
    return f"a {type(value).__name__}"


def unexpected(expected: str, value: object, path: Path = ()) -> Fault:
    """Return a value of the wrong type. The hint explains how YAML came to read it so."""
    return Fault(f"expected {expected}, found {found(value)}", path, _reading_hint(expected, value))


def _reading_hint(expected: str, value: object) -> str | None:
    if isinstance(value, bool):
        return "YAML reads yes, no, on and off as true or false; text needs quotes" if "text" in expected else None
    if isinstance(value, int | float):
        return "text that looks like a number needs quotes" if "text" in expected else None
    if isinstance(value, str) and "number" in expected:
        if (plain := without_exponents(value.strip())) != value.strip():
            return f"YAML reads {value} as text; write {plain}"
        if (share := _PERCENT.fullmatch(value.strip())) is not None:
            return f"a share is a fraction; write {float(share[1]) / 100:.15g}"
        try:
            return "a number needs no quotes" if math.isfinite(float(value)) else None
        except (ValueError, OverflowError):
            return None
    return None


def unknown(
    kind: str, name: str, allowed: Iterable[str], *, path: Path = (), synonyms: Mapping[str, str] | None = None
) -> Fault:
    """Return a name that is not among `allowed`, with the nearest of them. `synonyms` maps what people type instead."""
    allowed = tuple(allowed)
    near = _near(name, allowed, synonyms)
    meant = f"did you mean {' or '.join(near)}?   " if near else ""
    return Fault(f"unknown {kind} {quoted(name)}", path, f"{meant}allowed: {', '.join(allowed)}")


def unknown_key(
    name: str, allowed: Iterable[str], *, path: Path = (), synonyms: Mapping[str, str] | None = None
) -> UnknownKey:
    """Return a key that a mapping does not have; `path` leads to the mapping."""
    allowed = tuple(allowed)
    message = f"unknown key {quoted(name)}"
    if near := _near(name, allowed, synonyms):
        return UnknownKey(f"{message}; did you mean {' or '.join(map(quoted, near))}?", (*path, name), at_key=True)
    return UnknownKey(message, (*path, name), f"allowed: {', '.join(allowed)}", at_key=True)


def _near(name: str, allowed: Sequence[str], synonyms: Mapping[str, str] | None) -> list[str]:
    meant = (synonyms or {}).get(name.casefold())
    return [meant] if meant is not None and meant in allowed else nearest(name, allowed)


def as_list(value: object) -> list[tuple[Path, Any]]:
    """Return the entries of a list, or of a single value given in place of a list, with the path to each."""
    if isinstance(value, list | tuple):
        return [((position,), entry) for position, entry in enumerate(value)]
    return [((), value)]


def entries_of(value: object) -> list[tuple[Path, Any]]:
    """Return the same. Raises InvalidValue where there are none."""
    entries = as_list(value)
    if not entries:
        raise InvalidValue(Fault("the list is empty"))
    return entries


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether it is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def one_or_more(entry: Mapping[str, object]) -> dict[str, object]:
    """Return the JSON Schema of what `entries_of` takes: an entry or a list of them."""
    return {"anyOf": [entry, {"type": "array", "items": entry, "minItems": 1}]}


def repeated(
    entries: Iterable[tuple[Path, object]], faults: Faults, *, key: Callable[[Any], Hashable] = lambda e: e
) -> None:
    """Add a fault for every entry that equals an earlier one; `key` makes entries hashable that are not."""
    seen = set()
    for path, entry in entries:
        if key(entry) in seen:
            what = found(entry).removeprefix("the text ") if isinstance(entry, str | int | float) else "this entry"
            faults.add(Fault(f"{what} is listed twice", path))
        seen.add(key(entry))


def faults_of(errors: Iterable[ErrorDetails], allowed_keys: Iterable[str]) -> list[Fault]:
    """Return Pydantic's errors about one mapping in our words; `allowed_keys` are the keys that mapping may have."""
    result: list[Fault] = []
    for error in errors:
        path: Path = tuple(error["loc"])
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, InvalidValue):
            result.extend(fault.under(path) for fault in cause.faults)
        elif error["type"] == "missing":
            result.append(Fault("missing", path))
        elif error["type"] == "extra_forbidden":
            result.append(unknown_key(str(path[-1]), allowed_keys, path=path[:-1], synonyms=KEY_SYNONYMS))
        else:
            result.append(unexpected(_EXPECTED.get(error["type"], "something else"), error["input"], path))
    return result


# What is left to pydantic's own checks; everything else has a validator of ours.
_EXPECTED = {
    "string_type": "text",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
}

KEY_SYNONYMS: Mapping[str, str] = {
    "model": "models",
    "gpu": "gpus",
    "hardware": "gpus",
    "server": "servers",
    "backend": "servers",
    **SHORT_SIZES,
    "tp_size": "tensor_parallel",
    "tensor_parallel_size": "tensor_parallel",
    "dtype": "precision",
    "quantization": "precision",
    "kv_cache_dtype": "kv_precision",
    "gpu_memory_fraction": "gpu_memory_utilization",
    "context": "max_model_len",
    "max_num_seqs": "server_options",
    "max_num_batched_tokens": "server_options",
    "server_args": "server_options",
    "speculative_config": "speculative",
    "speculative_decoding": "speculative",
    "spec_decoding": "speculative",
    "draft_tokens": "speculative",
    "batch_size": "concurrency",
    "concurrencies": "concurrency",
    "isl": "input_len",
    "max_gpus": "limits",
    "max_tasks": "limits",
    "input": "input_len",
    "input_tokens": "input_len",
    "osl": "output_len",
    "output": "output_len",
    "output_tokens": "output_len",
    "include": "only",
    "slos": "slo",
    "base": "extends",
}
