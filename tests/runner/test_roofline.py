"""The roofline engine: accuracy on measured runs, what each kind of parallelism does, and properties that must hold."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout.runner.engines.base import as_ladder, info
from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.runner.engines.roofline.constants import Constants
from gpuscout.runner.engines.roofline.features import features, split_weights
from gpuscout.runner.engines.roofline.memory import memory
from gpuscout.runner.engines.roofline.physics import SMALLEST_DEFAULT_BUDGET, decode_step, step_seconds
from gpuscout.runner.engines.simulator.engine import Simulator
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import BOUNDS, POINT_COLUMNS, Bound, Curves, Points
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.precision import PRECISIONS, Precision
from gpuscout.sweeps.servers import SERVERS
from gpuscout.sweeps.servers.options import default_options
from gpuscout.sweeps.speculative import Speculative

LADDER = as_ladder([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096])
SAMPLE = Path(__file__).parents[1] / "data" / "measured_sample.csv"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"
QWEN_MOE = "Qwen/Qwen3-235B-A22B"
DEEPSEEK = "deepseek-ai/DeepSeek-V3"
H100 = "H100-SXM-80GB"


def model(name: str) -> ModelSpec:
    return ModelCatalogue.load().get(name)


def gpu(name: str) -> GPUSpec:
    return GPUCatalogue.load().get(name)


def case(model_name: str = LLAMA_8B, gpu_name: str = H100, **changes: object) -> Case:
    fields = {"input_len": 1024, "output_len": 256, **changes}
    return Case(model=model(model_name), gpu=gpu(gpu_name), **fields)


def evaluate(*cases: Case, ladder: object = LADDER) -> Curves:
    return RooflineEngine().evaluate(CaseColumns.of(cases), as_ladder(ladder))


def points(one: Case, ladder: object = LADDER) -> Points:
    curves = evaluate(one, ladder=ladder)
    assert curves.outcome[0] == Outcome.OK.code, curves.details
    return curves.points


def figures(p: Points) -> list[np.ndarray]:
    return [getattr(p, name) for name in POINT_COLUMNS]


# --- accuracy


def test_accuracy_on_measured_runs() -> None:
    lines = [line for line in SAMPLE.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    errors: dict[str, list[float]] = {"ttft": [], "itl": [], "throughput": []}
    for row in rows:
        sizes = zip(("tensor", "pipeline", "data", "expert"), ("tp", "pp", "dp", "ep"), strict=True)
        one = case(
            row["model"],
            row["gpu"],
            input_len=int(row["input_len"]),
            output_len=int(row["output_len"]),
            precision=Precision(row["precision"]),
            kv_precision=Precision(row["kv_precision"]),
            server=row["server"],
            **{f"{name}_parallel": int(row[column]) for name, column in sizes},
        )
        concurrency, output_len = int(row["concurrency"]), int(row["output_len"])
        p = evaluate(one, ladder=[concurrency]).points
        if not len(p):
            continue  # the run used more memory than the default share
        ttft_ms, itl_ms = float(row["ttft_ms"]), float(row["itl_ms"])
        measured = concurrency * output_len / ((ttft_ms + itl_ms * (output_len - 1)) / 1000)
        errors["ttft"].append(abs(p.ttft_ms[0] / ttft_ms - 1))
        errors["itl"].append(abs(p.itl_ms[0] / itl_ms - 1))
        errors["throughput"].append(abs(p.output_tokens_per_s[0] / measured - 1))
    assert len(errors["itl"]) >= 0.95 * len(rows)
    medians = {name: statistics.median(values) for name, values in errors.items()}
    assert medians["itl"] < 0.13, medians
    assert medians["throughput"] < 0.13, medians
    assert medians["ttft"] < 0.40, medians


# --- parallelism


def test_tensor_parallelism_shortens_a_token_less_than_ideally() -> None:
    one, four = (points(case(tensor_parallel=tp), [1]).itl_ms[0] for tp in (1, 4))
    assert one / 4 < four < one / 1.3


def test_tensor_parallelism_over_pcie_gains_less_than_over_nvlink() -> None:
    def gain(name: str) -> float:
        slow, fast = (points(case(LLAMA_70B, name, tensor_parallel=tp), [64]).output_tokens_per_s[0] for tp in (4, 8))
        return float(fast / slow)

    nvlink = gpu("H200-SXM-141GB")
    pcie = dataclasses.replace(
        nvlink, name="pcie", link_kind="PCIe", link_gbs=64.0, link_pair_gbs=64.0, scale_up_gpus=1
    )

    def throughput(g: GPUSpec, tp: int) -> float:
        one = dataclasses.replace(case(LLAMA_70B, tensor_parallel=tp), gpu=g)
        return float(points(one, [64]).output_tokens_per_s[0])

    assert throughput(pcie, 8) < throughput(nvlink, 8)
    assert throughput(pcie, 8) / throughput(pcie, 4) < throughput(nvlink, 8) / throughput(nvlink, 4)
    assert gain("RTX PRO 6000 Blackwell Server") < gain("H200-SXM-141GB")


def test_pairwise_links_count_for_the_peers_they_reach() -> None:
    whole = gpu("MI300X")
    switched = dataclasses.replace(whole, name="switched", link_pair_gbs=whole.link_gbs)
    pair, all_peers = (
        [
            points(dataclasses.replace(case(LLAMA_70B, tensor_parallel=tp, input_len=8192), gpu=g), [1]).ttft_ms[0]
            for g in (whole, switched)
        ]
        for tp in (2, 8)
    )
    assert pair[0] > pair[1] * 1.02  # two GPUs have one link of seven
    assert all_peers[0] == pytest.approx(all_peers[1])


def test_a_tensor_parallel_group_beyond_a_node_pays_for_the_network() -> None:
    inside, beyond = (points(case(LLAMA_70B, H100, tensor_parallel=tp), [64]) for tp in (8, 16))
    assert beyond.itl_ms[0] > inside.itl_ms[0]
    assert BOUNDS[beyond.bound[0]] is Bound.COMMUNICATION
    rack = case(LLAMA_70B, "GB200", tensor_parallel=16)
    nodes = dataclasses.replace(rack, gpu=dataclasses.replace(rack.gpu, name="nodes", scale_up_gpus=4))
    assert points(rack, [64]).itl_ms[0] < points(nodes, [64]).itl_ms[0]


def test_pipeline_stages_do_not_shorten_a_token_but_share_the_work() -> None:
    one, four = (points(case(LLAMA_70B, "H200-SXM-141GB", pipeline_parallel=pp), [1, 256]) for pp in (2, 4))
    assert four.itl_ms[0] >= one.itl_ms[0]  # a hand-over more
    assert four.output_tokens_per_s[1] > 1.2 * one.output_tokens_per_s[1]


def test_data_parallel_replicas_of_a_dense_model_multiply_throughput() -> None:
    one = points(case(), [8, 64])
    four = points(case(data_parallel=4), [32, 256])
    np.testing.assert_allclose(four.itl_ms, one.itl_ms)
    np.testing.assert_allclose(four.output_tokens_per_s, 4 * one.output_tokens_per_s)
    # With fewer requests than replicas the others are idle.
    np.testing.assert_allclose(points(case(data_parallel=4), [1, 2, 4]).itl_ms, points(case(), [1]).itl_ms[0])


def test_data_parallel_attention_shares_the_experts_and_multiplies_the_cache() -> None:
    deployment = {"precision": Precision.FP8, "gpu_name": "H200-SXM-141GB"}
    tensor = evaluate(
        case(DEEPSEEK, tensor_parallel=8, **deployment),
        case(DEEPSEEK, data_parallel=8, expert_parallel=8, **deployment),
    )
    tensor_gib, data_gib = tensor.needed_gib
    assert tensor_gib < data_gib < 2 * tensor_gib  # attention is replicated, experts are not
    tensor_tokens, data_tokens = tensor.kv_capacity_tokens
    assert data_tokens > 4 * tensor_tokens  # MLA's cache is replicated by tensor parallelism


def test_expert_parallelism_has_a_price_and_needs_experts() -> None:
    sliced, sharded = (
        points(case(QWEN_MOE, "H200-SXM-141GB", tensor_parallel=8, expert_parallel=ep), [16]) for ep in (1, 8)
    )
    assert sharded.itl_ms[0] != sliced.itl_ms[0]
    curves = evaluate(case(expert_parallel=2, tensor_parallel=2), case(QWEN_MOE, tensor_parallel=4, expert_parallel=3))
    assert curves.outcome.tolist() == [Outcome.INVALID.code] * 2
    assert "mixture-of-experts" in curves.details[0]
    assert "divide" in curves.details[1]


def test_a_mixture_of_experts_is_cheap_alone_and_reads_more_experts_in_a_batch() -> None:
    itl = points(case(QWEN_MOE, "B200", tensor_parallel=8), [1, 64]).itl_ms
    dense = points(case(LLAMA_70B, "B200", tensor_parallel=8), [1, 64]).itl_ms
    assert itl[1] / itl[0] > 1.1 * dense[1] / dense[0]


# --- memory and queueing


def test_mxfp4_experts_are_padded_where_kernels_want_it() -> None:
    """Start-up logs of vLLM: gpt-oss-120b takes 64.4 to 66.0 GiB on H100 and does not start with its whole context."""
    long = evaluate(case("openai/gpt-oss-120b", H100, output_len=128, precision=Precision.FP4, max_model_len=131072))
    assert long.outcome.tolist() == [Outcome.DOES_NOT_FIT.code]
    weights = float(long.details[0].split()[1])
    assert 64.4 <= weights <= 66.0
    # Marlin on Ampere pads nothing: 12.88 GiB in a log.
    small = features(CaseColumns.of([case("openai/gpt-oss-20b", "RTX 3090", precision=Precision.FP4)]))
    assert float(memory(small).weights[0]) / 2**30 == pytest.approx(12.88, rel=0.01)


def test_sliding_windows_are_kept_with_a_chunk_of_the_prompt() -> None:
    """A start-up log of vLLM 0.24: 1,007,303 tokens of a 31B Gemma 4 in NVFP4 with a 16-bit cache on one H200."""
    gemma = case(
        "nvidia/Gemma-4-31B-IT-NVFP4", "H200-SXM-141GB", precision=Precision.FP4, output_len=128, max_model_len=262144
    )
    assert evaluate(gemma).kv_capacity_tokens[0] == pytest.approx(1_007_303, rel=0.03)
    smaller = dataclasses.replace(gemma, server_options=(("max_num_batched_tokens", 2048),))
    assert evaluate(smaller).kv_capacity_tokens[0] > 1.2 * evaluate(gemma).kv_capacity_tokens[0]


def test_data_parallel_attention_is_held_by_every_rank() -> None:
    """vLLM on four B200, attention data-parallel, experts spread: 152 GiB of weights per GPU."""
    kimi = case("nvidia/Kimi-K2.5-NVFP4", "B200", precision=Precision.FP4, data_parallel=4, expert_parallel=4)
    weights = memory(features(CaseColumns.of([kimi]))).weights[0] / 2**30
    assert weights == pytest.approx(152, rel=0.01)


@pytest.mark.parametrize(("name", "tp"), [("Qwen/Qwen3-235B-A22B-FP8", 8), ("Qwen/Qwen3-30B-A3B-FP8", 4)])
@pytest.mark.parametrize("server", ["vllm", "sglang"])
def test_blocks_that_share_a_scale_are_not_split(name: str, tp: int, server: str) -> None:
    of = {"model_name": name, "gpu_name": "H200-SXM-141GB", "precision": Precision.FP8, "server": server}
    curves = evaluate(
        case(tensor_parallel=tp, **of),
        case(tensor_parallel=tp, expert_parallel=tp, **of),
        case(tensor_parallel=tp // 2, **of),
    )
    assert curves.outcome.tolist() == [Outcome.NOT_SUPPORTED.code, Outcome.OK.code, Outcome.OK.code]
    assert f"use expert parallelism (ep {tp})" in curves.details[0]
    other = evaluate(case(name.removesuffix("-FP8"), "H200-SXM-141GB", tensor_parallel=tp, server=server))
    assert other.outcome[0] == Outcome.OK.code


def test_does_not_fit_says_what_is_needed() -> None:
    curves = evaluate(case(LLAMA_70B, "L40S", tensor_parallel=2), case(LLAMA_70B, "L40S", tensor_parallel=4))
    assert curves.outcome.tolist() == [Outcome.DOES_NOT_FIT.code, Outcome.OK.code]
    assert curves.details[0].startswith("weights 65.7 GiB + activations 2.0 GiB + runtime 2.1 GiB per GPU; 40.5 GiB")
    assert curves.details[0].endswith("usable per GPU (44.99 x 0.9)")
    assert curves.needed_gib[0] > curves.usable_gib[0] == pytest.approx(44.99 * 0.9)
    assert curves.needed_gib[1] < curves.usable_gib[1]
    assert set(curves.points.task.tolist()) == {1}


def test_one_request_of_max_model_len_must_fit() -> None:
    curves = evaluate(case(max_model_len=4096), case(max_model_len=10**6))
    assert curves.outcome.tolist() == [Outcome.OK.code, Outcome.DOES_NOT_FIT.code]
    assert "KV cache of one request (1000000 tokens)" in curves.details[1]


def test_less_memory_leaves_less_room() -> None:
    most, less = evaluate(case(), case(gpu_memory_utilization=0.5)).kv_capacity_tokens
    assert 0 < less < most


def test_constant_states_take_memory_but_do_not_grow() -> None:
    name = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    few, many = evaluate(
        case(name, input_len=64, output_len=64), case(name, input_len=64, output_len=64_000)
    ).needed_gib
    attention = model(name).kv_bytes_per_token(Precision.BF16) * (64_000 - 64) / 2**30
    assert many - few == pytest.approx(attention, rel=1e-6)
    states = sum(group.layers * group.state_bytes for group in model(name).attention)
    without = dataclasses.replace(
        model(name), attention=tuple(dataclasses.replace(g, state_bytes=0) for g in model(name).attention)
    )
    stateless = evaluate(dataclasses.replace(case(name, input_len=64, output_len=64), model=without)).needed_gib[0]
    assert few - stateless == pytest.approx(states / 2**30)


def test_requests_beyond_the_cache_queue() -> None:
    p = points(case(input_len=8192, output_len=512), [16, 512, 1024])
    assert p.queued.tolist() == [False, True, True]
    assert p.itl_ms[1] == p.itl_ms[2]
    assert p.ttft_ms[2] > 2 * p.ttft_ms[1] > 20 * p.ttft_ms[0]
    assert p.output_tokens_per_s[2] == pytest.approx(p.output_tokens_per_s[1])


def waited_steps(one: Case, concurrency: int) -> float:
    """What requests wait longer for their first token than one alone does, in steps of the server."""
    alone, together = points(one, [1]), points(one, [concurrency])
    return float((together.ttft_ms[0] - alone.ttft_ms[0]) / together.itl_ms[0])


def test_a_server_that_looks_for_requests_every_so_many_steps_makes_them_wait() -> None:
    """What it so collects is not between its steps."""
    often = case(server="sglang")
    seldom = dataclasses.replace(often, server_options=(("scheduler_recv_interval", 30),))
    assert waited_steps(seldom, 4) > waited_steps(often, 4) + 5
    assert points(seldom, [256]).itl_ms[0] < points(often, [256]).itl_ms[0]


def test_requests_beyond_max_num_seqs_queue() -> None:
    """Those that run are as fast as ever; the others wait."""
    free, capped = case(), dataclasses.replace(case(), server_options=(("max_num_seqs", 32),))
    at_limit, beyond = points(free, [32]), points(capped, [32, 64, 128])
    assert beyond.queued.tolist() == [False, True, True]
    np.testing.assert_allclose(beyond.itl_ms, at_limit.itl_ms[0])
    assert beyond.ttft_ms[0] == at_limit.ttft_ms[0]
    assert beyond.ttft_ms[2] > 2 * beyond.ttft_ms[1] > 10 * beyond.ttft_ms[0]
    np.testing.assert_allclose(beyond.output_tokens_per_s, at_limit.output_tokens_per_s[0])
    # Every attention rank has that many.
    two = dataclasses.replace(capped, data_parallel=2)
    assert points(two, [64, 65]).queued.tolist() == [False, True]


def test_the_step_of_a_simulator_is_the_step_of_the_estimate() -> None:
    one = case(DEEPSEEK, "H200-SXM-141GB", precision=Precision.FP8, tensor_parallel=8, output_len=512)
    columns = CaseColumns.of([one])
    f = features(columns)
    k = Constants.load().rows(columns.gpus, columns.servers, columns.gpu, columns.server)
    sequences, middle = np.array([1.0, 32.0]), one.input_len + one.output_len / 2
    nothing = np.zeros(2)
    steady = step_seconds(f, k, sequences, sequences * middle, nothing)
    np.testing.assert_allclose(steady, decode_step(f, k, sequences).total)
    assert steady[0] * 1e3 == pytest.approx(points(one, [1]).itl_ms[0])
    # Linear in the cache, and a prompt delays those that run less than it takes alone.
    more = [step_seconds(f, k, sequences, sequences * (middle + extra), nothing) for extra in (0, 1000, 2000)]
    np.testing.assert_allclose(more[2] - more[1], more[1] - more[0], rtol=0.05)
    assert (more[1] > more[0]).all()
    mixed = step_seconds(f, k, sequences, sequences * middle, np.full(2, 1024.0))
    alone = step_seconds(f, k, nothing, nothing, np.full(2, 1024.0))
    assert (mixed > steady).all()
    assert (mixed - steady < alone).all()
    assert alone[0] * 1e3 < points(one, [1]).ttft_ms[0]
    np.testing.assert_array_equal(step_seconds(f, k, nothing, nothing, nothing), 0.0)


def test_ranks_that_share_experts_wait_for_each_other() -> None:
    eight = {"data_parallel": 8, "gpu_name": "B200"}
    experts = case(DEEPSEEK, precision=Precision.FP8, expert_parallel=8, input_len=64, **eight)
    assert waited_steps(experts, 16) > 2 * waited_steps(case(LLAMA_8B, input_len=64, **eight), 16)


@pytest.mark.parametrize("server", SERVERS)
def test_a_prompt_delays_another_request_once(server: str) -> None:
    """However short the outputs are: others wait for a prompt before their first token or between two, not twice."""
    heavy = {"server": server, "input_len": 8192, "gpu_name": "H100-SXM-80GB"}
    alone, many = (points(case(output_len=8, **heavy), [c]) for c in (1, 8))
    longest = alone.e2e_s[0] + 7 * alone.ttft_ms[0] / 1000 + 8 * 8 * alone.itl_ms[0] / 1000
    assert not many.queued[0]
    assert many.e2e_s[0] < longest


def test_an_output_of_one_token() -> None:
    one = points(case(output_len=1))
    np.testing.assert_allclose(one.e2e_s, one.ttft_ms / 1000)
    assert one.itl_ms[0] == pytest.approx(points(case(output_len=2)).itl_ms[0], rel=0.01)
    # A round cannot be shorter than its prefills: more requests bring no more throughput in the end.
    assert one.requests_per_s[-1] < 1.1 * one.requests_per_s[-4]


# --- precision


def test_fewer_bits_are_faster_where_the_hardware_has_them() -> None:
    wide, narrow = (points(case(LLAMA_70B, "B200", precision=p), [1, 64]) for p in (Precision.BF16, Precision.FP4))
    assert (narrow.itl_ms < wide.itl_ms).all()
    assert (narrow.ttft_ms < wide.ttft_ms).all()


def test_mxfp4_is_multiplied_natively_where_there_are_fp4_units() -> None:
    """On Blackwell with MXFP8 activations, at the rate of 8 bits; elsewhere it is expanded to 16."""
    gpt = {"model_name": "openai/gpt-oss-120b", "precision": Precision.FP4}
    for name, bits in (("B200", 8), ("H200-SXM-141GB", 16), ("A100-SXM-80GB", 16)):
        assert features(CaseColumns.of([case(gpu_name=name, **gpt)])).multiply_bits[0] == bits


def test_an_indexer_reads_and_scores_every_key() -> None:
    """Sparse attention reads few keys, yet its time grows with the context; without an indexer there is no price."""
    sparse = case("deepseek-ai/DeepSeek-V3.2", "B200", precision=Precision.FP8, tensor_parallel=8)
    short, long = (points(dataclasses.replace(sparse, input_len=n), [32]) for n in (8192, 65536))
    assert long.itl_ms[0] > 1.05 * short.itl_ms[0]
    plain = dataclasses.replace(
        sparse.model,
        attention=tuple(dataclasses.replace(g, index_elements_per_token=0.0) for g in sparse.model.attention),
    )
    without = points(dataclasses.replace(sparse, model=plain), [32])
    assert points(sparse, [32]).itl_ms[0] > without.itl_ms[0]


def test_without_hardware_weights_shrink_but_arithmetic_stays() -> None:
    wide, narrow = (
        points(case(gpu_name="A100-SXM-80GB", precision=p, input_len=8192), [1])
        for p in (Precision.BF16, Precision.FP8)
    )
    assert narrow.itl_ms[0] < 0.75 * wide.itl_ms[0]
    assert narrow.ttft_ms[0] == pytest.approx(wide.ttft_ms[0], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpu_name": "T4", "precision": Precision.BF16}, "use fp16"),
        ({"gpu_name": "V100-SXM2-32GB", "precision": Precision.BF16}, "use fp16"),
        ({"gpu_name": "T4", "precision": Precision.FP8}, "no fp8 units"),
        ({"gpu_name": "V100-SXM2-32GB", "precision": Precision.INT8}, "no int8 units"),
        ({"gpu_name": "A100-SXM-80GB", "precision": Precision.FP8, "server": "trtllm"}, "no fp8 units"),
        ({"gpu_name": H100, "precision": Precision.FP4, "server": "sglang"}, "no fp4 units"),
        ({"gpu_name": "MI300X", "precision": Precision.FP4}, "no fp4 units"),
        ({"gpu_name": "MI300X", "server": "trtllm"}, "does not run on AMD"),
        ({"gpu_name": "TPU v5e", "server": "sglang"}, "does not run on Google"),
        ({"gpu_name": "B200", "precision": Precision.INT8}, "use fp8"),
        ({"gpu_name": H100, "kv_precision": Precision.INT8}, "no int8 KV cache"),
        ({"gpu_name": H100, "kv_precision": Precision.FP4}, "no fp4 KV cache"),
    ],
)
def test_not_supported_says_why(changes: dict[str, object], words: str) -> None:
    curves = evaluate(case(), case(**changes), case())
    assert curves.outcome.tolist() == [Outcome.OK.code, Outcome.NOT_SUPPORTED.code, Outcome.OK.code]
    assert list(curves.details) == [1]
    assert words in curves.details[1]
    assert set(curves.points.task.tolist()) == {0, 2}


@pytest.mark.parametrize("name", ["TPU v6e", "Gaudi 3", "Trainium2", "MI355X"])
def test_generations_without_measured_runs_take_pooled_constants(name: str) -> None:
    assert (points(case(gpu_name=name)).itl_ms > 0).all()


def test_invalid_cases_get_an_outcome() -> None:
    bad = [case(input_len=0), case(max_model_len=100), case(gpu_memory_utilization=0.0), case(pipeline_parallel=100)]
    curves = evaluate(*bad, case())
    assert curves.outcome.tolist() == [Outcome.INVALID.code] * 4 + [Outcome.OK.code]
    assert len(curves.points) == len(LADDER)
    assert len(evaluate().points) == 0


# --- properties

MODELS = ModelCatalogue.load().names()
GPUS = GPUCatalogue.load().names()


@st.composite
def any_changes(draw: st.DrawFn) -> dict[str, object]:
    """Arguments of `case`: unlike a case, short to print."""
    changes: dict[str, object] = {
        "model_name": draw(st.sampled_from(MODELS)),
        "gpu_name": draw(st.sampled_from(GPUS)),
        "input_len": draw(st.sampled_from([1, 128, 1000, 8192, 100_000])),
        "output_len": draw(st.sampled_from([1, 2, 128, 1024, 8192])),
        "precision": draw(st.sampled_from(PRECISIONS)),
        "server": draw(st.sampled_from(SERVERS)),
        "tensor_parallel": draw(st.sampled_from([1, 2, 3, 4, 8, 16])),
        "pipeline_parallel": draw(st.sampled_from([1, 2, 4])),
        "data_parallel": draw(st.sampled_from([1, 2, 8])),
    }
    if draw(st.booleans()) and case(**changes).model.is_moe:
        changes["expert_parallel"] = case(**changes).tensor_parallel * case(**changes).data_parallel
    return changes


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(any_changes())
def test_everything_is_finite_and_consistent(changes: dict[str, object]) -> None:
    one = case(**changes)
    curves = evaluate(one)
    p = curves.points
    if curves.outcome[0] != Outcome.OK.code:
        assert len(p) == 0
        assert curves.details[0]
        return
    assert len(p) == len(LADDER)
    assert curves.kv_capacity_tokens[0] > 0
    for values in (p.ttft_ms, p.itl_ms, p.e2e_s, p.output_tokens_per_s, p.requests_per_s):
        assert np.isfinite(values).all()
        assert (values > 0).all()
    np.testing.assert_allclose(p.e2e_s, (p.ttft_ms + p.itl_ms * (one.output_len - 1)) / 1000)
    np.testing.assert_allclose(p.requests_per_s, p.concurrency / p.e2e_s)
    np.testing.assert_allclose(p.output_tokens_per_s, p.requests_per_s * one.output_len)
    assert (np.diff(p.itl_ms) >= -1e-9 * p.itl_ms[1:]).all()
    assert (np.diff(p.ttft_ms) >= -1e-9 * p.ttft_ms[1:]).all()
    assert (np.diff(p.output_tokens_per_s) >= -0.01 * p.output_tokens_per_s[1:]).all()
    assert (np.diff(p.queued.astype(int)) >= 0).all()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(any_changes())
def test_more_is_never_slower(changes: dict[str, object]) -> None:
    one = case(**changes)
    curves = evaluate(one)
    if curves.outcome[0] != Outcome.OK.code:
        return
    p = curves.points
    # Server defaults go by name and memory: the same ones everywhere.
    columns = CaseColumns.of([one])
    given = {name: int(columns.option(name)[0]) for name in ("max_num_seqs", "max_num_batched_tokens")}
    one = dataclasses.replace(one, server_options=tuple(sorted(given.items())))
    faster = dataclasses.replace(one.gpu, name="faster", memory_bandwidth_gbs=2 * one.gpu.memory_bandwidth_gbs)
    assert (points(dataclasses.replace(one, gpu=faster)).itl_ms <= p.itl_ms * (1 + 1e-9)).all()
    larger = dataclasses.replace(one.gpu, name="larger", memory_usable_gib=2 * one.gpu.memory_usable_gib)
    assert (points(dataclasses.replace(one, gpu=larger)).e2e_s <= p.e2e_s * 1.01).all()
    small_cache = evaluate(dataclasses.replace(one, kv_precision=Precision.FP8))
    if small_cache.outcome[0] == Outcome.OK.code:
        assert (small_cache.points.e2e_s <= p.e2e_s * 1.01).all()
    longer = dataclasses.replace(one, input_len=2 * one.input_len, max_model_len=None)
    if (curves := evaluate(longer)).outcome[0] == Outcome.OK.code:
        assert (curves.points.ttft_ms >= p.ttft_ms * (1 - 1e-9)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(any_changes(), min_size=2, max_size=12), st.data())
def test_a_point_depends_on_nothing_else_in_the_call(block: list[dict[str, object]], data: st.DataObject) -> None:
    cases = [case(**changes) for changes in block]
    whole = evaluate(*cases)
    rows = data.draw(st.lists(st.sampled_from(range(len(cases))), min_size=1, unique=True))
    ladder = data.draw(st.lists(st.sampled_from(LADDER.tolist()), min_size=1, unique=True).map(sorted))
    part = evaluate(*(cases[row] for row in rows), ladder=ladder)
    for position, row in enumerate(rows):
        assert part.outcome[position] == whole.outcome[row]
        assert part.details.get(position) == whole.details.get(row)
        for name in ("needed_gib", "usable_gib", "kv_capacity_tokens"):
            np.testing.assert_array_equal(getattr(part, name)[position], getattr(whole, name)[row])
        mine = part.points.task == position
        same = (whole.points.task == row) & np.isin(whole.points.concurrency, ladder)
        for ours, theirs in zip(figures(part.points)[1:], figures(whole.points)[1:], strict=True):
            np.testing.assert_array_equal(ours[mine], theirs[same])


@pytest.mark.parametrize("name", MODELS)
def test_the_split_of_weights_adds_up(name: str) -> None:
    for precision in PRECISIONS:
        split = dataclasses.astuple(split_weights(model(name), precision))
        assert sum(split) == pytest.approx(model(name).weight_bytes(precision))
        assert min(split) >= 0


# --- constants


def test_the_fingerprint_follows_the_constants(tmp_path: Path) -> None:
    shipped = RooflineEngine()
    assert info(shipped).name == "roofline"
    document = constants_document()
    file = tmp_path / "constants.json"
    file.write_text(json.dumps(document | {"source": "another note"}))
    assert RooflineEngine(constants_file=file).fingerprint() == shipped.fingerprint()
    document["pooled"]["layer_us"] *= 2
    file.write_text(json.dumps(document))
    changed = RooflineEngine(constants_file=file)
    assert changed.fingerprint() != shipped.fingerprint()
    cases, ladder = CaseColumns.of([case()]), as_ladder([1])
    assert changed.evaluate(cases, ladder).points.itl_ms[0] > shipped.evaluate(cases, ladder).points.itl_ms[0]


def test_factors_of_generation_and_server_multiply(tmp_path: Path) -> None:
    document = constants_document()
    document["pooled"]["layer_us"] = 10.0
    document["vendors"] = {"NVIDIA": {"layer_us": 0.5}}
    document["families"] = {"Hopper": {"layer_us": 2.0}}
    document["servers"] = {"sglang": {"layer_us": 3.0}}
    constants = Constants.from_dict(document)
    index = np.arange(2)
    rows = constants.rows([gpu(H100), gpu("V100-SXM2-32GB")], ["sglang", "vllm"], index[[0, 0, 1]], index[[0, 1, 1]])
    assert rows.layer_us.tolist() == [30.0, 10.0, 5.0]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"pooled": {}},
        {"families": {"Hopper": {"speed": 1.0}}},
        {"servers": {"vllm": {"layer_us": -1}}},
        {"errors": {"fitted": {"closed loop": 0.1}}},
        {"errors": {"fitted": {"closed loop": {"itl": "small"}}}},
    ],
)
def test_a_damaged_constants_file_is_an_input_error(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "constants.json"
    file.write_text(json.dumps(constants_document() | change))
    with pytest.raises(InputError, match=r"constants\.json"):
        RooflineEngine(constants_file=file)
    with pytest.raises(InputError):
        RooflineEngine(constants_file=tmp_path / "missing.json")


def constants_document() -> dict[str, dict[str, float]]:
    import gpuscout.runner.engines.roofline.constants as module

    text = Path(module.__file__).with_name("constants.json").read_text()
    document: dict[str, dict[str, float]] = json.loads(text)
    assert math.isfinite(document["pooled"]["layer_us"])
    return document


def test_mxfp4_checkpoints_run_where_servers_expand_them() -> None:
    """gpt-oss on Hopper (Marlin) and on CDNA3 (Triton), as vLLM's announcement of gpt-oss lists them."""
    curves = evaluate(
        *(case("openai/gpt-oss-120b", gpu_name, precision=Precision.FP4) for gpu_name in (H100, "MI300X", "MI355X"))
    )
    assert curves.outcome.tolist() == [Outcome.OK.code] * 3


