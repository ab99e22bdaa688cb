"""How sure an answer is stands in every form of it, and tables fit the terminals that they are read in."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from gpuscout import recommend_gpus, run
from gpuscout.runner.cli.main import execute
from gpuscout.runner.cli.show.fitted import FittedColumn, bare_names, fitted, shortened
from gpuscout.store.database.connect import open_store
from gpuscout.sweeps.spec.spec import spec_from_mapping
from gpuscout.sweeps.trust import ObservedError, Trust
from tests.support.rank_stores import LENGTHS, a_run, an_answer, fill

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden"
MODELS = [
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen3-32B-FP8",
    "Qwen/Qwen3-30B-A3B",
    "mistralai/Mixtral-8x7B-v0.1",
    "openai/gpt-oss-120b",
    "nvidia/Qwen3-235B-A22B-NVFP4",
    "deepseek-ai/DeepSeek-V3",
]
ASKED = ("--model", "Qwen3-32B", "--workload", "chat", "--slo", "itl<=50ms", "--slo", "ttft<=1s")


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten models on six GPU types under two workloads."""
    url = f"sqlite:///{tmp_path_factory.mktemp('certainty') / 'gpuscout.db'}"
    gpus = ["H100", "H200", "B200", "L4", "MI300X", "RTX PRO 6000 Blackwell Server"]
    spec = {
        "name": "ten",
        "models": MODELS,
        "gpus": gpus,
        "tensor_parallel": [1, 2, 4, 8],
        "workloads": ["chat", "rag", "summarization"],
        "concurrency": [1, 8, 32, 128, 512],
        "slo": "itl<=50ms",
    }
    with open_store(url, create=True) as store:
        run(spec_from_mapping(spec), store)
    return url


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert execute([*arguments]) == 0
    return capsys.readouterr().out


# --- nothing lacks kind and range --------------------------------------------------------------------------------


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_row_of_csv_has_its_kind_and_range(quickstart: str, capsys: pytest.CaptureFixture[str]) -> None:
    db = ("--db", quickstart)
    for row in rows_of(said(capsys, "recommend", *db, *ASKED, "--top", "4", "--csv")):
        assert row["kind"] == "estimated"
        assert float(row["objective_low"]) < float(row["objective_value"]) < float(row["objective_high"])
        assert 0 < float(row["limits_met"]) < 1
        assert row["backed"] in ("true", "false")
    for row in rows_of(said(capsys, "capacity", *db, *ASKED, "--rate", "50", "--csv")):
        assert row["kind"] == "estimated"
        assert float(row["usd_per_month_low"]) <= float(row["usd_per_month"]) <= float(row["usd_per_month_high"])
        assert row["backed"] in ("true", "false")
        assert not row["safe_gpus"] or int(row["safe_gpus"]) >= int(row["gpus"])
    for row in rows_of(said(capsys, "pareto", *db, *ASKED[:4], "--csv", "--metrics", "cost,interactivity,ttft")):
        assert row["kind"] == "estimated"
        for axis in ("usd_per_mtok", "output_tokens_per_s_per_user", "ttft_ms"):
            assert float(row[f"{axis}_low"]) < float(row[axis]) < float(row[f"{axis}_high"])


