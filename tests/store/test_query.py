"""Operating points as rows: `query` against plain Python on random stores, and the command."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.queries.frames import to_dataframe
from gpuscout.store.queries.operating_points.point_columns import RANGES, ends_of
from gpuscout.store.queries.operating_points.points import COLUMNS, query
from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.rank import rank
from gpuscout.sweeps.errors import UnknownNameError
from gpuscout.sweeps.slo import Slo
from gpuscout.sweeps.trust import Trust
from tests.support.rank_stores import GPUS, LADDER, LENGTHS, MODELS, TDP_W, Row, a_run, an_answer, fill
from tests.support.stores import new_store, postgres_database

# Few values, so that ties are frequent.
_figures = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 1.25, 7.5, 10.0, 100.25]))
_metrics = dict.fromkeys(("ttft_ms", "itl_ms", "e2e_s", "output_tokens_per_s", "requests_per_s"), _figures)
_settings = {
    # Few configurations, so that many are versions or repeats of each other.
    "model": st.sampled_from([*[MODELS[0]] * 4, *MODELS]),
    "gpu": st.sampled_from([*[GPUS[0]] * 3, *GPUS]),
    "lengths": st.sampled_from([*[LENGTHS[0]] * 4, *LENGTHS]),
    "tensor_parallel": st.sampled_from([1, 1, 1, 2]),
    "kv_precision": st.sampled_from(["fp8", "fp8", None]),
    "server": st.sampled_from(["vllm", "vllm", "vllm", "sglang"]),
    "model_version": st.sampled_from([0, 0, 1]),
    "gpu_version": st.sampled_from([0, 0, 1]),
}
_answers = st.builds(
    lambda **how: an_answer() | how,
    **_settings,
    engine=st.sampled_from([("roofline", 0), ("roofline", 1), ("oracle", 0)]),
    outcome=st.sampled_from(["ok", "ok", "ok", "ok", "does_not_fit"]),
    in_sweep=st.booleans(),
    points=st.dictionaries(
        st.sampled_from([*LADDER, 16]),
        st.fixed_dictionaries({**_metrics, "queued": st.booleans(), "regime": st.none()}),
        min_size=1,
    ),
)
_runs = st.builds(
    lambda **how: a_run() | how,
    **_settings,
    **_metrics,
    concurrency=st.sampled_from([None, 1, 8]),
    measured_on=st.sampled_from([None, date(2026, 4, 17)]),
    percentiles=st.dictionaries(st.just(("ttft_ms", 95.0)), st.sampled_from([0.25, 7.5])),
)
_slos = st.one_of(
    st.builds(Slo, st.sampled_from(["ttft", "itl", "rate"]), st.sampled_from([0.25, 5.0])),
    st.just(Slo("ttft", 5.0, 95.0)),
)
_USD = {"L4": 0.5, "L40S": 1.25}


def _seldom(*values: Any, otherwise: Any) -> st.SearchStrategy[Any]:
    """Mostly no filter, so that most questions leave rows to sort."""
    return st.sampled_from([*[otherwise] * 5 * len(values), *values])


_questions = st.builds(
    Question,
    sweep=st.sampled_from([None, None, None, "nightly"]),
    models=_seldom(("a/*",), ("One",), otherwise=()),
    gpus=_seldom(("H100", "L4"), otherwise=()),
    engines=_seldom(("roofline",), ("oracle", "measured"), otherwise=()),
    kinds=_seldom(("estimated",), ("measured",), otherwise=()),
    servers=_seldom(("vllm",), otherwise=()),
    workload=_seldom("chat", otherwise=None),
    max_gpus=_seldom(1, otherwise=None),
    min_context=_seldom(1537, otherwise=None),
    slos=st.one_of(st.just(()), st.lists(_slos, max_size=2).map(tuple)),
    assume_tail=st.sampled_from([None, 2.0]),
    since=_seldom(date(2026, 1, 1), otherwise=None),
    prices=st.just(PriceRules(overrides=_USD)),
)
_SHOWN = (
    "kind", "model", "workload", "gpu", "num_gpus", "engine", "fingerprint", "concurrency", "ttft_ms", "itl_ms",
    "output_tokens_per_s", "output_tokens_per_s_per_gpu", "output_tokens_per_s_per_user", "usd_per_hour",
    "usd_per_mtok", "kwh_per_mtok", "p95_ttft_ms", "queued", "task_id", "run_id", "max_model_len", "measured_on",
)  # fmt: skip
_sorts = st.lists(
    st.builds(str.__add__, st.sampled_from(["", "-"]), st.sampled_from([*_SHOWN[:16], "p95_ttft_ms", "measured_on"])),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Connection]:
    """A connection to the empty tables of a store."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'gpuscout.db'}"
        else:
            url = stack.enter_context(postgres_database(request.getfixturevalue("postgres")))
        store = stack.enter_context(open_store(url, create=True))
        with store.writing() as connection:
            yield connection
            connection.rollback()


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    answers=st.lists(_answers, min_size=3, max_size=10),
    runs=st.lists(_runs, min_size=2, max_size=6),
    question=_questions,
    sort=st.one_of(st.just([]), _sorts, _sorts),
    limit=st.sampled_from([None, None, 0, 3]),
    all_versions=st.booleans(),
)
def test_rows_are_those_of_plain_python(
    database: sa.Connection,
    answers: list[Row],
    runs: list[Row],
    question: Question,
    sort: list[str],
    limit: int | None,
    all_versions: bool,
) -> None:
    with database.begin_nested() as savepoint:
        fill(database, answers, runs)
        found = list(query(database, question, columns=_SHOWN, sort=sort, limit=limit, all_versions=all_versions))
        savepoint.rollback()
    expected = reference(answers, runs, question, all_versions=all_versions)
    for text in reversed(sort):
        name, falling = text.removeprefix("-"), text.startswith("-")
        known = sorted((row for row in expected if row[name] is not None), key=lambda row: row[name])
        if falling:  # stable: equal rows keep their order
            known = [row for _, same in reversed(_grouped(known, name)) for row in same]
        expected = known + [row for row in expected if row[name] is None]
    assert found == expected[:limit]


