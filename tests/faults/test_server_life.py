"""The life of one server: started, healthy or not, ended with everything it started, whatever becomes of its owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuscout.runner.engines.benchmark import processes
from gpuscout.runner.engines.benchmark.servers import gpus
from gpuscout.runner.engines.benchmark.servers.server import RunningServer, ServerFailed, free_port
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.secret import redacted
from tests.support.commands import wait_for

SERVER = Path(__file__).parents[1] / "support" / "fake_server.py"
TOKEN = "hf_abcdefghijklmnop"

Start = Callable[..., RunningServer]


@pytest.fixture(autouse=True)
def own_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[RunningServer] = []

    def start(*options: str, key: str | None = None) -> RunningServer:
        port = free_port()
        command = [sys.executable, str(SERVER), "--port", str(port), "--pids", str(tmp_path / "pids"), *options]
        environment = {**os.environ, "HF_TOKEN": TOKEN}
        servers.append(RunningServer(command, port, about="a test", environment=environment, key=key))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def pids(folder: Path) -> list[int]:
    file = folder / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_server_answers_and_is_ended_with_what_it_started(tmp_path: Path, start: Start) -> None:
    server = start("--grandchild", "--no-health")
    server.wait_until_healthy(120)
    assert server.how_it_ended() is None
    [note] = processes.notes_folder().glob("*.json")
    family = pids(tmp_path)
    assert len(family) == 2
    server.stop()
    assert not any(map(runs, family))
    assert not note.exists()
    assert not list(processes.notes_folder().iterdir())


def test_a_server_that_ends_before_it_answers(tmp_path: Path, start: Start) -> None:
    server = start("--exit", "3", "--grandchild")
    with pytest.raises(ServerFailed) as failed:
        server.wait_until_healthy(120)
    assert failed.value.outcome is Outcome.CRASHED
    assert "ended with exit status 3 before it answered; the last 2 lines of its log:" in failed.value.message
    assert "CUDA out of memory" in failed.value.message
    assert TOKEN not in failed.value.message
    # What it has left behind hangs on nobody any more, and is known all the same.
    server.stop()
    assert not any(map(runs, pids(tmp_path)))


@pytest.mark.parametrize(
    ("options", "outcome", "message"),
    [
        (("--wait-for", "/nonexistent"), Outcome.TIMEOUT, "the server did not answer within 0.5 s"),
        (("--hang",), Outcome.TIMEOUT, "the server did not answer within 0.5 s"),
        (("--refuse",), Outcome.ERROR, 'the server refused a completion with status 400: {"error": "no such model'),
    ],
)
def test_a_server_that_does_not_come_up(start: Start, options: tuple[str, ...], outcome: Outcome, message: str) -> None:
    server = start(*options)
    with pytest.raises(ServerFailed) as failed:
        server.wait_until_healthy(60 if outcome is Outcome.ERROR else 0.5)
    assert failed.value.outcome is outcome
    assert message in failed.value.message
    assert TOKEN not in failed.value.message


@pytest.mark.parametrize("guard", [(), ("--guard-health",)])
def test_a_server_that_wants_a_key(start: Start, guard: tuple[str, ...]) -> None:
    """It is not waited for in vain: no other answer will come. What it says of the key is not repeated."""
    wants = "it requires a key: `api_key_env` names the variable that holds it"
    for key, told in ((None, wants), ("serving", "it refuses the key of `api_key_env`")):
        with pytest.raises(ServerFailed) as raised:
            start("--key", "HF_TOKEN", *guard, key=key).wait_until_healthy(600)
        assert f"the server answers 401, {told}" in raised.value.message
        assert TOKEN not in raised.value.message
        assert ("serving tiny" in raised.value.message) is (key is None)
    server = start("--key", "HF_TOKEN", *guard, key=TOKEN)
    server.wait_until_healthy(600)
    assert server.answers(60)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ServerFailed, match="cannot start /nowhere/vllm") as failed:
        RunningServer(["/nowhere/vllm"], free_port(), about="a test")
    assert failed.value.outcome is Outcome.ENGINE_MISSING
    assert not list(processes.notes_folder().glob("*.json"))


OWNER = """
import sys, time
from gpuscout.runner.engines.benchmark.servers.server import RunningServer, free_port
port = free_port()
server = RunningServer([sys.executable, {server!r}, "--port", str(port), *{options!r}], port, about="a test")
server.wait_until_healthy(120)
print("healthy", flush=True)
time.sleep(3600)
"""


def owned(tmp_path: Path, *options: str) -> tuple[subprocess.Popen[str], int]:
    """A process that owns a healthy server, and the server's guardian."""
    options = ("--grandchild", "--pids", str(tmp_path / "pids"), *options)
    code = OWNER.format(server=str(SERVER), options=options)
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert owner.stdout is not None
    assert owner.stdout.readline() == "healthy\n"
    wait_for(lambda: len(the_note()["processes"]) == 2)
    return owner, the_note()["writer"]


