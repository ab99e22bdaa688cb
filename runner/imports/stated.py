"""Facts that people state about imported runs: flags for all files, and a mapping file for some of them."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gpuscout.sweeps.errors import InputError, nearest
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS, precision_called
from gpuscout.sweeps.reading import read_settings
from gpuscout.sweeps.servers import MEASURED_SERVERS, server_called
from gpuscout.sweeps.text import fault_in, printable

LABEL = "label:"
UNKNOWN = "unknown"


class Field(NamedTuple):
    """One thing that can be said of a run: what it is called in messages, what its flag takes."""

    about: str
    placeholder: str
    kind: str  # text, size, number, fraction, server, precision, kv_precision


FIELDS: dict[str, Field] = {
    "model": Field("the model", "NAME", "text"),
    "gpu": Field("the GPU", "NAME", "text"),
    "tp": Field("tensor parallelism", "N", "size"),
    "pp": Field("pipeline parallelism", "N", "size"),
    "dp": Field("data parallelism", "N", "size"),
    "ep": Field("expert parallelism", "N", "size"),
    "server": Field("the server", "NAME", "server"),
    "server_version": Field("the server's version", "VERSION (or unknown)", "text"),
    "precision": Field("the precision of the weights", "NAME", "precision"),
    "kv_precision": Field("the precision of the KV cache", "NAME", "kv_precision"),
    "input_len": Field("the input length", "TOKENS", "size"),
    "output_len": Field("the output length", "TOKENS", "size"),
    "concurrency": Field("the requests in flight", "N (or --request-rate RATE)", "size"),
    "request_rate": Field("the requests per second", "RATE", "number"),
    "gpu_memory_utilization": Field("the share of GPU memory", "FRACTION", "fraction"),
    "max_model_len": Field("the longest sequence", "TOKENS", "size"),
    "source": Field("where the runs come from", "TEXT", "text"),
}


class Value(NamedTuple):
    """A text and who said it: a file and place, a line of a mapping file, a flag."""

    text: str
    origin: str


Values = Mapping[str, Value]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def from_flags(flags: Mapping[str, object]) -> dict[str, Value]:
    """Return flags by the names of their fields; None: not given. Raises InputError for what a flag cannot be."""
    values = {name: Value(str(text), flag(name)) for name, text in flags.items() if text is not None}
    for name, value in values.items():
        check(name, value)
    return values


def check(name: str, value: Value) -> str:
    """Return the value as it is stored, still as text. Raises InputError that says who said it."""
    text = value.text.strip()
    match FIELDS[name].kind:
        case "size":
            digits = text.lstrip("0")
            if not (text.isascii() and digits.isdecimal() and len(digits) <= 10 and int(digits) < 2**31):
                raise _wrong(name, value, "a positive whole number")
            return digits
        case "number" | "fraction":
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not 0 < number < math.inf or (FIELDS[name].kind == "fraction" and number > 1):
                expected = "a number above 0" if FIELDS[name].kind == "number" else "a number above 0, at most 1"
                raise _wrong(name, value, expected)
            return text
        case "server":
            return _one_of(name, value, server_called(text), MEASURED_SERVERS)
        case "precision":
            return _one_of(name, value, precision_called(text) or text.casefold(), PRECISIONS)
        case "kv_precision":
            return _one_of(name, value, precision_called(text) or text.casefold(), KV_PRECISIONS)
        case _:
            if not text:
                raise _wrong(name, value, "a text")
            if fault := fault_in(text):
                raise _wrong(name, Value(printable(text), value.origin), f"a line of text, not {fault}")
            return text


def _one_of(name: str, value: Value, word: str, words: tuple[str, ...]) -> str:
    if word in words:
        return word
    error = _wrong(name, value, f"one of {', '.join(words)}")
    if close := nearest(word, words):
        error.hint = f"did you mean {' or '.join(close)}?"
    raise error


def _wrong(name: str, value: Value, expected: str) -> InputError:
    what = "" if value.origin.startswith("--") else f" {name}:"
    shown = value.text if len(value.text) <= 60 else f"{value.text[:60]}…"
    return InputError(f'{value.origin}:{what} expected {expected}, got "{shown}"')


@dataclass
class Mappings:
    """A mapping file: patterns of files, or of labels (`label:`), and what holds for the runs that match.

        "h100/*.json": {gpu: H100, tp: 1, server: vllm, server_version: 0.24.0}
        "label:nightly-*": {server_version: 0.24.1}

    Later entries win over earlier ones.
    """

    entries: list[tuple[str, dict[str, Value]]] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Mappings:
        """Raise InputError with file, line, column and key of what is wrong."""
        import yaml

        try:
            root = yaml.compose(read_settings(path), yaml.SafeLoader)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error

        def place(node: yaml.Node) -> str:
            return f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}: expected patterns of files with what holds for them", hint=_EXAMPLE)
        entries = []
        for pattern, body in root.value:
            if not isinstance(pattern, yaml.ScalarNode) or not isinstance(body, yaml.MappingNode):
                raise InputError(f"{place(body)}: expected what holds for the runs, such as {_EXAMPLE}")
            values = {}
            for key, text in body.value:
                if not isinstance(key, yaml.ScalarNode) or key.value.replace("-", "_") not in FIELDS:
                    close = nearest(str(key.value), FIELDS)
                    raise InputError(
                        f'{place(key)}: unknown key "{key.value}"',
                        hint=f"did you mean {close[0]}?" if close else f"known: {', '.join(FIELDS)}",
                    )
                name = key.value.replace("-", "_")
                if not isinstance(text, yaml.ScalarNode):
                    raise InputError(f"{place(text)}: {name}: expected a single value")
                # As written: a version 0.10 is not the number 0.1.
                values[name] = Value(text.value, place(text))
                check(name, values[name])
            entries.append((pattern.value, values))
        return cls(entries, {pattern for pattern, _ in entries})

    def of(self, file: str, label: str | None) -> dict[str, Value]:
        """Return the facts in the file about runs with this label in this file."""
        facts: dict[str, Value] = {}
        for pattern, values in self.entries:
            if pattern.startswith(LABEL):
                matches = label is not None and fnmatch.fnmatchcase(label, pattern.removeprefix(LABEL).strip())
            else:
                matches = any(fnmatch.fnmatchcase(name, pattern) for name in (file, str(Path(file)), Path(file).name))
            if matches:
                facts |= values
                self.unused.discard(pattern)
        return facts


_EXAMPLE = '"results/*.json": {gpu: H100, tp: 1, server: vllm, server_version: 0.24.0}'
