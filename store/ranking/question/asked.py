"""A question to the ranking: plain frozen values, free of SQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.ranking.measures import DEFAULT_OBJECTIVE, Aim, aim_of
from gpuscout.sweeps.slo import Slo

MEASURED = "measured"
"""Stands among the engines for measured runs."""
BENCHMARK = "benchmark"
"""The engine whose answers are measured runs: it has no estimates, and naming it means measured runs."""


class Kind(StrEnum):
    """Kinds of results, by their source."""

    ESTIMATED = "estimated"
    MEASURED = "measured"


class Trusted(StrEnum):
    """Degrees of trust that a result must, or should, have to be ranked.

    A result is *measured*, or an estimate *backed* by measured runs (its engine's errors are known for the same GPU
    family, kind of model, precision, link between GPUs, tensor parallelism and about the same load), or neither.
    """

    ANY = "any"  # all alike
    PREFER = "prefer"  # measured results and backed estimates first, then others
    BACKED = "backed"  # only measured results and backed estimates
    MEASURED = "measured"  # only measured results


@dataclass(frozen=True)
class Question:
    """Question for a ranking: which configurations, and by what. Empty tuples and None do not restrict.

    objective       what is best, a key of `MEASURES`          also   further objectives whose figures are told
    weights         (objective, weight): ranks by several instead, see `ranking/measures.py`; need not sum up to 1
    slos            limits that a recommended operating point meets, all of them
    interpolate     whether an operating point may lie between stored ones, at the limit of an SLO
    request_rate    requests/s that one deployment has to serve: estimates at the lowest stored rate that is enough
    assume_tail     what a mean is multiplied by where an SLO is on a percentile that was not simulated; None: estimates
                    without it meet no such SLO
    prices          which prices of GPUs count
    sweep           a sweep's name (its newest revision) or id: only its tasks and the concurrencies of its ladders
                    count; None: everything stored
    models          ids, bare names or globs            gpus      names, aliases or globs
    vendors         of GPUs                             min_memory_gb   of one GPU, 10^9 bytes
    workload        a name from the stored sweeps; or `input_len` and `output_len` in tokens
    engines         in order of preference: a group shows the estimates of one engine, the first that has any;
                    "measured" among them stands for measured runs, which go first wherever it stands
    kinds           "estimated", "measured"
    num_gpus        GPUs of one deployment
    default_slo     whether `slos` are the limits that count where none is given, which the answer says
    server_versions  of measured runs: "0.19" stands for 0.19.1 as well
    implausible     whether measured runs count that are better than their hardware can be
    set_aside       whether measured runs count that do not stand for their configuration: with drafted tokens, cached
                    prefixes or disaggregated servers, of low trust, superseded by newer ones
    trust           what must be, or is preferably, measured: a word of `Trusted`
    confidence      how likely an estimate must be to hold, for the objective and each SLO: 0.5 takes it as it is, 0.9
                    the pessimistic end of its 80 % interval; at least 0.5
    servers, precisions (of the weights), tensor_parallel, max_gpus (GPUs of one deployment)
    server_options  "max_num_seqs=256": of each the values that count, those of defaults among them
    speculative     "none", or figures of speculative decoding: "draft_tokens=3"
    min_context     tokens a deployment must take (input and output)
    since, until    days (UTC), both included, on which an answer was stored or a run was measured
    top             how many configurations of a group are returned besides the best of each GPU type; None: all
    gpu_types       of how many GPU types the best are returned, which takes less time; None: of all
    examples        how many losers are returned for each cause; None: all
    briefly         describes less, which takes less time: of what is out, the nearest of each cause over all groups and
                    in groups of which nothing is ranked; of what cannot be ranked, the GPU types by name only
    """

    objective: str = DEFAULT_OBJECTIVE
    slos: tuple[Slo, ...] = ()
    sweep: str | int | None = None
    models: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    workload: str | None = None
    input_len: int | None = None
    output_len: int | None = None
    engines: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    max_gpus: int | None = None
    top: int | None = 5
    gpu_types: int | None = None
    examples: int | None = 1
    briefly: bool = False
    also: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    interpolate: bool = True
    request_rate: float | None = None
    assume_tail: float | None = None
    prices: PriceRules = field(default_factory=PriceRules)
    vendors: tuple[str, ...] = ()
    min_memory_gb: float | None = None
    tensor_parallel: tuple[int, ...] = ()
    min_context: int | None = None
    since: date | None = None
    until: date | None = None
    kinds: tuple[str, ...] = ()
    trust: str = Trusted.PREFER
    confidence: float = 0.5
    implausible: bool = False
    server_versions: tuple[str, ...] = ()
    set_aside: bool = False
    num_gpus: tuple[int, ...] = ()
    default_slo: bool = False
    server_options: tuple[str, ...] = ()
    speculative: tuple[str, ...] = ()

    @property
    def aim(self) -> Aim:
        """Aim of the ranking. Raises UnknownNameError, InputError."""
        return aim_of(self.objective, self.weights)
