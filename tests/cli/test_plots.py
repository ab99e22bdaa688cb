"""Plots by what they show: labels that do not collide, every GPU named once, points where the data says."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscout.runner.cli.main import execute
from gpuscout.runner.cli.plots.curves import curves
from gpuscout.runner.cli.plots.files import Drawing, check_plot, save
from gpuscout.runner.cli.plots.frontier import frontier
from gpuscout.runner.cli.plots.panels import spread, styles
from gpuscout.store.database.connect import open_store
from gpuscout.store.queries.operating_points.pareto import METRICS, Front, Metric, Pareto
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.slo import parse_slo
from tests.support.commands import environment
from tests.support.rank_stores import an_answer, fill

pytestmark = pytest.mark.slow

pytest.importorskip("matplotlib")

GPUS = [
    f"{maker}-{number}00-{memory}GB" for maker in ("A", "B", "RTX") for number in (1, 2, 3, 4) for memory in (24, 80)
]
SVG = "{http://www.w3.org/2000/svg}"


def points(gpus: list[str], **how: Any) -> list[dict[str, Any]]:
    """Curves that nearly coincide, so that their ends are at nearly the same height."""
    about = {
        "model": "a/One",
        "workload": "chat",
        "input_len": 1024,
        "output_len": 512,
        "traffic": None,
        "kind": "estimated",
        "num_gpus": 1,
    }
    return [
        about
        | {"gpu": gpu, "precision": "fp8", "server": "vllm", "concurrency": c, "queued": False}
        | {"itl_ms": 5.0 * (1 + c / 64) + place / 100, "output_tokens_per_s_per_gpu": 20.0 * c + place / 10}
        | how
        for place, gpu in enumerate(gpus)
        for c in (1, 4, 16, 64)
    ]


def texts(drawing: Drawing) -> list[tuple[str, Any]]:
    """Every text of a figure that is seen, with its box in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(drawing.figure).draw()
    found = [text for text in drawing.figure.findobj(Text) if text.get_visible() and text.get_text()]  # type: ignore[attr-defined]
    boxes = [(text.get_text(), text.get_window_extent()) for text in found]  # type: ignore[attr-defined]
    # Ticks beyond the axes exist, but are not drawn.
    return [(text, box) for text, box in boxes if box.width > 0 and not re.fullmatch(r"[\d,.]+", text)]


def check_labels(drawing: Drawing, expected: list[str]) -> None:
    """Every name stands there as often as it is expected, within the picture, and no two texts overlap."""
    found = texts(drawing)
    assert sorted(text for text, _ in found if text in expected) == sorted(expected)
    width, height = drawing.figure.get_size_inches() * drawing.figure.dpi
    for text, box in found:
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (one, first), (other, second) in itertools.combinations(found, 2):
        apart = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 or second.y1 <= first.y0
        assert apart, (one, other)


@pytest.mark.parametrize("count", [1, 12, len(GPUS)])
def test_labels_of_many_gpus_do_not_collide(count: int) -> None:
    drawing = curves(points(GPUS[:count]), METRICS["itl"])
    check_labels(drawing, GPUS[:count])
    found = {text for text, _ in texts(drawing)}
    assert {"ITL (ms)", "output tokens/s per GPU", "a/One, chat (1,024 in / 512 out)"} <= found


def test_lines_go_through_the_best_points_of_each_gpu() -> None:
    rows = points(["X", "Y"])
    worse = [
        row | {"num_gpus": 2, "output_tokens_per_s_per_gpu": row["output_tokens_per_s_per_gpu"] / 2} for row in rows
    ]
    waits = [row | {"queued": True, "output_tokens_per_s_per_gpu": 9e9} for row in rows]
    unknown = [row | {"itl_ms": None} for row in rows]
    drawing = curves([*worse, *rows, *waits, *unknown], METRICS["itl"])
    (axes,) = drawing.figure.axes
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert len(lines) == 2
    for gpu, line in zip(("X", "Y"), lines.values(), strict=True):
        own = [row for row in rows if row["gpu"] == gpu]
        assert line.get_xdata().tolist() == [row["itl_ms"] for row in own]  # type: ignore[union-attr]
        assert line.get_ydata().tolist() == [row["output_tokens_per_s_per_gpu"] for row in own]  # type: ignore[union-attr]
    # 20 to 1,280 tokens/s spans decades, 5 to 10 ms does not.
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert "X x1 fp8, vllm, concurrency 64: 10 ms, 1,280 tokens/s per GPU" in drawing.tips["points-0"]


