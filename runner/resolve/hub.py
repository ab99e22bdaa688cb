"""Model configurations from the Hugging Face Hub, by huggingface_hub: its login, endpoint, cache, time-outs are used.

A model costs at most five small requests, one more for each weight file of a quantised one (up to 32), and no weights.
huggingface_hub is imported when the first model is fetched.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gpuscout.runner.resolve.hub_errors import HubModel, explained, holds_no_config
from gpuscout.runner.resolve.model_files import LARGEST_CONFIG_BYTES, read_config, too_large, understood
from gpuscout.runner.resolve.safetensors import WEIGHTS
from gpuscout.sweeps.errors import GpuscoutError, HubError, HubServerError, HubTimeoutError, HubUnreachableError
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.stored.checkpoint import StoredWeights

_AT_ONCE = 8
# huggingface_hub tries a download that stalls six times, each time for as long as its own time-out.
_PATIENCE = 12
_PAUSES_S = (0.5, 1.5)
_MOST_HEADERS = 32
_COMMIT = re.compile(r"[0-9a-f]{40}")

_CONFIG, _MODELOPT_CONFIG = "config.json", "hf_quant_config.json"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Fetched:
    """A model and the commit it was read at; None when the local cache had to answer for a branch."""

    architecture: ModelSpec
    commit: str | None


@dataclass(frozen=True)
class _File:
    path: Path
    commit: str | None
    was_cached: bool = False


@dataclass(frozen=True)
class _Contents:
    """Names of a repository's files, and of its checkpoint the stored elements by dtype or (name, dtype, elements).

    Empty: not known.
    """

    files: frozenset[str]
    elements: Mapping[str, int]
    tensors: Sequence[tuple[str, str, int]] = ()


def fetch_all(models: Iterable[HubModel], *, token: str | None = None) -> dict[HubModel, Fetched | GpuscoutError]:
    """Return every model, or the error that says why not; several at a time, each once.

    `token` replaces that of HF_TOKEN or of the login. Never waits for ever, whatever a server does.
    """
    wanted = list(dict.fromkeys(models))
    if not wanted:
        return {}
    # Imported whole before its logger is made quiet, and before several threads would import it at once.
    from huggingface_hub import HfApi, constants, hf_hub_download  # noqa: F401

    patience_s = _PATIENCE * max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with _quiet_hub():
        answers = _concurrently(lambda model: _fetch(model, token), wanted, patience_s)
    return {
        model: answers.get(model)
        or HubTimeoutError(f"{model.name}: the Hub keeps sending too slowly", hint="try again later")
        for model in wanted
    }


def _fetch(model: HubModel, token: str | None) -> Fetched | GpuscoutError:
    try:
        file = _file(model, _CONFIG, token)
        if file is None:
            raise holds_no_config(model, _contents(model, None, token).files)
        config = read_config(file.path, f"{model.name}: {_CONFIG}")
        contents = _contents_at(model, file, token, quantised=_is_quantized(config))
        if _MODELOPT_CONFIG in contents.files or not (contents.files or _is_quantized(config)):
            # A Hub that could not be asked for the one is not asked for the other.
            only_cached = file.was_cached and not contents.files
            modelopt = (_cached_file if only_cached else _file)(model, _MODELOPT_CONFIG, token)
            if modelopt is not None:
                config["hf_quant_config"] = read_config(modelopt.path, f"{model.name}: {_MODELOPT_CONFIG}")
        architecture = understood(
            config,
            name=model.name,
            source=f"{model.name}: {_CONFIG}",
            stored=StoredWeights.of_counts(contents.elements),
            tensors=contents.tensors,
        )
        return Fetched(architecture, file.commit)
    except GpuscoutError as error:
        return error


def _is_quantized(config: Mapping[str, Any]) -> bool:
    sections = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return any(section.get(key) for section in sections for key in ("quantization_config", "compression_config"))


def _file(model: HubModel, filename: str, token: str | None) -> _File | None:
    """Return a file of the repository in the local cache, fetched if need be; None: it holds no such file.

    What is cached serves when the Hub cannot be asked or refuses, as everywhere in huggingface_hub.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    revision = model.revision or "main"
    cached: object = None
    try:
        cached = hub.try_to_load_from_cache(model.repo_id, filename, revision=revision)
        if isinstance(cached, str) and _COMMIT.fullmatch(revision):
            return _File(Path(cached), revision, was_cached=True)
        url = hub.hf_hub_url(model.repo_id, filename, revision=revision)
        # Asked first: `hf_hub_download` would only give up on a failing Hub after minutes, and has no limit of size.
        pauses_s = () if isinstance(cached, str) else _PAUSES_S
        head = _patiently(model, lambda: hub.get_hf_file_metadata(url, token=token), pauses_s)
        if head.size is not None and head.size > LARGEST_CONFIG_BYTES:
            raise too_large(f"{model.name}: {filename} ({head.size / 1e6:,.0f} MB)")
        guard: Any = _guard(f"{model.name}: {filename}")
        path = hub.hf_hub_download(model.repo_id, filename, revision=revision, token=token, tqdm_class=guard)
        return _File(Path(path), head.commit_hash)
    except GpuscoutError:
        raise
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        explanation = explained(error, model)
        if explanation.final or not isinstance(cached, str):
            # The cause is left out: its text may quote signed addresses and whatever a server says.
            raise explanation.error from None
        return _File(Path(cached), None, was_cached=True)


