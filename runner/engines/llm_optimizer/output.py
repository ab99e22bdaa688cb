"""Output of llm-optimizer: the report that it prints, as typed objects, and its messages where there is no report.

A damaged output gives fewer objects. What is wrong is read off messages: its exit status is no proof of success.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from gpuscout.runner.engines.base import CaseAnswer, Outcome

# What the Hub says about a model it does not give out goes over several lines.
_LONGEST_ERROR = 2_000
_SECTION = re.compile(r"^=== (.+?) ===[ \t]*$", re.MULTILINE)
_FRAMEWORK = re.compile(r"^--- (\w+) ---[ \t]*$", re.MULTILINE)
_LEVEL = re.compile(r"^(\w+) \(.*\):[ \t]*$")
_NUMBER = r"([-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|inf)"


@dataclass(frozen=True)
class Configuration:
    """Question as the tool reports it; None for what it does not report. `parameters_b` counts 10^9 weights."""

    model: str | None = None
    gpu: str | None = None
    num_gpus: int | None = None
    precision: str | None = None
    input_len: int | None = None
    output_len: int | None = None
    target: str | None = None
    constraints: str | None = None
    parameters_b: float | None = None
    layers: int | None = None


@dataclass(frozen=True)
class BestLatency:
    concurrency: int
    ttft_ms: float
    itl_ms: float
    e2e_s: float


@dataclass(frozen=True)
class BestThroughput:
    """Of the whole deployment. `bottleneck` is "memory" or "compute"; None: not said."""

    concurrency: int
    output_tokens_per_s: float
    input_tokens_per_s: float
    requests_per_s: float
    bottleneck: str | None = None


@dataclass(frozen=True)
class Performance:
    """Both None: the tool found nothing that fits, or the output is damaged."""

    best_latency: BestLatency | None
    best_throughput: BestThroughput | None


@dataclass(frozen=True)
class Roofline:
    """In operations per byte. `prefill_bound` and `decode_bound` are "memory" or "compute". None: not said."""

    hardware_ops_per_byte: float | None = None
    prefill_arithmetic_intensity: float | None = None
    decode_arithmetic_intensity: float | None = None
    prefill_bound: str | None = None
    decode_bound: str | None = None


@dataclass(frozen=True)
class Concurrency:
    """Requests in flight that each resource allows, in the tool's opinion. None: not reported."""

    kv_cache_limit: int | None = None
    prefill_compute_limit: int | None = None
    decode_capacity_limit: int | None = None
    overall_limit: int | None = None
    empirical_optimum: int | None = None


@dataclass(frozen=True)
class Constrained:
    """The best operating point that meets the constraints."""

    concurrency: int
    ttft_ms: float
    itl_ms: float
    output_tokens_per_s: float


