"""`gpuscout prices import`, `fetch` and `own`: where the prices of a book come from."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, open_store, print_json
from gpuscout.runner.cli.options import parse_day
from gpuscout.runner.cli.show.document import picked
from gpuscout.runner.cli.store.prices import Book, Date, print_saved, print_saved_tokens, quotes_at, token_prices_at
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.reading import writing

if TYPE_CHECKING:
    from gpuscout.store.prices.prices import Quote
    from gpuscout.store.prices.tokens import TokenPrice

Rates = Annotated[
    list[str] | None, typer.Option("--rate", help="USD for one unit of a currency: EUR=1.08; repeat for more.")
]
Parts = Annotated[
    list[str] | None,
    typer.Option("--part", metavar="NAME=GPU", help="GPU meant by a name: A100-80GB=A100-PCIe-80GB; repeat."),
]


class Form(StrEnum):
    """Formats of price files."""

    CSV = "csv"
    SKYPILOT = "skypilot"
    TOKENS = "tokens"


def register(prices: typer.Typer) -> None:
    book = "gpuscout prices import contract.csv --book acme --rate EUR=1.08"
    prices.command("import", epilog=f"Example: {book}")(import_prices)
    fetch = "gpuscout prices fetch --provider AWS,Lambda --gpu 'H100*'"
    prices.command("fetch", epilog=f"Example: {fetch}")(fetch_prices)
    prices.command("export", epilog="Example: gpuscout prices export acme --output acme.csv")(export_prices)
    own = "gpuscout prices own H100 --capex 28000 --years 4 --kw 1.1 --usd-per-kwh 0.12"
    prices.command("own", epilog=f"Example: {own}")(own_hardware)


def import_prices(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="CSV files; the first line names columns, see docs/prices.md.")
    ],
    form: Annotated[Form, typer.Option("--format", help="csv; skypilot: a vms.csv; tokens: of APIs.")] = Form.CSV,
    book: Annotated[
        str | None, typer.Option("--book", help="A price book of the store (default: own, or skypilot).")
    ] = None,
    rate: Rates = None,
    date: Date = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Provider of a catalogue (skypilot).")] = None,
    part: Parts = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove all other prices of the book.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put the prices of CSV files into a book of the store.

    All files are stored or none; a newer date adds to the history. A SkyPilot catalogue holds no date (give --as-of)
    and may leave open which part it means: where neither SXM, PCIe or NVL in a name nor the memory decides, offers are
    left out until --part names it.
    """
    from gpuscout.runner.api.prices import import_skypilot
    from gpuscout.store.prices.book_rows import check_book_name
    from gpuscout.store.prices.books import save_quotes
    from gpuscout.store.prices.csv_file import PriceFile
    from gpuscout.store.prices.offers import parse_parts
    from gpuscout.store.prices.token_books import save_token_prices
    from gpuscout.store.prices.tokens import TokenFile
    from gpuscout.store.ranking.question.lookup import stored_gpus

    book = book if book is not None else "skypilot" if form is Form.SKYPILOT else "own"
    check_book_name(book)
    rates, day = _rates(rate), parse_day("--date", date)
    if form is not Form.SKYPILOT and (part or provider):
        raise InputError("--part and --provider need --format skypilot: other formats have columns for both")
    if form is Form.SKYPILOT and rates:
        raise InputError("--rate cannot be combined with --format skypilot: its catalogues are in USD")
    if form is Form.SKYPILOT and day is None:
        raise InputError(
            "missing date: a SkyPilot catalogue holds none", hint="give the day it was read: --as-of YYYY-MM-DD"
        )
    with open_store(db, create=True) as store:
        with store.reading() as connection:
            known = tuple(stored_gpus(connection).ids)
        if form is Form.SKYPILOT and day is not None:
            parts = parse_parts(part or (), known)
            saved = import_skypilot(store, files, day, book=book, provider=provider, parts=parts, replace_book=replace)
            print_saved(book, saved.chosen.quotes, saved.replaced, json=json, chosen=saved.chosen)
            return
        if form is Form.TOKENS:
            tokens = [price for file in files for price in TokenFile(file, book, rates, day=day).read()]
            check_unique([(price.provider, price.model, price.date) for price in tokens], files)
            with store.writing() as connection:
                gone = save_token_prices(connection, tokens, replace_book=book if replace else None)
            print_saved_tokens(book, tokens, gone, json=json)
            currencies = {price.currency for price in tokens}
        else:
            quotes = [quote for file in files for quote in PriceFile(file, book, rates, known, day).read()]
            check_unique([(*astuple(quote)[1:3], *astuple(quote)[4:8]) for quote in quotes], files)
            with store.writing() as connection:
                gone = save_quotes(connection, quotes, replace_book=book if replace else None)
            print_saved(book, quotes, gone, json=json)
            currencies = {quote.currency for quote in quotes}
    for currency in sorted({*rates} - currencies):
        names = ", ".join(map(str, files))
        print(f"--rate {currency} is unused: no price in {names} is in {currency}", file=sys.stderr)


