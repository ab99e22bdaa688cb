"""Sweeps on Ray: on a real cluster of several nodes on this machine, and on a local Ray, while parts of them die."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import psutil
import pytest

from gpuscout import __version__ as gpuscout_version
from gpuscout.runner.execution.executors.shipping import packaged
from gpuscout.runner.resolve.fleet import fleet_from
from tests.faults.test_runner import FEW, LIMITS, POISON, check_poison, is_running, undisturbed
from tests.support.commands import count, digest, gpuscout, install_engine, results, rows, started, wait_for

STANDIN = Path(__file__).parents[1] / "support" / "standin"
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
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.address: str = self.cluster.address
        self.second = self.cluster.add_node(num_cpus=1)

    def replace_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        time.sleep(0.5)
        self.second = self.cluster.add_node(num_cpus=1)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    install_engine(folder, "slow", SLOW, cost="EXPENSIVE")
    install_engine(folder, "poison", POISON, cost="EXPENSIVE", in_process=False)
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
        # Workers may keep the byte code of the gpuscout that is sent to them.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
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


def place(store_url: str) -> str:
    return store_url.removeprefix("sqlite:///")


def is_agent(command: str) -> bool:
    """Ray's two agents, which compute nothing, go a minute after the rest of it."""
    # By its title, or by its module until it has one. The raylet is told how to start them.
    return "agent" in command.lower() and "raylet/raylet" not in command


@pytest.fixture(scope="module")
def left() -> Iterator[set[int]]:
    """What was left of a Ray whose controller was killed: by the end of these tests, which take longer, it is gone."""
    pids: set[int] = set()
    yield pids
    wait_for(lambda: not any(map(is_running, pids)), timeout_s=150)


def test_a_killed_controller_takes_its_local_ray_along(
    tmp_path: Path, plugins: Path, quiet: str, left: set[int]
) -> None:
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    process = started("run", "spec.yaml", "--executor", "ray", cwd=tmp_path, plugins=plugins)
    wait_for(lambda: pids(plugins), process)
    family = {child.pid: " ".join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True)}
    others = [pid for pid, command in family.items() if not is_agent(command)]
    assert len(others) >= 3
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_running, others)), timeout_s=60)
    left |= family.keys()

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


def test_workers_and_a_node_die_and_a_new_node_joins(
    tmp_path: Path, nodes: TwoNodes, quiet: str, store_url: str
) -> None:
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    command = ("run", "spec.yaml", "--ray-address", nodes.address, "--db", store_url)
    process = started(*command, cwd=tmp_path, plugins=nodes.plugins)
    wait_for(lambda: len(pids(nodes.plugins)) >= 3, process)
    os.kill(pids(nodes.plugins)[-1], signal.SIGKILL)
    wait_for(lambda: len(pids(nodes.plugins)) >= 8, process)
    nodes.replace_second()
    messages = process.communicate(timeout=90)[1]
    assert process.returncode == 0, messages
    for noise in ("raylet", "WARNING", "INFO", "Traceback", "[20"):
        assert noise not in messages
    assert digest(results(place(store_url))) == quiet


def test_a_killed_controller_is_replaced(tmp_path: Path, nodes: TwoNodes, quiet: str, store_url: str) -> None:
    seed = int(os.environ.get("GPUSCOUT_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"GPUSCOUT_TEST_SEED={seed}")
    moments = random.Random(seed)
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    command = ("run", "spec.yaml", "--ray-address", nodes.address, "--db", store_url)
    for _ in range(3):
        known = len(pids(nodes.plugins))
        process = started(*command, cwd=tmp_path, plugins=nodes.plugins)
        wait_for(lambda known=known: len(pids(nodes.plugins)) > known, process)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
    done = gpuscout(*command, "--json", cwd=tmp_path, plugins=nodes.plugins)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"]["reused_tasks"] == 0
    assert digest(results(place(store_url))) == quiet


def test_poisonous_tasks_are_found_on_a_cluster(tmp_path: Path, nodes: TwoNodes, postgres_url: str) -> None:
    check_poison(tmp_path, nodes.plugins, "--ray-address", nodes.address, name="poison", store=postgres_url)


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


def test_a_runtime_env_brings_the_package_of_an_engine(tmp_path: Path, nodes: TwoNodes) -> None:
    """llm-optimizer as an archive: on the workers it can be imported, in the controller's environment it cannot."""
    if importlib.util.find_spec("llm_optimizer") is not None:
        pytest.skip("llm-optimizer is installed here")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(STANDIN)], check=True)
    [wheel] = tmp_path.glob("*.whl")
    # Ray takes wheels, too, but two nodes on one machine install them into one folder and are in each other's way.
    shutil.unpack_archive(wheel, tmp_path / "theirs" / "modules", "zip")
    archive = shutil.make_archive(str(tmp_path / "modules"), "zip", tmp_path / "theirs", "modules")
    spec = FEW.replace("L40S, H200", "H200").replace("gpus: [H100, L4, B200, A100", "gpus: [H100, A100")
    command = ("run", "spec.yaml", "--json", "--ray-address", nodes.address)
    (tmp_path / "spec.yaml").write_text(spec + "engine: llm-optimizer\n")
    alone = gpuscout(*command, cwd=tmp_path, plugins=nodes.plugins)
    assert alone.returncode == 5, alone.stderr
    placed = f"run: {{num_cpus: 1, runtime_env: {{py_modules: ['file://{archive}']}}}}"
    (tmp_path / "spec.yaml").write_text(f"{spec}engine: {{name: llm-optimizer, {placed}}}\n")
    done = gpuscout(*command, cwd=tmp_path, plugins=nodes.plugins)
    assert done.returncode == 0, done.stderr
    assert ("ok",) in rows(tmp_path / "gpuscout.db", "SELECT DISTINCT outcome FROM tasks")
    assert count(tmp_path / "gpuscout.db", "operating_points") > 0
    [without, theirs] = rows(tmp_path / "gpuscout.db", "SELECT fingerprint FROM engines ORDER BY id")
    assert without == ("missing",)
    assert theirs != without


