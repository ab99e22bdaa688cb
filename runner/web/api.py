"""The REST API: GET routes below /api/v1 that answer with the documents of the commands' --json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gpuscout.runner.web.answers import QUESTIONS, Question, parameters
from gpuscout.runner.web.errors import problem, refusal
from gpuscout.runner.web.freshness import freshness
from gpuscout.runner.web.patience import Patience
from gpuscout.sweeps.errors import GpuscoutError

_ROUTES = {
    "/sweeps": "sweeps",
    "/sweeps/{name:path}": "sweep",
    "/models": "models",
    "/gpus": "gpus",
    "/gpus/{name}": "gpu",
    "/workloads": "workloads",
    "/prices": "prices",
    "/points": "points",
    "/recommend": "recommend",
    "/pareto": "pareto",
    "/compare": "compare",
    "/capacity": "capacity",
    "/place": "place",
    "/deploy": "deploy",
    "/accuracy": "accuracy",
}


def api(db: str, patience: Patience) -> APIRouter:
    """Return the routes over the store at `db`."""
    router = APIRouter(prefix="/api/v1")
    for path, name in _ROUTES.items():
        router.add_api_route(
            path,
            _answering(name, db, patience),
            methods=["GET"],
            name=name,
            summary=f"What gpuscout {' '.join(QUESTIONS[name].command)} --json prints",
            openapi_extra={"parameters": _described(name, path)},
            response_class=Response,
            responses={
                200: {"description": "The document of the command", "content": {"application/json": {}}},
                304: {"description": "Nothing has changed since the answer with this ETag"},
                400: {"description": "The question is wrong", "content": {"application/problem+json": {}}},
                503: {"description": "The store cannot be read", "content": {"application/problem+json": {}}},
                504: {"description": "The answer took too long", "content": {"application/problem+json": {}}},
            },
        )
    return router


def routes() -> list[dict[str, object]]:
    """Return the routes for people: path, command and parameters."""
    return [
        {
            "path": f"/api/v1{path}".replace(":path}", "}"),
            "command": " ".join(QUESTIONS[name].command),
            "parameters": _described(name, path),
        }
        for path, name in _ROUTES.items()
    ]


def _answering(name: str, db: str, patience: Patience) -> Any:
    async def answer(request: Request) -> Response:
        return await patience.answered(request, lambda: respond(name, db, request))

    return answer


def respond(name: str, db: str, request: Request) -> Response:
    """Return the answer to a request, or 304 where the caller has it already, or a problem document."""
    try:
        question = Question(name, asked(request))
        tag = etag(question, db)
        if tag is not None and tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"ETag": tag})
        answer = question.ask(db)
    except GpuscoutError as error:
        return problem_response(error)
    headers = {"Cache-Control": "no-cache", "Gpuscout-Exit-Status": str(answer.exit_status)}
    if tag is not None:
        headers["ETag"] = tag
    return Response(answer.text, media_type="application/json", headers=headers)


def asked(request: Request) -> dict[str, list[str]]:
    """Return the parameters of a request by name, those in its path included."""
    given: dict[str, list[str]] = {}
    for name, value in [*request.query_params.multi_items(), *request.path_params.items()]:
        given.setdefault(name, []).append(value)
    return given


def etag(question: Question, db: str) -> str | None:
    """Return a tag of an answer, which stays as long as the answer is true.

    None where the store cannot say whether it has changed. Raises GpuscoutError.
    """
    fresh = freshness(db if question.kind.store else None)
    if fresh is None:
        return None
    parts = [fresh, question.name, *question.arguments()]
    return f'W/"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"'


def problem_response(error: GpuscoutError) -> Response:
    document = problem(error)
    return JSONResponse(document, int(str(document["status"])), media_type="application/problem+json")


def unanswered(path: str, status: int, headers: Mapping[str, str] | None) -> Response:
    """Return the problem document of an address or a method that no route takes."""
    title, detail, hint = refusal(path, status)
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, "hint": hint}
    return JSONResponse(document, status, headers=headers, media_type="application/problem+json")


def _described(name: str, path: str) -> list[dict[str, object]]:
    """Return the parameters of a route for OpenAPI, in the words of the command's help."""
    known = parameters(name)
    described: list[dict[str, object]] = []
    for one in (*QUESTIONS[name].options, *QUESTIONS[name].places):
        parameter = known[one]
        plain: dict[str, object] = {"type": "boolean" if getattr(parameter, "is_flag", False) else "string"}
        several = getattr(parameter, "multiple", False)
        in_path = f"{{{one}" in path
        described.append(
            {
                "name": one,
                "in": "path" if in_path else "query",
                "required": in_path or bool(parameter.required),
                "description": getattr(parameter, "help", None) or "",
                "schema": {"type": "array", "items": plain} if several else plain,
            }
        )
    return described
