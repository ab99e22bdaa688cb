"""`estimate_performance`: what one deployment does at one batch size, or many of them, from an engine by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuscout.runner.api.cases import StoreLike, answer_cases, opened
from gpuscout.runner.api.estimate_requests import EstimateRequest, Lookup, Prepared, parse_request
from gpuscout.runner.api.model import ModelArchitecture
from gpuscout.store.prices.books import prices_for
from gpuscout.store.prices.prices import PriceRules, Prices
from gpuscout.store.queries.answers import StoredAnswer
from gpuscout.store.ranking.measures import value_of
from gpuscout.store.results.catalogues import StoredModels
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.sweep import EnginePart

_SWEEP = "estimate_performance"
PricesLike = Mapping[str, float] | PriceRules


@dataclass(frozen=True)
class PerformanceEstimate:
    """What an engine says of one deployment at one batch size, or in `error` why there is no such answer.

    The first fields repeat what was asked, with names and precisions looked up as far as they could be. Latencies are
    means. Throughputs are of the whole deployment, memory is per GPU (GiB, 2^30 bytes), money is in USD. None: not
    known; of an invalid estimate all figures are None but the memory of one that does not fit.

    batch_size          requests in flight in the whole deployment
    ttft_ms             time to the first token; waiting for a place in the KV cache included
    itl_ms              (E2E - TTFT) / (output tokens - 1), what vLLM calls TPOT
    bound               what limits a decode step: memory, compute, communication, overhead or unknown
    queued              whether the KV caches hold fewer than `batch_size` requests: the others wait
    interpolated        whether it lies between batch sizes that the engine answered, at a limit (`recommend_gpus` only)
    memory_needed_gib   without which not even one request runs; `memory_usable_gib` is what the server may use
    ttft_ms_low, …_high between them a measured value is expected with a probability of 80 %; of every figure that has
                        such fields. None: the engine does not say how sure it is
    usd_per_hour        of all GPUs; `cost_usd_per_mtok` of a million output tokens, when all are used all the time
    fingerprint         identifies what determines the engine's numbers: other fingerprint, other numbers
    outcome             ok, does_not_fit, not_supported, unknown_model, invalid; or a failure: error, timeout, …
    """

    model_id: str
    gpu_name: str
    num_gpus: int | None = None
    tensor_parallel_size: int | None = None
    input_length: int | None = None
    output_length: int | None = None
    batch_size: int | None = None
    precision: str | None = None
    kv_precision: str | None = None
    context_length: int | None = None
    server: str | None = None
    gpu_memory_utilization: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_s: float | None = None
    output_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    bound: str | None = None
    queued: bool | None = None
    interpolated: bool = False
    memory_needed_gib: float | None = None
    memory_usable_gib: float | None = None
    kv_capacity_tokens: int | None = None
    ttft_ms_low: float | None = None
    ttft_ms_high: float | None = None
    itl_ms_low: float | None = None
    itl_ms_high: float | None = None
    e2e_s_low: float | None = None
    e2e_s_high: float | None = None
    output_tokens_per_s_low: float | None = None
    output_tokens_per_s_high: float | None = None
    requests_per_s_low: float | None = None
    requests_per_s_high: float | None = None
    usd_per_hour: float | None = None
    cost_usd_per_mtok: float | None = None
    engine: str | None = None
    fingerprint: str | None = None
    kind: str = "estimated"
    outcome: str = Outcome.OK.value
    error: str | None = None

    def is_valid(self) -> bool:
        """Whether there are figures; otherwise `error` says why not."""
        return self.error is None

    @property
    def output_tokens_per_s_per_gpu(self) -> float | None:
        """Output tokens per second and GPU."""
        if self.output_tokens_per_s is None or self.num_gpus is None:
            return None
        return self.output_tokens_per_s / self.num_gpus

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types, and `output_tokens_per_s_per_gpu`."""
        return asdict(self) | {"output_tokens_per_s_per_gpu": self.output_tokens_per_s_per_gpu}


