"""Forms of output: CSV, Markdown and JSON hold the same rows as tables, whatever is in them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout import __version__
from gpuscout.runner.cli.main import execute
from gpuscout.runner.cli.show.output import Column, Output, a_figure, number, print_json_rows, print_rows
from gpuscout.store.database.connect import open_store
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.trust import ObservedError, Trust
from tests.support.rank_stores import a_run, an_answer, fill

pytestmark = pytest.mark.slow

COLUMNS = (Column("name", "name"), a_figure("itl_ms", "ITL ms"), Column("queued", "queued"), Column("day", "day"))
_rows = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))),
            "itl_ms": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            "queued": st.booleans(),
            "day": st.sampled_from([None, date(2026, 4, 17), datetime(2026, 4, 17, 12, 30, tzinfo=UTC)]),
        }
    ),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=_rows)
def test_csv_and_json_are_read_back_as_they_were(
    capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]]
) -> None:
    print_rows(COLUMNS, iter(rows), Output(csv=True))
    out = capsys.readouterr().out
    header, *lines = csv.reader(io.StringIO(out, newline=""))
    assert header == ["name", "itl_ms", "queued", "day"]
    assert out.endswith("\r\n")
    expected = [
        [row["name"] or "", row["itl_ms"], str(row["queued"]).lower(), row["day"].isoformat() if row["day"] else ""]
        for row in rows
    ]
    assert [[name, float(itl) if itl else None, *rest] for name, itl, *rest in lines] == expected

    print_json_rows({"limit": None}, "points", iter(rows))
    document = json.loads(capsys.readouterr().out)
    assert document.pop("gpuscout_version") == __version__
    assert abs(datetime.fromisoformat(document.pop("created_at")) - datetime.now(UTC)) < timedelta(minutes=5)
    assert document == {
        "schema_version": 1,
        "limit": None,
        "points": [row | {"day": row["day"].isoformat() if row["day"] else None} for row in rows],
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(names=st.lists(st.text(st.sampled_from("a|\\`*<\n "), max_size=8), min_size=1, max_size=4))
def test_markdown_cells_end_where_they_should(capsys: pytest.CaptureFixture[str], names: list[str]) -> None:
    print_rows(
        [Column("name", "na|me"), a_figure("itl_ms", "ITL ms")],
        [{"name": n, "itl_ms": 1} for n in names],
        Output(md=True),
    )
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert (header, rule) == ("| na\\|me | ITL ms |", "| --- | ---: |")
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        assert cells_of(row) == ["", " ".join(name.split()), "1.00", ""]


def cells_of(line: str) -> list[str]:
    """The cells of a line as GitHub's Markdown splits it: a backslash takes the next character as it is."""
    tokens = re.findall(r"\\.|[^\\]", line)
    return ["".join(t[-1] for t in cell).strip() for cell in _split(tokens)]


def _split(tokens: list[str]) -> list[list[str]]:
    cells: list[list[str]] = [[]]
    for token in tokens:
        if token == "|":
            cells.append([])
        else:
            cells[-1].append(token)
    return cells


