"""What `recommend_gpus` answers: every configuration with its memory and its figures, filtered, sorted and told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import Any, overload

from gpuscout.runner.api.estimate import PerformanceEstimate
from gpuscout.store.ranking.measures import MEASURES, measure_of, value_of
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.names import has_wildcard
from gpuscout.sweeps.slo import OBJECTIVE_SYNONYMS

SCHEMA_VERSION = 1
_SHOWN = 5


@dataclass(frozen=True)
class GPURecommendation:
    """One configuration: a GPU type, how many of them, and what is known of the model there.

    `fits`: the model and one request of `context_length` tokens fit into memory or, where a batch size was asked for,
    that many requests in flight, at the length they have on average. `reason` says what speaks against it; None:
    nothing. Memory is per GPU (GiB, 2^30 bytes), `usd_per_hour` of all GPUs, None: no price is known.
    `concurrent_requests` of `context_length` tokens each fit into the KV caches, None: the engine does not say.
    `estimate` None: only memory was asked about, or there are no figures.
    """

    model: str
    gpu: str
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
    concurrent_requests: int | None
    usd_per_hour: float | None
    estimate: PerformanceEstimate | None

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types; `estimate` is an object or None."""
        return asdict(self) | {"estimate": None if self.estimate is None else self.estimate.to_dict()}

    def to_row(self) -> dict[str, Any]:
        """One flat row of a table: the fields, and the figures of the estimate beside them."""
        row = {name: value for name, value in asdict(self).items() if name != "estimate"}
        figures = {} if self.estimate is None else self.estimate.to_dict()
        return row | {name: figures.get(name) for name in _FIGURES}

    def __str__(self) -> str:
        kv = "" if self.kv_precision in (None, "bf16", "fp16") else f" kv-{self.kv_precision}"
        server = "" if self.server == "vllm" else f" {self.server}"
        return f"{self.gpu} x{self.num_gpus} {self.precision}{kv}{server}"


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


