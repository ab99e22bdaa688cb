"""What is worth measuring: the best of a ranking and its rivals as a sweep, few points around a limit, which node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpuscout.runner.engines.benchmark.adaptive import around_limits, between
from gpuscout.runner.engines.benchmark.options import ServedOptions
from gpuscout.runner.engines.benchmark.servers.command import check_command, command_for
from gpuscout.runner.execution.executors.server_places import Node, NoSuchNode, ServerPlaces
from gpuscout.runner.resolve.models import ModelFinder
from gpuscout.store.measured import MeasuredRun
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.slo import parse_slo
from gpuscout.sweeps.spec.spec import load_spec
from tests.support.in_process import gpuscout

SPEC = """
name: estimated
models: [Qwen/Qwen3-8B]
gpus: [L40S, H100, A100, L4]
tensor_parallel: [1, 2]
precision: [bf16, fp8]
workloads: [chat, {name: agent, input_len: 4000, output_len: 300}]
"""
RUN = MeasuredRun(
    id="", model="m", gpu="L40S", tp=1, pp=1, dp=1, ep=1, precision=Precision.BF16, kv_precision=None, server="vllm",
    server_version=None, input_len=8, output_len=8, concurrency=1, ttft_ms=1.0, itl_ms=1.0, output_tokens_per_s=1.0,
    measured_on=None, source=None,
)  # fmt: skip


def test_the_best_of_a_recommendation_as_a_sweep_that_measures_them(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert gpuscout("run", "spec.yaml", cwd=tmp_path).returncode == 0
    ask = ("recommend", "--sweep", "estimated", "--slo", "itl<=30ms", "--measure-top", "2")
    done = gpuscout(*ask, "--adaptive", "--measure-spec", "best.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    spec = load_spec(tmp_path / "best.yaml")
    assert len(spec.only) >= 4
    assert f"{len(spec.only)} configurations to measure are in best.yaml" in done.stderr
    assert spec.engines[0].options == {"adaptive": ["itl<=30ms"]}
    assert [str(slo) for slo in spec.slo] == ["itl<=30ms"]
    planned = gpuscout("plan", "best.yaml", "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["tasks"] == len(spec.only)
    assert 2 <= plan["expected_server_starts"] <= plan["tasks"]
    assert plan["expected_measuring_s"] > 60 * plan["expected_server_starts"]
    told = gpuscout("plan", "best.yaml", cwd=tmp_path).stdout
    assert f"{plan['expected_server_starts']} server starts, about " in told
    again = gpuscout(*ask, "--measure-spec", "best.yaml", cwd=tmp_path)
    assert (again.returncode, "best.yaml exists already" in again.stderr) == (2, True)
    useless = gpuscout("recommend", "--adaptive", cwd=tmp_path)
    assert (useless.returncode, "add --measure-top 5" in useless.stderr) == (2, True)


@pytest.mark.slow
def test_what_is_recommended_at_a_rate_is_measured_at_it(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "{name: rates, models: Qwen/Qwen3-0.6B, gpus: [L40S, L4], tensor_parallel: 1, engine: simulator,"
        " workloads: {varied: {input_len: {uniform: [10, 60]}, output_len: 16}}, load: request_rate,"
        " request_rate: [1, 4], server_options: [{max_num_seqs: 64}]}"
    )
    assert gpuscout("run", "spec.yaml", cwd=tmp_path).returncode == 0
    ask = ("recommend", "--slo", "itl<=100ms", "--measure-top", "2", "--adaptive", "--measure-spec", "best.yaml")
    assert gpuscout(*ask, cwd=tmp_path).returncode == 0
    spec = load_spec(tmp_path / "best.yaml")
    assert (spec.load, spec.engines[0].options) == ("request_rate", {})
    plan = json.loads(gpuscout("plan", "best.yaml", "--json", cwd=tmp_path).stdout)
    assert plan["tasks"] == len(spec.only) * len(spec.request_rate)
    assert plan["expected_server_starts"] == len(spec.only) == 2
    # A question with answers of both kinds makes no single sweep.
    closed = "{name: closed, models: Qwen/Qwen3-0.6B, gpus: L4, tensor_parallel: 1, concurrency: [1], workloads: chat}"
    (tmp_path / "closed.yaml").write_text(closed)
    assert gpuscout("run", "closed.yaml", cwd=tmp_path).returncode == 0
    refused = gpuscout(*ask[:-1], "both.yaml", cwd=tmp_path)
    assert (refused.returncode, "--sweep or --workload" in refused.stderr) == (2, True)


@pytest.mark.parametrize(("limit_ms", "highest"), [(0.5, None), (1, 1), (24, 24), (25, 24), (1000, 64)])
def test_few_points_find_the_load_that_meets_a_limit(limit_ms: float, highest: int | None) -> None:
    ladder = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    asked: list[int] = []

    def measured_at(step: int) -> Iterator[MeasuredRun]:
        asked.append(step)
        yield replace(RUN, concurrency=step, itl_ms=float(step), percentiles={("itl_ms", 95.0): 2.0 * step})

    runs = list(around_limits(ladder, [parse_slo(f"itl<={limit_ms}ms")], measured_at))
    met = [run.concurrency for run in runs if run.itl_ms is not None and run.itl_ms <= limit_ms]
    assert max(filter(None, met), default=None) == highest
    assert len(asked) <= 4
    missed = [run for run in runs if run.concurrency not in met]
    assert (
        highest == 64
        or min(run.concurrency or 0 for run in missed) == ladder[ladder.index(highest) + 1 if highest else 0]
    )
    # With any of these points known, the others are found with no more of them.
    for known in range(len(runs) + 1):
        left = between(ladder, [parse_slo(f"itl<={limit_ms}ms")], runs[:known])
        again = list(around_limits(left, [parse_slo(f"itl<={limit_ms}ms")], measured_at))
        assert [run.concurrency for run in again] == [run.concurrency for run in runs[known:]]
    # A percentile counts as it was measured, one that was not is not met.
    assert not list(around_limits((), [], measured_at))
    [run] = list(around_limits((4,), [parse_slo("ttft:p95<=9s")], measured_at))
    assert run.concurrency == 4


def test_servers_are_placed_where_their_gpus_are() -> None:
    now = [0.0]
    places = ServerPlaces(3, clock=lambda: now[0])
    l40s, h100 = gpus_with().get("L40S"), gpus_with().get("H100-SXM-80GB")
    with pytest.raises(NoSuchNode, match="nodes have no GPUs"):
        places.take("a", l40s, 1)
    large, small = Node("large", 4, ("NVIDIA L40S",)), Node("small", 1, ("L40S",))
    places.update([large, small])
    with pytest.raises(NoSuchNode, match="1 x H100-SXM-80GB on one node; nodes have 1 x L40S, 4 x NVIDIA L40S"):
        places.take("a", h100, 1)
    assert places.take("a", l40s, 1) == "small"
    assert places.take("b", l40s, 4) == "large"
    assert places.take("c", l40s, 1) is None
    places.leave("a")
    assert places.take("c", l40s, 1) == "small"
    places.leave("b")
    assert places.take("d", l40s, 1) == "large"
    assert places.take("e", l40s, 1) == "large"
    assert places.take("f", l40s, 1) is None  # three at once
    places.leave("d")
    with pytest.raises(NoSuchNode, match=r"no node with 1 x L40S has what `run:` of the engine asks for \(disk: 2\)"):
        places.take("f", l40s, 1, {"disk": 2})
    # A node that was there may come back for a while.
    places.update([small])
    now[0] = 100.0
    assert places.take("g", l40s, 4) is None
    now[0] = 1000.0
    with pytest.raises(NoSuchNode):
        places.take("g", l40s, 4)


def test_commands() -> None:
    model = ModelFinder(None).find_one("Qwen/Qwen3-8B").architecture
    case = Case(
        model, gpus_with().get("H100-SXM-80GB"), 100, 50, tensor_parallel=2, server_options=(("max_num_seqs", 7),)
    )
    for server in ("vllm", "sglang", "trtllm"):
        command = command_for(
            replace(case, server=server), 9001, 4096, ServedOptions(model_path="/models/qwen")
        ).arguments
        assert {"/models/qwen", "127.0.0.1", "9001", "4096", "7", "2"} <= set(command)
        assert "0.0.0.0" not in command
    own = ("serve", "{model}", "--port={port}", "-tp", "{tp}", '{"json": {tp}}')
    assert command_for(case, 9001, 4096, ServedOptions(command=own)).arguments == (
        "serve", "Qwen/Qwen3-8B", "--port=9001", "-tp", "2", '{"json": 2}',
    )  # fmt: skip
    check_command(own)
    check_command(("vllm", "{port}", "--tokenizer", "x", "--max-num-batched-tokens", "{max_num_batched_tokens}"))
    for wrong, message in (
        ([], "expected a list of arguments"),
        (["vllm", "{prot}", "{port}"], r"unknown placeholder {prot}"),
        (["vllm"], r"{port} is missing"),
        (["vllm", "{port}", "--api-key", "x"], '"--api-key" would be stored'),
        (["vllm", "{port}", "--hf-token=x"], '"--hf-token" would be stored'),
        (["env", "HF_TOKEN=secret", "vllm", "{port}"], '"HF_TOKEN" would be stored'),
        (["sh", "-c", "VLLM_API_KEY='secret' vllm --port {port}"], '"VLLM_API_KEY" would be stored'),
        (["sh", "-c", "vllm --api-key secret --port {port}"], '"--api-key" would be stored'),
        (["vllm", "{port}", "hf_secretsecretsecretsec"], '"a token" would be stored'),
    ):
        with pytest.raises(InputError, match=message) as raised:
            check_command(wrong)
        assert "secret" not in raised.value.message
    check_command(("vllm", "/data/hf_checkpoints/llama", "{port}"))
    check_command(("sh", "-c", 'TOKENIZERS_PARALLELISM=false VLLM_API_KEY="$KEY" vllm --port {port}'))
