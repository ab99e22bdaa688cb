"""One inference server as a child process: started, waited for until it answers, ended with everything it started.

It stays in the process group of whoever starts it. That is a Ray worker or gpuscout's own child process, each the
leader of a group of its own, which Ray and the runner end as a whole; a session of the server's own would outlive them.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from gpuscout.runner.engines.benchmark.errors import BenchmarkError
from gpuscout.runner.engines.benchmark.processes import MARK, end, identity, new_note
from gpuscout.runner.engines.benchmark.servers.guardian import Guardian
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.secret import redacted
from gpuscout.sweeps.text import message_of

HOST = "127.0.0.1"
LAST_LINES = 50
_LAST_BYTES = 64_000
_ANSWER_S = 10.0
_LOOK_S = 0.2
# With which a server says that it is not ready yet, or broken; with less, that it has no such address.
_BROKEN = 500


class ServerFailed(BenchmarkError):
    """A server that did not come up or did not stay up."""


class RunningServer:
    """A server from its start to `stop`. Used by one thread."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        about: str,
        files: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> None:
        """Start `command` in a folder of its own that has `files`. Raises ServerFailed when it cannot be started.

        `about` is what the note on this node says of it; `environment` is that of this process unless given; `key` is
        what the server wants from its clients.
        """
        self.port = port
        self._key = key
        self._environment = dict(os.environ if environment is None else environment)
        self._note = new_note(about)
        for name, content in (files or {}).items():
            (self._note.folder / name).write_text(content)
        self._log = self._note.folder / "server.log"
        self._guardian = Guardian(self._note)
        try:
            self._process = self._started(command)
        except (OSError, ValueError) as error:
            self._forget()
            raise ServerFailed(f"cannot start {command[0]}: {message_of(error)}", Outcome.ENGINE_MISSING) from error
        self._root = psutil.Process(self._process.pid)
        self._guardian.watch_over(identity(self._root))
        self.model = ""
        """The name under which it serves its model, once it is healthy."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def wait_until_healthy(self, timeout_s: float) -> None:
        """Wait until it answers a completion. Raises ServerFailed with its last lines when it ends or is too slow."""
        until = time.monotonic() + timeout_s
        asked = "/health"
        model = None
        while True:
            self._check_runs("before it answered")
            if time.monotonic() >= until:
                raise self.failed(f"the server did not answer within {timeout_s:g} s", Outcome.TIMEOUT)
            left = max(0.1, until - time.monotonic())
            if model is None:
                status, _ = self._ask("GET", asked, min(_ANSWER_S, left))
                self._check_key(status)
                if status == http.client.OK:
                    model = self._served_model(min(_ANSWER_S, left))
                elif status is not None and status < _BROKEN:
                    asked = "/v1/models"
            if model is not None:
                body = {"model": model, "prompt": "1 2 3", "max_tokens": 1}
                # The first one may compile.
                status, answer = self._ask("POST", "/v1/completions", left, body)
                if status == http.client.OK:
                    self.model = model
                    return
                if status is not None and 400 <= status < 500:
                    text = self._redacted(answer.decode(errors="replace"))[:300]
                    raise self.failed(f"the server refused a completion with status {status}: {text}", Outcome.ERROR)
            time.sleep(_LOOK_S)

    def answers(self, timeout_s: float) -> bool:
        """Return whether a healthy server still completes a prompt."""
        body = {"model": self.model, "prompt": "1 2 3", "max_tokens": 1}
        return self._ask("POST", "/v1/completions", timeout_s, body)[0] == http.client.OK

    def how_it_ended(self) -> str | None:
        """Return the end of the server's process in words; None: it runs."""
        status = self._process.poll()
        if status is None:
            return None
        if status < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-status).name}"
        return f"ended with exit status {status}"

    def failed(self, message: str, outcome: Outcome) -> ServerFailed:
        """Return the failure with the last lines of the server's log."""
        lines = self.last_lines()
        log = f"; the last {len(lines)} lines of its log:\n" + "\n".join(lines) if lines else "; its log is empty"
        return ServerFailed(message + log, outcome)

    def crashed(self, when: str) -> ServerFailed | None:
        """Return the failure when the server's process has ended; None: it runs."""
        how = self.how_it_ended()
        return None if how is None else self.failed(f"the server {how} {when}", Outcome.CRASHED)

    def last_lines(self) -> list[str]:
        """Return the end of its log, secrets redacted."""
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _LAST_BYTES))
            text = log.read().decode(errors="replace").replace("\0", "")
            return [self._redacted(line.rstrip()) for line in text.splitlines() if line.strip()][-LAST_LINES:]
        return []

    def stop(self) -> None:
        """End the server with everything it started, also when it has ended by itself and left something behind."""
        members = dict.fromkeys([self._root, *self._note.processes()])
        end(list(members))
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._forget()

    def _started(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._note.folder,
                env=self._environment | {MARK: self._note.mark},
            )

    def _forget(self) -> None:
        """Forget the server: nothing is left to watch over."""
        self._guardian.leave()
        self._note.remove()

    def _check_runs(self, when: str) -> None:
        if failure := self.crashed(when):
            raise failure

    def _check_key(self, status: int | None) -> None:
        """Raise ServerFailed for an answer that will be the same however long it is waited for."""
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            wants = (
                "refuses the key of `api_key_env`"
                if self._key
                else "requires a key: `api_key_env` names the variable that holds it"
            )
            raise self.failed(f"the server answers {status}, it {wants}", Outcome.ERROR)

    def _served_model(self, timeout_s: float) -> str | None:
        status, answer = self._ask("GET", "/v1/models", timeout_s)
        self._check_key(status)
        if status != http.client.OK:
            return None
        with suppress(ValueError, KeyError, IndexError, TypeError):
            return str(json.loads(answer)["data"][0]["id"])
        return None

    def _ask(
        self, method: str, path: str, timeout_s: float, body: Mapping[str, object] | None = None
    ) -> tuple[int | None, bytes]:
        """Return status and body of an answer; None: there was none."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        try:
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read(_LAST_BYTES)
        except (OSError, http.client.HTTPException):
            return None, b""
        finally:
            connection.close()

    def _redacted(self, line: str) -> str:
        return redacted(line, self._environment | ({"API_KEY": self._key} if self._key else {}))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port
