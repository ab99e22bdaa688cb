"""Recommendations from Python: the sweep that the arguments describe, run over a store and ranked, by model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpuscout.runner.api.cases import LOCK_WAIT_S, StoreLike, opened
from gpuscout.runner.api.estimates.analysis import Analysed, analyses_of
from gpuscout.runner.api.estimates.estimate import PricesLike, price_rules
from gpuscout.runner.api.estimates.performance import estimate_of
from gpuscout.runner.api.models.model import GB, ModelArchitecture, ModelLike
from gpuscout.runner.api.recommendations.results import GPURecommendation, RecommendationResult
from gpuscout.runner.api.run import expand, run
from gpuscout.runner.engines.base import note_of
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.runner.engines.roofline.features import features
from gpuscout.runner.engines.roofline.memory import memory
from gpuscout.runner.resolve.hub_errors import HubModel
from gpuscout.runner.resolve.models import ModelFinder, model_text, target_of
from gpuscout.store.database.connect import Connection, Store
from gpuscout.store.prices.prices import GpuPrice
from gpuscout.store.queries.answers import StoredAnswer, answers_at
from gpuscout.store.ranking.question.asked import Trusted
from gpuscout.store.ranking.rank import DEFAULT_OBJECTIVE, Group, Question, RankedConfig, rank
from gpuscout.store.ranking.types import Cause, Configuration, Losers
from gpuscout.store.results.blocks import open_failures
from gpuscout.store.results.catalogues import StoredModels
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import is_path
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers.options import options_from
from gpuscout.sweeps.slo import OBJECTIVE_SYNONYMS
from gpuscout.sweeps.spec.spec import SweepSpec, spec_from_mapping
from gpuscout.sweeps.speculative import speculative_from

_SWEEP = "recommend_gpus"
# What is out for one of these causes runs all the same.
_FITTING = (Cause.MISSES_SLO, Cause.NOT_TRUSTED, Cause.NO_PERCENTILE)
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
    "server_options": "server_options",
    "speculative": "speculative",
    "limits": "max_gpus",
    "engines": "engine",
}


@dataclass(frozen=True)
class _Asked:
    """The sweep and the question that the arguments come to, and what the answer should hold."""

    spec: SweepSpec
    question: Question
    batch_size: int | None
    with_estimates: bool
    with_analyses: bool


def recommended(
    models: Sequence[ModelLike],
    arguments: Mapping[str, object],
    *,
    batch_size: int | None = None,
    with_estimates: bool = True,
    with_analyses: bool = False,
    trust: str = Trusted.ANY,
    confidence: float = 0.5,
    prices: PricesLike | None,
    hf_token: str | None,
    gpu_file: str | Path | None,
    store: StoreLike | None,
) -> list[RecommendationResult]:
    """Run the sweep that the arguments describe where the store lacks it, and rank it: a result for each model."""
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
        trust=trust if with_estimates else Trusted.ANY,
        confidence=confidence if with_estimates else 0.5,
        top=None,
        examples=None,
    )
    asked = _Asked(spec, question, batch_size, with_estimates, with_analyses)
    with opened(store) as the_store:
        expansion = expand(spec, gpu_file=file, known=_known(models, the_store, hf_token))
        answers = _Answers.of(the_store, expansion, asked, file)
    return [answers.about(swept.architecture) for swept in expansion.sweep.models]


def _spec(models: Sequence[ModelLike], arguments: Mapping[str, object]) -> SweepSpec:
    """Return the spec that asks the same. Raises SpecError in the words of the arguments."""
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


def _known(models: Iterable[ModelLike], store: Store, token: str | None) -> _KnownHere:
    """Return the models that need no network: those of the store, and those that were looked up before."""
    stored = StoredModels(store)
    given = {}
    for model in models:
        if isinstance(model, ModelArchitecture):
            given[model.model_id] = model.architecture
        elif token is not None and not is_path(text := model_text(model)) and isinstance(target_of(text), HubModel):
            found = ModelFinder(stored, token=token).find_one(text).architecture
            given[found.name] = found
    return _KnownHere(stored, given)


@dataclass(frozen=True)
class _KnownHere:
    """`KnownModels` of a store and of this call."""

    stored: StoredModels
    given: Mapping[str, ModelSpec]

    def find(self, names: Sequence[str]) -> dict[str, ModelSpec]:
        """Return the known ones."""
        return {**self.stored.find(names), **{name: self.given[name] for name in names if name in self.given}}

    def remember(self, architectures: Sequence[ModelSpec]) -> None:
        """Keep models that were fetched."""
        self.stored.remember(architectures)


@dataclass(frozen=True)
class _Placed:
    """A configuration and what the ranking came to: `point` None where it is not ranked."""

    config: Configuration
    fits: bool
    reason: str | None
    point: RankedConfig | None


@dataclass(frozen=True)
class _Answers:
    """The outcome of a sweep. `unpriced` ranks what the objective could not; `curves` are there if asked for."""

    asked: _Asked
    expansion: Expansion
    ranked: Mapping[str, Group]
    unpriced: Mapping[str, Group]
    prices: Mapping[str, GpuPrice]
    memory: Mapping[int, StoredAnswer]
    curves: Mapping[int, Sequence[StoredAnswer]]
    failed: str | None

    @classmethod
    def of(cls, store: Store, expansion: Expansion, asked: _Asked, gpu_file: Path | None) -> _Answers:
        """Run the sweep and read its answers. Raises InputError when all its tasks have failed."""
        if not expansion.census().tasks:
            return cls(asked, expansion, {}, {}, {}, {}, {}, None)  # everything is left out, and about() says why
        report = run(asked.spec, store, expansion=expansion, gpu_file=gpu_file, lock_wait_s=LOCK_WAIT_S)
        question = replace(asked.question, sweep=report.sweep.id)
        with store.reading() as connection:
            failures = open_failures(connection, report.sweep.id) if report.open_failures else []
            if failures and len(failures) == report.progress.total_tasks:
                raise InputError("; ".join(dict.fromkeys(failure.message for failure in failures)))
            failed = f"{len(failures):,} failed: {failures[0].message}" if failures else None
            ranking = rank(connection, question)
            unpriced: tuple[Group, ...] = ()
            if any(group.unranked for group in ranking.groups):
                # Of the best by throughput per GPU and the best by cost, a configuration has the same operating point.
                unpriced = rank(connection, replace(question, objective="throughput-per-gpu")).groups
            tasks = {_task(config) for group in (*ranking.groups, *unpriced) for config in _configurations(group)}
            memory = answers_at(connection, [(task, 0) for task in tasks])
            ladder = expansion.sweep.engines[0].ladder if asked.with_analyses else ()
            curves = _curves(connection, tasks, ladder)
        return cls(
            asked,
            expansion,
            {group.model: group for group in ranking.groups},
            {group.model: group for group in unpriced},
            ranking.prices.known,
            {task: answer for (task, _), answer in memory.items()},
            curves,
            failed,
        )

    def about(self, model: ModelSpec) -> RecommendationResult:
        """Return the result of one model of the sweep."""
        placed = sorted(self._placed(model.name), key=lambda one: (not one.fits, one.reason is not None))
        cases = [self._case(model, one.config) for one in placed]
        asked, workload = self.asked, self.asked.spec.workloads[0]
        exclusions = [
            exclusion.detail
            for exclusion in self.expansion.census().exclusions
            if exclusion.model in (None, model.name) and exclusion.reason != _OVER_THE_LIMIT
        ]
        engine = asked.question.engines[0]
        note = self._engine_note()
        analysed = [
            Analysed(case, engine, self.curves.get(_task(one.config), ()), one.reason)
            for one, case in zip(placed, cases, strict=True)
        ]
        recommendations = self._recommendations(model, placed, cases)
        ranked = self.ranked.get(model.name)
        better = None if ranked is None or ranked.unproven is None else _task(ranked.unproven)
        unproven = (item for item, one in zip(recommendations, placed, strict=True) if _task(one.config) == better)
        precisions = [model.precision.value if name == "native" else str(name) for name in asked.spec.precision]
        return RecommendationResult(
            model_id=model.name,
            input_length=workload.input_len,
            output_length=workload.output_len,
            precision=", ".join(dict.fromkeys(precisions)),
            objective=asked.question.objective,
            recommendations=recommendations,
            exclusions=(*dict.fromkeys(exclusions), *([self.failed] if self.failed else [])),
            notes=(*model.caveats, *([note] if note else [])),
            unproven=next(unproven, None),
            analyses=analyses_of(analysed) if asked.with_analyses else (),
            slos=tuple(map(str, asked.question.slos)),
        )

    def _engine_note(self) -> str | None:
        part = self.expansion.sweep.engines[0]
        return note_of(cached_engine(part.name, part.options))

    def _placed(self, model: str) -> Iterable[_Placed]:
        seen: set[int] = set()
        for group in (self.ranked.get(model), self.unpriced.get(model)):
            for config in group.configs if group else ():
                if _task(config) not in seen:
                    seen.add(_task(config))
                    yield self._ranked(config)
        for losers in self.ranked[model].losers if model in self.ranked else ():
            yield from (
                self._lost(losers, loser.detail, loser) for loser in losers.examples if _task(loser) not in seen
            )

    def _ranked(self, config: RankedConfig) -> _Placed:
        asked = self.asked.batch_size
        if asked is not None and config.queued:
            reason = f"the KV caches hold fewer than {asked:,} requests at once: the others wait"
            return _Placed(config, False, reason, config)
        return _Placed(config, True, None, config)

    def _lost(self, losers: Losers, detail: str, config: Configuration) -> _Placed:
        against = f"misses {losers.slo}" if losers.slo else losers.cause.value.replace("_", " ")
        memory = self.memory[_task(config)]
        # Of a GPU whose bandwidth nobody knows it is known what fits, and of no other that is not supported.
        holds = memory.needed_gib is not None and memory.needed_gib <= (memory.usable_gib or 0)
        fits = losers.cause in _FITTING or (losers.cause is Cause.NOT_SUPPORTED and holds)
        only_memory = not self.asked.with_estimates and losers.cause is Cause.NOT_SUPPORTED and holds
        return _Placed(config, fits, None if only_memory else f"{against}: {detail}", None)

    def _case(self, model: ModelSpec, config: Configuration) -> Case:
        workload = self.asked.spec.workloads[0]
        gpus = {gpu.name: gpu for gpu in self.expansion.sweep.gpus}
        return Case(
            model=model,
            gpu=gpus[config.gpu],
            input_len=workload.input_len,
            output_len=workload.output_len,
            precision=Precision(config.precision),
            kv_precision=Precision(config.kv_precision or model.kv_precision),
            tensor_parallel=config.tensor_parallel,
            server=config.server,
            gpu_memory_utilization=config.gpu_memory_utilization,
            max_model_len=config.max_model_len,
            server_options=options_from(config.server_options),
            speculative=speculative_from(config.speculative),
        )

    def _recommendations(
        self, model: ModelSpec, placed: Sequence[_Placed], cases: Sequence[Case]
    ) -> list[GPURecommendation]:
        if not placed:
            return []
        sizes = memory(features(CaseColumns.of(cases)))
        weights = sizes.weights.tolist()
        free = (sizes.usable - sizes.weights - sizes.activations - sizes.runtime).clip(min=0).tolist()
        capacities = sizes.capacity_tokens.tolist()
        return [
            self._recommendation(model, one, case, weights[row] / GB, free[row] / GB, int(capacities[row]))
            for row, (one, case) in enumerate(zip(placed, cases, strict=True))
        ]

    def _recommendation(
        self, model: ModelSpec, one: _Placed, case: Case, weights_gb: float, kv_gb: float, capacity: int
    ) -> GPURecommendation:
        config, stored = one.config, self.memory[_task(one.config)]
        price = self.prices.get(config.gpu)
        usd_per_hour = None if price is None else price.per_hour(config.num_gpus).usd
        if stored.kv_capacity_tokens is not None:
            capacity = stored.kv_capacity_tokens
        estimate = None
        if one.point is not None and self.asked.with_estimates:
            workload = self.asked.spec.workloads[0]
            estimate = estimate_of(
                model,
                workload,
                config,
                one.point.concurrency,
                point=one.point,
                memory=stored,
                usd_per_hour=usd_per_hour,
                note=self._engine_note(),
            )
        return GPURecommendation(
            model=model.name,
            gpu_spec=case.gpu,
            num_gpus=config.num_gpus,
            tensor_parallel_size=config.tensor_parallel,
            precision=config.precision,
            kv_precision=config.kv_precision,
            server=config.server,
            context_length=config.max_model_len,
            fits=one.fits,
            reason=one.reason,
            memory_needed_gib=stored.needed_gib,
            memory_usable_gib=stored.usable_gib,
            memory_per_gpu_gb=weights_gb,
            available_memory_for_kv_gb=kv_gb,
            concurrent_requests=capacity // config.max_model_len,
            usd_per_hour=usd_per_hour,
            estimate=estimate,
            backed=one.point is not None and one.point.backed,
            likelihood=None if one.point is None else one.point.likelihood,
        )


def _curves(connection: Connection, tasks: Iterable[int], ladder: Sequence[int]) -> dict[int, list[StoredAnswer]]:
    """Return the operating points of each task, by concurrency."""
    curves: dict[int, list[StoredAnswer]] = {}
    found = answers_at(connection, [(task, concurrency) for task in tasks for concurrency in sorted(ladder)])
    for (task, _), answer in sorted(found.items()):
        if answer.concurrency is not None:
            curves.setdefault(task, []).append(answer)
    return curves


def _task(config: Configuration) -> int:
    """Return the id of an estimate's task."""
    assert config.task_id is not None
    return config.task_id


def _configurations(group: Group) -> Iterable[Configuration]:
    yield from group.configs
    for losers in group.losers:
        yield from losers.examples