def test_measured_runs_are_lines_of_their_own_in_their_gpus_colour() -> None:
    drawing = curves([*points(GPUS[:3]), *points(GPUS[:3], kind="measured", itl_ms=7.0)], METRICS["itl"])
    names = [f"{gpu} ({kind})" for gpu in GPUS[:3] for kind in ("estimated", "measured")]
    check_labels(drawing, names)
    lines = [line for line in drawing.figure.axes[0].lines if line.get_gid()]
    assert [line.get_color() for line in lines[::2]] == [line.get_color() for line in lines[1::2]]


def test_panels_for_models_and_workloads() -> None:
    models = [f"org/model-{number}" for number in range(13)]
    some = [row for model in models[:5] for row in points(GPUS[:12], model=model)]
    drawing = curves(some, METRICS["itl"])
    assert len(drawing.figure.axes) == 5
    check_labels(drawing, GPUS[:12] * 5)
    with pytest.raises(InputError, match="12 pairs of model and workload"):
        curves((row for model in models for row in points(["X"], model=model)), METRICS["itl"])
    with pytest.raises(InputError, match="nothing to draw"):
        curves(points(["X"], queued=True), METRICS["itl"])


def test_panels_name_how_requests_vary_and_arrive() -> None:
    traffic = '{"arrivals": "poisson", "cached_input": 0.4, "input_len": {"cv": 1}}'
    told = "a/One, chat (1,024 in / 512 out, lengths vary, 40 % cached, poisson arrivals)"
    drawing = curves([*points(GPUS[:1]), *points(GPUS[:1], traffic=traffic)], METRICS["itl"])
    titles = {text for text, _ in texts(drawing)}
    assert titles >= {"a/One, chat (1,024 in / 512 out)", told}
    found = a_front(METRICS["itl"], METRICS["throughput-per-gpu"])
    arriving = replace(found, fronts=tuple(replace(front, traffic=traffic) for front in found.fronts))
    assert any("poisson arrivals" in text for text, _ in texts(frontier(arriving)))


def a_front(*metrics: Metric) -> Pareto:
    """Fourteen GPUs, each dearer the faster it answers, and points that others of their type beat."""
    rows = points(GPUS[:14])
    best = [
        row | {"dominated": place >= 40, "usd_per_mtok": 9.0 - row["itl_ms"] / 2 + place / 100, "ttft_ms": 100 + place}
        for place, row in enumerate(rows)
    ]
    best = [row | {"itl_ms_low": 0.8 * row["itl_ms"], "itl_ms_high": 1.3 * row["itl_ms"]} for row in best]
    rest = [row | {"dominated": True, "usd_per_mtok": 60.0, "itl_ms": 90.0, "ttft_ms": 1e3} for row in best]
    front = Front("a/One", "chat", 1024, 512, (*best, *rest), len(best) + len(rest), 0, 0)
    return Pareto(metrics, (front,), None)


@pytest.mark.parametrize("names", [("cost", "itl"), ("cost", "itl", "ttft")])
def test_the_frontier_is_a_curve_for_each_gpu(names: tuple[str, ...]) -> None:
    found = a_front(*(METRICS[name] for name in names))
    drawing = frontier(found, [parse_slo("itl<=8ms")], ["limits: ITL <= 8 ms", "gpuscout, 2026-11-28"])
    # Eight are named, those with most points on the frontier of all; the others are grey.
    check_labels(drawing, [*GPUS[:8], "6 others"])
    axes = drawing.figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("cost (USD/Mtok)", "ITL (ms)")
    drawn = {
        (x, y)
        for line in axes.lines
        if (line.get_gid() or "").startswith("points-")
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)  # type: ignore[arg-type]
    }
    best = [point for point in found.fronts[0].points if point["itl_ms"] < 90]
    assert drawn == {(point["usd_per_mtok"], point["itl_ms"]) for point in best}
    curves_of = [line for line in axes.lines if len(line.get_xdata()) == 4 and not line.get_gid()]  # type: ignore[arg-type]
    assert len(curves_of) == 14
    assert len({(line.get_color(), line.get_linestyle()) for line in curves_of}) == 9
    assert len(axes.collections) == 8, "bands of those that are named"
    limits = [line for line in axes.lines if list(line.get_ydata()) == [8.0, 8.0]]  # type: ignore[arg-type]
    assert [line.get_linestyle() for line in limits] == ["--"]
    shown = [text for text, _ in texts(drawing)]
    assert "56 points that another of their GPU type beats are not shown" in shown
    assert {"dots: estimated; bands: 80 % intervals", "limits: ITL <= 8 ms", "gpuscout, 2026-11-28"} <= set(shown)
    assert ("size: TTFT (ms), 100 to 155" in shown) == (len(names) == 3)


