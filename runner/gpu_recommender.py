"""`recommend_gpus`: which GPUs a model fits on and does best on, in one call; `GPURecommender`: the same of several."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from gpuscout.runner.answers import StoreLike
from gpuscout.runner.estimates import PricesLike
from gpuscout.runner.gpu_ranking import ModelLike, recommended
from gpuscout.runner.gpu_recommendations import GPURecommendations, figures_of
from gpuscout.sweeps.errors import InputError

Some = str | Sequence[str]


def recommend_gpus(
    model: ModelLike,
    input_length: int = 1024,
    output_length: int = 512,
    precision: Some | None = None,
    context_length: int | None = None,
    batch_size: int | None = None,
    gpu_memory_utilization: float = 0.9,
    max_tensor_parallel: int | None = None,
    max_gpus: int | None = None,
    estimate_performance_flag: bool = True,
    *,
    gpus: Some | None = None,
    objective: str = "cost",
    slos: Some = (),
    kv_precision: Some | None = None,
    server: Some = "vllm",
    engine: str | Mapping[str, object] = "roofline",
    prices: PricesLike | None = None,
    hf_token: str | None = None,
    gpu_file: str | Path | None = None,
    store: StoreLike | None = None,
) -> GPURecommendations:
    """Every GPU type that can serve a model, with as many GPUs as make sense, the best first.

    Deployments are tensor parallel: 1, 2, 4 … GPUs that divide the heads and share one node's fast link.

    input_length, output_length  tokens of every request
    precision, kv_precision      one or several; None: the checkpoint's own
    context_length               tokens one request may grow to; None: exactly input and output
    batch_size                   requests in flight; None: each configuration at the point that is best by `objective`
    max_tensor_parallel, max_gpus  at most so many GPUs in one deployment; with both, the smaller counts
    estimate_performance_flag    False: answers by memory alone, the cheapest by the hour first
    gpus                         names, aliases or globs; None: the whole catalogue
    objective                    cost, throughput, throughput-per-gpu, ttft, itl, e2e …; "latency" means e2e
    slos                         limits to meet, such as "itl<=30ms"; what misses one fits, but is not recommended

    The other arguments are those of `estimate_performance`. Raises SpecError with everything that is wrong with the
    arguments (unknown names with the nearest ones), InputError, HubError for a model that cannot be fetched, and what
    `estimate_performance` raises for a `store` that cannot be used.

    >>> found = recommend_gpus("Qwen/Qwen3-32B", 2000, 256, slos="itl<=30ms", max_gpus=4)
    >>> found.best.estimate.itl_ms <= 30, found.best.num_gpus <= 4
    (True, True)
    >>> by_memory = recommend_gpus("Qwen/Qwen3-32B", 2000, 256, batch_size=64, estimate_performance_flag=False)
    >>> by_memory.best.estimate is None, by_memory.best.memory_needed_gib < by_memory.best.memory_usable_gib
    (True, True)
    """
    if max_tensor_parallel is not None and (type(max_tensor_parallel) is not int or max_tensor_parallel < 1):
        raise InputError(f"max_tensor_parallel must be a whole number of at least 1, not {max_tensor_parallel!r}")
    limits = [limit for limit in (max_tensor_parallel, max_gpus) if limit is not None]
    (found,) = recommended(
        [model],
        {
            "workloads": [{"input_len": input_length, "output_len": output_length}],
            "gpus": gpus,
            "precision": precision,
            "kv_precision": kv_precision,
            "max_model_len": context_length,
            "gpu_memory_utilization": gpu_memory_utilization,
            "limits": {"max_gpus": min(limits)} if limits else None,
            "servers": server,
            "objective": objective if estimate_performance_flag else "cost-per-hour",
            "slo": slos,
            "engine": engine,
        },
        batch_size=batch_size,
        with_estimates=estimate_performance_flag,
        prices=prices,
        hf_token=hf_token,
        gpu_file=gpu_file,
        store=store,
    ).values()
    return found


class GPURecommender:
    """Compares models and GPUs for requests of one shape (tokens).

    >>> recommender = GPURecommender(2000, 256)
    >>> found = recommender.recommend_gpus(["gpt-oss-120b", "Qwen/Qwen3-8B"], ["H200", "L40"], metric="throughput")
    >>> {model: str(result.best) for model, result in found.items()}
    {'openai/gpt-oss-120b': 'H200-SXM-141GB x8 fp4', 'Qwen/Qwen3-8B': 'H200-SXM-141GB x8 bf16'}
    >>> recommender.print_recommendations()
    2,000 in / 256 out, by throughput
      openai/gpt-oss-120b
        H200-SXM-141GB x8 fp4 ...
        L40 x8 fp4 ...
      Qwen/Qwen3-8B
        H200-SXM-141GB x8 bf16 ...
        L40 x8 bf16 ...
    """

    def __init__(self, input_len: int = 1024, output_len: int = 512) -> None:
        self.input_len = input_len
        self.output_len = output_len
        self._last: Mapping[str, GPURecommendations] | None = None

    def recommend_gpus(
        self,
        models: ModelLike | Sequence[ModelLike],
        gpus: Some | None = None,
        num_gpus: int | Sequence[int] | None = None,
        metric: str = "throughput",
        *,
        engine: str | Mapping[str, object] = "roofline",
        prices: PricesLike | None = None,
        hf_token: str | None = None,
        gpu_file: str | Path | None = None,
        store: StoreLike | None = None,
    ) -> dict[str, GPURecommendations]:
        """What `recommend_gpus` says of every model, by full name, in the order given; one sweep answers for all.

        `num_gpus`: tensor parallel deployments of exactly so many GPUs; None: as many as are best. `metric` is an
        objective (throughput, ttft, itl, e2e, cost …); "latency" means e2e. Raises what `recommend_gpus` raises.
        """
        self._last = found = recommended(
            [models] if isinstance(models, ModelLike) else list(models),
            {
                "workloads": [{"input_len": self.input_len, "output_len": self.output_len}],
                "gpus": gpus,
                "tensor_parallel": num_gpus,
                "objective": metric,
                "engine": engine,
            },
            batch_size=None,
            with_estimates=True,
            prices=prices,
            hf_token=hf_token,
            gpu_file=gpu_file,
            store=store,
        )
        return found

    def print_recommendations(
        self, recommendations: Mapping[str, GPURecommendations] | None = None, *, file: TextIO | None = None
    ) -> None:
        """Print the best configuration of each GPU type for every model, the best first; to `file`, or the terminal.

        None: what `recommend_gpus` said last; raises InputError when it has not been asked.
        """
        recommendations = self._last if recommendations is None else recommendations
        if recommendations is None:
            raise InputError("there are no recommendations yet", hint="call recommend_gpus first")
        lines: list[str] = []
        for found in recommendations.values():
            if not lines:
                lines.append(f"{found.input_length:,} in / {found.output_length:,} out, by {found.objective}")
            lines.append(f"  {found.model}")
            best = found.best_per_gpu
            width = max((len(str(item)) for item in best), default=0)
            lines += [f"    {item!s:{width}}  {figures_of(item)}" for item in best]
            if not best:
                reasons = [*(f"{item}: {item.reason}" for item in found), *found.exclusions]
                lines.append(f"    none: {reasons[0] if reasons else 'nothing was asked for'}")
        print("\n".join(lines), file=file or sys.stdout)
