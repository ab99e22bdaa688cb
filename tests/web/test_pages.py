"""The pages say what the commands say, for every state of a store, without script; text of strangers stays text."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from gpuscout.runner.api.run import run
from gpuscout.runner.cli.common import count
from gpuscout.runner.web.app import make_app
from gpuscout.store.database.connect import open_store
from gpuscout.sweeps.spec.spec import parse_spec
from tests.support.forked import gpuscout
from tests.support.served import serving, small_store

pytestmark = pytest.mark.slow

ASSETS = Path(__file__).parents[1] / "assets"
PAGES = (
    *("/", "/?model=Qwen3-8B", "/trade-offs", "/trade-offs?dominated=1&metrics=throughput-per-gpu,itl", "/compare"),
    *(
        "/compare?a=now&b=price:H100=1",
        "/compare?a=api:Alibaba&tokens_per_day=20M",
        "/load",
        "/load?rate=50",
        "/load?load=0:00=2,8:00=40,18:00=10",
    ),
    *(
        "/load?batch=5M&within=8h&interruptions=1/d",
        "/place",
        "/place?have=H100=16&rate=5",
        "/place?have=L4=1&rate=900",
    ),
    *("/place?have=L4=1&rate=9&itl=0.001", "/prices", "/sweeps", "/sweeps/small", "/accuracy"),
    *("/api", "/prices?books=default", "/prices?gpu=H100&capex=28000&years=4&kw=1.1&usd_per_kwh=0.12"),
)
RANGES = "Ranges hold with a probability of 80 %; the safe size with 90 %."
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31m\u202e' + "x" * 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(make_app(f"sqlite:///{folder / 'gpuscout.db'}"), base_url="http://localhost") as found:
        yield found


def text_of(page: str) -> str:
    """What a page shows, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.mark.parametrize("address", PAGES)
def test_every_page_answers_without_inline_code(address: str, client: TestClient) -> None:
    answer = client.get(address)
    assert answer.status_code == 200, text_of(answer.text)
    assert not re.search(r"(?<![\d.,])1 parameters", answer.text)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", answer.text)
    assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//""", answer.text)


def test_prices_and_token_apis(client: TestClient, folder: Path) -> None:
    page = client.get("/prices").text
    assert "/compare?a=api%3AAlibaba%2FQwen%2FQwen3-8B" in page
    assert "https://openrouter.ai/qwen/qwen3-8b/providers" in text_of(page)
    shown = text_of(client.get("/compare?a=api:Alibaba/Qwen/Qwen3-8B&tokens_per_day=20M").text)
    done = gpuscout("compare", "api:Alibaba", "--tokens-per-day", "20M", "--json", cwd=folder)
    (one,) = json.loads(done.stdout)["comparisons"]
    assert f"20 M tokens a day: API {one['at_load']['api_usd_per_day']:,.2f} USD a day" in shown
    assert all(own["gpu"] in shown for own in one["gpus"])
    assert client.get("/compare?a=api:nobody").status_code == 400
    answer = client.get("/api/v1/compare", params={"a": "api:Alibaba", "tokens_per_day": "20M"})
    assert answer.json()["comparisons"][0]["at_load"] == one["at_load"]
    assert client.get("/api/v1/compare", params={"a": "now"}).status_code == 400


