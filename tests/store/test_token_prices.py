"""Token prices: books in the store and out of it again, damaged files, and what a name of an API means."""

from __future__ import annotations

import json
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.book_export import write_quotes, write_token_prices
from gpuscout.store.prices.books import quotes_of, remove_quotes, save_quotes, shipped_quotes
from gpuscout.store.prices.csv_file import PriceFile
from gpuscout.store.prices.prices import PURCHASES, Quote
from gpuscout.store.prices.token_books import (
    current,
    named,
    save_token_prices,
    shipped_token_prices,
    token_prices_of,
)
from gpuscout.store.prices.tokens import TokenFile, TokenPrice
from gpuscout.store.transfer.copy import copy_store
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.models.catalogue import ModelCatalogue

DAY = date(2026, 11, 1)
HEAD = "provider,model,input_per_mtok,cached_input_per_mtok,output_per_mtok,date"


def price(provider: str, model: str, read: float = 1.0, written: float = 2.0, **more: Any) -> TokenPrice:
    values: dict[str, Any] = {"book": "b", "cached_input_usd_per_mtok": None, "date": DAY, **more}
    return TokenPrice(
        provider=provider,
        model=model,
        input_usd_per_mtok=read,
        output_usd_per_mtok=written,
        **values,  # type: ignore[arg-type]
    )


def test_what_ships_says_when_and_where_it_was_read() -> None:
    prices = shipped_token_prices()
    assert len({(p.provider, p.model, p.date) for p in prices}) == len(prices) > 8
    assert {p.model for p in prices} <= set(ModelCatalogue.load().names())
    for one in prices:
        assert one.source.startswith("https://")
        assert date(2026, 1, 1) <= one.date <= date(2026, 11, 28)
        assert 0 < one.input_usd_per_mtok <= one.output_usd_per_mtok


@given(*[st.integers(0, 10_000)] * 3, *[st.integers(0, 10**6)] * 2, st.integers(0, 100))
def test_what_tokens_cost(read: int, cached: int, written: int, tokens_in: int, tokens_out: int, share: int) -> None:
    million, part = 10**6, Fraction(share, 100)
    one = price("p", "m", read / 1000, written / 1000, cached_input_usd_per_mtok=cached / 1000)
    exact = (
        tokens_in * (1 - part) * Fraction(read, 1000)
        + tokens_in * part * Fraction(cached, 1000)
        + tokens_out * Fraction(written, 1000)
    ) / million
    assert one.usd(tokens_in, tokens_out, share / 100) == pytest.approx(float(exact), rel=1e-9)
    plain = price("p", "m", read / 1000, written / 1000)
    assert plain.usd(tokens_in, tokens_out, 1.0) == plain.usd(tokens_in, tokens_out)


# --- books in and out ---------------------------------------------------------------------------------------------

words = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters="\xa0"), min_size=1, max_size=12)
plain = words.map(lambda text: " ".join(text.split())).filter(bool)
days = st.dates(date(2020, 1, 1), date(2030, 1, 1))
usd = st.floats(0.01, 400)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(plain, plain, st.floats(0.01, 100), st.none() | st.floats(0, 1), st.floats(0.01, 100), days, plain),
        min_size=1, max_size=6, unique_by=lambda row: (row[0], row[1].casefold(), row[5]),
    ),
)  # fmt: skip
def test_a_book_of_tokens_comes_back_as_it_was(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    prices = [
        TokenPrice(
            "b", str(p), f"x/{m} y", float(i), None if c is None else float(c) * float(i), float(o), d, source=str(s)
        )  # type: ignore[arg-type]
        for p, m, i, c, o, d, s in rows
    ]
    path = tmp_path / "book.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_token_prices(prices, stream)
    assert TokenFile(path, "b", {}).read() == prices


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["L4", "B200", "H100-SXM-80GB"]), plain, usd, days, st.sampled_from(PURCHASES), plain,
            st.none() | st.integers(1, 16), st.booleans(), plain,
        ),
        min_size=1, max_size=6, unique_by=lambda row: (row[0], row[1], row[3], row[4], row[5]),
    ),
)  # fmt: skip
def test_a_book_of_gpus_comes_back_as_it_was(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    quotes = [
        Quote("b", gpu, by, price, day, purchase, "us-1 us-2", kind, size, exact=exact, source=said, note='a, "b"')  # type: ignore[arg-type]
        for gpu, by, price, day, purchase, kind, size, exact, said in rows
    ]
    path = tmp_path / "book.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_quotes(quotes, stream)
    assert PriceFile(path, "b", {}).read() == quotes


def test_other_currencies_come_back_with_their_rate(tmp_path: Path) -> None:
    euros = price("p", "m", 1.1, 2.2, cached_input_usd_per_mtok=0.55, currency="EUR", usd_rate=1.1)
    path = tmp_path / "book.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_token_prices([euros], stream)
    with pytest.raises(InputError, match="prices in EUR need a rate"):
        TokenFile(path, "b", {}).read()
    (back,) = TokenFile(path, "b", {"EUR": 1.1}).read()
    assert (back.input_usd_per_mtok, back.output_usd_per_mtok) == pytest.approx((1.1, 2.2))
    assert (back.currency, back.usd_rate) == ("EUR", 1.1)


def test_the_store_keeps_them_and_copies_them(store: Store, tmp_path: Path) -> None:
    first, other = price("p", "m"), price("q", "m", cached_input_usd_per_mtok=0.1)
    with store.writing() as connection:
        assert save_token_prices(connection, [first, other]) == 0
        assert save_token_prices(connection, [price("p", "m", 3.0)]) == 1
        assert save_token_prices(connection, [price("p", "m", 4.0, date=date(2026, 11, 2))]) == 0
        save_quotes(connection, [Quote("b", "L4", "p", 1.0, DAY), Quote("c", "L4", "p", 1.0, DAY)])
        found = token_prices_of(connection, ["b"])
        assert [(p.provider, p.input_usd_per_mtok) for p in found] == [("p", 4.0), ("p", 3.0), ("q", 1.0)]
        assert len(token_prices_of(connection)) == 3 + len(shipped_token_prices())
        with pytest.raises(InputError, match="ships with gpuscout"):
            save_token_prices(connection, [price("p", "m", book="default")])
    with open_store(str(tmp_path / "other.db"), create=True) as target:
        assert copy_store(store, target).prices == 5
        assert copy_store(store, target).prices == 0
        with target.reading() as connection:
            assert token_prices_of(connection, ["b"]) == found
    with store.writing() as connection:
        assert remove_quotes(connection, "b", "L4") == 1
        assert remove_quotes(connection, "b") == 3
        assert token_prices_of(connection, ["b"]) == []
        assert [quote.book for quote in quotes_of(connection, ["c"])] == ["c"]
        assert save_token_prices(connection, [first, other]) == 0
        assert save_token_prices(connection, [first], replace_book="b") == 2


def test_the_newest_of_ones_own_counts() -> None:
    prices = [
        price("p", "m", 1.0, book="default", date=date(2026, 11, 20)),
        price("P", "m", 2.0, book="acme", date=date(2026, 1, 1)),
        price("p", "M", 3.0, book="acme", date=date(2026, 2, 1)),
        price("p", "n", 4.0, book="default"),
    ]
    assert [p.input_usd_per_mtok for p in current(prices)] == [3.0, 4.0]
    assert [p.input_usd_per_mtok for p in current(prices, date(2026, 1, 31))] == [2.0]
    own = price("p", "m", 5.0, book="own", date=date(2025, 1, 1))
    assert [p.input_usd_per_mtok for p in current([*prices, own])] == [5.0, 4.0]


def test_what_a_name_means() -> None:
    prices = [price("Groq", "openai/gpt-oss-120b"), price("Groq", "Qwen/Qwen3-32B"), price("X", "Qwen/Qwen3-32B")]
    names = {
        text: [p.name for p in named(text, prices)]
        for text in ("groq", "GROQ/qwen3-32b", "Qwen/Qwen3-32B", "x/Qwen/Qwen3-32B", "*")
    }
    assert names == {
        "groq": ["Groq/gpt-oss-120b", "Groq/Qwen3-32B"],
        "GROQ/qwen3-32b": ["Groq/Qwen3-32B"],
        "Qwen/Qwen3-32B": ["Groq/Qwen3-32B", "X/Qwen3-32B"],
        "x/Qwen/Qwen3-32B": ["X/Qwen3-32B"],
        "*": ["Groq/gpt-oss-120b", "Groq/Qwen3-32B", "X/Qwen3-32B"],
    }
    with pytest.raises(UnknownNameError) as raised:
        named("grok", prices)
    assert raised.value.suggestions == ("Groq",)


# --- files and commands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("p,m,-1,,2,2026-01-01", 'book.csv:2  input_per_mtok: invalid price "-1": expected a number from 0'),
        ("p,m,nan,,2,2026-01-01", 'input_per_mtok: invalid price "nan"'),
        ("p,m,1,,inf,2026-01-01", 'output_per_mtok: invalid price "inf"'),
        ("p,m,1,,1e12,2026-01-01", "1e+12 USD per million tokens cannot be right"),
        ("p,m,1,,0,2026-01-01", "0 USD per million tokens cannot be right"),
        ("p,m,,,2,2026-01-01", "input_per_mtok: missing"),
        ("p,,1,,2,2026-01-01", "model: missing"),
        ("p,m,1,3,2,2026-01-01", "cached_input_per_mtok: above the price of input that is not cached"),
        ("p,m,$1,,2,2026-01-01", 'invalid price "$1"'),
        ("p,m,1,,2,soon", 'date: invalid date "soon"'),
        ("p,m,1,,2,", "date: missing"),
        ("p,m,1,,2,2026-01-01,x", "more cells than columns"),
        ("p\x1b,m,1,,2,2026-01-01", "text with a control character"),
        ("p,m,1,,2,2026-01-01\np,m,1,,2,2026-01-01", "book.csv:3  the same quote as line 2"),
        ("", "no prices in this file"),
    ],
)
def test_a_damaged_file_is_refused_with_the_places(tmp_path: Path, row: str, told: str) -> None:
    path = tmp_path / "book.csv"
    path.write_text(f"{HEAD}\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError) as raised:
        TokenFile(path, "b", {}).read()
    assert told in raised.value.message
    assert "nothing was imported" in raised.value.message


def test_headers_say_what_is_missing_and_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "book.csv"
    path.write_bytes("﻿Provider,Model,input_per_mtok,output_mtok\r\np,Qwen3-32B,1,2\r\n".encode())
    with pytest.raises(InputError) as raised:
        TokenFile(path, "b", {}).read()
    for told in ('unknown column "output_mtok"\n    did you mean output_per_mtok', 'no column "output_per_mtok"',
                 'no column "date"\n    --date YYYY-MM-DD'):  # fmt: skip
        assert told in raised.value.message
    path.write_bytes("﻿Provider,Model,input_per_mtok,output_per_mtok\r\np,qwen3_32b,1,2\r\n".encode())
    (found,) = TokenFile(path, "b", {}, day=DAY).read()
    assert (found.provider, found.model, found.date) == ("p", "Qwen/Qwen3-32B", DAY)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, status: int = 0) -> str:
        assert execute(["prices", *arguments, "--db", f"sqlite:///{tmp_path / 'gpuscout.db'}"]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    book = Path("apis.csv")
    book.write_text(f"{HEAD}\nAcme,Qwen/Qwen3-32B,0.1,0.05,0.4,2026-11-01\nAcme,acme-large,1,,2,2026-11-01\n")
    told = run("import", "apis.csv", "--format", "tokens", "--book", "apis")
    assert "Acme/Qwen3-32B: 0.1 in, 0.4 out USD per million tokens, 2026-11-01" in told
    assert "2 token prices stored in apis" in told
    assert "no column" in run("import", "apis.csv", status=2)  # it is no book of GPUs
    assert "hold the same price twice" in run("import", "apis.csv", "apis.csv", "--format", "tokens", status=2)
    shown = run("list", "--prices", "apis")
    assert "Acme" in shown
    assert "acme-large" in shown
    document = json.loads(run("list", "--json"))
    assert {"Acme/Qwen3-32B", "Groq/gpt-oss-120b"} <= {one["name"] for one in document["token_prices"]}
    run("export", "apis", "--tokens", "--output", "back.csv")
    run("import", "back.csv", "--format", "tokens", "--book", "again")
    assert run("export", "again", "--tokens", "--output", "-") == run("export", "apis", "--tokens", "--output", "-")
    assert "already exists" in run("export", "apis", "--tokens", "--output", "back.csv", status=2)
    assert "2 prices removed from apis" in run("remove", "apis")
    # And the book of GPUs that ships comes back as it is.
    run("export", "default", "--output", "shipped.csv")
    assert len(PriceFile(Path("shipped.csv"), "default", {}).read()) == len(shipped_quotes())
    assert PriceFile(Path("shipped.csv"), "default", {}).read() == quotes_in_order()


def quotes_in_order() -> list[Quote]:
    return sorted(shipped_quotes(), key=lambda q: (q.gpu, q.provider, -q.date.toordinal(), q.instance_type))
