"""The load client against a server with known delays, whose own record is the truth."""

from __future__ import annotations

import asyncio
import http.server
import itertools
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gpuscout.runner.engines.benchmark.errors import BenchmarkError, RefusedError
from gpuscout.runner.engines.benchmark.measure import measure
from gpuscout.runner.engines.benchmark.options import LoadOptions
from gpuscout.runner.engines.benchmark.traffic.client import Reply, connected
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint, checked_url, probe
from gpuscout.runner.engines.benchmark.traffic.figures import run_of
from gpuscout.runner.engines.benchmark.traffic.load import Observed, closed_loop, open_loop, warm_up
from gpuscout.runner.engines.benchmark.traffic.requests import Requests
from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.curves import PERCENTILES
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.traffic.lengths import Uniform
from gpuscout.sweeps.traffic.trace import read_trace
from gpuscout.sweeps.traffic.traffic import CONSTANT, Arrivals, Traffic
from tests.support.openai_server import Served, Truth, serving_openai

MODEL = "Qwen/Qwen3-0.6B"
_AT = datetime(2026, 11, 28, tzinfo=UTC)


def case_of(input_len: int = 24, output_len: int = 6, traffic: Traffic | None = None) -> Case:
    model, gpu = ModelCatalogue.load().get(MODEL), GPUCatalogue.load().get("H100-SXM-80GB")
    assert model is not None
    return Case(model, gpu, input_len, output_len, traffic=traffic or Traffic())


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with serving_openai(model=MODEL, ttft_ms=20, itl_ms=4) as server:
        yield server


def observe(server: Served, case: Case, concurrency: int | None = None, *, count: int = 32) -> Observed:
    """What a client observes of so many requests."""

    async def observed() -> Observed:
        requests = Requests(case, "test", 0)
        async with connected(server.url, MODEL, key=None, timeout_s=60) as client:
            counted = requests.draw(count)
            if concurrency is not None:
                return await closed_loop(client, counted, concurrency)
            return await open_loop(client, counted, requests.arrivals(count, case.traffic.request_rate or 1), 10_000)

    return asyncio.run(observed())


def test_measures_what_the_server_did(server: Served) -> None:
    """Every figure is that of the server's own record, but for the time that events were under way."""
    case = case_of()
    observed = observe(server, case, 8, count=64)
    run = run_of(case, Endpoint(server.url, MODEL), observed, concurrency=8, started=_AT)
    truth = {tuple(record["prompt"]): record for record in server.record()}
    assert len(truth) == len(observed.succeeded) == 64  # no two prompts are alike

    # One clock for all processes: by how much the client was late to see any event, or early to start.
    pairs = [(reply, truth[tuple(reply.request.prompt)]) for reply in observed.replies]
    late_s = [
        seen - written
        for reply, record in pairs
        for seen, written in zip(itertools.accumulate([reply.first_s, *reply.gaps_s]), record["writes"], strict=True)
    ]
    early_s = [record["arrived"] - reply.sent_s for reply, record in pairs]
    assert min(late_s) >= 0
    assert min(early_s) >= 0
    slack_s = max(late_s) + max(early_s) + 1e-6

    values = Truth.of([*truth.values()]).values
    assert run.ttft_ms == pytest.approx(np.mean(values["ttft_ms"]), abs=1e3 * slack_s)
    assert run.e2e_s == pytest.approx(np.mean(values["e2e_s"]), abs=slack_s)
    assert run.itl_ms == pytest.approx(np.mean(values["itl_ms"]), abs=1e3 * slack_s / 5)
    for metric in values:
        unit = 1e3 if metric.endswith("_ms") else 1
        for percentile in PERCENTILES:
            expected = float(np.percentile(values[metric], percentile))
            assert run.percentiles[metric, percentile] == pytest.approx(expected, abs=unit * slack_s)
    duration_s = max(r["writes"][-1] for r in truth.values()) - min(r["arrived"] for r in truth.values())
    assert observed.duration_s == pytest.approx(duration_s, abs=slack_s)
    assert run.output_tokens_per_s == pytest.approx(64 * 6 / observed.duration_s)
    assert run.requests_per_s == pytest.approx(64 / observed.duration_s)
    assert run.concurrency == 8
    assert 0 < run.details["mean_concurrency"] <= 8.0001
    assert (run.details["completed"], run.details["failed"]) == (64, 0)


