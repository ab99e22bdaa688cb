"""A user's YAML file of own accelerators: what it holds, and every problem with its place."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscout.sweeps.errors import SpecProblem, nearest
from gpuscout.sweeps.gpus.gpu import MAPPINGS, TUPLES, GPUSpec, usable_gib
from gpuscout.sweeps.gpus.limits import ARITHMETIC, CAPABILITY, NAME, NUMBERS, TFLOPS, Limits
from gpuscout.sweeps.reading import read_settings, reading
from gpuscout.sweeps.text import fault_in

if TYPE_CHECKING:
    import yaml

_TEXTS = ("name", "vendor", "family", "link_kind", "compute_capability")
_REQUIRED = (
    "name",
    "vendor",
    "family",
    "memory_gb",
    "memory_bandwidth_gbs",
    "dense_tflops",
    "pcie_gbs",
    "gpus_per_node",
)
_LINK = ("link_kind", "link_gbs", "scale_up_gpus")
_KEYS = (*_TEXTS, *NUMBERS, *TUPLES, *MAPPINGS, "replaces")


@dataclass(frozen=True)
class Place:
    """Place of a problem: counted from 1, and the key as one would write it (`gpus[0].memory_gb`)."""

    line: int
    column: int
    key: str


@dataclass(frozen=True)
class OwnGpu:
    """One entry of a user's file. `spec` is None when the entry has problems; `spellings` are its name and aliases."""

    place: Place
    name: str | None
    replaces: bool
    spellings: tuple[tuple[Place, str], ...]
    spec: GPUSpec | None


@dataclass(frozen=True)
class _Item:
    """One YAML node: a scalar's text (None for null), a list or a mapping. `named_at` is where its key stands."""

    place: Place
    value: str | list[_Item] | dict[str, _Item] | None
    quoted: bool = False
    named_at: Place | None = None

    def __str__(self) -> str:
        return f'"{self.value}"' if isinstance(self.value, str) else _KINDS[type(self.value)]


_KINDS = {list: "a list", dict: "a mapping", type(None): "nothing"}
_DEPTH = 4  # file, list, GPU, dense_tflops


