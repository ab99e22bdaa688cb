"""How a ranking calls configurations, figures and what they rest on. Lines must not break within what is glued."""

from __future__ import annotations

import re
import textwrap

from gpuscout.runner.cli import words
from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.output import number
from gpuscout.store.ranking.types import Backing, Configuration, Doubt, Group, Operating, RankedConfig, Ranking, Runs
from gpuscout.sweeps.slo import Slo

GLUE = "\u00a0"
LATENCIES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "e2e_s": "E2E"}
_METRICS = LATENCIES | {"output_tokens_per_s": "tok/s"}
_FIGURE = re.compile(r"(?<=\d) (?=(?:ms|s|GiB)\b|%)")


def glued(text: str) -> str:
    return text.replace(" ", GLUE)


def describe(config: Configuration, group: Group) -> str:
    """ "H200 x8 tp4 dp2 fp8" """
    return glued(words.configuration(config, group.input_len, group.output_len))


def limit(slo: Slo) -> str:
    return glued(words.limit(slo))


def name_of(slo: Slo) -> str:
    """ "TTFT p95" """
    name = LATENCIES.get(slo.column, "rate")
    return name if slo.percentile is None else f"{name}{GLUE}p{slo.percentile:g}"


def behind(ranking: Ranking, config: RankedConfig) -> str:
    """ "+18 %" """
    if config.behind_best == 0:
        return "same"
    worse = "-" if ranking.question.aim.more_is_better else "+"
    sign = worse if config.behind_best > 0 else "+" if worse == "-" else "-"
    return f"{sign}{share(abs(config.behind_best))}"


def share(fraction: float) -> str:
    """ "18 %" """
    percent = 100 * fraction
    shown = f"{percent:,.0f}" if percent >= 1 else f"{percent:.1g}" if percent >= 0.05 else "<0.1"
    return f"{shown}{GLUE}%"


def figure(value: float | None) -> str:
    return "-" if value is None else number(value)


def quantity(value: float | None, column: str, *, exact: bool = False) -> str:
    """A latency or a rate with its unit; "-": not known."""
    if value is None:
        return figure(value)
    unit = "/s" if column == "requests_per_s" else f"{GLUE}{column.rpartition('_')[2]}"
    return f"{f'{value:,.4g}' if exact else figure(value)}{unit}"


def load(config: Operating) -> str:
    """The concurrency, or the request rate or "max" where it is not known: "57~"."""
    if config.concurrency is not None:
        marks = f"{'~' if getattr(config, 'interpolated', False) else ''}{'*' if config.queued else ''}"
        return f"{config.concurrency:,}{marks}"
    runs = config.runs if isinstance(config, RankedConfig) else None
    return f"{runs.request_rate:,.3g}/s" if runs and runs.request_rate is not None else "max"


def at_load(config: Operating) -> str:
    """ "at concurrency 8" """
    if config.concurrency is not None:
        return f"at concurrency{GLUE}{config.concurrency}"
    return "as measured"


def trust(config: RankedConfig, *, cautious: bool) -> str:
    """What a row rests on: runs, or the errors that its engine has made near it."""
    if config.runs is not None:
        return _runs(config.runs, config.server)
    told = [_backing(config.backing) if config.backing is not None else "no measured runs near this"]
    if cautious and not config.cautious:
        told.append("no interval is known")
    return "; ".join(told)


def _runs(runs: Runs, server: str) -> str:
    told = [glued(count(runs.repeats, "run"))]
    if runs.load == "offline_maximum":
        told.append("offline maximum")
    told.append(GLUE.join([server, ", ".join(runs.server_versions)]) if runs.server_versions else server)
    if runs.first_day is not None:
        days = dict.fromkeys(day.isoformat() for day in (runs.first_day, runs.last_day) if day is not None)
        told.append(" to ".join(days))
    return ", ".join([*told, *runs.sources])


def _backing(backing: Backing) -> str:
    """ "ITL +-12 % (38 runs: Ada, dense)", or "(… dense, at 1 to 8 in flight)" where the estimate is not there."""
    error = backing.error
    family = error.gpu_family if backing.own_family else f"all {error.gpu_family}"
    kind = "MoE" if error.model_kind == "moe" else error.model_kind
    name = glued(f"{_METRICS.get(error.metric, error.metric)} +-{share(error.median_error)}")
    load = ""
    if not backing.same_load:
        upper = f" to {error.concurrency_to:,}" if error.concurrency_to is not None else " or more"
        load = ", " + glued(f"at {error.concurrency_from:,}{upper} in flight")
    return f"{name} ({glued(count(error.runs, 'run'))}: {family}, {kind}{load})"


def doubt(found: Doubt, group: Group) -> str:
    """Why the best may not be the best."""
    best, runner_up, doubtful = (
        describe(config, group) for config in (group.best_per_gpu[0], found.runner_up, found.doubtful)
    )
    lead = f"{best} leads {runner_up} by {share(found.lead)}"
    return f"{lead}, less than the error of {doubtful} ({share(found.error)}): measure before you buy"


def shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def wrapped(text: str, width: int, *, indent: int) -> list[str]:
    return textwrap.wrap(
        _FIGURE.sub(GLUE, text),
        max(width, 40),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
