"""Measured results in the store: stored once, whole or not at all, listed, removed, copied; and the command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout.runner.api.run import run
from gpuscout.runner.cli.main import execute
from gpuscout.runner.engines.base import EngineInfo
from gpuscout.runner.imports.files import compare_files, read_files, store_file
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.measured import public_runs
from gpuscout.store.measured.imported import imported_groups, remove_runs
from gpuscout.store.measured.runs import PUBLIC_FILES, public_file
from gpuscout.store.measured.stored import stored_runs
from gpuscout.store.results.registry import register_engine
from gpuscout.store.results.tasks import commit_block
from gpuscout.store.results.trust import OVER_STORED, SHIPPED, errors_of, note_errors
from gpuscout.store.schema import cases, measured_runs, metadata, percentiles, tasks
from gpuscout.store.transfer.copy import copy_store
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.spec.spec import parse_spec
from gpuscout.sweeps.trust import ObservedError
from tests.support.forked import gpuscout
from tests.support.result_files import FACTS, FILES, FOLDER, MODEL, completed, completer, count, imported, reported
from tests.support.stores import Scenario

pytestmark = pytest.mark.slow

FLAGS = ["--gpu", "B200", "--tp", "2", "--server", "vllm", "--server-version", "0.19.1"]


def test_everything_of_a_run_is_stored(store: Store) -> None:
    imported(store, FOLDER / "vllm.json", FOLDER / "llm-d.yaml")
    with store.reading() as connection:
        vllm, llm_d = connection.execute(sa.select(measured_runs).order_by(measured_runs.c.id)).mappings()
        tails = connection.execute(sa.select(percentiles).where(percentiles.c.run_id == vllm["id"])).all()
        deployed = connection.execute(sa.select(cases).order_by(cases.c.id)).mappings().all()
    assert (vllm["tool"], vllm["server_version"], vllm["load"], vllm["concurrency"]) == (
        "vllm bench serve", "0.19.1", "closed_loop", 16,
    )  # fmt: skip
    assert (vllm["ttft_ms"], vllm["itl_ms"], vllm["e2e_s"], vllm["native_itl_name"]) == (250.0, 20.0, 4.23, "tpot")
    assert vllm["source"].endswith("vllm.json")
    details = json.loads(vllm["details"])
    assert (details["completed"], details["duration_s"], details["label"]) == (160, 42.3, "nightly-7")
    assert {(metric, percentile): value for _, metric, percentile, value in tails}["ttft_ms", 99.9] == 430.0
    # One run knows its KV precision, the other does not: two cases, and NULL is not any precision.
    assert [case["kv_precision"] for case in deployed] == [None, "fp8"]
    assert [vllm["case_id"], llm_d["case_id"]] == [case["id"] for case in deployed]
    assert {(c["gpu_memory_utilization"], c["max_model_len"], c["num_gpus"]) for c in deployed} == {(0.9, 2200, 2)}


def test_importing_again_adds_nothing_and_repeats_are_kept(store: Store, tmp_path: Path) -> None:
    first = imported(store, *FILES)
    total = count(store, measured_runs)
    # The .jsonl of llm-optimizer and llm-d's JSON are the same runs as their siblings.
    assert sum(file.added for file in first) == total == sum(len(file.runs) for file in first) - 3
    before = count(store, percentiles)
    again = imported(store, *FILES)
    assert sum(file.added for file in again) == 0
    # Not the file decides: another name, one line a run, keys in another order.
    document = json.loads((FOLDER / "vllm.json").read_bytes())
    (tmp_path / "other.json").write_text(json.dumps(dict(reversed(document.items()))))
    assert imported(store, tmp_path / "other.json")[0].already_stored == 1
    # Another run, another date or other figures are a repeat.
    for change in ({"date": "20260314-093001"}, {"mean_ttft_ms": 250.1}, {"run_number": 3}):
        (tmp_path / "other.json").write_text(json.dumps(document | change))
        assert imported(store, tmp_path / "other.json")[0].added == 1
    assert count(store, measured_runs) == total + 3
    assert count(store, percentiles) == before + 3 * 12


def test_a_run_that_comes_again_with_other_facts_is_told(store: Store, tmp_path: Path) -> None:
    """It is stored, since nobody knows which is right; a repeat that happens to look alike is none."""
    file = FOLDER / "aiperf.json"
    first = imported(store, file)[0].notes
    [again] = completed(file, **{**FACTS, "server_version": "0.19.2"})
    compare_files([again], store)
    told = f"{file}: 1 run has exactly the figures of stored ones of {file}, but another deployment or load; "
    assert told in again.notes[-1]
    [again] = imported(store, file, **{**FACTS, "server_version": "0.19.2"})
    assert (again.added, told in again.notes[-1]) == (1, True)
    assert imported(store, file)[0].notes == first
    document = json.loads(file.read_bytes())
    (tmp_path / "other.json").write_text(json.dumps(document | {"benchmark_id": "another"}))
    [repeat] = imported(store, tmp_path / "other.json")
    assert (repeat.added, len(repeat.notes)) == (1, len(first))


def test_a_dry_run_counts_what_an_import_adds(store: Store) -> None:
    files = completed(*FILES)
    compare_files(files, None)
    expected = [file.added for file in files]
    assert [file.added for file in imported(store, *FILES)] == expected
    again = completed(*FILES)
    compare_files(again, store)
    assert sum(file.added for file in again) == 0


def test_what_was_imported_is_listed_and_removed(store: Store) -> None:
    scenario = Scenario(store)
    for block, attempt in scenario.claim(2):
        with store.writing() as connection:
            assert commit_block(connection, scenario.result(block, attempt))
    estimated = {table: count(store, table) for table in (cases, tasks)}
    imported(store, FOLDER / "runs.csv", FOLDER / "vllm.json", FOLDER / "aiperf.json")
    with store.reading() as connection:
        groups = imported_groups(connection)
        assert [(Path(g.file or "").name, g.tool, g.runs) for g in groups] == [
            ("runs.csv", None, 3), ("vllm.json", "vllm bench serve", 1), ("aiperf.json", "aiperf", 1),
        ]  # fmt: skip
        assert groups[0].source == "our lab"
        assert (str(groups[0].measured_from), groups[0].imported_at.utcoffset()) == (
            "2026-03-14",
            groups[1].imported_at.utcoffset(),
        )
        assert [g.runs for g in imported_groups(connection, ["our lab"])] == [3]
    with store.writing() as connection:
        removed = remove_runs(connection, ["our *", "*/vllm.json"])
    assert (removed.runs, removed.percentiles, removed.cases) == (4, 12, 0)  # the third run has the same case
    assert count(store, percentiles) == len(reported("aiperf.json")[0].percentiles)
    with store.writing() as connection:
        assert remove_runs(connection, ["*"]).cases == 1
    assert {table: count(store, table) for table in (cases, tasks)} == estimated
    assert count(store, measured_runs) == count(store, percentiles) == 0


def test_errors_over_stored_runs_go_with_the_runs(store: Store) -> None:
    imported(store, FOLDER / "vllm.json")
    seen = ObservedError("Ada", "dense", 1, 8, "itl_ms", 3, 1, 0.1, 0.2, 0.0)
    with store.writing() as connection:
        engine = register_engine(connection, EngineInfo("guess", "1", {}))
        note_errors(connection, engine, SHIPPED, [seen])
        note_errors(connection, engine, OVER_STORED, [seen])
        assert remove_runs(connection, ["no such file"]).engines == 0
        assert len(errors_of(connection, [engine])[engine]) == 2
        assert remove_runs(connection, ["*/vllm.json"]).engines == 1
        assert errors_of(connection, [engine]) == {engine: [(SHIPPED, seen)]}


def test_a_run_hangs_on_the_case_of_its_estimate(store: Store) -> None:
    """Where the KV precision is known it is the very same case; and that stays when the run is removed."""
    spec = {
        "name": "same",
        "models": [MODEL],
        "gpus": ["B200"],
        "tensor_parallel": 2,
        "kv_precision": "fp8",
        "workloads": [{"input_len": 2000, "output_len": 200}],
    }
    run(parse_spec(yaml.safe_dump(spec)), store, executor="in-process")
    imported(store, FOLDER / "llm-d.yaml", FOLDER / "vllm.json")
    with store.reading() as connection:
        [estimated] = connection.execute(sa.select(tasks.c.case_id)).scalars()
        measured = list(connection.execute(sa.select(measured_runs.c.case_id).order_by(measured_runs.c.id)).scalars())
    assert measured[0] == estimated != measured[1]
    with store.writing() as connection:
        assert remove_runs(connection, ["*"]).cases == 1
    with store.reading() as connection:
        assert list(connection.execute(sa.select(cases.c.id)).scalars()) == [estimated]
    assert count(store, measured_runs) == 0


def test_stored_runs_read_back_as_they_were_measured(store: Store) -> None:
    imported(store, "public:other_gpus", FOLDER / "guidellm-schema2.json")
    with store.reading() as connection:
        back = stored_runs(connection, ["public"])
        assert len(stored_runs(connection)) == len(back) + 3  # the run at a request rate is none of them
    want = public_runs("other_gpus")

    def figures(runs: Any) -> list[tuple[object, ...]]:
        return sorted(
            tuple(
                str(getattr(run, name))
                for name in ("model", "gpu", "tp", "precision", "kv_precision", "server", "server_version", "input_len",
                             "output_len", "concurrency", "ttft_ms", "itl_ms", "output_tokens_per_s", "source")
            )
            for run in runs
        )  # fmt: skip

    assert figures(back) == figures(want)


def test_copies_have_the_runs_with_percentiles_and_details(store: Store, tmp_path: Path) -> None:
    imported(store, *FILES)

    def content(of: Store) -> list[list[str]]:
        local = {"id", "case_id", "run_id", "model_id", "gpu_id", "imported_at", "created_at"}
        with of.reading() as connection:
            return [
                sorted(
                    str([value for name, value in row.items() if name not in local])
                    for row in connection.execute(sa.select(metadata.tables[table])).mappings()
                )
                for table in ("measured_runs", "percentiles", "cases", "models", "gpus")
            ]

    with open_store(str(tmp_path / "copy.db"), create=True) as target:
        assert copy_store(store, target).measured_runs == count(store, measured_runs)
        assert content(target) == content(store)
        # A copy knows what it has.
        assert sum(file.added for file in imported(target, *FILES)) == 0
        assert copy_store(target, store).measured_runs == 0


def test_the_public_runs_come_with_their_sources(store: Store) -> None:
    files = imported(store, "public")
    assert [file.added for file in files] == [len(public_runs(name)) for name in PUBLIC_FILES]
    assert count(store, measured_runs) == len(public_runs()) > 4_700
    with store.reading() as connection:
        groups = imported_groups(connection, ["public"])
        loads = dict(map(tuple, connection.execute(sa.select(measured_runs.c.load, sa.func.count()).group_by("load"))))
    assert {"InferenceX", "TensorRT-LLM perf-overview"} <= {group.source for group in groups}
    assert loads["offline_maximum"] == len(public_runs("max_throughput", "max_throughput_2026_11"))
    assert sum(file.added for file in imported(store, "public")) == 0


def test_the_store_keeps_what_the_public_runs_tell_of_themselves(store: Store) -> None:
    imported(store, "public:serving_runs_2026_11")
    with store.reading() as connection:
        stored = {run.percentiles.get(("e2e_s", 99.0)): run for run in stored_runs(connection)}
    power = [run for run in public_runs("serving_runs_2026_11") if run.power_w]
    assert len(power) == 15
    for measured in power:
        kept = stored[measured.percentiles["e2e_s", 99.0]]
        assert kept.details.items() >= measured.details.items()
        assert dataclasses.replace(kept, id=measured.id, details={}, derived={}, tool=None) == dataclasses.replace(
            measured, details={}
        )
        assert measured.server == "atom" or "max_num_batched_tokens" in dict(measured.server_options)


def test_a_copy_of_the_public_runs_is_no_repeat(store: Store, tmp_path: Path) -> None:
    imported(store, "public:other_gpus", "public:serving_runs")
    (tmp_path / "mine.csv").write_text(public_file("serving_runs").text)
    [refused] = completed(tmp_path / "mine.csv", pp="1")
    assert str(refused.error).endswith("mine.csv: does not say the server's version for some of its runs")
    [file] = imported(store, tmp_path / "mine.csv", server_version="unknown")
    assert (file.added, file.already_stored) == (0, len(public_runs("serving_runs")))


# --- damage --------------------------------------------------------------------------------------------------------

SCRAPS = st.sampled_from([None, True, -1, 0, 1e400, "", "x", "\0", "\ud800", [], {}, [{}], "2026-13-01", 10**30, 0.5])
TEXTS = {file.name: file.read_bytes() for file in FILES}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file cut off, with bytes replaced, or with one value of its document replaced or removed."""
    name = draw(st.sampled_from(sorted(TEXTS)))
    data = TEXTS[name]
    how = draw(st.sampled_from(["cut", "bytes", "value", "value", "value"]))
    if how == "cut":
        return name, data[: draw(st.integers(0, len(data)))]
    if how == "bytes" or not name.endswith((".json", ".yaml")) or name == "vllm-appended.json":
        at = draw(st.integers(0, len(data) - 1))
        return name, data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    document = yaml.safe_load(data) if name.endswith(".yaml") else json.loads(data)
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 5)) == 0:
            break
        place = place[key]
    place[key] = draw(SCRAPS)
    return name.replace(".yaml", ".json"), json.dumps(document, default=str).encode()


