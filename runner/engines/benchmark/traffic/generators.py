"""Load generators of others, each run by command in an environment of its own; results through the readers of imports.

Every operating point is one run of the tool. Its exit status proves nothing: `vllm bench serve` and others end with 0
when every request has failed, so what counts is the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from gpuscout.runner.engines.benchmark.errors import BenchmarkError
from gpuscout.runner.engines.benchmark.options import LoadOptions
from gpuscout.runner.engines.benchmark.traffic.client import api_key
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint
from gpuscout.runner.engines.benchmark.traffic.figures import where_and_when
from gpuscout.runner.engines.benchmark.traffic.load import LEAST_ACHIEVED, MOST_FAILED
from gpuscout.store.measured import MeasuredRun
from gpuscout.store.measured.formats import SourceFile, find_format
from gpuscout.store.measured.formats.reported import Reported
from gpuscout.store.measured.runs import deployed, figures_of, mean_in_flight
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.text import printable
from gpuscout.sweeps.traffic.traffic import POISSON

_START_S = 600.0
_STOP_S = 15.0
_VERSION_S = 120.0
_LAST_WORDS = 2_000


@dataclass(frozen=True)
class Job:
    """One operating point for a tool: at a concurrency, or at a request rate with arrivals of this variation."""

    endpoint: Endpoint
    tokenizer: str
    input_len: int
    output_len: int
    requests: int
    concurrency: int | None
    request_rate: float | None
    cv: float
    folder: Path

    @property
    def root(self) -> str:
        """The address of the server without the path of its API."""
        parts = urlsplit(self.endpoint.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def path(self) -> str:
        return f"{urlsplit(self.endpoint.url).path}/completions"


@dataclass(frozen=True)
class Generator:
    """A tool: the format of its files, how it is called, where its result is and which arrivals it can send.

    `key_variable` is where it reads the server's key from; None: it wants it among its arguments, which all users of
    the machine can see, so that it is not called where there is a key.
    """

    format: str
    arguments: Callable[[Job], list[str]]
    result: str
    any_arrivals: bool = False
    environment: Callable[[Job], Mapping[str, str | None]] = lambda job: {}
    key_variable: str | None = None


def point(name: str, endpoint: Endpoint, case: Case, concurrency: int | None, load: LoadOptions) -> MeasuredRun:
    """Have a tool measure one operating point of a case (`concurrency` None: at its request rate).

    Raises BenchmarkError when the tool cannot send the requests of the case, does not end, or leaves no sound result.
    """
    generator = GENERATORS[name]
    with tempfile.TemporaryDirectory(prefix="gpuscout-") as folder:
        job = _job(name, generator, endpoint, case, concurrency, load, Path(folder))
        command = _found(load.generator_command or name)
        started = datetime.now(UTC)
        words = _run([command, *generator.arguments(job)], _environment(name, generator, job, load), job, load)
        try:
            read = find_format(generator.format).read(SourceFile.open(job.folder / generator.result))
        except GpuscoutError as error:
            raise BenchmarkError(f"{name} left no result: {error.message}; its last words: {words}") from error
        if not read.runs:
            raise BenchmarkError(f"{name}: {'; '.join(read.notes)}; its last words: {words}")
        reported = read.runs[-1]
        if reported.tool_version is None:
            reported = replace(reported, tool_version=_version(command))
        return _measured(reported, case, endpoint, job, started)


def _job(
    name: str,
    generator: Generator,
    endpoint: Endpoint,
    case: Case,
    concurrency: int | None,
    load: LoadOptions,
    folder: Path,
) -> Job:
    traffic = case.traffic
    cv = (traffic.arrivals or POISSON).cv
    if traffic.input_len or traffic.output_len or traffic.trace or traffic.cached_input:
        raise BenchmarkError(f"{name} sends requests of fixed lengths here: use the generator gpuscout", _NEVER)
    if traffic.open_loop and not generator.any_arrivals and cv not in (0.0, 1.0):
        raise BenchmarkError(f"{name} sends at constant or Poisson times: use the generator gpuscout", _NEVER)
    rate = traffic.request_rate
    return Job(
        endpoint,
        load.tokenizer or case.model.name,
        case.input_len,
        case.output_len,
        load.requests_at(concurrency) if concurrency is not None else load.requests_at_rate(rate or 1.0),
        concurrency,
        None if concurrency is not None else rate,
        cv,
        folder,
    )


def _found(command: str) -> str:
    found = shutil.which(os.path.expanduser(command))
    if found is None:
        raise BenchmarkError(
            f"{command} is not installed; `generator_command` is the path of the program in its own environment",
            Outcome.ENGINE_MISSING,
        )
    return found


def _environment(name: str, generator: Generator, job: Job, load: LoadOptions) -> dict[str, str]:
    changed: dict[str, str | None] = {**generator.environment(job)}
    if key := api_key(load.api_key_env):
        if generator.key_variable is None:
            raise BenchmarkError(
                f"{name} takes an API key among its arguments, where others see it: use the generator gpuscout", _NEVER
            )
        changed[generator.key_variable] = key
    return {name: value for name, value in {**os.environ, **changed}.items() if value is not None}


def _run(command: Sequence[str], environment: Mapping[str, str], job: Job, load: LoadOptions) -> str:
    """Run a tool to its end; the end of what it wrote. Raises BenchmarkError.

    It stays in the process group of this process, so that it goes with it.
    """
    limit_s = _START_S + load.requests_per_client * load.request_timeout_s
    with open(job.folder / "messages", "wb+") as messages:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=subprocess.STDOUT, env=dict(environment),
            cwd=job.folder,
        )  # fmt: skip
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            stop(process)
            raise BenchmarkError(f"{command[0]} did not end within {limit_s:,.0f} s") from None
        except BaseException:
            stop(process)
            raise
        messages.seek(max(messages.tell() - _LAST_WORDS, 0))
        words = printable(" ".join(messages.read().decode(errors="replace").split()))
    if key := api_key(load.api_key_env):
        words = words.replace(key, "***")
    if process.returncode:
        raise BenchmarkError(f"{command[0]} ended with status {process.returncode}; its last words: {words}")
    return words


@cache
def _version(command: str) -> str | None:
    """Ask a tool for its version, once, as the files of `vllm bench serve` have none; None: it does not say."""
    try:
        answer = subprocess.run(  # noqa: S603
            [command, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.findall(r"(?<!\S)v?(\d+(?:\.\d+)+\S{0,40})", answer.stdout.decode(errors="replace"))
    return printable(found[-1]) if found else None


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a tool and all that it started: SIGINT, as from a terminal, then SIGKILL to what is left."""
    import psutil

    from gpuscout.runner.engines.benchmark.processes import end, family

    members = family(psutil.Process(process.pid))
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    end(members, 0.0)
    process.wait()


