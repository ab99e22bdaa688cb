"""How a ranking is shown: as tables that fit the terminal, and as a JSON document."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from gpuscout.runner.cli.common import count, out
from gpuscout.runner.cli.prices import price_notes, prices_document
from gpuscout.store.ranking_types import (
    MEASURES,
    Cause,
    Configuration,
    Group,
    Loser,
    Operating,
    RankedConfig,
    Ranking,
)
from gpuscout.sweeps.slo import Slo

_CAUSES = {
    Cause.DOES_NOT_FIT: "does not fit",
    Cause.NOT_SUPPORTED: "not supported",
    Cause.UNKNOWN_MODEL: "the engine does not know the model",
    Cause.INVALID: "not valid",
    Cause.NO_POINT: "no operating point",
    Cause.NO_PERCENTILE: "no percentiles (--assume-tail 1.3 multiplies the mean)",
    Cause.NO_PRICE: "no price",
    Cause.NO_TDP: "no TDP",
}
_LATENCIES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "e2e_s": "E2E"}
# Objectives that have no column of their own otherwise.
_VALUES = {"cost": "USD/Mtok", "cost-per-hour": "USD/h", "energy": "kWh/Mtok"}
_SHORTEST_MODEL = 14
# Between a number and its unit: a line must not break there.
_GLUE = "\u00a0"
_FIGURE = re.compile(r"(?<=\d) (?=(?:ms|s|GiB|%)\b)")


def print_ranking(ranking: Ranking, *, top: int = 1, explain: bool = False) -> None:
    """Print, for each workload, `top` configurations of every model, and why others were out.

    With `explain` every configuration is listed that the ranking holds.
    """
    width = out().width
    lines: list[str] = []
    for _, same in groupby(ranking.groups, key=lambda group: (group.input_len, group.output_len)):
        groups = list(same)
        lines += [*_heading(ranking, groups[0], width), *_block(ranking, groups, top, width), ""]
    lines += _notes(ranking, width)
    lines += _explained(ranking, width) if explain else _summary(ranking, width)
    for line in lines:
        print(line.replace(_GLUE, " ").rstrip())


def ranking_document(ranking: Ranking) -> dict[str, object]:
    """The ranking as JSON types. Keys carry units; ratios are fractions; null: unknown, or nothing to say."""
    question, aim = ranking.question, ranking.question.aim
    return {
        "objective": aim.name,
        "objective_unit": aim.unit,
        "more_is_better": aim.more_is_better,
        "weights": dict(aim.weights) if aim.is_weighted else None,
        "units": {name: MEASURES[name].unit for name in (*dict(aim.weights), *question.also)},
        "slos": [_slo_document(slo) for slo in question.slos],
        "assumed_tail": question.assume_tail,
        "interpolated": question.interpolate,
        "prices": prices_document(ranking.prices),
        "sweep": ranking.sweep,
        "sweep_id": ranking.sweep_id,
        "missing_tasks": ranking.missing_tasks,
        "groups": [_group_document(group) for group in ranking.groups],
        "exclusions": [asdict(exclusion) for exclusion in ranking.exclusions],
    }


# --- tables ------------------------------------------------------------------------------------------------------


def _heading(ranking: Ranking, group: Group, width: int) -> list[str]:
    limits = ", ".join(_limit(slo) for slo in ranking.question.slos)
    objective = f"objective: {ranking.question.aim.label}" + (f", {limits}" if limits else "")
    workload = _workload(group)
    if len(workload) + 3 + len(objective) <= width:
        return [f"{workload}   {objective}"]
    return [workload, *_wrapped(objective, width, indent=2)]


def _block(ranking: Ranking, groups: Sequence[Group], top: int, width: int) -> list[str]:
    """The configurations of all models of one workload: one line a model if that fits, else the model above."""
    columns = _columns(ranking)
    rows: list[tuple[Group, list[list[str]]]] = []
    for group in groups:
        chosen = _listed(group)
        cells = []
        for place, config in enumerate(chosen[:top]):
            behind = "" if top == 1 else _behind(ranking, config) if place else "best"
            cells.append([_describe(config, group), *_figures(config, columns), behind])
        if cells and top == 1 and len(chosen) > 1:
            cells[0][-1] = f"{_describe(chosen[1], group)} ({_behind(ranking, chosen[1])})"
        rows.append((group, cells))
    last = "behind" if top > 1 else "runner-up"
    header = ["best", *columns.values(), last]
    table = [line for _, cells in rows for line in cells]
    widths = [max(len(line[i]) for line in [header, *table]) for i in range(len(header))]
    figures = sum(widths) + 2 * len(widths)
    longest = max((len(group.model) for group in groups), default=0)
    one_line = figures + 2 + min(longest, _SHORTEST_MODEL) <= width
    if not one_line and top == 1:
        widths[-1] = 0  # runners-up get a line of their own
    lines = []
    if table:
        name_width = min(longest, width - figures - 2) if one_line else 0
        lines.append(f"  {'model' if one_line else '':{name_width}}  {_row(header, widths)}")
    for group, cells in rows:
        if not one_line or not cells:
            lines.append(f"  {group.model}")
        if not cells:
            lines += _wrapped(_nothing(ranking, group), width, indent=4)
        for place, line in enumerate(cells):
            name = _shortened(group.model, name_width) if one_line and place == 0 else ""
            lines.append(f"  {name:{name_width}}  {_row(line, widths)}")
            if not one_line and top == 1 and line[-1]:
                lines += _wrapped(f"runner-up: {line[-1]}", width, indent=6)
    return lines


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first and last cell to the left, the figures between them to the right; a width of 0 leaves a cell out."""
    first, *figures, last = (
        f"{cell:<{width}}" if position in (0, len(widths) - 1) else f"{cell:>{width}}"
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *figures, *([last] if widths[-1] else [])])


