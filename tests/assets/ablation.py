"""What each term of the roofline engine buys: it is switched off, the rest fitted again, and what was left out scored.

    python -m tests.assets.ablation [TERM ...]

prints a line per term, as docs/accuracy.md has them: medians of absolute errors in percent of ITL, TTFT and output
tokens/s in closed loops, with models and with GPU families left out. Without a name all terms, some seconds each.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.document import figures_document
from gpuscout.runner.calibration.fit import parameters_of
from gpuscout.runner.calibration.parameters import PRIORS, Parameters, Prior
from gpuscout.runner.calibration.rows import FitRows, fit_rows
from gpuscout.runner.calibration.validate import held_out
from gpuscout.store.measured import public_runs

_NO_TIME, _ANY_SPEED = 1e-6, 1e6
_KERNELS = "families placed by measured kernels"
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
    "PCIe shared by all GPUs of a host": {"pcie_contention": _NO_TIME},
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
_LEFT_OUT = ("model", "family")
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


def line(term: str | None, errors: Mapping[str, Mapping[str, float]]) -> str:
    """A row of the table."""
    cells = [" / ".join(f"{100 * errors[name][m]:.1f}" for m in ("itl", "ttft", "throughput")) for name in _LEFT_OUT]
    return f"| {'all terms' if term is None else term} | {' | '.join(cells)} |"


def main() -> None:
    asked: list[str | None] = [None, *(sys.argv[1:] or TERMS)]
    kinds = fit_rows(fit_for_fitting(public_runs()))
    print("| without | models left out | GPU families left out |\n|---|---|---|")
    for term in asked:
        print(line(term, errors_without(term, kinds)), flush=True)


if __name__ == "__main__":
    main()
