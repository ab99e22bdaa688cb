"""The GPUs of this process: those that ship with gpuscout, and those that a program adds to `GPU_LIBRARY`."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.limits import faults_of


class GPULibrary(MutableMapping[str, GPUSpec]):
    """GPUs by name, read like a dict: aliases and vendors' spellings are found, too.

    What is added is known to all functions of this process until it is deleted; under the name of a GPU that ships it
    takes its place. GPUs that ship cannot be deleted. For the command line write a GPU file.

    >>> GPU_LIBRARY["X100"] = GPUSpec("X100", memory_gb=80, memory_bandwidth_gbs=3000, dense_tflops={"bf16": 900})
    >>> GPU_LIBRARY["x100"].memory_usable_gib
    73.02
    >>> del GPU_LIBRARY["X100"]
    """

    def __init__(self) -> None:
        self._added: dict[str, GPUSpec] = {}

    def catalogue(self) -> GPUCatalogue:
        """Return all of them as a catalogue."""
        return _with(self._added) if self._added else GPUCatalogue.load()

    def __getitem__(self, name: str) -> GPUSpec:
        """Return the GPU that is called so. Raises KeyError with the nearest names."""
        if not isinstance(name, str):
            raise KeyError(name)
        try:
            return self.catalogue().resolve(name)
        except UnknownNameError as unknown:
            raise KeyError(f"{unknown.message}; {unknown.hint}") from None

    def __setitem__(self, name: str, spec: GPUSpec) -> None:
        """Raise InputError for a spec of another name, with figures that cannot be, or whose name is an alias."""
        if not isinstance(spec, GPUSpec):
            raise InputError(f"GPU_LIBRARY[{name!r}]: expected a GPUSpec, got {spec!r}")
        if name != spec.name:
            raise InputError(
                f"GPU_LIBRARY[{name!r}]: the GPUSpec is called {spec.name!r}", hint="use its name as the key"
            )
        if faults := faults_of(spec):
            raise InputError(f"GPU_LIBRARY[{name!r}]: {'; '.join(faults)}")
        try:
            _with({**self._added, name: spec})
        except ValueError as clash:
            raise InputError(f"GPU_LIBRARY[{name!r}]: {clash}", hint="choose another name or other aliases") from None
        self._added[name] = spec

    def __delitem__(self, name: str) -> None:
        """Raise KeyError for a GPU that was not added."""
        if name not in self._added:
            raise KeyError(f"{name!r} was not added to GPU_LIBRARY")
        del self._added[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.catalogue().names())

    def __len__(self) -> int:
        return len(self.catalogue())


def _with(added: dict[str, GPUSpec]) -> GPUCatalogue:
    """Return the GPUs that ship and these, of which some replace one that ships.

    Raises ValueError for a name used twice.
    """
    return GPUCatalogue(({gpu.name: gpu for gpu in GPUCatalogue.load()} | added).values())


GPU_LIBRARY = GPULibrary()
"""The GPUs that the functions of this process know."""


def gpus_with(gpu_file: str | Path | None = None) -> GPUCatalogue:
    """Return the GPUs of this process, with those of a user's file. Raises GpuFileError, InputError."""
    catalogue = GPU_LIBRARY.catalogue()
    return catalogue if gpu_file is None else catalogue.with_file(gpu_file)