@pytest.fixture
def empty() -> Iterator[Store]:
    with open_store("sqlite://", create=True) as store:
        yield store


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged_file=damaged())
def test_a_damaged_file_is_stored_whole_or_refused_with_its_place(
    damaged_file: tuple[str, bytes], empty: Store, tmp_path: Path
) -> None:
    """Never another error than InputError; and what is taken is sound: finite, positive, each of its runs stored."""
    name, data = damaged_file
    (tmp_path / name).write_bytes(data)
    [file] = read_files([str(tmp_path / name)], None, completer(**FACTS, model=MODEL))
    if file.error is not None:
        assert isinstance(file.error, InputError)
        assert name in file.error.message or file.error.message.startswith("--")
        assert "\n" not in file.error.message
        assert file.runs == []
    store_file(empty, file)
    assert count(empty, measured_runs) == file.added == len({new.digest() for new in file.runs})
    with empty.reading() as connection:
        query = sa.select(measured_runs, cases.c["input_len", "output_len"]).join(cases)
        for row in connection.execute(query).mappings():
            figures = [row[metric] for metric in ("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s")]
            assert any(figures)
            assert all(0 < figure < float("inf") for figure in figures if figure is not None)
            assert row["input_len"] > 0 < row["output_len"]
    with empty.writing() as connection:
        remove_runs(connection, ["*"])


