"""Predicted against measured: one row of panels for each engine, one panel for each metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuscout.runner.accuracy.errors import metric_error, ratios
from gpuscout.runner.accuracy.report import AccuracyReport
from gpuscout.runner.cli.plots.files import Drawing
from gpuscout.runner.cli.plots.panels import scale, styles
from gpuscout.sweeps.text import percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METRICS = {"ttft": "TTFT (ms)", "itl": "ITL (ms)", "throughput": "output tokens/s"}
_FACTOR = 1.25  # the band around the diagonal
_SIZE_INCHES = 4.5


def accuracy_plot(reports: Sequence[AccuracyReport]) -> Drawing:
    """Return estimated against measured, with a band of 25 % around what would be exact."""
    return Drawing(_figure(reports), f"Estimated against measured: {', '.join(one.engine for one in reports)}")


def _figure(reports: Sequence[AccuracyReport]) -> Figure:
    from matplotlib.figure import Figure

    size = (_SIZE_INCHES * len(_METRICS), _SIZE_INCHES * len(reports) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(reports), len(_METRICS), squeeze=False)
    for row, one in zip(grid, reports, strict=True):
        for panel, metric in zip(row, _METRICS, strict=True):
            _draw(panel, one, metric)
    labels: dict[str, Artist] = {}
    for panel in grid.flat:
        labels |= {label: mark for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if labels:
        figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=6, frameon=False)
    return figure


def _draw(panel: Axes, one: AccuracyReport, metric: str) -> None:
    estimates = one.estimates
    measured = np.array(
        [getattr(run, "throughput" if metric == "throughput" else f"{metric}_ms") for run in estimates.runs],
        dtype=np.float64,
    )
    ratio = ratios(estimates)[metric]
    known = np.isfinite(ratio)
    gpus = np.array([run.gpu for run in estimates.runs])
    names = sorted(set(gpus.tolist()))
    looks = styles(names)
    for name in names:
        chosen = known & (gpus == name)
        if chosen.any():
            x = measured[chosen]
            look, y = looks[name], x * ratio[chosen]
            panel.scatter(x, y, s=9, color=look.color, marker=look.marker, alpha=0.5, linewidths=0, label=name)
    panel.set(xlabel=f"measured {_METRICS[metric]}", ylabel=f"estimated {_METRICS[metric]}")
    if not known.any():
        panel.set_title(f"{one.engine}: no run has both")
        return
    both = np.concatenate([measured[known], (measured * ratio)[known]])
    ends = np.array([both.min(), both.max()])
    panel.plot(ends, ends, color="black", linewidth=0.8)
    panel.fill_between(ends, ends / _FACTOR, ends * _FACTOR, color="black", alpha=0.07, linewidth=0)
    scale(panel, ends.tolist(), ends.tolist())
    error = metric_error(ratio)
    assert error is not None
    panel.set_title(f"{one.engine}: median error {percent(error.median, 1)}, {error.runs:,} runs")
