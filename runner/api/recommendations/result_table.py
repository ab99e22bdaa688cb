"""`RecommendationResult` as a table in text or HTML, with the notes below it."""

from __future__ import annotations

import html as html_text
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from gpuscout.sweeps.text import printable

if TYPE_CHECKING:
    from gpuscout.runner.api.recommendations.results import GPURecommendation, RecommendationResult

_ROWS = 10
_REASONS = 5
_LEGEND = (
    "estimated; c: requests in flight (~ between stored ones, * some wait); in brackets: 80 % of measured values; "
    "backed: measured runs are near"
)
_MEMORY = ("GPU", "TP", "Model GB", "KV GB", "Requests", "Fits")
_FIGURES = ("c", "TTFT ms", "ITL ms", "tok/s", "USD/Mtok", "Backed")


def text(result: RecommendationResult, limit: int = _ROWS) -> str:
    """Return lines for a terminal, nothing of a stranger in them as a control character."""
    shown, more = _shown(result, limit)
    lines = [_title(result), *_aligned(_cells(result, shown)), *more, *_remarks(result)]
    return "\n".join(map(printable, lines))


def escape(text: str) -> str:
    """Return text for HTML, as harmless as that for a terminal."""
    return html_text.escape(printable(text))


def html(result: RecommendationResult) -> str:
    """Return a table for notebooks."""
    shown, more = _shown(result, _ROWS)
    heading, *rows = _cells(result, shown)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in (*more, *_remarks(result)))
    return (
        f"<p><b>{escape(_title(result))}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{remarks}</ul>"
    )


def fitting(result: RecommendationResult) -> str:
    """Return text such as "7 of 8 configurations fit" """
    fit = [item for item in result if item.fits]
    summary = f"{len(fit):,} of {len(result):,} configurations fit"
    recommended = sum(item.reason is None for item in fit)
    return summary if recommended == len(fit) else f"{summary}, {recommended:,} can be recommended"


def has_no_limit(result: RecommendationResult) -> bool:
    """Return whether estimates were ranked whatever their latencies."""
    return result.slos == () and any(item.estimate for item in result)


def _title(result: RecommendationResult) -> str:
    lengths = f"{result.input_length:,} in / {result.output_length:,} out"
    return f"GPU Recommendations: {result.model_id}, {result.precision}, {lengths}, by {result.objective}"


def _shown(result: RecommendationResult, limit: int) -> tuple[Sequence[GPURecommendation], list[str]]:
    """Return the rows of a table, the best of each GPU type where there are many, and a line about the rest."""
    limit = max(limit, 0)
    everything: Sequence[GPURecommendation] = result.recommendations
    best = result.best_per_gpu
    rows, what = (best, "GPU types") if len(result) > limit and best else (everything, "configurations")
    return rows[:limit], [f"… and {len(rows) - limit:,} more {what}"] if len(rows) > limit else []


def _cells(result: RecommendationResult, shown: Sequence[GPURecommendation]) -> list[tuple[str, ...]]:
    """Return the cells of a table, its heading first."""
    if any(item.estimate for item in result):
        return [(*_MEMORY, *_FIGURES), *((*_memory(item), *_figures(item)) for item in shown)]
    return [(*_MEMORY, "USD/h"), *((*_memory(item), _figure(item.usd_per_hour)) for item in shown)]


def _memory(item: GPURecommendation) -> tuple[str, ...]:
    return (
        str(item),
        str(item.tensor_parallel_size),
        f"{item.memory_per_gpu_gb:,.1f}",
        f"{item.available_memory_for_kv_gb:,.1f}",
        f"{item.concurrent_requests:,}",
        "yes" if item.fits else "no",
    )


def _figures(item: GPURecommendation) -> tuple[str, ...]:
    estimate = item.estimate
    if estimate is None:
        return ("-",) * len(_FIGURES)
    marks = f"{'~' if estimate.interpolated else ''}{'*' if estimate.queued else ''}"
    return (
        "-" if estimate.batch_size is None else f"{estimate.batch_size:,}{marks}",
        _figure(estimate.ttft_ms, estimate.ttft_ms_low, estimate.ttft_ms_high),
        _figure(estimate.itl_ms, estimate.itl_ms_low, estimate.itl_ms_high),
        _figure(estimate.output_tokens_per_s, estimate.output_tokens_per_s_low, estimate.output_tokens_per_s_high),
        _figure(estimate.cost_usd_per_mtok, estimate.cost_usd_per_mtok_low, estimate.cost_usd_per_mtok_high),
        "yes" if item.backed else "no",
    )


def _remarks(result: RecommendationResult) -> list[str]:
    remarks = [_LEGEND] if any(item.estimate for item in result) else []
    if has_no_limit(result):
        remarks.append("no latency limit was asked: recommend_gpus(…, slos='itl<=50ms') gives one")
    if result.unproven in result.recommendations:
        better = f"{result.unproven} would be better by {result.objective}"
        remarks.append(f"{better} if its estimate holds: no measured runs are near it")
    remarks += [fitting(result), *(f"note: {note}" for note in result.notes)]
    against = [item for item in result if item.reason is not None]
    remarks += [f"  {item}: {item.reason}" for item in against[:_REASONS]]
    if len(against) > _REASONS:
        remarks.append(f"  … and {len(against) - _REASONS:,} more")
    return [*remarks, *(f"  left out: {reason}" for reason in result.exclusions)]


def _figure(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a figure, with the ends of its interval where they are known: "24.1 (18.3–30.9)"."""
    if value is None:
        return "-"
    return _number(value) if low is None or high is None else f"{_number(value)} ({_number(low)}–{_number(high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return columns: the first one to the left, figures to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(cells[0]):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in cells[1:]:
        table.add_row(*row)
    console = Console(file=StringIO(), width=1_000, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]
