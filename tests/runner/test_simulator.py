"""The engine `simulator`: beside the roofline, at request rates, reproducible to the bit, stored, ranked and copied."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscout.runner.engines.roofline import RooflineEngine
from gpuscout.runner.engines.simulator.engine import Simulator
from gpuscout.runner.execution.evaluate import evaluate
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import PERCENTILE_COLUMNS, SERVER_METRICS, Curves
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative
from gpuscout.sweeps.traffic.lengths import Histogram, LogNormal, Uniform
from gpuscout.sweeps.traffic.trace import Trace
from gpuscout.sweeps.traffic.traffic import CONSTANT, POISSON, Arrivals, Traffic
from tests.support.in_process import gpuscout

MODEL = ModelCatalogue.load().get("Qwen/Qwen3-8B")
H100, L40S, MI300X = (GPUCatalogue.load().resolve(name) for name in ("H100", "L40S", "MI300X"))
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


def test_drafts_are_simulated_as_the_closed_form_has_them() -> None:
    """Also where nothing held would be worse than no drafts, and with answers of a token or two."""
    ladder = [1, 16, 128]
    for server, drafts in (("vllm", Speculative(3, 0.7, 0.05)), ("sglang", Speculative(8, 0.4, 0.2))):
        for output_len in (256, 2):
            case = Case(MODEL, H100, 1024, output_len, server=server, speculative=drafts)
            found = answer(case, ladder=ladder).points
            closed_form = RooflineEngine().evaluate(CaseColumns.of([case]), np.array(ladder)).points
            few = output_len < 10
            assert found.itl_ms[: 1 if few else 3] == pytest.approx(closed_form.itl_ms[: 1 if few else 3], rel=0.05)
            assert found.requests_per_s * found.e2e_s == pytest.approx(found.concurrency, rel=0.02)
    plain, drafted = (
        answer(Case(MODEL, H100, 1024, 256, speculative=drafts), ladder=[8]) for drafts in (NO_DRAFTS, drafts)
    )
    # Requests differ in how much of their drafts holds.
    spread = [at(curves, "itl_ms", 99)[0] / at(curves, "itl_ms", 50)[0] for curves in (plain, drafted)]
    assert spread[1] > spread[0]
    few_tokens = Case(MODEL, H100, 1024, 64, server_options=(("max_num_batched_tokens", 64),), speculative=drafts)
    assert np.isfinite(answer(few_tokens, ladder=[64]).points.itl_ms).all()


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


def of_server(curves: Curves, name: str) -> list[float]:
    assert curves.points.server_metrics is not None
    column: list[float] = curves.points.server_metrics[:, SERVER_METRICS.index(name)].tolist()
    return column


def test_a_fuller_server_holds_more_and_makes_more_requests_wait() -> None:
    few_places = (("max_num_seqs", 8),)
    found = answer(
        *(Case(MODEL, H100, 1200, 288, traffic=traffic(rate)) for rate in (2.0, 10.0)),
        Case(MODEL, H100, 1200, 288, traffic=traffic(2.0), server_options=few_places),
    )
    usage, waiting = of_server(found, "kv_cache_usage"), of_server(found, "requests_waiting")
    assert 0 < usage[0] < usage[1] < 1
    # Of a sequence in the middle of its answer, on average.
    in_flight = found.points.requests_per_s * found.points.e2e_s
    assert usage[0] == pytest.approx(in_flight[0] * (1200 + 144) / found.kv_capacity_tokens[0], rel=0.25)
    assert waiting[0] < 0.1 < waiting[2]
    assert of_server(found, "preempted_share") == [0, 0, 0]
    assert np.isnan(of_server(found, "goodput_per_s")).all()


def test_what_prompts_have_in_common_counts_as_held() -> None:
    shared, whole = (
        of_server(
            answer(Case(MODEL, H100, 8000, 64, traffic=Traffic(cached_input=share)), ladder=[1]), "kv_cache_usage"
        )
        for share in (0.9, 0.0)
    )
    assert shared == pytest.approx(whole, rel=0.1)


def test_a_cache_that_runs_full_preempts_some_requests() -> None:
    """Short prompts let more in than their answers have room for."""
    found = answer(Case(MODEL, L40S, 64, 4096), ladder=[96])
    [usage], [preempted] = (of_server(found, name) for name in ("kv_cache_usage", "preempted_share"))
    assert 0.5 < usage <= 1
    assert 0 < preempted < 1


def test_goodput_counts_requests_within_the_limits() -> None:
    case = CaseColumns.of([Case(MODEL, H100, 1200, 288, traffic=traffic(10.0))])
    plain = evaluate(Simulator(), case, ONE)
    median = at(plain, "ttft_ms", 50)[0]

    def goodput(*limits: str) -> float:
        return of_server(evaluate(Simulator(goodput=limits), case, ONE), "goodput_per_s")[0]

    rate = float(plain.points.requests_per_s[0])
    assert goodput("ttft<=60s", "itl<=1s", "e2e<=10000s") == pytest.approx(rate, rel=1e-12)
    assert goodput(f"ttft<={median:.6f}ms") == pytest.approx(rate / 2, rel=0.01)
    assert goodput(f"ttft<={median:.6f}ms", "itl<=0.01ms") == 0
    assert Simulator(goodput=["itl<=10ms", "ttft<=1s"]).options == {"goodput": ["itl<=10ms", "ttft<=1000ms"]}
    for wrong in ("ttft:p95<=1s", "rate>=3/s", "nonsense"):
        with pytest.raises(InputError):
            Simulator(goodput=[wrong])


def test_lengths_that_vary_are_not_supported_where_fixed_ones_are_not() -> None:
    case = Case(MODEL, MI300X, 1024, 100, server="trtllm", traffic=Traffic(output_len=Uniform(1, 199)))
    for engine in (Simulator(), RooflineEngine()):
        found = evaluate(engine, CaseColumns.of([case]), ONE)
        assert [OUTCOMES[code] for code in found.outcome] == [Outcome.NOT_SUPPORTED]


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


def test_a_trace_with_prefix_blocks_is_spread_over_data_parallel_ranks_with_a_cache_each() -> None:
    """Two conversations that alternate: in turn, every one of two ranks has one of them, and finds all of it."""
    n = 300
    hash_ids = tuple((*range(1000 * (i % 2), 1000 * (i % 2) + 4), 5000 + i) for i in range(n))
    trace = Trace(np.arange(n) / 4.0, np.full(n, 2560), np.full(n, 50), hash_ids)
    whole, small = trace.cached_tokens(), trace.cached_tokens(2560 + 512)
    assert (whole[2:] == 2048).all()
    assert small.sum() == 0  # it forgets the other conversation
    assert (trace.cached_tokens(2560 + 512, replicas=2)[2:] == 2048).all()
    three = trace.cached_tokens(replicas=3)
    assert (three[:6] == 0).all()
    assert (three[6:] == 2048).all()
    one, two = (
        answer(Case(MODEL, H100, 2560, 50, data_parallel=dp, traffic=Traffic(trace=trace, request_rate=2.0 * dp)))
        for dp in (1, 2)
    )
    assert two.points.requests_per_s[0] == pytest.approx(4.0, rel=0.05)
    assert two.points.ttft_ms[0] == pytest.approx(one.points.ttft_ms[0], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [0.0, 0.6])
def test_the_closed_form_agrees_with_the_simulation_of_lengths_that_vary(cached: float) -> None:
    varied = Traffic(LogNormal(1200, 4000, 16_000), Uniform(64, 512), cached_input=cached)
    cases, ladder = CaseColumns.of([Case(MODEL, H100, 1200, 288, traffic=varied)]), np.array([1, 8, 64])
    roofline, simulated = (evaluate(engine, cases, ladder) for engine in (RooflineEngine(), Simulator()))
    assert (roofline.details, roofline.points.percentiles) == ({0: "mean of bins"}, None)
    assert roofline.points.itl_ms == pytest.approx(simulated.points.itl_ms, rel=0.05)
    assert roofline.points.ttft_ms == pytest.approx(simulated.points.ttft_ms, rel=0.2)
    assert roofline.points.output_tokens_per_s == pytest.approx(simulated.points.output_tokens_per_s, rel=0.05)


def test_lengths_that_do_not_vary_are_a_case_of_those_that_do() -> None:
    same = Traffic(Uniform(1024, 1024), Histogram((512,), (1.0,)))
    cases = [Case(MODEL, H100, 1024, 512), Case(MODEL, H100, 1024, 512, traffic=same)]
    plain, varied = RooflineEngine().evaluate(CaseColumns.of(cases), np.array([16])).points.itl_ms
    assert varied == pytest.approx(plain, rel=1e-9)


def test_a_cached_prompt_is_read_and_kept_once() -> None:
    """Less prefill, and room for more requests: those that shared blocks let in."""
    plain, cached = (Case(MODEL, H100, 8000, 200, traffic=Traffic(cached_input=share)) for share in (0.0, 0.75))
    for engine in (RooflineEngine(), Simulator()):
        found = evaluate(engine, CaseColumns.of([plain, cached]), np.array([1, 128]))
        assert found.points.ttft_ms[2] < 0.5 * found.points.ttft_ms[0]
        assert found.points.queued.tolist() == [False, True, False, False]


def test_engines_that_know_nothing_of_traffic_are_not_asked_about_it() -> None:
    plain, varied = Case(MODEL, H100, 1200, 288), Case(MODEL, H100, 1200, 288, traffic=traffic(3.0))
    found = evaluate(RooflineEngine(), CaseColumns.of([varied, plain, varied]), np.array([1, 2]))
    assert [OUTCOMES[code] for code in found.outcome] == [Outcome.NOT_SUPPORTED, Outcome.OK, Outcome.NOT_SUPPORTED]
    assert found.details[0].startswith("roofline answers for closed loops only")
    assert found.points.task.tolist() == [1, 1]

    class Plain(RooflineEngine):
        unsupported_traffic = None  # type: ignore[assignment]

    found = evaluate(Plain(), CaseColumns.of([varied, plain]), np.array([1, 2]))
    assert found.details[0] == "roofline answers for fixed lengths in a closed loop alone"


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
engine: {name: simulator, goodput: [ttft<=500ms]}
"""


