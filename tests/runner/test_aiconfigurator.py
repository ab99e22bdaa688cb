"""The engine aiconfigurator: its names, what its exceptions mean, and the real package where it is installed."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from email.message import Message
from urllib.error import HTTPError

import numpy as np
import pytest

from gpuscout.runner.engines.aiconfigurator import our_gpu, their_system
from gpuscout.runner.engines.aiconfigurator.engine import INSTALL, meaning
from gpuscout.runner.engines.aiconfigurator.support import GPUS, model_path, number_formats, refusal
from gpuscout.runner.engines.base import MissingEngine
from gpuscout.runner.engines.registry import create_engine
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import Curves
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.precision import Precision

INSTALLED = importlib.util.find_spec("aiconfigurator") is not None


def case(name: str = "Qwen/Qwen3-8B", gpu: str = "H100", **changes: object) -> Case:
    model = ModelCatalogue.load().get(name)
    asked = {"input_len": 2000, "output_len": 256, "precision": model.precision}
    return Case(model, GPUCatalogue.load().resolve(gpu), **(asked | changes))


def test_gpu_names_map_both_ways() -> None:
    for name in GPUS:
        assert name in GPUCatalogue.load().names()
        assert our_gpu(str(their_system(name))) == name
    assert their_system("H100-NVL-94GB") is None
    assert our_gpu("b60") is None


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (case(gpu="MI300X"), "unknown system: AIConfigurator has no MI300X"),
        (case(kv_precision=Precision.FP4), "no fp4 KV cache"),
        (case("Qwen/Qwen3-30B-A3B", precision=Precision.INT8), "no int8 weights of experts"),
        (case(precision=Precision.FP32), "no fp32 weights"),
        (replace(case(), gpu=replace(case().gpu, memory_gb=96.0)), "not of the figures given here"),
    ],
)
def test_what_it_cannot_be_asked(asked: Case, text: str) -> None:
    assert text in str(refusal(asked))


def test_a_checkpoint_is_read_in_its_own_format() -> None:
    assert number_formats(case("openai/gpt-oss-120b")) == {"kvcache_quant_mode": "bfloat16"}
    assert number_formats(case("Qwen/Qwen3-30B-A3B", precision=Precision.FP8, kv_precision=Precision.FP8)) == {
        "kvcache_quant_mode": "fp8",
        "gemm_quant_mode": "fp8",
        "moe_quant_mode": "fp8",
    }


def test_models_are_given_by_name_or_as_a_folder() -> None:
    bundled = frozenset({"Qwen/Qwen3-8B"})
    assert model_path(case().model, bundled) == "Qwen/Qwen3-8B"
    folder = model_path(case().model, frozenset())
    assert folder is not None
    assert folder.endswith("Qwen--Qwen3-8B")
    assert model_path(replace(case().model, name="acme/model"), bundled) == "acme/model"
    assert model_path(replace(case().model, name="my-finetune"), bundled) is None
    assert model_path(replace(case().model, layers=12), bundled) is None


def raised(kind: type[Exception], message: str, cause: Exception | None = None) -> Exception:
    error = kind(message)
    error.__cause__ = cause
    return error


def refused(status: int, told: str) -> HTTPError:
    headers = Message()
    headers["X-Error-Code"] = told
    return HTTPError("https://huggingface.co", status, "no", headers, None)


PerfDataNotAvailableError = type("PerfDataNotAvailableError", (RuntimeError,), {})
HuggingFaceDownloadError = type("HuggingFaceDownloadError", (Exception,), {})


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RuntimeError("OOM: the model 'x' does not fit in GPU memory"), Outcome.DOES_NOT_FIT),
        (raised(PerfDataNotAvailableError, "perf database error: GEMM perf data missing"), Outcome.NOT_SUPPORTED),
        (RuntimeError("perf database error: nothing measured"), Outcome.NOT_SUPPORTED),
        (ValueError("No database found for system=l4, backend=vllm."), Outcome.NOT_SUPPORTED),
        (AssertionError("num_heads 32 should be divisible by tp_size 3"), Outcome.NOT_SUPPORTED),
        (raised(HuggingFaceDownloadError, "HTTP error 401", refused(401, "GatedRepo")), Outcome.GATED),
        (raised(HuggingFaceDownloadError, "HTTP error 401", refused(401, "RepoNotFound")), Outcome.UNKNOWN_MODEL),
        (raised(HuggingFaceDownloadError, "HTTP error 404", refused(404, "")), Outcome.UNKNOWN_MODEL),
        (raised(HuggingFaceDownloadError, "name or service not known", OSError()), Outcome.ERROR),
        (KeyError("architectures"), Outcome.ERROR),
        (RuntimeError("Estimation produced no results."), Outcome.ERROR),
    ],
)
def test_what_its_exceptions_mean(error: Exception, outcome: Outcome) -> None:
    assert meaning(error).outcome is outcome


@pytest.mark.skipif(INSTALLED, reason="aiconfigurator is installed")
def test_missing_says_how_to_install_it() -> None:
    engine = create_engine("aiconfigurator", {"database_mode": "hybrid"})
    assert isinstance(engine, MissingEngine)
    assert engine.reason == f"aiconfigurator is not installed: {INSTALL}"
    assert engine.options == {"database_mode": "HYBRID"}


def ask(*cases: Case, ladder: tuple[int, ...], mode: str = "SILICON") -> Curves:
    return create_engine("aiconfigurator", {"database_mode": mode}).evaluate(CaseColumns.of(cases), np.array(ladder))


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason=f"aiconfigurator is not installed: {INSTALL}")
def test_the_real_package_answers(capfd: pytest.CaptureFixture[str]) -> None:
    cases = [
        case("Qwen/Qwen3-32B", tensor_parallel=2),
        case("meta-llama/Llama-3.3-70B-Instruct"),
        case(precision=Precision.INT4_WEIGHT_ONLY),
        case(gpu="MI300X"),
        case("Qwen/Qwen3-30B-A3B", "B200", server="trtllm", data_parallel=2, expert_parallel=2),
    ]
    answer = ask(*cases, ladder=(1, 16, 512))
    assert [OUTCOMES[code].value for code in answer.outcome] == [
        "ok",
        "does_not_fit",
        "not_supported",
        "not_supported",
        "ok",
    ]
    assert answer.details[2].startswith("not measured: perf database error")
    first = answer.points.task == 0
    assert answer.points.concurrency[first].tolist() == [1, 16]
    assert answer.fits_up_to.tolist() == [16, -1, -1, -1, -1]
    # 2 x H100 in bf16 read 65 GB of weights at 3.35 TB/s each: no less than 9.8 ms a token.
    assert 9.8 < answer.points.itl_ms[first][0] < 20
    assert 30 < answer.needed_gib[0] < 40
    assert answer.extras[0]["backend_version"]
    np.testing.assert_allclose(
        answer.points.e2e_s, (answer.points.ttft_ms + 255 * answer.points.itl_ms) / 1e3, rtol=1e-9
    )
    assert capfd.readouterr() == ("", "")
    only_beyond = ask(cases[0], ladder=(512,))
    assert (only_beyond.fits_up_to.tolist(), len(only_beyond.points)) == ([1], 0)
    assert OUTCOMES[ask(case(gpu="L4"), ladder=(1,)).outcome[0]] is Outcome.NOT_SUPPORTED
    assert OUTCOMES[ask(case(gpu="L4"), ladder=(1,), mode="SOL").outcome[0]] is Outcome.OK
