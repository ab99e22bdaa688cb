"""Failures at the Hugging Face Hub, as errors that say what to do. They quote no server, address or token."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from gpuscout.sweeps.errors import (
    GpuscoutError,
    HubAccessError,
    HubError,
    HubGatedError,
    HubModelNotFoundError,
    HubOfflineError,
    HubRateLimitError,
    HubServerError,
    HubTimeoutError,
    HubUnreachableError,
    InputError,
    ModelConfigError,
    NotCausalError,
    UnknownNameError,
)
from gpuscout.sweeps.models.catalogue import ModelCatalogue

_LOGIN = "set HF_TOKEN or run `hf auth login`"
_OFFLINE = "HF_HUB_OFFLINE=1 uses the local cache only"
# huggingface_hub has changed its HTTP library twice: exceptions of all of them are told apart by name.
_TIMEOUTS = frozenset({"TimeoutException", "Timeout", "TimeoutError"})
_NETWORK = frozenset({"NetworkError", "ConnectionError", "ProxyError", "ProtocolError", "TransportError"})


@dataclass(frozen=True)
class HubModel:
    """A model of the Hub. `revision` is a branch, tag or commit; None is the default branch."""

    repo_id: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """Name under which the model is stored and shown: two revisions are two models."""
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class Explained:
    """An error in our words. `final`: the local cache must not hide it. `passing`: it may be gone when asked again."""

    error: GpuscoutError
    final: bool = False
    passing: bool = False


def explained(error: Exception, model: HubModel) -> Explained:
    """Return an error for the user in place of one that huggingface_hub raised."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    name, place = model.name, endpoint()
    if isinstance(error, hub.HFValidationError):
        return Explained(InputError(f'"{name}" cannot be a model of the Hub', hint="write org/name"), final=True)
    if isinstance(error, hub.OfflineModeIsEnabled | hub.LocalEntryNotFoundError):
        hint = f"{_meant(model.repo_id)}unset HF_HUB_OFFLINE once, or name a folder with its config.json"
        return Explained(HubOfflineError(f"{name} is not in the local cache, and HF_HUB_OFFLINE is set", hint=hint))
    if isinstance(error, hub.HfHubHTTPError):
        return _of_status(error, model)
    if isinstance(error, hub.FileMetadataError):
        hint = "check HF_ENDPOINT and proxies"
        return Explained(HubServerError(f"{name}: {place} is not a Hugging Face Hub", hint=hint))
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _TIMEOUTS:
        hint = f"try again, or wait longer: HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT (seconds); {_OFFLINE}"
        return Explained(HubTimeoutError(f"{name}: {place} did not answer in time", hint=hint), passing=True)
    if names & {"RemoteProtocolError", "ProtocolError"} or "Consistency check failed" in str(error):
        return Explained(HubServerError(f"{name}: {place} sent less than it announced", hint="try again"), passing=True)
    if names & _NETWORK:
        hint = f"check the network, HF_ENDPOINT and proxies; {_OFFLINE}"
        return Explained(HubUnreachableError(f"{name}: no connection to {place}", hint=hint), passing=True)
    if isinstance(error, OSError) and error.errno is not None:
        hint = "set HF_HOME to a folder that can be written"
        return Explained(HubError(f"{name}: cannot use the local cache: {error.strerror}", hint=hint))
    return Explained(HubError(f"{name} could not be fetched from {place} ({type(error).__name__})"))


def _of_status(error: Exception, model: HubModel) -> Explained:
    """Return an answer of the Hub that is an error."""
    from huggingface_hub import errors as hub
    from huggingface_hub import get_token

    response = error.response  # type: ignore[attr-defined]
    status, name, place = int(response.status_code), model.name, endpoint()
    page = f"{place}/{model.repo_id}"
    if isinstance(error, hub.GatedRepoError):
        account = "with the account of your token" if get_token() else f"then {_LOGIN}"
        return Explained(HubGatedError(f"{name} is gated", hint=f"accept its terms at {page}, {account}"))
    if isinstance(error, hub.RevisionNotFoundError):
        message = f'{model.repo_id} has no revision "{model.revision or "main"}"'
        return Explained(HubModelNotFoundError(message, hint=f"see {page}/tree/main"), final=True)
    if isinstance(error, hub.RepositoryNotFoundError):
        private = f"if it is private: {_LOGIN}" if not get_token() else "if it is private: your token cannot see it"
        return Explained(HubModelNotFoundError(f'no model "{name}" at {place}', hint=_meant(model.repo_id) + private))
    if isinstance(error, hub.DisabledRepoError):
        return Explained(HubError(f"{name} has been disabled at {place}"))
    if status in (401, 403):
        hint = f"{_LOGIN}; tokens: {place}/settings/tokens"
        what = "does not accept your token" if get_token() else "requires a token"
        refused = f"{place} {what}" if status == 401 else f"{place} refuses access to it (403)"
        return Explained(HubAccessError(f"{name}: {refused}", hint=hint))
    if status == 429:
        wait_s = _retry_after_s(response.headers)
        when = "in a while" if wait_s is None else f"in {wait_s:,} s"
        anonymous = "" if get_token() else f"; with a token more is allowed: {_LOGIN}"
        limited = HubRateLimitError(
            f"{name}: too many requests to {place}", hint=f"try again {when}{anonymous}", retry_after_s=wait_s
        )
        # Not `passing` for the small pauses of one run, but no reason to do without what it would have said either.
        return Explained(limited, passing=True)
    if status >= 500:
        broken = HubServerError(f"{name}: {place} failed ({status})", hint=f"try again later; {_OFFLINE}")
        return Explained(broken, passing=True)
    return Explained(HubError(f"{name}: {place} answered {status}"))


def holds_no_config(model: HubModel, files: Collection[str]) -> GpuscoutError:
    """Return why a repository without a config.json cannot be estimated; `files` is empty where unknown."""
    if "model_index.json" in files:
        return NotCausalError(
            f"{model.name} is a diffusion pipeline", hint="gpuscout estimates models that generate text token by token"
        )
    if "adapter_config.json" in files:
        return ModelConfigError(f"{model.name} is an adapter (LoRA)", hint="name the model it adapts")
    if any(file.lower().endswith(".gguf") for file in files):
        return ModelConfigError(
            f"{model.name} holds GGUF files and no config.json", hint="name the model they were converted from"
        )
    return ModelConfigError(
        f"{model.name} has no config.json", hint="name a model in the format of transformers, or a local config.json"
    )


def endpoint() -> str:
    """Return the address of the Hub, as it may be printed: without credentials."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _meant(name: str) -> str:
    """Return the question whether a name of the catalogue that is like this one was meant; empty: none is."""
    try:
        ModelCatalogue.load().resolve(name)
    except UnknownNameError as unknown:
        return f"did you mean {' or '.join(unknown.suggestions)}?   " if unknown.suggestions else ""
    except InputError:
        pass
    return ""


def _retry_after_s(headers: object) -> int | None:
    """Return seconds the Hub asks to wait, from either of the headers it uses."""
    get = headers.get  # type: ignore[attr-defined]
    if str(get("retry-after") or "").isdigit():
        return int(get("retry-after"))
    found = re.search(r"\bt\s*=\s*(\d{1,9})", str(get("ratelimit") or ""))
    return int(found.group(1)) if found else None