def test_an_engine_runs_where_its_resources_are(tmp_path: Path, nodes: TwoNodes) -> None:
    """One node alone has what an engine asks for; the other has as many free CPUs and gets none of its tasks.

    The gpuscout that was sent along runs it, also where an engine brings modules of its own.
    """
    where = """
    import gpuscout, ray
    with Path(__file__).with_name("nodes").open("a") as nodes:
        nodes.write(f"{ray.get_runtime_context().get_node_id()} {gpuscout.__file__}\\n")
    return answer(cases, ladder)
    """
    archive = shutil.make_archive(str(tmp_path / "theirs"), "zip", STANDIN.parent, STANDIN.name)
    install_engine(nodes.plugins, "choosy", where, cost="EXPENSIVE")
    equipped = nodes.cluster.add_node(num_cpus=1, num_gpus=1, resources={"licence": 2, "accelerator_type:L4": 1})
    try:
        # What `place --gpus-from ray` finds: the other nodes have no GPUs.
        ((gpu, size, number, names),) = map(astuple, fleet_from("ray", ray_address=nodes.address).nodes)
        assert (gpu, size, number, len(names)) == ("L4", 1, 1, 1)
        needed = "num_cpus: 0.5, num_gpus: 0.5, accelerator_type: L4, resources: {licence: 1}"
        asked = f"{{{needed}, runtime_env: {{py_modules: ['file://{archive}']}}}}"
        (tmp_path / "spec.yaml").write_text(f"{FEW}engine: {{name: choosy, run: {asked}}}\n")
        command = ("run", "spec.yaml", "--ray-address", nodes.address)
        done = gpuscout(*command, cwd=tmp_path, plugins=nodes.plugins)
        assert done.returncode == 0, done.stderr
        [(node, source)] = {tuple(line.split()) for line in (nodes.plugins / "nodes").read_text().splitlines()}
        assert node == equipped.node_id
        assert "py_modules_files" in source
    finally:
        nodes.cluster.remove_node(equipped)


def test_a_node_with_another_gpuscout_is_refused(
    tmp_path: Path, nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Python puts an installation of its own before everything that is sent along."""
    other = tmp_path / "other"
    with packaged() as package:
        shutil.copytree(package, other / "gpuscout")
    start = (other / "gpuscout/__init__.py").read_text()
    (other / "gpuscout/__init__.py").write_text(start + "\n__version__ = '9.9.9'\n")
    (other / "sitecustomize.py").write_text(f"import sys\nsys.path.insert(0, {str(other)!r})\nimport gpuscout\n")
    monkeypatch.setenv("PYTHONPATH", f"{other}{os.pathsep}{nodes.plugins}")
    odd = nodes.cluster.add_node(num_cpus=1)
    monkeypatch.undo()
    try:
        (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
        command = ("run", "spec.yaml", "--ray-address", nodes.address)
        refused = gpuscout(*command, cwd=tmp_path, plugins=nodes.plugins)
        assert refused.returncode == 1, refused.stderr
        assert f"the cluster at {nodes.address} runs gpuscout 9.9.9, not {gpuscout_version} as here" in refused.stderr
        assert pids(nodes.plugins) == []
    finally:
        nodes.cluster.remove_node(odd)


def test_what_no_cluster_gives_is_said_in_a_sentence(tmp_path: Path, plugins: Path, nodes: TwoNodes) -> None:
    (tmp_path / "spec.yaml").write_text(SLOW_SPEC)
    nowhere = gpuscout("run", "spec.yaml", "--ray-address", "127.0.0.1:1", cwd=tmp_path, plugins=plugins)
    assert nowhere.returncode == 1
    assert nowhere.stderr.splitlines()[-2].startswith("no Ray cluster answers at 127.0.0.1:1")
    (tmp_path / "spec.yaml").write_text(f"{FEW}engine: {{name: poison, {LIMITS.replace('}', ', num_gpus: 8}')}}}\n")
    greedy = gpuscout("run", "spec.yaml", "--executor", "ray", cwd=tmp_path, plugins=plugins)
    assert greedy.returncode == 1
    assert "engine poison asks Ray for more than this machine has (CPU: 1, GPU: 8)" in greedy.stderr
