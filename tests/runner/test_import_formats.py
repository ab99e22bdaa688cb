"""Formats of measured results: what each one's words mean, how files are recognised, what damage does."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuscout.runner.imports.files import read_files
from gpuscout.store.measured import LoadKind
from gpuscout.store.measured.formats import FORMATS, SourceFile, find_format, recognise
from gpuscout.store.measured.formats.arguments import deployment
from gpuscout.store.measured.stored import METRICS
from gpuscout.sweeps.errors import InputError
from tests.support.result_files import FACTS, FILES, FOLDER, MODEL, complete, completed, completer, loaded, reported


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_all_formats_agree_on_the_workload_they_share(file: Path) -> None:
    """The first run of every file is the same measurement, told in the tool's own words and units."""
    [found] = completed(file)
    assert found.error is None
    run = found.runs[0]
    case = run.case
    assert (case.model.name, case.gpu.name, case.tensor_parallel, case.num_gpus) == (MODEL, "B200", 2, 2)
    assert (case.input_len, case.output_len, case.precision, case.server) == (2000, 200, "bf16", "vllm")
    assert (case.gpu_memory_utilization, case.context_len) == (0.9, 2200)
    assert loaded(run) == (LoadKind.CLOSED_LOOP, 16, None)
    figures = run
    assert (figures.ttft_ms, figures.itl_ms, figures.e2e_s) == (250.0, 20.0, 4.23)
    assert (figures.output_tokens_per_s, figures.requests_per_s) == (756.5, 3.7825)
    # The stored ITL is what its definition says.
    assert figures.itl_ms == pytest.approx((1e3 * figures.e2e_s - figures.ttft_ms) / (case.output_len - 1))
    assert str(figures.measured_on) == ("None" if "llm-optimizer" in file.name else "2026-03-14")  # it has no date


def test_what_a_run_is_known_by_does_not_move() -> None:
    """A store would hold the runs of a file twice. Printed by the first version that could import."""

    def together(*names: str | Path) -> str:
        digests = sorted(run.digest().hex() for file in completed(*names) for run in file.runs)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]

    assert together(*FILES) == "bbea48ff422df3d9"
    assert together("public:serving_runs", "public:other_gpus", "public:max_throughput") == "6bb8ccba55aeba4e"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_recognised_as_one_format_and_read_by_its_name(file: Path) -> None:
    source = SourceFile.open(file)
    kind = recognise(source)
    assert [known.name for known in FORMATS if known.recognises(source)] == [kind.name]
    assert find_format(kind.name).read(SourceFile.open(file)) == kind.read(source)


def test_the_tools_own_names_stand_beside_the_stored_itl() -> None:
    names = {name: reported(name)[0].native_itl_name for name in (file.name for file in FILES)}
    assert names["vllm.json"] == names["llm-optimizer.json"] == "tpot"
    assert names["guidellm-0.3.json"] == names["guidellm-schema2.json"] == "inter_token_latency_ms"
    assert names["aiperf.json"] == "inter_token_latency"
    assert names["llm-d.yaml"] == "time_per_output_token"


def test_pooled_gaps_are_no_itl() -> None:
    """vLLM's `itl` and AIPerf's `inter_chunk_latency` pool all gaps: 24.5 ms here, beside an ITL of 20."""
    for name in ("vllm.json", "llm-optimizer.json", "aiperf.json", "llm-d.yaml"):
        [run] = reported(name)
        assert run.itl_ms == 20.0
        assert run.details["mean_token_gap_ms"] == 24.5, name
        assert run.percentiles["token_gap_ms", 50.0] in (18.2, 24.5)
    for name in ("guidellm-0.3.json", "guidellm-schema1.json"):
        [run] = reported(name)
        assert run.details["time_per_output_token_ms"] == 21.15  # with the first token counted in


