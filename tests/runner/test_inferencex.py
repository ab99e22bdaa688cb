"""InferenceX: rows of its interface as files and over HTTP on loopback, with whatever a server can do."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gpuscout.runner.cli.main import execute
from gpuscout.runner.imports import inferencex
from gpuscout.runner.imports.inferencex import Question, ask
from gpuscout.store.measured.formats import SourceFile, recognise
from gpuscout.sweeps.errors import InputError
from tests.support.result_files import completed, completer

METRICS = {
    "mean_ttft": 0.18, "median_ttft": 0.15, "p90_ttft": 0.31, "p99_ttft": 0.62, "mean_tpot": 0.0308,
    "median_tpot": 0.0306, "p90_tpot": 0.0315, "p99.9_tpot": 0.035, "mean_itl": 0.0309, "p99_itl": 0.061,
    "mean_e2el": 8.034, "median_e2el": 8.0, "p99_e2el": 9.1, "std_ttft": 0.1, "output_tput_per_gpu": 1024.0,
    "input_tput_per_gpu": 4096.0, "tput_per_gpu": 5120.0, "avg_power_w": 650.0, "joules_per_output_token": 0.63,
}  # fmt: skip
WORKERS = {
    f"{role}_{name}": value
    for role in ("prefill", "decode")
    for name, value in {"tp": 1, "ep": 1, "dp_attention": False, "num_workers": 0}.items()
}
ROW = WORKERS | {
    "hardware": "mi300x", "framework": "vllm", "model": "gptoss", "precision": "fp4", "spec_method": "none",
    "disagg": False, "is_multinode": False, "num_prefill_gpu": 1, "num_decode_gpu": 1, "isl": 1024, "osl": 256,
    "conc": 32, "image": "example/vllm:v0.19.0-rocm", "metrics": METRICS, "workers": None, "date": "2026-06-11",
    "run_url": "https://example.org/runs/1",
}  # fmt: skip


def runs_of(*rows: dict[str, Any]) -> list[Any]:
    source = SourceFile("rows.json", json.dumps(rows).encode())
    assert recognise(source).name == "inferencex"
    reported = recognise(source).read(source).runs
    return [completer().complete(run, "rows.json", version_may_lack=True)[0] for run in reported]


def test_a_row_is_a_run_with_percentiles_power_and_its_source() -> None:
    [run] = runs_of(ROW)
    assert (run.model, run.gpu, run.num_gpus, run.precision) == ("openai/gpt-oss-120b", "MI300X", 1, "fp4")
    assert (run.server, run.server_version, run.concurrency) == ("vllm", "0.19.0", 32)
    assert (run.input_len, run.output_len, run.measured_on) == (1024, 256, "2026-06-11")
    assert (run.ttft_ms, run.itl_ms, run.e2e_s, run.output_tokens_per_s) == (180.0, 30.8, 8.034, 1024.0)
    assert run.percentiles["ttft_ms", 90.0] == 310.0
    assert run.percentiles["itl_ms", 99.9] == 35.0
    assert run.percentiles["token_gap_ms", 99.0] == 61.0
    assert (run.power_w, run.details["joules_per_output_token"]) == (650.0, 0.63)
    assert run.source == "InferenceX"
    assert run.details["attribution"] == "InferenceX by SemiAnalysis"
    assert run.details["run_url"] == "https://example.org/runs/1"
    assert (run.latency_stat, run.variant) == ("mean", None)


def test_older_rows_have_medians() -> None:
    old = {name: value for name, value in METRICS.items() if not name.startswith(("mean", "p90"))}
    [run] = runs_of(ROW | {"metrics": old})
    assert (run.ttft_ms, run.itl_ms, run.e2e_s, run.latency_stat) == (150.0, 30.6, 8.0, "median")


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"decode_tp": 8, "decode_ep": 8, "num_decode_gpu": 64}, (8, 1, 8)),
        ({"decode_tp": 8, "decode_ep": 1}, (8, 1, 1)),
        ({"decode_tp": 8, "decode_ep": 8, "decode_dp_attention": True}, (1, 8, 8)),
        ({"decode_tp": 4, "decode_ep": 8}, (4, 2, 8)),
    ],
)
def test_expert_parallel_ranks_are_no_more_gpus(changes: dict[str, Any], sizes: tuple[int, int, int]) -> None:
    [run] = runs_of(ROW | {"hardware": "b200"} | changes)
    assert (run.tp, run.dp, run.ep) == sizes


def test_drafted_and_disaggregated_rows_are_set_aside() -> None:
    drafted = ROW | {"spec_method": "mtp"}
    apart = ROW | {
        "hardware": "gb200", "framework": "dynamo-trt", "disagg": True, "is_multinode": True, "num_prefill_gpu": 8,
        "num_decode_gpu": 16, "decode_tp": 8, "decode_num_workers": 2, "prefill_num_workers": 1,
    }  # fmt: skip
    first, second = runs_of(drafted, apart)
    assert (first.set_aside, first.details["spec_decoding"]) == ("drafted", "mtp")
    assert (second.set_aside, second.server, second.num_gpus, second.tp) == ("disaggregated", "trtllm", 24, 8)
    assert second.output_tokens_per_s == 16 * 1024.0
    assert second.details["decode"]["num_workers"] == 2


def test_a_row_that_is_odd_or_of_a_model_nobody_knows_keeps_out_no_other(tmp_path: Path) -> None:
    odd = ROW | {"metrics": METRICS | {"output_tput_per_gpu": 9000.0}}
    unknown, agentic = ROW | {"model": "./dsv9"}, ROW | {"isl": None}
    (tmp_path / "rows.json").write_text(json.dumps([ROW, odd, agentic]))
    [file] = completed(tmp_path / "rows.json", kv_precision="fp8")
    assert file.error is None
    assert [run.implausible is None for run in file.runs] == [True, False]
    assert "1 rows without fixed lengths are left out" in file.notes[0]
    (tmp_path / "rows.json").write_text(json.dumps([ROW, unknown | {"model": "gptoss", "hardware": "x9000"}]))
    [file] = completed(tmp_path / "rows.json", kv_precision="fp8")
    assert (file.error, len(file.runs)) == (None, 1)
    assert 'left out: unknown GPU "X9000"' in "\n".join(file.notes)


# --- over HTTP -----------------------------------------------------------------------------------------------------


class Server:
    """Answers with what its script says, one entry a request, the last one from then on; notes what it was asked."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                step = server.script.pop(0) if len(server.script) > 1 else server.script[0]
                step(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *arguments: Any) -> None:
                """Clients hang up in the middle of an answer."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.http.shutdown()
    started.http.server_close()


def answer(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Any:
    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return step


def rows(*changes: dict[str, Any]) -> Any:
    return answer(json.dumps([ROW | change for change in changes]).encode())


def test_runs_online_are_added_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    server.script = [rows({}, {"hardware": "b200", "conc": 16}, {"conc": 24, "date": "2025-12-01"})]
    command = ["import", "inferencex", "--model", "gpt-oss-120b", "--url", server.url, "--json"]
    assert execute([*command, "--gpu", "MI300X", "--since", "2026-01-01"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 1
    assert execute(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["added"], document["already_stored"]) == (2, 1)
    assert execute(command) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 0
    assert {parse_qs(urlsplit(path).query)["model"][0] for path in server.asked} == {"gpt-oss-120b"}
    assert {urlsplit(path).path for path in server.asked} == {"/api/v1/benchmarks"}
    assert execute(["import", "--remove", "inferencex:gptoss", "--yes"]) == 0
    assert "removed 3 measured runs" in capsys.readouterr().out


def test_a_busy_server_is_asked_again_when_it_says(server: Server) -> None:
    past = email.utils.formatdate(time.time() - 5, usegmt=True)
    busy = [answer(b"", 429, Retry_After="0"), answer(b"", 503, Retry_After=past), answer(b"", 429, Retry_After="0")]
    server.script = [*busy, rows({})]
    file = ask(Question("gptoss", base_url=server.url))
    assert len(recognise(file).read(file).runs) == 1
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("step", "told", "asked"),
    [
        (answer(b"", 429, Retry_After="86400"), "answers 429", 1),
        (answer(b"nothing", 404), "answers 404", 2),
        (answer(b"unknown", 400), "answers 400", 2),
        (answer(b'[{"hardware": ', length=1000), "is cut off", 1),
        (answer(b"[]", length=10**10), "larger than 256 MiB", 1),
    ],
)
def test_what_a_server_can_do_wrong_is_said(server: Server, step: Any, told: str, asked: int) -> None:
    server.script = [step]
    with pytest.raises(InputError, match=told) as refused:
        ask(Question("gptoss", base_url=server.url))
    assert refused.value.hint
    assert len(server.asked) == asked


def test_a_model_is_asked_for_by_the_name_of_the_interface_then_by_that_of_the_rows(server: Server) -> None:
    server.script = [answer(b'{"error": "Unknown model"}', 400), rows({})]
    file = ask(Question("gpt-oss-120b", base_url=server.url))
    assert len(recognise(file).read(file).runs) == 1
    assert [parse_qs(urlsplit(path).query)["model"][0] for path in server.asked] == ["gpt-oss-120b", "gptoss"]
    server.script = [answer(b"[]")]
    ask(Question("gpt-oss-120b", base_url=server.url))
    assert Question("GLM-5").names == ("GLM-5", "glm5")
    # Releases that are answered together stay apart.
    source = SourceFile("r.json", json.dumps([ROW | {"model": name} for name in ("kimik2.5", "kimik2.6")]).encode())
    runs = recognise(source).read(source).runs
    question = Question("Kimi-K2.6")
    assert question.names == ("Kimi-K2.5", "kimik2.6")
    assert [question.wants(run) for run in runs] == [False, True]
    assert [Question("kimi-k2.5").wants(run) for run in runs] == [True, False]


def test_a_huge_answer_without_a_length_ends_at_the_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inferencex, "_LARGEST_BYTES", 2**20)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(64):
            handler.wfile.write(b" " * 2**16)

    server.script = [endless]
    with pytest.raises(InputError, match="larger than 1 MiB"):
        ask(Question("gptoss", base_url=server.url))


@pytest.mark.slow
def test_a_silent_or_dripping_server_is_not_waited_for(server: Server) -> None:
    over = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        over.wait(10)

    def dripping(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    try:
        for script in (silent, dripping):
            server.script = [script]
            with pytest.raises(InputError, match=r"no answer within 0\.1 s"):
                ask(Question("gptoss", base_url=server.url, timeout_s=0.1))
    finally:
        over.set()


def test_addresses_that_are_none_and_servers_that_are_not_there() -> None:
    for url in ("file:///etc/passwd", "ftp://example.org", "example.org", "http://user:secret@example.org"):
        with pytest.raises(InputError, match="--url") as refused:
            ask(Question("gptoss", base_url=url))
        assert "secret" not in refused.value.message
    with pytest.raises(InputError, match="cannot be reached"):
        ask(Question("gptoss", base_url="http://127.0.0.1:9"))


def test_what_is_asked_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["import", "inferencex"]) == 2
    assert "say which model" in capsys.readouterr().err
    assert execute(["import", "runs.csv", "--since", "2026-01-01"]) == 2
    assert "--since and --url are for InferenceX online" in capsys.readouterr().err
    assert Question("Qwen/Qwen3.5-397B-A17B").short_name == "qwen3.5"
    assert Question("DeepSeek-V4-Pro").short_name == Question("dsv4").short_name == "dsv4"
    assert Question("dsv9").names == ("dsv9",)
    source = SourceFile("r.json", json.dumps([ROW]).encode())
    [run] = recognise(source).read(source).runs
    assert Question("gptoss", gpu="mi300x", since=date(2026, 6, 11)).wants(run)
    assert not Question("gptoss", gpu="MI325X").wants(run)
    assert not Question("gptoss", since=date(2026, 6, 12)).wants(run)
