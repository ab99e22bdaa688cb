"""The sweep spec: what a user writes in YAML or says in flags, validated, with every axis a tuple of plain values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, PrivateAttr, ValidationError
from pydantic.json_schema import WithJsonSchema

from gpuscout.sweeps.errors import InputError, SpecError, SpecProblem, quoted
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import SERVER_ALIASES, SERVERS
from gpuscout.sweeps.servers.options import ServerOptions
from gpuscout.sweeps.slo import OBJECTIVE_SYNONYMS, OBJECTIVES, Slo, parse_slo
from gpuscout.sweeps.spec import axes
from gpuscout.sweeps.spec.checks import check, parse_zip, zip_json_schema
from gpuscout.sweeps.spec.entries import (
    Description,
    EngineEntry,
    GpuSelector,
    KvPrecisions,
    Limits,
    ModelEntry,
    Name,
    Precisions,
    Text,
    one_part,
    parts,
)
from gpuscout.sweeps.spec.faults import (
    Fault,
    Faults,
    InvalidValue,
    Path,
    UnknownKey,
    as_list,
    faults_of,
    one_or_more,
    repeated,
    unexpected,
)
from gpuscout.sweeps.spec.json_schema import schema_of_files
from gpuscout.sweeps.spec.rules import Rule, parse_rules, rules_json_schema
from gpuscout.sweeps.spec.serving import (
    parse_server_options,
    parse_speculative,
    server_options_json_schema,
    speculative_json_schema,
)
from gpuscout.sweeps.spec.source import SpecSource, read_text, source_of_mapping, source_of_text
from gpuscout.sweeps.spec.traffic import RATES
from gpuscout.sweeps.spec.workloads import (
    parse_workloads,
    with_absolute_files,
    workload_as_given,
    workloads_json_schema,
)
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative
from gpuscout.sweeps.workloads import PRESETS, Workload

LOADS = ("concurrency", "request_rate")

# Keys a spec may have that are not fields of SweepSpec: merged, or read as another key, before validation.
OTHER_KEYS = ("extends", "engine")


def _parse_slos(value: object) -> tuple[Slo, ...]:
    faults = Faults()
    slos = []
    for path, entry in as_list(value):
        if not isinstance(entry, str):
            faults.add(unexpected('text such as "itl<=30ms"', entry, path))
            continue
        try:
            slos.append((path, parse_slo(entry)))
        except InputError as error:
            faults.add(Fault(error.message, path, error.hint))
    repeated(((path, slo.name) for path, slo in slos), faults)
    faults.raise_if_any()
    return tuple(slo for _, slo in slos)


def _parse_objective(value: object) -> str:
    if isinstance(value, list):
        raise InvalidValue(unexpected("one objective", value))
    return axes.parse_names(value, "objective", OBJECTIVES, OBJECTIVE_SYNONYMS)[0]


def _parse_load(value: object) -> str:
    if isinstance(value, list):
        raise InvalidValue(unexpected("one kind of load", value))
    return axes.parse_names(value, "load", LOADS, {"rate": "request_rate", "closed-loop": "concurrency"})[0]


def _parse_servers(value: object) -> tuple[str, ...]:
    return axes.parse_names(value, "server", SERVERS, SERVER_ALIASES)


def _entry_schema(kind: type[BaseModel]) -> dict[str, object]:
    mapping = kind.model_json_schema()
    if kind is EngineEntry:
        # Options stand beside the name, and only the engine knows which there are.
        own = {key: value for key, value in mapping["properties"].items() if key != "options"}
        mapping = {**mapping, "properties": own, "additionalProperties": True}
    entry = {"anyOf": [{"type": "string", "minLength": 1}, mapping]}
    return one_or_more(entry)


def _parsed(parse: Callable[[Any], object], schema: dict[str, object]) -> tuple[PlainValidator, WithJsonSchema]:
    """Return a type whose values `parse` makes of what is written, and the JSON Schema of that."""
    return PlainValidator(parse), WithJsonSchema(schema)


_SLO_SCHEMA: dict[str, object] = {
    "type": "string",
    "pattern": "^\\s*([A-Za-z0-9]+(:p[0-9.]+)?\\s*(<=?|≤)|rate\\s*(>=?|≥))\\s*[0-9.]+\\s*[A-Za-z/]*\\s*$",
}
_Models = Annotated[tuple[ModelEntry, ...], *_parsed(parts(ModelEntry), _entry_schema(ModelEntry))]
_Gpus = Annotated[tuple[GpuSelector, ...], *_parsed(parts(GpuSelector), _entry_schema(GpuSelector))]
_Engines = Annotated[tuple[EngineEntry, ...], *_parsed(parts(EngineEntry), _entry_schema(EngineEntry))]
_Servers = Annotated[tuple[str, ...], *_parsed(_parse_servers, axes.names_json_schema(SERVERS))]
_Parallel = Annotated[tuple[int, ...], *_parsed(axes.PARALLEL.parse, axes.PARALLEL.json_schema())]
_AutoOrParallel = Annotated[
    tuple[int, ...] | Literal["auto"],
    *_parsed(axes.parse_auto_or_parallel, {"anyOf": [{"const": "auto"}, axes.PARALLEL.json_schema()]}),
]
_MemoryFraction = Annotated[tuple[float, ...], *_parsed(axes.MEMORY_FRACTION.parse, axes.MEMORY_FRACTION.json_schema())]
_MaxModelLen = Annotated[tuple[int | None, ...], *_parsed(axes.MAX_MODEL_LEN.parse, axes.MAX_MODEL_LEN.json_schema())]
_ServerOptions = Annotated[tuple[ServerOptions, ...], *_parsed(parse_server_options, server_options_json_schema())]
_Speculative = Annotated[tuple[Speculative, ...], *_parsed(parse_speculative, speculative_json_schema())]
_Workloads = Annotated[tuple[Workload, ...], *_parsed(parse_workloads, workloads_json_schema())]
_Ladder = Annotated[
    tuple[int, ...] | None,
    *_parsed(axes.parse_ladder, {"anyOf": [{"type": "null"}, axes.CONCURRENCY.json_schema()]}),
]
_Load = Annotated[str, *_parsed(_parse_load, {"enum": list(LOADS)})]
_Rates = Annotated[tuple[float, ...], *_parsed(RATES.parse, RATES.json_schema())]
_Zip = Annotated[tuple[tuple[str, ...], ...], *_parsed(parse_zip, zip_json_schema())]
_Rules = Annotated[tuple[Rule, ...], *_parsed(parse_rules, rules_json_schema())]
_Limits = Annotated[Limits, *_parsed(one_part(Limits), Limits.model_json_schema())]
_Objective = Annotated[str | None, *_parsed(_parse_objective, {"type": "string", "enum": list(OBJECTIVES)})]
_Slos = Annotated[
    tuple[Slo, ...], *_parsed(_parse_slos, {"anyOf": [_SLO_SCHEMA, {"type": "array", "items": _SLO_SCHEMA}]})
]


class SweepSpec(BaseModel):
    """A validated spec. Names of models and GPUs are as written; nothing was looked up yet.

    Made by `load_spec`, `parse_spec` and `spec_from_mapping`, which raise SpecError with every problem at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    _source: SpecSource = PrivateAttr(default_factory=SpecSource)

    name: Name = Field(
        description="Names the sweep in the store; running another spec of this name makes a new revision of it."
    )
    description: Description | None = Field(default=None, description="What the sweep is for.")
    models: _Models = Field(
        description="Models to sweep: ids, bare names, globs over the catalogue, local folders or config.json files, "
        "or mappings with precisions of their own."
    )
    gpus: _Gpus = Field(
        description="GPUs to sweep: names, aliases, globs, or selectors such as {vendor: AMD, min_memory_gb: 100}."
    )
    gpu_file: Text | None = Field(
        default=None, description="A YAML file with GPUs of your own; relative to the file it is named in."
    )
    engines: _Engines = Field(
        default=(EngineEntry(name="roofline"),),
        description="Several estimators, each by its name or as a mapping of its name and options.",
    )
    servers: _Servers = Field(default=("vllm",), description="What serves the model.")
    tensor_parallel: _AutoOrParallel = Field(
        default="auto",
        description="GPUs that share every layer. `auto`: the powers of two that divide the attention heads and stay "
        "within one node's fast link.",
    )
    pipeline_parallel: _Parallel = Field(default=(1,), description="Stages that the layers are cut into.")
    data_parallel: _Parallel = Field(
        default=(1,), description="Independent attention ranks (whole replicas for dense models)."
    )
    expert_parallel: _Parallel = Field(
        default=(1,), description="Ranks that share the experts of a mixture-of-experts model; divides TP x DP."
    )
    precision: Precisions = Field(
        default=("native",), description="Number formats of the weights; `native` is the checkpoint's own."
    )
    kv_precision: KvPrecisions = Field(default=("native",), description="Number formats of the KV cache.")
    gpu_memory_utilization: _MemoryFraction = Field(
        default=(0.9,), description="Part of a GPU's memory that the server may use."
    )
    max_model_len: _MaxModelLen = Field(
        default=(None,), description="Tokens one sequence may grow to; `workload` or null is its input and output."
    )
    server_options: _ServerOptions = Field(
        default=((),),
        description="What servers are started with beyond all that; what is not named is the server's default.",
    )
    speculative: _Speculative = Field(
        default=(NO_DRAFTS,),
        description="Speculative decoding: none, or what is drafted, how much holds, and its cost.",
    )
    workloads: _Workloads = Field(description="Shapes of requests: presets, or input and output lengths in tokens.")
    concurrency: _Ladder = Field(
        default=None, description="Requests in flight to evaluate; null: the default ladder of each engine."
    )
    load: _Load = Field(
        default="concurrency",
        description="What loads a deployment: `concurrency` requests in flight at all times, or requests that arrive "
        "at a `request_rate`.",
    )
    request_rate: _Rates = Field(
        default=(),
        description="Requests/s of one deployment to evaluate, with `load: request_rate`; a trace has its own rate.",
    )
    zip: _Zip = Field(
        default=(),
        description="Groups of axes that run in lockstep: the first values of each together, then the second ones …",
    )
    exclude: _Rules = Field(default=(), description="Leave out what matches any of these rules.")
    only: _Rules = Field(default=(), description="Keep only what matches any of these rules.")
    limits: _Limits = Field(default=Limits(), description="Bounds of the sweep.")
    objective: _Objective = Field(default=None, description="What `gpuscout run` ranks by in the end.")
    slo: _Slos = Field(
        default=(), description="Latency limits of the recommendation, such as ttft<=500ms, itl<=30ms, e2e<=10s."
    )

    @property
    def file(self) -> str | None:
        """The file the spec was read from."""
        return self._source.file

    @property
    def text(self) -> str:
        """The spec as given; as YAML if it was built from flags."""
        return self.to_yaml() if self._source.text is None else self._source.text

    def problem(self, path: Path, message: str, hint: str | None = None) -> SpecProblem:
        """Return a problem found later with the value at `path`, such as ("gpus", 2), with its place in the file."""
        return self._source.problem(path, message, hint)

    @property
    def swept_workloads(self) -> tuple[Workload, ...]:
        """The workloads, in an open loop once for each rate: "support@2.5" are 2.5 requests/s of "support"."""
        if self.load == "concurrency":
            return self.workloads
        return tuple(
            workload.at_rate(rate)
            for workload in self.workloads
            for rate in (self.request_rate or (workload.traffic.own_rate,))
        )

    def resolve_path(self, path: Path, written: str) -> str:
        """Return a file name written at `path` of this spec, relative to the file it was written in."""
        return os.path.normpath(os.path.join(self._source.directory(path), os.path.expanduser(written)))

    def to_dict(self, *, directory: str | None = None) -> dict[str, object]:
        """Return the spec as data for `spec_from_mapping`, without defaults and merged with what it extends.

        Relative paths count from `directory`, by default that of the spec's own file.
        """
        result: dict[str, object] = {}
        for key, info in type(self).model_fields.items():
            value = getattr(self, key)
            if not info.is_required() and value == info.get_default():
                continue
            if key == "engines" and len(value) == 1:
                result["engine"] = value[0].given
            else:
                result[key] = _as_given(key, value)
        directory = os.path.dirname(self.file or "") if directory is None else directory
        if self.gpu_file is not None:
            result["gpu_file"] = self._rebased(("gpu_file",), self.gpu_file, directory)
        result["models"] = [self._model_as_given(number, directory) for number in range(len(self.models))]
        return result

    def _model_as_given(self, number: int, directory: str) -> object:
        entry = self.models[number]
        if not entry.is_path:
            return entry.given
        rebased = self._rebased(("models", number), entry.model, directory)
        is_path = entry.model_copy(update={"model": rebased}).is_path
        return entry.model_copy(update={"model": rebased if is_path else f"./{rebased}"}).given

    def _rebased(self, path: Path, written: str, directory: str) -> str:
        here = self._source.directory(path)
        if os.path.isabs(os.path.expanduser(written)) or os.path.abspath(here) == os.path.abspath(directory):
            return written
        return os.path.relpath(self.resolve_path(path, written), directory or ".")

    def to_yaml(self, *, directory: str | None = None) -> str:
        """Return `to_dict` as YAML."""
        plain = self.to_dict(directory=directory)
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _as_given(key: str, value: Any) -> Any:
    match value:
        case tuple() if key == "server_options":
            return [dict(options) for options in value]
        case Speculative():
            return dict(value.given) or "none"
        case tuple() if key == "max_model_len":
            return ["workload" if length is None else length for length in value]
        case tuple():
            return [_as_given(key, entry) for entry in value]
        case ModelEntry() | GpuSelector() | EngineEntry() | Limits():
            return value.given
        case Workload():
            return workload_as_given(value)
        case Rule():
            return value.to_dict()
        case Slo() | Precision():
            return str(value)
    return value


