"""Answers of a ranking: plain frozen values, free of SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from enum import StrEnum
from typing import Any, Self

from gpuscout.store.prices.prices import Prices
from gpuscout.store.ranking.question.asked import MEASURED, Kind, Question
from gpuscout.sweeps.curves import MEAN_OF_BINS
from gpuscout.sweeps.slo import Slo
from gpuscout.sweeps.speculative import DRAFTS_UNCHECKED, UNCHECKED
from gpuscout.sweeps.trust import ObservedError


@dataclass(frozen=True)
class Configuration:
    """One way to serve a model, and the engine that answered for it.

    `gpu_memory_utilization` is a fraction of GPU memory, `max_model_len` in tokens. `kv_precision` None: unknown.
    `server_options` ("max_num_seqs=256") and `speculative` ("draft_tokens=3 acceptance=0.7 …") are empty where the
    server runs with its defaults and drafts nothing. Where `engine` is "measured" there is no task and no fingerprint,
    and `max_model_len` is what the run took at least.
    """

    task_id: int | None
    gpu: str
    num_gpus: int
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    expert_parallel: int
    precision: str
    kv_precision: str | None
    server: str
    gpu_memory_utilization: float
    max_model_len: int
    engine: str
    fingerprint: str | None
    server_options: str = field(default="", kw_only=True)
    speculative: str = field(default="", kw_only=True)

    @property
    def kind(self) -> Kind:
        return Kind.MEASURED if self.engine == MEASURED else Kind.ESTIMATED

    @property
    def unchecked(self) -> str | None:
        """Part of an estimate that no measurements could check; None: measured, or such estimates were checked."""
        return UNCHECKED if self.speculative and self.kind is Kind.ESTIMATED else None

    @classmethod
    def of(cls, values: Mapping[Any, Any]) -> Self:
        """Build it from a mapping that holds every field by name, whatever else it holds."""
        optional = {f.name: values[f.name] for f in fields(cls) if f.kw_only and f.name in values}
        return cls(*map(values.__getitem__, cls.__match_args__), **optional)


@dataclass(frozen=True)
class Operating(Configuration):
    """A configuration at one operating point. Concurrency and throughputs are of the whole deployment.

    None: the metric is unknown, as is the concurrency of some measured runs. `queued`: more requests in flight than the
    KV cache holds, the rest waits (in TTFT). `request_rate`: requests/s that an estimate is for, None: a closed loop.
    `imported_from`: the export that an estimate came from, whose maker answers for it; None: it was computed here.
    `mean_of_bins`: requests that vary count as their mean. The last four are `SERVER_METRICS` of simulated estimates.
    """

    concurrency: int | None
    ttft_ms: float | None
    itl_ms: float | None
    e2e_s: float | None
    output_tokens_per_s: float | None
    requests_per_s: float | None
    bound: str
    queued: bool
    request_rate: float | None = field(default=None, kw_only=True)
    imported_from: str | None = field(default=None, kw_only=True)
    mean_of_bins: bool | None = field(default=None, kw_only=True)
    requests_waiting: float | None = field(default=None, kw_only=True)
    kv_cache_usage: float | None = field(default=None, kw_only=True)
    preempted_share: float | None = field(default=None, kw_only=True)
    goodput_per_s: float | None = field(default=None, kw_only=True)

    @property
    def tokens_per_s_per_gpu(self) -> float | None:
        """Output tokens per second and GPU."""
        return None if self.output_tokens_per_s is None else self.output_tokens_per_s / self.num_gpus


@dataclass(frozen=True)
class Opinion:
    """Opinion of an engine on a configuration: the objective at its own best point; None: it does not qualify there."""

    engine: str
    objective: float | None


@dataclass(frozen=True)
class Runs:
    """The measured runs that a figure is the median of.

    `repeats` is how many; of a point between two measured ones, the fewer. `request_rate` (requests/s): how runs were
    driven whose concurrency is not known. The days are None where no run has one. `requests_completed` and
    `requests_failed` are those of all of them, None where no file says it; latencies are those of the completed ones.
    `implausible`: what one of them does that its hardware cannot, where such runs were asked for.
    """

    repeats: int
    load: str
    request_rate: float | None
    sources: tuple[str, ...]
    server_versions: tuple[str, ...]
    first_day: date | None
    last_day: date | None
    requests_completed: int | None = None
    requests_failed: int | None = None
    implausible: str | None = None


@dataclass(frozen=True)
class Backing:
    """The errors of an estimate's engine over the measured runs that are nearest to it.

    `near`: the runs are of its GPU family, kind of model, precision and link, at a tensor parallelism among theirs and
    at most twice (at least half) their load, and of more than one model. Otherwise the errors are those of the family
    as a whole (`own_family`), or those on families that the engine was not fitted to.
    """

    source: str
    error: ObservedError
    own_family: bool
    near: bool


@dataclass(frozen=True)
class Chance:
    """Probability that a limit is met at an operating point.

    `value` is what is compared with the limit, in its unit: the estimate (times the tail that is assumed), or what was
    measured. `probability` None: it was measured, or no interval is known.
    """

    slo: Slo
    value: float
    probability: float | None


@dataclass(frozen=True)
class RankedConfig(Operating):
    """A configuration at the operating point that is best for the objective and meets all SLOs.

    `place` counts from 1 within the group; configurations with the same figures share one. `objective` is in the unit
    of the objective's `Measure`; of weighted objectives it is relative to the best of the group. `behind_best` is how
    much worse it is than the best, as a fraction of the best: 0.18 is 18 % less throughput or 18 % more latency; below
    0 where it is better but less trusted (`Trusted.PREFER`).
    `objective_range` is where the objective is expected with a probability of 80 %; None: not known.
    `interpolated`: the point lies between two stored ones. `usd_per_hour` None: there is no price.
    `values` are the figures of all objectives asked about, None where one is not known, `ranges` where they are
    expected. `opinions` are those of all engines that answered, the one ranked first; empty where only one did. `runs`:
    what a measured one rests on. `backed`: it was measured, or measured runs are near it. `held`: it would be better at
    a higher load, which no measured runs are near. `backing`: how wrong its engine was there, or as near as is known,
    in the metric that limits it; None: nothing is known, or it is measured.
    `intervals`: of each metric where a measured value is expected with a probability of 80 %; empty: not known.
    `at_confidence`: the figures that hold with the confidence that was asked for, by which it is ranked; empty: the
    estimates themselves. `chances`: how likely each limit is met. `binding`: the name of the limit that keeps the load
    from being higher; None: none does.
    `percentiles` are those that the SLOs are on, by `Slo.name`, as measured or as `assumed_tail` times the mean.
    `cannot_start`: why no server can be told to start it; None: it can, or nobody asked.
    """

    place: int
    objective: float
    behind_best: float
    objective_range: tuple[float, float] | None = None
    interpolated: bool = False
    usd_per_hour: float | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    opinions: tuple[Opinion, ...] = ()
    runs: Runs | None = None
    extended: bool = False
    backed: bool = False
    held: bool = False
    backing: Backing | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    at_confidence: Mapping[str, float] = field(default_factory=dict)
    chances: tuple[Chance, ...] = ()
    binding: str | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)
    assumed_tail: float | None = None
    cannot_start: str | None = None

    def counted(self, metric: str) -> float | None:
        """Return a metric as it counts in the ranking: what holds with the confidence that was asked for."""
        value: float | None = getattr(self, metric)
        return self.at_confidence.get(metric, value)

    @property
    def likelihood(self) -> float | None:
        """The probability of the limit that is least likely met; None: there is none, or none is known."""
        known = [chance.probability for chance in self.chances if chance.probability is not None]
        return min(known, default=None)

    @property
    def kind_label(self) -> str:
        """ "estimated" (", simulated p95", ", drafts not checked …" or ", mean of bins"), "measured" (", extended")."""
        texts = [self.kind.value]
        if self.percentiles and self.kind is Kind.ESTIMATED and self.assumed_tail is None:
            texts.append(
                f"simulated {' and '.join(dict.fromkeys(name.partition(':')[2] for name in self.percentiles))}"
            )
        if self.unchecked:
            texts.append(DRAFTS_UNCHECKED)
        elif self.mean_of_bins:
            texts.append(MEAN_OF_BINS)
        if self.extended:
            texts.append("extended")
        return ", ".join(texts)

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest opinion of the objective; None: fewer than two engines have one."""
        known = [opinion.objective for opinion in self.opinions if opinion.objective is not None]
        return (min(known), max(known)) if len(known) > 1 else None


