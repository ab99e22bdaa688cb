"""The Pareto frontier of operating points over two metrics, the third as the size of the markers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuscout.runner.cli.plots.curves import describe, title_of
from gpuscout.runner.cli.plots.files import Drawing
from gpuscout.runner.cli.plots.panels import Label, Style, add_labels, check_panels, panels, scale, styles
from gpuscout.store.queries.pareto import Front, Metric, Pareto
from gpuscout.sweeps.errors import InputError

COLUMNS = (
    "kind",
    "model",
    "workload",
    "input_len",
    "output_len",
    "gpu",
    "num_gpus",
    "precision",
    "server",
    "concurrency",
)
"""The columns of points that `frontier` reads, besides those of the metrics."""

_SIZES = (3.0, 10.0)  # points, of the markers of the least and the largest third figure
_MANY = 1_000  # dominated points that SVG and HTML hold as one image


def frontier(found: Pareto) -> Drawing:
    """Draw frontiers: one panel for each, dominated points in grey, every GPU type on the frontier labelled once.

    Raises InputError for more panels than a picture holds, and where there is nothing to draw.
    """
    fronts = [front for front in found.fronts if any(not point["dominated"] for point in front.points)]
    if not fronts:
        raise InputError("there is nothing to draw: no point has all of these figures")
    check_panels(len(fronts))
    best = [[point for point in front.points if not point["dominated"]] for front in fronts]
    style = styles(point["gpu"] for points in best for point in points)
    names = [sorted({point["gpu"] for point in points}) for points in best]
    figure, places = panels([_title(front) for front in fronts], names)
    tips: dict[str, list[str]] = {}
    x, y = found.metrics[0].column, found.metrics[1].column
    for axes, front, points, gpus in zip(places, fronts, best, names, strict=True):
        scale(axes, [point[x] for point in front.points], [point[y] for point in front.points])
        axes.set_xlabel(_axis(found.metrics[0]), fontsize=8)
        axes.set_ylabel(_axis(found.metrics[1]), fontsize=8)
        rest = [point for point in front.points if point["dominated"]]
        axes.plot(
            [point[x] for point in rest],
            [point[y] for point in rest],
            gid="dominated",
            linestyle="none",
            marker=".",
            markersize=2,
            color="#BBBBBB",
            zorder=1,
            rasterized=len(rest) > _MANY,
        )
        if len(found.metrics) == 2:
            line = sorted((point[x], point[y]) for point in points)
            axes.plot([p[0] for p in line], [p[1] for p in line], color="#777777", linewidth=0.8, zorder=2)
        sizes = _sizes(points, found.metrics[2:])
        labels = []
        for gpu in gpus:
            own = [i for i, point in enumerate(points) if point["gpu"] == gpu]
            tips |= _draw(axes, [points[i] for i in own], [sizes[i] for i in own], style[gpu], found.metrics, len(tips))
            # The point in the middle is the one that others hide least.
            middle = points[sorted(own, key=lambda i: points[i][x])[len(own) // 2]]
            labels.append(Label(gpu, middle[x], middle[y], style[gpu]))
        add_labels(axes, labels)
        if rest:
            told = f"grey: {len(rest):,} dominated"
            axes.text(0.99, 0.01, told, transform=axes.transAxes, fontsize=7, ha="right", color="#777777")
        for metric in found.metrics[2:]:
            values = [point[metric.column] for point in points]
            told = f"size: {_axis(metric)}, {min(values):,.3g} to {max(values):,.3g}"
            axes.text(0.01, 0.99, told, transform=axes.transAxes, fontsize=7, va="top")
    return Drawing(figure, f"frontier of {', '.join(metric.label for metric in found.metrics)}", tips)


def _draw(
    axes: Any, points: Sequence[Any], sizes: Sequence[float], style: Style, metrics: Sequence[Metric], first: int
) -> dict[str, list[str]]:
    """The markers of one GPU type, with their tooltips: one line for each size."""
    tips: dict[str, list[str]] = {}
    x, y = metrics[0].column, metrics[1].column
    for size in sorted(set(sizes)):
        chosen = [point for point, own in zip(points, sizes, strict=True) if own == size]
        gid = f"points-{first + len(tips)}"
        tips[gid] = [
            f"{describe(point)}: " + ", ".join(f"{point[m.column]:,.4g} {m.unit}" for m in metrics) for point in chosen
        ]
        axes.plot(
            [point[x] for point in chosen],
            [point[y] for point in chosen],
            gid=gid,
            linestyle="none",
            marker=style.marker,
            color=style.color,
            markersize=size,
            zorder=3,
        )
    return tips


def _sizes(points: Sequence[Any], third: Sequence[Metric]) -> list[float]:
    """Of each point its marker's size, in steps of half a point."""
    if not third:
        return [4.5] * len(points)
    values = [point[third[0].column] for point in points]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return [round(2 * (_SIZES[0] + (_SIZES[1] - _SIZES[0]) * math.sqrt((v - low) / span))) / 2 for v in values]


def _title(front: Front) -> str:
    if front.model is None:
        return "all models and workloads"
    names = ("model", "workload", "input_len", "output_len")
    return title_of({name: getattr(front, name) for name in names})


def _axis(metric: Metric) -> str:
    return metric.label if metric.unit in metric.label else f"{metric.label} ({metric.unit})"
