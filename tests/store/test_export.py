"""Exports: every stored figure out to a file, and back into the same store or another one."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout.runner.api.run import run
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.ranking.rank import Question, rank
from gpuscout.store.results.trust import note_errors
from gpuscout.store.schema import (
    cases,
    engines,
    errors_seen,
    gpus,
    imported_workloads,
    intervals,
    ladders,
    measured_runs,
    models,
    operating_points,
    percentiles,
)
from gpuscout.store.schema import tasks as tasks_table
from gpuscout.store.transfer.columns import NAMES
from gpuscout.store.transfer.files import Format, is_export, write_parquet, write_text
from gpuscout.store.transfer.reader import read_back
from gpuscout.store.transfer.rows import export_rows
from gpuscout.sweeps.errors import GpuscoutError, InputError
from gpuscout.sweeps.spec.spec import parse_spec
from gpuscout.sweeps.trust import ObservedError
from tests.support.forked import gpuscout
from tests.support.result_files import FOLDER, count, imported

pytestmark = pytest.mark.slow

SPEC = """
name: exported
models: [Qwen/Qwen3-8B, Qwen/Qwen3-32B]
gpus: [H100, L4]
tensor_parallel: [1, 2]
workloads: [chat]
concurrency: [1, 8, 64]
"""


SEEN = ObservedError("Hopper", "dense", 1, None, "itl_ms", 12, 2, 0.05, 0.2, -0.01)


def fill(store: Store) -> None:
    """Curves, tasks that do not fit, an engine's extras and errors, measured runs with and without a KV precision."""
    run(parse_spec(SPEC), store, executor="in-process")
    with store.writing() as connection:
        case_id = connection.execute(sa.select(sa.func.min(cases.c.id))).scalar_one()
        of_case = tasks_table.c.case_id == case_id
        connection.execute(sa.update(tasks_table).where(of_case).values(extras='{"tuning":{"vllm":"--x, \\"1\\""}}'))
        engine_id = connection.execute(sa.select(sa.func.min(engines.c.id))).scalar_one()
        note_errors(connection, engine_id, "measured runs of this store", [SEEN])
    imported(store, FOLDER / "vllm.json", FOLDER / "llm-d.yaml", FOLDER / "runs.csv")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(str(tmp_path_factory.mktemp("exported") / "gpuscout.db"), create=True) as store:
        fill(store)
        yield store


def results(store: Store) -> list[list[object]]:
    """All results with what identifies them, without ids, the sweeps they belong to, and where they came from."""
    of_engine = (engines.c.name, engines.c.fingerprint, engines.c.options)
    figures = [
        sa.select(
            tasks_table.c.key, tasks_table.c.outcome, tasks_table.c.detail, tasks_table.c.extras,
            tasks_table.c.needed_gib, tasks_table.c.usable_gib,
            tasks_table.c.kv_capacity_tokens, tasks_table.c.fits_up_to, tasks_table.c.created_at,
            ladders.c.concurrencies, cases.c.digest, models.c.name, models.c.architecture, gpus.c.name,
            gpus.c.figures, engines.c.fingerprint,
        )
        .select_from(
            tasks_table.join(cases).join(models).join(gpus, gpus.c.id == cases.c.gpu_id).join(engines).join(ladders)
        )
        .order_by(tasks_table.c.key),
        sa.select(
            tasks_table.c.key, *[column for column in operating_points.columns if column.name != "task_id"]
        )
        .join_from(operating_points, tasks_table, tasks_table.c.id == operating_points.c.task_id)
        .order_by(tasks_table.c.key, operating_points.c.concurrency),
        sa.select(
            *[column for column in measured_runs.columns if column.name not in ("id", "case_id", "imported_from")],
            cases.c.digest, cases.c.kv_precision, models.c.architecture,
        ).select_from(measured_runs.join(cases).join(models)).order_by(measured_runs.c.digest),
        sa.select(
            measured_runs.c.digest.label("run"), *[column for column in percentiles.columns if column.name != "run_id"]
        ).select_from(measured_runs.join(percentiles)).order_by("run", "metric", "percentile"),
        *(
            sa.select(*of_engine, *[column for column in table.columns if column.name != "engine_id"])
            .select_from(table.join(engines)).order_by(*table.primary_key.columns)
            for table in (intervals, errors_seen)
        ),
    ]  # fmt: skip
    with store.reading() as connection:
        return [[tuple(row) for row in connection.execute(query)] for query in figures]


