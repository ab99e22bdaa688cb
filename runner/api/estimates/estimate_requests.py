"""One estimate that is asked for: its form checked as in a spec, its names looked up, as a case for an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, PlainValidator

from gpuscout.runner.api.models.model import ModelArchitecture
from gpuscout.runner.resolve.hub_errors import HubModel
from gpuscout.runner.resolve.models import KnownModels, ModelFinder, model_text, target_of
from gpuscout.runner.resolve.spec import engine_part
from gpuscout.sweeps.cases import Case, canonical_json
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import is_path
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import SERVERS
from gpuscout.sweeps.servers.options import ServerOptions, server_options, unknown_to
from gpuscout.sweeps.settings import STARTED
from gpuscout.sweeps.spec.axes import CONCURRENCY, MEMORY_FRACTION, PARALLEL, TOKENS, parse_names
from gpuscout.sweeps.spec.entries import EngineEntry, KvPrecisions, Part, Precisions, Text, one_part
from gpuscout.sweeps.spec.faults import Fault, InvalidValue, unexpected
from gpuscout.sweeps.spec.serving import parse_server_options, parse_speculative
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative
from gpuscout.sweeps.sweep import EnginePart

_Found = TypeVar("_Found")


def _one_server(value: object) -> str:
    return parse_names(value, "server", SERVERS)[0]


def _a_model(value: object) -> str | ModelArchitecture:
    if isinstance(value, ModelArchitecture):
        return value
    try:
        return model_text(value)
    except InputError:
        raise InvalidValue(unexpected("a model (text, a Path or a ModelArchitecture)", value)) from None


_Parallel = Annotated[int, PlainValidator(PARALLEL.number)]
_Tokens = Annotated[int, PlainValidator(TOKENS.number)]


class EstimateRequest(Part):
    """The arguments of `estimate_performance`, one by one checked. Names are as written."""

    model_id: Annotated[Any, PlainValidator(_a_model)]
    gpu_name: Text
    num_gpus: _Parallel | None = None
    tensor_parallel_size: _Parallel | None = None
    input_length: _Tokens = 1024
    output_length: _Tokens = 512
    batch_size: Annotated[int, PlainValidator(CONCURRENCY.number)] = 1
    precision: Precisions | None = None
    kv_precision: KvPrecisions | None = None
    context_length: _Tokens | None = None
    server: Annotated[str, PlainValidator(_one_server)] = "vllm"
    gpu_memory_utilization: Annotated[float, PlainValidator(MEMORY_FRACTION.number)] = 0.9
    server_options: Annotated[tuple[ServerOptions, ...], PlainValidator(parse_server_options)] = ((),)
    speculative: Annotated[tuple[Speculative, ...], PlainValidator(parse_speculative)] = (NO_DRAFTS,)
    engine: Annotated[EngineEntry, PlainValidator(one_part(EngineEntry))] = Field(default=EngineEntry(name="roofline"))


def parse_request(given: Mapping[str, object]) -> EstimateRequest:
    """Return the request as given. Raises InputError with everything that is wrong with its form."""
    try:
        request = one_part(EstimateRequest)(given)
    except InvalidValue as invalid:
        raise InputError("; ".join(map(_in_words, invalid.faults))) from None
    for name in ("precision", "kv_precision", *STARTED):
        if len(getattr(request, name) or ("native",)) > 1:
            raise InputError(f"{name}: expected a single value", hint="make one estimate for each value")
    return request


def _in_words(fault: Fault) -> str:
    place = ".".join(map(str, fault.path))
    text = fault.message if not place or fault.at_key else f"{place}: {fault.message}"
    return f"{text} ({fault.hint})" if fault.hint else text


@dataclass(frozen=True)
class Prepared:
    """A request with all its names looked up."""

    case: Case
    batch_size: int
    engine: EnginePart


class Lookup:
    """A lookup of the names of many requests, each name once, unknown ones too."""

    def __init__(self, gpus: GPUCatalogue, known: KnownModels | None, token: str | None) -> None:
        self._gpus = gpus
        self._finder = ModelFinder(known, token=token)
        self._models: dict[str, ModelSpec | InputError] = {}
        self._engines: dict[bytes, EnginePart | InputError] = {}

    def expect(self, requests: Iterable[EstimateRequest]) -> None:
        """Fetch the models that only the Hub knows, several at a time."""
        self._finder.prepare(_hub_models(request.model_id for request in requests))

    def prepared(self, request: EstimateRequest) -> Prepared:
        """Return the request as a case.

        Raises InputError for a name that is not known and for numbers that contradict.
        """
        tp = request.tensor_parallel_size or request.num_gpus or 1
        num_gpus = request.num_gpus or tp
        if num_gpus % tp:
            raise InputError(
                f"num_gpus: {num_gpus} GPUs are not a multiple of tensor_parallel_size {tp}",
                hint="replicas of a model have the same number of GPUs each",
            )
        model = self._model(request.model_id)
        needed = request.input_length + request.output_length
        if request.context_length is not None and request.context_length < needed:
            raise InputError(
                f"context_length: input and output are {needed:,} tokens, more than {request.context_length:,}"
            )
        gpu, (options,) = self._gpus.resolve(request.gpu_name), request.server_options
        if lacking := unknown_to(request.server, options):
            raise InputError(f"server_options: {lacking}")
        case = Case(
            model=model,
            gpu=gpu,
            input_len=request.input_length,
            output_len=request.output_length,
            precision=_chosen(request.precision, model.precision),
            kv_precision=_chosen(request.kv_precision, model.kv_precision),
            tensor_parallel=tp,
            data_parallel=num_gpus // tp,
            server=request.server,
            gpu_memory_utilization=request.gpu_memory_utilization,
            max_model_len=request.context_length,
            server_options=server_options(options, request.server, gpu.name, gpu.memory_usable_gib),
            speculative=request.speculative[0],
        )
        return Prepared(case, request.batch_size, self._engine(request.engine))

    def _model(self, model: str | ModelArchitecture) -> ModelSpec:
        if isinstance(model, ModelArchitecture):
            return model.architecture
        return _once(self._models, model, lambda: self._finder.find_one(model).architecture)

    def _engine(self, entry: EngineEntry) -> EnginePart:
        return _once(self._engines, canonical_json(entry.given), lambda: engine_part(entry))


def _once(found: dict[Any, _Found | InputError], key: object, find: Any) -> _Found:
    if key not in found:
        try:
            found[key] = find()
        except InputError as error:
            found[key] = error
    answer = found[key]
    if isinstance(answer, InputError):
        raise answer
    return answer


def _chosen(names: tuple[Any, ...] | None, native: Precision) -> Precision:
    name = names[0] if names else "native"
    return native if name == "native" else Precision(name)


def _hub_models(models: Iterable[str | ModelArchitecture]) -> list[HubModel]:
    found = []
    for text in dict.fromkeys(model for model in models if isinstance(model, str)):
        if is_path(text):
            continue
        try:
            target = target_of(text)
        except InputError:
            continue  # told when it is its turn
        if isinstance(target, HubModel):
            found.append(target)
    return found
