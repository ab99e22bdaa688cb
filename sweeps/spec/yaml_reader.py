"""Safe YAML whose every part knows its place: bounded, no tags, no surprises, and syntax errors one can act on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from gpuscout.sweeps.errors import SpecProblem, quoted
from gpuscout.sweeps.spec.faults import Path

MAX_DEPTH = 30
MAX_VALUES = 100_000  # after aliases are followed: ten lines of them can stand for billions of values

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {f"{_TAG}{kind}" for kind in ("str", "timestamp", "value")}
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


@dataclass(frozen=True)
class Place:
    """Place of a value or a key: `line` and `column` count from 1, `key` leads there as written (gpus[2])."""

    file: str | None
    line: int
    column: int
    key: str
    is_mapping: bool = False

    def problem(self, message: str, hint: str | None = None, *, key: str | None = None) -> SpecProblem:
        return SpecProblem(message, self.file, self.line, self.column, self.key if key is None else key or None, hint)


@dataclass
class YamlDocument:
    """The data of a document, the places of its values and keys by path, and what was wrong on the way."""

    data: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    problems: list[SpecProblem] = field(default_factory=list)


def path_text(path: Path) -> str:
    """Return the path as people write it: workloads.chat.input_len, gpus[2]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read_yaml(text: str, file: str | None) -> YamlDocument:
    """Return the one document in `text`. Never raises for its content: what is wrong is in `problems`."""
    document = YamlDocument()
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
        if root is not None:
            document.data = _Builder(file, document).build(root, ())
    except _Refused as refused:
        document.problems.append(_at(refused.mark, file, refused.message))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        shown = f"U+{error.character:04X}" if isinstance(error.character, int) else repr(error.character)
        document.problems.append(SpecProblem(f"the character {shown} cannot stand in YAML", file, line, column))
    except yaml.MarkedYAMLError as error:
        unclosed = "quoted scalar" in (error.context or "") and "end of stream" in (error.problem or "")
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        message, hint = _syntax(error, _line_at(text, mark))
        document.problems.append(_at(mark, file, message, hint))
    return document


class _Refused(Exception):
    def __init__(self, message: str, mark: yaml.Mark) -> None:
        super().__init__(message)
        self.message, self.mark = message, mark


class _Loader(yaml.SafeLoader):
    """Composes nodes only, to a bounded depth (deeper ones would exhaust Python's stack)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth >= MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Builder:
    """Turns nodes into plain data and notes the place of each."""

    def __init__(self, file: str | None, document: YamlDocument) -> None:
        self._file = file
        self._document = document
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES:,} values", node.start_mark)
        if id(node) in self._open:
            raise _Refused("this part contains itself", node.start_mark)
        place = self._place(node, path)
        self._document.values.setdefault(path, place)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                if node.tag != f"{_TAG}seq":
                    self._refuse_tag(node, path)
                return [self.build(entry, (*path, position)) for position, entry in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        if node.tag != f"{_TAG}map":
            self._refuse_tag(node, path)
        own, inherited = [], []
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                inherited.append(value)
            elif not isinstance(key, yaml.ScalarNode):
                self._problem(key, path, "a key must be text", key="")
            elif key.value in first:
                where = f"the first one is in line {first[key.value]}"
                self._problem(key, path, f"{quoted(key.value)} is given twice; {where}", key="")
            else:
                first[key.value] = key.start_mark.line + 1
                own.append((key, value))
        merged = {key.value: (key, value) for source in inherited for key, value in self._merged(source, path)}
        # As YAML has it: what `<<` brings in stands first, and a mapping's own keys replace it.
        merged |= {key.value: (key, value) for key, value in own}
        result = {}
        for name, (key, value) in merged.items():
            self._document.keys.setdefault((*path, name), self._place(key, (*path, name)))
            result[name] = self.build(value, (*path, name))
        return result

    def _merged(self, source: yaml.Node, path: Path, depth: int = 0) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Yield the keys that `<<: *other` brings in; of several mappings the first has precedence."""
        if depth > MAX_DEPTH:
            raise _Refused("this part contains itself", source.start_mark)
        if isinstance(source, yaml.SequenceNode):
            for entry in reversed(source.value):
                yield from self._merged(entry, path, depth + 1)
        elif isinstance(source, yaml.MappingNode):
            for key, value in source.value:
                self._count += 1
                if self._count > MAX_VALUES:
                    raise _Refused(f"more than {MAX_VALUES:,} values", source.start_mark)
                if key.tag == f"{_TAG}merge":
                    yield from self._merged(value, path, depth + 1)
            yield from ((k, v) for k, v in source.value if k.tag != f"{_TAG}merge" and isinstance(k, yaml.ScalarNode))
        else:
            self._problem(source, path, "`<<` takes a mapping, or a list of mappings", key="")

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return yaml.SafeLoader.bool_values[text.lower()]
                case "int":
                    return self._integer(node, text, path)
                case "float":
                    return self._float(node, text, path)
        except (ValueError, KeyError):
            shown = text if len(text) <= 30 else f"a number of {len(text):,} digits"
            self._problem(node, path, f"{shown} is not a usable number")
            return 1
        if node.tag not in _TEXT_TAGS:
            self._refuse_tag(node, path)
        return text

    def _integer(self, node: yaml.Node, text: str, path: Path) -> int:
        if _BASE_60.fullmatch(text):
            message = f"YAML reads {text} as a number to base 60"
            self._problem(node, path, message, f'write it as a plain number, or as text: "{text}"')
            return 1
        digits = text.replace("_", "").lower()
        bare = digits.lstrip("+-")
        if len(bare) > 1 and bare[0] == "0" and bare[1] not in "xb":
            message = f"YAML reads {text} as a number to base 8"
            self._problem(node, path, message, f'write {bare.lstrip("0") or "0"}, or as text: "{text}"')
            return 1
        return int(digits, 0)

    def _float(self, node: yaml.Node, text: str, path: Path) -> float:
        if _BASE_60.fullmatch(text):
            return self._integer(node, text, path)
        number = float(re.sub(r"\.(inf|nan)$", r"\1", text.replace("_", "").lower()))
        if not math.isfinite(number):
            raise ValueError(text)
        return number

    def _refuse_tag(self, node: yaml.Node, path: Path) -> None:
        if node.tag == "!=":
            self._problem(node, path, "a comparison needs quotes", f'write "!= {_scalar_text(node)}"')
        else:
            shown = node.tag.replace(_TAG, "!!")
            self._problem(
                node, path, f"the YAML tag {quoted(shown)} is not allowed", "text that starts with ! needs quotes"
            )

    def _place(self, node: yaml.Node, path: Path) -> Place:
        mark = node.start_mark
        is_mapping = isinstance(node, yaml.MappingNode)
        return Place(self._file, mark.line + 1, mark.column + 1, path_text(path), is_mapping)

    def _problem(
        self, node: yaml.Node, path: Path, message: str, hint: str | None = None, key: str | None = None
    ) -> None:
        self._document.problems.append(self._place(node, path).problem(message, hint, key=key))


