"""How the names in measured runs are looked up: in the catalogues, a user's GPU file, and a store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from gpuscout.runner.gpu_lookup import gpus_with
from gpuscout.runner.models import KnownModels, resolve_model
from gpuscout.store.connect import open_store
from gpuscout.store.gpus import stored_gpus
from gpuscout.store.models import ModelsAt
from gpuscout.sweeps.architecture import Architecture
from gpuscout.sweeps.errors import NoStoreError
from gpuscout.sweeps.gpu_catalogue import GpuCatalogue
from gpuscout.sweeps.gpus import GpuSpec
from gpuscout.sweeps.models import ModelCatalogue


@dataclass(frozen=True)
class Names:
    """What names mean. `models` has those that are in no catalogue: local ones, and what was fetched before."""

    models: KnownModels | None = None
    gpus: GpuCatalogue = field(default_factory=GpuCatalogue.load)

    @classmethod
    def at(cls, db: str, gpu_file: Path | None = None) -> Names:
        """Those of the catalogues, of a file with GPUs, and of the store at a URL, if there is one.

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
        return cls(ModelsAt(db), GpuCatalogue([*known, *own]) if own else known)

    def model(self, name: str) -> Architecture:
        """Raises what `resolve_model` raises. What the store calls exactly so comes before a guess at a bare name."""
        if self.models is not None and name not in ModelCatalogue.load():
            stored = self.models.find([name])
            if name in stored:
                return stored[name]
        return resolve_model(name, known=self.models)

    def gpu(self, name: str) -> GpuSpec:
        """Raises UnknownNameError."""
        return self.gpus.resolve(name)
