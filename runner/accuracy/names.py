"""Lookup of the names in measured runs: in the catalogues, a user's GPU file, and a store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpuscout.runner.resolve.models import KnownModels, resolve_model
from gpuscout.store.database.connect import open_store
from gpuscout.store.measured import MeasuredRun
from gpuscout.store.results.catalogues import ModelsAt, stored_gpus
from gpuscout.sweeps.errors import GpuscoutError, NoStoreError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.library import gpus_with
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue


@dataclass(frozen=True)
class RunNames:
    """Models and GPUs that names refer to. `models` has those in no catalogue: local ones and those fetched before."""

    models: KnownModels | None = None
    gpus: GPUCatalogue = field(default_factory=GPUCatalogue.load)

    @classmethod
    def at(cls, db: str, gpu_file: Path | None = None) -> RunNames:
        """Return the names of the catalogues, of a file with GPUs, and of the store at a URL, if there is one.

        Raises GpuFileError, InputError, and what `open_store` raises for a store that cannot be used.
        """
        known = gpus_with(gpu_file)
        try:
            with open_store(db) as store, store.reading() as connection:
                stored = stored_gpus(connection)
        except NoStoreError:
            return cls(None, known)
        # Aliases might be taken: runs have full names.
        own = [replace(gpu, aliases=()) for gpu in stored if known.find(gpu.name) is None]
        return cls(ModelsAt(db), GPUCatalogue([*known, *own]) if own else known)

    def model(self, name: str) -> ModelSpec:
        """Raise what `resolve_model` raises. What the store calls exactly so comes before a guess at a bare name."""
        if self.models is not None and name not in ModelCatalogue.load():
            stored = self.models.find([name])
            if name in stored:
                return stored[name]
        return resolve_model(name, known=self.models)

    def called(self, runs: Iterable[MeasuredRun]) -> list[MeasuredRun]:
        """Return runs under the full names of their models and GPUs, as a store has them: files may use short ones.

        A name that is not known stays.
        """
        models: dict[str, str] = {}
        found = []
        for run in runs:
            if run.model not in models:
                models[run.model] = self._full(run.model)
            gpu = self.gpus.find(run.gpu)
            found.append(replace(run, model=models[run.model], gpu=run.gpu if gpu is None else gpu.name))
        return found

    def _full(self, model: str) -> str:
        catalogue = ModelCatalogue.load()
        if model in catalogue or (self.models is not None and model in self.models.find([model])):
            return model
        try:
            names = catalogue.resolve(model)
        except GpuscoutError:
            return model
        return names[0] if len(names) == 1 else model

    def gpu(self, name: str) -> GPUSpec:
        """Raise UnknownNameError."""
        return self.gpus.resolve(name)