@dataclass(frozen=True)
class Unranked:
    """A GPU type that qualifies but cannot be ranked, why, and its best by throughput per GPU; None: not asked for."""

    gpu: str
    reason: str
    config: Operating | None


@dataclass(frozen=True)
class Flip:
    """A GPU type that wins or loses a group at another of its prices, all other prices being as they rank.

    `usd_per_gpu_hour` is that price, `winner` and `loser` are the GPU types then and now.
    """

    gpu: str
    usd_per_gpu_hour: float
    winner: str
    loser: str


class Cause(StrEnum):
    """Causes why a configuration is not ranked."""

    DOES_NOT_FIT = "does_not_fit"
    NOT_SUPPORTED = "not_supported"
    UNKNOWN_MODEL = "unknown_model"
    INVALID = "invalid"
    MISSES_SLO = "misses_slo"
    NO_POINT = "no_operating_point"
    NO_PERCENTILE = "no_percentile"
    NO_PRICE = "no_price"
    NO_TDP = "no_tdp"
    NOT_TRUSTED = "not_trusted"
    NOT_ASKED = "not_asked"  # measured in a precision, or with a server, that was not asked about


@dataclass(frozen=True)
class Loser(Configuration):
    """A configuration that is not ranked.

    `detail` says in a few words by how much it missed, or why it cannot run; `note` is what the engine added, None:
    nothing. `ratio` is what it needs to what it may have (latency to limit, memory to memory); None: no such figure.
    """

    detail: str
    note: str | None
    ratio: float | None


