"""Resolution of model names: a local file, else the catalogue, else the store, else the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

from gpuscout.runner.resolve.hub import fetch_all
from gpuscout.runner.resolve.hub_errors import HubModel, endpoint
from gpuscout.runner.resolve.model_files import read_config, understood
from gpuscout.runner.resolve.safetensors import tensors_of_folder
from gpuscout.sweeps.errors import (
    GpuscoutError,
    HubOfflineError,
    HubRateLimitError,
    HubServerError,
    HubTimeoutError,
    HubUnreachableError,
    InputError,
    ModelConfigError,
    StoreBusyError,
    UnknownNameError,
)
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue, is_path
from gpuscout.sweeps.names import has_wildcard

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)
# The Hub could not be asked, or gave no answer: whether it has the model is not known.
_NOT_ASKED = (HubOfflineError, HubUnreachableError, HubTimeoutError, HubServerError, HubRateLimitError)
_HOW_TO_NAME = "a model of the Hugging Face Hub is written org/name, a local one ./folder"


class KnownModels(Protocol):
    """Models that were fetched before, by the names they are stored under: `gpuscout.store.results.catalogues`."""

    def find(self, names: Sequence[str]) -> Mapping[str, ModelSpec]:
        """Return the known models among these names."""

    def remember(self, architectures: Sequence[ModelSpec]) -> None:
        """Keep models that were fetched."""


@dataclass(frozen=True)
class FoundModel:
    """A model and its architecture; `source` names the architecture's origin for people."""

    architecture: ModelSpec
    source: str


class ModelFinder:
    """A finder of models by the names people write. `known` is asked before the Hub, and keeps the Hub's answers.

    `token` replaces that of HF_TOKEN or of the login.
    """

    def __init__(self, known: KnownModels | None = None, *, token: str | None = None) -> None:
        self._known = known
        self._token = token
        self._found: dict[HubModel, FoundModel | GpuscoutError] = {}

    def prepare(self, models: Iterable[HubModel]) -> None:
        """Look many models up at once: one question to the store, then the Hub, several at a time."""
        wanted = [model for model in dict.fromkeys(models) if model not in self._found]
        if self._known is not None and wanted:
            stored = self._known.find([model.name for model in wanted])
            for model in wanted:
                if model.name in stored:
                    self._found[model] = FoundModel(stored[model.name], "the store")
        fetched = []
        for model, answer in fetch_all((m for m in wanted if m not in self._found), token=self._token).items():
            if isinstance(answer, GpuscoutError):
                assumed = _by_its_name(model) if isinstance(answer, _NOT_ASKED) else None
                self._found[model] = answer if assumed is None else FoundModel(assumed, "its name")
            else:
                fetched.append(answer.architecture)
                source = f"{endpoint()}, commit {answer.commit}" if answer.commit else "the local Hugging Face cache"
                self._found[model] = FoundModel(answer.architecture, source)
        if self._known is not None and fetched:
            # Not while another runner holds the store: a sweep stores its models in any case.
            with suppress(StoreBusyError):
                self._known.remember(fetched)

    def find(self, text: str, *, revision: str | None = None, directory: str | Path = ".") -> list[FoundModel]:
        """Return the models that `text` means; several only for a pattern. Relative paths count from `directory`.

        Raises UnknownNameError, InputError when a name is not unique, ModelConfigError for a damaged configuration
        and HubError when the Hub is needed and does not help.
        """
        if is_path(text):
            if revision is not None:
                raise InputError("a local model has no revision")
            return [local_model(Path(directory, Path(text).expanduser()))]
        try:
            target = target_of(text, revision)
        except UnknownNameError as unknown:
            if Path(directory, text).is_dir():
                unknown.hint = f"for the local folder, write ./{text}"
            raise
        if isinstance(target, HubModel):
            return [self._of_hub(target, text, directory)]
        catalogue = ModelCatalogue.load()
        return [FoundModel(catalogue.get(name), "the model catalogue") for name in target]

    def find_one(self, text: str, *, revision: str | None = None, directory: str | Path = ".") -> FoundModel:
        """Return the one model that `text` means. Raises InputError when there are several, and what `find` raises."""
        found = self.find(text, revision=revision, directory=directory)
        if len(found) > 1:
            names = ", ".join(model.architecture.name for model in found)
            raise InputError(f'"{text}" stands for {len(found)} models', hint=names)
        return found[0]

    def _of_hub(self, model: HubModel, text: str, directory: str | Path) -> FoundModel:
        self.prepare([model])
        answer = self._found[model]
        if isinstance(answer, FoundModel):
            return answer
        if Path(directory, text).exists():
            answer.hint = f"for the local folder, write ./{text}"
        raise answer


