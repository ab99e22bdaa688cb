"""Faults of a runner and of engines, for real: whatever dies, running again ends with the rows of a quiet run."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from gpuscout.store.database.connect import open_store
from gpuscout.store.results.committer import COMMITS_AT_ONCE
from gpuscout.store.schema import blocks
from tests.support import commands, forked
from tests.support.commands import count, digest, install_engine, results, rows, started, wait_for
from tests.support.forked import gpuscout
from tests.support.stores import postgres_database

# About 9,000 tasks in 40 blocks, each at least so long, however fast the machine; much of the time goes into commits.
BLOCK_S = 0.035
MANY = """
name: many
engine: steady
models: ["Qwen/*"]
gpus: ["*"]
tensor_parallel: [1, 2, 4, 8]
workloads: [chat, rag]
concurrency: [1, 16]
"""
FEW = """
name: few
models: [Qwen/Qwen3-8B]
gpus: [H100, L4, B200, A100, L40S, H200]
tensor_parallel: [1, 2, 4, 8]
workloads: [chat]
concurrency: [1, 4, 16]
"""


def undisturbed(folder: Path, spec: str, plugins: Path | None = None) -> list[tuple[object, ...]]:
    """The rows of a run without Ray that nothing happened to."""
    quiet = folder / "undisturbed"
    quiet.mkdir()
    (quiet / "spec.yaml").write_text(spec)
    done = commands.gpuscout("run", "spec.yaml", "--executor", "in-process", cwd=quiet, plugins=plugins)
    assert done.returncode == 0, done.stderr
    return results(quiet / "gpuscout.db")


def open_blocks(store: Path | str) -> int:
    return int(str(rows(store, "SELECT count(*) FROM blocks WHERE state <> 'done'")[0][0]))


@dataclass(frozen=True)
class Many:
    """A sweep over many blocks that nothing happens to: its rows as a digest; how long the command takes just now."""

    plugins: Path
    digest: str
    command_s: float


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Many:
    folder, plugins = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("plugins")
    install_engine(plugins, "steady", f"time.sleep({BLOCK_S}); return answer(cases, ladder)")
    began = time.monotonic()
    quiet = digest(undisturbed(folder, MANY, plugins))
    return Many(plugins, quiet, time.monotonic() - began)


def killed_at_random(folder: Path, stores: list[str], many: Many, kills: int = 20) -> None:
    """Kill runs again and again, one store after the other; every store must end as if nothing had happened.

    The first kill of each store comes while the command starts or begins with the sweep, the others later.
    """
    seed = int(os.environ.get("GPUSCOUT_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"GPUSCOUT_TEST_SEED={seed}")
    moments = random.Random(seed)
    (folder / "spec.yaml").write_text(MANY)
    command = ("run", "spec.yaml", "--executor", "in-process", "--db")
    times = kills // len(stores)
    # All blocks together take longer than all kills leave them.
    longest_s = 0.7 * 40 * BLOCK_S / times
    for store in stores:
        place = store.removeprefix("sqlite:///")
        for number in range(times):
            known = runners(place)
            # Only the first is killed while it starts; the others need not import everything again.
            start = forked.Started if number else started
            process = start(*command, store, cwd=folder, plugins=many.plugins)
            latest = time.monotonic() + (60 if number else moments.uniform(0, many.command_s))
            wait_for(lambda: time.monotonic() > latest or runners(place) > known, process)  # noqa: B023
            time.sleep(moments.uniform(0, longest_s))
            process.kill()
            process.communicate()
            assert sweep_stands(place) != "done", "this kill came too late"
        done = gpuscout("run", "spec.yaml", "--db", store, "--json", cwd=folder, plugins=many.plugins)
        assert done.returncode == 0, done.stderr
        assert digest(results(place)) == many.digest
        assert open_blocks(place) == 0
        assert count(place, "tasks") == count(place, "membership")


def runners(place: str) -> int:
    """How many runs have begun to work on a store."""
    return count(place, "runners") if sweep_stands(place) != "empty" else 0


def sweep_stands(place: str) -> str:
    if not (place.startswith("postgres") or Path(place).exists()):
        return "empty"
    try:
        finished = rows(place, "SELECT count(*) FROM sweeps WHERE finished_at IS NOT NULL")
        return "done" if finished != [(0,)] else "open"
    except Exception:  # killed before the tables were there
        return "empty"


def test_kill_9_at_random_moments_loses_and_doubles_nothing(tmp_path: Path, many: Many) -> None:
    killed_at_random(tmp_path, [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(4)], many)


def test_kill_9_at_random_moments_on_postgres(tmp_path: Path, postgres: str, many: Many) -> None:
    with ExitStack() as databases:
        stores = [databases.enter_context(postgres_database(postgres)) for _ in range(4)]
        killed_at_random(tmp_path, stores, many)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_its_commits_and_counts_them(
    tmp_path: Path, postgres_url: str, many: Many, stop: signal.Signals
) -> None:
    """On Postgres several blocks are being committed when the signal comes."""
    (tmp_path / "spec.yaml").write_text(MANY)
    command = ("run", "spec.yaml", "--executor", "in-process", "--db", postgres_url)
    process = started(*command, cwd=tmp_path, plugins=many.plugins)
    done = "SELECT count(*), coalesce(sum(task_count), 0) FROM blocks WHERE state = 'done'"
    wait_for(lambda: sweep_stands(postgres_url) == "open" and rows(postgres_url, done)[0][0], process)
    os.kill(process.pid, stop)
    messages = process.communicate(timeout=30)[1]
    assert process.returncode == 130, messages
    [(_, stored)] = rows(postgres_url, done)
    assert f"{stored:,} of " in messages
    assert rows(postgres_url, "SELECT count(*) FROM blocks WHERE state = 'claimed'") == [(0,)]
    assert [(stored,)] == rows(postgres_url, "SELECT count(*) FROM membership")
    again = gpuscout(*command, cwd=tmp_path, plugins=many.plugins)
    assert again.returncode == 0, again.stderr
    assert digest(results(postgres_url)) == many.digest


POISON = """
import signal, sys
names = [(cases.gpus[g].name[:4], int(t)) for g, t in zip(cases.gpu, cases.tensor_parallel)]
print("noise on standard output"); print("noise on standard error", file=sys.stderr, flush=True)
poisonous = not Path(__file__).with_name("harmless").exists()
if poisonous:
    if ("H100", 2) in names: raise RuntimeError("this one raises")
    if ("L4", 4) in names: time.sleep(600)
    if ("B200", 1) in names: print("last words", file=sys.stderr, flush=True); os._exit(7)
    if ("B200", 8) in names: os.kill(os.getpid(), signal.SIGSEGV)
    if ("L40S", 2) in names: memory = np.empty(1 << 34, dtype=np.uint8)
