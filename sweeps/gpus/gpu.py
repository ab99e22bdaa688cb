"""Accelerators: the figures of one type, their digest and JSON, and a user's YAML file of own ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscout.sweeps.errors import InputError, SpecProblem, nearest
from gpuscout.sweeps.reading import read_settings
from gpuscout.sweeps.text import fault_in

if TYPE_CHECKING:
    import yaml


_USABLE_SHARE = 0.98  # of the nominal memory, where nobody has said what software sees


@dataclass(frozen=True, init=False)
class GPUSpec:
    """One accelerator type. Figures are per GPU (GB200/GB300: per GPU, not per superchip). GB = 10^9, GiB = 2^30.

    `memory_gb` is the vendor's nominal size (an "80 GB" part may hold 80 GiB), `memory_usable_gib` what software sees.
    `dense_tflops` maps fp32, fp16, bf16, fp8, fp4, int8 to peak matrix TFLOPS (TOPS for int8) without structured
    sparsity; a key is absent where the hardware lacks that format. `link_gbs` is what one GPU can send in one
    direction over the link between the GPUs of one node; `link_pair_gbs` the part of it that one single peer can
    get (less than `link_gbs` on AMD's fully connected fabric). `scale_up_gpus` GPUs share that link (1: only PCIe).
    `unverified` names the fields known only from memory, `sources` says where each figure comes from.

    A name and a size of memory are enough to ask what fits. Bandwidths of 0 are not known: without the memory's, no
    engine estimates times, without a link's none for several GPUs.

    >>> own = GPUSpec("X100", memory_gb=80, tflops=60, compute_capability="9.0", release_year=2024)
    >>> own.manufacturer, own.dense_tflops, own.memory_bandwidth_gbs
    ('NVIDIA', {'fp32': 60}, 0)
    """

    name: str
    vendor: str
    family: str
    memory_gb: float
    memory_usable_gib: float
    memory_bandwidth_gbs: float
    dense_tflops: Mapping[str, float] = field(hash=False)
    link_kind: str
    link_gbs: float
    link_pair_gbs: float
    pcie_gbs: float
    scale_up_gpus: int
    gpus_per_node: int
    compute_capability: str | None
    tdp_w: float | None
    release_year: int | None
    aliases: tuple[str, ...]
    sources: Mapping[str, str] = field(compare=False)
    notes: tuple[str, ...]
    unverified: tuple[str, ...] = field(compare=False)

    def __init__(
        self,
        name: str,
        memory_gb: float,
        tflops: float | None = None,
        compute_capability: str | None = None,
        release_year: int | None = None,
        manufacturer: str = "NVIDIA",
        *,
        vendor: str | None = None,
        family: str = "unknown",
        memory_usable_gib: float | None = None,
        memory_bandwidth_gbs: float = 0,
        dense_tflops: Mapping[str, float] | None = None,
        link_kind: str = "PCIe",
        link_gbs: float | None = None,
        link_pair_gbs: float | None = None,
        pcie_gbs: float = 0,
        scale_up_gpus: int = 1,
        gpus_per_node: int = 8,
        tdp_w: float | None = None,
        aliases: tuple[str, ...] = (),
        sources: Mapping[str, str] | None = None,
        notes: tuple[str, ...] = (),
        unverified: tuple[str, ...] = (),
    ) -> None:
        """`tflops` is `dense_tflops["fp32"]`, `manufacturer` another word for `vendor`.

        `memory_usable_gib` is 98 % of `memory_gb` unless given, the links of a node are PCIe.
        """
        given = {} if tflops is None else {"fp32": tflops}
        link = pcie_gbs if link_gbs is None else link_gbs
        values: dict[str, object] = {
            "name": name,
            "vendor": vendor or manufacturer,
            "family": family,
            "memory_gb": memory_gb,
            "memory_usable_gib": usable_gib(memory_gb) if memory_usable_gib is None else memory_usable_gib,
            "memory_bandwidth_gbs": memory_bandwidth_gbs,
            "dense_tflops": {**given, **(dense_tflops or {})},
            "link_kind": link_kind,
            "link_gbs": link,
            "link_pair_gbs": link if link_pair_gbs is None else link_pair_gbs,
            "pcie_gbs": pcie_gbs,
            "scale_up_gpus": scale_up_gpus,
            "gpus_per_node": gpus_per_node,
            "compute_capability": compute_capability,
            "tdp_w": tdp_w,
            "release_year": release_year,
            "aliases": aliases,
            "sources": {} if sources is None else sources,
            "notes": notes,
            "unverified": unverified,
        }
        for field_name, value in values.items():
            object.__setattr__(self, field_name, value)

    @property
    def manufacturer(self) -> str:
        """The same as `vendor`."""
        return self.vendor

    @property
    def tflops(self) -> float | None:
        """Peak TFLOPS in fp32, without tensor cores; None: not known, or there are none."""
        return self.dense_tflops.get("fp32")

    def supports(self, arithmetic: str) -> bool:
        """Whether the matrix units multiply this format (a key of `dense_tflops`)."""
        return arithmetic in self.dense_tflops

    @property
    def fast_link_gpus(self) -> int:
        """GPUs of one node that reach each other over `link_gbs`: those on the fast link, or all of them over PCIe."""
        return min(self.scale_up_gpus, self.gpus_per_node) if self.scale_up_gpus > 1 else self.gpus_per_node

    def digest(self) -> bytes:
        """16 bytes that identify the name and every figure that can change an estimate.

        Aliases, notes, sources, power and release year are left out. 80 and 80.0 are the same figure.
        """
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        figures = {name: getattr(self, name) for name in _IDENTITY}
        figures |= {name: float(getattr(self, name)) for name in _FIGURES}
        figures["dense_tflops"] = {key: float(tflops) for key, tflops in self.dense_tflops.items()}
        canonical = json.dumps(figures, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).digest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types; `from_dict` is the inverse."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: list(values[name]) for name in _TUPLES}
        return values | {name: dict(values[name]) for name in _MAPPINGS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPUSpec:
        """The GPU that `to_dict` gave, also after a trip through JSON. Raises TypeError on a key it does not know."""
        tuples = {name: tuple(values[name]) for name in _TUPLES if name in values}
        mappings = {name: dict(values[name]) for name in _MAPPINGS if name in values}
        return cls(**{**values, **tuples, **mappings})


_IDENTITY = ("name", "vendor", "family", "compute_capability", "link_kind")
_FIGURES = (
    "memory_gb",
    "memory_usable_gib",
    "memory_bandwidth_gbs",
    "link_gbs",
    "link_pair_gbs",
    "pcie_gbs",
    "scale_up_gpus",
    "gpus_per_node",
)
_TUPLES = ("aliases", "notes", "unverified")
_MAPPINGS = ("dense_tflops", "sources")


def usable_gib(memory_gb: float) -> float:
    """What software sees of a nominal size where nobody has said so, in GiB; 0 of what is no size."""
    if not isinstance(memory_gb, int | float):
        return 0.0
    return round(_USABLE_SHARE * memory_gb * 1e9 / 2**30, 2)


@dataclass(frozen=True)
class Place:
    """Where a problem is: counted from 1, and the key as one would write it (`gpus[0].memory_gb`)."""

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
class _Limits:
    """What a figure may be. The bounds only catch wrong units: TB/s for GB/s, MiB for GB, FLOPS for TFLOPS."""

    unit: str
    low: float
    high: float
    whole: bool = False

    def fault(self, name: str, value: object) -> str | None:
        """What is wrong with a figure of a `GPUSpec`; None: nothing, or it is not known."""
        if value is None or (value == 0 and name in _UNKNOWN_AT_ZERO and not isinstance(value, bool)):
            return None
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if number and self.low <= value <= self.high:  # type: ignore[operator]
            return None
        kind = "a whole number" if self.whole else "a number"
        unit = f" {self.unit}" if self.unit else ""
        return f"{name}: expected {kind} from {self.low:,} to {self.high:,}{unit}, got {value!r}"


_NUMBERS = {
    "memory_gb": _Limits("GB", 1, 10_000),
    "memory_usable_gib": _Limits("GiB", 0.5, 10_000),
    "memory_bandwidth_gbs": _Limits("GB/s", 20, 1_000_000),
    "link_gbs": _Limits("GB/s", 1, 100_000),
    "link_pair_gbs": _Limits("GB/s", 1, 100_000),
    "pcie_gbs": _Limits("GB/s", 1, 1_000),
    "scale_up_gpus": _Limits("GPUs", 1, 100_000, whole=True),
    "gpus_per_node": _Limits("GPUs", 1, 1_000, whole=True),
    "tdp_w": _Limits("W", 5, 20_000),
    "release_year": _Limits("", 2000, 2100, whole=True),
}
_TFLOPS = _Limits("TFLOPS", 1, 1_000_000)
_ARITHMETIC = ("fp32", "fp16", "bf16", "fp8", "fp4", "int8")
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
_KEYS = (*_TEXTS, *_NUMBERS, *_TUPLES, *_MAPPINGS, "replaces")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]*")
_CAPABILITY = re.compile(r"\d+\.\d+")


_UNKNOWN_AT_ZERO = ("memory_bandwidth_gbs", "link_gbs", "link_pair_gbs", "pcie_gbs")


def faults_of(spec: GPUSpec) -> list[str]:
    """What cannot be in a specification that a program made: every fault in a line, empty where there is none."""
    faults = [
        f"{key}: expected a text of letters, digits, spaces and . _ + - ( ), got {value!r}"
        for key, value in [("name", spec.name), *(("aliases", alias) for alias in spec.aliases)]
        if not (isinstance(value, str) and _NAME.fullmatch(value))
    ]
    capability = spec.compute_capability
    if capability is not None and not (isinstance(capability, str) and _CAPABILITY.fullmatch(capability)):
        faults.append(f'compute_capability: expected a text such as "9.0", got {capability!r}')
    faults += [fault for name, limits in _NUMBERS.items() if (fault := limits.fault(name, getattr(spec, name)))]
    unknown = [name for name in spec.dense_tflops if name not in _ARITHMETIC]
    if unknown:
        faults.append(f"dense_tflops: unknown format {', '.join(map(repr, unknown))}; one of {', '.join(_ARITHMETIC)}")
    known = {name: value for name, value in spec.dense_tflops.items() if name in _ARITHMETIC}
    faults += [fault for name, value in known.items() if (fault := _TFLOPS.fault(f"dense_tflops.{name}", value))]
    return faults


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
        """The GPUs of the file in its order, those with problems included. Raises InputError if it cannot be read."""
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

        try:
            text = read_settings(self.path, "utf-8")
        except (OSError, UnicodeDecodeError) as err:
            reason = err.strerror if isinstance(err, OSError) else "it is not UTF-8 text"
            raise InputError(f"cannot read the GPU file {self.path}: {reason}") from err
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
        """What the catalogue would hold under this key; None, and a problem, when it cannot be understood."""
        if key in _NUMBERS:
            return self._number(item, _NUMBERS[key])
        if key in _TEXTS:
            return self._text(item, key)
        if key in _TUPLES:
            return self._texts(item, key)
        if key == "replaces":
            return self._flag(item)
        if not isinstance(item.value, dict):
            self.report(item.place, f"must be a mapping, not {item}")
            return None
        if key == "sources":
            return {field_name: self._text(child, "source") for field_name, child in item.value.items()}
        self._report_unknown_keys(item.value, _ARITHMETIC)
        if not item.value:
            self.report(item.place, f"needs at least one of {', '.join(_ARITHMETIC)}")
        known = [name for name in _ARITHMETIC if name in item.value]
        return {name: self._number(item.value[name], _TFLOPS) for name in known}

    def _number(self, item: _Item, limits: _Limits) -> float | int | None:
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
        elif key in ("name", "aliases") and not _NAME.fullmatch(text):
            self.report(item.place, f"{item} may only have letters, digits, spaces and . _ + - ( )")
        elif key == "compute_capability" and not _CAPABILITY.fullmatch(text):
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
    """The values of a GPU file with what it may leave out."""
    usable = {"memory_usable_gib": usable_gib(values["memory_gb"])}
    pcie = {"link_kind": "PCIe", "link_gbs": values["pcie_gbs"], "scale_up_gpus": 1}
    complete = {**usable, **pcie, **values}
    if "memory_usable_gib" not in values:
        derived = {"memory_usable_gib": "derived: 0.98 x memory_gb"}
        complete["sources"] = {**derived, **complete.get("sources", {})}
    return {"link_pair_gbs": complete["link_gbs"], **complete}


# The name of the release before this one.
GpuSpec = GPUSpec