def _grouped(rows: list[Row], name: str) -> list[tuple[Any, list[Row]]]:
    return [(value, list(same)) for value, same in groupby(rows, key=lambda row: row[name])]


def reference(answers: list[Row], runs: list[Row], question: Question, *, all_versions: bool) -> list[Row]:
    """The rows of a question in the order of the store: read everything, filter."""
    found = []
    if not question.kinds or "estimated" in question.kinds:
        tasks = [
            (number, answer) for number, answer in enumerate(answers, 1)
            if _counts(answer, question) and (not question.sweep or answer["in_sweep"])
            and (not question.engines or answer["engine"][0] in question.engines)
        ]  # fmt: skip
        if not all_versions:
            newest: dict[Any, tuple[int, Row]] = {}
            for number, answer in sorted(tasks, key=lambda task: _age(*task, question)):
                newest.setdefault((_identity(answer), answer["kv_precision"], answer["engine"][0]), (number, answer))
            tasks = sorted(newest.values(), key=lambda task: task[0])
        for number, answer in tasks:
            for concurrency in sorted(answer["points"]) if answer["outcome"] == "ok" else ():
                point = answer["points"][concurrency]
                if question.sweep and concurrency not in LADDER:
                    continue
                name, version = answer["engine"]
                row = _row(answer, point, question) | {
                    "kind": "estimated", "engine": name, "fingerprint": f"f{version}", "concurrency": concurrency,
                    "queued": point["queued"], "task_id": number, "run_id": None, "p95_ttft_ms": None,
                    "measured_on": None,
                }  # fmt: skip
                tail = None if question.assume_tail is None else question.assume_tail
                if all(
                    (tail is not None and _meets(slo, row["ttft_ms"], tail)) if slo.percentile
                    else _meets(slo, point[slo.column], 1.0)
                    for slo in question.slos
                ):  # fmt: skip
                    found.append(row)
    if (not question.kinds or "measured" in question.kinds) and (
        not question.engines or "measured" in question.engines
    ):
        for number, run in enumerate(runs, 1):
            if not _counts(run, question) or (question.sweep and not _estimated(run, answers)):
                continue
            if question.since and (run["measured_on"] is None or run["measured_on"] < question.since):
                continue
            row = _row(run, run, question) | {
                "kind": "measured", "engine": "measured", "fingerprint": None, "concurrency": run["concurrency"],
                "queued": None, "task_id": None, "run_id": number, "measured_on": run["measured_on"],
                "p95_ttft_ms": run["percentiles"].get(("ttft_ms", 95.0)),
            }  # fmt: skip
            if all(
                _meets(slo, row["p95_ttft_ms"] if slo.percentile else run[slo.column], 1.0) for slo in question.slos
            ):
                found.append(row)
    return [{name: row[name] for name in _SHOWN} for row in found]