def _listed(group: Group) -> list[RankedConfig]:
    """The best, then the best of other GPU types, then what else there is: another TP of one GPU is less news."""
    of_types = {config.task_id: config for config in group.best_per_gpu}
    return [*group.best_per_gpu, *(config for config in group.configs if config.task_id not in of_types)]


def _columns(ranking: Ranking) -> dict[str, str]:
    """The figures to show, with their headings: E2E and rate only where they were asked for."""
    question, aim = ranking.question, ranking.question.aim
    names = [*dict(aim.weights), *question.also]
    asked = {*(MEASURES[name].column for name in names), *(slo.column for slo in question.slos)}
    columns = {"score": "score"} if aim.is_weighted else {}
    columns |= {name: _VALUES[name] for name in names if name in _VALUES}
    if any(config.spread for group in ranking.groups for config in group.best_per_gpu):
        columns["spread"] = "engines"
    columns["concurrency"] = "c"
    columns |= {name: head for name, head in _LATENCIES.items() if name != "e2e_s" or name in asked}
    if "requests_per_s" in asked:
        columns["requests_per_s"] = "req/s"
    return columns | {"output_tokens_per_s": "tok/s", "tokens_per_s_per_gpu": "tok/s/GPU"}


def _figures(config: RankedConfig, columns: Iterable[str]) -> list[str]:
    return [_figure(config, name) for name in columns]


def _figure(config: RankedConfig, name: str) -> str:
    if name in _LATENCIES:
        return _latency(config, name)
    if name == "score":
        return f"{config.objective:.2f}"
    if name in _VALUES:
        return _number(config.values[name])
    if name == "spread":
        return "-".join(_number(value) for value in config.spread or ())
    if name == "concurrency":
        return f"{config.concurrency:,}{'~' if config.interpolated else ''}{'*' if config.queued else ''}"
    return _number(getattr(config, name))


def _nothing(ranking: Ranking, group: Group) -> str:
    """Why no configuration of this group is recommended, and what comes closest."""
    if group.unreachable:
        told = [
            f"no configuration meets {_limit(unmet.slo)}: closest is {_describe(unmet.nearest, group)} with "
            f"{_latency(unmet.nearest, unmet.slo.column, exact=True)} at concurrency{_GLUE}{unmet.nearest.concurrency}"
            for unmet in group.unreachable
        ]
        return "; ".join(told)
    if group.closest:
        figures = ", ".join(
            f"{_name(slo)}{_GLUE}{_latency(group.closest, slo.column, exact=True)}" for slo in ranking.question.slos
        )
        return (
            f"no configuration meets all limits at once, though each can be met: closest is "
            f"{_describe(group.closest, group)} with {figures} at concurrency{_GLUE}{group.closest.concurrency}"
        )
    told = [
        f"{losers.count:,} {_CAUSES[losers.cause]}, {'nearest is' if loser.ratio else 'such as'} "
        f"{_describe(loser, group)}: {loser.detail}"
        for losers in group.losers
        for loser in losers.examples[:1]
    ]
    none = "no configuration can be ranked" if group.unranked else "no configuration runs"
    if any(losers.cause is Cause.NO_PERCENTILE for losers in group.losers):
        none = "no configuration meets a limit on a percentile, which estimates do not have"
    return f"{none}: " + "; ".join(told)


