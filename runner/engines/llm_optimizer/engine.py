"""The engine `llm-optimizer`: BentoML's estimator, through its Python package or its command line."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace

from gpuscout.runner.engines.base import About, CaseAnswer, Cost, Option, Point, answered, silence
from gpuscout.runner.engines.llm_optimizer import probe
from gpuscout.runner.engines.llm_optimizer.output import Finding, error_chain, extras, finding_in
from gpuscout.runner.engines.llm_optimizer.package import Figures, Package
from gpuscout.runner.engines.llm_optimizer.program import Program
from gpuscout.runner.engines.llm_optimizer.support import FIXED_MEMORY_UTILIZATION, GPUS, refusal
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import Bound, Curves, IntArray
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.outcomes import Outcome

INSTALL = 'pip install "llm-optimizer @ git+https://github.com/bentoml/llm-optimizer.git"'
# Changes whenever what gpuscout makes of the tool's figures does.
VERSION = "1"
_TIMEOUT_S = 60.0
_HUB_TIMEOUT_S = 2.0
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_METRIC = r"\s*(ttft|itl|e2e_latency)(:\w+)?\s*<=?\s*\d+(\.\d+)?\s*(ms|s)?\s*"
_CONSTRAINTS = re.compile(f"{_METRIC}(;{_METRIC})*")


class LlmOptimizerEngine:
    """BentoML's llm-optimizer, one more opinion.

    Its Python package is used when this environment has it, in full precision and for the whole ladder. Otherwise the
    program `llm-optimizer` on PATH, or the one that the option `command` names: a process a task, figures rounded as
    printed, and only the operating points that it prints.

    It looks models up on the Hugging Face Hub by their names and counts their parameters in its own way. Where the Hub
    does not answer, or with the option `offline`, the package is given gpuscout's architectures instead: these are
    results of their own, with the parameters of the checkpoint. Tensor
    parallelism is its number of GPUs. It keeps the KV cache in the precision of the weights, whatever is asked. A
    batch is prefilled at once, so its TTFT is that of the last request. E2E is TTFT + output x ITL.
    """

    name = "llm-optimizer"
    in_process = False  # it prints, and asks the Hub
    about = About(
        covers=(
            f"{', '.join(GPUS)}; fp16, bf16, fp8; tensor parallelism; vLLM, SGLang; "
            "models of the Hugging Face Hub by name"
        ),
        install=INSTALL,
        homepage="https://github.com/bentoml/llm-optimizer",
        options={
            "command": Option("a program llm-optimizer of another environment, as a path or a name on PATH"),
            "timeout_s": Option("seconds that one call of the program may take", float, _TIMEOUT_S, above=0),
            "constraints": Option('what its tuning commands should meet, as it writes it: "ttft:p95<=300ms;itl<12ms"'),
            "offline": Option(
                "gpuscout's architectures, not the Hub's; by default where the Hub does not answer", bool
            ),
        },
    )

    def __init__(
        self,
        *,
        command: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        constraints: str | None = None,
        offline: bool | None = None,
    ) -> None:
        if constraints is not None and not _CONSTRAINTS.fullmatch(constraints):
            raise InputError(
                f'engine llm-optimizer, option constraints: cannot read "{constraints}"',
                hint='limits on ttft, itl and e2e_latency, for example "ttft:p95<=300ms;itl<12ms"',
            )
        self._uses_package = command is None and probe.kind() == "bentoml"
        self._program = None if self._uses_package else Program.find(command)
        self._command = command
        self._timeout_s = timeout_s
        self._constraints = constraints
        self._offline = offline
        self.cost = Cost.CHEAP if self._uses_package else Cost.EXPENSIVE
        self.sparse = not self._uses_package
        # A worker makes the engine again from these, perhaps in another folder.
        path = None if command is None else self._program.path if self._program else command
        given = {
            "command": path,
            "constraints": constraints,
            "timeout_s": timeout_s if timeout_s != _TIMEOUT_S else None,
            "offline": offline,
        }
        self.options: Mapping[str, object] = {name: value for name, value in given.items() if value is not None}

    def settled(self) -> LlmOptimizerEngine:
        """Return the engine with `offline` decided: other architectures are other results on any machine."""
        if self._offline is not None or hub_answers():
            return self
        return LlmOptimizerEngine(
            command=self._command, timeout_s=self._timeout_s, constraints=self._constraints, offline=True
        )

    def note(self) -> str | None:
        """Return the note on the results of this engine; None: nothing."""
        if not self._offline:
            return None
        return "engine llm-optimizer: the Hub is not asked, its models have the architectures that gpuscout knows"

    def missing(self) -> str | None:
        """Return the reason why it cannot run here, with the command that installs it; None when it can."""
        if self._uses_package:
            try:
                _package()
            except Exception as error:  # somebody else's code
                return f"llm-optimizer is installed but does not load ({error_chain(error)}): {INSTALL}"
            return None
        if self._program is None:
            if self._command is not None:
                return f"program {self._command} not found: {INSTALL}"
            return _wrong_package() if probe.kind() == "other" else f"llm-optimizer is not installed: {INSTALL}"
        kind = self._program.look().get("kind")
        if kind == "other":
            return _wrong_package(str(self._program.look().get("version")))
        return f"{self._program.path} lacks its package: {INSTALL}" if kind == "missing" else None

    def fingerprint(self) -> str:
        """Return the installed code and its table of GPUs; never its version, which is always 0.0.1.

        A program's figures are rounded: they are others than those of the package behind it.
        """
        if self._uses_package:
            return f"{VERSION}-{_package().fingerprint}"
        assert self._program is not None
        return f"{VERSION}-cli-{self._program.fingerprint()}"

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
        concurrencies: list[int] = ladder.tolist()
        unreachable: dict[str, CaseAnswer] = {}
        with silence():
            return answered(self._answer(cases.case(row), concurrencies, unreachable) for row in range(len(cases)))

    def _answer(self, case: Case, ladder: list[int], unreachable: dict[str, CaseAnswer]) -> CaseAnswer:
        """Return the answer to a case; `unreachable` remembers the models whose lookup timed out."""
        refused = self._refusal(case)
        if refused is not None:
            return refused
        if self._program is not None:
            return self._asked(self._program, case, ladder)
        name = case.model.name
        if self._offline:
            try:
                return self._curve(case, _package().given(case.model), ladder)
            except Exception as error:
                return _failed(error, *Finding)
        if name in unreachable:
            return unreachable[name]
        try:
            model = _package().model(name)
        except Exception as error:  # of the Hub, of the network, of a configuration it cannot read
            unreachable[name] = _failed(error, Finding.UNKNOWN_MODEL, Finding.GATED_MODEL)
            return unreachable[name]
        try:
            return self._curve(case, model, ladder)
        except Exception as error:
            return _failed(error, *Finding)

    def _asked(self, program: Program, case: Case, ladder: list[int]) -> CaseAnswer:
        """Return the program's answer. It takes no architecture: offline it has those of the Hub's local cache."""
        name, failed = case.model.name, _unreached.get((program.path, case.model.name))
        if failed is not None and self._offline:
            return failed
        answer = program.answer(
            case,
            ladder,
            constraints=self._constraints,
            timeout_s=self._timeout_s,
            environment={"HF_HUB_OFFLINE": "1"} if self._offline else {},
        )
        if self._offline and not answer.outcome.is_answer:
            why = "the Hugging Face Hub does not answer, and the program takes no architecture from gpuscout as the "
            answer = CaseAnswer.failed(answer.outcome, f"{name}: {why}package does: {INSTALL}")
            _unreached[program.path, name] = answer
        return answer

    def _curve(self, case: Case, model: object, ladder: list[int]) -> CaseAnswer:
        """Return the whole ladder, until a latency is infinite. What one request needs is asked in any case."""
        package = _package()
        one = package.estimate(case, model, 1)
        gpus = case.tensor_parallel
        answer = CaseAnswer(
            needed_gib=None if one.needed_gb is None else one.needed_gb / gpus,
            usable_gib=None if one.usable_gb is None else one.usable_gb / gpus,
        )
        if not one.fits:
            text = f"llm-optimizer says that {gpus} x {case.gpu.name} cannot hold one request"
            if one.needed_gb is not None and one.usable_gb is not None:
                text += f": it needs {one.needed_gb:,.1f} of {one.usable_gb:,.1f} GiB"
            return replace(answer, outcome=Outcome.DOES_NOT_FIT, detail=text)
        try:
            answer = replace(answer, extras=extras(package.report(case, self._constraints)))
        except Exception as error:
            if finding_in(error_chain(error)) is Finding.CONSTRAINTS_UNMET:
                raise
            answer = replace(answer, extras={"no_report": error_chain(error)})  # the curve is good without it
        points: list[Point] = []
        for concurrency in ladder:
            figures = one if concurrency == 1 else package.estimate(case, model, concurrency)
            if not figures.fits:
                return replace(answer, points=points, fits_up_to=points[-1].concurrency if points else 1)
            points.append(_point(concurrency, figures))
        return replace(answer, points=points)

    def _refusal(self, case: Case) -> CaseAnswer | None:
        refused = refusal(case, _package().gpus if self._uses_package else None)
        if refused is not None:
            finding, text = refused
            return finding.answer(text) if finding else CaseAnswer.failed(Outcome.NOT_SUPPORTED, text)
        if self._program is not None and case.gpu_memory_utilization != FIXED_MEMORY_UTILIZATION:
            return CaseAnswer.failed(
                Outcome.NOT_SUPPORTED,
                f"the program always uses {FIXED_MEMORY_UTILIZATION} of the memory; the package takes any share",
            )
        if case.context_len < case.input_len + case.output_len:
            return CaseAnswer.failed(Outcome.INVALID, "input and output exceed max_model_len")
        if self._offline and self._uses_package:
            return None
        name, at, _ = case.model.name.partition("@")
        if at and _HUB_NAME.fullmatch(name):
            return CaseAnswer.failed(Outcome.NOT_SUPPORTED, f"llm-optimizer reads only the newest revision of {name}")
        if not _HUB_NAME.fullmatch(case.model.name):
            return Finding.UNKNOWN_MODEL.answer(
                f"llm-optimizer asks the Hugging Face Hub, which has no {case.model.name}"
            )
        return None


# Models that a program could not look up without the Hub, in this process: once is enough.
_unreached: dict[tuple[str, str], CaseAnswer] = {}


@functools.cache
def hub_answers() -> bool:
    """Return whether the Hugging Face Hub can be reached, found out once a process; not where HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except Exception:  # whatever a proxy, a resolver or a library calls it
        return False
    return True


@functools.cache
def _package() -> Package:
    return Package()


def _wrong_package(version: str | None = None) -> str:
    return (
        f"the package llm-optimizer {version or probe.version()} that is installed is another one: the library of that "
        f"name on PyPI wraps the APIs of LLM providers. BentoML's is installed by: {INSTALL}"
    )


def _failed(error: Exception, *expected: Finding) -> CaseAnswer:
    """Return the outcome for an exception of the package; an unknown one is an error, tried again."""
    message = error_chain(error)
    finding = finding_in(message)
    if finding in expected:
        return finding.answer(message)
    return CaseAnswer.failed(Outcome.ERROR, message)


def _point(concurrency: int, figures: Figures) -> Point:
    bound = Bound.UNKNOWN
    if figures.memory_bound is not None:
        bound = Bound.MEMORY if figures.memory_bound else Bound.COMPUTE
    return Point(
        concurrency,
        figures.ttft_ms,
        figures.itl_ms,
        figures.e2e_s,
        figures.output_tokens_per_s,
        figures.requests_per_s,
        bound,
    )
