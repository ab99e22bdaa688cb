"""The engine `simulator`: beside the roofline, at request rates, reproducible to the bit, stored, ranked and copied."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.runner.engines.simulator.engine import Simulator
from gpuscout.runner.execution.evaluate import evaluate
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS, Curves
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.traffic.lengths import LogNormal, Uniform
from gpuscout.sweeps.traffic.trace import Trace
from gpuscout.sweeps.traffic.traffic import CONSTANT, POISSON, Arrivals, Traffic
from tests.support.forked import gpuscout

MODEL = ModelCatalogue.load().get("Qwen/Qwen3-8B")
H100 = GPUCatalogue.load().resolve("H100")
ONE = np.array([1])


def answer(*cases: Case, ladder: list[int] | None = None) -> Curves:
    return evaluate(Simulator(), CaseColumns.of(cases), ONE if ladder is None else np.array(ladder))


def at(curves: Curves, metric: str, percentile: float) -> list[float]:
    assert curves.points.percentiles is not None
    column: list[float] = curves.points.percentiles[:, PERCENTILE_COLUMNS.index((metric, percentile))].tolist()
    return column


def test_a_closed_loop_agrees_with_the_step_times_it_is_made_of() -> None:
    ladder = [1, 8, 64]
    for server in ("vllm", "trtllm", "sglang"):
        case = Case(MODEL, H100, 1024, 512, server=server)
        found = answer(case, ladder=ladder).points
        closed_form = RooflineEngine().evaluate(CaseColumns.of([case]), np.array(ladder)).points
        assert found.itl_ms == pytest.approx(closed_form.itl_ms, rel=0.03)
        assert found.output_tokens_per_s == pytest.approx(closed_form.output_tokens_per_s, rel=0.05)
        # Little's law.
        assert found.requests_per_s * found.e2e_s == pytest.approx(found.concurrency, rel=0.01)


def test_percentiles_are_in_order_and_means_between_them() -> None:
    found = answer(Case(MODEL, H100, 1024, 512), ladder=[4, 32])
    for metric in ("ttft_ms", "itl_ms", "e2e_s"):
        rising = np.array([at(found, metric, percentile) for percentile in (50, 90, 95, 99)])
        assert np.all(np.diff(rising, axis=0) >= 0)
    assert np.all(np.array(at(found, "ttft_ms", 99)) > found.points.ttft_ms)


def traffic(rate: float, arrivals: Arrivals = POISSON, **more: object) -> Traffic:
    return Traffic(LogNormal(1200, 4000, 8000), Uniform(64, 512), arrivals=arrivals, request_rate=rate, **more)  # type: ignore[arg-type]


def test_waiting_grows_with_the_rate_and_with_bursts_until_the_server_is_saturated() -> None:
    rates = [2.0, 10.0, 1000.0]
    found = answer(*(Case(MODEL, H100, 1200, 288, traffic=traffic(rate)) for rate in rates))
    assert [OUTCOMES[code] for code in found.outcome] == [Outcome.OK] * 3
    assert found.points.task.tolist() == [0, 1]
    assert found.details.keys() == {2}
    assert found.details[2].startswith("saturated from ")
    p99 = at(found, "ttft_ms", 99)
    assert p99[0] < p99[1]
    assert found.points.requests_per_s == pytest.approx(rates[:2], rel=0.05)
    assert found.points.concurrency[0] < found.points.concurrency[1]
    even, bursty = (
        at(answer(Case(MODEL, H100, 1200, 288, traffic=traffic(10.0, arrivals))), "ttft_ms", 95)[0]
        for arrivals in (CONSTANT, Arrivals(4.0))
    )
    assert even < at(found, "ttft_ms", 95)[1] < bursty


def test_cached_prompts_come_sooner() -> None:
    plain, cached = answer(
        Case(MODEL, H100, 1200, 288, traffic=traffic(10.0)),
        Case(MODEL, H100, 1200, 288, traffic=traffic(10.0, cached_input=0.8)),
    ).points.ttft_ms
    assert cached < 0.7 * plain


def test_a_trace_is_replayed() -> None:
    n = 400
    random = np.random.default_rng(1)
    trace = Trace(np.arange(n) / 5.0, random.integers(10, 2000, n), random.integers(10, 300, n))
    found = answer(Case(MODEL, H100, 1000, 150, traffic=Traffic(trace=trace, request_rate=5.0)))
    assert found.points.requests_per_s[0] == pytest.approx(5.0, rel=0.05)


def test_the_same_case_gives_the_same_bits_whatever_is_asked_with_it() -> None:
    cases = [Case(MODEL, H100, 1200, 288, traffic=traffic(rate)) for rate in (3.0, 5.0)]
    together, alone = answer(*cases), answer(cases[1])
    assert together.points.ttft_ms[1] == alone.points.ttft_ms[0]
    assert at(together, "itl_ms", 99)[1] == at(alone, "itl_ms", 99)[0]
    case = Case(MODEL, H100, 1024, 512)
    assert answer(case, ladder=[4, 16]).points.ttft_ms[1] == answer(case, ladder=[16]).points.ttft_ms[0]


def test_engines_that_know_nothing_of_traffic_are_not_asked_about_it() -> None:
    plain, varied = Case(MODEL, H100, 1200, 288), Case(MODEL, H100, 1200, 288, traffic=traffic(3.0))
    found = evaluate(RooflineEngine(), CaseColumns.of([varied, plain, varied]), np.array([1, 2]))
    assert [OUTCOMES[code] for code in found.outcome] == [Outcome.NOT_SUPPORTED, Outcome.OK, Outcome.NOT_SUPPORTED]
    assert found.details[0] == "roofline answers for fixed lengths in a closed loop alone"
    assert found.points.task.tolist() == [1, 1]


SPEC = """
name: open
models: [Qwen/Qwen3-8B]
gpus: [H100, L40S]
tensor_parallel: [1]
workloads:
  - chat
  - {name: support, input_len: {histogram: [[512, 1], [1536, 1]]}, output_len: 512, arrivals: poisson}
