"""The application: the API, the pages and their files, behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from gpuscout import __version__
from gpuscout.runner.web.api import api, unanswered
from gpuscout.runner.web.pages import no_page, pages
from gpuscout.runner.web.patience import LONGEST_ANSWER_S, Patience
from gpuscout.runner.web.safety import Guard, Guarded
from gpuscout.store.database.kept import kept_stores

_HERE = Path(__file__).parent


def make_app(db: str, guard: Guard | None = None, *, longest_s: float = LONGEST_ANSWER_S) -> FastAPI:
    """Return an application over the store at `db`, which is opened for each question and need not be there yet.

    What takes longer than `longest_s`, or whose asker has left, is given up.
    """
    app = FastAPI(
        lifespan=_lifespan,
        title="gpuscout",
        version=__version__,
        description="Which GPUs should serve this model, and what will it cost? Answers from one store.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guarded, guard=guard or Guard())
    patience = Patience(longest_s)
    app.include_router(api(db, patience))
    app.include_router(pages(db, patience))
    app.add_api_route("/healthz", _healthy, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(HTTPException, _refused)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    return app


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    with kept_stores():
        yield


def _healthy() -> PlainTextResponse:
    return PlainTextResponse("ok\n")


async def _refused(request: Request, error: Exception) -> Response:
    """Answer what no route takes: with a problem document below /api/v1, else with a page."""
    assert isinstance(error, HTTPException)
    shown = unanswered if request.url.path.startswith("/api/v1") else no_page
    return shown(request.url.path, error.status_code, error.headers)