def test_measured_points_have_a_shape_of_their_own() -> None:
    found = a_front(METRICS["cost"], METRICS["itl"])
    front = found.fronts[0]
    rows = tuple(point | {"kind": "measured" if point["concurrency"] == 4 else "estimated"} for point in front.points)
    drawing = frontier(replace(found, fronts=(replace(front, points=rows),)))
    markers = {line.get_marker() for line in drawing.figure.axes[0].lines if line.get_gid()}
    assert markers == {"o", "D"}
    assert "diamonds: measured" in " ".join(text for text, _ in texts(drawing))


def test_estimates_of_every_kind_are_dots() -> None:
    found = a_front(METRICS["cost"], METRICS["itl"])
    front = found.fronts[0]
    drafted = "estimated, drafts not checked against measurements"
    drawing = frontier(
        replace(found, fronts=(replace(front, points=tuple(p | {"kind": drafted} for p in front.points)),))
    )
    assert {line.get_marker() for line in drawing.figure.axes[0].lines if line.get_gid()} == {"o"}
    assert f"dots: {drafted}; bands: 80 % intervals" in [text for text, _ in texts(drawing)]


def test_svg_and_html_hold_texts_and_tooltips_and_need_nothing_else(tmp_path: Path) -> None:
    drawing = curves(points(GPUS[:12]), METRICS["itl"])
    for name in ("curves.svg", "again.svg", "curves.html", "curves.png"):
        save(drawing, tmp_path / name)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    heights = {
        "".join(text.itertext()): float(text.get("y", "nan"))
        for text in root.iter(f"{SVG}text")
        if "".join(text.itertext()) in GPUS
    }
    assert sorted(heights) == sorted(GPUS[:12])
    placed = sorted(heights.values())
    assert all(b - a >= 8 for a, b in itertools.pairwise(placed)), "labels are 7.5 points high"
    tips = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert len(tips) == 12 * 4
    assert f"{GPUS[0]} x1 fp8, vllm, concurrency 1: 5.078 ms, 20 tokens/s per GPU" in tips
    page = (tmp_path / "curves.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]*\"", page.replace("xlink:href", "href"))
    assert set(re.findall(r"https?://[^\"\s]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


@given(
    wanted=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    step=st.sampled_from([0.01, 0.03, 0.2]),
)
def test_labels_are_spread_as_little_as_needed(wanted: list[float], step: float) -> None:
    places = spread(wanted, step, 0.0, 1.0)
    ordered = sorted(places)
    assert all(b - a >= step - 1e-9 for a, b in itertools.pairwise(ordered))
    if step * (len(wanted) - 1) <= 1:
        assert ordered[0] >= -1e-9
        assert ordered[-1] <= 1 + 1e-9
    for (a, placed_a), (b, placed_b) in itertools.combinations(zip(wanted, places, strict=True), 2):
        assert a == b or (a < b) == (placed_a < placed_b)
    if all(abs(a - b) >= step for a, b in itertools.combinations(wanted, 2)):
        assert places == pytest.approx(wanted)


def test_styles_tell_sixty_gpus_apart() -> None:
    found = styles(f"gpu {number}" for number in range(63))
    assert len({(style.color, style.marker) for style in found.values()}) == 63


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not say its format"):
        check_plot(Path("plot.pdf"))
    with pytest.raises(InputError, match="does not exist"):
        check_plot(tmp_path / "nowhere" / "plot.png")
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        save(curves(points(["X"]), METRICS["itl"]), tmp_path / "plot.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="matplotlib") as raised:
        check_plot(tmp_path / "plot.svg")
    assert raised.value.hint == "pip install 'gpuscout[plots]'"


def test_the_commands_draw_and_import_matplotlib_only_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    with open_store(url, create=True) as store, store.writing() as connection:
        fill(connection, [an_answer(points={1: {}, 8: {"itl_ms": 20.0, "output_tokens_per_s": 500.0}})])
    for command, *options in (["query", "--latency", "interactivity"], ["pareto", "--metrics", "itl,throughput"]):
        file = tmp_path / f"{command}.svg"
        assert execute([command, "--db", url, *options, "--plot", str(file)]) == 0
        told = capsys.readouterr()
        assert f"drawn: {file}" in told.err
        drawn = {"".join(text.itertext()) for text in ElementTree.parse(file).getroot().iter(f"{SVG}text")}
        assert {"H100", "a/One, chat (1,024 in / 512 out)"} <= drawn
    check = f"""
import sys
from gpuscout.runner.cli.main import execute
for command in ("query", "pareto"):
    assert execute([command, "--db", {url!r}, "--csv"]) == 0
found = {{"matplotlib", "pandas", "ray", "transformers", "alembic"}} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", check], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
