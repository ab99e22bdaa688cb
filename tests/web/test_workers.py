"""The processes behind one address: all answer, the token stays out of their arguments, and all end together."""

from __future__ import annotations

import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.commands import started, wait_for
from tests.support.served import address_of, small_store

pytestmark = pytest.mark.slow
TOKEN = "s3cret-of-the-workers"


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_answer_and_end_with_the_command(ended_by: signal.Signals, tmp_path: Path) -> None:
    small_store(tmp_path)
    command = started("serve", "--port", "0", "--workers", "2", cwd=tmp_path, environ={"GPUSCOUT_TOKEN": TOKEN})
    family: list[psutil.Process] = []
    try:
        address = address_of(command)
        with httpx2.Client(base_url=address, timeout=120, headers={"Authorization": f"Bearer {TOKEN}"}) as asker:
            answers = [asker.get("/", params={"model": "Qwen3-8B"}) for _ in range(8)]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert httpx2.get(address, timeout=120).status_code == 401
        family = psutil.Process(command.pid).children(recursive=True)
        arguments = [process.cmdline() for process in family]
        assert sum("spawn_main" in " ".join(line) for line in arguments) == 2, arguments
        assert not any(TOKEN in word for line in arguments for word in line)
        os.kill(command.pid, ended_by)
        command.communicate(timeout=60)
        wait_for(lambda: not any(process.is_running() for process in family))
    finally:
        for process in family:
            if process.is_running():
                process.kill()
        command.kill()
        command.communicate()


def test_what_is_being_answered_when_the_server_ends_is_refused_without_a_traceback(tmp_path: Path) -> None:
    place = small_store(tmp_path) / "gpuscout.db"
    with closing(sqlite3.connect(place, isolation_level=None)) as holder, ThreadPoolExecutor() as threads:
        # Whoever reads waits.
        holder.execute("PRAGMA locking_mode=EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        holder.execute("PRAGMA user_version = 1")
        command = started("serve", "--port", "0", cwd=tmp_path)
        try:
            asked = threads.submit(httpx2.get, f"{address_of(command)}api/v1/recommend", timeout=120)
            server = psutil.Process(command.pid)
            wait_for(lambda: any(file.path == str(place) for file in server.open_files()), command)
            command.terminate()
            answer = asked.result()
            holder.close()
            messages = command.communicate(timeout=60)[1]
        finally:
            command.kill()
            command.communicate()
    assert (answer.status_code, answer.text.splitlines()) == (
        503,
        ["the server was stopped: ask again when it is back"],
    )
    assert "Traceback" not in messages