def _age(number: int, answer: Row, question: Question) -> tuple[int, ...]:
    """What sorts the answer that stands first: a sweep prefers the engine it lists first, otherwise the newest."""
    version = answer["engine"][1]
    return (version if question.sweep else -version, -answer["model_version"], -answer["gpu_version"], -number)


def _identity(answer: Row) -> tuple[Any, ...]:
    return tuple(answer[name] for name in ("model", "gpu", "lengths", "tensor_parallel", "precision", "server"))


def _counts(one: Row, question: Question) -> bool:
    return (
        (not question.models or one["model"] in {("a/*",): MODELS[:2], ("One",): MODELS[:1]}[question.models])
        and (not question.gpus or one["gpu"] in question.gpus)
        and (not question.servers or one["server"] in question.servers)
        and (not question.workload or one["lengths"] == LENGTHS[0])
        and (not question.max_gpus or one["tensor_parallel"] <= question.max_gpus)
        and (not question.min_context or sum(one["lengths"]) >= question.min_context)
    )


def _estimated(run: Row, answers: list[Row]) -> bool:
    """Whether the sweep has an estimate of a measured configuration."""
    return any(
        answer["in_sweep"]
        and _identity(answer) == _identity(run)
        and (None in (kvs := (answer["kv_precision"], run["kv_precision"])) or kvs[0] == kvs[1])
        for answer in answers
    )


def _row(one: Row, figures: Row, question: Question) -> Row:
    tokens, itl, gpus = figures["output_tokens_per_s"], figures["itl_ms"], one["tensor_parallel"]
    usd = _USD[one["gpu"]] * gpus if one["gpu"] in _USD else None
    per_hour = tokens * (3600 / 1e6) if tokens else None
    tdp = TDP_W.get(one["gpu"])
    return {
        "model": one["model"],
        "workload": "chat" if one["lengths"] == LENGTHS[0] else None,
        "gpu": one["gpu"],
        "num_gpus": gpus,
        **{name: figures[name] for name in ("ttft_ms", "itl_ms", "output_tokens_per_s")},
        "output_tokens_per_s_per_gpu": None if tokens is None else tokens / gpus,
        "output_tokens_per_s_per_user": 1000 / itl if itl else None,
        "usd_per_hour": usd,
        "usd_per_mtok": usd / per_hour if usd and per_hour else None,
        "kwh_per_mtok": tdp / 1000 * gpus / per_hour if tdp and per_hour else None,
        "max_model_len": sum(one["lengths"]),
    }


def _meets(slo: Slo, value: float | None, times: float) -> bool:
    return value is not None and (value >= slo.limit if slo.at_least else value <= slo.limit / times)


# --- names, memory, frames ---------------------------------------------------------------------------------------


def test_unknown_columns_are_errors_with_the_nearest() -> None:
    with open_store("sqlite://", create=True) as store, store.writing() as connection:
        fill(connection, [an_answer()])
        with pytest.raises(UnknownNameError, match=r'unknown column "itl"') as raised:
            query(connection, Question(), columns=["itl"])
        assert raised.value.suggestions == ("itl_ms",)
        with pytest.raises(UnknownNameError, match="p101_ttft_ms"):
            query(connection, Question(), sort=["-p101_ttft_ms"])


@pytest.mark.slow
def test_many_points_take_little_memory(store: Store) -> None:
    points = {concurrency: {"itl_ms": float(concurrency % 97)} for concurrency in range(1, 8_001)}
    with store.writing() as connection:
        fill(connection, [an_answer(points=points), an_answer(gpu="L4", points=points)])
    with store.reading() as connection:
        for sort in ([], ["-itl_ms", "model"]):
            rows = query(connection, Question(), columns=["gpu", "itl_ms", "concurrency"], sort=sort)
            next(rows)
            tracemalloc.start()
            count = 1 + sum(1 for _ in rows)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert count == 16_000
            # 5,000 rows at a time; all of them take 5 MB.
            assert peak < 3e6, sort


