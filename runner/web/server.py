"""The server of the application, until it is told to stop."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gpuscout.runner.web.app import make_app
from gpuscout.runner.web.safety import LOOPBACK, Guard
from gpuscout.store.database.urls import parse_url
from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

# Open connections and requests under way, of which few are answered at once; a browser keeps several open.
_MOST_REQUESTS = 512


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
    workers: int,
    open_browser: bool,
    say: Callable[[str], None],
) -> None:
    """Serve until a signal comes, by so many processes. `say` is called with the address once requests are taken.

    The store need not be there yet. Raises InputError where it never can be, where the address cannot be used, or where
    others could reach it and no token is given.
    """
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    if not is_loopback(host) and not token:
        raise InputError(
            f"others can reach {host}, and no token is set",
            hint="--token TOKEN (or GPUSCOUT_TOKEN); or leave --host out and put a reverse proxy in front",
        )
    hosts = (*LOOPBACK, *map(str.casefold, allowed_hosts)) if is_loopback(host) or allowed_hosts else None
    parse_url(db)
    listening = _listening(host, port)
    shown = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    config = uvicorn.Config(
        # Workers get it through a pipe, so the token stands in no arguments.
        partial(_application, db, Guard(hosts, token), longest_s),
        factory=True,
        workers=workers,
        # The address may hold the token.
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=_MOST_REQUESTS,
        timeout_graceful_shutdown=3,
        # A worker is replaced when it ends, not because the machine is busy.
        timeout_worker_healthcheck=60,
    )
    say(shown)
    if open_browser:
        threading.Timer(0.3, webbrowser.open, [shown]).start()
    with listening:
        if workers > 1:
            Multiprocess(config, [listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])


def _application(db: str, guard: Guard, longest_s: float) -> FastAPI:
    """Return the application of one process, which ends when the process that started it does."""
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    return make_app(db, guard, longest_s=longest_s)


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    signal.raise_signal(signal.SIGTERM)


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections. Raises InputError."""
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