@dataclass(frozen=True, repr=False)
class GPURecommendations(Sequence[GPURecommendation]):
    """The configurations of one model, best first: those that fit, in the order of `objective`, then the others.

    A sequence: `len`, indices, slices and loops work. Filters and sorts give a new one. `exclusions` says which
    configurations were left out because no engine could run them, and why. Lengths are in tokens.

    >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"])
    >>> found
    <GPURecommendations: openai/gpt-oss-120b, 7 of 8 configurations fit, best by cost: H200-SXM-141GB x1 fp4>
    >>> found.best.gpu, found[0] == found.best, len(found[:3])
    ('H200-SXM-141GB', True, 3)
    """

    model: str
    input_length: int
    output_length: int
    objective: str
    items: tuple[GPURecommendation, ...]
    exclusions: tuple[str, ...] = ()
    gpus: tuple[GPUSpec, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[GPURecommendation]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> GPURecommendation: ...
    @overload
    def __getitem__(self, index: slice) -> GPURecommendations: ...
    def __getitem__(self, index: int | slice) -> GPURecommendation | GPURecommendations:
        if isinstance(index, slice):
            return self._with(self.items[index])
        return self.items[index]

    @property
    def best(self) -> GPURecommendation | None:
        """The first one that fits and that nothing speaks against; None: there is none."""
        return next(iter(self.best_per_gpu), None)

    @property
    def best_per_gpu(self) -> tuple[GPURecommendation, ...]:
        """The first of each GPU type that fits and that nothing speaks against."""
        first: dict[str, GPURecommendation] = {}
        for item in self:
            if item.fits and item.reason is None:
                first.setdefault(item.gpu, item)
        return tuple(first.values())

    def filter_fitting_only(self) -> GPURecommendations:
        """Those that fit into memory.

        >>> found = recommend_gpus("Llama-3.3-70B-Instruct", 2000, 256, gpus=["L40"])
        >>> [str(item) for item in found.filter_fitting_only()]
        ['L40 x8 bf16', 'L40 x4 bf16']
        """
        return self._with(item for item in self if item.fits)

    def filter_by_gpu_name(self, *names: str) -> GPURecommendations:
        """Those of these GPUs, by name, alias or glob. Raises UnknownNameError with the nearest names.

        >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"])
        >>> {item.gpu for item in found.filter_by_gpu_name("h200", "B*")}
        {'H200-SXM-141GB'}
        """
        known = GPUCatalogue({gpu.name: gpu for gpu in (*GPUCatalogue.load(), *self.gpus)}.values())
        wanted: set[str] = set()
        for name in names:
            wanted |= {gpu.name for gpu in (known.select(glob=name) if has_wildcard(name) else [known.resolve(name)])}
        return self._with(item for item in self if item.gpu in wanted)

    def sort_by_cost(self) -> GPURecommendations:
        """By USD per million output tokens, the lowest first; without estimates by USD per hour. Unknown comes last.

        >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"], objective="itl").sort_by_cost()
        >>> costs = [item.estimate.cost_usd_per_mtok for item in found if item.estimate]
        >>> costs == sorted(costs)
        True
        """
        return self._sorted("cost" if any(item.estimate for item in self) else "cost-per-hour")

    def sort_by_performance(self, metric: str = "throughput") -> GPURecommendations:
        """By throughput, throughput-per-gpu, ttft, itl, e2e or another objective, the best first; unknown comes last.

        The figures stay those of the operating points that `objective` chose: ask `recommend_gpus` with another
        objective for the best point by that. Raises UnknownNameError for a metric that is none.

        >>> found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"], batch_size=32)
        >>> found.sort_by_performance("itl")[0].num_gpus > 1
        True
        """
        return self._sorted(metric_name(metric))

    def summary(self) -> str:
        """A few lines for people: the best configuration of each GPU type, and why others are out.

        >>> print(recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"]).summary())
        openai/gpt-oss-120b, 2,000 in / 256 out, by cost
          H200-SXM-141GB x1 fp4 ...
          L40 x2 fp4 ...
        7 of 8 configurations fit
          L40 x1 fp4: does not fit: ...
        """
        lines = [f"{self.model}, {self.input_length:,} in / {self.output_length:,} out, by {self.objective}"]
        best = self.best_per_gpu
        shown = best[:_SHOWN]
        width = max((len(str(item)) for item in shown), default=0)
        lines += [f"  {item!s:{width}}  {figures_of(item)}" for item in shown]
        if len(best) > _SHOWN:
            lines.append(f"  … and {len(best) - _SHOWN} more GPU types")
        lines.append(f"{sum(item.fits for item in self):,} of {len(self):,} configurations fit")
        against = [item for item in self if item.reason is not None]
        lines += [f"  {item}: {item.reason}" for item in against[:_SHOWN]]
        if len(against) > _SHOWN:
            lines.append(f"  … and {len(against) - _SHOWN} more")
        lines += [f"  left out: {reason}" for reason in self.exclusions]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """One document for machines: its keys carry units and never change meaning.

        >>> document = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200"]).to_dict()
        >>> document["schema_version"], document["model"], document["configurations"][0]["gpu"]
        (1, 'openai/gpt-oss-120b', 'H200-SXM-141GB')
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "input_length": self.input_length,
            "output_length": self.output_length,
            "objective": self.objective,
            "configurations": [item.to_dict() for item in self],
            "exclusions": list(self.exclusions),
        }

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row a configuration. Raises InputError when pandas is not installed.

        >>> table = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40"]).to_dataframe()
        >>> table.loc[table.fits, ["gpu", "num_gpus", "cost_usd_per_mtok"]].shape
        (7, 3)
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise InputError("to_dataframe needs pandas, which is not installed", hint="pip install pandas") from error
        columns = [name for name in GPURecommendation.__match_args__ if name != "estimate"]
        return pandas.DataFrame([item.to_row() for item in self], columns=[*columns, *_FIGURES])

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        fitting = f"{sum(item.fits for item in self):,} of {len(self):,} configurations fit"
        best = f"best by {self.objective}: {self.best}" if self.best else "none can be recommended"
        return f"<GPURecommendations: {self.model}, {fitting}, {best}>"

    def _with(self, items: Iterator[GPURecommendation] | Sequence[GPURecommendation]) -> GPURecommendations:
        return replace(self, items=tuple(items))

    def _sorted(self, metric: str) -> GPURecommendations:
        key = _key(metric, {gpu.name: gpu.tdp_w for gpu in self.gpus})
        return self._with(sorted(self, key=key))


def metric_name(metric: str) -> str:
    """The objective that people call so. Raises UnknownNameError."""
    name = OBJECTIVE_SYNONYMS.get(metric, metric)
    measure_of(name)
    return name


def _key(metric: str, tdp_w: dict[str, float | None]) -> Callable[[GPURecommendation], float]:
    """What sorts ascending from the best to the worst."""

    def key(item: GPURecommendation) -> float:
        known = asdict(item.estimate) if item.estimate else {}
        figures = {name: math.nan if value is None else value for name, value in known.items()}
        figures.setdefault(MEASURES[metric].column, math.nan)
        usd = math.nan if item.usd_per_hour is None else item.usd_per_hour
        value = value_of(metric, figures, item.num_gpus, usd, tdp_w.get(item.gpu) or math.nan)
        if math.isnan(value):
            return math.inf
        return -value if MEASURES[metric].more_is_better else float(value)

    return key


def figures_of(item: GPURecommendation) -> str:
    """What a line of a table says of a configuration."""
    price = "no price" if item.usd_per_hour is None else f"{item.usd_per_hour:,.2f} USD/h"
    if item.estimate is None:
        return (
            f"needs {item.memory_needed_gib:.1f} of {item.memory_usable_gib:.1f} GiB per GPU  {price}"
            if (item.memory_needed_gib is not None and item.memory_usable_gib is not None)
            else price
        )
    told = item.estimate
    cost = price if told.cost_usd_per_mtok is None else f"{told.cost_usd_per_mtok:.2f} USD/Mtok"
    parts = [
        f"{told.output_tokens_per_s:,.0f} tok/s",
        f"TTFT {told.ttft_ms:,.0f} ms",
        f"ITL {told.itl_ms:.1f} ms",
        f"c={told.batch_size}{'~' if told.interpolated else ''}{'*' if told.queued else ''}",
        cost,
    ]
    return "  ".join(parts)
