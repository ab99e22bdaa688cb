"""Implausible figures: those of a run that contradict each other, and those better than the hardware allows.

*Contradictions* are refused, for nobody knows which of the figures is wrong: end-to-end latency below the TTFT or far
from what TTFT and ITL add up to, tokens per second that are not requests per second times their lengths, and requests
in flight that Little's law (throughput x latency) puts far from those that the load kept in flight.
*Physics.* A step of decoding reads all active weights once: no ITL is below their bytes per GPU at the full memory
bandwidth. A prompt takes its multiplications: no TTFT, and no throughput, is beyond the peak arithmetic of all GPUs.
The bounds leave out caches, communication and whatever else takes time; no public run is beyond them. A run that is
beyond is kept, with what probably explains it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuscout.store.measured import LoadKind, MeasuredRun
from gpuscout.sweeps.cases import CaseColumns

# Means over requests of unequal lengths do not multiply exactly; a factor beyond these is no such effect.
_SUM_FACTOR = 3.0
_TOKENS_FACTOR = 2.0
_MOST_IN_FLIGHT = 2.0
_LEAST_IN_FLIGHT = 0.1
# Mistaken units: a thousand times too few in flight, within what means leave open.
_SECONDS_FOR_MS = (300.0, 3000.0)
_SLACK = 0.98  # of a bound: figures are rounded


def contradiction(run: MeasuredRun) -> str | None:
    """Return the contradiction between the figures of a run; None: there is none."""
    return next(_contradictions(run), None)


def _contradictions(run: MeasuredRun) -> Iterator[str]:
    ttft_ms, itl_ms, e2e_s, rate, tokens = (
        run.figure(name) for name in ("ttft_ms", "itl_ms", "e2e_s", "requests_per_s", "output_tokens_per_s")
    )
    output_len = run.details.get("output_len_mean") or run.output_len
    if ttft_ms and e2e_s and 1e3 * e2e_s < ttft_ms * _SLACK:
        yield f"the end-to-end latency ({e2e_s:.4g} s) is below the TTFT ({ttft_ms:.4g} ms): are both in their units?"
    if ttft_ms and itl_ms and e2e_s:
        added_s = (ttft_ms + itl_ms * (output_len - 1)) / 1e3
        if not 1 / _SUM_FACTOR <= added_s / e2e_s <= _SUM_FACTOR:
            yield (
                f"TTFT + ITL x (output tokens - 1) is {added_s:.3g} s, the end-to-end latency {e2e_s:.3g} s"
                f"{_units(added_s / e2e_s)}"
            )
    if rate and tokens and not 1 / _TOKENS_FACTOR <= tokens / (rate * output_len) <= _TOKENS_FACTOR:
        requests = f"{rate:,.4g} requests/s"
        if "requests_per_s" in run.derived:  # no file says it
            requests = f"{run.concurrency:,} in flight / {e2e_s:.3g} s"
        yield (
            f"{tokens:,.4g} output tokens/s are not {requests} x {output_len:,.4g} output tokens "
            f"({rate * output_len:,.4g})"
        )
    places = run.concurrency if run.load is LoadKind.CLOSED_LOOP else None
    if places and rate and e2e_s and "requests_per_s" not in run.derived:
        in_flight = rate * e2e_s
        # Requests that failed held places, too, and few requests leave places empty.
        least = 0.0 if run.details.get("failed") else _LEAST_IN_FLIGHT
        if not least * places <= in_flight <= _MOST_IN_FLIGHT * places:
            yield (
                f"{rate:,.4g} requests/s x {e2e_s:.3g} s keep {in_flight:.3g} requests in flight, "
                f"not {places:,} (Little's law){_units(in_flight / places)}"
            )


def _units(ratio: float) -> str:
    """Return a remark where one figure is about a thousand times another."""
    low, high = _SECONDS_FOR_MS
    thousandfold = low <= ratio <= high or low <= 1 / ratio <= high if ratio > 0 else False
    return ": are latencies in seconds where milliseconds are expected?" if thousandfold else ""


def implausible(runs: Sequence[MeasuredRun]) -> list[str | None]:
    """Return the figure of every run that its hardware cannot reach, with the probable cause; None: there is none."""
    if not runs:
        return []
    from gpuscout.runner.engines.roofline.features import features

    f = features(CaseColumns.of([run.case for run in runs if run.case is not None]))
    per_token = f.layer_flop + f.expert_flop
    # One token's experts at least; attention ranks share the experts of a mixture.
    step_bytes = (f.layer_bytes + f.head_bytes) / f.tp + f.expert_bytes * f.expert_share / (f.tp * f.dp)
    least_itl_ms = 1e3 * step_bytes / f.bandwidth
    least_ttft_ms = 1e3 * f.input_len * per_token / (f.flops * f.tp * f.pp)
    peak = f.flops * f.tp * f.pp * f.dp
    output_flop = f.output_len * (per_token + f.head_flop)
    whole_flop = f.input_len * per_token + output_flop
    found: list[str | None] = []
    for row, run in enumerate(runs):
        cached = bool(run.details.get("shared_prefixes"))
        ttft_ms, itl_ms, tokens = (run.figure(name) for name in ("ttft_ms", "itl_ms", "output_tokens_per_s"))
        most_requests = peak[row] / (output_flop if cached else whole_flop)[row]
        reason = None
        if itl_ms and itl_ms < _SLACK * least_itl_ms[row] and not run.details.get("drafts_tokens"):
            reason = (
                f"ITL {itl_ms:.3g} ms is below {least_itl_ms[row]:.3g} ms, which reading the active weights takes at "
                "full bandwidth: another GPU, TP or precision, speculative decoding, or seconds for milliseconds?"
            )
        elif ttft_ms and ttft_ms < _SLACK * least_ttft_ms[row] and not cached:
            reason = (
                f"TTFT {ttft_ms:.3g} ms is below {least_ttft_ms[row]:.3g} ms, which the prompt's arithmetic takes at "
                "its peak: a prefix cache, shorter prompts, another GPU or TP, or seconds for milliseconds?"
            )
        elif tokens and _SLACK * tokens / f.output_len[row] > most_requests:
            reason = (
                f"{tokens:,.4g} output tokens/s are beyond the peak arithmetic of {run.num_gpus} GPUs "
                f"({most_requests * f.output_len[row]:,.4g}): a prefix cache, shorter prompts, more GPUs?"
            )
        found.append(reason)
    return found