# --- server options and speculative decoding -----------------------------------------------------------------------


def test_sequences_need_room_in_the_tokens_of_a_step() -> None:
    """vLLM and TensorRT-LLM count running sequences among the tokens of a step, SGLang does not."""
    few = (("max_num_batched_tokens", 16),)
    running = memory(features(CaseColumns.of(case(server=s, server_options=few) for s in SERVERS))).running
    assert dict(zip(SERVERS, running.tolist(), strict=True))["vllm"] == 16
    assert dict(zip(SERVERS, running.tolist(), strict=True))["trtllm"] == 16
    assert dict(zip(SERVERS, running.tolist(), strict=True))["sglang"] > 100
    drafted = case(server_options=few, speculative=Speculative(3, 0.7, 0.05))
    assert memory(features(CaseColumns.of([drafted]))).running.tolist() == [4]


@pytest.mark.slow
def test_small_budgets_read_a_prompt_in_many_steps() -> None:
    """As simulated; defaults and larger budgets cost what the fit says of the defaults."""
    budgets = (64, 512, 8192, 65536)
    cases = [
        case(input_len=4000, server_options=(("max_num_batched_tokens", b),) if b != 8192 else ()) for b in budgets
    ]
    ladder = np.array([1, 16])
    closed_form = RooflineEngine().evaluate(CaseColumns.of(cases), ladder).points.ttft_ms.reshape(4, 2)
    assert (np.diff(closed_form, axis=0) <= 0).all()
    assert closed_form[0, 0] > 5 * closed_form[2, 0]
    assert closed_form[3, 0] == closed_form[2, 0]
    simulated = Simulator().evaluate(CaseColumns.of(cases), ladder).points.ttft_ms.reshape(4, 2)
    assert closed_form[:, 0] == pytest.approx(simulated[:, 0], rel=0.15)
    gpus = GPUCatalogue.load()
    defaults = [
        default_options(s, g.name, g.memory_usable_gib)["max_num_batched_tokens"] for s in SERVERS for g in gpus
    ]
    assert min(defaults) == SMALLEST_DEFAULT_BUDGET
    assert closed_form[:, 1] == pytest.approx(simulated[:, 1], rel=0.5)


