"""The pages at their addresses: rendered with their forms, kept while they are true, and shown with what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from gpuscout.runner.cli.common import count
from gpuscout.runner.cli.show.deployments.token_api import tokens
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.wording import limit
from gpuscout.runner.web import page_contents
from gpuscout.runner.web.errors import refusal, status_of, title_of
from gpuscout.runner.web.forms import OBJECTIVES, OWN, PURCHASES, TRUSTS, Fields, address, fields_of
from gpuscout.runner.web.freshness import freshness
from gpuscout.runner.web.patience import Patience
from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.slo import parse_slo
from gpuscout.sweeps.text import printable_lines, without_passwords
from gpuscout.sweeps.traffic.words import traffic_words

Given = tuple[tuple[str, str], ...]
# Of each kind of page.
_MOST_KEPT = 32


def pages(db: str, patience: Patience) -> APIRouter:
    """Return the pages over the store at `db`."""
    router = APIRouter(include_in_schema=False)
    for path, template, answering in (
        ("/", "ask", page_contents.ask),
        ("/trade-offs", "tradeoffs", page_contents.tradeoffs),
        ("/compare", "compare", page_contents.compare),
        ("/load", "load", page_contents.load),
        ("/place", "place", page_contents.place),
        ("/prices", "prices", page_contents.prices),
        ("/sweeps", "sweeps", page_contents.sweeps),
        ("/sweeps/{name:path}", "sweep", page_contents.sweep),
        ("/accuracy", "accuracy", page_contents.accuracy),
        ("/api", "api", page_contents.reference),
    ):
        router.add_api_route(path, _page(Page(path, template, answering, db), patience), methods=["GET"])
    return router


def _page(page: Page, patience: Patience) -> Any:
    async def answer(request: Request) -> Response:
        given = (*request.query_params.multi_items(), *request.path_params.items())
        return await patience.answered(request, lambda: page.response(given))

    return answer


class Page:
    """One page over the store at `db`: a template, and the function that answers what its address asks.

    Pages that were made are kept, and shown again for as long as they are true; what runs now is looked up each time.
    """

    def __init__(
        self, path: str, template: str, answering: Callable[[str, Fields], page_contents.Context], db: str
    ) -> None:
        self._path, self._template, self._answering, self._db = path, template, answering, db
        self._again = (
            self._made
            if answering in (page_contents.sweeps, page_contents.sweep)
            else lru_cache(_MOST_KEPT)(self._made)
        )

    def response(self, given: Given) -> Response:
        """Return the page, or where question or store are at fault one that says so and what to do."""
        try:
            fresh = freshness(self._db)
            make = self._made if fresh is None else self._again
            text, status = make(fresh, given), 200
        except GpuscoutError as error:
            text, status = self._refused(error, given), status_of(error)
        return HTMLResponse(text, status, headers={"Cache-Control": "no-cache"})

    def _made(self, fresh: str | None, given: Given) -> str:
        """Return the page with its answer, as the store is now. Raises GpuscoutError."""
        fields = fields_of(given)
        known = choices(self._db) if fresh is None else _choices(self._db, fresh)
        return self._rendered(fields, error=None, choices=known, **self._answering(self._db, fields))

    def _refused(self, error: GpuscoutError, given: Given) -> str:
        shown = {
            "title": title_of(error),
            "message": without_passwords(error.message),
            "hint": error.hint and without_passwords(error.hint),
        }
        try:
            known = choices(self._db)
        except GpuscoutError:
            known = Choices()
        return self._rendered(fields_of(given), error=shown, choices=known)

    def _rendered(self, fields: Fields, **context: Any) -> str:
        template = _environment().get_template(f"{self._template}.html")
        return template.render(page=self._path, fields=fields, **context)


def no_page(path: str, status: int, headers: Mapping[str, str] | None) -> Response:
    """Return the page that says that there is none at this address, or not for this method."""
    title, message, hint = refusal(path, status)
    error = {"title": title, "message": message, "hint": hint}
    text = _environment().get_template("base.html").render(page=None, error=error)
    return HTMLResponse(text, status, headers=headers)


class Choices(NamedTuple):
    """Contents of the store that people can choose from."""

    models: Sequence[str] = ()
    workloads: Sequence[str] = ()


def choices(db: str) -> Choices:
    """Raise StoreUnreachableError, StoreOutdatedError."""
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.ranking.question.lookup import stored_names, workload_names
    from gpuscout.store.schema import models

    with open_store(db) as store, store.reading() as connection:
        names = sorted(stored_names(connection, models).ids)
        workloads = dict.fromkeys(workload.name for workload in workload_names(connection, None))
    return Choices(names, list(workloads))


@lru_cache(1)
def _choices(db: str, _fresh: str) -> Choices:
    return choices(db)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Control characters and their like are shown, not sent.
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
    )
    found.filters["number"] = lambda value: "-" if value is None else number(value)
    found.filters["whole"] = lambda value: "-" if value is None else f"{value:,}"
    found.filters["counted"] = count
    found.filters["limit"] = lambda text: limit(parse_slo(text))
    found.filters["tokens"] = tokens
    found.filters["traffic"] = lambda text: "".join(f", {words}" for words in traffic_words(text))
    found.filters["percent"] = lambda value: "-" if value is None else f"{100 * value:.0f} %"
    found.globals.update(address=address, objectives=OBJECTIVES, own_fields=OWN, purchases=PURCHASES, trusts=TRUSTS)
    return found
