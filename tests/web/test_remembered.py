"""Answers of a server that remembers what it read, beside commands that write: those of one that remembers nothing."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from gpuscout.runner.web.app import make_app
from gpuscout.store.database.connect import Store
from tests.support.forked import gpuscout
from tests.support.served import SPEC, serving

pytestmark = pytest.mark.slow

# What differs between two answers to one question.
STAMPS = re.compile(r'"(created|answered)_at": "[^"]*"|(?<=answered )\S+')
QUESTIONS = (
    *("/api/v1/sweeps", "/api/v1/prices", "/api/v1/points?limit=20", "/prices", "/trade-offs?model=Qwen3-8B"),
    *("/", "/?model=Qwen3-8B&workload=chat", "/?model=Qwen3-8B&workload=chat&price.H100=0.5", "/load?rate=20"),
    *(f"/api/v1/recommend?slo=itl<=40ms&{more}" for more in ("top=1", "price=L40S=0.1", "book=mine", "trust=backed")),
    *(f"/api/v1/recommend?{more}" for more in ("confidence=0.9", "kind=measured", "objective=energy", "rate=3")),
    *("/api/v1/capacity?rate=50", "/api/v1/compare?a=now&b=kind:measured", "/api/v1/pareto?metrics=cost,ttft"),
)
WRITES = (
    ["prices", "set", "H100=0.7", "L40S=0.2", "--book", "mine"],
    ["run", "more.yaml"],
    ["prices", "set", "H100=9", "--book", "mine"],
    ["import", "public"],
    ["sweeps", "delete", "more", "--yes"],
    ["prices", "remove", "mine"],
)


@pytest.fixture
def url(store: Store, tmp_path: Path) -> str:
    """The address of a store with a small sweep; `more.yaml` in the folder is another."""
    url = store.url.render_as_string(hide_password=False)
    (tmp_path / "small.yaml").write_text(SPEC)
    (tmp_path / "more.yaml").write_text(SPEC.replace("small", "more").replace("L40S", "H200"))
    assert gpuscout("run", "small.yaml", "--db", url, cwd=tmp_path).returncode == 0
    return url


def test_answers_beside_commands_that_write_are_those_of_a_server_that_remembers_nothing(
    url: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("GPUSCOUT_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"GPUSCOUT_TEST_SEED={seed}")
    chosen = random.Random(seed)
    # Stores are kept from the start of a server to its end.
    forgetful = TestClient(make_app(url), base_url="http://localhost")
    with serving(tmp_path, "--db", url) as address, httpx2.Client(base_url=address, timeout=120) as remembering:
        for write in WRITES:
            asked = chosen.sample(QUESTIONS, 5)
            for question in asked:
                remembering.get(question)
            done = gpuscout(*write, "--db", url, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            for question in asked:
                answers = [client.get(question) for client in (remembering, forgetful)]
                first, second = ((one.status_code, STAMPS.sub("", one.text)) for one in answers)
                assert first == second, (question, write)
