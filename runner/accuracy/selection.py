"""Selection of measured runs for a fit: plain deployments, today's software, nothing its source marks as doubtful.

Software moves faster than hardware: one GPU serves one model twice as fast as a year before. So of configurations that
a source repeats only the run counts that it marks as newest, and none that is over a year older than the newest run on
the same GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from gpuscout.store.measured import LoadKind, MeasuredRun

_MOST_MONTHS = 12


def fit_for_fitting(runs: Iterable[MeasuredRun]) -> tuple[MeasuredRun, ...]:
    """Return the runs that constants are fitted to, in their order."""
    plain = [
        run
        for run in runs
        if run.variant is None and run.split != "reference" and run.trust != "low" and run.latest is not False
    ]
    newest: dict[str, int] = defaultdict(int)
    for run in plain:
        newest[run.gpu] = max(newest[run.gpu], _month(run) or 0)
    recent = [run for run in plain if (month := _month(run)) is None or month >= newest[run.gpu] - _MOST_MONTHS]
    best: dict[tuple[object, ...], float] = defaultdict(float)
    for run in recent:
        best[_tuned(run)] = max(best[_tuned(run)], run.throughput or 0.0)
    return tuple(run for run in recent if not _is_tuned_less(run, best[_tuned(run)]))


def _month(run: MeasuredRun) -> int | None:
    """Return months since the year 0; None where a run has no date, or a year only."""
    parts = (run.measured_on or "").split("-")
    return int(parts[0]) * 12 + int(parts[1]) if len(parts) > 1 else None


def _is_tuned_less(run: MeasuredRun, best: float) -> bool:
    """Return whether other settings of the deployment reached more: the best alone shows what a GPU can do."""
    return run.load is LoadKind.OFFLINE_MAXIMUM and run.trust is not None and (run.throughput or 0.0) < 0.999 * best


def _tuned(run: MeasuredRun) -> tuple[object, ...]:
    sizes = (run.tp, run.pp, run.dp, run.ep, run.input_len, run.output_len)
    return (run.model, run.gpu, run.server, run.precision, run.load, *sizes)