@pytest.mark.slow
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
        assert all(best[name] >= 0 for name in SERVER_METRICS)
        assert best["goodput_per_s"] <= best["requests_per_s"]
    assert groups("--workload", "support").keys() == {"support"}
    explained = gpuscout("recommend", "--workload", "chat", "--explain", cwd=tmp_path)
    assert "saturated from" in explained.stdout
    assert re.search(r"requests wait, KV cache .* full, none preempted, goodput [\d.]+/s", explained.stdout)
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
        columns = ("--columns", ",".join(("gpu", "request_rate", *SERVER_METRICS)), "--csv")
        assert (
            gpuscout("query", *columns, "--db", other, cwd=tmp_path).stdout
            == gpuscout("query", *columns, cwd=tmp_path).stdout
        )
        assert sorted(map(str, figures)) == sorted(
            str(group["configurations"][0]["percentiles"])  # type: ignore[index]
            for group in at_three.values()
        )


CLOSED = """
name: closed
models: [Qwen/Qwen3-8B]
gpus: [H100, L40S]
tensor_parallel: [1]
workloads: [chat]
concurrency: [1, 16]
"""


@pytest.mark.slow
def test_capacity_for_a_rate_takes_simulated_points_whatever_else_is_stored(tmp_path: Path) -> None:
    def asked(*command: str, code: int = 0) -> dict[str, Any]:
        done = gpuscout(*command, "--json", cwd=tmp_path)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    (tmp_path / "open.yaml").write_text(SPEC.replace("500", "6"))
    (tmp_path / "closed.yaml").write_text(CLOSED)
    for spec in ("open.yaml", "closed.yaml"):
        assert gpuscout("run", spec, "--executor", "in-process", cwd=tmp_path).returncode == 0
    limit = ("--slo", "ttft:p95<=500ms", "--workload", "chat")
    # What each rate's percentile is, from the points themselves.
    columns = ("--columns", "workload,gpu,request_rate,p95_ttft_ms")
    points = asked("query", "--engine", "simulator", *columns)["points"]
    tail = {(row["gpu"], row["request_rate"]): row["p95_ttft_ms"] for row in points if row["workload"] == "chat"}
    for more in ((), ("--assume-tail", "1.3")):
        [group] = asked("capacity", "--rate", "30", *limit, *more)["groups"]
        assert (group["engine"], json.loads(group["traffic"])) == ("simulator", {"arrivals": "poisson"})
        assert {plan["gpu"] for plan in group["best_per_gpu"]} == {"H100-SXM-80GB", "L40S"}
        for plan in group["best_per_gpu"]:
            gpu, highest, share = plan["gpu"], plan["request_rate"], 30 / plan["replicas"]
            within = [rate for (name, rate), p95 in tail.items() if name == gpu and p95 <= 500]
            assert highest == plan["requests_per_s_per_replica"] == max(within)
            assert plan["replicas"] == math.ceil(30 / (highest * 0.8) - 1e-9)
            assert plan["at_rate_request_rate"] == min(rate for rate in within if rate >= share)
            assert plan["at_rate_percentiles"]["ttft:p95_ms"] == tail[gpu, plan["at_rate_request_rate"]]
            assert plan["percentiles"]["ttft:p95_ms"] == tail[gpu, highest]
            assert plan["assumed_tail"] is None
            assert plan["safe_replicas"] is None  # its p95 may be several times as long
            assert 0.5 < plan["limits"][0]["probability"] < 0.9
    assert "3 request rates, 2 to 6 requests/s" in gpuscout("plan", "open.yaml", cwd=tmp_path).stdout
    sized = {plan["gpu"]: plan for plan in group["best_per_gpu"]}
    # A load that moves, and GPUs that are there, take the same points.
    [moving] = asked("capacity", "--load", "0=30,600=5,1200=", *limit)["groups"]
    for plan in moving["plans"]:
        [fixed] = [fleet for fleet in plan["fleets"] if fleet["policy"] == "fixed"]
        assert plan["requests_per_s_per_replica"] == sized[plan["gpu"]]["requests_per_s_per_replica"]
        assert fixed["replicas_peak"] == sized[plan["gpu"]]["replicas"]
    [need] = asked("place", "--have", "H100=64", "--rate", "30", *limit)["needs"]
    assert [one["replicas"] for one in need["placed"]] == [sized["H100-SXM-80GB"]["replicas"]]
    shown = gpuscout("capacity", "--rate", "30", *limit, cwd=tmp_path).stdout
    assert "queueing is simulated" in shown
    assert "does not meet the limits with a probability of 90 %" in " ".join(shown.split())
    # So many users at all times are a closed loop, whose percentiles nobody simulated here.
    [group] = asked("capacity", "--users", "100", *limit, code=6)["groups"]
    assert group["traffic"] is None
    [group] = asked("capacity", "--users", "100", *limit, "--assume-tail", "1.3")["groups"]
    assert {plan["assumed_tail"] for plan in group["best_per_gpu"]} == {1.3}

    # The other questions at a rate.
    rows = asked("query", *limit, "--rate", "3", "--columns", "engine,request_rate,p95_ttft_ms")["points"]
    assert {(row["engine"], row["request_rate"]) for row in rows} == {("simulator", 4)}
    assert all(row["p95_ttft_ms"] <= 500 for row in rows)
    front = asked("pareto", "--workload", "chat", "--rate", "3", "--metrics", "cost,ttft:p95")["points"]
    assert front[0]["p95_ttft_ms"] == tail["H100-SXM-80GB", 4]
    (tmp_path / "open.yaml").write_text(SPEC.replace("500", "6").replace("name: open", "name: dear"))
    assert gpuscout("run", "open.yaml", "--executor", "in-process", cwd=tmp_path).returncode == 0
    found = asked("compare", "open", "dear", "--slo", "ttft:p95<=500ms", "--rate", "3")
    assert {(row["a_kind"], row["status"]) for row in found["configurations"]} == {("estimated, simulated p95", "same")}
    every = asked("compare", "open", "dear", "--slo", "ttft:p95<=500ms")["configurations"]
    assert len(every) == sum(row["p95_ttft_ms"] <= 500 for row in points) > len(tail) / 2
    wrong = gpuscout("query", "--rate", "nan", cwd=tmp_path)
    assert (wrong.returncode, "invalid rate nan" in wrong.stderr) == (2, True)