def _notes(ranking: Ranking, width: int) -> list[str]:
    shown = [config for group in ranking.groups for config in (*group.configs[:1], *group.best_per_gpu)]
    lines = []
    if ranking.missing_tasks:
        note = f"{ranking.sweep} is unfinished: {count(ranking.missing_tasks, 'task')} may still change this"
        lines += _wrapped(note, width, indent=0)
    if any(config.queued for config in shown):
        note = "* more requests in flight than the KV cache holds: some wait, which is in TTFT; --slo ttft<=… limits it"
        lines += _wrapped(note, width, indent=0)
    if any(config.interpolated for config in shown):
        note = "~ at a limit, interpolated between the stored concurrencies (--no-interpolate: stored ones only)"
        lines += _wrapped(note, width, indent=0)
    tail = ranking.question.assume_tail
    if tail is not None and any(slo.percentile is not None for slo in ranking.question.slos):
        note = f"limits on percentiles: assumed to be {tail:g} x the mean that is shown (--assume-tail)"
        lines += _wrapped(note, width, indent=0)
    others = sorted({engine for group in ranking.groups for engine in group.other_engines})
    if others:
        shown_of = ", ".join(sorted({group.engine for group in ranking.groups}))
        names = ", ".join(others)
        note = f"answers of {shown_of}; the store also has some of {names} (--engine NAME)"
        if any(config.spread for config in shown):
            note += "; engines: the lowest and the highest opinion"
        lines += _wrapped(note, width, indent=0)
    for note in price_notes(ranking):
        lines += _wrapped(note, width, indent=0)
    return lines


# --- why others were out -----------------------------------------------------------------------------------------


def _summary(ranking: Ranking, width: int) -> list[str]:
    """How many configurations were out for each reason, with the one that came nearest to being ranked."""
    counted: dict[str, int] = defaultdict(int)
    nearest: dict[str, tuple[float, str]] = {}
    for group in ranking.groups:
        for losers in group.losers:
            reason = f"misses {_limit(losers.slo)}" if losers.slo else _CAUSES[losers.cause]
            counted[reason] += losers.count
            for loser in losers.examples[:1]:
                told = f"{group.model} on {_describe(loser, group)}: {loser.detail}"
                how_near = (loser.ratio if loser.ratio is not None else float("inf"), told)
                nearest[reason] = min(nearest.get(reason, how_near), how_near)
    rows = [
        (number, f"{reason}; {'nearest' if nearest[reason][0] < float('inf') else 'such as'} {nearest[reason][1]}")
        for reason, number in sorted(counted.items(), key=lambda item: -item[1])
    ]
    left_out: dict[str, list[Any]] = defaultdict(list)
    for exclusion in ranking.exclusions:
        left_out[exclusion.reason].append(exclusion)
    rows += [
        (sum(e.combinations for e in alike), f"{reason}; such as {_of(alike[0].model)}{alike[0].detail}")
        for reason, alike in left_out.items()
    ]
    if not rows:
        return []
    candidates = sum(group.candidates for group in ranking.groups)
    total = candidates + sum(counted.values())
    lines = [f"{candidates:,} of {count(total, 'configuration')} qualify; why others are out (--explain lists all):"]
    digits = max(len(f"{number:,}") for number, _ in rows)
    for number, text in rows:
        first, *rest = _wrapped(text, width, indent=4 + digits)
        lines += [f"  {number:>{digits},}  {first.lstrip()}", *rest]
    return lines


def _explained(ranking: Ranking, width: int) -> list[str]:
    """Every configuration: the ranked with how far they are behind, the others with what removed them."""
    aim = ranking.question.aim
    lines = []
    for group in ranking.groups:
        lines.append(f"{group.model}, {_workload(group)}: {count(group.candidates, 'configuration')} ranked")
        for config in group.configs:
            told = f"{config.place:>4}. {_describe(config, group)}: {_number(config.objective)}{_GLUE}{aim.unit}"
            told += f" at c={_figure(config, 'concurrency')}"
            told += f" ({_behind(ranking, config)})" if config.place > 1 else ""
            told += "".join(
                f"; {opinion.engine} says {_number(opinion.objective) if opinion.objective is not None else 'no'}"
                for opinion in config.opinions[1:]
            )
            lines += _wrapped(told, width, indent=2)
        for losers in group.losers:
            reason = f"misses {_limit(losers.slo)}" if losers.slo else _CAUSES[losers.cause]
            lines.append(f"  {reason}: {losers.count:,}")
            for loser in losers.examples:
                lines += _wrapped(f"{_describe(loser, group)}: {_in_full(loser)}", width, indent=4)
        lines.append("")
    if ranking.exclusions:
        lines.append("left out of the sweep, because no engine could run it:")
        for exclusion in ranking.exclusions:
            told = f"{exclusion.combinations:,} {exclusion.reason}: {_of(exclusion.model)}{exclusion.detail}"
            lines += _wrapped(told, width, indent=2)
    return lines


