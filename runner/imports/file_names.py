"""Settings of runs from the names of result files, by a pattern: `{model}_{gpu}_tp{tp}_*`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

from gpuscout.runner.imports.stated import FIELDS, Value
from gpuscout.sweeps.errors import InputError, nearest

FLAG = "--name"
_EXAMPLE = "'{model}_{gpu}_tp{tp}_*'"
_PART = re.compile(r"\{(?P<field>[^{}]*)\}|(?P<many>\*)|(?P<one>\?)|(?P<brace>[{}])|(?P<text>[^*?{}]+)")
_SHAPES = {"size": r"\d+", "number": r"\d+(?:\.\d+)?", "fraction": r"\d+(?:\.\d+)?"}


@dataclass
class NamePattern:
    """A pattern of file names: `{field}` is what is said of the runs, `*` and `?` are anything.

    It is matched with the name without its folders, with or without its ending. `unmatched`: names it did not fit.
    """

    text: str
    form: re.Pattern[str]
    unmatched: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> NamePattern:
        """Raise InputError for a pattern without fields, with a field twice, or one that is not known."""
        form, names = "", set[str]()
        for part in _PART.finditer(text):
            if part["brace"] is not None:
                raise InputError(f'{FLAG}: "{text}": unmatched brace', hint=f"for example {_EXAMPLE}")
            if part["field"] is None:
                form += ".*" if part["many"] else "." if part["one"] else re.escape(part["text"])
                continue
            name = part["field"].strip().replace("-", "_")
            if name not in FIELDS:
                close = nearest(name, FIELDS)
                raise InputError(
                    f'{FLAG}: unknown field "{{{part["field"]}}}"',
                    hint=f"did you mean {{{close[0]}}}?" if close else f"known: {', '.join(FIELDS)}",
                )
            if name in names:
                raise InputError(f'{FLAG}: "{text}" has {{{name}}} twice')
            names.add(name)
            form += f"(?P<{name}>{_SHAPES.get(FIELDS[name].kind, '.+?')})"
        if not names:
            raise InputError(f'{FLAG}: "{text}" has no field', hint=f"for example {_EXAMPLE}")
        return cls(text, re.compile(form, re.IGNORECASE | re.DOTALL))

    def values(self, file: str) -> dict[str, Value]:
        """Return the fields of this file's name; empty where the pattern does not match."""
        path = PurePath(file)
        found = self.form.fullmatch(path.stem) or self.form.fullmatch(path.name)
        if found is None:
            if file not in self.unmatched:
                self.unmatched.append(file)
            return {}
        return {name: Value(text, f"{path.name} ({FLAG})") for name, text in found.groupdict().items()}
