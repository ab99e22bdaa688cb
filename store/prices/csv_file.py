"""Reads a price book from a CSV file: every problem of the file at once, each with its line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from gpuscout.store.prices.prices import DATE_KINDS, EVERYWHERE, PURCHASES, Quote
from gpuscout.sweeps.errors import InputError, SpecProblem, UnknownNameError, nearest
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.reading import read_settings, reading
from gpuscout.sweeps.text import fault_in

COLUMNS: dict[str, str] = {
    "gpu": "a name or alias of the catalogue or the store (required)",
    "usd_per_gpu_hour": "the price in USD (this or one of the next two)",
    "price_per_gpu_hour": "the price in `currency`",
    "price_per_instance_hour": "the price of the whole instance in `currency`; needs gpus_per_instance",
    "currency": "default: USD; others need --rate",
    "date": "when the price was read, YYYY-MM-DD (required unless --date)",
    "provider": "AWS, Lambda … (default: the name of the book)",
    "purchase": "on-demand (default), spot or reserved",
    "region": "names separated by blanks; * for all",
    "instance_type": "what the provider calls it",
    "gpus_per_instance": "a whole number",
    "date_kind": "read (default), or upper-bound: the price may be older",
    "exact": "yes (default), or no: of a near variant, never ranked",
    "source": "where the price was read",
    "note": "anything else",
}
_PRICES = ("usd_per_gpu_hour", "price_per_gpu_hour", "price_per_instance_hour")
# Only catch what cannot be a price of a GPU hour: cents for dollars, a month's price, a lost decimal point.
LOWEST_USD, HIGHEST_USD = 0.01, 500.0
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def check_price(usd: float) -> str | None:
    """Return the problem of a price per GPU hour in USD; None: it has none."""
    if not math.isfinite(usd) or usd <= 0:
        return f"invalid price {usd:g}: expected a number above 0"
    if not LOWEST_USD <= usd <= HIGHEST_USD:
        return f"{usd:,.6g} USD per GPU hour cannot be right: {LOWEST_USD:g} to {HIGHEST_USD:g} is expected"
    return None


Quoted = TypeVar("Quoted")


@dataclass(frozen=True)
class BookFile(Generic[Quoted]):
    """Settings for reading a file. `rates`: USD for one unit of a currency. `day`: the date of rows without one."""

    path: Path
    book: str
    rates: Mapping[str, float]
    stored_gpus: Iterable[str] = ()
    day: date | None = None

    columns: ClassVar[Mapping[str, str]]

    def _lacking(self, names: list[str]) -> Iterable[SpecProblem]:
        """Return the columns that a header lacks."""
        raise NotImplementedError

    def _quote(self, row: Row) -> Quoted | None:
        """Return the quote of a row; None where something is wrong with it, which it has reported."""
        raise NotImplementedError

    def _identity(self, quote: Quoted) -> tuple[object, ...]:
        """Return the values that two rows of a file may not share."""
        raise NotImplementedError

    def read(self) -> list[Quoted]:
        """Return the quotes in the order of the file.

        Raises InputError with every problem of the file, or when it cannot be read.
        """
        with reading(f"the price book {self.path}"):
            text = io.StringIO(read_settings(self.path), newline="")
            return self._quotes(csv.DictReader(text, skipinitialspace=True))

    def _quotes(self, reader: csv.DictReader[str]) -> list[Quoted]:
        names = [(name or "").strip().casefold() for name in reader.fieldnames or ()]
        problems = [*self._header(names)]
        quotes: list[Quoted] = []
        seen: dict[tuple[object, ...], int] = {}
        if not problems:
            reader.fieldnames = names
            for row in reader:
                quote = self._quote(Row(row, self, reader.line_num, problems))
                if quote is not None:
                    same = self._identity(quote)
                    if (first := seen.setdefault(same, reader.line_num)) != reader.line_num:
                        problems.append(self.problem(reader.line_num, None, f"the same quote as line {first}"))
                    quotes.append(quote)
        if not problems and not quotes:
            problems.append(self.problem(1, None, "no prices in this file"))
        if problems:
            problems.sort(key=lambda problem: problem.line or 0)
            text = "\n".join(map(str, problems))
            raise InputError(f"{text}\n{len(problems)} problem{'s' * (len(problems) > 1)}, nothing was imported.")
        return quotes

    def problem(self, line: int, column: str | None, message: str, hint: str | None = None) -> SpecProblem:
        return SpecProblem(message, str(self.path), line, None, column, hint)

    def _header(self, names: list[str]) -> Iterable[SpecProblem]:
        for position, name in enumerate(names):
            if name not in self.columns:
                near = nearest(name, self.columns)
                hint = f"did you mean {' or '.join(near)}?   " if near else ""
                yield self.problem(1, None, f'unknown column "{name}"', f"{hint}there are {', '.join(self.columns)}")
            elif name in names[:position]:
                yield self.problem(1, None, f'duplicate column "{name}"')
        yield from self._lacking(names)


class PriceFile(BookFile[Quote]):
    """A file of prices of GPUs. `stored_gpus` are names of GPUs that the catalogue need not know."""

    columns = COLUMNS

    def _lacking(self, names: list[str]) -> Iterable[SpecProblem]:
        if "gpu" not in names:
            yield self.problem(1, None, 'no column "gpu"', "the first line names the columns")
        if not any(name in names for name in _PRICES):
            yield self.problem(1, None, f"no column with prices: {', '.join(_PRICES[:-1])} or {_PRICES[-1]}")
        if "date" not in names and self.day is None:
            yield self.problem(1, None, 'no column "date"', "--date YYYY-MM-DD dates all rows")

    def _identity(self, quote: Quote) -> tuple[object, ...]:
        return quote.gpu, quote.provider, quote.instance_type, quote.purchase, quote.region, quote.date

    def _quote(self, row: Row) -> Quote | None:
        gpu = row.gpu()
        size = row.whole_number("gpus_per_instance")
        rate = row.rate()
        usd = row.price(rate, size)
        day = row.day()
        purchase = row.word("purchase", PURCHASES)
        kind = row.word("date_kind", DATE_KINDS)
        exact = row.flag("exact")
        if row.failed or gpu is None or usd is None or day is None:
            return None
        return Quote(
            book=self.book,
            gpu=gpu,
            provider=row["provider"] or self.book,
            usd_per_gpu_hour=usd,
            date=day,
            purchase=purchase,
            region=" ".join(row["region"].replace(",", " ").split()) if row["region"] != EVERYWHERE else EVERYWHERE,
            instance_type=row["instance_type"],
            gpus_per_instance=size,
            date_kind=kind,
            exact=exact,
            currency=row["currency"].upper() or "USD",
            usd_rate=rate or 1.0,
            source=row["source"],
            note=row["note"],
        )


class Row:
    """The cells of one line; what cannot be understood is reported once and makes the row `failed`."""

    def __init__(
        self, cells: Mapping[str, str | None], file: BookFile[Any], line: int, problems: list[SpecProblem]
    ) -> None:
        self.cells, self.file, self.line, self.problems = cells, file, line, problems
        self.failed = False
        if None in cells:  # where csv puts what is beyond the header
            self.report(None, "more cells than columns", 'quote a text that holds commas: "…"')

        for column, cell in cells.items():
            if isinstance(cell, str) and (fault := fault_in(cell)):
                self.report(column, fault)

    def __getitem__(self, column: str) -> str:
        return (self.cells.get(column) or "").strip()

    def report(self, column: str | None, message: str, hint: str | None = None) -> None:
        self.failed = True
        self.problems.append(self.file.problem(self.line, column, message, hint))

    def gpu(self) -> str | None:
        if not self["gpu"]:
            self.report("gpu", "missing")
            return None
        try:
            return gpu_name(self["gpu"], self.file.stored_gpus)
        except UnknownNameError as error:
            self.report("gpu", error.message, error.hint)
            return None

    def rate(self) -> float | None:
        """Return USD for one unit of the row's currency; None: not known."""
        currency = self["currency"].upper() or "USD"
        rate = 1.0 if currency == "USD" else self.file.rates.get(currency)
        if rate is None:
            self.report(
                "currency", f"prices in {currency} need a rate", f"--rate {currency}=… (USD for one {currency})"
            )
        return rate

    def price(self, rate: float | None, size: int | None) -> float | None:
        """Return USD per GPU hour."""
        given = [column for column in _PRICES if self[column]]
        if len(given) != 1:
            self.report(None, "a row needs exactly one price" if not given else f"two prices: {', '.join(given)}")
            return None
        (column,) = given
        if column == "usd_per_gpu_hour" and self["currency"].upper() not in ("", "USD"):
            self.report(column, f"is in USD, but the currency is {self['currency']}", "use price_per_gpu_hour")
        number = self.number(column)
        if number is None or rate is None:
            return None
        if column == "price_per_instance_hour":
            if size is None:
                self.report(column, "needs gpus_per_instance")
                return None
            number /= size
        if wrong := check_price(number * rate):
            self.report(column, wrong)
            return None
        return number * rate

    def number(self, column: str) -> float | None:
        try:
            return float(self[column])
        except ValueError:
            self.report(column, f'invalid number "{self[column]}"', "write 2.49: no currency signs, a decimal point")
            return None

    def whole_number(self, column: str) -> int | None:
        text = self[column]
        if not text:
            return None
        if not text.isdecimal() or not 1 <= int(text) <= 10_000:
            self.report(column, f'expected a whole number from 1 to 10,000, got "{text}"')
            return None
        return int(text)

    def day(self) -> date | None:
        if not self["date"]:
            if self.file.day is None:
                self.report("date", "missing", "YYYY-MM-DD, or --date for all rows")
            return self.file.day
        try:
            return date.fromisoformat(self["date"])
        except ValueError:
            self.report("date", f'invalid date "{self["date"]}"', "expected YYYY-MM-DD")
            return None

    def word(self, column: str, words: tuple[str, ...]) -> str:
        text = self[column].casefold().replace("_", "-") or words[0]
        if text not in words:
            near = nearest(text, words)
            hint = f"did you mean {near[0]}?   " if near else ""
            self.report(column, f'unknown {column} "{self[column]}"', f"{hint}allowed: {', '.join(words)}")
        return text

    def flag(self, column: str) -> bool:
        text = self[column].casefold() or "yes"
        if text not in _YES:
            self.report(column, f'expected yes or no, got "{self[column]}"')
        return _YES.get(text, True)


