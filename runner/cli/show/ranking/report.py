"""A report of a recommendation as a page that needs nothing else: question, answer, and what it rests on."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from gpuscout import __version__
from gpuscout.runner.api.models.fit import MemoryFit
from gpuscout.runner.cli.show.certainty import chances, ranged, tie, trust, unproven
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.site import site, site_of
from gpuscout.runner.cli.show.wording import GLUE, assumed, cause, describe, glued_limit, quantity, share, workload
from gpuscout.store.prices.prices import OLD_AFTER_DAYS
from gpuscout.store.ranking.rows import listed
from gpuscout.store.ranking.types import Group, RankedConfig, Ranking
from gpuscout.sweeps.text import percent, printable_lines

_MOST_ROWS = 12
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.5em 0}td,th{padding:.2em .8em;border-bottom:1px solid #e5e5e5;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.answer{font-size:1.25em;font-weight:600}
.warn{background:#fff4e0;padding:.5em 1em;border-left:4px solid #e69f00}.small{color:#666;font-size:.85em}
.wide{overflow-x:auto}@media print{body{margin:0}}
"""


def report_page(ranking: Ranking, fits: Sequence[MemoryFit | None], *, store: str) -> str:
    """Return one page about all groups of a ranking; `fits` has the memory of each group's best, if known."""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    body = [
        _tag("h1", "Which GPUs should serve this?"),
        *_question(ranking),
        report_body(ranking, fits),
        _tag("h2", "Versions"),
        _tag(
            "p", f"gpuscout {__version__}, {now}; store {store}" + (f"; sweep {ranking.sweep}" if ranking.sweep else "")
        ),
        _tag("p", "Decided by ______________________   on ______________", "small"),
    ]
    head = f"<meta charset='utf-8'><title>GPU recommendation, {now}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>\n" + "\n".join(body) + "\n</body></html>\n"


def report_body(ranking: Ranking, fits: Sequence[MemoryFit | None]) -> str:
    """Return the answers and what they rest on, with the prices, as HTML in which every text is escaped."""
    body: list[str] = []
    for group, fit in zip(ranking.groups, fits, strict=True):
        body += _group(ranking, group, fit)
    return "\n".join([*body, *_prices(ranking)])


def _question(ranking: Ranking) -> Iterator[str]:
    question = ranking.question
    yield _tag("h2", "Question")
    limits = ", ".join(glued_limit(slo) for slo in question.slos) or "none"
    asked = [
        ("ranked by", question.aim.label),
        ("limits", limits + (" (the default: none was given)" if question.default_slo else "")),
        ("percentiles", assumed(question)),
        ("confidence", percent(question.confidence) if question.confidence > 0.5 else None),
        ("trust", question.trust),
        ("prices", f"{question.prices.purchase}, median of sellers" if question.aim.needs("price") else None),
    ]
    yield _table((), [(name, value) for name, value in asked if value])


def _group(ranking: Ranking, group: Group, fit: MemoryFit | None) -> Iterator[str]:
    yield _tag("h2", f"{group.model}, {workload(group)}")
    best = group.best
    if best is None:
        yield _tag("p", "Nothing qualifies.", "answer")
        yield from _losers(group)
        return
    text = ranged(best.objective, best.objective_range, best.kind)
    yield _tag("p", f"{describe(best, group)}: {text} {ranking.question.aim.unit}", "answer")
    at = f"with {best.concurrency:,} requests in flight" if best.concurrency is not None else "at its measured load"
    yield _tag(
        "p",
        f"{at}: TTFT {_metric(best, 'ttft_ms')}, ITL {_metric(best, 'itl_ms')}, "
        f"{_metric(best, 'output_tokens_per_s')} output tokens/s. Ranges hold 80 % of what is measured.",
    )
    if best.chances:
        yield _tag("p", f"Limits: {chances(best)}.")
    yield _tag("p", f"Rests on: {best.kind_label}; {trust(best)}.")
    if (needs := site_of(ranking.prices, best)) is not None:
        yield _tag("p", f"To run it: {site(needs)}.")
    if not best.backed:
        yield _tag("p", "No measurement backs this answer: measure before you buy.", "warn")
    if (more := unproven(ranking, group)) is not None:
        yield _tag("p", f"{more}.", "warn")
    for one in group.ties[:2]:
        yield _tag("p", f"{tie(one, group)}.")
    for caveat in (*group.caveats, *([best.cannot_start] if best.cannot_start else [])):
        yield _tag("p", caveat, "warn")
    yield _tag("h3", "Alternatives")
    unit = ranking.question.aim.unit
    yield _table(
        ("configuration", f"{unit} (80 %)", "in flight", "TTFT", "ITL", "tokens/s", "rests on"),
        [_row(group, config) for config in listed(group)[:_MOST_ROWS]],
        figures=(1, 2, 3, 4, 5),
    )
    if group.sellers:
        yield _tag("h3", "By seller")
        rows = [(s.provider, f"{s.gpu} x{s.num_gpus}", number(s.objective), str(s.gpu_types)) for s in group.sellers]
        yield _table(("seller", "best there", unit, "of so many GPU types"), rows, figures=(2, 3))
    yield from _changes(group)
    yield from _memory(fit)
    yield from _losers(group)


