"""Estimates against measured runs, as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuscout.runner.web.charts import Chart, scatter

# Marks that would cover each other are one: of each cell of this size the first.
_CELL = 6


def agreement(db: str, engine: str, sources: Sequence[str]) -> Chart:
    """Return the ITL of runs as an engine estimates it and as it was measured. Raises what `gpuscout accuracy` does."""
    from gpuscout.runner.accuracy.errors import ratios
    from gpuscout.runner.accuracy.estimate import estimate
    from gpuscout.runner.accuracy.names import RunNames
    from gpuscout.runner.accuracy.sources import measured_runs
    from gpuscout.runner.engines.registry import create_engine

    names = RunNames.at(db)
    estimates = estimate(create_engine(engine), measured_runs(sources, db, names).runs, names)
    rows = [
        {
            "measured": run.itl_ms,
            "estimated": run.itl_ms * ratio,
            "gpu": run.gpu,
            "kind": "estimated",
            "id": "",
            "text": f"{run.model}, {run.gpu} x{run.num_gpus}: {run.itl_ms * ratio:.3g} ms; measured {run.itl_ms:.3g}",
        }
        for run, ratio in zip(estimates.runs, ratios(estimates)["itl"].tolist(), strict=True)
        if run.itl_ms and ratio > 0
    ]
    chart = scatter(rows, "measured", "estimated", labels=("measured ITL (ms)", "estimated ITL (ms)"))
    cells = {(mark.x // _CELL, mark.y // _CELL): mark for mark in reversed(chart.marks)}
    return replace(chart, marks=list(cells.values()))