@pytest.mark.slow
def test_figures_at_64_in_flight_are_within_5_percent_of_what_the_server_did() -> None:
    """Means, percentiles and throughput, beside the server's own record: it is late itself where a machine is busy.

    Long delays, of which the waiting of both processes for a core is a small part.
    """
    with serving_openai(model=MODEL, ttft_ms=4_000, itl_ms=600, varied=0.25) as server:
        [run] = _measured(server, case_of(), [64], LoadOptions(requests_per_client=2))
        truth = Truth.of(server.record()[64:])  # without the warm-up
    assert len(truth.values["ttft_ms"]) == 2 * 64
    for metric in ("ttft_ms", "itl_ms", "e2e_s"):
        assert run.figure(metric) == pytest.approx(np.mean(truth.values[metric]), rel=0.05), metric
    for (metric, percentile), measured in run.percentiles.items():
        true = np.percentile(truth.values[metric], percentile)
        assert measured == pytest.approx(true, rel=0.05), f"{metric} p{percentile:g}"
    assert len(run.percentiles) == len(truth.values) * len(PERCENTILES)
    assert run.output_tokens_per_s == pytest.approx(truth.output_tokens_per_s, rel=0.05)
    assert run.ttft_ms == pytest.approx(4_000, rel=0.1)  # of what it was told, by a server that is late where it waits
    assert run.itl_ms == pytest.approx(600, rel=0.1)
    assert 0.9 * 64 < run.details["mean_concurrency"] < 64.0001


def test_an_event_for_the_end_is_no_token() -> None:
    with serving_openai(model=MODEL, ttft_ms=2, itl_ms=2, own_end=1) as server:
        observed = observe(server, case_of(), 2, count=4)
    assert [len(reply.gaps_s) for reply in observed.succeeded] == [5] * 4


def test_keeps_as_many_in_flight_as_asked(server: Served) -> None:
    server.behave(hold=5)
    observe(server, case_of(), 5, count=40)
    changes = sorted(
        change for record in server.record() for change in ((record["arrived"], 1), (record["writes"][-1], -1))
    )
    assert max(itertools.accumulate(change for _, change in changes)) == 5


def test_an_open_loop_never_waits_for_replies(server: Served) -> None:
    """The server answers none before it has all of them."""
    server.behave(hold=20)
    case = case_of(traffic=Traffic(request_rate=100.0, arrivals=CONSTANT))
    observed = observe(server, case, count=20)
    sent = sorted(reply.sent_s for reply in observed.replies)
    assert len(observed.succeeded) == 20
    assert sent[-1] - sent[0] >= 19 / 100
    truth = server.record()
    assert max(record["arrived"] for record in truth) < min(record["writes"][0] for record in truth)


@pytest.mark.parametrize("cv", [1.0, 2.0])
def test_arrival_times_have_the_mean_and_the_variation_of_the_workload(cv: float) -> None:
    requests = Requests(case_of(traffic=Traffic(request_rate=50.0, arrivals=Arrivals(cv))), "test", 3)
    at_s = requests.arrivals(4_001, 50.0)
    gaps = np.diff(at_s)
    assert gaps.mean() == pytest.approx(1 / 50)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)
    assert (gaps >= 0).all()