class GpuFile:
    """A user's YAML file of GPUs: `read` gives what it holds, `problems` collects all that is wrong with it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problems: list[SpecProblem] = []

    def report(self, place: Place, message: str, hint: str | None = None) -> None:
        self.problems.append(SpecProblem(message, str(self.path), place.line, place.column, place.key or None, hint))

    def read(self) -> list[OwnGpu]:
        """Return the GPUs of the file in its order, those with problems included.

        Raises InputError if it cannot be read.
        """
        root = self._parse()
        if root is None:
            return []
        gpus = root.value.get("gpus") if isinstance(root.value, dict) else None
        if isinstance(root.value, dict):
            self._report_unknown_keys(root.value, ("gpus",))
        if gpus is None or not isinstance(gpus.value, list):
            self.report((gpus or root).place, 'a GPU file needs a list named "gpus"')
            return []
        return [gpu for item in gpus.value if (gpu := self._gpu(item))]

    def _parse(self) -> _Item | None:
        import yaml  # takes longer to import than the catalogue to load

        with reading(f"the GPU file {self.path}"):
            text = read_settings(self.path, "utf-8")
        try:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
            return self._item(root, loader, "", 0) if root else _Item(Place(1, 1, ""), None)
        except yaml.YAMLError as err:
            mark = getattr(err, "problem_mark", None)
            what = getattr(err, "problem", None) or err
            self.report(_place(mark, "") if mark else Place(1, 1, ""), f"not valid YAML: {what}")
            return None
        except RecursionError:
            self.report(Place(1, 1, ""), "nested too deep for a list of GPUs")
            return None

    def _item(self, node: yaml.Node, loader: yaml.SafeLoader, key: str, depth: int) -> _Item:
        import yaml

        place = _place(node.start_mark, key)
        if isinstance(node, yaml.ScalarNode):
            null = node.tag == "tag:yaml.org,2002:null"
            return _Item(place, None if null else node.value, quoted=bool(node.style))
        if depth == _DEPTH:  # nothing is expected here, and an alias may contain itself
            return _Item(place, [] if isinstance(node, yaml.SequenceNode) else {})
        if isinstance(node, yaml.SequenceNode):
            children = enumerate(node.value)
            return _Item(place, [self._item(child, loader, f"{key}[{i}]", depth + 1) for i, child in children])
        assert isinstance(node, yaml.MappingNode)
        names = [str(name.value) for name, _ in node.value]
        for position, (name, _) in enumerate(node.value):
            if names[position] in names[:position]:
                self.report(_place(name.start_mark, key), f'"{name.value}" is given twice')
        loader.flatten_mapping(node)  # YAML's `<<: *other`; what the mapping itself says comes last and wins
        node.value = list({str(name.value): (name, child) for name, child in node.value}.values())
        items: dict[str, _Item] = {}
        for name, child in node.value:
            child_key = f"{key}.{name.value}" if key else str(name.value)
            item = self._item(child, loader, child_key, depth + 1)
            items[str(name.value)] = replace(item, named_at=_place(name.start_mark, child_key))
        return _Item(place, items)

    def _gpu(self, item: _Item) -> OwnGpu | None:
        if not isinstance(item.value, dict):
            self.report(item.place, f"must be a mapping of {', '.join(_REQUIRED)} …, not {item}")
            return None
        found_before = len(self.problems)
        given = item.value
        self._report_unknown_keys(given, _KEYS)
        values = {key: value for key in _KEYS if key in given and (value := self._value(key, given[key])) is not None}
        self._report_missing(item, given)
        replaces = values.pop("replaces", False)
        spec = None
        if len(self.problems) == found_before:
            self._report_contradictions(given, values)
        if len(self.problems) == found_before:
            spec = GPUSpec.from_dict(_with_defaults(values))
        spellings = [(given["name"].place, values["name"])] if "name" in values else []
        if "aliases" in values:
            spellings += [(given["aliases"].place, alias) for alias in values["aliases"]]
        return OwnGpu(item.place, values.get("name"), replaces, tuple(spellings), spec)

    def _value(self, key: str, item: _Item) -> Any:
        """Return the catalogue's value for this key; None, and a problem, when it cannot be understood."""
        if key in NUMBERS:
            return self._number(item, NUMBERS[key])
        if key in _TEXTS:
            return self._text(item, key)
        if key in TUPLES:
            return self._texts(item, key)
        if key == "replaces":
            return self._flag(item)
        if not isinstance(item.value, dict):
            self.report(item.place, f"must be a mapping, not {item}")
            return None
        if key == "sources":
            return {field_name: self._text(child, "source") for field_name, child in item.value.items()}
        self._report_unknown_keys(item.value, ARITHMETIC)
        if not item.value:
            self.report(item.place, f"needs at least one of {', '.join(ARITHMETIC)}")
        known = [name for name in ARITHMETIC if name in item.value]
        return {name: self._number(item.value[name], TFLOPS) for name in known}

    def _number(self, item: _Item, limits: Limits) -> float | int | None:
        number = None
        if isinstance(item.value, str) and not item.quoted:
            with contextlib.suppress(ValueError):
                number = float(item.value)
        unit = f" {limits.unit}" if limits.unit else ""
        if number is None:
            hint = f"write only the number; the unit is{unit}" if unit else None
            self.report(item.place, f"must be a number, not {item}", hint)
        elif not limits.low <= number <= limits.high:
            self.report(item.place, f"{item.value} is outside {limits.low:,} to {limits.high:,}{unit}")
        elif limits.whole and not number.is_integer():
            self.report(item.place, f"must be a whole number, not {item.value}")
        else:
            return int(number) if limits.whole else number
        return None

    def _text(self, item: _Item, key: str) -> str | None:
        text = item.value.strip() if isinstance(item.value, str) else ""
        if not text:
            self.report(item.place, f"must be a text, not {item}")
        elif key in ("name", "aliases") and not NAME.fullmatch(text):
            self.report(item.place, f"{item} may only have letters, digits, spaces and . _ + - ( )")
        elif key == "compute_capability" and not CAPABILITY.fullmatch(text):
            self.report(item.place, f"must look like 9.0, not {item}")
        elif fault := fault_in(text):
            self.report(item.place, fault)
        else:
            return text
        return None

    def _texts(self, item: _Item, key: str) -> tuple[str, ...] | None:
        if isinstance(item.value, list):
            return tuple(text for child in item.value if (text := self._text(child, key)))
        self.report(item.place, f"must be a list, not {item}", f"write [{item.value}]" if item.value else None)
        return None

    def _flag(self, item: _Item) -> bool | None:
        if item.value in ("true", "false") and not item.quoted:
            return item.value == "true"
        self.report(item.place, f"must be true or false, not {item}")
        return None

    def _report_unknown_keys(self, given: Mapping[str, _Item], known: Sequence[str]) -> None:
        for key, item in given.items():
            if key not in known:
                close = nearest(key, known, limit=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                self.report(item.named_at or item.place, "unknown key", hint)

    def _report_missing(self, item: _Item, given: Mapping[str, _Item]) -> None:
        missing = [key for key in _REQUIRED if key not in given]
        if missing:
            self.report(item.place, f"needs {', '.join(missing)}")
        without = [key for key in _LINK if key not in given]
        if 0 < len(without) < len(_LINK) or ("link_pair_gbs" in given and without):
            self.report(item.place, f"{', '.join(_LINK)} belong together: also needs {', '.join(without)}")

    def _report_contradictions(self, given: Mapping[str, _Item], values: Mapping[str, Any]) -> None:
        # An "80 GB" part may hold 80 GiB, but no part more GiB than its nominal GB.
        for smaller, larger in (("memory_usable_gib", "memory_gb"), ("link_pair_gbs", "link_gbs")):
            if smaller in values and values[smaller] > values[larger]:
                self.report(given[smaller].place, f"must not be more than {larger} ({values[larger]:g})")


def _place(mark: yaml.Mark, key: str) -> Place:
    return Place(mark.line + 1, mark.column + 1, key)


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a GPU file with what it may leave out."""
    usable = {"memory_usable_gib": usable_gib(values["memory_gb"])}
    pcie = {"link_kind": "PCIe", "link_gbs": values["pcie_gbs"], "scale_up_gpus": 1}
    complete = {**usable, **pcie, **values}
    if "memory_usable_gib" not in values:
        derived = {"memory_usable_gib": "derived: 0.98 x memory_gb"}
        complete["sources"] = {**derived, **complete.get("sources", {})}
    return {"link_pair_gbs": complete["link_gbs"], **complete}