def test_compared_winners_have_kind_and_range(client: TestClient, folder: Path) -> None:
    shown = text_of(client.get("/compare?a=now&b=price:H100=1").text)
    done = gpuscout("compare", "now", "price:H100=1", "--json", cwd=folder)
    winners = json.loads(done.stdout)["winners"]
    assert winners
    for side in (winner["b"] for winner in winners):
        low, high = (f"{side[f'objective_{end}']:.2g}" for end in ("low", "high"))
        assert re.search(rf"{side['gpu']} x{side['num_gpus']} [^|]*?\({low}\d*–{high}\d*\), {side['kind']}", shown)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (
            "/load?rate=50",
            ("Within ITL <= 50 ms. 20 %", RANGES, "Prices: on-demand, USD per GPU hour, median of sellers"),
        ),
        (
            "/load?load=0:00=2,8:00=40&itl=80&usd.H100=1.5",
            (
                *("Within ITL <= 80 ms. 20 %", RANGES, "H100-SXM-80GB 1.50 (yours)"),
                "ordered 60.0 s after a rise, ready 180 s later and end when fewer do for 300 s",
            ),
        ),
        (
            "/load?batch=5M&within=8h&interruptions=1/d",
            ("No limit on latencies. Nothing is kept free.", RANGES, "interrupted 0.042 times an hour", "Prices: "),
        ),
        ("/place?have=H100=16&rate=5", ("Within ITL <= 50 ms. 20 %", "ranges hold with a probability of 80 %")),
    ],
)
def test_answers_about_loads_say_what_they_assume(address: str, told: tuple[str, ...], client: TestClient) -> None:
    shown = text_of(client.get(address).text)
    assert [words for words in told if words not in shown] == [], shown


def test_a_load_has_the_likelihood_of_its_limits(client: TestClient) -> None:
    for more in ("rate=50", "load=0:00=2,8:00=40", "batch=5M&within=8h&itl=50"):
        (group, *_) = client.get(f"/api/v1/capacity?{more.replace('&itl=50', '')}&slo=itl<=50ms").json()["groups"]
        plan = (group.get("best_per_gpu") or group["plans"])[0]
        page = client.get(f"/load?{more}").text
        assert "limits met" in text_of(page)
        assert "(80 % range)" in text_of(page)
        assert f'<td class="n">{100 * plan["limits_met"]:.0f} %</td>' in page
    batch = text_of(client.get("/load?batch=5M&within=8h").text)
    assert "limits met" not in batch
    assert " 5,000,000 requests, 2,560,000,000 output tokens." in batch


def test_counts_have_separators_and_limits_are_for_people(client: TestClient) -> None:
    assert re.search(r"roofline, \d,\d{3} runs", text_of(client.get("/accuracy").text))
    compared = text_of(client.get("/compare?a=now&b=price:H100=1&itl=40").text)
    assert ", ITL <= 40 ms. " in compared
    assert "1,024 in / 512 out" in compared
    assert "itl<=" not in compared.partition("The command that gives")[0]


def test_a_seller_stands_once_beside_a_gpu(client: TestClient) -> None:
    page = client.get("/prices?books=default").text
    for gpu in client.get("/api/v1/prices?books=default").json()["gpus"]:
        sellers = {quote["provider"] for quote in gpu["quotes"]}
        (row,) = re.findall(rf"<tr><td>{re.escape(gpu['gpu'])}</td>(.*?)</tr>", page, re.DOTALL)
        listed = text_of(row.partition("<details>")[0].rpartition("<td>")[2]).split(", ")
        assert len(listed) == len(sellers)
        assert row.count("<li>") == len(gpu["quotes"])
    assert "Azure 2026-11-09 (3 offers)" in text_of(page)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/place?have=H100=16", "nothing to place: give --rate"),
        ("/place?rate=5", "name the GPUs"),
        ("/compare?a=now", "expected two sides to compare, got one"),
        ("/compare?b=now", "expected two sides to compare, got one"),
    ],
)
def test_half_a_question_says_what_it_lacks(address: str, says: str, client: TestClient) -> None:
    answer = client.get(address)
    assert answer.status_code == 400
    assert says in text_of(answer.text)