def test_data_frames_have_the_same_types_whatever_is_unknown() -> None:
    pandas = pytest.importorskip("pandas")
    with open_store("sqlite://", create=True) as store, store.writing() as connection:
        fill(connection, [an_answer(points={8: {"ttft_ms": None}})], [a_run(gpu="L4", concurrency=None)])
        frame = to_dataframe(query(connection, Question()))
        estimates = to_dataframe(query(connection, Question(kinds=("estimated",))))
        none = to_dataframe(query(connection, Question(), columns=["model", "itl_ms"], limit=0))
        ranking = to_dataframe(rank(connection, Question(objective="throughput")))
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame.dtypes) == list(estimates.dtypes)
    assert frame.loc[0, "ttft_ms"] is pandas.NA
    assert frame.loc[1, "concurrency"] is pandas.NA
    assert frame.loc[1, "measured_on"] == pandas.Timestamp("2026-04-17")
    assert frame["output_tokens_per_s_per_gpu"].sum() == 200.0
    assert none.empty
    assert list(ranking["gpu"]) == ["H100", "L4"] or list(ranking["gpu"]) == ["L4", "H100"]
    assert list(ranking["objective_value"]) == [100.0, 100.0]


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def db(tmp_path: Path) -> str:
    """A store with curves of two GPU types, an older version of one of them, and a measured run."""
    url = new_store(tmp_path)
    curve = {c: {"itl_ms": 10.0 + c, "output_tokens_per_s": 80.0 * c + 1 / 3} for c in LADDER}
    slower = {c: {"itl_ms": 30.0 + c, "output_tokens_per_s": 20.0 * c} for c in LADDER}
    answers = [
        an_answer(points=curve, engine=("roofline", 1)),
        an_answer(points=slower, engine=("roofline", 0)),
        an_answer(gpu="L4", points=slower, tensor_parallel=2, precision="bf16"),
    ]
    with open_store(url) as store, store.writing() as connection:
        fill(connection, answers, [a_run(gpu="L40S", percentiles={("ttft_ms", 95.0): 321.5})])
    return url


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert execute(list(arguments)) == status
    told = capsys.readouterr()
    return told.out, told.err


def test_csv_holds_all_columns_in_full_precision(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "query", "--db", db, "--csv", "--sort", "-output_tokens_per_s", "--limit", "0")
    rows = list(csv.DictReader(io.StringIO(out)))
    ends = ends_of(COLUMNS)
    assert set(rows[0]) == {*COLUMNS, *ends}
    assert [name for name in rows[0] if name not in ends] == list(COLUMNS)
    assert {row[name] for row in rows for name in ends} == {""}  # nobody knows an interval
    assert len(rows) == 9  # of the older version none
    assert float(rows[0]["output_tokens_per_s"]) == 80.0 * 8 + 1 / 3
    assert rows[0]["run_id"] == ""
    assert err == ""


_REGIMES = {
    0: {"ttft_ms": (0.5, 2.0), "itl_ms": (0.8, 1.25), "output_tokens_per_s": (0.5, 1.2)},
    1: {"itl_ms": (0.9, 1.1)},
}


def fill_with_ranges(connection: sa.Connection) -> None:
    figures = {"ttft_ms": 100.0, "itl_ms": 10.0, "e2e_s": 5.21, "output_tokens_per_s": 80.0, "requests_per_s": 0.2}
    points = {8: {"regime": 0, **figures}, 16: {"regime": 1, **figures}, 32: {"regime": None, **figures}}
    fill(connection, [an_answer(points=points)], [a_run(concurrency=8)], {"roofline": Trust(_REGIMES, ())})


def test_estimates_have_ranges_measured_runs_have_none(database: sa.Connection) -> None:
    """The ends of intervals by regime; a cost falls as the throughput grows; E2E follows from TTFT and ITL."""
    question = Question(prices=PriceRules(overrides={"H100": 2.88}))
    with database.begin_nested() as savepoint:
        fill_with_ranges(database)
        columns = ["kind", "usd_per_mtok", *RANGES]
        one, two, three, measured = query(database, question, columns=columns)
        sorted_by_end = [row["itl_ms_low"] for row in query(database, question, sort=["-itl_ms_low"], columns=columns)]
        savepoint.rollback()

    def ends(row: Row, name: str) -> tuple[Any, Any]:
        return row[f"{name}_low"], row[f"{name}_high"]

    decode_ms = 10.0 * (LENGTHS[0][1] - 1)
    expected = {
        "ttft_ms": (50.0, 200.0),
        "itl_ms": (8.0, 12.5),
        "e2e_s": ((50 + 0.8 * decode_ms) / 1000, (200 + 1.25 * decode_ms) / 1000),
        "output_tokens_per_s": (40.0, 96.0),
        "requests_per_s": (0.1, 0.24),
        "output_tokens_per_s_per_user": (80.0, 125.0),
        "usd_per_mtok": (one["usd_per_mtok"] / 1.2, one["usd_per_mtok"] / 0.5),
    }
    for name, wanted in expected.items():
        assert ends(one, name) == pytest.approx(wanted), name
    assert ends(two, "itl_ms") == pytest.approx((9.0, 11.0))
    assert ends(two, "e2e_s") == pytest.approx(((100 + 0.9 * decode_ms) / 1000, (100 + 1.1 * decode_ms) / 1000))
    assert ends(two, "ttft_ms") == (None, None)
    assert {row[name] for row in (three, measured) for name in RANGES} == {None}
    assert (three["kind"], measured["kind"]) == ("estimated", "measured")
    assert sorted_by_end == [9.0, 8.0, None, None]