def test_every_document_has_kind_range_and_trust(quickstart: str, capsys: pytest.CaptureFixture[str]) -> None:
    db = ("--db", quickstart)

    def check(config: dict[str, Any]) -> None:
        assert config["kind"] == "estimated"
        assert config["objective_low"] < config["objective_value"] < config["objective_high"]
        assert [0 < limit["probability"] < 1 for limit in config["limits"]] == [True, True]
        assert config["trust"] is None or {"near", "own_family", "median_error", "p90_error"} <= config["trust"].keys()

    document = json.loads(said(capsys, "recommend", *db, *ASKED, "--json"))
    (group,) = document["groups"]
    assert (document["trust"], document["confidence"]) == ("prefer", 0.5)
    assert (document["question"]["models"], document["question"]["workload"]) == (["Qwen3-32B"], "chat")
    for config in (*group["configurations"], *group["best_per_gpu"], group["unproven"]):
        check(config)
    # The headline is backed; what would be cheaper is not, and says by how much.
    assert (group["is_backed"], group["configurations"][0]["backed"]) == (True, True)
    assert (group["unproven"]["backed"], group["unproven"]["behind_best"] < 0) == (False, True)
    assert {seller["gpu"] for seller in group["sellers"]} <= {"H100-SXM-80GB", "H200-SXM-141GB"}
    check(json.loads(said(capsys, "deploy", *db, *ASKED, "--json"))["configuration"])
    (sized,) = json.loads(said(capsys, "capacity", *db, *ASKED, "--rate", "50", "--json"))["groups"]
    for plan in sized["best_per_gpu"]:
        assert plan["kind"] == "estimated"
        assert plan["usd_per_month_low"] <= plan["usd_per_month"] <= plan["usd_per_month_high"]
        assert [limit["probability"] > 0 for limit in plan["limits"]] == [True, True]
    points = json.loads(said(capsys, "pareto", *db, *ASKED[:4], "--json"))["points"]
    assert all(point["kind"] == "estimated" and point["usd_per_mtok_low"] < point["usd_per_mtok"] for point in points)


def test_every_table_has_its_ranges(quickstart: str, capsys: pytest.CaptureFixture[str]) -> None:
    db = ("--db", quickstart)
    for command in (["recommend"], ["capacity", "--rate", "50"]):
        shown = said(capsys, *command, *db, *ASKED)
        assert "(80 % range)" in shown
        assert "–" in shown
        assert "estimated: " in shown
    assert "(80 % range)" in said(capsys, "pareto", *db, *ASKED[:4])
    markdown = said(capsys, "recommend", *db, *ASKED, "--md")
    assert all(
        part in markdown for part in ("low (80 %)", "high (80 %)", "limits met", "kind", "trust", "USD/h per GPU")
    )
    assert "safe USD/month (90 %)" in said(capsys, "capacity", *db, *ASKED, "--rate", "50", "--md")
    assert execute(["deploy", *db, *ASKED]) == 0
    told = capsys.readouterr().err
    assert "USD/Mtok (80 % range); " in told
    assert "limits: " in told


def test_python_has_kind_range_and_what_is_unproven() -> None:
    found = recommend_gpus("Qwen/Qwen3-32B", gpus=["H200", "MI300X"], slos="itl<=50ms")
    for item in found:
        if item.estimate is not None:
            told = item.estimate.to_dict()
            assert told["kind"] == "estimated"
            assert told["cost_usd_per_mtok_low"] < told["cost_usd_per_mtok"] < told["cost_usd_per_mtok_high"]
            assert isinstance(item.backed, bool)
    assert "(" in found.summary()
    assert "if its estimate holds" in found.summary()


def test_confidence_is_one_line_on_which_cautious_is_a_point(
    quickstart: str, capsys: pytest.CaptureFixture[str]
) -> None:
    db = ("--db", quickstart, *ASKED, "--gpu", "H200", "--json")

    def best(*arguments: str) -> dict[str, Any]:
        (group,) = json.loads(said(capsys, "recommend", *db, *arguments))["groups"]
        found: dict[str, Any] = group["configurations"][0]
        return found

    costs = [best("--confidence", text)["objective_value"] for text in ("0.5", "0.7", "0.9", "0.95")]
    assert costs == sorted(costs)
    assert best() == best("--confidence", "0.5")
    assert best("--cautious") == best("--confidence", "0.9")
    for confidence in (0.7, 0.9):
        probabilities = [limit["probability"] for limit in best("--confidence", str(confidence))["limits"]]
        assert min(probabilities) >= confidence - 0.01
    for wrong in (("--confidence", "0.3"), ("--confidence", "1"), ("--cautious", "--confidence", "0.9")):
        assert execute(["recommend", *db, *wrong]) == 2
        assert "confidence" in capsys.readouterr().err


