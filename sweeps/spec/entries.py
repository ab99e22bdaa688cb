"""The entries of a sweep spec's lists: models, GPUs, engines, workloads; and its limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic.json_schema import WithJsonSchema

from gpuscout.sweeps.errors import quoted
from gpuscout.sweeps.models.catalogue import is_path
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS, Precision, precision_called, spellings_of
from gpuscout.sweeps.secret import secret_in
from gpuscout.sweeps.spec.axes import NumericAxis, names_json_schema, parse_names
from gpuscout.sweeps.spec.faults import Fault, Faults, InvalidValue, entries_of, faults_of, unexpected
from gpuscout.sweeps.text import fault_in

NamedPrecision = Precision | Literal["native"]

NAME_PATTERN = "^[A-Za-z0-9._-]+$"
LONGEST_NAME = 100
_LONGEST_TEXT = 4_000

_PRECISION_SYNONYMS = {"auto": "native", "default": "native"}


def parse_text(value: object) -> str:
    """Return one line of text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(unexpected("text", value))
    if fault := fault_in(value):
        raise InvalidValue(Fault(fault))
    if len(value) > _LONGEST_TEXT:
        raise InvalidValue(Fault(f"text of {len(value):,} characters; at most {_LONGEST_TEXT:,}"))
    return value


def parse_description(value: object) -> str:
    """Return text of any number of lines."""
    if not isinstance(value, str):
        raise InvalidValue(unexpected("text", value))
    parse_text(re.sub(r"[\n\t]", " ", value) or "-")
    return value


def parse_name(value: object) -> str:
    """Return a name that is safe in file names, URLs and shells."""
    text = parse_text(value)
    if not re.fullmatch(NAME_PATTERN, text) or len(text) > LONGEST_NAME:
        proposal = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:LONGEST_NAME]
        hint = f"allowed: up to {LONGEST_NAME} letters, digits and . _ -"
        raise InvalidValue(
            Fault(f"{quoted(text)} cannot be a name", hint=f"{hint}; for example {proposal}" if proposal else hint)
        )
    return text


