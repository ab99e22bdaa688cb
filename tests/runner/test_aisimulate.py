"""The engine aisimulate: what it asks, recorded answers of the real program, and the program where it is installed."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gpuscout.runner.engines.aisimulate.engine import INSTALL
from gpuscout.runner.engines.base import MissingEngine
from gpuscout.runner.engines.registry import create_engine
from gpuscout.runner.execution.evaluate import evaluate
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS, Curves
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import OUTCOMES
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.traffic.lengths import Uniform
from gpuscout.sweeps.traffic.trace import Trace
from gpuscout.sweeps.traffic.traffic import CONSTANT, POISSON, Arrivals, Traffic
from tests.support.in_process import gpuscout

# Answers of 0.13.0.dev202610270000000085: status, standard output and error, and of each request what is read.
RECORDED = Path(__file__).parents[1] / "data" / "aisimulate"
# Another environment's program, by GPUSCOUT_TEST_AISIMULATE or on PATH.
INSTALLED = os.environ.get("GPUSCOUT_TEST_AISIMULATE") or shutil.which("aisimulate")
# Answers as one recorded run did, and keeps what it was asked.
REPLAY = """#!{python}
import gzip, json, pathlib, shutil, sys
asked = dict(zip(sys.argv[2::2], sys.argv[3::2]))
told = json.loads(gzip.open({file!r}).read())
for file in pathlib.Path(asked["-c"]).parent.iterdir():
    shutil.copy(file, {folder!r})
if told["requests"]:
    out = pathlib.Path(asked["--output-dir"])
    out.mkdir()
    (out / "requests.jsonl").write_text("".join(json.dumps(one) + "\\n" for one in told["requests"]))
