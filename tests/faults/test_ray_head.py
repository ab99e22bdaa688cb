"""The head of a Ray cluster dies, or does not let anybody in: a sentence, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.test_runner import FEW, undisturbed
from tests.support.commands import count, digest, environment, gpuscout, install_engine, results, started, wait_for

SLOW = "open(Path(__file__).with_name('calls'), 'a').write('x'); time.sleep(0.4); return answer(cases, ladder)"
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def cluster(plugins: Path, **environ: str) -> Iterator[tuple[str, int]]:
    """The address of a cluster of one node, and the process that has started it."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment(plugins) | {"RAY_USAGE_STATS_ENABLED": "0"} | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as head:
        assert head.stdout is not None
        assert head.stdin is not None
        try:
            yield head.stdout.readline().strip(), head.pid
        finally:
            head.stdin.close()
            try:
                head.wait(30)
            except subprocess.TimeoutExpired:
                head.kill()


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return install_engine(folder, "slow", SLOW, cost="EXPENSIVE")


@pytest.mark.attack
def test_the_head_dies_during_a_run(tmp_path: Path, plugins: Path) -> None:
    spec = FEW + "engine: slow\n"
    (tmp_path / "spec.yaml").write_text(spec)
    with cluster(plugins) as (address, head):
        process = started("run", "spec.yaml", "--ray-address", address, cwd=tmp_path, plugins=plugins)
        wait_for(lambda: (plugins / "calls").exists() and count(tmp_path / "gpuscout.db", "tasks") >= 2, process)
        for child in psutil.Process(head).children(recursive=True):
            if child.name() in ("gcs_server", "raylet"):
                os.kill(child.pid, signal.SIGKILL)
        messages = process.communicate(timeout=150)[1]
    assert process.returncode == 1, messages
    assert f"the Ray cluster at {address} went away" in messages
    assert "run the same command to go on" in messages
    again = gpuscout("run", "spec.yaml", cwd=tmp_path, plugins=plugins)
    assert again.returncode == 0, again.stderr
    there = tmp_path / "quiet"
    there.mkdir()
    assert digest(results(tmp_path / "gpuscout.db")) == digest(undisturbed(there, spec, plugins))


@pytest.mark.attack
def test_a_cluster_that_wants_a_token(tmp_path: Path, plugins: Path) -> None:
    (tmp_path / "spec.yaml").write_text(FEW)
    with cluster(plugins, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0123456789abcdef" * 2) as (address, _):
        told = gpuscout("run", "spec.yaml", "--ray-address", address, cwd=tmp_path, timeout_s=200)
    assert told.returncode == 1
    assert f"{address} refused this process" in told.stderr
    assert "RAY_AUTH_TOKEN" in told.stderr
