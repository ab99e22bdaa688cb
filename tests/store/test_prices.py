"""Price books: which price a GPU gets, one test a rule; import with every problem at once; the commands."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.prices.books import prices_for, quotes_of, remove_quotes, save_quotes, shipped_quotes
from gpuscout.store.prices.csv_file import PriceFile
from gpuscout.store.prices.prices import GpuPrice, PriceRules, Quote, price_gpus
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from tests.support.rank_stores import an_answer, fill
from tests.support.stores import new_store


def quote(provider: str, usd: float, day: str = "2026-01-01", **how: Any) -> Quote:
    return Quote("default", "L4", provider, usd, date.fromisoformat(day), **how)


def price(*quotes: Quote, gpus: int = 1, **rules: Any) -> tuple[float, float, float] | str:
    """(median, lowest, highest) USD per hour of an L4 deployment, or why there is none."""
    found = price_gpus(["L4"], quotes, PriceRules(**rules))
    if "L4" in found.missing:
        return found.missing["L4"]
    hourly = found.known["L4"].per_hour(gpus)
    return hourly.usd, hourly.low, hourly.high


def test_the_median_over_providers_ranks() -> None:
    assert price(quote("A", 1.0), quote("B", 2.0), quote("C", 9.0)) == (2.0, 1.0, 9.0)
    assert price(quote("A", 1.0), quote("B", 2.0)) == (1.5, 1.0, 2.0)
    assert price(quote("A", 1.0), quote("B", 2.0), gpus=4) == (6.0, 4.0, 8.0)


def test_each_provider_counts_with_its_newest() -> None:
    assert price(quote("A", 1.0), quote("A", 3.0, "2026-02-01"), quote("B", 5.0, "2025-01-01")) == (4.0, 3.0, 5.0)


def test_a_provider_is_one_whatever_the_case_of_its_name() -> None:
    assert price(quote("Acme", 1.0), quote("acme", 3.0, "2026-02-01"), quote("B", 5.0)) == (4.0, 3.0, 5.0)
    found = price_gpus(["L4"], [quote("Acme", 1.0), quote("acme", 3.0, instance_type="xl")], PriceRules()).known["L4"]
    assert len(found.providers) == 1


def test_of_several_newest_the_lowest_counts() -> None:
    assert price(quote("A", 2.0, instance_type="xl"), quote("A", 1.0, instance_type="s")) == (1.0, 1.0, 1.0)


def test_near_variants_never_count() -> None:
    assert price(quote("A", 1.0, exact=False), quote("B", 2.0)) == (2.0, 2.0, 2.0)
    assert price(quote("A", 1.0, exact=False)) == 'book "default" has only prices of near variants'


def test_purchase_provider_region_and_date_narrow() -> None:
    quotes = [
        quote("A", 1.0, purchase="spot"),
        quote("A", 2.0, region="us-east-1 us-west-2"),
        quote("B", 4.0, region="*"),
        quote("C", 8.0, "2026-05-01"),
    ]
    assert price(*quotes, purchase="spot") == (1.0, 1.0, 1.0)
    assert price(*quotes, purchase="reserved") == 'book "default" has no reserved price'
    assert price(*quotes, providers=("a", "c")) == (5.0, 2.0, 8.0)
    assert price(*quotes, region="US-West-2") == (3.0, 2.0, 4.0)  # C does not say where
    assert price(*quotes, as_of=date(2026, 4, 30)) == (3.0, 2.0, 4.0)
    assert price(*quotes, as_of=date(2020, 1, 1)) == 'book "default" has no price of 2020-01-01 or before'


def test_a_discount_is_taken_off_and_an_override_is_charged_as_it_is() -> None:
    assert price(quote("A", 2.0), discount=0.25) == (1.5, 1.5, 1.5)
    assert price(quote("A", 2.0), discount=0.25, overrides={"L4": 5.0}, gpus=2) == (10.0, 10.0, 10.0)


def test_whole_instances_charge_idle_gpus() -> None:
    quotes = [quote("A", 1.0, gpus_per_instance=8), quote("B", 3.0, gpus_per_instance=1), quote("C", 0.1)]
    assert price(*quotes, gpus=2, whole_instances=True) == (7.0, 6.0, 8.0)  # C does not say how many
    assert price(*quotes, gpus=9, whole_instances=True) == (21.5, 16.0, 27.0)
    shapes = [quote("A", 2.0, gpus_per_instance=8), quote("A", 2.5, gpus_per_instance=1)]
    assert price(*shapes, gpus=1, whole_instances=True) == (2.5, 2.5, 2.5)
    assert price(*shapes, gpus=8, whole_instances=True) == (16.0, 16.0, 16.0)
    assert price(quotes[2], whole_instances=True) == 'book "default" does not say how many GPUs an instance has'


def test_the_first_book_with_a_price_decides_alone() -> None:
    own = Quote("own", "L4", "us", 0.5, date(2026, 1, 1))
    assert price(own, quote("A", 1.0)) == (0.5, 0.5, 0.5)
    assert price(own, quote("A", 1.0), books=("default", "own")) == (1.0, 1.0, 1.0)
    assert price(own, quote("A", 1.0), purchase="spot") == (
        'book "own" has no spot price; book "default" has no spot price'
    )
    assert price(books=("acme",)) == "no price in acme or default"


def test_what_a_book_lacks_comes_from_the_one_that_ships() -> None:
    own = Quote("acme", "L4", "us", 0.5, date(2026, 1, 1))
    assert price(quote("A", 1.0), books=("acme",)) == (1.0, 1.0, 1.0)
    assert price(own, quote("A", 1.0), books=("acme",)) == (0.5, 0.5, 0.5)
    # A GPU that the book knows is never priced by another one.
    assert price(own, quote("A", 1.0), books=("acme",), as_of=date(2025, 1, 1)) == (
        'book "acme" has no price of 2025-01-01 or before'
    )


def test_the_shipped_book_is_about_gpus_of_the_catalogue() -> None:
    quotes = shipped_quotes()
    assert len(quotes) > 100
    assert {q.gpu for q in quotes} <= set(GPUCatalogue.load().names())
    assert all(q.source and q.usd_per_gpu_hour > 0 for q in quotes)
    identities = {(q.gpu, q.provider, q.instance_type, q.purchase, q.region, q.date) for q in quotes}
    assert len(identities) == len(quotes)


def test_books_of_the_store(store: Store) -> None:
    first = Quote("acme", "L4", "acme", 1.0, date(2026, 1, 1), currency="EUR", usd_rate=1.1, gpus_per_instance=8)
    with store.writing() as connection:
        assert save_quotes(connection, [first]) == 0
        same = Quote("acme", "L4", "acme", 2.0, date(2026, 1, 1))
        later = Quote("acme", "L4", "acme", 3.0, date(2026, 2, 1))
        assert save_quotes(connection, [same, later]) == 1
        with pytest.raises(InputError, match="ships with gpuscout"):
            save_quotes(connection, [quote("A", 1.0)])
    with store.reading() as connection:
        assert quotes_of(connection, ["acme"]) == [later, same]
        found = prices_for(connection, ["L4"], PriceRules(books=("acme",)))
        assert found.known["L4"].per_hour(1).usd == 3.0
        assert prices_for(connection, ["L4"], PriceRules()).known["L4"].book == "default"
        with pytest.raises(UnknownNameError, match='unknown price book "acmee"'):
            prices_for(connection, ["L4"], PriceRules(books=("acmee",)))
        with pytest.raises(UnknownNameError, match='unknown provider "AWZ"'):
            prices_for(connection, ["L4"], PriceRules(providers=("AWZ",)))
    with store.writing() as connection:
        assert save_quotes(connection, [Quote("own", "L4", "own", 9.0, date(2026, 1, 1))]) == 0
        assert prices_for(connection, ["L4"], PriceRules()).known["L4"].book == "own"
        assert save_quotes(connection, [first], replace_book="acme") == 2
        assert quotes_of(connection, ["acme"]) == [first]
        assert remove_quotes(connection, "acme", "L4") == 1


# --- import ------------------------------------------------------------------------------------------------------


def read(folder: Path, text: str, **how: Any) -> list[Quote]:
    path = folder / "book.csv"
    path.write_text(text)
    return PriceFile(path, "acme", how.pop("rates", {}), **how).read()


def test_a_file_may_leave_much_out(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "GPU, price_per_instance_hour, gpus_per_instance, currency\nh100,8,4,EUR\n",
                    rates={"EUR": 1.5}, day=date(2026, 3, 1))  # fmt: skip
    assert (found.gpu, found.usd_per_gpu_hour, found.provider) == ("H100-SXM-80GB", 3.0, "acme")
    assert (found.currency, found.usd_rate, found.date) == ("EUR", 1.5, date(2026, 3, 1))
    (own,) = read(tmp_path, "gpu,usd_per_gpu_hour,date\nhal-9000,1,2026-01-01\n", stored_gpus=("HAL-9000",))
    assert own.gpu == "HAL-9000"


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    rows = [
        "gpu,price_per_gpu_hour,currency,date,purchase,gpus_per_instance",
        "H10O,1,,2026-01-01,,",
        "H100,-1,,2026-01-01,,",
        "H100,nan,,2026-01-01,,",
        "H100,9000,,2026-01-01,,",
        "H100,$3,,2026-01-01,,",
        "H100,3,EUR,2026-13-01,sport,0",
        "H100,3,,,,",
        "H100,,,2026-01-01,,",
        "H100,3,,2026-01-01,,8",
        "H100,4,,2026-01-01,,8",
    ]
    with pytest.raises(InputError) as error:
        read(tmp_path, "\n".join(rows))
    told = error.value.message
    for line, what in [
        (2, 'gpu: unknown GPU "H10O"'),
        (3, "price_per_gpu_hour: invalid price -1: expected a number above 0"),
        (4, "price_per_gpu_hour: invalid price nan: expected a number above 0"),
        (5, "price_per_gpu_hour: 9,000 USD per GPU hour cannot be right"),
        (6, 'price_per_gpu_hour: invalid number "$3"'),
        (7, "currency: prices in EUR need a rate"),
        (7, 'date: invalid date "2026-13-01"'),
        (7, 'purchase: unknown purchase "sport"'),
        (7, 'gpus_per_instance: expected a whole number from 1 to 10,000, got "0"'),
        (8, "date: missing"),
        (9, "a row needs exactly one price"),
        (11, "the same quote as line 10"),
    ]:
        assert f"book.csv:{line}  {what}" in told
    assert "did you mean H100-SXM-80GB?" in told
    assert told.endswith("12 problems, nothing was imported.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'no column "gpu"'),
        ("gpu,usd_per_gpu_hour,date\n", "no prices in this file"),
        ("gpu,usd_per_gpu_hour\nL4,1\n", 'no column "date"'),
        ("gpu,usd_per_gpu_hours,date\nL4,1,2026-01-01\n", "did you mean usd_per_gpu_hour"),
        ("gpu,usd_per_gpu_hour,date\nL4,1,2026-01-01,x\n", "more cells than columns"),
    ],
)
def test_files_that_are_no_books(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, status: int = 0) -> str:
        assert execute(["prices", *arguments]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    assert "default: 120 prices" in run("list")  # without a store
    assert "2 prices stored in own" in run("set", "H100=2.10", "nvidia l4=0.5", "--date", "2026-11-01")
    assert "1 price stored in own, 1 replaced" in run("set", "L4=0.6", "--date", "2026-11-01")
    (tmp_path / "book.csv").write_text("gpu,usd_per_gpu_hour,date,provider\nL40S,0.86,2026-11-02,Acme Cloud\n")
    assert "1 price stored in acme" in run("import", "book.csv", "--book", "acme")
    shown = json.loads(run("list", "--prices", "own,acme", "--json"))
    assert {row["gpu"]: row["usd_per_gpu_hour"] for row in shown["gpus"]} == {
        "H100-SXM-80GB": 2.1,
        "L4": 0.6,
        "L40S": 0.86,
    }
    ranked = {row["gpu"]: row["book"] for row in json.loads(run("list", "--json"))["gpus"]}
    assert (ranked["L4"], ranked["L40S"]) == ("own", "default")  # a ranking takes acme only when it is named
    assert "Acme Cloud" in run("show", "L40S")
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("show", "L40S")
    assert max(map(len, shown.splitlines())) <= 80
    assert "2026-11-02  on-demand" in shown
    assert "no price in any book" in run("show", "H20")
    assert "1 price removed from own" in run("remove", "own", "--gpu", "L4")
    for wrong in (["set", "L4=-1"], ["set", "L4"], ["set", "L4=1", "--book", "default"], ["import", "none.csv"],
                  ["import", "book.csv", "--rate", "EUR"], ["set", "L4=1", "--purchase", "stolen"],
                  ["list", "--prices", "acmee"], ["set", "L4=1", "--date", "soon"]):  # fmt: skip
        run(*wrong, status=2)


def test_a_currency_beside_a_price_in_usd_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read(tmp_path, "gpu,usd_per_gpu_hour,date,currency\nL4,1,2026-01-01,EUR\n")
    assert "prices in EUR need a rate" in str(raised.value)
    assert "is in USD, but the currency is EUR" in str(raised.value)


def test_what_is_told_of_prices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    url = new_store(tmp_path)
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(gpu="L4"), an_answer(gpu="L40S")])
        quotes = [("L4", "A", 1.0, 1), ("L4", "B", 1.0, 8), ("L40S", "A", 2.0, 1)]
        save_quotes(
            connection,
            [Quote("own", gpu, by, usd, date(2026, 1, 1), gpus_per_instance=n) for gpu, by, usd, n in quotes],
        )

    def told(*more: str, status: int = 0) -> str:
        assert execute(["recommend", "--db", url, *more]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    # B rents out eight at once: an hour of one of them costs that of all.
    shown = told("--whole-instances", "--explain")
    assert "on-demand USD per hour of a single GPU, its whole instance paid, median of providers" in shown
    assert "L4 4.50 (1.00 to 8.00: A, B; 2026-01-01)" in shown
    assert "the price decides: L4: with 1.00 L4 wins instead of L40S\n" in shown
    assert "--price changes nothing here" not in told("--price", "L4=0.5")
    shown = told("--price", "L4=0.5", "--price", "B200=1", "--price", "A100=1")
    assert "--price changes nothing here: no result of this question runs on A100-SXM-80GB, B200\n" in shown
    assert 'expected names of price books, got ","' in told("--prices", ",", status=2)


def test_what_an_import_may_have_missed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, url = tmp_path / "book.csv", f"sqlite:///{tmp_path / 'gpuscout.db'}"
    path.write_text("gpu,price_per_gpu_hour,date\nL4,1.5,9999-01-02\n")
    command = ["prices", "import", str(path), "--db", url]
    assert execute([*command, "--rate", "EUR=1.1"]) == 0
    told = capsys.readouterr().err
    assert "prices dated in the future (9999-01-02)" in told
    assert f"--rate EUR is unused: no price in {path} is in EUR" in told
    path.write_text("gpu,price_per_gpu_hour,date,currency\nL4,1.5,2001-01-02,eur\n")
    assert execute([*command, "--rate", "EUR=1.1"]) == 0
    assert capsys.readouterr().err == ""


def test_a_price_is_old_when_half_of_its_sellers_were_read_long_ago() -> None:
    def priced(*days: date) -> GpuPrice:
        return GpuPrice("H100", tuple(Quote("b", "H100", f"p{n}", 2.0, day) for n, day in enumerate(days)))

    now, then = date(2026, 11, 28), date(2026, 5, 31)  # 181 days before
    assert not priced(date(2026, 6, 1)).is_old(now)
    assert priced(then).is_old(now)
    assert priced(then, now).is_old(now)
    assert not priced(then, now, now).is_old(now)
    assert not GpuPrice("H100", (), override=2.0).is_old(now)
    quotes = priced(then).quotes
    prices = price_gpus(["H100", "L4"], quotes, PriceRules(books=("b",)), today=now)
    assert (prices.is_old("H100"), prices.is_old("L4")) == (True, False)
    # As of a day, prices are as old as they were then.
    assert not price_gpus(["H100"], quotes, PriceRules(books=("b",), as_of=then), today=now).is_old("H100")


def test_source_date_epoch_sets_the_day_that_prices_age_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def old_on(seconds: str) -> bool:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
        return prices_for(connection, ["H100"], PriceRules(books=("mine",))).is_old("H100")

    with store.writing() as connection:
        save_quotes(connection, [Quote("mine", "H100", "p", 2.0, date(2026, 1, 1))])
        assert not old_on("1767312000")  # 2026-01-02
        assert old_on("1798848000")  # 2027-01-02
        with pytest.raises(InputError, match='invalid SOURCE_DATE_EPOCH "soon"'):
            old_on("soon")


def test_compare_of_two_books_shows_what_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = new_store(tmp_path)

    def compared(*sides: str, status: int = 0) -> str:
        assert execute(["compare", *sides, "--db", url]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    day = date(2026, 1, 1)
    with open_store(url) as store, store.writing() as connection:
        save_quotes(connection, [Quote("a", "L4", "p", 1.0, day), Quote("a", "B200", "p", 4.0, day)])
        save_quotes(connection, [Quote("b", "L4", "p", 1.5, day), Quote("b", "B200", "p", 4.0, day)])
        save_quotes(connection, [Quote("b", "H20", "p", 2.0, day)])
    told = compared("prices:a", "prices:b")
    assert "A prices:a, B prices:b; no results are stored: prices alone" in told
    assert [line.split() for line in told.splitlines()[2:]] == [
        ["H20", "no", "price", "2.00", "-"],
        ["L4", "1.00", "1.50", "+50", "%"],
    ]
    document = json.loads(compared("prices:a", "prices:b", "--json"))
    assert [(move["gpu"], move["change"]) for move in document["prices_of_other_gpus"]] == [("H20", None), ("L4", 0.5)]
    assert (document["prices"], document["winners"]) == ([], [])
    # Beside results, what moved of GPUs that nothing runs on is counted.
    with open_store(url) as store, store.writing() as connection:
        fill(connection, [an_answer(gpu="L4")])
    told = compared("prices:a", "prices:b")
    assert "1 GPU at another price: L4 1.00 -> 1.50" in told
    assert "1 GPU that nothing stored runs on, too" in told