print(told["stdout"], end="")
print(told["stderr"], end="", file=sys.stderr)
sys.exit(told["status"])
"""


def case(name: str = "Qwen/Qwen3-8B", gpu: str = "H100", **changes: object) -> Case:
    asked: dict[str, Any] = {"input_len": 1024, "output_len": 256}
    return Case(ModelCatalogue.load().get(name), GPUCatalogue.load().resolve(gpu), **(asked | changes))


def arriving(rate: float, arrivals: Arrivals = POISSON, **more: object) -> Traffic:
    return Traffic(arrivals=arrivals, request_rate=rate, **more)  # type: ignore[arg-type]


@pytest.fixture
def replayed(tmp_path: Path) -> Any:
    """Asks an engine whose program answers as recorded; gives the answer and what the program was asked."""

    def ask(record: str, asked: Case, concurrency: int = 1, **options: object) -> tuple[Curves, dict[str, Any]]:
        program = tmp_path / "aisimulate"
        program.write_text(
            REPLAY.format(python=sys.executable, file=str(RECORDED / f"{record}.json.gz"), folder=str(tmp_path))
        )
        program.chmod(0o755)
        engine = create_engine("aisimulate", {"command": str(program), **options})
        answer = evaluate(engine, CaseColumns.of([asked]), np.array([concurrency]))
        return answer, yaml.safe_load((tmp_path / "question.yaml").read_text())

    return ask


def test_a_closed_loop(replayed: Any) -> None:
    found, asked = replayed("closed_8", case(), 8)
    requests = json.loads(gzip.decompress((RECORDED / "closed_8.json.gz").read_bytes()))["requests"]
    later = [one for one in requests if one["arrival_time_ms"] > 0]
    assert len(requests) - len(later) == 8  # the first wave
    points = found.points
    assert points.concurrency.tolist() == [8]
    assert points.ttft_ms[0] == pytest.approx(np.mean([one["ttft_ms"] for one in later]))
    assert points.itl_ms[0] == pytest.approx(np.mean([one["itl_ms"] for one in later]))
    assert points.requests_per_s[0] * points.e2e_s[0] == pytest.approx(8)
    assert points.percentiles is not None
    p99 = points.percentiles[0, PERCENTILE_COLUMNS.index(("itl_ms", 99.0))]
    assert p99 == pytest.approx(np.percentile([one["itl_ms"] for one in later], 99))
    assert found.kv_capacity_tokens.tolist() == [382_705]
    assert asked["traffic"]["load"] == {"type": "concurrency", "concurrency": 8}
    engine = asked["engine"]
    assert (engine["hardware"], engine["backend"], engine["kvcache_quant_mode"]) == ("h100_sxm", "vllm", "bfloat16")
    assert engine["workers"]["aggregated"]["scheduler"] == {"max_sequences": 1024, "max_batched_tokens": 8192}


def test_a_trace_is_given_with_its_blocks(replayed: Any, tmp_path: Path) -> None:
    n = 1_200
    ours = Trace(np.arange(n) / 2.0, np.full(n, 1100), np.full(n, 20), tuple((1, 2 + i, 9_000 + i) for i in range(n)))
    replayed("poisson_4", case(input_len=1100, output_len=20, traffic=Traffic(trace=ours, request_rate=8.0)))
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert len(lines) == 1_000
    assert lines[7]["hash_ids"] == [1, 9, 9007]
    assert lines[-1]["timestamp"] - lines[-2]["timestamp"] == pytest.approx(125)


def test_requests_that_arrive(replayed: Any, tmp_path: Path) -> None:
    def trace() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]

    found, asked = replayed("poisson_4", case(traffic=arriving(4.0)))
    assert found.points.requests_per_s.tolist() == [4.0]
    assert found.points.concurrency[0] == round(4.0 * found.points.e2e_s[0])
    assert asked["traffic"]["load"] == {"type": "trace_timestamps"}
    assert np.diff([one["timestamp"] for one in trace()]).mean() == pytest.approx(250, rel=0.15)
    varied = Traffic(output_len=Uniform(10, 90), arrivals=Arrivals(2.0), request_rate=8.0)
    replayed("poisson_4", case(output_len=50, traffic=varied))
    assert {one["input_length"] for one in trace()} == {1024}
    assert 10 <= min(one["output_length"] for one in trace()) < max(one["output_length"] for one in trace()) <= 90
    assert np.diff([one["timestamp"] for one in trace()]).mean() == pytest.approx(125, rel=0.4)
    found, _ = replayed("poisson_100", case(traffic=arriving(100.0)))
    assert (len(found.points), found.details) == (0, {0: "saturated at 100 req/s"})
    _, asked = replayed("poisson_4", case(traffic=arriving(2.0, CONSTANT, cached_input=0.5)))
    assert asked["traffic"]["load"] == {"type": "constant_rate", "requests_per_second": 2.0}
    assert asked["traffic"]["source"]["cached_prefix_tokens"] == 512


@pytest.mark.parametrize(
    ("record", "outcome", "text"),
    [
        ("does_not_fit", "does_not_fit", "no KV budget: non-KV memory"),
        ("no_kernels", "not_supported", "missing performance data: MoE data missing"),
        ("no_system", "not_supported", "no timing data for vllm on l4"),
        ("wrong_version", "not_supported", "available: 0.24.0 (current), 0.31.0 (next)"),
    ],
)
def test_what_its_messages_mean(replayed: Any, record: str, outcome: str, text: str) -> None:
    found, _ = replayed(record, case())
    assert OUTCOMES[found.outcome[0]] == outcome
    assert text in found.details[0]


def test_how_deployments_are_asked_about(replayed: Any) -> None:
    moe = case("Qwen/Qwen3-30B-A3B", tensor_parallel=2, data_parallel=2, expert_parallel=2, server="sglang")
    parallelism = replayed("no_system", moe)[1]["engine"]["workers"]["aggregated"]["parallelism"]
    sizes = {"attention_data": 2, "moe_expert": 2, "moe_tensor": 2}
    assert parallelism == {"tensor": 2, "pipeline": 1, "replicas": 1, **sizes}
    dense = case(data_parallel=4)
    parallelism = replayed("no_system", dense)[1]["engine"]["workers"]["aggregated"]["parallelism"]
    assert parallelism == {"tensor": 1, "pipeline": 1, "replicas": 4}
    mxfp4 = case("openai/gpt-oss-120b", "B200", precision=Precision.FP4)
    assert replayed("no_system", mxfp4)[1]["engine"]["moe_quant_mode"] == "w4a8_mxfp4_mxfp8"
    for traffic, text in (
        (Traffic(input_len=Uniform(10, 100), cached_input=0.5), "cached input of fixed lengths only"),
        (arriving(1.0, Arrivals(2.0), cached_input=0.5), "Poisson and constant arrivals only"),
    ):
        assert text in replayed("no_system", case(traffic=traffic))[0].details[0]
    assert "has no MI300X" in replayed("no_system", case(gpu="MI300X"))[0].details[0]


def test_programs_that_fail(tmp_path: Path) -> None:
    program = tmp_path / "aisimulate"
    for body, outcome, text in (
        ("sleep 100", "timeout", "took longer than 0.2 s"),
        ("echo boom >&2; exit 3", "error", "ended with status 3: boom"),
        ("exit 0", "error", "ended with status 0"),
    ):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        limit = {"timeout_s": 0.2} if outcome == "timeout" else {}
        engine = create_engine("aisimulate", {"command": str(program), **limit})
        found = evaluate(engine, CaseColumns.of([case()]), np.array([1]))
        assert OUTCOMES[found.outcome[0]] == outcome
        assert text in found.details[0]
    missing = create_engine("aisimulate", {"command": str(tmp_path / "nowhere")})
    assert isinstance(missing, MissingEngine)
    assert INSTALL in missing.reason


def test_engines_say_which_one_supersedes_the_other(tmp_path: Path) -> None:
    listed = json.loads(gpuscout("engines", "list", "--json", cwd=tmp_path).stdout)["engines"]
    covers = {engine["name"]: engine["covers"] for engine in listed}
    assert covers["aiconfigurator"].startswith("superseded by aisimulate")
    assert "percentiles" in covers["aisimulate"]


@pytest.mark.skipif(INSTALLED is None, reason=f"no program aisimulate: {INSTALL}")
def test_the_real_program_answers_as_recorded() -> None:
    engine = create_engine("aisimulate", {"command": str(INSTALLED)})
    found = evaluate(engine, CaseColumns.of([case(), replace(case(), input_len=2048)]), np.array([8]))
    assert found.outcome.tolist() == [0, 0]
    assert found.points.itl_ms[0] == pytest.approx(8.43, rel=0.2)  # of its newest tables
    assert found.points.ttft_ms[0] < found.points.ttft_ms[1]
    assert engine.fingerprint().startswith("1-0.")