def test_forms_exclude_each_other() -> None:
    with pytest.raises(InputError, match="--json and --csv exclude each other"):
        Output(json=True, csv=True)
    assert Output().for_people


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0688, "0.069"), (4.251, "4.25"), (18.34, "18.3"), (12135.4, "12,135"), (0.0, "0.00")]
)
def test_figures_have_three_places(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.fixture
def db(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    with open_store(url, create=True) as store, store.writing() as connection:
        fill(
            connection,
            [an_answer(gpu=gpu, points={1: {}, 8: {"output_tokens_per_s": 400.0}}) for gpu in ("H100", "L4")],
        )
    return url


@pytest.mark.parametrize(
    "command",
    [
        ("gpus", "list"),
        ("models", "list"),
        ("workloads",),
        ("engines", "list"),
        ("prices", "list"),
        ("prices", "show", "H100"),
        ("sweeps",),
        ("query",),
        ("pareto", "--metrics", "itl,throughput"),
        ("recommend", "--objective", "throughput", "--top", "2"),
    ],
    ids=" ".join,
)
def test_commands_print_the_same_rows_in_every_form(
    command: Sequence[str], db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = [] if command[0] in ("gpus", "models", "workloads", "engines") else ["--db", db]

    def run(form: str) -> str:
        # `gpuscout GROUP` alone takes no options: its command is spelled out.
        spelled = [*command, "list"] if command[0] in ("workloads", "sweeps") else [*command]
        assert execute([*spelled, *stored, form]) == 0
        return capsys.readouterr().out

    header, *rows = csv.reader(io.StringIO(run("--csv"), newline=""))
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in header)
    assert len(set(header)) == len(header)
    assert {len(row) for row in rows} == {len(header)}
    assert not any(re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", cell) for row in rows for cell in row)
    markdown = run("--md").splitlines()
    assert markdown[0].startswith("| ")
    assert len(markdown) == len(rows) + 2
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown}) == 1
    assert json.loads(run("--json"))["schema_version"] == 1


def test_recommendations_as_rows(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", "--db", db, "--objective", "throughput", "--top", "2", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["gpu"], row["place"], row["objective_value"], row["concurrency"]) for row in rows] == [
        ("H100", "1", "400.0", "8"),
        ("L4", "1", "400.0", "8"),
    ]
    assert rows[0]["objective_unit"] == "tokens/s"


def test_recommendations_as_rows_say_what_they_rest_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    error = ObservedError("Ada", "dense", 1, None, "output_tokens_per_s", 38, 3, 0.12, 0.3, 0.0)
    trust = Trust({0: {"itl_ms": (0.5, 2.0)}}, (error,))
    answers = [an_answer(gpu=gpu, points={8: {"regime": 0, "itl_ms": 10.0}}) for gpu in ("H100", "L40S")]
    runs = [a_run(output_tokens_per_s=900.0), a_run(output_tokens_per_s=1100.0, source="field")]
    with open_store(url, create=True) as store, store.writing() as connection:
        fill(connection, answers, runs, {"roofline": trust})
    asked = ["recommend", "--db", url, "--objective", "throughput", "--top", "2"]
    assert execute([*asked, "--csv"]) == 0
    measured, estimated = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (measured["runs"], measured["sources"], measured["first_day"]) == ("2", "field, lab", "2026-04-17")
    assert (measured["error_runs"], measured["itl_ms_low"]) == ("", "")
    assert (estimated["runs"], estimated["error_runs"], estimated["error_median"]) == ("", "38", "0.12")
    assert (estimated["itl_ms_low"], estimated["itl_ms_high"]) == ("5.0", "20.0")
    assert execute([*asked, "--md"]) == 0
    told = capsys.readouterr().out
    assert "measured | 2 runs, vllm 0.19, 2026-04-17, field, lab |" in told
    assert "no measured runs near this; tok/s: half of 38 runs within 12 %, nine of ten within 30 % (Ada, dense" in told


@pytest.mark.parametrize(
    "command",
    [
        ["query"],
        ["pareto", "--metrics", "itl,throughput"],
        ["compare", "as-of:2026-01-01", "as-of:2026-02-01", "--objective", "itl"],
    ],
)
def test_an_assumed_percentile_is_said_to_be_one(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    with open_store(url, create=True) as store, store.writing() as connection:
        fill(connection, [an_answer()])
    asked = [*command, "--db", url, "--slo", "itl:p95<=1s", "--assume-tail", "1.5"]
    assert execute(asked) == 0
    assert (
        "percentiles of estimates that were not simulated: assumed to be 1.5 x the mean (--assume-tail)"
        in capsys.readouterr().out
    )
    assert execute([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["assumed_tail"] == 1.5
    of_one = ["recommend", "--objective", "itl", *asked[len(command) :], "--csv"]
    assert execute(of_one) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["assumed_tail"] == "1.5"