def _scalar_text(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "…"


def _at(mark: yaml.Mark | None, file: str | None, message: str, hint: str | None = None) -> SpecProblem:
    if mark is None:
        return SpecProblem(message, file, 1, 1, hint=hint)
    return SpecProblem(message, file, mark.line + 1, mark.column + 1, hint=hint)


def _line_at(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    return lines[mark.line] if mark is not None and mark.line < len(lines) else ""


def _syntax(error: yaml.MarkedYAMLError, line: str) -> tuple[str, str | None]:
    """Return the meaning of a YAML error for somebody who writes a spec, and what to do."""
    problem, context = error.problem or "", error.context or ""
    indentation = line[: len(line) - len(line.lstrip())]
    if "\t" in indentation or "'\\t'" in problem:
        return "a tab; YAML is indented with spaces", None
    if "duplicate anchor" in problem:
        return "this anchor (&) is defined a second time", _opened(error)
    if "alias" in context or "undefined alias" in problem or "anchor" in context:
        return "text that starts with * or & needs quotes", 'a glob, for example: "*FP8*"'
    if "block scalar" in context:
        return "text that starts with > or | needs quotes", 'a comparison, for example: "> 4"'
    if "tag" in context or "tag" in problem:
        return "text that starts with ! needs quotes", 'a comparison, for example: "!= 1"'
    if unstartable := re.search(r"found character '(.)' that cannot start", problem):
        hint = 'a comparison, for example: "> 4"' if unstartable[1] == ">" else None
        return f"text that starts with {unstartable[1]} needs quotes", hint
    if "quoted scalar" in context:
        return "a quotation mark is never closed, or is followed by more text", None
    if "expected a single document" in context:
        return "a spec is one YAML document; this starts another one", None
    if "flow sequence" in context or "flow mapping" in context:
        bracket = "[" if "sequence" in context else "{"
        return f"a list or mapping opened with {bracket} is not closed, or lacks a comma", _opened(error)
    if "mapping values are not allowed" in problem:
        return "a colon where YAML expects none", 'is the indentation right? text that contains ": " needs quotes'
    if "could not find expected ':'" in problem:
        return "a key without a colon", 'write "key: value"; text of several lines needs quotes'
    if "expected <block end>" in problem:
        return "the indentation does not fit the lines above", _opened(error)
    return f"not valid YAML: {problem or context}", None


def _opened(error: yaml.MarkedYAMLError) -> str | None:
    return f"it starts in line {error.context_mark.line + 1}" if error.context_mark is not None else None