def _measured(reported: Reported, case: Case, endpoint: Endpoint, job: Job, started: datetime) -> MeasuredRun:
    """Return the result of a tool as a run of the case. Raises BenchmarkError where too many requests failed."""
    details = dict(reported.details)
    completed, failed = details.get("completed"), details.get("failed") or 0
    if isinstance(completed, int) and isinstance(failed, int) and failed > MOST_FAILED * (completed + failed):
        raise BenchmarkError(f"{failed:,} of {completed + failed:,} requests failed")
    mean = mean_in_flight(details, reported.requests_per_s, reported.e2e_s)
    if mean is not None:
        details["mean_concurrency"] = mean
        if job.concurrency and mean < LEAST_ACHIEVED * job.concurrency:
            details["client_bound"] = f"{mean:.3g} of {job.concurrency:,} requests were in flight on average"
    lengths = (("input", job.input_len, reported.mean_input_len), ("output", job.output_len, reported.mean_output_len))
    for what, meant, had in lengths:
        if had is not None and abs(had - meant) > max(0.02 * meant, 1.0):
            raise BenchmarkError(f"requests had {had:,.1f} {what} tokens on average instead of {meant:,}")
    run = MeasuredRun(
        id="",
        **deployed(case),
        **where_and_when(endpoint, started),
        concurrency=job.concurrency or (None if mean is None else max(round(mean), 1)),
        request_rate=job.request_rate,
        **figures_of(reported),
        details=details | endpoint.details(case, started, reported.tool_version),
        case=case,
    )
    return _completed(run, reported)