def test_percentiles_of_every_spelling() -> None:
    vllm, guidellm, llm_d, aiperf = (
        reported(name)[0].percentiles for name in ("vllm.json", "guidellm-schema1.json", "llm-d.yaml", "aiperf.json")
    )
    assert vllm["ttft_ms", 50.0] == 240.0  # median_ttft_ms
    assert vllm["ttft_ms", 99.9] == 430.0  # p99.9_ttft_ms
    assert vllm["e2e_s", 99.0] == 4.7  # p99_e2el_ms
    assert vllm["itl_ms", 99.0] == 22.0  # p99_tpot_ms
    # p001, p01, p999: 250 -+ 2, 1.5, 2 times 31
    assert guidellm["ttft_ms", 0.1] == 188.0
    assert guidellm["ttft_ms", 1.0] == 203.5
    assert guidellm["ttft_ms", 99.9] == 312.0
    assert guidellm["e2e_s", 95.0] == pytest.approx(4.32)  # request_latency is seconds, also here
    # p0p1, p99p9, in seconds there
    assert llm_d["ttft_ms", 0.1] == 200.0
    assert llm_d["ttft_ms", 99.9] == 430.0
    assert llm_d["e2e_s", 50.0] == 4.2
    assert llm_d["token_gap_ms", 99.0] == 61.0
    assert aiperf["ttft_ms", 99.0] == 300.0
    assert aiperf["e2e_s", 1.0] == pytest.approx(3.807)


@pytest.mark.parametrize(("unit", "scale"), [("ms", 1.0), ("s", 1e3)])
@pytest.mark.parametrize("block", ["time_to_first_token", "time_per_output_token", "request_latency"])
def test_every_block_of_llm_d_has_its_own_unit(block: str, unit: str, scale: float) -> None:
    def change(document: Any) -> None:
        latency = document["results"]["request_performance"]["aggregate"]["latency"]
        per_token = "/token" if block == "time_per_output_token" else ""
        latency[block] = {"units": unit + per_token, "mean": 123.0 / scale, "p99": 150.0 / scale}

    [run] = reported("llm-d.yaml", change)
    names = {"time_to_first_token": "ttft_ms", "time_per_output_token": "itl_ms", "request_latency": "e2e_s"}
    factor = 1e-3 if block == "request_latency" else 1.0
    assert getattr(run, names[block]) == pytest.approx(123.0 * factor)
    assert run.percentiles[names[block], 99.0] == pytest.approx(150.0 * factor)


@pytest.mark.parametrize(("unit", "scale"), [("ms", 1.0), ("sec", 1e3), ("us", 1e-3), ("ns", 1e-6)])
def test_aiperf_says_its_units(unit: str, scale: float) -> None:
    def change(document: Any) -> None:
        document["time_to_first_token"] = {"unit": unit, "avg": 250.0 / scale, "p99": 300.0 / scale}

    [run] = reported("aiperf.json", change)
    assert (run.ttft_ms, run.percentiles["ttft_ms", 99.0]) == pytest.approx((250.0, 300.0))


@pytest.mark.parametrize(
    ("name", "path", "units"),
    [
        ("aiperf.json", "time_to_first_token.unit", "ms"),
        ("llm-d.json", "results.request_performance.aggregate.latency.time_to_first_token.units", "ms or s"),
    ],
)
def test_a_unit_nobody_knows_is_refused(name: str, path: str, units: str) -> None:
    def change(document: Any) -> None:
        *keys, last = path.split(".")
        for key in keys:
            document = document[key]
        document[last] = "fortnights"

    with pytest.raises(InputError, match=rf'{path}: expected .*{units}.*, got "fortnights"'):
        reported(name, change)


@pytest.mark.parametrize(
    ("tool", "itl_ms", "native"),
    [
        ("vllm-benchmark", 20.0, ("time_per_output_token", 20.0)),
        ("inference-perf", 20.0, ("time_per_output_token", 20.0)),
        ("guidellm", 24.5, ("inter_token_latency", 24.5)),
        ("aiperf", 24.5, ("inter_token_latency", 24.5)),
        ("homemade", None, ("inter_token_latency", 24.5)),
    ],
)
def test_the_same_word_of_llm_d_means_what_its_tool_means(
    tool: str, itl_ms: float | None, native: tuple[str, float]
) -> None:
    def change(document: Any) -> None:
        document["scenario"]["load"]["standardized"]["tool"] = tool

    [run] = reported("llm-d.yaml", change)
    assert run.itl_ms == itl_ms
    assert (run.native_itl_name, run.native_itl_ms) == native
    if itl_ms is None:
        # Nobody knows what this tool calls ITL: the definition decides, and the run says so.
        new = complete(run)
        assert new.figure("itl_ms") == pytest.approx((4230.0 - 250.0) / 199, rel=1e-5)
        assert new.details["derived"] == ["itl_ms"]