def estimate_performance(
    model_id: str | Path | ModelArchitecture,
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
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> PerformanceEstimate:
    """What `num_gpus` GPUs serving a model do with `batch_size` requests in flight, all of these lengths (tokens).

    A request that cannot be answered (a name nobody knows, sizes that cannot be, a model that does not fit, a failing
    engine) is no exception: `error` says what is wrong, with the nearest names. For many estimates
    `estimate_performance_batch` is much faster than a loop.

    model_id, gpu_name      as in a sweep spec: a catalogue name, org/name of the Hub, ./folder; H200, "nvidia h200" …
    num_gpus                in all; None: as many as `tensor_parallel_size`. More than that are replicas (data parallel)
    tensor_parallel_size    GPUs that share every layer; None: all `num_gpus`, or 1
    precision, kv_precision None: the checkpoint's own
    context_length          tokens one request may grow to; None: exactly input and output
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
        "engine": engine,
    }
    (estimate,) = estimate_performance_batch(
        [request], prices=prices, hf_token=hf_token, gpu_file=gpu_file, store=store
    )
    return estimate


def estimate_performance_batch(
    requests: Iterable[Mapping[str, object]],
    *,
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> list[PerformanceEstimate]:
    """The estimates of many requests, in their order; a bad one does not disturb the others.

    A request is a mapping of arguments of `estimate_performance` (`model_id` to `gpu_memory_utilization`, and
    `engine`, for which the argument here is the default); None and what is left out mean the default. Every estimate
    equals the one that `estimate_performance` gives. Raises what `estimate_performance` raises.

    >>> sizes = (1, 8, 64)
    >>> batch = [{"model_id": "gpt-oss-120b", "gpu_name": "H200", "batch_size": size} for size in sizes]
    >>> [round(estimate.output_tokens_per_s) for estimate in estimate_performance_batch(batch)] == sorted(
    ...     round(estimate.output_tokens_per_s) for estimate in estimate_performance_batch(batch)
    ... )
    True
    >>> bad = estimate_performance_batch([*batch, {"model_id": "gpt-oss-120b", "gpu": "H200"}])[-1]
    >>> bad.is_valid(), bad.outcome
    (False, 'invalid')
    """
    gpus = gpus_with(gpu_file)
    rules = price_rules(prices, gpus)
    given = [_with_default(request, engine) for request in requests]
    with opened(store) as the_store:
        lookup = Lookup(gpus, StoredModels(the_store) if store is not None else None, hf_token)
        parsed = [_parsed(request) for request in given]
        lookup.expect(request for request in parsed if isinstance(request, EstimateRequest))
        prepared = [_prepared(lookup, request) for request in parsed]
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
    """The rules for what people give as prices. Raises UnknownNameError for a GPU, InputError for no price."""
    if prices is None or isinstance(prices, PriceRules):
        return prices or PriceRules()
    if not isinstance(prices, Mapping):
        raise InputError(
            f"prices cannot be {prices!r}", hint="for example {'H200': 2.8} (USD per GPU hour), PriceRules"
        )
    overrides = {}
    for name, usd in prices.items():
        if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < float("inf"):
            raise InputError(f"{usd!r} is no price for {name}", hint="USD per GPU hour, for example {'H200': 2.8}")
        overrides[gpus.resolve(name).name] = float(usd)
    return PriceRules(overrides=overrides)


def interval_ends(intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Intervals by metric as the fields of a `PerformanceEstimate`."""
    return {
        f"{metric}_{end}": value
        for metric, ends in intervals.items()
        for end, value in zip(("low", "high"), ends, strict=True)
    }


def in_one_line(error: InputError) -> str:
    """What is wrong and what to do about it."""
    told = f"{error.message}; {error.hint}" if error.hint else error.message
    return " ".join(told.split())


def _with_default(request: object, engine: object) -> dict[str, object] | InputError:
    if not isinstance(request, Mapping):
        return InputError(f"a request must be a mapping of arguments, not {request!r}")
    given = {str(key): _plain(value) for key, value in request.items() if value is not None}
    return {"engine": engine, **given}


def _plain(value: object) -> object:
    """NumPy's scalars, which tables hold, as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _parsed(given: dict[str, object] | InputError) -> EstimateRequest | InputError:
    if isinstance(given, InputError):
        return given
    try:
        return parse_request(given)
    except InputError as error:
        return error


def _prepared(lookup: Lookup, request: EstimateRequest | InputError) -> Prepared | InputError:
    if isinstance(request, InputError):
        return request
    try:
        return lookup.prepared(request)
    except InputError as error:
        return error


_Row = tuple[int, Prepared]


def _by_engine(ready: Sequence[_Row]) -> list[tuple[EnginePart, list[_Row]]]:
    """The requests of each engine; equal ones are one object."""
    groups: dict[int, tuple[EnginePart, list[_Row]]] = {}
    for row, found in ready:
        groups.setdefault(id(found.engine), (found.engine, []))[1].append((row, found))
    return list(groups.values())


def _estimate(asked: Prepared, answer: StoredAnswer, prices: Prices) -> PerformanceEstimate:
    case, engine = asked.case, asked.engine
    error = _error(asked, answer)
    price = prices.known.get(case.gpu.name)
    usd_per_hour = None if price is None else price.per_hour(case.num_gpus).usd
    tokens = answer.output_tokens_per_s
    cost = (
        value_of("cost", {"output_tokens_per_s": tokens}, case.num_gpus, usd_per_hour, None)
        if (usd_per_hour is not None and tokens)
        else None
    )
    return PerformanceEstimate(
        model_id=case.model.name,
        gpu_name=case.gpu.name,
        num_gpus=case.num_gpus,
        tensor_parallel_size=case.tensor_parallel,
        input_length=case.input_len,
        output_length=case.output_len,
        batch_size=asked.batch_size,
        precision=case.precision.value,
        kv_precision=case.kv_precision.value,
        context_length=case.context_len,
        server=case.server,
        gpu_memory_utilization=case.gpu_memory_utilization,
        ttft_ms=answer.ttft_ms,
        itl_ms=answer.itl_ms,
        e2e_s=answer.e2e_s,
        output_tokens_per_s=tokens,
        requests_per_s=answer.requests_per_s,
        bound=answer.bound,
        queued=answer.queued,
        memory_needed_gib=answer.needed_gib,
        memory_usable_gib=answer.usable_gib,
        kv_capacity_tokens=answer.kv_capacity_tokens,
        **interval_ends(answer.intervals),
        usd_per_hour=usd_per_hour,
        cost_usd_per_mtok=cost,
        engine=engine.name,
        fingerprint=engine.fingerprint,
        outcome=(Outcome.DOES_NOT_FIT if error and answer.outcome is Outcome.OK else answer.outcome).value,
        error=error,
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
    """The estimate of a request that no engine was asked about; what is said of itself, as far as it makes sense."""
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
