"""The command `llm-optimizer estimate` of any environment: one process a task, recognised by what it prints."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuscout.runner.engines.base import CaseAnswer, Point
from gpuscout.runner.engines.llm_optimizer import probe
from gpuscout.runner.engines.llm_optimizer.output import (
    Configuration,
    Finding,
    Report,
    extras,
    finding_in,
    parse_llm_optimizer_output,
)
from gpuscout.runner.engines.llm_optimizer.support import their_gpu, their_precision
from gpuscout.runner.engines.program import Printed, interpreter_of, program_at, run
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.curves import Bound
from gpuscout.sweeps.outcomes import Outcome

NAME = "llm-optimizer"
_PROBE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Program:
    """An executable file. `look` and `fingerprint` are worked out once a process."""

    path: str

    @classmethod
    def find(cls, command: str | None) -> Program | None:
        """Return the program of this name or path, or the one on PATH; None when there is none."""
        path = program_at(command or NAME)
        return None if path is None else cls(path)

    def look(self) -> dict[str, Any]:
        """Return the result of `probe.look` in the program's own environment; empty when no interpreter is found."""
        return _look(self.path)

    def fingerprint(self) -> str:
        """Return that of the package behind it; of a program that is no Python script, its own bytes and its help."""
        return str(self.look().get("fingerprint") or _own_fingerprint(self.path))

    def answer(
        self,
        case: Case,
        ladder: list[int],
        *,
        constraints: str | None,
        timeout_s: float,
        environment: Mapping[str, str],
    ) -> CaseAnswer:
        """Ask for one case. It prints operating points at concurrency 1 and at its best throughput, no whole ladder."""
        printed = run([self.path, *_arguments(case, constraints)], timeout_s, environment)
        if printed.status is None:
            return CaseAnswer.failed(Outcome.TIMEOUT, f"{self.path} took longer than {timeout_s:g} s")
        return read(printed, case, ladder)


def read(printed: Printed, case: Case, ladder: list[int]) -> CaseAnswer:
    """Return the answer in an output, by its content: the exit status is 0 on most failures."""
    report = parse_llm_optimizer_output(printed.stdout)
    if report.error is None and report.performance is not None:
        if not _is_about(report.configuration, case):
            return Finding.BROKEN_OUTPUT.answer("the output is about another case than was asked")
        if report.does_not_fit:
            gpus = f"{case.tensor_parallel} x {case.gpu.name}"
            return Finding.DOES_NOT_FIT.answer(f"llm-optimizer says that {gpus} cannot hold one request")
        if report.performance.best_latency is not None and report.performance.best_throughput is not None:
            return CaseAnswer(points=_points(report, case, ladder), extras=extras(report))
    last_words = [line.strip() for line in printed.stderr.splitlines() if line.strip()][-3:]
    message = " ".join(" ".join([report.error or "", *last_words]).split())
    finding = finding_in(message) or Finding.BROKEN_OUTPUT
    if finding is Finding.BROKEN_OUTPUT:
        message = f"no estimate in what it printed (exit status {printed.status}) {message}".rstrip()
    return finding.answer(message)


def _arguments(case: Case, constraints: str | None) -> list[str]:
    options = {
        "--model": case.model.name,
        "--input-len": case.input_len,
        "--output-len": case.output_len,
        "--gpu": their_gpu(case.gpu.name),
        "--num-gpus": case.tensor_parallel,
        "--precision": their_precision(case.precision),
        "--framework": "both",
    }
    if constraints is not None:
        options["--constraints"] = constraints
    return ["estimate", *(str(part) for pair in options.items() for part in pair)]


def _is_about(report: Configuration | None, case: Case) -> bool:
    """Return whether nothing the output says of its question contradicts the case."""
    if report is None:
        return False
    pairs = (
        (report.model, case.model.name),
        (report.gpu, their_gpu(case.gpu.name)),
        (report.num_gpus, case.tensor_parallel),
        (report.precision, their_precision(case.precision)),
        (report.input_len, case.input_len),
        (report.output_len, case.output_len),
    )
    return all(said is None or said == asked for said, asked in pairs)


def _points(report: Report, case: Case, ladder: list[int]) -> list[Point]:
    """Return the operating points it printed, of those on the ladder.

    What is not printed follows from what is, as the tool computes it: input tokens/s = concurrency x input / TTFT,
    output tokens/s = concurrency / ITL, E2E = TTFT + output x ITL, requests/s = concurrency / E2E.
    """
    points: dict[int, Point] = {}
    performance = report.performance
    best = performance.best_throughput if performance else None
    if best and best.concurrency > 1 and min(best.input_tokens_per_s, best.output_tokens_per_s) > 0:
        itl_ms = 1e3 * best.concurrency / best.output_tokens_per_s
        points[best.concurrency] = _point(
            best.concurrency,
            1e3 * best.concurrency * case.input_len / best.input_tokens_per_s,
            itl_ms,
            case,
            best.output_tokens_per_s,
            Bound(best.bottleneck) if best.bottleneck else Bound.UNKNOWN,
        )
    for low in (performance.best_latency if performance else None, report.constrained):
        if low is not None and low.concurrency not in points and low.ttft_ms + low.itl_ms > 0:
            points[low.concurrency] = _point(low.concurrency, low.ttft_ms, low.itl_ms, case)
    return [points[concurrency] for concurrency in ladder if concurrency in points]


def _point(
    concurrency: int,
    ttft_ms: float,
    itl_ms: float,
    case: Case,
    output_tokens_per_s: float | None = None,
    bound: Bound = Bound.UNKNOWN,
) -> Point:
    e2e_s = (ttft_ms + case.output_len * itl_ms) / 1e3
    requests_per_s = concurrency / e2e_s
    if output_tokens_per_s is None:
        output_tokens_per_s = 1e3 * concurrency / itl_ms if itl_ms > 0 else requests_per_s * case.output_len
    return Point(concurrency, ttft_ms, itl_ms, e2e_s, output_tokens_per_s, requests_per_s, bound)


@functools.cache
def _look(path: str) -> dict[str, Any]:
    interpreter = interpreter_of(path)
    if interpreter is None:
        return {}
    try:
        printed = run([interpreter, "-c", Path(probe.__file__).read_text(encoding="utf-8")], _PROBE_TIMEOUT_S)
        found = json.loads(printed.stdout)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@functools.cache
def _own_fingerprint(path: str) -> str:
    digest = hashlib.sha256(Path(path).read_bytes())
    digest.update(run([path, "estimate", "--help"], _PROBE_TIMEOUT_S).stdout.encode())
    return "program-" + digest.hexdigest()[:12]
