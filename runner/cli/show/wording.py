"""Wording of configurations, workloads, limits, figures and causes in tables and messages.

Lines must not break within what is glued.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Collection, Iterable
from typing import TextIO

from gpuscout.runner.cli.common import count, err, out
from gpuscout.runner.cli.show.fitted import short_gpu
from gpuscout.runner.cli.show.output import number
from gpuscout.store.ranking.answer.aside import CaseKey
from gpuscout.store.ranking.answer.aside import case_of as case_of
from gpuscout.store.ranking.answer.aside import measured_aside as measured_aside
from gpuscout.store.ranking.question.asked import Kind, Question
from gpuscout.store.ranking.question.confidence import EXPECTED
from gpuscout.store.ranking.types import Cause, Configuration, Group, Operating, RankedConfig, Ranking
from gpuscout.sweeps.slo import Slo
from gpuscout.sweeps.speculative import speculative_from
from gpuscout.sweeps.traffic.words import traffic_words

CAUSES = {
    Cause.DOES_NOT_FIT: "does not fit",
    Cause.NOT_SUPPORTED: "not supported",
    Cause.UNKNOWN_MODEL: "the engine does not know the model",
    Cause.INVALID: "not valid",
    Cause.NO_POINT: "no operating point",
    Cause.NO_PERCENTILE: "no such percentile (--engine simulator has p50 to p99; --assume-tail 1.3 multiplies means)",
    Cause.NO_PRICE: "no price",
    Cause.NO_TDP: "no TDP",
    Cause.NOT_TRUSTED: "not trusted as asked (--trust)",
    Cause.NOT_ASKED: "measured in a precision or with a server that was not asked about (--precision, --server)",
}
_PLURAL_VERBS = {"does": "do", "misses": "miss"}
_METRICS = {"ttft": "TTFT", "itl": "ITL", "e2e": "E2E", "rate": "rate"}


def configuration(config: Configuration, input_len: int, output_len: int, *, gpu: bool = True) -> str:
    """Return text such as "H100-SXM-80GB x8 tp4 pp2 bf16 sglang": what differs from the defaults.

    Without the GPU type: "x8 …".
    """
    parts = [f"{config.gpu} x{config.num_gpus}" if gpu else f"x{config.num_gpus}"]
    if config.tensor_parallel != config.num_gpus or config.expert_parallel > 1:
        sizes = {
            "tp": config.tensor_parallel,
            "pp": config.pipeline_parallel,
            "dp": config.data_parallel,
            "ep": config.expert_parallel,
        }
        parts += [f"{name}{size}" for name, size in sizes.items() if size > 1]
    parts.append(config.precision)
    if config.kv_precision not in (None, "bf16", "fp16"):
        parts.append(f"kv-{config.kv_precision}")
    if config.server != "vllm":
        parts.append(config.server)
    if config.gpu_memory_utilization != 0.9:
        parts.append(f"mem={config.gpu_memory_utilization:g}")
    if config.max_model_len != input_len + output_len:
        parts.append(f"ctx={config.max_model_len}")
    parts += config.server_options.split()
    if config.speculative:
        parts.append(speculative_from(config.speculative).short)
    return " ".join(parts)


def workload(group: Group) -> str:
    """Return text such as "chat (1,024 in / 512 out)" """
    lengths = ", ".join([f"{group.input_len:,} in / {group.output_len:,} out", *traffic_words(group.traffic)])
    return f"{group.workload} ({lengths})" if group.workload else lengths


def not_shown(aside: Collection[CaseKey]) -> str:
    """Return the note on pairs that are not shown."""
    pairs = count(len(aside), "pair")
    return f"not shown: {pairs} of model and lengths that only measured runs have (--kind measured shows them)"


def limit(slo: Slo) -> str:
    """Return text such as "TTFT p95 <= 800 ms" """
    name = _METRICS[slo.metric] + ("" if slo.percentile is None else f" p{slo.percentile:g}")
    bound = round(slo.limit, 2) if slo.limit >= 1 else slo.limit
    return f"{name} {'>=' if slo.at_least else '<='} {bound:,.6g}{'' if slo.at_least else ' '}{slo.unit}"


def default_limit(question: Question) -> str:
    """Return the note about a limit that nobody asked for."""
    limits = ", ".join(limit(slo) for slo in question.slos)
    return f"{limits}: the limit that counts unless --slo names others; --no-slo lifts it"


def assumed(question: Question) -> str | None:
    """Return the stand-in for the percentiles of estimates, where the question allows one."""
    if question.assume_tail is None:
        return None
    tail = f"{question.assume_tail:g} x the mean"
    return f"percentiles of estimates that were not simulated: assumed to be {tail} (--assume-tail)"


def premises(question: Question, *more: str) -> list[str]:
    """Return the premises of an answer about money or GPUs: limits and `more`, assumed percentiles, confidence."""
    limits = ", ".join(map(limit, question.slos)) or "no limit on latencies"
    limits += " (unless --slo names others; --no-slo lifts it)" if question.default_slo else ""
    texts = ["; ".join([limits, *more])]
    if (tails := assumed(question)) is not None:
        texts.append(tails)
    if question.confidence > EXPECTED:
        texts.append(f"limits and rates hold with a probability of {100 * question.confidence:.0f}{GLUE}%")
    return texts


def none_meets(question: Question) -> str:
    """Return the message where no stored point is within the limits."""
    text = f"no stored point meets {', '.join(map(limit, question.slos))}"
    untold = question.assume_tail is None and any(slo.percentile is not None for slo in question.slos)
    if not untold:
        return text
    return (
        f"{text}; these estimates have no such percentile: --assume-tail 1.3 multiplies means, --engine simulator has "
        "p50, p90, p95 and p99"
    )


def cause(why: Cause, slo: Slo | None) -> str:
    """Return the reason why a configuration is not ranked: "misses ITL <= 40 ms"."""
    return f"misses {limit(slo)}" if slo else CAUSES.get(why, why.value.replace("_", " "))


def said_of(number: int, reason: str) -> str:
    """Return a reason in its form for so many: "misses ITL <= 40 ms" of one, "miss ITL <= 40 ms" of several."""
    verb, space, rest = reason.partition(" ")
    return f"{_PLURAL_VERBS[verb]}{space}{rest}" if number != 1 and verb in _PLURAL_VERBS else reason


def counted(number: int, reason: str) -> str:
    """Return text such as "1 does not fit", "274 do not fit", "11 miss ITL <= 40 ms"."""
    return f"{number:,} {said_of(number, reason)}"


def print_wrapped(text: str, *, indent: int = 0) -> None:
    """Print a line for people, folded to the terminal; what continues it is indented by two more."""
    for line in _folded(text, out().width, indent):
        print(line)


def print_aside(notes: Iterable[str]) -> None:
    """Print notes that rows of CSV and Markdown cannot hold to standard error."""
    print_lines(wrapped_all(notes, err().width), sys.stderr)


def print_lines(lines: Iterable[str], file: TextIO | None = None) -> None:
    """Print lines that are folded, on standard output unless a file is given."""
    for line in unglued(lines):
        print(line, file=file)


def unglued(lines: Iterable[str]) -> list[str]:
    """Return lines that are folded as they are printed."""
    return [line.replace(GLUE, " ").rstrip() for line in lines]


def print_field(name: str, value: object, width: int, *, indent: int = 0) -> None:
    """Print a name and its value, folded to the terminal below the beginning of the value."""
    start = " " * indent + f"{name:{width}}  "
    room = max(out().width, 40)
    fold = textwrap.TextWrapper(
        room,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in fold.wrap(str(value)) or [start.rstrip()]:
        print(line)


def _folded(text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


GLUE = "\u00a0"
UNMEASURED = "?"
DOUBTS = {UNMEASURED: "unmeasured", "#": "architecture guessed"}
LATENCIES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "e2e_s": "E2E"}
_FIGURE = re.compile(r"(?<=\d) (?=(?:ms|s|GiB)\b|%)")


def glued(text: str) -> str:
    return text.replace(" ", GLUE)


def describe(config: Configuration, group: Group) -> str:
    """Return text such as "H200 x8 tp4 dp2 fp8" """
    told = configuration(config, group.input_len, group.output_len, gpu=False)
    return glued(f"{short_gpu(config.gpu)} {told}")


def guessed(config: Configuration, group: Group) -> bool:
    """Return whether a row is an estimate for a model of which something was guessed or assumed."""
    return bool(group.caveats) and config.kind is not Kind.MEASURED


def doubt(config: RankedConfig, group: Group) -> str:
    """Mark a row that no measurement backs ("?"), whose architecture was guessed ("#")."""
    return ("" if config.backed else "?") + ("#" if guessed(config, group) else "")


def doubts(marks: Iterable[str]) -> list[str]:
    """Explain the marks of rows, where there are any."""
    shown = "".join(marks)
    meanings = [f"{mark}{GLUE}{words.replace(' ', GLUE)}" for mark, words in DOUBTS.items() if mark in shown]
    return ["  ".join(meanings)] if meanings else []


def alike(low: float | None, high: float | None) -> str:
    """Write the range of a sum, as `summed_range` has it; empty: it is not known."""
    return "" if low is None else f" ({low:,.0f}–{high:,.0f}, as if all estimates erred alike)"


def caveats_of(groups: Iterable[Group]) -> list[str]:
    """List the guesses and assumptions about their models, each once."""
    return list(dict.fromkeys(caveat for group in groups for caveat in group.caveats))


def glued_limit(slo: Slo) -> str:
    return glued(limit(slo))


def name_of(slo: Slo) -> str:
    """Return text such as "TTFT p95" """
    name = LATENCIES.get(slo.column, "rate")
    return name if slo.percentile is None else f"{name}{GLUE}p{slo.percentile:g}"


def behind(ranking: Ranking, config: RankedConfig) -> str:
    """Return text such as "+18 %" """
    if config.behind_best == 0:
        return "same"
    worse = "-" if ranking.question.aim.more_is_better else "+"
    sign = worse if config.behind_best > 0 else "+" if worse == "-" else "-"
    return f"{sign}{share(abs(config.behind_best))}"


def share(fraction: float) -> str:
    """Return text such as "18 %" """
    percent = 100 * fraction
    shown = f"{percent:,.0f}" if percent >= 1 else f"{percent:.1g}" if percent >= 0.05 else "<0.1"
    return f"{shown}{GLUE}%"


def figure(value: float | None) -> str:
    return "-" if value is None else number(value)


def quantity(value: float | None, column: str, *, exact: bool = False) -> str:
    """Return a latency or a rate with its unit; "-": not known."""
    if value is None:
        return figure(value)
    unit = "/s" if column == "requests_per_s" else f"{GLUE}{column.rpartition('_')[2]}"
    return f"{f'{value:,.4g}' if exact else figure(value)}{unit}"


def load(config: Operating) -> str:
    """Return the concurrency, or the request rate or "max" where it is not known: "57~"."""
    if config.request_rate is not None:
        return f"{config.request_rate:,.3g}/s"
    if config.concurrency is not None:
        marks = f"{'~' if getattr(config, 'interpolated', False) else ''}{'*' if config.queued else ''}"
        marks += "+" if getattr(config, "held", False) else ""
        return f"{config.concurrency:,}{marks}"
    runs = config.runs if isinstance(config, RankedConfig) else None
    return f"{runs.request_rate:,.3g}/s" if runs and runs.request_rate is not None else "max"


def at_load(config: Operating) -> str:
    """Return text such as "at concurrency 8" """
    if config.request_rate is not None:
        return f"at {config.request_rate:,.3g}/s"
    if config.concurrency is not None:
        return f"at concurrency{GLUE}{config.concurrency}"
    return "as measured"


def wrapped(text: str, width: int, *, indent: int = 0) -> list[str]:
    return _folded(_FIGURE.sub(GLUE, text), width, indent)


def wrapped_all(notes: Iterable[str], width: int, *, indent: int = 0) -> list[str]:
    """Return notes one after the other, each on lines of its own."""
    return [line for note in notes for line in wrapped(note, width, indent=indent)]
