"""`estimate_performance` and its relatives: what deployments do at a batch size, from an engine by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from gpuscout.runner.api.cases import StoreLike, answer_cases, opened
from gpuscout.runner.api.estimates.estimate_requests import EstimateRequest, Lookup, Prepared, parse_request
from gpuscout.runner.api.estimates.performance import PerformanceEstimate, estimate_of
from gpuscout.runner.api.models.model import ModelArchitecture, ModelLike
from gpuscout.runner.engines.base import note_of
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.store.prices.books import prices_for
from gpuscout.store.prices.prices import PriceRules, Prices
from gpuscout.store.queries.answers import StoredAnswer
from gpuscout.store.ranking.types import Configuration
from gpuscout.store.results.catalogues import StoredModels
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.servers.options import options_text
from gpuscout.sweeps.sweep import EnginePart
from gpuscout.sweeps.workloads import Workload

_SWEEP = "estimate_performance"
PricesLike = Mapping[str, float] | PriceRules
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def estimate_performance(
    model_id: ModelLike,
    gpu_name: str,
    num_gpus: int | None = None,
    tensor_parallel_size: int | None = None,
    input_length: int = 1024,
    output_length: int = 512,
    batch_size: int = 1,
    *,
    precision: str | None = None,
    kv_precision: str | None = None,
    context_length: int | None = None,
    server: str = "vllm",
    gpu_memory_utilization: float = 0.9,
    server_options: Mapping[str, int] | None = None,
    speculative: Mapping[str, float] | None = None,
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> PerformanceEstimate:
    """Estimate what `num_gpus` GPUs serving a model do with `batch_size` requests in flight of these lengths (tokens).

    A request that cannot be answered (a name nobody knows, sizes that cannot be, a model that does not fit, a failing
    engine) is no exception: `error` says what is wrong, with the nearest names. For many estimates
    `estimate_many` is much faster than a loop.

    model_id, gpu_name      as in a sweep spec: a catalogue name, org/name of the Hub, ./folder; H200, "nvidia h200" …
    num_gpus                in all; None: as many as `tensor_parallel_size`. More than that are replicas (data parallel)
    tensor_parallel_size    GPUs that share every layer; None: all `num_gpus`, or 1
    precision, kv_precision None: the checkpoint's own
    context_length          tokens one request may grow to; None: exactly input and output
    server_options          what the server is started with, such as {"max_num_seqs": 256}; None: its defaults
    speculative             {"draft_tokens": 3, "acceptance": 0.7, "draft_cost": 0.05}, as in a spec; None: no drafts
    engine                  a name, or a mapping of its name and options, as in a spec
    prices                  USD per GPU hour by GPU, which override the price books; or which books count: `PriceRules`
    hf_token                replaces HF_TOKEN and the login
    gpu_file                a YAML file with GPUs of your own
    store                   an open store or the place of one: stored answers are read, new ones are kept there

    Raises InputError for `prices` and `gpu_file` that cannot be used, StoreUnreachableError, StoreOutdatedError and
    StoreBusyError for a `store` that cannot.

    >>> estimate = estimate_performance("Qwen/Qwen3-8B", "H200", input_length=2000, output_length=256, batch_size=32)
    >>> estimate.is_valid(), estimate.gpu_name, estimate.engine, estimate.bound
    (True, 'H200-SXM-141GB', 'roofline', 'memory')
    >>> 5 < estimate.itl_ms < 20
    True
    >>> estimate_performance("Qwen/Qwen3-8B", "H20O").error
    'unknown GPU "H20O"; did you mean H20 or H200-SXM-141GB or GH200-96GB? ...'
    """
    request = {
        "model_id": model_id,
        "gpu_name": gpu_name,
        "num_gpus": num_gpus,
        "tensor_parallel_size": tensor_parallel_size,
        "input_length": input_length,
        "output_length": output_length,
        "batch_size": batch_size,
        "precision": precision,
        "kv_precision": kv_precision,
        "context_length": context_length,
        "server": server,
        "gpu_memory_utilization": gpu_memory_utilization,
        "server_options": server_options,
        "speculative": speculative,
        "engine": engine,
    }
    (estimate,) = estimate_many([request], prices=prices, hf_token=hf_token, gpu_file=gpu_file, store=store)
    return estimate


Request = Mapping[str, object]


@overload
def estimate_performance_batch(
    model_id: ModelLike,
    gpu_configs: Iterable[tuple[str, int]],
    input_length: int = 1024,
    output_length: int = 512,
    tensor_parallel_size: int | None = None,
    *,
    batch_size: int = 1,
    precision: str | None = None,
    kv_precision: str | None = None,
    context_length: int | None = None,
    server: str = "vllm",
    gpu_memory_utilization: float = 0.9,
    server_options: Mapping[str, int] | None = None,
    speculative: Mapping[str, float] | None = None,
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> dict[str, PerformanceEstimate]: ...
@overload
def estimate_performance_batch(
    model_id: Iterable[Request],
    *,
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> list[PerformanceEstimate]: ...
def estimate_performance_batch(
    model_id: ModelLike | Iterable[Request],
    gpu_configs: Iterable[tuple[str, int]] | None = None,
    input_length: int = 1024,
    output_length: int = 512,
    tensor_parallel_size: int | None = None,
    *,
    batch_size: int = 1,
    precision: str | None = None,
    kv_precision: str | None = None,
    context_length: int | None = None,
    server: str = "vllm",
    gpu_memory_utilization: float = 0.9,
    server_options: Mapping[str, int] | None = None,
    speculative: Mapping[str, float] | None = None,
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> dict[str, PerformanceEstimate] | list[PerformanceEstimate]:
    """Estimate one model on several numbers of GPUs: the estimates by "GPUxN", as the GPUs are called here.

    `gpu_configs` are pairs of a GPU's name and a number of GPUs; all other arguments, and what is raised, are those of
    `estimate_performance`. One configuration that cannot be estimated does not disturb the others. Raises InputError
    for what is no such pair. Given requests instead of a model, the same as `estimate_many`.

    >>> estimates = estimate_performance_batch("Qwen/Qwen3-8B", [("H100", 1), ("A100", 2)], 2000, 256)
    >>> {name: estimate.is_valid() for name, estimate in estimates.items()}
    {'H100x1': True, 'A100x2': True}
    """
    if gpu_configs is None:
        if isinstance(model_id, str | Path | ModelArchitecture):
            raise InputError("gpu_configs is missing", hint='for example [("H100", 1), ("H100", 2)]')
        return estimate_many(model_id, engine=engine, prices=prices, hf_token=hf_token, gpu_file=gpu_file, store=store)
    shared = {
        "model_id": model_id,
        "tensor_parallel_size": tensor_parallel_size,
        "input_length": input_length,
        "output_length": output_length,
        "batch_size": batch_size,
        "precision": precision,
        "kv_precision": kv_precision,
        "context_length": context_length,
        "server": server,
        "gpu_memory_utilization": gpu_memory_utilization,
        "server_options": server_options,
        "speculative": speculative,
        "engine": engine,
    }
    pairs = [_pair(number, config) for number, config in enumerate(gpu_configs)]
    requests = [{**shared, "gpu_name": gpu, "num_gpus": count} for gpu, count in pairs]
    estimates = estimate_many(requests, prices=prices, hf_token=hf_token, gpu_file=gpu_file, store=store)
    return {f"{gpu}x{count}": estimate for (gpu, count), estimate in zip(pairs, estimates, strict=True)}


def _pair(number: int, config: object) -> tuple[object, object]:
    if isinstance(config, Sequence) and not isinstance(config, str) and len(config) == 2:
        return config[0], config[1]
    raise InputError(
        f"gpu_configs[{number}]: expected a GPU name and a number of GPUs, got {config!r}",
        hint='for example [("H100", 1), ("H100", 2)]',
    )


def estimate_many(
    requests: Iterable[Request],
    *,
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> list[PerformanceEstimate]:
    """Estimate many requests, in their order; a bad one does not disturb the others.

    A request is a mapping of arguments of `estimate_performance` (`model_id` to `speculative`, and
    `engine`, for which the argument here is the default); None and what is left out mean the default. Every estimate
    equals the one that `estimate_performance` gives. Raises what `estimate_performance` raises.

    >>> sizes = (1, 8, 64)
    >>> batch = [{"model_id": "gpt-oss-120b", "gpu_name": "H200", "batch_size": size} for size in sizes]
    >>> speeds = [estimate.output_tokens_per_s for estimate in estimate_many(batch)]
    >>> speeds == sorted(speeds)
    True
    >>> bad = estimate_many([*batch, {"model_id": "gpt-oss-120b", "gpu": "H200"}])[-1]
    >>> bad.is_valid(), bad.outcome
    (False, 'invalid')
    """
    gpus = gpus_with(gpu_file)
    rules = price_rules(prices, gpus)
    given = [_with_default(request, engine) for request in requests]
    with opened(store) as the_store:
        lookup = Lookup(gpus, StoredModels(the_store) if store is not None else None, hf_token)
        parsed = [_or_error(parse_request, request) for request in given]
        lookup.expect(request for request in parsed if isinstance(request, EstimateRequest))
        prepared = [_or_error(lookup.prepared, request) for request in parsed]
        ready = [(row, found) for row, found in enumerate(prepared) if isinstance(found, Prepared)]
        with the_store.reading() as connection:
            priced = prices_for(connection, {found.case.gpu.name for _, found in ready}, rules)
        estimates = {
            row: _estimate(found, answer, priced)
            for part, rows in _by_engine(ready)
            for (row, found), answer in zip(
                rows,
                answer_cases(the_store, part, [(f.case, f.batch_size) for _, f in rows], sweep=_SWEEP),
                strict=True,
            )
        }
    return [
        estimates[row] if row in estimates else _refused(request, error)
        for row, (request, error) in enumerate(zip(given, prepared, strict=True))
    ]


def price_rules(prices: PricesLike | None, gpus: GPUCatalogue) -> PriceRules:
    """Return the rules for what people give as prices. Raises UnknownNameError for a GPU, InputError for no price."""
    if prices is None or isinstance(prices, PriceRules):
        return prices or PriceRules()
    if not isinstance(prices, Mapping):
        raise InputError(f"invalid prices {prices!r}", hint="for example {'H200': 2.8} (USD per GPU hour), PriceRules")
    overrides = {}
    for name, usd in prices.items():
        if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < float("inf"):
            raise InputError(f"invalid price {usd!r} for {name}", hint="USD per GPU hour, for example {'H200': 2.8}")
        overrides[gpus.resolve(name).name] = float(usd)
    return PriceRules(overrides=overrides)


def in_one_line(error: InputError) -> str:
    """Return the problem and the way to solve it."""
    text = f"{error.message}; {error.hint}" if error.hint else error.message
    return " ".join(text.split())


def _with_default(request: object, engine: object) -> dict[str, object] | InputError:
    if not isinstance(request, Mapping):
        return InputError(f"a request must be a mapping of arguments, not {request!r}")
    given = {str(key): _plain(value) for key, value in request.items() if value is not None}
    return {"engine": engine, **given}


def _plain(value: object) -> object:
    """Return NumPy's scalars, which tables hold, as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _or_error(step: Callable[[_Given], _Made], given: _Given | InputError) -> _Made | InputError:
    """Return the result of a step, or the error of this one or of one before it."""
    if isinstance(given, InputError):
        return given
    try:
        return step(given)
    except InputError as error:
        return error


