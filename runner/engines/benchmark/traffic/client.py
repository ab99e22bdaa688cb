"""One request to an OpenAI-compatible server: token ids in, a stream of events out, and when each of them came."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gpuscout.runner.engines.benchmark.errors import BenchmarkError, RefusedError
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.text import message_of, printable

if TYPE_CHECKING:
    import aiohttp

# What makes an answer exactly as long as asked; a server may refuse them.
EXTRAS: Mapping[str, object] = {"ignore_eos": True}
_CONNECT_S = 30.0
_TOLERATED = 0.02
_SPARE_EVENTS = 16
_LONGEST_LINE = 1 << 20
_REFUSALS = (401, 403, 404)
_LONGEST_WORDS = 300
# What comes of an answer that is no JSON, or not that of the protocol.
_MALFORMED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Request:
    """A request: token ids of the prompt, and the number of tokens to generate."""

    prompt: Sequence[int]
    output_len: int


@dataclass
class Reply:
    """The reply to a request, timed by the client's clock in seconds (`time.perf_counter`).

    `gaps_s` are the times between events that carry tokens. `failure` is the kind of it, None: it succeeded; `words`
    what the server, or the connection, had to say.
    """

    request: Request
    sent_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)
    failure: str | None = None
    words: str = ""

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.sent_s

    @property
    def e2e_s(self) -> float:
        return self.last_s - self.sent_s

    @property
    def itl_s(self) -> float | None:
        """(E2E - TTFT) / (output tokens - 1); None for a single token."""
        return (self.last_s - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None


def api_key(variable: str | None) -> str | None:
    """Return the key that an environment variable holds. Raises RefusedError when it is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RefusedError(f"the environment variable {variable} is not set: expected the API key in it")
    if not (key.isascii() and key.isprintable()):
        raise RefusedError(f"invalid API key in the environment variable {variable}: expected printable ASCII")
    return key