def _cached_file(model: HubModel, filename: str, _: str | None) -> _File | None:
    """Return a file of the local cache."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.repo_id, filename, revision=model.revision)
    return _File(Path(cached), None, was_cached=True) if isinstance(cached, str) else None


def _contents_at(model: HubModel, file: _File, token: str | None, *, quantised: bool) -> _Contents:
    """Return the contents of the repository at the commit of a file; unknown when only the cache could answer."""
    nothing = _Contents(frozenset(), {})
    if file.commit is None:
        return nothing
    try:
        return _contents(model, file.commit, token, quantised=quantised)
    except HubError:
        if not file.was_cached:
            raise
        return nothing


def _contents(model: HubModel, commit: str | None, token: str | None, *, quantised: bool = False) -> _Contents:
    """Return the repository's contents. An endpoint without this API only makes counts inexact.

    A Hub that is busy or failing is: otherwise the same sweep could mean something else tomorrow.
    """
    import huggingface_hub as hub

    api = hub.HfApi(token=token)
    try:
        info = _patiently(
            model,
            lambda: api.model_info(
                model.repo_id,
                revision=commit or model.revision,
                timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
                expand=["safetensors", "siblings"],
            ),
        )
        files = frozenset(str(sibling.rfilename) for sibling in info.siblings or ())
        stored = None if info.safetensors is None else info.safetensors.parameters
        if stored and not quantised and _MODELOPT_CONFIG not in files:
            return _Contents(files, _counts(stored))
        # The counts of the API say nothing of packed weights: some are of weights, some of what is stored.
        return _Contents(files, {}, _tensors(model, commit, files, api))
    except Exception as error:
        explanation = explained(error, model)
        if explanation.passing:
            raise explanation.error from None
        return _Contents(frozenset(), {})


def _tensors(model: HubModel, commit: str | None, files: frozenset[str], api: Any) -> list[tuple[str, str, int]]:
    """Return (name, dtype, elements) of all tensors, from the headers of weight files by range requests."""
    weights = sorted(file for file in files if WEIGHTS.fullmatch(file))
    found: list[tuple[str, str, int]] = []
    for file in weights if len(weights) <= _MOST_HEADERS else ():
        header = api.parse_safetensors_file_metadata(model.repo_id, file, revision=commit or model.revision)
        found += [(name, str(tensor.dtype), math.prod(tensor.shape)) for name, tensor in header.tensors.items()]
    return found


def _counts(found: Mapping[Any, Any]) -> dict[str, int]:
    """Return counts as far as they are counts; none of them otherwise."""
    if all(isinstance(count, int) and 0 <= count < 2**63 for count in found.values()):
        return {str(dtype): count for dtype, count in found.items() if count}
    return {}


def _patiently(model: HubModel, ask: Callable[[], Answer], pauses_s: Sequence[float] = _PAUSES_S) -> Answer:
    """Ask again when the Hub stumbles; not when it is slow or has had enough of us."""
    for pause_s in pauses_s:
        try:
            return ask()
        except Exception as error:
            explanation = explained(error, model)
            if not explanation.passing or not isinstance(explanation.error, HubServerError | HubUnreachableError):
                raise
            time.sleep(pause_s)
    return ask()


def _guard(place: str) -> type:
    """Return the replacement for the progress bar: it shows nothing, and stops a download larger than announced."""

    class Guard:
        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            self._bytes = initial

        def __enter__(self) -> Guard:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, size: float | None = 1) -> None:
            self._bytes += int(size or 0)
            if self._bytes > LARGEST_CONFIG_BYTES:
                raise too_large(place)

    return Guard


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silence warnings of huggingface_hub about its retries, unless HF_HUB_VERBOSITY asks for some."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    if "HF_HUB_VERBOSITY" not in os.environ:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _concurrently(
    ask: Callable[[HubModel], Fetched | GpuscoutError], wanted: Sequence[HubModel], patience_s: float
) -> dict[HubModel, Fetched | GpuscoutError]:
    """Return the answers that came; nobody is waited for when none came for `patience_s`.

    Daemon threads, because those of an executor would keep Ctrl-C and the end of the program waiting for a dead server.
    """
    waiting: queue.SimpleQueue[HubModel] = queue.SimpleQueue()
    answered: queue.SimpleQueue[tuple[HubModel, Fetched | GpuscoutError | BaseException]] = queue.SimpleQueue()
    for model in wanted:
        waiting.put(model)

    def work() -> None:
        while True:
            try:
                model = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                answered.put((model, ask(model)))
            except BaseException as bug:
                answered.put((model, bug))

    for _ in range(min(len(wanted), _AT_ONCE)):
        threading.Thread(target=work, name="gpuscout-hub", daemon=True).start()
    answers: dict[HubModel, Fetched | GpuscoutError] = {}
    while len(answers) < len(wanted):
        try:
            model, answer = answered.get(timeout=patience_s)
        except queue.Empty:
            break
        if isinstance(answer, BaseException) and not isinstance(answer, GpuscoutError):
            raise answer
        answers[model] = answer
    return answers
