"""No form of an answer is without the kind of its figures and the ranges of those that rank."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpuscout import recommend_gpus
from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import open_store
from gpuscout.sweeps.trust import ObservedError, Trust
from tests.support.rank_stores import a_run, an_answer, fill

pytestmark = pytest.mark.slow

INTERVALS = {0: {"ttft_ms": (0.6, 2.0), "itl_ms": (0.8, 1.25), "output_tokens_per_s": (0.8, 1.2)}}
PRICED = ("--price", "H100=2.50", "--price", "L4=0.70", "--price", "L40S=1.90")
ASKED = ("--model", "One", "--workload", "chat", "--slo", "itl<=45ms", *PRICED)
ANSWERS = {
    "recommend": ("recommend", *ASKED, "--top", "3"),
    "capacity": ("capacity", *ASKED, "--rate", "30"),
    "users": ("capacity", *ASKED, "--users", "100"),
    "load": ("capacity", *ASKED, "--load", "0=30,600=5,1200="),
    "batch": ("capacity", *ASKED[:4], *PRICED, "--no-slo", "--batch", "1000", "--within", "8h"),
    "pareto": ("pareto", *ASKED),
    "query": ("query", *ASKED),
    "compare": ("compare", "now", "price:H100=0.40", *ASKED),
}
# The figure that each one ranks by.
RANKS_BY = {
    "recommend": "objective_value",
    "capacity": "usd_per_month",
    "users": "usd_per_month",
    "pareto": "usd_per_mtok",
    "query": "usd_per_mtok",
    "compare": "objective_value",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Estimates on three GPU types with ranges, and a measured run on the cheapest of them."""
    url = f"sqlite:///{tmp_path_factory.mktemp('kinds') / 'gpuscout.db'}"

    def answer(gpu: str, tokens: float) -> dict[str, Any]:
        slow = {"regime": 0, "output_tokens_per_s": tokens / 3, "requests_per_s": tokens / 1536, "itl_ms": 12.0}
        fast = {"regime": 0, "output_tokens_per_s": tokens, "requests_per_s": tokens / 512, "itl_ms": 40.0}
        return an_answer(gpu=gpu, in_sweep=True, points={8: slow, 64: fast | {"ttft_ms": 400.0}})

    seen = (64, 64, "output_tokens_per_s", 40, 3, 0.08, 0.25, 0.0, "fp8", "single", 1, 1)
    trust = Trust(INTERVALS, (ObservedError("Ada", "dense", *seen),))
    answers = [answer("H100", 2400.0), answer("L4", 300.0), answer("L40S", 1200.0)]
    runs = [a_run(gpu="L4", concurrency=64, output_tokens_per_s=250.0, itl_ms=41.0)]
    with open_store(url, create=True) as store, store.writing() as connection:
        fill(connection, answers, runs, {"roofline": trust})
    return url


def said(capsys: pytest.CaptureFixture[str], database: str, *arguments: str) -> str:
    capsys.readouterr()
    assert execute([*arguments, "--db", database]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ANSWERS)
def test_tables(database: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, database, *ANSWERS[name])
    assert "80 %" in shown
    assert "–" in shown
    assert "estimated" in shown or "(measured)" in shown


@pytest.mark.parametrize("name", ANSWERS)
def test_rows_of_csv(database: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(said(capsys, database, *ANSWERS[name], "--csv"))))
    kinds = [column for column in rows[0] if column == "kind" or column.endswith("_kind")]
    assert kinds
    for row in rows:
        assert {row[column].partition(",")[0] for column in kinds} <= {"estimated", "measured", ""}
    low = [column for column in rows[0] if column.endswith("_low")]
    estimates = [row for row in rows if any(row[column].startswith("estimated") for column in kinds)]
    assert estimates
    for row in estimates:
        assert any(row[column] and float(row[column]) < float(row[f"{column[:-4]}_high"]) for column in low)


@pytest.mark.parametrize("name", ANSWERS)
def test_markdown(database: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    head = said(capsys, database, *ANSWERS[name], "--md").splitlines()[0]
    assert "kind" in head
    assert "80 %" in head or "low" in head


@pytest.mark.parametrize("name", RANKS_BY)
def test_documents(database: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    figure = RANKS_BY[name]
    ranked = list(_that_have(json.loads(said(capsys, database, *ANSWERS[name], "--json")), figure))
    assert ranked
    for one in ranked:
        assert one["kind"] in ("estimated", "measured")
        low, high = (one[f"{figure.removesuffix('_value')}_{end}"] for end in ("low", "high"))
        if one["kind"] == "estimated":
            assert low <= one[figure] <= high
            assert low < high or figure == "usd_per_month"  # so few replicas that both ends need as many


def _that_have(value: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """The mappings of a document that have a key."""
    if isinstance(value, Mapping):
        if value.get(key) is not None:
            yield value
        for part in value.values():
            yield from _that_have(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _that_have(part, key)


@pytest.mark.parametrize("more", [(), ("--json",), ("--format", "kubernetes")])
def test_launch_commands(
    database: str,
    more: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("deploy", *ASKED, "--gpu", "L40S", "--db", database)
    capsys.readouterr()
    assert execute([*asked, *more]) == 0
    told = capsys.readouterr()
    if "--json" in more:
        config = json.loads(told.out)["configuration"]
        assert config["kind"] == "estimated"
        assert config["objective_low"] < config["objective_value"] < config["objective_high"]
    else:
        assert "(80 % range)" in told.err
        assert "estimated" in told.err


@pytest.mark.parametrize("command", [("pareto", *ASKED), ("query", *ASKED)])
def test_plots(database: str, command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, database, *command, "--plot", str(tmp_path / "plot.svg"))
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "estimated" in drawn
    assert "measured" in drawn
    assert "80 %" in drawn


def test_python_says_where_no_limit_was_asked() -> None:
    free = recommend_gpus("Qwen/Qwen3-8B", gpus=["L40S"], max_gpus=1)
    for text in (free.summary(), free._repr_html_(), repr(free)):
        assert "no latency limit was asked" in text
        assert "slos" in text
    limited = recommend_gpus("Qwen/Qwen3-8B", gpus=["L40S"], max_gpus=1, slos="itl<=50ms")
    by_memory = recommend_gpus("Qwen/Qwen3-8B", gpus=["L40S"], max_gpus=1, with_estimates=False)
    for found in (limited, by_memory):
        assert "no latency limit" not in found.summary() + repr(found)


def test_python() -> None:
    found = recommend_gpus("Qwen/Qwen3-8B", gpus=["H200", "L40S"], slos="itl<=50ms", max_gpus=1)
    for text in (found.summary(), found._repr_html_()):
        assert "80 %" in text
        assert re.search(r"\d \(\d[\d.]*–\d[\d.]*\)", text)
        assert "estimated" in text
    for item in found:
        assert item.estimate is not None
        told = item.estimate.to_dict()
        assert told["kind"] == "estimated"
        for figure in ("cost_usd_per_mtok", "ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s"):
            assert told[f"{figure}_low"] < told[figure] < told[f"{figure}_high"]
