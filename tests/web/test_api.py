"""The REST API answers with the very documents of the commands, on both databases, and refuses what it should."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import sleep

import httpx2
import psycopg
import pytest
from starlette.testclient import TestClient

from gpuscout.runner.web.answers import QUESTIONS
from gpuscout.runner.web.app import make_app
from gpuscout.runner.web.safety import Guard
from tests.support.commands import wait_for
from tests.support.forked import gpuscout
from tests.support.served import serving, small_store

pytestmark = pytest.mark.slow

STAMPS = re.compile(r'"(created|answered)_at": "[^"]*"')
# Route -> what the command is given for the same answer.
SAME = {
    "/sweeps": ["sweeps", "list"],
    "/sweeps/small": ["sweeps", "show", "small"],
    "/models?pattern=Qwen/*": ["models", "list", "Qwen/*"],
    "/gpus?vendor=AMD": ["gpus", "list", "--vendor", "AMD"],
    "/gpus/H100": ["gpus", "show", "H100"],
    "/workloads": ["workloads", "list"],
    "/prices": ["prices", "list"],
    "/points?model=Qwen3-8B&limit=5&offset=7": ["query", "--model", "Qwen3-8B", "--limit", "5", "--offset", "7"],
    "/points?model=Qwen3-8B&limit=7&sort=-itl_ms": [
        *("query", "--model", "Qwen3-8B", "--limit", "7", "--sort", "-itl_ms"),
    ],
    "/recommend?slo=itl<=30ms&slo=ttft<=2s&price=H100=2.5&cautious=true&top=3": [
        *("recommend", "--slo", "itl<=30ms", "--slo", "ttft<=2s", "--price", "H100=2.5", "--cautious", "--top", "3"),
    ],
    "/recommend?slo=itl<=0.001ms": ["recommend", "--slo", "itl<=0.001ms"],
    "/pareto?metrics=cost,ttft&dominated=1": ["pareto", "--metrics", "cost,ttft", "--all"],
    "/compare?a=now&b=price:H100=1.5": ["compare", "now", "price:H100=1.5"],
    "/capacity?rate=50&model=Qwen3-8B": ["capacity", "--rate", "50", "--model", "Qwen3-8B"],
    "/capacity?load=0:00=2,8:00=40&reserved_price=H100=1": [
        *("capacity", "--load", "0:00=2,8:00=40", "--reserved-price", "H100=1"),
    ],
    "/capacity?batch=5M&within=8h": ["capacity", "--batch", "5M", "--within", "8h"],
    "/place?have=H100=16&rate=5": ["place", "--have", "H100=16", "--rate", "5"],
    "/deploy?model=Qwen3-8B&min_memory=60": ["deploy", "--model", "Qwen3-8B", "--min-memory", "60"],
    "/accuracy?by=gpu": ["accuracy", "--by", "gpu"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small store, gpuscout.db."""
    return small_store(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(make_app(f"sqlite:///{folder / 'gpuscout.db'}"), base_url="http://127.0.0.1:8000") as found:
        yield found


def test_every_question_is_compared_with_its_command() -> None:
    assert {tuple(command[: len(kind.command)]) for kind in QUESTIONS.values() for command in SAME.values()} >= {
        kind.command for name, kind in QUESTIONS.items() if name != "fit"
    }


@pytest.mark.parametrize("route", SAME)
def test_a_route_answers_with_the_document_of_the_command(route: str, client: TestClient, folder: Path) -> None:
    done = gpuscout(*SAME[route], "--json", cwd=folder)
    answer = client.get(f"/api/v1{route}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["gpuscout-exit-status"] == str(done.returncode)
    assert without_stamps(answer.text) == without_stamps(done.stdout)


def without_stamps(text: str) -> str:
    """The document without the times at which it was printed; those of what it is about stay."""
    return STAMPS.sub("", text)


@pytest.mark.parametrize(
    ("route", "command", "status"),
    [
        ("/recommend?model=Qwen3-8C", ["recommend", "--model", "Qwen3-8C"], 400),
        ("/recommend?slo=itl", ["recommend", "--slo", "itl"], 400),
        ("/capacity?rate=-1", ["capacity", "--rate=-1"], 400),
        ("/capacity?load=0=1,0=2", ["capacity", "--load", "0=1,0=2"], 400),
        ("/place?have=H1000=8&rate=5", ["place", "--have", "H1000=8", "--rate", "5"], 400),
        ("/compare?a=now&b=nothing", ["compare", "now", "nothing"], 400),
        ("/sweeps/other", ["sweeps", "show", "other"], 400),
        ("/deploy?model=Qwen3-8B&slo=itl<=0.001ms", ["deploy", "--model", "Qwen3-8B", "--slo", "itl<=0.001ms"], 404),
    ],
)
def test_errors_are_those_of_the_command(
    route: str, command: list[str], status: int, client: TestClient, folder: Path
) -> None:
    done = gpuscout(*command, cwd=folder)
    answer = client.get(f"/api/v1{route}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["exit_status"] == done.returncode
    assert problem["status"] == status
    told = problem["detail"] + (f"\n    {problem['hint']}" if problem["hint"] else "")
    assert told == done.stderr.rstrip("\n")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("recommend?top=0", "--top"),
        ("recommend?modle=x", 'unknown parameter "modle"'),
        ("recommend?db=sqlite:////etc/passwd", 'unknown parameter "db"'),
        ("recommend?report=/tmp/x.html", 'unknown parameter "report"'),
        ("recommend?have=/etc/passwd", 'unknown parameter "have"'),
        ("place?rate=5&have=/etc/passwd", "have: expected it in words"),
        ("place?rate=5&have=H100=8,/etc/passwd", "--have: invalid inventory"),
        ("place?rate=5&gpus_from=ray", 'unknown parameter "gpus_from"'),
        ("capacity?load=/etc/passwd", "load: expected it in words"),
        ("deploy?output=/tmp/x", 'unknown parameter "output"'),
        ("accuracy?measured=/etc/passwd", "is not public or stored"),
        ("accuracy?store=1", 'unknown parameter "store"'),
        ("recommend?cautious=perhaps", "neither true nor false"),
        ("points?limit=0", "from 1 to 1000"),
        ("points?limit=1001", "from 1 to 1000"),
        ("compare?a=now", "expected two sides to compare, got one"),
        ("recommend?model=" + "x" * 501, "500 characters"),
        ("recommend?model=a%00b", "not text"),
    ],
)
def test_what_a_server_must_not_do_is_refused(query: str, says: str, client: TestClient) -> None:
    answer = client.get(f"/api/v1/{query}")
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def test_values_are_no_options(client: TestClient) -> None:
    """What begins with a dash is a value all the same."""
    answer = client.get("/api/v1/compare", params={"a": "--db=/etc/passwd", "b": "--help"})
    assert answer.status_code == 400
    assert "passwd" in answer.json()["detail"]
    assert "--verbose" in client.get("/api/v1/recommend", params={"model": "--verbose"}).json()["detail"]


def test_an_answer_is_asked_for_again_only_after_a_write(client: TestClient, folder: Path) -> None:
    route = "/api/v1/recommend?model=Qwen3-8B"
    tag = client.get(route).headers["etag"]
    again = client.get(route, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(route + "&cautious=1", headers={"If-None-Match": tag}).status_code == 200
    assert gpuscout("prices", "set", "L40S=0.9", "--book", "other", cwd=folder).returncode == 0
    assert client.get(route, headers={"If-None-Match": tag}).status_code == 200


def test_a_missing_an_empty_and_a_foreign_store_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are no results")
    for name, says in (("missing.db", "gpuscout run SPEC"), ("notes.db", "--db")):
        with TestClient(make_app(str(tmp_path / name)), base_url="http://localhost") as asker:
            answer = asker.get("/api/v1/recommend")
            assert answer.status_code == 503
            assert says in answer.json()["hint"]
    assert gpuscout("prices", "set", "H100=2", cwd=tmp_path).returncode == 0
    with TestClient(make_app(str(tmp_path / "gpuscout.db")), base_url="http://localhost") as asker:
        assert asker.get("/api/v1/sweeps").json()["sweeps"] == []
        assert asker.get("/api/v1/recommend").status_code == 400


def settled_tag(asker: TestClient, route: str) -> str:
    """The tag of an answer that is not sent again: a server's own upkeep (autovacuum) changes it too."""
    for _ in range(600):
        tag = asker.get(route).headers["etag"]
        if asker.get(route, headers={"If-None-Match": tag}).status_code == 304:
            return tag
        sleep(0.1)
    raise AssertionError(f"{route} is sent anew although nothing writes to the store")


def test_postgres_answers_alike(one_database: str, postgres_url: str, tmp_path: Path) -> None:
    small_store(tmp_path, "--db", postgres_url)
    with TestClient(make_app(postgres_url), base_url="http://localhost") as asker:
        for route in ("/recommend?slo=itl<=30ms&top=3", "/pareto", "/sweeps/small", "/capacity?rate=50"):
            answer = asker.get(f"/api/v1{route}")
            command = (
                SAME.get(route)
                or {
                    "/recommend?slo=itl<=30ms&top=3": ["recommend", "--slo", "itl<=30ms", "--top", "3"],
                    "/pareto": ["pareto"],
                    "/capacity?rate=50": ["capacity", "--rate", "50"],
                }[route]
            )
            done = gpuscout(*command, "--json", "--db", postgres_url, cwd=tmp_path)
            assert without_stamps(answer.text) == without_stamps(done.stdout)
        tag = settled_tag(asker, "/api/v1/sweeps")
        assert gpuscout("prices", "set", "H100=2", "--db", postgres_url, cwd=tmp_path).returncode == 0
        assert asker.get("/api/v1/sweeps", headers={"If-None-Match": tag}).status_code == 200


def test_a_question_ends_at_the_time_limit_and_with_its_asker(
    one_database: str, postgres_url: str, tmp_path: Path
) -> None:
    small_store(tmp_path, "--db", postgres_url)
    reading = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with (
        psycopg.connect(postgres_url) as other,
        psycopg.connect(postgres_url, autocommit=True) as watcher,
        serving(tmp_path, "--db", postgres_url) as address,
        serving(tmp_path, "--db", postgres_url, "--time-limit", "0.5") as hasty,
    ):
        other.execute("LOCK TABLE sweeps IN ACCESS EXCLUSIVE MODE")
        late = httpx2.get(f"{hasty}api/v1/recommend", timeout=60)
        assert late.status_code == 504
        assert late.json()["detail"] == "the answer took longer than the server allows"
        assert httpx2.get(f"{hasty}?model=Qwen3-8B", timeout=60).status_code == 504
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(f"{address}api/v1/recommend", timeout=httpx2.Timeout(60, read=1))
        # Well before the lock is given up, 30 s after it was asked for.
        wait_for(lambda: watcher.execute(reading).fetchone() == (0,), timeout_s=20)
        other.rollback()
        assert httpx2.get(f"{address}api/v1/recommend", timeout=60).status_code == 200


def test_the_api_describes_itself(client: TestClient) -> None:
    described = client.get("/api/v1/openapi.json").json()
    routes = described["paths"]
    assert {f"/api/v1{route.partition('?')[0]}" for route in SAME} - {"/api/v1/sweeps/small", "/api/v1/gpus/H100"} | {
        "/api/v1/sweeps/{name}",
        "/api/v1/gpus/{name}",
    } == set(routes)
    for route, name in (("/recommend", "recommend"), ("/compare", "compare")):
        listed = {one["name"] for one in routes[f"/api/v1{route}"]["get"]["parameters"]}
        assert listed == {*QUESTIONS[name].options, *QUESTIONS[name].places}
    assert all(set(methods) == {"get"} for methods in routes.values())
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == 404
    assert client.post("/api/v1/recommend").status_code == 405


def test_other_hosts_are_refused(client: TestClient) -> None:
    assert client.get("/api/v1/workloads", headers={"Host": "localhost:8000"}).status_code == 200
    for host in ("attacker.example", "127.0.0.1.attacker.example:8000", "[::1", ""):
        assert client.get("/api/v1/workloads", headers={"Host": host}).status_code == 421, host


def test_a_token_is_asked_for_and_kept_in_a_cookie(folder: Path) -> None:
    app = make_app(f"sqlite:///{folder / 'gpuscout.db'}", Guard(None, "s3cret"))
    with TestClient(app, base_url="http://gpus.example", follow_redirects=False) as asker:
        assert asker.get("/healthz").text == "ok\n"
        assert asker.get("/api/v1/sweeps").status_code == 401
        assert asker.get("/api/v1/sweeps?token=wrong").status_code == 401
        assert asker.get("/api/v1/sweeps", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        entered = asker.get("/api/v1/recommend?top=1&token=s3cret&slo=itl<=30ms")
        assert entered.status_code == 303
        assert entered.headers["location"] == "/api/v1/recommend?top=1&slo=itl%3C%3D30ms"
        assert {"HttpOnly", "SameSite=lax"} <= set(entered.headers["set-cookie"].split("; "))
        assert asker.get("/?token=s3cret").headers["location"] == "/"
        for path in ("//evil.example/", "/%5Cevil.example", "///evil.example"):
            there = asker.get(f"http://gpus.example{path}?token=s3cret").headers["location"]
            assert re.match(r"/[^/\\]", there), there
        assert asker.get("/api/v1/sweeps").status_code == 200


def test_hostile_questions_are_refused_in_words(client: TestClient) -> None:
    for query, status in (
        ("x" * 20_001, 414),
        ("&".join(["model=a"] * 201), 400),
        ("&".join(f"p{number}=1" for number in range(2000)), 400),
        ("model=%ff%fe&workload=%ed%a0%80", 400),
        ("=&=&&;;&model", 400),
        ("model=%1b[31m%e2%80%ae", 400),
        ("input_len=" + "9" * 400, 400),
        ("top=1e9", 400),
        ("price=H100=nan", 400),
        ("price=H100=1e400", 400),
        ("slo=itl<=1e400ms", 400),
        ("slo=" + "(" * 400, 400),
        ("model=" + "*" * 300 + "a", 400),
        ("since=0000-00-00", 400),
        ("min_memory=inf", 400),
        ("model[]=a&model[$ne]=b&__proto__=1", 400),
    ):
        answer = client.get(f"/api/v1/recommend?{query}")
        assert answer.status_code == status, (query[:80], answer.text)
        assert client.get(f"/?{query}").status_code in (status, 200 if "[" not in query else 400), query[:80]
    for path in ("/sweeps/..%2f..%2fetc%2fpasswd", "/sweeps/%00", "/static/..%2fapp.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code in (400, 404), path


def test_slow_clients_do_not_keep_others_out(folder: Path) -> None:
    with serving(folder) as address, ExitStack() as slow:
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        for _ in range(100):
            connection = slow.enter_context(socket.create_connection((host, int(port)), timeout=60))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert httpx2.get(f"{address}?model=Qwen3-8B", timeout=60).status_code == 200


def test_browsers_are_told_to_load_nothing_else(client: TestClient) -> None:
    for path in ("/api/v1/workloads", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_only_loopback_is_served_without_a_token(folder: Path) -> None:
    done = gpuscout("serve", "--host", "0.0.0.0", "--port", "0", cwd=folder)
    assert done.returncode == 2
    assert "others can reach 0.0.0.0, and no token is set" in done.stderr
    assert "--token" in done.stderr


def test_a_database_that_holds_no_stores_is_refused_at_start(folder: Path) -> None:
    done = gpuscout("serve", "--db", "mysql://x/y", "--port", "0", cwd=folder, timeout_s=60)
    assert done.returncode == 2
    assert done.stderr == gpuscout("recommend", "--db", "mysql://x/y", cwd=folder).stderr
    assert "results cannot be stored in 'mysql'" in done.stderr
