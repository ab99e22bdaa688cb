"""Loads that move: files are read as they say, and replicas, misses and money are those of a second-by-second count.

And batches: what finishes so much work in time, and what interruptions leave of a spot machine's time.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuscout
from gpuscout import run
from gpuscout.runner.cli.ask.capacity_load import parse_duration
from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.queries.sizing.batch import Batch, offer_of
from gpuscout.store.queries.sizing.capacity import Demand, replicas_for
from gpuscout.store.queries.sizing.moving import Scaling, fleets_of, missed_share, needed, over_time
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.spec.spec import spec_from_mapping
from gpuscout.sweeps.traffic.moving import MOST_STEPS, Series, read_load, read_rates
from tests.support.ranked import a_config
from tests.support.swept import swept

SPEC = {
    "name": "small",
    "models": ["Qwen/Qwen3-8B"],
    "gpus": ["H100", "L4"],
    "tensor_parallel": [1, 2],
    "workloads": ["chat", "rag"],
    "concurrency": [1, 4, 16, 64],
}
DAY = "time,rate,workload\n0:00,2,chat\n8:00,40,chat\n18:00,10,chat\n0:00,1,rag\n12:00,3,rag\n"
steps = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=12)
scalings = st.builds(
    Scaling,
    startup_s=st.integers(0, 20),
    scale_up_s=st.integers(0, 10),
    scale_down_s=st.integers(0, 30),
    most_missed=st.sampled_from([0.0, 0.01, 0.3]),
)
demands = st.builds(
    Demand, headroom=st.sampled_from([0.0, 0.2]), min_replicas=st.integers(1, 3), spare=st.integers(0, 2)
)


def series_of(steps: list[tuple[int, int]]) -> Series:
    """So many seconds at each rate."""
    ends = np.cumsum([seconds for seconds, _ in steps]) * 1000
    return Series(
        np.concatenate([[0], ends[:-1]]).astype(np.int64), int(ends[-1]), np.array([float(rate) for _, rate in steps])
    )


def by_seconds(steps: list[tuple[int, int]], each: float, demand: Demand, how: Scaling) -> tuple[list[int], list[int]]:
    """Replicas ordered and ready in every second, by the words of the module."""
    rates = [rate for seconds, rate in steps for _ in range(seconds)]
    wants = [replicas_for(rate, each, demand) for rate in rates]
    up, down, startup = int(how.scale_up_s), int(how.scale_down_s), int(how.startup_s)

    def wanted(second: int) -> int:
        return max(wants[max(0, then)] for then in range(second - up - down, second - up + 1))

    ordered = [wanted(second) for second in range(len(rates))]
    ready = [min(ordered[max(0, then)] for then in range(second - startup, second + 1)) for second in range(len(rates))]
    return ordered, ready


def missed_by_seconds(rates: list[int], ready: list[int], each: float) -> float:
    waiting = late = 0.0
    for rate, replicas in zip(rates, ready, strict=True):
        gain = rate - replicas * each
        if gain > 1e-9:
            late += rate
        elif waiting > 0 and gain < 0:
            late += rate * min(1.0, waiting / -gain)
        elif waiting > 0:
            late += rate
        waiting = max(0.0, waiting + gain)
    return late / sum(rates) if sum(rates) else 0.0


@settings(max_examples=80, deadline=None)
@given(steps, st.integers(1, 9), demands, scalings)
def test_replicas_and_misses_are_those_of_every_second(
    steps: list[tuple[int, int]], each: int, demand: Demand, how: Scaling
) -> None:
    course = over_time(series_of(steps), each, demand, how)
    ordered, ready = by_seconds(steps, each, demand, how)
    rates = [rate for seconds, rate in steps for _ in range(seconds)]
    ends = [*(course.starts_ms[1:] // 1000), course.ends_ms // 1000]
    spread = [
        (w, r)
        for w, r, s, e in zip(course.wanted, course.ready, course.starts_ms // 1000, ends, strict=True)
        for _ in range(e - s)
    ]
    assert spread == list(zip(ordered, ready, strict=True))
    assert missed_share(course, each, 0) == pytest.approx(missed_by_seconds(rates, ready, each), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(steps, st.integers(1, 9), demands, scalings, st.sampled_from([0.3, 0.6, 0.9, 1.0]))
def test_the_best_mix_is_that_of_all(
    steps: list[tuple[int, int]], each: int, demand: Demand, how: Scaling, reserved: float
) -> None:
    rates = [rate for seconds, rate in steps for _ in range(seconds)]
    ordered, ready = by_seconds(steps, each, demand, how)
    peak = max(replicas_for(rate, each, demand) for rate in rates)
    kept = next(
        base
        for base in range(demand.min_replicas, peak + 1)
        if base == peak or missed_by_seconds(rates, [max(base, one) for one in ready], each) <= how.most_missed + 1e-9
    )
    hours = len(rates) / 3600
    found = fleets_of(series_of(steps), each, 2, demand, how, lambda n: 2.0 * n, lambda n: 2.0 * n * reserved)
    assert (found["fixed"].usd, found["reserved"].usd) == (
        pytest.approx(2 * peak * hours), pytest.approx(2 * reserved * peak * hours),
    )  # fmt: skip
    assert found["autoscaled"].always_on == kept
    used = [max(kept, one) for one in ordered]
    assert found["autoscaled"].usd == pytest.approx(2 * sum(used) / 3600)
    assert found["autoscaled"].gpu_hours == pytest.approx(2 * sum(used) / 3600)
    mixes = [
        2 * reserved * base * hours + 2 * sum(max(0, one - base) for one in used) / 3600
        for base in range(max(used) + 1)
    ]
    assert found["mixed"].usd == pytest.approx(min(mixes))
    assert found["mixed"].missed <= how.most_missed + 1e-9


def test_a_thousand_replicas_have_the_best_mix_too() -> None:
    how, demand = Scaling(), Demand(headroom=0)
    rates = [(600, rate) for rate in range(1, 1500)]
    found = fleets_of(series_of(rates), 1, 1, demand, how, lambda n: 2.0 * n, lambda n: 1.2 * n)
    ordered = over_time(series_of(rates), 1, demand, how)
    used = np.maximum(ordered.wanted, found["autoscaled"].always_on)
    mixes = [1.2 * base * ordered.hours.sum() + 2 * np.maximum(used - base, 0) @ ordered.hours for base in range(1500)]
    assert found["mixed"].usd == pytest.approx(min(mixes), rel=1e-4)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1e3), demands)
def test_replicas_of_many_rates_are_those_of_each(rates: list[float], each: float, demand: Demand) -> None:
    assert list(needed(np.array(rates), each, demand)) == [replicas_for(rate, each, demand) for rate in rates]


# --- files -------------------------------------------------------------------------------------------------------


def a_file(folder: Path, text: str, name: str = "day.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_day_as_people_write_it(tmp_path: Path) -> None:
    load = read_load(a_file(tmp_path, "\ufeff" + DAY))
    chat, rag = load.series
    assert (load.seconds, load.begins, chat.workload, rag.workload) == (86400, "0:00", "chat", "rag")
    assert list(chat.starts_ms) == [0, 8 * 3_600_000, 18 * 3_600_000]
    assert list(chat.rates) == [2, 40, 10]
    assert (rag.peak, rag.requests) == (3, 12 * 3600 + 36 * 3600)
    assert load.notes == ("rows are 21600 to 43200 s apart: a rate holds until the next row",)
    late = read_load("8:30=40, 18:00=10")
    assert late.notes[-1] == "the load begins at 8:30: a row at 0:00 says what comes before"
    assert (late.seconds, late.series[0].requests) == (15.5 * 3600, 9.5 * 3600 * 40 + 6 * 3600 * 10)
    inline = read_load("0:00=2, 8:00=40, 18:00=10").series[0]
    assert (list(inline.rates), inline.requests) == ([2, 40, 10], chat.requests)
    called = "Timestamp,RPS\n0:00,2\n8:00,40\n18:00,10\n"
    assert read_load(a_file(tmp_path, called)).series[0].requests == chat.requests
    dates = "time,requests_per_h\n2026-11-28T08:00,3600\n2026-11-28T09:00,7200\n"
    assert read_load(a_file(tmp_path, dates)).series[0].requests == 3600 * 3
    ended = read_load(a_file(tmp_path, "time,rate\n0,1\n10,3\n15,\n")).series[0]
    assert (ended.ends_ms, ended.requests) == (15_000, 25)


@settings(max_examples=40, deadline=None)
@given(steps.filter(lambda some: any(rate for _, rate in some)), st.integers(1, 50))
def test_averages_keep_the_number_of_requests(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]], step_s: int
) -> None:
    starts = np.cumsum([7, *(seconds for seconds, _ in steps)])
    lines = [f"{start},{rate}" for start, (_, rate) in zip(starts, steps, strict=False)]
    file = a_file(tmp_path_factory.mktemp("load"), "\n".join(["time,rate", *lines, f"{starts[-1]},"]))
    exact, averaged = read_load(file), read_load(file, step_s)
    assert averaged.seconds == exact.seconds == sum(seconds for seconds, _ in steps)
    assert averaged.series[0].requests == pytest.approx(exact.series[0].requests)
    assert averaged.series[0].peak <= exact.series[0].peak * (1 + 1e-9)
    assert all(late - early <= step_s * 1000 for early, late in pairwise(averaged.series[0].starts_ms))


def test_a_trace_is_counted_in_steps(tmp_path: Path) -> None:
    requests = [{"timestamp": 500 * i, "input_length": 1000, "output_length": 100 + i % 2} for i in range(1000)]
    text = "\n".join(map(json.dumps, requests))
    with gzip.open(tmp_path / "trace.jsonl.gz", "wt") as file:
        file.write(text)
    load = read_load(tmp_path / "trace.jsonl.gz")
    (series,) = load.series
    assert series.requests == pytest.approx(1000)
    assert list(series.rates) == pytest.approx([2.0] * 8, rel=0.01)
    assert series.mean_lengths == (1000, 100.5)
    assert "steps of 60 s" in load.notes[0]
    with pytest.raises(InputError, match="less than two steps of 300 s"):
        read_load(tmp_path / "trace.jsonl.gz", 300)
    table = "model,timestamp_s,input_tokens,output_tokens\n" + "".join(f"{'ab'[i % 2]},{i},10,10\n" for i in range(600))
    both = read_load(a_file(tmp_path, table), 10).series
    assert [(one.model, one.requests) for one in both] == [("a", 300), ("b", pytest.approx(300))]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected the columns time and one of rate"),
        ("time,rate\n", "no rates"),
        ("time,rate\n0,5\n", "the end of its rate is missing"),
        ("time,rate\n0,0\n1,0\n", "no rate above 0"),
        ("time,rate\n0,5\n20,6\n10,7\n", ":4: time: '10': an earlier time"),
        ("time,rate\n0,5\n\n0,6\n", ":4: time: '0': the same time"),
        ("time,rate\n0,-5\n1,2\n", ":2: rate: expected a number from 0 to 1,000,000,000, got '-5'"),
        ("time,rate\n0,nan\n1,2\n", ":2: rate: expected"),
        ("time,rate\n0,inf\n1,2\n", ":2: rate: expected"),
        ("time,rate\n0,1e30\n1,2\n", ":2: rate: expected a number from 0 to 1,000,000,000, got"),
        ("time,requests_per_min\n0,1e12\n1,2\n", ":2: requests_per_min: expected a number from 0 to 60,000,000,000,"),
        ("time,rate\n0,5\n1,\n2,3\n", ":4: the load has ended"),
        ("time,rate\n0,\n1,3\n", ":2: rate: expected a number, got an empty field"),
        ("time,rate\n0,5\n8:00,3\n", ":3: time: expected seconds as in the first row, got '8:00'"),
        ("time,rate\nnoon,5\n", ":2: time: expected seconds, 08:30 or"),
        ("time,rate\n25:00,5\n", ":2: time: expected"),
        ("time,rate\n0:00,5\n24:00,5\n", "a rate at 24:00"),
        ("time,rate\n2026-11-28T08:00,5\n2026-11-28T09:00+01:00,5\n", "without a zone"),
        ("time,rate,model\n0,5\n", ":2: expected 3 values (time, rate, model), got 2"),
        ("time,rates\n0,5\n", ':1: column 2: unknown column "rates"'),
        ("time,rate,rate\n0,5,5\n", ':1: column 3: a second column "rate"'),
        ("time,rate,requests_per_h\n0,5,5\n", "expected the columns"),
        ("rate\n5\n", "expected the columns time"),
        ("time;rate\n0;5\n", "unknown column"),
        ('time,rate\n0,5\n"' + "x" * (1 << 20), "longer than"),
        (
            '{"timestamp": 5, "input_length": 1, "output_length": 1}\n'
            '{"timestamp": 1, "input_length": 1, "output_length": 1}',
            ":2: arrives before",
        ),
        ('{"input_length": 1, "output_length": 1}', ":1: a request without a time"),
        ("time,rate,workload\n" + "".join(f"0,5,w{i}\n" for i in range(1001)), ":1002: more than 1,000 pairs"),
    ],
)  # fmt: skip
def test_files_that_are_no_load(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        read_load(a_file(tmp_path, text))
    assert told in error.value.message
    assert "day.csv" in error.value.message


@pytest.mark.slow
def test_more_steps_than_are_kept(tmp_path: Path) -> None:
    file = a_file(tmp_path, "time,rate\n" + "".join(f"{i},{i % 7}\n" for i in range(MOST_STEPS + 2)))
    with pytest.raises(InputError, match="more than 200,000 steps") as error:
        read_load(file)
    assert "--step" in (error.value.hint or "")
    assert len(read_load(file, 60).series[0].rates) == math.ceil((MOST_STEPS + 2) / 60)
    with pytest.raises(InputError, match="more than 200,000 steps"):
        read_load("0=1, 1000000000=2", 1)
    for wrong, told in ((tmp_path / "nothing.csv", "No such file or directory"), (tmp_path, "it is a directory")):
        with pytest.raises(InputError, match=f"cannot read {wrong}: {told}"):
            read_load(wrong)


def test_rates_that_never_change(tmp_path: Path) -> None:
    load = read_rates(a_file(tmp_path, "model,workload,requests_per_min\nQwen3-8B,chat,600\nQwen3-8B,rag,60\n"))
    assert [(one.name, one.peak) for one in load.series] == [("Qwen3-8B, chat", 10), ("Qwen3-8B, rag", 1)]
    with pytest.raises(InputError, match=":3: a second rate for Qwen3-8B, chat"):
        read_rates(a_file(tmp_path, "model,workload,rate\nQwen3-8B,chat,600\nQwen3-8B,chat,60\n"))
    assert read_rates(a_file(tmp_path, DAY)).series[0].peak == 40


@pytest.mark.parametrize(
    ("text", "seconds"), [("5min", 300), ("90 s", 90), ("1.5h", 5400), ("250ms", 0.25), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration("--step", text) == pytest.approx(seconds)
    for wrong in ("5", "-5s", "five min", "", "1e5s", "5 weeks"):
        with pytest.raises(InputError, match="--step: invalid time"):
            parse_duration("--step", wrong)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with swept(tmp_path_factory.mktemp("moving"), SPEC) as url:
        yield url


def ask(capsys: pytest.CaptureFixture[str], url: str, *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert execute(["capacity", "--db", url, *arguments]) == status, capsys.readouterr().err
    printed = capsys.readouterr()
    return printed.err if status == 2 else printed.out


def test_both_databases_cost_alike(
    store: Store, store_url: str, capsys: pytest.CaptureFixture[str], database: str, tmp_path: Path
) -> None:
    run(spec_from_mapping(SPEC), store)
    arguments = ("--load", a_file(tmp_path, DAY), "--reserved-price", "H100=1.5", "--slo", "itl<=15ms", "--json")
    batch = ("--batch", "5M", "--within", "8h", "--interruptions", "1/d", "--spot-price", "H100=1", "--json")
    for asked in (arguments, batch):
        one, other = (json.loads(ask(capsys, url, *asked))["groups"] for url in (store_url, database))
        assert one == other


def test_the_document_adds_up(database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = a_file(tmp_path, DAY)
    asked = ("--load", file, "--price", "H100=3", "--reserved-price", "H100=1.5", "--slo", "itl<=15ms", "--gpu", "H100")
    document = json.loads(ask(capsys, database, *asked, "--json"))
    assert (document["load"]["seconds"], document["startup_s"], document["most_missed"]) == (86400, 180, 0.01)
    chat = document["groups"][0]
    assert (chat["workload"], chat["requests_per_s_peak"]) == ("chat", 40)
    (plan,) = chat["plans"]
    fleets = {fleet["policy"]: fleet for fleet in plan["fleets"]}
    assert [fleet["usd"] for fleet in plan["fleets"]] == sorted(fleet["usd"] for fleet in plan["fleets"])
    size = int(plan["configuration"].split(" x")[1].split()[0])
    for fleet in fleets.values():
        assert fleet["gpu_hours"] == pytest.approx(fleet["replicas_mean"] * 24 * size)
        assert fleet["usd_per_month"] == pytest.approx(fleet["usd"] / 24 * 730)
        assert fleet["usd_per_month_low"] <= fleet["usd_per_month"] <= fleet["usd_per_month_high"]
        assert fleet["missed"] <= 0.01
    assert fleets["fixed"]["usd"] == pytest.approx(fleets["fixed"]["gpu_hours"] * 3)
    assert fleets["reserved"]["usd"] == pytest.approx(fleets["fixed"]["usd"] / 2)
    assert fleets["mixed"]["usd"] <= min(fleets["autoscaled"]["usd"], fleets["reserved"]["usd"]) + 1e-6
    # The same rates, all the time: what --rate sizes.
    steady = json.loads(ask(capsys, database, "--rate", "chat=40", *asked[2:4], *asked[6:], "--json"))
    sized = {row["configuration"]: row["replicas"] for row in (*steady["groups"][0]["best_per_gpu"],)}
    assert sized[plan["configuration"]] == fleets["fixed"]["replicas_peak"]
    rows = list(csv.DictReader(io.StringIO(ask(capsys, database, *asked, "--over-time", "--csv"))))
    over_time = chat["over_time"]
    assert [(float(r["start_s"]), int(r["wanted"]), int(r["ready"])) for r in rows if r["workload"] == "chat"] == [
        (row["start_s"], row["wanted"], row["ready"]) for row in over_time
    ]
    assert len(over_time) == chat["over_time_rows"]
    # Two workloads, each with replicas of its own.
    best = [group["plans"][0]["fleets"][0] for group in document["groups"]]
    assert document["together"] == {"groups": 2} | {
        name: pytest.approx(sum(fleet[name] for fleet in best))
        for name in ("gpu_hours", "usd_per_month", "usd_per_month_low", "usd_per_month_high")
    }
    assert json.loads(ask(capsys, database, *asked, "--slo", "itl<=0.01ms", "--json", status=6))["together"] is None


def test_what_people_and_python_get(
    database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(a_file(tmp_path, DAY)).name
    for width in (80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = ask(capsys, database, "--load", file, "--reserved-price", "H100=1.5")
        assert max(map(len, shown.splitlines())) <= width
    said = " ".join(shown.split())
    assert "2.00 to 40.0 requests/s, 19.8 on average over 24.0 h" in said
    assert "no reserved price of L4: --reserved-price 'L4'=USD" in said
    assert re.search(
        r"the first of all 2 together: .* USD/month \([\d,]+–[\d,]+, as if all estimates erred alike\)", said
    )
    assert len(list(csv.DictReader(io.StringIO(ask(capsys, database, "--load", file, "--csv"))))) == 8
    assert ask(capsys, database, "--load", file, "--md").startswith("| model | workload | configuration | paid |")
    nothing = ask(capsys, database, "--load", file, "--slo", "itl<=0.01ms", status=6)
    assert "no configuration can carry it" in nothing
    trace = "\n".join(json.dumps({"timestamp": 300 * i, "input_length": 90, "output_length": 512}) for i in range(2000))
    other = ask(capsys, database, "--load", a_file(tmp_path, trace, "t.jsonl"), "--workload", "chat")
    assert "have 90 tokens in and 512 out on average" in " ".join(other.split())
    with open_store(database) as store, store.reading() as connection:
        found = gpuscout.capacity_over_time(connection, gpuscout.Question(), gpuscout.read_load(file))
    assert [group.group.workload for group in found.groups] == ["chat", "rag"]
    assert found.groups[0].plans[0].best.policy == "autoscaled"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--load", "0=1,10=2", "--rate", "5"], "--load replaces --rate"),
        (["--load", "0=1,10=2", "--startup", "soon"], "--startup: invalid time"),
        (["--load", "0=1,10=2", "--most-missed", "2"], "invalid most_missed 2"),
        (["--load", "0=1,10=2", "--reserved-price", "H100"], "invalid price"),
        (["--load", "0=1,10=2", "--over-time", "--json"], "--over-time cannot be combined with --json"),
        (["--load", "0=1,0=2"], "--load:2: time: '0': the same time"),
        (["--load", "DAY", "--workload", "chat"], "names its workloads"),
        (["--load", "TWICE"], "are both Qwen/Qwen3-8B, chat"),
        (["--load", "HALF"], "workload: either all rows name one"),
        (["--step", "5min", "--rate", "5"], "--step needs --load"),
        (["--load", "0=1,10=2", "--within", "8h"], "--within needs --batch"),
        (["--load", "0=1,10=2", "--interruptions", "1/d"], "--interruptions needs --batch"),
        (
            ["--load", "0=1,10=2", "--startup", "9999d"],
            "invalid startup_s 8.63914e+08: expected seconds from 0 to 1e+08",
        ),
    ],
)
def test_questions_that_cannot_be(
    database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], told: str
) -> None:
    files = {
        "DAY": DAY,
        "TWICE": "time,rate,model\n0,1,Qwen3-8B\n5,1,Qwen3-8B\n0,1,Qwen/Qwen3-8B\n9,,Qwen/Qwen3-8B\n",
        "HALF": "time,rate,workload\n0,1,chat\n5,2,chat\n0,1,\n5,2,\n",
    }
    given = [a_file(tmp_path, files[one]) if one in files else one for one in arguments]
    assert told in ask(capsys, database, *given, status=2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rate", "5"], ["ITL <= 50 ms (unless", "20 % of the capacity kept free", "prices: on-demand", "safe: "]),
        (
            ["--load", "8:00=1,10:00=2", "--slo", "itl<=80ms"],
            ["--load: ITL <= 80 ms; 20 %", "the load begins at 8:00", "prices: on-demand", "ready 3 min later"],
        ),
        (
            ["--batch", "chat=5M", "--batch", "rag=1M", "--within", "8h", "--interruptions", "1/d"],
            [
                "within 8 h; no limit on latencies; nothing is kept free",
                "the first of all 2 together: ",
                "interrupted 0.042 times",
            ],
        ),
    ],
)
@pytest.mark.parametrize("form", ["--md", "--csv"])
def test_what_rows_cannot_tell_is_on_standard_error(
    database: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: list[str], form: str
) -> None:
    capsys.readouterr()
    assert execute(["capacity", "--db", database, *arguments, form]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert [words for words in told if words not in said] == [], said


def test_assumed_percentiles_and_confidence_are_said(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--slo", "itl_p95<=80ms", "--assume-tail", "1.3", "--confidence", "0.8")
    for question in (("--load", "0:00=1"), ("--batch", "5M", "--within", "8h"), ("--rate", "5")):
        told = ask(capsys, database, *question, "--workload", "chat", *asked, "--json")
        assert (json.loads(told)["assumed_tail"], json.loads(told)["confidence"]) == (1.3, 0.8)
        said = " ".join(ask(capsys, database, *question, "--workload", "chat", *asked).split())
        assert "assumed to be 1.3 x the mean (--assume-tail)" in said
        assert "limits and rates hold with a probability of 80 %" in said


def test_prices_that_python_gives_by_any_name_are_checked(database: str) -> None:
    load, work = gpuscout.read_load("0:00=5"), [Batch(5e6, 8 * 3600, interruptions_per_h=0.1)]
    question = gpuscout.Question(models=("Qwen3-8B",), workload="chat")
    with open_store(database) as store, store.reading() as connection:
        over_time = gpuscout.capacity_over_time(connection, question, load, reserved_prices={"H100": 1.5})
        batches = gpuscout.batch_capacity(connection, question, work, spot_prices={"H100": 1.25})
        assert batches.spot is not None
        for prices, usd in ((over_time.reserved, 1.5), (batches.spot, 1.25)):
            assert prices.known["H100-SXM-80GB"].per_hour(1).usd == usd
        for name, usd in (("H100", math.nan), ("H100", -1.0), ("H1000", 2.0)):
            with pytest.raises(InputError):
                gpuscout.capacity_over_time(connection, question, load, reserved_prices={name: usd})
            with pytest.raises(InputError):
                gpuscout.batch_capacity(connection, question, work, spot_prices={name: usd})


# --- batches -----------------------------------------------------------------------------------------------------

works = st.builds(
    Batch,
    amount=st.floats(1, 1e9),
    within_s=st.floats(3000, 1e6),
    startup_s=st.floats(0, 900),
    interruptions_per_h=st.floats(0, 2),
    lost_work_s=st.floats(0, 900),
)


@settings(max_examples=50, deadline=None)
@given(works, st.floats(1, 100), st.sampled_from([1, 2, 8, 16]), st.sampled_from(["on-demand", "spot"]))
def test_a_batch_is_done_in_time_and_with_one_replica_less_it_is_not(
    work: Batch, each: float, num_gpus: int, purchase: str
) -> None:
    config = a_config(each, num_gpus)
    offer = offer_of(work, work.amount, each, config, 8, lambda replicas: 3.0 * replicas * num_gpus, purchase)
    assert offer is not None
    lasting = work.lasting(2 if num_gpus == 16 else 1) if purchase == "spot" else 1.0

    def seconds(replicas: int) -> float:
        return work.startup_s + work.amount / (replicas * each * lasting)

    assert offer.seconds == pytest.approx(seconds(offer.replicas))
    assert offer.seconds <= work.within_s * (1 + 1e-6)
    assert offer.replicas == 1 or seconds(offer.replicas - 1) > work.within_s * (1 - 1e-6)
    assert offer.usd == pytest.approx(3.0 * offer.gpu_hours)
    assert offer.gpu_hours == pytest.approx(offer.gpus * offer.seconds / 3600)


@pytest.mark.parametrize(("rate", "startup", "lost"), [(0.5, 180, 300), (4, 60, 600), (0, 180, 300)])
def test_what_interruptions_leave_is_what_they_leave_when_played(rate: float, startup: float, lost: float) -> None:
    work = Batch(1, 1e6, startup_s=startup, interruptions_per_h=rate, lost_work_s=lost)
    if not rate:
        assert work.lasting(1) == 1
        return
    stretches = np.random.default_rng(7).exponential(3600 / rate, 400_000)
    lasting = np.maximum(0.0, stretches - startup - lost).sum() / stretches.sum()
    assert work.lasting(1) == pytest.approx(lasting, abs=0.005)


def test_a_batch_on_the_command_line(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--batch", "chat=5M", "--within", "8h", "--price", "H100=3", "--price", "L4=0.5")
    spot = ("--interruptions", "0.1/h", "--spot-price", "H100=1")
    document = json.loads(ask(capsys, database, *asked, *spot, "--json"))
    (group,) = document["groups"]
    assert (group["requests"], group["output_tokens"], document["slos"]) == (5e6, 5e6 * 512, [])
    plans = {plan["gpu"]: plan for plan in group["plans"]}
    cheap, dear = plans["H100-SXM-80GB"]["offers"]
    assert (cheap["purchase"], dear["purchase"]) == ("spot", "on-demand")
    assert [offer["purchase"] for offer in plans["L4"]["offers"]] == ["on-demand"]
    assert dear["usd"] == pytest.approx(3 * dear["gpu_hours"])
    assert cheap["gpu_hours"] > dear["gpu_hours"]
    for offer in (cheap, dear):
        assert offer["seconds"] <= 8 * 3600
        assert offer["usd_low"] <= offer["usd"] <= offer["usd_high"]
        assert offer["safe_replicas"] >= offer["replicas"]
    assert document["together"] is None
    two = json.loads(ask(capsys, database, *asked, "--batch", "rag=1M", "--json"))
    best = [one["plans"][0]["offers"][0] for one in two["groups"]]
    assert two["together"] == {"groups": 2} | {
        name: pytest.approx(sum(offer[name] for offer in best)) for name in ("gpus", "usd", "usd_low", "usd_high")
    }
    # The same in tokens, and with a limit that a whole batch has only when asked.
    tokens = json.loads(ask(capsys, database, "--batch", "2.56B tokens", *asked[2:], "--workload", "chat", "--json"))
    assert tokens["groups"][0]["plans"][0]["offers"][0] == pytest.approx(
        next(o for o in group["plans"][0]["offers"] if o["purchase"] == "on-demand")
    )
    limited = json.loads(ask(capsys, database, *asked, "--slo", "itl<=8ms", "--json"))["groups"][0]
    assert limited["plans"][0]["offers"][0]["usd"] > dear["usd"]
    for width in (80, 110):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = ask(capsys, database, *asked, *spot)
        assert max(map(len, shown.splitlines())) <= width
    said = " ".join(shown.split())
    assert "within 8 h; no limit on latencies; nothing is kept free" in said
    assert "no spot price of L4: --spot-price 'L4'=USD" in said
    assert "98.7 % of the paid time of a machine is work that lasts" in said
    assert len(list(csv.DictReader(io.StringIO(ask(capsys, database, *asked, *spot, "--csv"))))) == 3
    nothing = ask(capsys, database, *asked, "--slo", "itl<=0.01ms", status=6)
    assert "no configuration can do it" in nothing


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch", "5M"], "--batch needs the time it may take"),
        (["--within", "8h"], "--within needs --batch"),
        (["--batch", "5M", "--within", "2min"], "cannot be done within 120 s: machines take 180 s"),
        (["--batch", "many", "--within", "8h"], 'invalid amount "many"'),
        (["--batch", "0", "--within", "8h"], "invalid amount"),
        (["--batch", "-5M", "--within", "8h"], "invalid amount"),
        (["--batch", "5M", "--within", "8"], "--within: invalid time"),
        (["--batch", "5M", "--within", "8h", "--rate", "5"], "work without a rate"),
        (["--batch", "5M", "--within", "8h", "--headroom", "0.5"], "work without a rate"),
        (["--batch", "5M", "--within", "8h", "--spot-price", "H100=1"], "--spot-price needs --interruptions"),
        (["--batch", "5M", "--within", "8h", "--interruptions", "often"], "--interruptions: invalid rate"),
        (["--batch", "5M", "--within", "8h", "--interruptions", "2000/h"], "expected 0 to 1000"),
        (["--batch", "5M", "--within", "8h", "--scale-up", "5min"], "--scale-up needs --load"),
        (["--batch", "chat=5M", "--batch", "chat=1M", "--within", "8h"], "a workload has two batches"),
        (["--batch", "chat=5M", "--batch", "1M", "--within", "8h"], "either all batches name a workload"),
        (["--batch", "chat=5M", "--within", "8h", "--workload", "chat"], "leaves no choice to --workload"),
        (["--batch", "5M", "--within", "8h", "--load", "0=1,5=2"], "--load replaces"),
    ],
)
def test_batches_that_cannot_be(
    database: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert told in ask(capsys, database, *arguments, status=2)