def test_texts_that_no_database_takes_are_mended_or_refused(store: Store, tmp_path: Path) -> None:
    document = json.loads((FOLDER / "vllm.json").read_bytes())
    (tmp_path / "odd.json").write_text(json.dumps(document | {"label": "half \ud800 a\0pair"}))
    [file] = completed(tmp_path / "odd.json", gpu="B200")
    assert "label: text with an invisible character (U+D800)" in str(file.error)
    document |= {"note\0": "\udfff", "vllm_version": "0.19\0.1", "api_key": "geheim"}
    (tmp_path / "odd.json").write_text(json.dumps(document))
    imported(store, tmp_path / "odd.json", gpu="B200")
    with store.reading() as connection:
        row = connection.execute(sa.select(measured_runs)).mappings().one()
    assert row["server_version"] == "0.19.1"
    details = json.loads(row["details"])
    assert details["metadata"]["note\\x00"] == "?"
    assert "geheim" not in row["details"]


def test_a_broken_run_leaves_nothing_of_its_file(store: Store, tmp_path: Path) -> None:
    lines = (FOLDER / "vllm-appended.json").read_text().splitlines()
    (tmp_path / "cut.json").write_text("\n".join(lines[:3]) + "\n" + lines[3][:200])
    (tmp_path / "wrong.json").write_text("\n".join([*lines[:3], lines[3].replace("9000.0", '"slow"')]))
    shutil.copy(FOLDER / "llm-d.yaml", tmp_path / "sound.yaml")
    files = completed(*(tmp_path / name for name in ("cut.json", "sound.yaml", "wrong.json")))
    for file in files:
        store_file(store, file)
    assert [bool(file.error) for file in files] == [True, False, True]
    assert "cut.json:4:" in str(files[0].error)
    assert 'wrong.json:4: mean_ttft_ms: expected a number, got "slow"' in str(files[2].error)
    assert count(store, measured_runs) == 1


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FOLDER, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUSCOUT_DB", raising=False)
    return tmp_path


