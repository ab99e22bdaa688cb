"""`gpuscout prices`: price books; and how the prices of a ranking are told."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, count, open_store, print_json
from gpuscout.runner.cli.options import check_purchase, grouped, parse_day, parse_prices, split_books
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_line, print_rows, whole_number
from gpuscout.runner.cli.show.prices import price_row, prices_document, usd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpuscout.store.prices.offers import Chosen
    from gpuscout.store.prices.prices import Quote
    from gpuscout.store.prices.tokens import TokenPrice

prices = typer.Typer(help="Prices of GPU hours.", no_args_is_help=True, epilog="Example: gpuscout prices show H100")

Book = Annotated[str, typer.Option("--book", help="A price book of the store.")]
Books = Annotated[str | None, typer.Option("--prices", metavar="BOOK[,BOOK]", help="Only these books.")]
Date = Annotated[str | None, typer.Option("--date", "--as-of", help="When the prices were read (YYYY-MM-DD).")]


def register(app: typer.Typer) -> None:
    from gpuscout.runner.cli.store import price_sources

    price_sources.register(prices)
    app.add_typer(prices, name="prices", rich_help_panel="Catalogues")


@prices.command("list", epilog="Example: gpuscout prices list")
@grouped
def list_prices(output: Output, books: Books = None, db: Db = DEFAULT_STORE) -> None:
    """List the price books and the default price of every GPU."""
    from gpuscout.store.prices.prices import PriceRules, price_gpus
    from gpuscout.store.prices.token_books import current

    found = quotes_at(db, split_books(books))
    names = list(dict.fromkeys(quote.book for quote in found))
    gpus = list(dict.fromkeys(quote.gpu for quote in found))
    priced = price_gpus(gpus, found, PriceRules(books=split_books(books)))
    document = prices_document(priced)
    tokens = current(token_prices_at(db, split_books(books)))
    if output.json:
        books_document = [{"book": name, **_summary(q for q in found if q.book == name)} for name in names]
        apis = [asdict(price) | {"name": price.name} for price in tokens]
        print_json({"books": books_document, **document, "token_prices": apis})
        return
    for name in names:
        about = _summary(q for q in found if q.book == name)
        summary = (
            f"{count(about['quotes'], 'price')} of {count(about['gpus'], 'GPU')}, {about['from']} to {about['to']}"
        )
        print_line(f"{name}: {summary}", output)
    if priced.known:
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
    if tokens and output.for_people:
        from gpuscout.runner.cli.show.wording import print_wrapped

        print()
        print_wrapped(
            "USD per million tokens of APIs (gpuscout compare api:NAME says from which load your own GPUs cost less)"
        )
        print_rows(_TOKENS, [asdict(price) for price in tokens], output)


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


@prices.command("set", epilog="Example: gpuscout prices set H100=2.10 L40S=0.86")
def set_prices(
    given: Annotated[list[str], typer.Argument(metavar="GPU=USD", help="USD per GPU hour; several at once.")],
    book: Book = "own",
    provider: Annotated[
        str | None, typer.Option("--provider", help="Seller of that price (default: the book).")
    ] = None,
    purchase: Annotated[str, typer.Option("--purchase", help="on-demand, spot or reserved.")] = "on-demand",
    date: Date = None,
    note: Annotated[str, typer.Option("--note", help="A remark to keep.")] = "",
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Set prices of GPUs in a book of the store. They are dated today by default."""
    from gpuscout.store.clock import today
    from gpuscout.store.prices.book_rows import check_book_name
    from gpuscout.store.prices.books import save_quotes
    from gpuscout.store.prices.prices import Quote
    from gpuscout.store.ranking.question.lookup import stored_gpus

    check_book_name(book)
    day = parse_day("--date", date) or today()
    kind = check_purchase(purchase)
    with open_store(db, create=True) as store:
        with store.reading() as connection:
            known = tuple(stored_gpus(connection).ids)
        quotes = [
            Quote(book, gpu, provider or book, price, day, purchase=kind, source="set by hand", note=note)
            for gpu, price in parse_prices(given, known).items()
        ]
        with store.writing() as connection:
            gone = save_quotes(connection, quotes)
    print_saved(book, quotes, gone, json=json)


