"""Workloads whose requests vary and arrive: distributions, traces, what specs say of them, and what identifies them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.errors import InputError, SpecError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.spec.faults import InvalidValue
from gpuscout.sweeps.spec.spec import SweepSpec, load_spec, spec_from_mapping
from gpuscout.sweeps.spec.traffic import parse_distribution
from gpuscout.sweeps.traffic.lengths import Histogram, Lengths, LogNormal, Uniform, lengths_from
from gpuscout.sweeps.traffic.trace import BLOCK_TOKENS, LONGEST_LINE, Trace, read_trace
from gpuscout.sweeps.traffic.traffic import PLAIN, POISSON, Arrivals, Traffic, traffic_from

distributions = st.one_of(
    st.tuples(st.integers(1, 4000), st.integers(0, 4000)).map(lambda ends: Uniform(ends[0], sum(ends))),
    st.tuples(st.floats(1, 5000), st.floats(1, 3.8), st.floats(1, 8)).map(
        lambda given: LogNormal(given[0], given[0] * given[1], int(given[0] * given[1] * given[2]) + 1)
    ),
    st.dictionaries(st.integers(1, 9000), st.integers(1, 50), min_size=1, max_size=8).map(
        lambda counts: Histogram(tuple(sorted(counts)), tuple(float(counts[length]) for length in sorted(counts)))
    ),
)


@settings(max_examples=30, deadline=None)
@given(distributions)
def test_samples_have_the_mean_and_the_quantiles_that_are_stated(lengths: Lengths) -> None:
    drawn = lengths.sample(np.random.default_rng(1), 40_000)
    assert 1 <= drawn.min() <= drawn.max() <= lengths.longest
    assert drawn.mean() == pytest.approx(lengths.mean, rel=0.04, abs=0.6)
    shares = np.array([0.1, 0.5, 0.9])
    at = lengths.quantiles(shares)
    assert np.all((drawn[:, None] <= at).mean(axis=0) >= shares - 0.02)
    assert np.all((drawn[:, None] < at).mean(axis=0) <= shares + 0.02)
    given = lengths.as_given()
    assert isinstance(given, dict)
    assert lengths_from(json.loads(json.dumps(given))) == lengths


def test_a_log_normal_has_the_mean_and_the_percentile_that_were_given() -> None:
    lengths = LogNormal(1200, 4000, 10**9)
    drawn = lengths.sample(np.random.default_rng(2), 400_000)
    assert drawn.mean() == pytest.approx(1200, rel=0.02)
    assert np.percentile(drawn, 95) == pytest.approx(4000, rel=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(0, 5),
        lambda: Uniform(6, 5),
        lambda: LogNormal(100, 90, 1000),
        lambda: LogNormal(100, 400, 1000),
        lambda: LogNormal(100, 200, 50),
        lambda: Histogram((), ()),
        lambda: Histogram((5, 4), (1.0, 1.0)),
        lambda: Histogram((4, 5), (0.0, 0.0)),
        lambda: Histogram((4, 5), (1.0, float("nan"))),
        lambda: Arrivals(-1.0),
        lambda: Traffic(cached_input=1.0),
        lambda: Traffic(request_rate=0.0),
    ],
)
def test_what_is_no_distribution_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]


# --- identity ----------------------------------------------------------------------------------------------------

MODEL = ModelCatalogue.load().get("Qwen/Qwen3-8B")
GPU = GPUCatalogue.load().resolve("H100")
VARIED = Traffic(
    input_len=LogNormal(1200, 4000, 16000), output_len=Uniform(64, 512), cached_input=0.4, arrivals=POISSON,
    request_rate=2.5,
)  # fmt: skip


def test_everything_about_traffic_is_in_the_digest_of_a_case_and_plain_traffic_is_not() -> None:
    kinds = [
        PLAIN,
        VARIED,
        Traffic(cached_input=0.4),
        Traffic(request_rate=2.5),
        Traffic(request_rate=2.5, arrivals=POISSON),
        Traffic(request_rate=2.6),
        Traffic(request_rate=2.5, arrivals=Arrivals(2.0)),
        Traffic(output_len=Uniform(64, 512)),
        Traffic(output_len=Uniform(64, 513)),
        Traffic(trace=Trace(np.zeros(1), np.array([5]), np.array([6]))),
    ]
    digests = CaseColumns.of(
        [Case(MODEL, GPU, 1200, 288, max_model_len=20_000, traffic=kind) for kind in kinds]
    ).digests()
    # Poisson arrivals are the default of a rate.
    assert digests[3] == digests[4]
    assert len(set(digests)) == len(kinds) - 1
    assert digests[0] == CaseColumns.of([Case(MODEL, GPU, 1200, 288, max_model_len=20_000)]).digests()[0]


@pytest.mark.parametrize(
    "traffic", [VARIED, Traffic(cached_input=0.25), Traffic(request_rate=3.0, arrivals=Arrivals(0.5))]
)
def test_traffic_comes_back_from_what_is_stored(traffic: Traffic) -> None:
    again = traffic_from(json.loads(traffic.shape_text or "{}"), traffic.request_rate)
    assert again.identity() == traffic.identity()
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        traffic_from({"input_len": {"uniform": [5]}}, None)


# --- specs -------------------------------------------------------------------------------------------------------


def spec(workload: object, **more: object) -> SweepSpec:
    return spec_from_mapping({"name": "s", "models": "Qwen3-8B", "gpus": "H100", "workloads": workload, **more})


SUPPORT = {
    "name": "support",
    "input_len": {"mean": 1200, "p95": 4000, "max": 16000},
    "output_len": {"uniform": [64, 512]},
    "cached_input": 0.4,
    "arrivals": "poisson",
}


def test_a_workload_of_a_spec_says_its_traffic_and_is_asked_at_every_rate() -> None:
    found = spec(SUPPORT, load="request_rate", request_rate={"from": 1, "to": 4, "factor": 2})
    assert [workload.name for workload in found.swept_workloads] == ["support@1", "support@2", "support@4"]
    assert found.swept_workloads[1].traffic == Traffic(
        LogNormal(1200.0, 4000.0, 16000), Uniform(64, 512), 0.4, POISSON, request_rate=2.0
    )
    [workload] = found.workloads
    assert (workload.input_len, workload.output_len) == (round(workload.traffic.input_len.mean), 288)  # type: ignore[union-attr]
    assert workload.longest == 16_512
    assert spec_from_mapping(found.to_dict()) == found


@pytest.mark.parametrize(
    ("workload", "more", "message"),
    [
        ({**SUPPORT, "name": None}, {}, "missing"),
        ({**SUPPORT, "input_len": {"mean": 100, "p95": 4000, "max": 16000}}, {}, "p95 of at most 387"),
        ({**SUPPORT, "input_len": {"mean": -1, "p95": 4, "max": 16}}, {}, "out of range"),
        ({**SUPPORT, "input_len": {"uniform": [64]}}, {}, "expected two numbers of tokens"),
        ({**SUPPORT, "input_len": {"histogram": [[5, -1]]}}, {}, "counts of at least 0"),
        ({**SUPPORT, "input_len": {"histogram": "nowhere.csv"}}, {}, "cannot read"),
        ({**SUPPORT, "input_len": {"mean": 5, "p95": 6}}, {}, "missing `max`"),
        ({**SUPPORT, "cached_input": 40}, {}, "out of range"),
        ({**SUPPORT, "arrivals": "poison"}, {}, "unknown arrival process"),
        ({**SUPPORT, "arrivals": {"gamma": {"cv": -2}}}, {}, "coefficient of variation"),
        (SUPPORT, {"load": "concurrency"}, "add `load: request_rate`"),
        (SUPPORT, {"request_rate": []}, "the list is empty"),
        (SUPPORT, {"request_rate": [1, 1]}, "listed twice"),
        (SUPPORT, {"request_rate": [-1]}, "out of range"),
        (SUPPORT, {"request_rate": [1e-300]}, "out of range; allowed: 0.0001 up to 1,000,000"),
        ({**SUPPORT, "input_len": {"unifrom": [1, 2]}}, {}, "unifrom.*uniform.*\n1 problem"),
        ({**SUPPORT, "input_len": {"uniform": [1, 2], "mean": 3, "p95": 4, "max": 5}}, {}, "`uniform` stands alone"),
        (SUPPORT, {"concurrency": [1]}, "the rate decides"),
        ("chat", {"load": "concurrency", "request_rate": [1]}, "needs `load: request_rate`"),
        ({"name": "t", "trace": "nowhere.jsonl"}, {}, "No such file or directory"),
    ],
)
def test_wrong_traffic_is_told_with_its_place(workload: object, more: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(workload, **({"load": "request_rate", "request_rate": [1, 2]} | more))


# --- traces ------------------------------------------------------------------------------------------------------


def mooncake(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


ROWS: list[dict[str, object]] = [
    {"timestamp": 1000, "input_length": 1500, "output_length": 20, "hash_ids": [1, 2, 3]},
    {"timestamp": 2000, "input_length": 1500, "output_length": 30, "hash_ids": [1, 2, 4]},
    {"timestamp": 5000, "input_length": 600, "output_length": 40, "hash_ids": [9, 1]},
]


def test_a_trace_is_known_by_its_content_whatever_its_form(tmp_path: Path) -> None:
    lines = read_trace(mooncake(tmp_path / "a.jsonl", ROWS))
    packed = read_trace(mooncake(tmp_path / "b.jsonl.gz", ROWS))
    assert lines == packed
    assert lines.digest != read_trace(mooncake(tmp_path / "c.jsonl", ROWS[:2])).digest
    assert (lines.at_s.tolist(), lines.request_rate) == ([0.0, 1.0, 4.0], 0.5)
    table = tmp_path / "d.csv"
    table.write_text("timestamp,input_length,output_length\n1000,1500,20\n2000,1500,30\n5000,600,40\n")
    assert read_trace(table).at_s.tolist() == [0.0, 1.0, 4.0]
    assert read_trace(table).cached_share() == 0.0


def test_files_that_excel_writes_begin_with_a_mark(tmp_path: Path) -> None:
    marked = tmp_path / "marked.csv"
    marked.write_text("timestamp,input_length,output_length\n1000,1500,20\n2000,1500,30\n", encoding="utf-8-sig")
    assert read_trace(marked).input_len.tolist() == [1500, 1500]
    bins = tmp_path / "bins.csv"
    bins.write_text("tokens,count\n100,3\n200,1\n", encoding="utf-8-sig")
    assert parse_distribution({"histogram": str(bins)}).mean == 125


def test_a_histogram_is_read_in_bounded_memory(tmp_path: Path) -> None:
    endless = tmp_path / "endless.csv"
    endless.write_text("1" * (LONGEST_LINE + 10))
    os.mkfifo(tmp_path / "pipe.csv")
    for file, message in (
        (endless, "longer than"),
        (tmp_path / "pipe.csv", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
    ):
        with pytest.raises(InvalidValue, match=message):
            parse_distribution({"histogram": str(file)})


def test_the_prefix_cache_forgets_the_least_recently_used_block(tmp_path: Path) -> None:
    trace = read_trace(mooncake(tmp_path / "a.jsonl", ROWS))
    # The third prompt begins with a block nobody had; the second one shares two.
    assert trace.cached_tokens().tolist() == [0, 2 * BLOCK_TOKENS, 0]
    assert trace.cached_tokens(2 * BLOCK_TOKENS).tolist() == [0, 0, 0]
    assert trace.cached_share() == pytest.approx(1024 / 3600)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no requests"),
        ("a,b\n1,2\n", "expected a JSON object or the header"),
        ("{}\n", "missing input_length"),
        ('{"input_length": 0, "output_length": 5}\n', "1: input_length: expected a whole number"),
        ('{"input_length": 5, "output_length": NaN}\n', "output_length: expected a whole number"),
        ('{"input_length": 5, "output_length": 5, "timestamp": "x"}\n', 'timestamp: expected a number or a date'),
        ('{"input_length": 5, "output_length": 5, "timestamp": 1.7e18}\n', "timestamp: expected ms below 1e\\+14"),
        ('{"input_length": 5, "output_length": 20000000}\n', "output_length: expected .* from 1 to 10,000,000"),
        ('{"input_length": 5, "output_length": 5, "timestamp": 1}\n{"input_length": 5, "output_length": 5}\n',
         "2: some requests have times, others have none"),
        ('{"input_length": 5, "output_length": 5}\n{"input_length": 5, "output_length": 5, "hash_ids": [1]}\n',
         "2: some requests have hash_ids, others have none"),
        ("input_length,output_length,input_length\n5,5,6\n", "1: a second column \"input_length\""),
        ("timestamp,input_length,output_length\n2,5,5\n1,5,5\n", "3: arrives before"),
        ('{"input_length": 5, "output_length": 5}\n[1]\n', "2: expected one JSON object a line"),
        ('{"input_length": 5, "output_length": 5}\n{"in', "2: not valid JSON"),
        ('{"input_length": 5, "output_length": 5, "hash_ids": "x"}\n', "hash_ids: expected a list"),
        ("input_length,output_length\n5\n", "2: expected 2 values"),
        ("input_length,output_length\n", "no requests"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_trace_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_trace(path)


def test_times_may_be_dates(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    (tmp_path / "azure.csv").write_text(text + "2023-11-16 18:15:50.6805900,396,109\n")
    assert read_trace(tmp_path / "azure.csv").at_s.tolist() == pytest.approx([0, 4])


def test_a_trace_of_years_says_that_its_rate_is_none_to_simulate(tmp_path: Path) -> None:
    mooncake(tmp_path / "slow.jsonl", [{**ROWS[0], "timestamp": at} for at in (0, 1e13)])
    with pytest.raises(SpecError, match="the trace has 1e-10 requests/s, which is out of range"):
        spec({"name": "slow", "trace": str(tmp_path / "slow.jsonl")}, load="request_rate")


def test_a_trace_in_a_spec_is_found_beside_it_and_has_its_own_rate(tmp_path: Path) -> None:
    mooncake(tmp_path / "traffic.jsonl", ROWS)
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\nmodels: Qwen3-8B\ngpus: H100\nworkloads: [{name: ours, trace: traffic.jsonl}]\nload: request_rate\n"
    )
    found = load_spec(file)
    [workload] = found.swept_workloads
    assert (workload.name, workload.traffic.request_rate, workload.input_len) == ("ours@0.5", 0.5, 1200)
    assert load_spec(file).swept_workloads == found.swept_workloads