def _by_its_name(model: HubModel) -> ModelSpec | None:
    """Return a quantised repository of a well-known maker, as its name has it; None where that says nothing."""
    from gpuscout.sweeps.models.quantised_names import model_by_its_name

    return model_by_its_name(model.repo_id) if model.revision is None else None


def model_text(model: object) -> str:
    """Return a model as people give it in Python, as text: a name, or the path that a `Path` is. Raises InputError."""
    if isinstance(model, PurePath):
        return str(model) if is_path(str(model)) else f"./{model}"
    if not isinstance(model, str) or not model.strip():
        raise InputError(f"model must be a string, a Path or a ModelArchitecture, got {model!r}")
    return model


def target_of(text: str, revision: str | None = None) -> tuple[str, ...] | HubModel:
    """Return the catalogue's names, or the Hub's model meant: any with a revision, and unknown org/name.

    `text` may hold the revision itself, as org/name@revision: so it is shown. Nothing is looked up anywhere else.
    Raises UnknownNameError with the nearest names, InputError for what can be no name.
    """
    catalogue = ModelCatalogue.load()
    if has_wildcard(text):
        if revision is not None:
            raise InputError("a revision goes with one model, not with a pattern")
        return tuple(catalogue.resolve(text))
    name, _, written = text.strip().partition("@")
    if written and revision not in (None, written):
        raise InputError(f"two revisions are named: {written} and {revision}")
    revision = revision or written or None
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f'invalid revision "{revision}"', hint="expected a branch, a tag or a commit")
    try:
        names = catalogue.resolve(name)
    except UnknownNameError as unknown:
        if _REPO_ID.fullmatch(name):
            return HubModel(name, revision)
        raise UnknownNameError("model", name, unknown.suggestions, hint=_HOW_TO_NAME) from None
    return tuple(names) if revision is None else HubModel(names[0], revision)


def local_model(path: Path) -> FoundModel:
    """Return the model of a folder or a config.json, with ModelOpt's file beside it. Raises ModelConfigError."""
    file = path / "config.json" if path.is_dir() else path
    config = read_config(file, str(file))
    modelopt = file.with_name("hf_quant_config.json")
    if file.name == "config.json" and modelopt.exists():
        config["hf_quant_config"] = read_config(modelopt, str(modelopt))
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    if not name:
        raise ModelConfigError(f"{file}: the folder has no name", hint="give the model a `name`")
    tensors = tensors_of_folder(file.parent) if file.name == "config.json" else []
    return FoundModel(understood(config, name=name, source=str(file), tensors=tensors), str(file))


def resolve_model(
    text: str,
    *,
    revision: str | None = None,
    directory: Path | None = None,
    known: KnownModels | None = None,
    token: str | None = None,
) -> ModelSpec:
    """Return the architecture of a model: a catalogue or unique bare name, org/name, folder or config.json.

    `revision` is a branch, tag or commit on the Hugging Face Hub; `known` is asked before the Hub; `token` replaces
    that of HF_TOKEN or of the login. Raises what `ModelFinder.find` raises.
    """
    finder = ModelFinder(known, token=token)
    return finder.find_one(text, revision=revision, directory=directory or ".").architecture
