"""What was guessed of a model is said by every command that answers about it, and keeps others' errors from it."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from gpuscout.runner.cli.main import execute
from gpuscout.runner.engines.roofline.uncertainty import APPROXIMATE_FACTOR

pytestmark = pytest.mark.slow

WIDGET = {
    "model_type": "widget",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
}
SAID = "widget: approximate (model_type widget is not known"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A model of no known family and a known one of the same figures, run on one GPU: the store, and the flags."""
    folder = tmp_path_factory.mktemp("widget")
    (folder / "widget").mkdir()
    (folder / "widget" / "config.json").write_text(json.dumps(WIDGET), encoding="utf-8")
    db = f"sqlite:///{folder}/store.db"
    flags = ["--model", f"{folder}/widget", "--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--tp", "1"]
    flags += ["--input-len", "1024", "--output-len", "256", "--concurrency", "1,16", "--db", db]
    assert execute(["run", *flags, "--json"]) == 0
    return db, flags


def told(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints, lines that the terminal folded put together again."""
    capsys.readouterr()
    assert execute(command) == 0
    return " ".join(" ".join(capsys.readouterr()).split())


def test_every_command_says_it(sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    db, flags = sweep
    model = ["--model", "widget", "--db", db]
    commands = [
        ["run", *flags],
        ["plan", *flags],
        ["recommend", "--db", db],
        ["recommend", "--md", "--db", db],
        ["capacity", "--rate", "5", *model],
        ["deploy", *model],
        *(["capacity", "--load", "0:00=2,8:00=4", *model, *form] for form in ([], ["--csv"], ["--md"])),
        *(["capacity", "--batch", "1M", "--within", "8h", *model, *form] for form in ([], ["--csv"], ["--md"])),
        *(["place", "--have", "H100=8", "--rate", "2", *model, *form] for form in ([], ["--csv"], ["--md"])),
        *(["compare", "api:Groq/gpt-oss-120b", *model, *form] for form in ([], ["--csv"], ["--md"])),
        *(["compare", "now", "price:H100=1", *model, *form] for form in ([], ["--csv"], ["--json"])),
        *(["recommend", "--have", "H100=8", *model, *form] for form in ([], ["--csv"], ["--json"])),
        ["fit", flags[1], "H100", "--db", db],
        ["models", "show", flags[1], "--db", db],
    ]
    for command in commands:
        text = told(command, capsys)
        assert SAID.partition(": ")[2].partition(" (")[2] in text, command
        assert "Qwen3-8B: approximate" not in text, command


def test_documents_and_rows_hold_it(sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    db, flags = sweep
    document = json.loads(told(["recommend", "--json", "--db", db], capsys))
    caveats = {group["model"]: group["caveats"] for group in document["groups"]}
    assert caveats["Qwen/Qwen3-8B"] == []
    assert caveats["widget"][0].startswith(SAID)
    capsys.readouterr()
    assert execute(["recommend", "--csv", "--db", db]) == 0
    rows = {row["model"]: row["caveats"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert (rows["Qwen/Qwen3-8B"], rows["widget"].startswith(SAID)) == ("", True)
    for command in (["plan", *flags, "--json"], ["deploy", "--model", "widget", "--db", db, "--json"]):
        assert SAID in told(command, capsys)
    fitted = json.loads(told(["fit", flags[1], "H100", "--db", db, "--json"], capsys))
    assert fitted["fit"]["caveats"][0].startswith(SAID)
    sized = json.loads(told(["capacity", "--rate", "5", "--model", "widget", "--db", db, "--json"], capsys))
    assert sized["groups"][0]["caveats"][0].startswith(SAID)


def test_rows_of_tables_are_marked(sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    db, _ = sweep
    for command in (
        ["recommend"],
        ["capacity", "--rate", "5"],
        ["capacity", "--load", "0:00=2,8:00=4"],
        ["capacity", "--batch", "1M", "--within", "8h"],
        ["place", "--have", "H100=8", "--rate", "2"],
    ):
        text = told([*command, "--db", db], capsys).replace("\u00a0", " ")
        assert "# architecture guessed" in text, command
        rows = text.split("H100 x1 bf16 ")[1:]
        assert any(row.lstrip().startswith(("?#", "#")) for row in rows), command
        assert any(not row.lstrip().startswith(("?#", "#")) for row in rows), command


def test_points_of_a_guessed_model_are_marked(sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    db, _ = sweep
    for command in ("query", "pareto"):
        points = json.loads(told([command, "--json", "--db", db], capsys))["points"]
        assert {(point["model"], point["approximate"]) for point in points} == {
            ("Qwen/Qwen3-8B", False),
            ("widget", True),
        }
        assert "model guessed" in told([command, "--model", "widget", "--db", db], capsys)
        assert "model guessed" not in told([command, "--model", "Qwen3-8B", "--db", db], capsys)


def test_its_range_is_wider_and_no_error_of_known_families_is_its_own(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    db, _ = sweep
    groups = json.loads(told(["recommend", "--json", "--db", db], capsys))["groups"]
    best: dict[str, dict[str, Any]] = {group["model"]: group["configurations"][0] for group in groups}
    known, guessed = best["Qwen/Qwen3-8B"], best["widget"]
    assert known["trust"] is not None
    assert guessed["trust"] is None
    for metric in ("ttft_ms", "itl_ms", "output_tokens_per_s"):
        for end in ("low", "high"):
            of_known = math.log(known[f"{metric}_{end}"] / known[metric])
            of_guessed = math.log(guessed[f"{metric}_{end}"] / guessed[metric])
            assert abs(of_guessed) == pytest.approx(math.hypot(of_known, math.log(APPROXIMATE_FACTOR)))


def test_what_an_engine_does_not_support_changes_no_winner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An open loop is answered by the simulator alone: the roofline has no other winner there, but none."""
    spec = {"models": ["Qwen/Qwen3-8B"], "gpus": ["H200"], "load": "request_rate", "request_rate": [1]}
    spec |= {"workloads": [{"name": "live", "input_len": 256, "output_len": 32, "arrivals": "poisson"}]}
    db = ("--db", f"sqlite:///{tmp_path / 'gpuscout.db'}")
    for engine in ("simulator", "roofline"):
        (tmp_path / "spec.json").write_text(json.dumps(spec | {"name": engine, "engine": engine}))
        execute(["run", str(tmp_path / "spec.json"), *db])
    capsys.readouterr()
    for sides, refused in ((("simulator", "roofline"), "B"), (("roofline", "simulator"), "A")):
        asked = ["compare", *(f"engine:{side}" for side in sides), *db]
        assert execute(asked) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"{refused} has no answer for 1 pair of model and workload: roofline answers for closed loops" in shown
        assert "the winner changes" not in shown
        assert execute([*asked, "--json"]) == 0
        (winner,) = json.loads(capsys.readouterr().out)["winners"]
        assert not winner["changes"]
        assert not winner["changes_gpu"]
