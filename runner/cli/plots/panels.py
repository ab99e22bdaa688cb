"""Parts that all plots share: panels of a fixed size, styles for many GPUs, and labels that do not collide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuscout.sweeps.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
# Inches.
_AXES, _LEFT, _TOP, _BOTTOM = (4.8, 3.4), 0.75, 0.55, 0.6
_LABEL_POINTS = 7.5
_LINE_POINTS = _LABEL_POINTS * 1.45
_CHARACTER_POINTS = _LABEL_POINTS * 0.64
# Okabe and Ito's colours for all kinds of colour vision, without yellow, which is hard to see on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("-", "--", "-.", ":")
# Spans more than this are shown on a logarithmic axis.
_DECADES = 30.0


@dataclass(frozen=True)
class Style:
    """Look of one GPU type everywhere in a figure."""

    color: str
    marker: str
    linestyle: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each name: no two of 63 share colour and marker, and dashes tell more of them apart."""
    return {
        name: Style(
            _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i // len(_COLOURS) % len(_DASHES)]
        )
        for i, name in enumerate(sorted(set(names)))
    }


def check_panels(count: int) -> None:
    """Raise InputError for more groups than a picture can hold."""
    if count > MOST_PANELS:
        raise InputError(
            f"a plot holds {MOST_PANELS} pairs of model and workload at most, and these are more",
            hint="--model and --workload choose some",
        )


def panels(titles: Sequence[str], labels: Sequence[Sequence[str]]) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel for each title, with room to its right for so many labels of that length."""
    from matplotlib.figure import Figure

    columns = 1 if len(titles) == 1 else 2
    rows = -(-len(titles) // columns)
    longest = max((len(label) for names in labels for label in names), default=0)
    most = max(map(len, labels), default=0)
    height = max(_AXES[1], most * _LINE_POINTS / 72)
    beside = (longest * _CHARACTER_POINTS + 40) / 72
    cell = (_LEFT + _AXES[0] + beside, _TOP + height + _BOTTOM)
    width, total = cell[0] * columns, cell[1] * rows
    figure = Figure(figsize=(width, total))
    found = []
    for i, title in enumerate(titles):
        row, column = divmod(i, columns)
        left, bottom = column * cell[0] + _LEFT, total - (row + 1) * cell[1] + _BOTTOM
        axes = figure.add_axes((left / width, bottom / total, _AXES[0] / width, height / total))
        axes.set_title(title, fontsize=9, loc="left")
        axes.grid(True, which="major", linewidth=0.4, alpha=0.4)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        found.append(axes)
    return figure, found


def add_caption(figure: Figure, lines: Sequence[str]) -> None:
    """Write lines below all panels, folded to the width of the figure, which grows by them."""
    width, height = (float(size) for size in figure.get_size_inches())
    most = max(int((width - 0.3) * 72 / _CHARACTER_POINTS), 40)
    folded = [part for line in lines if line for part in textwrap.wrap(line, most)]
    more = (len(folded) * _LINE_POINTS + 8) / 72
    boxes = [axes.get_position() for axes in figure.axes]
    figure.set_size_inches(width, height + more)
    for axes, box in zip(figure.axes, boxes, strict=True):
        below = (box.y0 * height + more) / (height + more)
        axes.set_position((box.x0, below, box.width, box.height * height / (height + more)))
    for place, line in enumerate(reversed(folded)):
        at = (place * _LINE_POINTS + 5) / 72 / (height + more)
        figure.text(0.15 / width, at, line, fontsize=_LABEL_POINTS, color="#444444", va="bottom")


def scale(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """Set limits around these values, on a logarithmic axis where they span decades; ticks are plain numbers."""
    for axis, values, limit, logarithmic in (
        (axes.xaxis, x, axes.set_xlim, axes.set_xscale),
        (axes.yaxis, y, axes.set_ylim, axes.set_yscale),
    ):
        low, high = min(values, default=0.0), max(values, default=1.0)
        if low > 0 and high / low >= _DECADES:
            from matplotlib.ticker import LogLocator, NullLocator

            logarithmic("log")
            limit(low / 1.15, high * 1.15)
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,), numticks=20))
            axis.set_minor_locator(NullLocator())
        else:
            margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
            limit(min(low, 0.0) if low < 0.4 * high else low - margin, high + margin)
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


@dataclass(frozen=True)
class Label:
    """A name for a point of the data, to stand beside the panel."""

    text: str
    x: float
    y: float
    style: Style
    hollow: bool = False


def add_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write labels to the right of a panel as near to the height of their points as they fit without overlap.

    Limits and scales of the axes are final before.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((label.x, label.y))[1]) for label in labels]
    points = axes.get_window_extent().height / axes.figure.dpi * 72
    step = _LINE_POINTS / points
    for label, height in zip(labels, spread(heights, step, step / 2, 1 - step / 2), strict=True):
        color = label.style.color
        axes.annotate(
            "",
            xy=(label.x, label.y),
            xytext=(1.012, height),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.45, "shrinkA": 0, "shrinkB": 2},
        )
        axes.plot(
            [1.028],
            [height],
            transform=axes.transAxes,
            clip_on=False,
            color=color,
            marker=label.style.marker,
            markersize=4,
            markerfacecolor="white" if label.hollow else color,
        )
        axes.text(
            1.047,
            height,
            label.text,
            transform=axes.transAxes,
            color=color,
            fontsize=_LABEL_POINTS,
            va="center_baseline",
        )


def spread(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Return places at least `step` apart, within low and high if they fit, as near to the wanted ones as can be.

    The sum of squared distances is least: isotonic regression of what is left when the steps are taken off.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    blocks: list[tuple[float, int]] = []  # mean, number of places
    for rank, i in enumerate(order):
        mean, count = wanted[i] - rank * step, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    room = max(high - (len(wanted) - 1) * step, low)
    levels = [min(max(mean, low), room) for mean, count in blocks for _ in range(count)]
    found = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        found[i] = levels[rank] + rank * step
    return found
