"""Offers of clouds as their catalogues list them, and the part of the GPU catalogue that each one's name means.

Catalogues say "A100" or "H100" and mean one of several parts. What decides, in this order: the user's own word
(`parts`); SXM, PCIe or NVL in the name of the GPU or of the instance; a price book that has this instance type of this
provider; the memory, which leaves one part where nothing else was said. NVL parts are always called so: a name that
does not say NVL means none, unless the memory leaves nothing else. What stays open is left out, and said.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import date

from gpuscout.store.prices.csv_file import check_price
from gpuscout.store.prices.prices import Quote
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.names import squeeze
from gpuscout.sweeps.text import fault_in

# How far the memory that a cloud states may be from that of the part: 180 and 192 GB are one B200, 16 and 32 two V100.
_MEMORY_WITHIN = 0.15
_LONGEST_NAME = 80  # of a stranger's, in a message
_FORM = re.compile(r"(?<![A-Za-z])(SXM|PCIe|NVL)(?![A-Zac-z]|\d{2})", re.IGNORECASE)
_MEMORY = re.compile(r"(?<![A-Za-z\d])(\d{2,3}) ?GB?(?![A-Za-z])", re.IGNORECASE)
_BESIDES = re.compile(rf"nvidia|tesla|geforce|hgx|instinct|(?<![a-z])sxm\d?|pcie|nvl\d*|hbm3e?|{_MEMORY.pattern}", re.I)

PROVIDERS = {
    "aws": "AWS",
    "azure": "Azure",
    "cloudrift": "CloudRift",
    "crusoe": "Crusoe",
    "cudo": "Cudo",
    "daytona": "Daytona",
    "digitalocean": "DigitalOcean",
    "do": "DigitalOcean",
    "fluidstack": "FluidStack",
    "gcp": "GCP",
    "hotaisle": "Hot Aisle",
    "hyperbolic": "Hyperbolic",
    "hyperstack": "Hyperstack",
    "ibm": "IBM",
    "jarvislabs": "JarvisLabs",
    "lambda": "Lambda",
    "lambdalabs": "Lambda",
    "lium": "Lium",
    "mithril": "Mithril",
    "nebius": "Nebius",
    "oci": "OCI",
    "ovhcloud": "OVHcloud",
    "paperspace": "Paperspace",
    "primeintellect": "Prime Intellect",
    "runpod": "RunPod",
    "scaleway": "Scaleway",
    "seeweb": "Seeweb",
    "shadeform": "Shadeform",
    "spheron": "Spheron",
    "vast": "Vast.ai",
    "vastai": "Vast.ai",
    "verda": "Verda",
    "vultr": "Vultr",
}
"""What catalogues call a provider, and what price books do."""
MARKETPLACES = frozenset(("Vast.ai", "Lium", "Hyperbolic", "Shadeform", "Prime Intellect", "Spheron"))
"""They pass on machines of others: what one offer costs says little of the next."""


@dataclass(frozen=True)
class Offer:
    """An instance as a catalogue lists it. USD per hour of the whole instance.

    `num_gpus`: 0 for a share of one. `memory_gb`: of one GPU, as far as it is stated; several values where it can be
    read in several ways.
    `texts`: what else may say which part it is.
    """

    provider: str
    gpu: str
    num_gpus: int
    usd_per_hour: float
    purchase: str
    region: str
    instance_type: str
    memory_gb: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    source: str = ""
    note: str = ""
    exact: bool = True

    @property
    def named(self) -> str:
        """The name with its memory where that is stated: "A100-80GB"."""
        if not self.memory_gb or _MEMORY.search(self.gpu):
            return self.gpu
        return f"{self.gpu}-{round(self.memory_gb[0])}GB"


@dataclass
class Chosen:
    """The quotes of offers, how many offers were left out for which reason, and the names that several parts share.

    `unused`: names that the user gave a part and that no offer has.
    """

    quotes: list[Quote] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    asked: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)

    def notes(self, most: int = 10) -> list[str]:
        """Return notes on offers left out, with the reasons; those that the user can decide first."""
        notes = [
            f"{name} may be {' or '.join(parts)}, {_offers(number)} left out: --part '{name}={parts[0]}' decides"
            for (name, parts), number in self.asked.most_common()
        ]
        notes += [f"--part {name} is unused: no offer has that name" for name in self.unused]
        reasons = self.left_out.most_common()
        notes += [f"{_offers(number)} left out: {reason}" for reason, number in reasons[:most]]
        if rest := sum(number for _, number in reasons[most:]):
            notes.append(f"{_offers(rest)} left out for {len(reasons) - most} more reasons (--json lists all)")
        return notes


def quotes_of_offers(
    offers: Iterable[Offer],
    book: str,
    day: date | Mapping[str, date],
    parts: Mapping[str, str],
    known: Iterable[Quote],
    gpus: Set[str] = frozenset(),
) -> Chosen:
    """Return the quotes of these offers for a book: of several of one identity (zones of a region) the cheapest.

    `day`: of all, or by provider. `parts`: GPU by name, as the user says. `known`: quotes that tell which GPU an
    instance type has. `gpus`: no others; none: all.
    """
    by_instance = {
        (quote.provider.casefold(), quote.instance_type.casefold()): quote.gpu
        for quote in known
        if quote.exact and quote.instance_type
    }
    said = {squeeze(name): gpu for name, gpu in parts.items()}
    offers = list(offers)
    called = {squeeze(name) for offer in offers for name in (offer.gpu, offer.named)}
    sizes: dict[tuple[str, str], set[int]] = {}
    for offer in offers:
        sizes.setdefault((offer.provider, offer.instance_type), set()).add(offer.num_gpus)
    chosen = Chosen(unused=[name for name in parts if squeeze(name) not in called])
    cheapest = dict[tuple[object, ...], Quote]()
    for offer in offers:
        if fault := next(filter(None, map(fault_in, (offer.gpu, offer.region, offer.instance_type))), None):
            chosen.left_out[fault] += 1
            continue
        if offer.num_gpus < 1:
            chosen.left_out["shares of a GPU"] += 1
            continue
        mine = said.get(squeeze(offer.named)) or said.get(squeeze(offer.gpu))
        found = [mine] if mine else _parts(offer, by_instance)
        if gpus and gpus.isdisjoint(found):
            continue
        if len(found) > 1:
            chosen.asked[offer.named, tuple(found)] += 1
            continue
        if not found:
            chosen.left_out[f"{offer.named[:_LONGEST_NAME]} is not a GPU of the catalogue"] += 1
            continue
        usd = offer.usd_per_hour / offer.num_gpus
        if wrong := check_price(usd):
            chosen.left_out[f"{offer.provider} {offer.instance_type[:_LONGEST_NAME]}: {wrong}"] += 1
            continue
        # A name that is sold in several sizes is an instance of each.
        several = len(sizes[offer.provider, offer.instance_type]) > 1 and offer.instance_type
        quote = Quote(
            *(book, found[0], offer.provider, usd, day if isinstance(day, date) else day[offer.provider]),
            purchase=offer.purchase,
            region=offer.region,
            instance_type=f"{offer.num_gpus}x {offer.instance_type}" if several else offer.instance_type,
            gpus_per_instance=offer.num_gpus,
            exact=offer.exact,
            source=offer.source,
            note="; ".join(filter(None, ("marketplace" * (offer.provider in MARKETPLACES), offer.note))),
        )
        same = (quote.gpu, quote.provider, quote.instance_type, quote.purchase, quote.region)
        if same not in cheapest or usd < cheapest[same].usd_per_gpu_hour:
            cheapest[same] = quote
    chosen.quotes = list(cheapest.values())
    return chosen


def _offers(number: int) -> str:
    return f"{number:,} offer{'s' * (number != 1)}"


def _parts(offer: Offer, by_instance: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the GPUs that an offer can mean."""
    texts = (offer.gpu, *offer.texts, offer.instance_type)
    family = _families().get(_base(offer.gpu), [])
    form = next((match[1].casefold() for text in texts if (match := _FORM.search(text))), None)
    if form is None and any("hbm" in text.casefold() for text in texts):
        # "H100 80GB HBM3" is what nvidia-smi prints of one part.
        exact = [gpu for text in texts if (gpu := GPUCatalogue.load().find(text))]
        family = exact[:1] or family
    if form is not None:
        family = [gpu for gpu in family if _form(gpu) in (form, None)]
    elif known := by_instance.get((offer.provider.casefold(), offer.instance_type.casefold())):
        family = [gpu for gpu in family if gpu.name == known] or family
    found = _of_memory(family, texts, offer.memory_gb)
    if form is None and len(found) > 1:
        found = [gpu for gpu in found if _form(gpu) != "nvl"] or found
    return [gpu.name for gpu in found]


