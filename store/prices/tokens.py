"""Token prices of APIs in USD per million, and a book of them as a CSV file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from gpuscout.store.prices.csv_file import BookFile, Row
from gpuscout.sweeps.errors import SpecProblem
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.names import bare, meant
from gpuscout.sweeps.text import printable

COLUMNS: dict[str, str] = {
    "provider": "the seller (default: the name of the book)",
    "model": "the model, under its name in the catalogue if it is there (required)",
    "input_per_mtok": "the price of a million tokens of input in `currency` (required)",
    "cached_input_per_mtok": "the price of a million cached tokens of input, where it is less",
    "output_per_mtok": "the price of a million tokens of output in `currency` (required)",
    "currency": "default: USD; others need --rate",
    "date": "when the price was read, YYYY-MM-DD (required unless --date)",
    "source": "where the price was read",
    "note": "anything else",
}
# Only catch what cannot be a price of a million tokens: a price of one token, or of a thousand million.
_MOST_USD = 10_000.0
_LEAST_OUTPUT_USD = 0.0001


@dataclass(frozen=True)
class TokenPrice:
    """The price of a million tokens of a model at a provider, in USD; `usd_rate` for one unit of `currency` were used.

    `cached_input_usd_per_mtok` None: cached input costs what other input does.
    """

    book: str
    provider: str
    model: str
    input_usd_per_mtok: float
    cached_input_usd_per_mtok: float | None
    output_usd_per_mtok: float
    date: date
    currency: str = "USD"
    usd_rate: float = 1.0
    source: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """ "Groq/gpt-oss-120b" """
        return f"{self.provider}/{bare(self.model)}"

    def usd(self, input_tokens: float, output_tokens: float, cached_share: float = 0.0) -> float:
        """Return the price of so many tokens in USD; `cached_share` of the input is read from the API's cache."""
        cached = self.input_usd_per_mtok if self.cached_input_usd_per_mtok is None else self.cached_input_usd_per_mtok
        read = input_tokens * ((1 - cached_share) * self.input_usd_per_mtok + cached_share * cached)
        return (read + output_tokens * self.output_usd_per_mtok) / 1e6


class TokenFile(BookFile[TokenPrice]):
    """A file of token prices."""

    columns = COLUMNS

    def _lacking(self, names: list[str]) -> Iterable[SpecProblem]:
        for name in ("model", "input_per_mtok", "output_per_mtok"):
            if name not in names:
                yield self.problem(1, None, f'no column "{name}"', "the first line names the columns")
        if "date" not in names and self.day is None:
            yield self.problem(1, None, 'no column "date"', "--date YYYY-MM-DD dates all rows")

    def _identity(self, quote: TokenPrice) -> tuple[object, ...]:
        return quote.provider, quote.model, quote.date

    def _quote(self, row: Row) -> TokenPrice | None:
        if not row["model"]:
            row.report("model", "missing")
        rate = row.rate()
        read = _price(row, "input_per_mtok", rate)
        cached = _price(row, "cached_input_per_mtok", rate) if row["cached_input_per_mtok"] else None
        written = _price(row, "output_per_mtok", rate, least=_LEAST_OUTPUT_USD)
        if cached is not None and read is not None and cached > read:
            row.report("cached_input_per_mtok", "above the price of input that is not cached")
        day = row.day()
        if row.failed or read is None or written is None or day is None:
            return None
        return TokenPrice(
            *(self.book, row["provider"] or self.book, model_name(row["model"]), read, cached, written, day),
            currency=row["currency"].upper() or "USD",
            usd_rate=rate or 1.0,
            source=row["source"],
            note=row["note"],
        )


def model_name(text: str) -> str:
    """Return the name of the catalogue for a model that it knows, whatever its spelling; any other as it is."""
    found = meant(text, ModelCatalogue.load().names(), lambda name: (bare(name),))
    return found[0] if len(found) == 1 else text


def _price(row: Row, column: str, rate: float | None, *, least: float = 0.0) -> float | None:
    """Return USD per million tokens."""
    text = row[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        problem = f'invalid price "{printable(text[:40])}": expected a number from {least:g}' if text else "missing"
        row.report(column, problem, "write 0.15: USD for a million tokens, no currency signs, a decimal point")
        return None
    if rate is None:
        return None
    usd = value * rate
    if not least <= usd <= _MOST_USD:
        row.report(column, f"{usd:,.6g} USD per million tokens cannot be right: expected {least:g} to {_MOST_USD:,.0f}")
        return None
    return usd