def write(store: Store, file: Path, question: Question | None = None) -> int:
    form = Format(file.suffix[1:])
    with store.reading() as connection:
        rows = export_rows(connection, question or Question())
        if form is Format.PARQUET:
            with file.open("wb") as stream:
                return write_parquet(rows, stream)
        with file.open("w", newline="", encoding="utf-8") as stream:
            return write_text(rows, stream, form)


BACK = [Format.JSONL, Format.PARQUET]


@pytest.mark.parametrize("form", BACK)
def test_the_same_store_gains_nothing_and_another_gets_everything(
    filled: Store, tmp_path: Path, form: Format, store: Store
) -> None:
    file = tmp_path / f"all.{form}"
    rows = write(filled, file)
    assert is_export(file)
    before = results(filled)
    assert rows == len(before[1]) + sum(row[1] != "ok" for row in before[0]) + len(before[2])
    again = read_back(file, filled)
    assert (again.tasks, again.points, again.measured_runs) == (0, 0, 0)
    assert results(filled) == before
    other = store
    added = read_back(file, other)
    assert (added.tasks, added.points, added.measured_runs) == tuple(map(len, before[:3]))
    assert all(before)
    assert results(other) == before
    with filled.reading() as ours, other.reading() as theirs:
        for table in (tasks_table, measured_runs):
            assert set(ours.execute(sa.select(table.c.imported_from)).scalars()) == {None}
            assert set(theirs.execute(sa.select(table.c.imported_from)).scalars()) == {file.name}


def test_it_answers_as_before(filled: Store, tmp_path: Path, store: Store) -> None:
    file = tmp_path / "all.jsonl"
    write(filled, file)
    other = store
    read_back(file, other)
    answers = []
    for one in (filled, other):
        with one.reading() as connection:
            groups = rank(connection, Question(objective="throughput", kinds=("estimated",))).groups
        answers.append(
            [(group.model, [(best.gpu, best.concurrency, best.itl_ms) for best in group.configs]) for group in groups]
        )
    assert answers[0] == answers[1]


VARIED = """
name: {sweep}
models: [Qwen/Qwen3-8B]
gpus: [H100]
tensor_parallel: 1
workloads:
  - {{name: {name}, input_len: {{uniform: [100, 300]}}, output_len: 20, cached_input: 0.4}}
  - {{name: plain, input_len: 100, output_len: 10}}
load: request_rate
request_rate: [1, 4]
engine: simulator
"""


@pytest.mark.parametrize("form", BACK)
def test_names_of_workloads_come_along(tmp_path: Path, form: Format, store: Store) -> None:
    file, again = tmp_path / f"all.{form}", tmp_path / f"again.{form}"
    with open_store(str(tmp_path / "first.db"), create=True) as first:
        for name in ("older", "newer"):
            run(parse_spec(VARIED.format(sweep=name, name=name)), first, executor="in-process")
        write(first, file)
    read_back(file, store)
    write(store, again)
    read_back(again, store)
    with store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(imported_workloads)).scalar_one() == 3
    with open_store(str(tmp_path / "third.db"), create=True) as third:
        read_back(again, third)
        for one in (store, third):
            with one.reading() as connection:
                for asked, answered in (("older", "newer"), ("newer", "newer"), ("plain", "plain")):
                    [group] = rank(connection, Question(workload=asked, objective="throughput")).groups
                    assert group.workload == answered
                with pytest.raises(InputError, match="chat"):
                    rank(connection, Question(workload="chat"))


def test_filters_choose_tasks_and_all_their_points(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    write(filled, file, Question(models=("Qwen3-8B",), gpus=("H100",), kinds=("estimated",)))
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["model"], row["gpu"], row["kind"]) for row in rows} == {
        ("Qwen/Qwen3-8B", "H100-SXM-80GB", "estimated")
    }
    assert sorted(int(row["concurrency"]) for row in rows) == [1, 1, 8, 8, 64, 64]
    assert [bool(row["model_architecture"]) for row in rows] == [True, *[False] * 5]


