"""The engine `aiconfigurator`: NVIDIA's estimator from measured kernels, a call an operating point."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from gpuscout.runner.engines.aiconfigurator.support import GPUS, model_path, number_formats, refusal, their_system
from gpuscout.runner.engines.base import About, CaseAnswer, Cost, Option, Point, answered, silence
from gpuscout.runner.engines.program import shortened
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import Curves, IntArray
from gpuscout.sweeps.outcomes import Outcome

INSTALL = "pip install 'gpuscout[aiconfigurator]'"
# Changes whenever what gpuscout makes of the package's figures does.
VERSION = "1"
_SERIES = "0.12."
_PACKAGES = ("aiconfigurator", "aiconfigurator-core")
DATABASE_MODES = ("SILICON", "HYBRID", "EMPIRICAL", "SOL")


class AIConfiguratorEngine:
    """NVIDIA AIConfigurator 0.12: aggregated serving, estimated from kernels that were timed on each system.

    From 0.13 on the package is AISimulate, which the engine `aisimulate` calls: this one is superseded.

    Our `server` is its backend; the version of it is the newest that the package has measured. Its batch size is that
    of one attention rank and one pipeline stage: of C requests in flight on dp x pp of them it is asked for the
    largest share, C / (dp x pp) rounded up, and its latencies are those of this batch. Throughput is C requests every
    E2E, of `output_len` tokens each (it does not count the first one). A curve ends where the model with the batch
    exceeds the memory, or the batch its share of the KV cache (`gpu_memory_utilization`; of the memory that weights
    leave free for trtllm): it does not model requests that wait.
    """

    name = "aiconfigurator"
    cost = Cost.EXPENSIVE
    task_s = 12.0  # 6 to 18 s of one core for a ladder of nine, where it was measured
    in_process = False  # compiled code, and loggers and caches of the whole process
    about = About(
        covers=(
            f"superseded by aisimulate: {', '.join(GPUS)}; all parallelism; vLLM, SGLang, TensorRT-LLM; "
            "formats whose kernels were timed"
        ),
        install=INSTALL,
        homepage="https://github.com/ai-dynamo/aiconfigurator",
        options={
            "database_mode": Option(
                "kernels as timed, completed by estimates, all estimated, or the speed of light of the hardware",
                default="SILICON",
                choices=DATABASE_MODES,
            )
        },
    )

    def __init__(self, *, database_mode: str = "SILICON") -> None:
        self._database_mode = database_mode
        self.options: Mapping[str, object] = {"database_mode": database_mode}

    def missing(self) -> str | None:
        """Return the reason why it cannot run here, and how to install it; None when it can. Imports nothing of it."""
        versions = [_version(package) for package in _PACKAGES]
        if None in versions or importlib.util.find_spec("aiconfigurator") is None:
            return f"aiconfigurator is not installed: {INSTALL}"
        if not all(str(version).startswith(_SERIES) for version in versions):
            return (
                f"aiconfigurator {versions[0]} is installed, gpuscout works with {_SERIES}*: {INSTALL}; "
                "its successor is the engine aisimulate"
            )
        return None

    def note(self) -> str:
        """Return the notes of every run with it."""
        return "engine aiconfigurator: NVIDIA's AISimulate supersedes it (--engine aisimulate)"

    def fingerprint(self) -> str:
        """Return the versions of the package and of its database, which PyPI keeps unchanged."""
        return f"{VERSION}-" + "-core-".join(str(_version(package)) for package in _PACKAGES)

    def evaluate(self, cases: CaseColumns, ladder: IntArray) -> Curves:
        steps: list[int] = ladder.tolist()
        with silence():
            return answered(self._answer(cases.case(row), steps) for row in range(len(cases)))

    def _answer(self, case: Case, ladder: list[int]) -> CaseAnswer:
        refused = refusal(case)
        if refused is not None:
            return CaseAnswer.failed(Outcome.NOT_SUPPORTED, refused)
        if case.context_len < case.input_len + case.output_len:
            return CaseAnswer.failed(Outcome.INVALID, "input and output exceed max_model_len")
        name, at, _ = case.model.name.partition("@")
        if at:
            return CaseAnswer.failed(Outcome.NOT_SUPPORTED, f"AIConfigurator reads only the newest revision of {name}")
        bundled = frozenset(_imported("aiconfigurator.sdk.common").DefaultHFModels)
        path = model_path(case.model, bundled)
        if path is None:
            return CaseAnswer.failed(
                Outcome.UNKNOWN_MODEL, f"AIConfigurator finds models by their Hugging Face names, not {case.model.name}"
            )
        return self._curve(case, path, ladder)

    def _curve(self, case: Case, path: str, ladder: list[int]) -> CaseAnswer:
        """Return the ladder up to the first step without an answer.

        Without any, what becomes of one request decides.
        """
        points: list[Point] = []
        answer = CaseAnswer()
        for concurrency in ladder:
            result = self._estimate(case, path, concurrency)
            if isinstance(result, CaseAnswer):
                break
            answer = replace(answer, extras={"backend_version": str(result.backend_version)})
            if concurrency == 1:
                answer = replace(answer, needed_gib=float(result.memory))
            points.append(_point(case, concurrency, result))
        else:
            return replace(answer, points=points)
        if not result.outcome.is_answer:
            return result
        if not points:
            one = result if ladder[0] == 1 else self._estimate(case, path, 1)
            return one if isinstance(one, CaseAnswer) else replace(answer, fits_up_to=1)
        return replace(answer, points=points, fits_up_to=points[-1].concurrency)

    def _estimate(self, case: Case, path: str, concurrency: int) -> Any:
        """Return the result for one operating point, or a `CaseAnswer` with the reason why there is none."""
        ranks = case.data_parallel * case.pipeline_parallel
        experts = {}
        if case.model.is_moe:
            experts["moe_ep_size"] = case.expert_parallel
            experts["moe_tp_size"] = case.tensor_parallel * case.data_parallel // case.expert_parallel
        try:
            result = _imported("aiconfigurator.cli.api").cli_estimate(
                model_path=path,
                system_name=their_system(case.gpu.name),
                backend_name=case.server,
                database_mode=self._database_mode,
                isl=case.input_len,
                osl=case.output_len,
                batch_size=-(-concurrency // ranks),
                tp_size=case.tensor_parallel,
                pp_size=case.pipeline_parallel,
                attention_dp_size=case.data_parallel,
                free_gpu_memory_fraction=case.gpu_memory_utilization,
                max_seq_len=case.context_len,
                **experts,
                **number_formats(case),
            )
        except Exception as error:  # by its convention nearly everything that is not supported is raised
            return meaning(error)
        if result.kv_cache_warning:
            return CaseAnswer.failed(Outcome.DOES_NOT_FIT, "the KV cache holds fewer requests")
        return result


def meaning(error: Exception) -> CaseAnswer:
    """Return the outcome for a case that an exception of the package stands for."""
    text = shortened(" ".join(str(error).split()))
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, RuntimeError) and text.startswith("OOM"):
        return CaseAnswer.failed(Outcome.DOES_NOT_FIT, "model, batch and reserves exceed the memory of a GPU")
    if "HuggingFaceDownloadError" in kinds:
        return CaseAnswer.failed(_download_outcome(error), text)
    if "perf database error" in text or kinds & _NOT_MEASURED:
        return CaseAnswer.failed(Outcome.NOT_SUPPORTED, f"not measured: {text}")
    # By its convention a ValueError refuses a model, a format or a parallelism; sizes that do not divide are asserted.
    if kinds & {"ValueError", "AssertionError"}:
        return CaseAnswer.failed(Outcome.NOT_SUPPORTED, f"not supported: {text}")
    return CaseAnswer.failed(Outcome.ERROR, f"{type(error).__name__}: {text}")


_NOT_MEASURED = {
    "PerfDataNotAvailableError",
    "InterpolationDataNotAvailableError",
    "EmpiricalNotImplementedError",
    "SolNotImplementedError",
    "RustEngineUnsupportedError",
}


def _download_outcome(error: Exception) -> Outcome:
    """Return the outcome of a refused download: the Hub answers 401 for gated and for missing models."""
    status = getattr(error.__cause__, "code", None)
    headers = getattr(error.__cause__, "headers", None) or {}
    code = headers.get("X-Error-Code")
    if code in ("RepoNotFound", "EntryNotFound", "RevisionNotFound") or status == 404:
        return Outcome.UNKNOWN_MODEL
    return Outcome.GATED if code == "GatedRepo" or status in (401, 403) else Outcome.ERROR


def _point(case: Case, concurrency: int, result: Any) -> Point:
    e2e_s = float(result.request_latency) / 1e3
    requests_per_s = concurrency / e2e_s
    return Point(
        concurrency, float(result.ttft), float(result.tpot), e2e_s, requests_per_s * case.output_len, requests_per_s
    )


def _imported(module: str) -> Any:
    """Return a module of the package, whose loggers report every table they read."""
    for package in ("aiconfigurator", "aiconfigurator_core"):
        logging.getLogger(package).setLevel(logging.CRITICAL)
    return importlib.import_module(module)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