@pytest.mark.slow
def test_where_full_steps_cannot_prefill_fast_enough_requests_wait_for_their_prompts() -> None:
    """As simulated: ITL and throughput stay, TTFT grows."""
    few = (("max_num_batched_tokens", 512),)
    cases = CaseColumns.of([case(output_len=128, tensor_parallel=4, server_options=few)])
    ladder = np.array([16, 128, 256, 512])
    closed_form, simulated = (engine.evaluate(cases, ladder).points for engine in (RooflineEngine(), Simulator()))
    assert (np.diff(closed_form.itl_ms[1:]) == 0).all()
    assert closed_form.ttft_ms[3] > 2 * closed_form.ttft_ms[2] > 4 * closed_form.ttft_ms[1]
    for name in ("ttft_ms", "itl_ms", "output_tokens_per_s"):
        assert getattr(closed_form, name)[1:] == pytest.approx(getattr(simulated, name)[1:], rel=0.2), name
    # SGLang prefills in steps of their own, and a usual budget is far from full.
    for server, options in (("sglang", few), ("vllm", ())):
        other = case(output_len=128, tensor_parallel=4, server=server, server_options=options)
        assert (np.diff(points(other, [16, 128, 256]).itl_ms) > 1).all()


def test_prompts_that_no_step_takes_are_refused() -> None:
    few = (("max_num_batched_tokens", 1000),)
    curves = evaluate(*(case(server=server, server_options=few) for server in SERVERS))
    assert {SERVERS[row]: text for row, text in curves.details.items()} == {
        "trtllm": "TensorRT-LLM takes prompts whole: max_num_batched_tokens 1,000 is less than their 1,024 tokens"
    }


