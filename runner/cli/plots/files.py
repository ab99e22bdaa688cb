"""Writes drawings to files: PNG, SVG, or HTML that holds the SVG and needs nothing else."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from gpuscout.sweeps.errors import InputError, needing
from gpuscout.sweeps.reading import writing
from gpuscout.sweeps.text import printable_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".html")
_DPI = 200
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Drawing:
    """A figure. `tips` are what SVG and HTML say of each marker of a line, by the line's gid, in its order."""

    figure: Figure
    title: str
    tips: Mapping[str, Sequence[str]] = field(default_factory=dict)


def check_plot(file: Path) -> None:
    """Raise InputError for a name without an ending of `FORMATS`, for no such folder and without matplotlib."""
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"--plot: {file} does not say its format", hint=f"end the name in {', '.join(FORMATS)}")
    if not file.parent.is_dir():
        raise InputError(f"--plot: folder {file.parent} does not exist")
    with needing("plots need matplotlib, which is not installed", hint="pip install 'gpuscout[plots]'"):
        import matplotlib  # noqa: F401


def save(drawing: Drawing, file: Path) -> None:
    """Write a drawing in the format that the file's ending names. Raises InputError, see `check_plot`."""
    check_plot(file)
    if file.suffix.lower() == ".png":
        content = _drawn(drawing, "png")
    elif file.suffix.lower() == ".svg":
        content = _svg(drawing)
    else:
        title = html.escape(printable_lines(drawing.title))
        head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        style = "<style>body{margin:1em}svg{max-width:100%;height:auto}</style></head>"
        content = f"{head}{style}<body>\n{_svg(drawing).decode()}\n</body></html>\n".encode()
    with writing(file):
        file.write_bytes(content)


def _drawn(drawing: Drawing, form: str) -> bytes:
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in drawing.figure.findobj(Text):
        text.set_parse_math(False)  # names may hold a "$"
        text.set_text(printable_lines(text.get_text()))
    stream = io.BytesIO()
    # Text stays text, to be found and read aloud; equal drawings give equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpuscout"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.figure.savefig(stream, format=form, dpi=_DPI, metadata=nothing if form == "svg" else {})
    return stream.getvalue()


def _svg(drawing: Drawing) -> bytes:
    """Return the drawing with a tooltip on every marker."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(_drawn(drawing, "svg"))  # noqa: S314 - what was drawn just now
    for group in root.iter(f"{{{_SVG}}}g"):
        tips = drawing.tips.get(group.get("id", ""), ())
        for marker, tip in zip(group.iter(f"{{{_SVG}}}use"), tips, strict=False):
            ElementTree.SubElement(marker, f"{{{_SVG}}}title").text = printable_lines(tip)
    return bytes(ElementTree.tostring(root, encoding="utf-8"))
