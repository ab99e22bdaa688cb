"""The engine `benchmark` on a running server: from a spec into the store, ranked as measured, resumed by points."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.commands import started, wait_for
from tests.support.in_process import gpuscout
from tests.support.llama_server import serving_llama, write_config
from tests.support.openai_server import Served, serving_openai

MODEL = "Qwen/Qwen3-0.6B"
# Also runs of a client that a busy machine has kept from its work.
EVERY = ("--set-aside", "--implausible")
SPEC = """
name: bench
models: [{model}]
gpus: [H100]
tensor_parallel: [1]
workloads: [{{name: tiny, input_len: 32, output_len: 8}}]
concurrency: {ladder}
engine: {{name: benchmark, endpoint: "{url}", fewest_requests: 8, requests_per_client: 2{more}}}
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with serving_openai(model=MODEL, ttft_ms=10, itl_ms=3) as server:
        yield server


def write_spec(folder: Path, server: Served, ladder: str = "[1, 4]", more: str = "", **changes: str) -> None:
    text = SPEC.format(model=MODEL, url=server.url, ladder=ladder, more=more)
    for old, new in changes.items():
        text = re.sub(rf"(?m)^{old}:.*$", f"{old}: {new}", text)
    (folder / "bench.yaml").write_text(text)


def rows(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "gpuscout.db")) as connection:
        return connection.execute(statement).fetchall()


def test_a_ladder_is_measured_stored_and_ranked_as_measured(server: Served, tmp_path: Path) -> None:
    write_spec(tmp_path, server)
    done = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sent = server.record()
    assert len(sent) == (1 + 8) + (4 + 8)  # a warm-up of as many as are in flight, then the counted ones
    assert "1 computed" in done.stderr

    stored = rows(
        tmp_path,
        "SELECT load, concurrency, server_version, tool, source, set_aside, implausible, requests_completed, "
        "requests_failed, details FROM measured_runs JOIN tasks ON tasks.key = measured_runs.task_key "
        "JOIN membership ON membership.task_id = tasks.id ORDER BY concurrency",
    )
    assert [row[:5] for row in stored] == [
        ("closed_loop", concurrency, "0.32.0", "gpuscout", server.url) for concurrency in (1, 4)
    ]
    assert [row[7:9] for row in stored] == [(8, 0)] * 2
    details = json.loads(str(stored[0][9]))
    assert {"host", "run", "tool_version", "duration_s", "mean_concurrency", "client_cpu"} <= details.keys()
    assert rows(tmp_path, "SELECT count(*) FROM operating_points") == [(0,)]
    assert rows(tmp_path, "SELECT count(*) FROM percentiles WHERE percentile = 99.0") == [(8,)]

    again = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert "nothing to compute" in again.stderr
    assert server.record() == []
    for scope in ([], ["--sweep", "bench"]):
        ranked = json.loads(gpuscout("recommend", *scope, "--json", *EVERY, cwd=tmp_path).stdout)
        best = ranked["groups"][0]["configurations"][0]
        assert (best["engine"], best["gpu"]) == ("measured", "H100-SXM-80GB")

    # An export takes along which sweep measured them: the store that it comes to has nothing to measure.
    gpuscout("export", "-o", "all.jsonl", *EVERY, cwd=tmp_path)
    elsewhere = ("--db", f"sqlite:///{tmp_path}/elsewhere.db")
    assert gpuscout("import", "all.jsonl", *elsewhere, cwd=tmp_path).returncode == 0
    done = gpuscout("run", "bench.yaml", *elsewhere, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert server.record() == []


@pytest.mark.slow
def test_a_longer_ladder_measures_what_is_missing(server: Served, tmp_path: Path) -> None:
    write_spec(tmp_path, server, "[2]")
    assert gpuscout("run", "bench.yaml", cwd=tmp_path).returncode == 0
    server.record()
    write_spec(tmp_path, server, "[1, 2]")
    assert gpuscout("run", "bench.yaml", cwd=tmp_path).returncode == 0
    assert len(server.record()) == 1 + 8
    assert rows(tmp_path, "SELECT concurrency FROM measured_runs ORDER BY 1") == [(1,), (2,)]


@pytest.mark.slow
def test_removed_runs_are_measured_again(server: Served, tmp_path: Path) -> None:
    write_spec(tmp_path, server, "[1]")
    assert gpuscout("run", "bench.yaml", cwd=tmp_path).returncode == 0
    assert gpuscout("import", "--remove", server.url, "--yes", cwd=tmp_path).returncode == 0
    assert rows(tmp_path, "SELECT count(*) FROM measured_runs") == [(0,)]
    server.record()
    again = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert (again.returncode, len(server.record())) == (0, 1 + 8), again.stderr
    assert rows(tmp_path, "SELECT count(*) FROM measured_runs") == [(1,)]
    assert "finished" in gpuscout("sweeps", "show", "bench", cwd=tmp_path).stdout


@pytest.mark.slow
def test_points_before_a_failure_are_kept_and_the_rest_is_measured_later(server: Served, tmp_path: Path) -> None:
    write_spec(tmp_path, server, "[1, 2, 4]")
    server.behave(after=(1 + 8) + (2 + 8), answer=500, words="CUDA out of memory")
    failed = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert failed.returncode == 5
    assert "CUDA out of memory" in failed.stderr
    assert rows(tmp_path, "SELECT concurrency FROM measured_runs ORDER BY 1") == [(1,), (2,)]
    ranked = json.loads(gpuscout("recommend", "--sweep", "bench", "--json", *EVERY, cwd=tmp_path).stdout)
    assert ranked["groups"][0]["configurations"][0]["engine"] == "measured"
    server.behave()
    server.record()
    assert gpuscout("run", "bench.yaml", cwd=tmp_path).returncode == 0
    assert len(server.record()) == 4 + 8
    assert rows(tmp_path, "SELECT concurrency FROM measured_runs ORDER BY 1") == [(1,), (2,), (4,)]


@pytest.mark.slow
def test_few_points_around_a_limit_go_on_where_they_were_stopped(server: Served, tmp_path: Path) -> None:
    """What was measured before tells where the limit is not."""
    write_spec(tmp_path, server, "[1, 2, 4, 8, 16, 32]", ', adaptive: ["itl<=10s"]')
    server.behave(after=8 + 16, answer=500)  # the middle of the ladder is measured
    assert gpuscout("run", "bench.yaml", cwd=tmp_path).returncode == 5
    assert rows(tmp_path, "SELECT concurrency FROM measured_runs") == [(8,)]
    server.behave()
    server.record()
    done = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path, "SELECT concurrency FROM measured_runs ORDER BY 1") == [(8,), (32,)]
    assert len(server.record()) == 32 + 64


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_end_of_a_run_loses_no_finished_point(server: Served, tmp_path: Path, how: signal.Signals) -> None:
    write_spec(tmp_path, server, "[1, 2]")
    server.behave(after=1 + 8, answer="stall")
    process = started("run", "bench.yaml", cwd=tmp_path)

    def first_is_stored() -> bool:
        return (tmp_path / "gpuscout.db").exists() and bool(_stored(tmp_path))

    wait_for(first_is_stored, process, timeout_s=120)
    process.send_signal(how)
    messages = process.communicate()[1]
    assert how is signal.SIGKILL or "stopped: 0 of 1 tasks are stored, and 1 measured point of others" in messages
    server.behave()
    server.record()
    done = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(server.record()) == 2 + 8
    assert rows(tmp_path, "SELECT concurrency FROM measured_runs ORDER BY 1") == [(1,), (2,)]


