"""Groups of GPUs that people name in place of single ones: `datacenter`, a vendor, a family."""

from __future__ import annotations

from collections.abc import Callable

from gpuscout.sweeps.names import squeeze

DATACENTER = "datacenter"
# Makers of GPUs; other accelerators are asked for by name, vendor or family.
_GPU_MAKERS = ("NVIDIA", "AMD")
_WORKSTATION = ("rtx", "geforce", "arc")

Member = Callable[[str, str, str], bool]
"""Whether a GPU of this name, vendor and family belongs to a group."""


def is_datacenter(name: str, vendor: str, family: str) -> bool:
    """Return whether it is a GPU that is made for servers, not a card for desktops and workstations."""
    squeezed = squeeze(name)
    return vendor in _GPU_MAKERS and (not squeezed.startswith(_WORKSTATION) or squeezed.endswith("server"))


def member_of(text: str) -> Member:
    """Return the members of the group that `text` names; none where it names no group."""
    wanted = squeeze(text)
    if wanted in (DATACENTER, "datacentre"):
        return is_datacenter
    return lambda name, vendor, family: wanted in (squeeze(vendor), squeeze(family))