@dataclass(frozen=True)
class Losers:
    """`count` configurations of a group that are out for the same cause.

    `slo` is the SLO they miss by most, for MISSES_SLO. `examples` come nearest to being ranked, nearest first.
    """

    cause: Cause
    slo: Slo | None
    count: int
    examples: tuple[Loser, ...]


@dataclass(frozen=True)
class Tie:
    """A configuration of another GPU type that the best leads by less than the two may be wrong by.

    `lead` and `joint_error` are fractions; in half of all cases the ratio of the two is off by more than the latter.
    `probability`: how likely the best is the better one.
    """

    config: RankedConfig
    lead: float
    joint_error: float
    probability: float


@dataclass(frozen=True)
class Seller:
    """Best of a group at the prices of one provider, and the number of ranked GPU types that it has a price for."""

    provider: str
    gpu: str
    num_gpus: int
    objective: float
    gpu_types: int


@dataclass(frozen=True)
class Unmet:
    """An SLO that no configuration of a group meets, even alone; `nearest` comes closest, with `value`.

    Where a percentile of an estimate is assumed, `value` is what is assumed, not the mean.
    """

    slo: Slo
    value: float
    nearest: Operating


# From so many times on, what nobody has measured looks too good to buy something else without measuring it.
_FAR_AHEAD = 2


