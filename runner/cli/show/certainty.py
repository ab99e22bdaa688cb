"""Wording of certainty in tables and messages: ranges, probabilities, backing, ties, what is unmeasured."""

from __future__ import annotations

import shlex

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.wording import GLUE, LATENCIES, describe, glued, glued_limit, share
from gpuscout.store.ranking.question.asked import Kind
from gpuscout.store.ranking.types import Backing, Chance, Group, RankedConfig, Ranking, Runs, Tie
from gpuscout.sweeps.slo import is_percentile
from gpuscout.sweeps.speculative import AS_GIVEN
from gpuscout.sweeps.trust import Link, ObservedError

NOT_MEASURED = "no measured runs near this"
MEASURE_FIRST = "MEASURE BEFORE YOU BUY"
_NAMES_OF_METRICS = LATENCIES | {"output_tokens_per_s": "tok/s"}
# How people call a probability, from the least that each word stands for.
_ODDS = (
    (0.97, "almost certain"),
    (0.85, "very likely"),
    (0.65, "likely"),
    (0.45, "about even"),
    (0.2, "unlikely"),
    (0.0, "very unlikely"),
)


def ranged(value: float | None, expected: tuple[float, float] | None, kind: Kind) -> str:
    """Return a figure and its range: "0.53 (0.33–0.86)", "0.53 (measured)", "0.53 (unknown)"."""
    if value is None:
        return "-"
    if expected is None:
        return without_range(number(value), kind)
    low, high = map(number, expected)
    return f"{number(value)} ({low}–{high})" if low != high else number(value)


def without_range(figure: str, kind: Kind) -> str:
    """Return a figure of which no range is known: "364,095 (measured)"."""
    return f"{figure} ({'measured' if kind is Kind.MEASURED else 'unknown'})"


def odds(probability: float) -> str:
    """Return text such as "likely (72 %)" """
    word = next(word for least, word in _ODDS if probability >= least)
    return f"{word} ({percent(probability)})"


def percent(probability: float) -> str:
    """Return a probability without ever saying that something is certain."""
    return f"{min(max(probability, 0.01), 0.99):.0%}".replace("%", f"{GLUE}%")


def met(config: RankedConfig) -> str:
    """Return the probability of the limit least likely met: "72 %", "yes" where measured, "-" where nobody knows."""
    if config.likelihood is not None:
        return percent(config.likelihood)
    return "yes" if config.kind is Kind.MEASURED else "-"


def chances(config: RankedConfig) -> str:
    """Return text such as "TTFT <= 500 ms: likely (72 %); ITL <= 30 ms: about even (50 %)" """

    def odds_of(chance: Chance) -> str:
        if chance.probability is not None:
            return odds(chance.probability)
        return "measured" if config.kind is Kind.MEASURED else "probability unknown"

    return "; ".join(f"{glued_limit(chance.slo)}: {odds_of(chance)}" for chance in config.chances)


def better(ranking: Ranking, config: RankedConfig) -> str:
    """Return by how much something is better than the best: "41 % cheaper", "12 % more throughput per GPU"."""
    aim = ranking.question.aim
    how = share(abs(config.behind_best))
    if aim.is_weighted:
        return f"{how} better"
    if aim.needs("price"):
        return f"{how} cheaper"
    word = "more" if aim.more_is_better else "less"
    return f"{how} {word} {aim.single.label}"


def unproven(ranking: Ranking, group: Group) -> str | None:
    """Return the one that would be better than the best if its estimate held; None: nothing would."""
    config = group.unproven
    if config is None:
        return None
    figure = glued(f"{ranged(config.objective, config.objective_range, config.kind)} {ranking.question.aim.unit}")
    text = (
        f"{describe(config, group)} would be {better(ranking, config)} if its estimate holds ({figure}); "
        f"{measured_so_far(config)}"
    )
    return f"{MEASURE_FIRST}: {text}" if group.measure_first else text


def measured_so_far(config: RankedConfig) -> str:
    """Return the scope of the runs nearest to an unproven estimate: "CDNA4 was measured with 1 MoE model only"."""
    if config.backing is None:
        return "nothing measured is near it"
    error = config.backing.error
    runs = f"{glued(count(error.runs, 'run'))} at {_load(error)}"
    if not config.backing.own_family:
        return f"no {_kind(error)} model was measured on GPUs of its family"
    if error.models == 1:
        return f"{error.gpu_family} was measured with one {_kind(error)} model only ({runs})"
    return f"{_kind(error)} models on {error.gpu_family} were measured in other precisions, sizes or loads ({runs})"


