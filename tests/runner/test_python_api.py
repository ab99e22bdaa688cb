"""The Python API: models, single estimates, batches and recommendations; the same as the command line and the store."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscout import (
    GPURecommender,
    GpuscoutError,
    ModelArchitecture,
    ModelCatalogue,
    PerformanceEstimate,
    Question,
    Store,
    estimate_many,
    estimate_performance,
    estimate_performance_batch,
    get_gpu_spec,
    list_available_gpus,
    open_store,
    parse_slo,
    rank,
    recommend_gpus,
)
from gpuscout.store.database.locks import RunnerLock
from gpuscout.sweeps.errors import InputError, SpecError, UnknownNameError
from tests.support.commands import count, environment, install_engine
from tests.support.forked import gpuscout
from tests.support.hub import TOKEN, as_file, serving

pytestmark = pytest.mark.slow

CATALOGUE = ModelCatalogue.load()
SHAPE = {"input_length": 2000, "output_length": 256}
GIB_PER_GB = 1e9 / 2**30


# --- models and GPUs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["openai/gpt-oss-120b", "ibm-granite/granite-4.0-h-small", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-8B"]
)
def test_a_model_tells_what_its_architecture_does(name: str) -> None:
    model, known = ModelArchitecture(name), CATALOGUE.get(name)
    assert model.architecture == known
    assert (model.parameters, model.active_parameters) == (known.total_parameters, known.active_parameters)
    assert model.is_quantized == (known.quantization_method is not None)
    assert model.possible_tensor_parallel_sizes()[0] == 1
    assert model.model_memory_gb() == known.weight_bytes(known.precision) / 1e9
    detail = model.get_kv_cache_detail(5000, 3)
    assert detail.total_gb == model.kv_cache_memory_gb(5000, 3)
    assert detail.total_gb == pytest.approx(sum(group.gb for group in detail.groups))
    assert detail.bytes_per_token == pytest.approx(sum(group.bytes_per_token for group in detail.groups))
    assert detail.attention_kind == known.attention_kind
    assert json.loads(json.dumps(detail.to_dict()))["groups"][0]["layers"] == known.attention[0].layers


def test_the_kinds_of_attention_are_kept_apart() -> None:
    short, long = (ModelArchitecture("gpt-oss-120b").get_kv_cache_detail(length) for length in (1_000, 100_000))
    by_kind = {group.attention: group.gb for group in long.groups}
    assert by_kind["sliding"] == {group.attention: group.gb for group in short.groups}["sliding"]
    assert by_kind["full"] > 99 * {group.attention: group.gb for group in short.groups}["full"]
    hybrid = ModelArchitecture("granite-4.0-h-small").get_kv_cache_detail(1)
    assert {group.attention: group.bytes_per_token > 0 for group in hybrid.groups} == {"mamba": False, "full": True}


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("name", ["Llama-3.3-70B-Instruct", "gpt-oss-120b", "granite-4.0-h-small"])
def test_total_memory_is_what_the_engine_needs(name: str, size: int) -> None:
    model = ModelArchitecture(name)
    # Where kernels pad MXFP4 experts, a GPU needs more than the model has.
    gpu = "A100-80GB" if name == "gpt-oss-120b" else "B300"
    estimate = estimate_performance(model, gpu, size, **SHAPE)
    assert estimate.memory_needed_gib == pytest.approx(
        model.total_memory_gb(2256, tensor_parallel_size=size) * GIB_PER_GB
    )
    more = model.total_memory_gb(2256, 5, tensor_parallel_size=size) - model.total_memory_gb(
        2256, 4, tensor_parallel_size=size
    )
    assert more == pytest.approx(
        model.total_memory_gb(2256, 2, tensor_parallel_size=size)
        - model.total_memory_gb(2256, tensor_parallel_size=size)
    )
    assert more >= 0.99 * model.kv_cache_memory_gb(2256) / size


def test_what_a_model_cannot_be_asked() -> None:
    model = ModelArchitecture("Qwen/Qwen3-8B")
    with pytest.raises(UnknownNameError, match="fp9") as unknown:
        model.model_memory_gb("fp9")
    assert "fp8" in unknown.value.suggestions
    with pytest.raises(UnknownNameError):
        model.kv_cache_memory_gb(100, kv_precision="fp32")
    for wrong in (0, -1, True, 1.5, "2"):
        with pytest.raises(InputError, match="batch_size"):
            model.kv_cache_memory_gb(100, wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tensor_parallel_size: 3"):
        model.total_memory_gb(100, tensor_parallel_size=3)
    with pytest.raises(UnknownNameError) as nowhere:
        ModelArchitecture("Qwen3-8C")
    assert "Qwen/Qwen3-8B" in nowhere.value.suggestions


def test_a_local_model_is_one_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-finetune"
    folder.mkdir()
    (folder / "config.json").write_bytes(as_file(CATALOGUE.config("Qwen/Qwen3-8B")))
    monkeypatch.chdir(tmp_path)
    model = ModelArchitecture("./my-finetune")
    assert (model.model_id, model.parameters) == ("my-finetune", ModelArchitecture("Qwen/Qwen3-8B").parameters)
    by_name = estimate_performance("./my-finetune", "H200", **SHAPE)
    assert by_name.is_valid()
    assert by_name == estimate_performance(model, "H200", **SHAPE)
    official = estimate_performance("Qwen/Qwen3-8B", "H200", **SHAPE)
    assert replace(by_name, model_id=official.model_id) == official
    for asked in ("./my-finetune", model):
        assert recommend_gpus(asked, 2000, 256, gpus="H200").best is not None


def test_a_path_is_a_local_model_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("mine")  # not one of the catalogue called so
    folder.mkdir()
    (folder / "config.json").write_bytes(as_file(CATALOGUE.config("Qwen/Qwen3-8B")))
    for path in (folder, folder / "config.json", folder.absolute()):
        model = ModelArchitecture(path)
        assert (model.model_id, model.architecture) == ("mine", ModelArchitecture("./mine").architecture)
        assert estimate_performance(path, "H200") == estimate_performance("./mine", "H200")
    found = recommend_gpus(folder, gpus=["H200"], max_gpus=1)
    assert found.model == "mine"
    assert [result.model for result in GPURecommender().recommend_gpus(folder, ["H200"], 1)] == ["mine"]


@pytest.mark.parametrize("wrong", [None, 5, "", b"Qwen/Qwen3-8B", ["Qwen/Qwen3-8B"]])
def test_what_names_nothing_is_told(wrong: Any) -> None:
    for ask in (ModelArchitecture, get_gpu_spec, lambda name: recommend_gpus(name, gpus=["H200"])):
        with pytest.raises(InputError):
            ask(wrong)
    assert "model_id: " in str(estimate_performance(wrong, "H200").error)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "4"])
def test_limits_and_prices_that_are_none_are_told_by_their_names(wrong: Any) -> None:
    with pytest.raises(InputError, match="max_tensor_parallel must be"):
        recommend_gpus("Qwen3-8B", max_tensor_parallel=wrong, max_gpus=8)
    with pytest.raises(InputError, match="invalid prices"):
        estimate_performance("Qwen3-8B", "H200", prices=wrong)


def test_gpus_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(
        "gpus: [{name: X100, vendor: Example, family: X1, memory_gb: 96, memory_bandwidth_gbs: 4000, "
        "dense_tflops: {bf16: 800}, pcie_gbs: 64, gpus_per_node: 2}]"
    )
    assert list_available_gpus(gpu_file=file) == [*list_available_gpus(), "X100"]
    assert get_gpu_spec("x100", gpu_file=str(file)).memory_gb == 96
    assert estimate_performance("Qwen3-8B", "X100", gpu_file=file).is_valid()
    assert not estimate_performance("Qwen3-8B", "X100").is_valid()
    found = recommend_gpus("Qwen3-8B", gpus=["X100", "L4"], gpu_file=file, prices={"X100": 0.01}, trust="any")
    assert found.best == found.filter_by_gpu_name("x100")[0]
    with pytest.raises(UnknownNameError, match="H10O"):
        get_gpu_spec("H10O")
    with pytest.raises(InputError, match="cannot read"):
        estimate_performance("Qwen3-8B", "H200", gpu_file=tmp_path / "none.yaml")


# --- estimates ---------------------------------------------------------------------------------------------------

GOOD: list[dict[str, Any]] = [
    {"model_id": "openai/gpt-oss-120b", "gpu_name": "H200", "batch_size": 64, **SHAPE},
    {"model_id": "Llama-3.3-70B-Instruct", "gpu_name": "H200", "num_gpus": 8, "tensor_parallel_size": 2, **SHAPE},
    {"model_id": "Qwen/Qwen3-8B", "gpu_name": "l40", "batch_size": 8, "precision": "fp8", "kv_precision": "fp8"},
    {"model_id": "Qwen/Qwen3-8B", "gpu_name": "MI300X", "server": "sglang", "context_length": 8192},
    {"model_id": "Qwen/Qwen3-8B", "gpu_name": "L4", "batch_size": 512, "gpu_memory_utilization": 0.95},
]
# What is wrong with them, the outcome, and what the error has to say.
BAD: list[tuple[Any, str, tuple[str, ...]]] = [
    ({"model_id": "Llama-3.3-70C", "gpu_name": "H200"}, "invalid", ("unknown model", "Llama-3.3-70B-Instruct")),
    ({"model_id": "Qwen3-8B", "gpu_name": "H10O"}, "invalid", ("unknown GPU", "H100-SXM-80GB")),
    ({"model_id": "Llama-3.3-70B-Instruct", "gpu_name": "L40"}, "does_not_fit", ("does not fit", "GiB")),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "num_gpus": 3}, "invalid", ("parallel 3", "32 attention heads")),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "num_gpus": 6, "tensor_parallel_size": 4}, "invalid", ("multiple",)),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "input_length": 50_000}, "invalid", ("40,960",)),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "context_length": 9}, "invalid", ("context_length", "1,536")),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "batch_size": 0}, "invalid", ("batch_size", "1 up to")),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "input_length": "2k"}, "invalid", ("input_length", "2k")),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "precision": "fp9"}, "invalid", ("fp9", "did you mean fp8")),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "precision": ["fp8", "bf16"]}, "invalid", ("precision",)),
    ({"model_id": "Qwen3-8B", "gpu_name": "L40", "engine": "rooflin"}, "invalid", ("did you mean roofline",)),
    ({"model_id": "Qwen3-8B", "gpu_name": "V100-SXM2-32GB"}, "not_supported", ("bf16",)),
    ({"model_id": "Qwen3-8B", "gpu": "L40"}, "invalid", ("gpu_name",)),
    ({"model_id": "Qwen/*", "gpu_name": "L40"}, "invalid", ("stands for",)),
    ({"gpu_name": "L40"}, "invalid", ("model_id",)),
    ("Qwen3-8B on L40", "invalid", ("must be a mapping",)),
]


def test_a_batch_is_the_single_estimates_in_their_order() -> None:
    asked = [request for pair in zip(GOOD, [bad for bad, _, _ in BAD], strict=False) for request in pair]
    estimates = estimate_many(iter(asked))
    assert [estimate.is_valid() for estimate in estimates] == [True, False] * len(GOOD)
    for request, estimate in zip(asked, estimates, strict=True):
        assert estimate == estimate_performance(**request)


def test_an_estimate_tells_what_was_asked_and_by_whom_it_was_answered() -> None:
    for request in GOOD:
        estimate = estimate_performance(**request)
        assert estimate.error is None
        assert (estimate.outcome, estimate.kind, estimate.engine) == ("ok", "estimated", "roofline")
        assert estimate.fingerprint
        told = {name: value for name, value in estimate.to_dict().items() if name in request}
        assert told == {
            **request,
            "model_id": ModelArchitecture(request["model_id"]).model_id,
            "gpu_name": get_gpu_spec(request["gpu_name"]).name,
        }
        assert estimate.num_gpus is not None
        assert estimate.output_tokens_per_s is not None
        assert estimate.usd_per_hour is not None
        assert estimate.cost_usd_per_mtok == pytest.approx(
            estimate.usd_per_hour / (estimate.output_tokens_per_s * 3600 / 1e6)
        )
        assert estimate.output_tokens_per_s_per_gpu == estimate.output_tokens_per_s / estimate.num_gpus
        assert (
            PerformanceEstimate(
                **{
                    n: v
                    for n, v in json.loads(json.dumps(estimate.to_dict())).items()
                    if n != "output_tokens_per_s_per_gpu"
                }
            )
            == estimate
        )
    assert estimate_performance(**GOOD[-1]).queued


def test_an_estimate_says_how_sure_it_is() -> None:
    """Around every figure, wider on a GPU that nobody measured; and in the rows of a recommendation, too."""
    shape = {"input_length": 2000, "output_length": 256, "batch_size": 32}
    measured, unmeasured = (estimate_performance("Qwen3-32B", gpu, **shape) for gpu in ("H200", "MI300X"))
    width = {}
    for estimate in (measured, unmeasured):
        document = estimate.to_dict()
        for name in ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s"):
            low, value, high = document[f"{name}_low"], document[name], document[f"{name}_high"]
            assert 0 < low < value < high
            width[estimate.gpu_name, name] = high / low
    assert all(width["MI300X", name] > width["H200-SXM-141GB", name] for name in ("ttft_ms", "itl_ms"))
    [best] = recommend_gpus("Qwen3-32B", 2000, 256, batch_size=32, gpus=["H200"], max_gpus=1)
    assert best.estimate == measured
    assert best.to_row()["itl_ms_high"] == measured.itl_ms_high
    refused = estimate_performance("Llama-3.3-70B-Instruct", "L40")
    assert refused.itl_ms_low is refused.itl_ms_high is None


def test_a_simulated_estimate_has_percentiles_with_their_ranges() -> None:
    request = {"model_id": "Qwen3-8B", "gpu_name": "H100", "input_length": 500, "output_length": 50}
    few, many = estimate_many([{**request, "batch_size": size} for size in (1, 32)], engine="simulator")
    for simulated in (few, many):
        found = simulated.percentiles
        assert found["p50_ttft_ms"] <= found["p95_ttft_ms"] <= found["p99_ttft_ms"]
        assert found["p95_itl_ms_low"] < found["p95_itl_ms"] < found["p95_itl_ms_high"]
        assert simulated.ttft_ms < found["p99_ttft_ms"]
        assert simulated.to_dict()["percentiles"] == found
    assert few.percentiles["p95_itl_ms"] < many.percentiles["p95_itl_ms"]
    assert estimate_performance(**request).percentiles == {}


def test_everything_wrong_is_told_in_the_estimate() -> None:
    estimates = estimate_many(request for request, _, _ in BAD)
    for (request, outcome, words), estimate in zip(BAD, estimates, strict=True):
        assert not estimate.is_valid()
        assert estimate.outcome == outcome, request
        assert estimate.error is not None
        assert [word for word in words if word not in estimate.error] == [], estimate.error
        assert "\n" not in estimate.error
        assert estimate.ttft_ms is estimate.output_tokens_per_s is estimate.cost_usd_per_mtok is None
    too_large = estimates[2]
    assert too_large.memory_needed_gib is not None
    assert too_large.memory_usable_gib is not None
    assert too_large.memory_needed_gib > too_large.memory_usable_gib


def test_a_batch_of_gpus_is_told_by_their_names() -> None:
    shape: dict[str, Any] = {"input_length": 2048, "output_length": 512}
    configs = [("H100", 1), ("h100", 2), ("A100", 4), ("H10O", 1)]
    found = estimate_performance_batch("Qwen/Qwen3-8B", configs, **shape, batch_size=8)
    assert list(found) == ["H100x1", "h100x2", "A100x4", "H10Ox1"]
    for (gpu, number), estimate in zip(configs, found.values(), strict=True):
        assert estimate == estimate_performance("Qwen/Qwen3-8B", gpu, number, **shape, batch_size=8)
    assert "H10O" in str(found["H10Ox1"].error)
    request = {"model_id": "Qwen/Qwen3-8B", "gpu_name": "H100"}
    assert estimate_performance_batch([request]) == estimate_many([request])
    wrong: list[Any] = ["H100", ("H100",), ("H100", 1, 2), 3]
    for config in wrong:
        with pytest.raises(InputError, match=r"gpu_configs\[0\]: expected"):
            estimate_performance_batch("Qwen/Qwen3-8B", [config])
    with pytest.raises(InputError, match="gpu_configs is missing"):
        estimate_performance_batch("Qwen/Qwen3-8B")  # type: ignore[call-overload]


def test_sizes_from_tables_and_left_out_arguments() -> None:
    request = {"model_id": "Qwen/Qwen3-8B", "gpu_name": "H200"}
    plain = estimate_performance(**request)
    table = {"batch_size": np.int64(1), "input_length": np.int32(1024), "num_gpus": None, "precision": None}
    assert estimate_many([{**request, **table}]) == [plain]
    assert estimate_many([]) == []
    assert estimate_performance(**request, tensor_parallel_size=2) == estimate_performance(**request, num_gpus=2)
    assert estimate_performance(**request, context_length=1536) == plain
    assert estimate_performance(**request, precision="native") == plain


def test_many_sizes_of_batches_are_one_curve() -> None:
    request = {"model_id": "Qwen/Qwen3-8B", "gpu_name": "H200"}
    sizes = [300, 1, *range(2, 200)]
    estimates = estimate_many({**request, "batch_size": size} for size in sizes)
    assert [estimate.batch_size for estimate in estimates] == sizes
    ordered = sorted(estimates, key=lambda estimate: estimate.batch_size or 0)
    speeds = [estimate.itl_ms or 0 for estimate in ordered]
    assert speeds == sorted(speeds)
    assert estimates[0] == estimate_performance(**request, batch_size=300)


def test_prices_are_those_of_the_books_unless_given() -> None:
    request: dict[str, Any] = {"model_id": "Qwen/Qwen3-8B", "gpu_name": "H200", "num_gpus": 2}
    assert estimate_performance(**request, prices={"h200": 2.5}).usd_per_hour == 5
    unknown = estimate_performance("Qwen/Qwen3-8B", "Gaudi 2")
    assert unknown.is_valid()
    with pytest.raises(UnknownNameError, match="H20O"):
        estimate_performance(**request, prices={"H20O": 1})
    for wrong in (-1, float("nan"), "2", True):
        with pytest.raises(InputError, match="invalid price"):
            estimate_performance(**request, prices={"H200": wrong})  # type: ignore[dict-item]


ENGINE = """
    from gpuscout.runner.engines.base import CaseAnswer, Point, answered
    def one(case):
        if case.gpu.name == "L4" or 7 in ladder:
            raise RuntimeError("no idea")
        points = [Point(n, 1.0, 2.0, 3.0, 0.0, 0.0) for n in ladder.tolist() if n <= 8]
        return CaseAnswer(points=points, fits_up_to=8 if ladder[-1] > 8 else None)
    return answered(one(cases.case(row)) for row in range(len(cases)))
