"""Throughput over latency: for each GPU type what the best of its configurations gives at each latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gpuscout.runner.cli.plots.files import Drawing
from gpuscout.runner.cli.plots.panels import Label, add_caption, add_labels, check_panels, panels, scale, styles
from gpuscout.store.queries.operating_points.pareto import Metric, frontier
from gpuscout.store.queries.operating_points.point_columns import ends_of
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.traffic.words import traffic_words

_Y = "output_tokens_per_s_per_gpu"
_BAND = 0.1
COLUMNS = (
    "kind", "model", "workload", "input_len", "output_len", "traffic", "gpu", "num_gpus", "precision", "server",
    "concurrency", "queued", _Y, *ends_of([_Y]),
)  # fmt: skip
"""The columns of points that `curves` reads, besides that of the latency."""

Row = Mapping[str, Any]


def curves(rows: Iterable[Row], latency: Metric) -> Drawing:
    """Draw operating points: one panel for each model and workload, one line for each GPU type.

    A line joins the points that no other of the same GPU type and kind is better than in both throughput per GPU and
    latency; points that wait for memory are left out. Bands are the 80 % intervals of the throughput. Raises InputError
    for more panels than a picture holds, and where there is nothing to draw.
    """
    groups: dict[str, dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        if row["queued"] or not row[_Y] or row[latency.column] is None:
            continue
        series = groups.setdefault(title_of(row), {})
        check_panels(len(groups))
        series.setdefault((row["gpu"], row["kind"]), []).append(row)
    if not groups:
        raise InputError("there is nothing to draw: no point has both a throughput and this latency")
    lines = {title: {key: _best(found, latency) for key, found in series.items()} for title, series in groups.items()}
    several = len({kind for series in lines.values() for _, kind in series}) > 1
    style = styles(gpu for series in lines.values() for gpu, _ in series)

    def name(gpu: str, kind: str) -> str:
        return f"{gpu} ({kind})" if several else gpu

    figure, places = panels(list(lines), [[name(*key) for key in series] for series in lines.values()])
    tips: dict[str, list[str]] = {}
    banded = False
    for axes, series in zip(places, lines.values(), strict=True):
        scale(
            axes,
            [row[latency.column] for line in series.values() for row in line],
            [row[_Y] for line in series.values() for row in line],
        )
        axes.set_xlabel(f"{latency.label} ({latency.unit})", fontsize=8)
        axes.set_ylabel("output tokens/s per GPU", fontsize=8)
        labels = []
        for (gpu, kind), line in sorted(series.items()):
            look, hollow = style[gpu], several and kind == "measured"
            gid = f"points-{len(tips)}"
            tips[gid] = [_tip(row, latency) for row in line]
            x, y = [row[latency.column] for row in line], [row[_Y] for row in line]
            if all(row.get(end) is not None for row in line for end in ends_of([_Y])):
                banded = True
                low, high = ([float(row[end]) for row in line] for end in ends_of([_Y]))
                axes.fill_between(x, low, high, color=look.color, alpha=_BAND, linewidth=0, zorder=0)
            axes.plot(
                x,
                y,
                gid=gid,
                color=look.color,
                marker=look.marker,
                linestyle=look.linestyle,
                linewidth=1,
                markersize=3.5,
                markerfacecolor="white" if hollow else look.color,
            )
            most = max(range(len(line)), key=y.__getitem__)
            labels.append(Label(name(gpu, kind), x[most], y[most], look, hollow))
        add_labels(axes, labels)
    kinds = ", ".join(sorted({kind for series in lines.values() for _, kind in series}))
    add_caption(figure, [f"{kinds}; bands: 80 % intervals" if banded else kinds])
    return Drawing(figure, f"throughput over {latency.label}", tips)


def title_of(row: Row) -> str:
    """Return text such as "Qwen/Qwen3-32B, chat (1,024 in / 512 out, poisson arrivals)" """
    lengths = ", ".join([f"{row['input_len']:,} in / {row['output_len']:,} out", *traffic_words(row["traffic"])])
    return f"{row['model']}, {row['workload']} ({lengths})" if row["workload"] else f"{row['model']}, {lengths}"


def describe(row: Row) -> str:
    """Return text such as "H200-SXM-141GB x2 fp8, vllm, concurrency 64" """
    at = "" if row["concurrency"] is None else f", concurrency {row['concurrency']:,}"
    return f"{row['gpu']} x{row['num_gpus']} {row['precision']}, {row['server']}{at}"


def _best(rows: list[Row], latency: Metric) -> list[Row]:
    """Return the rows of the frontier, by latency."""
    sign = -1.0 if latency.more_is_better else 1.0
    figures = np.array([[sign * row[latency.column] for row in rows], [-row[_Y] for row in rows]], dtype=np.float64)
    kept = [rows[i] for i in np.flatnonzero(frontier(figures)).tolist()]
    return sorted(kept, key=lambda row: (row[latency.column], row[_Y]))


def _tip(row: Row, latency: Metric) -> str:
    return f"{describe(row)}: {row[latency.column]:,.4g} {latency.unit}, {row[_Y]:,.4g} tokens/s per GPU"
