"""A running server with an OpenAI-compatible API: what it serves, and which version of what it is."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from gpuscout.runner.engines.benchmark.errors import BenchmarkError, RefusedError
from gpuscout.runner.engines.benchmark.traffic.client import api_key, beginning, session, words_of
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.errors import InputError, quoted
from gpuscout.sweeps.text import printable

if TYPE_CHECKING:
    import aiohttp

_ASK_S = 30.0
_MOST_BYTES = 1 << 20
_NAMED = 5
# What servers write into `owned_by` of the models they list; nothing is known of the others.
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "tensorrt_llm": "trtllm", "llamacpp": "llama.cpp"}


@dataclass(frozen=True)
class Endpoint:
    """`url` is where the API starts (http://host:port/v1), `model` the name under which it serves the model.

    `owner` is who owns the model according to the server, by which most of them name themselves.
    """

    url: str
    model: str
    server_version: str | None = None
    owner: str | None = None

    def is_other_than(self, server: str) -> bool:
        """Return whether the endpoint names itself as another server than this."""
        owner = _OWNERS.get((self.owner or "").casefold())
        return owner is not None and owner != server

    def details(self, case: Case, started: datetime, tool_version: str | None) -> dict[str, object]:
        """Return the metadata of a run on this server, as JSON values."""
        deployment = {
            "tool_version": tool_version,
            "host": socket.gethostname(),
            "endpoint": self.url,
            "served_model_name": self.model,
            "other_server": self.owner if self.is_other_than(case.server) else None,
            "run": started.isoformat(timespec="milliseconds"),
        }
        return {name: value for name, value in deployment.items() if value is not None}


def checked_url(url: str) -> str:
    """Return the address of an API, with /v1 where no path is given. Raises InputError."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise _invalid(url) from error
    if "@" in parts.netloc:
        raise InputError(
            "invalid endpoint: it holds a user or a password, which would be stored with the results",
            hint="put the key into an environment variable, and its name into `api_key_env`",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise _invalid(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))


def _invalid(url: str) -> InputError:
    """Quote neither what stands before an @ nor a query, in which keys are given."""
    _, at, shown = re.split(r"[?#]", url, maxsplit=1)[0].rpartition("@")
    return InputError(
        f"invalid endpoint {quoted('***@' + shown if at else shown)}: expected an address such as "
        "http://localhost:8000/v1 (OpenAI's API), without a query"
    )


def probe(url: str, model: str, *, api_key_env: str | None = None) -> Endpoint:
    """Ask a server for its models and its version; `model` has to be one of them.

    Raises RefusedError (401, 403, 404), BenchmarkError for a server that does not answer or serves something else.
    """
    return asyncio.run(_probe(url, model, api_key(api_key_env)))


async def _probe(url: str, model: str, key: str | None) -> Endpoint:
    async with session(key, _ASK_S) as opened:
        answer = await _asked(opened, f"{url}/models")
        served = _served(answer)
        if served is None:
            raise BenchmarkError(f"{url}/models does not list models: is it the address of an OpenAI-compatible API?")
        if model not in served:
            raise BenchmarkError(
                f"the endpoint serves {_listed(served)}, not {quoted(model)}; "
                "`served_model_name` is the name under which it serves the model"
            )
        return Endpoint(url, model, await _version(opened, url), served[model])


async def _version(opened: aiohttp.ClientSession, url: str) -> str | None:
    """Ask for the version: vLLM, SGLang and TensorRT-LLM answer /version, llama.cpp /props; None: unknown."""
    root = url.removesuffix("/v1")
    for path, name in (("version", "version"), ("get_server_info", "version"), ("props", "build_info")):
        try:
            answer = await _asked(opened, f"{root}/{path}")
        except BenchmarkError:
            continue
        version = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(version, str) and version.strip():
            return printable(version.strip())[:100]
    return None


async def _asked(opened: aiohttp.ClientSession, url: str) -> Any:
    """Return the JSON behind an address. Raises BenchmarkError."""
    import aiohttp

    try:
        async with opened.get(url, allow_redirects=False) as response:
            text = await beginning(response.content, _MOST_BYTES)
    except TimeoutError as error:
        raise BenchmarkError(f"{url} did not answer within {_ASK_S:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise BenchmarkError(f"{url} does not answer: {words_of(error)}") from error
    if response.status in (401, 403, 404):
        hint = ""
        if response.status != 404:
            given = "Authorization" in opened.headers
            hint = ": it refuses the key" if given else "; `api_key_env` names the environment variable with the key"
        raise RefusedError(f"{url} answers {response.status}{hint}")
    if response.status != 200:
        raise BenchmarkError(f"{url} answers {response.status}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{url} does not answer in JSON") from error


def _served(answer: Any) -> dict[str, str | None] | None:
    """Return the models that a server lists, and who owns each."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        return None
    found = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return {entry["id"]: owner if isinstance(owner := entry.get("owned_by"), str) else None for entry in found}


def _listed(models: Iterable[str]) -> str:
    names = list(models)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(quoted, names[:_NAMED])) + more if names else "no model"
