"""Measured figures that contradict each other are refused; those that beat the hardware never rank unasked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpuscout.runner.cli.main import execute
from gpuscout.runner.engines.plausible import contradiction
from gpuscout.store.measured.runs import PUBLIC_FILES
from tests.support.result_files import FACTS, FOLDER, completed, completer, imported, reported

pytestmark = pytest.mark.slow


def changed(**figures: Any) -> Any:
    return lambda document: document.update(figures)


def in_seconds(document: Any) -> None:
    for name, value in list(document.items()):
        if name.endswith("_ms") and isinstance(value, float | int):
            document[name] = value / 1000


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (in_seconds, "seconds where milliseconds are expected"),
        (changed(request_throughput=40.0, output_throughput=8000.0), "169 requests in flight, not 16 .Little's law."),
        (changed(mean_e2el_ms=200.0), "the end-to-end latency .0.2 s. is below the TTFT .250 ms."),
        (changed(mean_tpot_ms=0.02), "TTFT . ITL x .output tokens - 1. is 0.254 s, the end-to-end latency 4.23 s"),
        (changed(output_throughput=1.0), "1 output tokens/s are not 3.783 requests/s x 200 output tokens"),
    ],
)
def test_contradictions_are_refused(change: Any, told: str, tmp_path: Path) -> None:
    document = json.loads((FOLDER / "vllm.json").read_bytes())
    change(document)
    (tmp_path / "odd.json").write_text(json.dumps(document))
    [file] = completed(tmp_path / "odd.json")
    assert re.search(f"odd.json: the figures contradict each other: .*{told}", str(file.error))
    assert file.runs == []


def test_requests_that_failed_explain_empty_places() -> None:
    few = changed(request_throughput=0.2, output_throughput=40.0, failed=480, completed=160)
    [run] = reported("vllm.json", few)
    new, notes = completer(**FACTS).complete(run, "vllm.json")
    assert contradiction(new) is None
    assert "480 of 640 requests failed" in notes


def runs_of(gpu: str, tp: int, itl_ms: float | str, name: str, **more: Any) -> str:
    line = {"id": name, "model": "Qwen/Qwen3-32B", "gpu": gpu, "tp": tp, "precision": "bf16", "server": "vllm"}
    line |= {"server_version": "0.19.1", "input_len": 1024, "output_len": 512, "concurrency": 16, "ttft_ms": 300}
    line |= {"itl_ms": itl_ms} | more
    return f"{','.join(line)}\n{','.join(map(str, line.values()))}\n"


def test_a_contradiction_names_figures_that_the_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Requests/s follow from the load and the latencies: nobody wrote them."""
    monkeypatch.chdir(tmp_path)
    Path("runs.csv").write_text(runs_of("H100", 1, 20, "one", output_tokens_per_s=756, concurrency=1))
    assert execute(["import", "runs.csv"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "756 output tokens/s are not 1 in flight / 10.5 s x 512 output tokens (48.67)" in told


def test_what_beats_the_hardware_is_stored_and_never_ranks_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # 64 GB of weights read on two GPUs of 864 GB/s take 37 ms a step at least; on two of 3,350 GB/s 9.8 ms.
    Path("fast.csv").write_text(runs_of("L40S", 2, 20.0, "fast"))
    Path("sound.csv").write_text(runs_of("H100", 2, 20.0, "sound"))
    assert execute(["import", "fast.csv", "sound.csv"]) == 0
    told = capsys.readouterr()
    assert "fast.csv:2: implausible, and never ranked unless asked for: ITL 20 ms is below 37 ms" in told.err
    assert "speculative decoding" in told.err
    assert "2 runs added" in told.out

    ask = ["recommend", "--model", "Qwen3-32B", "--input-len", "1024", "--output-len", "512"]
    assert execute([*ask, "--objective", "itl"]) == 0
    told = capsys.readouterr()
    assert "H100 x2" in told.out
    assert "L40S" not in told.out
    assert "left out: 1 measured run better than the hardware can be" in " ".join(told.out.split())
    assert execute([*ask, "--objective", "throughput", "--top", "2", "--implausible", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    runs = {one["gpu"]: one["runs"] for one in document["groups"][0]["configurations"]}
    assert "below 37 ms" in runs["L40S"]["implausible"]
    assert runs["H100-SXM-80GB"]["implausible"] is None

    query = ["query", "--columns", "gpu,implausible", "--json"]
    assert execute(query) == 0
    assert [row["gpu"] for row in json.loads(capsys.readouterr().out)["points"]] == ["H100-SXM-80GB"]
    assert execute([*query, "--implausible"]) == 0
    assert [row["gpu"] for row in json.loads(capsys.readouterr().out)["points"]] == ["L40S", "H100-SXM-80GB"]
    assert execute(["accuracy", "--measured", "stored", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"][0]["runs"] == 1

    # The flag survives an export and its way back.
    assert execute(["export", "--output", "all.jsonl", "--implausible"]) == 0
    assert execute(["import", "all.jsonl", "--db", "sqlite:///other.db"]) == 0
    capsys.readouterr()
    assert execute([*query, "--implausible", "--db", "sqlite:///other.db"]) == 0
    causes = {row["gpu"]: row["implausible"] for row in json.loads(capsys.readouterr().out)["points"]}
    assert "below 37 ms" in causes["L40S"]


def test_no_prompt_and_no_throughput_is_beyond_the_peak_arithmetic(store: Any, tmp_path: Path) -> None:
    # Two GPUs of 989.4 TFLOPS: a prompt of 1,024 tokens takes 33 ms, and 32 B weights allow some 10,000 tokens/s.
    cases = {
        "prompt": runs_of("H100", 2, 20.0, "prompt", concurrency=1, ttft_ms=2),
        "tokens": runs_of("H100", 2, "", "tokens", ttft_ms="", output_tokens_per_s=50_000),
        "drafted": runs_of("H100", 2, 12.0, "sound"),
    }
    found = {}
    for name, text in cases.items():
        (tmp_path / f"{name}.csv").write_text(text)
        [file] = imported(store, tmp_path / f"{name}.csv", server="vllm")
        found[name] = file.runs[0].implausible
    assert "TTFT 2 ms is below" in (found["prompt"] or "")
    assert "beyond the peak arithmetic of 2 GPUs" in (found["tokens"] or "")
    assert found["drafted"] is None


def test_no_public_run_is_implausible(store: Any) -> None:
    for name in (f"public:{file}" for file in PUBLIC_FILES):
        [file] = imported(store, name)
        odd = [run for run in file.runs if run.implausible]
        # Five that were published count other tokens than they say: they contradict themselves.
        assert len(odd) < 0.005 * len(file.runs)
        assert all("output tokens/s are not" in str(run.implausible) for run in odd)


def test_failed_requests_are_part_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    document = json.loads((FOLDER / "vllm.json").read_bytes())
    document.update(failed=480, completed=160)
    Path("failing.json").write_text(json.dumps(document))
    facts = [part for name, value in FACTS.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert execute(["import", "failing.json", *facts]) == 0
    assert "480 of 640 requests failed" in capsys.readouterr().err
    assert execute(["recommend"]) == 0
    assert "480 of 640 requests failed" in " ".join(capsys.readouterr().out.split())
    assert execute(["query", "--columns", "requests_completed,requests_failed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == [{"requests_completed": 160, "requests_failed": 480}]


def test_a_run_that_is_not_plain_never_stands_for_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drafted, disaggregated and cached runs, those of low trust and those that newer ones supersede."""
    monkeypatch.chdir(tmp_path)
    odd = {
        "spec_decoding": "mtp",
        "disaggregated": "yes",
        "prefix_cached": "true",
        "trust": "low",
        "latest": "0",
    }
    for number, (column, value) in enumerate(odd.items()):
        Path(f"{column}.csv").write_text(runs_of("H100", 2, 14.0 + number, column, **{column: value}))
    Path("plain.csv").write_text(runs_of("H100", 2, 20.0, "plain", spec_decoding="none", trust="high", latest="1"))
    assert execute(["import", "plain.csv", *(f"{column}.csv" for column in odd)]) == 0
    assert "drafted tokens, which estimates do not know of: set aside" in capsys.readouterr().err

    ask = ["recommend", "--model", "Qwen3-32B", "--input-len", "1024", "--output-len", "512", "--objective", "itl"]
    assert execute([*ask, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["set_aside_runs"], document["question"]["set_aside"]) == (5, False)
    assert execute(ask) == 0
    told = capsys.readouterr().out
    assert "20.0" in told
    assert "left out: 5 measured runs drafted, cached, client-bound, superseded or doubted" in " ".join(told.split())
    query = ["query", "--columns", "itl_ms,set_aside", "--json"]
    assert execute(query) == 0
    assert [row["itl_ms"] for row in json.loads(capsys.readouterr().out)["points"]] == [20.0]
    assert execute([*query, "--set-aside"]) == 0
    reasons = {row["itl_ms"]: row["set_aside"] for row in json.loads(capsys.readouterr().out)["points"]}
    assert list(map(reasons.get, (14.0, 15.0, 16.0, 17.0, 18.0, 20.0))) == [
        "drafted", "disaggregated", "prefix-cached", "low trust", "superseded", None,
    ]  # fmt: skip
    assert execute(["accuracy", "--measured", "stored", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["accuracy"][0]["runs"] == 3
    assert "left out: 3 runs of drafted, cached or disaggregated deployments" in told.err

    assert execute(["import", "--remove", "plain.csv", "--yes"]) == 0
    for command in (ask, ["query"]):
        assert execute(command) == 2
        assert "do not count: 5 that are set aside (--set-aside counts them)" in capsys.readouterr().err
    assert execute(["import", "plain.csv"]) == 0
    capsys.readouterr()

    # Exports have them when asked, and they stay set aside on the way back.
    assert execute(["export", "--output", "all.jsonl", "--set-aside"]) == 0
    assert execute(["import", "all.jsonl", "--db", "sqlite:///other.db"]) == 0
    capsys.readouterr()
    assert execute([*query, "--db", "sqlite:///other.db"]) == 0
    assert [row["itl_ms"] for row in json.loads(capsys.readouterr().out)["points"]] == [20.0]