class Client:
    """A client that sends requests for one model to one server. `extras` are fields of requests beside the protocol.

    Made by `connected`. Connections are kept alive; certificates are verified; redirects are not followed, for they
    would take the key elsewhere.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, model: str, *, key: str | None, timeout_s: float
    ) -> None:
        self._session = session
        self._key = key
        self._url = f"{url}/completions"
        self._model = model
        self._timeout_s = timeout_s
        self.extras: dict[str, object] = dict(EXTRAS)

    async def send(self, request: Request) -> Reply:
        """Send one request and read its answer to the end. Never raises for what the server does, but for RefusedError.

        A connection that was kept alive may have been closed by the server meanwhile, and so may be the next one that
        was kept: it is sent again until a connection is a new one.
        """
        while True:
            reply, closed_before = await self._send(request)
            if not closed_before:
                return reply

    async def _send(self, request: Request) -> tuple[Reply, bool]:
        """Return the reply, and whether a kept connection closed before it, which says nothing of the request."""
        import aiohttp

        connection = SimpleNamespace(reused=False)
        body = json.dumps(self._body(request)).encode()
        reply = Reply(request, time.perf_counter())
        answering = False
        try:
            sending = self._session.post(
                self._url,
                data=body,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
                trace_request_ctx=connection,
            )
            async with sending as response:
                answering = True
                if response.status != 200:
                    await self._refused(reply, response)
                else:
                    await self._read(reply, response)
        except TimeoutError:
            reply.failure = "timeout"
            reply.words = f"no complete answer within {self._timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            reply.failure, reply.words = "refused", words_of(error)
        except (aiohttp.ClientError, OSError) as error:
            reply.failure, reply.words = "reset", words_of(error)
        except _MALFORMED as error:
            reply.failure, reply.words = "malformed", words_of(error)
        except aiohttp.http_exceptions.HttpProcessingError:
            reply.failure, reply.words = "malformed", "an event without an end"
        reply.words = self._without_key(reply.words)
        return reply, bool(reply.failure == "reset" and connection.reused and not answering)

    def _body(self, request: Request) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self._model,
            "prompt": list(request.prompt),
            "max_tokens": request.output_len,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.extras:
            body |= {**self.extras, "min_tokens": request.output_len}
        return body

    async def _refused(self, reply: Reply, response: aiohttp.ClientResponse) -> None:
        words = (await beginning(response.content, _LONGEST_WORDS * 4)).decode(errors="replace")
        reply.failure, reply.words = f"status {response.status}", _message(words)[:_LONGEST_WORDS]
        if response.status in _REFUSALS:
            raise RefusedError(self._without_key(f"the server answers {response.status}: {reply.words}"))

    def _without_key(self, words: str) -> str:
        """Strike the key out: a server may quote the one that it refuses."""
        return words.replace(self._key, "***") if self._key else words

    async def _read(self, reply: Reply, response: aiohttp.ClientResponse) -> None:
        asked, output_len = len(reply.request.prompt), reply.request.output_len
        events, usage, closing, done = 0, None, False, False
        before_last = 0.0
        most = 2 * output_len + _SPARE_EVENTS  # one a token, and no end to what else a server may send
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            now = time.perf_counter()
            data = line[5:].strip()
            if data == b"[DONE]":
                done = True
                break
            event = json.loads(data)
            if event.get("error"):
                reply.failure, reply.words = "error in the stream", _message(data.decode(errors="replace"))
                return
            if choices := event.get("choices"):
                if events:
                    reply.gaps_s.append(now - reply.last_s)
                    before_last = reply.last_s
                else:
                    reply.first_s = now
                reply.last_s = now
                events += 1
                if events > most:
                    reply.failure = "wrong length"
                    reply.words = f"more than {most:,} events for {output_len:,} tokens"
                    return
                closing = choices[0].get("finish_reason") is not None and not choices[0].get("text")
            usage = event.get("usage") or usage
        if not (events and isinstance(usage, dict)):
            reply.failure = "cut off" if not done else "no usage" if events else "no tokens"
            reply.words = "the answer ended without tokens and their number"
            return
        reply.output_tokens = int(usage.get("completion_tokens") or 0)
        reply.input_tokens = int(usage.get("prompt_tokens") or 0)
        if closing and events == reply.output_tokens + 1:
            # An event of its own for the end, which carries no token.
            reply.gaps_s.pop()
            reply.last_s = before_last
        if reply.output_tokens != output_len:
            reply.failure = "wrong length"
            reply.words = f"{reply.output_tokens:,} tokens instead of {output_len:,}"
        elif reply.input_tokens and abs(reply.input_tokens - asked) > max(_TOLERATED * asked, 1):
            reply.failure = "wrong length"
            reply.words = f"the prompt counts {reply.input_tokens:,} tokens there instead of {asked:,}"


@asynccontextmanager
async def connected(url: str, model: str, *, key: str | None, timeout_s: float) -> AsyncIterator[Client]:
    """Yield a client for the server whose API starts at `url` (http://host:port/v1)."""
    async with session(key, timeout_s) as opened:
        yield Client(opened, url, model, key=key, timeout_s=timeout_s)


@asynccontextmanager
async def session(key: str | None, timeout_s: float) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session that sends the key and keeps connections, as many as are asked for. Raises BenchmarkError."""
    try:
        import aiohttp
    except ImportError as error:
        raise BenchmarkError(
            "sending load needs aiohttp: pip install 'gpuscout[bench]'", Outcome.ENGINE_MISSING
        ) from error

    async def reused(_: object, context: Any, __: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(reused)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        read_bufsize=_LONGEST_LINE,
        trace_configs=[tracing],
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as opened:
        yield opened


async def beginning(content: aiohttp.StreamReader, most: int) -> bytes:
    """Return the first bytes of an answer, however many pieces it comes in."""
    try:
        return await content.readexactly(most)
    except asyncio.IncompleteReadError as error:
        return error.partial


def _message(words: str) -> str:
    """Return the message of an error in the form of the protocol, or all of it."""
    try:
        found = json.loads(words)
    except (ValueError, RecursionError):
        return printable(words)
    if isinstance(found, dict):
        found = found.get("error", found)
    if isinstance(found, dict):
        found = found.get("message", found)
    return printable(str(found))


def words_of(error: BaseException) -> str:
    """Return the message of a connection error, in a few words."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
        return f"its certificate cannot be verified: {getattr(error, 'verify_message', '') or message_of(error)}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (
            message_of(error.os_error)
            if len(message_of(error.os_error)) < _LONGEST_WORDS
            else type(error.os_error).__name__
        )
    return message_of(error)[:_LONGEST_WORDS] or type(error).__name__