def test_the_command_end_to_end(folder: Path) -> None:
    done = gpuscout("import", "results/vllm.json", "results/genai-perf.json", "results/aiperf.json", cwd=folder)
    assert done.returncode == 2
    assert not (folder / "gpuscout.db").exists() or "1 run added" in done.stdout
    assert (
        "results/genai-perf.json: does not say the GPU, tensor parallelism, the server or the server's version"
        in done.stderr
    )
    assert "add --gpu NAME --tp N --server NAME --server-version VERSION" in done.stderr
    assert "results/aiperf.json: does not say tensor parallelism, the server or the server's version" in done.stderr
    (folder / "results" / "vllm.json").write_text('{"completed": ')
    done = gpuscout("import", *sorted((folder / "results").iterdir()), *FLAGS, "--json", cwd=folder)
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["refused"], document["added"]) == (1, 1, 18)
    assert [file["error"] for file in document["files"] if file["error"]] == [
        f"{folder / 'results' / 'vllm.json'}:1:15: not JSON: Expecting value"
    ]


def test_messages_and_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str) -> tuple[int, str, str]:
        code = execute(["import", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    assert command()[0] == 2
    assert command("vlm", "results/vllm.json")[::2] == (
        2,
        'unknown file or format "vlm"\n'
        "    did you mean vllm?   "
        "formats: vllm, guidellm, llm-d, aiperf, inference-perf, llm-optimizer, inferencex, csv\n",
    )
    assert "no files given for the format vllm" in command("vllm")[2]
    assert "cannot read none.json: No such file" in command("none.json")[2]
    assert 'unknown public runs "serving"' in command("public:serving")[2]
    assert command("public", "--tp", "2")[::2] == (
        2,
        "--tp: the public runs say this themselves\n    leave it out\n",
    )
    code, _, err = command("results/vllm.json", "--gpu", "H10O")
    assert code == 2
    assert err.startswith('unknown GPU "H10O"')
    assert not (folder / "gpuscout.db").exists()
    code, out, err = command("results/llm-optimizer.json", "results/llm-optimizer.jsonl")
    assert (code, out) == (2, "0 runs added, 0 already there, 2 files refused\n")
    assert err == (
        "results/llm-optimizer.json and 1 more file: does not say the server's version\n"
        "    add --server-version VERSION (or unknown), or --mapping FILE with them\n"
    )
    assert not (folder / "gpuscout.db").exists()
    code, out, err = command("csv", "results/runs.csv", "--dry-run")
    assert code == 0
    assert err.startswith("note: 1 run is over 2x off the estimate: results/runs.csv (tok/s ")
    assert "3 runs would be added, 0 already there" in out
    assert not (folder / "gpuscout.db").exists()
    code, out, _ = command("results/runs.csv", "results/vllm.json", "--server", "vllm")
    assert (code, out.splitlines()[-1]) == (0, "4 runs added, 0 already there")
    code, out, _ = command("results/runs.csv")
    assert (code, out.splitlines()[-1]) == (0, "0 runs added, 3 already there")
    code, out, _ = command("--list", "--json")
    assert [group["runs"] for group in json.loads(out)["imported"]] == [3, 1]
    assert "our lab" in command("--list")[1]
    code, _, err = command("--remove", "our lab")
    question = "remove 3 measured runs of results/runs.csv?"
    assert (code, err) == (2, f"cannot ask without a terminal: {question}\n    --yes removes without asking\n")
    code, out, _ = command("--remove", "our lab", "--yes")
    assert (code, out) == (0, "removed 3 measured runs; estimates are untouched\n")
    assert "no run was imported from our lab" in command("--remove", "our lab", "--yes")[2]
    assert "nothing to remove given" in command("--remove")[2]