@prices.command("remove", epilog="Example: gpuscout prices remove acme --gpu H100")
def remove_prices(
    book: Annotated[str, typer.Argument(help="A price book of the store.")],
    gpu: Annotated[str | None, typer.Option("--gpu", help="Only the prices of this GPU.")] = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove a book from the store, or its prices of one GPU."""
    from gpuscout.store.prices.books import quotes_of, remove_quotes
    from gpuscout.store.prices.csv_file import gpu_name

    with open_store(db) as store, store.writing() as connection:
        name = None if gpu is None else gpu_name(gpu, {q.gpu for q in quotes_of(connection, [book])})
        gone = remove_quotes(connection, book, name)
    if json:
        print_json({"book": book, "removed": gone})
    else:
        print(f"{count(gone, 'price')} removed from {book}")


def quotes_at(db: str, books: tuple[str, ...]) -> list[Quote]:
    """Return all prices of these books, or of all; without a store those that ship."""
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


def token_prices_at(db: str, books: tuple[str, ...]) -> list[TokenPrice]:
    """Return all token prices of these books, or of all; without a store those that ship."""
    from gpuscout.store.prices.token_books import shipped_token_prices, token_prices_of
    from gpuscout.sweeps.errors import StoreUnreachableError

    try:
        with open_store(db) as store, store.reading() as connection:
            return token_prices_of(connection, books)
    except StoreUnreachableError:
        if db != DEFAULT_STORE:
            raise
        return list(shipped_token_prices())


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


def print_saved(book: str, quotes: Sequence[Quote], gone: int, *, json: bool, chosen: Chosen | None = None) -> None:
    """Print the stored prices, and the offers that were left out."""
    from gpuscout.store.clock import today

    # Somewhere on Earth it is tomorrow already.
    if early := sorted({quote.date for quote in quotes if (quote.date - today()).days > 1}):
        days = " to ".join(dict.fromkeys(map(str, (early[0], early[-1]))))
        print(f"warning: prices dated in the future ({days}) take effect immediately", file=sys.stderr)
    if json:
        document: dict[str, object] = {"book": book, "stored": len(quotes), "replaced": gone}
        if chosen is not None:
            shared, reasons = chosen.asked.most_common(), chosen.left_out.most_common()
            document["asked"] = [{"name": name, "gpus": gpus, "offers": number} for (name, gpus), number in shared]
            document["left_out"] = [{"reason": reason, "offers": number} for reason, number in reasons]
        print_json(document)
        return
    for note in chosen.notes() if chosen else ():
        print(note, file=sys.stderr)
    if len(quotes) > _LISTED:
        for provider in sorted({quote.provider for quote in quotes}):
            about = _summary(quote for quote in quotes if quote.provider == provider)
            print(f"{provider}: {count(about['quotes'], 'price')} of {count(about['gpus'], 'GPU')}, {about['to']}")
    else:
        for quote in quotes:
            print(f"{quote.gpu} {usd(quote.usd_per_gpu_hour)} USD per hour, {quote.date}, {quote.provider}")
    print(f"{count(len(quotes), 'price')} stored in {book}{f', {gone:,} replaced' if gone else ''}")


def print_saved_tokens(book: str, prices: Sequence[TokenPrice], gone: int, *, json: bool) -> None:
    if json:
        print_json({"book": book, "stored": len(prices), "replaced": gone})
        return
    for price in prices[:_LISTED]:
        summary = f"{price.input_usd_per_mtok:g} in, {price.output_usd_per_mtok:g} out USD per million tokens"
        print(f"{price.name}: {summary}, {price.date}")
    more = f" ({len(prices) - _LISTED:,} more)" if len(prices) > _LISTED else ""
    replaced = f", {gone:,} replaced" if gone else ""
    print(f"{count(len(prices), 'token price')} stored in {book}{replaced}{more}")


_LISTED = 10
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
_TOKENS = (
    Column("provider", "provider"),
    Column("model", "model"),
    a_figure("input_usd_per_mtok", "input", lambda usd: f"{usd:g}"),
    a_figure("cached_input_usd_per_mtok", "cached", lambda usd: f"{usd:g}", unknown=""),
    a_figure("output_usd_per_mtok", "output", lambda usd: f"{usd:g}"),
    Column("date", "date", whole=True),
    Column("book", "book"),
)
