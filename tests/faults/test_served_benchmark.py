"""Servers that gpuscout starts on a Ray cluster whose GPUs are pretended: measured, crashed, killed in every way."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.commands import gpuscout, rows, started, wait_for
from tests.support.forked import gpuscout as forked
from tests.support.llama_server import write_config
from tests.support.openai_server import REPOSITORY

SERVER = Path(__file__).parents[1] / "support" / "fake_server.py"
# Long enough for requests of one load to meet in the server, however busy the machine is.
SLOWLY = ("--ttft-ms", "60")
SHORT = "short: {input_len: 32, output_len: 4}"
BOTH = f"{SHORT}, long: {{input_len: 64, output_len: 8}}"
RUNS = """
    SELECT cases.precision, cases.gpu_id, cases.input_len, measured_runs.concurrency, measured_runs.details
    FROM measured_runs JOIN cases ON cases.id = measured_runs.case_id ORDER BY measured_runs.id
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with two pretended GPUs."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Workers may keep the byte code of the gpuscout that is sent to them.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        head = {"num_cpus": 2, "include_dashboard": False, "num_gpus": 2, "resources": {"accelerator_type:L40S": 1}}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield cluster
        cluster.shutdown()


class Sweep:
    """A sweep of two configurations and two workloads in a folder, and what its servers have noted."""

    def __init__(
        self, folder: Path, *options: str, precisions: str = "bf16, fp8", workloads: str = BOTH, more: str = ""
    ) -> None:
        self.folder, self.pids_file = folder, folder / "pids"
        command = [sys.executable, str(SERVER), "--port", "{port}", "--pids", str(self.pids_file), *SLOWLY, *options]
        (folder / "spec.yaml").write_text(
            f"""
            name: served
            models: Qwen/Qwen3-0.6B
            gpus: [L40S, H100]
            tensor_parallel: 1
            precision: [{precisions}]
            workloads: {{{workloads}}}
            concurrency: [1, 2, 4]
            exclude: {{gpu: H100, precision: bf16}}
            engine: {{name: benchmark, command: {json.dumps(command)}, fewest_requests: 8, {more}}}
            """
        )
        self.arguments = ("run", "spec.yaml")

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self.pids_file.read_text().split()] if self.pids_file.exists() else []

    def alive(self) -> list[int]:
        return [pid for pid in self.pids if psutil.pid_exists(pid) and not is_zombie(pid)]

    def points(self) -> Counter[tuple[object, ...]]:
        """How often each point was measured, by precision, input length and concurrency."""
        try:
            found = rows(self.folder / "gpuscout.db", RUNS)
        except sqlite3.OperationalError:  # there is no store yet
            return Counter()
        return Counter((precision, length, step) for precision, _, length, step, _ in found)


