"""What the forms of the pages ask, as parameters of a question: fields that people fill in, and the rest as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode

Fields = Mapping[str, Sequence[str]]

# A field of a form -> the limit that it stands for.
LIMITS = {"ttft": "ttft<={}ms", "itl": "itl<={}ms", "e2e": "e2e<={}s"}
PRICE = "usd."
"""Fields of prices are called so, followed by the GPU."""
OBJECTIVES = {
    "cost": "cost of a token",
    "cost-per-hour": "cost per hour",
    "throughput": "throughput",
    "throughput-per-gpu": "throughput per GPU",
    "ttft": "TTFT",
    "itl": "ITL",
    "e2e": "latency of a request",
    "energy": "energy of a token",
}
TRUSTS = {
    "prefer": "measured and backed first",
    "backed": "only what measured runs back",
    "measured": "only measured runs",
    "any": "all alike",
}


def fields_of(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The fields that are filled in, by name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if value.strip():
            found.setdefault(name, []).append(value.strip())
    return found


def given(fields: Fields) -> dict[str, list[str]]:
    """The fields as parameters of a question."""
    found: dict[str, list[str]] = {}
    for name, values in fields.items():
        if name in LIMITS:
            found.setdefault("slo", []).extend(LIMITS[name].format(value) for value in values)
        elif name.startswith(PRICE):
            gpu = name.removeprefix(PRICE)
            found.setdefault("price", []).extend(f"{gpu}={value}" for value in values)
        else:
            found.setdefault(name, []).extend(values)
    return found


def address(path: str, fields: Fields, **changed: str | None) -> str:
    """A link to a page with these fields; of `changed`, None leaves one out."""
    rest = {name: values for name, values in fields.items() if name not in changed}
    pairs = [(name, value) for name, values in rest.items() for value in values]
    pairs += [(name, value) for name, value in changed.items() if value is not None]
    return f"{path}?{urlencode(pairs)}" if pairs else path