def test_the_table_has_the_range_of_what_it_is_sorted_by_and_of_the_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill_with_ranges(connection)
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["query", "--db", url, "--sort", "itl_ms", "--price", "H100=2.88"]
    table = run(capsys, *asked)[0]
    for told in ("10.0 (8.00–12.5)", "10.0 (8.33–20.0)", "(measured)", "(unknown)"):
        assert told in table
    assert "estimated, measured; in brackets 80 % ranges" in table
    assert max(map(len, table.splitlines())) <= 80
    markdown = run(capsys, *asked, "--md")[0]
    assert all(told in markdown for told in ("| estimated |", "USD/Mtok low (80 %)", "ITL ms high (80 %)"))


def test_a_limit_says_that_there_is_more(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(
        capsys, "query", "--db", db, "--json", "--limit", "2", "--columns", "gpu,itl_ms", "--sort", "-itl_ms"
    )
    document = json.loads(out)
    assert document["schema_version"] == 1
    assert document["points"] == [{"gpu": "L4", "itl_ms": 38.0}, {"gpu": "L4", "itl_ms": 34.0}]
    assert "the first 2 points" in err
    assert run(capsys, "query", "--db", db, "--json", "--limit", "9")[1] == ""


def test_pages_of_a_list_are_the_list(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    def points(*more: str) -> list[object]:
        told, _ = run(capsys, "query", "--db", db, "--sort", "-itl_ms", "--json", *more)
        found: list[object] = json.loads(told)["points"]
        return found

    everything = points("--limit", "0")
    pages = [points("--limit", "4", "--offset", str(start)) for start in range(0, len(everything) + 4, 4)]
    assert [point for page in pages for point in page] == everything
    assert pages[-1] == []
    assert len(pages) > 2


def test_all_versions_percentiles_and_limits(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    everything = ["query", "--db", db, "--json", "--limit", "0"]
    assert len(json.loads(run(capsys, *everything, "--all-versions")[0])["points"]) == 13
    tail = json.loads(run(capsys, *everything, "--slo", "ttft:p95<=400ms", "--columns", "kind,p95_ttft_ms")[0])
    assert tail["points"] == [{"kind": "measured", "p95_ttft_ms": 321.5}]
    out, err = run(capsys, *everything, "--slo", "itl<=1ms")
    assert json.loads(out)["points"] == []
    assert "no stored point meets ITL <= 1 ms" in err


def test_the_table_tells_what_differs_and_fits(
    db: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = run(capsys, "query", "--db", db, "--kind", "estimated", "--price", "L4=0.80")
    header, *rows = out.splitlines()
    assert max(map(len, out.splitlines())) <= 80
    assert header.split()[:3] == ["model", "GPU", "GPUs"]
    assert "TP" in header.split()
    assert "server" not in header  # the same in all rows
    assert rows[0].split()[:3] == ["One", "H100", "1"]
    assert "no price of H100" in out


def test_points_that_wait_for_memory_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(points={8: {}, 16: {"queued": True}})])
    shown = run(capsys, "query", "--db", url)[0].splitlines()
    assert [line.split()[shown[0].split().index("queued")] for line in shown[1:3]] == ["no", "yes"]


def test_errors_of_the_command(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean itl_ms?" in run(capsys, "query", "--db", db, "--columns", "gpu,itl", status=2)[1]
    assert (
        "nothing in the store matches"
        in run(capsys, "query", "--db", db, "--max-gpus", "1", "--gpu", "L4", status=2)[1]
    )
    assert "cannot sort by" in run(capsys, "query", "--db", db, "--sort", "-", status=2)[1]
    assert "exclude each other" in run(capsys, "query", "--db", db, "--csv", "--md", status=2)[1]
    assert "not --show tuning" in run(capsys, "query", "--db", db, "--show", "tuning", "--sort", "gpu", status=2)[1]
    assert "--assume-tail" in run(capsys, "query", "--db", db, "--gpu", "L4", "--slo", "ttft:p95<=1s")[1]
    assert run(capsys, "query", "--list-columns", "--csv")[0].splitlines()[1].startswith("kind,")