def drafting(k: int, acceptance: float, cost: float, one: Case) -> Case:
    return dataclasses.replace(one, speculative=Speculative(k, acceptance, cost))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([LLAMA_8B, LLAMA_70B, QWEN_MOE, DEEPSEEK]),
    gpu_name=st.sampled_from([H100, "H200-SXM-141GB", "B200", "MI300X"]),
    k=st.integers(1, 8),
    acceptance=st.floats(0, 1),
    cost=st.floats(0, 1),
)
def test_drafts_do_what_drafts_can(name: str, gpu_name: str, k: int, acceptance: float, cost: float) -> None:
    plain = case(name, gpu_name, tensor_parallel=8, input_len=64, output_len=256)
    cases = [plain, *(drafting(k, a, c, plain) for a, c in ((acceptance, cost), (acceptance, 0), (1, cost), (0, cost)))]
    curves = evaluate(*cases, ladder=[1, 64, 1024])
    if not (curves.outcome == Outcome.OK.code).all():
        return
    itl = curves.points.itl_ms.reshape(5, 3)
    # More that holds, and drafts that cost less, are never slower; drafts of which nothing holds never pay.
    assert (itl[2] <= itl[1] * (1 + 1e-9)).all()
    assert (itl[3] <= itl[1] * (1 + 1e-9)).all()
    assert (itl[4] >= itl[0] * (1 - 1e-9)).all()
    # Nothing is gained beyond the tokens of a step, and nothing lost beyond verifying every token by itself.
    gain = itl[0] / itl[1]
    assert (gain <= Speculative(k, acceptance, cost).tokens_per_step * (1 + 1e-9)).all()
    assert np.isfinite(curves.points.ttft_ms).all()