def test_what_own_hardware_costs(client: TestClient, tmp_path: Path) -> None:
    page = client.get("/prices?gpu=H100&capex=28000&years=4&kw=1.1&usd_per_kwh=0.12&pue=1.3&servers_of=8").text
    command = html.unescape(re.findall(r"<pre>(gpuscout prices own.*?)</pre>", page)[0])
    words = [word for word in shlex.split(command)[1:] if "gpuscout.db" not in word and word != "--db"]
    stored = json.loads(gpuscout(*words, "--json", cwd=tmp_path).stdout)
    shown = text_of(page)
    assert stored["arithmetic"] in shown
    assert f"{stored['usd_per_gpu_hour']:.2f} USD per GPU hour" in shown
    link = html.unescape(re.findall(r'href="(/\?usd[^"]*)"', page)[0])
    assert f"H100-SXM-80GB={stored['usd_per_gpu_hour']:.4f}" in client.get(link + "&model=Qwen3-8B").text
    for wrong, says in (
        ("gpu=H100", "USD for one GPU, Years it is used"),
        ("gpu=H100&capex=x&years=4&kw=1&usd_per_kwh=1", 'invalid "USD for one GPU": expected a number, got "x"'),
        ("gpu=H100&capex=9&years=nan&kw=1&usd_per_kwh=1", "invalid years nan"),
        ("gpu=H100&capex=9&years=4&kw=1&usd_per_kwh=1&servers_of=1e3", 'invalid "GPUs of a server"'),
        ("gpu=H1000&capex=9&years=4&kw=1&usd_per_kwh=1", "unknown GPU"),
        ("books=none", 'unknown price book "none"'),
    ):
        answer = client.get(f"/prices?{wrong}")
        assert answer.status_code == 400
        assert says in text_of(answer.text), text_of(answer.text)


def test_a_load_that_moves_is_a_chart(client: TestClient) -> None:
    address = "load=0:00=2,8:00=40,18:00=10&model=Qwen3-8B"
    (group,) = client.get(f"/api/v1/capacity?{address}").json()["groups"]
    page = client.get(f"/load?{address}").text
    assert page.count('class="bar"') == len(group["over_time"]) > 3
    assert all(
        f"{count(row['ready'], 'replica')} from {row['start_s'] / 3600:.4g} h" in page for row in group["over_time"]
    )


def test_accuracy_shows_estimates_against_measured_runs(client: TestClient) -> None:
    page = client.get("/accuracy").text
    assert page.count('class="mark estimated"') > 200
    told = re.findall(r"<title>[^<]+, [^<]+ x\d+: ([\d.e+]+) ms; measured ([\d.e+]+)</title>", page)
    near = sum(0.8 < float(estimated) / float(measured) < 1.25 for estimated, measured in told)
    assert len(told) == page.count('class="mark estimated"')
    assert near > len(told) / 3


