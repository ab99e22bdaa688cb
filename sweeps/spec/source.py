"""Sources of a sweep spec: a file and those it extends, or flags; merged data that remembers its places."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from gpuscout.sweeps.errors import SpecError, SpecProblem, quoted
from gpuscout.sweeps.spec.faults import Fault, Path, UnknownKey, found, unexpected
from gpuscout.sweeps.spec.yaml_reader import Place, path_text, read_yaml

MAX_BYTES = 1_000_000
MAX_EXTENDS = 10
_LARGEST_NUMBER = 10**18

# What a spec never takes over from the one it extends: its identity.
_OWN_KEYS = ("name", "description", "extends")
# Keys that say the same in two ways: giving one replaces the other.
_EITHER = {"engine": "engines", "engines": "engine"}


@dataclass(eq=False)
class SpecSource:
    """The merged data of a spec, where each part of it stands, and the problems found while reading.

    `flags` names the command-line flags of keys when the spec was built from them. `incomplete` says that the spec it
    extends could not be read: what is missing here may be there.
    """

    data: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    text: str | None = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    problems: list[SpecProblem] = field(default_factory=list)
    flags: Mapping[str, str] = field(default_factory=dict)
    incomplete: bool = False

    def __eq__(self, other: object) -> bool:
        """Return whether two specs mean the same, wherever they were written."""
        return isinstance(other, SpecSource)

    def problem(self, path: Path, message: str, hint: str | None = None, *, at_key: bool = False) -> SpecProblem:
        """Return a problem with the value at `path`, or with what holds it if it was left out or not given apart."""
        if not self.values:
            return SpecProblem(message, self.file, key=self._flag(path) or path_text(path) or None, hint=hint)
        if at_key and path in self.keys:
            return self.keys[path].problem(message, hint)
        known, rest = self._nearest(path)
        place = self.values[known]
        inside = rest and (place.is_mapping or not known)
        return place.problem(message, hint, key=path_text((place.key, *rest) if known else rest) if inside else None)

    def problem_of(self, fault: Fault) -> SpecProblem:
        problem = self.problem(fault.path, fault.message, fault.hint, at_key=fault.at_key)
        if isinstance(fault, UnknownKey):
            # The message names the key; what holds it is still worth saying.
            holder = fault.path[:-1]
            return replace(problem, key=self._flag(holder) or path_text(holder) or None)
        return problem

    def directory(self, path: Path) -> str:
        """Return the directory that a relative path at `path` counts from: its file's, or the current one."""
        place = self.values[self._nearest(path)[0]] if self.values else None
        return os.path.dirname(place.file or "") if place else ""

    def _nearest(self, path: Path) -> tuple[Path, Path]:
        """Return the longest part of `path` that was written, and the rest.

        A single value may stand for a list of one.
        """
        known: Path = ()
        for position, part in enumerate(path):
            if (*known, part) in self.values:
                known = (*known, part)
            elif isinstance(part, str) or (*known, 0) in self.values:
                return known, path[position:]
        return known, ()

    def _flag(self, path: Path) -> str | None:
        names = [part for part in path if isinstance(part, str)]
        while names:
            if flag := self.flags.get(".".join(names)):
                return flag
            names.pop()
        return None


def source_of_mapping(data: Mapping[str, Any], flags: Mapping[str, str]) -> SpecSource:
    """Return data that somebody built in Python, such as from flags; reduced to the types YAML has."""
    source = SpecSource(flags=flags)
    source.data = {key: _plain(value, (key,), source) for key, value in data.items()}
    if "extends" in data:
        source.problems.append(source.problem(("extends",), "only a file can extend another spec"))
    return source


def source_of_text(text: str, file: str | None) -> SpecSource:
    """Return the spec in `text` merged over those it extends. What is wrong is in `problems`."""
    chain = (_identity(file),) if file is not None else ()
    return _read(text, file, chain)


