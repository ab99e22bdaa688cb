"""Asks the public interface of InferenceX for the runs of one model, with patience and limits."""

from __future__ import annotations

import email.utils
import http.client
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from gpuscout.store.measured.formats import Reported, SourceFile
from gpuscout.store.measured.formats.inferencex import MODELS
from gpuscout.sweeps.errors import GpuscoutError, InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue

NAME = "inferencex"
DEFAULT_URL = "https://inferencex.semianalysis.com"
_PATH = "/api/v1/benchmarks"
# The names that the interface takes, and the first of the models whose rows it then answers. Rows have shorter ones.
ASKED = {
    "DeepSeek-R1-0528": "dsr1",
    "DeepSeek-V4-Pro": "dsv4",
    "GLM-5": "glm5",
    "gpt-oss-120b": "gptoss",
    "Kimi-K2.5": "kimik2.5",
    "Llama-3.3-70B-Instruct-FP8": "llama70b",
    "MiniMax-M2.5": "minimax2.5",
    "Qwen-3.5-397B-A17B": "qwen3.5",
}
# Answered together with another one.
_WITH = {"glm5.1": "glm5", "kimik2.6": "kimik2.5", "minimaxm2.7": "minimax2.5"}
_UNKNOWN_MODEL = (400, 404, 422)
_LARGEST_BYTES = 256 * 2**20
_CHUNK = 2**20
_TRIES = 4
_LONGEST_WAIT_S = 60.0
_PATIENCE = 10  # times the time-out for the whole answer
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Question:
    """Runs to fetch: of a model (named by the catalogue or InferenceX), a GPU, and from a day on; None: all."""

    model: str
    gpu: str | None = None
    since: date | None = None
    base_url: str = DEFAULT_URL
    timeout_s: float = 30.0
    """Of every step of a request: connecting, and each wait for data."""

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs to try until one answers: by the interface's name of the model, then by that of its rows.

        Raises InputError for a base that is no http or https address.
        """
        base = urlsplit(self.base_url)
        if base.scheme not in ("http", "https") or not base.hostname:
            raise InputError(f"--url: expected http://HOST or https://HOST, got {self.base_url!r}")
        if base.username or base.password:
            raise InputError("--url: an address with a user or password is not supported")
        start = f"{base.scheme}://{base.netloc}{base.path.rstrip('/')}{_PATH}"
        return tuple(f"{start}?{urlencode({'model': name})}" for name in self.names)

    @property
    def names(self) -> tuple[str, ...]:
        together = _WITH.get(self.short_name, self.short_name)
        return (*(name for name, short in ASKED.items() if short == together), self.short_name)

    @property
    def short_name(self) -> str:
        """Name of the model in the rows of InferenceX; an unknown name is left as it is."""
        for name, short in ASKED.items():
            if name.casefold() == self.model.casefold():
                return short
        try:
            [full] = ModelCatalogue.load().resolve(self.model)
        except (GpuscoutError, ValueError):
            full = self.model
        return next((short for short, of in MODELS.items() if full in (short, of, of.removesuffix("-FP8"))), self.model)

    def wants(self, run: Reported) -> bool:
        """Return whether a run of the answer is one of those asked for."""
        model = run.deployment["model"]
        if model in MODELS.values() and model != MODELS.get(self.short_name, model):
            return False
        if self.since is not None and (run.measured_on is None or run.measured_on < self.since):
            return False
        if self.gpu is None:
            return True
        catalogue = GPUCatalogue.load()
        return catalogue.find(run.deployment["gpu"]) is catalogue.resolve(self.gpu)


def ask(question: Question) -> SourceFile:
    """Return the answer as a file. Raises InputError for whatever keeps it from coming whole."""
    answer, refused = None, None
    for url in question.urls:
        try:
            answer = _get(url, question.timeout_s)
        except _RefusedError as error:
            refused = refused or error
            continue
        if answer.strip() != b"[]":
            break
    if answer is None and refused is not None:
        raise refused
    return SourceFile(f"{NAME}:{question.short_name}", answer or b"[]")


class _RefusedError(InputError):
    """A refusal of the server: it does not know the model by this name, or the interface."""


def _get(url: str, timeout_s: float) -> bytes:
    host = urlsplit(url).netloc
    request = Request(url, headers={"Accept": "application/json", "Accept-Encoding": "identity"})  # noqa: S310
    for attempt in range(1, _TRIES + 1):
        try:
            with urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
                return _whole(answer, host, time.monotonic() + _PATIENCE * timeout_s)
        except HTTPError as error:
            with error:
                wait_s = _wait(error, attempt)
            if wait_s is None:
                kind = _RefusedError if error.code in _UNKNOWN_MODEL else InputError
                raise kind(f"{host} answers {error.code} {error.reason}", hint=_hint(error.code)) from error
            time.sleep(wait_s)
        except http.client.IncompleteRead as error:
            raise InputError(f"the answer of {host} is cut off", hint="try again") from error
        except (TimeoutError, URLError, http.client.HTTPException, OSError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            late = isinstance(reason, TimeoutError)
            problem = f"no answer within {timeout_s:g} s" if late else f"cannot be reached: {reason}"
            raise InputError(f"{host}: {problem}", hint="try again later, or --url for another server") from error
    raise InputError(f"{host}: too many requests", hint="try again later")


def _whole(answer: http.client.HTTPResponse, host: str, deadline: float) -> bytes:
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > _LARGEST_BYTES:
        raise _too_large(host)
    parts, size = list[bytes](), 0
    while part := answer.read1(_CHUNK):
        if time.monotonic() > deadline:
            raise TimeoutError  # a server that sends a little now and then
        parts.append(part)
        size += len(part)
        if size > _LARGEST_BYTES:
            raise _too_large(host)
    if length.isdecimal() and size < int(length):
        raise http.client.IncompleteRead(b"", int(length) - size)
    return b"".join(parts)


def _too_large(host: str) -> InputError:
    return InputError(f"the answer of {host} is larger than {_LARGEST_BYTES // 2**20:,} MiB", hint="ask for one model")


def _wait(error: HTTPError, attempt: int) -> float | None:
    """Return the seconds to wait before the next try; None: another one is of no use."""
    if attempt == _TRIES or error.code not in (429, 500, 502, 503, 504):
        return None
    asked: str | None = error.headers.get("Retry-After")
    if asked is None:
        return _PAUSE_S * float(2 ** (attempt - 1))
    wait_s = float(asked) if asked.strip().isdecimal() else _until(asked)
    return None if wait_s is None or wait_s > _LONGEST_WAIT_S else max(wait_s, 0.0)


def _until(moment: str) -> float | None:
    try:
        then = email.utils.parsedate_to_datetime(moment)
    except ValueError:
        return _PAUSE_S
    aware: datetime = then if then.tzinfo else then.replace(tzinfo=UTC)
    return aware.timestamp() - datetime.now(UTC).timestamp()


def _hint(code: int) -> str:
    if code == 429:
        return "too many requests: try again later"
    if code in (400, 422):
        return f"InferenceX knows {', '.join(ASKED)}"
    if code == 404:
        return f"is this an InferenceX server? {_PATH} was requested; --url names another server"
    return "try again later, or --url for another server"