# --- what fits the terminal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_ten_models_take_24_lines(
    quickstart: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (["recommend"], ["recommend", "--workload", "chat"], ["recommend", "--workload", "rag"]):
        lines = said(capsys, *arguments, "--db", quickstart).splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= columns
        rows = [line for line in lines if " x1 " in line or " x2 " in line or " x4 " in line or " x8 " in line]
        assert len(rows) == len(MODELS)
        # Rows can be told apart by their names.
        assert len({row.split()[0] for row in rows}) == len(MODELS)
    for arguments in (["capacity", "--rate", "50"], ["recommend", "--top", "4"]):
        lines = said(capsys, *arguments, "--db", quickstart, *ASKED).splitlines()
        assert max(map(len, lines)) <= columns


def test_names_are_cut_so_that_they_stay_different() -> None:
    names = ["meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.3-70B-Instruct", "Qwen/Qwen3-32B"]
    assert bare_names([*names, "other/Qwen3-32B"])["Qwen/Qwen3-32B"] == "Qwen/Qwen3-32B"
    assert bare_names(names)["Qwen/Qwen3-32B"] == "Qwen3-32B"
    for width in range(8, 34):
        short = shortened(names, width)
        assert len(set(short.values())) == len(names)
        assert max(map(len, short.values())) <= width
    # Where every cut leaves some alike, they are numbered.
    alike = [f"{'a' * 20}{middle}{'z' * 20}" for middle in "123"]
    assert set(shortened(alike, 8).values()) == {"aaaaaa…1", "aaaaaa…2", "aaaaaa…3"}
    lines = fitted(
        [
            FittedColumn("name", names, least=10),
            FittedColumn("kept", ["1", "22", "333"], right=True),
            FittedColumn("dropped", ["x" * 9] * 3, drop=1),
        ],
        26,
    )
    assert lines[0].split() == ["name", "kept"]
    assert max(map(len, lines)) <= 26


# --- golden tables -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with figures, intervals and errors that no engine has, so that no fit changes the tables."""
    url = f"sqlite:///{tmp_path_factory.mktemp('golden') / 'gpuscout.db'}"

    def answer(gpu: str, tokens: float, **how: Any) -> dict[str, Any]:
        points = {
            8: {"regime": 0, "output_tokens_per_s": tokens / 3, "itl_ms": 12.0},
            64: {"regime": 0, "output_tokens_per_s": tokens, "itl_ms": 40.0, "ttft_ms": 400.0},
        }
        return an_answer(gpu=gpu, in_sweep=True, points=points, **how)

    answers = [answer("H100", 2400.0), answer("L4", 300.0), answer("L40S", 1200.0)]
    answers += [answer(gpu, 800.0, model="b/One-v2", tensor_parallel=2) for gpu in ("H100", "L40S")]
    answers += [answer(gpu, tokens, lengths=LENGTHS[1]) for gpu, tokens in (("H100", 900.0), ("L4", 150.0))]
    runs = [a_run(model="a/Two", gpu="L4", output_tokens_per_s=110.0)]
    intervals = {0: {"ttft_ms": (0.6, 2.0), "itl_ms": (0.8, 1.25), "output_tokens_per_s": (0.8, 1.2)}}
    seen = (64, 64, "output_tokens_per_s", 40, 3, 0.08, 0.25, 0.0, "fp8", "single", 1, 1)
    whole = (1, None, "output_tokens_per_s", 30, 3, 0.22, 0.66, 0.0)
    errors = (ObservedError("Ada", "dense", *seen), ObservedError("NVIDIA", "dense", *whole))
    with open_store(url, create=True) as store, store.writing() as connection:
        fill(connection, answers, runs, {"roofline": Trust(intervals, errors)})
    return url