def test_prices_that_would_change_a_winner(tmp_path: Path) -> None:
    done = gpuscout("run", "--model", "Qwen3-8B", "--gpu", "H100,H200,MI300X", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(gpuscout("recommend", "--json", cwd=tmp_path).stdout)["groups"]
    with TestClient(make_app(str(tmp_path / "gpuscout.db")), base_url="http://localhost") as asker:
        shown = text_of(asker.get("/prices").text)
    assert group["winner_changes"]
    for flip in group["winner_changes"]:
        assert f"{flip['gpu']} {flip['usd_per_gpu_hour']:.2f} {flip['winner']} {flip['loser']}" in shown


def test_a_sweep_says_what_was_excluded(tmp_path: Path) -> None:
    spec = "{name: s, models: [Qwen3-8B, Qwen2.5-7B-Instruct], gpus: [H100], tensor_parallel: [1, 8], workloads: chat}"
    (tmp_path / "s.yaml").write_text(spec)
    assert gpuscout("run", "s.yaml", cwd=tmp_path).returncode == 0
    (excluded,) = json.loads(gpuscout("sweeps", "show", "s", "--json", cwd=tmp_path).stdout)["exclusions"]
    assert (excluded["combinations"], excluded["model"]) == (1, "Qwen/Qwen2.5-7B-Instruct")
    told = gpuscout("sweeps", "show", "s", cwd=tmp_path).stdout
    assert f"1 {excluded['reason']} (Qwen/Qwen2.5-7B-Instruct): {excluded['detail']}" in told
    with TestClient(make_app(str(tmp_path / "gpuscout.db")), base_url="http://localhost") as asker:
        assert excluded["detail"] in text_of(asker.get("/sweeps/s").text)


def test_fields_keep_what_is_asked(client: TestClient) -> None:
    page = client.get("/?model=Qwen3-8B&model=Qwen3-32B&gpu=H100&gpu=L40S&input_len=1024&prices=default").text
    assert 'name="model" type="text" value="Qwen3-8B, Qwen3-32B"' in page
    assert 'name="gpu" type="text" value="H100, L40S"' in page
    assert '<details class="more" open>' in page
    assert "--input-len 1024" in text_of(page)
    assert '<details class="more">' in client.get("/").text
    assert client.get("/?model=Qwen3-8B, Qwen3-32B&gpu=H100, L40S").text.count('<td><a href="/?') == 2
    # A rate counts: nothing in this store was simulated at one.
    assert "no estimates at request rates" in text_of(client.get("/?model=Qwen3-8B&rate=5").text)
    shown = text_of(client.get("/place?have=H100=16&rate=chat=5, chat=6").text)
    assert "a workload has two rates" in shown


def test_ask_says_what_recommend_says(client: TestClient, folder: Path) -> None:
    page = client.get("/?model=Qwen3-8B&itl=30&ttft=2000&usd.L40S=0.4")
    command = ("recommend", "--model", "Qwen3-8B", "--slo", "itl<=30ms", "--slo", "ttft<=2000ms", "--price", "L40S=0.4")
    document = json.loads(gpuscout(*command, "--json", "--top", "3", cwd=folder).stdout)
    (group,) = document["groups"]
    shown = text_of(page.text)
    best = group["configurations"][0]
    for value in (best["objective_value"], best["objective_low"], best["objective_high"]):
        assert f"{value:.2g}" in shown or f"{value:.2f}" in shown, value
    assert "L40S" in shown
    assert "Limits: " in shown
    for heading in ("Alternatives", "Prices by seller", "Launch command", "The command that gives this answer"):
        assert heading in shown
    deployed = gpuscout("deploy", *command[1:], cwd=folder)
    assert " ".join(deployed.stdout.split()) in shown


def test_the_command_of_a_page_gives_its_answer(client: TestClient, folder: Path) -> None:
    page = client.get("/?model=Qwen3-32B&itl=40&objective=throughput-per-gpu&trust=any").text
    shown = html.unescape(re.findall(r"<pre>(gpuscout recommend.*?)</pre>", page, re.DOTALL)[0])
    words = shlex.split(shown)
    assert words[:2] == ["gpuscout", "recommend"]
    done = gpuscout(*words[1:], cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    winner = re.findall(r"class='answer'>([^:]*):", page)[0]
    assert winner in done.stdout.replace("\u00a0", " ")


def test_an_overview_links_to_each_answer(client: TestClient) -> None:
    page = client.get("/").text
    links = [html.unescape(link) for link in re.findall(r'<td><a href="(/\?[^"]*)"', page)]
    assert len(links) == 2
    for link in links:
        assert "class='answer'" in client.get(link).text


def test_a_chart_has_a_mark_for_every_point(client: TestClient) -> None:
    for more in ("", "&dominated=1"):
        points = client.get(f"/api/v1/pareto?model=Qwen3-32B{more}").json()["points"]
        page = client.get(f"/trade-offs?model=Qwen3-32B{more}").text
        assert page.count('class="mark ') == len(points) > 3
        assert len(set(re.findall(r'<tr id="(point-\d+)">', page))) == len(points)
        assert {row["kind"] for row in points} == {"estimated"}
        assert 'class="mark measured"' not in page


ARRIVING = """
name: arriving
models: [Qwen/Qwen3-8B]
gpus: [H100, L40S]
tensor_parallel: 1
workloads:
  - {name: support, input_len: {uniform: [100, 300]}, output_len: 20, cached_input: 0.4}
load: request_rate
request_rate: [1, 4]
engine: simulator
"""
FIXED = """
name: fixed
models: [Qwen/Qwen3-8B]
gpus: [H100, L40S]
tensor_parallel: 1
workloads: [{name: fixed, input_len: 200, output_len: 20}]
"""


def test_workloads_of_equal_mean_lengths_stay_apart_and_say_how_they_arrive(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "gpuscout.db"), create=True) as store:
        for spec in (ARRIVING, FIXED):
            run(parse_spec(spec), store, executor="in-process")
    said = "200 in / 20 out, lengths vary, 40 % cached, poisson arrivals"
    with TestClient(make_app(f"sqlite:///{tmp_path / 'gpuscout.db'}"), base_url="http://localhost") as client:
        charts = html.unescape(client.get("/trade-offs").text)
        titles = re.findall(r"<h2>(Qwen.*?)</h2>", charts)
        assert titles == [f"Qwen/Qwen3-8B, {one}" for one in (f"support ({said})", "fixed (200 in / 20 out)")]
        assert re.search(r"vllm, 4 requests/s, \d+ in flight, estimated", charts)
        for address in ("/compare?a=gpu:H100&b=gpu:L40S", "/load?rate=5"):
            page = client.get(address).text
            assert f"support {said}" in page
            assert re.search("fixed 200 in / 20 out<", page)
        overview = client.get("/").text
        for link in re.findall(r'href="(/\?[^"]*model=[^"]*)"', overview):
            assert "Alternatives" in client.get(html.unescape(link)).text


def test_mistakes_are_told_in_words_of_the_command_below_the_form(client: TestClient) -> None:
    answer = client.get("/?model=Qwen3-8C")
    assert answer.status_code == 400
    assert "Qwen3-8C" in text_of(answer.text)
    assert "did you mean" in text_of(answer.text)
    assert '<form method="get"' in answer.text
    assert client.get("/trade-offs?itl=fast").status_code == 400
    assert client.get("/sweeps/none").status_code == 400


def test_stores_that_have_no_answer_say_what_to_do(tmp_path: Path) -> None:
    outdated = shutil.copy(ASSETS / "store-0001.sqlite", tmp_path / "old.db")
    assert gpuscout("prices", "set", "H100=2", cwd=tmp_path).returncode == 0
    shutil.copy(tmp_path / "gpuscout.db", tmp_path / "newer.db")
    with closing(sqlite3.connect(tmp_path / "newer.db")) as store, store:
        store.execute("UPDATE gpuscout_revision SET version_num = '9999'")
    for db, status, says in (
        (tmp_path / "newer.db", 503, "pip install --upgrade gpuscout"),
        (tmp_path / "missing.db", 503, "gpuscout run SPEC"),
        (outdated, 503, "gpuscout db upgrade"),
        (tmp_path / "gpuscout.db", 400, "gpuscout run"),
    ):
        with TestClient(make_app(str(db)), base_url="http://localhost") as asker:
            for page in ("/", "/trade-offs", "/load?rate=5"):
                answer = asker.get(page)
                assert answer.status_code == status, (db, page, text_of(answer.text))
                assert says in text_of(answer.text), text_of(answer.text)


def test_a_store_that_is_being_written_is_shown(client: TestClient, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "gpuscout.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert client.get("/?model=Qwen3-8B").status_code == 200
        writer.execute("ROLLBACK")


def test_a_page_is_made_once_until_the_store_changes(tmp_path: Path) -> None:
    small_store(tmp_path)
    statements: list[str] = []

    def count_statement(*executed: object) -> None:
        statements.append(str(executed[2]))

    event.listen(Engine, "before_cursor_execute", count_statement)
    try:
        with TestClient(make_app(str(tmp_path / "gpuscout.db")), base_url="http://localhost") as asker:
            first = asker.get("/?model=Qwen3-8B").text
            asked = len(statements)
            assert asker.get("/?model=Qwen3-8B").text == first
            assert len(statements) == asked > 0
            assert asker.get("/?model=Qwen3-32B").text != first
            assert gpuscout("prices", "set", "H100=0.01", "L40S=9", cwd=tmp_path).returncode == 0
            dearer = asker.get("/?model=Qwen3-8B").text
            assert dearer != first
            assert "0.01" in dearer
    finally:
        event.remove(Engine, "before_cursor_execute", count_statement)


def test_text_of_strangers_stays_text(tmp_path: Path) -> None:
    small_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "gpuscout.db")) as store, store:
        for table in ("models", "gpus", "sweeps"):
            store.execute(
                f"UPDATE {table} SET name = ? || {table}.id WHERE id = (SELECT min(id) FROM {table})", (HOSTILE,)
            )
        store.execute("UPDATE sweep_workloads SET name = ?", (HOSTILE[:200],))
    with TestClient(make_app(str(tmp_path / "gpuscout.db")), base_url="http://localhost") as asker:
        for page in ("/", "/?input_len=1024", "/trade-offs?dominated=1", "/load?rate=5", "/sweeps", "/prices"):
            answer = asker.get(page)
            assert answer.status_code == 200, text_of(answer.text)[:500]
            assert "<img" not in answer.text
            assert "<script>" not in answer.text
            assert "\x1b" not in answer.text
            assert "\u202e" not in answer.text
        for page in ("/", "/trade-offs?dominated=1", "/sweeps"):
            assert "<script>alert(2)</script>" in text_of_tags(asker.get(page).text)
        for link in re.findall(r'<td><a href="(/[^"]*)"', asker.get("/").text + asker.get("/sweeps").text):
            answer = asker.get(html.unescape(link))
            assert "<img" not in answer.text
        echoed = asker.get("/", params={"model": HOSTILE[:300], "usd.<b>": "1", "<i>": "2"})
        assert echoed.status_code == 400
        assert not re.search("<img|<b>|<i>|\x1b", echoed.text)


