"""A result file as it was given: its bytes, its text, and the JSON or YAML documents in it, each parsed once."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gpuscout.store.measured.formats.node import Node
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.reading import GZIP_MAGIC, TooLarge, most_values, read_bounded, results_mb, unpacked

if TYPE_CHECKING:
    import yaml

_MOST_YAML_VALUES = 1_000_000  # a minute of reading
_SPACE = re.compile(r"\s*")
_YAML_START = re.compile(r"(?:\s|#.*\n|---)*[\w'\"-]+\s*:(?:\s|$)")


class SourceFile:
    """One file. `name` is how it is called in messages; gzip is unpacked. Raises InputError for what is wrong."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        if name.endswith(".gz") or data.startswith(GZIP_MAGIC):
            data = unpacked(data, name, results_mb())
        self.data = data
        if not data.strip():
            raise InputError(f"{name}: the file is empty")

    @classmethod
    def open(cls, path: Path) -> SourceFile:
        try:
            return cls(str(path), read_bounded(path, results_mb()))
        except OSError as error:
            hint = f"name the files in it: {path}/*" if path.is_dir() else None
            raise InputError(f"cannot read {path}: {error.strerror or error}", hint=hint) from error

    @cached_property
    def text(self) -> str:
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = self.data.count(b"\n", 0, error.start) + 1
            raise InputError(f"{self.name}:{line}: not UTF-8 text") from error

    @property
    def suffix(self) -> str:
        return Path(self.name.removesuffix(".gz")).suffix.casefold()

    @cached_property
    def kind(self) -> str:
        """ "json", "yaml" or "csv", by the name or else by how the content begins."""
        if self.suffix in (".csv", ".tsv"):
            return "csv"
        if b"\0" in self.data[:1024]:
            raise InputError(f"{self.name}: not UTF-8 text")
        start = self.text[:4096].lstrip()
        if start.startswith(("{", "[")) or self.suffix in (".json", ".jsonl", ".ndjson"):
            return "json"
        if self.suffix in (".yaml", ".yml") or _YAML_START.match(start):
            return "yaml"
        return "csv"

    @cached_property
    def documents(self) -> tuple[Node, ...]:
        """The documents of a JSON file (one, or several after each other, such as JSON lines) or of a YAML file."""
        if self.kind == "json":
            return tuple(self._json())
        if self.kind == "yaml":
            return tuple(self._yaml())
        raise InputError(f"{self.name}: neither JSON nor YAML")

    @property
    def first(self) -> Node | None:
        """The first document; None for a file that is neither JSON nor YAML."""
        return next(iter(self.documents), None) if self.kind in ("json", "yaml") else None

    def _json(self) -> list[Node]:
        self._check_values(b"[{,", most_values())
        decoder = json.JSONDecoder(object_pairs_hook=_once)
        found: list[tuple[int, object]] = []
        text = self.text
        at = _end_of_space(text, 0)
        line, counted = 1, 0
        while at < len(text):
            line, counted = line + text.count("\n", counted, at), at
            try:
                value, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{self.name}:{error.lineno}:{error.colno}: not JSON: {error.msg}",
                    hint="the file is cut off" if _is_cut_off(error, text) else None,
                ) from error
            except (RecursionError, ValueError) as error:  # too deep; a key twice; a number of thousands of digits
                raise InputError(f"{self.name}:{line}: cannot be read as JSON: {error}") from error
            found.append((line, value))
            at = _end_of_space(text, end)
        several = len(found) > 1
        return [Node(value, self.name, line=line if several else None) for line, value in found]

    def _yaml(self) -> list[Node]:
        import yaml

        # One of the two safe loaders: they build plain values only.
        safe: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

        class Strict(safe):  # type: ignore[misc, valid-type]
            def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
                seen: set[str] = set()
                for key, _ in node.value:
                    if isinstance(key, yaml.ScalarNode):
                        if key.value in seen:
                            raise yaml.constructor.ConstructorError(
                                problem=f'"{key.value}" is given twice', problem_mark=key.start_mark
                            )
                        seen.add(key.value)
                return dict(super().construct_mapping(node, deep=deep))

        self._check_values(b"[{,\n", _MOST_YAML_VALUES)
        try:
            found = [document for document in yaml.load_all(self.text, Strict) if document is not None]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{self.name}:{mark.line + 1}:{mark.column + 1}" if mark else self.name
            raise InputError(f"{place}: not YAML: {error.problem or error.context}") from error
        except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
            message = " ".join(str(error).split())
            raise InputError(f"{self.name}: cannot be read as YAML: {message}") from error
        if sum(_expanded(document, {}) for document in found) > _MOST_YAML_VALUES:
            raise TooLarge(self.name, f"{_MOST_YAML_VALUES:,} values", "aliases count as what they stand for")
        # A document of YAML does not tell where it begins; the second one of a file is rare.
        return [Node(document, self.name) for document in found]

    def _check_values(self, marks: bytes, most: int) -> None:
        """Raise TooLarge by the characters that separate values, before any of them is made."""
        if len(self.data) > most and sum(self.data.count(bytes([mark])) for mark in marks) > most:
            raise TooLarge(self.name, f"{most:,} values")


def _expanded(value: object, counts: dict[int, int]) -> int:
    """Return the number of values in a document of YAML once its aliases are followed."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counts:
        counts[id(value)] = 0  # one that contains itself
        parts = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_expanded(part, counts) for part in parts)
    return counts[id(value)]


def _is_cut_off(error: json.JSONDecodeError, text: str) -> bool:
    """Return whether the text ended too early. A string without an end is told by where it begins."""
    return error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object whose keys are all different: which of two values was meant, nobody knows. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'"{twice}" is given twice')
    return found


def _end_of_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
