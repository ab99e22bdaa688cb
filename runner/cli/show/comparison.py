"""Two answers side by side: winners, changes and what changed around them, as text, rows and a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

from gpuscout.runner.cli.common import count, out
from gpuscout.runner.cli.show.certainty import ranged
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.fitted import FittedColumn, bare_names, fitted, short_gpu
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_json_rows, print_rows
from gpuscout.runner.cli.show.ranking.document import config_document
from gpuscout.runner.cli.show.wording import (
    assumed,
    case_of,
    caveats_of,
    configuration,
    limit,
    print_aside,
    print_wrapped,
)
from gpuscout.store.queries.compare import Change, Comparison, MetricChange, PriceChange, Status, Winner
from gpuscout.store.ranking.types import RankedConfig
from gpuscout.sweeps.names import bare
from gpuscout.sweeps.traffic.words import traffic_words

# By the values of `Status`.
_STATUSES = {"qualifies": "only in B", "drops out": "only in A", "added": "added", "vanished": "gone"}
_METRICS = {"ttft_ms": "TTFT", "itl_ms": "ITL", "output_tokens_per_s": "tok/s"}


def show_comparison(found: Comparison, output: Output, top: int) -> None:
    """Print it in the form asked for."""
    if output.json:
        print_json_rows(_document(found), "configurations", map(_row, found.changes))
    elif output.for_people:
        _print(found, top)
    else:
        unit = {"objective_unit": found.sides[0].question.aim.unit}
        columns = _columns(found) if output.md else [Column(name, name) for name in _NAMES]
        print_rows(columns, (_row(change) | unit for change in found.changes), output)
        print_aside(_caveats(found))


def _print(found: Comparison, top: int) -> None:
    if not found.rankings:
        print_wrapped(f"A {found.sides[0].label}, B {found.sides[1].label}; no results are stored: prices alone")
        print_rows(_MOVES, map(_move, found.other_prices), Output())
        if not found.other_prices:
            print_wrapped("every GPU costs the same on both sides")
        return
    shared, alone = _sided(found)
    for line in _summary(found, shared, alone):
        print_wrapped(line)
    changed = [winner for winner in shared if winner.changes]
    rest = [winner for winner in shared if not winner.changes]
    if changed:
        print(f"\nanother winner ({len(changed)})")
        _print_sides(found, changed, "best")
    if rest:
        print(f"\nthe same winner ({len(rest)})")
        _print_sides(found, rest[: max(top, 1)], "best")
        if len(rest) > max(top, 1):
            print(f"… {len(rest) - max(top, 1)} more (--top, or --csv for all configurations)")
    largest = sorted((c for c in found.changes if c.change), key=lambda c: -abs(c.change or 0))[:top]
    if largest:
        print("\nlargest changes")
        _print_sides(found, largest, "configuration")


def _print_sides(found: Comparison, told: Sequence[Change | Winner], heading: str) -> None:
    """Print two lines for each, one a side: its configuration and its figure with its range."""
    names = bare_names(one.model for one in told)
    # The workload may only go where it does not tell rows apart.
    same = len({(one.input_len, one.output_len, one.traffic) for one in told}) == 1
    lines = []
    for one in told:
        of_winner = isinstance(one, Winner)
        staying = one.staying if isinstance(one, Winner) and one.changes else None
        leads = (one.lead_before, one.lead_after) if isinstance(one, Winner) else (None, None)
        for side, config, lead in zip("AB", (one.before, one.after), leads, strict=True):
            first = side == "A"
            lines.append(
                (
                    names[one.model] if first else "",
                    _workload(one) if first else "",
                    side,
                    "none" if config is None else _short(one, config) if first or of_winner else "",
                    "" if config is None else ranged(config.objective, config.objective_range, config.kind),
                    "" if lead is None else _signed(lead),
                    "" if first or one.change is None else _signed(one.change),
                    "" if first or staying is None else _signed(staying),
                )
            )
    model, workload, sides, configurations, figures, leads_told, changes, stayings = zip(*lines, strict=True)
    columns = [
        FittedColumn("model", model, least=8),
        FittedColumn("workload", workload, drop=4 if same else None),
        FittedColumn("", sides),
        FittedColumn(heading, configurations, least=12),
        FittedColumn(f"{found.sides[0].question.aim.unit} (80 %)", figures, right=True),
        FittedColumn("leads by", leads_told, right=True, drop=1),
        FittedColumn("change", changes, right=True, drop=3),
        FittedColumn("staying", stayings, right=True, drop=2),
    ]
    shown = fitted(columns, out().width)
    for line in shown:
        print(line)
    if "staying" in shown[0]:
        print("staying: how far A's winner is behind B's")


def _sided(found: Comparison) -> tuple[list[Winner], list[Winner]]:
    """Return the winners of the models and workloads that both sides have an answer about, and of the others."""
    there = {case_of(change) for change in found.changes if change.status not in (Status.ADDED, Status.VANISHED)}
    shared: list[Winner] = []
    alone: list[Winner] = []
    for winner in (winner for winner in found.winners if winner.refused is None):
        both = (winner.before and winner.after) or case_of(winner) in there
        (shared if both else alone).append(winner)
    return shared, alone


def _summary(found: Comparison, shared: Sequence[Winner], alone: Sequence[Winner]) -> Iterator[str]:
    question = found.sides[0].question
    limits = "".join(f", {limit(slo)}" for slo in question.slos)
    yield f"A {found.sides[0].label}, B {found.sides[1].label}   objective: {question.aim.label}{limits}"
    if (tail := assumed(question)) is not None:
        yield tail
    kinds = [_kinds(change.before for change in found.changes), _kinds(change.after for change in found.changes)]
    if kinds[0] == kinds[1]:
        yield from [f"A and B: {kinds[0]}"] if kinds[0] else []
    else:
        yield "   ".join(f"{side}: {kind or 'nothing'}" for side, kind in zip("AB", kinds, strict=True))
    if found.prices:
        texts = [f"{price.gpu} {_from_to(price.before, price.after)}" for price in found.prices]
        yield f"{count(len(texts), 'GPU')} at another price: {'; '.join(texts)}"
    if found.other_prices:
        yield f"{count(len(found.other_prices), 'GPU')} that nothing stored runs on, too (--json has all prices)"
    statuses = found.statuses
    parts = [f"{statuses[status]:,} {_STATUSES.get(status, status)}" for status in Status if statuses[status]]
    yield (
        f"{count(found.both, 'configuration')} on both sides, {found.added:,} added, {found.vanished:,} vanished; "
        f"of those that qualify somewhere: {', '.join(parts) or 'none'}"
    )
    changes = [change.change for change in found.changes if change.change is not None]
    if changes:
        yield (
            f"{question.aim.label}: median {_signed(median(changes))}, from {_signed(min(changes))} to "
            f"{_signed(max(changes))}"
        )
    for name, heading in _METRICS.items():
        if (metric := found.metrics.get(name)) is not None:
            yield f"{heading} at equal concurrencies ({metric.points:,} points): {_median_and_worst(metric)}"
    for side, reason in dict.fromkeys(
        ("B" if one.before else "A", one.refused) for one in found.winners if one.refused
    ):
        number = sum((one.refused, bool(one.before)) == (reason, side == "B") for one in found.winners)
        yield f"{side} has no answer for {count(number, 'pair')} of model and workload: {reason}"
    neither = [winner for winner in alone if not (winner.before or winner.after)]
    if neither:
        yield f"nothing qualifies on either side for {count(len(neither), 'pair')} of model and workload"
    alone = [winner for winner in alone if winner not in neither]
    if alone:
        of_a = sum(winner.before is not None for winner in alone)
        yield (
            f"{count(len(alone), 'pair')} of model and workload stand on one side only, {of_a} in A, "
            f"{len(alone) - of_a} in B: nothing to compare there"
        )
    yield from _caveats(found)
    winners = [winner for winner in shared if winner.before or winner.after]
    if not winners:
        return
    changed = [winner for winner in winners if winner.changes]
    if not changed:
        yield "the winner is the same" + (f" in all {len(winners)} cases" if len(winners) > 1 else "")
    else:
        other = sum(winner.changes_gpu for winner in changed)
        yield f"the winner changes in {len(changed)} of {count(len(winners), 'case')}, {other} to another GPU type"


def _kinds(configs: Iterable[RankedConfig | None]) -> str:
    return "; ".join(sorted({config.kind_label for config in configs if config is not None}))


def _caveats(found: Comparison) -> list[str]:
    return caveats_of(group for ranking in found.rankings for group in ranking.groups)


def _move(price: PriceChange) -> dict[str, Any]:
    moved = None if price.before is None or price.after is None else price.after / price.before - 1
    return {
        **picked(price, "gpu", a_usd_per_gpu_hour="before", b_usd_per_gpu_hour="after"),
        "change": moved,
    }


def _median_and_worst(metric: MetricChange) -> str:
    where = ""
    at = metric.worst_at
    if at is not None:
        where = f" ({at.model} on {_words(at, at.config)}, c {metric.worst_concurrency})"
    return f"median {_signed(metric.median)}, at most {_signed(metric.worst)}{where}"


def _from_to(before: float | None, after: float | None) -> str:
    """Read "6.16 -> 2.40"; in more digits where cents do not tell them apart."""
    for digits in (2, 4):
        texts = ["no price" if usd is None else f"{usd:,.{digits}f}" for usd in (before, after)]
        if texts[0] != texts[1]:
            break
    return " -> ".join(texts)


def _signed(value: float) -> str:
    percent = 100 * value
    if abs(percent) < 0.05:
        return "+0 %"
    return f"{percent:+,.0f} %" if abs(percent) >= 10 else f"{percent:+.1f} %"


def _words(change: Change | Winner, config: RankedConfig | None) -> str | None:
    if config is None:
        return None
    at = f" at {config.request_rate:g}/s" if config.request_rate is not None else ""
    return configuration(config, change.input_len, change.output_len) + at


def _short(told: Change | Winner, config: RankedConfig) -> str:
    """Return text such as "H200 x2 bf16", at its rate where it has one."""

    words = _words(told, config) or ""
    return words.replace(config.gpu, short_gpu(config.gpu), 1)


def _workload(told: Change | Winner) -> str:
    name = told.workload or f"{told.input_len}/{told.output_len}"
    return ", ".join([name, *(traffic_words(told.traffic) if told.traffic else ())])


# Without the organisation: names are long, and so are those of configurations.
_MODEL = Column("model", "model", show=bare)
_SHOWN_CHANGE = a_figure("change", "change", _signed)
_MOVES = (
    Column("gpu", "GPU"),
    a_figure("a_usd_per_gpu_hour", "A USD/h", lambda usd: f"{usd:,.2f}", unknown="no price"),
    a_figure("b_usd_per_gpu_hour", "B USD/h", lambda usd: f"{usd:,.2f}", unknown="no price"),
    _SHOWN_CHANGE,
)


def _columns(found: Comparison) -> tuple[Column, ...]:
    """Return columns of a table that is pasted elsewhere: each figure and the ends of its range apart."""
    unit = found.sides[0].question.aim.unit
    figures: list[Column] = []
    for side in ("a", "b"):
        figures.append(a_figure(f"{side}_objective", f"{side.upper()} {unit}"))
        figures += (a_figure(f"{side}_objective_{end}", f"{side.upper()} {end} (80 %)") for end in ("low", "high"))
        figures.append(Column(f"{side}_kind", f"{side.upper()} kind"))
    return (
        _MODEL,
        Column("workload", "workload", whole=True),
        Column("configuration", "configuration"),
        Column("status", "status", whole=True),
        *figures,
        _SHOWN_CHANGE,
    )


_SETTINGS = (
    *("gpu", "num_gpus", "tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "precision"),
    *("kv_precision", "server", "gpu_memory_utilization", "max_model_len", "server_options", "speculative"),
)
_FIGURES = (
    "kind_label",
    "objective",
    "objective_low",
    "objective_high",
    "backed",
    "place",
    "concurrency",
    "ttft_ms",
    "itl_ms",
    "output_tokens_per_s",
    "usd_per_hour",
)
_SIDES = tuple(f"{side}_{name.removesuffix('_label')}" for side in ("a", "b") for name in _FIGURES)
_NAMES = (*CASE, "configuration", *_SETTINGS, "status", "change", *_SIDES, "objective_unit")


def _figures(config: RankedConfig) -> dict[str, Any]:
    low, high = config.objective_range or (None, None)
    apart = {"objective_low": low, "objective_high": high}
    return apart | {name: getattr(config, name) for name in _FIGURES if name not in apart}


def _row(change: Change) -> dict[str, Any]:
    figures = [config and _figures(config)[name] for config in (change.before, change.after) for name in _FIGURES]
    return {
        **picked(change, *CASE),
        "configuration": _words(change, change.config),
        **picked(change.config, *_SETTINGS),
        "status": change.status.value,
        "change": change.change,
        **dict(zip(_SIDES, figures, strict=True)),
    }


def _document(found: Comparison) -> dict[str, object]:
    question = found.sides[0].question
    return {
        "a": found.sides[0].label,
        "b": found.sides[1].label,
        "objective": question.aim.name,
        "objective_unit": question.aim.unit,
        "more_is_better": question.aim.more_is_better,
        "slos": [str(slo) for slo in question.slos],
        "assumed_tail": question.assume_tail,
        "caveats": _caveats(found),
        **picked(
            found, configurations_on_both_sides="both", configurations_added="added", configurations_vanished="vanished"
        ),
        "statuses": {status.value: number for status, number in found.statuses.items()},
        "prices": [_move(price) for price in found.prices],
        "prices_of_other_gpus": [_move(price) for price in found.other_prices],
        "metrics_at_equal_concurrencies": {
            name: {
                **picked(metric, "points", median_change="median", largest_change="worst"),
                "largest_at": metric.worst_at
                and f"{metric.worst_at.model} on {_words(metric.worst_at, metric.worst_at.config)}",
                "largest_at_concurrency": metric.worst_concurrency,
            }
            for name, metric in found.metrics.items()
        },
        "winners": [
            {
                **picked(winner, *CASE, "changes", "changes_gpu", "change"),
                **picked(winner, a_lead="lead_before", b_lead="lead_after", a_winner_behind_in_b="staying"),
                "a": winner.before and config_document(winner.before),
                "b": winner.after and config_document(winner.after),
            }
            for winner in found.winners
        ],
    }