def load_spec(file: str | os.PathLike[str]) -> SweepSpec:
    """Return the spec in a YAML file. Raises SpecError."""
    file = os.fspath(file)
    return parse_spec(read_text(file), file=file)


def parse_spec(text: str, *, file: str | None = None) -> SweepSpec:
    """Return the spec in YAML text; `file` is named in errors, and relative paths count from it. Raises SpecError."""
    return _validated(source_of_text(text, file))


def spec_from_mapping(data: Mapping[str, Any], *, flags: Mapping[str, str] | None = None) -> SweepSpec:
    """Return a spec from plain data. `flags` maps keys (gpus, workloads.input_len) to what errors call them (--gpu).

    Raises SpecError.
    """
    return _validated(source_of_mapping(data, flags or {}))


def spec_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec file."""
    return schema_of_files(SweepSpec.model_json_schema())


# Stand in for required keys that are missing or wrong, so that the other keys can be checked against each other.
_PLACEHOLDERS = {"name": "x", "models": "x", "gpus": "x", "workloads": next(iter(PRESETS))}


def _validated(source: SpecSource) -> SweepSpec:
    if source.problems and not source.data:
        raise SpecError(source.problems)
    data, faults = _one_engine_key(source)
    if "workloads" in data:
        data["workloads"] = with_absolute_files(data["workloads"], lambda path: source.directory(("workloads", *path)))
    broken: frozenset[str] = frozenset()
    try:
        spec = SweepSpec.model_validate(data)
    except ValidationError as error:
        keys = (*SweepSpec.model_fields, *OTHER_KEYS)
        faults += [_explained(fault, source) for fault in faults_of(error.errors(), keys)]
        broken = frozenset(str(fault.path[0]) for fault in faults)
        sound = {key: value for key, value in data.items() if key not in broken}
        spec = SweepSpec.model_validate(_PLACEHOLDERS | sound)
        faults = _worth_saying(faults, source)
    spec._source = source
    faults += check(spec, data, broken)
    reported = {(problem.file, problem.line, problem.column) for problem in source.problems if problem.line}
    found_here = (source.problem_of(fault) for fault in faults)
    # What YAML could not read as meant was replaced by a placeholder, and complaints about that would confuse.
    new = (problem for problem in found_here if (problem.file, problem.line, problem.column) not in reported)
    problems = list(dict.fromkeys([*source.problems, *new]))
    if problems and source.incomplete:
        raise SpecError(problems)
    if problems:
        raise InvalidSpecError(problems, spec, broken)
    return spec


def _one_engine_key(source: SpecSource) -> tuple[dict[str, Any], list[Fault]]:
    """Return the data with `engine` read as `engines`."""
    data = dict(source.data)
    if "engine" not in data:
        return data, []
    if "engines" in data:
        data.pop("engine")
        return data, [Fault("`engine` and `engines` are both given; keep one", ("engine",), at_key=True)]
    engine = data.pop("engine")
    if isinstance(engine, list):
        return data, [Fault("`engine` takes one engine; `engines` takes a list", ("engine",), at_key=True)]
    for places in (source.values, source.keys):
        written = [(path, place) for path, place in places.items() if path[:1] == ("engine",)]
        places.update((("engines", *path[1:]), place) for path, place in written)
    return {**data, "engines": engine}, []


def _worth_saying(faults: list[Fault], source: SpecSource) -> list[Fault]:
    """Return the faults without missing keys that are misspelt or unreadable, which is reported already."""
    misspelt = [fault.message for fault in faults if isinstance(fault, UnknownKey) and len(fault.path) == 1]

    def explained_elsewhere(key: str) -> bool:
        return (source.incomplete and key != "name") or any(quoted(key) in message for message in misspelt)

    return [f for f in faults if not (f.message == "missing" and explained_elsewhere(str(f.path[-1])))]


_EXAMPLES = {"models": "[Qwen/Qwen3-32B]", "gpus": "[H100, L40S]", "workloads": "[chat]"}


def _explained(fault: Fault, source: SpecSource) -> Fault:
    """Return a missing key with an example of it."""
    if fault.message != "missing" or len(fault.path) != 1:
        return fault
    key = str(fault.path[0])
    if key != "name":
        return Fault("missing", fault.path, f"for example {key}: {_EXAMPLES[key]}")
    stem = os.path.splitext(os.path.basename(source.file or ""))[0]
    proposal = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-") or "first-look"
    return Fault("missing", fault.path, f"every sweep has a name of its own, for example name: {proposal}")


class InvalidSpecError(SpecError):
    """`sound` is the spec with placeholders for the keys in `broken`, which are wrong by themselves."""

    def __init__(self, problems: Iterable[SpecProblem], sound: SweepSpec, broken: frozenset[str]) -> None:
        super().__init__(problems)
        self.sound, self.broken = sound, broken
