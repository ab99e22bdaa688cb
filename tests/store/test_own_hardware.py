"""What an hour of hardware of one's own costs: the arithmetic against exact fractions, its bounds, and the command."""

from __future__ import annotations

import json
import re
from datetime import date
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscout import OwnHardware
from gpuscout.runner.cli.main import execute
from gpuscout.store.database.connect import open_store
from gpuscout.store.prices.books import quotes_of
from gpuscout.sweeps.errors import InputError

OWN = ["prices", "own", "H100", "--capex", "28000", "--years", "4", "--kw", "1.1", "--usd-per-kwh", "0.12"]


def exactly(low: int, high: int, per: int) -> st.SearchStrategy[Fraction]:
    return st.integers(low, high).map(lambda number: Fraction(number, per))


@given(
    exactly(5_000, 60_000, 1),
    exactly(10, 80, 10),
    exactly(0, 30, 10),
    exactly(0, 60, 100),
    exactly(10, 25, 10),
    exactly(10, 100, 100),
    st.integers(1, 16),
    exactly(0, 300_000, 1),
    exactly(0, 5_000, 1),
)
def test_the_price_is_the_sum_of_all_costs_over_the_hours_used(
    capex: Fraction,
    years: Fraction,
    kw: Fraction,
    usd_per_kwh: Fraction,
    pue: Fraction,
    used: Fraction,
    size: int,
    server: Fraction,
    opex: Fraction,
) -> None:
    # Everything that is paid over the whole life, by everything that is used in it.
    hours = years * 24 * 365
    paid = capex + server / size + hours * kw * pue * usd_per_kwh + opex * years
    expected = paid / (hours * used)
    own = OwnHardware(
        *map(float, (capex, years, kw, usd_per_kwh, pue, used)), size, float(server), opex_usd_per_year=float(opex)
    )
    assert own.usd_per_gpu_hour == pytest.approx(float(expected), rel=1e-12)
    # The text holds every figure that entered, and the sum.
    said = re.findall(r"\d[\d.]*", own.arithmetic.replace(",", ""))
    assert {float(capex), float(years), float(kw), float(pue), float(usd_per_kwh)} <= set(map(float, said))
    assert f"{own.usd_per_gpu_hour:.4f} per GPU hour" in own.arithmetic


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("capex_usd", 0, "invalid capex 0: expected USD from 1 to 10,000,000"),
        ("capex_usd", 1e12, "invalid capex 1e+12"),
        ("capex_usd", float("nan"), "invalid capex nan"),
        ("years", -4, "invalid years -4: expected years from 0.1 to 30"),
        ("kw", float("inf"), "invalid kw inf"),
        ("usd_per_kwh", -0.1, "invalid usd-per-kwh -0.1"),
        ("pue", 0.9, "invalid pue 0.9: expected a ratio from 1 to 5"),
        ("utilisation", 0, "invalid utilisation 0"),
        ("utilisation", 60, "invalid utilisation 60: expected a share from 0.001 to 1"),
        ("servers_of", 0, "invalid servers-of 0"),
        ("server_capex_usd", -1, "invalid server-capex -1"),
        ("opex_usd_per_year", float("nan"), "invalid opex-per-year nan"),
    ],
)
def test_figures_that_cannot_be(name: str, value: float, told: str) -> None:
    figures = {"capex_usd": 28_000, "years": 4, "kw": 1.1, "usd_per_kwh": 0.12} | {name: value}
    with pytest.raises(InputError) as raised:
        OwnHardware(**figures)
    assert told in raised.value.message


def test_a_price_that_cannot_be_right_shows_its_arithmetic() -> None:
    with pytest.raises(InputError) as raised:
        OwnHardware(28_000, 4, 1.1, 0.12, utilisation=0.001)
    assert "USD per GPU hour cannot be right" in raised.value.message
    assert "28,000 USD / (4 years x 8,760 h)" in raised.value.message


def test_the_command_stores_a_row_whose_source_is_the_arithmetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"

    def run(*arguments: str, status: int = 0) -> str:
        assert execute([*arguments, "--db", url]) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    server = ["--pue", "1.3", "--utilisation", "0.6", "--servers-of", "8", "--server-capex", "80000"]
    told = run(*OWN, *server, "--date", "2026-11-01")
    assert "(28,000 USD + 80,000 USD of server / 8 GPUs) / (4 years x 8,760 h) = 1.0845" in told
    assert "1.1 kW x PUE 1.3 x 0.12 USD/kWh = 0.1716; used in 0.6 of all hours: 2.0935 per GPU hour" in told
    with open_store(url) as store, store.reading() as connection:
        (quote,) = quotes_of(connection, ["own"])
    assert (quote.gpu, quote.provider, quote.date) == ("H100-SXM-80GB", "own hardware", date(2026, 11, 1))
    assert (quote.gpus_per_instance, quote.instance_type) == (8, "server of 8")
    assert quote.source in told
    assert "idle hours are in this price: `capacity` and `compare api:…`, which pay around the clock" in told
    assert "idle hours" not in run(*OWN, "--book", "busy")
    assert "--servers-of 8 says how many" in run(*OWN, "--server-capex", "80000", status=2)
    assert quote.usd_per_gpu_hour == pytest.approx(2.0935, abs=1e-4)
    # It ranks as every other price does, wherever it is asked for.
    ranked = json.loads(run("prices", "list", "--prices", "own", "--json"))
    assert [row["usd_per_gpu_hour"] for row in ranked["gpus"]] == [quote.usd_per_gpu_hour]
    document = json.loads(run(*OWN, "--json"))
    assert document["arithmetic"].endswith("per GPU hour")
    assert run(*OWN[:3], *OWN[3:-2], "--usd-per-kwh", "nan", status=2).startswith("invalid usd-per-kwh nan")
    assert "did you mean H100" in run(*OWN[:2], "H10O", *OWN[3:], status=2)
    assert "ships with gpuscout and cannot be changed" in run(*OWN, "--book", "default", status=2)
    assert "0 replaced" not in run(*OWN)