def test_one_run_at_a_time_measures_an_endpoint(server: Served, tmp_path: Path, postgres_url: str) -> None:
    """Of two sweeps in one store: the second waits, until the first is killed in the middle of a load."""
    write_spec(tmp_path, server, "[1]")
    (tmp_path / "bench.yaml").rename(tmp_path / "first.yaml")
    write_spec(tmp_path, server, "[1, 2]", ", request_timeout_s: 20", name="second")
    server.behave(after=2, answer="stall")
    first = started("run", "first.yaml", "--db", postgres_url, cwd=tmp_path)
    asked: list[object] = []
    wait_for(lambda: asked.extend(server.record()) or len(asked) > 2, first)
    second = started("run", "bench.yaml", "--db", postgres_url, cwd=tmp_path)
    assert second.stderr is not None
    told = next((line for line in second.stderr if "another run is measuring" in line), None)
    assert told is not None
    assert server.url in told
    assert server.record() == []
    server.behave()
    first.kill()
    first.communicate()
    messages = second.communicate(timeout=300)[1]
    assert second.returncode == 0, messages
    assert len(server.record()) == (1 + 8) + (2 + 8)
    # What the dead one held is free.
    again = gpuscout("run", "first.yaml", "--db", postgres_url, cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_request_rates_are_measured(server: Served, tmp_path: Path) -> None:
    write_spec(tmp_path, server, more=", seconds_at_rate: 0.2")
    text = (
        (tmp_path / "bench.yaml")
        .read_text()
        .replace("concurrency: [1, 4]", "load: request_rate\nrequest_rate: [40, 80]")
    )
    (tmp_path / "bench.yaml").write_text(text)
    done = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path, "SELECT load, request_rate FROM measured_runs ORDER BY 2") == [
        ("request_rate", 40.0),
        ("request_rate", 80.0),
    ]


