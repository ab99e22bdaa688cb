"""Serves the application until it is told to stop."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence

from gpuscout.runner.web.app import make_app
from gpuscout.runner.web.safety import LOOPBACK, Guard
from gpuscout.store.database.connect import keep_stores
from gpuscout.sweeps.errors import InputError

_MOST_REQUESTS = 64


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def serve(
    db: str,
    host: str,
    port: int,
    *,
    token: str | None,
    allowed_hosts: Sequence[str],
    longest_s: float,
    open_browser: bool,
    say: Callable[[str], None],
) -> None:
    """Serve until a signal comes. `say` is called with the address once requests are taken.

    Raises InputError where the address cannot be used, or others could reach it and no token is given.
    """
    import uvicorn

    if not is_loopback(host) and not token:
        raise InputError(
            f"others can reach {host}, and no token is set",
            hint="--token TOKEN (or GPUSCOUT_TOKEN); or leave --host out and put a reverse proxy in front",
        )
    hosts = (*LOOPBACK, *map(str.casefold, allowed_hosts)) if is_loopback(host) or allowed_hosts else None
    listening = _listening(host, port)
    shown = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    config = uvicorn.Config(
        make_app(db, Guard(hosts, token), longest_s=longest_s),
        # The address may hold the token.
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=_MOST_REQUESTS,
        timeout_graceful_shutdown=3,
    )
    keep_stores()
    say(shown)
    if open_browser:
        threading.Timer(0.3, webbrowser.open, [shown]).start()
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises InputError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}", hint="--port names another, 0 any"
        ) from error
    return found
