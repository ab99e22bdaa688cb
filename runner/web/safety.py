"""Access rules of the web service: other hosts are refused, and callers without the token where one is set."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_COOKIE = "gpuscout_token"
_LONGEST_QUERY = 20_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Guard:
    """The access rules of a server. `hosts`: names that requests may be for, None: any. `token`: that of callers."""

    hosts: tuple[str, ...] | None = LOOPBACK
    token: str | None = None

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that may not be asked; None for all others."""
        if self.hosts is not None and _host(request) not in self.hosts:
            return _plain(
                421, "this server answers for other host names only: gpuscout serve --allow-host NAME adds one"
            )
        if len(request.url.query) > _LONGEST_QUERY:
            return _plain(414, "the question is too long")
        if self.token is None or request.url.path == "/healthz":
            return None
        return self._without_token(request, self.token)

    def _without_token(self, request: Request, token: str) -> Response | None:
        if request.method == "GET" and _same(request.query_params.get("token", ""), token):
            # From the address into a cookie that no script can read, so that links can be passed on.
            rest = urlencode([pair for pair in parse_qsl(request.url.query, True) if pair[0] != "token"])
            # Of several slashes the first two would lead to another host.
            path = "/" + request.url.path.lstrip("/")
            response = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            # Lax: a link in a message opens the page; all that it can do is read.
            response.set_cookie(_COOKIE, token, httponly=True, samesite="lax", secure=request.url.scheme == "https")
            return response
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = (bearer if scheme.casefold() == "bearer" else "", request.cookies.get(_COOKIE, ""))
        if any(_same(one, token) for one in shown):
            return None
        refusal = _plain(401, "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN once in a browser")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal


class Guarded:
    """An application behind a guard, and the headers that every answer has.

    Plain ASGI: behind Starlette's BaseHTTPMiddleware nobody sees that a client has left.
    """

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._guard.refusal(Request(scope))
        await (self._app if refusal is None else refusal)(scope, receive, sending)


def _host(request: Request) -> str:
    """Return the host that the request is for, without its port."""
    host: str = request.headers.get("host", "")
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.casefold()


def _same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode(), token.encode())


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status)