Text = Annotated[str, BeforeValidator(parse_text), Field(min_length=1)]
Name = Annotated[str, BeforeValidator(parse_name), Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
Description = Annotated[str, BeforeValidator(parse_description)]


def _precision_parser(kind: str, allowed: Sequence[Precision]) -> Callable[[object], tuple[NamedPrecision, ...] | None]:
    def parse(value: object) -> tuple[NamedPrecision, ...]:
        names = parse_names(value, kind, (*allowed, "native"), _PRECISION_SYNONYMS, called=precision_called)
        return tuple("native" if name == "native" else Precision(name) for name in names)

    return parse


def _precision_type(kind: str, allowed: Sequence[Precision]) -> tuple[PlainValidator, WithJsonSchema]:
    return (
        PlainValidator(_precision_parser(kind, allowed)),
        WithJsonSchema(names_json_schema((*map(str, allowed), "native", *spellings_of(allowed)))),
    )


Precisions = Annotated[tuple[NamedPrecision, ...], *_precision_type("precision", PRECISIONS)]
KvPrecisions = Annotated[tuple[NamedPrecision, ...], *_precision_type("KV precision", KV_PRECISIONS)]
_Memory = Annotated[float, PlainValidator(NumericAxis(0, 100_000, whole=False, above=True).number), WithJsonSchema(
    {"type": "number", "exclusiveMinimum": 0}
)]  # fmt: skip
_Count = Annotated[
    int, PlainValidator(NumericAxis(1, 10**12).number), WithJsonSchema({"type": "integer", "minimum": 1})
]
_Seconds = Annotated[float, PlainValidator(NumericAxis(0, 10_000_000, whole=False, above=True).number), WithJsonSchema(
    {"type": "number", "exclusiveMinimum": 0}
)]  # fmt: skip
_SHARE = NumericAxis(0, 100_000, whole=False)
_Share = Annotated[float, PlainValidator(_SHARE.number), WithJsonSchema({"type": "number", "minimum": 0})]


def _parse_resources(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise InvalidValue(unexpected("a mapping of resources and amounts", value))
    faults = Faults()
    amounts = {}
    for name, amount in value.items():
        with faults.within((str(name),)):
            amounts[str(name)] = float(_SHARE.number(amount))
    faults.raise_if_any()
    return amounts


def _parse_runtime_env(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidValue(unexpected("a mapping, such as {pip: [llm-optimizer]}", value))
    variables = value.get("env_vars")
    for name, content in variables.items() if isinstance(variables, Mapping) else ():
        if secret_in(f"{name}={content}"):
            hint = "set it where Ray is started on the nodes: what runs there inherits it"
            raise InvalidValue(Fault("would be stored with the results", ("env_vars", str(name)), hint))
    return dict(value)


_Resources = Annotated[
    dict[str, float],
    PlainValidator(_parse_resources),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}),
]
_RuntimeEnv = Annotated[dict[str, Any], PlainValidator(_parse_runtime_env), WithJsonSchema({"type": "object"})]


class Part(BaseModel):
    """A mapping within a spec. Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def given(self) -> object:
        """As written in a spec."""
        return _plain(self.model_dump(exclude_none=True))


class ModelEntry(Part):
    """One entry of `models`: what to sweep, and what differs for it from the rest of the sweep."""

    model: Text = Field(
        description="A model id (org/name), a bare name, a glob over the catalogue (Qwen/*), "
        "or a local folder or config.json (starting with ./, ../, ~/ or /)."
    )
    precision: Precisions | None = Field(default=None, description="Weight precisions of this model only.")
    kv_precision: KvPrecisions | None = Field(default=None, description="KV cache precisions of this model only.")
    revision: Text | None = Field(default=None, description="Branch, tag or commit on the Hugging Face Hub.")
    name: Text | None = Field(default=None, description="The name to store and show results under.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return _mapping_or_text(value, "model", "a model (text, or a mapping with the key `model`)")

    @property
    def is_path(self) -> bool:
        """Whether `model` is a local folder or configuration file, not a name."""
        return is_path(self.model)

    @property
    def given(self) -> object:
        plain = super().given
        return self.model if plain == {"model": self.model} else plain


class GpuSelector(Part):
    """One entry of `gpus`: a name, an alias or a glob; or everything in the catalogue that meets all of its keys."""

    name: Text | None = Field(default=None, description="A name, an alias or a glob (RTX*).")
    vendor: Text | None = Field(default=None, description="Of this vendor: NVIDIA, AMD, Intel, Google, AWS.")
    family: Text | None = Field(default=None, description="Of this family: Hopper, Blackwell, CDNA3 …")
    min_memory_gb: _Memory | None = Field(default=None, description="With at least this memory, in GB (10^9 bytes).")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        value = _mapping_or_text(value, "name", "a GPU (text, or a mapping of vendor, family, name, min_memory_gb)")
        if not any(given is not None for given in value.values()):
            raise InvalidValue(Fault("nothing selects a GPU", hint="for example {vendor: NVIDIA, min_memory_gb: 80}"))
        return value

    @property
    def given(self) -> object:
        plain = super().given
        return self.name if plain == {"name": self.name} else plain


class RunEntry(Part):
    """Place and limits of an engine's tasks; see `Placement`. Changes no results."""

    task_timeout_s: _Seconds | None = Field(
        default=None, description="End a task that takes longer than this many seconds."
    )
    memory_limit_gb: _Memory | None = Field(
        default=None, description="End a task that needs more memory than this, in GB (10^9 bytes)."
    )
    num_cpus: _Share | None = Field(default=None, description="CPUs a task takes on Ray (default 1).")
    num_gpus: _Share | None = Field(default=None, description="GPUs a task takes on Ray.")
    accelerator_type: Text | None = Field(default=None, description="The accelerator a Ray node must have (L4, H100).")
    resources: _Resources | None = Field(default=None, description="Custom Ray resources a task takes.")
    runtime_env: _RuntimeEnv | None = Field(
        default=None, description="Ray runtime environment of the workers: {pip: [llm-optimizer]}."
    )


class EngineEntry(Part):
    """One estimator and its options; the engine itself checks the options. `run` says where it runs."""

    name: Text = Field(description="Name of the estimator: roofline, llm-optimizer, aiconfigurator or a plug-in.")
    options: dict[str, Any] = Field(default_factory=dict)
    run: Annotated[
        RunEntry | None, PlainValidator(one_part(RunEntry)), WithJsonSchema(RunEntry.model_json_schema())
    ] = Field(default=None, description="Where this engine runs and within which limits; changes no results.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        value = _mapping_or_text(value, "name", "an engine (text, or a mapping with the key `name`)")
        if isinstance(value.get("options"), Mapping):
            message = "options of an engine stand beside its name"
            raise InvalidValue(Fault(message, ("options",), "for example {name: roofline, …}", at_key=True))
        own: dict[str, Any] = {key: value[key] for key in ("name", "run") if key in value}
        return {**own, "options": {key: option for key, option in value.items() if key not in own}}

    @property
    def given(self) -> object:
        run: dict[str, object] = {} if self.run is None else {"run": self.run.given}
        return {"name": self.name, **self.options, **run} if self.options or run else self.name


class Limits(Part):
    """Bounds of a sweep."""

    max_gpus: _Count | None = Field(default=None, description="Leave out deployments of more GPUs than this.")
    max_tasks: _Count | None = Field(default=None, description="Refuse to run if the sweep has more tasks than this.")


def _mapping_or_text(value: object, key: str, expected: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {key: value}
    if isinstance(value, Mapping):
        return dict(value)
    raise InvalidValue(unexpected(expected, value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Precision) else value


_Part = TypeVar("_Part", bound=Part)


def one_part(kind: type[_Part]) -> Callable[[object], _Part]:
    """Return a parser of one mapping that reports everything wrong with it."""

    def parse(value: object) -> _Part:
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            raise InvalidValue(*faults_of(error.errors(), kind.model_fields)) from None

    return parse


def parts(kind: type[_Part]) -> Callable[[object], tuple[_Part, ...]]:
    """Return a parser of an entry or a list of entries that reports everything wrong with any of them."""
    parse_one = one_part(kind)

    def parse(value: object) -> tuple[_Part, ...]:
        entries = entries_of(value)
        faults = Faults()
        parsed = []
        for path, entry in entries:
            with faults.within(path):
                parsed.append(parse_one(entry))
        faults.raise_if_any()
        return tuple(parsed)

    return parse