said = answer(cases, ladder)
if poisonous:
    for row, name in enumerate(names):
        if name == ("A100", 1): said.points.itl_ms[said.points.task == row] = np.nan
        if name == ("A100", 4): said.points.e2e_s[said.points.task == row] = np.inf
        if name == ("H200", 8): said.outcome[row] = Outcome.DOES_NOT_FIT.code
return said
"""
POISONED = {
    "RuntimeError: this one raises": "error",
    "the engine took longer than 2 s (2 attempts)": "timeout",
    "the engine's process ended with exit status 7: last words (2 attempts)": "crashed",
    "was killed by SIGSEGV": "crashed",
    "out of memory": "error",
    "itl_ms = nan": "error",
    "e2e_s = inf": "error",
    "operating points with outcome does_not_fit": "error",
}
LIMITS = "run: {task_timeout_s: 2, memory_limit_gb: 4}"


def check_poison(folder: Path, plugins: Path, *options: str, name: str, store: str = "gpuscout.db") -> None:
    """Run a sweep of 24 tasks of which 8 are poisonous: these are found and stored, and so are the others."""
    place = store if store.startswith("postgres") else folder / store
    options = ("--db", store, *options)
    (folder / "spec.yaml").write_text(f"{FEW}engine: {{name: {name}, {LIMITS}}}\n")
    done = commands.gpuscout("run", "spec.yaml", "--json", *options, cwd=folder, plugins=plugins)
    assert done.returncode == 5, done.stderr
    assert "noise" not in done.stderr + done.stdout
    report = json.loads(done.stdout)["run"]
    assert (report["computed_tasks"], report["open_failures"]) == (16, 8)
    shown = json.loads(gpuscout("sweeps", "show", "few", "--json", "--db", store, cwd=folder).stdout)["failures"]
    for message, outcome in POISONED.items():
        (group,) = (group for group in shown if message in group["message"])
        assert (group["outcome"], group["tasks"], group["attempts"]) == (outcome, 1, 1)
        assert "Qwen3-8B on" in group["example"]
    healthy = results(place)
    (plugins / "harmless").touch()
    everything = undisturbed(folder, f"{FEW}engine: {{name: {name}, {LIMITS}}}\n", plugins)
    keys = {row[0] for row in healthy}
    assert len(keys) == 16
    assert digest(healthy) == digest([row for row in everything if row[0] in keys])

    # What crashed or timed out is left alone until somebody asks.
    again = commands.gpuscout("run", "spec.yaml", "--json", *options, cwd=folder, plugins=plugins)
    assert again.returncode == 5, again.stderr
    assert json.loads(again.stdout)["run"]["open_failures"] == 3
    asked = commands.gpuscout(
        "sweeps", "resume", "few", "--retry-failed", "--json", *options, cwd=folder, plugins=plugins
    )
    assert asked.returncode == 0, asked.stderr
    assert digest(results(place)) == digest(everything)
    assert count(place, "failures") == 8


def test_poisonous_tasks_are_found_and_the_others_stored(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "poison", POISON, in_process=False)
    check_poison(tmp_path, plugins, "--executor", "in-process", name="poison")


def test_an_engine_that_hangs_on_everything_is_given_up(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "hangs", "time.sleep(600)")
    (tmp_path / "spec.yaml").write_text(FEW + "engine: hangs\n")
    done = gpuscout("run", "spec.yaml", "--task-timeout", "0.1", "--json", cwd=tmp_path, plugins=plugins)
    assert done.returncode == 5
    assert json.loads(done.stdout)["run"]["open_failures"] == 24
    groups = json.loads(gpuscout("sweeps", "show", "few", "--json", cwd=tmp_path).stdout)["failures"]
    assert {group["outcome"] for group in groups} == {"timeout"}
    assert sum(group["tasks"] for group in groups) == 24


HANGING = """
Path("child").write_text(str(os.getpid()))
import subprocess, sys
Path("grandchild").write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid))
if Path("hang").exists(): time.sleep(600)
return answer(cases, ladder)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_hanging_child_ends_with_its_runner(tmp_path: Path, stop: signal.Signals) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "hanging", HANGING, in_process=False)
    (tmp_path / "spec.yaml").write_text(FEW + "engine: hanging\n")
    (tmp_path / "hang").touch()
    process = started("run", "spec.yaml", cwd=tmp_path, plugins=plugins)
    wait_for((tmp_path / "grandchild").exists, process)
    wait_for((tmp_path / "grandchild").read_text, process)
    pids = [int((tmp_path / name).read_text()) for name in ("child", "grandchild")]
    os.kill(process.pid, stop)
    messages = process.communicate(timeout=60)[1]
    wait_for(lambda: not is_running(pids[0]), timeout_s=60)
    if stop != signal.SIGKILL:
        assert process.returncode == 130
        assert "0 of 24 tasks are stored" in messages
        wait_for(lambda: not is_running(pids[1]), timeout_s=60)
    elif is_running(pids[1]):
        os.kill(pids[1], signal.SIGKILL)  # what an engine starts outlives a killed runner where nobody can help it
    (tmp_path / "hang").unlink()
    done = gpuscout("run", "spec.yaml", "--json", cwd=tmp_path, plugins=plugins)
    assert json.loads(done.stdout)["run"]["computed_tasks"] == 24


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SLOW = """
with open("calls", "a") as calls:
    calls.write("x")
time.sleep(0.15)
while Path("hold").exists(): time.sleep(0.05)
return answer(cases, ladder)
"""


