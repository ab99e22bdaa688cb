"""What files of measured results do not say: asked for, added by flags and mapping files, contradicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuscout.runner.imports.complete import NotSaid
from gpuscout.runner.imports.served_names import model_at
from gpuscout.runner.imports.stated import Mappings, from_flags
from gpuscout.store.measured import LoadKind
from gpuscout.store.measured.formats import SourceFile, table
from gpuscout.sweeps.errors import InputError
from tests.support.result_files import FACTS, FOLDER, MODEL, complete, completed, completer, loaded, reported


def test_what_a_file_does_not_say_is_asked_for_by_its_flags() -> None:
    def change(document: Any) -> None:
        for key in ("gpu", "tp", "vllm_version"):
            del document[key]
        document["model_id"] = "/models/llama"  # a folder of the machine that served

    with pytest.raises(NotSaid) as refused:
        complete(reported("vllm.json", change)[0])
    assert refused.value.fields == ("model", "gpu", "tp", "server", "server_version")
    assert refused.value.hint == (
        "add --model NAME --gpu NAME --tp N --server NAME --server-version VERSION (or unknown), "
        "or --mapping FILE with them"
    )
    run = complete(reported("vllm.json", change)[0], **FACTS, model="Qwen3-32B", kv_precision="fp8", precision="fp8")
    assert (run.model, run.kv_precision, run.precision) == (MODEL, "fp8", "fp8")


def test_what_holds_for_many_runs_is_told_once() -> None:
    [file] = completed(FOLDER / "runs.csv", model="Qwen/Qwen3-8B")
    assert len(file.runs) == 3
    assert [note.removeprefix(str(FOLDER)) for note in file.notes] == [
        f'/runs.csv:2 and 2 more: model: "{MODEL}" in the file, taken as Qwen/Qwen3-8B'
    ]


def test_a_load_nobody_told_is_asked_for() -> None:
    def change(document: Any) -> None:
        del document["input_config"]["loadgen"]

    [run] = reported("aiperf.json", change)
    with pytest.raises(NotSaid, match="does not say the requests in flight") as refused:
        complete(run, **FACTS)
    assert "--concurrency N (or --request-rate RATE)" in str(refused.value.hint)
    assert loaded(complete(run, **FACTS, concurrency="16")) == (LoadKind.CLOSED_LOOP, 16, None)
    assert complete(run, **FACTS, request_rate="3").load is LoadKind.REQUEST_RATE


def test_latencies_of_a_table_without_a_load_are_no_maximum() -> None:
    head = "model,gpu,tp,precision,server,server_version,input_len,output_len,concurrency,ttft_ms,output_tokens_per_s\n"
    line = "Qwen/Qwen3-32B,B200,2,bf16,vllm,0.19.1,2000,200,,250,"
    latency, maximum = (table.read(SourceFile("a.csv", f"{head}{line}{end}\n".encode())).runs[0] for end in ("", "900"))
    with pytest.raises(NotSaid, match="does not say the requests in flight"):
        complete(latency)
    assert loaded(complete(latency, concurrency="16")) == (LoadKind.CLOSED_LOOP, 16, None)
    assert complete(maximum).load is LoadKind.OFFLINE_MAXIMUM


def test_a_loop_that_was_mostly_idle_is_told() -> None:
    [run] = reported("llm-optimizer.json", lambda d: d["test_results"][0]["results"].update(concurrency=9.04))
    _, notes = completer(server_version="1").complete(run, "f")
    assert notes == ["9.0 requests were in flight on average, not 16"]


def test_a_version_may_be_said_to_be_unknown() -> None:
    [run] = reported("genai-perf.json")
    assert complete(run, **{**FACTS, "server_version": "unknown"}).server_version is None


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"server": "sglang"}, 'vllm.json: server: the file says "vllm", --server says "sglang"'),
        ({"gpu": "H100"}, 'vllm.json: gpu: the file says "NVIDIA B200", --gpu says "H100"'),
        ({"tp": "4"}, 'vllm.json: tp: the file says "2", --tp says "4"'),
        ({"concurrency": "8"}, "--concurrency: concurrency: 8, but the file says 16"),
        ({"request_rate": "8"}, "--request-rate: request_rate: 8, but the file says none, its load is closed loop"),
    ],
)
def test_a_flag_that_contradicts_a_file_is_refused(facts: dict[str, str], message: str) -> None:
    [run] = reported("vllm.json")
    with pytest.raises(InputError) as refused:
        completer(**facts).complete(run, "vllm.json")
    assert refused.value.message == message


def test_two_names_of_one_gpu_do_not_contradict() -> None:
    [run] = reported("vllm.json")
    new, notes = completer(gpu="B200").complete(run, "vllm.json")
    assert (new.gpu, notes) == ("B200", [])


def test_a_flag_replaces_what_nobody_understands_and_the_name_a_model_was_served_under() -> None:
    [run] = reported("vllm.json", lambda document: document.update(gpu="GPU of rack 7", model_id="my-chat"))
    new, notes = completer(gpu="B200", model=MODEL).complete(run, "f")
    assert notes == [
        'gpu: "GPU of rack 7" in the file, taken as B200',
        f'model: "my-chat" in the file, taken as {MODEL}',
    ]
    assert new.details["file_says"] == {"gpu": "GPU of rack 7", "model": "my-chat"}
    with pytest.raises(InputError, match='f: unknown GPU "GPU of rack 7"') as refused:
        completer(model=MODEL).complete(run, "f")
    assert "--gpu overrides the file" in str(refused.value.hint)


def test_a_mapping_file_speaks_of_single_files_and_labels(tmp_path: Path) -> None:
    mapping = tmp_path / "m.yaml"
    mapping.write_text(
        '"*/vllm.json": {gpu: B200, server: sglang, server-version: 0.10}\n'
        '"label:nightly-*":\n    tp: 1\n'
        '"*.yaml": {server: trtllm}\n'
    )
    mappings = Mappings.read(mapping)
    maker = completer(mappings, gpu="H100", tp="8")
    new, notes = maker.complete(reported("vllm.json")[0], "results/vllm.json")
    # A version is text: 0.10 is not 0.1. The mapping wins over the file and over flags.
    assert (new.server, new.server_version, new.gpu, new.tp) == (
        "sglang", "0.10", "B200", 1,
    )  # fmt: skip
    assert len(notes) == 3
    assert mappings.unused == {"*.yaml"}


def test_a_pattern_matches_however_a_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text('"results/*.json": {tp: 4}\n')
    mappings = Mappings.read(tmp_path / "m.yaml")
    assert mappings.of("./results/a.json", None)["tp"].text == "4"
    assert not mappings.of("other/a.json", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"*": {gpus: H100}', 'm.yaml:1:7: unknown key "gpus"'),
        ('"*": {tp: two}', 'm.yaml:1:11: tp: expected a positive whole number, got "two"'),
        (
            '"*": {server: vlm}',
            'm.yaml:1:15: server: expected one of vllm, sglang, trtllm, atom, transformers-neuronx, got "vlm"',
        ),
        ('"*": {gpu: [H100]}', "m.yaml:1:12: gpu: expected a single value"),
        ('"*": H100', "m.yaml:1:6: expected what holds for the runs"),
        ("- a\n- b", "m.yaml: expected patterns of files"),
        ("{", "m.yaml: not YAML"),
    ],
)
def test_a_wrong_mapping_file_says_where(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        Mappings.read(tmp_path / "m.yaml")
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tp": "0"}, '--tp: expected a positive whole number, got "0"'),
        ({"precision": "fp9"}, "--precision: expected one of fp32, fp16, bf16, fp8"),
        ({"gpu_memory_utilization": "90"}, "--gpu-memory-utilization: expected a number above 0, at most 1"),
    ],
)
def test_wrong_flags_are_refused(facts: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        from_flags(facts)
    assert message in refused.value.message


@pytest.mark.parametrize("gpu", ["4xNVIDIA_L40S", "4 x L40S", "L40S x4"])
def test_a_number_of_gpus_in_their_name_is_checked(gpu: str) -> None:
    """A result of four replicas would else be one of a single GPU, four times too good."""
    [run] = reported("vllm.json", lambda document: document.update(gpu=gpu, tp="1"))
    with pytest.raises(InputError, match=rf'file: gpu: "{gpu}" is 4 GPUs, TP 1 x PP 1 x DP 1 is 1') as refused:
        complete(run, gpu="L40S")
    assert "--tp, --pp and --dp give 4 together" in str(refused.value.hint)
    new, notes = completer(dp="4").complete(run, "vllm.json")
    assert (new.gpu, new.num_gpus, new.dp) == ("L40S", 4, 4)
    assert notes == []
    with pytest.raises(InputError, match=r'the file says ".*4'):
        complete(run, gpu="H100", dp="4")


def test_a_model_that_was_served_from_a_folder_is_proposed_by_the_end_of_its_path() -> None:
    [run] = reported("vllm.json", lambda document: document.update(model_id="/srv/models/Qwen/Qwen3-8B"))
    with pytest.raises(NotSaid, match="does not say the model") as refused:
        complete(run)
    assert '"/srv/models/Qwen/Qwen3-8B" is a folder of the machine that served' in refused.value.message
    assert refused.value.hint == "add --model Qwen/Qwen3-8B, or --mapping FILE with them"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/root/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/a1b2", "Qwen/Qwen3-8B"),
        ("./Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/models/llama", None),
        ("Qwen/Qwen3-8B", None),
    ],
)
def test_what_a_path_names(path: str, name: str | None) -> None:
    assert model_at(path) == name
