"""Sweeps on Ray: on a real cluster of several nodes on this machine, and on a local Ray, while parts of them die."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.commands import digest, gpuscout, install_engine, results, rows, started, wait_for
from tests.test_faults_runner import FEW, LIMITS, POISON, check_poison, is_running, undisturbed

SLOW = """
with Path(__file__).with_name("pids").open("a") as pids:
    pids.write(f"{os.getpid()}\\n")
time.sleep(0.25)
return answer(cases, ladder)
"""
SLOW_SPEC = FEW + "engine: {name: slow, run: {num_cpus: 0.5}}\n"


class TwoNodes:
    """A Ray cluster whose second node can be killed and replaced. Its nodes know the engines in `plugins`."""

    def __init__(self, plugins: Path) -> None:
        from ray.cluster_utils import Cluster

        self.plugins = plugins
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        self.address: str = self.cluster.address
        self.second = self.cluster.add_node(num_cpus=2)

    def replace_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        time.sleep(0.5)
        self.second = self.cluster.add_node(num_cpus=2)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    install_engine(folder, "slow", SLOW, cost="DEAR")
    install_engine(folder, "poison", POISON, cost="DEAR", in_process=False)
    return folder


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, plugins: Path) -> str:
    """The digest of the slow sweep when nothing happens to it."""
    return digest(undisturbed(tmp_path_factory.mktemp("quiet"), SLOW_SPEC, plugins))


@pytest.fixture(scope="module")
def nodes(plugins: Path) -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(plugins))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = TwoNodes(plugins)
        yield nodes
        nodes.cluster.shutdown()


@pytest.fixture(autouse=True)
def nobody_yet(plugins: Path) -> None:
    # Workers of a cluster do not run in the folder of the controller: they write beside their engine.
    (plugins / "pids").write_text("")
    (plugins / "harmless").unlink(missing_ok=True)


def pids(plugins: Path) -> list[int]:
    """The worker of every task begun so far."""
    return [int(line) for line in (plugins / "pids").read_text().splitlines()]


def test_workers_and_a_node_die_and_a_new_node_joins(tmp_path: Path, nodes: TwoNodes, quiet: str) -> None:
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    process = started("run", "spec.yaml", "--ray-address", nodes.address, cwd=tmp_path, plugins=nodes.plugins)
    wait_for(lambda: len(pids(nodes.plugins)) >= 3, process)
    os.kill(pids(nodes.plugins)[-1], signal.SIGKILL)
    wait_for(lambda: len(pids(nodes.plugins)) >= 8, process)
    nodes.replace_second()
    messages = process.communicate(timeout=90)[1]
    assert process.returncode == 0, messages
    for noise in ("raylet", "WARNING", "INFO", "Traceback", "[20"):
        assert noise not in messages
    assert digest(results(tmp_path / "gpuscout.db")) == quiet


def test_a_killed_controller_is_replaced(tmp_path: Path, nodes: TwoNodes, quiet: str) -> None:
    seed = int(os.environ.get("GPUSCOUT_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"GPUSCOUT_TEST_SEED={seed}")
    moments = random.Random(seed)
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    command = ("run", "spec.yaml", "--ray-address", nodes.address)
    for _ in range(2):
        known = len(pids(nodes.plugins))
        process = started(*command, cwd=tmp_path, plugins=nodes.plugins)
        wait_for(lambda known=known: len(pids(nodes.plugins)) > known, process)
        time.sleep(moments.uniform(0, 0.8))
        process.kill()
        process.communicate()
    done = gpuscout(*command, "--json", cwd=tmp_path, plugins=nodes.plugins)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"]["reused_tasks"] == 0
    assert digest(results(tmp_path / "gpuscout.db")) == quiet


def test_poisonous_tasks_are_found_on_a_cluster(tmp_path: Path, nodes: TwoNodes) -> None:
    check_poison(tmp_path, nodes.plugins, "--ray-address", nodes.address, name="poison")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_gives_its_blocks_back(tmp_path: Path, nodes: TwoNodes, quiet: str, stop: signal.Signals) -> None:
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    command = ("run", "spec.yaml", "--ray-address", nodes.address)
    process = started(*command, cwd=tmp_path, plugins=nodes.plugins)
    wait_for(lambda: len(pids(nodes.plugins)) >= 2, process)
    os.kill(process.pid, stop)
    messages = process.communicate(timeout=30)[1]
    assert process.returncode == 130, messages
    assert "of 24 tasks are stored" in messages
    claimed = rows(tmp_path / "gpuscout.db", "SELECT count(*) FROM blocks WHERE state = 'claimed'")
    assert claimed == [(0,)]
    done = gpuscout(*command, cwd=tmp_path, plugins=nodes.plugins)
    assert done.returncode == 0, done.stderr
    assert digest(results(tmp_path / "gpuscout.db")) == quiet


def test_an_engine_that_only_the_workers_have(tmp_path: Path, nodes: TwoNodes) -> None:
    """As with an engine whose packages a `runtime_env` brings: the controller's own environment lacks them."""
    install_engine(nodes.plugins, "remote", "return answer(cases, ladder)", fingerprint="7")
    module = nodes.plugins / "remote_engine.py"
    lacking = "\n    def missing(self):\n        return None if 'BROUGHT' in os.environ else 'not installed'\n"
    module.write_text(module.read_text() + lacking)
    (tmp_path / "spec.yaml").write_text(FEW + "engine: remote\n")
    command = ("run", "spec.yaml", "--json", "--ray-address", nodes.address)
    alone = gpuscout(*command, cwd=tmp_path, plugins=nodes.plugins)
    assert alone.returncode == 5, alone.stderr
    environment = "run: {runtime_env: {env_vars: {BROUGHT: 'yes'}}}"
    (tmp_path / "spec.yaml").write_text(f"{FEW}engine: {{name: remote, {environment}}}\n")
    done = gpuscout(*command, cwd=tmp_path, plugins=nodes.plugins)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"]["computed_tasks"] == 24
    fingerprints = rows(tmp_path / "gpuscout.db", "SELECT fingerprint FROM engines ORDER BY id")
    assert fingerprints == [("missing",), ("7",)]


