"""The catalogue of GPUs: those that ship with gpuscout and a user's own, and the names people type for them."""

from __future__ import annotations

import functools
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from gpuscout.sweeps.errors import GpuFileError, InputError, UnknownNameError, nearest
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.gpus.gpu_file import GpuFile, OwnGpu
from gpuscout.sweeps.gpus.groups import member_of
from gpuscout.sweeps.names import meant, squeeze

# What vendors' tools and clouds write before a product's name, besides the vendor's own name.
_BRANDS = {"AMD": ("instinct", "amdinstinct"), "Google": ("googlecloud",), "AWS": ("amazon",), "Intel": ("habana",)}
_SHARED = re.compile(r"[\s_-]+shared\s*$", re.IGNORECASE)  # Kubernetes' label of a time-sliced GPU
_MIG = re.compile(r"(?:^|[\s_-])(?:mig(?=[\s_-]|$)|\d+g\.\d+gb)", re.IGNORECASE)


class GPUCatalogue:
    """GPUs by name. A name is found whatever its case and separators, by alias, and as vendors' tools print it.

    Never changes: `with_file` gives a new catalogue.
    """

    def __init__(self, gpus: Iterable[GPUSpec]) -> None:
        self._by_name = {gpu.name: gpu for gpu in gpus}
        self._spellings: dict[str, tuple[str, GPUSpec]] = {}
        for gpu in self:
            for spelling in (gpu.name, *gpu.aliases):
                _, holder = self._spellings.setdefault(squeeze(spelling), (spelling, gpu))
                if holder is not gpu:
                    raise ValueError(f"{spelling!r} means both {holder.name} and {gpu.name}")
        self._by_key = {key: gpu for key, (_, gpu) in self._spellings.items()}
        for key, (_, gpu) in self._spellings.items():
            for brand in (squeeze(gpu.vendor), *_BRANDS.get(gpu.vendor, ())):
                self._by_key.setdefault(brand + key, gpu)

    @classmethod
    @functools.cache
    def load(cls) -> GPUCatalogue:
        """Return the GPUs that ship with gpuscout; read once per process."""
        data = pkgutil.get_data("gpuscout.sweeps", "data/gpus.json")
        assert data is not None  # it raises if the file is missing
        document = json.loads(data)
        table: dict[str, str] = document["sources"]

        def expand(source: str) -> str:
            return re.sub(r"\{(\w+)\}", lambda match: table[match[1]], source)

        return cls(
            GPUSpec.from_dict(gpu | {"sources": {key: expand(source) for key, source in gpu["sources"].items()}})
            for gpu in document["gpus"]
        )

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[GPUSpec]:
        return iter(self._by_name.values())

    def names(self) -> tuple[str, ...]:
        """Return canonical names, in the order of the catalogue (by vendor, then by generation)."""
        return tuple(self._by_name)

    def get(self, name: str) -> GPUSpec:
        """Return the GPU of exactly this canonical name. Raises UnknownNameError."""
        if gpu := self._by_name.get(name):
            return gpu
        raise self._unknown(name)

    def has_exactly(self, gpu: GPUSpec) -> bool:
        """Return whether a GPU has the figures that this catalogue has under its name, none of them replaced."""
        return gpu.name in self._by_name and self._by_name[gpu.name].digest() == gpu.digest()

    def resolve(self, text: str) -> GPUSpec:
        """Return the GPU a person, `nvidia-smi`, `rocm-smi` or a Kubernetes label calls `text`.

        Never a guess: raises UnknownNameError, with the nearest names, unless exactly one GPU is called that.
        """
        if gpu := self.find(text):
            return gpu
        raise self._unknown(text)

    def find(self, text: str) -> GPUSpec | None:
        """Return the same; None when none is, or several are, called that."""
        return self._by_key.get(squeeze(_SHARED.sub("", text)))

    def explain(self, text: str) -> str | None:
        """Return the meaning of a typed name, such as "A100 -> A100-SXM-80GB"; None when it is the name itself."""
        name = self.resolve(text).name
        return None if name == text else f"{text} -> {name}"

    def group(self, text: str) -> tuple[GPUSpec, ...]:
        """Return the GPUs of a group (`datacenter`, a vendor, a family); none where `text` names none."""
        belongs = member_of(text)
        return tuple(gpu for gpu in self if belongs(gpu.name, gpu.vendor, gpu.family))

    def select(
        self,
        *,
        vendor: str | None = None,
        family: str | None = None,
        glob: str | None = None,
        min_memory_gb: float | None = None,
    ) -> tuple[GPUSpec, ...]:
        """Return the GPUs that meet all conditions, in the order of the catalogue; never none.

        `glob` is matched with the canonical names and, if no name matches, with the aliases, or names a group of GPUs
        (`datacenter`, a vendor, a family); case and the kind of separator do not matter. Raises UnknownNameError for a
        vendor or family nobody has, InputError for no GPU.
        """
        chosen = list(self)
        for attribute, wanted in (("vendor", vendor), ("family", family)):
            if wanted is not None:
                matching = self._having(attribute, wanted)
                chosen = [gpu for gpu in chosen if gpu.name in matching]
        if glob is not None:
            matching = set(meant(glob, self._by_name, lambda name: self._by_name[name].aliases))
            matching = matching or {gpu.name for gpu in self.group(glob)}
            chosen = [gpu for gpu in chosen if gpu.name in matching]
        if min_memory_gb is not None:
            chosen = [gpu for gpu in chosen if gpu.memory_gb >= min_memory_gb]
        if chosen:
            return tuple(chosen)
        conditions = (
            f'matches the name "{glob}"' if glob is not None else None,
            f"is of the vendor {vendor}" if vendor is not None else None,
            f"is of the family {family}" if family is not None else None,
            f"has at least {min_memory_gb:g} GB" if min_memory_gb is not None else None,
        )
        raise InputError(f"no GPU {' and '.join(filter(None, conditions))}", hint=self._what_exists())

    def with_file(self, path: str | Path) -> GPUCatalogue:
        """Return this catalogue extended by the GPUs of a YAML file, whose list `gpus` holds mappings with these keys:

        name, vendor, family, memory_gb, memory_bandwidth_gbs (GB/s), dense_tflops (a mapping of fp32, fp16, bf16,
        fp8, fp4, int8 to dense TFLOPS), pcie_gbs (GB/s in one direction) and gpus_per_node are required.
        link_kind, link_gbs (GB/s one GPU sends in one direction) and scale_up_gpus (GPUs that share the link) belong
        together; without them the GPUs of a node talk over PCIe. link_pair_gbs is link_gbs unless given, and
        memory_usable_gib 98 % of memory_gb. Optional: compute_capability, tdp_w, release_year, aliases, notes,
        unverified (lists) and sources (a mapping of keys to texts).
        `replaces: true` gives a GPU of the catalogue other figures; it keeps its aliases.

        Raises GpuFileError with every problem of the file, InputError when it cannot be read.
        """
        file = GpuFile(path)
        added: dict[str, GPUSpec] = {}
        used: dict[str, str] = {}
        found = file.read()
        for own in found:
            replaced = self._replaced(own, file)
            self._report_clashes(own, replaced, used, file)
            if own.spec and replaced:
                aliases = {squeeze(alias): alias for alias in (*own.spec.aliases, *replaced.aliases)}
                added[replaced.name] = replace(own.spec, name=replaced.name, aliases=tuple(aliases.values()))
            elif own.spec:
                added[own.spec.name] = own.spec
        if file.problems:
            raise GpuFileError(file.problems, (spelling for own in found for _, spelling in own.spellings))
        return GPUCatalogue({**self._by_name, **added}.values())

    def _replaced(self, own: OwnGpu, file: GpuFile) -> GPUSpec | None:
        """Return the GPU of this catalogue whose figures `own` replaces; reports a name that replaces nothing."""
        if not own.replaces or own.name is None:
            return None
        holder = self._by_key.get(squeeze(own.name))
        if holder and squeeze(holder.name) == squeeze(own.name):
            return holder
        close = [holder.name] if holder else self._nearest(own.name)[0]
        hint = f"did you mean {' or '.join(close)}?" if close else "leave `replaces` out for a GPU of your own"
        file.report(own.spellings[0][0], f'the catalogue has no "{own.name}" to replace', hint)
        return None

    def _report_clashes(self, own: OwnGpu, replaced: GPUSpec | None, used: dict[str, str], file: GpuFile) -> None:
        """Report spellings that the catalogue or an earlier GPU of the file (in `used`) has taken."""
        for place, spelling in own.spellings:
            key = squeeze(spelling)
            holder = self._by_key.get(key)
            earlier = used.setdefault(key, own.place.key)
            if earlier != own.place.key:
                file.report(place, f'"{spelling}" is taken by {earlier}')
            elif holder is None or holder is replaced or (own.replaces and spelling == own.name):
                continue
            elif key == squeeze(holder.name) and spelling == own.name:
                hint = "say `replaces: true` to use your figures instead"
                file.report(place, f"{holder.name} is in the catalogue already", hint)
            else:
                file.report(place, f'"{spelling}" means {holder.name} already')

    def _having(self, attribute: str, wanted: str) -> set[str]:
        """Return names of the GPUs of this vendor or family."""
        values: dict[str, str] = {gpu.name: getattr(gpu, attribute) for gpu in self}
        found = {name for name, value in values.items() if squeeze(value) == squeeze(wanted)}
        if not found:
            known = list(dict.fromkeys(values.values()))
            raise UnknownNameError(
                f"GPU {attribute}", wanted, nearest(wanted, known), hint=f"known: {', '.join(known)}"
            )
        return found

    def _what_exists(self) -> str:
        vendors = dict.fromkeys(gpu.vendor for gpu in self)
        families = dict.fromkeys(gpu.family for gpu in self)
        sizes = sorted(gpu.memory_gb for gpu in self)
        return (
            f"vendors: {', '.join(vendors)}; families: {', '.join(families)}; memory {sizes[0]:g} to {sizes[-1]:g} GB; "
            f"`gpuscout gpus` lists all {len(self)}"
        )

    def _nearest(self, text: str) -> tuple[list[str], str | None]:
        """Return names of the GPUs most likely meant, and the alias that came nearest if it was one."""
        key = squeeze(text)
        for brand in sorted({squeeze(gpu.vendor) for gpu in self}):
            key = key.removeprefix(brand)
        close = [self._spellings[near] for near in nearest(key, self._spellings, limit=8)]
        names = list(dict.fromkeys(gpu.name for _, gpu in close))[:3]
        return names, next((spelling for spelling, gpu in close[:1] if spelling != gpu.name), None)

    def _unknown(self, text: str) -> UnknownNameError:
        hint = f"`gpuscout gpus` lists all {len(self)}; --gpu-file adds your own"
        if slice_of := _MIG.search(text):
            whole = self._by_key.get(squeeze(text[: slice_of.start()]))
            hint = "this is a MIG slice, the catalogue has whole GPUs; --gpu-file adds your own"
            return UnknownNameError("GPU", text, [whole.name] if whole else (), hint=hint)
        names, alias = self._nearest(text)
        if alias:
            hint = f"{alias} is {names[0]}; {hint}"
        return UnknownNameError("GPU", text, names, hint=hint)


# The name of the release before this one.
GpuCatalogue = GPUCatalogue