def _load(error: ObservedError) -> str:
    """Return text such as "1 to 8 in flight" """
    upwards = "and more" if error.concurrency_to is None else f"to {error.concurrency_to:,}"
    return f"{error.concurrency_from:,} {upwards} in flight"


def _kind(error: ObservedError) -> str:
    return "MoE" if error.model_kind == "moe" else error.model_kind


def benchmark(ranking: Ranking, group: Group) -> str:
    """Return the command that writes the sweep which measures an unproven configuration beside the best."""
    words = ["gpuscout", "recommend", "--model", group.model]
    if group.workload:
        words += ["--workload", group.workload]
    else:
        words += ["--input-len", str(group.input_len), "--output-len", str(group.output_len)]
    for slo in ranking.question.slos:
        words += ["--slo", str(slo)]
    if not ranking.question.slos:
        words.append("--no-slo")
    return shlex.join([*words, "--measure-top", "1"])


def trust(config: RankedConfig) -> str:
    """Return the basis of a row: runs, or the errors that its engine has made near it."""
    if config.runs is not None:
        return _runs(config.runs, config.server)
    if config.speculative:
        return AS_GIVEN
    near = config.backing is not None and config.backing.near
    texts = [] if near else [NOT_MEASURED]
    if config.backing is not None:
        texts.append(errors(config.backing))
    return "; ".join(texts)


def _runs(runs: Runs, server: str) -> str:
    texts = [glued(count(runs.repeats, "run"))]
    if runs.load == "offline_maximum":
        texts.append("offline maximum")
    texts.append(GLUE.join([server, ", ".join(runs.server_versions)]) if runs.server_versions else server)
    if runs.first_day is not None:
        days = dict.fromkeys(day.isoformat() for day in (runs.first_day, runs.last_day) if day is not None)
        texts.append(" to ".join(days))
    if runs.requests_failed:
        requests = runs.requests_failed + (runs.requests_completed or 0)
        texts.append(glued(f"{runs.requests_failed:,} of {requests:,} requests failed"))
    if runs.implausible is not None:
        texts.append("implausible")
    return ", ".join([*texts, *runs.sources])


# From so many runs on, one in ten is more than one run.
_ENOUGH_FOR_TENTHS = 10


def errors(backing: Backing) -> str:
    """Return text such as "TTFT: half of 157 runs within 14 %, nine of ten within 31 % (Hopper, dense, NVLink)"."""
    error = backing.error
    name = _name_of_metric(error.metric)
    text = f"{name}: half of {count(error.runs, 'run')} within {share(error.median_error)}"
    if error.runs >= _ENOUGH_FOR_TENTHS:
        text += f", nine of ten within {share(error.p90_error)}"
    kind = _kind(error)
    if not backing.own_family:
        return f"{text} ({error.gpu_family} families that nothing was fitted to, {kind})"
    if not backing.near and error.models == 1:
        return f"{text} ({error.gpu_family}, one {kind} model only)"
    if not backing.near:
        return f"{text} ({error.gpu_family}, {kind}, in other precisions, sizes or loads)"
    return f"{text} ({error.gpu_family}, {kind}, {error.precision}, {_sizes(error)})"


def _name_of_metric(metric: str) -> str:
    """Return text such as "TTFT", "TTFT p95" """
    if is_percentile(metric):
        percentile, _, metric = metric.partition("_")
        return f"{_NAMES_OF_METRICS[metric]}{GLUE}{percentile}"
    return _NAMES_OF_METRICS.get(metric, metric)


def _sizes(error: ObservedError) -> str:
    """Return text such as "NVLink, TP 2 to 8" """
    if error.link == Link.SINGLE:
        return f"1{GLUE}GPU"
    sizes = f"{error.tp_from}" if error.tp_from == error.tp_to else f"{error.tp_from} to {error.tp_to}"
    return f"{'PCIe' if error.link == Link.PCIE else 'fast link'}, " + glued(f"TP {sizes}")


def tie(found: Tie, group: Group) -> str:
    """Return the reason why the best may not be the best."""
    best, other = (describe(config, group) for config in (group.best_per_gpu[0], found.config))
    lead = f"{best} leads {other} by {share(found.lead)}" if found.lead else f"{best} equals {other}"
    return f"a tie: {lead}, less than their joint error ({share(found.joint_error)})"
