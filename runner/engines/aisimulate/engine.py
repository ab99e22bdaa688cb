"""The engine `aisimulate`: NVIDIA's simulation over timed kernels, a process of its own environment a point."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from gpuscout.runner.engines.aiconfigurator.support import GPUS, model_path, refusal
from gpuscout.runner.engines.aisimulate.output import Saturated, failure, kv_tokens, point
from gpuscout.runner.engines.aisimulate.question import question, requests_of, unsupported
from gpuscout.runner.engines.base import About, CaseAnswer, Cost, Option, Point, answered
from gpuscout.runner.engines.program import interpreter_of, program_at, run
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import Curves, IntArray
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.traffic.trace import NamedTrace
from gpuscout.sweeps.traffic.traffic import Traffic

NAME = "aisimulate"
# A wheel of the index that is complete; what is called 0.13.0 there fetches another one while it installs.
INSTALL = "python3.12 -m venv aisimulate && aisimulate/bin/pip install aisimulate==0.13.0.dev202610270000000085"
# Changes whenever what gpuscout makes of the program's figures does.
VERSION = "1"
_TIMEOUT_S = 300.0
_PROBE_TIMEOUT_S = 60.0
_VERSIONS = "from importlib import metadata; print(metadata.version('aisimulate'))"
DATABASE_MODES = ("SILICON", "HYBRID", "EMPIRICAL", "SOL")


class AISimulateEngine:
    """NVIDIA AISimulate, the successor of AIConfigurator: a simulation of scheduler and KV cache over timed kernels.

    Its package pins exact versions of what it needs, so it lives in an environment of its own and is called as the
    program `aisimulate`: the one on PATH, or that of the option `command`. One process of some seconds a point.
    Requests are given as a trace, so that lengths, arrivals and prefix blocks are those of the case. In a closed loop
    fixed lengths vary by 10 %, as those of load generators do, and the requests that come together at its beginning
    are left out. With `cached_input` all requests are equal, and march in step through a closed loop.
    """

    name = NAME
    cost = Cost.EXPENSIVE
    in_process = False
    about = About(
        covers=(
            f"{', '.join(GPUS)}; all parallelism; vLLM, SGLang, TensorRT-LLM; formats whose kernels were timed; "
            "percentiles, lengths that vary, arrivals, traces, cached input of fixed lengths"
        ),
        install=INSTALL,
        homepage="https://github.com/ai-dynamo/aisimulate",
        options={
            "command": Option("the program aisimulate of its environment, as a path or a name on PATH"),
            "timeout_s": Option("seconds that one call of the program may take", float, _TIMEOUT_S, above=0),
            "database_mode": Option(
                "kernels as timed, completed by estimates, all estimated, or the speed of light of the hardware",
                default="SILICON",
                choices=DATABASE_MODES,
            ),
            "backend_version": Option("current, next or a version of its tables of the server", default="current"),
        },
    )

    def __init__(
        self,
        *,
        command: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        database_mode: str = "SILICON",
        backend_version: str = "current",
    ) -> None:
        self._command = command
        self._program = program_at(command or NAME)
        self._timeout_s = timeout_s
        self._database_mode, self._backend_version = database_mode, backend_version
        # A worker makes the engine again from these, perhaps in another folder.
        given = {
            "command": None if command is None else self._program or command,
            "timeout_s": timeout_s if timeout_s != _TIMEOUT_S else None,
            "backend_version": backend_version if backend_version != "current" else None,
        }
        self.options: Mapping[str, object] = {
            "database_mode": database_mode,
            **{name: value for name, value in given.items() if value is not None},
        }

    def missing(self) -> str | None:
        """Return the reason why it cannot run here, with the command that installs it; None when it can."""
        if self._program is None:
            problem = "aisimulate is not installed" if self._command is None else f"program {self._command} not found"
            return f"{problem}: {INSTALL}; then its path as the option command"
        return None

    def fingerprint(self) -> str:
        """Return the version of the package behind the program; of a program that is no Python script its own bytes."""
        assert self._program is not None
        return f"{VERSION}-{_version(self._program)}"

    def unsupported_traffic(self, traffic: Traffic) -> str | None:
        """Return a trace that is not available, and cached input of requests that vary."""
        if isinstance(traffic.trace, NamedTrace):
            return "the trace of this case is not available"
        return unsupported(traffic)

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
        seats, tokens = cases.option("max_num_seqs").tolist(), cases.option("max_num_batched_tokens").tolist()
        return answered(
            self._answer(cases.case(row), ladder.tolist(), seats[row], tokens[row]) for row in range(len(cases))
        )

    def _answer(self, case: Case, ladder: list[int], seats: int, tokens: int) -> CaseAnswer:
        if (refused := refusal(case)) is not None:
            return CaseAnswer.failed(Outcome.NOT_SUPPORTED, refused.replace("AIConfigurator", "AISimulate"))
        if case.context_len < case.input_len + case.output_len:
            return CaseAnswer.failed(Outcome.INVALID, "input and output exceed max_model_len")
        model = model_path(case.model, frozenset())
        if model is None:
            return CaseAnswer.failed(
                Outcome.UNKNOWN_MODEL, f"AISimulate finds models by their Hugging Face names, not {case.model.name}"
            )
        points: list[Point] = []
        capacity: int | None = None
        for concurrency in [0] if case.traffic.open_loop else ladder:
            try:
                answer, capacity = self._predict(case, model, concurrency, seats, tokens)
            except Saturated:
                rate = case.traffic.request_rate
                return CaseAnswer(detail=f"saturated at {rate:,.3g} req/s", fits_up_to=0)
            if isinstance(answer, CaseAnswer):
                if points and answer.outcome.is_answer:
                    return CaseAnswer(points=points, fits_up_to=points[-1].concurrency, kv_capacity_tokens=capacity)
                return answer
            points.append(answer)
        return CaseAnswer(points=points, kv_capacity_tokens=capacity)

    def _predict(
        self, case: Case, model: str, concurrency: int, seats: int, tokens: int
    ) -> tuple[Point | CaseAnswer, int | None]:
        """Return the result of one process: the operating point or why there is none, and the KV cache in tokens."""
        assert self._program is not None
        with tempfile.TemporaryDirectory(prefix="gpuscout-aisimulate-") as folder:
            file, out, trace = (Path(folder) / name for name in ("question.yaml", "out", "trace.jsonl"))
            trace.write_text(requests_of(case, concurrency), encoding="utf-8")
            asked = question(
                case,
                model,
                concurrency,
                str(trace),
                database_mode=self._database_mode,
                backend_version=self._backend_version,
                seats=seats,
                tokens=tokens,
            )
            file.write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")
            options = ("--format", "json", "--output-dir", str(out), "--capture-per-request", "--detail", "memory")
            printed = run([self._program, "predict", "-c", str(file), *options], self._timeout_s)
            if printed.status is None:
                problem = f"{self._program} took longer than {self._timeout_s:g} s"
                return CaseAnswer.failed(Outcome.TIMEOUT, problem), None
            requests = out / "requests.jsonl"
            if printed.status != 0 or not requests.is_file():
                return failure(printed), None
            try:
                found = point(case, concurrency, requests.read_text(encoding="utf-8").splitlines())
            except ValueError as error:
                return CaseAnswer.failed(Outcome.ERROR, f"AISimulate: requests.jsonl: {error}"), None
            return found, kv_tokens(printed, case)


@functools.cache
def _version(path: str) -> str:
    interpreter = interpreter_of(path)
    if interpreter is not None:
        printed = run([interpreter, "-c", _VERSIONS], _PROBE_TIMEOUT_S)
        if printed.status == 0 and printed.stdout.strip():
            return printed.stdout.strip()
    return "program-" + hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