PRICED = ("--price", "H100=2.50", "--price", "L4=0.70", "--price", "L40S=1.90")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("matrix", ["recommend", "--no-slo"]),
        ("one-workload", ["recommend", "--workload", "chat", "--slo", "itl<=45ms"]),
        ("one-model", ["recommend", "--workload", "chat", "--model", "One", "--slo", "itl<=45ms", "--top", "3"]),
        ("explained", ["recommend", "--workload", "chat", "--model", "One", "--slo", "itl<=45ms", "--explain"]),
        ("capacity", ["capacity", "--workload", "chat", "--model", "One", "--slo", "itl<=45ms", "--rate", "30"]),
    ],
)
def test_tables_of_80_columns(
    made_up: str, name: str, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`GPUSCOUT_GOLDEN=write` writes the files anew: read what changed before you commit it."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = said(capsys, *arguments, "--db", made_up, *PRICED)
    assert max(map(len, shown.splitlines())) <= 80
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("GPUSCOUT_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")


def test_a_family_with_one_model_is_not_called_unmeasured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs say too little of other models to back them, but they are there."""
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    points = {64: {"regime": 0, "output_tokens_per_s": 1000.0}}
    answers = [an_answer(gpu=gpu, in_sweep=True, points=points) for gpu in ("H100", "L40S")]
    near = ObservedError("Ada", "dense", 64, 64, "output_tokens_per_s", 40, 3, 0.1, 0.2, 0.0, "fp8", "single", 1, 1)
    alone = ObservedError("Hopper", "dense", 9, 64, "output_tokens_per_s", 21, 1, 0.1, 0.2, 0.0)
    with open_store(url, create=True) as store, store.writing() as connection:
        fill(connection, answers, [], {"roofline": Trust({0: {"output_tokens_per_s": (0.8, 1.2)}}, (near, alone))})
    asked = ("recommend", "--db", url, "--no-slo", "--price", "H100=1.50", "--price", "L40S=1.90", "--top", "2")
    shown = " ".join(said(capsys, *asked).split())
    assert "if its estimate holds (0.42 (0.35–0.52) USD/Mtok); Hopper was measured with one dense model only" in shown
    assert "(21 runs at 9 to 64 in flight)" in shown
    assert "nobody has measured" not in shown


def test_what_looks_twice_as_good_is_to_be_measured_first(made_up: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing measured is near the H100; at a price of its own it would cost less than half of what is backed."""
    cheap = ("--db", made_up, "--price", "H100=0.50", *PRICED[2:], "--no-slo")
    one = [*cheap, "--workload", "chat", "--model", "One"]
    (group,) = json.loads(said(capsys, "recommend", *one, "--json"))["groups"]
    assert (group["measure_first"], group["unproven"]["gpu"]) == (True, "H100")
    assert group["unproven"]["objective_value"] * 2 < group["configurations"][0]["objective_value"]
    shown = " ".join(said(capsys, "recommend", *one).split())
    assert "MEASURE BEFORE YOU BUY: H100 x1 fp8 kv-fp8 would be 87 % cheaper if" in shown
    assert "to measure it: gpuscout recommend --model a/One --workload chat --no-slo --measure-top 1" in shown
    matrix = " ".join(said(capsys, "recommend", *cheap).split())
    assert "MEASURE BEFORE YOU BUY: less than half the cost if they hold for 2 of 4 (<<), most for One: gp" in matrix
    assert "< an unmeasured one looks cheaper << by more than half" in matrix
    (group,) = json.loads(said(capsys, "recommend", "--db", made_up, *PRICED, *one[-4:], "--json"))["groups"]
    assert (group["measure_first"], group["unproven"] is None) == (False, False)
    assert "MEASURE BEFORE" not in said(capsys, "recommend", "--db", made_up, *PRICED, *one[-4:])
