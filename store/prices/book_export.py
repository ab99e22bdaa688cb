"""Price books as CSV files that come back in as they were: `gpuscout prices export` and `prices import`."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import IO

from gpuscout.store.prices.csv_file import COLUMNS
from gpuscout.store.prices.prices import Quote
from gpuscout.store.prices.tokens import COLUMNS as TOKEN_COLUMNS
from gpuscout.store.prices.tokens import TokenPrice

_QUOTES = [name for name in COLUMNS if name not in ("usd_per_gpu_hour", "price_per_instance_hour")]


def write_quotes(quotes: Iterable[Quote], stream: IO[str]) -> None:
    """Write prices of GPUs, in the currency in which each was given."""
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(_QUOTES)
    for quote in quotes:
        cells = {name: getattr(quote, name) for name in _QUOTES if name != "price_per_gpu_hour"}
        cells |= {
            "price_per_gpu_hour": quote.usd_per_gpu_hour / quote.usd_rate,
            "exact": "yes" if quote.exact else "no",
        }
        lines.writerow(cells[name] for name in _QUOTES)


def write_token_prices(prices: Iterable[TokenPrice], stream: IO[str]) -> None:
    """Write prices of tokens, in the currency in which each was given."""
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(TOKEN_COLUMNS)
    for price in prices:
        cached = price.cached_input_usd_per_mtok
        figures = {
            "input_per_mtok": price.input_usd_per_mtok / price.usd_rate,
            "cached_input_per_mtok": None if cached is None else cached / price.usd_rate,
            "output_per_mtok": price.output_usd_per_mtok / price.usd_rate,
        }
        lines.writerow(figures[name] if name in figures else getattr(price, name) for name in TOKEN_COLUMNS)