def gpu_name(text: str, stored: Iterable[str]) -> str:
    """Return the canonical name of a GPU of the catalogue, or of the store as it is spelled there.

    Raises UnknownNameError.
    """
    try:
        return GPUCatalogue.load().resolve(text).name
    except UnknownNameError:
        same = [name for name in stored if name.casefold() == text.casefold()]
        if not same:
            raise
        return same[0]


def prices_by_name(given: Iterable[tuple[str, float]], stored: Iterable[str]) -> dict[str, float]:
    """Return USD per GPU hour by every name that the store has for each GPU. Raises InputError, UnknownNameError."""
    prices: dict[str, float] = {}
    known = tuple(stored)
    for name, usd in given:
        gpu = gpu_name(name, known)
        if wrong := check_price(usd):
            raise InputError(f"{gpu}: {wrong}")
        if prices.setdefault(gpu, usd) != usd:
            raise InputError(f"{gpu} has two prices: {prices[gpu]:g} and {usd:g}")
        prices |= dict.fromkeys(other_names(gpu, known), usd)
    return prices


def by_every_name(given: Mapping[str, float], stored: Iterable[str]) -> dict[str, float]:
    """Return the price by the names given and all in `stored` that mean the same; a name given decides."""
    prices, known, catalogue = dict(given), tuple(stored), GPUCatalogue.load()
    for name, usd in given.items():
        spec = catalogue.find(name)
        for other in () if spec is None else (spec.name, *other_names(spec.name, known)):
            prices.setdefault(other, usd)
    return prices


def other_names(gpu: str, stored: Iterable[str]) -> list[str]:
    """Return the names of the store that mean this GPU and are not its own: a run may be stored under an alias."""
    catalogue = GPUCatalogue.load()
    meant = {name: catalogue.find(name) for name in stored if name != gpu}
    return [name for name, spec in meant.items() if spec is not None and spec.name == gpu]
