"""What a ranking is asked beyond its basic rules: prices, limits between points, percentiles, weights, query plans."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gpuscout.runner.cli.main import execute
from gpuscout.store import schema
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.books import save_quotes
from gpuscout.store.prices.prices import PriceRules, Quote
from gpuscout.store.ranking.rank import Question, sql_of
from gpuscout.store.ranking.types import Cause, Flip, Opinion
from gpuscout.store.schema import exclusions, sweeps
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.slo import parse_slo
from tests.support.rank_stores import Ask, Row, an_answer, asks, fill
from tests.support.stores import new_store

PRICES = PriceRules(overrides={"H100": 2.0, "L4": 0.36})


@pytest.fixture
def answered(store: Store) -> Callable[..., Ask]:
    return lambda *answers: asks(store, answers, prices=PRICES)


def tokens(**by_concurrency: float) -> dict[int, dict[str, float]]:
    return {int(c[1:]): {"output_tokens_per_s": value} for c, value in by_concurrency.items()}


def test_cost_is_the_default_and_per_million_tokens(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points=tokens(c8=1000.0)), an_answer(gpu="L4", tensor_parallel=2, points=tokens(c1=10.0, c8=200.0))
    )
    first, second = ask().groups[0].configs
    assert (first.gpu, first.objective, first.usd_per_hour) == ("H100", pytest.approx(2.0 / 3.6), 2.0)
    assert (second.gpu, second.concurrency, second.objective) == ("L4", 8, pytest.approx(1.0))
    assert second.usd_per_hour == pytest.approx(0.72)
    first, second = ask(objective="cost-per-hour", also=("cost", "energy")).groups[0].configs
    assert (first.gpu, first.objective, first.concurrency) == ("L4", pytest.approx(0.72), 8)
    assert second.values == pytest.approx({"cost-per-hour": 2.0, "cost": 2.0 / 3.6, "energy": 0.7 / 3.6})


def test_a_brief_ranking_describes_the_nearest_loser_of_all_groups_and_those_of_unanswered_ones(
    answered: Callable[..., Ask],
) -> None:
    def slow(itl_ms: float) -> dict[int, dict[str, float]]:
        return {1: {"itl_ms": itl_ms}}

    ask = answered(
        *(an_answer(model=model) for model in ("a/One", "a/Two")),
        an_answer(gpu="L4", points=slow(40.0)),
        an_answer(model="a/Two", gpu="L4", points=slow(30.0)),
        an_answer(model="b/One-v2", gpu="L4", points=slow(50.0)),
    )

    def told(**question: Any) -> tuple[list[Any], dict[str, list[float | None]]]:
        groups = ask("itl<=12ms", **question).groups
        assert [[out.count for out in group.losers] for group in groups] == [[1], [1], [1]]
        losers = {g.model: [loser.ratio for out in g.losers for loser in out.examples] for g in groups}
        return [group.configs for group in groups], losers

    configs, losers = told()
    assert losers == {"a/One": [pytest.approx(40 / 12)], "a/Two": [2.5], "b/One-v2": [pytest.approx(50 / 12)]}
    assert told(briefly=True) == (configs, losers | {"a/One": []})


def test_a_gpu_without_a_price_is_shown_unranked(answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(), an_answer(tensor_parallel=2), an_answer(gpu="L4"))
    (group,) = ask(prices=PriceRules(overrides={"L4": 1.0})).groups
    assert [(c.gpu, c.place) for c in group.configs] == [("L4", 1)]
    (unranked,) = group.unranked
    assert unranked.config is not None
    assert (unranked.config.gpu, unranked.config.num_gpus, unranked.reason) == ("H100", 1, "no price in default")
    (named,) = ask(prices=PriceRules(overrides={"L4": 1.0}), briefly=True).groups[0].unranked
    assert (named.gpu, named.reason, named.config) == ("H100", unranked.reason, None)
    assert [(out.cause, out.count) for out in group.losers] == [(Cause.NO_PRICE, 2)]
    (group,) = ask(objective="energy", gpus=("H100",)).groups
    assert group.best is not None
    assert group.best.objective == pytest.approx(0.7 / 0.36)


def test_a_tdp_that_is_not_known_is_said(answered: Callable[..., Ask]) -> None:
    (group,) = answered(an_answer(gpu="L40S"))(objective="energy").groups
    assert (group.best, group.unranked[0].reason) == (None, "its TDP is not known")
    assert group.losers[0].cause is Cause.NO_TDP


# --- points between stored ones ----------------------------------------------------------------------------------


def test_a_limit_is_met_between_stored_points(answered: Callable[..., Ask]) -> None:
    curve = {
        1: {"ttft_ms": 50.0, "output_tokens_per_s": 10.0},
        11: {"ttft_ms": 150.0, "output_tokens_per_s": 110.0},
    }
    ask = answered(an_answer(points=curve))
    best = ask("ttft<=100ms").groups[0].best
    assert best is not None
    assert (best.concurrency, best.interpolated, best.ttft_ms, best.output_tokens_per_s) == (6, True, 100.0, 60.0)
    best = ask("ttft<=99ms").groups[0].best
    assert best is not None
    assert (best.concurrency, best.ttft_ms) == (5, 90.0)
    best = ask("ttft<=100ms", interpolate=False).groups[0].best
    assert best is not None
    assert (best.concurrency, best.interpolated) == (1, False)
    assert ask("ttft<=49ms").groups[0].best is None  # never beyond what is stored
    best = ask("ttft<=200ms").groups[0].best
    assert best is not None
    assert (best.concurrency, best.interpolated) == (11, False)


def test_a_rate_is_reached_from_below(answered: Callable[..., Ask]) -> None:
    curve = {1: {"itl_ms": 10.0, "requests_per_s": 1.0}, 5: {"itl_ms": 14.0, "requests_per_s": 5.0}}
    ask = answered(an_answer(points=curve))
    best = ask("rate>=2.5", objective="itl").groups[0].best
    assert best is not None
    assert (best.concurrency, best.itl_ms, best.requests_per_s) == (3, 12.0, 3.0)
    (group,) = ask("rate>=6").groups
    assert (str(group.unreachable[0].slo), group.unreachable[0].value) == ("rate>=6/s", 5.0)
    assert group.losers[0].examples[0].detail == "rate 5/s at concurrency 5"
    # No stored point meets both limits.
    best = ask("rate>=2", "itl<=13ms", objective="throughput").groups[0].best
    assert best is not None
    assert (best.concurrency, best.interpolated) == (2, True)


# --- percentiles, weights, engines -------------------------------------------------------------------------------


def test_an_estimate_meets_no_percentile_unless_a_tail_is_assumed(answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(points={8: {"ttft_ms": 100.0}}))
    (group,) = ask("ttft:p95<=200ms").groups
    assert (group.best, [out.cause for out in group.losers]) == (None, [Cause.NO_PERCENTILE])
    assert ask("ttft:p95<=200ms", assume_tail=2.0).groups[0].best is not None
    (group,) = ask("ttft:p95<=200ms", assume_tail=2.1).groups
    assert group.losers[0].examples[0].detail == "TTFT 100 ms x 2.1 at concurrency 8"
    with pytest.raises(InputError, match="a percentile is at least the mean"):
        ask("ttft:p95<=200ms", assume_tail=0.9)


@pytest.mark.parametrize("usd", [-1.0, float("nan"), float("inf")])
def test_a_price_that_cannot_be_is_refused(answered: Callable[..., Ask], usd: float) -> None:
    ask = answered(an_answer())
    with pytest.raises(InputError, match="L4: invalid price"):
        ask(prices=PriceRules(overrides={"L4": usd}))


def test_an_override_names_a_gpu_by_any_of_its_names(answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(points=tokens(c8=1000.0)))  # on "H100"
    for name in ("H100", "h100", "H100-SXM-80GB", "H100_80GB", "H100-SXM"):
        (group,) = ask(prices=PriceRules(overrides={name: 7.2})).groups
        assert group.configs[0].usd_per_hour == 7.2, name
    (group,) = ask(prices=PriceRules(overrides={"H100": 7.2, "H100-SXM-80GB": 1.0})).groups
    assert group.configs[0].usd_per_hour == 7.2
    with pytest.raises(UnknownNameError, match='unknown GPU "H10O"'):
        ask(prices=PriceRules(overrides={"H10O": 7.2}))


def test_weights_are_a_geometric_mean(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points={1: {"itl_ms": 10.0, "output_tokens_per_s": 100.0}}),
        an_answer(gpu="L4", points={1: {"itl_ms": 40.0, "output_tokens_per_s": 36.0}}),
    )
    fast, cheap = ask(weights=(("cost", 1.0), ("itl", 1.0))).groups[0].configs
    assert (fast.gpu, fast.objective, cheap.gpu) == ("H100", 1.0, "L4")
    assert cheap.objective == pytest.approx(0.5**0.5 * 4**0.5)  # half the cost, four times the ITL
    assert ask(weights=(("cost", 3.0), ("itl", 1.0))).groups[0].configs[0].gpu == "L4"
    for weights in ((("cost", 0.0), ("itl", 1.0)), (("cost", 1.0), ("cost", 1.0))):
        with pytest.raises(InputError):
            ask(weights=weights)
    with pytest.raises(UnknownNameError):
        ask(weights=(("costs", 1.0), ("itl", 1.0)))


def test_a_question_for_a_server_as_engine_shows_the_right_option(answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(points=tokens(c8=100.0)))
    with pytest.raises(UnknownNameError) as raised:
        ask(engines=("vLLM",))
    assert "vLLM is a server, not an engine that estimates: --server vllm" in str(raised.value.hint)


def test_other_engines_have_an_opinion_of_the_same_configuration(answered: Callable[..., Ask]) -> None:
    ask = answered(
        an_answer(points=tokens(c8=100.0)),
        an_answer(engine=("oracle", 0), points=tokens(c4=150.0)),
        an_answer(gpu="L4", points=tokens(c8=90.0)),
        an_answer(gpu="L4", engine=("oracle", 0), outcome="does_not_fit", points={}),
    )
    first, second = ask(objective="throughput", engines=("roofline", "oracle")).groups[0].configs
    assert first.opinions == (Opinion("roofline", 100.0), Opinion("oracle", 150.0))
    assert first.spread == (100.0, 150.0)
    assert second.opinions == (Opinion("roofline", 90.0), Opinion("oracle", None))
    assert second.spread is None


def test_filters_on_gpus_dates_and_sizes(answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(), an_answer(gpu="L4"), an_answer(tensor_parallel=4))

    def left(**filters: Any) -> list[tuple[str, int]]:
        configs = ask(objective="throughput", **filters).groups[0].configs
        return sorted((config.gpu, config.num_gpus) for config in configs)

    assert left(min_memory_gb=40.0) == [("H100", 1), ("H100", 4)]
    assert left(tensor_parallel=(1,)) == [("H100", 1), ("L4", 1)]
    assert left(vendors=("nvidia",), since=date(2026, 1, 1), until=date(2026, 1, 1), min_context=1536) == left()
    for nothing in ({"min_context": 1537}, {"since": date(2026, 1, 2)}, {"until": date(2025, 12, 31)}):
        with pytest.raises(InputError, match="nothing in the store matches"):
            left(**nothing)
    with pytest.raises(InputError, match="with 400 GB or more"):
        left(min_memory_gb=400.0)
    with pytest.raises(UnknownNameError, match='unknown vendor "AMD"'):
        left(vendors=("AMD",))


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"max_gpus": 10**30}, "max gpus"),
        ({"min_context": 2**31}, "min context"),
        ({"input_len": 0}, "input len"),
        ({"tensor_parallel": (1, 0)}, "tensor parallel"),
        ({"min_memory_gb": math.nan}, "invalid memory nan GB"),
        ({"min_memory_gb": -1.0}, "invalid memory -1 GB"),
        ({"since": date(2026, 2, 1), "until": date(2026, 1, 1)}, "no day is in the range 2026-02-01 to 2026-01-01"),
    ],
)
def test_filters_that_mean_nothing(answered: Callable[..., Ask], filters: Row, told: str) -> None:
    ask = answered(an_answer())
    with pytest.raises(InputError, match=told):
        ask(**filters)


def test_filters_that_leave_nothing_name_what_there_is(answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(), an_answer(tensor_parallel=4))
    for filters, told in (
        ({"tensor_parallel": (2,)}, "TP: 1, 4"),
        ({"servers": ("sglang",)}, "servers: vllm"),
        ({"precisions": ("int8",)}, "precisions: fp8"),
        ({"since": date(2026, 1, 2)}, "estimates stored: 2026-01-01 to 2026-01-01"),
    ):
        with pytest.raises(InputError) as found:
            ask(**filters)
        assert told in (found.value.hint or "")


def test_what_a_sweep_left_out_of_all_models_is_not_said_of_one(store: Store, answered: Callable[..., Ask]) -> None:
    ask = answered(an_answer(in_sweep=True), an_answer(in_sweep=True, model="a/Two"))
    with store.writing() as connection:
        sweep = connection.execute(sa.select(sweeps.c.id)).scalar_one()
        for model in (None, "a/One"):
            row = {"reason": "rule", "model": model, "gpu": None, "detail": f"of {model}", "combinations": 7}
            connection.execute(sa.insert(exclusions).values(sweep_id=sweep, **row))

    def said(**question: Any) -> list[str]:
        return sorted(exclusion.detail for exclusion in ask(**question).exclusions)

    assert said() == said(sweep="nightly") == said(workload="chat") == ["of None", "of a/One"]
    assert said(models=("a/One",)) == ["of a/One"]
    assert said(models=("a/Two",)) == []


# --- statements --------------------------------------------------------------------------------------------------


def test_the_statement_can_be_read_and_run(store: Store, answered: Callable[..., Ask]) -> None:
    answered(an_answer(model="a/Two", server="vllm"))
    question = Question(models=("Two",), slos=(parse_slo("ttft<=500ms"),), since=date(2025, 1, 1))
    with store.reading() as connection:
        points, refused = sql_of(connection, question).replace("%", "%%").split("\n\n")
        assert "500.0" in points
        assert len(connection.exec_driver_sql(points).all()) == 1
        assert connection.exec_driver_sql(refused).all() == []


def test_names_cannot_break_out_of_the_statement(store: Store, answered: Callable[..., Ask]) -> None:
    answered(an_answer())
    with store.reading() as connection, pytest.raises(UnknownNameError):
        sql_of(connection, Question(models=("x'; DROP TABLE tasks; --",)))


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"models": ("model-7",), "input_len": 512}, "ix_cases_model_id_input_len_output_len"),
        ({"models": ("model-7",)}, "ix_cases_model_id_input_len_output_len"),
        ({"input_len": 512, "output_len": 128}, "ix_cases_model_id_input_len_output_len"),
        ({"sweep": "nightly"}, "membership"),
        ({"sweep": "nightly", "models": ("model-7",), "input_len": 512}, "ix_cases_model_id_input_len_output_len"),
    ],
)
def test_filters_use_indexes(tmp_path: Path, filters: Row, index: str) -> None:
    """No statement of these questions reads a whole table of tasks, cases or points."""
    with open_store(str(tmp_path / "gpuscout.db"), create=True) as store:
        with store.writing() as connection:
            fill(connection, [an_answer(in_sweep=True)])
            row = connection.execute(sa.select(schema.models)).first()
            assert row is not None
            more = [
                row._asdict() | {"id": 100 + n, "name": f"m/model-{n}", "digest": bytes([n] * 16)} for n in range(9)
            ]
            connection.execute(schema.models.insert(), more)
        question = Question(slos=(parse_slo("ttft<=1s"), parse_slo("rate>=1")), **filters)
        with store.reading() as connection:
            plans = [
                [str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()]
                for statement in sql_of(connection, question).split("\n\n")
            ]
    for steps in plans:
        assert not [step for step in steps if step.startswith("SCAN")]
        assert any(index in step for step in steps)


# --- in words ----------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of a store with an H100 in no book, an L4 and an L40S of the shipped book."""
    url = new_store(tmp_path)
    answers = [
        an_answer(in_sweep=True, points=tokens(c64=2900.0)),
        an_answer(in_sweep=True, gpu="L4", points=tokens(c64=420.0)),
        an_answer(in_sweep=True, gpu="L40S", points={1: {"itl_ms": 9.0}, 65: {"output_tokens_per_s": 1400.0}}),
    ]
    with open_store(url) as store, store.writing() as connection:
        fill(connection, answers)
    return url


