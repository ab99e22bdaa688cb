"""Server options and speculative decoding from the command line to the store, to answers, and out and in again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpuscout.runner.engines.aiconfigurator.engine import AIConfiguratorEngine
from gpuscout.runner.engines.base import Cost, MissingEngine
from gpuscout.runner.engines.llm_optimizer.engine import LlmOptimizerEngine
from gpuscout.runner.execution.evaluate import evaluate
from gpuscout.store.database.connect import open_store
from gpuscout.store.measured import MeasuredRun
from gpuscout.store.measured.runs import deployed
from gpuscout.store.measured.stored import store_runs, stored_runs
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.speculative import Speculative
from tests.support.in_process import gpuscout

DRAFTS = "draft_tokens=3 acceptance=0.7 draft_cost=0.05"
FLAGS = ["--server-option", "max_num_seqs=64,1024", "--speculative", "none", "--speculative", DRAFTS.replace(" ", ",")]


def answer(folder: Path, *arguments: str) -> dict[str, object]:
    done = gpuscout(*arguments, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def configurations(folder: Path, *arguments: str) -> list[tuple[str, str, float]]:
    """Options, drafts and USD/Mtok of what is recommended, best first."""
    (group,) = answer(folder, "recommend", "--top", "9", "--trust", "any", *arguments)["groups"]  # type: ignore[misc]
    return [(c["server_options"], c["speculative"], c["objective_value"]) for c in group["configurations"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with both axes."""
    path = tmp_path_factory.mktemp("started")
    done = gpuscout("run", "--model", "Qwen3-8B", "--gpu", "H100", "--tp", "1", *FLAGS, cwd=path)
    assert done.returncode == 0, done.stderr
    assert "draft3@0.7" in done.stdout
    return path


@pytest.mark.slow
def test_answers_show_and_filter_what_servers_are_started_with(folder: Path) -> None:
    everything = configurations(folder)
    assert {(options, drafts) for options, drafts, _ in everything} == {
        ("", ""), ("", DRAFTS), ("max_num_seqs=64", ""), ("max_num_seqs=64", DRAFTS),
    }  # fmt: skip
    # A default counts as the value that it is.
    assert {o for o, *_ in configurations(folder, "--server-option", "max_num_seqs=1024")} == {""}
    assert {o for o, *_ in configurations(folder, "--server-option", "max_num_seqs=64,7")} == {"max_num_seqs=64"}
    assert {d for _, d, _ in configurations(folder, "--speculative", "none")} == {""}
    assert {d for _, d, _ in configurations(folder, "--speculative", "draft_tokens=3")} == {DRAFTS}
    assert len(configurations(folder, "--speculative", "draft_tokens=3", "--speculative", "none")) == 4
    for wrong, told in (
        (["--server-option", "max_num_seqs=7"], "stored: max_num_seqs=1024, max_num_seqs=64"),
        (["--server-option", "max_num_seq=7"], 'did you mean "max_num_seqs"?'),
        (["--speculative", "draft_tokens=5"], f"stored: {DRAFTS}, none"),
        (["--speculative", "eagle"], "expected none, or NAME=VALUE"),
    ):
        refused = gpuscout("recommend", *wrong, cwd=folder)
        assert (refused.returncode, told in " ".join(refused.stderr.split())) == (2, True), refused.stderr
    rows = answer(
        folder,
        "query",
        "--speculative",
        "draft_tokens=3",
        "--limit",
        "99",
        "--columns",
        "server_options,speculative,itl_ms",
    )
    assert {(row["server_options"], row["speculative"]) for row in rows["points"]} == {  # type: ignore[attr-defined]
        (None, DRAFTS), ("max_num_seqs=64", DRAFTS)
    }  # fmt: skip


