"""The parser of what `llm-optimizer estimate` prints: every recorded output, and damaged ones."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscout.runner.engines.llm_optimizer import parse_llm_optimizer_output
from gpuscout.runner.engines.llm_optimizer.output import (
    BestLatency,
    BestThroughput,
    Concurrency,
    Configuration,
    Constrained,
    Finding,
    Performance,
    Report,
    Roofline,
    extras,
    finding_in,
)
from gpuscout.runner.engines.llm_optimizer.package import figures, report
from gpuscout.runner.engines.llm_optimizer.program import read
from gpuscout.runner.engines.program import Printed
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import Outcome
from tests.support.llm_optimizer_formula import Shape, latencies_ms

RECORDED = Path(__file__).parents[1] / "data" / "llm_optimizer"
RUNS = {run["name"]: run for run in json.loads((RECORDED / "runs.json").read_text())}


def recorded_calls() -> list[tuple[dict[str, Any], dict[str, float] | str]]:
    """Arguments of the Python function, and its figures or the message of its ValueError, of 400 real calls."""
    document = json.loads((RECORDED / "estimates.json").read_text())
    count = len(document["arguments"])
    return [
        (
            dict(zip(document["arguments"], call[:count], strict=True)),
            call[count]
            if isinstance(call[count], str)
            else {
                name: math.inf if figure is None else figure
                for name, figure in zip(document["results"], call[count], strict=True)
            },
        )
        for call in document["calls"]
    ]


def text(name: str) -> str:
    return (RECORDED / f"{name}.stdout").read_text(encoding="utf-8")


def case(**changes: object) -> Case:
    """The case of the recorded run `qwen3_32b_h100x2`."""
    asked = {
        "model": ModelCatalogue.load().get("Qwen/Qwen3-32B"),
        "gpu": GPUCatalogue.load().resolve("H100"),
        "input_len": 2000,
        "output_len": 256,
        "tensor_parallel": 2,
    }
    return Case(**(asked | changes))


def test_every_section_of_a_recorded_output() -> None:
    told = parse_llm_optimizer_output(text("qwen3_32b_h100x2"))
    assert told.configuration == Configuration(
        "Qwen/Qwen3-32B", "H100", 2, "bf16", 2000, 256, "throughput", None, 30.5, 64
    )
    assert told.performance == Performance(
        BestLatency(1, 83.2, 4.9, 1.34), BestThroughput(128, 6369.0, 24043.4, 8.11, "memory")
    )
    assert told.roofline == Roofline(275.1, 65622.6, 32.8, "compute", "memory")
    assert told.concurrency == Concurrency(253, 3, 5, 3, 16)
    assert told.constrained is None
    assert {name: list(levels) for name, levels in told.tuning.items()} == {
        "sglang": ["simple", "advanced"],
        "vllm": ["simple", "advanced"],
    }
    assert told.tuning["vllm"]["simple"][0].startswith("llm-optimizer --framework vllm --model Qwen/Qwen3-32B ")
    assert told.error is None
    assert not told.does_not_fit


def test_constraints_and_several_commands() -> None:
    told = parse_llm_optimizer_output(text("llama8b_constraints"))
    assert told.constrained == Constrained(4, 221.6, 2.6, 1536.9)
    assert told.configuration is not None
    assert told.configuration.constraints == "ttft:p95<=300ms;itl:p95<=12ms"
    assert parse_llm_optimizer_output(text("bad_constraint")).constrained == Constrained(256, 732.6, 4.7, 54567.9)
    latency = parse_llm_optimizer_output(text("latency_target"))
    assert [len(levels["simple"]) for levels in latency.tuning.values()] == [2, 2]
    assert list(parse_llm_optimizer_output(text("llama8b_l40s")).tuning) == ["vllm"]


def test_empty_sections_mean_that_it_does_not_fit() -> None:
    told = parse_llm_optimizer_output(text("llama70b_h100x1_does_not_fit"))
    assert told.performance == Performance(None, None)
    assert told.concurrency == Concurrency(1, 1, 1, 1, 1)
    assert told.does_not_fit


@pytest.mark.parametrize("name", ["fp8_a100", "llama8b_constraints_unsat", "unknown_gpu", "unknown_model"])
def test_an_output_without_sections_has_none(name: str) -> None:
    told = parse_llm_optimizer_output(text(name))
    assert (told.configuration, told.performance, told.roofline, told.concurrency) == (None, None, None, None)
    assert not told.does_not_fit


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("fp8_a100", Finding.PRECISION_NOT_SUPPORTED),
        ("llama8b_constraints_unsat", Finding.CONSTRAINTS_UNMET),
        ("unknown_gpu", Finding.UNKNOWN_GPU),
        ("unknown_model", Finding.UNKNOWN_MODEL),
    ],
)
def test_messages_tell_what_went_wrong_whatever_the_exit_status(name: str, finding: Finding) -> None:
    run = RUNS[name]
    answer = read(Printed(text(name), run["stderr"], run["exit_status"]), case(), [1])
    assert answer.outcome is finding.outcome
    assert finding in (finding_in(answer.detail or ""), Finding.CONSTRAINTS_UNMET)


def test_the_seven_findings_are_stored_apart() -> None:
    answers = {(finding.answer("x").outcome, finding.answer("x").detail) for finding in Finding}
    assert len(answers) == 7


def test_infinite_and_zero_figures_are_figures() -> None:
    body = text("qwen3_32b_h100x2").replace("TTFT: 83.2 ms", "TTFT: inf ms").replace("ITL: 4.9 ms", "ITL: 0.0 ms")
    performance = parse_llm_optimizer_output(body).performance
    assert performance is not None
    assert performance.best_latency == BestLatency(1, math.inf, 0.0, 1.34)


@given(st.data())
def test_a_damaged_output_never_gives_what_it_does_not_say(data: st.DataObject) -> None:
    whole = text(data.draw(st.sampled_from(sorted(RUNS))))
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    damaged = whole[:start] + data.draw(st.text(max_size=20)) + whole[end:]
    told = parse_llm_optimizer_output(damaged)
    for figure in numbers(asdict(told)):
        assert f"{figure:g}" in damaged.replace(",", "") or f"{figure:.1f}" in damaged or f"{figure:.2f}" in damaged
    answer = read(Printed(damaged, "", 0), case(), [1, 16, 128])
    if answer.outcome is Outcome.OK:
        assert all(math.isfinite(point.e2e_s) for point in answer.points if point.concurrency == 1)


@given(st.sampled_from(sorted(RUNS)), st.floats(0, 1))
def test_an_output_that_breaks_off_is_no_answer(name: str, share: float) -> None:
    whole = text(name)
    body, tuning, _ = whole.partition("=== Tuning Commands ===")
    if tuning:
        cut = parse_llm_optimizer_output(body[: int(share * (len(body) - 60))])
        assert not cut.does_not_fit


@given(st.text())
def test_any_text_can_be_read(garbage: str) -> None:
    assert isinstance(parse_llm_optimizer_output(garbage), Report)
    assert isinstance(parse_llm_optimizer_output(f"=== Performance Analysis ===\n{garbage}"), Report)
    assert read(Printed(garbage, garbage, 0), case(), [1]).outcome is not Outcome.OK


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) and value != math.inf else []


def test_the_operating_points_it_prints_and_no_others() -> None:
    answer = read(Printed(text("qwen3_32b_h100x2"), "", 0), case(), [1, 2, 4, 128])
    low, high = answer.points
    assert (low.concurrency, low.ttft_ms, low.itl_ms) == (1, 83.2, 4.9)
    assert low.e2e_s == pytest.approx(1.34, abs=0.005)
    assert (high.concurrency, high.output_tokens_per_s) == (128, 6369.0)
    assert high.e2e_s == pytest.approx(128 / 8.11, rel=1e-3)
    assert high.ttft_ms == pytest.approx(1e3 * 128 * 2000 / 24043.4)
    assert answer.extras["concurrency"] == {
        "kv_cache_limit": 253,
        "prefill_compute_limit": 3,
        "decode_capacity_limit": 5,
        "overall_limit": 3,
        "empirical_optimum": 16,
    }


def test_what_is_printed_determines_what_is_not() -> None:
    """On every recorded call: the identities by which the points of a program are completed."""
    checked = 0
    for asked, said in recorded_calls():
        if isinstance(said, str) or math.isinf(said["ttft_ms"]):
            continue
        concurrency, input_len, output_len = asked["concurrency"], asked["input_len"], asked["output_len"]
        ttft_ms, itl_ms, e2e_s = said["ttft_ms"], said["itl_ms"], said["e2e_latency_s"]
        assert said["input_throughput_tps"] == pytest.approx(1e3 * concurrency * input_len / ttft_ms, rel=1e-12)
        assert said["output_throughput_tps"] == pytest.approx(1e3 * concurrency / itl_ms, rel=1e-12)
        assert e2e_s == pytest.approx((ttft_ms + output_len * itl_ms) / 1e3, rel=1e-12)
        assert said["requests_per_sec"] == pytest.approx(concurrency / e2e_s, rel=1e-12)
        checked += 1
    assert checked == 283


def test_an_output_about_another_case_is_broken() -> None:
    answer = read(Printed(text("qwen3_32b_h100x2"), "", 0), case(tensor_parallel=4), [1])
    assert answer.outcome is Outcome.ERROR
    assert "another case" in (answer.detail or "")


@pytest.mark.parametrize("kind", [dict, lambda **names: SimpleNamespace(**names)])
def test_older_field_names_as_dicts_or_objects(kind) -> None:
    point = figures(kind(ttft=12.0, itl=0.0, tps=800.0), concurrency=4, output_len=10)
    assert (point.ttft_ms, point.itl_ms, point.output_tokens_per_s) == (12.0, 0.0, 800.0)
    assert (point.e2e_s, point.requests_per_s) == (0.012, 4 / 0.012)
    assert figures(kind(ttft_ms=0, itl_ms=1, throughput=0), concurrency=1, output_len=10).output_tokens_per_s == 0
    assert not figures(kind(ttft_ms=math.inf, itl_ms=math.inf, tps=0.0), concurrency=1, output_len=10).fits
    limits = report(kind(concurrency_limits=kind(max_concurrent=7))).concurrency
    assert limits is not None
    assert limits.overall_limit == 7
    newer = report(kind(concurrency_limits=kind(overall_limit=0, max_concurrent_requests=7))).concurrency
    assert newer is not None
    assert newer.overall_limit == 0


@pytest.mark.parametrize("figure", [None, "fast", True, math.nan, [1]])
def test_a_result_without_a_usable_latency_is_refused(figure: object) -> None:
    with pytest.raises(ValueError, match=r"TTFT|ttft_ms"):
        figures({"ttft_ms": figure, "itl_ms": 1.0}, concurrency=1, output_len=10)


def test_what_is_kept_with_a_task_can_be_stored() -> None:
    told = parse_llm_optimizer_output(text("llama8b_constraints"))
    kept = extras(told)
    assert list(kept) == ["roofline", "concurrency", "constrained", "tuning"]
    json.dumps(kept, allow_nan=False)
    assert extras(Report(roofline=Roofline(math.inf))) == {}


def test_its_arithmetic_gives_the_recorded_estimates() -> None:
    """What `tests.assets.compare_estimates` scores where the package cannot be installed."""
    catalogue = ModelCatalogue.load()
    answered = refused = 0
    for asked, said in recorded_calls():
        shape = Shape.of(catalogue.get(asked["model"].replace("Meta-Llama", "Llama")))
        of = [asked[name] for name in ("gpu", "num_gpus", "precision", "concurrency", "input_len")]
        if isinstance(said, str):
            with pytest.raises(ValueError, match=said):
                latencies_ms(shape, *of)
            refused += 1
        elif math.isfinite(said["ttft_ms"]):
            assert latencies_ms(shape, *of) == pytest.approx((said["ttft_ms"], said["itl_ms"]), rel=1e-9)
            answered += 1
    assert (answered, refused) == (283, 32)  # the others do not fit