def test_closed_loops_rates_and_maxima_are_told_apart() -> None:
    loads = [run.load for run in reported("vllm-appended.json")]
    assert loads == [("closed_loop", 16, None)] * 2 + [("request_rate", None, 3.0), ("offline_maximum", None, None)]
    loads = [run.load for run in reported("guidellm-schema2.json")]
    assert loads == [
        ("closed_loop", 16, None),
        ("request_rate", None, 2.5),
        ("offline_maximum", None, None),
        ("closed_loop", 1, None),
    ]
    assert [run.load for run in reported("runs.csv")][1] == ("offline_maximum", None, None)
    capped = reported("vllm.json", lambda document: document.update(request_rate=2.0))[0]
    assert capped.load == ("request_rate", None, 2.0)  # a limit of 16 is not 16 in flight
    assert capped.details["max_concurrency"] == 16


def test_at_a_request_rate_the_mean_in_flight_is_stored() -> None:
    [_, constant, *_] = reported("guidellm-schema2.json")
    assert loaded(complete(constant)) == (LoadKind.REQUEST_RATE, 16, 2.5)  # as GuideLLM measured: 15.9
    [_, _, rate, _] = reported("vllm-appended.json")
    # 3.7825 requests/s that stay 4.23 s each
    assert loaded(complete(rate, **FACTS)) == (LoadKind.REQUEST_RATE, 16, 3.0)


def test_a_loop_never_has_more_in_flight_than_requests() -> None:
    def change(document: Any) -> None:
        document.update(max_concurrency=512, num_prompts=160, mean_e2el_ms=None)

    [run] = reported("vllm.json", change)
    assert run.load == ("closed_loop", 160, None)
    _, notes = completer(**FACTS).complete(run, "vllm.json")
    assert "160 requests cannot keep 512 in flight" in notes


@pytest.mark.parametrize(
    ("meant", "had", "stored"),
    [(2000, 2000.3, 2000), (2000, 2060.0, 2000), (2000, 1500.4, 1500), (None, 1024.3, 1024), (None, 0.2, 1)],
)
def test_lengths_are_what_was_meant_where_requests_were_like_that(meant: int | None, had: float, stored: int) -> None:
    def change(document: Any) -> None:
        document["total_input_tokens"] = had * 160
        if meant is not None:
            document["random_input_len"] = meant

    run = complete(reported("vllm.json", change)[0], **FACTS)
    assert run.case.input_len == stored
    assert run.details["input_len_mean"] == pytest.approx(had)


def test_a_length_that_contradicts_the_file_is_refused() -> None:
    [run] = reported("vllm.json")
    assert complete(run, **FACTS, input_len="2048").case.input_len == 2048
    with pytest.raises(InputError, match=r"--input-len: input_len: 1024, but requests had 2,000.3 tokens on average"):
        complete(run, **FACTS, input_len="1024")


def test_a_closed_loop_with_latencies_alone_has_its_throughput() -> None:
    """As in most public runs: what follows from the latencies is stored, and said to."""

    def change(document: Any) -> None:
        for key in ("output_throughput", "mean_e2el_ms"):
            del document[key]

    run = complete(reported("vllm.json", change)[0], server="vllm")
    assert run.details["derived"] == ["e2e_s", "output_tokens_per_s"]
    assert (run.figure("e2e_s"), run.figure("requests_per_s")) == (4.23, 3.7825)
    assert run.figure("output_tokens_per_s") == pytest.approx(16 * 200 / 4.23, rel=1e-5)
    [_, maximum, _] = reported("runs.csv")
    assert "derived" not in complete(maximum, **FACTS).details


def test_failures_are_counted_not_their_kinds() -> None:
    [run] = reported("aiperf.json")
    assert run.details["failed"] == 60  # 57 of one kind and 3 of another
    _, notes = completer(**FACTS).complete(run, "aiperf.json")
    assert notes == ["60 of 220 requests failed"]