def _of_memory(family: list[GPUSpec], texts: Iterable[str], stated: Iterable[float]) -> list[GPUSpec]:
    """Return the GPUs with the memory in the name, or else with the stated memory; all where neither is given."""
    named = [float(match[1]) for text in texts if (match := _MEMORY.search(text))]
    for readings in (named, list(stated)):
        found: dict[str, GPUSpec] = {}
        for memory_gb in readings:
            off = {gpu.name: abs(memory_gb / gpu.memory_gb - 1) for gpu in family}
            nearest = min(off.values(), default=1.0)
            if nearest <= _MEMORY_WITHIN:
                found |= {gpu.name: gpu for gpu in family if off[gpu.name] == nearest}
        if found:
            return list(found.values())
    return [] if [*stated] else family


def _base(name: str) -> str:
    """Return the rest of a name without vendor, form and memory: "NVIDIA A100-SXM4-80GB" -> "a100"."""
    return squeeze(_BESIDES.sub(" ", name))


def _form(gpu: GPUSpec) -> str | None:
    found = _FORM.search(gpu.name)
    return None if found is None else found[1].casefold()


@functools.cache
def _families() -> dict[str, list[GPUSpec]]:
    """Return the GPUs by what their names and aliases have in common."""
    families: dict[str, list[GPUSpec]] = {}
    for gpu in GPUCatalogue.load():
        for base in dict.fromkeys(map(_base, (gpu.name, *gpu.aliases))):
            families.setdefault(base, []).append(gpu)
    return families


def parse_parts(given: Iterable[str], stored_gpus: Iterable[str]) -> dict[str, str]:
    """Read "A100-80GB=A100-PCIe-80GB" -> the GPU by the name that a catalogue gives it. Raises InputError."""
    from gpuscout.store.prices.csv_file import gpu_name

    known, parts = tuple(stored_gpus), dict[str, str]()
    for text in given:
        name, equals, gpu = text.partition("=")
        if not equals or not name.strip():
            raise InputError(
                f'invalid --part "{text}": expected NAME=GPU', hint="for example --part 'A100-80GB=A100-PCIe-80GB'"
            )
        parts[name.strip()] = gpu_name(gpu.strip(), known)
    return parts
