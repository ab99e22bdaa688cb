"""`recommend_gpus` and `GPURecommender`: the GPUs a model fits on and does best on, by a sweep over a store, ranked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from gpuscout.runner.api.cases import LOCK_WAIT_S, StoreLike, opened
from gpuscout.runner.api.estimate import PerformanceEstimate, PricesLike, interval_ends, price_rules
from gpuscout.runner.api.model import ModelArchitecture
from gpuscout.runner.api.recommendations import GPURecommendation, GPURecommendations, figures_of
from gpuscout.runner.api.run import expand, run
from gpuscout.runner.resolve.hub_errors import HubModel
from gpuscout.runner.resolve.models import ModelFinder, model_text, target_of
from gpuscout.store.database.connect import Store
from gpuscout.store.prices.prices import GpuPrice
from gpuscout.store.queries.answers import StoredAnswer, answers_at
from gpuscout.store.ranking.rank import DEFAULT_OBJECTIVE, Group, Question, RankedConfig, rank
from gpuscout.store.ranking.types import Cause, Configuration, Losers
from gpuscout.store.results.blocks import open_failures
from gpuscout.store.results.catalogues import StoredModels
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.models.catalogue import is_path
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.slo import OBJECTIVE_SYNONYMS
from gpuscout.sweeps.spec.spec import SweepSpec, spec_from_mapping
from gpuscout.sweeps.workloads import Workload

ModelLike = str | Path | ModelArchitecture
_SWEEP = "recommend_gpus"
_OVER_THE_LIMIT = "more GPUs than limits.max_gpus"

# What errors call the keys of the spec that is made of the arguments.
_ARGUMENTS = {
    "models": "model",
    "gpus": "gpus",
    "workloads.input_len": "input_length",
    "workloads.output_len": "output_length",
    "precision": "precision",
    "kv_precision": "kv_precision",
    "max_model_len": "context_length",
    "concurrency": "batch_size",
    "tensor_parallel": "num_gpus",
    "servers": "server",
    "limits": "max_gpus",
    "engines": "engine",
}


@dataclass(frozen=True)
class _Asked:
    """What the arguments come to: a sweep, the question to its results, and how to tell the answer."""

    spec: SweepSpec
    question: Question
    batch_size: int | None
    with_estimates: bool


def recommended(
    models: Sequence[ModelLike],
    arguments: Mapping[str, object],
    *,
    batch_size: int | None,
    with_estimates: bool,
    prices: PricesLike | None,
    hf_token: str | None,
    gpu_file: str | Path | None,
    store: StoreLike | None,
) -> dict[str, GPURecommendations]:
    """Run the sweep that the arguments describe where the store lacks it, rank it, and say what of each model."""
    file = None if gpu_file is None else Path(gpu_file)
    rules = price_rules(prices, gpus_with(file))
    # What fits is the same at every concurrency.
    ladder = 1 if batch_size is None and not with_estimates else batch_size
    spec = _spec(models, {**arguments, "concurrency": ladder})
    question = Question(
        objective=spec.objective or DEFAULT_OBJECTIVE,
        slos=spec.slo,
        engines=(spec.engines[0].name,),  # not what a store holds besides: other engines, measured runs
        prices=rules,
        also=("cost",),
        top=None,
        examples=None,
    )
    asked = _Asked(spec, question, batch_size, with_estimates)
    with opened(store) as the_store:
        _fetch(models, the_store, hf_token)
        expansion = expand(spec, gpu_file=file, known=StoredModels(the_store))
        answers = _Answers.of(the_store, expansion, asked, file)
        return {
            swept.architecture.name: answers.about(swept.architecture.name, expansion)
            for swept in expansion.sweep.models
        }


def _spec(models: Sequence[ModelLike], arguments: Mapping[str, object]) -> SweepSpec:
    """The spec that asks the same. Raises SpecError in the words of the arguments."""
    given = {key: value for key, value in arguments.items() if value is not None}
    objective = str(given.get("objective", DEFAULT_OBJECTIVE))
    return spec_from_mapping(
        {
            "name": _SWEEP,
            "models": [_name(model) for model in models],
            "gpus": "*",
            **{key: list(value) if isinstance(value, tuple) else value for key, value in given.items()},
            "objective": OBJECTIVE_SYNONYMS.get(objective, objective),
        },
        flags=_ARGUMENTS,
    )


def _name(model: ModelLike) -> str:
    if not isinstance(model, ModelArchitecture):
        return model_text(model)
    return model.given if is_path(model.given) else model.model_id


def _fetch(models: Iterable[ModelLike], store: Store, token: str | None) -> None:
    """Have the store know what only this call knows: models with a token of their own, and those looked up before."""
    known = StoredModels(store)
    for model in models:
        if isinstance(model, ModelArchitecture):
            if not is_path(model.given) and isinstance(target_of(model.model_id), HubModel):
                known.remember([model.architecture])
        elif token is not None:
            ModelFinder(known, token=token).find(model_text(model))


@dataclass(frozen=True)
class _Answers:
    """What a sweep came to. `unpriced` ranks what the objective could not, None: there is no such configuration."""

    asked: _Asked
    ranked: Mapping[str, Group]
    unpriced: Mapping[str, Group]
    prices: Mapping[str, GpuPrice]
    memory: Mapping[int, StoredAnswer]
    failed: str | None

    @classmethod
    def of(cls, store: Store, expansion: Expansion, asked: _Asked, gpu_file: Path | None) -> _Answers:
        """Run the sweep and read its answers. Raises InputError when all its tasks have failed."""
        report = run(asked.spec, store, expansion=expansion, gpu_file=gpu_file, lock_wait_s=LOCK_WAIT_S)
        question = replace(asked.question, sweep=report.sweep.id)
        with store.reading() as connection:
            failures = open_failures(connection, report.sweep.id) if report.open_failures else []
            if failures and len(failures) == report.progress.total_tasks:
                raise InputError(failures[0].message)
            if not report.progress.total_tasks:
                return cls(asked, {}, {}, {}, {}, None)  # everything was left out
            failed = f"{len(failures):,} failed: {failures[0].message}" if failures else None
            ranking = rank(connection, question)
            unpriced: tuple[Group, ...] = ()
            if any(group.unranked for group in ranking.groups):
                # Of the best by throughput per GPU and the best by cost, a configuration has the same operating point.
                unpriced = rank(connection, replace(question, objective="throughput-per-gpu")).groups
            tasks = {_task(config) for group in (*ranking.groups, *unpriced) for config in _configurations(group)}
            memory = answers_at(connection, [(task, 0) for task in tasks])
        return cls(
            asked,
            {group.model: group for group in ranking.groups},
            {group.model: group for group in unpriced},
            ranking.prices.known,
            {task: answer for (task, _), answer in memory.items()},
            failed,
        )

    def about(self, model: str, expansion: Expansion) -> GPURecommendations:
        """What to say of one model of the sweep."""
        found: list[GPURecommendation] = []
        seen: set[int] = set()
        for group in (self.ranked.get(model), self.unpriced.get(model)):
            for config in group.configs if group else ():
                if _task(config) not in seen:
                    seen.add(_task(config))
                    found.append(self._ranked(model, config))
        for losers in self.ranked[model].losers if model in self.ranked else ():
            reason = _against(losers)
            fits = losers.cause is Cause.MISSES_SLO
            found += [
                self._said(model, loser, fits, f"{reason}: {loser.detail}", None)
                for loser in losers.examples
                if _task(loser) not in seen
            ]
        workload = self.asked.spec.workloads[0]
        exclusions = [
            exclusion.detail
            for exclusion in expansion.census().exclusions
            if exclusion.model in (None, model) and exclusion.reason != _OVER_THE_LIMIT
        ]
        return GPURecommendations(
            model=model,
            input_length=workload.input_len,
            output_length=workload.output_len,
            objective=self.asked.question.objective,
            items=tuple(sorted(found, key=lambda item: (not item.fits, item.reason is not None))),
            exclusions=(*dict.fromkeys(exclusions), *([self.failed] if self.failed else [])),
            gpus=expansion.sweep.gpus,
        )

    def _ranked(self, model: str, config: RankedConfig) -> GPURecommendation:
        asked = self.asked.batch_size
        if asked is not None and config.queued:
            reason = f"the KV caches hold fewer than {asked:,} requests at once: the others wait"
            return self._said(model, config, False, reason, config)
        return self._said(model, config, True, None, config)

    def _said(
        self, model: str, config: Configuration, fits: bool, reason: str | None, point: RankedConfig | None
    ) -> GPURecommendation:
        price = self.prices.get(config.gpu)
        usd_per_hour = None if price is None else price.per_hour(config.num_gpus).usd
        memory = self.memory[_task(config)]
        capacity = memory.kv_capacity_tokens
        estimate = None
        if point is not None and self.asked.with_estimates:
            workload = self.asked.spec.workloads[0]
            estimate = _estimate(model, workload, point, memory, usd_per_hour)
        return GPURecommendation(
            model=model,
            gpu=config.gpu,
            num_gpus=config.num_gpus,
            tensor_parallel_size=config.tensor_parallel,
            precision=config.precision,
            kv_precision=config.kv_precision,
            server=config.server,
            context_length=config.max_model_len,
            fits=fits,
            reason=reason,
            memory_needed_gib=memory.needed_gib,
            memory_usable_gib=memory.usable_gib,
            concurrent_requests=None if capacity is None else capacity // config.max_model_len,
            usd_per_hour=usd_per_hour,
            estimate=estimate,
        )


def _task(config: Configuration) -> int:
    """The id of an estimate's task."""
    assert config.task_id is not None
    return config.task_id