def is_agent(command: str) -> bool:
    # By its title, or by its module until it has one. The raylet is told how to start them.
    return "agent" in command.lower() and "raylet/raylet" not in command


def test_a_killed_controller_takes_its_local_ray_along(tmp_path: Path, plugins: Path, quiet: str) -> None:
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    process = started("run", "spec.yaml", "--executor", "ray", cwd=tmp_path, plugins=plugins)
    wait_for(lambda: pids(plugins), process)
    family = psutil.Process(process.pid).children(recursive=True)
    # Ray's two agents wait a minute for the rest of it before they go; they compute nothing.
    agents = [child for child in family if is_agent(" ".join(child.cmdline()))]
    others = [child.pid for child in family if child not in agents]
    assert len(others) >= 3
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_running, others)), timeout_s=20)
    for agent in agents:
        with suppress(psutil.NoSuchProcess):
            agent.kill()

    # The next one is ended by a SIGTERM, which Ray would otherwise answer in its own way.
    known = len(pids(plugins))
    process = started("run", "spec.yaml", "--executor", "ray", cwd=tmp_path, plugins=plugins)
    wait_for(lambda: len(pids(plugins)) > known, process)
    os.kill(process.pid, signal.SIGTERM)
    messages = process.communicate(timeout=30)[1]
    assert process.returncode == 130, messages
    done = gpuscout("run", "spec.yaml", "--executor", "in-process", cwd=tmp_path, plugins=plugins)
    assert done.returncode == 0, done.stderr
    assert digest(results(tmp_path / "gpuscout.db")) == quiet


def test_what_no_cluster_gives_is_said_in_a_sentence(tmp_path: Path, plugins: Path, nodes: TwoNodes) -> None:
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    nowhere = gpuscout("run", "spec.yaml", "--ray-address", "127.0.0.1:1", cwd=tmp_path, plugins=plugins)
    assert nowhere.returncode == 1
    assert nowhere.stderr.splitlines()[-2].startswith("no Ray cluster answers at 127.0.0.1:1")
    (tmp_path / "spec.yaml").write_text(f"{FEW}engine: {{name: poison, {LIMITS.replace('}', ', num_gpus: 8}')}}}\n")
    greedy = gpuscout("run", "spec.yaml", "--executor", "ray", cwd=tmp_path, plugins=plugins)
    assert greedy.returncode == 1
    assert "engine poison asks Ray for more than this machine has (CPU: 1, GPU: 8)" in greedy.stderr