def read_text(file: str) -> str:
    """Return the text of a spec file. Raises SpecError."""
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpecError([SpecProblem(f"cannot read the spec: {reason}", file)]) from error
    except ValueError as error:  # a path with a null byte
        raise SpecError([SpecProblem(f"cannot read the spec: {error}", file)]) from error
    if len(content) > MAX_BYTES:
        raise SpecError([SpecProblem(f"the file is larger than {MAX_BYTES // 1_000_000} MB: not a spec", file)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"the byte 0x{content[error.start]:02x} is not UTF-8"
        hint = "save the file with the encoding UTF-8"
        raise SpecError([SpecProblem(message, file, line, column, hint=hint)]) from error


def _read(text: str, file: str | None, chain: tuple[str, ...]) -> SpecSource:
    source = SpecSource(file=file, text=text)
    if len(text) > MAX_BYTES:
        message = f"the spec is larger than {MAX_BYTES // 1_000_000} MB"
        source.problems.append(SpecProblem(message, file, 1, 1))
        return source
    document = read_yaml(text, file)
    source.values, source.keys, source.problems = document.values, document.keys, document.problems
    if isinstance(document.data, dict):
        source.data = document.data
        return _extended(source, chain)
    if not document.problems:
        if document.data is None:
            problem = SpecProblem("the spec is empty", file, 1, 1, hint="`gpuscout init` writes one to start from")
        else:
            place = document.values[()]
            message = f"expected a mapping with the keys name, models, gpus, workloads; found {found(document.data)}"
            problem = place.problem(message)
        source.problems.append(problem)
    return source


def _extended(source: SpecSource, chain: tuple[str, ...]) -> SpecSource:
    """Return `source` merged over the spec it extends: keys replace whole values, but `limits` are merged."""
    if "extends" not in source.data:
        return source
    given = source.data.pop("extends")
    path: Path = ("extends",)
    if not isinstance(given, str) or not given:
        source.problems.append(source.problem_of(unexpected("text (the path of a spec file)", given, path)))
        return source
    file = os.path.normpath(os.path.join(os.path.dirname(source.file or ""), os.path.expanduser(given)))
    if _identity(file) in chain:
        source.problems.append(source.problem(path, f"{quoted(given)} extends this spec in turn"))
        source.incomplete = True
        return source
    if len(chain) > MAX_EXTENDS:
        source.problems.append(source.problem(path, f"more than {MAX_EXTENDS} specs extend one another"))
        return source
    try:
        base = _read(read_text(file), file, (*chain, _identity(file)))
    except SpecError as error:
        reason = "; ".join(problem.message for problem in error.problems)
        source.problems.append(source.problem(path, f"{file}: {reason}"))
        source.incomplete = True
        return source
    return _merge(base, source)


def _merge(base: SpecSource, source: SpecSource) -> SpecSource:
    replaced = {*source.data, *_OWN_KEYS, *(_EITHER[key] for key in source.data if key in _EITHER)}
    kept: set[Path] = {(key,) for key in base.data if key not in replaced}
    data = {key: value for key, value in base.data.items() if key not in replaced} | source.data
    theirs, ours = base.data.get("limits"), source.data.get("limits")
    if isinstance(theirs, dict) and isinstance(ours, dict):
        data["limits"] = theirs | ours
        kept |= {("limits", key) for key in theirs if key not in ours}
    for places, own in ((base.values, source.values), (base.keys, source.keys)):
        own.update({path: place for path, place in places.items() if path[:1] in kept or path[:2] in kept})
    source.data = data
    source.problems = [*base.problems, *source.problems]
    source.incomplete = base.incomplete or not base.data
    return source


def _identity(file: str) -> str:
    return os.path.realpath(file)


def _plain(value: object, path: Path, source: SpecSource, depth: int = 0) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER:  # false for NaN too
        return value
    if depth < 30 and isinstance(value, Mapping):
        return {str(key): _plain(entry, (*path, str(key)), source, depth + 1) for key, entry in value.items()}
    if depth < 30 and isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_plain(entry, (*path, position), source, depth + 1) for position, entry in enumerate(value)]
    source.problems.append(source.problem(path, f"{found(value)} cannot stand in a spec"))
    return None
