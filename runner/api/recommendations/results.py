"""The results of `recommend_gpus` and `GPURecommender`: configurations with figures, filtered, sorted and shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import Any, Self, overload

from gpuscout.runner.api.estimates.analysis import PerformanceAnalysis
from gpuscout.runner.api.estimates.performance import PerformanceEstimate
from gpuscout.runner.api.recommendations import result_table
from gpuscout.store.ranking.measures import MEASURES, measure_of, value_of
from gpuscout.sweeps.errors import InputError, needing
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.names import has_wildcard
from gpuscout.sweeps.slo import OBJECTIVE_SYNONYMS

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GPURecommendation:
    """One configuration: a GPU type, how many of them, and what is known of the model there.

    `fits`: the model and one request of `context_length` tokens fit into memory or, where a batch size was asked for,
    that many requests in flight, at the length they have on average. `reason` says what speaks against it; None:
    nothing. `usd_per_hour` is of all GPUs; None: no price is known. `estimate` None: only memory was asked about, or
    there are no figures. Memory is per GPU:

    memory_needed_gib           without which not even one request runs (GiB, 2^30 bytes); `memory_usable_gib` is what
                                the server may use. None: the engine does not say
    memory_per_gpu_gb           the model's weights (GB, 10^9 bytes)
    available_memory_for_kv_gb  what is left for KV caches beside weights, activations and the runtime (GB); by the
                                memory model of the built-in engine
    concurrent_requests         requests of `context_length` tokens that fit into the KV caches of all GPUs

    backed                      whether measured runs are near the estimate
    likelihood                  of the limit (`slos`) that is least likely met; None: there is none, or it is not known

    What earlier recommenders kept in two objects is one here: `recommendation` is the configuration itself,
    `performance` its `estimate`.
    """

    model: str
    gpu_spec: GPUSpec = field(repr=False)
    num_gpus: int
    tensor_parallel_size: int
    precision: str
    kv_precision: str | None
    server: str
    context_length: int
    fits: bool
    reason: str | None
    memory_needed_gib: float | None
    memory_usable_gib: float | None
    memory_per_gpu_gb: float
    available_memory_for_kv_gb: float
    concurrent_requests: int
    usd_per_hour: float | None
    estimate: PerformanceEstimate | None
    backed: bool = False
    likelihood: float | None = None

    @property
    def gpu(self) -> str:
        """The name of the GPU type."""
        return self.gpu_spec.name

    @property
    def recommendation(self) -> Self:
        """The configuration itself."""
        return self

    @property
    def performance(self) -> PerformanceEstimate | None:
        """The same as `estimate`."""
        return self.estimate

    @property
    def total_gpus(self) -> int:
        """The same as `num_gpus`."""
        return self.num_gpus

    @property
    def model_fits(self) -> bool:
        """The same as `fits`."""
        return self.fits

    @property
    def max_concurrent_requests(self) -> int:
        """The same as `concurrent_requests`."""
        return self.concurrent_requests

    @property
    def max_batch_size(self) -> int:
        """The same as `concurrent_requests`: as many as run at once."""
        return self.concurrent_requests

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types, the GPU by its name; `estimate` is an object or None."""
        estimate = None if self.estimate is None else self.estimate.to_dict()
        return {name: getattr(self, name) for name in _COLUMNS} | {"estimate": estimate}

    def to_row(self) -> dict[str, Any]:
        """Return one flat row of a table: the fields, and the figures of the estimate beside them."""
        figures = {} if self.estimate is None else self.estimate.to_dict()
        return {name: getattr(self, name) for name in _COLUMNS} | {name: figures.get(name) for name in _FIGURES}

    def __str__(self) -> str:
        kv = "" if self.kv_precision in (None, "bf16", "fp16") else f" kv-{self.kv_precision}"
        server = "" if self.server == "vllm" else f" {self.server}"
        return f"{self.gpu} x{self.num_gpus} {self.precision}{kv}{server}"


_COLUMNS = (
    "model",
    "gpu",
    *(name for name in GPURecommendation.__match_args__ if name not in ("model", "gpu_spec", "estimate")),
)
_FIGURES = (
    "batch_size",
    "interpolated",
    "ttft_ms",
    "itl_ms",
    "e2e_s",
    "output_tokens_per_s",
    "output_tokens_per_s_per_gpu",
    "requests_per_s",
    *(name for name in PerformanceEstimate.__match_args__ if name.endswith(("_low", "_high"))),
    "bound",
    "queued",
    "cost_usd_per_mtok",
    "engine",
    "fingerprint",
    "kind",
)


