"""What each term of the roofline engine buys: it is switched off, the rest fitted again, and what was left out scored.

    python -m tests.assets.ablation [TERM ...]

prints a line per term, as docs/accuracy.md has them: medians of absolute errors in percent of ITL, TTFT and output
tokens/s in closed loops, with models and with GPU families left out. Without a name all terms, minutes each. Terms of
`PARTS`, which act on a part of the runs, get a line of their own with the errors of that part, with and without them.
The last line names the constants that shipped then: the page has it, and a test compares it with today's.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gpuscout.runner.accuracy.errors import METRICS
from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.document import figures_document
from gpuscout.runner.calibration.fit import parameters_of
from gpuscout.runner.calibration.parameters import PRIORS, Parameters, Prior
from gpuscout.runner.calibration.rows import FitRows, fit_rows
from gpuscout.runner.calibration.validate import held_out
from gpuscout.runner.engines.roofline.constants import Constants
from gpuscout.store.measured import public_runs

_NO_TIME, _ANY_SPEED = 1e-6, 1e6
_KERNELS = "families placed by measured kernels"
_ARM = "slower hosts beside Arm CPUs (Grace)"
_PCIE = "PCIe shared by all GPUs of a host"
# The value of each constant at which its term has no effect.
TERMS: Mapping[str, Mapping[str, float]] = {
    "fixed time of layers and steps": dict.fromkeys(
        (
            "layer_us", "moe_layer_us", "mla_layer_us", "quantize_layer_us", "recurrent_layer_us", "sparse_layer_us",
            "step_ms",
        ),
        _NO_TIME,
    ),
    "host time of every sequence": {"sequence_us": _NO_TIME},
    _ARM: {"arm_host": 1.0},
    "KV cache and states read": dict.fromkeys(("kv_efficiency", "state_efficiency"), _ANY_SPEED),
    "experts read only as tokens reach them": {"routing_spread": 1000.0},
    "experts slower than dense matrices": dict.fromkeys(("expert_efficiency", "expert_flops_efficiency"), 1.0),
    "activations moved": dict.fromkeys(("activation_passes", "expert_passes"), _NO_TIME),
    "small prefills multiply slowly": {"half_tokens": _NO_TIME},
    "arithmetic of attention": dict.fromkeys(("attention_efficiency", "indexer_efficiency"), _ANY_SPEED),
    "memory and arithmetic overlap in part": {"overlap": 30.0},
    "exchanges between GPUs": {
        **dict.fromkeys(("allreduce_us", "pcie_allreduce_us", "network_allreduce_us"), _NO_TIME),
        **dict.fromkeys(("link_efficiency", "pcie_efficiency"), _ANY_SPEED),
    },
    _PCIE: {"pcie_contention": _NO_TIME},
    "prefills delay running requests": {"interference": _NO_TIME},
    "requests that arrive together": {"burst_share": _NO_TIME},
    "a first wave that meets cold kernels": {"first_wave_ms": _NO_TIME},
    "steps until a request is taken up": dict.fromkeys(("ttft_steps", "poll_share"), _NO_TIME),
    "prefill kernels launched one by one": {"eager_steps": _NO_TIME},
    "factors of vendors": {},
    "factors of GPU families": {},
    "factors of servers": {},
    _KERNELS: {},
}  # fmt: skip
_FACTORS = {
    "factors of vendors": "of_vendor",
    "factors of GPU families": "of_family",
    "factors of servers": "of_server",
}
# Of terms that act on few runs: what these are called, and which they are.
PARTS: Mapping[str, tuple[str, Callable[[FitRows], npt.NDArray[np.bool_]]]] = {
    _ARM: ("offline maxima of GB200", lambda rows: rows.features.arm_host & rows.offline),
    _PCIE: ("offline maxima over PCIe", lambda rows: (rows.features.tp > rows.features.scale_up) & rows.offline),
    _KERNELS: ("closed loops on Blackwell-RTX", lambda rows: (rows.family == "Blackwell-RTX") & (not rows.offline)),
}
IN_CLOSED_LOOPS = tuple(term for term in TERMS if term != _ARM)  # none was measured beside an Arm CPU
_LEFT_OUT = ("model", "family")
HEAD = "| without | models left out | GPU families left out |"
PARTS_HEAD = "| with → without | its runs | models left out | GPU families left out |"
_MOST = 6  # runs of one deployment in a fit: terms differ by more than that does


def parameters_without(term: str | None, kinds: Sequence[FitRows]) -> Parameters:
    """What a fit to these rows may change when a term is switched off; None: all of them are on."""
    off = {} if term is None else TERMS[term]
    priors = {name: Prior(off[name], 0, 0, 0) if name in off else prior for name, prior in PRIORS.items()}
    if term in _FACTORS:
        priors = {name: replace(prior, **{_FACTORS[term]: 0.0}) for name, prior in priors.items()}
    whole = parameters_of(kinds)
    return Parameters(whole.vendors, whole.families, priors, {} if term == _KERNELS else None)


def errors_without(term: str | None, kinds: Sequence[FitRows]) -> dict[str, dict[str, float]]:
    """Errors of closed loops by what was left out."""
    of = functools.partial(parameters_without, term)
    return {name: figures_document(kinds, held_out(kinds, name, of, _MOST))["closed loop"] for name in _LEFT_OUT}


def part_without(term: str | None, part: str, kinds: Sequence[FitRows]) -> list[str]:
    """Return errors of a part's runs by what was left out; only what they are of is left out."""
    of = functools.partial(parameters_without, term)
    chosen = [PARTS[part][1](rows) for rows in kinds]
    cells = []
    for name in _LEFT_OUT:
        names = np.unique(np.concatenate([getattr(rows, name)[mask] for rows, mask in zip(kinds, chosen, strict=True)]))
        figures = held_out(kinds, name, of, _MOST, names.tolist())
        parts = [
            (rows.take(mask), f.take(mask)) for rows, mask, f in zip(kinds, chosen, figures, strict=True) if mask.any()
        ]
        errors = figures_document([rows for rows, _ in parts], [f for _, f in parts])
        cells += [_cell(values) for values in errors.values()]
    return cells


def _cell(errors: Mapping[str, float]) -> str:
    return " / ".join(f"{100 * errors[metric]:.1f}" for metric in METRICS if metric in errors)


def stamp() -> str:
    """Return the sentence that says which constants a table is of."""
    return f"Constants {Constants.load().digest}."


def line(term: str | None, errors: Mapping[str, Mapping[str, float]]) -> str:
    """A row of the table."""
    cells = [_cell(errors[name]) for name in _LEFT_OUT]
    return f"| {'all terms' if term is None else term} | {' | '.join(cells)} |"


def part_line(term: str, on: Sequence[str], off: Sequence[str]) -> str:
    """Return a row of the table of parts."""
    cells = (f"{one} → {other}" for one, other in zip(on, off, strict=True))
    return f"| {term} | {PARTS[term][0]} | {' | '.join(cells)} |"


def main() -> None:
    names = sys.argv[1:] or list(TERMS)
    asked = [None, *(term for term in names if term in IN_CLOSED_LOOPS)]
    kinds = fit_rows(fit_for_fitting(public_runs()))
    print(PARTS_HEAD, "|---" * 4 + "|", sep="\n")
    for term in PARTS:
        if term in names:
            print(part_line(term, part_without(None, term, kinds), part_without(term, term, kinds)), flush=True)
    print(HEAD, "|---|---|---|", sep="\n")
    for term in asked:
        print(line(term, errors_without(term, kinds)), flush=True)
    print(stamp())


if __name__ == "__main__":
    main()