def test_tables_and_comparisons_tell_them_apart(folder: Path) -> None:
    table = gpuscout("query", "--speculative", "draft_tokens=3", "--limit", "99", cwd=folder).stdout
    assert ("server options" in table, "drafts" in table, "draft3@0.7" in table) == (True, True, True)
    plain = gpuscout("query", "--server-option", "max_num_seqs=1024", "--speculative", "none", cwd=folder).stdout
    assert ("server options" in plain, "drafts" in plain) == (False, False)
    for sides, status in (
        (("drafts:none", "drafts:draft_tokens=3"), "better"),
        (("option:max_num_seqs=1024", "option:max_num_seqs=64"), "worse"),
    ):
        found = answer(folder, "compare", *sides, "--trust", "any")
        assert {change["status"] for change in found["configurations"]} == {status}  # type: ignore[attr-defined]
        assert (found["configurations_added"], found["configurations_vanished"]) == (0, 0)
    for sides, told in (
        (("option:max_num_seqs=64", "option:max_num_seqs=7"), "stored: max_num_seqs=1024, max_num_seqs=64"),
        (("drafts:none", "server:vllm"), "not of one kind"),
        (("option:", "option:max_num_seqs=7"), "lacks a name"),
    ):
        refused = gpuscout("compare", *sides, cwd=folder)
        assert (refused.returncode, told in " ".join(refused.stderr.split())) == (2, True), refused.stderr
    left = gpuscout("compare", "drafts:none", "drafts:draft_tokens=3", "--speculative", "none", cwd=folder)
    assert "--speculative cannot be combined with these sides" in left.stderr


@pytest.mark.slow
def test_every_answer_says_that_drafts_were_not_checked(folder: Path) -> None:
    said = "not checked against measurements"
    for command in (
        ("recommend", "--trust", "any"),
        ("recommend", "--trust", "any", "--explain"),
        ("recommend", "--trust", "any", "--csv"),
        ("recommend", "--trust", "any", "--json"),
        ("query",),
        ("query", "--json"),
        ("pareto",),
        ("pareto", "--json"),
        ("capacity", "--rate", "5", "--trust", "any"),
        ("capacity", "--rate", "5", "--trust", "any", "--json"),
        ("deploy", "--trust", "any", "--draft", "ngram"),
    ):
        with_drafts = gpuscout(*command, "--speculative", "draft_tokens=3", cwd=folder)
        assert with_drafts.returncode == 0, with_drafts.stderr
        assert said in " ".join((with_drafts.stdout + with_drafts.stderr).split()), (command, with_drafts.stdout)
    plain = gpuscout("recommend", "--speculative", "none", "--trust", "any", cwd=folder)
    assert said not in " ".join(plain.stdout.split())
    compared = gpuscout("compare", "drafts:none", "drafts:draft_tokens=3", "--trust", "any", "--json", cwd=folder)
    assert said in compared.stdout