@dataclass(frozen=True)
class Group:
    """One model under one workload (lengths in tokens; `workload` is its name in the newest sweep, None: unnamed).

    configs        the best configurations, best first: `Question.top` of them
    best_per_gpu   the best configuration of each GPU type, best first: `Question.gpu_types` of them
    candidates     how many configurations are ranked, returned or not
    losers         why the others were out: SLOs first, then by number
    engine         whose estimates these are; `other_engines` have some too, which are not mixed in. Measured results
                   stand beside them; "measured": there are no others
    unreachable    if none is ranked: the SLOs that no configuration meets even alone
    closest        if none is ranked although each SLO can be met alone: the least violation of all of them, with the
                   figure that each SLO bounds in `closest_values`
    unproven       what would be better than the best if its estimate held, which no measured runs back; by how much,
                   says its `behind_best` (below 0). None: nothing would, or all are ranked alike (`Trusted.ANY`)
    ties           the best of other GPU types that the best does not lead by more than the two may be wrong by
    sellers        what is best at each provider's own prices, of those that have at least two of the GPU types; by name
    unranked       GPU types that qualify, but without a price or TDP that the objective needs, by name
    flips          prices within the range of providers at which another GPU type would be best: first of the best type
    caveats        what was guessed or assumed of the model, in sentences
    traffic        how requests vary and arrive, as canonical JSON; None: fixed lengths in a closed loop
    """

    model: str
    workload: str | None
    input_len: int
    output_len: int
    engine: str
    other_engines: tuple[str, ...]
    configs: tuple[RankedConfig, ...]
    best_per_gpu: tuple[RankedConfig, ...]
    candidates: int
    losers: tuple[Losers, ...]
    unreachable: tuple[Unmet, ...] = ()
    closest: Operating | None = None
    closest_values: tuple[float | None, ...] = ()
    unproven: RankedConfig | None = None
    ties: tuple[Tie, ...] = ()
    sellers: tuple[Seller, ...] = ()
    unranked: tuple[Unranked, ...] = ()
    flips: tuple[Flip, ...] = ()
    caveats: tuple[str, ...] = ()
    traffic: str | None = None

    @property
    def best(self) -> RankedConfig | None:
        """The recommendation; None: no configuration qualifies."""
        return self.configs[0] if self.configs else None

    @property
    def is_backed(self) -> bool:
        """Whether measurements back the recommendation."""
        return self.best is not None and self.best.backed

    @property
    def measure_first(self) -> bool:
        """Whether what is unproven looks more than twice as good as the best: it is to be measured before one buys."""
        return self.unproven_lead > _FAR_AHEAD

    @property
    def unproven_lead(self) -> float:
        """Factor by which what is unproven would beat the best; 1: nothing unproven does, or there is no ratio."""
        if self.best is None or self.unproven is None:
            return 1.0
        least, most = sorted((self.best.objective, self.unproven.objective))
        return most / least if least > 0 else 1.0


@dataclass(frozen=True)
class SweepExclusion:
    """Combinations of a whole sweep that were left out because no engine could run them.

    `model` and `gpu` None: whatever the model or GPU.
    """

    reason: str
    model: str | None
    gpu: str | None
    detail: str
    combinations: int


@dataclass(frozen=True)
class Ranking:
    """The answer, groups ordered by input length, output length and model.

    `sweep` and its id None: everything stored was asked about. `exclusions`, the most frequent first, are those of
    the sweep or, without one, of the newest revision of every sweep, for the models and GPUs asked about; what was left
    out whatever the model or GPU is told only where none is named, and nothing where only measured runs count. `prices`
    are those of all GPUs asked about. `missing_tasks` of the sweep have no answer yet: a better one may be among them.
    `implausible_runs`: how many measured runs do not count because they are better than their hardware can be;
    `set_aside_runs`: how many do not because they do not stand for their configuration.
    """

    question: Question
    sweep: str | None
    sweep_id: int | None
    groups: tuple[Group, ...]
    exclusions: tuple[SweepExclusion, ...]
    prices: Prices
    missing_tasks: int = 0
    implausible_runs: int = 0
    set_aside_runs: int = 0