def text_of_tags(page: str) -> str:
    """A page whose escapes are resolved, so that what was meant as a tag is seen again."""
    return html.unescape(page)


def test_the_command_serves_a_store_also_after_another_took_its_place(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "gpuscout.db", tmp_path)
    with serving(tmp_path) as address:
        for _ in range(2):
            assert "class='answer'" in fetched(address + "?model=Qwen3-8B")
        assert [sweep["name"] for sweep in json.loads(fetched(address + "api/v1/sweeps"))["sweeps"]] == ["small"]
        (tmp_path / "other").mkdir()
        assert gpuscout("prices", "set", "H100=2", cwd=tmp_path / "other").returncode == 0
        for left in tmp_path.glob("gpuscout.db*"):
            left.unlink()
        assert "no store at" in fetched(address + "?model=Qwen3-8B")
        shutil.move(tmp_path / "other" / "gpuscout.db", tmp_path / "gpuscout.db")
        assert json.loads(fetched(address + "api/v1/sweeps"))["sweeps"] == []


def fetched(address: str) -> str:
    try:
        with urllib.request.urlopen(address) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_an_address_without_a_page_says_so(client: TestClient) -> None:
    for path in ("/nope", "/static/nope.js", "/docs"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8"), path
        assert f"nothing is served at {path}" in text_of(answer.text)
    assert "use GET" in text_of(client.post("/").text)
    for method, path, status in (("GET", "/api/v1/nope", 404), ("POST", "/api/v1/recommend", 405)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        problem = answer.json()
        assert problem["status"] == status
        assert path in problem["detail"]
        assert problem["hint"]