def _configurations(group: Group) -> Iterable[Configuration]:
    yield from group.configs
    for losers in group.losers:
        yield from losers.examples


def _against(losers: Losers) -> str:
    return f"misses {losers.slo}" if losers.slo else losers.cause.value.replace("_", " ")


def _estimate(
    model: str, workload: Workload, point: RankedConfig, memory: StoredAnswer, usd_per_hour: float | None
) -> PerformanceEstimate:
    return PerformanceEstimate(
        model_id=model,
        gpu_name=point.gpu,
        num_gpus=point.num_gpus,
        tensor_parallel_size=point.tensor_parallel,
        input_length=workload.input_len,
        output_length=workload.output_len,
        batch_size=point.concurrency,
        precision=point.precision,
        kv_precision=point.kv_precision,
        context_length=point.max_model_len,
        server=point.server,
        gpu_memory_utilization=point.gpu_memory_utilization,
        ttft_ms=point.ttft_ms,
        itl_ms=point.itl_ms,
        e2e_s=point.e2e_s,
        output_tokens_per_s=point.output_tokens_per_s,
        requests_per_s=point.requests_per_s,
        bound=point.bound,
        queued=point.queued,
        interpolated=point.interpolated,
        memory_needed_gib=memory.needed_gib,
        memory_usable_gib=memory.usable_gib,
        kv_capacity_tokens=memory.kv_capacity_tokens,
        **interval_ends(point.intervals),
        usd_per_hour=usd_per_hour,
        cost_usd_per_mtok=point.values.get("cost"),
        engine=point.engine,
        fingerprint=point.fingerprint,
        outcome=Outcome.OK.value,
    )


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
