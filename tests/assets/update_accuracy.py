"""Writes the tables of docs/accuracy.md that say how far the shipped constants carry, from the constants file.

    python -m tests.assets.update_accuracy

after a calibration. A test compares the page with what this would write; README.md quotes rows of the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/accuracy.md"
CONSTANTS = ROOT / "runner/engines/roofline/constants.json"

Errors = Mapping[str, Mapping[str, Mapping[str, float]]]
_ALL, _OFFLINE = "closed loop", "offline maximum"
_METRICS = ("itl", "ttft", "throughput")
_ORDER = ("fitted", "model_left_out", "gpu_left_out", "family_left_out")
_IN_SHORT = (
    ("ITL", _ALL, "itl"),
    ("TTFT", _ALL, "ttft"),
    ("output tokens/s", _ALL, "throughput"),
    ("offline maximum, tokens/s", _OFFLINE, "throughput"),
    ("GPU types in the right order by it (pairs that differ by over 10 %)", _OFFLINE, "pairs_in_order"),
    ("chosen GPU within 5 % of the cheapest under an ITL limit", _ALL, "choice_within_5_percent"),
    ("mean regret of that choice", _ALL, "choice_regret"),
)
_PARTS = (
    ("all", ""), ("vLLM", "vllm"), ("SGLang", "sglang"), ("TensorRT-LLM", "trtllm"), ("NVIDIA", "NVIDIA"),
    ("AMD", "AMD"), ("AWS", "AWS"), ("Intel (one model)", "Intel"), ("1 to 8 in flight", "1-8 in flight"),
    ("9 to 64", "9-64 in flight"), ("65 and more", "65- in flight"),
)  # fmt: skip
# What was aimed at with models and with GPU families left out; None: nothing.
_AIMS = (
    ("ITL", _ALL, "itl", 0.10, 0.15),
    ("TTFT", _ALL, "ttft", 0.22, 0.35),
    ("output tokens/s", _ALL, "throughput", 0.10, 0.15),
    ("offline maximum, tokens/s", _OFFLINE, "throughput", 0.17, 0.22),
    ("GPU types in the right order by it", _OFFLINE, "pairs_in_order", 0.97, 0.93),
    ("choice within 5 % of the cheapest", _ALL, "choice_within_5_percent", 0.85, None),
    ("mean regret of the choice", _ALL, "choice_regret", 0.05, None),
)
_AIM_OF_AMD = 0.20  # tokens/s, with the GPU type left out


def tables(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tables by their first lines."""
    errors: Errors = document["errors"]
    vendors, families = document["vendors"], document["families"]
    return dict(
        _table(*table)
        for table in (
            (
                ("median error", "models left out", "GPU types left out", "GPU families left out", "fitted to them"),
                _in_short(errors),
            ),
            (("closed loops", "fitted", "model left out", "GPU type left out", "family left out"), _by_part(errors)),
            (("", "aim, models left out", "reached", "aim, families left out", "reached"), _aims(errors)),
            (("family", "fitted", "family left out"), _by_family(errors, families)),
            (("inside the 80 % interval", "ITL", "TTFT", "throughput"), _inside(errors, vendors)),
            (("closed loops, model left out", "as estimated", "level of the campaign known"), _by_level(errors)),
        )
    )


def _table(head: tuple[str, ...], rows: Iterator[list[str]]) -> tuple[str, list[str]]:
    lines = [f"| {' | '.join(cells)} |".replace("  ", " ") for cells in (head, *rows)]
    return lines[0], [lines[0], "|---" * len(head) + "|", *lines[1:]]


def _in_short(errors: Errors) -> Iterator[list[str]]:
    for label, load, figure in _IN_SHORT:
        yield [label, *(f"{100 * errors[of][load][figure]:.1f} %" for of in (*_ORDER[1:], _ORDER[0]))]


def _aims(errors: Errors) -> Iterator[list[str]]:
    for label, load, figure, *aims in _AIMS:
        row = [label]
        for aim, of in zip(aims, ("model_left_out", "family_left_out"), strict=True):
            row += ["" if aim is None else f"{100 * aim:.0f} %", f"{100 * errors[of][load][figure]:.1f} %"]
        yield row
    reached = errors["gpu_left_out"][f"{_ALL}, AMD"]["throughput"]
    yield ["tokens/s on AMD, GPU types left out", f"{100 * _AIM_OF_AMD:.0f} %", f"{100 * reached:.1f} %", "", ""]


def _by_part(errors: Errors) -> Iterator[list[str]]:
    for label, part in _PARTS:
        yield [label, *(_three(errors[of], f"{_ALL}, {part}" if part else _ALL) for of in _ORDER)]
    yield ["offline maxima (throughput)", *(f"{100 * errors[of][_OFFLINE]['throughput']:.0f}" for of in _ORDER)]
    choices = (errors[of][_ALL] for of in _ORDER)
    yield [
        "choice within 5 % / regret",
        *(f"{100 * c['choice_within_5_percent']:.0f} % / {100 * c['choice_regret']:.0f} %" for c in choices),
    ]
    yield ["pairs of GPU types in order", *(f"{100 * errors[of][_OFFLINE]['pairs_in_order']:.0f} %" for of in _ORDER)]


def _by_family(errors: Errors, families: Mapping[str, object]) -> Iterator[list[str]]:
    for family in families:
        load = f"{_ALL}, {family}"
        if load in errors["fitted"]:
            yield [family, *(_three(errors[of], load) for of in ("fitted", "family_left_out"))]


def _inside(errors: Errors, vendors: Mapping[str, object]) -> Iterator[list[str]]:
    shares = errors["inside_80_percent_interval"]
    loads = {_ALL: "all"}
    for vendor in vendors:
        loads[f"{_ALL}, {vendor}"] = vendor
        loads |= {
            f"{_ALL}, {vendor}, {band} in flight": f"{vendor}, {band} in flight" for band in ("1-8", "9-64", "65-")
        }
    loads[f"{_ALL}, family left out"] = "families left out (each counts alike)"
    for load, label in loads.items():
        if load in shares:
            yield [label, *(f"{100 * shares[load][metric]:.0f} %" for metric in _METRICS)]


def _by_level(errors: Errors) -> Iterator[list[str]]:
    known = errors["model_left_out_level_known"]
    for label, part in _PARTS:
        load = f"{_ALL}, {part}" if part else _ALL
        if len(known.get(load, {})) == len(_METRICS):
            yield [label, _three(errors["model_left_out"], load), _three(known, load)]


def _three(errors: Mapping[str, Mapping[str, float]], load: str) -> str:
    return " / ".join(f"{100 * errors[load][metric]:.0f}" for metric in _METRICS)


def updated(page: str) -> str:
    """The page with the tables of the constants that ship. Raises KeyError for a table that it lacks."""
    for head, lines in tables(json.loads(CONSTANTS.read_text("utf-8"))).items():
        pattern = re.escape(head) + r"\n(?:\|.*\n)+"
        if not re.search(pattern, page):
            raise KeyError(head)
        page = re.sub(pattern, "\n".join(lines) + "\n", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), encoding="utf-8")