@pytest.mark.parametrize(("name", "tp"), [(LLAMA_8B, 1), (LLAMA_70B, 4)])
def test_drafts_pay_at_low_load_and_cost_where_steps_are_compute_bound(name: str, tp: int) -> None:
    """With more in flight the gain shrinks, and turns into a loss."""
    plain = case(name, tensor_parallel=tp, input_len=16, output_len=64)
    drafted = drafting(4, 0.6, 0.05, plain)
    f = features(CaseColumns.of([plain, drafted]))
    columns = dataclasses.replace(f, **{name: values[:, None] for name, values in vars(f).items()})
    h100 = gpu(H100)
    row = Constants.load().rows([h100], ["vllm"], np.zeros(2, np.int64), np.zeros(2, np.int64))
    k = dataclasses.replace(row, **{name: values[:, None] for name, values in vars(row).items()})
    running = np.array([[1.0, 16.0, 128.0, 1024.0, 8192.0]])
    steps = decode_step(columns, k, running).total
    gain = steps[0] * drafted.speculative.tokens_per_step / steps[1]
    assert (np.diff(gain) < 0).all()
    assert gain[0] > 1.5
    assert gain[-1] < 1
    # The same of whole points.
    first, second = (points(one, [1, 4096]).itl_ms for one in (plain, drafted))
    assert second[0] < first[0] / 1.5


def test_a_drafted_point_claims_no_interval() -> None:
    plain = case()
    curves = evaluate(plain, drafting(3, 0.7, 0.05, plain), ladder=[1, 8])
    assert (curves.points.regime.reshape(2, 2) >= 0).tolist() == [[True, True], [False, False]]


def test_simulated_steps_are_those_of_the_roofline_with_drafts() -> None:
    drafted = drafting(3, 0.7, 0.05, case())
    f = features(CaseColumns.of([drafted]))
    k = Constants.load().rows([gpu(H100)], ["vllm"], np.zeros(1, np.int64), np.zeros(1, np.int64))
    running, held = np.array([32.0]), np.array([32.0 * 1152])
    assert step_seconds(f, k, running, held, np.zeros(1)) == pytest.approx(decode_step(f, k, running).total)