def fetch_prices(
    gpu: Annotated[list[str] | None, typer.Option("--gpu", help="H100, 'H100*', datacenter …; repeat.")] = None,
    provider: Annotated[list[str] | None, typer.Option("--provider", help="AWS, Lambda, Vast.ai …; repeat.")] = None,
    region: Annotated[list[str] | None, typer.Option("--region", help="us-east-1, 'us-*' …; repeat.")] = None,
    spot: Annotated[bool | None, typer.Option("--spot/--no-spot", help="Only spot prices, or none.")] = None,
    part: Parts = None,
    book: Book = "fetched",
    replace: Annotated[bool, typer.Option("--replace", help="Remove all other prices of the book.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Fetch today's prices of clouds into a book of the store.

    On-demand, spot and reserved offers by provider and region, from the catalogues that gpuhunt publishes
    (GPUHUNT_CATALOG_URL names another place); no other command fetches prices. Providers whose own API
    is asked, such as Vast.ai, only where --provider names them. Nothing is stored if anything asked for is missing.
    """
    from gpuscout.runner.api.prices import fetch_prices as fetch
    from gpuscout.store.prices.offers import parse_parts
    from gpuscout.store.ranking.question.lookup import stored_gpus
    from gpuscout.sweeps.names import parted

    with open_store(db, create=True) as store:
        with store.reading() as connection:
            parts = parse_parts(part or (), stored_gpus(connection).ids)
        saved = fetch(
            store,
            book=book,
            gpus=parted(gpu),
            providers=parted(provider),
            regions=parted(region),
            spot=spot,
            parts=parts,
            replace_book=replace,
        )
    print_saved(book, saved.chosen.quotes, saved.replaced, json=json, chosen=saved.chosen)


def own_hardware(
    gpu: Annotated[str, typer.Argument(help="A name or an alias.")],
    capex: Annotated[float, typer.Option("--capex", help="USD for one GPU.")],
    years: Annotated[float, typer.Option("--years", help="Years over which it is written off.")],
    kw: Annotated[float, typer.Option("--kw", help="kW drawn per GPU, its share of the server included, always.")],
    usd_per_kwh: Annotated[float, typer.Option("--usd-per-kwh", help="USD per kWh.")],
    pue: Annotated[float, typer.Option("--pue", help="Power of the building per power of the servers.")] = 1.0,
    utilisation: Annotated[float, typer.Option("--utilisation", help="Share of all hours that are used.")] = 1.0,
    servers_of: Annotated[int | None, typer.Option("--servers-of", help="GPUs of a server.")] = None,
    server_capex: Annotated[float, typer.Option("--server-capex", help="USD for a server without its GPUs.")] = 0.0,
    opex: Annotated[float, typer.Option("--opex-per-year", help="USD a year and GPU: space, staff, support.")] = 0.0,
    book: Book = "own",
    provider: Annotated[
        str, typer.Option("--provider", help="Name of this hardware among providers.")
    ] = "own hardware",
    date: Date = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put the price of your own hardware into a book of the store.

    The row's source is the whole calculation. The cost of all hours is spread over those that are used.
    `capacity` pays for the GPUs of a load all day: give it prices with --utilisation 1 (the default).
    """
    from gpuscout.runner.cli.show.wording import print_wrapped
    from gpuscout.store.clock import today
    from gpuscout.store.prices.book_rows import check_book_name
    from gpuscout.store.prices.books import save_quotes
    from gpuscout.store.prices.csv_file import gpu_name
    from gpuscout.store.prices.own_hardware import OwnHardware
    from gpuscout.store.prices.prices import Quote
    from gpuscout.store.ranking.question.lookup import stored_gpus

    check_book_name(book)
    day = parse_day("--date", date) or today()
    if server_capex and servers_of is None:
        raise InputError("--server-capex is shared by the GPUs of a server", hint="--servers-of 8 says how many")
    size = 1 if servers_of is None else servers_of
    costs = OwnHardware(capex, years, kw, usd_per_kwh, pue, utilisation, size, server_capex, opex)
    with open_store(db, create=True) as store:
        with store.reading() as connection:
            name = gpu_name(gpu, stored_gpus(connection).ids)
        quote = Quote(
            *(book, name, provider, costs.usd_per_gpu_hour, day),
            region="*",
            instance_type=f"server of {size}" if size > 1 else "",
            gpus_per_instance=size,
            source=costs.arithmetic,
        )
        with store.writing() as connection:
            gone = save_quotes(connection, [quote])
    if json:
        figures = ("capital_usd_per_hour", "power_usd_per_hour", "opex_usd_per_hour", "usd_per_gpu_hour", "arithmetic")
        print_json({"book": book, "gpu": name, "date": day, **picked(costs, *figures), "replaced": gone})
        return
    print_wrapped(costs.arithmetic)
    print_saved(book, [quote], gone, json=False)
    if utilisation < 1:
        print_wrapped(
            "idle hours are in this price: `capacity` and `compare api:…`, which pay around the clock, count them "
            "twice; --utilisation 1 makes a price for them"
        )


def export_prices(
    book: Annotated[str, typer.Argument(help="A price book; default is the one that ships.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="A file; -: standard output.")],
    tokens: Annotated[bool, typer.Option("--tokens", help="Its token prices instead of those of GPUs.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Write a price book as a CSV file.

    `prices import` reads it back, token prices with `--format tokens`.
    """
    from io import StringIO

    from gpuscout.runner.cli.common import count, err
    from gpuscout.runner.cli.streams import exact
    from gpuscout.store.prices.book_export import write_quotes, write_token_prices
    from gpuscout.store.transfer.whole_file import whole_file

    file, text = Path(output), StringIO()
    if output != "-" and file.exists() and not force:
        raise InputError(f"{file} already exists", hint="--force replaces it")
    found: Sequence[Quote | TokenPrice]
    if tokens:
        found = token_prices_at(db, (book,))
        write_token_prices(found, text)
    else:
        found = quotes_at(db, (book,))
        write_quotes(found, text)
    if output == "-":
        exact(sys.stdout).write(text.getvalue())
    else:
        with writing(file), whole_file(file) as stream:
            stream.write(text.getvalue().encode())
    rates = sorted({price.currency for price in found} - {"USD"})
    err().print(f"{count(len(found), 'price')} written{'' if output == '-' else f' to {file}'}")
    for currency in rates:
        err().print(f"prices in {currency}: prices import needs --rate {currency}=…")


def check_unique(identities: Sequence[tuple[object, ...]], files: Sequence[Path]) -> None:
    """Raise InputError where two files hold the same price: one would replace the other."""
    same = next((identity for identity, times in Counter(identities).items() if times > 1), None)
    if same is not None:
        price = " ".join(str(part) for part in same if part)
        raise InputError(f"{' and '.join(map(str, files))} hold the same price twice: {price}; nothing was imported")


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
