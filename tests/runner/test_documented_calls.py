"""The calls that other recommenders and capacity planners document, as written there, without a network.

Figures are checked for sense, not for a value: `test_python_api` does that. A type checker has to understand it all.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from gpuscout import (
    GPU_LIBRARY,
    BentoMLEstimator,
    GPURecommendation,
    GPURecommender,
    GPUSpec,
    ModelArchitecture,
    PerformanceEstimate,
    RecommendationResult,
    estimate_performance,
    estimate_performance_batch,
    filter_recommendations_by_budget,
    find_gpu_recommendations,
    find_possible_tp,
    get_gpu_spec,
    kv_cache_req,
    list_available_gpus,
    max_context_len,
    model_memory_req,
    model_total_params,
    parse_bentoml_output,
    parse_llm_optimizer_output,
    recommend_gpus,
)
from gpuscout.sweeps.errors import InputError
from tests.support.commands import environment
from tests.support.forked import gpuscout

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLASSIC = [
    "gpt-oss-120b",
    "Qwen3-8B-FP8-dynamic",
    "meta-llama/Llama-3.3-70B-Instruct",
    "granite-4.0-h-small",
    "mistralai/Mixtral-8x7B-v0.1",
]


@pytest.fixture(autouse=True)
def _without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def finite(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def test_quick_start() -> None:
    result = recommend_gpus(model=ModelArchitecture("Qwen/Qwen3-32B"), input_length=1024, output_length=512)
    assert isinstance(result, RecommendationResult)
    text = result.summary()
    assert all(word in text for word in ("Qwen/Qwen3-32B", "GPU", "TP", "Fits", "TTFT", "ITL", "bf16"))
    page = result._repr_html_()
    assert page.count("<tr>") == 11
    assert "Qwen/Qwen3-32B" in page


def test_advanced_usage() -> None:
    result = recommend_gpus(
        model=ModelArchitecture("meta-llama/Llama-3.1-70B", hf_token=None),
        input_length=2048,
        output_length=1024,
        context_length=4096,
        batch_size=4,
        gpu_memory_utilization=0.9,
        max_tensor_parallel=8,
        max_gpus=16,
        estimate_performance_flag=True,
    )
    fitting = result.filter_fitting_only()
    fitting.sort_by_performance()
    ttft = [rec.performance.time_to_first_token_ms or 0 for rec in fitting.recommendations if rec.performance]
    assert ttft
    assert ttft == sorted(ttft)
    for rec in fitting.recommendations:
        r = rec.recommendation
        assert r.model_fits
        assert 16 >= r.total_gpus >= r.tensor_parallel_size >= 1
        assert r.tensor_parallel_size <= 8
        assert get_gpu_spec(r.gpu_spec.name) == r.gpu_spec
        assert finite(r.memory_per_gpu_gb, r.available_memory_for_kv_gb, r.max_concurrent_requests, r.max_batch_size)
        usable_gb = r.gpu_spec.memory_usable_gib * 0.9 * 2**30 / 1e9
        assert 0 < r.memory_per_gpu_gb < r.memory_per_gpu_gb + r.available_memory_for_kv_gb < usable_gb
        performance = rec.performance
        assert performance is not None
        assert finite(performance.inter_token_latency_ms, performance.throughput_tokens_per_sec)


def test_precisions_by_their_documented_names() -> None:
    model = ModelArchitecture("meta-llama/Llama-3.1-70B-instruct")
    memory = {}
    for precision in ("fp32", "fp16", "bf16", "fp8", "int8", "int4"):
        result = recommend_gpus(model, 2048, 1024, precision=precision, estimate_performance_flag=False, gpus="H*")
        assert result.recommendations
        assert {rec.performance for rec in result.recommendations} == {None}
        memory[precision] = model.model_memory_gb(precision)
    assert memory["fp32"] > memory["fp16"] == memory["bf16"] > memory["fp8"] > memory["int4"]


def test_sorting_by_cost_and_adding() -> None:
    fitting = recommend_gpus(ModelArchitecture("meta-llama/Llama-3.1-8B"), gpus=["L4", "L40S"]).filter_fitting_only()
    fitting.sort_by_cost()
    costs = [rec.estimate.cost_usd_per_mtok or 0 for rec in fitting if rec.estimate]
    assert costs == sorted(costs)
    json.dumps(fitting.to_dict())
    other = RecommendationResult(
        model_id=fitting.model_id, input_length=1024, output_length=512, precision=fitting.precision
    )
    first: GPURecommendation = fitting.recommendations[0]
    other.add_recommendation(first)
    other.add_recommendation(first.recommendation, PerformanceEstimate(ttft_ms=1.0))
    assert other.total_recommendations == len(other) == 2
    assert other[0] == first
    assert (other[1].performance or PerformanceEstimate()).time_to_first_token_ms == 1.0
    assert str(first) in other.summary()


def test_model_architecture() -> None:
    model = ModelArchitecture("Qwen/Qwen3-32B")
    assert model.num_parameters > 32e9
    assert model.num_parameters_billions == pytest.approx(32.76, abs=0.1)
    assert (model.model_name, model.model_id) == ("Qwen3-32B", "Qwen/Qwen3-32B")
    assert model.is_quantized is False
    assert (model.inferred_dtype, model.inferred_precision_name) == ("torch.bfloat16", "bf16")
    assert model.inferred_kv_cache_dtype == "torch.bfloat16"
    assert 60 < model.model_memory_gb() < 67
    assert 30 < model.model_memory_gb(precision="fp8") < 36
    assert model.kv_cache_memory_gb(context_length=4096, batch_size=2) == 2 * model.kv_cache_memory_gb(4096, 1)
    assert model.total_memory_gb(context_length=2048, batch_size=1, precision=None) > model.model_memory_gb()
    assert model.total_memory_gb(2048, 1, "int4") < 40
    assert model.max_context_length() == 40960
    assert model.possible_tensor_parallel_sizes()[:4] == [1, 2, 4, 8]
    detail = model.get_kv_cache_detail(context_length=2048, batch_size=3)
    assert (detail.attention_type, detail.per_token_memory_bytes) == ("GQA", 262144.0)
    assert detail.kv_cache_size_gb == pytest.approx(3 * detail.per_request_kv_cache_gb)
    quantised = ModelArchitecture("RedHatAI/Qwen3-8B-FP8-dynamic")
    assert quantised.is_quantized
    assert (quantised.inferred_precision_name, quantised.inferred_dtype) == ("fp8", "torch.bfloat16")


def test_gpu_library() -> None:
    names = list_available_gpus()
    for name in ("A100", "A100_40GB", "A100-40GB", "B100", "B200", "H100", "H200", "L20", "L40", "L40S", "V100"):
        spec = get_gpu_spec(name)
        assert spec.name in names
        assert finite(spec.memory_gb, spec.tflops, spec.release_year)
        assert spec.compute_capability
        assert spec.manufacturer == "NVIDIA"
    assert get_gpu_spec("H100").tflops == pytest.approx(67, abs=2)
    new = GPUSpec(name="NewGPU", memory_gb=80, tflops=1456, compute_capability="9.0", release_year=2024)
    GPU_LIBRARY["NewGPU"] = new
    try:
        assert "NewGPU" in list_available_gpus()
        found = recommend_gpus("Qwen/Qwen3-0.6B", estimate_performance_flag=False)
        added = [rec for rec in found.recommendations if rec.recommendation.gpu_spec.name == "NewGPU"]
        assert added
        assert all(rec.fits and rec.reason is None for rec in added)
        (timed,) = recommend_gpus("Qwen/Qwen3-0.6B", gpus="NewGPU", max_gpus=1)
        assert timed.fits
        assert "memory_bandwidth_gbs" in str(timed.reason)
    finally:
        del GPU_LIBRARY["NewGPU"]


def test_estimates() -> None:
    one = estimate_performance(
        model_id="meta-llama/Llama-3.1-70B",
        gpu_name="H100",
        num_gpus=2,
        tensor_parallel_size=2,
        input_length=2048,
        output_length=512,
        batch_size=4,
    )
    assert one.is_valid(), one.error
    assert finite(one.time_to_first_token_ms, one.inter_token_latency_ms, one.throughput_tokens_per_sec)
    assert finite(one.max_batch_size, one.max_concurrent_requests)
    configs = [("H100", 1), ("H100", 2), ("A100", 4)]
    results = estimate_performance_batch(
        model_id="meta-llama/Llama-3.1-70B",
        gpu_configs=configs,
        input_length=2048,
        output_length=512,
        tensor_parallel_size=1,
    )
    assert list(results) == ["H100x1", "H100x2", "A100x4"]
    assert all(estimate.is_valid() for estimate in estimate_performance_batch("Qwen/Qwen3-8B", configs).values())


def test_the_classic_question_and_its_analyses() -> None:
    recommender = GPURecommender(input_len=2000, output_len=256)
    found = recommender.recommend_gpus(models=CLASSIC, gpus=["H200", "L40"], num_gpus=1, metric="throughput")
    assert len(found) == len(CLASSIC)
    printed = StringIO()
    recommender.print_recommendations(found, file=printed)
    assert all(model.split("/")[-1] in printed.getvalue() for model in CLASSIC)
    assert len(recommender.recommend_gpus(CLASSIC[:2], ["H200", "L40"], 1, metric="latency")) == 2

    # Wherever its throughput is highest, whether measured runs are near that load or not.
    (best,) = recommender.recommend_gpus("Qwen/Qwen3-8B", gpus=["H200", "L40"], num_gpus=1, trust="any")
    assert best.best_gpu == "H200-SXM-141GB"
    assert len(best.analyses) == 2
    for analysis in best.analyses:
        config, metrics = analysis.config, analysis.metrics
        assert analysis.error is None
        assert (config.model, config.num_gpus, config.precision) == ("Qwen/Qwen3-8B", 1, "bf16")
        assert (config.input_len, config.output_len) == (2000, 256)
        alone = estimate_performance("Qwen/Qwen3-8B", config.gpu, input_length=2000, output_length=256)
        assert (metrics.ttft_ms, metrics.itl_ms, metrics.e2e_s) == (alone.ttft_ms, alone.itl_ms, alone.e2e_s)
        estimate = {item.gpu: item.estimate for item in best}[config.gpu]
        assert estimate is not None
        assert (metrics.output_tokens_per_s, metrics.requests_per_s, metrics.optimal_concurrency) == (
            estimate.output_tokens_per_s,
            estimate.requests_per_s,
            estimate.batch_size,
        )
        assert metrics.input_tokens_per_s == (metrics.requests_per_s or 0) * 2000
        assert metrics.bottleneck in ("memory", "compute", "communication", "overhead")
        # Reading a prompt multiplies every weight with all its tokens, a decode step with one of each request.
        gpu = get_gpu_spec(config.gpu)
        assert metrics.hardware_ops_per_byte == 1e3 * gpu.dense_tflops["bf16"] / gpu.memory_bandwidth_gbs
        assert (metrics.prefill_bound, metrics.decode_bound) == ("compute", "memory")
        assert (
            (metrics.prefill_arithmetic_intensity or 0) > 1000 > 100 > (metrics.decode_arithmetic_intensity or 0) > 10
        )
        limits = (metrics.kv_cache_limit, metrics.prefill_compute_limit, metrics.decode_capacity_limit)
        assert metrics.kv_cache_limit == alone.max_concurrent_requests
        assert metrics.overall_limit == min(limit or 0 for limit in limits) > 1
    told = str(best.analyses[0])
    assert all(word in told for word in ("Qwen/Qwen3-8B on H200-SXM-141GB x1 bf16", "TTFT", "bound by", "KV cache"))
    assert json.loads(json.dumps(best.to_dict()))["analyses"][0]["metrics"]["decode_bound"] == "memory"
    (too_large,) = recommender.recommend_gpus("Llama-3.3-70B-Instruct", ["L40"], 1)
    assert too_large.best_gpu is None
    assert "does not fit" in str(too_large.analyses[0].error)
    assert "does not fit" in str(too_large.analyses[0])


def test_what_fits_and_what_is_affordable() -> None:
    found = find_gpu_recommendations(ModelArchitecture("Qwen/Qwen3-32B"), context_length=4096, batch_size=2)
    sizes = [item.gpu_spec.memory_gb for item in found]
    assert sizes == sorted(sizes)
    assert all(item.model_fits and item.performance is None for item in found)
    everything = find_gpu_recommendations("Qwen/Qwen3-32B", 4096, include_all_gpus=True, gpus=["L4", "H200"])
    assert {item.model_fits for item in everything} == {True, False}
    few = filter_recommendations_by_budget(found, max_gpus=2, min_memory_per_gpu_gb=80)
    assert few
    assert all(item.total_gpus <= 2 and item.gpu_spec.memory_gb >= 80 for item in few)
    cheap = filter_recommendations_by_budget(found, max_usd_per_hour=5)
    assert cheap
    assert all((item.usd_per_hour or 99) <= 5 for item in cheap)
    with pytest.raises(InputError, match="context_length must be"):
        find_gpu_recommendations("Qwen/Qwen3-32B", context_length=1)


def test_capacity_planner() -> None:
    model = ModelArchitecture("Qwen/Qwen3-32B")
    assert model_total_params("Qwen/Qwen3-32B") == model.num_parameters
    assert model_memory_req(model) == pytest.approx(model.model_memory_gb() * 1e9 / 2**30)
    assert kv_cache_req("Qwen/Qwen3-32B", context_len=4096, batch_size=2) == 2.0
    assert find_possible_tp("Qwen/Qwen3-32B")[:4] == [1, 2, 4, 8]
    assert max_context_len("Qwen/Qwen3-32B") == 40960


def test_llm_optimizer_under_its_documented_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_bentoml_output is parse_llm_optimizer_output
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="pip install"):
        BentoMLEstimator(input_len=2000, output_len=256, options={"command": "/nowhere"}).estimate(
            model="Qwen/Qwen2.5-7B", gpu="H100", num_gpus=1
        )


def test_command_line(tmp_path: Path) -> None:
    models = ("--model", "Qwen/Qwen2.5-7B", "--model", "meta-llama/Llama-3.3-70B-Instruct")
    gpus = ("--gpu", "H200", "--gpu", "L40", "--gpu", "H100")
    shape = ("--input-len", "2000", "--output-len", "256", "--num-gpus", "1")
    for metric, objective in (("throughput", "throughput"), ("latency", "e2e")):
        done = gpuscout(
            "run", *models, *gpus, *shape, "--metric", metric, "--output-json", f"{metric}.json", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        document = json.loads((tmp_path / f"{metric}.json").read_text())
        assert document["schema_version"]
        assert document["objective"] == objective
        sizes = {c["num_gpus"] for group in document["groups"] for c in group["best_per_gpu"]}
        assert sizes == {1}
    module = subprocess.run(
        [sys.executable, "-m", "gpuscout", "--help"], env=environment(), capture_output=True, text=True, check=False
    )
    assert module.returncode == 0, module.stderr
    assert "gpuscout" in module.stdout


def test_a_type_checker_understands_these_calls() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(Path(__file__).relative_to(ROOT))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)
