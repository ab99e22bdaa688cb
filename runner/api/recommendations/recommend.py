"""`recommend_gpus` and `GPURecommender`: the GPUs a model fits on and does best on; what fits, by memory alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO, cast

from gpuscout.runner.api.cases import StoreLike
from gpuscout.runner.api.estimates.estimate import PricesLike
from gpuscout.runner.api.models.model import ModelLike
from gpuscout.runner.api.recommendations.ranked_sweep import recommended
from gpuscout.runner.api.recommendations.results import GPURecommendation, RecommendationResult
from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.library import GPU_LIBRARY, gpus_with
from gpuscout.sweeps.names import has_wildcard, parted
from gpuscout.sweeps.slo import Slo

Some = str | Sequence[str]
GPUs = str | GPUSpec | Mapping[str, object] | Iterable[str | GPUSpec | Mapping[str, object]]
_TRUST = ("prefer", "any", "backed")  # measured runs do not take part: `rank` counts them


def recommend_gpus(
    model: ModelLike,
    input_length: int = 1024,
    output_length: int = 512,
    precision: Some | None = None,
    context_length: int | None = None,
    batch_size: int | None = None,
    gpu_memory_utilization: float = 0.9,
    server_options: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
    speculative: Mapping[str, float] | Sequence[Mapping[str, float] | str] | None = None,
    max_tensor_parallel: int | None = None,
    max_gpus: int | None = None,
    estimate_performance_flag: bool = True,
    *,
    gpus: GPUs | None = None,
    objective: str = "cost",
    slos: str | Slo | Sequence[str | Slo] = (),
    trust: str = "prefer",
    confidence: float = 0.5,
    with_estimates: bool | None = None,
    kv_precision: Some | None = None,
    server: Some = "vllm",
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> RecommendationResult:
    """Rank every GPU type that can serve a model, with as many GPUs as make sense, the best first.

    Deployments are tensor parallel: 1, 2, 4 … GPUs that divide the heads and share one node's fast link.

    input_length, output_length  tokens of every request
    precision, kv_precision      one or several; None: the checkpoint's own
    context_length               tokens one request may grow to; None: exactly input and output
    batch_size                   requests in flight; None: each configuration at the point that is best by `objective`
    max_tensor_parallel, max_gpus  at most so many GPUs in one deployment; with both, the smaller counts
    with_estimates               False: answers by memory alone, the cheapest by the hour first; None: what
                                 `estimate_performance_flag`, its name in earlier recommenders, says
    gpus                         names, aliases, globs, groups (datacenter, AMD, Hopper) or `GPUSpec`s; None: all
    objective                    cost, throughput, throughput-per-gpu, ttft, itl, e2e …; "latency" means e2e
    slos                         limits to meet, such as "itl<=30ms"; what misses one fits, but is not recommended; by
                                 default none, which the result says (the command line takes ITL <= 50 ms)
    trust                        prefer: estimates with measured runs near them first; any: all alike; backed: no others
    confidence                   how likely an estimate must be to hold, to be ranked and to meet a limit: 0.5 … 0.99

    server_options, speculative  as in a spec; of lists each entry is tried

    The other arguments are those of `estimate_performance`. Raises SpecError with everything that is wrong with the
    arguments (unknown names with the nearest ones), InputError, HubError for a model that cannot be fetched, and what
    `estimate_performance` raises for a `store` that cannot be used.

    >>> found = recommend_gpus("Qwen/Qwen3-32B", 2000, 256, slos="itl<=30ms", max_gpus=4)
    >>> found.best.estimate.itl_ms <= 30, found.best.num_gpus <= 4
    (True, True)
    >>> by_memory = recommend_gpus("Qwen/Qwen3-32B", 2000, 256, batch_size=64, with_estimates=False)
    >>> by_memory.best.estimate is None, by_memory.best.memory_needed_gib < by_memory.best.memory_usable_gib
    (True, True)
    """
    estimated = estimate_performance_flag if with_estimates is None else with_estimates
    limits = [limit for limit in (_limit("max_tensor_parallel", max_tensor_parallel), max_gpus) if limit is not None]
    (found,) = recommended(
        [model],
        {
            "workloads": [{"input_len": input_length, "output_len": output_length}],
            "gpus": _gpu_names(gpus, gpu_file),
            "precision": precision,
            "kv_precision": kv_precision,
            "max_model_len": context_length,
            "gpu_memory_utilization": gpu_memory_utilization,
            "server_options": server_options,
            "speculative": speculative,
            "limits": {"max_gpus": min(limits)} if limits else None,
            "servers": server,
            "objective": objective if estimated else "cost-per-hour",
            "slo": str(slos) if isinstance(slos, Slo) else slos if isinstance(slos, str) else list(map(str, slos)),
            "engine": engine,
        },
        batch_size=batch_size,
        with_estimates=estimated,
        trust=_trust(trust),
        confidence=_confidence(confidence),
        prices=prices,
        hf_token=hf_token,
        gpu_file=gpu_file,
        store=store,
    )
    return found


def find_gpu_recommendations(
    model: ModelLike,
    context_length: int = 2048,
    batch_size: int = 1,
    gpu_memory_utilization: float = 0.9,
    max_tensor_parallel: int | None = None,
    include_all_gpus: bool = False,
    *,
    gpus: GPUs | None = None,
    gpu_file: str | Path | None = None,
) -> list[GPURecommendation]:
    """List the configurations whose memory holds a model and `batch_size` sequences of `context_length` tokens.

    By memory alone, the GPUs with the least memory first; with `include_all_gpus` also those that hold too little.
    Raises what `recommend_gpus` raises, InputError for a context of fewer than 2 tokens.

    >>> found = find_gpu_recommendations("Qwen/Qwen3-32B", context_length=4096, gpus=["L40S", "H200"])
    >>> [(str(item), item.max_concurrent_requests) for item in found][:2]
    [('L40S x2 bf16', 11), ('L40S x4 bf16', 84)]
    """
    if type(context_length) is not int or context_length < 2:
        raise InputError(f"context_length must be a whole number of at least 2, got {context_length!r}")
    found = recommend_gpus(
        model,
        context_length - 1,  # and a token of output: the cache at its full length
        1,
        batch_size=batch_size,
        gpu_memory_utilization=gpu_memory_utilization,
        max_tensor_parallel=max_tensor_parallel,
        estimate_performance_flag=False,
        gpus=gpus,
        gpu_file=gpu_file,
    )
    shown = [item for item in found if item.fits or include_all_gpus]
    return sorted(shown, key=lambda item: (item.gpu_spec.memory_gb, item.gpu, item.num_gpus))


def filter_recommendations_by_budget(
    recommendations: Iterable[GPURecommendation],
    max_gpus: int | None = None,
    min_memory_per_gpu_gb: float | None = None,
    *,
    max_usd_per_hour: float | None = None,
) -> list[GPURecommendation]:
    """Keep the configurations of at most `max_gpus` GPUs, of GPUs with at least so much memory (GB), at this price.

    With `max_usd_per_hour`, configurations without a known price are left out. None does not restrict.

    >>> found = recommend_gpus("Qwen/Qwen3-32B", gpus=["H100", "L40S"])
    >>> {item.gpu for item in filter_recommendations_by_budget(found, max_gpus=2, min_memory_per_gpu_gb=60)}
    {'H100-SXM-80GB'}
    """
    return [
        item
        for item in recommendations
        if (max_gpus is None or item.total_gpus <= max_gpus)
        and (min_memory_per_gpu_gb is None or item.gpu_spec.memory_gb >= min_memory_per_gpu_gb)
        and (max_usd_per_hour is None or (item.usd_per_hour is not None and item.usd_per_hour <= max_usd_per_hour))
    ]


class GPURecommender:
    """Compares models and GPUs for requests of one shape (tokens), with every analysis of each configuration.

    >>> recommender = GPURecommender(2000, 256)
    >>> found = recommender.recommend_gpus(["gpt-oss-120b", "Qwen/Qwen3-8B"], ["H200", "L40"], num_gpus=1)
    >>> [(result.model_id, result.best_gpu) for result in found]
    [('openai/gpt-oss-120b', 'H200-SXM-141GB'), ('Qwen/Qwen3-8B', 'H200-SXM-141GB')]
    >>> analysis = found[1].analyses[0]
    >>> analysis.config.gpu, analysis.metrics.decode_bound, analysis.metrics.optimal_concurrency
    ('H200-SXM-141GB', 'memory', 256)
    >>> recommender.print_recommendations()
    GPU Recommendations: openai/gpt-oss-120b, fp4, 2,000 in / 256 out, by throughput
    ...
    """

    def __init__(self, input_len: int = 1024, output_len: int = 512) -> None:
        self.input_len = input_len
        self.output_len = output_len
        self._last: list[RecommendationResult] | None = None

    def recommend_gpus(
        self,
        models: ModelLike | Sequence[ModelLike],
        gpus: GPUs | None = None,
        num_gpus: int | Sequence[int] | None = None,
        metric: str = "throughput",
        *,
        trust: str = "prefer",
        confidence: float = 0.5,
        engine: str | Mapping[str, object] = "roofline",
        prices: PricesLike | None = None,
        hf_token: str | None = None,
        gpu_file: str | Path | None = None,
        store: StoreLike | None = None,
    ) -> list[RecommendationResult]:
        """Rank the GPUs for every model, in the order given, with the `analyses` of each; one sweep answers for all.

        `num_gpus`: tensor parallel deployments of exactly so many GPUs; None: as many as are best. `metric` is an
        objective (throughput, ttft, itl, e2e, cost …); "latency" means e2e. Raises what `recommend_gpus` raises.
        """
        self._last = found = recommended(
            [models] if isinstance(models, ModelLike) else list(models),
            {
                "workloads": [{"input_len": self.input_len, "output_len": self.output_len}],
                "gpus": _gpu_names(gpus, gpu_file),
                "tensor_parallel": num_gpus,
                "objective": metric,
                "engine": engine,
            },
            with_analyses=True,
            trust=_trust(trust),
            confidence=_confidence(confidence),
            prices=prices,
            hf_token=hf_token,
            gpu_file=gpu_file,
            store=store,
        )
        return found

    def print_recommendations(
        self, recommendations: Iterable[RecommendationResult] | None = None, *, file: TextIO | None = None
    ) -> None:
        """Print the `summary` of every model, to `file` or the terminal.

        None: the results of the last `recommend_gpus`; raises InputError when it has not been called.
        """
        recommendations = self._last if recommendations is None else recommendations
        if recommendations is None:
            raise InputError("there are no recommendations yet", hint="call recommend_gpus first")
        print("\n\n".join(found.summary() for found in recommendations), file=file or sys.stdout)


def _gpu_names(gpus: GPUs | None, gpu_file: str | Path | None) -> list[object] | None:
    """Return the names of GPUs, groups such as "datacenter" or "Hopper" by their members' names.

    Raises InputError for a specification that is not the one known by its name.
    """
    if gpus is None:
        return None
    several = isinstance(gpus, Iterable) and not isinstance(gpus, str | Mapping)
    given: list[object] = []
    for entry in cast(Iterable[object], gpus) if several else [gpus]:
        given += (parted([entry]) or [entry]) if isinstance(entry, str) else [entry]
    catalogue = gpus_with(gpu_file)
    named: list[object] = []
    members: set[str] = set()
    for gpu in given:
        if isinstance(gpu, GPUSpec):
            if GPU_LIBRARY.get(gpu.name) != gpu:
                hint = f"GPU_LIBRARY[{gpu.name!r}] = … adds it"
                raise InputError(f"gpus: GPU_LIBRARY does not hold this {gpu.name}", hint=hint)
            named.append(gpu.name)
        elif not isinstance(gpu, str) or has_wildcard(gpu) or catalogue.find(gpu):
            named.append(gpu)
        else:
            try:
                members |= {member.name for member in catalogue.select(glob=gpu)}
            except InputError:
                named.append(gpu)  # what is wrong with it is said with everything else

    def is_member(gpu: object) -> bool:
        one = catalogue.find(gpu) if isinstance(gpu, str) else None
        return one is not None and one.name in members

    return [*(gpu for gpu in named if not is_member(gpu)), *sorted(members)]


def _trust(word: str) -> str:
    if word not in _TRUST:
        raise UnknownNameError("trust", str(word), nearest(str(word), _TRUST), hint=f"one of {', '.join(_TRUST)}")
    return word


def _confidence(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 0.99:
        raise InputError(f"confidence must be a number from 0.5 to 0.99, got {value!r}")
    return float(value)


def _limit(name: str, value: int | None) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value