def the_note() -> dict[str, Any]:
    [path] = processes.notes_folder().glob("*.json")
    note: dict[str, Any] = json.loads(path.read_text())
    return note


def test_a_killed_owner_leaves_no_server(tmp_path: Path) -> None:
    owner, guardian = owned(tmp_path)
    family = pids(tmp_path)
    assert len([pid for pid in family if runs(pid)]) == 2
    owner.kill()
    owner.communicate()
    wait_for(lambda: not any(map(runs, [*family, guardian])))
    assert not list(processes.notes_folder().iterdir())


def test_the_end_of_the_owners_process_group_leaves_no_server(tmp_path: Path) -> None:
    """As Ray ends a worker: the server dies with it, and what has a session of its own is the guardian's."""
    owner, guardian = owned(tmp_path, "--stubborn")
    family = pids(tmp_path)
    os.killpg(owner.pid, signal.SIGKILL)
    owner.communicate()
    wait_for(lambda: not any(map(runs, [*family, guardian])))


def test_the_next_on_the_node_ends_what_is_left_when_everybody_was_killed(tmp_path: Path) -> None:
    owner, guardian = owned(tmp_path)
    family = pids(tmp_path)
    assert processes.end_orphans() == []  # its owner lives
    os.kill(guardian, signal.SIGKILL)
    owner.kill()
    owner.communicate()
    assert any(map(runs, family))
    assert processes.end_orphans() == ["a test"]
    assert not any(map(runs, family))
    assert not list(processes.notes_folder().iterdir())
    (processes.notes_folder() / "7.json").write_text('{"owner": [')
    assert processes.end_orphans() == []
    assert not list(processes.notes_folder().glob("*.json"))


def test_notes_are_not_taken_from_others(tmp_path: Path) -> None:
    processes.notes_folder().chmod(0o777)
    with pytest.raises(PermissionError, match="only this user can write"):
        processes.end_orphans()


def test_secrets_are_not_quoted() -> None:
    environment = {"MY_API_KEY": "topsecret", "HF_TOKEN": "abc", "PATH": "/usr/bin", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"LLM_KEY": "alsosecret", "A_KEYMAP": "of this land"}
    text = redacted(
        "topsecret alsosecret of this land abc /usr/bin false hf_0123456789 Authorization: Bearer abcdef0123",
        environment,
    )
    assert text == "*** *** of this land abc /usr/bin false *** Authorization: ***"


def program(folder: Path, name: str, *lines: str) -> None:
    """A stand-in for a driver's program, which prints these lines."""
    path = folder / name
    path.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    path.chmod(0o755)


def test_gpus_are_read_from_the_drivers_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    h100, l40s, mi300x = (gpus_with().get(name) for name in ("H100-SXM-80GB", "L40S", "MI300X"))
    assert gpus.names_here() == []
    assert gpus.wait_for_memory(0) is None
    program(tmp_path, "rocm-smi", '{"card0": {"Card Series": "AMD Instinct MI300X OAM", "VRAM Total Memory (B)": '
            '"206141652992", "VRAM Total Used Memory (B)": "303108096"}}')  # fmt: skip
    assert gpus.is_one_of(mi300x, gpus.names_here())
    program(tmp_path, "amd-smi", '[{"gpu": 0, "asic": {"market_name": "AMD Instinct MI300X"}}]')
    assert gpus.names_here() == ["AMD Instinct MI300X"]
    program(
        tmp_path,
        "nvidia-smi",
        "0, GPU-1a2b, NVIDIA H100 80GB HBM3, 70000, 81559",
        "1, GPU-3c4d, NVIDIA H100 80GB HBM3, 4, 81559",
    )
    assert gpus.is_one_of(h100, gpus.names_here())
    assert not gpus.is_one_of(l40s, gpus.names_here())
    busy = "GPU memory is in use (NVIDIA H100 80GB HBM3 0: 70,000 of 81,559 MiB)"
    assert gpus.wait_for_memory(0) == busy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(gpus.node_gpus()) == 1
    assert gpus.wait_for_memory(0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a2b")
    assert gpus.wait_for_memory(0) == busy