def recommend(capsys: pytest.CaptureFixture[str], database: str, *arguments: str) -> str:
    assert execute(["recommend", "--db", database, *arguments]) in (0, 6)  # 6: nothing qualifies
    return capsys.readouterr().out


def test_a_winner_that_hangs_on_a_price_is_flagged(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = recommend(capsys, database, "--prices", "default", "--as-of", "2026-11-20")
    assert "chat (1,024 in / 512 out): cost (USD per million output tokens), ITL <= 50 ms\n" in shown
    assert "One    L40S x1 fp8 kv-fp8" in shown
    assert "0.41 (unknown)" in shown
    assert "L40S 2.06 (0.79\u20133.50, 4 sellers, read 2025-09 to 2026-09)" in shown  # two of them long ago
    assert "$ price over 180 days old" in shown
    assert "the price decides: L40S 0.79 to 3.50: with 3.50 L4 wins\n" in shown
    assert "the price decides: L4 0.40 to 1.00: with 0.40 L4 wins instead of L40S\n" in shown
    assert "unranked: H100: no price in default; --price 'H100'=USD ranks it\n" in shown
    explained = recommend(capsys, database, "--prices", "default", "--as-of", "2026-11-20", "--explain")
    assert "L40S 2.06 (0.79 to 3.50: AWS, CoreWeave, OCI, RunPod; 2025-09-17 to 2026-09-24)" in explained
    assert "no price: 1\n    H100 x1 fp8 kv-fp8: no price in default" in explained
    shown = recommend(capsys, database, "--price", "H100-SXM-80GB=2", "--price", "l40s=0.5", "--discount", "0.5")
    assert "L40S 0.50 (--price)" in shown
    assert "50 % off" in shown
    assert "the price decides" not in shown


def test_json_tells_prices_quotes_and_what_changes(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(recommend(capsys, database, "--json"))
    (group,) = document["groups"]
    assert {flip["winner"] for flip in group["winner_changes"]} == {"L4"}
    assert [one["gpu"] for one in group["unranked"]] == ["H100"]
    assert document["prices"]["without_price"] == [{"gpu": "H100", "reason": "no price in default"}]
    assert set(document["prices"]["gpus"][0]) == {
        *("gpu", "usd_per_gpu_hour", "lowest_usd_per_gpu_hour", "highest_usd_per_gpu_hour"),
        *("book", "overridden", "is_old", "quotes"),
    }
    assert group["configurations"][0]["values"]["cost"] == pytest.approx(group["configurations"][0]["objective_value"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--weight", "cost=0.7", "--weight", "itl=0.3"],
        ["--objective", "energy", "--objective", "cost-per-hour", "--objective", "e2e", "--explain"],
        ["--slo", "ttft:p95<=150ms", "--slo", "rate>=1", "--assume-tail", "1.3", "--top", "3"],
        ["--slo", "itl<=9.5ms", "--no-interpolate"],
        ["--whole-instances", "--purchase", "on-demand", "--region", "us-east-1", "--provider", "AWS"],
        ["--sql"],
    ],
)
def test_every_option_prints(database: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert recommend(capsys, database, *arguments)
    if "--sql" not in arguments:
        json.loads(recommend(capsys, database, *arguments, "--json"), parse_constant=pytest.fail)


def test_a_limit_given_twice_is_one_limit(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--slo", "itl<=0.01ms", "--slo", "rate>=1"]
    assert recommend(capsys, database, *limits, "--slo", "itl<=0.01ms") == recommend(capsys, database, *limits)


def test_a_price_holds_for_a_gpu_stored_under_another_name(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("H100", "h100-sxm-80gb", "nvidia h100 80gb hbm3"):
        document = json.loads(recommend(capsys, database, "--price", f"{name}=0.01", "--json"))
        assert document["groups"][0]["configurations"][0]["gpu"] == "H100"
        assert document["prices"]["without_price"] == []


def test_an_interpolated_row_is_marked(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = recommend(capsys, database, "--gpu", "L40S", "--slo", "itl<=9.5ms")
    assert "33~" in shown
    assert "~ interpolated at a limit" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--weight", "cost"],
        ["--price", "L4=-1"],
        ["--discount", "1"],
        ["--tp", "x"],
        ["--region", "mars"],
        ["--assume-tail", "1.3", "--slo", "ttft<=1s"],
    ],
)
def test_wrong_options_are_input_errors(database: str, arguments: list[str]) -> None:
    assert execute(["recommend", "--db", database, *arguments]) == 2


def test_where_questions_are_asked_nothing_can_be_written(store: Store) -> None:
    quote = Quote("acme", "L4", "acme", 1.0, date(2026, 1, 1))
    with pytest.raises(sa.exc.DBAPIError), store.reading() as connection:
        save_quotes(connection, [quote])


def test_listed_rows_stand_in_the_order_of_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another GPU type is listed before another TP of the best, but not above it."""
    url = new_store(tmp_path)
    answers = [
        an_answer(points=tokens(c8=1000.0)),
        an_answer(tensor_parallel=2, points=tokens(c8=1900.0)),
        an_answer(gpu="L4", points=tokens(c8=100.0)),
    ]
    with open_store(url) as store, store.writing() as connection:
        fill(connection, answers)
    prices = ("--price", "H100=2", "--price", "L4=0.36")
    assert execute(["recommend", "--db", url, "--top", "3", *prices]) == 0
    _, _, table = capsys.readouterr().out.partition("model")
    assert re.findall(r"(?:H100|L4) x\d", table)[:3] == ["H100 x1", "H100 x2", "L4 x1"]
    assert execute(["recommend", "--db", url, "--top", "3", *prices, "--csv"]) == 0
    assert [row["place"] for row in csv.DictReader(capsys.readouterr().out.splitlines())] == ["1", "2", "3"]


@pytest.mark.parametrize("asked", [["--objective", "itl", "--objective", "energy"], ["--weight", "energy=1"]])
def test_energy_is_named_an_upper_bound_wherever_it_counts(
    database: str, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "energy: an upper bound" in recommend(capsys, database, *asked)


def test_prices_that_decide_are_told_of_the_winner_of_a_tie(answered: Callable[..., Ask], store: Store) -> None:
    """A tie falls to the lower ITL, also where prices are looked at."""
    ask = answered(
        an_answer(points={8: {"itl_ms": 5.0}}),
        an_answer(gpu="L4", points={8: {"itl_ms": 9.0}}),
        an_answer(gpu="L40S", points={8: {"itl_ms": 7.0}}),
    )
    day = date(2026, 1, 1)
    with store.writing() as connection:
        save_quotes(connection, [Quote("acme", "H100", name, usd, day) for name, usd in (("a", 1.0), ("b", 3.0))])
    prices = PriceRules(books=("acme",), overrides={"L4": 2.0, "L40S": 2.0})
    group = ask(objective="cost-per-hour", prices=prices).groups[0]
    assert [config.gpu for config in group.best_per_gpu] == ["H100", "L40S", "L4"]
    assert group.flips == (Flip("H100", 3.0, winner="L40S", loser="H100"),)


def test_what_comes_closest_to_an_assumed_percentile_is_not_told_as_a_mean(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mean of 100 ms is below a limit of 110 ms that 1.3 x the mean misses."""
    asked = ("--slo", "ttft:p95<=110ms", "--assume-tail", "1.3")
    assert "with 130 ms (1.3 x the mean) at concurrency 64" in " ".join(recommend(capsys, database, *asked).split())
    group = json.loads(recommend(capsys, database, *asked, "--json"))["groups"][0]
    assert [unmet["closest_value"] for unmet in group["unreachable_slos"]] == [pytest.approx(130.0)]


def test_markdown_and_csv_hold_all_that_was_asked(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--objective", "cost", "--objective", "energy", "--objective", "e2e", "--slo", "itl<=9.5ms")
    asked += ("--slo", "ttft:p95<=200ms", "--assume-tail", "1.3", "--top", "3", "--prices", "default")
    assert execute(["recommend", "--db", database, *asked, "--md"]) == 0
    markdown = capsys.readouterr()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.out.splitlines()]
    assert {"USD/Mtok", "kWh/Mtok", "E2E s", "p95 TTFT ms", "remarks"} <= {*header}
    remarks = {row[header.index("configuration")].split()[0]: row[header.index("remarks")] for row in rows}
    assert remarks["L40S"].startswith("interpolated, percentiles assumed to be 1.3 x the mean")
    assert execute(["recommend", "--db", database, *asked, "--csv"]) == 0
    listed = capsys.readouterr()
    (row, *_) = csv.DictReader(listed.out.splitlines())
    assert float(row["p95_ttft_ms"]) == pytest.approx(1.3 * float(row["ttft_ms"]))
    assert "L40S 2.06 (" in listed.err
    assert listed.err == markdown.err


def test_what_rows_cannot_hold_is_said_beside_them(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["recommend", "--db", database, "--prices", "default", "--csv"]) == 0
    told = capsys.readouterr().err
    assert all(part in told for part in ("L4 0.7", "unranked: H100: no price in default", "the price decides: L40S"))
    assert execute(["recommend", "--db", database, "--prices", "default", "--as-of", "2001-01-01", "--csv"]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1
    assert "a/One, chat (1,024 in / 512 out): no configuration can be ranked" in told.err
    assert "has no price of 2001-01-01 or before" in told.err


def test_prices_of_all_listed_rows_are_told(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    prices = ("--price", "H100=0.5", "--price", "L40S=9")
    shown = recommend(capsys, database, *prices, "--top", "3")
    assert [name in shown.partition("prices:")[2] for name in ("H100 0.50", "L40S 9.00", "L4 0.7")] == [True] * 3
    shown = recommend(capsys, database, "--objective", "throughput", "--objective", "cost", "--prices", "default")
    assert "no price: H100: no price in default; --price 'H100'=USD prices it" in shown


def test_the_winner_of_each_seller_compares_like_with_like(answered: Callable[..., Ask], store: Store) -> None:
    """One seller is dear and one is cheap: a median over both would compare a GPU of one with a GPU of the other."""
    quotes = [
        Quote("sold", gpu, provider, usd, date(2026, 11, 1))
        for gpu, provider, usd in (
            ("H100", "Dear", 8.0), ("L4", "Dear", 2.0), ("H100", "Cheap", 2.0), ("L4", "Cheap", 1.0),
            ("L4", "Only", 0.1),
        )
    ]  # fmt: skip
    ask = answered(an_answer(points=tokens(c8=300.0)), an_answer(gpu="L4", points=tokens(c8=100.0)))
    with store.writing() as connection:
        save_quotes(connection, quotes)
    book = PriceRules(books=("sold",))
    (group,) = ask(prices=book).groups
    assert [(one.provider, one.gpu, one.gpu_types) for one in group.sellers] == [
        ("Cheap", "H100", 2),
        ("Dear", "L4", 2),
    ]
    for one in group.sellers:
        best = ask(prices=replace(book, providers=(one.provider,))).groups[0].best
        assert best is not None
        assert (best.gpu, best.num_gpus) == (one.gpu, one.num_gpus)
        assert best.objective == pytest.approx(one.objective)
    assert ask(prices=book, objective="throughput").groups[0].sellers == ()
