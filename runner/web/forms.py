"""Forms of the pages as parameters of a question: the fields that people fill in, the other parameters unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode

from gpuscout.sweeps.errors import InputError

Fields = Mapping[str, Sequence[str]]

# Fields that take one for each workload: "chat=5, rag=2".
SEVERAL = ("rate", "batch")
# A field of a form -> the limit that it stands for.
LIMITS = {"ttft": "ttft<={}ms", "itl": "itl<={}ms", "e2e": "e2e<={}s"}
PRICE = "usd."
"""Fields of prices are called so, followed by the GPU."""
OBJECTIVES = {
    "cost": "cost per token",
    "cost-per-hour": "cost per hour",
    "throughput": "throughput",
    "throughput-per-gpu": "throughput per GPU",
    "ttft": "TTFT",
    "itl": "ITL",
    "e2e": "E2E latency",
    "energy": "energy per token",
}
OWN_NEEDED = ("gpu", "capex", "years", "kw", "usd_per_kwh")
OWN = {
    "gpu": ("GPU", "H100"),
    "capex": ("USD for one GPU", "28000"),
    "years": ("Years it is used", "4"),
    "kw": ("kW per GPU", "1.1"),
    "usd_per_kwh": ("USD per kWh", "0.12"),
    "pue": ("PUE of the building", "1"),
    "utilisation": ("Share of hours used", "1"),
    "servers_of": ("GPUs of a server", "1"),
    "server_capex": ("USD for a server without GPUs", "0"),
}
"""What one's own hardware is described by: options of `gpuscout prices own`, each with its label and an example."""
PURCHASES = {"on-demand": "on demand", "spot": "spot", "reserved": "reserved"}
TRUSTS = {
    "prefer": "measured and backed first",
    "backed": "only what measurements back",
    "measured": "only measured runs",
    "any": "everything alike",
}


def fields_of(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the fields that are filled in, by name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if value.strip():
            found.setdefault(name, []).append(value.strip())
    return found


def given(fields: Fields) -> dict[str, list[str]]:
    """Return the fields as parameters of a question."""
    found: dict[str, list[str]] = {}
    for name, values in fields.items():
        if name in LIMITS:
            found.setdefault("slo", []).extend(LIMITS[name].format(value) for value in values)
        elif name.startswith(PRICE):
            gpu = name.removeprefix(PRICE)
            found.setdefault("price", []).extend(f"{gpu}={value}" for value in values)
        elif name in SEVERAL:
            parts = (part.strip() for value in values for part in (value.split(",") if "=" in value else [value]))
            found.setdefault(name, []).extend(filter(None, parts))
        else:
            found.setdefault(name, []).extend(values)
    return found


def number_from(name: str, value: str) -> float:
    """Return the value of a field of `OWN`. Raises InputError."""
    try:
        return int(value) if name == "servers_of" else float(value)
    except ValueError:
        raise InputError(f'invalid "{OWN[name][0]}": expected a number, got "{value}"') from None


def address(path: str, fields: Fields, **changed: str | None) -> str:
    """Return a link to a page with these fields; of `changed`, None leaves one out."""
    rest = {name: values for name, values in fields.items() if name not in changed}
    pairs = [(name, value) for name, values in rest.items() for value in values]
    pairs += [(name, value) for name, value in changed.items() if value is not None]
    return f"{path}?{urlencode(pairs)}" if pairs else path