load: request_rate
request_rate: [2, 4, 500]
engine: simulator
"""


def test_a_sweep_over_rates_is_stored_ranked_exported_and_copied(tmp_path: Path) -> None:
    (tmp_path / "open.yaml").write_text(SPEC)
    for computed in ("12 computed", "nothing to compute"):
        done = gpuscout("run", "open.yaml", "--executor", "in-process", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert computed in done.stderr
    question = ("recommend", "--slo", "ttft:p95<=2s", "--trust", "any", "--json")

    def groups(*more: str) -> dict[str, dict[str, object]]:
        found = gpuscout(*question, *more, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        return {group["workload"]: group for group in json.loads(found.stdout)["groups"]}

    # Workloads with the same mean lengths are two questions, and with a rate the lowest that is enough counts.
    at_three = groups("--rate", "3")
    assert at_three.keys() == {"chat", "support"}
    for group in at_three.values():
        best = group["configurations"][0]  # type: ignore[index]
        assert best["request_rate"] == 4
        assert best["percentiles"]["ttft:p95_ms"] <= 2000
        assert best["assumed_tail"] is None
    assert groups("--workload", "support").keys() == {"support"}
    explained = gpuscout("recommend", "--workload", "chat", "--explain", cwd=tmp_path)
    assert "saturated from" in explained.stdout
    missing = gpuscout("recommend", "--rate", "600", cwd=tmp_path)
    assert (missing.returncode, "no estimate above 500 requests/s" in missing.stderr) == (2, True)

    assert gpuscout("export", "--format", "jsonl", "--output", "all.jsonl", cwd=tmp_path).returncode == 0
    (tmp_path / "other").mkdir()
    back = gpuscout("import", "all.jsonl", "--db", "sqlite:///other/gpuscout.db", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    assert gpuscout("db", "copy", "sqlite:///gpuscout.db", "sqlite:///copy.db", cwd=tmp_path).returncode == 0
    for other in ("sqlite:///other/gpuscout.db", "sqlite:///copy.db"):
        again = gpuscout(*question, "--rate", "3", "--db", other, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        figures = [group["configurations"][0]["percentiles"] for group in json.loads(again.stdout)["groups"]]
        origins = {group["configurations"][0]["imported_from"] for group in json.loads(again.stdout)["groups"]}
        assert origins == {"all.jsonl" if "other" in other else None}
        assert sorted(map(str, figures)) == sorted(
            str(group["configurations"][0]["percentiles"])  # type: ignore[index]
            for group in at_three.values()
        )


def test_a_closed_loop_answers_limits_on_percentiles(tmp_path: Path) -> None:
    command = ("run", "--model", "Qwen3-8B", "--gpu", "H100", "--tp", "1", "--concurrency", "1,8,64")
    done = gpuscout(*command, "--engine", "simulator", "--slo", "ttft:p95<=1s", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [group] = json.loads(done.stdout)["groups"]
    assert 0 < group["configurations"][0]["percentiles"]["ttft:p95_ms"] <= 1000


# --- the command -------------------------------------------------------------------------------------------------


def test_workloads_from_a_trace(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 500 * i, "input_length": 600 + i, "output_length": 20, "hash_ids": [7, i]} for i in range(100)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = gpuscout("workloads", "from-trace", "t.jsonl", "--name", "ours", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "rate: 7,200 requests/hour" in found.stdout
    assert "cached: 78% of all prompt tokens would be in an unbounded cache" in found.stdout
    document = json.loads(gpuscout("workloads", "from-trace", "t.jsonl", "--json", cwd=tmp_path).stdout)
    workload = json.dumps(document["workload"])
    rest = "name: s\nmodels: Qwen3-8B\ngpus: H100\nload: request_rate\nrequest_rate: 2\n"
    (tmp_path / "s.yaml").write_text(f"{rest}workloads: [{workload}]\n")
    shown = gpuscout("workloads", "show", "trace", "--spec", "s.yaml", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "cached: 78% of every prompt" in shown.stdout
    assert gpuscout("workloads", "show", "chat", cwd=tmp_path).returncode == 0
    wrong = gpuscout("workloads", "from-trace", "nowhere.jsonl", cwd=tmp_path)
    assert (wrong.returncode, "not a file" in wrong.stderr) == (2, True)