def test_only_successful_requests_of_guidellm_count() -> None:
    [run] = reported("guidellm-schema1.json")
    assert (run.ttft_ms, run.details["completed"], run.details["failed"]) == (250.0, 160, 2)


def test_runs_without_a_success_are_left_out_and_told() -> None:
    def change(document: Any) -> None:
        document["benchmarks"][1]["scheduler_metrics"]["requests_made"]["successful"] = 0

    document = json.loads((FOLDER / "guidellm-schema2.json").read_bytes())
    change(document)
    source = SourceFile("g.json", json.dumps(document).encode())
    contents = recognise(source).read(source)
    assert len(contents.runs) == 3
    assert contents.notes == ("g.json: benchmarks[1]: no request succeeded, left out",)


def test_a_cancelled_benchmark_is_refused() -> None:
    with pytest.raises(InputError, match="was_cancelled: the benchmark was cancelled"):
        reported("aiperf.json", lambda document: document.update(was_cancelled=True))


def test_llm_optimizer_is_read_from_its_command_and_arguments() -> None:
    """`results.backend` says vllm whatever serves, `gpu_count` counts the host, the best list repeats results."""

    def change(document: Any) -> None:
        entry = document["test_results"][0]
        entry["cmd"] = "python3 -m sglang.launch_server --model-path /models/vllm-serve --tp-size=2"
        entry["config"]["server_args"] = {"tp_size": 2, "quantization": "awq", "speculative_algorithm": "EAGLE"}

    [run] = reported("llm-optimizer.json", change)
    assert run.deployment == {"model": MODEL, "gpu": "B200", "tp": "2", "server": "sglang"}
    assert run.details["gpu_count_stated"] == 8
    assert run.details["drafts_tokens"] is True
    assert run.output_tokens_per_s == 756.5


def test_shared_gpt_lengths_of_llm_optimizer_are_means() -> None:
    def change(document: Any) -> None:
        entry = document["test_results"][0]
        entry["metadata"].update(input_tokens=-1, output_tokens=0)
        document["metadata"].update(input_len=-1, output_len=0)
        for key in ("random_input_len", "random_output_len"):
            del entry["results"][key]
        entry["results"].update(total_input_tokens=160 * 219.6, total_output_tokens=160 * 200)

    run = complete(reported("llm-optimizer.json", change)[0], server_version="1")
    assert (run.case.input_len, run.case.output_len) == (220, 200)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"--tensor-parallel-size": 4, "enable_expert_parallel": True}, {"tp": "4", "ep": "4"}),
        ({"tp_size": 2, "dp-size": 4, "enable-expert-parallel": ""}, {"tp": "2", "dp": "4", "ep": "8"}),
        ({"kv_cache_dtype": "auto"}, {}),
        ({"kv-cache-dtype": "fp8_e5m2", "max_model_len": -1}, {"kv_precision": "fp8"}),
        ({"sglang_version": "0.5.6"}, {"server": "sglang", "server_version": "0.5.6"}),
        ({"vllm_version": "0.19.1", "engine": "vllm"}, {"server": "vllm", "server_version": "0.19.1"}),
    ],
)
def test_what_arguments_of_servers_say(given_: dict[str, object], told: dict[str, str]) -> None:
    assert deployment(given_) == told


def test_replicas_of_llm_d_are_data_parallel_whatever_its_count_counts() -> None:
    def change(replicas: int, count_: int) -> Callable[[Any], None]:
        def write(document: Any) -> None:
            engine = document["scenario"]["stack"][1]["standardized"]
            engine["replicas"] = replicas
            engine["accelerator"]["count"] = count_

        return write

    for count_ in (2, 6):
        run = complete(reported("llm-d.json", change(3, count_))[0])
        assert (run.case.data_parallel, run.case.num_gpus) == (3, 6)
    with pytest.raises(InputError, match=r"accelerator.count: expected tp x pp x dp = 2 GPUs, got 5, in 3 replicas"):
        reported("llm-d.json", change(3, 5))

    def split(document: Any) -> None:
        document["scenario"]["stack"][1]["standardized"]["role"] = "prefill"

    with pytest.raises(InputError, match="prefill and decode on servers of their own cannot be compared"):
        reported("llm-d.json", split)