def _completed(run: MeasuredRun, reported: Reported) -> MeasuredRun:
    """Return the end-to-end latency where the tool leaves it out and the ITL says it."""
    if run.e2e_s is None and run.ttft_ms is not None and run.itl_ms is not None:
        output_len = reported.mean_output_len or run.output_len
        return replace(run, e2e_s=(run.ttft_ms + run.itl_ms * (output_len - 1)) / 1e3)
    if run.itl_ms is None and run.ttft_ms is not None and run.e2e_s is not None and run.output_len > 1:
        return replace(run, itl_ms=(1e3 * run.e2e_s - run.ttft_ms) / (run.output_len - 1))
    return run


def _vllm(job: Job) -> list[str]:
    """Return `vllm bench serve` of vLLM 0.32."""
    load = (
        ["--max-concurrency", str(job.concurrency)]
        if job.concurrency is not None
        else ["--request-rate", str(job.request_rate), "--burstiness", str(1 / job.cv**2 if job.cv else "inf")]
    )
    return [
        "bench", "serve", "--backend", "openai", "--base-url", job.root, "--endpoint", job.path,
        "--model", job.endpoint.model, "--tokenizer", job.tokenizer, "--dataset-name", "random",
        "--random-input-len", str(job.input_len), "--random-output-len", str(job.output_len), "--ignore-eos",
        "--num-prompts", str(job.requests), *load, "--num-warmups", str(job.concurrency or 4),
        "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99", "--save-result",
        "--result-dir", str(job.folder), "--result-filename", "result.json", "--disable-tqdm",
        "--temperature", "0", "--ready-check-timeout-sec", "60",
    ]  # fmt: skip


def _aiperf(job: Job) -> list[str]:
    """Return `aiperf profile` of AIPerf 0.13."""
    load = (
        ["--concurrency", str(job.concurrency)]
        if job.concurrency is not None
        else ["--request-rate", str(job.request_rate), "--arrival-pattern", "poisson" if job.cv else "constant"]
    )
    return [
        "profile", "-m", job.endpoint.model, "--url", job.root, "--endpoint-type", "completions", "--streaming",
        "--tokenizer", job.tokenizer, "--isl", str(job.input_len), "--isl-stddev", "0",
        "--osl", str(job.output_len), "--osl-stddev", "0", "--extra-inputs", "ignore_eos:true", *load,
        "--request-count", str(job.requests), "--warmup-request-count", str(job.concurrency or 4),
        "--random-seed", "1", "--use-server-token-count", "--ui", "none", "--no-server-metrics",
        "--output-artifact-dir", str(job.folder),
    ]  # fmt: skip


def _guidellm(job: Job) -> list[str]:
    """Return `guidellm run` of GuideLLM 0.8."""
    profile: dict[str, object] = (
        {"kind": "concurrent", "streams": [job.concurrency]}
        if job.concurrency is not None
        else {"kind": "poisson" if job.cv else "constant", "rate": [job.request_rate]}
    )
    given = {
        "backend": {
            "kind": "openai_http",
            "target": job.root,
            "model": job.endpoint.model,
            "request_format": job.path,
        },
        "tokenizer": {"kind": "huggingface_auto", "model": job.tokenizer},
        "data": {"kind": "synthetic_text", "prompt_tokens": job.input_len, "output_tokens": job.output_len},
        "profile": profile,
        "constraint": {"kind": "max_requests", "count": job.requests},
        "output": {"kind": "json", "path": str(job.folder / "result.json")},
    }
    return [
        "run",
        *(part for name, value in given.items() for part in (f"--{name}", json.dumps(value))),
        "--disable-console",
    ]


def _local_tokenizer(job: Job) -> dict[str, str | None]:
    """Return variables to unset: AIPerf refuses a tokenizer in a folder while the Hub is off, but does not need it."""
    return {"HF_HUB_OFFLINE": None} if os.path.isdir(job.tokenizer) else {}


_NEVER = Outcome.NOT_SUPPORTED
GENERATORS: Mapping[str, Generator] = {
    "vllm": Generator("vllm", _vllm, "result.json", any_arrivals=True, key_variable="OPENAI_API_KEY"),
    "aiperf": Generator("aiperf", _aiperf, "profile_export_aiperf.json", environment=_local_tokenizer),
    # More workers import everything once each, and each keeps its own share of the load.
    "guidellm": Generator(
        "guidellm", _guidellm, "result.json", environment=lambda job: {"GUIDELLM__MAX_WORKER_PROCESSES": "1"}
    ),
}