"""


def test_any_engine_answers_and_its_failures_are_told(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "thumb", ENGINE, cost="EXPENSIVE", in_process=False)
    program = """
        import json
        from gpuscout import estimate_many, recommend_gpus
        asked = [("H200", 4), ("L4", 4), ("H200", 16)]
        batch = [{"model_id": "Qwen/Qwen3-8B", "gpu_name": gpu, "batch_size": size} for gpu, size in asked]
        estimates = estimate_many([*batch, {**batch[0], "engine": "roofline"}], engine="thumb")
        grown = []
        for size in (4, 7):
            grown += estimate_many([{**batch[0], "batch_size": size}], engine="thumb", store="grown.db")
        found = recommend_gpus("Qwen/Qwen3-8B", gpus=["H200", "L4"], engine="thumb", max_gpus=1, objective="ttft")
        print(json.dumps([[estimate.to_dict() for estimate in (*estimates, *grown)], found.to_dict()]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment(plugins),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (fits, fails, too_many, other, four, seven), found = json.loads(done.stdout)
    assert (fits["engine"], fits["fingerprint"], fits["itl_ms"], fits["error"]) == ("thumb", "1", 2.0, None)
    # Zero is a value; a cost cannot be made of it, and what the engine does not say is not known.
    assert (fits["output_tokens_per_s"], fits["cost_usd_per_mtok"], fits["memory_needed_gib"]) == (0.0, None, None)
    assert (fails["outcome"], "no idea" in fails["error"]) == ("error", True)
    assert (too_many["outcome"], "at most 8" in too_many["error"]) == ("does_not_fit", True)
    assert (other["engine"], other["error"]) == ("roofline", None)
    assert (four["error"], seven["outcome"], "no idea" in seven["error"]) == (None, "error", True)
    assert [item["gpu"] for item in found["configurations"]] == ["H200-SXM-141GB"]
    assert ["no idea" in reason for reason in found["exclusions"]] == [True]


# --- stores ------------------------------------------------------------------------------------------------------


def contents(store: Store) -> dict[str, int]:
    tables = ("sweeps", "tasks", "cases", "operating_points", "failures")
    return {
        table: count(store.url.render_as_string(hide_password=False).replace("sqlite:///", ""), table)
        for table in tables
    }


def test_what_is_stored_is_not_computed_again(tmp_path: Path) -> None:
    batch = [*GOOD, *(bad for bad, _, _ in BAD)]
    with open_store(str(tmp_path / "api.db"), create=True) as store:
        first = estimate_many(batch, store=store)
        found = recommend_gpus("gpt-oss-120b", gpus=["H200", "L4"], store=store)
        before = contents(store)
        # Who computes has to hold this lock, which is taken.
        with RunnerLock(store).held():
            assert estimate_many(batch, store=store) == first
            assert estimate_performance(**GOOD[2], store=store) == first[2]
            assert recommend_gpus("gpt-oss-120b", gpus=["H200", "L4"], store=store) == found
        assert contents(store) == before
        estimate_performance(**{**GOOD[0], "batch_size": 65}, store=store)
        assert contents(store)["tasks"] == before["tasks"]
        assert contents(store)["operating_points"] == before["operating_points"] + 1
    assert first == estimate_many(batch)
    assert found == recommend_gpus("gpt-oss-120b", gpus=["H200", "L4"])
    # A place is as good as an open store.
    assert estimate_many(batch, store=tmp_path / "api.db") == first


def test_any_store_will_do(store: Store) -> None:
    estimate = estimate_performance(**GOOD[0], store=store)
    assert estimate == estimate_performance(**GOOD[0])
    found = recommend_gpus("openai/gpt-oss-120b", 2000, 256, gpus="H200", store=store)
    assert found.best == recommend_gpus("openai/gpt-oss-120b", 2000, 256, gpus="H200").best
    with store.reading() as connection:
        (group,) = rank(connection, Question(models=("gpt-oss-120b",))).groups
    assert group.best is not None
    assert found.best is not None
    assert (group.best.gpu, group.best.num_gpus) == (found.best.gpu, found.best.num_gpus)


def test_a_store_that_cannot_be_used_is_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, as anybody can see")
    with pytest.raises(GpuscoutError, match="not a SQLite database"):
        estimate_performance(**GOOD[0], store=tmp_path / "notes.db")


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    expected = [estimate_performance(**request) for request in GOOD]
    with open_store(str(tmp_path / "shared.db"), create=True) as store, ThreadPoolExecutor(8) as pool:
        alone = [pool.submit(estimate_performance, **request) for request in GOOD]
        shared = [pool.submit(estimate_performance, **request, store=store) for request in GOOD]
        assert [future.result() for future in alone] == expected
        assert [future.result() for future in shared] == expected


# --- the Hugging Face Hub ----------------------------------------------------------------------------------------

HUB_PROGRAM = """
import json, sys
from gpuscout import ModelArchitecture, estimate_many, estimate_performance, recommend_gpus
from gpuscout.sweeps.errors import GpuscoutError
token, store = sys.argv[1:]
asked = [{"model_id": name, "gpu_name": "H200"} for name in ("acme/absent", "acme/gated", "acme/open", "acme/secret")]
errors = [estimate.error for estimate in estimate_many(asked)]
with_token = estimate_performance("acme/secret", "H200", hf_token=token, store=store)
best = [
    recommend_gpus(model, gpus="H200", max_gpus=1, store=place).best is not None
    for model, place in (("acme/secret", store), (ModelArchitecture("acme/secret", token), None))
]
best.append(recommend_gpus("acme/secret", gpus="H200", max_gpus=1, hf_token=token).best is not None)
try:
    ModelArchitecture("acme/gated")
except GpuscoutError as error:
    gated = type(error).__name__
print(json.dumps([errors, with_token.to_dict(), best, gated, ModelArchitecture("acme/open").parameters]))
"""


def test_models_of_the_hub_are_fetched_and_refusals_told(tmp_path: Path) -> None:
    config = CATALOGUE.config("Qwen/Qwen3-8B")
    with serving() as hub:
        hub.add("acme/open", config)
        hub.add("acme/gated", config, gated=True)
        hub.add("acme/secret", config, private=True)
        done = subprocess.run(
            [sys.executable, "-c", HUB_PROGRAM, TOKEN, str(tmp_path / "api.db")],
            env=hub.environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    (absent, gated, is_open, secret), with_token, best, kind, parameters = json.loads(done.stdout)
    assert "acme/absent" in absent
    assert "acme/gated" in gated
    assert "HF_TOKEN" in gated
    assert is_open is None
    assert secret is not None
    assert with_token["error"] is None
    assert best == [True, True, True]
    assert kind == "HubGatedError"
    assert parameters == CATALOGUE.get("Qwen/Qwen3-8B").total_parameters
    assert TOKEN not in done.stdout + done.stderr


# --- recommendations ---------------------------------------------------------------------------------------------


def test_a_recommendation_is_the_estimate_at_its_point() -> None:
    found = recommend_gpus(
        "Qwen/Qwen3-32B", 2000, 256, gpus=["H200", "L40S", "MI300X"], precision=["bf16", "fp8"], trust="any"
    )
    assert len(found) > 20
    again = estimate_many(
        {
            "model_id": item.model,
            "gpu_name": item.gpu,
            "num_gpus": item.num_gpus,
            "precision": item.precision,
            "batch_size": item.estimate.batch_size if item.estimate else 1,
            **SHAPE,
        }
        for item in found
    )
    for item, estimate in zip(found, again, strict=True):
        if item.estimate is None:
            assert (item.fits, estimate.is_valid()) == (False, False)
        else:
            assert item.estimate == estimate
        assert item.memory_needed_gib == estimate.memory_needed_gib
        assert item.usd_per_hour == estimate.usd_per_hour
    places = [item.fits for item in found]
    assert places == sorted(places, reverse=True)
    costs = [item.estimate.cost_usd_per_mtok or 0 for item in found if item.estimate]
    assert costs == sorted(costs)


def test_memory_alone_says_the_same_about_what_fits() -> None:
    arguments: dict[str, Any] = {"gpus": ["H200", "L40", "T4"], "batch_size": 200}
    estimated = recommend_gpus("Llama-3.3-70B-Instruct", 2000, 256, **arguments)
    by_memory = recommend_gpus("Llama-3.3-70B-Instruct", 2000, 256, with_estimates=False, **arguments)
    assert by_memory == recommend_gpus(
        "Llama-3.3-70B-Instruct", 2000, 256, estimate_performance_flag=False, **arguments
    )

    def fitting(found: Any) -> dict[tuple[str, int], tuple[bool, str | None, float | None]]:
        return {(item.gpu, item.num_gpus): (item.fits, item.reason, item.memory_needed_gib) for item in found}

    assert fitting(by_memory) == fitting(estimated)
    assert all(item.estimate is None for item in by_memory)
    waiting = [item for item in estimated if item.estimate and item.estimate.queued]
    assert waiting
    assert not any(item.fits for item in waiting)
    assert all("200 requests" in str(item.reason) for item in waiting)
    hourly = [item.usd_per_hour or 0 for item in by_memory.filter_fitting_only()]
    assert hourly == sorted(hourly)


def test_filters_sorts_and_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recommend_gpus("gpt-oss-120b", 2000, 256, gpus=["H200", "L40", "A10G", "Trainium2"], batch_size=16)
    fitting = found.filter_fitting_only()
    assert 0 < len(fitting) < len(found)
    assert all(item.fits for item in fitting)
    assert {item.gpu for item in found.filter_by_gpu_name("h200", "A10*")} == {"H200-SXM-141GB", "A10G"}
    assert len(found.filter_by_gpu_name("B200")) == 0
    with pytest.raises(UnknownNameError, match="H20O"):
        found.filter_by_gpu_name("H20O")

    assert fitting.sort_by_performance("throughput") is fitting
    speed = [item.estimate.output_tokens_per_s for item in fitting if item.estimate]
    assert speed == sorted(speed, key=lambda tokens: -(tokens or 0))
    for metric, name in (("itl", "itl_ms"), ("latency", "e2e_s"), ("ttft", "ttft_ms")):
        figures = [getattr(item.estimate, name) for item in found.sort_by_performance(metric) if item.estimate]
        assert figures == sorted(figures)
    with pytest.raises(UnknownNameError, match="speed"):
        found.sort_by_performance("speed")
    by_cost = fitting.sort_by_cost()
    unpriced = [item.usd_per_hour is None for item in by_cost]
    assert unpriced == sorted(unpriced)
    assert sorted(map(str, by_cost)) == sorted(map(str, fitting))

    assert found[0] == next(iter(found))
    assert list(found[1:3]) == list(found)[1:3]
    document = json.loads(json.dumps(found.to_dict()))
    assert [item["gpu"] for item in document["configurations"]] == [item.gpu for item in found]
    table = found.to_dataframe()
    assert table.gpu.tolist() == [item.gpu for item in found]
    assert table.itl_ms.notna().sum() == sum(item.estimate is not None for item in found)
    assert list(
        recommend_gpus("gpt-oss-120b", gpus="L4", max_gpus=1).filter_fitting_only().to_dataframe().columns
    ) == list(table.columns)
    summary = found.summary()
    assert str(found.best) in summary
    assert f"{len(fitting)} of {len(found)} configurations fit" in summary

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pandas") as missing:
        found.to_dataframe()
    assert missing.value.hint == "pip install pandas"


def test_limits_and_prices_decide() -> None:
    arguments: dict[str, Any] = {"gpus": ["H200", "L40S"]}
    assert {item.num_gpus for item in recommend_gpus("Qwen3-8B", max_tensor_parallel=2, max_gpus=4, **arguments)} == {
        1,
        2,
    }
    assert recommend_gpus("Qwen3-8B", max_gpus=2, **arguments).exclusions == ()
    for cheap, dear in (("H200", "L40S"), ("L40S", "H200")):
        best = recommend_gpus("Qwen3-8B", prices={cheap: 0.01, dear: 100}, **arguments).best
        assert best is not None
        assert best.gpu.startswith(cheap)
    strict = recommend_gpus("Qwen3-8B", slos="itl<=0.1ms", **arguments)
    assert strict.best is None
    assert all(item.fits and "itl<=0.1ms" in str(item.reason) for item in strict)
    met = recommend_gpus("Qwen3-8B", slos=["itl<=15ms", "ttft<=1s"], **arguments)
    ok = [item.estimate for item in met if item.reason is None]
    assert ok
    assert all(estimate and (estimate.itl_ms or 0) <= 15.001 for estimate in ok)
    assert any(estimate and estimate.interpolated for estimate in ok)
    too_long = recommend_gpus("Qwen3-8B", 50_000, **arguments)
    assert (len(too_long), too_long.best) == (0, None)
    assert "40,960" in too_long.summary()
    assert len(too_long.to_dataframe()) == 0


def test_arguments_that_cannot_be_are_told_in_their_own_words() -> None:
    wrong: dict[str, dict[str, Any]] = {
        'model: unknown model "Qwen3-8C"': {"model": "Qwen3-8C"},
        'gpus: unknown GPU "H10O"': {"gpus": ["H10O"]},
        "input_length: 0 is out of range": {"input_length": 0},
        "batch_size: 0 is out of range": {"batch_size": 0},
        'precision: unknown precision "fp9"': {"precision": "fp9"},
        "max_gpus: 0 is out of range": {"max_gpus": 0},
        'objective: unknown objective "speed"': {"objective": "speed"},
        'engine: unknown engine "rooflin"': {"engine": "rooflin"},
    }
    for text, arguments in wrong.items():
        with pytest.raises(SpecError) as refused:
            recommend_gpus(**{"model": "Qwen3-8B", **arguments})
        assert text in refused.value.message
    with pytest.raises(SpecError) as both:
        recommend_gpus("Qwen3-8C", gpus="H10O")
    assert len(both.value.problems) == 2


def test_objects_stand_for_their_names() -> None:
    h100, limit = get_gpu_spec("H100"), parse_slo("itl<=10ms")
    found = recommend_gpus("Qwen3-8B", gpus=[h100, "L4"], slos=[limit])
    assert found == recommend_gpus("Qwen3-8B", gpus=["H100", "L4"], slos="itl<=10ms")
    assert recommend_gpus("Qwen3-8B", gpus=h100, slos=limit).best_gpu == h100.name
    assert recommend_gpus("Qwen3-8B", gpus="H100, L4", slos=limit) == found
    hopper = {item.gpu for item in recommend_gpus("Qwen3-8B", gpus="Hopper", max_gpus=1)}
    assert hopper == set(list_available_gpus(family="Hopper"))
    amd = recommend_gpus("Qwen3-8B", gpus=["AMD", "MI300X"], max_gpus=1)
    assert amd == recommend_gpus("Qwen3-8B", gpus={"vendor": "AMD"}, max_gpus=1)
    with pytest.raises(InputError, match="GPU_LIBRARY does not hold this"):
        recommend_gpus("Qwen3-8B", gpus=[replace(h100, memory_bandwidth_gbs=9_000)])
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found


def test_what_a_result_cannot_be_asked() -> None:
    found = recommend_gpus("Qwen3-8B", gpus="L4", max_gpus=1)
    wrong: dict[str, Any] = {
        "confidence must be a number": lambda: recommend_gpus("Qwen3-8B", confidence="high"),  # type: ignore[arg-type]
        "from 0.5 to 0.99, got 2": lambda: recommend_gpus("Qwen3-8B", confidence=2),
        'unknown trust "measured"': lambda: GPURecommender().recommend_gpus("Qwen3-8B", trust="measured"),
        "store must be": lambda: recommend_gpus("Qwen3-8B", store=5),  # type: ignore[arg-type]
        "got nothing": found.filter_by_gpu_name,
        "names of GPUs, got 3": lambda: found.filter_by_gpu_name(3),  # type: ignore[arg-type]
        "metric must be": lambda: found.sort_by_performance(None),  # type: ignore[arg-type]
        "expected a GPURecommendation": lambda: found.add_recommendation("L4"),  # type: ignore[arg-type]
    }
    for text, ask in wrong.items():
        with pytest.raises(InputError, match=text):
            ask()
    assert len(found) == 1
    with pytest.raises(ValueError, match="H10O"):
        get_gpu_spec("H10O")


def test_confidence_and_trust_are_those_of_the_ranking() -> None:
    arguments: dict[str, Any] = {"gpus": ["H200", "MI300X"], "slos": "itl<=30ms", "max_gpus": 1}
    plain, careful = (recommend_gpus("Qwen3-32B", 2000, 256, confidence=c, **arguments) for c in (0.5, 0.9))
    for sure, item in ((careful.best, plain.best),):
        assert sure is not None
        assert item is not None
        assert (sure.likelihood or 0) >= 0.89 > (item.likelihood or 1) > 0.4
        assert (sure.estimate, item.estimate) != (None, None)
    backed = recommend_gpus("Qwen3-32B", 2000, 256, trust="backed", **arguments)
    assert all(item.backed for item in backed if item.reason is None)
    refused = [item for item in backed if item.gpu == "MI300X"]
    assert refused
    assert all(item.fits and "not trusted" in str(item.reason) for item in refused)


def test_the_recommender_says_of_each_model_what_it_says_of_all() -> None:
    recommender = GPURecommender(2000, 256)
    models = ["Qwen/Qwen3-8B", "Llama-3.3-70B-Instruct"]
    found = recommender.recommend_gpus(models, ["H200", "L40"], metric="throughput")
    assert [result.model for result in found] == [ModelArchitecture(model).model_id for model in models]
    for model, result in zip(models, found, strict=True):
        assert result == recommend_gpus(model, 2000, 256, gpus=["H200", "L40"], objective="throughput")
    fixed = recommender.recommend_gpus(models, ["H200", "L40"], num_gpus=1)
    assert {item.num_gpus for result in fixed for item in result} == {1}
    assert fixed[1].best is fixed[1].best_gpu is None
    printed = StringIO()
    with pytest.raises(InputError, match="yet"):
        GPURecommender().print_recommendations()
    recommender.print_recommendations(file=printed)
    again = StringIO()
    recommender.print_recommendations(fixed, file=again)
    assert printed.getvalue() == again.getvalue()
    assert str(fixed[0].best) in printed.getvalue()
    assert "0 of 2 configurations fit" in printed.getvalue()


MODELS = (
    "openai/gpt-oss-120b",
    "RedHatAI/Qwen3-8B-FP8-dynamic",
    "meta-llama/Llama-3.3-70B-Instruct",
    "ibm-granite/granite-4.0-h-small",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
)


def test_the_classic_question_has_one_answer(tmp_path: Path) -> None:
    """Five models on H200 and L40, 2,000 tokens in and 256 out, by throughput and by latency."""
    gpus = ["H200", "L40"]
    flags = [part for model in MODELS for part in ("--model", model)] + [
        part for gpu in gpus for part in ("--gpu", gpu)
    ]
    recommender = GPURecommender(2000, 256)
    for metric in ("throughput", "itl", "e2e"):
        found = recommender.recommend_gpus(MODELS, gpus, metric=metric, store=tmp_path / "api.db")
        assert tuple(result.model for result in found) == MODELS
        done = gpuscout(
            *("run", *flags, "--input-len", "2000", "--output-len", "256", "--objective", metric, "--no-slo", "--json"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        groups = {group["model"]: group for group in json.loads(done.stdout)["groups"]}
        assert groups.keys() == set(MODELS)
        for result in found:
            best = result.best_per_gpu
            told = groups[result.model]["best_per_gpu"]
            assert [(c["gpu"], c["num_gpus"], c["precision"]) for c in told] == [
                (item.gpu, item.num_gpus, item.precision) for item in best
            ]
            for shown, item in zip(told, best, strict=True):
                assert item.estimate is not None
                assert (shown["concurrency"], shown["itl_ms"], shown["output_tokens_per_s"]) == (
                    item.estimate.batch_size,
                    item.estimate.itl_ms,
                    item.estimate.output_tokens_per_s,
                )
            assert result.best is not None
            assert result.best.gpu == told[0]["gpu"] == "H200-SXM-141GB"


def test_names_are_loaded_when_they_are_used() -> None:
    program = """
        import sys
        import gpuscout
        assert not {"numpy", "sqlalchemy", "pydantic"} & sys.modules.keys()
        assert gpuscout.estimate_performance("Qwen3-8B", "H200").is_valid()
        assert gpuscout.recommend_gpus("Qwen3-8B", gpus="H200").best
        heavy = {"ray", "transformers", "pandas", "matplotlib", "huggingface_hub", "typer"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment())