def test_a_file_of_several_llm_d_reports() -> None:
    first = json.loads((FOLDER / "llm-d.json").read_bytes())
    second = json.loads(json.dumps(first).replace("5b0f6a3e-0001", "5b0f6a3e-0002"))
    second["results"]["request_performance"]["aggregate"]["latency"]["request_latency"]["mean"] = "slow"
    source = SourceFile("all.yaml", yaml.safe_dump([first, first]).encode())
    assert len(recognise(source).read(source).runs) == 2
    source = SourceFile("all.yaml", yaml.safe_dump([first, second]).encode())
    with pytest.raises(
        InputError, match=r'all.yaml: \[1\].results.*request_latency.mean: expected a number, got "slow"'
    ):
        recognise(source).read(source)


def test_llm_d_loads_without_a_limit_and_lengths_that_are_means() -> None:
    def change(document: Any) -> None:
        load = document["scenario"]["load"]["standardized"]
        load.update(concurrency=float("inf"), rate_qps=10.0, prefix={"num_groups": 4})
        load["input_seq_len"]["value"] = 2036.29

    [run] = reported("llm-d.json", change)
    assert run.load == ("request_rate", None, 10.0)
    assert (run.input_len, run.mean_input_len) == (None, 2000.3)
    _, notes = completer().complete(run, "llm-d.json")
    assert notes == [
        "requests share prefixes; what a prefix cache saves, estimates do not know: set aside, it stands for no plain "
        "deployment"
    ]


def test_servers_for_decode_alone_do_both_and_llm_d_is_no_server() -> None:
    def change(document: Any) -> None:
        document["scenario"]["stack"][1]["standardized"].update(role="decode", tool="llm-d")

    [run] = reported("llm-d.json", change)
    with pytest.raises(InputError, match=r'llm-d.json: server: expected one of vllm.*got "llm-d"') as refused:
        completer().complete(run, "llm-d.json")
    assert "--server overrides the file" in str(refused.value.hint)
    assert complete(run, server="vllm").case.server == "vllm"


def test_a_throughput_that_so_many_requests_cannot_have_is_told() -> None:
    """Little's law: 6 requests/s of 4.23 s each are 25 in flight."""
    [run] = reported("vllm.json", lambda document: document.update(request_throughput=6.0))
    _, notes = completer(**FACTS).complete(run, "vllm.json")
    assert notes == ["25.4 requests were in flight on average, not 16"]


def test_latencies_that_do_not_add_up_are_told() -> None:
    [run] = reported("vllm.json", lambda document: document.update(mean_tpot_ms=9.0))
    _, notes = completer(**FACTS).complete(run, "vllm.json")
    assert notes == ["TTFT + ITL x (output - 1) is 2.04 s, the end-to-end latency 4.23 s"]