_Row = tuple[int, Prepared]


def _by_engine(ready: Sequence[_Row]) -> list[tuple[EnginePart, list[_Row]]]:
    """Return the requests of each engine; equal ones are one object."""
    groups: dict[int, tuple[EnginePart, list[_Row]]] = {}
    for row, found in ready:
        groups.setdefault(id(found.engine), (found.engine, []))[1].append((row, found))
    return list(groups.values())


def _estimate(asked: Prepared, answer: StoredAnswer, prices: Prices) -> PerformanceEstimate:
    case, engine = asked.case, asked.engine
    error = _error(asked, answer)
    price = prices.known.get(case.gpu.name)
    config = Configuration(
        task_id=None,
        gpu=case.gpu.name,
        num_gpus=case.num_gpus,
        tensor_parallel=case.tensor_parallel,
        pipeline_parallel=case.pipeline_parallel,
        data_parallel=case.data_parallel,
        expert_parallel=case.expert_parallel,
        precision=case.precision.value,
        kv_precision=case.kv_precision.value,
        server=case.server,
        gpu_memory_utilization=case.gpu_memory_utilization,
        max_model_len=case.context_len,
        engine=engine.name,
        fingerprint=engine.fingerprint,
        server_options=options_text(case.server_options),
        speculative=case.speculative.text,
    )
    return estimate_of(
        case.model,
        Workload(_SWEEP, case.input_len, case.output_len),
        config,
        asked.batch_size,
        point=answer,
        memory=answer,
        usd_per_hour=None if price is None else price.per_hour(case.num_gpus).usd,
        outcome=Outcome.DOES_NOT_FIT if error and answer.outcome is Outcome.OK else answer.outcome,
        error=error,
        note=note_of(cached_engine(engine.name, engine.options)),
    )