@dataclass(repr=False)
class RecommendationResult(Sequence[GPURecommendation]):
    """The configurations of one model, best first: those that fit, in the order of `objective`, then the others.

    A sequence: `len`, indices, slices and loops work; `recommendations` is the list behind it. Filters give a new
    result, `sort_by_cost` and `sort_by_performance` sort in place. Lengths are in tokens.

    precision    of the weights: what was asked for, or the checkpoint's own
    exclusions   which configurations were left out because no engine could run them, and why
    notes        what is assumed or approximate about the model
    slos         the limits that were asked for; empty: none, whatever the latencies; None: not known
    unproven     what would be better than the best if its estimate held, which no measured runs back; None: nothing
    analyses     of `GPURecommender`: what limits each configuration. Empty otherwise

    >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, slos="itl<=50ms", gpus=["H200", "L40"])
    >>> found
    <RecommendationResult: openai/gpt-oss-120b, 7 of 8 configurations fit, best by cost: H200-SXM-141GB x2 fp4>
    >>> found.best.gpu, found[0] == found.best, len(found[:3])
    ('H200-SXM-141GB', True, 3)
    """

    model_id: str
    input_length: int
    output_length: int
    precision: str
    objective: str = "cost"
    recommendations: list[GPURecommendation] = field(default_factory=list)
    exclusions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unproven: GPURecommendation | None = field(default=None, compare=False)
    analyses: tuple[PerformanceAnalysis, ...] = field(default=(), compare=False)
    slos: tuple[str, ...] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.recommendations)

    def __iter__(self) -> Iterator[GPURecommendation]:
        return iter(self.recommendations)

    @overload
    def __getitem__(self, index: int) -> GPURecommendation: ...
    @overload
    def __getitem__(self, index: slice) -> RecommendationResult: ...
    def __getitem__(self, index: int | slice) -> GPURecommendation | RecommendationResult:
        if isinstance(index, slice):
            return self._with(self.recommendations[index])
        return self.recommendations[index]

    @property
    def model(self) -> str:
        """The same as `model_id`."""
        return self.model_id

    @property
    def total_recommendations(self) -> int:
        """Number of configurations, whether they fit or not."""
        return len(self)

    @property
    def best(self) -> GPURecommendation | None:
        """The first one that fits and that nothing speaks against; None: there is none."""
        return next(iter(self.best_per_gpu), None)

    @property
    def best_gpu(self) -> str | None:
        """The GPU type of `best`."""
        return None if self.best is None else self.best.gpu

    @property
    def best_per_gpu(self) -> tuple[GPURecommendation, ...]:
        """The first of each GPU type that fits and that nothing speaks against."""
        first: dict[str, GPURecommendation] = {}
        for item in self:
            if item.fits and item.reason is None:
                first.setdefault(item.gpu, item)
        return tuple(first.values())

    def add_recommendation(
        self, recommendation: GPURecommendation, performance: PerformanceEstimate | None = None
    ) -> None:
        """Append a configuration, with other figures than its own if `performance` is given."""
        if not isinstance(recommendation, GPURecommendation):
            raise InputError(f"expected a GPURecommendation, got {recommendation!r}")
        if performance is not None:
            recommendation = replace(recommendation, estimate=performance)
        self.recommendations.append(recommendation)

    def filter_fitting_only(self) -> RecommendationResult:
        """Return the recommendations that fit into memory.

        >>> found = recommend_gpus("Llama-3.3-70B-Instruct", 2000, 256, gpus=["L40"])
        >>> [str(item) for item in found.filter_fitting_only()]
        ['L40 x4 bf16', 'L40 x8 bf16']
        """
        return self._with(item for item in self if item.fits)

    def filter_by_gpu_name(self, *names: str) -> RecommendationResult:
        """Return the part on these GPUs, by name, alias or glob. Raises UnknownNameError with the nearest names.

        >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"])
        >>> {item.gpu for item in found.filter_by_gpu_name("h200", "B*")}
        {'H200-SXM-141GB'}
        """
        if not names or not all(isinstance(name, str) for name in names):
            given = ", ".join(map(repr, names)) or "nothing"
            raise InputError(f"filter_by_gpu_name: expected names of GPUs, got {given}")
        own = {item.gpu: item.gpu_spec for item in self}
        known = GPUCatalogue(({gpu.name: gpu for gpu in gpus_with()} | own).values())
        wanted: set[str] = set()
        for name in names:
            wanted |= {gpu.name for gpu in (known.select(glob=name) if has_wildcard(name) else [known.resolve(name)])}
        return self._with(item for item in self if item.gpu in wanted)

    def sort_by_cost(self) -> Self:
        """Sort in place by USD per million output tokens, the lowest first; without estimates by USD per hour.

        What has no price comes last. Returns the result itself, so that calls can be chained.

        >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"], objective="itl").sort_by_cost()
        >>> costs = [item.estimate.cost_usd_per_mtok for item in found if item.estimate]
        >>> costs == sorted(costs)
        True
        """
        return self._sort("cost" if any(item.estimate for item in self) else "cost-per-hour")

    def sort_by_performance(self, metric: str = "ttft") -> Self:
        """Sort in place by ttft, itl, e2e, throughput, throughput-per-gpu or another objective, the best first.

        What has no figures comes last. The figures stay those of the operating points that `objective` chose: ask
        `recommend_gpus` with another objective for the best point by that. Returns the result itself. Raises
        UnknownNameError for an unknown metric.

        >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"], batch_size=32)
        >>> found.sort_by_performance("itl")[0].num_gpus > 1
        True
        """
        if not isinstance(metric, str):
            raise InputError(f"metric must be a string, got {metric!r}")
        name = OBJECTIVE_SYNONYMS.get(metric, metric)
        measure_of(name)
        return self._sort(name)

    def summary(self, limit: int = 10) -> str:
        """Return a table for people: the best configuration of each GPU type (at most `limit`), and why others are out.

        Below figures stand the ends of the interval in which a measured value is expected with a probability of 80 %.

        >>> print(recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"]).summary())
        GPU Recommendations: openai/gpt-oss-120b, fp4, 2,000 in / 256 out, by cost
        ...
        7 of 8 configurations fit
        ...
        """
        return result_table.text(self, limit)

    def _repr_html_(self) -> str:
        """Return the same as an HTML table, for notebooks."""
        return result_table.html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return one document for machines: its keys carry units and never change meaning.

        >>> document = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200"]).to_dict()
        >>> document["schema_version"], document["model"], document["configurations"][0]["gpu"]
        (1, 'openai/gpt-oss-120b', 'H200-SXM-141GB')
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model_id,
            "input_length": self.input_length,
            "output_length": self.output_length,
            "precision": self.precision,
            "objective": self.objective,
            "best_gpu": self.best_gpu,
            "configurations": [item.to_dict() for item in self],
            "unproven": None if self.unproven is None else str(self.unproven),
            "exclusions": list(self.exclusions),
            "notes": list(self.notes),
            "analyses": [analysis.to_dict() for analysis in self.analyses],
        }

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a configuration. Raises InputError when pandas is not installed.

        >>> table = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"]).to_dataframe()
        >>> table.loc[table.fits, ["gpu", "num_gpus", "cost_usd_per_mtok"]].shape
        (7, 3)
        """
        with needing("to_dataframe needs pandas, which is not installed", hint="pip install pandas"):
            pandas = import_module("pandas")
        return pandas.DataFrame([item.to_row() for item in self], columns=[*_COLUMNS, *_FIGURES])

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        best = f"best by {self.objective}: {self.best}" if self.best else "none can be recommended"
        unlimited = ", no latency limit was asked (slos)" if result_table.has_no_limit(self) else ""
        return f"<RecommendationResult: {self.model_id}, {result_table.fitting(self)}, {best}{unlimited}>"

    def _with(self, items: Iterable[GPURecommendation]) -> RecommendationResult:
        return replace(self, recommendations=list(items))

    def _sort(self, metric: str) -> Self:
        self.recommendations.sort(key=_key(metric))
        return self


def _key(metric: str) -> Callable[[GPURecommendation], float]:
    """Return the values that sort ascending from the best to the worst."""

    def key(item: GPURecommendation) -> float:
        known = asdict(item.estimate) if item.estimate else {}
        figures = {name: math.nan if value is None else value for name, value in known.items()}
        figures.setdefault(MEASURES[metric].column, math.nan)
        usd = math.nan if item.usd_per_hour is None else item.usd_per_hour
        value = value_of(metric, figures, item.num_gpus, usd, item.gpu_spec.tdp_w or math.nan)
        if math.isnan(value):
            return math.inf
        return -value if MEASURES[metric].more_is_better else float(value)

    return key


# Names of earlier recommenders and of the release before this one.
RecommendationWithPerformance = GPURecommendation
GPURecommendations = RecommendationResult
