"""The trade-off between two metrics: a curve for each GPU type, with what is uncertain, limits and a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpuscout.runner.cli.plots.curves import describe, title_of
from gpuscout.runner.cli.plots.files import Drawing
from gpuscout.runner.cli.plots.panels import Label, Style, add_caption, add_labels, check_panels, panels, scale, styles
from gpuscout.store.queries.operating_points.pareto import Front, Metric, Pareto
from gpuscout.store.queries.operating_points.pareto import frontier as best_of
from gpuscout.store.queries.operating_points.point_columns import ends_of
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import Slo

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
"""The columns of points that `frontier` reads, besides those of the metrics and the ends of their intervals."""

MOST_NAMED = 8
_OTHERS = Style("#BBBBBB", ".", "-")
_SHAPES = {"estimated": "o", "measured": "D"}
_SIZES = (3.0, 10.0)  # points, of the markers of the least and the largest third figure
_MANY = 1_000  # points that SVG and HTML hold as one image


def frontier(found: Pareto, slos: Sequence[Slo] = (), caption: Sequence[str] = ()) -> Drawing:
    """Draw one panel for each group: of every GPU type the curve of its own best points over the first two metrics.

    Eight GPU types are named, those with most points on the frontier of all; the others are grey. Estimates are dots,
    measured runs diamonds; bands are the 80 % intervals of the second metric. A third metric is the size of markers.
    Raises InputError for more panels than a picture holds, and where there is nothing to draw.
    """
    fronts = [front for front in found.fronts if any(not point["dominated"] for point in front.points)]
    if not fronts:
        raise InputError("there is nothing to draw: no point has all of these figures")
    check_panels(len(fronts))
    own = [_own_curves(front, found.metrics) for front in fronts]
    named = [_named(front, curves, found.metrics) for front, curves in zip(fronts, own, strict=True)]
    style = styles(gpu for gpus in named for gpu in gpus)
    labels = [[*gpus, *_others(curves, gpus)] for gpus, curves in zip(named, own, strict=True)]
    figure, places = panels([_title(front) for front in fronts], labels)
    tips: dict[str, list[str]] = {}
    x, y = found.metrics[0].column, found.metrics[1].column
    for axes, front, curves, gpus in zip(places, fronts, own, named, strict=True):
        shown = [point for points in curves.values() for point in points]
        scale(axes, [point[x] for point in shown], [point[y] for point in shown])
        axes.set_xlabel(_axis(found.metrics[0]), fontsize=9)
        axes.set_ylabel(_axis(found.metrics[1]), fontsize=9)
        _draw_limits(axes, slos, found.metrics)
        sizes = _sizes(shown, found.metrics[2:])
        marks: list[Label] = []
        for gpu, points in sorted(curves.items(), key=lambda pair: pair[0] in gpus):
            look = style[gpu] if gpu in gpus else _OTHERS
            tips |= _draw(axes, points, sizes, look, found.metrics, len(tips), named=gpu in gpus)
            if gpu in gpus:
                marks.append(Label(gpu, points[-1][x], points[-1][y], replace(look, marker=_SHAPES["estimated"])))
        for note in _others(curves, gpus):
            some = next(points for gpu, points in curves.items() if gpu not in gpus)
            marks.append(Label(note, some[-1][x], some[-1][y], _OTHERS))
        add_labels(axes, marks)
        hidden = len(front.points) - len(shown)
        if hidden:
            note = f"{hidden:,} points that another of their GPU type beats are not shown"
            axes.text(0.99, 0.01, note, transform=axes.transAxes, fontsize=6.5, ha="right", color="#777777")
        for metric in found.metrics[2:]:
            values = [point[metric.column] for point in shown]
            note = f"size: {_axis(metric)}, {min(values):,.3g} to {max(values):,.3g}"
            axes.text(0.01, 0.99, note, transform=axes.transAxes, fontsize=7, va="top")
    kinds = sorted({point["kind"] for front in fronts for point in front.points})
    shapes = "; ".join(f"{'diamonds' if kind == 'measured' else 'dots'}: {kind}" for kind in kinds)
    bands = "; bands: 80 % intervals" if ends_of([found.metrics[1].column]) and kinds != ["measured"] else ""
    add_caption(figure, [f"{shapes}{bands}", *caption])
    return Drawing(figure, f"frontier of {', '.join(metric.label for metric in found.metrics)}", tips)


def _own_curves(front: Front, metrics: Sequence[Metric]) -> dict[str, list[Any]]:
    """Return the points of every GPU type that no other of the type beats in all metrics, by the first metric."""
    groups: dict[str, list[Any]] = {}
    for point in front.points:
        groups.setdefault(point["gpu"], []).append(point)
    found = {}
    for gpu, points in groups.items():
        signs = [-1.0 if metric.more_is_better else 1.0 for metric in metrics]
        figures = np.array([[s * p[m.column] for p in points] for s, m in zip(signs, metrics, strict=True)])
        kept = [points[i] for i in np.flatnonzero(best_of(figures)).tolist()]
        found[gpu] = sorted(kept, key=lambda point: (point[metrics[0].column], point[metrics[1].column]))
    return found


def named_gpus(found: Pareto) -> list[str]:
    """Return the GPU types that a drawing names, of all panels."""
    metrics = found.metrics
    return sorted({gpu for front in found.fronts for gpu in _named(front, _own_curves(front, metrics), metrics)})


def _named(front: Front, curves: dict[str, list[Any]], metrics: Sequence[Metric]) -> list[str]:
    """Return the GPU types that are worth a name: most points on the frontier of all, then the best first metric."""
    on_it = {gpu: sum(not p["dominated"] for p in front.points if p["gpu"] == gpu) for gpu in curves}
    sign = -1.0 if metrics[0].more_is_better else 1.0
    best = {gpu: min(sign * point[metrics[0].column] for point in points) for gpu, points in curves.items()}
    return sorted(sorted(curves, key=lambda gpu: (-on_it[gpu], best[gpu], gpu))[:MOST_NAMED])


def _others(curves: dict[str, list[Any]], named: Sequence[str]) -> list[str]:
    more = len(curves) - len(named)
    return [f"{more} other{'s' if more > 1 else ''}"] if more else []


def _draw(
    axes: Any,
    points: Sequence[Any],
    sizes: dict[int, float],
    style: Style,
    metrics: Sequence[Metric],
    first: int,
    *,
    named: bool,
) -> dict[str, list[str]]:
    """Draw the curve of one GPU type with its band, and markers with tooltips: a line for each kind and size."""
    x, y = metrics[0].column, metrics[1].column
    order = 3 if named else 1
    across = [point[x] for point in points]
    axes.plot(
        across,
        [point[y] for point in points],
        color=style.color,
        linestyle=style.linestyle,
        linewidth=1.4 if named else 0.6,
        zorder=order,
    )
    ends = [(point.get(f"{y}_low"), point.get(f"{y}_high")) for point in points]
    if named and len(points) > 1 and all(low is not None and high is not None for low, high in ends):
        low, high = [end[0] for end in ends], [end[1] for end in ends]
        axes.fill_between(across, low, high, color=style.color, alpha=0.12, linewidth=0, zorder=0)
    tips: dict[str, list[str]] = {}
    groups: dict[tuple[str, float], list[Any]] = {}
    for point in points:
        groups.setdefault((point["kind"], sizes[id(point)]), []).append(point)
    for (kind, size), chosen in sorted(groups.items()):
        gid = f"points-{first + len(tips)}"
        tips[gid] = [
            f"{describe(point)}, {kind}: " + ", ".join(f"{point[m.column]:,.4g} {m.unit}" for m in metrics)
            for point in chosen
        ]
        axes.plot(
            [point[x] for point in chosen],
            [point[y] for point in chosen],
            gid=gid,
            linestyle="none",
            marker=_SHAPES[kind.partition(",")[0]],
            color=style.color,
            markerfacecolor="white" if kind == "measured" else style.color,
            markersize=size if named else 2.0,
            zorder=order + 1,
            rasterized=len(chosen) > _MANY,
        )
    return tips


def _draw_limits(axes: Any, slos: Sequence[Slo], metrics: Sequence[Metric]) -> None:
    """Draw a line at every limit that is on one of the two axes."""
    for slo in slos:
        for metric, line in zip(metrics, (axes.axvline, axes.axhline), strict=False):
            at = slo.limit if metric.column == slo.column else None
            if metric.name == "interactivity" and slo.metric == "itl":
                at = 1000.0 / slo.limit
            if at is None or slo.percentile is not None:
                continue
            line(at, color="#444444", linestyle="--", linewidth=0.9, zorder=2)


def _sizes(points: Sequence[Any], third: Sequence[Metric]) -> dict[int, float]:
    """Return the marker's size of each point (by its id), in steps of half a point."""
    if not third:
        return {id(point): 4.5 for point in points}
    values = [point[third[0].column] for point in points]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return {
        id(point): round(2 * (_SIZES[0] + (_SIZES[1] - _SIZES[0]) * math.sqrt((value - low) / span))) / 2
        for point, value in zip(points, values, strict=True)
    }


def _title(front: Front) -> str:
    if front.model is None:
        return "all models and workloads"
    names = ("model", "workload", "input_len", "output_len", "traffic")
    return title_of({name: getattr(front, name) for name in names})


def _axis(metric: Metric) -> str:
    return metric.label if metric.unit in metric.label else f"{metric.label} ({metric.unit})"