def test_csv_does_not_come_back_in(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    write(filled, file)
    assert is_export(file)
    with pytest.raises(InputError, match=r"all.csv: CSV exports are for other programs") as caught:
        read_back(file, filled)
    assert "FILE.jsonl or FILE.parquet" in str(caught.value.hint)


def _changed(file: Path, change: Callable[[list[dict[str, object]]], None]) -> Path:
    """The same file, JSON lines, with other rows; None takes a value out."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    change(rows)
    known = ({name: value for name, value in row.items() if value is not None} for row in rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in known), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("itl_ms", math.nan, ":3: itl_ms: expected a finite number"),
        ("itl_ms", "fast", ':3: itl_ms: expected a number, got "fast"'),
        ("tensor_parallel", 4, ":1: num_gpus: 1 is not tp x pp x dp = 4"),
        ("task_key", "00" * 16, ":3: task_key: does not follow from the case and the engine"),
        ("engine_fingerprint", "other", None),
        ("outcome", "fine", ':1: outcome: expected one of ok'),
        ("stored_at", "yesterday", "stored_at: expected a time"),
        ("concurrency", 1, "duplicate operating point"),
        ("kind", "guessed", ':3: kind: expected one of estimated, measured'),
        ("kv_capacity_tokens", int("9" * 30), ":1: kv_capacity_tokens: expected a whole number"),
        ("needed_gib", -1, ":1: needed_gib: expected a finite number"),
        ("extras", "[1]", ":1: extras: expected an object"),
        ("extras", '{"a":NaN}', ":1: extras: not JSON (NaN is not a JSON number)"),
        ("ladder", "1,0", ":1: ladder: expected ascending concurrencies"),
        ("stored_at", "0001-01-01T00:00:00+23:59", "stored_at: expected a time"),
        ("engine_trust", '{"intervals":{},"errors":[],"kept":{"us":[{"runs":"x"}]}}', ":1: engine_trust: cannot be"),
        ("detail", "a\0b", ":1: detail: expected text"),
        ("regime", 99999, ":3: regime: expected a whole number from 0 to 32767"),
        ("concurrency", 5, ":3: concurrency: not one of the ladder"),
        ("outcome", "does_not_fit", ":1: outcome: does_not_fit with an operating point"),
        ("model", "Qwen/Qwen3-4B", ":1: model: its digest is that of Qwen/Qwen3-"),
        ("gpu", "B200", ":1: gpu: its digest is that of"),
        ("workload", "a day", ':1: workload: expected names such as chat,rag, got "a day"'),
    ],
)  # fmt: skip
def test_what_was_changed_is_refused_whole(
    filled: Store, tmp_path: Path, store: Store, column: str, value: object, told: str | None
) -> None:
    """Line 3 is the last point of the first task; what belongs to the task is read in its first row."""
    file = tmp_path / "all.jsonl"
    write(filled, file, Question(kinds=("estimated",)))
    line = 2 if told is None or ":3:" in told or column == "concurrency" else 0
    _changed(file, lambda rows: rows[line].update({column: value}))
    other = store
    if told is None:
        # The key of a task that is known already is not looked at again.
        assert read_back(file, other).tasks > 0
        return
    with pytest.raises(InputError) as caught:
        read_back(file, other)
    assert told in caught.value.message
    with other.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tasks_table)).scalar_one() == 0


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("percentiles", '[["ttft_ms",50,1.0],["ttft_ms",50,2.0]]', "percentiles: duplicate entry"),
        ("percentiles", '[["speed",50,1.0]]', "percentiles: expected a list of"),
        ("details", "nothing", "details: not JSON"),
        ("measured_on", "May", "measured_on: expected a date"),
        ("source", None, "source: missing"),
        ("native_itl_ms", -2, "native_itl_ms: expected a finite number"),
        ("server_version", "\ud800", "server_version: expected text"),
        ("concurrency", 2**31, "concurrency: expected a whole number from 1"),
        ("ttft_ms", 18.0, "run_digest: not that of the run in this row"),
        ("percentiles", '[["ttft_ms",50,1.0]]', "run_digest: not that of the run in this row"),
        ("details", "[1]", "details: expected an object"),
        ("details", '{"derived":5}', "details: expected a list of the figures that are derived"),
    ],
)
def test_changed_measured_runs_are_refused_whole(
    filled: Store, tmp_path: Path, column: str, value: object, told: str
) -> None:
    """In JSON lines, which leave out what is unknown; with a mark at their beginning, as editors of Windows write."""
    file = tmp_path / "runs.jsonl"
    write(filled, file, Question(kinds=("measured",)))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows[-1][column] = value
    file.write_text("".join(json.dumps(row) + "\r\n" for row in rows), encoding="utf-8-sig")
    assert is_export(file)
    with open_store(str(tmp_path / "new.db"), create=True) as other:
        with pytest.raises(InputError, match=f"runs.jsonl:{len(rows)}: .*{told}"):
            read_back(file, other)
        assert count(other, measured_runs) == 0


def test_a_file_that_lost_points_is_refused_and_an_older_one_is_not(filled: Store, tmp_path: Path) -> None:
    """With a part of its curve a task would count as answered: nothing would ever compute the rest."""
    file = tmp_path / "all.jsonl"
    write(filled, file)
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:2]))  # of the three points of the first task two
    with open_store(str(tmp_path / "new.db"), create=True) as other:
        with pytest.raises(InputError, match=r"operating points are missing, 1 of task [0-9a-f]{32}: the file is not"):
            read_back(file, other)
        assert count(other, tasks_table) == 0
        file.write_text("".join(whole))
        _changed(file, lambda rows: [row.update(points=None) for row in rows])
        assert read_back(file, other).points == count(filled, operating_points)


def test_definitions_of_the_target_serve_where_the_file_lost_its_own(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    write(filled, file)
    _changed(file, lambda rows: [row.update(model_architecture=None, gpu_figures=None) for row in rows])
    assert read_back(file, filled).tasks == 0
    with open_store(str(tmp_path / "new.db"), create=True) as other, pytest.raises(InputError, match="no row and no"):
        read_back(file, other)


@pytest.mark.parametrize("form", [Format.CSV, Format.JSONL])
def test_an_export_is_known_however_many_concurrencies_were_asked_for(
    filled: Store, tmp_path: Path, form: Format
) -> None:
    file = tmp_path / f"long.{form}"
    ladder = ",".join(map(str, range(1, 10_000)))
    with filled.reading() as connection:
        row = next(export_rows(connection, Question()))
    row[NAMES.index("ladder")] = ladder
    with file.open("w", newline="", encoding="utf-8") as stream:
        write_text([row], stream, form)
    assert is_export(file)


def test_a_packed_export_is_read_as_it_is(filled: Store, tmp_path: Path) -> None:
    file, packed = tmp_path / "all.jsonl", tmp_path / "all.jsonl.gz"
    write(filled, file)
    content = gzip.compress(file.read_bytes())
    packed.write_bytes(content)
    assert is_export(packed)
    with open_store(str(tmp_path / "new.db"), create=True) as other:
        read_back(packed, other)
        assert results(other) == results(filled)
    packed.write_bytes(content[: len(content) // 2])
    with (
        open_store(str(tmp_path / "cut.db"), create=True) as other,
        pytest.raises(InputError, match=r"cannot be read: .*end"),
    ):
        read_back(packed, other)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(BACK), data=st.data())
def test_damaged_files_are_errors_and_leave_no_trace(
    filled: Store, tmp_path_factory: pytest.TempPathFactory, form: Format, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    file = folder / f"all.{form}"
    write(filled, file, Question(models=("Qwen3-8B",), gpus=("H100",)))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    file.write_bytes(content)
    with open_store(str(folder / "new.db"), create=True) as other:
        try:
            read_back(file, other)
        except GpuscoutError:
            with other.reading() as connection:
                assert connection.execute(sa.select(sa.func.count()).select_from(tasks_table)).scalar_one() == 0


def test_the_command(filled: Store, tmp_path: Path) -> None:
    assert filled.path is not None
    db = ("--db", str(filled.path))
    done = gpuscout("export", *db, "--output", "all.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows written to all.csv" in done.stderr
    refused = gpuscout("export", *db, "--output", "all.csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    lines = gpuscout("export", *db, "--output", "-", "--format", "jsonl", "--gpu", "H100", cwd=tmp_path)
    assert {json.loads(line)["gpu"] for line in lines.stdout.splitlines()} == {"H100-SXM-80GB"}
    unknown = gpuscout("export", *db, "--output", "all.xlsx", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "--format csv, jsonl or parquet" in unknown.stderr
    assert not list(tmp_path.glob("*.part*"))


def test_import_takes_exports_back(filled: Store, tmp_path: Path) -> None:
    written = write(filled, tmp_path / "all.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"kind":"estimated","model":"x","case_digest":"0","task_key":"0"}\n')
    first = gpuscout("import", "all.jsonl", "broken.jsonl", "--dry-run", cwd=tmp_path)
    assert first.returncode == 2
    assert "broken.jsonl:1: " in first.stderr
    added = gpuscout("import", "all.jsonl", "--json", cwd=tmp_path)
    assert added.returncode == 0, added.stderr
    [told] = json.loads(added.stdout)["exports"]
    assert told["operating_points"] + told["measured_runs"] <= written
    assert told["tasks"] > 0
    again = gpuscout("import", "gpuscout", "all.jsonl", cwd=tmp_path)
    assert "all.jsonl: 0 tasks, 0 operating points, 0 measured runs added" in again.stdout