def test_a_runner_waits_for_others_and_takes_over_from_the_dead(tmp_path: Path, postgres_url: str) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "slow", SLOW, cost="EXPENSIVE")
    spec = FEW + "engine: slow\n"
    expected = digest(undisturbed(tmp_path, spec, plugins))
    (tmp_path / "spec.yaml").write_text(spec)
    command = ("run", "spec.yaml", "--executor", "in-process", "--db", postgres_url)
    doomed = started(*command, cwd=tmp_path, plugins=plugins)
    wait_for(lambda: (tmp_path / "calls").exists(), doomed)
    runners = [started(*command, cwd=tmp_path, plugins=plugins) for _ in range(2)]
    time.sleep(1.5)
    doomed.kill()
    doomed.communicate()
    for runner in runners:
        messages = runner.communicate(timeout=60)[1]
        assert runner.returncode == 0, messages
        assert "computed by other runners" not in messages
    assert digest(results(postgres_url)) == expected
    # Nothing stored is computed again: only the block the dead one was at, and those that waited for their commits.
    with open_store(postgres_url) as store, store.reading() as connection:
        largest = connection.execute(sa.select(sa.func.max(blocks.c.task_count))).scalar_one()
    assert 24 <= len((tmp_path / "calls").read_text()) <= 24 + (1 + COMMITS_AT_ONCE) * largest


def test_a_second_runner_of_a_sqlite_store_may_wait(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "slow", SLOW, cost="EXPENSIVE")
    (tmp_path / "spec.yaml").write_text(FEW.replace("[1, 2, 4, 8]", "[1]") + "engine: slow\n")
    (tmp_path / "hold").touch()
    first = started("run", "spec.yaml", "--executor", "in-process", cwd=tmp_path, plugins=plugins)
    wait_for(lambda: (tmp_path / "calls").exists(), first)
    refused = gpuscout("run", "spec.yaml", cwd=tmp_path, plugins=plugins)
    assert refused.returncode == 3
    assert "--wait waits for it" in refused.stderr
    second = started("run", "spec.yaml", "--wait", cwd=tmp_path, plugins=plugins)
    assert second.stderr is not None
    assert "waiting until it has finished" in second.stderr.readline()
    (tmp_path / "hold").unlink()
    for runner in (first, second):
        messages = runner.communicate(timeout=60)[1]
        assert runner.returncode == 0, messages
    assert len((tmp_path / "calls").read_text()) == 6