def _metric(config: RankedConfig, name: str) -> str:
    value = getattr(config, name)
    unit = " ms" if name.endswith("_ms") else ""
    expected = config.intervals.get(name)
    return "unknown" if value is None else ranged(value, expected, config.kind) + unit


def _row(group: Group, config: RankedConfig) -> tuple[str, ...]:
    return (
        describe(config, group),
        ranged(config.objective, config.objective_range, config.kind),
        "-" if config.concurrency is None else f"{config.concurrency:,}",
        quantity(config.ttft_ms, "ttft_ms"),
        quantity(config.itl_ms, "itl_ms"),
        "-" if config.output_tokens_per_s is None else number(config.output_tokens_per_s),
        f"{config.kind_label}: {trust(config)}",
    )


def _changes(group: Group) -> Iterator[str]:
    if not group.flips:
        return
    yield _tag("h3", "Changes that would alter the answer")
    rows = [(flip.gpu, f"{flip.usd_per_gpu_hour:.2f}", flip.winner, flip.loser) for flip in group.flips]
    yield _table(("at this price of", "USD per GPU hour", "wins", "instead of"), rows, figures=(1,))


def _memory(fit: MemoryFit | None) -> Iterator[str]:
    if fit is None:
        return
    yield _tag("h3", "Memory of one GPU")
    rows = [
        ("weights", fit.weights_gib, fit.precision),
        ("activations", fit.activations_gib, ""),
        ("runtime", fit.runtime_gib, ""),
        ("KV cache", fit.kv_cache_gib, f"room for {number(fit.requests)} requests of {fit.context_length:,} tokens"),
        ("usable", fit.usable_gib, f"{fit.gpu_memory_utilization:g} of {fit.memory_gib:g}"),
    ]
    yield _table(("", "GiB", ""), [(name, f"{gib:.1f}", note) for name, gib, note in rows], figures=(1,))


def _losers(group: Group) -> Iterator[str]:
    if not group.losers:
        return
    yield _tag("h3", "Configurations that do not qualify")
    rows = []
    for out in group.losers:
        nearest = out.examples[0] if out.examples else None
        text = "" if nearest is None else f"{describe(nearest, group)}: {nearest.detail}"
        rows.append((f"{out.count:,}", cause(out.cause, out.slo), text))
    yield _table(("configurations", "why", "the nearest"), rows, figures=(0,))


def _prices(ranking: Ranking) -> Iterator[str]:
    """Yield every price of the GPUs that are shown, with its seller, day and source."""
    shown = dict.fromkeys(config.gpu for group in ranking.groups for config in listed(group)[:_MOST_ROWS])
    rows = []
    for gpu in shown:
        price = ranking.prices.known.get(gpu)
        if price is None:
            rows.append((gpu, "-", "", "", ranking.prices.missing.get(gpu, "no price")))
            continue
        if price.override is not None:
            rows.append((gpu, f"{price.override:.2f}", "given", "", ""))
        for quote in price.quotes:
            day = ranking.prices.day
            old = " (old)" if day is not None and (day - quote.date).days > OLD_AFTER_DAYS else ""
            rows.append((gpu, f"{quote.usd_per_gpu_hour:.2f}", quote.provider, f"{quote.date}{old}", quote.source))
    if rows:
        yield _tag("h2", "Prices by seller")
        discount = ranking.question.prices.discount
        text = f", before a discount of {share(discount)}" if discount else ""
        yield _tag("p", f"USD per GPU hour, {ranking.question.prices.purchase}{text}.")
        yield _table(("GPU", "USD/h", "seller", "read on", "source"), rows, figures=(1,))


def _tag(name: str, text: str, kind: str = "") -> str:
    attribute = f" class='{kind}'" if kind else ""
    return f"<{name}{attribute}>{_escaped(text)}</{name}>"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], *, figures: Sequence[int] = ()) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        tags = (
            f"<{tag}{' class=n' if place in figures else ''}>{_escaped(str(cell))}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(tags)}</tr>"

    top = [line(header, "th")] if header else []
    lines = "".join([*top, *(line(row, "td") for row in rows)])
    # Wider than a phone: what scrolls must be within reach of the keyboard.
    return f"<div class='wide' tabindex='0'><table>{lines}</table></div>"


def _escaped(text: str) -> str:
    return html.escape(printable_lines(text).replace(GLUE, " "))
