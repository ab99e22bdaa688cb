"""Two answers to one question side by side: sweeps, engines, kinds, price books and days, on both databases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout import run
from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.books import save_quotes
from gpuscout.store.prices.prices import PriceRules, Quote
from gpuscout.store.queries.compare import Comparison, Status, compare
from gpuscout.store.queries.compare_sides import Side, sides_of
from gpuscout.store.ranking.rank import Question, rank
from gpuscout.store.ranking.types import RankedConfig
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import parse_slo
from gpuscout.sweeps.spec.spec import spec_from_mapping
from tests.support.rank_stores import LENGTHS, Row, a_run, an_answer, fill
from tests.support.stores import new_store

PRICES = PriceRules(overrides={"H100": 2.0, "L4": 0.5, "L40S": 1.0})
Ask = Callable[..., Comparison]


def tokens(value: float, **more: float) -> dict[int, dict[str, float]]:
    return {8: {"output_tokens_per_s": value, **more}}


def oracle(**how: Any) -> Row:
    return an_answer(engine=("oracle", 0), **how)


@pytest.fixture
def answered(store: Store) -> Callable[..., Ask]:
    """Fills the store and returns what compares two references."""

    def fill_store(*answers: Row, runs: Sequence[Row] = ()) -> Ask:
        with store.writing() as connection:
            fill(connection, list(answers), runs)

        def ask(one: str, other: str, **question: Any) -> Comparison:
            with store.reading() as connection:
                asked = Question(**{"prices": PRICES} | question)
                return compare(connection, *sides_of(connection, one, other, asked))

        return ask

    return fill_store


def by_gpu(found: Comparison) -> dict[str, tuple[Status, float | None]]:
    return {
        change.config.gpu: (change.status, None if change.change is None else round(change.change, 6))
        for change in found.changes
    }


def test_engines_are_compared_by_configuration(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points=tokens(1000.0)),
        oracle(points=tokens(500.0)),
        an_answer(gpu="L4", points=tokens(200.0)),
        oracle(gpu="L4", points=tokens(400.0)),
        oracle(gpu="L40S", points=tokens(100.0)),
    )
    found = ask("engine:roofline", "engine:oracle")
    assert by_gpu(found) == {
        "H100": (Status.WORSE, 1.0),
        "L4": (Status.BETTER, -0.5),
        "L40S": (Status.ADDED, None),
    }
    assert (found.both, found.added, found.vanished) == (2, 1, 0)
    (winner,) = found.winners
    assert winner.before is not None
    assert winner.after is not None
    assert (winner.before.gpu, winner.after.gpu, winner.changes_gpu) == ("H100", "L4", True)
    # 2.00/3.6 against 0.50/0.72 before, 0.50/1.44 against 2.00/1.80 after: the H100 would stay at 3.2 times the best.
    assert winner.lead_before == pytest.approx(0.25)
    assert winner.lead_after == pytest.approx(2.2)
    assert winner.staying == pytest.approx(2.2)
    assert {name: metric.points for name, metric in found.metrics.items()}["output_tokens_per_s"] == 2
    worst = found.metrics["output_tokens_per_s"]
    assert (worst.worst, worst.worst_concurrency) == (1.0, 8)
    assert worst.worst_at is not None
    assert worst.worst_at.config.gpu == "L4"
    assert worst.median == pytest.approx((-0.5 + 1.0) / 2)
    # Turned around, what was added has vanished.
    back = ask("oracle", "roofline")
    assert by_gpu(back)["L40S"] == (Status.VANISHED, None)
    assert (back.added, back.vanished) == (0, 1)


def test_versions_of_figures_still_join(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(gpu_version=0, points=tokens(1000.0)), oracle(gpu_version=1, model_version=1, points=tokens(1250.0))
    )
    found = ask("roofline", "oracle")
    assert by_gpu(found) == {"H100": (Status.BETTER, -0.2)}
    assert found.metrics["output_tokens_per_s"].median == pytest.approx(0.25)


def test_revisions_of_a_sweep(store: Store) -> None:
    spec = {
        "name": "nightly",
        "models": ["Qwen/Qwen3-8B"],
        "gpus": ["H100", "L4"],
        "tensor_parallel": [1, 2],
        "workloads": ["chat"],
        "concurrency": [1, 8],
    }
    run(spec_from_mapping(spec), store)
    run(spec_from_mapping(spec | {"gpus": ["H100", "L40S"], "concurrency": [1, 8, 64]}), store)
    with store.reading() as connection:
        found = compare(connection, *sides_of(connection, "nightly@1", "nightly", Question(objective="throughput")))
    statuses = {(change.config.gpu, change.config.tensor_parallel): change.status for change in found.changes}
    assert statuses == {
        ("H100-SXM-80GB", 1): Status.BETTER,  # the longer ladder reaches further
        ("H100-SXM-80GB", 2): Status.BETTER,
        ("L40S", 1): Status.ADDED,
        ("L40S", 2): Status.ADDED,
        ("L4", 1): Status.VANISHED,
        ("L4", 2): Status.VANISHED,
    }
    assert (found.both, found.added, found.vanished) == (2, 2, 2)
    assert found.metrics == {}  # of the H100 both have the same answers


@pytest.mark.parametrize("sides", [("estimated", "kind:measured"), ("engine:roofline", "engine:measured")])
def test_estimates_against_what_was_measured(store: Store, sides: tuple[str, str]) -> None:
    with store.writing() as connection:
        runs = [a_run(output_tokens_per_s=800.0), a_run(gpu="L40S", output_tokens_per_s=400.0)]
        fill(connection, [an_answer(points=tokens(1000.0)), an_answer(gpu="L4", points=tokens(200.0))], runs)
    with store.reading() as connection:
        found = compare(connection, *sides_of(connection, *sides, Question(prices=PRICES)))
    assert by_gpu(found) == {
        "H100": (Status.WORSE, 0.25),
        "L40S": (Status.ADDED, None),
        "L4": (Status.VANISHED, None),
    }
    assert (found.both, found.added, found.vanished) == (1, 1, 1)
    (winner,) = found.winners
    assert winner.before is not None
    assert winner.after is not None
    assert (winner.before.gpu, winner.after.gpu, winner.changes) == ("H100", "H100", False)


def test_limits_let_configurations_in_and_out(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points=tokens(1000.0, itl_ms=30.0)),
        oracle(points=tokens(900.0, itl_ms=10.0)),
        an_answer(gpu="L4", points=tokens(100.0, itl_ms=10.0)),
        oracle(gpu="L4", points=tokens(100.0, itl_ms=30.0)),
        an_answer(gpu="L40S", outcome="does_not_fit"),
    )
    found = ask("roofline", "oracle", slos=(parse_slo("itl<=20ms"),))
    assert by_gpu(found) == {"H100": (Status.QUALIFIES, None), "L4": (Status.DROPS_OUT, None)}
    assert (found.both, found.added, found.vanished) == (2, 0, 1)
    (winner,) = found.winners
    assert winner.staying is None
    assert winner.lead_before is None


def test_the_book_of_today_against_yesterdays(store: Store, answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(points=tokens(1000.0)), an_answer(gpu="L4", points=tokens(200.0)), an_answer(gpu="L40S"))
    with store.writing() as connection:
        save_quotes(
            connection,
            [
                Quote("acme", "H100", "p", 4.0, date(2026, 1, 1)),
                Quote("acme", "H100", "p", 1.0, date(2026, 3, 1)),
                Quote("acme", "L4", "p", 0.5, date(2026, 1, 1)),
                Quote("acme", "L40S", "p", 9.0, date(2026, 3, 1)),
            ],
        )
    found = ask("as-of:2026-02-01", "2026-04-01", prices=PriceRules(books=("acme",)))
    assert by_gpu(found) == {
        "H100": (Status.BETTER, -0.75),
        "L4": (Status.SAME, 0.0),
        "L40S": (Status.QUALIFIES, None),
    }
    assert [(price.gpu, price.before, price.after) for price in found.prices] == [
        ("H100", 4.0, 1.0),
        ("L40S", None, 9.0),
    ]
    assert found.metrics == {}  # the same answers: nothing else differs
    (winner,) = found.winners
    assert winner.before is not None
    assert winner.after is not None
    assert (winner.before.gpu, winner.after.gpu) == ("L4", "H100")
    # Yesterday's winner stays as dear as it was: 0.50/0.72 against 1.00/3.6.
    assert winner.staying == pytest.approx(0.5 / 0.72 / (1 / 3.6) - 1)
    assert ask("prices:default", "prices:acme", prices=PriceRules()).prices


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path_factory.mktemp('compare') / 'gpuscout.db'}"
    with open_store(url, create=True) as store:
        with store.writing() as connection:
            fill(connection, [an_answer(in_sweep=True), oracle()])
        yield store


@pytest.mark.parametrize(
    ("one", "other", "question", "told"),
    [
        ("nightly", "engine:roofline", {}, "cannot be compared"),
        ("engine:roofline", "engine:roofline", {}, "the same"),
        ("engine:roofline", "engine:nobody", {}, "nobody"),
        ("rooflin", "oracle", {}, "rooflin"),
        ("as-of:yesterday", "as-of:2026-01-01", {}, "invalid day"),
        ("engine:", "engine:oracle", {}, "lacks a name"),
        ("kind:estimated", "kind:measured", {}, "kind:measured: the store has no measured runs"),
        ("nightly", "nightly@1", {}, "the same"),
        ("nightly@1", "1", {}, "the same"),
        ("sweep:nightly", "sweep:nightly@2", {}, 'unknown sweep "nightly@2"'),
        ("prices:default", "prices:nobody", {"prices": PriceRules()}, "price book"),
        ("engine:roofline", "engine:oracle", {"engines": ("oracle",)}, "--engine"),
        ("as-of:2026-01-01", "as-of:2026-02-01", {"prices": PriceRules(as_of=date(2026, 1, 1))}, "--as-of"),
        ("roofline", "oracle", {"weights": (("cost", 0.5), ("itl", 0.5))}, "weighted"),
    ],
)
def test_references_that_are_none(small: Store, one: str, other: str, question: dict[str, Any], told: str) -> None:
    asked = Question(**{"prices": PRICES} | question)
    with small.reading() as connection, pytest.raises(InputError, match=told):
        compare(connection, *sides_of(connection, one, other, asked))


def test_sides_keep_the_rest_of_the_question(small: Store) -> None:
    question = Question(models=("a/One",), prices=PRICES)
    with small.reading() as connection:
        sides: tuple[Side, Side] = sides_of(connection, "prices:default", "prices:default,own", question)
    assert [side.question.prices.books for side in sides] == [("default",), ("default", "own")]
    assert {side.question.models for side in sides} == {("a/One",)}
    assert {side.label for side in sides} == {"prices:default", "prices:default,own"}


def test_settings_are_compared_by_everything_else(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points=tokens(1000.0)),
        an_answer(server="sglang", points=tokens(1250.0)),
        an_answer(precision="bf16", points=tokens(500.0)),
        an_answer(gpu="L4", points=tokens(200.0)),
        an_answer(gpu="L4", server="sglang", points=tokens(100.0)),
    )
    servers = ask("server:vllm", "sglang", precisions=("fp8",))
    assert by_gpu(servers) == {"H100": (Status.BETTER, -0.2), "L4": (Status.WORSE, 1.0)}
    assert servers.metrics["output_tokens_per_s"].points == 2
    precisions = ask("precision:bf16", "precision:fp8", servers=("vllm",), gpus=("H100",))
    assert [(change.status, change.change) for change in precisions.changes] == [(Status.BETTER, -0.5)]
    gpus = ask("gpu:H100", "gpu:L4", servers=("vllm",), precisions=("fp8",))
    assert [(change.status, round(change.change or 0, 6)) for change in gpus.changes] == [(Status.WORSE, 0.25)]
    assert gpus.winners[0].changes_gpu
    with pytest.raises(InputError, match="--server cannot be combined with these sides"):
        ask("server:vllm", "server:sglang", servers=("vllm",))


def test_versions_of_a_server_are_those_of_measured_runs(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points=tokens(5000.0)),
        runs=[
            a_run(server_version="0.18.0", output_tokens_per_s=1000.0),
            a_run(server_version="0.19.1", output_tokens_per_s=1600.0),
            a_run(server_version="0.19.2", output_tokens_per_s=2400.0),
        ],
    )
    found = ask("version:0.18", "version:0.19", objective="throughput")
    assert [(change.status, change.change) for change in found.changes] == [(Status.BETTER, 1.0)]
    with pytest.raises(InputError, match=r'unknown server version "0\.1"'):
        ask("version:0.1", "version:0.19")


def test_prices_are_compared_with_what_they_might_be(small: Store) -> None:
    question = Question(prices=PriceRules(overrides={"L4": 0.5, "H100": 2.0}))
    with small.reading() as connection:
        found = compare(connection, *sides_of(connection, "now", "price:H100-SXM=0.01", question))
        assert [side.label for side in found.sides] == ["now", "price:H100-SXM=0.01"]
        assert found.sides[1].question.prices.overrides == {"L4": 0.5, "H100": 2.0, "H100-SXM-80GB": 0.01}
        assert found.metrics == {}
        days = sides_of(connection, "as-of:2026-01-31", "prices:default", question)
        assert [side.form for side in days] == ["as-of", "prices"]
        for wrong in ("price:H100", "price:H100=cheap", "price:H100=-1"):
            with pytest.raises(InputError, match="invalid price"):
                sides_of(connection, "now", wrong, question)


# --- against a comparison written the plain way ------------------------------------------------------------------

answers = st.lists(
    st.builds(
        an_answer,
        engine=st.sampled_from([("roofline", 0), ("oracle", 0)]),
        gpu=st.sampled_from(["H100", "L4"]),
        tensor_parallel=st.sampled_from([1, 2]),
        gpu_version=st.integers(0, 1),
        points=st.dictionaries(
            st.sampled_from([1, 8]),
            st.fixed_dictionaries({"output_tokens_per_s": st.floats(1, 1e4), "itl_ms": st.floats(1, 100)}),
            min_size=1,
        ),
    ),
    min_size=2,
    max_size=8,
    unique_by=lambda answer: (answer["engine"], answer["gpu"], answer["tensor_parallel"]),
).filter(lambda rows: len({row["engine"] for row in rows}) == 2)


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(answers, st.sampled_from([(), (parse_slo("itl<=50ms"),)]))
def test_every_change_is_that_of_two_rankings(rows: list[Row], slos: tuple[Any, ...]) -> None:
    with open_store("sqlite://", create=True) as store:
        with store.writing() as connection:
            fill(connection, rows)
        with store.reading() as connection:
            question = Question(prices=PRICES, slos=slos, top=None)
            found = compare(connection, *sides_of(connection, "roofline", "oracle", question))
            expected: list[dict[tuple[Any, ...], RankedConfig]] = []
            for engine in ("roofline", "oracle"):
                groups = rank(connection, replace(question, engines=(engine,))).groups
                expected.append({(c.gpu, c.tensor_parallel): c for group in groups for c in group.configs})
    one, other = expected
    asked = [{(row["gpu"], row["tensor_parallel"]) for row in rows if row["engine"][0] == name} for name in ENGINES]
    assert len(found.changes) == len(one.keys() | other.keys())
    for change in found.changes:
        key = change.config.gpu, change.config.tensor_parallel
        assert change.before == one.get(key)
        assert change.after == other.get(key)
        if change.before and change.after:
            assert change.change == pytest.approx(change.after.objective / change.before.objective - 1)
        elif change.after:
            assert change.status == (Status.QUALIFIES if key in asked[0] else Status.ADDED)
        else:
            assert change.status == (Status.DROPS_OUT if key in asked[1] else Status.VANISHED)
    assert (found.added, found.vanished, found.both) == (
        len(asked[1] - asked[0]),
        len(asked[0] - asked[1]),
        len(asked[0] & asked[1]),
    )


ENGINES = ("roofline", "oracle")


# --- the command -------------------------------------------------------------------------------------------------


def test_a_price_neither_adds_measured_runs_nor_takes_them_away(store: Store) -> None:
    with store.writing() as connection:
        fill(connection, [], [a_run(gpu="L4"), a_run(gpu="L40S")])

    def ask(one: str, other: str, prices: PriceRules) -> Comparison:
        with store.reading() as connection:
            return compare(connection, *sides_of(connection, one, other, Question(prices=prices)))

    old = PriceRules(books=("default",), overrides={"L4": 0.5})
    found = ask("as-of:2020-01-01", "as-of:2026-11-01", prices=old)  # no price of an L40S is so old
    assert (found.both, found.added, found.vanished) == (2, 0, 0)
    assert by_gpu(found) == {"L4": (Status.SAME, 0.0), "L40S": (Status.QUALIFIES, None)}
    found = ask("as-of:2026-11-01", "as-of:2020-01-01", prices=old)
    assert by_gpu(found)["L40S"] == (Status.DROPS_OUT, None)


def told(capsys: pytest.CaptureFixture[str], url: str, *arguments: str) -> str:
    capsys.readouterr()
    assert execute(["compare", "--db", url, "--objective", "throughput", *arguments]) == 0
    return capsys.readouterr().out


def test_cases_of_one_side_have_no_winner_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(), oracle(), oracle(model="a/Two")])
    shown = " ".join(told(capsys, url, "roofline", "oracle").split())
    assert "1 pair of model and workload stand on one side only, 0 in A, 1 in B" in shown
    assert "the winner is the same" in shown
    assert "another winner" not in shown


def test_narrow_tables_tell_the_workloads_of_one_model_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        cases: list[dict[str, Any]] = [
            {"lengths": lengths, "gpu": gpu} for lengths in LENGTHS for gpu in ("H100", "L4")
        ]
        fast, slow = tokens(1000.0), tokens(10.0)
        before = [an_answer(**case, points=fast if case["gpu"] == "H100" else slow) for case in cases]
        fill(connection, [*before, *(oracle(**case, points=slow if case["gpu"] == "H100" else fast) for case in cases)])
    monkeypatch.setenv("COLUMNS", "64")
    shown = told(capsys, url, "roofline", "oracle")
    assert max(map(len, shown.splitlines())) <= 64
    _, another, largest = shown.split("\n\n")
    for table in (another, largest):
        assert " chat " in table
        assert " 4096/512 " in table


def test_the_command_tells_people_and_machines(
    store: Store, store_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing() as connection:
        fill(
            connection,
            [
                an_answer(points=tokens(1000.0)),
                oracle(points=tokens(300.0)),
                an_answer(gpu="L4", points=tokens(200.0)),
                oracle(gpu="L4", points=tokens(400.0)),
                oracle(gpu="L40S", points=tokens(100.0)),
            ],
        )
    monkeypatch.setenv("COLUMNS", "80")
    shown = told(capsys, store_url, "engine:roofline", "engine:oracle")
    assert max(map(len, shown.splitlines())) <= 80
    flat = " ".join(shown.split())
    assert "2 configurations on both sides, 1 added, 0 vanished" in flat
    assert "the winner changes in 1 of 1 case, 1 to another GPU type" in flat
    assert "tok/s at equal concurrencies (2 points): median +15 %, at most +100 %" in flat

    document = json.loads(told(capsys, store_url, "roofline", "oracle", "--json"))
    assert document["objective_unit"] == "tokens/s"
    (winner,) = document["winners"]
    assert (winner["a"]["gpu"], winner["b"]["gpu"], winner["changes_gpu"]) == ("H100", "L4", True)
    assert {row["gpu"]: row["status"] for row in document["configurations"]} == {
        "H100": "worse",
        "L4": "better",
        "L40S": "added",
    }
    rows = list(csv.DictReader(io.StringIO(told(capsys, store_url, "roofline", "oracle", "--csv"))))
    assert [row["gpu"] for row in rows] == [row["gpu"] for row in document["configurations"]]
    assert told(capsys, store_url, "roofline", "oracle", "--md").startswith("| model |")
    assert execute(["compare", "--db", store_url, "roofline", "nightly"]) == 2
    assert "cannot be compared" in capsys.readouterr().err


def test_cases_without_an_answer_on_either_side_stand_on_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(), an_answer(model="a/Two")])
    shown = " ".join(told(capsys, url, "now", "price:H100=1.8", "--slo", "ttft<=0.001ms").split())
    assert "nothing qualifies on either side for 2 pairs of model and workload" in shown
    assert "stand on one side only" not in shown