def test_options_of_other_tools_are_answered_with_their_names_here(tmp_path: Path) -> None:
    for command, given, meant in (("capacity", "--rps", "--rate"), ("recommend", "--isl", "--input-len")):
        wrong = gpuscout(command, given, "5", cwd=tmp_path)
        assert (wrong.returncode, f"(Possible options: {meant})" in wrong.stderr) == (2, True)


BOTH = """
name: both
models: [Qwen/Qwen3-8B]
gpus: [H100]
tensor_parallel: [1]
workloads: [{name: ours, input_len: {mean: 1200, p95: 4000, max: 16000}, output_len: 256, cached_input: 0.4}]
concurrency: [1, 16]
engines: [roofline, simulator]
"""


@pytest.mark.slow
def test_both_engines_answer_one_question_and_means_of_bins_say_so_everywhere(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text(BOTH)
    done = gpuscout("run", "both.yaml", "--executor", "in-process", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = "estimated, mean of bins"
    of_sweep = ("--sweep", "both", "--json")
    best = json.loads(gpuscout("recommend", *of_sweep, cwd=tmp_path).stdout)["groups"][0]["configurations"][0]
    assert best["mean_of_bins"]
    opinions = {opinion["engine"]: opinion["objective"] for opinion in best["opinions"]}
    assert opinions.keys() == {"roofline", "simulator"}
    assert opinions["simulator"] == pytest.approx(opinions["roofline"], rel=0.05)
    assert told in gpuscout("recommend", "--sweep", "both", cwd=tmp_path).stdout
    capacity = gpuscout("capacity", "--rate", "30", *of_sweep, cwd=tmp_path)
    assert json.loads(capacity.stdout)["groups"][0]["best_per_gpu"][0]["kind"] == told
    kinds = json.loads(gpuscout("query", "--columns", "engine,kind", "--json", cwd=tmp_path).stdout)["points"]
    assert {(row["engine"], row["kind"]) for row in kinds} == {("roofline", told), ("simulator", "estimated")}
    front = gpuscout("pareto", "--engine", "roofline", cwd=tmp_path)
    assert (front.returncode, told in front.stdout) == (0, True), front.stderr
    for form in ((), ("--json",), ("--csv",)):
        compared = gpuscout("compare", "engine:roofline", "engine:simulator", *form, cwd=tmp_path)
        assert (compared.returncode, told in compared.stdout) == (0, True), compared.stderr
    compared = gpuscout("compare", "engine:roofline", "engine:simulator", "--slo", "ttft:p95<=2s", cwd=tmp_path)
    assert "A has no answer for 1 pair of model and workload: estimates are means" in " ".join(compared.stdout.split())
    assert "winner changes" not in compared.stdout
    # Percentiles of the one that has them; the other refuses.
    for engine, code in (("simulator", 0), ("roofline", 6)):
        found = gpuscout("recommend", "--engine", engine, "--slo", "ttft:p95<=1s", cwd=tmp_path)
        assert found.returncode == code, found.stderr


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
    assert "cached: 78 % of all prompt tokens would be in an unbounded cache" in found.stdout
    document = json.loads(gpuscout("workloads", "from-trace", "t.jsonl", "--json", cwd=tmp_path).stdout)
    workload = json.dumps(document["workload"])
    rest = "name: s\nmodels: Qwen3-8B\ngpus: H100\nload: request_rate\nrequest_rate: 2\n"
    bursts = "{name: bursts, input_len: 9, output_len: 9, arrivals: {gamma: {cv: 3}}}"
    (tmp_path / "s.yaml").write_text(f"{rest}workloads: [{workload}, {bursts}, {{name: file, trace: t.jsonl}}]\n")
    for name, line in (
        ("bursts", "arrivals: gamma, times between requests vary by 3 of their mean\n"),
        ("file", "trace: 100 requests, 2 requests/s, digest "),
    ):
        assert line in gpuscout("workloads", "show", name, "--spec", "s.yaml", cwd=tmp_path).stdout
    shown = gpuscout("workloads", "show", "trace", "--spec", "s.yaml", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "cached: 78 % of every prompt" in shown.stdout
    assert gpuscout("workloads", "show", "chat", cwd=tmp_path).returncode == 0
    wrong = gpuscout("workloads", "from-trace", "nowhere.jsonl", cwd=tmp_path)
    assert (wrong.returncode, "nowhere.jsonl: No such file or directory" in wrong.stderr) == (2, True)


STARTED = """
name: started
models: [Qwen/Qwen3-8B]
gpus: [H100]
tensor_parallel: [1]
workloads: [chat]
load: request_rate
request_rate: [2, 4]
server_options: [{max_num_seqs: 32}, {max_num_seqs: 256}]
speculative: [none, {draft_tokens: 3, acceptance: 0.7, draft_cost: 0.05}]
engine: simulator
"""


@pytest.mark.slow
def test_what_a_deployment_is_started_with_keeps_its_rates_apart(tmp_path: Path) -> None:
    (tmp_path / "started.yaml").write_text(STARTED)
    done = gpuscout("run", "started.yaml", "--executor", "in-process", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    started = ("server_options", "speculative", "request_rate")
    shown = gpuscout("query", "--columns", ",".join((*started, "itl_ms")), "--json", cwd=tmp_path)
    points = json.loads(shown.stdout)["points"]
    itl_ms = {tuple(row[name] or "" for name in started): row["itl_ms"] for row in points}
    done = gpuscout("capacity", "--sweep", "started", "--rate", "3", "--top", "9", "--json", "--no-slo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [group] = json.loads(done.stdout)["groups"]
    plans = [*group["best_per_gpu"], *group["further"]]
    assert len({(plan["server_options"], plan["speculative"]) for plan in plans}) == len(plans) == 4
    for plan in plans:
        same = plan["server_options"] or "", plan["speculative"] or ""
        assert plan["itl_ms"] == itl_ms[*same, plan["request_rate"]]
        assert plan["at_rate_itl_ms"] == itl_ms[*same, plan["at_rate_request_rate"]]
    done = gpuscout("recommend", "--sweep", "started", "--server-option", "max_num_seqs=256", cwd=tmp_path)
    assert (done.returncode, "Warning" in done.stderr) == (0, False), done.stderr
    shown = gpuscout("pareto", "--metrics", "cost,ttft", cwd=tmp_path).stdout
    assert "Qwen/Qwen3-8B, chat (1,024 in / 512 out, poisson arrivals)" in shown
    drafted = ("--server-option", "max_num_seqs=256", "--speculative", "draft_tokens=3", "--slo", "ttft:p95<=9s")
    for question in (("recommend",), ("capacity", "--rate", "3")):
        shown = gpuscout(*question, *drafted, cwd=tmp_path).stdout
        assert "estimated, simulated p95, drafts not checked against measurements" in " ".join(shown.split())


@pytest.mark.slow
@pytest.mark.parametrize("engines", [("roofline", "simulator"), ("simulator", "roofline")])
def test_an_engine_that_does_not_support_open_loops_leaves_the_question_to_the_other(
    tmp_path: Path, engines: tuple[str, str]
) -> None:
    spec = STARTED.replace("engine: simulator", f"engines: [{', '.join(engines)}]").replace(", {max_num_seqs: 256}", "")
    (tmp_path / "both.yaml").write_text(spec)
    assert gpuscout("run", "both.yaml", "--executor", "in-process", cwd=tmp_path).returncode == 0
    for scope in (("--sweep", "started"), ()):
        done = gpuscout("recommend", *scope, "--slo", "ttft:p95<=1s", "--rate", "3", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        [group] = json.loads(done.stdout)["groups"]
        assert (group["engine"], group["other_engines"]) == ("simulator", ["roofline"])
