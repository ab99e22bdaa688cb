"""GPUs of one's own against a token API: break-even against a search by hand, and the command on a store."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscout import against_api
from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import open_store
from gpuscout.store.prices.books import save_quotes
from gpuscout.store.prices.prices import PriceRules, Quote, packed
from gpuscout.store.prices.token_books import save_token_prices
from gpuscout.store.prices.tokens import TokenPrice
from gpuscout.store.queries.sizing.token_api import MOST_REPLICAS, break_even
from gpuscout.store.ranking.question.asked import Question
from tests.support.rank_stores import an_answer, fill
from tests.support.stores import new_store

DAY = date(2026, 11, 1)
REPLICAS = 60


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.integers(1, 4))
def test_break_even_is_where_a_search_finds_it(cents: int, per_day: int, api: int, size: int, num_gpus: int) -> None:
    """Against every load up to that of many replicas, in exact fractions; instances of `size` GPUs are paid whole."""
    period = -(-size // num_gpus)

    def hourly(replicas: int) -> Fraction:
        return Fraction(cents, 100) * size * packed(num_gpus, replicas, size)

    def own(load: Fraction) -> Fraction:
        """USD a day of as many replicas as the load needs."""
        return 24 * hourly(max(1, math.ceil(load / per_day)))

    usd_per_request = Fraction(api, 100)
    # The cost of GPUs changes where another replica begins, that of the API crosses it in between.
    edges = [Fraction(n * per_day) for n in range(REPLICAS + 1)]
    equals = [24 * hourly(n) / usd_per_request for n in range(1, REPLICAS + 1)]
    just_above = [edge + Fraction(1, 10**6) for edge in edges]
    loads = sorted(load for load in {*edges, *equals, *just_above} if 0 < load <= edges[-1])
    cheaper = [load for load in loads if own(load) <= load * usd_per_request]
    dearer = [load for load in loads if own(load) > load * usd_per_request]

    found = break_even(lambda n: float(hourly(n)), per_day, float(usd_per_request), tokens=3, period=period)
    if found is None:
        assert not cheaper
        return
    if not cheaper:
        assert found.replicas > REPLICAS
        return
    assert found.tokens_per_day == pytest.approx(float(3 * cheaper[0]), rel=1e-6)
    if found.lasting_tokens_per_day is None:
        assert dearer[-1] > edges[-2]  # dearer to the end of what was searched
    elif found.lasting_tokens_per_day < float(3 * edges[-1 - period]):
        # From there on nothing is dearer; right before it something is.
        lasting = found.lasting_tokens_per_day / 3
        assert not [load for load in dearer if float(load) > lasting * (1 + 1e-6)]
        before = Fraction(lasting) * Fraction(999_999, 10**6)
        assert own(before) > before * usd_per_request * Fraction(999_998, 10**6)


def test_a_slim_margin_lasts_only_late_and_none_lasts_never() -> None:
    # 24 USD a day for 100 requests; the API asks 0.24: equal at full load, and dearer with every further replica.
    found = break_even(lambda n: float(n), 100, 0.24, 1)
    assert found is not None
    assert (found.tokens_per_day, found.replicas, found.lasting_tokens_per_day) == (pytest.approx(100), 1, None)
    assert break_even(lambda n: float(n), 100, 0.2399, 1) is None
    found = break_even(lambda n: float(n), 100, 0.25, 1)
    assert found is not None
    # One more replica pays for itself from the 24th on: 24 x 24 USD are 2,304 requests.
    assert (found.tokens_per_day, found.lasting_tokens_per_day) == (pytest.approx(96), pytest.approx(24 * 96))
    assert break_even(lambda n: float(n), 100, 0.0, 1) is None
    assert MOST_REPLICAS >= 1_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(gpu="L4"), an_answer(gpu="L40S")])
        save_quotes(
            connection,
            [Quote("own", "L4", "A", 1.0, DAY), Quote("own", "L4", "B", 3.0, DAY), Quote("own", "L40S", "A", 4.0, DAY)],
        )
    return url


def stored_price(url: str, provider: str, model: str, read: float, written: float, **more: float) -> None:
    with open_store(url) as store, store.writing() as connection:
        cached = more.get("cached")
        save_token_prices(connection, [TokenPrice("apis", provider, model, read, cached, written, DAY)])


def test_the_arithmetic_of_an_answer(url: str) -> None:
    stored_price(url, "Acme", "a/One", 1.0, 2.0, cached=0.5)
    with open_store(url) as store, store.reading() as connection:
        question = Question(prices=PriceRules(books=("own",)), trust="any")
        (one,) = against_api(connection, ["Acme"], question, tokens_per_day=72e6, cached_share=0.5).answers
    # Half of 1,024 tokens at 1, half at 0.5, and 512 at 2 USD per million.
    assert one.usd_per_request == pytest.approx((512 * 1.0 + 512 * 0.5 + 512 * 2.0) / 1e6)
    assert (one.same_model, one.tokens_per_request) == (True, 1536)
    l4, l40s = one.own
    assert (l4.config.gpu, l40s.config.gpu) == ("L4", "L40S")
    # An L4 costs 2 USD an hour, the median of its sellers, and sustains 2 requests/s, of which a fifth is kept free.
    assert l4.break_even is not None
    assert l4.break_even.tokens_per_day == pytest.approx(24 * 2.0 / one.usd_per_request * 1536)
    assert l4.optimistic is not None
    assert l4.optimistic.tokens_per_day == pytest.approx(l4.break_even.tokens_per_day / 2)  # the cheapest seller
    assert l4.pessimistic is not None
    assert l4.pessimistic.tokens_per_day == pytest.approx(l4.break_even.tokens_per_day * 1.5)
    assert l4.usd_per_mtok == pytest.approx(2.0 / (2.0 * 3600 * 1536) * 1e6)
    assert one.at_load is not None
    assert one.at_load.requests_per_s == pytest.approx(72e6 / 1536 / 86_400)
    assert one.at_load.api_usd_per_day == pytest.approx(72e6 / 1536 * one.usd_per_request)
    assert [plan.config.gpu for plan in one.at_load.plans] == ["L4", "L40S"]


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "400")

    def command(*arguments: str, status: int = 0) -> str:
        assert execute(["compare", *arguments, "--trust", "any", "--db", url]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    return command


def test_the_command(url: str, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    stored_price(url, "Acme", "a/One", 1.0, 2.0)
    stored_price(url, "Acme", "acme-large", 0.01, 0.02)
    told = run("api:Acme", "--tokens-per-day", "72M")
    assert "a/One, chat (1,024 in / 512 out), against Acme/One: 1 in, 2 out USD per million tokens" in told
    assert "acme-large" not in told  # no price of this model
    assert "36 M" in told  # 24 x 2 USD / 0.002048 USD x 1,536 tokens
    assert "at 72 M tokens a day (0.54 requests/s) the API costs 96.00 USD a day, 35,040.00 a year" in told
    assert "L4 x1 fp8 kv-fp8, 1 replica: 48.00 USD a day, 48.00 less than the API" in told
    assert "L40S x1 fp8 kv-fp8, 1 replica: 96.00 USD a day, as much as the API" in told
    assert "L40S" not in run("gpu:L4", "api:Acme")
    told = run("api:acme/acme-large", "--top", "1")
    assert "it is of another model, acme-large" in told
    assert "never" in told
    document = json.loads(run("api:Acme", "api:acme-large", "--tokens-per-day", "72e6", "--json"))
    names = [one["api"]["name"] for one in document["comparisons"]]
    assert names == ["Acme/One", "Acme/acme-large"]
    assert document["comparisons"][0]["gpus"][0]["break_even_tokens_per_day"] == pytest.approx(36e6)
    assert document["comparisons"][1]["gpus"][0]["break_even_tokens_per_day"] is None
    assert document["comparisons"][0]["at_load"]["own"][0]["usd_per_day"] == 48.0
    assert run("api:Acme", "--csv").splitlines()[1].startswith("a/One,chat,1024,512,,Acme/One,")
    rows = run("api:Acme", "--md")
    assert "| a/One | chat | Acme/One | L4 x1 fp8 kv-fp8 |" in rows
    assert "GPUs are paid around the clock" in rows
    assert "prices: on-demand USD per GPU hour" in rows
    run("api:Acme", "--slo", "itl<=1ms", status=6)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1798848000")  # 2027-01-02
    assert "over 180 days old" not in run("api:Acme")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1811808000")  # 2027-06-01
    assert "(2026-11-01, over 180 days old, book apis)" in run("api:Acme")
    assert json.loads(run("api:Acme", "--json"))["comparisons"][0]["api"]["is_old"] is True


def test_what_cannot_be_compared(url: str, run: Callable[..., str]) -> None:
    stored_price(url, "Acme", "b/Other", 1.0, 2.0)
    assert "Acme has no price of a/One, but of b/Other\n    api:Acme/Other holds that price" in run(
        "api:Acme", status=2
    )
    stored_price(url, "Beta", "a/One", 1.0, 2.0)
    assert "Acme has no price of a/One, but of b/Other" in run("api:Beta", "api:Acme", status=2)
    assert "did you mean Acme" in run("api:Acmee", status=2)
    assert "expected two sides to compare, got one" in run("now", status=2)
    assert "need a token API on one side" in run("now", "price:L4=1", "--tokens-per-day", "1M", status=2)
    for load in ("-1", "0", "nan", "inf", "1e99", "many", "1 000"):
        assert "invalid load" in run("api:b/Other", "--tokens-per-day", load, status=2)
    assert "at most 1e+15" in run("api:b/Other", "--tokens-per-day", "1e16", status=2)
    for share in ("-0.1", "1.5", "nan"):
        assert "invalid share of cached input" in run("api:b/Other", "--cached", share, status=2)
    told = run("api:b/Other", "--as-of", "2025-06-01", status=2)
    assert "b/Other has no price of 2025-06-01 or before, but of 2026-11-01" in told
    assert "unknown side of a comparison" in run("api:b/Other", "nothing", status=2)
    assert "both already set it" in run("api:b/Other", "gpu:L4", "--gpu", "L4", status=2)