Tuning = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Commands to try, by framework ("vllm", "sglang") and level ("simple", "advanced")."""


@dataclass(frozen=True)
class Report:
    """One output. A section that is not there is None; `error` is all that follows "Error:"."""

    configuration: Configuration | None = None
    performance: Performance | None = None
    roofline: Roofline | None = None
    concurrency: Concurrency | None = None
    constrained: Constrained | None = None
    tuning: Tuning = field(default_factory=dict)
    error: str | None = None

    @property
    def does_not_fit(self) -> bool:
        """All sections are there but empty, and each limit is the 1 that the tool then prints."""
        limits = self.concurrency
        return (
            self.performance == Performance(None, None)
            and self.roofline == Roofline()
            and limits == Concurrency(1, 1, 1, 1, 1)
            and self.error is None
        )


def extras(report: Report) -> dict[str, object]:
    """Return the JSON-able part that is kept with a task: only what was said, and only finite figures."""

    def said(section: Any) -> dict[str, object]:
        return {
            name: entry
            for name, entry in asdict(section).items()
            if entry is not None and not (isinstance(entry, float) and not math.isfinite(entry))
        }

    parts = {"roofline": report.roofline, "concurrency": report.concurrency, "constrained": report.constrained}
    kept: dict[str, object] = {name: content for name, part in parts.items() if part and (content := said(part))}
    if report.tuning:
        kept["tuning"] = {
            framework: {level: list(commands) for level, commands in levels.items()}
            for framework, levels in report.tuning.items()
        }
    return kept


def parse_llm_optimizer_output(text: str) -> Report:
    """Return the sections of what `llm-optimizer estimate` printed on standard output. Never raises."""
    sections = _sections(text)
    performance = sections.get("Performance Analysis")
    roofline = sections.get("Roofline Analysis")
    concurrency = sections.get("Concurrency Analysis")
    error = re.search(r"^Error: (.*)", text, re.MULTILINE | re.DOTALL)
    return Report(
        configuration=_configuration(sections.get("Configuration")),
        performance=None if performance is None else _performance(performance),
        roofline=None if roofline is None else _roofline(roofline),
        concurrency=None if concurrency is None else _concurrency(concurrency),
        constrained=_constrained(sections.get("Performance under Constraints", "")),
        tuning=_tuning(sections.get("Tuning Commands", "")),
        error=error[1].strip()[:_LONGEST_ERROR] if error else None,
    )


def _sections(text: str) -> dict[str, str]:
    """Return the text of each section under its title; the first of two with one title."""
    parts = _SECTION.split(text.replace("\r\n", "\n"))
    found: dict[str, str] = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(title, body)
    return found


def _configuration(body: str | None) -> Configuration | None:
    if body is None:
        return None
    gpus = re.search(r"^GPU: (\d+)x (\S+)[ \t]*$", body, re.MULTILINE)
    lengths = re.search(r"^Input/Output: (\d+)/(\d+) tokens[ \t]*$", body, re.MULTILINE)
    size = re.search(rf"^Model: {_NUMBER}B parameters, (\d+) layers[ \t]*$", body, re.MULTILINE)
    return Configuration(
        model=_text("Model", body),
        gpu=gpus[2] if gpus else None,
        num_gpus=_whole(gpus[1]) if gpus else None,
        precision=_text("Precision", body),
        input_len=_whole(lengths[1]) if lengths else None,
        output_len=_whole(lengths[2]) if lengths else None,
        target=_text("Target", body),
        constraints=_text("Constraints", body),
        parameters_b=_number(size[1]) if size else None,
        layers=_whole(size[2]) if size else None,
    )


def _performance(body: str) -> Performance:
    start = re.search(r"^Best Throughput", body, re.MULTILINE)
    split = start.start() if start else len(body)
    return Performance(_best_latency(body[:split]), _best_throughput(body[split:]))


def _best_latency(body: str) -> BestLatency | None:
    found = _values(
        body, rf"^Best Latency \(concurrency={_NUMBER}\):", *(_line(n, u) for n, u in _LATENCIES), _line("E2E", "s")
    )
    return BestLatency(int(found[0]), *found[1:]) if found else None


def _best_throughput(body: str) -> BestThroughput | None:
    found = _values(
        body,
        rf"^Best Throughput \(concurrency={_NUMBER}\):",
        _line("Output", "tokens/s"),
        _line("Input", "tokens/s"),
        _line("Requests", "req/s"),
    )
    if found is None:
        return None
    concurrency, output, read, requests = found
    return BestThroughput(int(concurrency), output, read, requests, _word("Bottleneck", body))


def _constrained(body: str) -> Constrained | None:
    found = _values(
        body,
        _line("Concurrency", ""),
        *(_line(n, u) for n, u in _LATENCIES),
        _line("Output throughput", "tokens/s"),
    )
    return Constrained(int(found[0]), *found[1:]) if found else None


_LATENCIES = (("TTFT", "ms"), ("ITL", "ms"))


def _roofline(body: str) -> Roofline:
    def intensity(name: str) -> float | None:
        found = _values(body, _line(name, "ops/byte"))
        return found[0] if found else None

    return Roofline(
        intensity("Hardware Ops/Byte Ratio"),
        intensity("Prefill Arithmetic Intensity"),
        intensity("Decode Arithmetic Intensity"),
        _word("Prefill Phase", body),
        _word("Decode Phase", body),
    )


def _concurrency(body: str) -> Concurrency:
    def limit(name: str) -> int | None:
        found = re.search(rf"^{name}: (\d+) concurrent requests[ \t]*$", body, re.MULTILINE)
        return _whole(found[1]) if found else None

    return Concurrency(
        limit("KV Cache Memory Limit"),
        limit("Prefill Compute Limit"),
        limit("Decode Capacity Limit"),
        limit("Theoretical Overall Limit"),
        limit("Empirical Optimal Concurrency"),
    )


def _tuning(body: str) -> Tuning:
    parts = _FRAMEWORK.split(body)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for framework, text in zip(parts[1::2], parts[2::2], strict=True):
        level = None
        for line in text.splitlines():
            if heading := _LEVEL.match(line):
                level = heading[1].lower()
            elif level and line.startswith("  llm-optimizer "):
                levels = found.setdefault(framework.lower(), {})
                levels[level] = (*levels.get(level, ()), line.strip())
    return found


def _line(name: str, unit: str) -> str:
    """Return the pattern of a line that holds one figure."""
    return rf"^[ \t]*{re.escape(name)}: {_NUMBER}" + (rf" {re.escape(unit)}" if unit else "") + r"[ \t]*$"


def _values(body: str, *patterns: str) -> list[float] | None:
    """Return the figure of each pattern; None unless all are there and can be."""
    found = [re.search(pattern, body, re.MULTILINE) for pattern in patterns]
    numbers = [_number(match[1]) if match else None for match in found]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(patterns) and math.isfinite(known[0]) else None


def _number(text: str) -> float | None:
    """Return a figure; infinity is one, a negative or unreadable one is not."""
    number = float(text.replace(",", ""))
    return number if number >= 0 else None


def _whole(text: str) -> int | None:
    """Return a count; None for what no computer could have meant."""
    return int(text) if len(text) <= 18 else None


def _text(name: str, body: str) -> str | None:
    found = re.search(rf"^{name}: (.+?)[ \t]*$", body, re.MULTILINE)
    return found[1] if found else None


def _word(name: str, body: str) -> str | None:
    """Return text such as "memory" or "compute" """
    found = re.search(rf"^[ \t]*{name}: (Memory|Compute)(?: Bound)?[ \t]*$", body, re.MULTILINE)
    return found[1].lower() if found else None


# --- instead of a report -----------------------------------------------------------------------------------------


class Finding(StrEnum):
    """Seven ways to have no estimate. Where an outcome does not say which, the value opens the stored detail."""

    DOES_NOT_FIT = "does not fit"
    PRECISION_NOT_SUPPORTED = "precision not supported"
    UNKNOWN_GPU = "unknown GPU"
    UNKNOWN_MODEL = "unknown model"
    CONSTRAINTS_UNMET = "constraints cannot be met"
    GATED_MODEL = "gated model"
    BROKEN_OUTPUT = "broken output"

    @property
    def outcome(self) -> Outcome:
        return _OUTCOMES[self]

    def answer(self, message: str) -> CaseAnswer:
        """Return the answer to a case that met this. `message` says more."""
        clear = self.outcome in (Outcome.DOES_NOT_FIT, Outcome.UNKNOWN_MODEL, Outcome.GATED)
        return CaseAnswer.failed(self.outcome, message if clear else f"{self.value}: {message}")


_OUTCOMES = {
    Finding.DOES_NOT_FIT: Outcome.DOES_NOT_FIT,
    Finding.PRECISION_NOT_SUPPORTED: Outcome.NOT_SUPPORTED,
    Finding.UNKNOWN_GPU: Outcome.NOT_SUPPORTED,
    Finding.UNKNOWN_MODEL: Outcome.UNKNOWN_MODEL,
    Finding.CONSTRAINTS_UNMET: Outcome.INVALID,
    Finding.GATED_MODEL: Outcome.GATED,
    Finding.BROKEN_OUTPUT: Outcome.ERROR,
}

# In this order: the Hub's text about an unknown repository also speaks of gated ones.
_PATTERNS: tuple[tuple[Finding, re.Pattern[str]], ...] = tuple(
    (finding, re.compile(pattern, re.IGNORECASE))
    for finding, pattern in (
        (Finding.CONSTRAINTS_UNMET, r"cannot satisfy .*constraint"),
        (Finding.UNKNOWN_GPU, r"invalid value for '--gpu'|unknown gpu|gpu .*(not found|not supported)|unsupported gpu"),
        (Finding.PRECISION_NOT_SUPPORTED, r"precision .*not supported|not supported .*precision|unsupported precision"),
        (Finding.UNKNOWN_MODEL, r"repository not found|repositorynotfound|\b404\b|not a valid model identifier"),
        (Finding.GATED_MODEL, r"gated|restricted|awaiting a review|\b40[13]\b|unauthorized|forbidden"),
    )
)


def finding_in(message: str) -> Finding | None:
    """Return the subject of an error message of the tool, or of the Hub through it; None when it is unknown."""
    return next((finding for finding, pattern in _PATTERNS if pattern.search(message)), None)


def error_chain(error: BaseException) -> str:
    """Return an exception and what caused it, as one line to search in and to show."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        text = " ".join(str(current).split())
        if not parts or not any(text in part for part in parts):  # wrappers quote what they wrap
            parts.append(f"{type(current).__name__}: {text}")
        current = current.__cause__ or current.__context__
    return " <- ".join(parts)
