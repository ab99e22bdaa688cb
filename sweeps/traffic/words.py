"""Words for how requests vary and arrive, as answers name a workload."""

from __future__ import annotations

import json

from gpuscout.sweeps.text import percent


def traffic_words(text: str | None) -> list[str]:
    """Return words for the variation and arrival of requests: "lengths vary", "40 % cached", "poisson arrivals"."""
    shape = json.loads(text) if text else {}
    texts = ["lengths vary"] if {"input_len", "output_len", "trace"} & set(shape) else []
    if "cached_input" in shape:
        texts.append(f"{percent(shape['cached_input'])} cached")
    if "arrivals" in shape:
        arrivals = shape["arrivals"]
        texts.append(f"{arrivals if isinstance(arrivals, str) else 'gamma'} arrivals")
    return texts