@pytest.mark.parametrize(
    "name", ["vllm.json", "guidellm-schema2.json", "llm-d.yaml", "aiperf.json", "llm-optimizer.json"]
)
def test_figures_beyond_all_reason_are_refused(name: str) -> None:
    """Whole numbers and fractions that no database column or no latency can hold, wherever they stand."""
    document = yaml.safe_load((FOLDER / name).read_bytes())
    places = list(_figures(document))
    for number in (10**30, 1e300, 1e-300):
        for container, key in places[:: max(len(places) // 12, 1)]:
            kept, container[key] = container[key], number
            source = SourceFile(name, json.dumps(document, default=str).encode())
            try:
                for run in recognise(source).read(source).runs:
                    new = complete(run, **FACTS)
                    assert new.case.context_len < 2**63
                    assert all(value is None or 0 < value <= 1e12 for value in map(new.figure, METRICS))
            except InputError:
                pass
            container[key] = kept


def _figures(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every number of a document, as the container it is in and its key there."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(entries):
        if isinstance(value, dict | list):
            yield from _figures(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield document, key


def test_a_key_that_is_there_twice_is_refused() -> None:
    """Parsers take the last one; nobody knows which was meant."""
    data = (FOLDER / "vllm.json").read_bytes().strip().removesuffix(b"}") + b', "mean_tpot_ms": 99.0}'
    with pytest.raises(InputError, match=r'v.json:1: .*"mean_tpot_ms" is given twice'):
        recognise(SourceFile("v.json", data))
    data = (FOLDER / "llm-d.yaml").read_bytes() + b"\nrun: {uid: other}\n"
    with pytest.raises(InputError, match=r'd.yaml:\d+:1: not YAML: "run" is given twice'):
        recognise(SourceFile("d.yaml", data))


def test_a_file_of_another_format_than_was_said_is_told() -> None:
    for name, said, is_ in (("vllm.json", "aiperf", "vllm"), ("guidellm-0.3.json", "vllm", "guidellm")):
        [file] = read_files([str(FOLDER / name)], find_format(said), completer(**FACTS))
        assert file.error is not None
        assert file.error.message.endswith(f"it looks like {is_}")
        assert file.error.hint == "leave the format out"


# --- what is recognised --------------------------------------------------------------------------------------------


def test_a_file_that_may_be_several_formats_lists_them() -> None:
    text = json.dumps({"request_throughput": 3.0, "completed": 5, "mean_ttft_ms": 3.0})
    with pytest.raises(InputError, match=r"x.json: may be of 2 formats: vllm, llm-optimizer") as refused:
        recognise(SourceFile("x.json", text.encode()))
    assert refused.value.hint == "say which: gpuscout import vllm x.json"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"a": 1}', "a.json: unrecognised format"),
        ("a.csv", "a,b\n1,2\n", "a.csv: unrecognised format"),
        ("a.csv", "kind,model,gpu,case_digest,ttft_ms,itl_ms\n", "a.csv: unrecognised format"),
        ("a.json", "", "a.json: the file is empty"),
        ("a.json", '{"a": 1', "a.json:1:8: not JSON"),
        ("a.json", '{"completed": 1}\n{"completed"', "a.json:2:13: not JSON"),
        ("a.json", "[" * 100_000, "a.json:1: cannot be read as JSON"),
        ("a.json", '{"a": 1' + "0" * 5_000 + "}", "a.json:1: cannot be read as JSON"),
        ("a.yaml", "version: '0.2'\nrun: ]", "a.yaml:2:6: not YAML"),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]", "a.yaml:1:4: not YAML"),
        ("a.json", b"\xff{", "a.json:1: not UTF-8 text"),
        ("a.csv.gz", b"no gzip", "a.csv.gz: damaged gzip file"),
        ("a.csv.gz", gzip.compress(b"a,b", mtime=0)[:10] + b"\xff" * 20, "a.csv.gz: damaged gzip file"),
        ("a.json", '{"completed": 1}'.encode("utf-16"), "a.json: not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_says_where(name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as refused:
        recognise(SourceFile(name, content if isinstance(content, bytes) else content.encode()))
    assert message in refused.value.message


def test_a_file_that_was_cut_off_is_told_so_wherever_it_was() -> None:
    text = (FOLDER / "vllm.json").read_text().strip()
    for end in range(20, len(text), 7):
        with pytest.raises(InputError, match=r"v.json:\d+:\d+: not JSON") as refused:
            recognise(SourceFile("v.json", text[:end].encode()))
        assert refused.value.hint == "the file is cut off", text[:end]


def test_a_packed_file_is_known_by_its_content() -> None:
    data = (FOLDER / "vllm.json").read_bytes()
    for name in ("v.json", "v.json.gz"):
        source = SourceFile(name, gzip.compress(data))
        assert recognise(source).read(source) == recognise(SourceFile("v", data)).read(SourceFile("v", data))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vllm.json", {"mean_ttft_ms": "fast"}, 'vllm.json: mean_ttft_ms: expected a number, got "fast"'),
        ("vllm.json", {"mean_ttft_ms": float("nan")}, "vllm.json: mean_ttft_ms: expected a finite number"),
        ("vllm.json", {"mean_ttft_ms": -1}, "vllm.json: mean_ttft_ms: expected a number above 0, got -1"),
        ("vllm.json", {"completed": 1.5}, "vllm.json: completed: expected a whole number, got 1.5"),
        ("vllm.json", {"completed": None}, "vllm.json: completed: missing"),
        ("vllm.json", {"date": "yesterday"}, 'vllm.json: date: expected a time, got "yesterday"'),
        ("vllm.json", {"request_rate": 0}, "vllm.json: request_rate: expected a number above 0, got 0"),
        ("aiperf.json", {"time_to_first_token": {"avg": 1}}, "aiperf.json: time_to_first_token.unit: missing"),
        ("aiperf.json", {"input_config": {"endpoint": {"model_names": "x"}}}, "model_names: expected a list"),
        ("llm-d.json", {"version": "0.1"}, 'llm-d.json: version: expected version 0.2 or 0.2.1, got "0.1"'),
        ("llm-d.json", {"results": {}}, "results.request_performance.aggregate: missing"),
    ],
)
def test_what_is_wrong_in_a_document_is_told_by_its_path(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        reported(name, lambda document: document.update(change))
    assert message in refused.value.message


def test_a_wrong_strategy_of_guidellm_is_told_by_its_path() -> None:
    def change(document: Any) -> None:
        document["benchmarks"][2]["config"]["strategy"]["type_"] = "tidal"

    with pytest.raises(InputError, match=r'benchmarks\[2\].config.strategy.type_: expected synchronous.*got "tidal"'):
        reported("guidellm-schema2.json", change)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("four,Q,B200,2,2,bf16,vllm,1,x,200,16,1,1,1,1,1,,", "runs.csv:5: input_len: expected a positive whole number"),
        ("one,Q,B200,2,2,bf16,vllm,1,2,200,16,1,1,1,1,1,,", "runs.csv:5: id: 'one' is given twice"),
        ("four,Q,B200,4,2,bf16,vllm,1,2,200,16,1,1,1,1,1,,", "runs.csv:5: num_gpus: 4 is not tp x pp x dp = 2"),
        ("four,Q,B200,2,2,bf15,vllm,1,2,200,16,1,1,1,1,1,,", "runs.csv:5: precision: expected one of fp32"),
        ("four,Q,B200,2,2,bf16,vllm,1,2,200,16,,,,,,,", "runs.csv:5: ttft_ms, itl_ms and output_tokens_per_s are all"),
        ("four,Q,B200,2,2,bf16,vllm,1,2,200,16,1,1,1,1,1,May,", "runs.csv:5: measured_on: expected a date"),
        ("four,Q,B200,2,2,bf16,vllm,1,2,200,16,1,1,1,1,1,,,more", "runs.csv:5: more fields than columns"),
        ("four,Q,B200,2,2,bf16,vllm,1,2,200,16,1", "runs.csv:5: fewer fields than columns: the line is cut off"),
        ("four,Q,B200,2,2,bf16,vllm,1,2,200,1_6,1,1,1,1,1,,", "runs.csv:5: concurrency: expected a positive whole"),
        ("four,Q,B200,2,2,bf16,vllm,1,2,200,16,1_0,1,1,1,1,,", "runs.csv:5: ttft_ms: expected a positive number"),
        ('"four,Q,B200,2,2,bf16,vllm,1,2,200,16,1,1,1,1,1,,', "runs.csv:5: unexpected end of data"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_by_line_and_column(line: str, message: str) -> None:
    text = (FOLDER / "runs.csv").read_text() + line + "\n"
    with pytest.raises(InputError) as refused:
        find_format("csv").read(SourceFile("runs.csv", text.encode()))
    assert message in refused.value.message


def test_columns_are_known_by_their_words_and_each_is_there_once() -> None:
    """A column that is written a little differently would else be a figure that nobody has."""
    text = (FOLDER / "runs.csv").read_text()
    header, rest = text.split("\n", 1)
    spaced = SourceFile("runs.csv", (header.replace(",", ", ").replace("ttft_ms", "TTFT_ms") + "\n" + rest).encode())
    assert recognise(spaced).read(spaced) == find_format("csv").read(SourceFile("runs.csv", text.encode()))
    twice = SourceFile("runs.csv", text.replace("e2e_s", "ttft_ms", 1).encode())
    with pytest.raises(InputError, match=r"runs\.csv:1: ttft_ms: duplicate column"):
        recognise(twice).read(twice)