def test_requests_are_as_long_as_the_workload_says(tmp_path: Path) -> None:
    varied = case_of(traffic=Traffic(input_len=Uniform(10, 20), output_len=Uniform(3, 5), cached_input=0.5))
    drawn = Requests(varied, "4 in flight", 0).draw(200)
    assert {len(request.prompt) for request in drawn} == set(range(10, 21))
    assert {request.output_len for request in drawn} == {3, 4, 5}
    # Half of every prompt is what all of them begin with.
    longest = max(drawn, key=lambda request: len(request.prompt)).prompt[:10]
    assert all(request.prompt[: len(request.prompt) // 2] == longest[: len(request.prompt) // 2] for request in drawn)
    assert len({tuple(request.prompt) for request in drawn}) == 200
    assert drawn == Requests(varied, "4 in flight", 0).draw(200)
    assert drawn != Requests(varied, "8 in flight", 0).draw(200)
    vocabulary = varied.model.vocab_size
    assert all(0.1 * vocabulary - 1 <= token < 0.9 * vocabulary for request in drawn for token in request.prompt)

    file = tmp_path / "trace.jsonl"
    file.write_text(
        '{"timestamp": 0, "input_length": 600, "output_length": 4, "hash_ids": [1, 2]}\n'
        '{"timestamp": 30, "input_length": 700, "output_length": 5, "hash_ids": [1, 3]}\n'
        '{"timestamp": 40, "input_length": 40, "output_length": 6, "hash_ids": [9]}\n'
    )
    recorded = Requests(case_of(traffic=Traffic(trace=read_trace(file))), "1 in flight", 0)
    first, second, third, again = recorded.draw(4)
    assert [len(r.prompt) for r in (first, second, third, again)] == [600, 700, 40, 600]
    assert first.prompt == again.prompt
    assert first.prompt[:512] == second.prompt[:512]
    assert first.prompt[512:] != second.prompt[512:600]
    assert np.diff(recorded.arrivals(3, 100.0)) == pytest.approx([0.015, 0.005])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"answer": 500, "words": "out of memory"}, "status 500 (out of memory)"),
        ({"answer": "reset"}, "reset"),
        ({"answer": "cut", "events": 2}, "reset"),
        ({"answer": "stall"}, "timeout (no complete answer within 5 s)"),
        ({"answer": "short"}, "wrong length (5 tokens instead of 6)"),
        ({"answer": "shorter prompt"}, "wrong length (the prompt counts 12 tokens there instead of 24)"),
        ({"answer": "malformed"}, "malformed"),
        ({"answer": "malformed", "event": "[", "times": 100_000}, "malformed"),
        ({"answer": "malformed", "event": "[", "times": 3_000_000}, "malformed (an event without an end)"),
        ({"answer": "malformed", "event": '{"choices": [{}], "usage": {"completion_tokens": Infinity}}'}, "malformed"),
        (
            {"answer": "malformed", "event": '{"choices": [{}]}\n\ndata: ', "times": 100_000},
            "more than 28 events for 6",
        ),
        ({"answer": 500, "words": "\x1b[31m\0\ud800"}, r"status 500 (\x1b[31m\x00\ud800)"),
    ],
)
def test_says_what_went_wrong(server: Served, how: dict[str, object], kind: str) -> None:
    """What fails in the middle of a load ends it, with the kind of failure and the server's words."""
    server.behave(after=4, **how)
    with pytest.raises(BenchmarkError) as raised:
        _measured(server, case_of(), [4], LoadOptions(request_timeout_s=5 if how["answer"] == "stall" else 60))
    assert kind in raised.value.message
    assert "requests failed" in raised.value.message


def test_few_failures_are_counted_and_many_end_the_load(server: Served) -> None:
    server.behave(after=8, every=32, answer=500)
    run = _measured(server, case_of(), [8], LoadOptions())[0]
    assert (run.details["completed"], run.details["failed"]) == (62, 2)
    assert run.details["failures"] == {"status 500": 2}


@pytest.mark.slow
def test_points_before_a_failure_stand(server: Served) -> None:
    server.behave(after=1 + 8 + 2 + 8, answer=500)
    runs = measure(
        Endpoint(server.url, MODEL), case_of(), [1, 2, 4], LoadOptions(fewest_requests=8, requests_per_client=1)
    )
    assert [next(runs).concurrency, next(runs).concurrency] == [1, 2]
    with pytest.raises(BenchmarkError, match="no request succeeded: 4 x status 500"):
        next(runs)


def test_connections_that_were_closed_while_they_were_kept_are_no_failures(server: Served) -> None:
    """Not even when what one of them lost is sent over another one."""

    async def sent() -> list[Reply]:
        requests = Requests(case_of(), "test", 0)
        async with connected(server.url, MODEL, key=None, timeout_s=60) as client:
            await asyncio.gather(*(client.send(request) for request in requests.draw(8)))
            return [await client.send(request) for request in requests.draw(2)]

    server.behave(answer="drop reused", hold=8)
    assert [reply.failure for reply in asyncio.run(sent())] == [None, None]


def test_a_server_that_refuses_extras_gets_none(server: Served) -> None:
    server.behave(answer="extras")
    run = _measured(server, case_of(), [2], LoadOptions(fewest_requests=4))[0]
    assert run.details["failed"] == 0
    assert run.details["extras_refused"] is True