@pytest.mark.slow
def test_an_endpoint_is_one_deployment(server: Served, tmp_path: Path) -> None:
    write_spec(tmp_path, server, gpus="[H100, L4]", tensor_parallel="[1, 2]")
    refused = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "an endpoint is one deployment, and this sweep has several: say which by `gpu`, `tp`" in refused.stderr
    write_spec(tmp_path, server, "[1]", ", gpu: h100, tp: 1", gpus="[H100, L4]", tensor_parallel="[1, 2]")
    text = (tmp_path / "bench.yaml").read_text()
    (tmp_path / "bench.yaml").write_text(text.replace("engine: {", "engines:\n- {") + "- roofline\n")
    done = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = "SELECT outcome, count(*) FROM tasks JOIN engines ON engines.id = engine_id "
    assert rows(tmp_path, f"{outcomes} WHERE engines.name = 'benchmark' GROUP BY 1 ORDER BY 1") == [
        ("not_supported", 3),
        ("ok", 1),
    ]
    assert len(server.record()) == 1 + 8
    # One is measured, the others are estimated: the benchmark is no second opinion, and refuses none of them.
    ranked = json.loads(gpuscout("recommend", "--sweep", "bench", "--json", *EVERY, "--top", "9", cwd=tmp_path).stdout)
    [group] = ranked["groups"]
    assert (group["engine"], group["other_engines"]) == ("roofline", [])
    kinds = {(best["gpu"], best["num_gpus"]): best["kind"] for best in group["configurations"]}
    assert kinds[("H100-SXM-80GB", 1)] == "measured"
    assert [kind for place, kind in kinds.items() if place != ("H100-SXM-80GB", 1)] == ["estimated"] * 3
    assert group["unranked"] == []


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("endpoint: http://user:pw@host/v1", "it holds a user or a password"),
        ("endpoint: nonsense", "invalid endpoint"),
        ("max_in_flight: 2", "a concurrency of 4 is above `max_in_flight` (2)"),
        ("served_model_name: other", f'the endpoint serves "{MODEL}", not "other"'),
        ("api_key_env: NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE is not set"),
        ("generator: aiperf, generator_command: aiperf --api-key pw", '"--api-key" would be stored'),
        ("run: {runtime_env: {env_vars: {HF_TOKEN: pwpwpwpw}}}", "env_vars.HF_TOKEN: would be stored"),
        ("api_key_env: sk-pwpwpwpw", "not the key itself"),
        (f"api_key_env: hf_{'pw' * 17}", "not the key itself"),
    ],
)
def test_says_what_is_wrong(server: Served, tmp_path: Path, spec: str, told: str) -> None:
    write_spec(tmp_path, server)
    written = (tmp_path / "bench.yaml").read_text()
    engine = f'endpoint: "{server.url}"'
    changed = spec if spec.startswith("endpoint") else f"{engine}, {spec}"
    (tmp_path / "bench.yaml").write_text(written.replace(engine, changed))
    done = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert done.returncode in (2, 5)
    assert told in done.stderr
    assert "pw" not in done.stderr


@pytest.mark.slow
def test_from_the_command_line(server: Served, tmp_path: Path) -> None:
    flags = ("--model", MODEL, "--gpu", "H100", "--tp", "1", "--input-len", "32", "--output-len", "8")
    more = ("--endpoint", server.url, "--engine-option", "fewest_requests=8", "--concurrency", "1", "--name", "flags")
    done = gpuscout("run", *flags, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(server.record()) == 1 + 8
    refused = gpuscout("run", *flags, *more, "--engine", "roofline,benchmark", cwd=tmp_path)
    assert refused.returncode == 2
    assert "need exactly one --engine" in refused.stderr
    write_spec(tmp_path, server, "[1]", engine="roofline")
    replaced = gpuscout("run", "bench.yaml", *more[:4], "--json", cwd=tmp_path)
    assert replaced.returncode == 0, replaced.stderr
    assert server.record() == []  # the very task that the flags have measured


@pytest.mark.slow
def test_a_real_server(tmp_path: Path) -> None:
    """llama.cpp, which batches, queues, ends with an event of its own and writes text that is not UTF-8."""
    pytest.importorskip("xllamacpp")
    write_config(tmp_path / "tiny")
    with serving_llama(tmp_path) as llama:
        write_spec(tmp_path, llama, "[1, 4, 16]", models="[{model: ./tiny, name: tiny}]")
        done = gpuscout("run", "bench.yaml", cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    stored = rows(tmp_path, "SELECT concurrency, server_version, set_aside, details FROM measured_runs ORDER BY 1")
    assert [row[0] for row in stored] == [1, 4, 16]
    assert all(row[1] for row in stored)
    # It says what it is, and the spec says vLLM: no run of it stands for a vLLM.
    assert all("of another server" in str(row[2]) for row in stored)
    for row, count in zip(stored, (8, 8, 32), strict=True):
        details = json.loads(str(row[3]))
        assert (details["completed"], details["failed"]) == (count, 0)
        assert (details["input_len_mean"], details["output_len_mean"]) == (32, 8)


def _stored(folder: Path) -> list[tuple[object, ...]]:
    try:
        return rows(folder, "SELECT id FROM measured_runs")
    except sqlite3.Error:
        return []