ALL = {(precision, length, step) for precision in ("bf16", "fp8") for length in (32, 64) for step in (1, 2, 4)}


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def test_a_server_for_each_configuration_where_its_gpus_are(tmp_path: Path, cluster: Any) -> None:
    """One crashes under load: its points stay, what it said is told, and the other workload gets another server."""
    sweep = Sweep(tmp_path, "--crash-at", "3", "--variant", "{precision}", "--only", "fp8", "--grandchild")
    done = gpuscout(*sweep.arguments, "--ray-address", cluster.address, "--max-servers", "1", cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert set(sweep.points()) == {point for point in ALL if point[0] == "bf16" or point[2] < 4}
    assert set(sweep.points().values()) == {1}
    assert len(sweep.pids) == 2 * 3
    assert not sweep.alive()
    told = done.stderr.replace("\n", " ")
    assert "not supported here: the case is for 1 x H100-SXM-80GB on one node; nodes have 2 x L40S" in told
    assert "the server ended with exit status 7 while 32 in / 4 out was measured" in told
    assert "RuntimeError: the engine died" in told
    [(engines,)] = rows(tmp_path / "gpuscout.db", "SELECT count(*) FROM operating_points")
    assert engines == 0
    [(source,)] = rows(tmp_path / "gpuscout.db", "SELECT DISTINCT source FROM measured_runs")
    assert source == f"servers of gpuscout on {socket.gethostname()}"
    details = json.loads(str(rows(tmp_path / "gpuscout.db", RUNS)[0][4]))
    assert details["server_command"][0] == sys.executable
    assert details["visible_devices"].startswith("CUDA_VISIBLE_DEVICES=")
    assert details["gpu_memory_checked"] is False


def test_a_real_server_on_a_pretended_gpu(tmp_path: Path, cluster: Any) -> None:
    """llama.cpp, which says that it is no vLLM: what it does is set aside, and counts for no plain deployment."""
    pytest.importorskip("xllamacpp")
    write_config(tmp_path / "tiny")
    command = ["/usr/bin/env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "tests.support.llama_server"]
    (tmp_path / "spec.yaml").write_text(
        f"""
        name: llama
        models: [{{model: ./tiny, name: tiny}}]
        gpus: L40S
        tensor_parallel: 1
        workloads: {{small: {{input_len: 32, output_len: 8}}}}
        concurrency: [1, 4, 16]
        engine: {{name: benchmark, command: {json.dumps([*command, str(tmp_path), "{port}"])}, fewest_requests: 8}}
        """
    )
    done = gpuscout("run", "spec.yaml", "--ray-address", cluster.address, cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    query = "SELECT concurrency, set_aside, requests_completed, requests_failed FROM measured_runs ORDER BY 1"
    stored = rows(tmp_path / "gpuscout.db", query)
    assert [(step, completed, failed) for step, _, completed, failed in stored] == [(1, 8, 0), (4, 32, 0), (16, 128, 0)]
    assert all("of another server" in str(why) for _, why, _, _ in stored)


def test_what_ray_is_asked_for_beside_gpus(tmp_path: Path, cluster: Any) -> None:
    """What the nodes with the GPUs lack leaves the task for another cluster; what cannot be meant is refused."""
    sweep = Sweep(tmp_path, precisions="fp8", workloads=SHORT, more="run: {resources: {disk: 1}}")
    done = gpuscout(*sweep.arguments, "--ray-address", cluster.address, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    told = " ".join(done.stderr.split())
    assert "no node with 1 x L40S has what `run:` of the engine asks for (CPU: 1, disk: 1)" in told
    for more, refused in (("num_gpus: 2", "`num_gpus` is that of each case"), ("memory_limit_gb: 4", "leave it out")):
        sweep = Sweep(tmp_path, precisions="fp8", workloads=SHORT, more=f"run: {{{more}}}")
        done = forked(*sweep.arguments, cwd=tmp_path)
        assert (done.returncode, refused in done.stderr) == (2, True)
    assert not sweep.pids


def test_from_estimates_to_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of an estimate is measured, and is what is recommended afterwards."""
    monkeypatch.setenv("TEST_KEY", "a key of the servers")
    (tmp_path / "estimated.yaml").write_text(
        "{name: estimated, models: Qwen/Qwen3-0.6B, gpus: [L40S, H100], tensor_parallel: 1, concurrency: [1, 4, 16],"
        " workloads: {short: {input_len: 64, output_len: 16}}}"
    )
    assert forked("run", "estimated.yaml", cwd=tmp_path).returncode == 0
    ask = ("recommend", "--workload", "short", "--slo", "itl<=100ms", "--json")
    before = json.loads(forked(*ask, "--measure-top", "1", "--adaptive", cwd=tmp_path).stdout)["groups"][0]
    assert before["configurations"][0]["kind"] == "estimated"
    spec = yaml.safe_load((tmp_path / "measure-top.yaml").read_text())
    command = [sys.executable, str(SERVER), "--port", "{port}", "--ttft-ms", "1000", "--itl-ms", "10"]
    command += ["--key", "TEST_KEY"]
    spec["engine"] |= {"command": command, "api_key_env": "TEST_KEY", "fewest_requests": 4, "requests_per_client": 2}
    spec["concurrency"] = [1, 2]
    (tmp_path / "measure-top.yaml").write_text(yaml.safe_dump(spec))
    process = on_a_node_with(tmp_path, "L40S", "run", "measure-top.yaml", "--executor", "in-process")
    messages = process.communicate(timeout=300)[1]
    assert process.returncode in (0, 5), messages  # 5: rivals on a GPU that is not here
    assert b"a key of the servers" not in (tmp_path / "gpuscout.db").read_bytes()
    measured = rows(tmp_path / "gpuscout.db", "SELECT concurrency, implausible, set_aside FROM measured_runs")
    assert [step for step, _, _ in measured] == [2]  # it meets the limit, so the lower one does
    assert measured[0][1:] == (None, None)
    after = json.loads(forked(*ask, cwd=tmp_path).stdout)["groups"][0]
    assert "measured" in {config["kind"] for config in after["configurations"]}


def test_estimates_learn_from_what_was_measured(tmp_path: Path) -> None:
    """Servers with half as much again of the estimated delays: `accuracy` says so at once, `calibrate` learns it."""
    axes = """
        models: [Qwen/Qwen3-4B, Qwen/Qwen3-8B]
        gpus: L40S
        tensor_parallel: 1
        precision: [bf16, fp8]
        workloads: {short: {input_len: 64, output_len: 8}, long: {input_len: 512, output_len: 8}}
        concurrency: [1, 2, 4, 8]
    """
    (tmp_path / "estimated.yaml").write_text(f"name: estimated\n{textwrap.dedent(axes)}")
    assert forked("run", "estimated.yaml", cwd=tmp_path).returncode == 0
    query = """
        SELECT models.name, cases.precision, cases.input_len, concurrency, ttft_ms, itl_ms FROM operating_points
        JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id JOIN models ON models.id = cases.model_id
    """
    delays: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for model, precision, length, step, ttft_ms, itl_ms in rows(tmp_path / "gpuscout.db", query):
        by_load = delays.setdefault(f"{model} {precision}", {}).setdefault(str(length), {})
        by_load[str(step)] = (1.5 * ttft_ms, 1.5 * itl_ms)
    (tmp_path / "delays.json").write_text(json.dumps(delays))
    command = [sys.executable, str(SERVER), "--port", "{port}", "--delays", str(tmp_path / "delays.json")]
    command += ["--variant", "{model} {precision}"]
    engine = {"name": "benchmark", "command": command, "fewest_requests": 4, "requests_per_client": 2}
    (tmp_path / "measured.yaml").write_text(f"name: measured\n{textwrap.dedent(axes)}\nengine: {json.dumps(engine)}\n")
    process = on_a_node_with(tmp_path, "L40S", "run", "measured.yaml", "--executor", "in-process")
    messages = process.communicate(timeout=600)[1]
    assert process.returncode == 0, messages
    assert rows(tmp_path / "gpuscout.db", "SELECT count(*) FROM measured_runs") == [(32,)]

    def itl_error(*more: str) -> tuple[int, float]:
        done = forked("accuracy", "--measured", "stored", "--json", *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        [report] = json.loads(done.stdout)["accuracy"]
        itl = report["loads"]["closed loop"]["total"]["metrics"]["itl"]
        return itl["runs"], itl["bias"]

    runs, bias = itl_error()
    assert runs >= 20  # all but those of a client that this machine has kept from its work
    assert bias == pytest.approx(1 / 1.5 - 1, abs=0.08)
    calibrated = forked("calibrate", "--measured", "stored", "--output", "own.json", "--no-validate", cwd=tmp_path)
    assert calibrated.returncode == 0, calibrated.stderr
    assert f"to {runs} runs" in calibrated.stderr
    assert abs(itl_error("--constants", "own.json")[1]) < 0.7 * abs(bias)


def on_a_node_with(folder: Path, gpu: str, *arguments: str) -> subprocess.Popen[str]:
    """The command where a driver's program shows one of these GPUs."""
    driver = folder / "bin" / "nvidia-smi"
    driver.parent.mkdir(exist_ok=True)
    driver.write_text(f"#!/bin/sh\necho '0, GPU-1, NVIDIA {gpu}, 4, 46068'\n")
    driver.chmod(0o755)
    path = f"{driver.parent}{os.pathsep}{os.environ['PATH']}"
    return started(*arguments, cwd=folder, environ={"PATH": path})


def test_no_server_is_started_for_what_cannot_fit(tmp_path: Path) -> None:
    """Unless it is asked for. On a node that has the GPU."""
    command = [sys.executable, str(SERVER), "--port", "{port}", "--pids", str(tmp_path / "pids")]
    engine = {"name": "benchmark", "command": command, "fewest_requests": 2, "requests_per_client": 1}
    spec = {
        "name": "large",
        "models": "meta-llama/Llama-3.3-70B-Instruct",
        "gpus": "L40S",
        "tensor_parallel": 1,
        "precision": "bf16",
        "workloads": {"short": {"input_len": 32, "output_len": 4}},
        "concurrency": [1],
    }
    (tmp_path / "large.yaml").write_text(json.dumps({**spec, "engine": engine}))
    (tmp_path / "asked.yaml").write_text(json.dumps({**spec, "engine": {**engine, "fit_check": False}}))
    for name, starts in (("large.yaml", 0), ("asked.yaml", 1)):
        plan = json.loads(forked("plan", name, "--json", cwd=tmp_path).stdout)
        assert plan["expected_server_starts"] == starts
    process = on_a_node_with(tmp_path, "L40S", "run", "large.yaml", "--executor", "in-process")
    messages = process.communicate(timeout=300)[1]
    assert process.returncode == 6, messages
    assert not (tmp_path / "pids").exists()
    [(outcome, detail)] = rows(tmp_path / "gpuscout.db", "SELECT outcome, detail FROM tasks")
    assert outcome == "does_not_fit"
    assert str(detail).startswith("no server was started: weights ")
    assert "`fit_check: false` starts one" in str(detail)
    process = on_a_node_with(tmp_path, "L40S", "run", "asked.yaml", "--executor", "in-process")
    messages = process.communicate(timeout=300)[1]
    assert process.returncode == 6, messages  # this server is better than any hardware, so that nothing qualifies
    assert rows(tmp_path / "gpuscout.db", "SELECT concurrency FROM measured_runs") == [(1,)]


def test_a_server_that_hangs_under_load(tmp_path: Path) -> None:
    """Without Ray, on a node whose driver shows an L40S and no H100."""
    more = "request_timeout_s: 5"
    sweep = Sweep(tmp_path, "--stall-at", "3", precisions="fp8", workloads=SHORT, more=more)
    process = on_a_node_with(tmp_path, "L40S", *sweep.arguments, "--executor", "in-process")
    messages = process.communicate(timeout=300)[1]
    assert process.returncode == 5, messages
    assert set(sweep.points()) == {("fp8", 32, 1), ("fp8", 32, 2)}
    assert not sweep.alive()
    told = messages.replace("\n", " ")
    assert "the server stopped answering while 32 in / 4 out was measured" in told
    assert "not supported here: the case is for 1 x H100-SXM-80GB, this node has NVIDIA L40S" in told


@pytest.mark.attack
def test_kills_of_the_runner_a_worker_and_a_node_lose_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes with a GPU each, beside a head without."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    l40s = {"num_cpus": 2, "num_gpus": 1, "resources": {"accelerator_type:L40S": 1}}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        first, _ = (cluster.add_node(**l40s) for _ in range(2))
        check_kills(tmp_path, cluster, first, l40s)
    finally:
        cluster.shutdown()


def check_kills(tmp_path: Path, cluster: Any, node: Any, l40s: dict[str, Any]) -> None:
    released = tmp_path / "released"
    sweep = Sweep(tmp_path, "--pause-at", "4", "--wait-for", str(released), "--grandchild")
    halfway = {point for point in ALL if point[1] == 32 and point[2] < 4}

    def is_halfway() -> bool:
        return set(sweep.points()) >= halfway and len(sweep.alive()) == 4

    # The runner: Ray ends its workers, and the servers end with them.
    process = started(*sweep.arguments, "--ray-address", cluster.address, cwd=tmp_path)
    wait_for(is_halfway, process)
    process.kill()
    process.communicate()
    wait_for(lambda: not sweep.alive())

    # A worker, whose servers are tried elsewhere; Ctrl-C.
    process = started(*sweep.arguments, "--ray-address", cluster.address, cwd=tmp_path)
    wait_for(is_halfway, process)
    server = psutil.Process(sweep.pids[-1])
    server.parent().kill()
    wait_for(lambda: not server.is_running() and len(sweep.alive()) == 4, process)
    process.send_signal(signal.SIGINT)
    messages = process.communicate(timeout=120)[1]
    assert process.returncode == 130, messages
    wait_for(lambda: not sweep.alive())

    # A node, raylet first: nobody is left there who would end the server but its guardian.
    process = started(*sweep.arguments, "--ray-address", cluster.address, cwd=tmp_path)
    wait_for(is_halfway, process)
    raylet = node.all_processes["raylet"][0].process.pid
    family = psutil.Process(raylet).children(recursive=True)
    here = [pid for pid in sweep.alive() if psutil.Process(pid) in family]
    assert here
    os.kill(raylet, signal.SIGKILL)
    wait_for(lambda: not set(here) & set(sweep.alive()), process)
    released.touch()
    cluster.add_node(**l40s)
    messages = process.communicate(timeout=300)[1]
    assert process.returncode == 5, messages  # there is no H100
    assert set(sweep.points()) == ALL
    assert all(sweep.points()[point] == 1 for point in halfway)
    assert not sweep.alive()
