"""CSV tables of measured runs: their columns, under which names, and what is not understood."""

from __future__ import annotations

import dataclasses
import re
from datetime import date
from pathlib import Path

import pytest

from gpuscout.runner.accuracy.estimate import RunCases
from gpuscout.runner.cli.store.imports import CSV_COLUMNS
from gpuscout.store.measured import LoadKind
from gpuscout.store.measured.formats import SourceFile, recognise, table
from gpuscout.sweeps.errors import InputError
from tests.support.result_files import FACTS, MODEL, complete, completer, loaded


def test_help_and_docs_list_every_column_of_a_table() -> None:
    assert CSV_COLUMNS.split(", ") == list(table.COLUMNS)
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page.partition("## CSV")[2], re.MULTILINE)
    assert [name for name in listed if name in table.COLUMNS] == list(table.COLUMNS)


def sheet(header: str, *lines: str) -> SourceFile:
    return SourceFile("sheet.csv", "\n".join((header, *lines)).encode())


def test_columns_of_other_tools_are_taken_as_what_they_say() -> None:
    """A sheet of runs under the names that benchmark harnesses write."""
    file = sheet(
        "model_id,max_concurrency,isl,osl,mean_ttft_ms,mean_tpot_ms,output_throughput,p99_ttft_ms,median_tpot_ms,x_rack",
        "Qwen/Qwen3-32B,16,2000,200,250,20,756,900,19.5,7",
    )
    assert recognise(file).name == "csv"
    run = complete(recognise(file).read(file).runs[0], **FACTS)
    assert loaded(run) == (LoadKind.CLOSED_LOOP, 16, None)
    assert (run.model, run.input_len, run.output_len) == (MODEL, 2000, 200)
    assert (run.ttft_ms, run.itl_ms, run.output_tokens_per_s) == (250, 20, 756)
    assert run.percentiles == {("ttft_ms", 99.0): 900, ("itl_ms", 50.0): 19.5}
    assert run.details["x_rack"] == "7"


def test_columns_that_nobody_knows_are_refused_with_the_nearest() -> None:
    """An FP8 run in a column "dtype" would be stored as BF16."""
    file = sheet("model,gpu,tp,dtype,input_len,output_len,concurrency,tftt_ms", "Qwen/Qwen3-32B,H100,1,fp8,9,9,1,250")
    with pytest.raises(InputError, match=r"sheet\.csv:1: unknown columns dtype, tftt_ms") as refused:
        table.read(file)
    hint = str(refused.value.hint)
    assert "dtype: did you mean precision?" in hint
    assert "tftt_ms: did you mean ttft_ms?" in hint
    assert "columns: id, model, gpu" in hint


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("measured_on", "2026-03", "2026-03"),
        ("measured_on", "2026", "2026"),
        ("measured_on", "2026-13", None),
        ("load", "static-batch", "static-batch"),
        ("load", "offline", None),
        ("latency_stat", "average", None),
        ("server_options", "max_num_seqs", None),
        ("server_options", "max_num_seqs=0", None),
        ("server_options", "max_num_seqs=many", None),
        ("server_options", "max_num_seqs=8 max_running_requests=9", None),
    ],
)
def test_what_a_line_tells_beside_its_figures(column: str, value: str, told: str | None) -> None:
    file = sheet(f"model,input_len,output_len,concurrency,ttft_ms,{column}", f"{MODEL},2000,200,16,250,{value}")
    if told is None:
        with pytest.raises(InputError, match=rf"sheet\.csv:2: {column}: "):
            table.read(file)
        return
    run = complete(table.read(file).runs[0], **FACTS)
    assert told in (run.measured_on, run.load_detail)
    assert run.day == (date(2026, 3 if value == "2026-03" else 1, 1) if column == "measured_on" else None)


def test_server_options_that_estimates_cannot_use_are_told_and_kept() -> None:
    """And no estimate counts those of another server."""
    head = "model,input_len,output_len,concurrency,ttft_ms,server_options"
    file = sheet(head, f"{MODEL},2000,200,16,250,scheduler_recv_interval=30 kernel=flash max_num_tokens=4096")
    run, notes = completer(**FACTS).complete(table.read(file).runs[0], "sheet.csv")
    assert run.server == "vllm"
    assert run.server_options == (
        ("kernel", "flash"),
        ("max_num_batched_tokens", 4096),
        ("scheduler_recv_interval", 30),
    )
    assert [note.partition(";")[0] for note in notes if "kept as a remark" in note] == [
        'unknown server option "kernel"',
        "vllm has no scheduler_recv_interval: it is an option of sglang",
    ]
    assert RunCases([run]).cases[0].server_options == (("max_num_batched_tokens", 4096),)
    nothing = dataclasses.replace(run, details=run.details | {"server_options": {"max_num_seqs": 0}})
    assert RunCases([nothing]).cases[0].server_options == ()


def test_medians_and_server_options_are_kept() -> None:
    file = sheet(
        "model,input_len,output_len,concurrency,ttft_ms,latency_stat,server_options,precision,power_w",
        f"{MODEL},2000,200,16,250,median,--max-num-seqs=256 stream_interval=10,w4a16,650",
    )
    run = complete(table.read(file).runs[0], **FACTS)
    assert (run.latency_stat, run.percentiles) == ("median", {("ttft_ms", 50.0): 250})
    assert run.server_options == (("max_num_seqs", 256), ("stream_interval", 10))
    assert (run.precision, run.precision_detail, run.power_w) == ("int4-weight-only", "w4a16", 650)