def test_a_refused_connection_and_a_wrong_address(server: Served) -> None:
    with serving_openai(model=MODEL) as gone:
        pass
    with pytest.raises(BenchmarkError, match="no request succeeded: 1 x refused"):
        _measured(gone, case_of(), [1], LoadOptions())
    with pytest.raises(BenchmarkError, match="does not answer"):
        probe(gone.url, MODEL)
    with pytest.raises(RefusedError, match="404"):
        probe(server.url.replace("/v1", "/v2"), MODEL)
    with pytest.raises(BenchmarkError, match=f'the endpoint serves "{MODEL}", not "other"'):
        probe(server.url, "other")
    assert probe(server.url, MODEL).server_version == "0.32.0"
    server.behave(other_models=20_000)  # an answer in many pieces
    assert probe(server.url, MODEL).model == MODEL
    for wrong in (
        "localhost:8000",
        "ftp://x/v1",
        "http://user:secret@host/v1",
        "http://",
        "http://host:port",
        "http://h?x=1",
        "http://user:secret@host:port/v1",
        "http://user:sec/ret@host/v1?secret",
        "user:secret@host/v1",
        "http://host/v1?api_key=secret",
        "http://host:port/v1#secret",
    ):
        with pytest.raises(InputError) as raised:
            checked_url(wrong)
        assert "sec" not in raised.value.message
    assert checked_url("https://host:8000/") == "https://host:8000/v1"


def test_a_key_comes_from_the_environment_and_goes_nowhere_else(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    load = LoadOptions(api_key_env="TEST_KEY", fewest_requests=2)
    run = _measured(server, case_of(), [1], load)[0]
    assert all(record["authorised"] for record in server.record())
    assert "sk-very-secret" not in repr(run) + repr(load)
    server.behave(answer="key")
    with pytest.raises(RefusedError, match=r"answers 401: Bearer \*\*\*"):
        _measured(server, case_of(), [1], load)
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(RefusedError, match="TEST_KEY is not set"):
        _measured(server, case_of(), [1], load)


@pytest.mark.slow
def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent to a server whose certificate nobody vouches for, least of all the key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run([openssl, *made], check=True, capture_output=True)
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(BenchmarkError, match="its certificate cannot be verified"):
                probe(f"https://127.0.0.1:{server.server_port}/v1", MODEL, api_key_env="TEST_KEY")
        finally:
            server.shutdown()
            thread.join()
    assert asked == []


def test_a_server_that_does_not_keep_up_is_not_buried(server: Served) -> None:
    server.behave(hold=1_000, after=4)
    case = case_of(traffic=Traffic(request_rate=200.0, arrivals=CONSTANT))
    with pytest.raises(BenchmarkError, match="as many as max_in_flight allows"):
        _measured(server, case, [0], LoadOptions(max_in_flight=16))


def test_a_client_that_is_busy_says_so() -> None:
    """Not by making this machine busy, for it may be slower than that already: of what was observed."""
    idle = Observed([], 1.0, 64.0, 1.0, 0.2)
    assert idle.client_bound is None
    assert Observed([], 1.0, 28.0, 0.44, 0.2).client_bound == "the client achieved 44 % of the load"
    assert Observed([], 1.0, 64.0, 1.0, 0.97).client_bound == "the client used 97 % of a core"


def test_a_warm_up_that_fails_in_part_is_no_failure(server: Served) -> None:
    async def warm() -> None:
        async with connected(server.url, MODEL, key=None, timeout_s=60) as client:
            await warm_up(client, Requests(case_of(), "test", 0).draw(4))

    server.behave(every=2, answer=500)
    asyncio.run(warm())


def test_runs_at_a_request_rate_say_so(server: Served) -> None:
    case = case_of(traffic=Traffic(request_rate=64.0))
    run = _measured(server, case, [0], LoadOptions(seconds_at_rate=0.5))[0]
    assert run.load is LoadKind.REQUEST_RATE
    assert run.request_rate == 64.0
    assert run.details["completed"] == 32
    assert run.concurrency == max(round(run.details["mean_concurrency"]), 1)


def _measured(server: Served, case: Case, ladder: Sequence[int], load: LoadOptions) -> list[MeasuredRun]:
    return list(measure(Endpoint(server.url, MODEL), case, ladder, load))