def _error(asked: Prepared, answer: StoredAnswer) -> str | None:
    if answer.outcome is not Outcome.OK:
        what = answer.outcome.value.replace("_", " ")
        return f"{what}: {answer.detail}" if answer.detail else what
    if answer.concurrency is not None:
        return None
    if answer.fits_up_to is not None and answer.fits_up_to < asked.batch_size:
        return f"does not fit: at most {answer.fits_up_to:,} requests in flight, not {asked.batch_size:,}"
    return f"engine {asked.engine.name} has no operating point at batch size {asked.batch_size:,}"


def _refused(given: dict[str, object] | InputError, error: Prepared | InputError) -> PerformanceEstimate:
    """Return the estimate of a request that no engine was asked about, with what makes sense of its arguments."""
    assert isinstance(error, InputError)
    echoed: dict[str, Any] = {"model_id": "", "gpu_name": ""}
    if isinstance(given, dict):
        model = given.get("model_id")
        echoed["model_id"] = model.model_id if isinstance(model, ModelArchitecture) else str(model or "")
        echoed["gpu_name"] = str(given.get("gpu_name", ""))
        for name in ("num_gpus", "tensor_parallel_size", "input_length", "output_length", "batch_size"):
            value = given.get(name, EstimateRequest.model_fields[name].default)
            echoed[name] = value if type(value) is int else None
    return PerformanceEstimate(**echoed, outcome=Outcome.INVALID.value, error=in_one_line(error))