def _in_full(loser: Loser) -> str:
    return f"{loser.detail} ({loser.note})" if loser.note else loser.detail


def _of(model: str | None) -> str:
    return f"{model}: " if model else ""


# --- words -------------------------------------------------------------------------------------------------------


def _workload(group: Group) -> str:
    lengths = f"{group.input_len:,} in / {group.output_len:,} out"
    return f"{group.workload} ({lengths})" if group.workload else lengths


def _describe(config: Configuration, group: Group) -> str:
    """ "H200 x8 tp4 dp2 fp8": parallelism, server, memory and context only where they are not the plain case."""
    parts = [config.gpu, f"x{config.num_gpus}"]
    if config.tensor_parallel != config.num_gpus or config.expert_parallel > 1:
        sizes = {
            "tp": config.tensor_parallel,
            "pp": config.pipeline_parallel,
            "dp": config.data_parallel,
            "ep": config.expert_parallel,
        }
        parts += [f"{name}{size}" for name, size in sizes.items() if size > 1]
    parts.append(config.precision)
    if config.kv_precision not in (None, "bf16", "fp16"):
        parts.append(f"kv-{config.kv_precision}")
    if config.server != "vllm":
        parts.append(config.server)
    if config.gpu_memory_utilization != 0.9:
        parts.append(f"mem={config.gpu_memory_utilization:g}")
    if config.max_model_len != group.input_len + group.output_len:
        parts.append(f"ctx={config.max_model_len}")
    return _GLUE.join(parts)


def _behind(ranking: Ranking, config: RankedConfig) -> str:
    if config.behind_best == 0:
        return "same"
    sign = "-" if ranking.question.aim.more_is_better else "+"
    percent = 100 * config.behind_best
    shown = f"{percent:,.0f}" if percent >= 1 else f"{percent:.1g}" if percent >= 0.05 else "<0.1"
    return f"{sign}{shown}{_GLUE}%"


def _name(slo: Slo) -> str:
    name = _LATENCIES.get(slo.column, "rate")
    return name if slo.percentile is None else f"{name}{_GLUE}p{slo.percentile:g}"


def _limit(slo: Slo) -> str:
    unit = slo.unit if slo.at_least else f"{_GLUE}{slo.unit}"
    return f"{_name(slo)}{_GLUE}{'>=' if slo.at_least else '<='}{_GLUE}{slo.limit:,.15g}{unit}"


def _latency(config: Operating, column: str, *, exact: bool = False) -> str:
    value: float | None = getattr(config, column)
    unit = "/s" if column == "requests_per_s" else f"{_GLUE}{column.rpartition('_')[2]}"
    return f"{f'{value:,.4g}' if exact and value is not None else _number(value)}{unit}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if 0 < value < 0.1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _wrapped(text: str, width: int, *, indent: int) -> list[str]:
    return textwrap.wrap(
        _FIGURE.sub(_GLUE, text),
        max(width, 40),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


# --- JSON --------------------------------------------------------------------------------------------------------


def _slo_document(slo: Slo) -> dict[str, object]:
    return {
        "metric": slo.metric,
        "percentile": slo.percentile,
        "limit": slo.limit,
        "unit": slo.unit,
        "at_least": slo.at_least,
    }


def _group_document(group: Group) -> dict[str, object]:
    return {
        "model": group.model,
        "workload": group.workload,
        "input_len": group.input_len,
        "output_len": group.output_len,
        "engine": group.engine,
        "other_engines": list(group.other_engines),
        "ranked_configurations": group.candidates,
        "configurations": [_document(config) for config in group.configs],
        "best_per_gpu": [_document(config) for config in group.best_per_gpu],
        "losers": [
            {
                "cause": losers.cause.value,
                "slo": _slo_document(losers.slo) if losers.slo else None,
                "configurations": losers.count,
                "examples": [asdict(loser) for loser in losers.examples],
            }
            for losers in group.losers
        ],
        "unreachable_slos": [
            {**_slo_document(unmet.slo), "closest_value": unmet.value, "closest": _document(unmet.nearest)}
            for unmet in group.unreachable
        ],
        "closest_to_all_slos": _document(group.closest) if group.closest else None,
        "unranked": [{**_document(unranked.config), "reason": unranked.reason} for unranked in group.unranked],
        "winner_changes": [asdict(flip) for flip in group.flips],
    }


def _document(config: Operating) -> dict[str, object]:
    document = asdict(config)
    document["output_tokens_per_s_per_gpu"] = config.tokens_per_s_per_gpu
    if isinstance(config, RankedConfig):
        document["objective_value"] = document.pop("objective")
    return document