def test_no_measured_run_backs_a_drafted_estimate(folder: Path) -> None:
    for drafts, backed in (("none", True), ("draft_tokens=3", False)):
        (group,) = answer(folder, "recommend", "--speculative", drafts, "--top", "9")["groups"]  # type: ignore[misc]
        assert {config["backed"] for config in group["configurations"]} == {backed}
        for config in group["configurations"]:
            assert (config["trust"] is not None, config["objective_low"] is not None) == (backed, backed)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_exports_bring_them_back(folder: Path, form: str, tmp_path: Path) -> None:
    file = tmp_path / f"out.{form}"
    assert gpuscout("export", "--format", form, "--output", str(file), cwd=folder).returncode == 0
    imported = gpuscout("import", str(file), cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    assert sorted(configurations(tmp_path)) == sorted(configurations(folder))
    table = gpuscout("export", "--format", "csv", "--output", "-", cwd=folder).stdout
    assert {(row["server_options"], row["speculative"]) for row in csv.DictReader(table.splitlines())} == {
        ("", ""), ("", DRAFTS), ("max_num_seqs=64", ""), ("max_num_seqs=64", DRAFTS)
    }  # fmt: skip
    if form == "jsonl":
        changed = tmp_path / "changed.jsonl"
        changed.write_text(file.read_text().replace("acceptance=0.7", "acceptance=0.9"))
        refused = gpuscout("import", str(changed), "--db", "other.db", cwd=tmp_path)
        assert (refused.returncode, "case_digest: not that of the case" in refused.stderr) == (2, True)
        changed.write_text(file.read_text().replace("max_num_seqs=64", "max_num_sequences=64"))
        refused = gpuscout("import", str(changed), "--db", "other.db", cwd=tmp_path)
        assert (refused.returncode, "server_options: invalid server options" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_copies_hold_them_and_the_sweep_is_not_computed_again(folder: Path, tmp_path: Path) -> None:
    assert (
        gpuscout("db", "copy", f"sqlite:///{folder}/gpuscout.db", "sqlite:///gpuscout.db", cwd=tmp_path).returncode == 0
    )
    assert configurations(tmp_path) == configurations(folder)
    again = gpuscout("run", "--model", "Qwen3-8B", "--gpu", "H100", "--tp", "1", *FLAGS, cwd=tmp_path)
    assert "nothing to compute: all 4 tasks" in again.stderr


def test_what_was_measured_so_stands_beside_its_own_estimates(folder: Path, tmp_path: Path) -> None:
    """Runs of cases with options and drafts: neither stands for the plain configuration."""
    copied = tmp_path / "gpuscout.db"
    copied.write_bytes((folder / "gpuscout.db").read_bytes())
    plain = Case(ModelCatalogue.load().get("Qwen/Qwen3-8B"), GPUCatalogue.load().get("H100-SXM-80GB"), 1024, 512)
    with open_store(str(copied)) as store, store.writing() as connection:
        cases = (
            replace(plain, server_options=(("max_num_seqs", 64),)),
            replace(plain, speculative=Speculative(3, 0.7, 0.05)),
        )
        runs = [
            MeasuredRun(
                id="", **deployed(case), server_version="0.23", source="here", measured_on="2026-11-01", concurrency=16,
                ttft_ms=90.0, itl_ms=10.0 + number, output_tokens_per_s=1500.0, details={"run": str(number)}, case=case,
            )
            for number, case in enumerate(cases)
        ]  # fmt: skip
        assert store_runs(connection, runs) == [True, True]
        (compared,) = stored_runs(connection)
        assert (compared.itl_ms, compared.server_options) == (10.0, (("max_num_seqs", 64),))
    (group,) = answer(tmp_path, "recommend", "--top", "9", "--trust", "any", "--no-slo")["groups"]  # type: ignore[misc]
    kinds = {(c["server_options"], c["speculative"]): c["kind"] for c in group["configurations"]}
    assert [kinds["max_num_seqs=64", ""], kinds["", DRAFTS]] == ["measured"] * 2
    assert [kinds["", ""], kinds["max_num_seqs=64", DRAFTS]] == ["estimated"] * 2
    told = gpuscout(
        "recommend", "--speculative", "draft_tokens=3", "--server-option", "max_num_seqs=1024", cwd=tmp_path
    )
    assert ("extended: 1 run" in told.stdout.replace("\xa0", " "), "not checked" in told.stdout) == (True, False)


def test_engines_that_know_nothing_of_them_refuse() -> None:
    h100 = GPUCatalogue.load().get("H100-SXM-80GB")
    plain = Case(ModelCatalogue.load().get("Qwen/Qwen3-8B"), h100, 1024, 256)
    cases = CaseColumns.of(
        [
            Case(plain.model, h100, 1024, 256, server_options=(("max_num_seqs", 8),)),
            Case(plain.model, h100, 1024, 256, speculative=Speculative(3, 0.7, 0.05)),
        ]
    )
    for engine in (AIConfiguratorEngine(), LlmOptimizerEngine()):
        curves = evaluate(engine, cases, np.array([1]))
        assert [OUTCOMES[code] for code in curves.outcome] == [Outcome.NOT_SUPPORTED] * 2
        assert "does not take server options into account: max_num_seqs=8" in curves.details[0]
        assert "does not take speculative decoding into account: draft_tokens=3" in curves.details[1]
    # One that is not there fails for that: its tasks are tried again once it is installed.
    missing = evaluate(MissingEngine("x", "not installed", cost=Cost.CHEAP, options={}), cases, np.array([1]))
    assert [OUTCOMES[code] for code in missing.outcome] == [Outcome.ENGINE_MISSING] * 2
