"""`gpuscout prices`: price books; and how the prices of a ranking are told."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, print_json
from gpuscout.runner.cli.options import check_purchase, grouped, parse_day, parse_prices, split_books
from gpuscout.runner.cli.show.document import picked
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_line, print_rows, whole_number
from gpuscout.runner.cli.show.prices import price_row, prices_document, usd
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpuscout.store.prices.prices import Quote

prices = typer.Typer(
    help="What an hour of a GPU costs.", no_args_is_help=True, epilog="Example: gpuscout prices show H100"
)

Book = Annotated[str, typer.Option("--book", help="A price book of the store.")]
Books = Annotated[str | None, typer.Option("--prices", metavar="BOOK[,BOOK]", help="Only these books.")]
Rates = Annotated[
    list[str] | None, typer.Option("--rate", help="USD for one unit of a currency: EUR=1.08; repeat for more.")
]
Date = Annotated[str | None, typer.Option("--date", help="When the prices were read (YYYY-MM-DD).")]


def register(app: typer.Typer) -> None:
    app.add_typer(prices, name="prices", rich_help_panel="Catalogues")


@prices.command("list", epilog="Example: gpuscout prices list")
@grouped
def list_prices(output: Output, books: Books = None, db: Db = DEFAULT_STORE) -> None:
    """List the books, and the price of every GPU that a ranking would use by default."""
    from gpuscout.store.prices.prices import PriceRules, price_gpus

    found = quotes_at(db, split_books(books))
    names = list(dict.fromkeys(quote.book for quote in found))
    gpus = list(dict.fromkeys(quote.gpu for quote in found))
    priced = price_gpus(gpus, found, PriceRules(books=split_books(books)))
    document = prices_document(priced)
    if output.json:
        books_document = [{"book": name, **_summary(q for q in found if q.book == name)} for name in names]
        print_json({"books": books_document, **document})
        return
    for name in names:
        about = _summary(q for q in found if q.book == name)
        told = f"{count(about['quotes'], 'price')} of {count(about['gpus'], 'GPU')}, {about['from']} to {about['to']}"
        print_line(f"{name}: {told}", output)
    print_line("USD/h: of one GPU, on demand; the median of the newest price of each provider", output)
    rows = []
    for price in priced.known.values():
        dates = price.dates
        assert dates is not None
        rows.append(
            {
                **price_row(price),
                "providers": price.providers,
                "dates": " to ".join(map(str, dict.fromkeys(dates))),
            }
        )
    columns = (
        Column("gpu", "GPU"),
        a_figure("usd_per_gpu_hour", "USD/h", usd),
        a_figure("lowest_usd_per_gpu_hour", "lowest", usd),
        a_figure("highest_usd_per_gpu_hour", "highest", usd),
        Column("book", "book"),
        Column("providers", "providers", ", ".join),
        Column("dates", "dates"),
    )
    print_rows(columns, rows, output)
    for gpu, reason in priced.missing.items():
        print_line(f"{gpu}: {reason}", output)


@prices.command("show", epilog="Example: gpuscout prices show H100")
@grouped
def show_price(
    gpu: Annotated[str, typer.Argument(help="A name or an alias.")],
    output: Output,
    books: Books = None,
    db: Db = DEFAULT_STORE,
) -> None:
    """Show every price of a GPU, with its date, region and source."""
    from gpuscout.runner.cli.show.wording import print_wrapped
    from gpuscout.store.prices.csv_file import gpu_name

    everything = quotes_at(db, split_books(books))
    name = gpu_name(gpu, {quote.gpu for quote in everything})
    found = [quote for quote in everything if quote.gpu == name]
    if output.json:
        print_json({"gpu": name, "prices": [asdict(quote) for quote in found]})
        return
    if not found and output.for_people:
        print(f"{name}: no price in any book; gpuscout prices set '{name}'=USD gives it one")
        return
    rows = [asdict(quote) | {"remarks": _remarks(quote)} for quote in found]
    if not output.for_people:
        more = (Column("source", "source"), Column("remarks", "remarks"))
        print_rows((Column("gpu", "GPU"), *_QUOTES, *more), rows, output)
        return
    print_rows(_QUOTES, rows, output, title=name)
    for row in rows:
        if row["remarks"]:
            print_wrapped(f"{row['provider']} {row['date']} {row['instance_type']}: {row['remarks']}", indent=2)
    for source in sorted({quote.source for quote in found if quote.source}):
        print_wrapped(f"source: {source}", indent=2)


@prices.command("import", epilog="Example: gpuscout prices import contract.csv --book acme --rate EUR=1.08")
def import_prices(
    file: Annotated[Path, typer.Argument(help="A CSV file; the first line names columns, see docs/prices.md.")],
    book: Book = "own",
    rate: Rates = None,
    date: Date = None,
    replace: Annotated[bool, typer.Option("--replace", help="Keep nothing else of the book.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put the prices of a CSV file into a book of the store. A newer date adds to what is there."""
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.prices.books import check_book_name, save_quotes
    from gpuscout.store.prices.csv_file import PriceFile
    from gpuscout.store.ranking.lookup import stored_names
    from gpuscout.store.schema import gpus

    check_book_name(book)
    rates, day = _rates(rate), parse_day("--date", date)
    with open_store(db, create=True) as store:
        with store.reading() as connection:
            known = stored_names(connection, gpus).ids
        quotes = PriceFile(file, book, rates, tuple(known), day).read()
        with store.writing() as connection:
            gone = save_quotes(connection, quotes, replace_book=book if replace else None)
    _print_saved(book, quotes, gone, json=json)
    for currency in sorted({*rates} - {quote.currency for quote in quotes}):
        print(f"--rate {currency} changes nothing here: no price of {file} is in {currency}", file=sys.stderr)


@prices.command("set", epilog="Example: gpuscout prices set H100=2.10 L40S=0.86")
def set_prices(
    given: Annotated[list[str], typer.Argument(metavar="GPU=USD", help="USD per GPU hour; several at once.")],
    book: Book = "own",
    provider: Annotated[str | None, typer.Option("--provider", help="Who asks it (unless given: the book).")] = None,
    purchase: Annotated[str, typer.Option("--purchase", help="on-demand, spot or reserved.")] = "on-demand",
    date: Date = None,
    note: Annotated[str, typer.Option("--note", help="A remark to keep.")] = "",
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Set prices of GPUs in a book of the store, dated today unless told otherwise."""
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.prices.books import check_book_name, save_quotes
    from gpuscout.store.prices.prices import Quote
    from gpuscout.store.ranking.lookup import stored_names
    from gpuscout.store.schema import gpus

    check_book_name(book)
    day = parse_day("--date", date) or datetime.now(UTC).date()
    kind = check_purchase(purchase)
    with open_store(db, create=True) as store:
        with store.reading() as connection:
            known = tuple(stored_names(connection, gpus).ids)
        quotes = [
            Quote(book, gpu, provider or book, price, day, purchase=kind, source="set by hand", note=note)
            for gpu, price in parse_prices(given, known).items()
        ]
        with store.writing() as connection:
            gone = save_quotes(connection, quotes)
    _print_saved(book, quotes, gone, json=json)


@prices.command("own", epilog="Example: gpuscout prices own H100 --capex 28000 --years 4 --kw 1.1 --usd-per-kwh 0.12")
def own_hardware(
    gpu: Annotated[str, typer.Argument(help="A name or an alias.")],
    capex: Annotated[float, typer.Option("--capex", help="USD for one GPU.")],
    years: Annotated[float, typer.Option("--years", help="Years over which it is written off.")],
    kw: Annotated[float, typer.Option("--kw", help="kW drawn per GPU, its share of the server included, always.")],
    usd_per_kwh: Annotated[float, typer.Option("--usd-per-kwh", help="USD per kWh.")],
    pue: Annotated[float, typer.Option("--pue", help="Power of the building per power of the servers.")] = 1.0,
    utilisation: Annotated[float, typer.Option("--utilisation", help="Share of all hours that are used.")] = 1.0,
    servers_of: Annotated[int, typer.Option("--servers-of", help="GPUs of a server.")] = 1,
    server_capex: Annotated[float, typer.Option("--server-capex", help="USD for a server without its GPUs.")] = 0.0,
    opex: Annotated[float, typer.Option("--opex-per-year", help="USD a year and GPU: space, staff, support.")] = 0.0,
    book: Book = "own",
    provider: Annotated[str, typer.Option("--provider", help="What it is called beside providers.")] = "own hardware",
    date: Date = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put what an hour of hardware of one's own costs into a book of the store; the row's source is the arithmetic.

    Purchase and power of all hours are paid by those that are used. `capacity` pays for the GPUs of a load all day:
    give it prices with --utilisation 1 (unless given).
    """
    from gpuscout.runner.cli.show.wording import print_wrapped
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.prices.books import check_book_name, save_quotes
    from gpuscout.store.prices.csv_file import gpu_name
    from gpuscout.store.prices.own_hardware import OwnHardware
    from gpuscout.store.prices.prices import Quote
    from gpuscout.store.ranking.lookup import stored_names
    from gpuscout.store.schema import gpus

    check_book_name(book)
    day = parse_day("--date", date) or datetime.now(UTC).date()
    costs = OwnHardware(capex, years, kw, usd_per_kwh, pue, utilisation, servers_of, server_capex, opex)
    with open_store(db, create=True) as store:
        with store.reading() as connection:
            name = gpu_name(gpu, stored_names(connection, gpus).ids)
        quote = Quote(
            *(book, name, provider, costs.usd_per_gpu_hour, day),
            region="*",
            instance_type=f"server of {servers_of}" if servers_of > 1 else "",
            gpus_per_instance=servers_of,
            source=costs.arithmetic,
        )
        with store.writing() as connection:
            gone = save_quotes(connection, [quote])
    if json:
        figures = ("capital_usd_per_hour", "power_usd_per_hour", "opex_usd_per_hour", "usd_per_gpu_hour", "arithmetic")
        print_json({"book": book, "gpu": name, "date": day, **picked(costs, *figures), "replaced": gone})
        return
    print_wrapped(costs.arithmetic)
    _print_saved(book, [quote], gone, json=False)


@prices.command("remove", epilog="Example: gpuscout prices remove acme --gpu H100")
def remove_prices(
    book: Annotated[str, typer.Argument(help="A price book of the store.")],
    gpu: Annotated[str | None, typer.Option("--gpu", help="Only the prices of this GPU.")] = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a book from the store, or its prices of one GPU."""
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.prices.books import quotes_of, remove_quotes
    from gpuscout.store.prices.csv_file import gpu_name

    with open_store(db) as store, store.writing() as connection:
        name = None if gpu is None else gpu_name(gpu, {q.gpu for q in quotes_of(connection, [book])})
        gone = remove_quotes(connection, book, name)
    if json:
        print_json({"book": book, "removed": gone})
    else:
        print(f"{count(gone, 'price')} removed from {book}")


def _rates(given: list[str] | None) -> dict[str, float]:
    rates = {}
    for text in given or ():
        currency, _, figure = text.partition("=")
        try:
            rate = float(figure)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf") or not currency.strip():
            raise InputError(f'invalid exchange rate "{text}": expected CURRENCY=USD', hint="for example EUR=1.08")
        rates[currency.strip().upper()] = rate
    return rates


def quotes_at(db: str, books: tuple[str, ...]) -> list[Quote]:
    """All prices of these books, or of all; without a store those that ship."""
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.prices.books import book_names, quotes_of, shipped_quotes
    from gpuscout.store.prices.prices import DEFAULT_BOOK
    from gpuscout.sweeps.errors import StoreUnreachableError

    try:
        with open_store(db) as store, store.reading() as connection:
            return quotes_of(connection, books or book_names(connection))
    except StoreUnreachableError:
        if db != DEFAULT_STORE or set(books) - {DEFAULT_BOOK}:
            raise
        return list(shipped_quotes())


def _summary(quotes: Iterable[Quote]) -> dict[str, int]:
    found = list(quotes)
    days = sorted(quote.date for quote in found)
    return {"quotes": len(found), "gpus": len({q.gpu for q in found}), "from": days[0], "to": days[-1]}  # type: ignore[dict-item]


def _remarks(quote: Quote) -> str:
    parts = [] if quote.exact else ["near variant, not ranked"]
    if quote.date_kind == "upper-bound":
        parts.append("may be older")
    if quote.currency != "USD":
        parts.append(f"{quote.currency} at {quote.usd_rate:g}")
    return "; ".join([*parts, *([quote.note] if quote.note else [])])


def _print_saved(book: str, quotes: list[Quote], gone: int, *, json: bool) -> None:
    today = datetime.now(UTC).date()
    # Somewhere on Earth it is tomorrow already.
    if early := sorted({quote.date for quote in quotes if (quote.date - today).days > 1}):
        days = " to ".join(dict.fromkeys(map(str, (early[0], early[-1]))))
        print(f"warning: prices dated in the future ({days}) take effect immediately", file=sys.stderr)
    if json:
        print_json({"book": book, "stored": len(quotes), "replaced": gone})
        return
    for quote in quotes[:10]:
        print(f"{quote.gpu} {usd(quote.usd_per_gpu_hour)} USD per hour, {quote.date}, {quote.provider}")
    more = f" ({len(quotes) - 10:,} more)" if len(quotes) > 10 else ""
    replaced = f", {gone:,} replaced" if gone else ""
    print(f"{count(len(quotes), 'price')} stored in {book}{replaced}{more}")


_QUOTES = (
    Column("book", "book"),
    Column("provider", "provider"),
    a_figure("usd_per_gpu_hour", "USD/h", usd),
    Column("date", "date", whole=True),
    Column("purchase", "purchase", whole=True),
    Column("region", "region", lambda region: "all" if region == "*" else region),
    Column("instance_type", "instance"),
    a_figure("gpus_per_instance", "GPUs", whole_number, unknown=""),
)
